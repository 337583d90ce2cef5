//! Delivery through faults: writers commit and roll back, receivers fail in every way, workers are killed, stopped and
//! continued, PostgreSQL is killed, connections are reset and fall silent, clocks differ by an hour, all at random and all at
//! once. In the end nothing is lost, made up or overtaken, and repeated only as far as stated.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use eventtrigger::{
    log::{Admin, ConnectConfig},
    standalone::embedded::{Embedded, Major, Options},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::trigger,
    process::Process,
    proxy::Proxy,
    receiver::{Hit, Receiver, Reply},
    support::{owner, plain, schema, test_data},
};

const KEYS: i32 = 40;
const WRITERS: u64 = 3;
const TRIGGERS: [&str; 3] = ["one", "two", SHARED];
const SHARED: &str = "shared";
/// Shorter than the longest that the receiver takes.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Whatever is delivered is written down within so long, also on a busy machine: what a fault may cost a repetition.
const WRITTEN: Duration = Duration::from_millis(500);
/// Attempts of each EventTrigger that are under way at most while its sink fails now and then.
const UNDER_WAY: usize = 64;
/// Longer than a lease lasts.
const PAUSE: Duration = Duration::from_secs(11);
/// Without an event for so long, they will not come any more.
const STALLED: Duration = Duration::from_secs(45);

/// For so long; `make soak` has longer.
fn lasts() -> Duration {
    let given =
        env::var("FAULTS").ok().map(|lasts| humantime::parse_duration(&lasts).expect("FAULTS is a time such as 5m"));
    given.unwrap_or(Duration::from_secs(20))
}

