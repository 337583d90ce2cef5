//! What the log keeps, and on which server.

use serde_json::{Value, json};

use super::scene::{ORDERS, Scene, V1ALPHA1, condition_of};

async fn annotate(scene: &Scene, value: &str) {
    // A field manager of its own would fight nobody, but the test's own apply keeps what it applied.
    let log = scene.cluster.get(&scene.namespace, V1ALPHA1, "EventLog", "shop").await.expect("the EventLog");
    let spec = log["spec"].clone();
    scene
        .apply(json!({
            "apiVersion": V1ALPHA1,
            "kind": "EventLog",
            "metadata": {"name": "shop", "annotations": {"eventtrigger.dev/adopt": value}},
            "spec": spec,
        }))
        .await;
}

fn is(status: &'static str, reason: &'static str) -> impl Fn(&Value) -> bool {
    move |condition| condition["status"] == status && condition["reason"] == reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_database_delivers_nothing_until_somebody_says_that_it_is_the_original_now() {
    let scene = Scene::new("copy").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    // As a dump looks that was restored on this server, which has an identifier of its own: the one that is written down is
    // another's, and the index was made after the rows.
    scene
        .run(
            "UPDATE eventlog.meta SET system_identifier = 7; DROP INDEX eventlog.event_1_txid; \
             CREATE INDEX event_1_txid ON eventlog.event_1 (txid)",
        )
        .await;
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'eventtrigger%' AND datname = current_database()";
    scene.run(all).await;
    scene.refused("EventLog", "shop", "AnotherServer", &["eventtrigger.dev/adopt"]).await;
    scene.run("INSERT INTO orders VALUES (2, 'a', 'new', 1, 1)").await;
    annotate(&scene, "8").await;
    scene.refused("EventLog", "shop", "AnotherServer", &["8"]).await;
    assert_eq!(scene.receiver.count().await.expect("count").accepted, 1, "a copy has delivered");
    let here = "SELECT system_identifier::text FROM pg_control_system()";
    let here: String = scene.database.query_one(here, &[]).await.expect("ask for the identifier").get(0);
    annotate(&scene, &here).await;
    scene.ready("EventTrigger", "order-changed").await;
    let records = scene.accepted(2).await;
    assert_eq!(records.last().expect("a record").json()["new"]["id"], 2);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_suspended_trigger_waits_for_are_kept_and_the_log_says_for_whom() {
    let scene = Scene::new("held").await;
    scene.run(ORDERS).await;
    scene.log(json!({"retention": {"period": "1s"}})).await;
    scene.trigger("order-changed", json!({"suspend": true})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    let held = scene.condition("EventLog", "shop", "RetentionMet", is("False", "HeldByTrigger")).await;
    let why = condition_of(&held, "RetentionMet").expect("the condition")["message"].to_string();
    assert!(why.contains("order-changed"), "{why}");
    scene.ready("EventLog", "shop").await;
    scene.trigger("order-changed", json!({"suspend": false})).await;
    scene.accepted(1).await;
    scene.condition("EventLog", "shop", "RetentionMet", is("True", "RetentionMet")).await;
    scene.end().await;
}
