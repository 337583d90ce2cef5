//! Sinks that cannot be resolved: told by the condition, and recovered from without anybody's help.

use serde_json::json;

use super::{
    cluster::{eventually, text},
    scene::{ORDERS, PATIENCE, Scene, event_sink},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_such_a_port_is_told_with_the_ports_it_has_and_events_wait_for_the_right_one() {
    let scene = Scene::new("port").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({"sink": {"ref": {"port": "web"}}})).await;
    let words = ["sink.ref.port", "\"web\"", "http (80)"];
    scene.refused("EventTrigger", "order-changed", "ServicePortNotFound", &words).await;
    // Capture does not wait for the sink.
    scene.condition("EventTrigger", "order-changed", "Captured", |found| found["status"] == "True").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    let selector = json!({"app.kubernetes.io/name": "receiver"});
    let spec = json!({"selector": selector, "ports": [{"name": "web", "port": 80, "targetPort": "http"}]});
    scene.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "receiver"}, "spec": spec})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.accepted(1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_service_is_told_and_used_once_it_is_there() {
    let scene = Scene::new("service").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({"sink": {"ref": {"name": "late", "port": 80}}})).await;
    scene.refused("EventTrigger", "order-changed", "SinkNotFound", &["Service", "late"]).await;
    let selector = json!({"app.kubernetes.io/name": "receiver"});
    let spec = json!({"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]});
    scene.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"}, "spec": spec})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_of_another_namespace_is_used_only_if_it_allows_it() {
    let (scene, other) = tokio::join!(Scene::new("near"), Scene::new("far"));
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver"});
    other.sink("billing", json!({"ref": service})).await;
    other.ready("EventSink", "billing").await;

    // A Service there, straight: never.
    let far = json!({"sink": {"ref": {"namespace": other.namespace}}});
    scene.trigger("service", far).await;
    scene
        .refused("EventTrigger", "service", "CrossNamespaceNotAllowed", &["sink.ref.namespace", "allowedNamespaces"])
        .await;

    // An EventSink there: not before it allows it.
    let mut reference = event_sink("billing");
    reference["namespace"] = json!(other.namespace);
    scene.trigger("order-changed", json!({"sink": {"ref": reference}})).await;
    let words = [other.namespace.as_str(), scene.namespace.as_str(), "allowedNamespaces"];
    scene.refused("EventTrigger", "order-changed", "SinkNotAllowed", &words).await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    assert_eq!(other.receiver.count().await.expect("count").received, 0);
    other.sink("billing", json!({"ref": service, "allowedNamespaces": [scene.namespace]})).await;
    let trigger = scene.ready("EventTrigger", "order-changed").await;
    assert!(text(&trigger, "/status/sinkUri").contains(&other.namespace));
    other.accepted(1).await;

    // And no longer than it does.
    other.sink("billing", json!({"ref": service})).await;
    scene.refused("EventTrigger", "order-changed", "SinkNotAllowed", &["allowedNamespaces"]).await;
    scene.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_a_trigger_is_relative_to_its_event_sink() {
    let scene = Scene::new("relative").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver"});
    scene.sink("billing", json!({"ref": service, "uri": "/hooks/all"})).await;
    scene.trigger("order-changed", json!({"sink": {"ref": event_sink("billing"), "uri": "orders?a=b"}})).await;
    let trigger = scene.ready("EventTrigger", "order-changed").await;
    assert!(text(&trigger, "/status/sinkUri").ends_with("/hooks/orders?a=b"), "{}", trigger["status"]);
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    assert_eq!(scene.accepted(1).await[0].path, "/hooks/orders?a=b");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_kind_with_an_address_is_a_sink_as_knatives_are() {
    let scene = Scene::new("addressable").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.cluster.apply_manifests("", include_str!("addressable.yaml")).await;
    let (api_version, kind) = ("e2e.eventtrigger.dev/v1", "Mailbox");
    eventually(PATIENCE, "the API server to serve the kind", async || {
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "inbox"}});
        scene.cluster.apply(&scene.namespace, &object).await
    })
    .await;
    let reference = json!({"apiVersion": api_version, "kind": kind, "name": "inbox", "port": null});
    scene.trigger("order-changed", json!({"sink": {"ref": reference, "uri": "/orders"}})).await;
    scene.refused("EventTrigger", "order-changed", "AddressNotReady", &["Mailbox", "status.address.url"]).await;
    let url = format!("http://receiver.{}.svc", scene.namespace);
    scene.cluster.set_status(&scene.namespace, api_version, kind, "inbox", json!({"address": {"url": url}})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    assert_eq!(scene.accepted(1).await[0].path, "/orders");
    scene.end().await;
}
