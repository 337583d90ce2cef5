//! Installing and removing: the definition and the SQL triggers of its table change in one transaction.

use tokio_postgres::{Client, Transaction};

use super::{Admin, AdminError, Installed, failed, open::alone};
use crate::{
    capture::{Plan, Problem, Rights, SqlTrigger, TableFacts, function_name, trigger_name, validate},
    log::{Definition, Operation},
    name::{Ident, ObjectName, TableName},
};

/// How long a lock is waited for, and so how long at most writers stand behind us when a long transaction has the table.
const LOCK_TIMEOUT: &str = "100ms";
/// How often installing is tried before the caller hears that the table is locked.
const TRIES: u32 = 5;

/// Whether statements that touch the application's tables are run, or only written down.
pub(super) enum Mode<'a> {
    /// Run.
    Run,
    /// Written down.
    Script(&'a mut String),
}

impl Mode<'_> {
    async fn execute(&mut self, transaction: &Transaction<'_>, statement: &str) -> Result<(), tokio_postgres::Error> {
        match self {
            Self::Run => transaction.batch_execute(statement).await,
            Self::Script(script) => {
                script.push_str(statement);
                script.push_str(";\n");
                Ok(())
            }
        }
    }
}

/// A new version of a table's capture.
struct Version<'a> {
    plan: &'a Plan,
    /// The plan as JSON.
    written: &'a str,
    names: Vec<String>,
    sql_triggers: &'a [String],
    segment: i32,
}

fn names_of(definitions: &[(i32, Definition)]) -> Vec<String> {
    definitions.iter().map(|(_, definition)| definition.trigger.to_string()).collect()
}

