//! One write of a status.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::{LOOK_INTERVAL, plan::StatusPlanner};
use crate::{
    api::{GROUP, KIND, RouteObject, VERSION},
    source::trouble::chain,
    table::ObjectName,
};

/// A write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) name: ObjectName,
    pub(super) wish: Vec<Condition>,
    /// The conditions that it replaces.
    pub(super) stored: Vec<Condition>,
    pub(super) before: Arc<RouteObject>,
}

/// The result of a write.
#[derive(Debug)]
pub(super) struct WriteOutcome {
    pub(super) write: Write,
    pub(super) answer: Result<RouteObject, WriteFailure>,
}

/// The reason a write failed.
#[derive(Debug)]
pub(super) struct WriteFailure {
    pub(super) cause: String,
    /// Whether it affects only this route: other writes may well succeed.
    pub(super) only_this: bool,
}

impl Write {
    /// Sends it, and gives up at the given time.
    pub(super) async fn carry_out(
        self,
        client: Client,
        writer: Arc<StatusPlanner>,
        give_up_at: Instant,
    ) -> WriteOutcome {
        let Self { name, wish, stored: _, before } = &self;
        let answer = match timeout_at(give_up_at, apply(client, &writer, name, wish, before)).await {
            Ok(answer) => answer.map_err(|error| WriteFailure::of(&error)),
            Err(_) => Err(WriteFailure { cause: "no response from the API server".to_owned(), only_this: false }),
        };
        if answer.as_ref().is_err_and(|failure| failure.only_this) {
            // The route has most likely been deleted: let the watch report that before this is logged.
            sleep(LOOK_INTERVAL).await;
        }
        WriteOutcome { write: self, answer }
    }
}

/// Server-side apply. For an object that does not fit the schema, such as one from an older CRD, it fails even though
/// only the status is applied; the status is then replaced instead.
async fn apply(
    client: Client,
    writer: &StatusPlanner,
    name: &ObjectName,
    wish: &[Condition],
    before: &RouteObject,
) -> kube::Result<RouteObject> {
    let api = Api::<RouteObject>::namespaced(client, &name.namespace);
    let params = PatchParams::apply(&writer.manager);
    let applied = api.patch_status(&name.name, &params.clone().force(), &Patch::Apply(&body(name, wish))).await;
    match applied {
        Err(kube::Error::Api(status)) if before.spec.is_err() && matches!(status.code, 400 | 422 | 500) => {
            let status = json!({ "status": { "conditions": wish } });
            api.patch_status(&name.name, &params, &Patch::Merge(&status)).await
        }
        applied => applied,
    }
}

/// The content to apply: everything that this writer owns. Without conditions, it releases what it owned.
fn body(name: &ObjectName, wish: &[Condition]) -> Value {
    let mut body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": { "name": &*name.name, "namespace": &*name.namespace },
    });
    if !wish.is_empty() {
        body["status"] = json!({ "conditions": wish });
    }
    body
}

impl WriteFailure {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self {
                // The message names the account, the verb and the resource.
                cause: format!("the API server responded with {}: {}", status.code, status.message),
                // Even an internal error may be caused by one object: it must not delay all others.
                only_this: !matches!(status.code, 401 | 403 | 429 | 502..=504),
            },
            other => Self { cause: chain(other), only_this: false },
        }
    }
}
