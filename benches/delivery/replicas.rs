//! Two workers of one log: whether they are as fast as one, and how soon one takes over from the other.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::{
    Effort,
    live::percentile,
    receiver::{Receiver, float},
    report::{Report, Rule, Target},
    server::Server,
    source::{KEYS, Source},
    throughput::PATIENCE,
    worker::Worker,
};

/// Events a second while one takes over: the longest that one of them was on its way is how long nothing was delivered.
const RATE: f64 = 100.0;

/// How the first worker ends, and how long the other may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Terminated,
    Killed,
}

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let mut rates = [0.0_f64; 2];
    for round in 1..=effort.rounds {
        eprintln!("replicas: round {round} of {}", effort.rounds);
        for (count, best) in [1, 2].into_iter().zip(&mut rates) {
            *best = best.max(rate(server, effort, count).await?);
        }
    }
    for (case, rate) in ["two triggers, one worker", "two triggers, two workers"].into_iter().zip(rates) {
        report.figure(case, "ours", "throughput", rate, "events/s");
    }
    let what = "two triggers: throughput of two workers relative to one".to_owned();
    // Two runs of the same differ by so much.
    report.target(Target::new(what, rates[1] / rates[0], Rule::AtLeast(0.95)));
    hand_over(server, report, End::Terminated, "hand-over after SIGTERM", 1.0).await?;
    hand_over(server, report, End::Killed, "hand-over after SIGKILL", 10.0).await
}

/// Of a backlog of two triggers, in events a second.
async fn rate(server: &Server, effort: &Effort, workers: usize) -> Result<f64> {
    let receiver = Receiver::start()?;
    let source = Source::new(server, "replicas").await?;
    let tables = ["left", "right"];
    for table in tables {
        source.table(table, KEYS).await?;
        source.capture(table, receiver.url()).await?;
    }
    let step = KEYS;
    let each = effort.events / 2 / step * step;
    for _ in 0..each / step {
        for table in tables {
            source.fill(table, KEYS, step).await?;
        }
    }
    let running: Vec<_> = (0..workers).map(|_| Worker::start(server, &source.dbname)).collect::<Result<_>>()?;
    let rate = receiver.rate_of((2 * each).into(), PATIENCE).await;
    for worker in running {
        worker.kill().await?;
    }
    Ok(rate)
}

async fn hand_over(server: &Server, report: &mut Report, end: End, case: &str, limit: f64) -> Result<()> {
    eprintln!("{case}");
    let receiver = Receiver::start()?;
    let source = Source::single(server, "handover", &receiver).await?;
    let first = Worker::start(server, &source.dbname)?;
    let before = source.live(RATE, Duration::from_secs(1)).await?;
    ensure!(receiver.until(before, PATIENCE).await, "{} of {before} events", receiver.accepted());
    let second = Worker::start(server, &source.dbname)?;
    // It stands by.
    sleep(Duration::from_secs(2)).await;
    receiver.latencies();
    let ending = async {
        sleep(Duration::from_secs(1)).await;
        match end {
            End::Terminated => first.terminate().await.map(drop),
            End::Killed => first.kill().await,
        }
    };
    let (written, ended) = tokio::join!(source.live(RATE, Duration::from_secs(4)), ending);
    ended?;
    let all = before + written?;
    ensure!(receiver.until(all, PATIENCE).await, "{} of {all} events", receiver.accepted());
    // What is sent twice is counted above as if it were new: the last of them may still be on their way.
    sleep(Duration::from_secs(1)).await;
    let seconds = percentile(&receiver.latencies(), 1.0) / 1e3;
    report.figure(case, "ours", "longest without delivery", seconds, "s");
    report.figure(case, "ours", "events sent twice", float(receiver.accepted() - all), "events");
    report.target(Target::new(format!("{case}: longest without delivery, s"), seconds, Rule::AtMost(limit)));
    second.kill().await
}
