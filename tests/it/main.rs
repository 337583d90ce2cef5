//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

mod capture;
mod delivery;
mod log;
mod receiver;
mod standalone;
mod support;
mod tls;
