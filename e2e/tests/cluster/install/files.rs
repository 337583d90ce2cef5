//! What the chart renders: valid whatever its values, the same as kustomize installs, and documented.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

use super::{CHART, RELEASE, helm, in_repository, kubectl, run, tool, try_helm};
use crate::cluster::{Cluster, manifests, text};

/// Every file of values that the chart is rendered with.
fn matrix() -> Vec<String> {
    let files = fs::read_dir(in_repository("charts/eventtrigger/ci")).expect("a folder of values");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path().display().to_string()).collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}

/// The chart with these values; of what Helm runs as hooks nothing.
fn rendered(values: &str) -> Vec<Value> {
    manifests(&helm(&["template", RELEASE, &CHART, "--no-hooks", "--values", values]))
}

#[test]
fn lint_finds_nothing_in_the_chart_whatever_its_values() {
    for values in matrix() {
        helm(&["lint", "--strict", &CHART, "--values", &values]);
    }
}

/// The kinds of the Prometheus Operator are not known to a cluster without it.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_all_that_the_chart_renders_whatever_its_values() {
    let cluster = Cluster::connect().await;
    let mut kinds = BTreeSet::new();
    for values in matrix() {
        for mut object in rendered(&values) {
            kinds.insert(text(&object, "/kind").to_owned());
            if text(&object, "/apiVersion").starts_with("monitoring.coreos.com/") {
                continue;
            }
            // Under names of its own: an object that is there already would be changed instead of made.
            let name = format!("dry-{}", text(&object, "/metadata/name"));
            if text(&object, "/kind") != "CustomResourceDefinition" {
                object["metadata"]["name"] = name.into();
            }
            if object.pointer("/metadata/namespace").is_some() {
                object["metadata"]["namespace"] = "default".into();
            }
            let dry = cluster.dry_run("", &object).await;
            dry.unwrap_or_else(|error| panic!("{values}: {}: {error}", text(&object, "/metadata/name")));
        }
    }
    for kind in ["Role", "ClusterRole", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "ConfigMap"] {
        assert!(kinds.contains(kind), "no values render a {kind}: {kinds:?}");
    }
}

#[test]
fn a_value_that_is_wrong_or_misspelt_is_refused() {
    for (value, words) in [
        ("replicas=2", "replicas"),
        ("image.digest=latest", "/image/digest"),
        ("watchNamespaces=shop", "/watchNamespaces"),
        ("watchNamespaces={Shop}", "/watchNamespaces/0"),
        ("crds.install=true", "install"),
        ("podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=1", "/podDisruptionBudget"),
        ("delivery.denyAddresses={10.0.0.1}", "/delivery/denyAddresses/0"),
        ("delivery.traces.endpoint=http://user:secret@otel:4318", "/delivery/traces/endpoint"),
    ] {
        let refused = try_helm(&["template", RELEASE, &CHART, "--set", value]).expect_err(value);
        assert!(refused.contains(words), "{value}: {refused}");
    }
}

#[test]
fn another_chart_may_depend_on_it_under_a_condition() {
    let folder = tempfile::tempdir().expect("a folder");
    let chart = "apiVersion: v2\nname: platform\nversion: 1.0.0\ndependencies:\n\
        - {name: eventtrigger, version: '>=0.1.0', repository: 'file://../eventtrigger', condition: eventtrigger.enabled}\n";
    fs::write(folder.path().join("Chart.yaml"), chart).expect("write a file");
    fs::create_dir(folder.path().join("charts")).expect("a folder");
    std::os::unix::fs::symlink(&*CHART, folder.path().join("charts/eventtrigger")).expect("a link");
    let platform = folder.path().display().to_string();
    let render = |values: &str| manifests(&helm(&["template", "platform", &platform, "--set", values]));
    let on = render("global.team=shop,eventtrigger.enabled=true,eventtrigger.replicaCount=2");
    let controller = on.iter().find(|object| object["kind"] == "Deployment").expect("a controller");
    assert_eq!(controller["spec"]["replicas"], 2);
    assert_eq!(render("eventtrigger.enabled=false"), Vec::<Value>::new());
}

#[test]
fn with_watch_namespaces_there_is_no_role_of_the_whole_cluster() {
    let file = in_repository("charts/eventtrigger/ci/namespaced-values.yaml");
    let objects = rendered(&file.display().to_string());
    let of = |kind: &str| -> BTreeSet<&str> {
        let objects = objects.iter().filter(|object| object["kind"] == kind);
        objects.map(|object| text(object, "/metadata/namespace")).collect()
    };
    assert_eq!(of("Role"), ["eventtrigger-system", "team-a", "team-b"].into());
    assert_eq!(of("RoleBinding"), of("Role"));
    for kind in ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"] {
        assert!(of(kind).is_empty(), "{kind}");
    }
}

/// Whole numbers without a fraction: kustomize takes the `0.0` of a CRD for `0`.
fn whole(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(whole),
        Value::Array(items) => items.iter_mut().for_each(whole),
        Value::Number(number) => {
            if let Some(plain) = number.as_f64().filter(|plain| number.is_f64() && plain.fract() == 0.0) {
                *value = serde_json::from_str(&format!("{plain:.0}")).expect("a number");
            }
        }
        _ => {}
    }
}

