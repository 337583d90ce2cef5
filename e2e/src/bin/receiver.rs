//! The receiver as a program: what the tests' Service runs in a cluster.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use eventtrigger_e2e::receiver::Receiver;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Records the requests it gets, and answers as it is told.
#[derive(Parser)]
struct Args {
    /// Where requests are taken: any method, any path
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where orders are taken: GET /records?since=N, DELETE /records, GET /count, PUT /behaviour
    #[arg(long, env = "CONTROL", default_value = "0.0.0.0:8081")]
    control: SocketAddr,
    /// How many bytes of requests are remembered; the oldest go first
    #[arg(long, env = "MEMORY", default_value_t = 64 << 20)]
    memory: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args { listen, control, memory } = Args::parse();
    let receiver = Receiver::new(memory);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    let control = TcpListener::bind(control).await.with_context(|| format!("failed to listen on {control}"))?;
    // Process 1 of a container ignores a signal that nobody waits for, and would be killed only after the grace period.
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
    tokio::select! {
        ended = receiver.serve(listener) => ended.context("failed to take requests"),
        ended = receiver.serve_control(control) => ended.context("failed to take orders"),
        _ = terminate.recv() => Ok(()),
    }
}
