//! What is killed in mid-stream, without grace: nothing is lost, and each row's changes arrive in order.

use std::time::Duration;

use eventtrigger_e2e::writer::{Plan, Writer};
use serde_json::json;

use super::{
    cluster::eventually,
    scene::{OPERATOR, OPERATOR_NAMESPACE, ORDERS, PATIENCE, POSTGRES, Scene},
};

/// How long the rest may take to arrive once the writer has stopped.
const REST: Duration = Duration::from_secs(90);

/// A ready trigger, and a writer at work.
pub async fn streaming(scene: &Scene) -> Writer {
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    let plan = Plan { table: "orders".to_owned(), connections: 6, pause: Duration::from_millis(2) };
    let writer = Writer::start(scene.config.clone(), plan, 0);
    delivers_on(scene, &writer).await;
    writer
}

/// Waits until both the writer and the delivery have gone on for a while.
pub async fn delivers_on(scene: &Scene, writer: &Writer) {
    let (written, arrived) = (writer.written(), scene.receiver.count().await.expect("count").accepted);
    eventually(PATIENCE, "rows to be written and to arrive", async || {
        let (now_written, count) = (writer.written(), scene.receiver.count().await.map_err(|error| error.to_string())?);
        let gone_on = now_written > written + 100 && count.accepted > arrived + 100;
        if gone_on && !writer.has_failed() {
            Ok(())
        } else {
            Err(format!("{now_written} after {written} written, {} after {arrived} arrived", count.accepted))
        }
    })
    .await;
}

/// Stops the writer, and holds what arrived against what it has committed.
pub async fn nothing_is_lost(scene: &Scene, writer: Writer) {
    let written = writer.stop().await.expect("the writer");
    assert!(written.rolled_back > 0);
    let verdict = scene.judged(&written.changes, REST).await;
    println!("{}: {verdict}", scene.namespace);
    assert!(verdict.is_good(), "{verdict}");
}

/// Waits until a pod is ready that is none of those killed.
async fn replaced(scene: &Scene, namespace: &str, selector: &str, killed: &[String]) {
    eventually(PATIENCE, "the killed pod's successor", async || {
        let pod = scene.cluster.ready_pod(namespace, selector).await?;
        let uid = pod.metadata.uid.unwrap_or_default();
        if killed.contains(&uid) { Err("the killed one is still listed".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_delivery_pod_is_killed_in_mid_stream() {
    let scene = Scene::new("kill-delivery").await;
    let writer = streaming(&scene).await;
    let labels = scene.worker_labels().await;
    for _ in 0..2 {
        let killed = scene.cluster.kill_pods(&scene.namespace, &labels).await;
        replaced(&scene, &scene.namespace, &labels, &killed).await;
        delivers_on(&scene, &writer).await;
    }
    nothing_is_lost(&scene, writer).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_postgresql_is_killed_in_mid_stream() {
    let scene = Scene::with_own_server("kill-postgres").await;
    let writer = streaming(&scene).await;
    let killed = scene.cluster.kill_pods(&scene.server, POSTGRES).await;
    replaced(&scene, &scene.server, POSTGRES, &killed).await;
    delivers_on(&scene, &writer).await;
    nothing_is_lost(&scene, writer).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_operator_is_killed_in_mid_stream_and_it_takes_up_where_it_was() {
    let scene = Scene::alone("kill-operator").await;
    let writer = streaming(&scene).await;
    let killed = scene.cluster.kill_pods(OPERATOR_NAMESPACE, OPERATOR).await;
    // Applied while nobody is there to see it.
    scene.trigger("orders-again", json!({"on": {"update": null, "delete": null}, "suspend": true})).await;
    delivers_on(&scene, &writer).await;
    replaced(&scene, OPERATOR_NAMESPACE, OPERATOR, &killed).await;
    scene.condition("EventTrigger", "orders-again", "Captured", |found| found["status"] == "True").await;
    nothing_is_lost(&scene, writer).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_receiver_fails_and_recovers_in_mid_stream() {
    let scene = Scene::new("failing").await;
    let writer = streaming(&scene).await;
    let told = r#"{"status":503,"failEvery":3}"#;
    scene.receiver.behave(&serde_json::from_str(told).expect("orders")).await.expect("tell the receiver");
    eventually(PATIENCE, "requests to be refused", async || {
        let count = scene.receiver.count().await.map_err(|error| error.to_string())?;
        if count.received > count.accepted + 50 { Ok(()) } else { Err(format!("{count:?}")) }
    })
    .await;
    scene.receiver.behave(&serde_json::from_str("{}").expect("orders")).await.expect("tell the receiver");
    nothing_is_lost(&scene, writer).await;
    scene.end().await;
}
