//! The writer is what deliveries are judged by, so it is judged first: against the table itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use eventtrigger_e2e::{
    ledger::Change,
    server::Server,
    writer::{Plan, Writer, connect},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_knows_what_it_has_committed_also_when_its_connections_break() {
    let server = Server::start().await.expect("a server");
    let plan = Plan { table: "orders".to_owned(), connections: 4, pause: Duration::ZERO };
    let client = connect(&server.config()).await.expect("connect");
    client.batch_execute(&plan.table_sql()).await.expect("make the table");
    let root = connect(&server.superuser_config()).await.expect("connect");
    let writer = Writer::start(server.config(), plan, 0);
    let end = Instant::now() + Duration::from_mins(1);
    let mut broken = 0;
    while broken < 60 || writer.written() < 2_000 {
        assert!(Instant::now() < end && !writer.has_failed(), "{} written", writer.written());
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND query = 'COMMIT' \
                   AND pid <> pg_backend_pid() LIMIT 1";
        broken += root.query(sql, &[]).await.expect("terminate a connection").len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let written = writer.stop().await.expect("the writer");

    let mut steps: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for Change { key, step } in &written.changes {
        assert!(steps.entry(*key).or_default().insert(*step), "row {key} has step {step} twice");
    }
    // What the ledger says must be in the table, and each row's way there without a gap.
    let mut expected = BTreeMap::new();
    for (key, steps) in steps {
        let last = *steps.last().expect("a step");
        let (version, deleted) = (last / 2, last % 2 == 1);
        let way: BTreeSet<_> = (1..=version).map(|version| 2 * version).chain(deleted.then_some(last)).collect();
        assert_eq!(steps, way, "of row {key}");
        if !deleted {
            expected.insert(key, version);
        }
    }
    let client = connect(&server.config()).await.expect("connect");
    let rows = client.query("SELECT id, version FROM orders", &[]).await.expect("read the table");
    let found: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, expected);
    assert!(written.rolled_back > 0);
    println!("{} changes, {} rows left, {broken} connections broken", written.changes.len(), found.len());
    server.stop().await.expect("stop the server");
}
