//! What installing would run, without running it.

use tokio_postgres::Transaction;

use super::{
    Admin, AdminError, OpenError, Owner, failed, in_schema,
    install::Mode,
    open::{MIGRATIONS, current_version, migrate},
};
use crate::{
    capture::validate,
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
            for migration in &MIGRATIONS[usize::try_from(found).unwrap_or_default()..] {
                script.push_str(&in_schema(migration, schema));
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
        for definition in wanted {
            validate(definition, &facts).map_err(|problem| of(definition, AdminError::Invalid(problem)))?;
            let next = definitions.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
            match definitions.iter_mut().find(|(_, there)| there.trigger == definition.trigger) {
                Some((_, there)) => there.clone_from(definition),
                None => definitions.push((next, (*definition).clone())),
            }
        }
        let mut script = String::new();
        self.bring(transaction, &facts, &definitions, &mut Mode::Script(&mut script)).await?;
        if !script.is_empty() {
            // A line break in a name would end the comment.
            script.insert_str(0, &format!("\n-- Capture of table {}\n", table.plain().replace(['\n', '\r'], " ")));
        }
        Ok(script)
    }
}
