//! Reliable eventing for PostgreSQL on Kubernetes: rows change, services are told.
//!
//! The hard parts are plain functions: the SQL that captures ([`capture`]), the algebra of cursors ([`log`]), the
//! decision after an attempt ([`delivery`]), the meaning of a resource ([`resolve`]). IO stands around them.

pub mod api;
pub mod capture;
pub mod cli;
pub mod controller;
pub mod crds;
pub mod deliver;
pub mod delivery;
pub mod log;
pub mod name;
pub mod probe;
pub mod resolve;
pub mod server;
pub mod standalone;
pub mod telemetry;
