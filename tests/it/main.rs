//! Tests against a real PostgreSQL: one binary, so that linking is paid once.

<<<<<<< HEAD
mod standalone;
=======
mod capture;
mod log;
>>>>>>> main
mod support;
