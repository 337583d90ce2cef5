//! How soon an event arrives while the application goes on writing.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    Effort,
    receiver::{Receiver, float},
    report::{Report, Rule, Target},
    server::Server,
    source::Source,
    throughput::{self, PATIENCE},
    worker::Worker,
};

/// Events a second of a system that is not busy.
const CALM: f64 = 100.0;

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let calm = "live, 100 events/s";
    let latencies = latencies(server, effort, CALM, calm, report).await?;
    for (part, limit) in [(0.5, 3.0), (0.99, 15.0)] {
        report.target(target(calm, &latencies, part, limit));
    }
    let maximum = match report.value(throughput::CASE, "ours", "throughput") {
        Some(measured) => measured,
        None => throughput::ours(server, effort.events).await?.rate,
    };
    let busy = "live, half of the highest rate";
    let latencies = self::latencies(server, effort, maximum / 2.0, busy, report).await?;
    report.target(target(busy, &latencies, 0.99, 50.0));
    Ok(())
}

/// From the time in the row, which is before the commit, to the arrival, in ms; the least first.
async fn latencies(server: &Server, effort: &Effort, rate: f64, case: &str, report: &mut Report) -> Result<Vec<f64>> {
    eprintln!("{case}");
    let receiver = Receiver::start()?;
    let source = Source::single(server, "live", &receiver).await?;
    let worker = Worker::start(server, &source.dbname)?;
    // What comes before the worker is ready, and while caches are cold, does not count.
    let before = source.live(rate, Duration::from_secs(2)).await?;
    ensure!(receiver.until(before, PATIENCE).await, "{} of the first {before} events", receiver.accepted());
    receiver.latencies();
    let (during, cpu) = (Duration::from_secs(effort.seconds.into()), worker.cpu()?);
    let written = source.live(rate, during).await?;
    ensure!(receiver.until(before + written, PATIENCE).await, "{} of {written} events", receiver.accepted() - before);
    let used = worker.cpu()? - cpu;
    let latencies = receiver.latencies();
    report.figure(case, "ours", "rate", float(written) / during.as_secs_f64(), "events/s");
    for (metric, part) in [("p50", 0.5), ("p99", 0.99), ("at most", 1.0)] {
        report.figure(case, "ours", metric, percentile(&latencies, part), "ms");
    }
    report.figure(case, "ours", "CPU, sender", used / float(written) * 1e6, "µs/event");
    worker.terminate().await?;
    Ok(latencies)
}

fn target(case: &str, latencies: &[f64], part: f64, limit: f64) -> Target {
    let what = format!("{case}: p{:.0} from commit to POST, ms", part * 100.0);
    Target::new(what, percentile(latencies, part), Rule::AtMost(limit))
}

/// The least that is not below this part of all; they are in order.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not more than there are, not negative"
    )]
    let place = (float(sorted.len() as u64) * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
