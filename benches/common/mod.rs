//! What the benchmarks share: a server, processor time, tables of figures and targets, and how much is measured.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod effort;
pub(crate) mod log;
pub(crate) mod measure;
pub(crate) mod report;
pub(crate) mod server;
