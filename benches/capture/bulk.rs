//! Statements by one session: INSERT .. SELECT, COPY, UPDATE of 1, 100 and many rows, DELETE.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use futures::future::try_join_all;
use tokio_postgres::Client;

use crate::{
    Effort,
    contenders::Contender,
    measure::{Cost, Meter},
    report::{Report, Rule, Target},
    server::Server,
};

/// How many statements of one row are run, and of a hundred.
const STATEMENTS: (u32, u32) = (10_000, 500);
/// How many of them are on their way to the server at once, so that it need not wait for the client.
const PIPELINED: usize = 500;

/// One case.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Case {
    Insert,
    UpdateOne,
    UpdateHundred,
    UpdateMany,
    Delete,
    Copy,
}

impl Case {
    /// In the order in which they run: each finds what the one before has left.
    const ALL: [Self; 6] =
        [Self::Insert, Self::UpdateOne, Self::UpdateHundred, Self::UpdateMany, Self::Delete, Self::Copy];

    fn name(self, rows: u32) -> String {
        match self {
            Self::Insert => format!("INSERT .. SELECT of {rows} rows"),
            Self::UpdateOne => "UPDATE of 1 row".to_owned(),
            Self::UpdateHundred => "UPDATE of 100 rows".to_owned(),
            // The trap: a plan that was cached for one row.
            Self::UpdateMany => format!("UPDATE of {} rows, after one of 1 row", rows / 2),
            Self::Delete => format!("DELETE of {} rows", rows / 2),
            Self::Copy => format!("COPY of {rows} rows"),
        }
    }
}

/// Runs them all and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    let rows = effort.rows;
    let file = server.folder().join("source.copy");
    server.run("none", &format!("COPY source TO '{}'", file.display())).await?;
    let mut costs: BTreeMap<(Case, &str), Vec<Cost>> = BTreeMap::new();
    let names = Contender::ALL.map(|contender| (contender, contender.to_string()));
    for round in 1..=effort.rounds {
        eprintln!("bulk: round {round} of {}", effort.rounds);
        for (contender, name) in &names {
            for (case, cost) in one(server, *contender, rows, &file).await? {
                costs.entry((case, name)).or_default().push(cost);
            }
        }
    }
    for case in Case::ALL {
        for (_, name) in &names {
            if let Some(costs) = costs.get(&(case, name.as_str())) {
                let least = Cost::least(costs);
                report.figure(&case.name(rows), name, "server CPU", least.cpu, "µs/row");
                report.figure(&case.name(rows), name, "time", least.wall, "µs/row");
            }
        }
        judge(report, &case.name(rows), case);
    }
    Ok(())
}

/// What is to be met in a case.
fn judge(report: &mut Report, name: &str, case: Case) {
    let cpu = |report: &Report, contender: Contender| report.value(name, &contender.to_string(), "server CPU");
    if case == Case::Insert {
        let extra = |of| Some(cpu(report, of)? - cpu(report, Contender::Nothing)?);
        let targets: Vec<_> = [(Contender::Hasura, 1.0 / 3.0), (Contender::Pgq, 1.0 / 3.0), (Contender::Floor, 1.5)]
            .into_iter()
            .filter_map(|(other, limit)| {
                let what = format!("{name}: extra CPU over none, relative to that of {other}");
                Some(Target::new(what, extra(Contender::Ours)? / extra(other)?, Rule::AtMost(limit)))
            })
            .collect();
        for target in targets {
            report.target(target);
        }
    }
    let cheapest = Contender::RIVALS.iter().filter_map(|rival| cpu(report, *rival)).fold(f64::INFINITY, f64::min);
    if let Some(ours) = cpu(report, Contender::Ours) {
        let what = format!("{name}: CPU relative to the cheapest other trigger");
        report.target(Target::new(what, ours / cheapest, Rule::AtMost(1.05)));
    }
}

/// All cases of one contender, once.
async fn one(server: &Server, contender: Contender, rows: u32, file: &Path) -> Result<Vec<(Case, Cost)>> {
    let mut costs = Vec::new();
    contender.reset(server).await?;
    for case in Case::ALL {
        if contender == Contender::Floor && case != Case::Insert {
            continue;
        }
        if case == Case::Copy {
            contender.reset(server).await?;
        }
        // A new session for each: what an earlier case has cached helps or harms none.
        let client = server.connect(&contender.to_string()).await?;
        let (half, quarter) = (rows / 2, i64::from(rows / 4));
        let script = match case {
            // With the trigger off: the rows go into the log by themselves, at once.
            Case::Insert if contender == Contender::Floor => {
                client.batch_execute("ALTER TABLE orders DISABLE TRIGGER capture").await?;
                "INSERT INTO orders SELECT * FROM source;
                 INSERT INTO log (capture, op, matched, new) SELECT 1, 'I', B'1', row_to_json(s.*) FROM source AS s"
                    .to_owned()
            }
            Case::Insert => "INSERT INTO orders SELECT * FROM source".to_owned(),
            Case::Copy => format!("COPY orders FROM '{}'", file.display()),
            Case::UpdateMany => {
                client.batch_execute("UPDATE orders SET status = 'seen' WHERE id = 1").await?;
                format!("UPDATE orders SET status = 'paid' WHERE id <= {half}")
            }
            Case::Delete => format!("DELETE FROM orders WHERE id <= {half}"),
            Case::UpdateOne => {
                costs.push((case, updates(&client, STATEMENTS.0, 1, quarter).await?.each(STATEMENTS.0)));
                continue;
            }
            Case::UpdateHundred => {
                let cost = updates(&client, STATEMENTS.1, 100, quarter).await?;
                costs.push((case, cost.each(STATEMENTS.1 * 100)));
                continue;
            }
        };
        let written = if matches!(case, Case::Insert | Case::Copy) { rows } else { half };
        let meter = Meter::start(&client).await?;
        client.batch_execute(&script).await?;
        costs.push((case, meter.stop()?.each(written)));
        if contender == Contender::Floor {
            client.batch_execute("ALTER TABLE orders ENABLE TRIGGER capture").await?;
        }
    }
    Ok(costs)
}

/// So many UPDATEs of so many rows each, prepared, in one transaction, beyond id `first`.
async fn updates(client: &Client, statements: u32, rows: i64, first: i64) -> Result<Cost> {
    let update = "UPDATE orders SET status = $1, total = total + 1 WHERE id BETWEEN $2 AND $3";
    let update = client.prepare(update).await?;
    client.batch_execute("BEGIN").await?;
    // Some first, which fill the caches: an application's session lives for long.
    client.execute(&update, &[&"seen", &first, &(first + rows - 1)]).await?;
    let starts: Vec<i64> = (1..=i64::from(statements)).map(|n| first + n * rows).collect();
    let meter = Meter::start(client).await?;
    for some in starts.chunks(PIPELINED) {
        try_join_all(some.iter().map(|start| {
            let update = update.clone();
            async move { client.execute(&update, &[&"paid", start, &(start + rows - 1)]).await }
        }))
        .await?;
    }
    let cost = meter.stop()?;
    client.batch_execute("COMMIT").await?;
    Ok(cost)
}
