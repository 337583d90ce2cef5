//! Whatever is done to a captured table: no statement of the application fails of it, and what was done is repaired or
//! reported. Repaired here as the controller does it: a look, then an install.

use eventtrigger::{
    log::{Admin, Definition, definition::Updates},
    name::Ident,
};
use rstest::rstest;
use tokio_postgres::Client;

use crate::support::{Database, everything, orders, root};

/// Two EventTriggers whose SQL names columns.
fn definitions() -> [Definition; 2] {
    let mut some = everything("some", orders());
    some.on.update = Some(Updates::Of(vec![Ident::new("status"), Ident::new("total")]));
    some.columns = eventtrigger::log::definition::Columns::Exclude(vec![Ident::new("card")]);
    let mut all = everything("all", orders());
    all.on.truncate = true;
    [some, all]
}

async fn captured() -> (Database, Admin) {
    let (database, admin) = Database::with_orders().await;
    database.run("CREATE SCHEMA archive; ALTER TABLE orders ADD CHECK (id > 0), ALTER card TYPE varchar(10)").await;
    for (n, definition) in definitions().iter().enumerate() {
        admin.install(&format!("u{n}"), definition).await.unwrap();
    }
    (database, admin)
}

/// An insert, an update and a delete in a session that has its plans already.
async fn write(client: &Client, table: &str) {
    let statements = format!("INSERT INTO {table} (id) VALUES (1); UPDATE {table} SET id = 2; DELETE FROM {table}");
    client.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{table}: {error:?}"));
}

async fn operations(database: &Database) -> String {
    database.logged().await.iter().map(|line| &line[..1]).collect()
}

/// Looks, and repairs what is not as it was; the reasons of what cannot be.
async fn repair(admin: &Admin) -> Vec<&'static str> {
    let seen = admin.look().await.unwrap();
    assert!(seen.iter().any(|state| !state.drift.is_empty()), "nothing was seen");
    let mut reasons = Vec::new();
    for (n, definition) in definitions().iter().enumerate() {
        if let Err(error) = admin.install(&format!("u{n}"), definition).await {
            reasons.push(error.reason());
        }
    }
    reasons
}

#[rstest]
#[case::column_added("ALTER TABLE orders ADD COLUMN more text DEFAULT 'x'", &[])]
#[case::column_dropped("ALTER TABLE orders DROP COLUMN card", &["ColumnNotFound"])]
#[case::other_column_dropped("ALTER TABLE orders ADD COLUMN a int; ALTER TABLE orders DROP COLUMN a; ALTER TABLE orders ADD COLUMN a text", &[])]
#[case::listened_column_dropped("ALTER TABLE orders DROP COLUMN status", &["ColumnNotFound"])]
#[case::column_renamed("ALTER TABLE orders RENAME COLUMN total TO amount", &["ColumnNotFound"])]
#[case::column_retyped("ALTER TABLE orders ALTER COLUMN total TYPE text", &[])]
#[case::column_lengthened("ALTER TABLE orders ALTER COLUMN card TYPE varchar(100000)", &[])]
#[case::key_retyped("ALTER TABLE orders ALTER COLUMN id TYPE bigint", &[])]
#[tokio::test]
async fn a_change_of_columns_is_captured_before_and_after_the_repair(#[case] change: &str, #[case] reported: &[&str]) {
    let (database, admin) = captured().await;
    let other = database.another().await;
    write(&other, "orders").await;
    database.run(change).await;
    write(&other, "orders").await;
    write(&database.client, "orders").await;
    assert_eq!(operations(&database).await, "IUDIUDIUD");
    assert_eq!(repair(&admin).await, reported);
    assert!(admin.look().await.unwrap()[0].drift.is_empty());
    write(&other, "orders").await;
    write(&database.another().await, "orders").await;
    assert_eq!(operations(&database).await, "IUDIUDIUDIUDIUD");
}

#[rstest]
#[case::renamed("ALTER TABLE orders RENAME TO sold", "sold")]
#[case::moved("ALTER TABLE orders SET SCHEMA archive", "archive.orders")]
#[tokio::test]
async fn a_table_that_has_another_name_is_still_captured_and_reported(#[case] change: &str, #[case] now: &str) {
    let (database, admin) = captured().await;
    let other = database.another().await;
    write(&other, "orders").await;
    database.run(change).await;
    write(&other, now).await;
    // Nor does it matter what happens to its columns then.
    database.run(&format!("ALTER TABLE {now} DROP COLUMN status")).await;
    write(&other, now).await;
    assert_eq!(repair(&admin).await, ["TableRenamed", "TableRenamed"]);
    write(&other, now).await;
    assert_eq!(operations(&database).await, "IUDIUDIUDIUD");
}

