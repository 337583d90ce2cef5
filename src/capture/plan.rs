//! Facts of a table and the definitions on it become a plan: what to capture, when, and how.

use serde::{Deserialize, Serialize};

use super::{Column, Compare, Kind, Long, Size, TableFacts};
use crate::{
    log::{
        Operation,
        definition::{Columns, Context, Definition, Updates},
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
    /// Columns that may be too long for the log; `None` if there are none.
    pub long: Option<Long>,
    /// What else of the session enters the log.
    pub context: Context,
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
    /// The same for replicated changes; `None` if nobody wants those, and the SQL trigger does not fire for them.
    pub replicated: Option<Vec<Changes>>,
}

impl Wanted {
    /// For whose changes the SQL trigger fires.
    pub fn firing(&self) -> Firing {
        if self.replicated.is_some() { Firing::Always } else { Firing::Origin }
    }
}

/// For whose changes a SQL trigger fires.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Firing {
    /// For those that are made here, not for replicated ones.
    Origin,
    /// For both.
    Always,
}

impl Firing {
    /// As `pg_trigger.tgenabled` has it.
    pub fn code(self) -> char {
        match self {
            Self::Origin => 'O',
            Self::Always => 'A',
        }
    }
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
    /// Once for a statement, over all its rows: cheapest from the second row on, and the only way for TRUNCATE.
    Statement,
    /// For each row. For updates, because pairing old and new rows costs more than it saves; for partitions, because only
    /// row triggers are cloned to them; beside other row triggers, because those run first, and what they write to the
    /// same row must not enter the log before this change; for replicated changes, because logical replication fires no others.
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
            let replicated: Vec<_> = definitions
                .iter()
                .zip(&when)
                .map(|((_, definition), changes)| if definition.replicated { changes.clone() } else { Changes::Never })
                .collect();
            let replicated = replicated.iter().any(|changes| *changes != Changes::Never).then_some(replicated);
            let level = match operation {
                Operation::Update => Level::Row,
                Operation::Insert | Operation::Delete if by_row || replicated.is_some() => Level::Row,
                Operation::Insert | Operation::Delete | Operation::Truncate => Level::Statement,
            };
            when.iter().any(|changes| *changes != Changes::Never).then_some(Wanted {
                operation,
                level,
                when,
                replicated,
            })
        };
        let shown = shown(facts, definitions.iter().map(|(_, definition)| &definition.columns));
        let listened = |name: &Ident| {
            definitions.iter().any(
                |(_, definition)| matches!(&definition.on.update, Some(Updates::Of(names)) if names.contains(name)),
            )
        };
        let compare = facts.columns.iter().filter(|column| listened(&column.name));
        Self {
            long: long(facts, &shown),
            table: facts.name.clone(),
            oid: facts.oid,
            shape: facts.shape.clone(),
            key: facts.key.clone(),
            shown,
            context: context(&definitions.iter().map(|(_, definition)| &definition.context).collect::<Vec<_>>()),
            compare: compare.map(|column| (column.name.clone(), column.compare)).collect(),
            triggers: definitions.iter().map(|(id, _)| *id).collect(),
            operations: Operation::ALL.into_iter().filter_map(wanted).collect(),
        }
    }
}

fn when(definition: &Definition, operation: Operation, facts: &TableFacts) -> Changes {
    let any = |wanted: bool| if wanted { Changes::Any } else { Changes::Never };
    match (operation, &definition.on.update) {
        (Operation::Insert, _) => any(definition.on.insert),
        (Operation::Delete, _) => any(definition.on.delete),
        (Operation::Truncate, _) => any(definition.on.truncate),
        (Operation::Update, None) => Changes::Never,
        (Operation::Update, Some(Updates::All)) => Changes::Any,
        (Operation::Update, Some(Updates::Of(names))) => {
            let names: Vec<_> = names.iter().filter(|name| facts.has(name)).cloned().collect();
            if names.is_empty() { Changes::Never } else { Changes::Of(names) }
        }
    }
}

