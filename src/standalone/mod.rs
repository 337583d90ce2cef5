//! `run` and `plan`: the same resources from files, without a cluster.

pub mod embedded;