fn seed() -> u64 {
    env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

/// A PostgreSQL of its own, which is killed and started again. Commits are written before they are told: only the machine may
/// not crash.
struct Server {
    embedded: Embedded,
    folder: PathBuf,
}

impl Server {
    fn options(folder: &std::path::Path) -> Options {
        let settings = vec![("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "100")];
        let major = env::var("TEST_POSTGRES").map_or(Major::default(), |major| major.parse().expect("TEST_POSTGRES"));
        Options { major, data_dir: Some(folder.to_owned()), settings, ..Options::default() }
    }

    async fn start() -> Self {
        let folder = test_data(&format!("test-faults-{}", std::process::id()));
        let embedded = Embedded::start(Self::options(&folder)).await.expect("start PostgreSQL");
        Self { embedded, folder }
    }

    fn config(&self) -> ConnectConfig {
        self.embedded.config()
    }

    /// All of its processes end at once.
    async fn crash(&mut self) {
        let pid = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it runs");
        let pid = pid.lines().next().expect("a process").to_owned();
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status().expect("run kill");
        assert!(killed.success());
        // Its children see that it is gone, and go; until then a new one does not start.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match Embedded::start(Self::options(&self.folder)).await {
                Ok(embedded) => return self.embedded = embedded,
                Err(error) => assert!(Instant::now() < deadline, "it does not start again: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn end(self) {
        let Self { embedded, folder } = self;
        embedded.stop().await.expect("stop PostgreSQL");
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// A connection, as soon as there is one.
async fn connected(config: &ConnectConfig) -> Client {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match plain(config).connect(tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(Instant::now() < deadline, "no connection: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts up keys, each change in a transaction that may roll back, as a whole or in part. Of one that was broken off nobody
/// knows whether it was committed: the table says it in the end.
async fn write(config: ConnectConfig, seed: u64, stop: CancellationToken) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut client = connected(&config).await;
    while !stop.is_cancelled() {
        let keys: BTreeSet<_> = (0..rng.u8(1..4)).map(|_| rng.i32(1..=KEYS)).collect();
        let mut sql = String::from("BEGIN;");
        for key in keys {
            let count = format!("UPDATE orders SET total = total + 1 WHERE id = {key};");
            let (before, after) = match rng.u8(..) {
                0..40 => ("SAVEPOINT s; ", " ROLLBACK TO s;"),
                40..60 => ("SAVEPOINT s; ", " RELEASE s;"),
                _ => ("", ""),
            };
            sql.extend([before, &count, after]);
        }
        sql.push_str(if rng.u8(..) < 50 { "ROLLBACK" } else { "COMMIT" });
        // In order of key: writers do not wait for each other in a circle.
        if let Err(error) = client.batch_execute(&sql).await {
            assert!(client.is_closed() || error.as_db_error().is_some_and(is_end), "write: {error:?}");
            client = connected(&config).await;
        }
        if rng.u8(..) < 30 {
            tokio::time::sleep(Duration::from_millis(rng.u64(1..30))).await;
        }
    }
}

/// Whether the server says that it goes.
fn is_end(error: &tokio_postgres::error::DbError) -> bool {
    error.code().code().starts_with("57P")
}

/// Workers whose clocks differ by two hours, if libfaketime is there; `make soak` installs it.
fn clock(which: usize) -> Vec<(&'static str, String)> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|path| path.exists());
    match (library, ["+1h", "-1h"].get(which)) {
        (Some(library), Some(skew)) => vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME", (*skew).to_owned()),
            // What lasts so long lasts so long: only what a clock on a wall shows is wrong.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
        _ => Vec::new(),
    }
}

/// A worker that may be stopped, and until when.
struct Slot {
    which: usize,
    connection: ConnectConfig,
    process: Option<Process>,
    paused: Option<Instant>,
}

impl Slot {
    fn start(&mut self) {
        let environment = clock(self.which);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.process = Some(Process::start(&self.connection, &environment));
        self.paused = None;
    }

    fn go_on(&mut self) {
        if let (Some(process), Some(_)) = (&self.process, self.paused.take()) {
            process.signal("-CONT");
        }
    }
}

/// What fails.
struct World {
    server: Server,
    receiver: Receiver,
    /// Between the workers and PostgreSQL, and between them and the receiver.
    database: Proxy,
    sinks: Proxy,
}

/// How a receiver answers that fails in every way it can.
fn at_random() -> Reply {
    match fastrand::u16(0..1000) {
        0..40 => Reply::now(500),
        40..60 => Reply::now(503),
        60..70 => Reply { retry_after: Some(1), ..Reply::now(429) },
        70..80 => Reply::after(200, TIMEOUT * 3 / 2), // too late: it lies
        80..84 => Reply::after(504, TIMEOUT * 2),
        84..200 => Reply::after(200, Duration::from_millis(fastrand::u64(1..40))),
        _ => Reply::now(200),
    }
}

/// Key and count of an event.
fn count(hit: &Hit) -> (i64, i64) {
    let row = &hit.json()["new"];
    (row["id"].as_i64().expect("an id"), row["total"].as_i64().expect("a count"))
}

/// What went wrong: EventTrigger, key and count of each event.
#[derive(Debug, Default, Eq, PartialEq)]
struct Wrong {
    lost: Vec<(&'static str, i64, i64)>,
    made_up: Vec<(&'static str, i64, i64)>,
    overtaken: Vec<(&'static str, i64, i64)>,
}

/// What was accepted, against how far each key was counted.
fn compare(hits: &[Hit], committed: &BTreeMap<i64, i64>) -> Wrong {
    let mut wrong = Wrong::default();
    for name in TRIGGERS {
        let path = format!("/{name}");
        let (mut first, mut highest) = (BTreeMap::<(i64, i64), String>::new(), BTreeMap::<i64, i64>::new());
        for hit in hits.iter().filter(|hit| hit.path == path && hit.status == 200) {
            let (key, count) = count(hit);
            // A count that was rolled back comes again with another change; that one was never committed.
            let another = first.get(&(key, count)).is_some_and(|id| id != hit.id());
            if another || count > committed[&key] {
                wrong.made_up.push((name, key, count));
            }
            if first.insert((key, count), hit.id().to_owned()).is_none()
                && highest.insert(key, count).is_some_and(|before| before > count)
            {
                wrong.overtaken.push((name, key, count));
            }
        }
        for (key, until) in committed {
            let missing = (1..=*until).filter(|count| !first.contains_key(&(*key, *count)));
            wrong.lost.extend(missing.map(|count| (name, *key, count)));
        }
    }
    wrong
}

/// One fault; whether what a worker had not written down yet is sent again.
async fn fault(
    rng: &mut fastrand::Rng,
    world: &mut World,
    slot: &mut Slot,
    faults: &mut BTreeMap<&'static str, usize>,
) -> bool {
    let (name, repeats) = match rng.u8(0..14) {
        0 | 1 => match slot.process.take() {
            Some(process) => {
                process.kill().await;
                ("worker killed", true)
            }
            None => return false,
        },
        2 | 3 => {
            slot.go_on();
            let Some(process) = slot.process.take() else { return false };
            process.stop().await;
            ("worker ended", false)
        }
        4 | 5 => {
            let Some(process) = slot.process.as_ref().filter(|_| slot.paused.is_none()) else { return false };
            process.signal("-STOP");
            slot.paused = Some(Instant::now() + PAUSE);
            ("worker paused beyond its lease", true)
        }
        6 => {
            world.server.crash().await;
            world.database.lead_to(world.server.config().port);
            ("PostgreSQL killed", true)
        }
        7 | 8 => {
            world.database.reset();
            ("connections to PostgreSQL reset", true)
        }
        9 => {
            world.database.silence(true);
            tokio::time::sleep(Duration::from_millis(rng.u64(100..3000))).await;
            world.database.reset();
            world.database.silence(false);
            ("PostgreSQL silent", true)
        }
        10 | 11 => {
            world.sinks.reset();
            ("connections to the receiver reset", true)
        }
        12 => {
            world.sinks.silence(true);
            tokio::time::sleep(Duration::from_millis(rng.u64(100..2500))).await;
            world.sinks.reset();
            world.sinks.silence(false);
            ("receiver silent", true)
        }
        // A sink that is away for a while.
        _ => {
            world.receiver.reply(|_, _| Reply::now(503));
            tokio::time::sleep(Duration::from_millis(rng.u64(100..2500))).await;
            world.receiver.reply(|_, _| at_random());
            ("receiver away", false)
        }
    };
    *faults.entry(name).or_default() += 1;
    repeats
}

/// Different events that were accepted, by EventTrigger.
fn accepted(hits: &[Hit]) -> usize {
    hits.iter().filter(|hit| hit.status == 200).map(|hit| (&hit.path, hit.id())).collect::<BTreeSet<_>>().len()
}

/// Waits until so many events were accepted, or none comes any more.
async fn until(receiver: &Receiver, count: usize) {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let now = accepted(&receiver.hits());
        if now >= count || since.elapsed() > STALLED {
            return;
        }
        if now > before {
            (before, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_made_up_or_overtaken_whatever_fails() {
    let (seed, lasts) = (seed(), lasts());
    println!("FAULTS_SEED={seed} FAULTS={}", humantime::format_duration(lasts));
    let mut rng = fastrand::Rng::with_seed(seed);
    let (server, receiver) = (Server::start().await, Receiver::start().await);
    let config = server.config();
    let database = Proxy::start(config.port).await;
    let sinks = Proxy::start(receiver.port()).await;
    // The application and the controller have better connections than the workers.
    let application = connected(&config).await;
    let rows = format!("INSERT INTO orders SELECT n, '', 0 FROM generate_series(1, {KEYS}) AS n");
    let table = "CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric, card text)";
    application.batch_execute(&format!("{table}; {rows}")).await.expect("make the table");
    let (admin, _) = Admin::open(&config, &schema(), &owner()).await.expect("open the log");
    for name in TRIGGERS {
        let mut definition = trigger(name, format!("http://127.0.0.1:{}/{name}", sinks.port));
        definition.on.insert = false;
        definition.policy.timeout = TIMEOUT;
        // One is shared by the workers.
        definition.partitions = if name == SHARED { 4 } else { 1 };
        admin.install(name, &definition).await.unwrap();
    }
    receiver.reply(|_, _| at_random());
    let stop = CancellationToken::new();
    // Its port may change when it is started again.
    let writing = Proxy::start(config.port).await;
    let through = |proxy: &Proxy| ConnectConfig { port: proxy.port, ..config.clone() };
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(through(&writing), rng.u64(..) ^ n, stop.clone()))).collect();
    let connection = through(&database);
    let slot = |which| Slot { which, connection: connection.clone(), process: None, paused: None };
    let mut slots = [slot(0), slot(1), slot(2)];
    slots.iter_mut().for_each(Slot::start);
    let mut world = World { server, receiver, database, sinks };
    let (mut ends, mut faults) = (Vec::new(), BTreeMap::new());
    let began = Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(Duration::from_millis(rng.u64(200..1200))).await;
        let which = rng.usize(..slots.len());
        let before = Instant::now();
        if fault(&mut rng, &mut world, &mut slots[which], &mut faults).await {
            ends.push(before..Instant::now());
        }
        writing.lead_to(world.server.config().port);
        for slot in &mut slots {
            if slot.paused.is_some_and(|until| until <= Instant::now()) {
                slot.go_on();
            }
            if slot.process.is_none() && rng.bool() {
                slot.start();
            }
        }
    }
    stop.cancel();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let World { server, receiver, .. } = &world;
    receiver.reply(|_, _| Reply::now(200));
    for slot in &mut slots {
        // One that is paused still may be when the others have its part.
        if slot.process.is_none() {
            slot.start();
        }
    }
    if slots.iter().all(|slot| slot.paused.is_some()) {
        slots[0].go_on();
    }
    let rows =
        connected(&server.config()).await.query("SELECT id, total::int8 FROM orders", &[]).await.expect("counts");
    let committed: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get::<_, i32>(0).into(), row.get(1))).collect();
    let changes = usize::try_from(committed.values().sum::<i64>()).expect("a count");
    until(receiver, changes * TRIGGERS.len()).await;
    slots.iter_mut().for_each(Slot::go_on);
    // What is sent too much comes now.
    let hits = receiver.hits().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for slot in slots {
        if let Some(process) = slot.process {
            process.stop().await;
        }
    }
    let on = receiver.hits().len() - hits;
    assert!(
        on < TRIGGERS.len() * UNDER_WAY,
        "it goes on sending: {on} more, after {} of {} were accepted; {faults:?}",
        accepted(&receiver.hits()),
        changes * TRIGGERS.len()
    );
    let wrong = compare(&receiver.hits(), &committed);
    let all = receiver.hits().iter().filter(|hit| hit.status == 200).count();
    let (lied, repeated) = (receiver.late(), all - accepted(&receiver.hits()));
    // Of each end: what was accepted shortly before it or while it lasted, and what was under way.
    let hits = receiver.hits();
    let unwritten = |end: &Range<Instant>| {
        let shortly_before = |hit: &&Hit| hit.answered + WRITTEN > end.start && hit.answered < end.end;
        hits.iter().filter(|hit| hit.status == 200).filter(shortly_before).count()
    };
    let bound = lied + ends.iter().map(|end| unwritten(end) + TRIGGERS.len() * UNDER_WAY).sum::<usize>();
    println!(
        "{changes} changes, {faults:?}; {repeated} repeated of {all}, where {bound} may be, {lied} answered too late"
    );
    assert_eq!(wrong, Wrong::default());
    assert!(repeated <= bound, "{repeated} repeated, {bound} may be");
    assert!(changes > 500 && !ends.is_empty(), "the run was too quiet to tell anything");
    world.server.end().await;
}
