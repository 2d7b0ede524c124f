//! Golden files for the compiler: `tests/golden/compile/NAME.in.yaml` gives `NAME.out.yaml`, the table and all
//! verdicts. `BLESS=1` rewrites them.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::golden;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use switchyard::{
    api::RouteObject,
    compile::{
        ClusterView, CompileSettings, Compiled, Memory, Problem, SecretObject, ServiceObject, SliceObject,
        Surroundings, Verdict, VerdictCondition, compile, object_name,
    },
    source::manifest::hostname_owners,
    table::{Backend, ClientNetworks, HostClaims, Match, Policy, Rule, Tenancy, WeightedBackend},
};

/// 2026-12-01: within the validity of the certificates in the golden files.
const NOW: Duration = Duration::from_secs(1_796_083_200);

#[test]
fn every_view_compiles_to_its_golden_table_and_verdicts() {
    let mut cases = 0;
    for input in golden::files("compile") {
        let Some(name) = input.to_str().unwrap().strip_suffix(".in.yaml") else { continue };
        let (view, settings) = read(&input);
        let compiled = compile_twice(&view, &settings);
        let text = serde_yaml::to_string(&Golden::of(&compiled)).unwrap();
        golden::assert_same(Path::new(&format!("{name}.out.yaml")), &text);
        cases += 1;
    }
    assert!(cases >= 10, "only {cases} golden files were found");
}

#[test]
fn every_golden_output_has_its_input() {
    for path in golden::files("compile") {
        let path = path.to_str().unwrap();
        if let Some(name) = path.strip_suffix(".out.yaml") {
            assert!(Path::new(&format!("{name}.in.yaml")).exists(), "{path} is an orphan");
        }
    }
}

#[test]
fn a_rule_that_states_nothing_has_the_default_policy() {
    let (view, settings) = read(&golden::root().join("tests/golden/compile/pings_go_to_their_target.in.yaml"));
    let compiled = compile_twice(&view, &settings);
    let rule = compiled.verdicts[0].rules.iter().find(|rule| &*rule.name == "unsaid").unwrap();
    assert_eq!(rule.policy, Policy::default());
}

/// Compiles a view, then again with the state of the first build, which must not make a difference.
fn compile_twice(view: &ClusterView, settings: &CompileSettings) -> Compiled {
    let mut memory = Memory::default();
    let first = compile(view, settings, &mut memory, SystemTime::UNIX_EPOCH + NOW);
    let second = compile(view, settings, &mut memory, SystemTime::UNIX_EPOCH + NOW);
    assert_eq!(first.table, second.table);
    assert_eq!(first.verdicts, second.verdicts);
    second
}

