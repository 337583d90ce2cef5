//! The log's schema and owner, its cursors and lease.

use std::{sync::Arc, time::Duration};

use eventtrigger::{
    log::{Admin, Cursor, DeadLetter, Exception, Failure, Move, OpenError, Owner, Slot, Worker, WorkerError},
    name::ObjectName,
};

use crate::support::{Database, everything, orders, owner, schema};

const TEN_SECONDS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn opening_twice_changes_nothing_and_another_owner_is_refused() {
    let database = Database::new().await;
    database.admin().await;
    database.admin().await;
    let other = Owner { uid: "another".to_owned(), log: ObjectName::new("shop", "copy") };
    let refused = Admin::open(&database.config, &schema(), &other).await.unwrap_err();
    assert!(matches!(refused, OpenError::OwnedByAnother(_)) && refused.is_terminal(), "{refused}");
    let refused = Worker::connect(&database.config, &schema(), "another").await.unwrap_err();
    assert!(matches!(refused, WorkerError::NotOurs(_)), "{refused}");
}

#[tokio::test]
async fn a_released_log_is_taken_over_by_an_eventlog_of_the_same_name_only() {
    let database = Database::new().await;
    database.admin().await.release().await.unwrap();
    let again = |name: &str| Owner { uid: "again".to_owned(), log: ObjectName::new("shop", name) };
    assert!(Admin::open(&database.config, &schema(), &again("other")).await.is_err());
    Admin::open(&database.config, &schema(), &again("shop")).await.unwrap();
    assert!(Admin::open(&database.config, &schema(), &owner()).await.is_err());
}

#[tokio::test]
async fn a_dropped_log_leaves_no_sql_trigger_behind() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    admin.drop_log().await.unwrap();
    assert!(database.sql_triggers().await.is_empty());
    database.run("INSERT INTO orders VALUES (1)").await;
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_database_are_for_a_person_to_mend() {
    let database = Database::new().await;
    for wrong in [
        eventtrigger::log::ConnectConfig { password: Some("wrong".to_owned()), ..database.config.clone() },
        eventtrigger::log::ConnectConfig { dbname: "nowhere".to_owned(), ..database.config.clone() },
    ] {
        let error = Admin::open(&wrong, &schema(), &owner()).await.unwrap_err();
        assert!(error.is_terminal(), "{error:?}");
    }
    let away = eventtrigger::log::ConnectConfig { port: 1, ..database.config.clone() };
    assert!(!Admin::open(&away, &schema(), &owner()).await.unwrap_err().is_terminal());
}

