//! The `eventtrigger` binary.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use eventtrigger::{
    cli::{Cli, Command},
    controller, crds, deliver, probe, standalone, telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

// A fifth of a worker's time would be musl's own, an eighth glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { command, log } = Cli::parse();
    // Once, and before any TLS: rustls takes no default where it could take several.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = telemetry::init(&log)
        .map_err(anyhow::Error::from)
        .and_then(|()| runtime(&command).enable_all().build()?.block_on(start(command)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("eventtrigger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A worker is one thread: waking another for each event costs a quarter of its time, and replicas are how it grows.
fn runtime(command: &Command) -> tokio::runtime::Builder {
    match command {
        Command::Deliver(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    }
}

async fn start(command: Command) -> anyhow::Result<ExitCode> {
    let shutdown = on_signal()?;
    match command {
        Command::Run(options) => return Ok(standalone::run(options, shutdown).await?.into()),
        Command::Plan(options) => return Ok(standalone::plan(options, shutdown).await?.into()),
        Command::Crds => io::stdout().lock().write_all(crds::yaml()?.as_bytes())?,
        Command::Controller(options) => Box::pin(controller::run(options, shutdown)).await?,
        Command::Deliver(options) => Box::pin(deliver::deliver(options, shutdown)).await?,
        Command::Probe(options) => probe::probe(options, &mut io::stdout().lock()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Cancelled by SIGTERM, which Kubernetes sends, and by SIGINT, which Ctrl-C sends.
fn on_signal() -> io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    });
    Ok(token)
}
