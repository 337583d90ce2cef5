//! What the catalog says about a table: all that capture needs to know.

use serde::{Deserialize, Serialize};

use super::Compare;
use crate::name::{Ident, TableName};

/// A table, as the catalog describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableFacts {
    /// Its name now.
    pub name: TableName,
    /// Its oid: stays when it is renamed, changes when it is made anew.
    pub oid: u32,
    /// What kind of relation it is.
    pub kind: Kind,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The primary key's columns, in order; empty without one.
    pub key: Vec<Ident>,
    /// Whether it is a partition, or has inheritance children: a statement on another table may write it.
    pub in_hierarchy: bool,
    /// Whether other triggers run after each row.
    pub has_row_triggers: bool,
    /// What the log's role may do with it.
    pub rights: Rights,
    /// Fingerprint of the columns, as the log's function `shape` gives it.
    pub shape: String,
}

/// What a role may do with a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rights {
    /// The role.
    pub role: Ident,
    /// Whether it may put SQL triggers on the table.
    pub trigger: bool,
    /// The table's owner.
    pub owner: Ident,
    /// Whether the role counts as the owner: only that may decide whether a SQL trigger fires for replicated changes.
    pub owns: bool,
}

/// What kind of relation a name stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An ordinary table.
    Table,
    /// A partitioned table.
    Partitioned,
    /// A table of one session.
    Temporary,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    Foreign,
    /// A table of PostgreSQL itself, or of an event log.
    System,
    /// A sequence, an index, a composite type.
    Other,
}

/// A column.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: Ident,
    /// How to tell that it has changed.
    pub compare: Compare,
    /// How long its values may be.
    pub size: Size,
}

/// How long the values of a column may be, and how that is found out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Size {
    /// Not long: a number, a time, `varchar(100)`.
    Limited,
    /// `text`, `bytea`, and `varchar` without a limit or with a large one.
    Text,
    /// `json`, `xml`.
    Json,
    /// `jsonb`.
    Jsonb,
    /// Arrays and all other types without a limit.
    Other,
}

impl TableFacts {
    /// Whether there is a column of this name.
    pub fn has(&self, column: &Ident) -> bool {
        self.columns.iter().any(|found| &found.name == column)
    }
}
