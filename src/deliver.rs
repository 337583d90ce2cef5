//! `eventtrigger deliver`: a worker with its probes and metrics.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{self, AddressOptions, Addresses, Place, TraceError, TraceOptions, Traces},
    name::ObjectName,
    server,
};

/// What a delivery worker is told.
#[derive(Args, Clone, Debug)]
pub struct DeliverOptions {
    /// File with the connection and the values of Secrets, as JSON; the controller writes it.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Delivers this EventTrigger only, which asks for workers of its own; without it, all those that do not.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub only: Option<ObjectName>,

    /// Address to serve /livez, /readyz and /metrics at.
    #[arg(long, env = "EVENTTRIGGER_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Names this worker in the log's lease, for people.
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value_t = format!("process {}", std::process::id()))]
    pub holder: String,

    /// Where events may be sent.
    #[command(flatten)]
    pub addresses: AddressOptions,

    /// Where attempts are traced.
    #[command(flatten)]
    pub traces: TraceOptions,
}

/// Why a worker does not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// No configuration.
    #[error("failed to read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration that is not one. The source is left out: it may repeat what the file holds.
    #[error("the configuration {} is not as the controller writes it (line {line}, column {column})", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// No address to answer probes at.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No collector, though there should be one.
    #[error("failed to trace attempts")]
    Traces(#[from] TraceError),
}

/// Delivers until `shutdown`; then lets attempts under way end.
pub async fn deliver(options: DeliverOptions, shutdown: CancellationToken) -> Result<(), DeliverError> {
    let DeliverOptions { config: path, only, listen: address, holder, addresses, traces } = options;
    let text = tokio::fs::read(&path).await.map_err(|source| DeliverError::Read { path: path.clone(), source })?;
    let config: delivery::Config = serde_json::from_slice(&text).map_err(|error| DeliverError::Config {
        path,
        line: error.line(),
        column: error.column(),
    })?;
    let listener = TcpListener::bind(address).await.map_err(|source| DeliverError::Listen { address, source })?;
    let mut registry = Registry::default();
    let metrics = delivery::Metrics::register(&mut registry);
    let (monitor, progress) = delivery::Monitor::new(&metrics);
    let readiness: server::Readiness = Arc::new(move || progress.borrow().readiness());
    // Probes and metrics are answered while attempts under way end.
    let stop = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, readiness, Arc::new(registry), stop.clone()));
    let traces = Traces::start(&traces)?;
    tracing::info!(log = %config.owner.log, database = %config.connection, %address, "delivering");
    let grace = delivery::Options::LONG_GRACE;
    let addresses = Addresses::new(Place::Cluster, &addresses);
    Box::pin(delivery::run(config, delivery::Options { holder, grace, addresses, only }, monitor, shutdown)).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    stop.cancel();
    match server.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("probes and metrics: {error}"),
        Err(panic) => tracing::error!("probes and metrics: {panic}"),
    }
    Ok(())
}
