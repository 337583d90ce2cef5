//! Changes that are copies of changes elsewhere: an event only for who asks.

use std::time::Duration;

use eventtrigger::{
    log::{AdminError, Definition, definition::Operations},
    name::TableName,
};
use tokio_postgres::Client;

use crate::support::{Database, everything, orders, root, server};

fn replicated(name: &str, table: TableName) -> Definition {
    let on = Operations { truncate: true, ..everything(name, table.clone()).on };
    Definition { on, replicated: true, ..everything(name, table) }
}

/// A superuser whose changes are replicated ones.
async fn replica(database: &Database) -> Client {
    let replica = root(&database.config.dbname).await;
    replica.batch_execute("SET session_replication_role = replica").await.unwrap();
    replica
}

#[tokio::test]
async fn replicated_changes_make_events_for_those_who_ask_and_for_nobody_else() {
    let (database, admin) = Database::with_orders().await;
    let here = everything("here", orders());
    admin.install("u1", &here).await.unwrap();
    let replica = replica(&database).await;
    let write =
        "INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'x'; DELETE FROM orders; TRUNCATE orders";
    replica.batch_execute(write).await.unwrap();
    assert!(database.logged().await.is_empty());
    let both = replicated("both", orders());
    admin.install("u2", &both).await.unwrap();
    let bits = async || {
        let logged = database.logged().await;
        logged.iter().map(|line| line[..4].trim_end().to_owned()).collect::<Vec<_>>()
    };
    replica.batch_execute(write).await.unwrap();
    assert_eq!(bits().await, ["I 01", "I 01", "U 01", "U 01", "D 01", "D 01", "T 01"]);
    database.run(write).await;
    assert_eq!(bits().await[7..], ["I 11", "I 11", "U 11", "U 11", "D 11", "D 11", "T 01"]);
    assert!(!admin.install("u2", &both).await.unwrap().changed);

    // Somebody sets it back, as far as it goes.
    database
        .run("ALTER TABLE orders ENABLE TRIGGER \"00_eventlog_insert\", ENABLE REPLICA TRIGGER \"00_eventlog_update\"")
        .await;
    assert!(!admin.look().await.unwrap()[0].drift.is_empty());
    assert!(admin.install("u1", &here).await.unwrap().changed);
    replica.batch_execute(write).await.unwrap();
    database.run(write).await;
    assert_eq!(bits().await[14..], bits().await[..14]);

    admin.install("u2", &Definition { replicated: false, ..both }).await.unwrap();
    replica.batch_execute(write).await.unwrap();
    assert_eq!(bits().await.len(), 28);
    let enabled = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '00\\_eventlog%' AND tgenabled <> 'O'";
    assert_eq!(database.client.query_one(enabled, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn partitions_make_events_for_replicated_changes_too_also_those_of_later() {
    let database = Database::new().await;
    let admin = database.admin().await;
    database
        .run(
            "CREATE TABLE days (day int PRIMARY KEY) PARTITION BY RANGE (day);
             CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10)",
        )
        .await;
    let all = replicated("all", TableName::new("public", "days"));
    admin.install("u1", &all).await.unwrap();
    database.run("CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)").await;
    database.run("CREATE TABLE days_3 (day int PRIMARY KEY); ALTER TABLE days ATTACH PARTITION days_3 FOR VALUES FROM (20) TO (30)").await;
    let replica = replica(&database).await;
    replica.batch_execute("INSERT INTO days VALUES (1), (11), (21); INSERT INTO days_2 VALUES (12)").await.unwrap();
    assert_eq!(database.logged().await.len(), 4);
    assert!(admin.look().await.unwrap()[0].drift.is_empty());
    // Also where somebody meddles with a single partition.
    database.run("ALTER TABLE days_2 DISABLE TRIGGER USER").await;
    assert!(!admin.look().await.unwrap()[0].drift.is_empty());
    assert!(admin.install("u1", &all).await.unwrap().changed);
    replica.batch_execute("INSERT INTO days VALUES (2), (13), (22)").await.unwrap();
    assert_eq!(database.logged().await.len(), 7);
    assert!(admin.look().await.unwrap()[0].drift.is_empty());
}

#[tokio::test]
async fn who_does_not_own_the_table_hears_which_grant_helps() {
    let (database, admin) = Database::with_orders().await;
    let root = root(&database.config.dbname).await;
    let (user, owner) = (&database.config.user, format!("{}_owner", database.config.user));
    root.batch_execute(&format!(
        "CREATE ROLE {owner}; GRANT ALL ON SCHEMA public TO {owner}; ALTER TABLE orders OWNER TO {owner};
         GRANT TRIGGER, INSERT ON orders TO {user}"
    ))
    .await
    .unwrap();
    admin.install("u1", &everything("here", orders())).await.unwrap();
    let both = replicated("both", orders());
    let error = admin.install("u2", &both).await.unwrap_err();
    assert!(matches!(error, AdminError::NotPermitted(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "spec.captureReplicated: only the owner of table public.orders may let a trigger fire for replicated changes, and \
             role \"{user}\" does not count as \"{owner}\"; run: GRANT \"{owner}\" TO \"{user}\", or set captureReplicated to false"
        )
    );
    // The other trigger of the table is as it was.
    database.run("INSERT INTO orders VALUES (1)").await;
    assert_eq!(database.logged().await.len(), 1);
    root.batch_execute(&format!("GRANT {owner} TO {user}")).await.unwrap();
    admin.install("u2", &both).await.unwrap();
    // What stands needs the right no more.
    root.batch_execute(&format!(
        "REVOKE {owner} FROM {user}; REVOKE ALL ON orders FROM {user}; ALTER TABLE orders DROP COLUMN card"
    ))
    .await
    .unwrap();
    assert!(admin.install("u2", &both).await.unwrap().changed);
    replica(&database).await.batch_execute("INSERT INTO orders VALUES (2)").await.unwrap();
    assert_eq!(database.logged().await[1], r#"I 01 - {"id":2,"status":null,"total":null}"#);
}

#[tokio::test]
async fn what_a_subscription_applies_makes_events() {
    let (source, (database, admin)) = (Database::new().await, Database::with_orders().await);
    source.run("CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric, card text)").await;
    admin.install("u1", &replicated("copies", orders())).await.unwrap();
    let (there, here) = (root(&source.config.dbname).await, root(&database.config.dbname).await);
    let slot = source.config.dbname.clone();
    there.batch_execute("CREATE PUBLICATION orders FOR TABLE orders").await.unwrap();
    // Within one server CREATE SUBSCRIPTION cannot make the slot, which would wait for its transaction.
    there.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await.unwrap();
    let server = server().await;
    let password = String::from_utf8(server.get_password().unwrap_or_default().to_vec()).unwrap();
    let connection = format!(
        "host={} port={} user={} password={password} dbname={}",
        source.config.host,
        source.config.port,
        server.get_user().unwrap(),
        source.config.dbname
    );
    here.batch_execute(&format!(
        "CREATE SUBSCRIPTION s_{slot} CONNECTION '{connection}' PUBLICATION orders
         WITH (create_slot = false, slot_name = '{slot}', copy_data = false)"
    ))
    .await
    .unwrap();
    source.run("INSERT INTO orders VALUES (1), (2); UPDATE orders SET status = 'x' WHERE id = 1; DELETE FROM orders WHERE id = 2").await;
    source.run("TRUNCATE orders").await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let logged = loop {
        let logged = database.logged().await;
        if logged.len() == 5 || std::time::Instant::now() > deadline {
            break logged;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // A slot left behind would keep its database from being dropped.
    here.batch_execute(&format!("DROP SUBSCRIPTION s_{slot}")).await.unwrap();
    let operations: Vec<_> = logged.iter().map(|line| &line[..1]).collect();
    assert_eq!(operations, ["I", "I", "U", "D", "T"], "{logged:#?}");
}
