//! Tables and columns that cannot be captured: refused with a message that says what to change, and nothing installed.

use serde_json::{Value, json};

use super::scene::{ORDERS, Scene};

/// Applies one wrong trigger beside a right one; the wrong one is refused, the right one works.
async fn refused(scene: &Scene, name: &str, more: Value, reason: &str, words: &[&str]) {
    scene.trigger(name, more).await;
    scene.refused("EventTrigger", name, reason, words).await;
    scene.condition("EventTrigger", name, "Stalled", |found| found["status"] == "True").await;
}

/// Names of our SQL triggers in the whole database.
async fn sql_triggers(scene: &Scene) -> Vec<String> {
    let sql = "SELECT tgrelid::regclass || '.' || tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1";
    scene.database.query(sql, &[]).await.expect("look for SQL triggers").iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_or_column_is_told_with_the_names_that_are_near() {
    let scene = Scene::new("missing").await;
    scene.run(ORDERS).await;
    scene.log(json!({})).await;
    let table = json!({"table": {"name": "ordres"}});
    refused(&scene, "table", table, "TableNotFound", &["public.ordres", "public.orders"]).await;
    let update = json!({"on": {"update": {"columns": ["statsu"]}}});
    refused(&scene, "update", update, "ColumnNotFound", &["on.update.columns", "statsu", "status"]).await;
    let include = json!({"columns": {"include": ["id", "totl"]}});
    refused(&scene, "include", include, "ColumnNotFound", &["columns.include", "totl", "total"]).await;
    let exclude = json!({"columns": {"exclude": ["card_no"]}});
    refused(&scene, "exclude", exclude, "ColumnNotFound", &["columns.exclude", "card_no", "card_number"]).await;
    assert_eq!(sql_triggers(&scene).await, Vec::<String>::new());
    // Corrected, each of them works.
    scene.trigger("update", json!({"on": {"update": {"columns": ["status"]}}})).await;
    scene.ready("EventTrigger", "update").await;
    assert!(!sql_triggers(&scene).await.is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_a_foreign_table_and_a_temporary_table_are_refused_by_what_they_are() {
    let scene = Scene::new("kinds").await;
    scene.run(ORDERS).await;
    scene.run("CREATE VIEW seen AS SELECT * FROM orders; CREATE TEMP TABLE passing (id bigint PRIMARY KEY)").await;
    let role = scene.config.get_user().expect("a role");
    scene
        .run_as_superuser(&format!(
            "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing; \
             CREATE FOREIGN TABLE far (id bigint) SERVER nowhere; ALTER FOREIGN TABLE far OWNER TO {role}"
        ))
        .await;
    let row = scene.database.query_one("SELECT pg_my_temp_schema()::regnamespace::text", &[]).await.expect("a schema");
    let temporary: String = row.get(0);
    scene.log(json!({})).await;
    for (name, table, words) in [
        ("view", json!({"name": "seen"}), ["public.seen", "a view"]),
        ("foreign", json!({"name": "far"}), ["public.far", "a foreign table"]),
        ("temporary", json!({"schema": temporary, "name": "passing"}), ["passing", "a temporary table"]),
        ("system", json!({"schema": "pg_catalog", "name": "pg_class"}), ["pg_catalog.pg_class", "a system table"]),
    ] {
        refused(&scene, name, json!({"table": table}), "TableNotSupported", &words).await;
    }
    assert_eq!(sql_triggers(&scene).await, Vec::<String>::new());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_event_log_does_not_allow_is_refused_until_it_does() {
    let scene = Scene::new("allowed").await;
    scene.run(ORDERS).await;
    scene.run("CREATE TABLE invoice_items (id bigint PRIMARY KEY, version bigint)").await;
    scene.log(json!({"tables": [{"schema": "public", "name": "invoice*"}]})).await;
    scene.trigger("allowed", json!({"table": {"name": "invoice_items"}})).await;
    scene.ready("EventTrigger", "allowed").await;
    refused(&scene, "order-changed", json!({}), "TableNotAllowed", &["public.orders", "tables", "public.invoice*"])
        .await;
    assert!(sql_triggers(&scene).await.iter().all(|name| name.starts_with("invoice_items.")));
    scene.log(json!({"tables": [{"schema": "public", "name": "*"}]})).await;
    scene.ready("EventTrigger", "order-changed").await;
    scene.run("INSERT INTO orders VALUES (1, 'a', 'new', 1, 1)").await;
    scene.accepted(1).await;
    scene.end().await;
}
