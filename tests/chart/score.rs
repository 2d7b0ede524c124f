//! kube-score's findings on the renderings: only those that `tests/chart/kube-score.yaml` explains.

use std::{collections::BTreeSet, ffi::OsStr, fs};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    golden,
    rendering::{rendering, values},
    tools::{kube_score, run},
};

/// The grade of a check without findings.
const ALL_OK: u64 = 10;

/// An intended finding.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    check: String,
    kinds: BTreeSet<String>,
    /// The renderings with this finding; empty means any.
    #[serde(default)]
    renderings: BTreeSet<String>,
    /// Why it is intended.
    why: String,
}

impl Explained {
    fn explains(&self, finding: &Finding) -> bool {
        let Finding { rendering, kind, check, .. } = finding;
        let is_here = self.renderings.is_empty() || self.renderings.contains(rendering);
        is_here && self.check == *check && self.kinds.contains(kind)
    }
}

struct Finding {
    rendering: String,
    kind: String,
    check: String,
    said: String,
}

#[test]
fn kube_score_finds_nothing_that_is_not_explained() {
    let Some(kube_score) = kube_score() else { return };
    let text = fs::read_to_string(golden::root().join("tests/chart/kube-score.yaml")).unwrap();
    let explained: Vec<Explained> = serde_yaml::from_str(&text).unwrap();
    assert!(explained.iter().all(|explained| explained.why.len() > 20));
    let mut findings = Vec::new();
    for values in values("chart") {
        let file = rendering(&values);
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut arguments = ["score", "--all-default-optional", "--kubernetes-version=v1.30"].map(OsStr::new).to_vec();
        arguments.extend([OsStr::new("--output-format=json"), file.as_os_str()]);
        // It fails if it finds something critical.
        let said = run(&kube_score, &arguments).unwrap_or_else(|said| said);
        let objects: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        findings.extend(objects.as_array().unwrap().iter().flat_map(|object| found(&name, object)));
    }
    for finding in &findings {
        let Finding { rendering, kind, check, said } = finding;
        let is_explained = explained.iter().any(|explained| explained.explains(finding));
        assert!(is_explained, "{rendering}: {kind}: {check} is not explained: {said}");
    }
    let is_used = |explained: &&Explained| findings.iter().any(|finding| explained.explains(finding));
    let superfluous: Vec<_> = explained.iter().filter(|explained| !is_used(explained)).collect();
    assert!(superfluous.is_empty(), "these explain nothing: {superfluous:#?}");
}

fn found(rendering: &str, object: &Value) -> Vec<Finding> {
    let checks = object["checks"].as_array().into_iter().flatten();
    let found = checks.filter(|check| check["skipped"] != true && check["grade"].as_u64().unwrap() < ALL_OK);
    let finding = |check: &Value| Finding {
        rendering: rendering.to_owned(),
        kind: object["type_meta"]["kind"].as_str().unwrap().to_owned(),
        check: check["check"]["id"].as_str().unwrap().to_owned(),
        said: check["comments"].to_string(),
    };
    found.map(finding).collect()
}
