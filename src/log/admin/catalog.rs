//! What the catalog and the log's schema hold, read into the types of [`crate::capture`].

use tokio_postgres::{Transaction, error::SqlState};

use super::{Admin, AdminError, CaptureState, failed};
use crate::{
    capture::{Column, Compare, Kind, Problem, Rights, Size, TableFacts, not_found},
    log::{Definition, explain},
    name::{Ident, ObjectName, TableName},
};

/// How many tables are looked at for near names.
const KNOWN: i64 = 5000;

impl Admin {
    /// Looks at every captured table: one query, nothing is changed.
    pub async fn look(&self) -> Result<Vec<CaptureState>, AdminError> {
        let client = self.client.lock().await;
        let rows = client
            .query(&self.sql(include_str!("../sql/look.sql")), &[])
            .await
            .map_err(|source| failed("look at the captured tables", "", source))?;
        let name = |whole: String| {
            let (namespace, name) = whole.split_once('/').unwrap_or_default();
            ObjectName::new(namespace, name)
        };
        let state = |row: tokio_postgres::Row| CaptureState {
            table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            triggers: row.get::<_, Vec<String>>(2).into_iter().map(name).collect(),
            drift: row.get(3),
        };
        Ok(rows.into_iter().map(state).collect())
    }

    /// Facts of a table.
    pub(super) async fn facts(
        &self,
        transaction: &Transaction<'_>,
        table: &TableName,
    ) -> Result<TableFacts, AdminError> {
        let read = |source| failed(format!("read the catalog about table {}", table.plain()), &table.plain(), source);
        let (schema, name) = (table.schema.as_str(), table.name.as_str());
        let row = transaction
            .query_opt(&self.sql(include_str!("../sql/facts.sql")), &[&schema, &name])
            .await
            .map_err(read)?;
        let Some(row) = row else {
            return Err(AdminError::Invalid(self.missing(transaction, table).await.map_err(read)?));
        };
        let kind = match row.get::<_, &str>(1) {
            "r" => Kind::Table,
            "p" => Kind::Partitioned,
            "t" => Kind::Temporary,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::Foreign,
            "s" => Kind::System,
            _ => Kind::Other,
        };
        let idents = |names: Vec<String>| names.into_iter().map(Ident::new).collect::<Vec<_>>();
        let column = |(((name, size), oid), modifier): (((Ident, &str), u32), i32)| {
            let size = match size {
                "limited" => Size::Limited,
                "text" => Size::Text,
                "json" => Size::Json,
                "jsonb" => Size::Jsonb,
                _ => Size::Other,
            };
            Column { name, size, compare: Compare::of(oid, modifier) }
        };
        let ident = |column| Ident::new(row.get::<_, String>(column));
        let rights = Rights { role: ident(9), trigger: row.get(8), owner: ident(10), owns: row.get(11) };
        Ok(TableFacts {
            name: table.clone(),
            oid: row.get(0),
            kind,
            columns: idents(row.get(2))
                .into_iter()
                .zip(row.get::<_, Vec<&str>>(7))
                .zip(row.get::<_, Vec<u32>>("types"))
                .zip(row.get::<_, Vec<i32>>("modifiers"))
                .map(column)
                .collect(),
            key: idents(row.get(3)),
            in_hierarchy: row.get(4),
            has_row_triggers: row.get(5),
            rights,
            shape: row.get(6),
        })
    }

    /// Whether this role may read the settings that a definition names: some of extensions are for superusers only, and
    /// the capture function that asked for one would fail.
    pub(super) async fn may_read(
        &self,
        transaction: &Transaction<'_>,
        definition: &Definition,
    ) -> Result<(), AdminError> {
        let names: Vec<&str> = definition.context.settings().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        let read = "SELECT pg_catalog.current_setting(name, true) FROM pg_catalog.unnest($1::text[]) AS s (name)";
        let outcome = transaction.query(read, &[&names]).await;
        outcome.map(drop).map_err(|source| match source.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => AdminError::NotPermitted(format!(
                "spec.context: a setting is not for every role to read: {}; name settings of the application's own",
                explain(&source)
            )),
            _ => failed("read the settings of spec.context", &definition.table.plain(), source),
        })
    }

    /// There is no such table: was it renamed, or is it misspelt?
    async fn missing(
        &self,
        transaction: &Transaction<'_>,
        table: &TableName,
    ) -> Result<Problem, tokio_postgres::Error> {
        let (schema, name) = (table.schema.as_str(), table.name.as_str());
        let renamed = transaction
            .query_opt(
                &self.sql(
                    "SELECT n.nspname::text, c.relname::text FROM :schema.capture AS k JOIN pg_catalog.pg_class AS c ON c.oid = k.relation
                     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                     WHERE NOT k.retired AND k.table_schema = $1 AND k.table_name = $2",
                ),
                &[&schema, &name],
            )
            .await?;
        if let Some(row) = renamed {
            let now = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            return Ok(Problem {
                reason: "TableRenamed",
                message: format!(
                    "spec.table: {} is now called {}; its changes are still captured under the old name; rename it back, or make \
                     an EventTrigger for the new name and delete this one",
                    table.plain(),
                    now.plain()
                ),
            });
        }
        let rows = transaction
            .query(
                "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c
                 JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema'
                   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> $1
                 ORDER BY n.nspname <> $2, n.nspname, c.relname LIMIT $3",
                &[&self.schema.as_str(), &schema, &KNOWN],
            )
            .await?;
        let known = rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)));
        Ok(not_found(table, known))
    }

    /// The definitions on a table, each with its number.
    pub(super) async fn definitions(
        &self,
        transaction: &Transaction<'_>,
        table: &TableName,
    ) -> Result<Vec<(i32, Definition)>, AdminError> {
        let rows = transaction
            .query(
                &self.sql("SELECT id, definition::text FROM :schema.trigger WHERE table_schema = $1 AND table_name = $2 ORDER BY id"),
                &[&table.schema.as_str(), &table.name.as_str()],
            )
            .await
            .map_err(|source| failed("read the definitions", &table.plain(), source))?;
        let read = |row: &tokio_postgres::Row| {
            Ok((row.get(0), serde_json::from_str(row.get(1)).map_err(AdminError::Corrupt)?))
        };
        rows.iter().map(read).collect()
    }
}
