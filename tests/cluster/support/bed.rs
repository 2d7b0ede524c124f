//! A control plane with Switchyard's CRD and the chart's RBAC.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, Client, api::ListParams};
use serde_json::json;
use switchyard::api::RouteObject;

use super::{Assets, ControlPlane, block_on, eventually};

/// The namespace of the chart's release.
pub const SYSTEM: &str = "switchyard-system";
/// The release's name, which is also that of its objects.
pub const RELEASE: &str = "switchyard";

/// A control plane with everything of Switchyard installed except the program.
pub struct Bed {
    /// The control plane.
    pub plane: ControlPlane,
    client: Client,
    kubeconfig: PathBuf,
    /// Held while a namespace is created.
    creating: Mutex<()>,
}

/// The folder of the chart.
pub fn chart() -> String {
    format!("{}/charts/switchyard", env!("CARGO_MANIFEST_DIR"))
}

impl Bed {
    /// The one that most tests share; each uses its own namespace and class. `None` if it is unavailable, so that the
    /// test is skipped.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Bed>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let bed = Self::bare()?;
                bed.install_crd();
                Some(bed)
            })
            .as_ref()
    }

    /// One for a destructive test. It has no CRD.
    pub fn bare() -> Option<Self> {
        Self::with_flags(&[])
    }

    /// The same, with additional flags for the API server.
    pub fn with_flags(flags: &[&str]) -> Option<Self> {
        match Assets::find() {
            Ok(assets) => Some(Self::install(ControlPlane::start(assets, flags))),
            Err(reason) if env::var_os("CI").is_some_and(|ci| ci == "true") => panic!("{reason}"),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    /// Installs the chart's account, without permissions.
    fn install(plane: ControlPlane) -> Self {
        plane.kubectl(&["create", "namespace", SYSTEM], "").unwrap();
        let account = ["template", RELEASE, &chart(), "-n", SYSTEM, "-s", "templates/serviceaccount.yaml"];
        plane.apply_text(&plane.helm(&account).unwrap());
        let token = plane.kubectl(&["create", "token", RELEASE, "-n", SYSTEM, "--duration=4h"], "").unwrap();
        let kubeconfig = plane.kubeconfig("controller", token.trim());
        Self { client: plane.client(), plane, kubeconfig, creating: Mutex::default() }
    }

    /// Grants the chart's permissions to its account, for a release that serves a class: one of the rules names the
    /// Lease of the class. A missing verb fails the tests. Returns the name of its `ClusterRole`.
    pub fn grant(&self, class: &str) -> String {
        let name = format!("rights-{class}");
        let values = format!(
            "className={class},fullnameOverride={name},serviceAccount.create=false,serviceAccount.name={RELEASE}"
        );
        let rights = ["template", RELEASE, &chart(), "-n", SYSTEM, "-s", "templates/rbac.yaml", "--set", &values];
        self.plane.apply_text(&self.plane.helm(&rights).unwrap());
        name
    }

    /// Installs the CRD and waits until routes can be created.
    pub fn install_crd(&self) {
        self.plane.apply_text(&serde_json::to_string(&switchyard::api::crd()).unwrap());
        let arguments = ["wait", "--for=condition=Established", "crd/websocketroutes.switchyard.dev", "--timeout=20s"];
        self.plane.kubectl(&arguments, "").unwrap();
    }

    /// The kubeconfig of the chart's account.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with all permissions.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Creates a namespace, unless there is one. One at a time: `kubectl apply` looks first and then creates, so of two
    /// that create the same one, the second fails.
    pub fn namespace<'a>(&self, name: &'a str) -> &'a str {
        let _one = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.plane.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })]);
        name
    }

    /// A route as the API server has it now.
    ///
    /// # Errors
    /// If it does not exist, or the API server does not respond.
    pub fn route(&self, namespace: &str, name: &str) -> Result<RouteObject, String> {
        let api = Api::<RouteObject>::namespaced(self.client(), namespace);
        block_on(api.get(name)).map_err(|error| error.to_string())
    }

    /// All Leases of a class, by name.
    pub fn leases(&self, class: &str) -> BTreeMap<String, Lease> {
        let api = Api::<Lease>::namespaced(self.client(), SYSTEM);
        let params = ListParams::default().labels(&format!("switchyard.dev/class={class}"));
        let leases = block_on(api.list(&params)).expect("the administrator may list them");
        leases.into_iter().map(|lease| (lease.metadata.name.clone().unwrap_or_default(), lease)).collect()
    }

    /// The Lease for statuses of a class that serves the whole cluster, once another replica holds it.
    pub fn leader_but(&self, class: &str, other: &str) -> LeaseSpec {
        eventually(|| {
            let lease = self.leases(class).remove(&format!("switchyard-{class}")).and_then(|lease| lease.spec);
            let lease = lease.ok_or("there is no Lease")?;
            match lease.holder_identity.as_deref() {
                Some(holder) if holder != other => Ok(lease),
                holder => Err(format!("it is held by {holder:?}")),
            }
        })
    }

    /// Waits until a route has a condition with this status and reason; returns it.
    pub fn wait_for(&self, namespace: &str, name: &str, type_: &str, status: &str, reason: &str) -> Condition {
        eventually(|| {
            let conditions = self.route(namespace, name)?.status.conditions;
            let found = conditions.iter().find(|condition| condition.type_ == type_);
            match found {
                Some(found) if found.status == status && found.reason == reason => Ok(found.clone()),
                _ => Err(format!("{namespace}/{name} is not {type_}={status} {reason}: {conditions:?}")),
            }
        })
    }
}
