//! The tables that are written to, and what of them the log is to hold.

use std::collections::BTreeMap;

use eventtrigger::{
    log::{
        Definition, Operation,
        definition::{Columns, Operations, Updates},
    },
    name::{Ident, TableName},
};

use super::compare::Row;
use crate::support::everything;

/// Schema and table with every character that quoting could miss.
const ODD: (&str, &str) = ("Odd \"schema\" é", "t'able; -- $capture$");

/// A table, or a partitioned table with its partitions.
#[derive(Debug)]
pub(super) struct Table {
    /// What its rows are called in messages.
    pub(super) name: &'static str,
    /// Its name in the database.
    pub(super) relation: TableName,
    /// Columns of the primary key.
    pub(super) key: &'static [&'static str],
    /// What is installed on it.
    pub(super) definitions: Vec<Definition>,
    /// Whether columns that come and go may be missing in the log until capture is repaired: with a list of columns the
    /// log shows what was there when the list was made.
    pub(super) side_columns_may_lag: bool,
}

impl Table {
    fn new(name: &'static str, table: TableName, key: &'static [&'static str]) -> Self {
        let definitions = vec![everything(name, table.clone())];
        Self { name, relation: table, key, definitions, side_columns_may_lag: false }
    }

    /// The EventTriggers that want this change.
    pub(super) fn wanted_by(&self, operation: Operation, old: Option<&Row>, new: Option<&Row>) -> Vec<String> {
        let wants = |definition: &&Definition| match (operation, &definition.on.update) {
            (Operation::Insert, _) => definition.on.insert,
            (Operation::Delete, _) => definition.on.delete,
            (Operation::Truncate, _) => definition.on.truncate,
            (Operation::Update, None) => false,
            (Operation::Update, Some(Updates::All)) => true,
            (Operation::Update, Some(Updates::Of(columns))) => columns.iter().any(|column| {
                // PostgreSQL leaves a NULL of the old row out.
                let value = |row: Option<&Row>| row?.get(column.as_str()).filter(|value| *value != "null").cloned();
                value(old) != value(new)
            }),
        };
        self.definitions.iter().filter(wants).map(|definition| definition.trigger.name.clone()).collect()
    }

    /// What of a row both sides must agree on.
    pub(super) fn shown(&self, row: Row) -> Row {
        let hidden = |column: &str| {
            self.definitions.iter().all(|definition| match &definition.columns {
                Columns::All => false,
                Columns::Include(names) => !names.iter().any(|name| name.as_str() == column),
                Columns::Exclude(names) => names.iter().any(|name| name.as_str() == column),
            })
        };
        let compared = |column: &str| !(hidden(column) || self.side_columns_may_lag && column.starts_with("side"));
        row.into_iter().filter(|(column, _)| compared(column)).collect()
    }
}

/// All tables, and by name of each table or partition which of them it is.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) all: Vec<Table>,
    by_name: BTreeMap<TableName, usize>,
}

impl Tables {
    pub(super) fn new() -> Self {
        let public = |name: &'static str, key| Table::new(name, TableName::new("public", name), key);
        let mut all: Vec<Table> =
            ["account", "parent", "child", "grandchild", "ledger", "total", "wide", "listen", "exclude"]
                .map(|name| public(name, &["id"] as &[_]))
                .into();
        all.push(public("keyless", &[]));
        all.push(public("region", &["area", "id"]));
        all.push(Table::new("odd", TableName::new(ODD.0, ODD.1), &["the \"key\"", "select"]));
        let at = |all: &[Table], name: &str| all.iter().position(|table| table.name == name).expect("a table");

        let listen = at(&all, "listen");
        let of = |columns: &[&str]| Some(Updates::Of(columns.iter().copied().map(Ident::new).collect()));
        let table = all[listen].relation.clone();
        all[listen].definitions = vec![
            Definition {
                on: Operations { insert: true, update: of(&["status"]), delete: false, truncate: false },
                ..everything("listen-status", table.clone())
            },
            Definition {
                on: Operations { insert: false, update: of(&["doc", "amount"]), delete: true, truncate: false },
                ..everything("listen-doc", table)
            },
        ];
        let exclude = at(&all, "exclude");
        all[exclude].definitions[0].columns = Columns::Exclude(vec![Ident::new("secret")]);
        all[exclude].side_columns_may_lag = true;

        let mut by_name: BTreeMap<_, _> =
            all.iter().enumerate().map(|(n, table)| (table.relation.clone(), n)).collect();
        for partition in ["region_north", "region_south_0", "region_south_1", "region_rest"] {
            by_name.insert(TableName::new("public", partition), at(&all, "region"));
        }
        Self { all, by_name }
    }

