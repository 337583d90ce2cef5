//! Installing and removing: the definition and the SQL triggers of its table change in one transaction.

use tokio_postgres::{Client, Transaction};

use super::{Admin, AdminError, Installed, failed};
use crate::{
    capture::{Plan, TableFacts, trigger_name, validate},
    log::{Definition, Operation},
    name::{Ident, Literal, ObjectName, TableName},
};

/// How long a lock is waited for, and so how long at most writers stand behind us when a long transaction has the table.
const LOCK_TIMEOUT: &str = "100ms";
/// How often installing is tried before the caller hears that the table is locked.
const TRIES: u32 = 5;
/// The segment that capture fills.
const SEGMENT: &str = "event_1";

impl Admin {
    /// Writes a definition, and brings the SQL triggers of its table to what all of the table's definitions want, in one
    /// transaction. Changes nothing if nothing differs. Waits briefly for locks, then gives up with [`AdminError::Locked`].
    ///
    /// `uid` is the EventTrigger's; a definition of the same namespace and name with another UID is taken over, with its cursor.
    pub async fn install(&self, uid: &str, definition: &Definition) -> Result<Installed, AdminError> {
        let mut client = self.client.lock().await;
        for _ in 1..TRIES {
            match self.try_install(&mut client, uid, definition).await {
                Err(AdminError::Locked(_)) => {}
                other => return other,
            }
        }
        self.try_install(&mut client, uid, definition).await
    }

    async fn try_install(
        &self,
        client: &mut Client,
        uid: &str,
        definition: &Definition,
    ) -> Result<Installed, AdminError> {
        let table = &definition.table;
        let transaction = self.begin(client).await?;
        let facts = self.facts(&transaction, table).await?;
        validate(definition, &facts).map_err(AdminError::Invalid)?;
        let written = self.write(&transaction, uid, definition).await?;
        let installed = self.bring(&transaction, &facts).await?;
        self.commit(transaction, written || installed.changed).await?;
        Ok(Installed { changed: written || installed.changed, ..installed })
    }

    /// Removes an EventTrigger's definition and cursor, and what of its table's capture nobody else wants.
    pub async fn remove(&self, trigger: &ObjectName) -> Result<(), AdminError> {
        let mut client = self.client.lock().await;
        for _ in 1..TRIES {
            match self.try_remove(&mut client, trigger).await {
                Err(AdminError::Locked(_)) => {}
                other => return other,
            }
        }
        self.try_remove(&mut client, trigger).await
    }

    async fn try_remove(&self, client: &mut Client, trigger: &ObjectName) -> Result<(), AdminError> {
        let transaction = self.begin(client).await?;
        let row = transaction
            .query_opt(
                &self.sql(
                    "DELETE FROM :schema.trigger WHERE namespace = $1 AND name = $2 RETURNING table_schema, table_name",
                ),
                &[&trigger.namespace, &trigger.name],
            )
            .await
            .map_err(|source| failed("remove a definition", "", source))?;
        let Some(row) = row else { return Ok(()) };
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        match self.facts(&transaction, &table).await {
            Ok(facts) => drop(self.bring(&transaction, &facts).await?),
            // The table is gone, renamed, or not ours to change: what is left of its capture must not hold the deletion up.
            Err(AdminError::Invalid(_)) => self.forget(&transaction, &table).await?,
            Err(other) => return Err(other),
        }
        self.commit(transaction, true).await
    }

