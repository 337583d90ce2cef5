//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

mod standalone;
mod support;
