//! Facts of a table and the definitions on it become a plan: what to capture, when, and how.

use serde::{Deserialize, Serialize};

use super::{Compare, Kind, TableFacts};
use crate::{
    log::{
        Operation,
        definition::{Columns, Definition, Updates},
    },
    name::{Ident, TableName},
};

/// What a table's SQL triggers are to do: one for each operation that anybody wants. Kept in the log as JSON: the same
/// functions are made of it again whenever the log gets a new segment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// The table.
    pub table: TableName,
    /// Its oid.
    pub oid: u32,
    /// Fingerprint of its columns; where it is another one at run time, the capture function falls back on code that
    /// cannot fail.
    pub shape: String,
    /// Columns that name a row.
    pub key: Vec<Ident>,
    /// Columns that enter the log.
    pub shown: Shown,
    /// How columns are compared to which somebody listens; those that are not here, by what is stored.
    #[serde(default)]
    pub compare: Vec<(Ident, Compare)>,
    /// Numbers of the triggers, by position of their bit.
    pub triggers: Vec<i32>,
    /// Who wants what.
    pub operations: Vec<Wanted>,
}

/// Columns that enter the log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Shown {
    /// All, also those that are added later.
    All,
    /// These: what no trigger shows is left out.
    Only(Vec<Ident>),
}

/// One operation that somebody wants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Wanted {
    /// The operation.
    pub operation: Operation,
    /// How often the SQL trigger runs.
    pub level: Level,
    /// Who wants it, by position of the bit: never, always, or only when something changed.
    pub when: Vec<Changes>,
}

/// When a trigger wants an operation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Changes {
    /// Never.
    Never,
    /// Always.
    Any,
    /// When one of these columns has changed.
    Of(Vec<Ident>),
}

/// How often a SQL trigger runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Level {
    /// Once for a statement, over all its rows: cheapest from the second row on.
    Statement,
    /// For each row. For updates, because pairing old and new rows costs more than it saves; for partitions, because only
    /// row triggers are cloned to them; beside other row triggers, because those run first, and what they write to the
    /// same row must not enter the log before this change.
    Row,
}

impl Plan {
    /// What all `definitions` of one table want together, each with its number. Total: columns that are missing are left
    /// out; [`super::validate`] has told their owner.
    pub fn new<'a>(facts: &TableFacts, definitions: impl IntoIterator<Item = (i32, &'a Definition)>) -> Self {
        let mut definitions: Vec<_> = definitions.into_iter().collect();
        definitions.sort_by_key(|(id, _)| *id);
        let by_row = facts.kind == Kind::Partitioned || facts.in_hierarchy || facts.has_row_triggers;
        let wanted = |operation: Operation| {
            let when: Vec<_> = definitions.iter().map(|(_, definition)| when(definition, operation, facts)).collect();
            let level = if by_row || operation == Operation::Update { Level::Row } else { Level::Statement };
            when.iter().any(|changes| *changes != Changes::Never).then_some(Wanted { operation, level, when })
        };
        let listened = |name: &Ident| {
            definitions.iter().any(
                |(_, definition)| matches!(&definition.on.update, Some(Updates::Of(names)) if names.contains(name)),
            )
        };
        let compare = facts.columns.iter().filter(|column| listened(&column.name));
        Self {
            table: facts.name.clone(),
            oid: facts.oid,
            shape: facts.shape.clone(),
            key: facts.key.clone(),
            shown: shown(facts, definitions.iter().map(|(_, definition)| &definition.columns)),
            compare: compare.map(|column| (column.name.clone(), column.compare)).collect(),
            triggers: definitions.iter().map(|(id, _)| *id).collect(),
            operations: [Operation::Insert, Operation::Update, Operation::Delete]
                .into_iter()
                .filter_map(wanted)
                .collect(),
        }
    }
}

fn when(definition: &Definition, operation: Operation, facts: &TableFacts) -> Changes {
    let any = |wanted: bool| if wanted { Changes::Any } else { Changes::Never };
    match (operation, &definition.on.update) {
        (Operation::Insert, _) => any(definition.on.insert),
        (Operation::Delete, _) => any(definition.on.delete),
        (Operation::Update, None) => Changes::Never,
        (Operation::Update, Some(Updates::All)) => Changes::Any,
        (Operation::Update, Some(Updates::Of(names))) => {
            let names: Vec<_> = names.iter().filter(|name| facts.has(name)).cloned().collect();
            if names.is_empty() { Changes::Never } else { Changes::Of(names) }
        }
    }
}

