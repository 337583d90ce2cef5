//! The command line.

use clap::{Parser, Subcommand};

use crate::{controller, deliver, probe, standalone, telemetry};

/// Reliable eventing for PostgreSQL: rows change, services are told.
#[derive(Debug, Parser)]
#[command(name = "eventtrigger", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: telemetry::LogOptions,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run without a cluster: install what manifests in files want, deliver, and print how it goes.
    ///
    /// Secrets come from manifests of kind Secret, or from environment variables named
    /// `EVENTTRIGGER_SECRET_<NAMESPACE>_<NAME>_<KEY>`, in capitals and with _ for everything that is neither letter nor digit.
    /// EventTriggers without a sink send to the URL in `K_SINK`, with the attributes in `K_CE_OVERRIDES`: so a Knative
    /// `SinkBinding` says where events go.
    /// Ends with 0 on SIGTERM and SIGINT; with 1 if a manifest is wrong, before anything is changed.
    Run(standalone::RunOptions),
    /// Print the SQL that run would run for these manifests, and change nothing.
    ///
    /// Ends with 1 if a manifest is wrong, or if a table does not fit.
    Plan(standalone::PlanOptions),
    /// Print the CRDs, for kubectl apply -f -.
    Crds,
    /// The operator: install what resources in a cluster want, and run its delivery workers.
    Controller(controller::Options),
    /// A delivery worker; the controller starts it.
    Deliver(deliver::DeliverOptions),
    /// Print what a URL answers; end with 1 unless it is a success (2xx). For `helm test`, and for probes by a command.
    Probe(probe::ProbeOptions),
}
