//! The log on another server: restored from a dump, or promoted. The dump is made and restored by PostgreSQL's own programs.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use eventtrigger::{
    log::{Admin, AdoptError, ConnectConfig, Cursor, Move, OpenError, Owner, Slot, Worker, WorkerError},
    name::ObjectName,
    standalone::embedded::{Embedded, Major, Options},
};

use crate::support::{Database, connect, everything, orders, owner, plain, programs, schema, test_data};

fn major() -> Major {
    std::env::var("TEST_POSTGRES").map_or(Major::default(), |major| major.parse().unwrap())
}

/// A server of its own, with a system identifier of its own; it is stopped, and its folder removed, at the end.
struct Server {
    server: Option<Embedded>,
    options: Options,
}

impl Server {
    async fn start(name: &str) -> Self {
        let folder = test_data(&format!("{name}-{}-{}", major(), std::process::id()));
        let settings = vec![("fsync", "off"), ("restore_command", "false")];
        let options = Options { major: major(), data_dir: Some(folder), settings, ..Options::default() };
        let server = Embedded::start(options.clone()).await.unwrap();
        Self { server: Some(server), options }
    }

    fn config(&self) -> ConnectConfig {
        self.server.as_ref().unwrap().config()
    }

    async fn stop(&mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }

    async fn end(mut self) {
        self.stop().await;
        std::fs::remove_dir_all(self.options.data_dir.unwrap()).unwrap();
    }
}

fn program(name: &str, config: &ConnectConfig) -> Command {
    let mut command = Command::new(name);
    let ConnectConfig { host, port, user, dbname, password, .. } = config;
    command.env("PGPASSWORD", password.as_deref().unwrap_or_default());
    command.args(["--host", host, "--port", &port.to_string(), "--username", user, "--dbname", dbname]);
    command
}

/// Whether this machine's `pg_dump` can read the test server: it reads servers of its own version and older ones.
fn pg_dump_is_new_enough() -> bool {
    let version = Command::new("pg_dump").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let found: u32 = version.split([' ', '.']).find_map(|word| word.parse().ok()).unwrap();
    found >= major().to_string().parse().unwrap()
}

fn copy(from: &ConnectConfig, to: &ConnectConfig) {
    let mut dump =
        program("pg_dump", from).args(["--no-owner", "--no-privileges"]).stdout(Stdio::piped()).spawn().unwrap();
    let restore = program("psql", to)
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(dump.wait().unwrap().success() && restore.success());
}

/// Delivers: from the trigger's cursor to this moment, as a worker does; the ids.
async fn deliver(worker: &Worker) -> Vec<i64> {
    let leases = worker.take("test", Slot::all(), Duration::from_mins(1)).await.unwrap();
    assert_eq!(leases.len(), 16, "all slots are free");
    let now = worker.pulse().await.unwrap().now;
    let (mut subscriptions, _) = worker.subscriptions().await.unwrap();
    let subscription = subscriptions.remove(0);
    let mut cursor = subscription.cursor;
    let mut ids = Vec::new();
    while cursor.from != now {
        let to = cursor.to.take().unwrap_or_else(|| worker.until(&cursor.from, &now));
        let page = worker.window(&cursor.from, &to, cursor.after, 3).await.unwrap();
        ids.extend(page.iter().map(|event| event.id).filter(|id| !cursor.done.contains(id)));
        cursor = match page.last() {
            Some(last) if page.len() == 3 => Cursor { to: Some(to), after: last.id, ..cursor },
            _ => Cursor { from: to, to: None, after: 0, done: Vec::new() },
        };
    }
    worker.commit(&leases, &[Move { subscription: subscription.id, cursor }], &[]).await.unwrap();
    worker.give(&leases).await.unwrap();
    ids
}

