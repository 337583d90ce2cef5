//! How fast, how soon and how frugally events are delivered, beside what others do: `make bench-delivery`.
//!
//! A PostgreSQL 15 of its own, whoever delivers, and the receiver share the machine. All contenders run in one go, in
//! turns. `BENCH_ROUNDS`, `BENCH_SECONDS` and `BENCH_EVENTS` make it shorter or longer, `BENCH_ONLY` names the parts to
//! run (`throughput,peers,live,isolation,memory,replicas`).

#[path = "../common/mod.rs"]
mod common;
mod isolation;
mod live;
mod memory;
mod peers;
mod raw;
mod receiver;
mod replicas;
mod source;
mod throughput;
mod worker;

use anyhow::{Context, Result};

use crate::{
    common::{
        effort::{Parts, variable},
        log, measure, report, server,
    },
    report::Report,
    server::Server,
};

/// How much is measured.
pub(crate) struct Effort {
    /// How often each contender has its turn.
    pub(crate) rounds: u32,
    /// How long a turn takes that is not over with its backlog.
    pub(crate) seconds: u32,
    /// Events of a backlog.
    pub(crate) events: u32,
    /// What of all is measured.
    pub(crate) parts: Parts,
}

impl Effort {
    fn from_environment() -> Result<Self> {
        Ok(Self {
            rounds: variable("BENCH_ROUNDS", 3)?,
            seconds: variable("BENCH_SECONDS", 10)?,
            events: variable("BENCH_EVENTS", 200_000)?,
            parts: Parts::from_environment(),
        })
    }
}

// One thread: what the benchmark itself does is to take no processor from what it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Once, and before any client: rustls takes no default where it could take several.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let effort = Effort::from_environment()?;
    let server = Server::start().context("start a server")?;
    report::publish("delivery", measure(&server, &effort)).await
}

async fn measure(server: &Server, effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    let version: String = server.connect("postgres").await?.query_one("SELECT version()", &[]).await?.get(0);
    let processors = std::thread::available_parallelism()?;
    println!("{version}\n{processors} processors; {} rounds, {} events", effort.rounds, effort.events);
    println!("{}", server::SETTINGS.map(|(name, value)| format!("{name}={value}")).join(" "));
    if effort.parts.wants("throughput") || effort.parts.wants("peers") {
        throughput::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("live") {
        live::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("isolation") {
        isolation::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("memory") {
        memory::run(server, effort, &mut report).await?;
    }
    if effort.parts.wants("replicas") {
        replicas::run(server, effort, &mut report).await?;
    }
    Ok(report)
}
