//! The identity of a replica, and the names of its Leases.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The API's limit for the name of a Lease.
const LONGEST_NAME: usize = 253;
/// The number of hash digits in a name.
const HASH: usize = 8;

/// The identity of this replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Its unique name.
    pub name: String,
    /// The namespace that it runs in, with the Leases.
    pub namespace: String,
    /// Its pod, which owns its Leases: they are deleted with it in any case.
    pub pod: Option<OwnerReference>,
}

impl Identity {
    /// From the environment: `POD_NAME`, `POD_NAMESPACE` and `POD_UID`, or else the host name and the namespace of the
    /// client's configuration.
    #[must_use]
    pub fn new(variable: impl Fn(&str) -> Option<String>, client_namespace: &str) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let namespace = variable("POD_NAMESPACE").unwrap_or_else(|| client_namespace.to_owned());
        let pod = variable("POD_NAME");
        match (&pod, variable("POD_UID")) {
            (Some(name), Some(uid)) => Self { name: name.clone(), namespace, pod: Some(owner(name.clone(), uid)) },
            _ => Self { name: distinct(&pod.unwrap_or_else(machine)), namespace, pod: None },
        }
    }
}

fn owner(name: String, uid: String) -> OwnerReference {
    OwnerReference { api_version: "v1".into(), kind: "Pod".into(), name, uid, ..OwnerReference::default() }
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A unique name, of characters allowed in object names.
fn distinct(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(fit).take(63).collect();
    let suffix: String = (0..6).map(|_| fastrand::lowercase()).collect();
    match name.trim_matches('-') {
        "" => suffix,
        name => format!("{name}-{suffix}"),
    }
}

/// The names and labels of the Leases of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The Lease of the replica that writes statuses.
    pub leader: String,
    /// The class.
    pub class: String,
    /// The watched scope: `cluster`, or a hash of the names of namespaces.
    pub scope: String,
}

impl Names {
    /// The names for replicas that serve a class in these namespaces, or in the whole cluster if there are none. A dot,
    /// which no class contains, separates the parts of a name, so that names cannot collide.
    #[must_use]
    pub fn new(class: &str, namespaces: &[String]) -> Self {
        let class = class.to_owned();
        if namespaces.is_empty() {
            return Self { leader: format!("switchyard-{class}"), class, scope: "cluster".into() };
        }
        let mut namespaces = namespaces.to_vec();
        namespaces.sort_unstable();
        namespaces.dedup();
        let scope = hash(&namespaces.join(","));
        Self { leader: format!("switchyard-{class}.{scope}"), class, scope }
    }

    /// The Lease of a replica.
    #[must_use]
    pub fn replica(&self, identity: &str) -> String {
        let name = format!("{}.replica.{identity}", self.leader);
        if name.len() <= LONGEST_NAME {
            return name;
        }
        let room = LONGEST_NAME - self.leader.len() - ".replica.".len() - HASH - 1;
        format!("{}.replica.{}-{}", self.leader, &identity[..room], hash(identity))
    }

    /// The labels of all Leases.
    #[must_use]
    pub fn labels(&self) -> [(&'static str, &str); 2] {
        [("switchyard.dev/class", &self.class), ("switchyard.dev/scope", &self.scope)]
    }
}

fn hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    let start = digest.as_ref().first_chunk().expect("the digest has 32 bytes");
    format!("{:0HASH$x}", u32::from_be_bytes(*start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(variables: &[(&str, &str)]) -> Identity {
        let find = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned());
        Identity::new(find, "default")
    }

    #[test]
    fn a_pod_is_itself_and_owns_its_leases() {
        let pod = identity(&[("POD_NAME", "proxy-0"), ("POD_NAMESPACE", "edge"), ("POD_UID", "17")]);
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("proxy-0", "edge"));
        assert_eq!(pod.pod.unwrap().uid, "17");
    }

    #[test]
    fn without_a_uid_no_two_replicas_are_the_same() {
        let one = || identity(&[("POD_NAME", "Proxy_0"), ("POD_UID", "")]);
        assert!(one().name.starts_with("proxy-0-"), "{:?}", one());
        assert_ne!(one().name, one().name);
        assert_eq!((one().namespace.as_str(), one().pod), ("default", None));
        assert!(!identity(&[]).name.is_empty());
    }

    #[test]
    fn leases_are_named_after_class_scope_and_replica() {
        let whole = Names::new("main", &[]);
        assert_eq!((whole.leader.as_str(), whole.scope.as_str()), ("switchyard-main", "cluster"));
        assert_eq!(whole.replica("proxy-0"), "switchyard-main.replica.proxy-0");
        let some = Names::new("main", &["b".into(), "a".into()]);
        assert_eq!(some, Names::new("main", &["a".into(), "b".into(), "a".into()]));
        // printf a,b | sha256sum
        assert_eq!(some.leader, "switchyard-main.1eb7c54d");
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_and_stays_distinct() {
        let names = Names::new(&"c".repeat(63), &[]);
        let (one, other) = ("p".repeat(250), "p".repeat(251));
        assert!(names.replica(&one).len() <= LONGEST_NAME);
        assert_ne!(names.replica(&one), names.replica(&other));
    }
}
