//! What installing would run, without running it.

use tokio_postgres::Transaction;

use super::{
    Admin, AdminError, OpenError, Owner,
    difference::{Standing, Wishes, difference},
    failed, in_schema,
    install::{Mode, segment_name},
    open::{MIGRATIONS, current_version, migrate},
};
use crate::{
    capture::{Plan, validate},
    log::{ConnectConfig, Definition, SCHEMA_VERSION},
    name::{Ident, ObjectName, TableName},
};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The database cannot be reached, or the log is not ours.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Of an EventTrigger: its table does not fit.
    #[error("EventTrigger {trigger}: {source}")]
    Install {
        /// The EventTrigger.
        trigger: ObjectName,
        /// What does not fit.
        source: AdminError,
    },
    /// Something else failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Admin {
    /// The SQL that opening the log and installing `definitions` would run, as a script for a person to read; empty if
    /// there is nothing to do. Changes nothing: what must be there to find out is made in a transaction and rolled back,
    /// and no lock is taken on a table of the application.
    pub async fn plan(
        config: &ConnectConfig,
        schema: &Ident,
        owner: &Owner,
        definitions: &[Definition],
    ) -> Result<String, PlanError> {
        let (client, _) = Self::connect(config).await?;
        let admin = Self::new(client, schema, owner);
        let mut client = admin.client.lock().await;
        let transaction = admin.begin(&mut client).await?;
        let mut script = String::new();
        let found = current_version(&transaction, schema).await?;
        if found < SCHEMA_VERSION {
            script.push_str(&in_schema("CREATE SCHEMA IF NOT EXISTS :schema;\n", schema));
            for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
                script.push_str(&in_schema(migration.sql, schema));
            }
            migrate(&transaction, schema, found, owner)
                .await
                .map_err(|source| failed("try the log's schema out", "", source))?;
        }
        let mut tables: Vec<&TableName> = definitions.iter().map(|definition| &definition.table).collect();
        tables.sort();
        tables.dedup();
        for table in tables {
            let wanted: Vec<&Definition> = definitions.iter().filter(|definition| definition.table == *table).collect();
            script.push_str(&admin.plan_table(&transaction, table, &wanted).await?);
        }
        transaction.rollback().await.map_err(|source| failed("end the plan", "", source))?;
        Ok(script)
    }

    async fn plan_table(
        &self,
        transaction: &Transaction<'_>,
        table: &TableName,
        wanted: &[&Definition],
    ) -> Result<String, PlanError> {
        let of = |definition: &Definition, source| PlanError::Install { trigger: definition.trigger.clone(), source };
        let Some(first) = wanted.first() else { return Ok(String::new()) };
        let facts = self.facts(transaction, table).await.map_err(|source| of(first, source))?;
        let mut definitions = self.definitions(transaction, table).await?;
        let mut wishes = Wishes::default();
        let stays = |(_, there): &&(i32, Definition)| !wanted.iter().any(|wanted| wanted.trigger == there.trigger);
        wishes.others = definitions.iter().filter(stays).map(|(_, there)| there.trigger.to_string()).collect();
        for definition in wanted {
            validate(definition, &facts).map_err(|problem| of(definition, AdminError::Invalid(problem)))?;
            self.may_read(transaction, definition).await.map_err(|source| of(definition, source))?;
            let next = definitions.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
            match definitions.iter_mut().find(|(_, there)| there.trigger == definition.trigger) {
                Some((_, there)) if there == *definition => {}
                Some((_, there)) => {
                    wishes.changed.push(definition.trigger.to_string());
                    there.clone_from(definition);
                }
                None => {
                    wishes.new.push(definition.trigger.to_string());
                    definitions.push((next, (*definition).clone()));
                }
            }
        }
        let mut script = String::new();
        self.bring(transaction, &facts, &definitions, &mut Mode::Script(&mut script)).await?;
        let segment = self.newest_segment(transaction).await.map_err(reading)?;
        let plan = Plan::new(&facts, definitions.iter().map(|(id, definition)| (*id, definition)));
        let (standing, capture) = self.standing_capture(transaction, facts.oid).await?;
        let install = plan.sql(&self.schema, &segment_name(segment), capture);
        let difference = difference(&wishes, &standing, &install);
        if !script.is_empty() || !difference.is_empty() {
            // A line break in a name would end the comment.
            let table = table.plain().replace(['\n', '\r'], " ");
            script.insert_str(0, &format!("\n-- Table {table}\n{difference}"));
        }
        Ok(script)
    }

    /// What of the table's capture is there, and the number of its version; a new version would only have another number.
    async fn standing_capture(&self, transaction: &Transaction<'_>, oid: u32) -> Result<(Standing, i32), AdminError> {
        let rows = transaction
            .query(
                &self.sql(
                    "SELECT t.tgname::text, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text, p.proname::text, p.prosrc
                     FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
                     WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND p.pronamespace = ':schema'::pg_catalog.regnamespace
                     ORDER BY t.tgname",
                ),
                &[&oid],
            )
            .await
            .map_err(reading)?;
        let standing = Standing {
            triggers: rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
            functions: rows.iter().map(|row| (row.get(3), row.get(4))).collect(),
        };
        let version = self.sql("SELECT id FROM :schema.capture WHERE relation = $1 AND NOT retired");
        let version = transaction.query_opt(&version, &[&oid]).await.map_err(reading)?;
        Ok((standing, version.map_or(1, |row| row.get(0))))
    }
}

fn reading(source: tokio_postgres::Error) -> AdminError {
    failed("read what is installed", "", source)
}