/// Without the labels by which people and Helm tell whose an object is. Those that something selects by are left.
fn plain(mut object: Value) -> Value {
    whole(&mut object);
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|key, _| !key.starts_with("app.kubernetes.io/") && key != "helm.sh/chart");
    }
    metadata.retain(|key, value| key != "annotations" && value.as_object().is_none_or(|map| !map.is_empty()));
    object
}

#[test]
fn kustomize_installs_what_the_chart_does_with_its_own_values() {
    let by_name = |objects: Vec<Value>| -> BTreeMap<String, Value> {
        let objects = objects.into_iter().map(|object| {
            let name = ["/kind", "/metadata/namespace", "/metadata/name"].map(|part| text(&object, part)).join(" ");
            (name, plain(object))
        });
        objects.collect()
    };
    let kustomize = kubectl(&["kustomize", &in_repository("config/default").display().to_string()]);
    let mut kustomize = by_name(manifests(&kustomize));
    // Helm makes it, or the user does.
    kustomize.remove("Namespace  eventtrigger-system").expect("a namespace");
    let chart = by_name(manifests(&helm(&["template", RELEASE, &CHART, "--no-hooks"])));
    assert_eq!(chart.keys().collect::<Vec<_>>(), kustomize.keys().collect::<Vec<_>>());
    for (name, object) in chart {
        assert!(
            object == kustomize[&name],
            "{name} differs: {object:#} of the chart, {:#} of kustomize",
            kustomize[&name]
        );
    }
}

#[test]
fn the_charts_readme_is_made_from_its_values_and_each_is_described() {
    let folder = tempfile::tempdir().expect("a folder");
    run(Command::new("cp").arg("-r").arg(&*CHART).arg(folder.path())).unwrap_or_else(|error| panic!("{error}"));
    let arguments = ["--template-files", "README.md.gotmpl", "--sort-values-order", "file", "--log-level", "warning"];
    let helm_docs = tool("helm-docs");
    run(Command::new(helm_docs).arg("--chart-search-root").arg(folder.path()).args(arguments))
        .unwrap_or_else(|error| panic!("{error}"));
    let made = fs::read_to_string(folder.path().join("eventtrigger/README.md")).expect("a README");
    let committed = fs::read_to_string(in_repository("charts/eventtrigger/README.md")).expect("the README");
    assert!(made == committed, "charts/eventtrigger/README.md is out of date: run `make chart`");
    let undescribed: Vec<_> = made.lines().filter(|line| line.starts_with("| ") && line.ends_with("|  |")).collect();
    assert!(undescribed.is_empty(), "without a comment in values.yaml: {undescribed:#?}");
}

/// Fails if a schema and values of its own do not have the same keys, all the way down.
fn same_keys(at: &str, schema: &Value, values: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    // Of Helm, for charts that hold charts; of Kubernetes, in these places.
    if at == "/resources" || at.ends_with("Probe") {
        return;
    }
    let known: BTreeSet<_> =
        properties.keys().filter(|&key| !(at.is_empty() && ["global", "enabled"].contains(&key.as_str()))).collect();
    let there: BTreeSet<_> = values.as_object().unwrap_or_else(|| panic!("{at} is no object")).keys().collect();
    assert_eq!(known, there, "at {at}");
    for key in there {
        same_keys(&format!("{at}/{key}"), &properties[key], &values[key]);
    }
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let schema = fs::read_to_string(in_repository("charts/eventtrigger/values.schema.json")).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("the schema is JSON");
    let values = fs::read_to_string(in_repository("charts/eventtrigger/values.yaml")).expect("the values");
    let values: Value = serde_saphyr::from_str(&values).expect("the values are YAML");
    same_keys("", &schema, &values);
}

/// Every expression of the rules and panels in `object`, in depth.
fn expressions(object: &Value, found: &mut Vec<String>) {
    match object {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(expression) if name == "expr" => found.push(expression.to_owned()),
                    _ => expressions(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn prometheus_reads_every_expression_of_the_alerts_and_the_dashboard() {
    let file = in_repository("charts/eventtrigger/ci/full-values.yaml");
    let objects = rendered(&file.display().to_string());
    let of = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let mut all = Vec::new();
    expressions(of("PrometheusRule"), &mut all);
    assert!(all.len() >= 8, "{all:?}");
    let dashboards = of("ConfigMap")["data"].as_object().expect("data");
    for dashboard in dashboards.values().filter_map(Value::as_str) {
        expressions(&serde_json::from_str(dashboard).expect("a dashboard is JSON"), &mut all);
    }
    assert!(all.len() >= 16, "{all:?}");
    // What Grafana puts in before it asks.
    let text: String = all
        .iter()
        .map(|one| one.replace("$__rate_interval", "5m").replace("$__range", "1h").replace('\n', " ") + "\n")
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("expressions");
    fs::write(&input, text).expect("write a file");
    let program = in_repository("target/e2e/promql");
    let input = fs::File::open(input).expect("the file");
    let read = run(Command::new(&program).stdin(input));
    let read = read.unwrap_or_else(|error| panic!("{error}; e2e/judges.sh builds {}", program.display()));
    assert_eq!(read.trim(), all.len().to_string());
}
