//! Pages that follow from the code, and examples that have to be right.

use std::{collections::BTreeSet, fmt::Write, fs, time::Duration};

use clap::CommandFactory;
use switchyard::{
    args::Arguments,
    metrics::{Direction, Metrics, TunnelClose},
    table::ObjectName,
};

use crate::golden;

#[test]
fn the_page_of_flags_is_what_help_says() {
    let mut page = "# Flags\n\nWhat `--help` says. `make bless` writes this page.\n".to_owned();
    let mut command = Arguments::command().term_width(100);
    command.build();
    for name in ["controller", "standalone", "demo", "check", "crd", "probe"] {
        let command = command.find_subcommand_mut(name).unwrap();
        writeln!(page, "\n## switchyard {name}\n\n```text\n{}```", command.render_long_help()).unwrap();
    }
    golden::assert_same(&golden::root().join("docs/flags.md"), &trimmed(&page));
}

#[test]
fn the_page_of_metrics_names_all_of_them() {
    let text = every_metric().encode();
    let mut page =
        "# Metrics\n\nIn OpenMetrics' format at `/metrics` of the admin port. `make bless` writes this page.\n\n\
                    | metric | type | labels | what it tells |\n|---|---|---|---|\n"
            .to_owned();
    for line in text.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let type_ = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
        let full = if type_ == "counter" { format!("{name}_total") } else { name.to_owned() };
        let labels: BTreeSet<_> = text.lines().filter_map(|line| labels(line.strip_prefix(&full)?)).flatten().collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(page, "| `{full}` | {type_} | {labels} | {} |", help.trim_end_matches('.')).unwrap();
    }
    golden::assert_same(&golden::root().join("docs/metrics.md"), &page);
}

/// The names of the labels in what follows a metric's name, but for those that belong to its type.
fn labels(rest: &str) -> Option<Vec<String>> {
    let (labels, _) = rest.strip_prefix('{')?.split_once("} ")?;
    let name = |label: &str| label.split_once('=').map(|(name, _)| name.to_owned());
    Some(labels.split("\",").filter_map(name).collect())
}

fn every_metric() -> Metrics {
    let metrics = Metrics::new();
    let (route, service) = (ObjectName::new("shop", "chat"), ObjectName::new("shop", "chat"));
    metrics.request(Some(&route), 200);
    metrics.handshake(Some(&route), "switched");
    metrics.handshake_duration(Duration::ZERO);
    metrics.tunnel_opened(&route, &service, "chat-0");
    let end = TunnelClose { closer: "client", cause: "closed", duration: Duration::ZERO };
    metrics.tunnel_closed(&route, &service, "chat-0", end);
    metrics.tunnel_opened(&route, &service, "chat-0");
    metrics.passed(Direction::ToClient, 1, 1);
    metrics.tls_handshake("ok", "TLSv1.3");
    metrics.refusal(None, "connections_per_client");
    metrics.table_published(1, 1);
    metrics.table_built(Duration::ZERO);
    metrics.config_to_table(Duration::ZERO);
    metrics
}

fn trimmed(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[test]
fn every_example_is_one_that_an_api_server_takes() {
    let mut examples = 0;
    for entry in fs::read_dir(golden::root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let manifests = golden::read(&path);
        assert_eq!(golden::without_path(manifests.problems()), [""; 0], "{}", path.display());
        examples += manifests.view().routes.len();
    }
    assert!(examples >= 3);
}
