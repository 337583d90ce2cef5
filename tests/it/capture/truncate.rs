//! TRUNCATE: one event for a table, by whatever way it was truncated.

use eventtrigger::{
    log::{Definition, definition::Operations},
    name::TableName,
};

use crate::support::{Database, everything, orders};

fn truncations(name: &str, table: TableName) -> Definition {
    Definition { on: Operations { truncate: true, ..Operations::default() }, ..everything(name, table) }
}

/// Operation and table of each event.
async fn events(database: &Database) -> Vec<String> {
    let sql = "SELECT e.op::text || ' ' || c.table_name FROM eventlog.event AS e \
               JOIN eventlog.capture AS c ON c.id = e.capture ORDER BY e.id";
    database.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_truncation_is_one_event_without_rows_and_is_rolled_back_like_any_other() {
    let (database, admin) = Database::with_orders().await;
    let mut both = everything("both", orders());
    both.on.truncate = true;
    admin.install("u1", &both).await.unwrap();
    admin.install("u2", &everything("rows", orders())).await.unwrap();
    database.run("INSERT INTO orders VALUES (1), (2)").await;
    database.run("BEGIN; TRUNCATE orders; ROLLBACK").await;
    database.run("TRUNCATE orders").await;
    assert_eq!(database.logged().await[2..], ["T 10 - -"]);
    // An empty table can be truncated too.
    database.run("TRUNCATE orders").await;
    assert_eq!(database.logged().await.len(), 4);
    assert!(!admin.install("u1", &both).await.unwrap().changed);
    both.on.truncate = false;
    admin.install("u1", &both).await.unwrap();
    database.run("TRUNCATE orders").await;
    assert_eq!(database.logged().await.len(), 4);
}

#[tokio::test]
async fn a_table_truncated_by_cascade_has_an_event_of_its_own() {
    let (database, admin) = Database::with_orders().await;
    database.run("CREATE TABLE lines (order_id int REFERENCES orders)").await;
    admin.install("u1", &truncations("orders", orders())).await.unwrap();
    admin.install("u2", &truncations("lines", TableName::new("public", "lines"))).await.unwrap();
    database.run("TRUNCATE orders CASCADE").await;
    let mut events = events(&database).await;
    events.sort();
    assert_eq!(events, ["T lines", "T orders"]);
}

#[tokio::test]
async fn a_partitioned_table_is_truncated_as_a_whole_and_a_partition_by_a_trigger_of_its_own() {
    let database = Database::new().await;
    let admin = database.admin().await;
    database
        .run(
            "CREATE TABLE days (day int PRIMARY KEY) PARTITION BY RANGE (day);
             CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10);
             CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",
        )
        .await;
    let mut all = everything("all", TableName::new("public", "days"));
    all.on.truncate = true;
    admin.install("u1", &all).await.unwrap();
    database.run("TRUNCATE days").await;
    assert_eq!(events(&database).await, ["T days"]);
    // SQL triggers for statements are not handed down to partitions, and the whole was not truncated.
    database.run("TRUNCATE days_1").await;
    assert_eq!(events(&database).await.len(), 1);
    admin.install("u2", &truncations("first", TableName::new("public", "days_1"))).await.unwrap();
    database.run("TRUNCATE days_1").await;
    assert_eq!(events(&database).await[1..], ["T days_1"]);
    database.run("TRUNCATE days").await;
    let mut last = events(&database).await.split_off(2);
    last.sort();
    assert_eq!(last, ["T days", "T days_1"]);
    assert!(admin.look().await.unwrap().iter().all(|state| state.drift.is_empty()));
}

#[tokio::test]
async fn a_change_of_columns_does_not_break_truncate() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &truncations("orders", orders())).await.unwrap();
    let other = database.another().await;
    for change in ["SELECT", "ALTER TABLE orders DROP COLUMN total", "ALTER TABLE orders RENAME TO sold"] {
        database.run(change).await;
        other
            .batch_execute("DO $$ BEGIN TRUNCATE orders; EXCEPTION WHEN undefined_table THEN TRUNCATE sold; END $$")
            .await
            .unwrap();
    }
    assert_eq!(database.logged().await, ["T 1 - -"; 3]);
}
