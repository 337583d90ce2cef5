//! Who made a change: the role, the application and its settings, for those who ask.

use eventtrigger::log::{AdminError, Definition, definition::Context};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{Database, everything, orders, root};

fn asking(context: Context) -> Definition {
    Definition { context, ..everything("asking", orders()) }
}

fn settings(names: &[&str]) -> Context {
    Context { settings: names.iter().map(|name| (*name).to_owned()).collect(), ..Context::default() }
}

/// What the log has noted beside each event.
async fn noted(client: &Client) -> Vec<Option<Value>> {
    let rows = client.query("SELECT context::text FROM eventlog.event ORDER BY id", &[]).await.unwrap();
    let parse =
        |row: &tokio_postgres::Row| row.get::<_, Option<&str>>(0).map(|text| serde_json::from_str(text).unwrap());
    rows.iter().map(parse).collect()
}

#[tokio::test]
async fn nothing_is_noted_for_a_table_of_which_nobody_asks() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    database.run("SET app.\"user\" = '7'; INSERT INTO orders VALUES (1)").await;
    assert_eq!(noted(&database.client).await, [None]);
    let sql = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_%' AND (prosrc LIKE '%.setting(%' OR prosrc LIKE '%role%')";
    assert_eq!(database.client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn the_role_is_the_one_that_the_application_acts_as() {
    let (database, admin) = Database::with_orders().await;
    let mut asking = asking(Context { role: true, ..Context::default() });
    asking.on.truncate = true;
    admin.install("u1", &asking).await.unwrap();
    let (login, app) = (&database.config.user, format!("{}_app", database.config.user));
    let root = root(&database.config.dbname).await;
    root.batch_execute(&format!(
        "CREATE ROLE {app}; GRANT {app} TO {login}; GRANT ALL ON orders TO {app};
         CREATE FUNCTION elevated() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE orders SET total = 1'"
    ))
    .await
    .unwrap();
    let reader = database.another().await;
    let mut expected = Vec::new();
    for (statements, role) in [
        ("INSERT INTO orders VALUES (1)".to_owned(), login),
        (format!("SET ROLE {app}; UPDATE orders SET total = 2"), &app),
        ("RESET ROLE; UPDATE orders SET total = 3".to_owned(), login),
        // As through PgBouncer in transaction mode.
        (format!("BEGIN; SET LOCAL ROLE {app}; UPDATE orders SET total = 2; COMMIT"), &app),
        ("UPDATE orders SET total = 3".to_owned(), login),
        // Whose the function is, is not who called it.
        (format!("SET ROLE {app}; SELECT elevated()"), &app),
        ("RESET ROLE; SELECT elevated(); DELETE FROM orders".to_owned(), login),
        ("TRUNCATE orders".to_owned(), login),
    ] {
        database.run(&statements).await;
        expected.resize(noted(&reader).await.len(), Some(json!({"role": role})));
        assert_eq!(noted(&reader).await, expected, "{statements}");
    }
    root.batch_execute(&format!("SET SESSION AUTHORIZATION {app}; INSERT INTO orders VALUES (2)")).await.unwrap();
    expected.push(Some(json!({"role": app})));
    assert_eq!(noted(&reader).await, expected);
}

#[tokio::test]
async fn settings_are_noted_as_they_are_in_the_transaction_whatever_their_text() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &asking(settings(&["app.user", "App.tenant"]))).await.unwrap();
    let hostile = "'; DROP TABLE orders; -- \"\\\u{1}\n{}ä𐍈";
    let set = "SELECT set_config('app.user', $1, $2)";
    let mut client = database.another().await;
    let insert = "INSERT INTO orders (id) VALUES ($1)";
    // Never set; then local to a transaction, which leaves the empty text behind; then for the session.
    client.execute(insert, &[&1]).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.query(set, &[&hostile, &true]).await.unwrap();
    transaction.execute(insert, &[&2]).await.unwrap();
    transaction.commit().await.unwrap();
    client.execute(insert, &[&3]).await.unwrap();
    client.query(set, &[&"7", &false]).await.unwrap();
    client.batch_execute("SET app.tenant = 'north'; UPDATE orders SET status = 'x' WHERE id = 1").await.unwrap();
    // Longer than an identity is, up to what would not fit into JSON.
    client.query("SELECT set_config('app.user', repeat(E'\\x01', 20000000), false)", &[]).await.unwrap();
    client.batch_execute("DELETE FROM orders WHERE id = 1").await.unwrap();
    client.query(set, &[&"x".repeat(8192), &false]).await.unwrap();
    client.batch_execute("DELETE FROM orders WHERE id = 2").await.unwrap();
    let of = |settings: Value| Some(json!({"settings": settings}));
    assert_eq!(
        noted(&database.client).await,
        [
            of(json!({})),
            of(json!({"app.user": hostile})),
            of(json!({})),
            of(json!({"app.user": "7", "App.tenant": "north"})),
            of(json!({"App.tenant": "north"})),
            of(json!({"app.user": "x".repeat(8192), "App.tenant": "north"})),
        ]
    );
}

#[tokio::test]
async fn what_several_triggers_ask_for_is_noted_once() {
    let (database, admin) = Database::with_orders().await;
    let traceparent = Some("app.trace".to_owned());
    admin.install("u1", &asking(Context { traceparent, ..settings(&["app.user"]) })).await.unwrap();
    let mut second = everything("second", orders());
    // More than a function of PostgreSQL can have arguments.
    second.context.settings = (0..60).map(|n| format!("app.s{n}")).collect();
    second.context.application = true;
    admin.install("u2", &second).await.unwrap();
    database.run("SET app.\"user\" = '7'; SET app.s59 = 'y'; SET app.trace = 't'; SET application_name = 'shop'; INSERT INTO orders VALUES (1)").await;
    let expected = json!({"application": "shop", "settings": {"app.user": "7", "app.trace": "t", "app.s59": "y"}});
    assert_eq!(noted(&database.client).await, [Some(expected)]);
    admin.remove(&second.trigger).await.unwrap();
    database.run("DELETE FROM orders").await;
    assert_eq!(noted(&database.client).await[1], Some(json!({"settings": {"app.user": "7", "app.trace": "t"}})));
}

#[tokio::test]
async fn a_setting_that_is_not_for_every_role_is_refused_before_it_could_break_a_statement() {
    let (database, admin) = Database::with_orders().await;
    // The server's own can only get here past the resource, but some extensions have such settings, too.
    let error = admin.install("u1", &asking(settings(&["krb_server_keyfile"]))).await.unwrap_err();
    assert!(matches!(error, AdminError::NotPermitted(_)), "{error:?}");
    assert!(error.to_string().starts_with("spec.context: a setting is not for every role to read: "), "{error}");
    assert!(error.to_string().contains("krb_server_keyfile"), "{error}");
    database.run("INSERT INTO orders VALUES (1)").await;
}
