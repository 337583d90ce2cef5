//! The event log inside the user's database: its schema and owner, what is written into it, and how it is read.
//!
//! [`snapshot`] is the algebra of cursors, pure. [`Admin`] is the controller's connection, [`Worker`] a delivery
//! worker's. Capture, which fills the log, is [`crate::capture`].

mod admin;
mod connect;
pub mod definition;
mod event;
pub mod partition;
pub mod snapshot;
mod worker;

pub use admin::{
    ADOPT, Admin, AdminError, AdoptError, CaptureState, DEAD_LETTER_SINK_FAILING, DEAD_LETTERS, EVENTS_PARKED,
    Hindrance, Holding, Installed, Obstacle, OpenError, Owner, PlanError, Remedy, Retention, ServerFacts,
};
pub use connect::{ConnectConfig, ConnectError, explain};
pub use definition::Definition;
pub use event::{Bits, Event, Operation, Weight};
pub use partition::Partition;
pub use snapshot::Snapshot;
pub use worker::{
    Capture, Claim, Cursor, DeadLetter, Exception, Failure, Forward, Lease, Most, Move, Page, Parked, ParkedLanes,
    Pulse, Redriven, Slot, Subscription, Survey, Wait, Worker, WorkerError,
};

/// The version of the log's schema that this binary makes and reads.
pub const SCHEMA_VERSION: i32 = 1;
