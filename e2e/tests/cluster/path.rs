//! The main job: applied, ready, and every change arrives.

use eventtrigger_e2e::record::Record;
use serde_json::json;

use super::{
    cluster::eventually,
    scene::{ORDERS, PATIENCE, Scene, event_sink},
};

#[tokio::test(flavor = "multi_thread")]
async fn inserts_updates_and_deletes_arrive_at_the_service_of_an_applied_trigger() {
    let scene = Scene::new("path").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({"columns": {"exclude": ["card_number"]}})).await;
    scene.ready("EventLog", "shop").await;
    let trigger = scene.ready("EventTrigger", "order-changed").await;
    assert_eq!(trigger["status"]["table"], "public.orders");
    assert_eq!(trigger["status"]["sinkUri"], format!("http://receiver.{}.svc/", scene.namespace));

    scene.run("INSERT INTO orders VALUES (42, 'Zoë', 'new', 9.90, 1, '4111111111111111')").await;
    scene.run("UPDATE orders SET status = 'paid', version = 2").await;
    scene.run("DELETE FROM orders").await;

    let records = scene.accepted(3).await;
    assert_eq!(records.len(), 3, "{records:#?}");
    let row = |status: &str, version: i64| json!({"id": 42, "customer": "Zoë", "status": status, "total": 9.90, "version": version});
    let (new, paid) = (row("new", 1), row("paid", 2));
    let expected = [
        ("dev.eventtrigger.row.insert", json!({"op": "INSERT", "old": null, "new": new})),
        ("dev.eventtrigger.row.update", json!({"op": "UPDATE", "old": new, "new": paid})),
        ("dev.eventtrigger.row.delete", json!({"op": "DELETE", "old": paid, "new": null})),
    ];
    for (record, (kind, body)) in records.iter().zip(expected) {
        assert_eq!((record.method.as_str(), record.path.as_str()), ("POST", "/"));
        assert_eq!(header(record, "ce-specversion"), "1.0");
        assert_eq!(header(record, "ce-type"), kind);
        assert_eq!(header(record, "ce-source"), format!("/namespaces/{}/eventlogs/shop", scene.namespace));
        assert_eq!(header(record, "ce-subject"), "public.orders/42");
        assert_eq!(header(record, "ce-partitionkey"), "42");
        assert_eq!(header(record, "ce-eventtrigger"), format!("{}/order-changed", scene.namespace));
        assert_eq!(header(record, "content-type"), "application/json");
        assert!(header(record, "ce-time").ends_with('Z'), "{}", header(record, "ce-time"));
        let found = record.json();
        for field in ["op", "old", "new"] {
            assert_eq!(found[field], body[field], "{field} of {}", record.body);
        }
        assert_eq!(found["table"], json!({"schema": "public", "name": "orders"}));
        assert!(found["txid"].as_str().is_some_and(|txid| txid.parse::<u64>().is_ok()), "txid of {}", record.body);
        assert!(!record.body.contains("4111"), "an excluded column was sent: {}", record.body);
    }
    let sequences: Vec<_> = records.iter().map(|record| header(record, "ce-sequence")).collect();
    assert!(sequences.is_sorted() && sequences.iter().all(|it| it.len() == sequences[0].len()), "{sequences:?}");
    let ids: std::collections::HashSet<_> = records.iter().map(|record| header(record, "ce-id")).collect();
    assert_eq!(ids.len(), 3);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_sink_adds_its_path_and_its_headers_also_from_a_secret() {
    let scene = Scene::new("sink").await;
    scene.run(ORDERS).await;
    scene.secret("billing", &[("token", "Bearer s3cr3t-t0ken")]).await;
    scene.log(json!({})).await;
    let headers = json!([
        {"name": "X-Team", "value": "billing"},
        {"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "billing", "key": "token"}}},
    ]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "name": "receiver", "port": 80});
    scene.sink("billing", json!({"ref": service, "uri": "/hooks/orders", "headers": headers})).await;
    scene.trigger("order-changed", json!({"sink": {"ref": event_sink("billing")}})).await;
    let sink = scene.ready("EventSink", "billing").await;
    let url = format!("http://receiver.{}.svc/hooks/orders", scene.namespace);
    assert_eq!(sink["status"]["address"]["url"], url);
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;

    let records = scene.accepted(1).await;
    assert_eq!(records[0].path, "/hooks/orders");
    assert_eq!(header(&records[0], "x-team"), "billing");
    assert_eq!(header(&records[0], "authorization"), "Bearer s3cr3t-t0ken");

    // A new token reaches the worker without anybody's help, and the old one is used no more.
    scene.secret("billing", &[("token", "Bearer an0ther")]).await;
    let mut id = 1;
    eventually(PATIENCE, "the new token", async || {
        id += 1;
        scene.run(&format!("INSERT INTO orders VALUES ({id}, 'a', 'new', 1, 1)")).await;
        let records = scene.accepted(id).await;
        let used = header(records.last().expect("a record"), "authorization").to_owned();
        if used == "Bearer an0ther" { Ok(()) } else { Err(used) }
    })
    .await;
    scene.secret_is_nowhere(&["s3cr3t-t0ken", "an0ther"]).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_trigger_keeps_events_until_it_is_resumed() {
    let scene = Scene::new("suspend").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    scene.trigger("order-changed", json!({"suspend": true})).await;
    scene.condition("EventTrigger", "order-changed", "Captured", |found| found["status"] == "True").await;
    scene.trigger("beside", json!({"on": {"update": null, "delete": null}})).await;
    scene.ready("EventTrigger", "beside").await;
    scene.run("INSERT INTO orders SELECT n, 'a', 'new', 1, 1 FROM generate_series(1, 20) n").await;
    // When the one beside has got them, the suspended one would have, too.
    let of = |records: &[Record], name: &str| {
        records.iter().filter(|it| header(it, "ce-eventtrigger").ends_with(name)).count()
    };
    let records = scene.accepted(20).await;
    assert_eq!((of(&records, "/beside"), of(&records, "/order-changed")), (20, 0));
    scene.trigger("order-changed", json!({"suspend": false})).await;
    let records = scene.accepted(40).await;
    assert_eq!((of(&records, "/beside"), of(&records, "/order-changed")), (20, 20));
    scene.end().await;
}

fn header<'a>(record: &'a Record, name: &str) -> &'a str {
    record.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", record.headers))
}
