//! `switchyard check PATH…`: validates manifests as a controller would, without a cluster.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    compile::{ClusterView, Problem, Verdict},
    source::manifest::{FileProblem, ManifestKind, Manifests},
    table::ObjectName,
};

/// Prints the problems in manifests, one per line, and fails if there are any. Warnings are printed too.
///
/// `compile` returns a controller's verdicts on the objects.
///
/// # Errors
/// If the output cannot be written.
pub fn run(
    paths: &[PathBuf],
    compile: impl FnOnce(&ClusterView) -> Vec<Verdict>,
    output: &mut impl Write,
) -> io::Result<ExitCode> {
    let manifests = Manifests::read(paths, &Manifests::default());
    let verdicts = compile(manifests.view());
    for warning in warnings(&manifests, &verdicts) {
        writeln!(output, "warning: {warning}")?;
    }
    let problems = problems(&manifests, &verdicts);
    for problem in &problems {
        writeln!(output, "{problem}")?;
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All problems, those of the files and those of the compiler, ordered by file and line.
#[must_use]
pub fn problems(manifests: &Manifests, verdicts: &[Verdict]) -> Vec<FileProblem> {
    // Problems of an unreadable spec have already been reported, field by field.
    let is_readable = |route: &ObjectName| manifests.route(route).is_some_and(|route| route.spec.is_ok());
    let judged = verdicts.iter().filter(|verdict| is_readable(&verdict.route));
    let compiled = judged
        .flat_map(|verdict| verdict.problems.iter().filter_map(|problem| located(manifests, &verdict.route, problem)));
    sorted(manifests.problems().iter().cloned().chain(compiled))
}

/// What is served but deserves attention.
#[must_use]
pub fn warnings(manifests: &Manifests, verdicts: &[Verdict]) -> Vec<FileProblem> {
    sorted(
        verdicts.iter().flat_map(|verdict| {
            verdict.warnings.iter().filter_map(|warning| located(manifests, &verdict.route, warning))
        }),
    )
}

fn located(manifests: &Manifests, route: &ObjectName, problem: &Problem) -> Option<FileProblem> {
    manifests.problem(ManifestKind::WebSocketRoute, route, &problem.path, &problem.message)
}

fn sorted(problems: impl Iterator<Item = FileProblem>) -> Vec<FileProblem> {
    let mut problems: Vec<_> = problems.collect();
    problems.sort();
    problems.dedup();
    problems
}
