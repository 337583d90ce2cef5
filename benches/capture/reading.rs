//! What reading the log costs the server: pages of 500 events, and the cursor's update after each.

use std::{iter::once, time::Duration};

use anyhow::{Context, Result, ensure};
use eventtrigger::log::{Cursor, Lease, Move, Slot, Snapshot, Worker};

use crate::{
    Effort,
    contenders::database,
    log::{everything, open, owner, schema},
    measure::{Cost, Meter},
    report::{Report, Rule, Target},
    server::Server,
};

/// Events of a page, as delivery reads them; each is a transaction's.
const PAGE: u32 = 500;
/// Pages that are read for a figure.
const PAGES: u32 = 200;
/// EventTriggers beside the busy one, each on a table of its own.
const IDLE: u32 = 999;
/// Rows that a database has to write.
const ROWS: u32 = 200_000;

/// What is special about a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Case {
    Plain,
    Writer,
    Triggers,
    Big,
}

impl Case {
    const ALL: [Self; 4] = [Self::Plain, Self::Writer, Self::Triggers, Self::Big];

    fn name(self, effort: &Effort) -> String {
        match self {
            Self::Plain => "reading".to_owned(),
            Self::Writer => "reading, a writer open all the time".to_owned(),
            Self::Triggers => format!("reading, {IDLE} idle EventTriggers beside it"),
            Self::Big => format!("reading, {} events in the log", effort.events),
        }
    }

    fn database(self) -> &'static str {
        match self {
            Self::Plain => "read_plain",
            Self::Writer => "read_writer",
            Self::Triggers => "read_triggers",
            Self::Big => "read_big",
        }
    }
}

/// A log that has been filled, and its reader.
struct Log {
    case: Case,
    worker: Worker,
    pids: Vec<i32>,
    leases: Vec<Lease>,
    subscription: i32,
    cuts: Vec<Snapshot>,
}

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let mut logs = Vec::new();
    // Held to the end. Its number is older than all that is written after the plain case.
    let mut writer = None;
    for case in Case::ALL {
        eprintln!("{}: filling the log", case.name(effort));
        if case == Case::Writer {
            let client = server.connect("postgres").await?;
            client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await?;
            writer = Some(client);
        }
        logs.push(fill(server, effort, case).await?);
    }
    let mut costs = vec![(Vec::new(), Vec::new()); logs.len()];
    let mut backlogs = Vec::new();
    for round in 1..=effort.rounds {
        eprintln!("reading: round {round} of {}", effort.rounds);
        for (log, (reads, commits)) in logs.iter().zip(&mut costs) {
            let (read, commit) = read(log).await?;
            reads.push(read);
            commits.push(commit);
        }
        backlogs.push(backlog(&logs[0]).await?);
    }
    drop(writer);
    let least: Vec<_> = costs.iter().map(|(reads, _)| Cost::least(reads).cpu).collect();
    for (log, (reads, commits)) in logs.iter().zip(&costs) {
        report.figure(&log.case.name(effort), "ours", "server CPU", Cost::least(reads).cpu, "µs/event");
        report.figure(&log.case.name(effort), "ours", "server CPU, cursor", Cost::least(commits).cpu, "µs/event");
    }
    let name = format!("reading a backlog of {} events", PAGES * PAGE);
    report.figure(&name, "ours", "server CPU", Cost::least(&backlogs).cpu, "µs/event");
    report.target(Target::new(format!("reading: CPU, µs/event at {PAGE}"), least[0], Rule::AtMost(1.0)));
    for (log, cpu) in logs.iter().zip(&least).skip(1) {
        let what = format!("{}: CPU relative to plain", log.case.name(effort));
        report.target(Target::new(what, cpu / least[0], Rule::AtMost(1.1)));
    }
    Ok(())
}

async fn fill(server: &Server, effort: &Effort, case: Case) -> Result<Log> {
    let dbname = case.database();
    database(server, dbname, ROWS).await?;
    let admin = open(server, dbname).await?;
    admin.install("busy", &everything("busy", "orders")).await?;
    let client = server.connect(dbname).await?;
    if case == Case::Triggers {
        for n in 0..IDLE {
            client.batch_execute(&format!("CREATE TABLE idle_{n} (id int PRIMARY KEY)")).await?;
            admin.install(&format!("idle-{n}"), &everything(&format!("idle-{n}"), &format!("idle_{n}"))).await?;
        }
    }
    if case == Case::Big {
        for _ in 0..effort.events / ROWS {
            client.batch_execute("TRUNCATE orders; INSERT INTO orders SELECT * FROM source").await?;
        }
        client.batch_execute("TRUNCATE orders").await?;
    }
    let worker = Worker::connect(&server.config(dbname), &schema(), &owner().uid).await?;
    let leases = worker.take("bench", Slot::all(), Duration::from_hours(1)).await?;
    ensure!(leases.len() == Slot::all().count(), "not all slots are free");
    let (subscriptions, _) = worker.subscriptions().await?;
    let busy = subscriptions.iter().find(|found| found.definition.trigger.name == "busy").context("not installed")?;
    let mut cuts = vec![worker.pulse().await?.now];
    for n in 0..PAGES {
        let (first, last) = (i64::from(n * PAGE) + 1, i64::from((n + 1) * PAGE));
        let insert = "INSERT INTO orders SELECT * FROM source WHERE id BETWEEN $1 AND $2";
        client.execute(insert, &[&first, &last]).await?;
        cuts.push(worker.pulse().await?.now);
    }
    client.batch_execute("CHECKPOINT; ANALYZE").await?;
    // Once before it counts: it makes the connection for lists, and fills the caches.
    let mut log = Log { case, worker, pids: Vec::new(), leases, subscription: busy.id, cuts };
    backlog(&log).await?;
    let workers = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'eventtrigger deliver'";
    log.pids = client.query(workers, &[&dbname]).await?.iter().map(|row| row.get(0)).collect();
    Ok(log)
}

/// Reads all of it as one window, page by page.
async fn backlog(log: &Log) -> Result<Cost> {
    let meter = Meter::of(log.pids.clone())?;
    let (first, last) = (&log.cuts[0], &log.cuts[log.cuts.len() - 1]);
    let (mut after, mut read) = (0, 0);
    loop {
        let events = log.worker.window(first, last, after, PAGE as usize).await?;
        read += events.len();
        match events.last() {
            Some(event) if events.len() == PAGE as usize => after = event.id,
            _ => break,
        }
    }
    ensure!(read == (PAGES * PAGE) as usize, "a backlog of {read} events");
    Ok(meter.stop()?.each(PAGES * PAGE))
}

/// Reads all windows, then moves the cursor past each of them.
async fn read(log: &Log) -> Result<(Cost, Cost)> {
    let meter = Meter::of(log.pids.clone())?;
    for cuts in log.cuts.windows(2) {
        let events = log.worker.window(&cuts[0], &cuts[1], 0, PAGE as usize + 1).await?;
        ensure!(events.len() == PAGE as usize, "a window of {} events", events.len());
    }
    let read = meter.stop()?.each(PAGES * PAGE);
    let meter = Meter::of(log.pids.clone())?;
    for cut in &log.cuts[1..] {
        let cursor = Cursor { from: cut.clone(), to: None, after: 0, done: Vec::new() };
        let step = Move { subscription: log.subscription, cursor };
        log.worker.commit(&log.leases, &once(step).collect::<Vec<_>>(), &[]).await?;
    }
    Ok((read, meter.stop()?.each(PAGES * PAGE)))
}
