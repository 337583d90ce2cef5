//! What several EventTriggers on one table cost its writer, and one whose columns did not change.

use std::collections::BTreeMap;

use anyhow::Result;
use eventtrigger::{
    log::{
        Definition,
        definition::{Columns, Updates},
    },
    name::Ident,
};

use crate::{
    Effort,
    contenders::database,
    log::{everything, open},
    measure::{Cost, Meter},
    report::{Report, Rule, Target},
    server::Server,
};

/// Its own database.
const DATABASE: &str = "many";
/// Rows of the statement.
const ROWS: u32 = 20_000;
/// A table without a trigger, with one, and with ten.
const TABLES: [(&str, usize); 3] = [("none", 0), ("one", 1), ("ten", 10)];
/// What the ten show and listen to: all have a condition of their own.
const WANTED: [(&[&str], &[&str]); 10] = [
    (&["id", "status"], &["status"]),
    (&["id", "total"], &["total"]),
    (&["id", "status", "total"], &["status", "total"]),
    (&["id", "note"], &["note"]),
    (&["id", "customer", "status"], &["customer", "status"]),
    (&["id", "paid"], &["paid"]),
    (&["id", "currency", "total"], &["currency", "total"]),
    (&["id", "created"], &["created", "status"]),
    (&["id", "status", "paid"], &["status", "paid"]),
    (&["id", "customer", "status", "total", "currency", "note", "created", "paid"], &["customer", "total", "paid"]),
];

/// What is written: `status` is what the one listens to, to `currency` it does not.
const UPDATES: [(&str, &str); 2] =
    [("UPDATE of a column listened to", "status"), ("UPDATE of a column not listened to", "currency")];

/// Runs it and reports.
pub(crate) async fn run(server: &Server, effort: &Effort, report: &mut Report) -> Result<()> {
    database(server, DATABASE, ROWS).await?;
    for (table, triggers) in TABLES {
        let make = format!("CREATE TABLE \"{table}\" (LIKE source, PRIMARY KEY (id))");
        server.run(DATABASE, &make).await?;
        let admin = open(server, DATABASE).await?;
        for (n, (shown, listened)) in WANTED.iter().take(triggers).enumerate() {
            // The one shows all columns, as the ten do together.
            let columns = if triggers == 1 { Columns::All } else { Columns::Include(idents(shown)) };
            let mut definition = Definition { columns, ..everything(&format!("{table}-{n}"), table) };
            definition.on.update = Some(Updates::Of(idents(listened)));
            admin.install(&definition.trigger.name.clone(), &definition).await?;
        }
    }
    let mut costs: BTreeMap<(&str, &str), Vec<Cost>> = BTreeMap::new();
    for round in 1..=effort.rounds {
        eprintln!("many triggers: round {round} of {}", effort.rounds);
        for (name, column) in UPDATES {
            for (table, _) in TABLES {
                costs.entry((name, table)).or_default().push(update(server, table, column).await?);
            }
        }
    }
    let least = |name: &str, table: &str| costs.get(&(name, table)).map_or(f64::NAN, |costs| Cost::least(costs).cpu);
    for (name, _) in UPDATES {
        for (table, _) in TABLES {
            let case = format!("{name}, {ROWS} rows, EventTriggers: {table}");
            report.figure(
                &case,
                if table == "none" { "none" } else { "ours" },
                "server CPU",
                least(name, table),
                "µs/row",
            );
        }
    }
    let [(matching, _), (other, _)] = UPDATES;
    report.target(Target::new(
        "ten EventTriggers on a table: CPU of an UPDATE relative to one".to_owned(),
        least(matching, "ten") / least(matching, "one"),
        Rule::AtMost(1.15),
    ));
    report.target(Target::new(
        format!("{other}: extra CPU over none, µs/row"),
        least(other, "one") - least(other, "none"),
        Rule::AtMost(0.5),
    ));
    Ok(())
}

async fn update(server: &Server, table: &str, column: &str) -> Result<Cost> {
    let reset = format!(
        "TRUNCATE \"{table}\", eventlog.event; ALTER TABLE \"{table}\" DISABLE TRIGGER USER;
         INSERT INTO \"{table}\" SELECT * FROM source WHERE id <= {ROWS};
         ALTER TABLE \"{table}\" ENABLE TRIGGER USER; CHECKPOINT"
    );
    server.run(DATABASE, &reset).await?;
    let client = server.connect(DATABASE).await?;
    let meter = Meter::start(&client).await?;
    client.batch_execute(&format!("UPDATE \"{table}\" SET {column} = 'xyz'")).await?;
    Ok(meter.stop()?.each(ROWS))
}

fn idents(names: &[&str]) -> Vec<Ident> {
    names.iter().copied().map(Ident::new).collect()
}
