//! Whether one bad receiver, or one bad key, slows the others down.

use std::{net::TcpListener, time::Duration};

use anyhow::Result;
use tokio::io::AsyncReadExt as _;

use crate::{
    Effort,
    receiver::Receiver,
    report::{Report, Rule, Target},
    server::Server,
    source::{FIRST, Source},
    worker::Worker,
};

/// Sinks, each with a table and a trigger of its own.
const SINKS: u32 = 100;
/// Keys of each table.
const KEYS: u32 = 100;
/// Keys of the one table, of which one is refused.
const MANY_KEYS: u32 = 1000;
/// Longer than all takes unless something is stuck.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the others must keep.
const KEPT: f64 = 0.95;

/// What becomes of the last of the sinks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    Absent,
    /// Nobody listens at its port.
    Refuses,
    /// It takes connections and requests, and never answers.
    Hangs,
}

impl Last {
    const ALL: [Self; 3] = [Self::Absent, Self::Refuses, Self::Hangs];

    fn case(self) -> String {
        match self {
            Self::Absent => format!("{} sinks", SINKS - 1),
            Self::Refuses => format!("{} sinks, beside one that refuses", SINKS - 1),
            Self::Hangs => format!("{} sinks, beside one that hangs", SINKS - 1),
        }
    }
}

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let mut rates = [0.0_f64; 3];
    let mut keys = [0.0_f64; 2];
    for round in 1..=effort.rounds {
        eprintln!("a bad sink, a bad key: round {round} of {}", effort.rounds);
        for (last, best) in Last::ALL.into_iter().zip(&mut rates) {
            *best = best.max(sinks(server, effort, last).await?);
        }
        for (poisoned, best) in [false, true].into_iter().zip(&mut keys) {
            *best = best.max(key(server, effort, poisoned.then_some(FIRST)).await?);
        }
    }
    for (last, rate) in Last::ALL.into_iter().zip(rates) {
        report.figure(&last.case(), "ours", "throughput", rate, "events/s");
        if last != Last::Absent {
            let what = format!("{}: throughput relative to without it", last.case());
            report.target(Target::new(what, rate / rates[0], Rule::AtLeast(KEPT)));
        }
    }
    let cases = [format!("{MANY_KEYS} keys"), format!("{MANY_KEYS} keys, one of them refused")];
    for (case, rate) in cases.iter().zip(keys) {
        report.figure(case, "ours", "throughput", rate, "events/s");
    }
    let what = format!("{}: throughput of the others relative to without it", cases[1]);
    report.target(Target::new(what, keys[1] / keys[0], Rule::AtLeast(KEPT)));
    Ok(())
}

/// The rate at which the events of all sinks but the last arrive.
async fn sinks(server: &Server, effort: &Effort, last: Last) -> Result<f64> {
    let receiver = Receiver::start()?;
    let source = Source::new(server, "sinks").await?;
    // Kept to the end: it answers nobody, and its port is nobody else's.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?;
    let mut hanging = None;
    match last {
        Last::Absent => {}
        Last::Refuses => drop(silent),
        Last::Hangs => hanging = Some(tokio::spawn(hang(silent))),
    }
    let each = effort.events / SINKS / KEYS * KEYS;
    let there = if last == Last::Absent { SINKS - 1 } else { SINKS };
    for n in 0..there {
        let (table, good) = (format!("item_{n}"), n < SINKS - 1);
        source.table(&table, KEYS).await?;
        let url = if good { receiver.url() } else { format!("http://{address}/hook") };
        source.capture(&table, url).await?;
    }
    // Side by side in the log, as they come when all are written to.
    for _ in 0..each / KEYS {
        for n in 0..there {
            source.fill(&format!("item_{n}"), KEYS, KEYS).await?;
        }
    }
    let worker = Worker::start(server, &source.dbname)?;
    let rate = receiver.rate_of((each * (SINKS - 1)).into(), PATIENCE).await;
    worker.kill().await?;
    if let Some(hanging) = hanging {
        hanging.abort();
    }
    Ok(rate)
}

/// Takes connections and requests, and never answers.
async fn hang(listener: TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} });
    }
}

/// The rate at which the events of all keys but the poisoned arrive.
async fn key(server: &Server, effort: &Effort, poisoned: Option<u32>) -> Result<f64> {
    let receiver = Receiver::start()?;
    let source = Source::new(server, "keys").await?;
    source.table("item", MANY_KEYS).await?;
    source.capture("item", receiver.url()).await?;
    source.fill("item", MANY_KEYS, effort.events).await?;
    let events = effort.events / MANY_KEYS * MANY_KEYS;
    let mut others = events;
    if let Some(key) = poisoned {
        receiver.poison(key.into());
        others -= events / MANY_KEYS;
    }
    let worker = Worker::start(server, &source.dbname)?;
    let rate = receiver.rate_of(others.into(), PATIENCE).await;
    worker.kill().await?;
    Ok(rate)
}