/// The union of what is shown, and the key, without which no event could be named or ordered.
fn shown<'a>(facts: &TableFacts, columns: impl Iterator<Item = &'a Columns>) -> Shown {
    let mut only: Vec<&Ident> = facts.key.iter().collect();
    for columns in columns {
        match columns {
            Columns::All => return Shown::All,
            Columns::Include(names) => only.extend(names),
            Columns::Exclude(names) => {
                only.extend(facts.columns.iter().map(|column| &column.name).filter(|name| !names.contains(name)));
            }
        }
    }
    let in_order = facts.columns.iter().map(|column| &column.name).filter(|name| only.contains(name));
    Shown::Only(in_order.cloned().collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        capture::Column,
        log::definition::{Operations, Policy},
        name::ObjectName,
    };

    pub(in crate::capture) fn facts() -> TableFacts {
        TableFacts {
            name: TableName::new("public", "orders"),
            oid: 16390,
            kind: Kind::Table,
            columns: [("id", 23), ("status", 25), ("total", 1700), ("card", 25)]
                .map(|(name, oid)| Column { name: Ident::new(name), compare: Compare::of(oid) })
                .into(),
            key: vec![Ident::new("id")],
            in_hierarchy: false,
            has_row_triggers: false,
            shape: "5ha9e".to_owned(),
        }
    }

    pub(in crate::capture) fn definition(n: i32) -> Definition {
        Definition {
            trigger: ObjectName::new("shop", format!("trigger-{n}")),
            table: facts().name,
            on: Operations { insert: true, update: Some(Updates::All), delete: true },
            columns: Columns::All,
            sink: None,
            policy: Policy::default(),
            suspend: false,
        }
    }

    fn idents(names: &[&str]) -> Vec<Ident> {
        names.iter().copied().map(Ident::new).collect()
    }

    #[test]
    fn a_column_that_every_trigger_excludes_never_enters_the_log() {
        let (mut one, mut two) = (definition(1), definition(2));
        one.columns = Columns::Exclude(idents(&["card", "total"]));
        two.columns = Columns::Include(idents(&["total"]));
        assert_eq!(Plan::new(&facts(), [(1, &one), (2, &two)]).shown, Shown::Only(idents(&["id", "status", "total"])));
        two.columns = Columns::All;
        assert_eq!(Plan::new(&facts(), [(1, &one), (2, &two)]).shown, Shown::All);
    }

    #[test]
    fn operations_that_nobody_wants_are_not_captured() {
        let mut one = definition(1);
        one.on = Operations { insert: false, update: Some(Updates::Of(idents(&["status", "gone"]))), delete: false };
        let plan = Plan::new(&facts(), [(7, &one)]);
        let wanted =
            Wanted { operation: Operation::Update, level: Level::Row, when: vec![Changes::Of(idents(&["status"]))] };
        assert_eq!((plan.operations, plan.triggers), (vec![wanted], vec![7]));
    }

    #[test]
    fn partitions_and_tables_with_row_triggers_are_captured_by_row() {
        let levels = |facts: &TableFacts| {
            let plan = Plan::new(facts, [(1, &definition(1))]);
            plan.operations.iter().map(|wanted| wanted.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&facts()), [Level::Statement, Level::Row, Level::Statement]);
        assert_eq!(levels(&TableFacts { kind: Kind::Partitioned, ..facts() }), [Level::Row; 3]);
        assert_eq!(levels(&TableFacts { in_hierarchy: true, ..facts() }), [Level::Row; 3]);
        assert_eq!(levels(&TableFacts { has_row_triggers: true, ..facts() }), [Level::Row; 3]);
    }

    #[test]
    fn a_plan_survives_being_written_down() {
        let mut one = definition(1);
        one.on.update = Some(Updates::Of(idents(&["status"])));
        one.columns = Columns::Include(idents(&["total"]));
        let plan = Plan::new(&facts(), [(1, &one)]);
        assert_eq!(serde_json::from_str::<Plan>(&serde_json::to_string(&plan).unwrap()).unwrap(), plan);
    }

    #[test]
    fn the_order_in_which_definitions_come_changes_nothing() {
        let (one, two) = (definition(1), definition(2));
        assert_eq!(Plan::new(&facts(), [(1, &one), (2, &two)]), Plan::new(&facts(), [(2, &two), (1, &one)]));
    }
}