/// Reads objects as the API server would return them, without validation: a store may hold what a schema rejects. A
/// document of kind `Settings` lists the differences from the settings of a controller started without flags.
fn read(path: &Path) -> (ClusterView, CompileSettings) {
    let mut view = ClusterView::default();
    let mut settings = CompileSettings {
        class: "switchyard".into(),
        tenancy: Tenancy::default(),
        default_certificate: None,
        surroundings: Surroundings::Cluster { own: &[] },
    };
    for document in serde_yaml::Deserializer::from_str(&fs::read_to_string(path).unwrap()) {
        let value = Value::deserialize(document).unwrap();
        match value["kind"].as_str() {
            Some("WebSocketRoute") => view.routes.push(Arc::new(parse::<RouteObject>(value))),
            Some("Service") => {
                let service: ServiceObject = parse(value);
                view.services.insert(object_name(&service.metadata), Arc::new(service));
            }
            Some("EndpointSlice") => {
                let slice: SliceObject = parse(value);
                view.slices.entry(slice.service().unwrap()).or_default().push(Arc::new(slice));
            }
            Some("Secret") => {
                let secret: SecretObject = parse(value);
                view.secrets.insert(object_name(&secret.metadata), Arc::new(secret));
            }
            Some("Settings") => set(&mut settings, parse(value)),
            other => panic!("{}: kind {other:?}", path.display()),
        }
    }
    (view, settings)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingsDocument {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    allow_shared_hostnames: bool,
    hostname_owners: Option<Value>,
    /// The address of the admin port of `standalone`.
    standalone: Option<SocketAddr>,
}

fn set(settings: &mut CompileSettings, document: SettingsDocument) {
    let SettingsDocument { _kind: _, allow_shared_hostnames, hostname_owners: owners, standalone } = document;
    let owners = owners.map(|owners| hostname_owners(&owners.to_string()).unwrap()).unwrap_or_default();
    settings.tenancy = if allow_shared_hostnames { Tenancy::Shared } else { Tenancy::Separate(owners.into()) };
    settings.surroundings =
        standalone.map_or(Surroundings::Cluster { own: &[] }, |admin| Surroundings::Machine { admin });
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[derive(Serialize)]
struct Golden {
    table: BTreeMap<String, Vec<String>>,
    rules: BTreeMap<String, Vec<String>>,
    verdicts: BTreeMap<String, Vec<String>>,
}

impl Golden {
    fn of(compiled: &Compiled) -> Self {
        let verdicts = &compiled.verdicts;
        Self {
            table: compiled.table.hosts().map(|claims| (claims.host.to_string(), host(&claims))).collect(),
            rules: verdicts
                .iter()
                .flat_map(|verdict| verdict.rules.iter())
                .map(|one| (title(one), rule(one)))
                .collect(),
            verdicts: verdicts.iter().map(|one| (one.route.to_string(), verdict(one))).collect(),
        }
    }
}

fn host(claims: &HostClaims<'_>) -> Vec<String> {
    let tls = claims.tls.map(|tls| {
        let identity = tls.identity.as_ref().map(|identity| {
            let names = identity.certificates.iter().map(|certificate| certificate.names.join(" "));
            names.collect::<Vec<_>>().join(", ")
        });
        format!("TLS of {}, {:?} without it: {identity:?}", tls.owner, tls.insecure_policy)
    });
    let path = |(match_, rule): &(&Match, &Arc<Rule>)| match &rule.fault {
        None => format!("{} -> {}", match_.conditions(), title(rule)),
        Some(fault) => format!("{} -> 503, {} is at fault: {fault}", match_.conditions(), title(rule)),
    };
    let unreadable = claims.unreadable.map(|route| format!("otherwise 503: {} is not readable", route.name));
    tls.into_iter().chain(claims.matches.iter().map(path)).chain(unreadable).collect()
}

fn title(rule: &Rule) -> String {
    format!("{} rule {}", rule.route.name, rule.name)
}

fn rule(rule: &Rule) -> Vec<String> {
    let Rule { route: _, name: _, fault: _, backends, policy } = rule;
    let Policy { algorithm, timeouts, keepalive, persistence, clients, non_upgrade, escaped_slashes } = policy;
    let mut lines: Vec<_> = backends.iter().flat_map(backend).collect();
    lines.push(format!("{algorithm:?}, {non_upgrade:?}, escaped slashes {escaped_slashes:?}"));
    lines.push(format!("{timeouts:?}"));
    lines.push(format!("{keepalive:?}"));
    if *clients != ClientNetworks::default() {
        lines.push(format!("clients {:?}, but not {:?}", clients.allow, clients.deny));
    }
    lines.extend(persistence.as_ref().map(|persistence| format!("{persistence:?}")));
    lines
}

fn backend(WeightedBackend { weight, target }: &WeightedBackend) -> Vec<String> {
    match target {
        Err(why) => vec![format!("{weight} x 503: {why}")],
        Ok(backend) => {
            let Backend { service, port, endpoints, turn: _ } = &**backend;
            let endpoint = |endpoint: &Arc<switchyard::table::Endpoint>| {
                let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
                format!(
                    "  {:?} {} = {} at {}",
                    endpoint.phase,
                    endpoint.name,
                    endpoint.id.as_str(),
                    addresses.join(" ")
                )
            };
            let title = format!("{weight} x {service}:{port}");
            std::iter::once(title).chain(endpoints.iter().map(endpoint)).collect()
        }
    }
}

fn verdict(verdict: &Verdict) -> Vec<String> {
    let condition = |condition: &VerdictCondition| {
        let VerdictCondition { type_, status, reason, message } = condition;
        format!("{}={status} {}: {message}", type_.as_str(), reason.as_str())
    };
    let warning = |Problem { path, message, .. }: &Problem| format!("warning: {path}: {message}");
    let conditions = verdict.conditions.iter().map(condition);
    conditions.chain(verdict.warnings.iter().map(warning)).collect()
}
