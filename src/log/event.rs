//! One row of the log: one change of one row of a table, or the truncation of a table.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::snapshot::Txid;

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Operation {
    /// A row is new.
    Insert,
    /// A row changed.
    Update,
    /// A row is gone.
    Delete,
    /// All rows of the table are gone.
    Truncate,
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate];

    /// As SQL and the event's body write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
        }
    }

    /// As the log stores it.
    pub fn code(self) -> char {
        match self {
            Self::Insert => 'I',
            Self::Update => 'U',
            Self::Delete => 'D',
            Self::Truncate => 'T',
        }
    }

    /// From what the log stores.
    pub fn from_code(code: char) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.code() == code)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    /// The row before, as JSON text; `None` for an insert or a truncation.
    pub old: Option<String>,
    /// The row after, as JSON text; `None` for a delete or a truncation.
    pub new: Option<String>,
    /// Who made the change, as far as an EventTrigger of the table asks; JSON text.
    pub context: Option<String>,
    /// On the scale of whoever reads the log.
    pub weight: Weight,
}

impl Event {
    /// About what it takes of memory, in bytes.
    pub fn bytes(&self) -> u64 {
        let rows = [&self.old, &self.new, &self.context].into_iter().flatten();
        Self::FIXED + rows.map(|row| row.len() as u64).sum::<u64>()
    }

    /// What every event takes.
    pub(super) const FIXED: u64 = 256;

    pub(super) fn weighed(mut self, scale: &Scale) -> Self {
        self.weight = Weight { bytes: self.bytes(), scale: Some(scale.clone()) };
        scale.0.fetch_add(self.weight.bytes, Relaxed);
        self
    }
}

/// Bytes of all events that were read and are still in memory, wherever they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Scale(Arc<AtomicU64>);

impl Scale {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What an event adds to its scale for as long as it lives. A copy weighs nothing.
#[derive(Debug, Default)]
pub struct Weight {
    bytes: u64,
    scale: Option<Scale>,
}

impl Clone for Weight {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        if let Some(Scale(total)) = &self.scale {
            total.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A bit string, as PostgreSQL's `varbit`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bits {
    length: usize,
    bytes: SmallVec<[u8; 16]>,
}

impl Bits {
    /// From the wire: the first bit is the highest of the first byte.
    pub fn new(length: usize, bytes: &[u8]) -> Self {
        Self { length, bytes: bytes.into() }
    }

    /// Whether bit `position` is there and set.
    pub fn has(&self, position: usize) -> bool {
        position < self.length && self.bytes.get(position / 8).is_some_and(|byte| byte >> (7 - position % 8) & 1 == 1)
    }
}
