//! `run` and `plan`, with the database and the receiver real.

mod embedded;
