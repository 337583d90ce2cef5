//! docs/install.md and docs/quickstart.md, read and done: each command of them works, and what they say comes of them does.
//!
//! It deletes every resource in the cluster and the CRDs, as the page does, so it is for a cluster of the tests' own.

use std::{env, fs};

use kube::ResourceExt;
use serde_json::json;

use super::{commands, follow, in_repository, shell, try_helm, upgrade};
use crate::{
    cluster::{Cluster, eventually, text},
    scene::{OPERATOR, OPERATOR_NAMESPACE, ORDERS, PATIENCE, Scene, V1ALPHA1},
};

/// The commands of one section of a page.
fn section(page: &str, name: &str) -> Vec<String> {
    let start = page.find(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no section {name}"));
    let text = &page[start + 1..];
    commands(text.find("\n## ").map_or(text, |end| &text[..end]))
}

/// Nothing of the operator, as on a new cluster.
async fn bare(cluster: &Cluster) {
    // While there is somebody to see to their finalizers; without the kinds there is nothing to delete.
    let all = "kubectl delete eventtriggers,eventsinks,eventlogs --all --all-namespaces --timeout=60s";
    shell(&format!("if kubectl get crd eventlogs.eventtrigger.dev; then {all}; fi"));
    let _ = try_helm(&["uninstall", "eventtrigger", "--ignore-not-found", "--wait"]);
    shell("kubectl delete --ignore-not-found -k config/default --timeout=60s");
    let crds = cluster.list("", "apiextensions.k8s.io/v1", "CustomResourceDefinition").await;
    assert!(!crds.iter().any(|crd| text(crd, "/spec/group") == "eventtrigger.dev"), "a CRD is left");
}

/// What the quickstart needs and does not bring: its Secret, and its Service, which here leads to the test's receiver.
async fn surroundings(scene: &Scene) {
    let cluster = &scene.cluster;
    let pod = cluster.ready_pod(&scene.namespace, "app.kubernetes.io/name=receiver").await.expect("the receiver");
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address");
    println!("the receiver is {} at {address}", pod.name_any());
    let uri = scene.cluster.get(&scene.namespace, "v1", "Secret", "database").await.expect("a Secret");
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-app", "namespace": "shop"},
            "data": {"uri": uri["data"]["uri"]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-receiver", "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "orders-receiver", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "orders-receiver"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": [address]}]}),
    ] {
        cluster.apply("", &object).await.unwrap_or_else(|error| panic!("{object}: {error}"));
    }
}

/// How the one pod of the controller is: whether it is ready, and how often it was restarted.
async fn state(cluster: &Cluster) -> Result<(bool, u64), String> {
    let pods = cluster.list(OPERATOR_NAMESPACE, "v1", "Pod").await;
    let pod = pods.iter().find(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "controller");
    let container = pod.and_then(|pod| pod.pointer("/status/containerStatuses/0")).ok_or("no controller yet")?;
    if container["state"]["running"].is_null() {
        return Err(container["state"].to_string());
    }
    Ok((container["ready"] == true, container["restartCount"].as_u64().unwrap_or_default()))
}

/// A controller that lacks something is alive and not ready, says what, and works once it has it, without a restart.
async fn lives_without_its_rights_and_crds(cluster: &Cluster) {
    let install = "helm upgrade --install eventtrigger charts/eventtrigger --namespace eventtrigger-system --create-namespace \
        --set crds.enabled=false";
    shell(&format!("{install} --set rbac.create=false"));
    let says = async |word: &str| {
        eventually(PATIENCE, &format!("the controller to say: {word}"), async || {
            let log = cluster.logs(OPERATOR_NAMESPACE, OPERATOR).await;
            if log.contains(word) { state(cluster).await } else { Err(log) }
        })
        .await
    };
    assert_eq!(says("is forbidden").await, (false, 0));
    shell(install);
    assert_eq!(says("holds the lease").await, (false, 0));
    shell("kubectl apply --server-side -f crds/crds.yaml");
    eventually(PATIENCE, "the controller to be ready", async || match state(cluster).await? {
        (true, 0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// docs/quickstart.md as it stands, but for what makes a cluster and images: those are there. Its database is the image of these
/// tests, and the operator's binary that of this machine.
async fn quickstart(cluster: &Cluster) {
    let page = fs::read_to_string(in_repository("docs/quickstart.md")).expect("the page");
    let architecture = if env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let page = page
        .replace("--image=postgres:17", "--image=\"$(e2e/images.sh postgres)\"")
        .replace("dist/amd64/", &format!("dist/{architecture}/"));
    for line in section(&page, "A cluster, and the operator") {
        if !["kind ", "make "].iter().any(|other| line.starts_with(other)) {
            shell(&line);
        }
    }
    for name in ["A database", "A receiver", "An EventTrigger"] {
        follow(&section(&page, name)).await;
    }
    let lines = section(&page, "Try it");
    let [insert, forward, records] = &lines[..] else { panic!("other commands than before: {lines:?}") };
    shell(insert);
    // The event may still be on its way.
    follow(&[forward, &format!("{records} | grep INSERT | grep 4711")]).await;
    let lines = section(&page, "Look inside");
    let [events, plan] = &lines[..] else { panic!("other commands than before: {lines:?}") };
    assert!(shell(events).contains("INSERT"), "{}", shell(events));
    let pod = cluster.get("shop", "v1", "Pod", "postgres").await.expect("the quickstart's database");
    let database = format!("postgresql://postgres:secret@{}:5432/postgres", text(&pod, "/status/podIP"));
    let plan = shell(&plan.replace("postgresql://app:PASSWORD@HOST:5432/app", &database));
    assert!(plan.contains("public.orders"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_installation_page_works_from_a_bare_cluster_on() {
    let page = fs::read_to_string(in_repository("docs/install.md")).expect("the page");
    let scene = Scene::alone("page").await;
    scene.run(ORDERS).await;
    bare(&scene.cluster).await;

    // Installed with the chart's own values, the quickstart's event arrives.
    surroundings(&scene).await;
    follow(&section(&page, "With Helm")).await;
    shell("kubectl --namespace shop wait --for=condition=Ready eventlog/shop eventtrigger/orders --timeout=60s");
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;

    follow(&section(&page, "For some namespaces only")).await;
    scene.run("INSERT INTO orders VALUES (2, 'a', 'new', 1, 1)").await;
    scene.accepted(2).await;

    // The upgrade keeps the values that were set.
    follow(&section(&page, "Upgrading")).await;
    assert!(try_helm(&["get", "values", "eventtrigger"]).expect("values").contains("- shop"));
    let role = scene.cluster.get(
        "shop",
        "rbac.authorization.k8s.io/v1",
        "Role",
        "eventtrigger-controller-eventtrigger-system",
    );
    assert!(role.await.is_some());

    // What was in the database goes with the resources, and all else with the CRDs.
    for line in section(&page, "Uninstalling") {
        shell(&line);
        if line.starts_with("kubectl delete eventtriggers") {
            let sql = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal";
            let left: i64 = scene.database.query_one(sql, &[]).await.expect("look for SQL triggers").get(0);
            assert_eq!(left, 0, "SQL triggers are left");
        }
    }
    bare(&scene.cluster).await;

    lives_without_its_rights_and_crds(&scene.cluster).await;
    bare(&scene.cluster).await;

    scene.cluster.delete("", "v1", "Namespace", "shop").await;
    follow(&section(&page, "With kustomize")).await;
    quickstart(&scene.cluster).await;
    for (kind, name) in [("EventTrigger", "orders"), ("EventLog", "shop")] {
        scene.cluster.delete("shop", V1ALPHA1, kind, name).await;
    }
    scene.cluster.forget("shop").await;
    bare(&scene.cluster).await;
    shell("kubectl apply --server-side -f config/default/namespace.yaml");
    upgrade(&[]);
    scene.end().await;
}
