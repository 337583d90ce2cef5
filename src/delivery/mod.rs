//! Reading the log, sending, retrying.
//!
//! Plain functions and types decide: [`lanes`] the order, [`ledger`] the cursor, [`pass`] who reads with whom, [`retry`]
//! what follows an attempt, [`cloudevents`] what is sent. Around them: [`run`] holds the lease, [`session`] reads and
//! commits, a [`courier`] for each subscription sends.

mod breaker;
mod cloudevents;
mod config;
mod context;
mod courier;
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
mod sender;
mod session;
mod target;

pub use config::Config;
pub use metrics::Metrics;
pub use progress::{Held, Monitor, Phase, Progress};
pub use run::{Error, Options, run};
