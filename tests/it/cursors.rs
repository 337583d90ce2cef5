//! Cuts of the log stay consistent, whatever transactions do.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use eventtrigger::{
    log::{Admin, Event, Snapshot, Worker},
    standalone::embedded::{Embedded, Major, Options},
};
use tokio::process::Command;

use crate::support::{Database, connect, everything, orders, owner, plain, root, schema, test_data};

/// A database whose table `orders` is captured, and a worker that reads it.
async fn captured() -> (Database, Worker) {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let worker = database.worker().await;
    (database, worker)
}

async fn now(worker: &Worker) -> Snapshot {
    worker.pulse().await.unwrap().now
}

/// What a new row of each event between two cuts has as its key.
async fn between(worker: &Worker, from: &Snapshot, to: &Snapshot) -> Vec<i64> {
    let key = |event: &Event| {
        let row: serde_json::Value = serde_json::from_str(event.new.as_deref().expect("a new row")).unwrap();
        row["id"].as_i64().expect("a key")
    };
    worker.window(from, to, 0, 1000).await.unwrap().iter().map(key).collect()
}

#[tokio::test]
async fn a_prepared_transaction_holds_nobody_back_and_comes_when_it_is_committed() {
    let (database, worker) = captured().await;
    let gid = &database.config.dbname;
    let start = now(&worker).await;
    database.run(&format!("BEGIN; INSERT INTO orders VALUES (1); PREPARE TRANSACTION '{gid}-1'")).await;
    database.run(&format!("BEGIN; INSERT INTO orders VALUES (2); PREPARE TRANSACTION '{gid}-2'")).await;
    database.run("INSERT INTO orders VALUES (3)").await;
    let first = now(&worker).await;
    assert_eq!(between(&worker, &start, &first).await, [3]);
    database.run("INSERT INTO orders VALUES (4)").await;
    let second = now(&worker).await;
    assert_eq!(between(&worker, &first, &second).await, [4]);
    database.run(&format!("COMMIT PREPARED '{gid}-1'")).await;
    database.run(&format!("ROLLBACK PREPARED '{gid}-2'")).await;
    database.run("INSERT INTO orders VALUES (5)").await;
    let third = now(&worker).await;
    assert_eq!(between(&worker, &second, &third).await, [1, 5]);
    assert_eq!(between(&worker, &start, &third).await, [1, 3, 4, 5]);
}

#[tokio::test]
async fn a_writer_in_another_database_holds_nobody_back() {
    let (database, worker) = captured().await;
    let elsewhere = root("postgres").await;
    elsewhere.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let mut cut = now(&worker).await;
    for key in 1..=3 {
        database.run(&format!("INSERT INTO orders VALUES ({key})")).await;
        let next = now(&worker).await;
        assert_eq!(between(&worker, &cut, &next).await, [key]);
        cut = next;
    }
    elsewhere.batch_execute("ROLLBACK").await.unwrap();
    let next = now(&worker).await;
    assert!(between(&worker, &cut, &next).await.is_empty());
}

#[tokio::test]
async fn events_of_subtransactions_come_with_their_transaction_or_not_at_all() {
    let (database, worker) = captured().await;
    let start = now(&worker).await;
    let writer = database.another().await;
    writer
        .batch_execute(
            "BEGIN; INSERT INTO orders VALUES (1);
             SAVEPOINT a; INSERT INTO orders VALUES (2); SAVEPOINT b; INSERT INTO orders VALUES (3); ROLLBACK TO b;
             INSERT INTO orders VALUES (4); RELEASE a;
             DO $$ BEGIN INSERT INTO orders VALUES (5); RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN INSERT INTO orders VALUES (6); END $$",
        )
        .await
        .unwrap();
    // More subtransactions than a backend's own memory of them holds (64): snapshots then do without their ids.
    for key in 100..200 {
        writer.batch_execute(&format!("SAVEPOINT s{key}; INSERT INTO orders VALUES ({key})")).await.unwrap();
    }
    let middle = now(&worker).await;
    assert!(between(&worker, &start, &middle).await.is_empty());
    writer.batch_execute("ROLLBACK TO s110; RELEASE s105; COMMIT").await.unwrap();
    let end = now(&worker).await;
    let expected: Vec<i64> = [1, 2, 4, 6].into_iter().chain(100..110).collect();
    assert_eq!(between(&worker, &middle, &end).await, expected);
    assert_eq!(between(&worker, &start, &end).await, expected);
    let events = worker.window(&start, &end, 0, 1000).await.unwrap();
    assert!(events.iter().all(|event| event.txid == events[0].txid), "the top-level transaction's");
}

