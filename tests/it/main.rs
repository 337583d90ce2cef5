//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

// Clippy makes an exception for functions marked as tests, not for what they call.
#![allow(clippy::unwrap_used)]

mod adopt;
mod capture;
mod cursors;
mod deadletters;
mod delivery;
mod faults;
mod hanging;
mod hindrances;
mod judge;
mod log;
mod memory;
mod metrics;
mod pgbouncer;
mod pools;
mod process;
mod proxy;
mod receiver;
mod roles;
mod security;
mod segments;
mod slots;
mod spread;
mod standalone;
mod support;
mod tls;
mod upgrade;
mod wire;