#[tokio::test]
async fn a_restored_dump_delivers_nothing_until_it_is_adopted_and_then_loses_and_repeats_nothing() {
    if !programs(&["pg_dump", "psql"]) {
        return;
    }
    if !pg_dump_is_new_enough() {
        eprintln!("not run: pg_dump is older than PostgreSQL {}", major());
        return;
    }
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    database.run("INSERT INTO orders SELECT generate_series(1, 4)").await;
    let worker = database.worker().await;
    assert_eq!(deliver(&worker).await, [1, 2, 3, 4]);
    // Not delivered: one that was captured before the cursor's cut and is committed after it, and some later ones, of
    // which some are done, in the middle of a window.
    let late = database.another().await;
    late.batch_execute("BEGIN; INSERT INTO orders VALUES (5)").await.unwrap();
    assert!(deliver(&worker).await.is_empty());
    late.batch_execute("COMMIT").await.unwrap();
    database.run("INSERT INTO orders SELECT generate_series(6, 12)").await;
    let leases = worker.take("test", Slot::all(), Duration::from_mins(1)).await.unwrap();
    let (subscriptions, _) = worker.subscriptions().await.unwrap();
    let to = Some(worker.pulse().await.unwrap().now);
    let cursor = Cursor { to, after: 6, done: vec![9], ..subscriptions[0].cursor.clone() };
    worker.commit(&leases, &[Move { subscription: subscriptions[0].id, cursor }], &[]).await.unwrap();
    database.run("INSERT INTO orders SELECT generate_series(13, 15)").await;

    let server = Server::start("adopt").await;
    copy(&database.config, &server.config());
    let app = connect(&plain(&server.config())).await;
    app.batch_execute("INSERT INTO orders VALUES (16); BEGIN; SAVEPOINT s; INSERT INTO orders VALUES (17); COMMIT")
        .await
        .unwrap();
    let refused = Admin::open(&server.config(), &schema(), &owner()).await.unwrap_err();
    assert!(matches!(refused, OpenError::AnotherServer(_)) && refused.is_terminal(), "{refused}");
    let refused_worker = Worker::connect(&server.config(), &schema(), &owner().uid).await.unwrap_err();
    assert!(matches!(refused_worker, WorkerError::NotOurs(_)), "{refused_worker}");

    let adopt =
        async |server_identifier: &str| Admin::adopt(&server.config(), &schema(), &owner(), server_identifier).await;
    let here: i64 = app.query_one("SELECT system_identifier FROM pg_control_system()", &[]).await.unwrap().get(0);
    let here = here.to_string();
    assert!(refused.to_string().contains(&format!("eventtrigger.dev/adopt={here}")), "{refused}");
    assert!(matches!(adopt("7").await, Err(AdoptError::AnotherServer { .. })));
    // Nobody is waited for: an open transaction of the application only puts it off.
    app.batch_execute("BEGIN; INSERT INTO orders VALUES (18)").await.unwrap();
    assert!(matches!(adopt(&here).await, Err(AdoptError::Admin(_))));
    app.batch_execute("COMMIT").await.unwrap();
    assert!(adopt(&here).await.unwrap());
    assert!(!adopt(&here).await.unwrap(), "it was adopted already");
    app.batch_execute("INSERT INTO orders VALUES (19)").await.unwrap();

    let (admin, _) = Admin::open(&server.config(), &schema(), &owner()).await.unwrap();
    assert!(admin.look().await.unwrap().iter().all(|state| state.drift.is_empty()));
    let worker = Worker::connect(&server.config(), &schema(), &owner().uid).await.unwrap();
    let expected: Vec<i64> = [7, 8].into_iter().chain(10..=19).collect();
    assert_eq!(deliver(&worker).await, expected);
    app.batch_execute("INSERT INTO orders VALUES (20); UPDATE orders SET status = 'x' WHERE id = 20").await.unwrap();
    assert_eq!(deliver(&worker).await, [20, 21]);
    // The original goes on by itself.
    assert!(Admin::adopt(&database.config, &schema(), &owner(), &here).await.is_ok_and(|adopted| !adopted));
    server.end().await;
}

#[tokio::test]
async fn a_promoted_standby_goes_on_where_it_was_and_says_that_it_was_promoted() {
    let mut server = Server::start("promote").await;
    let open = async |config: &ConnectConfig| Admin::open(config, &schema(), &owner()).await;
    let (admin, before) = open(&server.config()).await.unwrap();
    let app = connect(&plain(&server.config())).await;
    app.batch_execute("CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    admin.install("u1", &everything("all", orders())).await.unwrap();
    app.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    drop((admin, app));
    let folder = server.server.as_ref().unwrap().folder().join("data");
    server.stop().await;
    // Recovers to the end of its log, and begins a new timeline, as a standby does when it is promoted.
    std::fs::write(folder.join("recovery.signal"), "").unwrap();
    let signal = std::fs::metadata(&folder).unwrap();
    std::os::unix::fs::chown(folder.join("recovery.signal"), Some(std::os::unix::fs::MetadataExt::uid(&signal)), None)
        .unwrap();
    server.server = Some(Embedded::start(server.options.clone()).await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        match open(&server.config()).await {
            Ok((_, after)) => break after,
            Err(error) => assert!(matches!(error, OpenError::Standby) && !error.is_terminal(), "{error}"),
        }
        assert!(Instant::now() < deadline, "waited for the end of recovery");
    };
    assert_eq!((before.timeline, after.timeline), (1, 2));
    assert_eq!(before.system_identifier, after.system_identifier);
    let worker = Worker::connect(&server.config(), &schema(), &owner().uid).await.unwrap();
    assert_eq!(deliver(&worker).await, [1]);
    server.end().await;
}

#[tokio::test]
async fn transaction_ids_that_began_anew_are_noticed_before_anything_is_delivered() {
    let (database, admin) = Database::with_orders().await;
    admin.install("u1", &everything("all", orders())).await.unwrap();
    drop(admin);
    database.run("UPDATE eventlog.cursor SET cut = '900000000000:900000000000:'").await;
    let refused = Admin::open(&database.config, &schema(), &owner()).await.unwrap_err();
    assert!(matches!(refused, OpenError::AnotherServer(_)), "{refused}");
    let other = Owner { uid: "another".to_owned(), log: ObjectName::new("shop", "copy") };
    let refused = Admin::open(&database.config, &schema(), &other).await.unwrap_err();
    assert!(matches!(refused, OpenError::OwnedByAnother(_)), "whose it is comes first: {refused}");
}
