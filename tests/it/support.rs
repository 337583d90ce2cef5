//! A fresh database for each test, on the server that `TEST_DATABASE_URL` names, or on an embedded one.

use std::sync::atomic::{AtomicU32, Ordering};

use eventtrigger::log::ConnectConfig;
use tokio_postgres::{Client, NoTls};

/// A database of its own, made for one test and left behind: the server is thrown away.
pub struct Database {
    /// How to reach it as the role that owns it, which is no superuser.
    pub config: ConnectConfig,
    /// A connection as that role.
    pub client: Client,
}

/// Where the server is, as a superuser.
fn server() -> tokio_postgres::Config {
    std::env::var("TEST_DATABASE_URL").expect("TEST_DATABASE_URL").parse().expect("TEST_DATABASE_URL is a URI")
}

/// Connects with `config`; the connection's task ends with the client.
pub async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("connect to the test server");
    tokio::spawn(connection);
    client
}

impl Database {
    /// Makes a role that is no superuser and a database that it owns.
    pub async fn new() -> Self {
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
    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}
