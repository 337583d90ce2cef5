//! Transactions of many sessions, by `pgbench`: INSERTs of one row, and its own transaction, which is like TPC-B.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    Effort,
    contenders::Contender::{self, Floor, Hasura, Nothing, Ours, Pgq, Row},
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
        contenders: &[Nothing, Ours],
        targets: &[(Nothing, 0.9)],
    },
    Case {
        name: "INSERT of 1 row, 1 client, synchronous_commit off",
        insert: true,
        clients: 1,
        synchronous_commit: "off",
        contenders: &[Nothing, Ours],
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
        let rates = rates(server, effort, &case, &script).await?;
        for contender in case.contenders {
            let name = contender.to_string();
            let tps = median(rates[&name].clone());
            report.figure(case.name, &name, "throughput", tps, "transactions/s");
            // Within a round, because the machine's speed changes between them.
            let ratios = rates[&name].iter().zip(&rates["none"]).map(|(tps, none)| tps / none).collect();
            report.figure(case.name, &name, "throughput relative to none", median(ratios), "ratio");
        }
        for (other, limit) in case.targets {
            let pairs = rates["ours"].iter().zip(&rates[&other.to_string()]);
            let ratio = median(pairs.map(|(ours, other)| ours / other).collect());
            let what = format!("{}: throughput relative to {other}", case.name);
            report.target(Target::new(what, ratio, Rule::AtLeast(*limit)));
        }
    }
    Ok(())
}

/// Transactions a second of each contender, by round.
async fn rates(server: &Server, effort: &Effort, case: &Case, script: &Path) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
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
            let output = command.output().await.context("run pgbench")?;
            ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
            let tps = tps(&String::from_utf8_lossy(&output.stdout)).context("pgbench told no tps")?;
            rates.entry(name).or_default().push(tps);
        }
    }
    Ok(rates)
}

/// From the line `tps = 1234.5 (without initial connection time)`.
fn tps(output: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
