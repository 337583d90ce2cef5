//! What a worker needs when nothing happens, and when much waits.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::{
    Effort,
    receiver::{Receiver, float},
    report::{Report, Rule, Target},
    server::Server,
    source::{FIRST, KEYS, Source},
    worker::Worker,
};

/// What waits, for each event of a backlog elsewhere.
const TIMES: u32 = 5;
/// Keys that are written to after the one that is refused.
const OTHERS: u32 = 100;

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    idle(server, effort, report).await?;
    outage(server, effort, report).await?;
    parked(server, effort, report).await
}

async fn idle(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let case = "idle";
    eprintln!("{case}");
    let receiver = Receiver::start()?;
    let source = Source::single(server, "idle", &receiver).await?;
    let worker = Worker::start(server, &source.dbname)?;
    // It has delivered, so nothing is left to be set up.
    source.fill("item", KEYS, 1000).await?;
    ensure!(receiver.until(1000, Duration::from_secs(30)).await, "{} of 1000 events", receiver.accepted());
    // After 13 s without anything it looks as rarely as it ever does.
    sleep(Duration::from_secs(15)).await;
    let (since, cpu) = (Instant::now(), worker.cpu()?);
    sleep(Duration::from_secs(effort.seconds.into())).await;
    let share = (worker.cpu()? - cpu) / since.elapsed().as_secs_f64() * 100.0;
    let resident = worker.resident()?;
    report.figure(case, "ours", "CPU", share, "% of a core");
    report.figure(case, "ours", "memory", resident, "MiB");
    report.target(Target::new(format!("{case}: CPU, % of a core"), share, Rule::AtMost(1.0)));
    report.target(Target::new(format!("{case}: memory, MiB"), resident, Rule::AtMost(15.0)));
    worker.terminate().await?;
    Ok(())
}

/// A sink that refuses connections while its events pile up: only the disk is to notice.
async fn outage(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let events = effort.events * TIMES;
    let case = format!("outage of the sink, {events} events wait");
    eprintln!("{case}");
    let receiver = Receiver::start()?;
    let source = Source::single(server, "outage", &receiver).await?;
    drop(receiver);
    let worker = Worker::start(server, &source.dbname)?;
    // A tenth of what comes in an outage, and the rest.
    source.fill("item", KEYS, events / 10).await?;
    sleep(Duration::from_secs(effort.seconds.into())).await;
    let before = worker.resident()?;
    source.fill("item", KEYS, events - events / 10).await?;
    sleep(Duration::from_secs(effort.seconds.into())).await;
    let (after, peak) = (worker.resident()?, worker.peak()?);
    report.figure(&case, "ours", "memory", after, "MiB");
    report.figure(&case, "ours", "memory, peak", peak, "MiB");
    report.figure(&case, "ours", "memory relative to a tenth of the events", after / before, "ratio");
    report.target(Target::new(format!("{case}: memory at most, MiB"), peak, Rule::AtMost(64.0)));
    let what = format!("{case}: memory relative to a tenth of them");
    report.target(Target::new(what, after / before, Rule::AtMost(1.1)));
    worker.kill().await
}

/// Events of one key that is refused, and a few of others after them.
async fn parked(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let events = effort.events * TIMES;
    let case = format!("{events} events of a refused key");
    eprintln!("{case}");
    let receiver = Receiver::start()?;
    receiver.poison(FIRST.into());
    let source = Source::new(server, "parked").await?;
    source.client.batch_execute("CALL make_churn()").await?;
    source.churn("churn", receiver.url()).await?;
    source.client.batch_execute(&format!("CALL churn({FIRST}, {events}, 1000)")).await?;
    source.client.batch_execute(&format!("CALL insert_others({FIRST}, {OTHERS})")).await?;
    let worker = Worker::start(server, &source.dbname)?;
    // As long as a minute, for reading all of them takes its time.
    receiver.until(OTHERS.into(), Duration::from_mins(1)).await;
    let arrived = float(receiver.accepted()) / f64::from(OTHERS);
    // Reading goes on, whether or not it has come to the others.
    sleep(Duration::from_secs(effort.seconds.into())).await;
    let peak = worker.peak()?;
    report.figure(&case, "ours", "memory, peak", peak, "MiB");
    report.figure(&case, "ours", "of the events of other keys, arrived", arrived, "ratio");
    report.target(Target::new(format!("{case}: memory at most, MiB"), peak, Rule::AtMost(128.0)));
    let what = format!("{case}: part of the other keys' events that arrives");
    report.target(Target::new(what, arrived, Rule::AtLeast(1.0)));
    worker.kill().await
}
