//! The operator: watches resources, installs SQL, runs delivery workers, writes statuses.
//!
//! [`run`](run()) starts one loop for each kind. A reconcile reads everything that its resource names, brings the
//! database and the workers to what that says, and ends in a status, whatever happened. It writes only what differs: with
//! nothing to do, the only periodic write to the API server is the renewal of the Lease.

mod admins;
mod backoff;
mod cluster;
mod context;
mod error;
mod events;
mod farewell;
mod finalizer;
mod leader;
mod log;
mod metrics;
mod notice;
mod options;
mod own;
mod pokes;
mod reread;
mod run;
mod scope;
mod sink;
mod start;
mod status;
mod trigger;
mod trouble;

pub use options::Options;
pub use start::{StartError, run};
