//! `eventtrigger run`: what the controller and the workers do, in one process and from files.

use std::{io, sync::Arc, time::Duration};

use futures::future::{join_all, select_all};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Ending, checked,
    database::Database,
    embedded::Embedded,
    options::{Leftovers, RunOptions},
    table::Table,
    tended::{Idleness, Tended},
};
use crate::{
    delivery::{self, Addresses, Place, Traces},
    server,
};

/// Between two looks at the database: what was dropped by hand is back within this, and a table that is made later is
/// captured within this.
const ROUND: Duration = Duration::from_secs(2);

/// Runs until `shutdown`, or until idle if that was asked for.
pub async fn run(options: RunOptions, shutdown: CancellationToken) -> anyhow::Result<Ending> {
    let Some((_, logs)) = checked(&options.input).await? else { return Ok(Ending::Failure) };
    let listener = match options.listen {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!("--listen {address}: {error}"))?)
        }
        None => None,
    };
    let database = tokio::select! {
        database = Database::open(&options.input) => database?,
        () = shutdown.cancelled() => return Ok(Ending::Success),
    };
    if let Database::Embedded(server) = &database {
        introduce(server);
    }
    let traces = Traces::start(&options.traces)?;
    let leftovers = if options.prune { Leftovers::Remove } else { Leftovers::Keep };
    let mut logs: Vec<_> = logs.into_iter().map(|log| Tended::new(log, database.config(), leftovers)).collect();

    let mut registry = Registry::default();
    let metrics = delivery::Metrics::register(&mut registry);
    // Delivery ends on its own, too: when everything is delivered.
    let stop = shutdown.child_token();
    let (ending, server) = tend(&mut logs, &options, listener, Arc::new(registry), &metrics, &stop).await?;
    stop.cancel();
    let (mut delivered, mut dead) = (0, 0);
    for progress in join_all(logs.into_iter().map(Tended::end)).await {
        delivered += progress.delivered;
        dead += progress.dead;
    }
    if let Some(traces) = traces {
        traces.end().await;
    }
    tracing::info!(delivered, dead, "ended");
    if let Some(server) = server {
        server.await??;
    }
    database.close().await?;
    Ok(ending)
}

/// Why there may be something to do or to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wake {
    Round,
    Delivery,
}

type Server = tokio::task::JoinHandle<io::Result<()>>;

async fn tend(
    logs: &mut [Tended],
    options: &RunOptions,
    listener: Option<TcpListener>,
    registry: Arc<Registry>,
    metrics: &delivery::Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<(Ending, Option<Server>)> {
    let addresses = Addresses::new(Place::Local, &options.addresses);
    let mut table = Table::default();
    let mut server = None;
    let mut listener = listener;
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let wake = tokio::select! {
            () = stop.cancelled() => return Ok((Ending::Success, server)),
            _ = rounds.tick() => Wake::Round,
            _ = select_all(logs.iter_mut().map(|log| Box::pin(log.changed()))) => Wake::Delivery,
        };
        if wake == Wake::Round {
            tokio::select! {
                _ = join_all(logs.iter_mut().map(Tended::tend)) => {}
                () = stop.cancelled() => return Ok((Ending::Success, server)),
            }
            for log in &mut *logs {
                log.deliver(&addresses, metrics, stop);
            }
            if let Some(listener) = listener.take_if(|_| logs.iter().all(|log| log.progress().is_some())) {
                server = Some(tokio::spawn(server::serve(listener, readiness(logs), registry.clone(), stop.clone())));
            }
        }
        table.print(logs.iter().flat_map(Tended::rows).collect(), &mut io::stdout().lock())?;
        if options.until_idle {
            let all: Vec<_> = logs.iter().map(Tended::idleness).collect();
            if all.contains(&Idleness::Stuck) {
                return Ok((Ending::Failure, server));
            }
            if all.iter().all(|idleness| *idleness == Idleness::Idle) {
                return Ok((Ending::Success, server));
            }
        }
    }
}

/// Every log's delivery must be able to deliver.
fn readiness(logs: &[Tended]) -> server::Readiness {
    let all: Vec<_> = logs.iter().filter_map(Tended::progress).collect();
    Arc::new(move || all.iter().try_for_each(|progress| progress.borrow().readiness()))
}

/// The password is in it: it guards against other users of this machine, who cannot read this terminal.
fn introduce(server: &Embedded) {
    let found = if server.adopted() { "was running already" } else { "was started" };
    println!(
        "PostgreSQL in {} {found}. For psql, on this machine only (it holds the password):",
        server.folder().display()
    );
    println!("  {}\n", server.uri());
}
