//! Reading the log, sending, retrying.

mod config;

pub use config::Config;