#[tokio::test]
async fn numbers_out_of_order_of_commit_skip_nothing() {
    let (database, worker) = captured().await;
    let mut writers = Vec::new();
    for key in 1..=5 {
        let writer = database.another().await;
        writer.batch_execute(&format!("BEGIN; INSERT INTO orders VALUES ({key})")).await.unwrap();
        writers.push(writer);
    }
    let mut cut = now(&worker).await;
    // The last number is committed first.
    for key in (1..=5).rev() {
        writers[key - 1].batch_execute("COMMIT").await.unwrap();
        let next = now(&worker).await;
        assert_eq!(between(&worker, &cut, &next).await, [i64::try_from(key).unwrap()]);
        cut = next;
    }
}

/// PostgreSQL's program to move a server's counters. What is embedded comes without it.
fn pg_resetwal() -> Option<PathBuf> {
    let major = Major::default();
    [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")]
        .iter()
        .map(|folder| Path::new(folder).join("pg_resetwal"))
        .find(|path| path.exists())
}

/// 32 bits of transaction ids are used up after four billion transactions; the log's ids have 64.
#[tokio::test]
async fn cuts_stay_right_when_transaction_ids_wrap() {
    let Some(program) = pg_resetwal() else {
        eprintln!("skipped: it needs pg_resetwal of PostgreSQL {}, as Debian's package has it", Major::default());
        return;
    };
    let folder = test_data(&format!("test-wrap-{}", std::process::id()));
    let options = || Options {
        data_dir: Some(folder.clone()),
        settings: vec![("fsync", "off"), ("autovacuum", "off"), ("max_prepared_transactions", "5")],
        ..Options::default()
    };
    let server = Embedded::start(options()).await.unwrap();
    // Rows that are not frozen would be in the future of a server that is moved to the end of an epoch.
    for dbname in ["postgres", "template1", "app"] {
        let client = connect(plain(&server.superuser_config()).dbname(dbname)).await;
        client.batch_execute("VACUUM (FREEZE)").await.unwrap();
    }
    server.stop().await.unwrap();
    // 60 transactions before 2^32, in epoch 5; what pg_resetwal demands is that the status of those before can be read.
    let data = folder.join("data");
    let owner_of_data = std::fs::metadata(&data).unwrap();
    let status = data.join("pg_xact/0FFF");
    std::fs::write(&status, vec![0; 256 * 1024]).unwrap();
    std::os::unix::fs::chown(&status, Some(owner_of_data.uid()), Some(owner_of_data.gid())).unwrap();
    let reset = Command::new(program)
        .args(["--epoch=5", "--next-transaction-id=4294967236", "--oldest-transaction-id=4294967200"])
        .arg(&data)
        .uid(owner_of_data.uid())
        .gid(owner_of_data.gid())
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(reset.status.success(), "{reset:?}");

    let server = Embedded::start(options()).await.unwrap();
    let config = server.config();
    let app = connect(&plain(&config)).await;
    app.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    let admin = Admin::open(&config, &schema(), &owner()).await.unwrap().0;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    let worker = Worker::connect(&config, &schema(), &owner().uid).await.unwrap();
    let (start, long) = (now(&worker).await, connect(&plain(&config)).await);
    long.batch_execute("BEGIN; INSERT INTO orders VALUES (1001)").await.unwrap();
    app.batch_execute("BEGIN; INSERT INTO orders VALUES (1002); PREPARE TRANSACTION 'p'").await.unwrap();
    let (mut cut, mut read) = (start.clone(), Vec::new());
    for key in 1..=200 {
        app.batch_execute(&format!("INSERT INTO orders VALUES ({key})")).await.unwrap();
        if key % 7 == 0 {
            let next = now(&worker).await;
            read.extend(between(&worker, &cut, &next).await);
            cut = next;
        }
    }
    assert_eq!(read, (1..=196).collect::<Vec<_>>());
    long.batch_execute("COMMIT").await.unwrap();
    app.batch_execute("COMMIT PREPARED 'p'").await.unwrap();
    let end = now(&worker).await;
    assert_eq!(between(&worker, &cut, &end).await, [1001, 1002, 197, 198, 199, 200]);
    let events = worker.window(&start, &end, 0, 1000).await.unwrap();
    let (first, last) =
        (events.iter().map(|event| event.txid).min().unwrap(), events.iter().map(|event| event.txid).max().unwrap());
    assert_eq!((first >> 32, last >> 32, events.len()), (5, 6, 202));
    drop((app, admin, worker, long));
    server.stop().await.unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