    async fn begin<'a>(&self, client: &'a mut Client) -> Result<Transaction<'a>, AdminError> {
        let start = |source| failed("begin to install", "", source);
        let transaction = client.transaction().await.map_err(start)?;
        // The advisory lock keeps two controllers apart; the first lock on a table of the application comes after it.
        let begin = format!(
            "SET LOCAL lock_timeout = '2s'; SET LOCAL standard_conforming_strings = on; SET LOCAL search_path = pg_catalog;
             SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended({}, 0));
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'",
            Literal(&format!("eventtrigger {}", self.schema.as_str()))
        );
        transaction.batch_execute(&begin).await.map_err(start)?;
        Ok(transaction)
    }

    async fn commit(&self, transaction: Transaction<'_>, changed: bool) -> Result<(), AdminError> {
        let end = |source| failed("commit", "", source);
        if !changed {
            return transaction.rollback().await.map_err(end);
        }
        let count = self.sql("UPDATE :schema.meta SET definitions = definitions + 1");
        transaction.batch_execute(&count).await.map_err(end)?;
        transaction.commit().await.map_err(end)
    }

    /// Writes the definition, with a cursor at this moment if it is new; tells whether anything changed.
    async fn write(
        &self,
        transaction: &Transaction<'_>,
        uid: &str,
        definition: &Definition,
    ) -> Result<bool, AdminError> {
        let table = &definition.table;
        let text = serde_json::to_string(definition).map_err(AdminError::Corrupt)?;
        let rows = transaction
            .query(
                &self.sql(
                    "INSERT INTO :schema.trigger AS t (uid, namespace, name, table_schema, table_name, definition)
                     VALUES ($1, $2, $3, $4, $5, $6::text::json)
                     ON CONFLICT (namespace, name) DO UPDATE SET uid = excluded.uid, definition = excluded.definition,
                         table_schema = excluded.table_schema, table_name = excluded.table_name
                     WHERE t.uid <> excluded.uid OR t.definition::text <> excluded.definition::text
                     RETURNING id",
                ),
                &[
                    &uid,
                    &definition.trigger.namespace,
                    &definition.trigger.name,
                    &table.schema.as_str(),
                    &table.name.as_str(),
                    &text,
                ],
            )
            .await
            .map_err(|source| failed("write a definition", &table.plain(), source))?;
        let Some(row) = rows.first() else { return Ok(false) };
        transaction
            .execute(
                &self.sql("INSERT INTO :schema.cursor (trigger_id, cut) VALUES ($1, pg_current_snapshot()) ON CONFLICT DO NOTHING"),
                &[&row.get::<_, i32>(0)],
            )
            .await
            .map_err(|source| failed("write a cursor", &table.plain(), source))?;
        Ok(true)
    }

    /// Brings the table's SQL triggers to what its definitions want.
    async fn bring(&self, transaction: &Transaction<'_>, facts: &TableFacts) -> Result<Installed, AdminError> {
        let table = &facts.name;
        let definitions = self.definitions(transaction, table).await?;
        let plan = Plan::new(facts, definitions.iter().map(|(id, definition)| (*id, definition)));
        let fingerprint = plan.fingerprint();
        let doing = || format!("install capture on table {}", table.plain());
        let failed = |source| failed(doing(), &table.plain(), source);
        let current = transaction
            .query_opt(
                &self.sql(
                    "SELECT plan = $2 AND state = :schema.state(relation) AND table_schema = $3 AND table_name = $4, sql_triggers
                     FROM :schema.capture WHERE relation = $1 AND NOT retired",
                ),
                &[&facts.oid, &fingerprint, &table.schema.as_str(), &table.name.as_str()],
            )
            .await
            .map_err(failed)?;
        if let Some(current) = current.as_ref().filter(|row| row.get(0)) {
            return Ok(Installed { sql_triggers: current.get(1), changed: false });
        }
        let wanted: Vec<Ident> =
            plan.operations.iter().map(|wanted| trigger_name(&self.schema, wanted.operation)).collect();
        let names: Vec<&str> = wanted.iter().map(Ident::as_str).collect();
        transaction
            .execute(
                // Also what was captured under this name before the table was dropped and made again.
                &self.sql(
                    "UPDATE :schema.capture SET retired = true
                     WHERE NOT retired AND (relation = $1 OR table_schema = $2 AND table_name = $3)",
                ),
                &[&facts.oid, &table.schema.as_str(), &table.name.as_str()],
            )
            .await
            .map_err(failed)?;
        self.drop_unwanted(transaction, facts, &names).await?;
        if wanted.is_empty() {
            return Ok(Installed { sql_triggers: Vec::new(), changed: current.is_some() });
        }
        let key: Vec<&str> = plan.key.iter().map(Ident::as_str).collect();
        let capture: i32 = transaction
            .query_one(
                &self.sql(
                    "INSERT INTO :schema.capture (relation, table_schema, table_name, key, triggers, sql_triggers, plan)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
                ),
                &[&facts.oid, &table.schema.as_str(), &table.name.as_str(), &key, &plan.triggers, &names, &fingerprint],
            )
            .await
            .map_err(failed)?
            .get(0);
        let sql = plan.sql(&self.schema, &Ident::new(SEGMENT), capture);
        for statement in &sql.functions {
            transaction.batch_execute(statement).await.map_err(failed)?;
        }
        let standing = self.standing(transaction, facts, &sql.triggers).await.map_err(failed)?;
        for (name, statement) in &sql.triggers {
            // A SQL trigger that stands as it should is left alone: making it anew would block writers.
            if !standing.contains(name) {
                transaction.batch_execute(statement).await.map_err(failed)?;
            }
        }
        transaction
            .execute(&self.sql("UPDATE :schema.capture SET state = :schema.state(relation) WHERE id = $1"), &[&capture])
            .await
            .map_err(failed)?;
        Ok(Installed { sql_triggers: names.into_iter().map(ToOwned::to_owned).collect(), changed: true })
    }

    /// Those of the wanted SQL triggers that stand on the table as they should: enabled, of the right level, calling ours.
    async fn standing(
        &self,
        transaction: &Transaction<'_>,
        facts: &TableFacts,
        wanted: &[(Ident, String)],
    ) -> Result<Vec<Ident>, tokio_postgres::Error> {
        let rows = transaction
            .query(
                "SELECT t.tgname::text, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled = 'O'
                 FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = $1 AND NOT t.tgisinternal",
                &[&facts.oid],
            )
            .await?;
        // PostgreSQL writes the definition its own way, so what decides is compared: the level, the rows' name, the function.
        let marks = |sql: &str| {
            let (before, function) = sql.rsplit_once("EXECUTE FUNCTION ").unwrap_or((sql, ""));
            (before.contains("FOR EACH ROW"), before.contains("eventtrigger_rows"), function.replace('"', ""))
        };
        let stands = |name: &str, sql: &str| {
            wanted.iter().find(|(wanted, statement)| wanted.as_str() == name && marks(statement) == marks(sql))
        };
        let found = |row: &tokio_postgres::Row| {
            stands(row.get(0), row.get(1)).filter(|_| row.get(2)).map(|(name, _)| name.clone())
        };
        Ok(rows.iter().filter_map(found).collect())
    }

    /// Drops our SQL triggers that are not in `keep`, and then the functions that no SQL trigger calls any more.
    async fn drop_unwanted(
        &self,
        transaction: &Transaction<'_>,
        facts: &TableFacts,
        keep: &[&str],
    ) -> Result<(), AdminError> {
        let table = &facts.name;
        let doing = || format!("remove capture from table {}", table.plain());
        for operation in [Operation::Insert, Operation::Update, Operation::Delete] {
            let name = trigger_name(&self.schema, operation);
            if keep.contains(&name.as_str()) {
                continue;
            }
            let function = Ident::new(format!("capture_{}_{}", facts.oid, operation.to_string().to_lowercase()));
            let drop = format!("DROP FUNCTION IF EXISTS {}.{function}() CASCADE", self.schema);
            transaction.batch_execute(&drop).await.map_err(|source| failed(doing(), &table.plain(), source))?;
        }
        Ok(())
    }

    /// The table is not there under its name: removes what was captured under it, wherever it is.
    async fn forget(&self, transaction: &Transaction<'_>, table: &TableName) -> Result<(), AdminError> {
        if !self.definitions(transaction, table).await?.is_empty() {
            return Ok(());
        }
        let failed = |source| failed(format!("remove capture from table {}", table.plain()), &table.plain(), source);
        let rows = transaction
            .query(
                &self.sql("UPDATE :schema.capture SET retired = true WHERE NOT retired AND table_schema = $1 AND table_name = $2 RETURNING relation"),
                &[&table.schema.as_str(), &table.name.as_str()],
            )
            .await
            .map_err(failed)?;
        for row in rows {
            let oid: u32 = row.get(0);
            for operation in ["insert", "update", "delete"] {
                let drop = format!("DROP FUNCTION IF EXISTS {}.\"capture_{oid}_{operation}\"() CASCADE", self.schema);
                transaction.batch_execute(&drop).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The SQL that [`Admin::install`] would run for these definitions, changing nothing. One script for a person to read.
    pub async fn plan(&self, definitions: &[Definition]) -> Result<String, AdminError> {
        let mut client = self.client.lock().await;
        let transaction = self.begin(&mut client).await?;
        let mut tables: Vec<&TableName> = definitions.iter().map(|definition| &definition.table).collect();
        tables.sort();
        tables.dedup();
        let mut script = String::new();
        for table in tables {
            let facts = self.facts(&transaction, table).await?;
            let of_table = definitions.iter().filter(|definition| definition.table == *table);
            for definition in of_table.clone() {
                validate(definition, &facts).map_err(AdminError::Invalid)?;
            }
            let plan = Plan::new(&facts, (1..).zip(of_table));
            let sql = plan.sql(&self.schema, &Ident::new(SEGMENT), 1);
            script.push_str(&format!("-- {}\n", table.plain().replace('\n', " ")));
            for statement in sql.functions.iter().chain(sql.triggers.iter().map(|(_, statement)| statement)) {
                script.push_str(statement);
                script.push_str(";\n");
            }
        }
        transaction.rollback().await.map_err(|source| failed("end", "", source))?;
        Ok(script)
    }

    /// Leaves the log in place, ready to be taken over by an EventLog of the same namespace and name.
    pub async fn release(&self) -> Result<(), AdminError> {
        let client = self.client.lock().await;
        client
            .execute(&self.sql("UPDATE :schema.meta SET released = true WHERE owner_uid = $1"), &[&self.owner.uid])
            .await
            .map_err(|source| failed("release the log", "", source))?;
        Ok(())
    }

    /// Drops the schema and every SQL trigger that fills it.
    pub async fn drop_log(&self) -> Result<(), AdminError> {
        let client = self.client.lock().await;
        let drop = format!("SET lock_timeout = '2s'; DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
        client.batch_execute(&drop).await.map_err(|source| failed("drop the log", "", source))
    }
}