#[tokio::test]
async fn a_table_swapped_for_a_new_one_is_left_and_the_new_one_captured() {
    let (database, admin) = captured().await;
    let other = database.another().await;
    write(&other, "orders").await;
    database
        .run("BEGIN; ALTER TABLE orders RENAME TO orders_old; CREATE TABLE orders (LIKE orders_old INCLUDING ALL); COMMIT")
        .await;
    // Nothing of ours is on the new one yet.
    write(&other, "orders").await;
    assert!(repair(&admin).await.is_empty());
    write(&other, "orders").await;
    write(&other, "orders_old").await;
    assert_eq!(operations(&database).await, "IUDIUD");
    let left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'eventlog'::regnamespace AND prorettype = 'trigger'::regtype";
    assert_eq!(database.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 4);
}

#[tokio::test]
async fn a_table_dropped_and_made_anew_is_captured_again() {
    let (database, admin) = captured().await;
    let other = database.another().await;
    write(&other, "orders").await;
    database.run("DROP TABLE orders").await;
    assert_eq!(repair(&admin).await, ["TableNotFound", "TableNotFound"]);
    database.run("CREATE TABLE orders (id bigint PRIMARY KEY, card text, total int, status text)").await;
    write(&other, "orders").await;
    assert!(repair(&admin).await.is_empty());
    write(&other, "orders").await;
    assert_eq!(operations(&database).await, "IUDIUD");
}

#[rstest]
#[case::dropped("DROP TRIGGER \"00_eventlog_insert\" ON orders; DROP TRIGGER \"00_eventlog_update\" ON orders")]
#[case::disabled("ALTER TABLE orders DISABLE TRIGGER USER")]
#[case::for_replicas_only("ALTER TABLE orders ENABLE REPLICA TRIGGER \"00_eventlog_delete\"")]
#[case::function_replaced(
    "DO $$ BEGIN EXECUTE format('CREATE OR REPLACE FUNCTION eventlog.%I() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NULL; END $f$', 'capture_' || 'orders'::regclass::oid || '_update'); END $$"
)]
#[case::function_dropped(
    "DO $$ BEGIN EXECUTE format('DROP FUNCTION eventlog.%I() CASCADE', 'capture_' || 'orders'::regclass::oid || '_update'); END $$"
)]
#[tokio::test]
async fn sql_triggers_dropped_or_disabled_are_put_back(#[case] change: &str) {
    let (database, admin) = captured().await;
    let other = database.another().await;
    write(&other, "orders").await;
    database.run(change).await;
    write(&other, "orders").await;
    let before = operations(&database).await;
    assert!(before.len() < 6, "{change} had no effect");
    assert!(repair(&admin).await.is_empty());
    write(&other, "orders").await;
    assert_eq!(operations(&database).await, before + "IUD");
}

#[tokio::test]
async fn an_owner_without_any_right_on_the_log_changes_nothing_and_a_lost_right_is_reported_only_when_it_is_needed() {
    let (database, admin) = captured().await;
    let root = root(&database.config.dbname).await;
    let (user, owner) = (&database.config.user, format!("{}_owner", database.config.user));
    root.batch_execute(&format!(
        "CREATE ROLE {owner}; GRANT ALL ON SCHEMA public TO {owner}; ALTER TABLE orders OWNER TO {owner};
         REVOKE ALL ON orders FROM {user}; SET ROLE {owner}"
    ))
    .await
    .unwrap();
    write(&root, "orders").await;
    // The log's role has no right on the table any more, and needs none for what stands, nor to mend a function.
    assert!(admin.look().await.unwrap()[0].drift.is_empty());
    assert!(!admin.install("u1", &definitions()[1]).await.unwrap().changed);
    root.batch_execute("ALTER TABLE orders ADD COLUMN more int").await.unwrap();
    write(&root, "orders").await;
    assert!(repair(&admin).await.is_empty());
    write(&root, "orders").await;
    assert_eq!(operations(&database).await, "IUDIUDIUD");

    root.batch_execute("DROP TRIGGER \"00_eventlog_insert\" ON orders").await.unwrap();
    write(&root, "orders").await;
    assert_eq!(repair(&admin).await, ["NotPermitted", "NotPermitted"]);
    root.batch_execute(&format!("GRANT TRIGGER ON orders TO {user}")).await.unwrap();
    assert!(repair(&admin).await.is_empty());
    write(&root, "orders").await;
    assert_eq!(operations(&database).await, "IUDIUDIUDUDIUD");

    // Nor does removing need a right on the table.
    root.batch_execute(&format!("REVOKE ALL ON orders FROM {user}")).await.unwrap();
    for definition in definitions() {
        admin.remove(&definition.trigger).await.unwrap();
    }
    assert!(database.sql_triggers().await.is_empty());
}