/// The table of a segment.
pub(super) fn segment_name(number: i32) -> Ident {
    Ident::new(format!("event_{number}"))
}

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
        self.may_read(&transaction, definition).await?;
        let written = self.write(&transaction, uid, definition).await?;
        let definitions = self.definitions(&transaction, table).await?;
        let installed = self.bring(&transaction, &facts, &definitions, &mut Mode::Run).await?;
        self.commit(transaction, written || installed.changed).await?;
        Ok(Installed { changed: written || installed.changed, ..installed })
    }

    /// Has the log's workers deliver an EventTrigger that had workers of its own: they go, and capture stays.
    pub async fn share(&self, trigger: &ObjectName) -> Result<(), AdminError> {
        let mut client = self.client.lock().await;
        let transaction = self.begin(&mut client).await?;
        let failed = |source| failed(format!("give EventTrigger {trigger} to the log's workers"), "", source);
        let find =
            self.sql("SELECT definition::text FROM :schema.trigger WHERE namespace = $1 AND name = $2 FOR UPDATE");
        let found = transaction.query_opt(&find, &[&trigger.namespace, &trigger.name]).await.map_err(failed)?;
        let Some(found) = found else { return Ok(()) };
        let definition: Definition = serde_json::from_str(found.get(0)).map_err(AdminError::Corrupt)?;
        let shared = Definition { own_workers: None, ..definition };
        let text = serde_json::to_string(&shared).map_err(AdminError::Corrupt)?;
        let write =
            self.sql("UPDATE :schema.trigger SET definition = $3::text::json WHERE namespace = $1 AND name = $2");
        transaction.execute(&write, &[&trigger.namespace, &trigger.name, &text]).await.map_err(failed)?;
        self.commit(transaction, true).await
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
                    "WITH gone AS (
                         DELETE FROM :schema.trigger WHERE namespace = $1 AND name = $2 RETURNING id, table_schema, table_name
                     ), slots AS (
                         DELETE FROM :schema.lease AS l USING gone WHERE l.pool = gone.id
                     )
                     SELECT table_schema, table_name FROM gone",
                ),
                &[&trigger.namespace, &trigger.name],
            )
            .await
            .map_err(|source| failed("remove a definition", "", source))?;
        let Some(row) = row else { return Ok(()) };
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        match self.facts(&transaction, &table).await {
            Ok(facts) => {
                let definitions = self.definitions(&transaction, &table).await?;
                self.bring(&transaction, &facts, &definitions, &mut Mode::Run).await?;
            }
            // The table is gone, renamed, or not ours to change: what is left of its capture must not hold the deletion up.
            Err(AdminError::Invalid(_)) => self.forget(&transaction, &table).await?,
            Err(other) => return Err(other),
        }
        self.commit(transaction, true).await
    }

    pub(super) async fn begin<'a>(&self, client: &'a mut Client) -> Result<Transaction<'a>, AdminError> {
        let start = |source| failed("begin to install", "", source);
        let transaction = client.transaction().await.map_err(start)?;
        // The advisory lock keeps two controllers apart; the first lock on a table of the application comes after it.
        let begin = format!(
            "{}; SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'",
            alone(&self.schema)
        );
        transaction.batch_execute(&begin).await.map_err(start)?;
        Ok(transaction)
    }

    pub(super) async fn commit(&self, transaction: Transaction<'_>, changed: bool) -> Result<(), AdminError> {
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
        if definition.own_workers.is_some() {
            self.add_slots(transaction, row.get(0))
                .await
                .map_err(|source| failed("write slots", &table.plain(), source))?;
        }
        // Events of one that is not new are divided otherwise by its workers, when they come to the same cut.
        transaction
            .execute(
                &self.sql(
                    "SELECT :schema.divide($1, :schema.here(), NULL, 0, '{}')
                     WHERE NOT EXISTS (SELECT FROM :schema.cursor WHERE trigger_id = $1)",
                ),
                &[&row.get::<_, i32>(0)],
            )
            .await
            .map_err(|source| failed("write a cursor", &table.plain(), source))?;
        Ok(true)
    }

    /// Slots for the workers that an EventTrigger has of its own. They stay when it has none any more, so that their epochs only rise.
    async fn add_slots(&self, transaction: &Transaction<'_>, trigger: i32) -> Result<u64, tokio_postgres::Error> {
        let add = "INSERT INTO :schema.lease (pool, slot) SELECT $1, slot FROM :schema.lease WHERE pool = 0 ON CONFLICT DO NOTHING";
        transaction.execute(&self.sql(add), &[&trigger]).await
    }

    /// Brings the table's SQL triggers to what its definitions want.
    pub(super) async fn bring(
        &self,
        transaction: &Transaction<'_>,
        facts: &TableFacts,
        definitions: &[(i32, Definition)],
        mode: &mut Mode<'_>,
    ) -> Result<Installed, AdminError> {
        let table = &facts.name;
        let plan = Plan::new(facts, definitions.iter().map(|(id, definition)| (*id, definition)));
        let written = serde_json::to_string(&plan).map_err(AdminError::Corrupt)?;
        let failed = |source| failed(format!("install capture on table {}", table.plain()), &table.plain(), source);
        let current = transaction
            .query_opt(
                &self.sql(
                    "SELECT plan = $2 AND names = $5 AND state = :schema.state(relation) AND table_schema = $3 AND table_name = $4, sql_triggers
                     FROM :schema.capture WHERE relation = $1 AND NOT retired",
                ),
                &[&facts.oid, &written, &table.schema.as_str(), &table.name.as_str(), &names_of(definitions)],
            )
            .await
            .map_err(failed)?;
        if let Some(current) = current.as_ref().filter(|row| row.get(0)) {
            return Ok(Installed { sql_triggers: current.get(1), changed: false });
        }
        let names: Vec<Ident> =
            plan.operations.iter().map(|wanted| trigger_name(&self.schema, wanted.operation)).collect();
        let sql_triggers: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
        for statement in self.unwanted(transaction, facts, &plan).await.map_err(failed)? {
            mode.execute(transaction, &statement).await.map_err(failed)?;
        }
        let segment = self.newest_segment(transaction).await.map_err(failed)?;
        let version = Version {
            plan: &plan,
            written: &written,
            names: names_of(definitions),
            sql_triggers: &sql_triggers,
            segment,
        };
        let capture = self.record(transaction, &version, mode).await.map_err(failed)?;
        let sql = plan.sql(&self.schema, &segment_name(segment), capture);
        for statement in &sql.functions {
            mode.execute(transaction, statement).await.map_err(failed)?;
        }
        let standing = self.standing(transaction, facts, &sql.triggers).await.map_err(failed)?;
        // A SQL trigger that stands as it should is left alone: making it anew would block writers, and needs a right that
        // this role may have lost.
        for trigger in sql.triggers.iter().filter(|trigger| !standing.contains(&trigger.name)) {
            permitted(facts, trigger)?;
            for statement in [Some(&trigger.create), trigger.enable.as_ref()].into_iter().flatten() {
                mode.execute(transaction, statement).await.map_err(failed)?;
            }
        }
        transaction
            .execute(&self.sql("UPDATE :schema.capture SET state = :schema.state(relation) WHERE id = $1"), &[&capture])
            .await
            .map_err(failed)?;
        Ok(Installed { changed: current.is_some() || !sql_triggers.is_empty(), sql_triggers })
    }

    /// Retires what was captured on the table, or under its name before it was made anew or renamed, and writes down the
    /// new version of its capture, if anything is to be captured at all. Returns the version's number.
    async fn record(
        &self,
        transaction: &Transaction<'_>,
        version: &Version<'_>,
        mode: &mut Mode<'_>,
    ) -> Result<i32, tokio_postgres::Error> {
        let Version { plan, written, names, sql_triggers, segment } = version;
        let (schema, name) = (plan.table.schema.as_str(), plan.table.name.as_str());
        let others = transaction
            .query(
                &self.sql(
                    "SELECT relation FROM :schema.capture
                     WHERE NOT retired AND relation <> $1 AND table_schema = $2 AND table_name = $3",
                ),
                &[&plan.oid, &schema, &name],
            )
            .await?;
        for row in others {
            // A table that had this name: it is gone, or has another name now and is captured no more.
            self.drop_functions(transaction, row.get(0), mode).await?;
        }
        if let Mode::Script(_) = mode {
            // The number that the next version will have: taking it from the sequence would outlive a rollback.
            let next =
                transaction.query_one(&self.sql("SELECT coalesce(max(id), 0) + 1 FROM :schema.capture"), &[]).await?;
            return Ok(next.get(0));
        }
        transaction
            .execute(
                &self.sql(
                    "UPDATE :schema.capture SET retired = true
                     WHERE NOT retired AND (relation = $1 OR table_schema = $2 AND table_name = $3)",
                ),
                &[&plan.oid, &schema, &name],
            )
            .await?;
        if sql_triggers.is_empty() {
            return Ok(0);
        }
        let key: Vec<&str> = plan.key.iter().map(Ident::as_str).collect();
        let row = transaction
            .query_one(
                &self.sql(
                    "INSERT INTO :schema.capture
                         (relation, table_schema, table_name, key, triggers, names, sql_triggers, plan, segment)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
                ),
                &[&plan.oid, &schema, &name, &key, &plan.triggers, names, sql_triggers, written, segment],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Drops all capture functions of a table, and with them the SQL triggers that call them.
    pub(super) async fn drop_functions(
        &self,
        transaction: &Transaction<'_>,
        oid: u32,
        mode: &mut Mode<'_>,
    ) -> Result<(), tokio_postgres::Error> {
        for operation in Operation::ALL {
            let drop = format!("DROP FUNCTION IF EXISTS {}.{}() CASCADE", self.schema, function_name(oid, operation));
            mode.execute(transaction, &drop).await?;
        }
        Ok(())
    }

    /// The segment that capture fills.
    pub(super) async fn newest_segment(&self, transaction: &Transaction<'_>) -> Result<i32, tokio_postgres::Error> {
        Ok(transaction.query_one(&self.sql("SELECT max(number) FROM :schema.segment"), &[]).await?.get(0))
    }

    /// Those of the wanted SQL triggers that stand on the table as they should: enabled, on its partitions too, of the right
    /// level, calling ours.
    async fn standing(
        &self,
        transaction: &Transaction<'_>,
        facts: &TableFacts,
        wanted: &[SqlTrigger],
    ) -> Result<Vec<Ident>, tokio_postgres::Error> {
        let rows = transaction
            .query(
                "SELECT t.tgname::text, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled::text,
                     NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree($1::oid::regclass) AS p
                                 JOIN pg_catalog.pg_trigger AS c ON c.tgrelid = p.relid
                                 WHERE c.tgfoid = t.tgfoid AND c.tgenabled <> t.tgenabled)
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
            wanted.iter().find(|wanted| wanted.name.as_str() == name && marks(&wanted.create) == marks(sql))
        };
        let found = |row: &tokio_postgres::Row| {
            let enabled = |trigger: &&SqlTrigger| {
                row.get::<_, &str>(2).chars().eq([trigger.firing.code()]) && row.get::<_, bool>(3)
            };
            stands(row.get(0), row.get(1)).filter(enabled).map(|trigger| trigger.name.clone())
        };
        Ok(rows.iter().filter_map(found).collect())
    }

    /// What drops our functions on the table that the plan does not want, and with each the SQL trigger that calls it:
    /// `CASCADE` needs no right on the table, as `DROP TRIGGER` would.
    async fn unwanted(
        &self,
        transaction: &Transaction<'_>,
        facts: &TableFacts,
        plan: &Plan,
    ) -> Result<Vec<String>, tokio_postgres::Error> {
        let wanted = |operation: &Operation| plan.operations.iter().any(|wanted| wanted.operation == *operation);
        let mut drops = Vec::new();
        for operation in Operation::ALL.into_iter().filter(|operation| !wanted(operation)) {
            let function = format!("{}.{}()", self.schema, function_name(facts.oid, operation));
            let there =
                transaction.query_one("SELECT pg_catalog.to_regprocedure($1) IS NOT NULL", &[&function]).await?;
            if there.get(0) {
                drops.push(format!("DROP FUNCTION {function} CASCADE"));
            }
        }
        Ok(drops)
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
            self.drop_functions(transaction, row.get(0), &mut Mode::Run).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Grants `role`, as which workers log in, what delivery takes; writes nothing if it has it.
    pub async fn allow(&self, role: &str) -> Result<(), AdminError> {
        let client = self.client.lock().await;
        let failed = |source| failed(format!("grant role {} what delivery takes", Ident::new(role)), "", source);
        let found = client.query_one(&self.sql(include_str!("../sql/allowed.sql")), &[&role]).await.map_err(failed)?;
        let (exists, may): (bool, Option<bool>) = (found.get(0), found.get(1));
        if !exists {
            let role = Ident::new(role);
            let message = format!(
                "spec.delivery.connection: there is no role {role}; make it: CREATE ROLE {role} LOGIN PASSWORD '…', or correct the user"
            );
            return Err(AdminError::Invalid(Problem { reason: "RoleNotFound", message }));
        }
        if may != Some(true) {
            let grant = self.sql(include_str!("../sql/allow.sql")).replace(":role", &Ident::new(role).to_string());
            client.batch_execute(&grant).await.map_err(failed)?;
        }
        Ok(())
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

/// Whether this role may make the SQL trigger.
fn permitted(facts: &TableFacts, trigger: &SqlTrigger) -> Result<(), AdminError> {
    let (TableFacts { rights: Rights { role, trigger: may, owner, owns }, name, .. }, table) =
        (facts, facts.name.plain());
    if !may {
        return Err(AdminError::NotPermitted(format!(
            "role {role} may not put triggers on table {table}; run: GRANT TRIGGER ON {name} TO {role}"
        )));
    }
    if trigger.enable.is_some() && !owns {
        return Err(AdminError::NotPermitted(format!(
            "spec.captureReplicated: only the owner of table {table} may let a trigger fire for replicated changes, and role {role} \
             does not count as {owner}; run: GRANT {owner} TO {role}, or set captureReplicated to false"
        )));
    }
    Ok(())
}
