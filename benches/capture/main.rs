//! What capture costs the application, and what reading the log costs, beside what others do: `make bench-capture`.
//!
//! All contenders run in one go, in turns, on one server that exists for it only; ratios within a run say more than figures
//! of two runs. `BENCH_ROUNDS`, `BENCH_SECONDS`, `BENCH_ROWS` and `BENCH_EVENTS` make it shorter or longer, `BENCH_ONLY`
//! names the parts to run (`bulk,many,oltp,reading`).

mod bulk;
#[path = "../common/mod.rs"]
mod common;
mod contenders;
mod many;
mod oltp;
mod reading;

use anyhow::{Context, Result};

use crate::{
    common::{
        effort::{Parts, variable},
        log, measure, report, server,
    },
    contenders::Contender,
    report::Report,
    server::Server,
};

/// How much is measured.
pub(crate) struct Effort {
    /// How often each contender has its turn.
    pub(crate) rounds: u32,
    /// How long a turn of `pgbench` takes.
    pub(crate) seconds: u32,
    /// Rows of a big statement.
    pub(crate) rows: u32,
    /// Events in a big log.
    pub(crate) events: u32,
    /// What of all is measured.
    parts: Parts,
}

impl Effort {
    fn from_environment() -> Result<Self> {
        Ok(Self {
            rounds: variable("BENCH_ROUNDS", 5)?,
            seconds: variable("BENCH_SECONDS", 3)?,
            rows: variable("BENCH_ROWS", 200_000)?,
            events: variable("BENCH_EVENTS", 10_000_000)?,
            parts: Parts::from_environment(),
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let effort = Effort::from_environment()?;
    let server = Server::start().context("start a server")?;
    report::publish("capture", Box::pin(measure(&server, &effort))).await
}

async fn measure(server: &Server, effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    let version: String = server.connect("postgres").await?.query_one("SELECT version()", &[]).await?.get(0);
    let processors = std::thread::available_parallelism()?;
    println!("{version}\n{processors} processors; {} rounds, {} s each", effort.rounds, effort.seconds);
    println!("{}", server::SETTINGS.map(|(name, value)| format!("{name}={value}")).join(" "));
    for contender in Contender::ALL {
        contender.prepare(server, effort.rows).await.with_context(|| format!("prepare {contender}"))?;
        contender.install(server, &["orders"]).await.with_context(|| format!("install {contender}"))?;
    }
    if effort.parts.wants("bulk") {
        bulk::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("many") {
        many::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("oltp") {
        oltp::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("reading") {
        reading::run(server, effort, &mut report).await?;
    }
    Ok(report)
}
