//! What is delivered: a table of keyed rows, captured, and statements that change them.

use anyhow::Result;
use eventtrigger::log::{
    Admin, Definition,
    definition::{Operations, Policy, Sink, Updates},
};
use tokio_postgres::Client;

use crate::{
    log::{everything, open},
    receiver::Receiver,
    server::Server,
};

/// Rows of a table: keys of order.
pub(crate) const KEYS: u32 = 10_000;
/// Events of a transaction of a backlog.
const STEP: u32 = 1000;

/// A database with tables, made anew.
pub(crate) struct Source {
    pub(crate) dbname: String,
    pub(crate) client: Client,
    pub(crate) admin: Admin,
}

impl Source {
    /// With an empty log, and no table yet.
    pub(crate) async fn new(server: &Server, dbname: &str) -> Result<Self> {
        server.run("postgres", &format!("DROP DATABASE IF EXISTS {dbname} WITH (FORCE)")).await?;
        server.run("postgres", &format!("CREATE DATABASE {dbname}")).await?;
        let client = server.connect(dbname).await?;
        client.batch_execute(include_str!("sql/source.sql")).await?;
        Ok(Self { dbname: dbname.to_owned(), client, admin: open(server, dbname).await? })
    }

    /// With one table `item` of [`KEYS`] rows whose updates go to a receiver.
    pub(crate) async fn single(server: &Server, dbname: &str, receiver: &Receiver) -> Result<Self> {
        let source = Self::new(server, dbname).await?;
        source.table("item", KEYS).await?;
        source.capture("item", receiver.url(), Policy::default()).await?;
        Ok(source)
    }

    /// Makes a table of so many rows.
    pub(crate) async fn table(&self, name: &str, keys: u32) -> Result<()> {
        let sql = format!("CALL make_table('{name}', {keys})");
        Ok(self.client.batch_execute(&sql).await?)
    }

    /// Lets updates of a table be events of a trigger with the table's name.
    pub(crate) async fn capture(&self, table: &str, url: String, policy: Policy) -> Result<()> {
        let definition = Definition {
            on: Operations { update: Some(Updates::All), ..Operations::default() },
            sink: Some(Sink { url, headers: Vec::new() }),
            policy,
            ..everything(table, table)
        };
        self.admin.install(table, &definition).await?;
        Ok(())
    }

    /// Changes rows of a table from the first key to the last and over again, until there are so many events; a
    /// transaction for each [`STEP`].
    pub(crate) async fn fill(&self, table: &str, keys: u32, events: u32) -> Result<()> {
        let sql = format!("CALL fill('{table}', {keys}, {events}, {})", STEP.min(keys));
        Ok(self.client.batch_execute(&sql).await?)
    }
}
