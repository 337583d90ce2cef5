//! Tests against a real cluster: the one that the kubeconfig names, with the operator installed. Each in a namespace of
//! its own, in which only pods without privileges may run.

#![expect(unreachable_pub, reason = "a test program has no outside that its modules could hide from")]

mod admission;
mod cluster;
mod connection;
mod crash;
mod describe;
mod drift;
mod flux;
mod forward;
mod gitops;
mod identifiers;
mod install;
mod numbers;
mod output;
mod path;
mod retention;
mod scale;
mod scene;
mod sharing;
mod sinks;
mod table;
mod workers;
