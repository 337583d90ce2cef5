//! Several EventTriggers on one table.

use eventtrigger_e2e::record::Record;
use serde_json::{Value, json};

use super::scene::{ORDERS, Scene};

/// Operation and sorted columns of the rows that came for one trigger, in order.
fn seen(records: &[Record], trigger: &str) -> Vec<(String, Vec<String>)> {
    let ours = records.iter().filter(|it| it.header("ce-eventtrigger").is_some_and(|name| name.ends_with(trigger)));
    ours.map(|record| {
        let body = record.json();
        let row = if body["new"].is_null() { &body["old"] } else { &body["new"] };
        let mut columns: Vec<_> = row.as_object().expect("a row").keys().cloned().collect();
        columns.sort();
        (body["op"].as_str().expect("an op").to_owned(), columns)
    })
    .collect()
}

async fn logged(scene: &Scene) -> i64 {
    scene.database.query_one("SELECT count(*) FROM eventlog.event", &[]).await.expect("count").get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_triggers_on_a_table_share_one_row_of_the_log_and_each_gets_its_own_operations_and_columns() {
    let scene = Scene::new("sharing").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene
        .trigger("news", json!({"on": {"update": null, "delete": null}, "columns": {"include": ["id", "total"]}}))
        .await;
    let paid =
        json!({"on": {"insert": null, "update": {"columns": ["status"]}}, "columns": {"include": ["id", "status"]}});
    scene.trigger("paid", paid).await;
    for name in ["news", "paid"] {
        scene.ready("EventTrigger", name).await;
    }
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1), (2, 'b', 'new', 2, 1)").await;
    scene.run("UPDATE orders SET status = 'paid' WHERE id = 1").await;
    // Nobody wants this one.
    scene.run("UPDATE orders SET total = 3 WHERE id = 1").await;
    scene.run("DELETE FROM orders WHERE id = 2").await;
    let records = scene.accepted(4).await;
    let (news, paid) = (vec!["id".to_owned(), "total".to_owned()], vec!["id".to_owned(), "status".to_owned()]);
    let insert = ("INSERT".to_owned(), news.clone());
    assert_eq!(seen(&records, "/news"), [insert.clone(), insert.clone()]);
    // Different rows: in any order.
    let mut seen_by_paid = seen(&records, "/paid");
    seen_by_paid.sort();
    assert_eq!(seen_by_paid, [("DELETE".to_owned(), paid.clone()), ("UPDATE".to_owned(), paid)]);
    assert_eq!(logged(&scene).await, 4);

    // A change that both want is one row, and has one id whoever receives it.
    scene.trigger("news", json!({"on": {"update": null, "delete": {}}, "columns": {"include": ["id", "total"]}})).await;
    scene.ready("EventTrigger", "news").await;
    scene.run("DELETE FROM orders WHERE id = 1").await;
    let records = scene.accepted(6).await;
    let ids: Vec<_> = records[4..].iter().map(|record| record.header("ce-id").expect("an id")).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(logged(&scene).await, 5);

    // Without the one, the other goes on.
    scene.cluster.delete(&scene.namespace, super::scene::V1ALPHA1, "EventTrigger", "paid").await;
    scene.run("INSERT INTO orders VALUES (3, 'c', 'new', 3, 1)").await;
    scene.run("UPDATE orders SET status = 'paid' WHERE id = 3").await;
    scene.run("DELETE FROM orders WHERE id = 3").await;
    let records = scene.accepted(8).await;
    assert_eq!(seen(&records[6..], "/news"), [insert, ("DELETE".to_owned(), news)]);
    assert_eq!(logged(&scene).await, 7);
    let columns: Value = {
        let sql = "SELECT old::text FROM eventlog.event ORDER BY id DESC LIMIT 1";
        let row = scene.database.query_one(sql, &[]).await.expect("the last event");
        serde_json::from_str(row.get(0)).expect("JSON")
    };
    assert!(columns.get("status").is_none() && columns.get("card_number").is_none(), "nobody wants them: {columns}");
    scene.end().await;
}
