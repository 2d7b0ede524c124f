//! The steps of the day, and the report of what was observed.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    node::Node,
    socket::{Site, Socket},
    support::{SYSTEM, block_on, eventually},
};

/// The namespace of the users' objects.
pub(crate) const SHOP: &str = "shop";

/// How many sockets are opened on each replica to verify that it serves.
const TRIES: usize = 10;

/// The cluster, and the report so far.
pub(crate) struct Day {
    pub(crate) node: Node,
    progress: RefCell<Progress>,
}

struct Progress {
    steps: usize,
    since: Instant,
}

/// A pod, as far as the test needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

impl Day {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, progress: Progress { steps: 0, since: Instant::now() }.into() }
    }

    /// Begins a step; reports how long the previous one took.
    pub(crate) fn step(&self, title: &str) {
        let mut progress = self.progress.borrow_mut();
        progress.steps += 1;
        progress.since = Instant::now();
        println!("\n{}. {title}", progress.steps);
    }

    /// Reports an observation, and when in the step it was made.
    pub(crate) fn saw(&self, what: &str) {
        println!("   {:>6.1} s  {what}", self.progress.borrow().since.elapsed().as_secs_f64());
    }

    /// Runs kubectl, which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.node.plane.kubectl(arguments, "").unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs helm, which must succeed.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        self.node.plane.helm(arguments).unwrap_or_else(|error| panic!("helm {arguments:?}: {error}"))
    }

    /// Waits until a Deployment is rolled out, without old pods.
    pub(crate) fn rolled_out(&self, namespace: &str, deployment: &str) {
        self.kubectl(&["rollout", "status", "-n", namespace, &format!("deployment/{deployment}"), "--timeout=120s"]);
    }

    /// `kubectl wait` until every replica serves the current version of the route.
    pub(crate) fn programmed(&self, route: &str) {
        let route = format!("websocketroute/{route}");
        self.kubectl(&["wait", "-n", SHOP, "--for=condition=Programmed", &route, "--timeout=60s"]);
    }

    /// The pods selected by a label.
    pub(crate) fn pods(&self, namespace: &str, label: &str) -> Vec<Pod> {
        let list = self.kubectl(&["get", "pods", "-n", namespace, "-l", label, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"].as_array().unwrap().iter().filter_map(pod).collect()
    }

    /// The pods selected by a label that are not terminating.
    pub(crate) fn staying(&self, namespace: &str, label: &str) -> BTreeSet<String> {
        let pods = self.pods(namespace, label).into_iter();
        pods.filter(|pod| !pod.terminating).map(|pod| pod.name).collect()
    }

    /// The pods of the release that are ready and not terminating.
    pub(crate) fn replicas(&self) -> Vec<Pod> {
        let pods = self.pods(SYSTEM, "app.kubernetes.io/name=switchyard").into_iter();
        pods.filter(|pod| pod.ready && !pod.terminating).collect()
    }

    /// Waits until there are exactly this many replicas.
    pub(crate) fn wait_for_replicas(&self, count: usize) -> Vec<Pod> {
        eventually(|| {
            let all = self.pods(SYSTEM, "app.kubernetes.io/name=switchyard");
            let ready = self.replicas();
            if ready.len() == count && all.len() == count { Ok(ready) } else { Err(format!("{all:?}")) }
        })
    }

    /// Opens sockets on every replica, one after the other without retries; returns the pods they reached.
    pub(crate) fn reached_through_every_replica(&self, site: &Site) -> BTreeSet<String> {
        let replicas = self.replicas();
        assert!(!replicas.is_empty(), "there are replicas");
        let tries = replicas.iter().flat_map(|replica| std::iter::repeat_n(replica, TRIES));
        tries
            .map(|replica| {
                let opened = block_on(Socket::open(https(replica), site, None));
                let socket = opened.unwrap_or_else(|error| panic!("{} refuses: {error}", replica.name));
                let pod = socket.pod.clone();
                block_on(socket.close()).unwrap_or_else(|lost| panic!("{} closes with {lost}", replica.name));
                pod
            })
            .collect()
    }

    /// The node's address for the release's Service.
    pub(crate) fn entrance(&self) -> SocketAddr {
        let path = r#"jsonpath={.spec.ports[?(@.name=="https")].nodePort}"#;
        let port = self.kubectl(&["get", "service", "-n", SYSTEM, "switchyard", "-o", path]);
        SocketAddr::new(self.node.address.into(), port.parse().expect("a NodePort"))
    }
}

/// The TLS address of a replica.
pub(crate) fn https(replica: &Pod) -> SocketAddr {
    SocketAddr::new(replica.address, 8443)
}

/// A pod that has an address.
fn pod(object: &Value) -> Option<Pod> {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(Pod {
        name: object["metadata"]["name"].as_str()?.into(),
        address: object["status"]["podIP"].as_str()?.parse().ok()?,
        ready: conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        terminating: object["metadata"].get("deletionTimestamp").is_some(),
    })
}

/// A time as written in the report.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
