//! The writer is what deliveries are judged by, so it is judged first: against the table itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventtrigger_e2e::{
    ledger::Change,
    server::Server,
    writer::{Plan, Writer, connect},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Leads to `server`, and cuts one connection in ten right before or after it has passed on a COMMIT: in one case it is
/// not committed, in the other it is, and the writer sees the same. Returns where it is.
async fn unreliable(server: SocketAddr, cuts: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let cuts = cuts.clone();
            // It ends in an error more often than not.
            tokio::spawn(async move { drop(lead(near, server, &cuts).await) });
        }
    });
    address
}

async fn lead(near: TcpStream, server: SocketAddr, cuts: &AtomicUsize) -> io::Result<()> {
    let far = TcpStream::connect(server).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_far, &mut to_near).await });
    let mut buffer = [0; 8192];
    loop {
        let length = from_near.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let is_commit = buffer[..length].windows(6).any(|word| word == b"COMMIT");
        let cut = is_commit && fastrand::u8(0..10) == 0;
        if cut && fastrand::bool() {
            cuts.fetch_add(1, Ordering::Relaxed);
            back.abort();
            return Ok(());
        }
        if cut {
            // The answer must not slip through.
            back.abort();
        }
        to_far.write_all(&buffer[..length]).await?;
        if cut {
            cuts.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_knows_what_it_has_committed_also_when_its_connections_break_in_the_middle_of_it() {
    let server = Server::start().await.expect("a server");
    let plan = Plan { table: "orders".to_owned(), connections: 4, pause: Duration::ZERO };
    let client = connect(&server.config()).await.expect("connect");
    client.batch_execute(&plan.table_sql()).await.expect("make the table");
    let cuts = Arc::new(AtomicUsize::new(0));
    let port = server.config().get_ports()[0];
    let address = unreliable(SocketAddr::from(([127, 0, 0, 1], port)), cuts.clone()).await;
    let writer = Writer::start(through(&server.config(), address.port()), plan, 0);
    let end = Instant::now() + Duration::from_mins(1);
    while cuts.load(Ordering::Relaxed) < 50 || writer.written() < 500 {
        assert!(Instant::now() < end && !writer.has_failed(), "{} written", writer.written());
        tokio::time::sleep(Duration::from_millis(20)).await;
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
    let rows = client.query("SELECT id, version FROM orders", &[]).await.expect("read the table");
    let found: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, expected);
    assert!(written.rolled_back > 0);
    server.stop().await.expect("stop the server");
}

/// The same way to log in by another port; the driver's configuration can only add ports.
fn through(config: &tokio_postgres::Config, port: u16) -> tokio_postgres::Config {
    let mut through = tokio_postgres::Config::new();
    through.host("127.0.0.1").port(port).user(config.get_user().expect("a user"));
    through.dbname(config.get_dbname().expect("a database")).password(config.get_password().expect("a password"));
    through
}
