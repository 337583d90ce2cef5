//! A fresh database for each test, on the server that `TEST_DATABASE_URL` names, or on an embedded one of version
//! `TEST_POSTGRES` (default 15).

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use eventtrigger::{
    log::{
        Admin, ConnectConfig, Definition, Owner, Worker,
        definition::{Columns, Context, Operations, Policy, Updates},
    },
    name::{Ident, ObjectName, TableName},
    standalone::embedded::{Embedded, Major, Options},
};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// What tests need of a server, and what makes it fast: nothing in it is worth surviving a crash of the machine.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "300"),
    ("max_prepared_transactions", "50"),
    // Logical decoding is an independent judge of what was committed.
    ("wal_level", "logical"),
];

/// How old a database must be to be surely nobody's: no test run lasts as long.
const LEFT_BEHIND: Duration = Duration::from_hours(1);

/// A database of its own, made for one test and left behind: the next run an hour later drops it.
pub(crate) struct Database {
    /// How to reach it as the role that owns it, which is no superuser.
    pub(crate) config: ConnectConfig,
    /// A connection as that role.
    pub(crate) client: Client,
}

/// Where the server is, as a superuser.
pub(crate) async fn server() -> &'static tokio_postgres::Config {
    static SERVER: OnceCell<tokio_postgres::Config> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            let server = match std::env::var("TEST_DATABASE_URL") {
                Ok(url) => url.parse().expect("TEST_DATABASE_URL is a URI"),
                Err(_) => embedded().await,
            };
            drop_what_was_left_behind(&server).await;
            server
        })
        .await
}

/// The embedded server: left running, so that the next run needs not start it.
async fn embedded() -> tokio_postgres::Config {
    let major = std::env::var("TEST_POSTGRES").map_or(Major::default(), |major| major.parse().expect("TEST_POSTGRES"));
    let options = Options {
        major,
        data_dir: Some(test_data(&format!("test-postgres-{major}"))),
        settings: SETTINGS.to_vec(),
        ..Options::default()
    };
    let server = Embedded::start(options).await.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let config = plain(&server.superuser_config());
    // Held until the process ends, so that nobody stops the server meanwhile.
    Box::leak(Box::new(server));
    config
}

/// Whether all of these programs are there. `make test` installs them as root, and sets `TEST_PROGRAMS=all`: then a
/// missing one is a failure. Without root the tests that need it are left out, and say so.
pub(crate) fn programs(names: &[&str]) -> bool {
    let there = |name: &str| std::process::Command::new(name).arg("--version").output().is_ok();
    let missing: Vec<_> = names.iter().copied().filter(|name| !there(name)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var("TEST_PROGRAMS").as_deref() != Ok("all"), "missing: {}", missing.join(", "));
    eprintln!("not run: {} is missing", missing.join(", "));
    false
}

/// A folder that the server's account can reach: the target folder, but for root, whose checkout may be in its home.
pub(crate) fn test_data(name: &str) -> PathBuf {
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc")) == 0;
    let parent = if root { "/var/lib/eventtrigger" } else { env!("CARGO_TARGET_TMPDIR") };
    Path::new(parent).join(name)
}

/// The driver's form of a configuration without TLS.
pub(crate) fn plain(config: &ConnectConfig) -> tokio_postgres::Config {
    let mut plain = tokio_postgres::Config::new();
    plain.host(&config.host).port(config.port).user(&config.user).dbname(&config.dbname);
    if let Some(password) = &config.password {
        plain.password(password);
    }
    plain
}

/// Connects with `config`; the connection's task ends with the client.
pub(crate) async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connect to the test server");
    tokio::spawn(connection);
    client
}

/// A connection to a database of the test server as its superuser.
pub(crate) async fn root(dbname: &str) -> Client {
    connect(server().await.clone().dbname(dbname)).await
}

