//! A fresh database for each test, on the server that `TEST_DATABASE_URL` names, or on an embedded one.

use std::sync::atomic::{AtomicU32, Ordering};

use eventtrigger::{
    log::{
        Admin, ConnectConfig, Definition, Owner, Worker,
        definition::{Columns, Operations, Policy, Updates},
    },
    name::{Ident, ObjectName, TableName},
};
use tokio_postgres::{Client, NoTls};

/// A database of its own, made for one test and left behind: the server is thrown away.
pub(crate) struct Database {
    /// How to reach it as the role that owns it, which is no superuser.
    pub(crate) config: ConnectConfig,
    /// A connection as that role.
    pub(crate) client: Client,
}

/// Where the server is, as a superuser.
fn server() -> tokio_postgres::Config {
    std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL").parse().expect("TEST_DATABASE_URL is a URI")
}

/// Connects with `config`; the connection's task ends with the client.
pub(crate) async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connect to the test server");
    tokio::spawn(connection);
    client
}

/// A connection to a database of the test server as its superuser.
pub(crate) async fn root(dbname: &str) -> Client {
    connect(server().dbname(dbname)).await
}

impl Database {
    /// Makes a role that is no superuser and a database that it owns.
    pub(crate) async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut server = server();
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

/// All columns of all operations of a table.
pub(crate) fn everything(name: &str, table: TableName) -> Definition {
    Definition {
        trigger: ObjectName::new("shop", name),
        table,
        on: Operations { insert: true, update: Some(Updates::All), delete: true },
        columns: Columns::All,
        sink: None,
        policy: Policy::default(),
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
