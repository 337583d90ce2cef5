//! What the SQL triggers write, and what they never break.

mod context;
mod drift;
mod exact;
mod long;
mod names;
mod order;
mod replicated;
mod settings;
mod shapes;
mod statements;
mod truncate;
mod types;

use eventtrigger::{
    log::{
        AdminError,
        definition::{Columns, Context, Operations, Updates},
    },
    name::{Ident, TableName},
};

use rstest::rstest;

use crate::support::{Database, everything, orders};

fn idents(names: &[&str]) -> Vec<Ident> {
    names.iter().copied().map(Ident::new).collect()
}

#[tokio::test]
async fn every_operation_writes_one_row_with_the_whole_row_before_and_after() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    database.run("INSERT INTO orders VALUES (1, 'new', 1.50, 'c'), (2, NULL, 2, 'd')").await;
    database.run("UPDATE orders SET id = 3, status = 'paid' WHERE id = 1").await;
    database.run("DELETE FROM orders WHERE id = 2").await;
    assert_eq!(
        database.logged().await,
        [
            r#"I 1 - {"id":1,"status":"new","total":1.50,"card":"c"}"#,
            r#"I 1 - {"id":2,"status":null,"total":2,"card":"d"}"#,
            r#"U 1 {"id":1,"status":"new","total":1.50,"card":"c"} {"id":3,"status":"paid","total":1.50,"card":"c"}"#,
            r#"D 1 {"id":2,"status":null,"total":2,"card":"d"} -"#,
        ]
    );
}