/// The server's major version.
pub(crate) async fn major(client: &Client) -> u32 {
    let version: String = client.query_one("SHOW server_version_num", &[]).await.expect("the version").get(0);
    version.parse::<u32>().expect("a number") / 10_000
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Drops databases and roles of earlier runs. Failing is harmless: the next run tries again.
async fn drop_what_was_left_behind(server: &tokio_postgres::Config) {
    let root = connect(server).await;
    // Prepared transactions of a test that failed: nobody else has its database. They would keep a slot of logical decoding
    // from being made in any database.
    let prepared = "SELECT gid, database FROM pg_prepared_xacts WHERE database ~ '^t[0-9]+_[0-9]+_[0-9]+$'
                    AND database NOT IN (SELECT datname FROM pg_stat_activity WHERE datname IS NOT NULL)";
    for row in root.query(prepared, &[]).await.expect("list prepared transactions") {
        let inside = connect(server.clone().dbname(row.get::<_, &str>(1))).await;
        let _ = inside.batch_execute(&format!("ROLLBACK PREPARED '{}'", row.get::<_, &str>(0))).await;
    }
    let oldest = (seconds_since_1970() - LEFT_BEHIND.as_secs()).to_string();
    let stale = "SELECT datname FROM pg_database \
                 WHERE datname ~ '^t[0-9]+_[0-9]+_[0-9]+$' AND substring(datname, 2, 10) < $1";
    for row in root.query(stale, &[&oldest]).await.expect("list databases") {
        let name: String = row.get(0);
        let _ = root.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        let _ = root.batch_execute(&format!("DROP ROLE IF EXISTS {name}")).await;
    }
}

impl Database {
    /// Makes a role that is no superuser and a database that it owns.
    pub(crate) async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{}_{number}", seconds_since_1970(), std::process::id());
        let mut server = server().await.clone();
        let root = connect(&server).await;
        root.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'secret'")).await.expect("create role");
        root.batch_execute(&format!("CREATE DATABASE {name} OWNER {name}")).await.expect("create database");
        server.user(&name).password("secret").dbname(&name);
        let client = connect(&server).await;
        let config = ConnectConfig {
            host: match &server.get_hosts()[0] {
                tokio_postgres::config::Host::Tcp(host) => host.clone(),
                tokio_postgres::config::Host::Unix(folder) => folder.display().to_string(),
            },
            port: server.get_ports().first().copied().unwrap_or(5432),
            dbname: name.clone(),
            user: name,
            password: Some("secret".to_owned()),
            tls: eventtrigger::api::TlsMode::Disable,
            ca: None,
        };
        Self { config, client }
    }

    /// Waits until a query's one value is true.
    pub(crate) async fn until(&self, what: &str, sql: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.client.query_one(sql, &[]).await.expect("ask the database").get::<_, bool>(0) {
            assert!(Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a script as the owner.
    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// An owner of logs, the same in every test.
pub(crate) fn owner() -> Owner {
    Owner { uid: "uid-of-shop".to_owned(), log: ObjectName::new("shop", "shop") }
}

/// The name of the log's schema in every test.
pub(crate) fn schema() -> Ident {
    Ident::new("eventlog")
}

/// All columns of every change of a row of a table.
pub(crate) fn everything(name: &str, table: TableName) -> Definition {
    Definition {
        trigger: ObjectName::new("shop", name),
        table,
        on: Operations { insert: true, update: Some(Updates::All), delete: true, truncate: false },
        columns: Columns::All,
        context: Context::default(),
        replicated: false,
        ordering: eventtrigger::log::definition::Ordering::default(),
        partitions: 1,
        own_workers: None,
        sink: None,
        policy: Policy::default(),
        dead_letter_sink: None,
        suspend: false,
    }
}

/// The table that most tests use.
pub(crate) fn orders() -> TableName {
    TableName::new("public", "orders")
}

impl Database {
    /// A database with a log in it and a table `orders`.
    pub(crate) async fn with_orders() -> (Self, Admin) {
        let database = Self::new().await;
        database.run("CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric, card text)").await;
        let admin = database.admin().await;
        (database, admin)
    }

    /// The controller's connection.
    pub(crate) async fn admin(&self) -> Admin {
        Admin::open(&self.config, &schema(), &owner()).await.expect("open the log").0
    }

    /// A delivery worker's connection.
    pub(crate) async fn worker(&self) -> Worker {
        Worker::connect(&self.config, &schema(), &owner().uid).await.expect("connect a worker")
    }

    /// Another connection of the application.
    pub(crate) async fn another(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        let ConnectConfig { host, port, dbname, user, .. } = &self.config;
        config.host(host).port(*port).dbname(dbname).user(user).password("secret");
        connect(&config).await
    }

    /// What the log holds, a line for each event: operation, matched bits, old, new.
    pub(crate) async fn logged(&self) -> Vec<String> {
        let rows = self
            .client
            .query("SELECT concat_ws(' ', op::text, matched::text, coalesce(old::text, '-'), coalesce(new::text, '-')) FROM eventlog.event ORDER BY id", &[])
            .await
            .expect("read the log");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Names of the SQL triggers in the schema public that are enabled.
    pub(crate) async fn sql_triggers(&self) -> Vec<String> {
        let rows = self
            .client
            .query(
                "SELECT t.tgname::text FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
                 WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY c.relname, t.tgname",
                &[],
            )
            .await
            .expect("read the SQL triggers");
        rows.iter().map(|row| row.get(0)).collect()
    }
}
