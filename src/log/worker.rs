//! A delivery worker's connection to the log: the lease, what is new, and how far delivery has come.

use std::time::Duration;

use super::{
    Definition, Event, Snapshot,
    connect::{ConnectConfig, ConnectError},
};
use crate::name::{Ident, ObjectName, TableName};

/// How far delivery of one trigger has come.
///
/// Everything in `from` is done. While `to` is set, the window between both is under way: its events up to `after`, in
/// order of id, are done, and so are those in `done`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// The cut up to which everything is done.
    pub from: Snapshot,
    /// The end of the window that is under way.
    pub to: Option<Snapshot>,
    /// The last event, by id, of the window's finished part; 0 at its start.
    pub after: i64,
    /// Events beyond `after` that are done: what a worker had delivered when it was stopped in the middle.
    pub done: Vec<i64>,
}

/// One EventTrigger as a worker sees it.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its number in this log.
    pub id: i32,
    /// What to do.
    pub definition: Definition,
    /// How far it has come.
    pub cursor: Cursor,
}

/// One version of a table's capture: tells what the bits of [`Event::matched`] stand for.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Its number in this log.
    pub id: i32,
    /// The table, as it was called.
    pub table: TableName,
    /// The columns that name a row, in order; empty if the table has no key.
    pub key: Vec<Ident>,
    /// Numbers of the subscriptions, by position of their bit.
    pub subscriptions: Vec<i32>,
}

/// What a worker learns each time it looks.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The cut at this moment.
    pub now: Snapshot,
    /// Counts every change of a definition.
    pub definitions: i64,
}

/// The right to deliver from a log; the number rises with every holder, and fences the ones before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// This holder's number.
    pub epoch: i64,
}

/// A cursor's new position.
#[derive(Clone, Debug)]
pub struct Move {
    /// Whose.
    pub subscription: i32,
    /// Where to.
    pub cursor: Cursor,
}

/// An event that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Whose delivery.
    pub subscription: i32,
    /// The event.
    pub event: i64,
    /// How often it was sent.
    pub attempts: u32,
    /// The last response's status, if there was a response.
    pub status: Option<u16>,
    /// What went wrong the last time; bounded, without credentials.
    pub error: String,
    /// The row before and after, as the log had them.
    pub old: Option<String>,
    /// See `old`.
    pub new: Option<String>,
}

/// What may go wrong between a worker and the log.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No connection.
    #[error("failed to connect to the database")]
    Connect(#[from] ConnectError),
    /// A statement failed, or the connection broke.
    #[error("failed to {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// The schema is missing, of another version, or another's.
    #[error("{0}")]
    NotOurs(String),
    /// Another worker holds a newer lease: nothing of this one's counts any more.
    #[error("the lease was taken over by another worker")]
    Fenced,
    /// Something in the log's schema is not as this binary writes it.
    #[error("failed to read {what}: {why}")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// A delivery worker's connection to the log. One connection; statements may be pipelined.
#[derive(Debug)]
pub struct Worker {
    _private: (),
}

impl Worker {
    /// Connects, and checks that the schema is of this version and belongs to EventLog `owner` (its UID).
    pub async fn connect(config: &ConnectConfig, schema: &Ident, owner: &str) -> Result<Self, WorkerError> {
        let _ = (config, schema, owner);
        todo!()
    }

    /// The log's own id, the first half of every event's id.
    pub fn log_id(&self) -> &str {
        todo!()
    }

    /// Takes the lease, or renews it, for `length`; `None` if another living worker holds it. `holder` is for people.
    ///
    /// A holder whose connection is gone loses it at once, one that has stopped when `length` is over.
    pub async fn hold(
        &self,
        lease: Option<Lease>,
        holder: &str,
        length: Duration,
    ) -> Result<Option<Lease>, WorkerError> {
        let _ = (lease, holder, length);
        todo!()
    }

    /// Gives the lease up, so that another worker need not wait.
    pub async fn release(&self, lease: Lease) -> Result<(), WorkerError> {
        let _ = lease;
        todo!()
    }

    /// What is new; cheap enough to ask a hundred times a second.
    pub async fn pulse(&self) -> Result<Pulse, WorkerError> {
        todo!()
    }

    /// All subscriptions, and the captures whose events they may meet.
    pub async fn subscriptions(&self) -> Result<(Vec<Subscription>, Vec<Capture>), WorkerError> {
        todo!()
    }

    /// One capture, if [`Worker::subscriptions`] did not have it: made since then.
    pub async fn capture(&self, id: i32) -> Result<Option<Capture>, WorkerError> {
        let _ = id;
        todo!()
    }

    /// Events of the window between two cuts, beyond `after`, in order of id; at most `limit`. Fewer than `limit` means
    /// that the window has no more.
    pub async fn window(
        &self,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Event>, WorkerError> {
        let _ = (from, to, after, limit);
        todo!()
    }

    /// Writes new positions and given-up events in one transaction.
    ///
    /// # Errors
    /// [`WorkerError::Fenced`] if the lease is no longer ours; then nothing was written.
    pub async fn commit(&self, lease: Lease, moves: &[Move], dead: &[DeadLetter]) -> Result<(), WorkerError> {
        let _ = (lease, moves, dead);
        todo!()
    }

    /// Dead letters of each subscription: how many.
    pub async fn dead(&self) -> Result<Vec<(ObjectName, i64)>, WorkerError> {
        todo!()
    }
}
