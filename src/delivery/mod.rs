//! Reading the log, sending, retrying.
//!
//! Plain functions and types decide: [`lanes`] the order, [`ledger`] the cursor, [`pass`] who reads with whom, [`retry`]
//! what follows an attempt, [`format`] what is sent, [`share`] who delivers what. Around them: [`run`] connects, [`session`]
//! holds slots, reads and commits, a [`courier`] for each subscription sends. Beside them an [`undertaker`] forwards dead
//! letters.

mod addresses;
mod auth;
mod breaker;
mod config;
mod context;
mod courier;
mod fence;
mod format;
mod http;
mod lanes;
mod ledger;
mod metrics;
mod outlet;
mod parking;
mod pass;
mod progress;
mod retry;
mod row;
mod run;
mod secrets;
mod sender;
mod session;
mod share;
pub(crate) mod signing;
mod target;
pub(crate) mod tls;
mod traces;
mod undertaker;

pub use addresses::{AddressOptions, Addresses, Place};
pub use config::Config;
pub(crate) use format::cloudevents;
pub use metrics::Metrics;
pub(crate) use metrics::register_build;
pub use progress::{Held, Monitor, Phase, Progress};
pub use run::{Options, run};
pub use traces::{TraceError, TraceOptions, Traces};