#[tokio::test]
async fn a_long_transaction_neither_holds_back_others_nor_loses_its_own_events() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let worker = database.worker().await;
    let start = worker.pulse().await.unwrap().now;
    let long = database.another().await;
    long.batch_execute("BEGIN; INSERT INTO orders VALUES (1)").await.unwrap();
    database.run("INSERT INTO orders VALUES (2)").await;
    let middle = worker.pulse().await.unwrap().now;
    let ids = |events: &[eventtrigger::log::Event]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&worker.window(&start, &middle, 0, 100).await.unwrap()), [2]);
    long.batch_execute("INSERT INTO orders VALUES (3); COMMIT").await.unwrap();
    database.run("INSERT INTO orders VALUES (4)").await;
    let end = worker.pulse().await.unwrap().now;
    let late = worker.window(&middle, &end, 0, 100).await.unwrap();
    assert_eq!(ids(&late), [1, 3, 4]);
    assert_eq!(ids(&worker.window(&middle, &end, 1, 1).await.unwrap()), [3]);
    assert!(late.iter().all(|event| end.has(event.txid) && !middle.has(event.txid)));
    assert_eq!(late[0].new.as_deref(), Some(r#"{"id":1,"status":null,"total":null,"card":null}"#));
    assert!(late[0].matched.has(0) && !late[0].matched.has(1));
}

#[tokio::test]
async fn one_worker_holds_a_slot_and_a_dead_holders_is_taken_at_once() {
    let database = Database::new().await;
    database.admin().await;
    let (one, two) = (database.worker().await, database.worker().await);
    let first = one.take("one", Slot::all(), TEN_SECONDS).await.unwrap();
    assert_eq!(first.len(), 16, "nobody else wants them");
    one.renew(&first, TEN_SECONDS).await.unwrap();
    assert_eq!(two.take("two", Slot::all(), TEN_SECONDS).await.unwrap(), []);
    drop(one);
    let mut second = Vec::new();
    while second.len() < 16 {
        // The server notices the closed connection at its own pace.
        second.extend(two.take("two", Slot::all(), TEN_SECONDS).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(second.iter().zip(&first).all(|(second, first)| second.slot == first.slot && second.epoch > first.epoch));
    let (some, rest) = second.split_at(3);
    two.give(some).await.unwrap();
    let three = database.worker().await;
    let given: Vec<_> = some.iter().map(|lease| lease.slot).collect();
    let taken = three.take("three", Slot::all(), TEN_SECONDS).await.unwrap();
    assert_eq!(taken.iter().map(|lease| lease.slot).collect::<Vec<_>>(), given);
    two.renew(rest, TEN_SECONDS).await.unwrap();
    two.leave().await.unwrap();
    assert_eq!(three.take("three", Slot::all(), TEN_SECONDS).await.unwrap().len(), 13);
}

#[tokio::test]
async fn a_holder_that_stopped_is_fenced_when_its_lease_is_over() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let (stopped, next) = (database.worker().await, database.worker().await);
    let old = stopped.take("stopped", Slot::all(), Duration::from_millis(50)).await.unwrap();
    let (mut subscriptions, _) = stopped.subscriptions().await.unwrap();
    let cursor = subscriptions.remove(0).cursor;
    let mut new = Vec::new();
    while new.is_empty() {
        new.extend(next.take("next", [Slot::of(1)], TEN_SECONDS).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let step = |after| Move { subscription: 1, cursor: Cursor { after, ..cursor.clone() } };
    assert!(matches!(stopped.commit(&old, &[step(7)], &[]).await, Err(WorkerError::Fenced)));
    assert!(matches!(stopped.renew(&old, TEN_SECONDS).await, Err(WorkerError::Fenced)));
    next.commit(&new, &[step(9)], &[]).await.unwrap();
    assert_eq!(next.subscriptions().await.unwrap().0[0].cursor.after, 9);
}

#[tokio::test]
async fn a_commit_for_several_slots_of_which_one_is_another_workers_writes_nothing() {
    let (database, admin) = Database::with_orders().await;
    for name in ["one", "two"] {
        admin.install(name, &everything(name, orders())).await.unwrap();
    }
    let (stopped, next) = (database.worker().await, database.worker().await);
    let old = stopped.take("stopped", Slot::all(), Duration::from_millis(50)).await.unwrap();
    let (subscriptions, _) = stopped.subscriptions().await.unwrap();
    while next.take("next", [Slot::of(2)], TEN_SECONDS).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let step = |id: i32, after| Move { subscription: id, cursor: Cursor { after, ..subscriptions[0].cursor.clone() } };
    let obstacle = Exception::Obstacle { subscription: 2, obstacle: None, resume: None };
    for (moves, exceptions) in [(vec![step(1, 7), step(2, 7)], vec![]), (vec![step(1, 7)], vec![obstacle])] {
        assert!(matches!(stopped.commit(&old, &moves, &exceptions).await, Err(WorkerError::Fenced)));
    }
    let after = async || next.subscriptions().await.unwrap().0.iter().map(|one| one.cursor.after).collect::<Vec<_>>();
    assert_eq!(after().await, [0, 0]);
    stopped.commit(&old, &[step(1, 7)], &[]).await.unwrap();
    assert_eq!(after().await, [7, 0], "its other slots are nobody else's");
}

#[tokio::test]
async fn positions_and_dead_letters_are_kept() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let worker = database.worker().await;
    let leases = worker.take("w", Slot::all(), TEN_SECONDS).await.unwrap();
    let now = worker.pulse().await.unwrap().now;
    let cursor = Cursor { from: now.clone(), to: Some(now.clone()), after: 3, done: vec![5, 8] };
    database.run("INSERT INTO orders VALUES (1)").await;
    let end = worker.pulse().await.unwrap().now;
    let event = Arc::new(worker.window(&now, &end, 0, 10).await.unwrap().remove(0));
    let failure =
        Failure { status: Some(503), error: "503 Service Unavailable".to_owned(), response: "busy".to_owned() };
    let letter =
        DeadLetter { subscription: 1, seq: 7, lanes: vec![u64::MAX], event, attempts: 11, failure, parked: false };
    for _ in 0..2 {
        let exceptions = [Exception::Bury(letter.clone())];
        worker.commit(&leases, &[Move { subscription: 1, cursor: cursor.clone() }], &exceptions).await.unwrap();
    }
    assert_eq!(worker.subscriptions().await.unwrap().0[0].cursor, cursor);
    assert_eq!(worker.dead().await.unwrap(), [(ObjectName::new("shop", "all"), 1)]);
}

#[tokio::test]
async fn a_plan_is_the_sql_that_installing_runs_and_changes_nothing() {
    let database = Database::new().await;
    database.run("CREATE TABLE orders (id int PRIMARY KEY, status text)").await;
    let definition = everything("all", orders());
    let plan =
        async || Admin::plan(&database.config, &schema(), &owner(), std::slice::from_ref(&definition)).await.unwrap();
    let script = plan().await;
    assert_eq!(plan().await, script);
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'eventlog'";
    assert_eq!(database.client.query_one(there, &[]).await.unwrap().get::<_, i64>(0), 0);
    // Run by hand it captures.
    database.run(&script).await;
    database.run("INSERT INTO orders VALUES (1)").await;
    assert_eq!(database.logged().await, [r#"I 1 - {"id":1,"status":null}"#]);
    database.run("DROP SCHEMA eventlog CASCADE").await;
    let admin = database.admin().await;
    admin.install("u1", &definition).await.unwrap();
    assert_eq!(plan().await, "");
    database.run("ALTER TABLE orders DISABLE TRIGGER \"00_eventlog_delete\"").await;
    let repair = plan().await;
    assert!(
        repair.contains("CREATE OR REPLACE TRIGGER \"00_eventlog_delete\"")
            && !repair.contains("TRIGGER \"00_eventlog_insert\""),
        "{repair}"
    );
}

#[tokio::test]
async fn a_definition_that_cannot_be_read_holds_nobody_else() {
    let (database, admin) = Database::with_orders().await;
    for name in ["one", "two"] {
        admin.install(name, &everything(name, orders())).await.unwrap();
    }
    database.run("UPDATE eventlog.trigger SET definition = '{}' WHERE name = 'one'").await;
    let (subscriptions, _) = database.worker().await.subscriptions().await.unwrap();
    let names: Vec<_> = subscriptions.iter().map(|one| one.definition.trigger.name.as_str()).collect();
    assert_eq!(names, ["two"]);
}

#[tokio::test]
async fn a_plan_begins_with_what_differs_for_a_person_to_read() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let mut paid = everything("paid", orders());
    paid.on.insert = false;
    paid.on.delete = false;
    let plan = Admin::plan(&database.config, &schema(), &owner(), std::slice::from_ref(&paid)).await.unwrap();
    let (difference, sql) = plan.split_once("CREATE OR REPLACE").unwrap();
    for line in [
        "-- Table public.orders",
        "--  + EventTrigger shop/paid",
        "--  ~ function capture_",
        "B'11'",
        "--  = in the log, and in no manifest: shop/all",
    ] {
        assert!(difference.contains(line), "{line} in {difference}");
    }
    assert!(!difference.contains("SQL trigger"), "they stay: {difference}");
    database.run(&format!("{difference}CREATE OR REPLACE{sql}")).await;
    // Only where events are sent to changes nothing on the table.
    let mut elsewhere = everything("all", orders());
    elsewhere.suspend = true;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let plan = Admin::plan(&database.config, &schema(), &owner(), &[elsewhere]).await.unwrap();
    assert_eq!(plan, "\n-- Table public.orders\n--  ~ EventTrigger shop/all\n");
}
