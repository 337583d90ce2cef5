//! Pods ask for no more than they need. The namespaces of the tests, and the operator's, enforce `restricted`.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually, text},
    scene::{OPERATOR, OPERATOR_NAMESPACE, ORDERS, PATIENCE, Scene},
};

/// The first ready pod with these labels.
async fn pod(cluster: &Cluster, namespace: &str, labels: &str) -> Value {
    let pod = cluster.ready_pod(namespace, labels).await.unwrap_or_else(|error| panic!("{error}"));
    serde_json::to_value(pod).expect("a pod is JSON")
}

/// What every pod of ours must be.
fn is_restricted(pod: &Value) {
    let at = |pointer: &str| pod.pointer(pointer).unwrap_or(&Value::Null);
    assert_eq!(at("/spec/securityContext/runAsNonRoot"), true);
    assert_eq!(at("/spec/securityContext/seccompProfile/type"), "RuntimeDefault");
    assert_eq!(at("/spec/containers/0/securityContext/readOnlyRootFilesystem"), true);
    assert_eq!(at("/spec/containers/0/securityContext/allowPrivilegeEscalation"), false);
    assert_eq!(at("/spec/containers/0/securityContext/capabilities"), &json!({"drop": ["ALL"]}));
    for quantity in ["requests/cpu", "requests/memory", "limits/memory"] {
        assert!(at(&format!("/spec/containers/0/resources/{quantity}")).is_string(), "no {quantity}");
    }
    assert_ne!(at("/spec/terminationGracePeriodSeconds"), 30, "the default, which nobody thought about");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_under_the_restricted_profile_and_workers_without_a_token() {
    let scene = Scene::alone("pods").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    for namespace in [&scene.namespace, OPERATOR_NAMESPACE] {
        let object = scene.cluster.get("", "v1", "Namespace", namespace).await.expect("the namespace");
        assert_eq!(object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    }
    is_restricted(&pod(&scene.cluster, OPERATOR_NAMESPACE, OPERATOR).await);
    let worker = pod(&scene.cluster, &scene.namespace, &scene.worker_labels().await).await;
    is_restricted(&worker);
    // A token would be mounted as a projected volume.
    assert_eq!(worker["spec"]["automountServiceAccountToken"], false);
    let volumes = worker["spec"]["volumes"].as_array().expect("volumes");
    assert_eq!(volumes.iter().map(|volume| text(volume, "/name")).collect::<Vec<_>>(), ["config"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_deliver_is_not_ready_and_is_not_restarted_for_it() {
    let mut scene = Scene::alone("away").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    let labels = scene.worker_labels().await;
    let before = pod(&scene.cluster, &scene.namespace, &labels).await;
    let role = scene.config.get_user().expect("a role").to_owned();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    scene.run_as_superuser(&format!("ALTER ROLE {role} NOLOGIN; {end}")).await;
    eventually(PATIENCE, "the worker not to be ready", async || {
        match scene.cluster.ready_pod(&scene.namespace, &labels).await {
            Ok(_) => Err("it still is"),
            Err(_) => Ok(()),
        }
    })
    .await;
    scene.run_as_superuser(&format!("ALTER ROLE {role} LOGIN")).await;
    let ready = async || scene.cluster.ready_pod(&scene.namespace, &labels).await;
    eventually(PATIENCE, "the worker to be ready again", ready).await;
    let after = pod(&scene.cluster, &scene.namespace, &labels).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    scene.reconnect().await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    scene.end().await;
}
