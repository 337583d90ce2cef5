//! Transactions of many sessions, by `pgbench`: INSERTs of one row, and its own transaction, which is like TPC-B.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    Effort,
    contenders::Contender::{self, Floor, Hasura, Nothing, Ours, Pgq, Row},
    measure::children,
    report::{Report, Rule, Target},
    server::Server,
};

/// Of `pgbench`'s own tables, those that its transaction writes: all are captured, which makes four events of each.
const TPCB: [&str; 4] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];
/// 100,000 accounts and one branch for each. Above the number of clients, which would else only wait for branches.
const SCALE: &str = "20";

/// One case: what is run, by how many clients, how durably, by whom, and what must come of it.
struct Case {
    name: &'static str,
    insert: bool,
    clients: u32,
    synchronous_commit: &'static str,
    contenders: &'static [Contender],
    /// Ours is to have at least so many times the transactions of the other.
    targets: &'static [(Contender, f64)],
}

const CASES: [Case; 5] = [
    Case {
        name: "INSERT of 1 row, 8 clients, synchronous_commit off",
        insert: true,
        clients: 8,
        synchronous_commit: "off",
        contenders: &[Nothing, Ours, Floor, Row, Pgq, Hasura],
        targets: &[(Floor, 0.95), (Pgq, 1.2), (Hasura, 2.0)],
    },
    Case {
        name: "INSERT of 1 row, 8 clients, synchronous_commit on",
        insert: true,
        clients: 8,
        synchronous_commit: "on",
        contenders: &[Nothing, Ours, Floor, Row, Pgq, Hasura],
        targets: &[(Nothing, 0.8)],
    },
    Case {
        name: "INSERT of 1 row, 1 client, synchronous_commit on",
        insert: true,
        clients: 1,
        synchronous_commit: "on",
        // The floor says what part of the target any capture can reach on this machine.
        contenders: &[Nothing, Ours, Floor],
        targets: &[(Nothing, 0.9)],
    },
    Case {
        name: "INSERT of 1 row, 1 client, synchronous_commit off",
        insert: true,
        clients: 1,
        synchronous_commit: "off",
        // The floor says what part of the target any capture can reach on this machine.
        contenders: &[Nothing, Ours, Floor],
        targets: &[(Nothing, 0.9)],
    },
    Case {
        name: "TPC-B, 4 events each, 8 clients, synchronous_commit off",
        insert: false,
        clients: 8,
        synchronous_commit: "off",
        contenders: &[Nothing, Ours, Row, Pgq, Hasura],
        targets: &[],
    },
];

/// One turn of a contender.
#[derive(Clone, Copy)]
struct Turn {
    /// Transactions a second.
    tps: f64,
    /// Processor time of a transaction, in µs: the server's sessions and `pgbench`.
    cpu: f64,
}

/// Runs them all and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let script = server.folder().join("insert.pgbench");
    fs::write(&script, include_str!("sql/insert.pgbench"))?;
    for contender in [Nothing, Ours, Row, Pgq, Hasura] {
        let mut make = server.pgbench(&contender.to_string());
        make.args(["--initialize", "--quiet", "--scale", SCALE]);
        ensure!(make.output().await?.status.success(), "pgbench --initialize failed for {contender}");
        contender.install(server, &TPCB).await.with_context(|| format!("install {contender} on pgbench's tables"))?;
    }
    for case in CASES {
        let turns = turns(server, effort, &case, &script).await?;
        // The best of each: whatever else the machine does only takes from it.
        let best = |contender: Contender, of: fn(&Turn) -> f64, better: fn(f64, f64) -> f64| {
            turns[&contender.to_string()].iter().map(of).reduce(better).unwrap_or(f64::NAN)
        };
        let tps = |contender| best(contender, |turn| turn.tps, f64::max);
        let cpu = |contender| best(contender, |turn| turn.cpu, f64::min);
        for &contender in case.contenders {
            let name = contender.to_string();
            report.figure(case.name, &name, "throughput", tps(contender), "transactions/s");
            report.figure(case.name, &name, "throughput relative to none", tps(contender) / tps(Nothing), "ratio");
            report.figure(case.name, &name, "CPU, server and client", cpu(contender), "µs/transaction");
        }
        for &(other, limit) in case.targets {
            let what = format!("{}: throughput relative to {other}", case.name);
            report.target(Target::new(what, tps(Ours) / tps(other), Rule::AtLeast(limit)));
            // Where nothing is waited for, it is processor time that limits throughput, and that does not depend on what
            // else the machine does.
            if case.synchronous_commit == "off" && case.clients > 1 {
                let what = format!("{}: the same by CPU of a transaction", case.name);
                report.target(Target::new(what, cpu(other) / cpu(Ours), Rule::AtLeast(limit)));
            }
        }
    }
    Ok(())
}

/// The turns of each contender.
async fn turns(server: &Server, effort: &Effort, case: &Case, script: &Path) -> Result<BTreeMap<String, Vec<Turn>>> {
    let mut turns: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
    for round in 1..=effort.rounds {
        eprintln!("{}: round {round} of {}", case.name, effort.rounds);
        for contender in case.contenders {
            contender.reset(server).await?;
            let name = contender.to_string();
            let mut command = server.pgbench(&name);
            command
                .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
                .arg(format!("--client={}", case.clients))
                .arg(format!("--time={}", effort.seconds))
                .env("PGOPTIONS", format!("-c synchronous_commit={}", case.synchronous_commit));
            if case.insert {
                command.arg("--file").arg(script);
            }
            let before = server.sessions().await? + children("self")?;
            let output = command.output().await.context("run pgbench")?;
            ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
            let cpu = server.sessions().await? + children("self")? - before;
            let said = String::from_utf8_lossy(&output.stdout);
            let number = |label| number(&said, label).with_context(|| format!("pgbench did not say {label:?}"));
            let transactions = number("number of transactions actually processed: ")?;
            turns.entry(name).or_default().push(Turn { tps: number("tps = ")?, cpu: cpu / transactions * 1e6 });
        }
    }
    Ok(turns)
}

/// What stands after a label at the start of a line, such as `tps = 1234.5 (without initial connection time)`.
fn number(output: &str, label: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix(label)?.split([' ', '/']).next()?.parse().ok())
}
