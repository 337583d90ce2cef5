//! What is delivered: a table of keyed rows, captured, and statements that change them.

use std::time::{Duration, Instant};

use anyhow::Result;
use eventtrigger::log::{
    Admin, Definition,
    definition::{Operations, Sink, Updates},
};
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use crate::{
    log::{everything, open},
    receiver::{Receiver, float},
    server::Server,
};

/// Rows of a table: keys of order.
pub(crate) const KEYS: u32 = 10_000;
/// The first of them.
pub(crate) const FIRST: u32 = 10_000;
/// Between two transactions of a live load.
const BEAT: Duration = Duration::from_millis(10);
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
        source.capture("item", receiver.url()).await?;
        Ok(source)
    }

    /// Makes a table of so many rows.
    pub(crate) async fn table(&self, name: &str, keys: u32) -> Result<()> {
        let sql = format!("CALL make_table('{name}', {keys})");
        Ok(self.client.batch_execute(&sql).await?)
    }

    /// Lets updates of a table be events of a trigger with the table's name.
    pub(crate) async fn capture(&self, table: &str, url: String) -> Result<()> {
        let on = Operations { update: Some(Updates::All), ..Operations::default() };
        self.install(table, on, url).await
    }

    /// The same for rows that come and go.
    pub(crate) async fn churn(&self, table: &str, url: String) -> Result<()> {
        self.install(table, Operations { insert: true, delete: true, ..Operations::default() }, url).await
    }

    async fn install(&self, table: &str, on: Operations, url: String) -> Result<()> {
        self.send(table, on, Sink::to(url)).await
    }

    /// The same to a sink of any kind.
    pub(crate) async fn send(&self, table: &str, on: Operations, sink: Sink) -> Result<()> {
        let definition = Definition { on, sink: Some(sink), ..everything(table, table) };
        self.admin.install(table, &definition).await?;
        Ok(())
    }

    /// Changes rows of a table from the first key to the last and over again, until there are so many events; a
    /// transaction for each [`STEP`].
    pub(crate) async fn fill(&self, table: &str, keys: u32, events: u32) -> Result<()> {
        let sql = format!("CALL fill('{table}', {keys}, {events}, {})", STEP.min(keys));
        Ok(self.client.batch_execute(&sql).await?)
    }

    /// Changes rows of `item`, one after the other, so many a second, in a transaction every [`BEAT`]. Returns how many
    /// were changed.
    pub(crate) async fn live(&self, rate: f64, during: Duration) -> Result<u64> {
        let update = "UPDATE item SET at = microseconds() WHERE key BETWEEN $1 AND $2";
        let update = self.client.prepare(update).await?;
        let mut beat = tokio::time::interval(BEAT);
        // What a slow statement delays is made good, so that the rate is kept.
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (began, mut key, mut written) = (Instant::now(), 0_u32, 0_u64);
        while began.elapsed() < during {
            beat.tick().await;
            let due = rate * began.elapsed().as_secs_f64() - float(written);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a table's keys")]
            let count = due.ceil().clamp(1.0, f64::from(KEYS / 2)) as u32;
            let first = if key + count > KEYS { 0 } else { key };
            let bounds = [first, first + count - 1].map(|key| i32::try_from(FIRST + key));
            let [from, to] = bounds;
            written += self.client.execute(&update, &[&from?, &to?]).await?;
            key = first + count;
        }
        Ok(written)
    }
}
