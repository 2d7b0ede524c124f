//! One write of a status.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{LOOK_INTERVAL, plan::StatusPlanner};
use crate::{
    api::{GROUP, KIND, RouteObject, VERSION},
    source::failure::{ApiFailure, answer_by},
    table::ObjectName,
};

/// A write.
#[derive(Debug)]
pub(super) struct Write {
    /// The route.
    pub(super) name: ObjectName,
    /// The route when the write was planned.
    pub(super) before: Arc<RouteObject>,
    /// The conditions to write.
    pub(super) wish: Vec<Condition>,
}

/// The result of a write.
#[derive(Debug)]
pub(super) struct WriteOutcome {
    /// The write.
    pub(super) write: Write,
    /// The conditions that it replaced.
    pub(super) stored: Vec<Condition>,
    /// The response.
    pub(super) answer: Result<RouteObject, ApiFailure>,
}

impl Write {
    /// Sends it, and gives up at the given time.
    pub(super) async fn carry_out(
        self,
        client: Client,
        writer: Arc<StatusPlanner>,
        stored: Vec<Condition>,
        give_up_at: Instant,
    ) -> WriteOutcome {
        let answer = answer_by(give_up_at, self.apply(client, &writer)).await;
        if answer.as_ref().is_err_and(is_about_one_route) {
            // The route has most likely been deleted: let the watch report that before this is logged.
            sleep(LOOK_INTERVAL).await;
        }
        WriteOutcome { write: self, stored, answer }
    }

    /// Server-side apply. For an object that does not fit the schema, such as one from an older CRD, it fails even
    /// though only the status is applied; the status is then replaced instead.
    async fn apply(&self, client: Client, writer: &StatusPlanner) -> kube::Result<RouteObject> {
        let Self { name, before, wish } = self;
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

/// Whether other writes may well succeed. Even an internal error may be caused by one object: it must not delay all
/// others.
pub(super) fn is_about_one_route(failure: &ApiFailure) -> bool {
    !matches!(failure.code, 0 | 401 | 403 | 429 | 502..=504)
}
