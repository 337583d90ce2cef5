//! Who is compared: each in a database of its own, with the same tables.

use std::fmt;

use anyhow::Result;

use crate::{
    log::{everything, open},
    server::Server,
};

/// Something that captures changes, or does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contender {
    /// No trigger.
    Nothing,
    /// Ours, installed through the library.
    Ours,
    /// The least that capturing can cost.
    Floor,
    /// A plain row trigger.
    Row,
    /// `pgq.jsontriga`, written in C. It logs the new row only, or the old one of a DELETE.
    Pgq,
    /// Hasura's event triggers.
    Hasura,
}

impl Contender {
    /// All there are.
    pub(crate) const ALL: [Self; 6] = [Self::Nothing, Self::Ours, Self::Floor, Self::Row, Self::Pgq, Self::Hasura];

    /// The others that capture every operation: what ours is compared with.
    pub(crate) const RIVALS: [Self; 3] = [Self::Row, Self::Pgq, Self::Hasura];

    /// Makes its database.
    pub(crate) async fn prepare(self, server: &Server, rows: u32) -> Result<()> {
        database(server, &self.to_string(), rows).await?;
        let client = server.connect(&self.to_string()).await?;
        client
            .batch_execute(match self {
                Self::Nothing | Self::Ours => "",
                Self::Floor => include_str!("sql/floor.sql"),
                Self::Row => include_str!("sql/row.sql"),
                Self::Pgq => "CREATE EXTENSION pgq; SELECT pgq.create_queue('bench')",
                Self::Hasura => include_str!("sql/hasura.sql"),
            })
            .await?;
        Ok(())
    }

    /// Captures every operation on these tables, which are in the schema `public`.
    pub(crate) async fn install(self, server: &Server, tables: &[&str]) -> Result<()> {
        if self == Self::Ours {
            let admin = open(server, &self.to_string()).await?;
            for table in tables {
                admin.install(table, &everything(table, table)).await?;
            }
            return Ok(());
        }
        for table in tables {
            server.run(&self.to_string(), &self.triggers(table)).await?;
        }
        Ok(())
    }

    fn triggers(self, table: &str) -> String {
        let by_row = |function: &str, operations: &str| {
            format!("CREATE TRIGGER capture AFTER {operations} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}")
        };
        match self {
            Self::Nothing | Self::Ours => String::new(),
            Self::Floor => by_row("capture()", "INSERT"),
            Self::Row => by_row("capture()", "INSERT OR UPDATE OR DELETE"),
            Self::Pgq => by_row("pgq.jsontriga('bench')", "INSERT OR UPDATE OR DELETE"),
            Self::Hasura => ["INSERT", "UPDATE", "DELETE"].map(|operation| hasura(table, operation)).concat(),
        }
    }

    /// Empties the table and the log, so that every run starts alike. What `DELETE` would leave behind is gone too.
    pub(crate) async fn reset(self, server: &Server) -> Result<()> {
        let log = match self {
            Self::Nothing => "",
            // Its segments with it.
            Self::Ours => ", eventlog.event",
            Self::Floor | Self::Row => ", log",
            // The tables that its triggers fill inherit from it.
            Self::Pgq => ", pgq.event_template",
            Self::Hasura => ", hdb_catalog.event_log",
        };
        server.run(&self.to_string(), &format!("TRUNCATE orders{log}; CHECKPOINT")).await
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "none",
            Self::Ours => "ours",
            Self::Floor => "floor",
            Self::Row => "row",
            Self::Pgq => "pgq",
            Self::Hasura => "hasura",
        })
    }
}

/// Hasura's trigger of one operation, as its templates render it for all columns.
fn hasura(table: &str, operation: &str) -> String {
    let row = |there: bool, row: &str| if there { format!("row_to_json({row})") } else { "NULL".to_owned() };
    include_str!("sql/hasura_trigger.sql")
        .replace(":table", table)
        .replace(":old_row", "row(OLD.*)")
        .replace(":new_row", "row(NEW.*)")
        .replace(":old", &row(operation != "INSERT", "OLD"))
        .replace(":new", &row(operation != "DELETE", "NEW"))
        .replace(":op", operation)
}

/// Makes a database with so many rows to write, and an empty table for them.
pub(crate) async fn database(server: &Server, name: &str, rows: u32) -> Result<()> {
    server.run("postgres", &format!("CREATE DATABASE {name}")).await?;
    server.run(name, &include_str!("sql/tables.sql").replace(":rows", &rows.to_string())).await?;
    // On its own: it refuses to run in a transaction, which a script of several statements is.
    server.run(name, "VACUUM (FREEZE, ANALYZE) source").await
}
