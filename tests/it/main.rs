//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

mod capture;
mod log;
mod standalone;
mod support;
mod tls;
