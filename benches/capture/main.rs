//! What capture costs the application, and what reading the log costs, beside what others do: `make bench-capture`.
//!
//! All contenders run in one go, in turns, on one server that exists for it only; ratios within a run say more than figures
//! of two runs. `BENCH_ROUNDS`, `BENCH_SECONDS`, `BENCH_ROWS` and `BENCH_EVENTS` make it shorter or longer, `BENCH_ONLY`
//! names the parts to run (`bulk,many,oltp,reading`).

mod bulk;
mod contenders;
mod many;
mod measure;
mod oltp;
mod reading;
mod report;
mod server;

use std::{env, fmt::Display, path::Path, str::FromStr};

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::{contenders::Contender, report::Report, server::Server};

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
    /// Parts to run; all if there are none.
    only: Vec<String>,
}

impl Effort {
    fn from_environment() -> Result<Self> {
        let only = env::var("BENCH_ONLY").unwrap_or_default();
        Ok(Self {
            rounds: variable("BENCH_ROUNDS", 5)?,
            seconds: variable("BENCH_SECONDS", 3)?,
            rows: variable("BENCH_ROWS", 200_000)?,
            events: variable("BENCH_EVENTS", 10_000_000)?,
            only: only.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        })
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn variable<T: FromStr<Err: Display>>(name: &str, default: T) -> Result<T> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|error| anyhow!("{name}: {text:?}: {error}")),
        Err(_) => Ok(default),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let effort = Effort::from_environment()?;
    let server = Server::start().context("start a server")?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The server stops when it is dropped, so an interrupted run must return, too.
    tokio::select! {
        report = measure(&server, &effort) => {
            let report = report?;
            println!("{}", report.table());
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/capture.json");
            report.write(&file)?;
            println!("written to {}", file.display());
            Ok(())
        }
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    }
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
    if effort.wants("bulk") {
        bulk::run(server, effort, &mut report).await?;
    }
    if effort.wants("many") {
        many::run(server, effort, &mut report).await?;
    }
    if effort.wants("oltp") {
        oltp::run(server, effort, &mut report).await?;
    }
    if effort.wants("reading") {
        reading::run(server, effort, &mut report).await?;
    }
    Ok(report)
}
