//! SQL objects follow the resources, whatever is done to either.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    cluster::{eventually, text},
    scene::{ORDERS, PATIENCE, Scene, V1ALPHA1},
};

/// How long a SQL trigger may be away.
const REPAIR: Duration = Duration::from_secs(10);

/// SQL triggers on orders that are there and fire.
async fn enabled(scene: &Scene) -> Vec<String> {
    let sql = "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal \
               AND tgenabled <> 'D' ORDER BY 1";
    scene.database.query(sql, &[]).await.expect("look for SQL triggers").iter().map(|row| row.get(0)).collect()
}

/// Waits until the SQL triggers are those again that were there `before`.
async fn repaired(scene: &Scene, before: &[String]) {
    let since = Instant::now();
    eventually(PATIENCE, "the SQL triggers to be back", async || {
        let now = enabled(scene).await;
        if now == before { Ok(()) } else { Err(format!("{now:?}, not {before:?}")) }
    })
    .await;
    assert!(since.elapsed() < REPAIR, "it took {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_trigger_takes_its_sql_objects_with_it_and_the_application_goes_on() {
    let scene = Scene::new("deleted").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    let trigger = scene.ready("EventTrigger", "order-changed").await;
    let installed = enabled(&scene).await;
    let mut told: Vec<_> = trigger["status"]["sqlTriggers"].as_array().into_iter().flatten().collect();
    told.sort_by_key(ToString::to_string);
    assert_eq!(told, installed.iter().collect::<Vec<_>>());
    assert!(!installed.is_empty());
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "order-changed").await;
    assert_eq!(enabled(&scene).await, Vec::<String>::new());
    scene
        .run("INSERT INTO orders VALUES (2, 'a', 'new', 1, 1); UPDATE orders SET status = 'b'; DELETE FROM orders")
        .await;
    let functions = "SELECT count(*) FROM pg_proc WHERE prorettype = 'trigger'::regtype AND pronamespace = 'eventlog'::regnamespace";
    let left: i64 = scene.database.query_one(functions, &[]).await.expect("count functions").get(0);
    assert_eq!(left, 0, "capture functions were left behind");

    // With reclaimPolicy Delete the log goes, too.
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventLog", "shop").await;
    let row =
        scene.database.query_one("SELECT to_regnamespace('eventlog')::text", &[]).await.expect("look for the log");
    assert_eq!(row.get::<_, Option<String>>(0), None);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_log_is_taken_over_by_its_successor_and_nothing_in_between_is_lost() {
    let scene = Scene::new("retained").await;
    scene.run(ORDERS).await;
    scene.log(json!({"reclaimPolicy": "Retain"})).await;
    scene.trigger("order-changed", json!({"reclaimPolicy": "Retain"})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventTrigger", "order-changed").await;
    scene.cluster.delete(&scene.namespace, V1ALPHA1, "EventLog", "shop").await;
    scene.run("INSERT INTO orders VALUES (2, 'a', 'new', 1, 1)").await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    let records = scene.accepted(2).await;
    assert_eq!(records.last().expect("a record").json()["new"]["id"], 2);
    scene.end().await;
}

/// Fails unless the harm is done. In the same transaction: the repair may follow within milliseconds.
const NONE_ENABLED: &str = "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'orders'::regclass
    AND NOT tgisinternal AND tgenabled <> 'D'); END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_sql_trigger_dropped_or_disabled_by_hand_is_back_within_10_seconds() {
    let scene = Scene::new("drift").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    let installed = enabled(&scene).await;
    let drops: Vec<_> = installed.iter().map(|name| format!("DROP TRIGGER \"{name}\" ON orders")).collect();
    scene.run(&format!("BEGIN; {}; {NONE_ENABLED}; COMMIT", drops.join("; "))).await;
    repaired(&scene, &installed).await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;

    scene.run(&format!("BEGIN; ALTER TABLE orders DISABLE TRIGGER USER; {NONE_ENABLED}; COMMIT")).await;
    repaired(&scene, &installed).await;
    scene.run("UPDATE orders SET status = 'paid'").await;
    scene.accepted(2).await;

    // Whoever looks at the resource can see that it happened.
    eventually(PATIENCE, "an Event that tells of the repair", async || {
        let events = scene.cluster.list(&scene.namespace, "events.k8s.io/v1", "Event").await;
        let told = events.iter().find(|event| {
            let (note, about) = (text(event, "/note"), text(event, "/regarding/name"));
            about == "order-changed" && text(event, "/reason") == "Repaired" && note.contains("public.orders")
        });
        told.map(|_| ()).ok_or_else(|| format!("{events:?}"))
    })
    .await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_deployment_is_repaired_when_somebody_changes_or_deletes_it() {
    let scene = Scene::new("children").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({})).await;
    scene.ready("EventTrigger", "order-changed").await;
    let find = async || {
        let mut found = scene.cluster.list(&scene.namespace, "apps/v1", "Deployment").await;
        found.retain(|deployment| deployment["metadata"]["ownerReferences"][0]["kind"] == "EventLog");
        found.pop().ok_or_else(|| "no Deployment of the EventLog".to_owned())
    };
    let before = find().await.expect("the Deployment");
    let name = text(&before, "/metadata/name").to_owned();
    scene.cluster.delete(&scene.namespace, "apps/v1", "Deployment", &name).await;
    eventually(PATIENCE, "the Deployment to be back", find).await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    scene.end().await;
}