    /// Which of them a table or partition is; `None` for those that are not captured.
    pub(super) fn of(&self, name: &TableName) -> Option<&Table> {
        self.by_name.get(name).map(|n| &self.all[*n])
    }
}

/// Makes the tables. Every row carries who it is (`uid`), how often it was written (`version`) and by whom last (`mark`).
pub(super) fn sql() -> String {
    let odd = TableName::new(ODD.0, ODD.1);
    let row = "uid bigint NOT NULL, version int NOT NULL DEFAULT 0, mark text NOT NULL";
    let identities = [
        "account",
        "parent",
        "child",
        "grandchild",
        "ledger",
        "total",
        "wide",
        "listen",
        "exclude",
        "keyless",
        "region_north",
        "region_south_0",
        "region_south_1",
        "region_rest",
        &odd.to_string(),
    ]
    .map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"))
    .concat();
    format!(
        r#"CREATE TABLE account (id bigint PRIMARY KEY, {row}, amount numeric, note text);
CREATE TABLE keyless ({row}, n int);
CREATE TABLE parent (id bigint PRIMARY KEY, {row});
CREATE TABLE child (id bigint PRIMARY KEY, {row}, parent bigint REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE grandchild (id bigint PRIMARY KEY, {row}, child bigint REFERENCES child ON UPDATE CASCADE ON DELETE SET NULL);
CREATE TABLE region (area text, id bigint, {row}, PRIMARY KEY (area, id)) PARTITION BY LIST (area);
CREATE TABLE region_north PARTITION OF region FOR VALUES IN ('north');
CREATE TABLE region_south PARTITION OF region FOR VALUES IN ('south') PARTITION BY HASH (id);
CREATE TABLE region_south_0 PARTITION OF region_south FOR VALUES WITH (MODULUS 2, REMAINDER 0);
-- Its columns in another order, with a hole.
CREATE TABLE region_south_1 (gone int, mark text NOT NULL, version int NOT NULL DEFAULT 0, uid bigint NOT NULL, id bigint NOT NULL, area text NOT NULL);
ALTER TABLE region_south_1 DROP COLUMN gone;
ALTER TABLE region_south ATTACH PARTITION region_south_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE region_rest PARTITION OF region DEFAULT;
-- Fifty thousand transactions are to be quick.
CREATE INDEX ON keyless (n);
CREATE INDEX ON child (parent);
CREATE INDEX ON grandchild (child);
CREATE INDEX ON region (id);
CREATE SCHEMA {schema};
CREATE TABLE {odd} ("the ""key""" text, "select" int, {row}, "$capture$" text, PRIMARY KEY ("the ""key""", "select"));
CREATE TABLE wide (id bigint PRIMARY KEY, {row}, doc json, docb jsonb, words text[], numbers numeric[], exact numeric,
    inexact float8, at timestamptz, day date, bytes bytea, span interval, range int8range, flags varbit, big text, yes boolean);
-- Out of line, uncompressed: an UPDATE that leaves it alone has WAL without it.
ALTER TABLE wide ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE listen (id bigint PRIMARY KEY, {row}, status text, doc json, amount numeric, noise int);
CREATE TABLE exclude (id bigint PRIMARY KEY, {row}, secret text, shown text);

-- Row triggers of the application: one before that changes the row itself, one after that writes another table's row,
-- another row of the same table, and the row itself again.
CREATE TABLE total (id bigint PRIMARY KEY, {row}, amount numeric NOT NULL);
CREATE TABLE ledger (id bigint PRIMARY KEY, {row}, link bigint, amount numeric NOT NULL);
CREATE FUNCTION ledger_before() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.amount := round(NEW.amount, 2);
    RETURN NEW;
END $$;
CREATE FUNCTION ledger_after() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE total SET amount = amount + NEW.amount, version = version + 1, mark = NEW.mark WHERE id = NEW.id % 20;
    UPDATE ledger SET version = version + 1, mark = NEW.mark || '+' WHERE id = NEW.link;
    RETURN NULL;
END $$;
CREATE TRIGGER a_before BEFORE INSERT OR UPDATE ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_before();
CREATE TRIGGER "0_after" AFTER INSERT OR UPDATE ON ledger FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION ledger_after();
{identities}"#,
        schema = odd.schema,
    )
}

/// Rows that are there from the start; written after capture was installed.
pub(super) const FIRST_ROWS: &str =
    "INSERT INTO total (id, uid, mark, amount) SELECT n, n, 'first', 0 FROM generate_series(0, 19) AS n";