#[tokio::test]
async fn what_rolls_back_leaves_nothing_savepoints_included() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    database
        .run("BEGIN; INSERT INTO orders VALUES (1); SAVEPOINT s; INSERT INTO orders VALUES (2); ROLLBACK TO s; COMMIT")
        .await;
    database.run("BEGIN; INSERT INTO orders VALUES (3); ROLLBACK").await;
    assert_eq!(database.logged().await, [r#"I 1 - {"id":1,"status":null,"total":null,"card":null}"#]);
}

#[tokio::test]
async fn two_triggers_on_a_table_share_one_row_and_each_has_its_bit() {
    let (database, admin) = Database::with_orders().await;
    let mut one = everything("one", orders());
    one.on = Operations { insert: true, update: Some(Updates::Of(idents(&["status"]))), ..Operations::default() };
    one.columns = Columns::Include(idents(&["status"]));
    let mut two = everything("two", orders());
    two.on =
        Operations { update: Some(Updates::Of(idents(&["total", "status"]))), delete: true, ..Operations::default() };
    two.columns = Columns::Exclude(idents(&["card"]));
    admin.install("u1", &one).await.unwrap();
    admin.install("u2", &two).await.unwrap();
    database.run("INSERT INTO orders VALUES (1, 'new', 1, 'card')").await;
    database.run("UPDATE orders SET status = 'paid'").await;
    database.run("UPDATE orders SET total = 2").await;
    database.run("UPDATE orders SET total = 2, card = 'x'").await;
    database.run("DELETE FROM orders").await;
    assert_eq!(
        database.logged().await,
        [
            r#"I 10 - {"id":1,"status":"new","total":1}"#,
            r#"U 11 {"id":1,"status":"new","total":1} {"id":1,"status":"paid","total":1}"#,
            r#"U 01 {"id":1,"status":"paid","total":1} {"id":1,"status":"paid","total":2}"#,
            r#"D 01 {"id":1,"status":"paid","total":2} -"#,
        ]
    );
    admin.remove(&two.trigger).await.unwrap();
    database.run("INSERT INTO orders VALUES (2)").await;
    database.run("DELETE FROM orders").await;
    assert_eq!(database.logged().await[4..], [r#"I 1 - {"id":2,"status":null}"#]);
    admin.remove(&one.trigger).await.unwrap();
    assert!(database.sql_triggers().await.is_empty());
}

#[tokio::test]
async fn a_listened_column_has_changed_when_what_is_stored_has_whatever_its_type_and_name() {
    let database = Database::new().await;
    // Names that the function itself uses, and types with an `=` that fails, is blind, or is not there.
    let columns = ["matched", "eventtrigger", "op", "r", "total", "data", "price", "day", "cents"];
    database
        .run(
            "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
             CREATE TABLE odd (id int PRIMARY KEY, matched int, eventtrigger text COLLATE blind, op boolean, r uuid,
                               total numeric, data json, price point, day date, cents numeric(12, 2))",
        )
        .await;
    let admin = database.admin().await;
    for column in columns {
        let mut definition = everything(column, TableName::new("public", "odd"));
        definition.on.update = Some(Updates::Of(idents(&[column])));
        definition.columns = Columns::Include(idents(&[column]));
        admin.install(column, &definition).await.unwrap();
    }
    database.run("INSERT INTO odd VALUES (1, 1, 'a', true, gen_random_uuid(), 1.0, '1', '(1,1)', '2026-01-01')").await;
    let sets = [
        "matched = 2",
        "eventtrigger = 'A'",
        "op = NULL",
        "r = NULL",
        "total = 1.00",
        "data = '2'",
        "price = '(1,1.0000000001)'",
        "day = 'infinity'",
        // It is rounded: the second time it is the same.
        "cents = 1.004",
    ];
    for (n, set) in sets.into_iter().enumerate() {
        // The second time nothing changes: no event, also where both are NULL.
        database.run(&format!("UPDATE odd SET {set}")).await;
        database.run(&format!("UPDATE odd SET {set}")).await;
        let logged = database.logged().await;
        let bits: String = (0..sets.len()).map(|bit| if bit == n { '1' } else { '0' }).collect();
        assert_eq!(logged.len(), n + 2, "{set}: {logged:#?}");
        assert!(logged[n + 1].starts_with(&format!("U {bits} ")), "{set}: {logged:#?}");
    }
    database.run("UPDATE odd SET matched = 3, total = 2").await;
    assert!(database.logged().await[10].starts_with("U 100010000 "));
}

#[rstest]
#[case::some_columns(Columns::Exclude(idents(&["card"])))]
#[case::all_columns(Columns::All)]
#[tokio::test]
async fn a_change_of_columns_never_breaks_a_statement_not_even_in_a_session_that_captured_before(
    #[case] columns: Columns,
) {
    let (database, admin) = Database::with_orders().await;
    let mut only = everything("only", orders());
    if columns != Columns::All {
        only.on.update = Some(Updates::Of(idents(&["status"])));
    }
    only.columns = columns.clone();
    admin.install("u1", &only).await.unwrap();
    let other = database.another().await;
    let write = "INSERT INTO orders (id) VALUES (1); UPDATE orders SET id = 1; DELETE FROM orders";
    other.batch_execute(write).await.unwrap();
    for change in [
        "RENAME COLUMN status TO state",
        "DROP COLUMN state",
        "ALTER COLUMN total TYPE text",
        "RENAME COLUMN card TO secret",
        "ADD COLUMN more int",
        "DROP COLUMN total",
        "ALTER COLUMN id TYPE bigint",
    ] {
        database.run(&format!("ALTER TABLE orders {change}")).await;
        other.batch_execute(write).await.unwrap_or_else(|error| panic!("after {change}: {error:?}"));
        database.run(write).await;
    }
    let logged = database.logged().await;
    assert_eq!(logged.iter().filter(|line| line.starts_with("I ")).count(), 15);
    if columns != Columns::All {
        assert!(!logged.iter().any(|line| line.contains("card") || line.contains("secret")), "{logged:#?}");
    }
}

#[tokio::test]
async fn identifiers_of_any_spelling_are_captured() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for (n, (schema, name, column)) in [
        ("public", "Qu\"ote", "a\"b"),
        ("do.t", "sp ace.d", "'; DROP SCHEMA eventlog CASCADE; --"),
        ("GROSS", "select", "$capture$"),
        ("public", "é".repeat(31).as_str(), "日本語"),
        ("public", "x".repeat(63).as_str(), "new"),
        ("public", "back\\slash", "r"),
    ]
    .into_iter()
    .enumerate()
    {
        let (table, column) = (TableName::new(schema, name), Ident::new(column));
        database
            .run(&format!(
                "CREATE SCHEMA IF NOT EXISTS {}; CREATE TABLE {table} ({column} int PRIMARY KEY, other int)",
                table.schema
            ))
            .await;
        let mut definition = everything(&format!("t{n}"), table.clone());
        definition.columns = Columns::Include(vec![column.clone()]);
        definition.on.update = Some(Updates::Of(vec![column.clone()]));
        admin.install(&format!("u{n}"), &definition).await.unwrap();
        database
            .run(&format!("INSERT INTO {table} VALUES (1, 2); UPDATE {table} SET {column} = 3; DELETE FROM {table}"))
            .await;
        let logged = database.logged().await;
        assert_eq!(logged.len(), 3 * (n + 1), "{logged:#?}");
        let key = serde_json::to_string(column.as_str()).unwrap();
        assert_eq!(logged[3 * n + 1], format!("U 1 {{{key}:1}} {{{key}:3}}"));
        assert!(!admin.install(&format!("u{n}"), &definition).await.unwrap().changed);
    }
}

#[tokio::test]
async fn what_cannot_be_captured_is_refused_with_the_remedy() {
    let (database, admin) = Database::with_orders().await;
    database.run("CREATE VIEW v AS TABLE orders; CREATE SEQUENCE s; CREATE MATERIALIZED VIEW m AS TABLE orders").await;
    let problem = async |name: &str| match admin.install("u", &everything("t", TableName::new("public", name))).await {
        Err(AdminError::Invalid(problem)) => problem,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(problem("v").await.reason, "TableNotSupported");
    assert_eq!(problem("m").await.reason, "TableNotSupported");
    assert_eq!(problem("s").await.reason, "TableNotSupported");
    assert_eq!(
        problem("ordres").await.message,
        "spec.table: there is no table public.ordres; there are: public.orders"
    );
    let log = admin.install("u", &everything("t", TableName::new("eventlog", "trigger"))).await;
    assert!(matches!(log, Err(AdminError::Invalid(problem)) if problem.reason == "TableNotSupported"));
    assert!(database.sql_triggers().await.is_empty());
}

#[tokio::test]
async fn a_role_without_the_right_hears_which_grant_helps() {
    let (database, admin) = Database::with_orders().await;
    database.run("CREATE TABLE mine (id int)").await;
    let root = crate::support::root(&database.config.dbname).await;
    root.batch_execute("ALTER TABLE mine OWNER TO postgres").await.unwrap();
    let error = admin.install("u", &everything("t", TableName::new("public", "mine"))).await.unwrap_err();
    let user = &database.config.user;
    assert_eq!(
        error.to_string(),
        format!(
            "role \"{user}\" may not put triggers on table public.mine; run: GRANT TRIGGER ON \"public\".\"mine\" TO \"{user}\""
        )
    );
    root.batch_execute(&format!("GRANT TRIGGER, INSERT ON mine TO \"{user}\"")).await.unwrap();
    admin.install("u", &everything("t", TableName::new("public", "mine"))).await.unwrap();
    database.run("INSERT INTO mine VALUES (1)").await;
    assert_eq!(database.logged().await.len(), 1);
    // Removing needs no right on the table either.
    admin.remove(&everything("t", TableName::new("public", "mine")).trigger).await.unwrap();
    assert!(database.sql_triggers().await.is_empty());
}

#[tokio::test]
async fn the_application_needs_no_right_on_the_log_and_cannot_steer_capture_by_its_search_path() {
    let (database, admin) = Database::with_orders().await;
    let mut only = everything("only", orders());
    only.columns = Columns::Include(idents(&["status"]));
    only.on.update = Some(Updates::Of(idents(&["status"])));
    only.context = Context { role: true, settings: vec!["app.user".to_owned()], ..Context::default() };
    admin.install("u1", &only).await.unwrap();
    let app = format!("{}_app", database.config.user);
    let root = crate::support::root(&database.config.dbname).await;
    root.batch_execute(&format!(
        "CREATE ROLE {app}; GRANT ALL ON orders TO {app}; CREATE SCHEMA evil AUTHORIZATION {app}; SET ROLE {app}; GRANT USAGE ON SCHEMA evil TO PUBLIC;
         CREATE FUNCTION evil.row_to_json(record) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RETURN '\"stolen\"'::json; END $$;
         CREATE FUNCTION evil.never(bigint, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
         CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
         CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = text, RIGHTARG = text);
         CREATE FUNCTION evil.gt(smallint, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
         CREATE OPERATOR evil.> (FUNCTION = evil.gt, LEFTARG = smallint, RIGHTARG = integer);
         CREATE TABLE evil.event_1 (LIKE public.orders);
         CREATE FUNCTION evil.check(pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called as %', current_user; END $$;
         CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.check(VALUE));
         SET search_path = evil, pg_catalog, public;
         INSERT INTO public.orders VALUES (1, 'a'); UPDATE public.orders SET status = 'b'; DELETE FROM public.orders"
    ))
    .await
    .unwrap();
    // Nor after a change of columns, when other code runs.
    database.run("ALTER TABLE orders ADD COLUMN more int").await;
    root.batch_execute(
        "INSERT INTO public.orders VALUES (1, 'a'); UPDATE public.orders SET status = 'b'; DELETE FROM public.orders",
    )
    .await
    .unwrap();
    assert_eq!(database.logged().await[4], r#"U 1 {"id":1,"status":"a"} {"id":1,"status":"b"}"#.replace(':', " : ").replace(',', ", ").replace('{', "{ ").replace('}', " }"));
    assert_eq!(database.logged().await[1], r#"U 1 {"id":1,"status":"a"} {"id":1,"status":"b"}"#);
    let denied = root.batch_execute("SELECT * FROM eventlog.event").await.unwrap_err();
    assert_eq!(denied.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test]
async fn drift_is_seen_and_repaired() {
    let (database, admin) = Database::with_orders().await;
    let definition = everything("all", orders());
    admin.install("u1", &definition).await.unwrap();
    assert!(admin.look().await.unwrap()[0].drift.is_empty());
    for (change, seen) in [
        ("DROP TRIGGER \"00_eventlog_insert\" ON orders", "SQL trigger 00_eventlog_insert was dropped"),
        ("ALTER TABLE orders DISABLE TRIGGER \"00_eventlog_update\"", "SQL trigger 00_eventlog_update was disabled"),
        (
            "ALTER TABLE orders ADD COLUMN more int",
            "the table's columns, its other triggers, or a capture function changed",
        ),
        ("DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)", "the table was dropped"),
    ] {
        database.run(change).await;
        assert_eq!(admin.look().await.unwrap()[0].drift, [seen]);
        assert!(admin.install("u1", &definition).await.unwrap().changed, "{change}");
        assert!(admin.look().await.unwrap().iter().all(|state| state.drift.is_empty()), "{change}");
        assert_eq!(database.sql_triggers().await.len(), 3);
        assert!(!admin.install("u1", &definition).await.unwrap().changed);
    }
    database.run("ALTER TABLE orders RENAME TO orders2").await;
    assert_eq!(admin.look().await.unwrap()[0].drift, ["the table is now called public.orders2"]);
    let renamed = admin.install("u1", &definition).await.unwrap_err();
    assert!(renamed.to_string().starts_with("spec.table: public.orders is now called public.orders2"), "{renamed}");
    database.run("INSERT INTO orders2 VALUES (9)").await;
    admin.remove(&definition.trigger).await.unwrap();
    assert!(database.sql_triggers().await.is_empty());
}

#[tokio::test]
async fn a_trigger_of_the_application_that_writes_the_row_again_comes_later_in_the_log() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    database
        .run(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE orders SET status = 'touched' WHERE id = new.id; RETURN NULL; END $$;
             CREATE TRIGGER a_touch AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()",
        )
        .await;
    assert!(admin.install("u1", &everything("all", orders())).await.unwrap().changed);
    database.run("INSERT INTO orders VALUES (1, 'new')").await;
    let operations: Vec<_> = database.logged().await.iter().map(|line| line[..1].to_owned()).collect();
    assert_eq!(operations, ["I", "U"]);
}

#[tokio::test]
async fn a_locked_table_is_reported_and_writers_do_not_wait_for_us() {
    let (database, admin) = Database::with_orders().await;
    let long = database.another().await;
    long.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    let error = admin.install("u1", &everything("all", orders())).await.unwrap_err();
    assert!(matches!(error, AdminError::Locked(_)), "{error:?}");
    database.run("INSERT INTO orders VALUES (2)").await;
    long.batch_execute("COMMIT").await.unwrap();
    admin.install("u1", &everything("all", orders())).await.unwrap();
}
