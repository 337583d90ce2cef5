//! The chart and its documents agree with the program: CRDs, alerts, dashboard, runbooks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_charts_crds_are_the_committed_ones() {
    let made =
        std::process::Command::new("awk").arg("-f").args(["charts/crds.awk", "crds/crds.yaml"].map(path)).output();
    let made = String::from_utf8(made.expect("awk").stdout).expect("text");
    assert!(made == read("charts/eventtrigger/templates/crds.yaml"), "out of date: run `make crds`");
    assert!(!read("crds/crds.yaml").contains("{{"), "Helm would take a description for a template");
}

#[test]
fn the_chart_and_the_program_have_one_version() {
    let chart: Value = serde_saphyr::from_str(&read("charts/eventtrigger/Chart.yaml")).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let text = chart["annotations"]["artifacthub.io/crds"].as_str().unwrap();
    let listed: Vec<Value> = serde_saphyr::from_str(text).unwrap();
    let listed: BTreeSet<_> = listed.iter().map(|crd| crd["name"].as_str().unwrap().to_owned()).collect();
    let crds = eventtrigger::api::crds();
    assert_eq!(listed, crds.iter().map(|crd| crd.metadata.name.clone().unwrap()).collect());
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read("charts/eventtrigger/files/alerts.yaml")).expect("YAML");
    file["alerts"].as_array().expect("alerts").clone()
}

/// Every `eventtrigger_...` in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("eventtrigger_")).map(str::to_owned).collect()
}

/// What the program exports: another test keeps that page equal to it.
fn exported() -> BTreeSet<String> {
    let page = read("docs/reference/metrics.md");
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
}

#[test]
fn every_metric_of_an_alert_or_the_dashboard_is_exported() {
    let exported = exported();
    assert!(
        exported.contains("eventtrigger_delivery_attempts_total")
            && exported.contains("eventtrigger_controller_leader")
    );
    let dashboard: Value = serde_json::from_str(&read("charts/eventtrigger/files/dashboard.json")).unwrap();
    let used: BTreeSet<String> = alerts()
        .iter()
        .flat_map(|alert| metrics_in(alert["expr"].as_str().unwrap()))
        .chain(metrics_in(&dashboard.to_string()))
        .collect();
    assert!(used.len() > 5, "{used:?}");
    let is_exported = |name: &String| {
        // What the text format adds to histograms.
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        exported.contains(name) || plain.is_some_and(|plain| exported.contains(plain))
    };
    let missing: Vec<_> = used.iter().filter(|&name| !is_exported(name)).collect();
    assert!(missing.is_empty(), "nothing exports {missing:?}");
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let page = read("docs/runbooks.md");
    let sections: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    let names: BTreeSet<_> = alerts.iter().map(|alert| alert["alert"].as_str().unwrap()).collect();
    assert!(names == sections, "alerts {names:?}, sections of docs/runbooks.md {sections:?}");
    for alert in &alerts {
        for field in ["expr", "for", "severity", "summary", "description"] {
            assert!(alert[field].is_string(), "{field} of {alert}");
        }
    }
    for section in page.split("\n## ").skip(1) {
        for part in ["**Means.**", "**Look.**", "**Do.**"] {
            assert!(section.contains(part), "no {part} in {}", section.lines().next().unwrap());
        }
    }
}
