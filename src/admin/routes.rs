//! `/api/v1/routes`: the routes as served now.

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;

use crate::{
    compile::{Problem, Verdict, VerdictCondition},
    report::programmed_here,
    source::Report,
    table::{Endpoint, Phase, Rule, WeightedBackend},
};

/// The response.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are those of the response")]
pub(super) struct RoutesView {
    /// The generation of the table.
    generation: u64,
    /// The routes, sorted by namespace and name.
    routes: Vec<RouteView>,
    /// The problems of their files, each as `file:line: field: message`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    file_problems: Vec<String>,
}

/// One route.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteView {
    namespace: Arc<str>,
    name: Arc<str>,
    generation: i64,
    hostnames: Vec<String>,
    conditions: Vec<ConditionView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    rules: Vec<RuleView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConditionView {
    #[serde(rename = "type")]
    type_: &'static str,
    status: &'static str,
    reason: &'static str,
    message: Cow<'static, str>,
    observed_generation: i64,
}

#[derive(Debug, Serialize)]
struct RuleView {
    name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Arc<str>>,
    backends: Vec<BackendView>,
}

#[derive(Debug, Default, Serialize)]
struct BackendView {
    weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Arc<str>>,
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointView {
    name: Arc<str>,
    addresses: Vec<String>,
    state: &'static str,
    in_use: usize,
}

/// Describes a report.
pub(super) fn describe(report: &Report, file_problems: Vec<String>) -> RoutesView {
    let routes = report.verdicts.iter().map(route).collect();
    RoutesView { generation: report.generation, routes, file_problems }
}

fn route(verdict: &Verdict) -> RouteView {
    let Verdict { route, uid: _, generation, conditions, problems: _, warnings, hostnames, rules } = verdict;
    // The route's status describes all replicas; this is about this one.
    let (conditions, here) = (conditions.iter(), programmed_here(verdict));
    let warning = |Problem { path, message, .. }: &Problem| format!("{path}: {message}");
    RouteView {
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        generation: *generation,
        hostnames: hostnames.iter().map(ToString::to_string).collect(),
        conditions: conditions.chain([&here]).map(|one| condition(one, *generation)).collect(),
        warnings: warnings.iter().map(warning).collect(),
        rules: rules.iter().map(|one| rule(one)).collect(),
    }
}

fn condition(condition: &VerdictCondition, observed_generation: i64) -> ConditionView {
    let VerdictCondition { type_, status, reason, message } = condition;
    ConditionView {
        type_: type_.as_str(),
        status: if *status { "True" } else { "False" },
        reason: reason.as_str(),
        message: message.clone(),
        observed_generation,
    }
}

fn rule(rule: &Rule) -> RuleView {
    RuleView {
        name: rule.name.clone(),
        fault: rule.fault.clone(),
        backends: rule.backends.iter().map(backend).collect(),
    }
}

fn backend(WeightedBackend { weight, target }: &WeightedBackend) -> BackendView {
    match target {
        Ok(backend) => BackendView {
            weight: *weight,
            service: Some(backend.service.to_string()),
            port: Some(backend.port),
            error: None,
            endpoints: backend.endpoints.iter().map(|one| endpoint(one)).collect(),
        },
        Err(error) => BackendView { weight: *weight, error: Some(error.clone()), ..BackendView::default() },
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointView {
    EndpointView {
        name: endpoint.name.clone(),
        addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
        state: match endpoint.phase {
            Phase::Ready => "Ready",
            Phase::Draining => "Draining",
        },
        in_use: endpoint.state.in_use(),
    }
}
