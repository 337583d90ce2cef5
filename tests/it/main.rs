//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

// Clippy makes an exception for functions marked as tests, not for what they call.
#![allow(clippy::unwrap_used)]

mod adopt;
mod capture;
mod cursors;
mod deadletters;
mod delivery;
mod faults;
mod hindrances;
mod judge;
mod log;
mod pgbouncer;
mod receiver;
mod roles;
mod security;
mod segments;
mod slots;
mod standalone;
mod support;
mod tls;
mod wire;