fn long(facts: &TableFacts, shown: &Shown) -> Option<Long> {
    let enters = |column: &&Column| match shown {
        Shown::All => true,
        Shown::Only(names) => names.contains(&column.name),
    };
    let columns: Vec<_> = facts.columns.iter().filter(enters).collect();
    let unlimited = columns.iter().filter(|column| column.size != Size::Limited);
    let unlimited: Vec<_> = unlimited.map(|column| (column.name.clone(), column.size)).collect();
    let shown = columns.iter().map(|column| column.name.clone()).collect();
    (!unlimited.is_empty()).then_some(Long { shown, unlimited })
}

/// The union of what is asked for; a trace is one setting among others, of which each EventTrigger may name its own.
fn context(asked: &[&Context]) -> Context {
    let mut settings: Vec<_> = asked.iter().flat_map(|context| context.settings()).cloned().collect();
    settings.sort();
    settings.dedup();
    Context {
        role: asked.iter().any(|context| context.role),
        application: asked.iter().any(|context| context.application),
        settings,
        traceparent: None,
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
        capture::Rights,
        log::definition::{Operations, Policy},
        name::ObjectName,
    };

    pub(in crate::capture) fn facts() -> TableFacts {
        TableFacts {
            name: TableName::new("public", "orders"),
            oid: 16390,
            kind: Kind::Table,
            columns: [("id", 23), ("status", 25), ("total", 1700), ("card", 25)]
                .map(|(name, oid)| Column {
                    name: Ident::new(name),
                    size: Size::Limited,
                    compare: Compare::of(oid, -1),
                })
                .into(),
            key: vec![Ident::new("id")],
            in_hierarchy: false,
            has_row_triggers: false,
            rights: Rights { role: Ident::new("log"), trigger: true, owner: Ident::new("app"), owns: false },
            shape: "5ha9e".to_owned(),
        }
    }

    pub(in crate::capture) fn definition(n: i32) -> Definition {
        Definition {
            trigger: ObjectName::new("shop", format!("trigger-{n}")),
            table: facts().name,
            on: Operations { insert: true, update: Some(Updates::All), delete: true, truncate: false },
            columns: Columns::All,
            context: Context::default(),
            replicated: false,
            ordering: crate::log::definition::Ordering::default(),
            partitions: 1,
            own_workers: None,
            sink: None,
            policy: Policy::default(),
            dead_letter_sink: None,
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
        one.on = Operations {
            insert: false,
            update: Some(Updates::Of(idents(&["status", "gone"]))),
            delete: false,
            truncate: false,
        };
        let plan = Plan::new(&facts(), [(7, &one)]);
        let when = vec![Changes::Of(idents(&["status"]))];
        let wanted = Wanted { operation: Operation::Update, level: Level::Row, when, replicated: None };
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
    fn who_does_not_want_replicated_changes_is_never_matched_by_one() {
        let (one, mut two) = (definition(1), definition(2));
        two.replicated = true;
        two.on.delete = false;
        let plan = Plan::new(&facts(), [(1, &one), (2, &two)]);
        let [insert, update, delete] = &plan.operations[..] else { panic!("{plan:?}") };
        for wanted in [insert, update] {
            assert_eq!((wanted.level, wanted.firing()), (Level::Row, Firing::Always));
            assert_eq!(wanted.replicated, Some(vec![Changes::Never, Changes::Any]));
        }
        assert_eq!((delete.level, delete.firing(), &delete.replicated), (Level::Statement, Firing::Origin, &None));
    }

    #[test]
    fn the_order_in_which_definitions_come_changes_nothing() {
        let (one, two) = (definition(1), definition(2));
        assert_eq!(Plan::new(&facts(), [(1, &one), (2, &two)]), Plan::new(&facts(), [(2, &two), (1, &one)]));
    }
}
