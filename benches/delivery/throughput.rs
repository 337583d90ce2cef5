//! Single-event POSTs of a backlog, in order for each key, beside the ceiling.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use eventtrigger::log::definition::{Batch, Format, Mode, Operations, Sink, Updates};

use crate::{
    Effort,
    peers::Peer,
    raw::Raw,
    receiver::{Receiver, float},
    report::{Report, Rule, Target},
    server::Server,
    source::{KEYS, Source},
    worker::Worker,
};

pub(crate) const CASE: &str = "backlog, one event a POST";
/// At least 300,000 events a second are to be reached.
const BATCH: &str = "backlog, many events a POST";
/// Without an answer for so long, something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// One turn of a contender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Events a second.
    pub(crate) rate: f64,
    /// Processor time of an event in µs: whoever sends, and the receiver.
    pub(crate) sender: Option<f64>,
    pub(crate) receiver: f64,
    /// Of a body, in bytes.
    pub(crate) bytes: f64,
    /// The most memory that the sender had, in MiB.
    pub(crate) peak: Option<f64>,
}

impl Turn {
    pub(crate) fn of(receiver: &Receiver, sender: Option<f64>, peak: Option<f64>) -> Result<Self> {
        let each = receiver.cpu()? / float(receiver.accepted()) * 1e6;
        Ok(Self { rate: receiver.rate(), sender, receiver: each, bytes: receiver.mean(), peak })
    }
}

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let wanted = Peer::ALL.into_iter().filter(|_| effort.parts.wants("peers"));
    let (peers, missing): (Vec<_>, Vec<_>) = wanted.partition(|peer| peer.is_installed());
    for peer in missing {
        println!("{}: not installed; benches/peers/install.sh does it", peer.name());
    }
    let mut turns = BTreeMap::<&str, Vec<Turn>>::new();
    let mut batches = Vec::<Turn>::new();
    for round in 1..=effort.rounds {
        eprintln!("{CASE}: round {round} of {}", effort.rounds);
        turns.entry("ours").or_default().push(ours(server, effort.events).await.context("ours")?);
        batches.push(batched(server, effort.events).await.context("ours, batched")?);
        for peer in &peers {
            let turn = peer.turn(server, effort.events).await.with_context(|| peer.name())?;
            turns.entry(peer.name()).or_default().push(turn);
        }
        for raw in Raw::ALL {
            let receiver = Receiver::start()?;
            let cpu = raw.run(&receiver, Duration::from_secs(effort.seconds.into())).await.context(raw.name())?;
            turns.entry(raw.name()).or_default().push(Turn::of(&receiver, Some(cpu), None)?);
        }
    }
    // The best of each: whatever else the machine does only takes from it.
    let best = |name: &str, of: fn(&Turn) -> Option<f64>, better: fn(f64, f64) -> f64| {
        turns.get(name).and_then(|turns| turns.iter().filter_map(of).reduce(better))
    };
    let rate = |name: &str| best(name, |turn| Some(turn.rate), f64::max);
    for &name in turns.keys() {
        let mut figure = |metric: &str, value: Option<f64>, unit: &str| {
            if let Some(value) = value {
                report.figure(CASE, name, metric, value, unit);
            }
        };
        figure("throughput", rate(name), "events/s");
        figure("CPU, sender", best(name, |turn| turn.sender, f64::min), "µs/event");
        figure("CPU, receiver", best(name, |turn| Some(turn.receiver), f64::min), "µs/event");
        figure("body", best(name, |turn| Some(turn.bytes), f64::max), "bytes");
        figure("memory, peak", best(name, |turn| turn.peak, f64::max), "MiB");
    }
    let together = batches.iter().map(|turn| turn.rate).reduce(f64::max).unwrap_or(f64::NAN);
    report.figure(BATCH, "ours", "throughput", together, "events/s");
    if let Some(cpu) = batches.iter().filter_map(|turn| turn.sender).reduce(f64::min) {
        report.figure(BATCH, "ours", "CPU, sender", cpu, "µs/event");
    }
    report.target(Target::new(format!("{BATCH}: events/s"), together, Rule::AtLeast(300_000.0)));
    if let (Some(ours), Some(ceiling)) = (rate("ours"), rate(Raw::Reqwest.name())) {
        let what = format!("{CASE}: throughput relative to reqwest without a database");
        report.target(Target::new(what, ours / ceiling, Rule::AtLeast(0.6)));
    }
    let others = peers.iter().filter_map(|peer| rate(peer.name()));
    if let (Some(ours), Some(other)) = (rate("ours"), others.reduce(f64::max)) {
        let what = format!("{CASE}: throughput relative to the best peer");
        report.target(Target::new(what, ours / other, Rule::AtLeast(3.0)));
    }
    if let Some(peak) = best("ours", |turn| turn.peak, f64::max) {
        report.target(Target::new(format!("{CASE}: memory at most, MiB"), peak, Rule::AtMost(64.0)));
    }
    Ok(())
}

/// One turn of ours.
pub(crate) async fn ours(server: &Server, events: u32) -> Result<Turn> {
    let receiver = Receiver::start()?;
    let source = Source::single(server, "throughput", &receiver).await?;
    drain(server, &receiver, &source, events).await
}

/// The same in batches of up to 500.
async fn batched(server: &Server, events: u32) -> Result<Turn> {
    let receiver = Receiver::start()?;
    let source = Source::new(server, "batched").await?;
    source.table("item", KEYS).await?;
    let batch = Batch { max_events: 500, max_bytes: 1 << 20, linger: Duration::ZERO };
    let sink = Sink { format: Format::CloudEvents(Mode::Batch(batch)), ..Sink::to(receiver.url()) };
    source.send("item", Operations { update: Some(Updates::All), ..Operations::default() }, sink).await?;
    drain(server, &receiver, &source, events).await
}

async fn drain(server: &Server, receiver: &Receiver, source: &Source, events: u32) -> Result<Turn> {
    source.fill("item", KEYS, events).await?;
    source.client.batch_execute("CHECKPOINT").await?;
    let worker = Worker::start(server, &source.dbname)?;
    let arrived = receiver.until(events.into(), PATIENCE).await;
    ensure!(arrived, "{} of {events} events in {PATIENCE:?}", receiver.accepted());
    let (cpu, peak) = (worker.cpu()? / float(receiver.accepted()) * 1e6, worker.peak()?);
    let turn = Turn::of(receiver, Some(cpu), Some(peak))?;
    worker.terminate().await?;
    Ok(turn)
}
