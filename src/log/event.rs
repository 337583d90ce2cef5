//! One row of the log: one change of one row of a table.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::snapshot::Txid;

/// What happened to the row.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Operation {
    /// It is new.
    Insert,
    /// It changed.
    Update,
    /// It is gone.
    Delete,
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Insert, Self::Update, Self::Delete];

    /// As the log stores it.
    pub fn code(self) -> char {
        match self {
            Self::Insert => 'I',
            Self::Update => 'U',
            Self::Delete => 'D',
        }
    }

    /// From what the log stores.
    pub fn from_code(code: char) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.code() == code)
    }
}

impl fmt::Display for Operation {
    /// As SQL and the event's body write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        })
    }
}

/// One row of the log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Number of the event in its log; ascending for one row of the table.
    pub id: i64,
    /// The transaction that wrote it, as its server numbered it.
    pub txid: Txid,
    /// Its place among the transactions of this log, also of servers that the log was on before: what cuts are made of.
    pub place: Txid,
    /// When it was captured.
    pub at: Timestamp,
    /// The version of the capture that wrote it; see [`super::Capture`].
    pub capture: i32,
    /// What happened.
    pub operation: Operation,
    /// Which of the capture's triggers matched, by position.
    pub matched: Bits,
    /// The row before, as JSON text; `None` for an insert.
    pub old: Option<String>,
    /// The row after, as JSON text; `None` for a delete.
    pub new: Option<String>,
}

/// A bit string, as PostgreSQL's `varbit`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bits {
    length: usize,
    bytes: Vec<u8>,
}

impl Bits {
    /// From the wire: the first bit is the highest of the first byte.
    pub fn new(length: usize, bytes: Vec<u8>) -> Self {
        Self { length, bytes }
    }

    /// Whether bit `position` is there and set.
    pub fn has(&self, position: usize) -> bool {
        position < self.length && self.bytes.get(position / 8).is_some_and(|byte| byte >> (7 - position % 8) & 1 == 1)
    }
}
