//! Installed, upgraded, rolled back, uninstalled: the operator comes and goes, the event log goes on.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{CHART, RELEASE, helm, in_repository, kubectl, run, upgrade};
use crate::{
    cluster::{eventually, text},
    scene::{OPERATOR_NAMESPACE, ORDERS, PATIENCE, Scene, V1ALPHA1},
};

/// A row is written, and its event arrives.
async fn delivers(scene: &Scene, id: usize) {
    scene.run(&format!("INSERT INTO orders VALUES ({id}, 'a', 'new', 1, 1)")).await;
    scene.accepted(id).await;
}

/// Whether the CRD of EventTriggers, as the cluster has it, knows a field.
async fn crd_knows(scene: &Scene, field: &str) -> bool {
    let crd = "apiextensions.k8s.io/v1";
    let name = "eventtriggers.eventtrigger.dev";
    let crd = scene.cluster.get("", crd, "CustomResourceDefinition", name).await.expect("the CRD");
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    crd.pointer(properties).and_then(Value::as_object).expect("properties").contains_key(field)
}

/// A stand-in for the version before, of which there is none yet: this chart with a lower number, and a CRD that does not
/// know `suspend`.
fn version_before(folder: &Path) -> String {
    run(Command::new("cp").arg("-r").arg(&*CHART).arg(folder)).unwrap_or_else(|error| panic!("{error}"));
    let replace = |file: &str, from: &str, to: &str| {
        let path = folder.join("eventtrigger").join(file);
        let text = fs::read_to_string(&path).expect("a file of the chart");
        assert!(text.contains(from), "no {from} in {file}");
        fs::write(&path, text.replace(from, to)).expect("write the chart");
    };
    let chart = fs::read_to_string(in_repository("charts/eventtrigger/Chart.yaml")).expect("Chart.yaml");
    let version = chart.lines().find(|line| line.starts_with("version:")).expect("a version");
    replace("Chart.yaml", version, "version: 0.0.1");
    replace("templates/crds.yaml", "\n              suspend:\n", "\n              formerly:\n");
    folder.join("eventtrigger").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_a_rollback_and_an_uninstallation_lose_neither_events_nor_resources() {
    let scene = Scene::alone("helm").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    let before = scene.ready("EventTrigger", "order-changed").await;
    helm(&["test", RELEASE]);
    delivers(&scene, 1).await;

    // Uninstalled: the CRDs stay, and with them the resources; their workers go on.
    helm(&["uninstall", RELEASE, "--wait"]);
    delivers(&scene, 2).await;
    let kept = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventTrigger", "order-changed").await.expect("it stays");
    assert_eq!(kept["metadata"]["uid"], before["metadata"]["uid"]);

    // Installed again, as the version before.
    let folder = tempfile::tempdir().expect("a folder");
    let old = version_before(folder.path());
    helm(&["install", RELEASE, &old, "--hide-notes", "--wait", "--timeout", "2m"]);
    assert!(!crd_knows(&scene, "suspend").await && crd_knows(&scene, "formerly").await);
    let ready = scene.ready("EventTrigger", "order-changed").await;
    assert_eq!(ready["metadata"]["uid"], before["metadata"]["uid"]);
    delivers(&scene, 3).await;

    // Made while the CRD fills in a field that the controller does not know, it is taken up once the CRD fits, though nobody
    // touches it.
    scene.run("CREATE TABLE others (id bigint PRIMARY KEY)").await;
    scene.trigger("others", json!({"table": {"name": "others"}})).await;
    kubectl(&["replace", "-f", &in_repository("crds/crds.yaml").display().to_string()]);
    scene.ready("EventTrigger", "others").await;

    // Upgraded, with its CRDs; what the new one knows can be used.
    upgrade(&[]);
    assert!(crd_knows(&scene, "suspend").await && !crd_knows(&scene, "formerly").await);
    scene.trigger("later", json!({"suspend": true, "on": {"update": null, "delete": null}})).await;
    scene.condition("EventTrigger", "later", "Captured", |found| found["status"] == "True").await;
    delivers(&scene, 4).await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "later").await;

    // Rolled back, and forth again.
    helm(&["rollback", RELEASE, "--wait", "--timeout", "2m"]);
    assert!(!crd_knows(&scene, "suspend").await);
    scene.ready("EventTrigger", "order-changed").await;
    delivers(&scene, 5).await;
    upgrade(&[]);
    delivers(&scene, 6).await;
    helm(&["test", RELEASE]);
    assert_eq!(scene.accepted(6).await.len(), 6, "nothing came twice");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kustomize_has_installed_works_and_becomes_helms() {
    let scene = Scene::alone("kustomize").await;
    scene.run(ORDERS).await;
    helm(&["uninstall", RELEASE, "--wait"]);
    let folder = in_repository("config/default").display().to_string();
    kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &folder]);
    kubectl(&["--namespace", "eventtrigger-system", "rollout", "status", "deployment", "--timeout", "120s"]);
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    delivers(&scene, 1).await;

    let chart = CHART.as_str();
    helm(&["install", RELEASE, chart, "--take-ownership", "--hide-notes", "--wait", "--timeout", "2m"]);
    let pods = scene.cluster.list("eventtrigger-system", "apps/v1", "Deployment").await;
    assert_eq!(pods.iter().map(|it| text(it, "/metadata/name")).collect::<Vec<_>>(), ["eventtrigger-controller"]);
    delivers(&scene, 2).await;
    scene.end().await;
}

/// Who holds the controller's Lease.
async fn holder(scene: &Scene) -> String {
    let lease =
        scene.cluster.get(OPERATOR_NAMESPACE, "coordination.k8s.io/v1", "Lease", "eventtrigger-controller").await;
    lease.map(|lease| text(&lease, "/spec/holderIdentity").to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_stopped_hands_over_at_once() {
    let scene = Scene::alone("handover").await;
    upgrade(&["replicaCount=2"]);
    let first = eventually(PATIENCE, "somebody to hold the Lease", async || {
        let holder = holder(&scene).await;
        if holder.is_empty() { Err("nobody does") } else { Ok(holder) }
    })
    .await;
    // Some time before the Lease would end.
    kubectl(&["--namespace", OPERATOR_NAMESPACE, "delete", "pod", &first, "--wait=false"]);
    let began = Instant::now();
    eventually(PATIENCE, "another to hold it", async || {
        let now = holder(&scene).await;
        if now.is_empty() || now == first { Err(now) } else { Ok(()) }
    })
    .await;
    println!("handed over {:?} after the pod was told to stop", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    upgrade(&[]);
    scene.end().await;
}
