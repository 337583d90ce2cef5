//! From start to shutdown: connect, deliver, and begin again after a failure.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Addresses, Config,
    http::Http,
    progress::{Monitor, Phase},
    session::{self, Given},
    undertaker::Undertaker,
};
use crate::{
    log::{Worker, WorkerError},
    name::ObjectName,
};

/// Before the first new attempt to connect; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A database that is back is found within this.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How a worker behaves, apart from what the log says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names this worker, for people who look at the slots.
    pub holder: String,
    /// How long attempts that are under way may take to end after a shutdown.
    pub grace: Duration,
    /// Where events may be sent.
    pub addresses: Addresses,
    /// The EventTrigger that it delivers, as one of the workers that this one has of its own; `None`: all that have none.
    pub only: Option<ObjectName>,
}

impl Options {
    /// Of `run`: whoever stopped it waits for it.
    pub const GRACE: Duration = Duration::from_secs(25);
    /// Of a worker in a cluster. Its attempts end by the timeout of their policy, 30 s by default; this bounds those whose
    /// policy says more, so that a node can be drained.
    pub const LONG_GRACE: Duration = Duration::from_mins(5);
}

/// Delivers one log's events until `shutdown`; then lets attempts under way end and returns. A failing database is
/// waited for.
pub async fn run(config: Config, options: Options, monitor: Monitor, shutdown: CancellationToken) {
    let client = Http::new(options.addresses.clone());
    let mut worker = Delivery { client, config, options, monitor, shutdown, failures: 0 };
    let mut known = None;
    loop {
        let began = Instant::now();
        let Err(error) = worker.live().await else { break };
        if began.elapsed() > LONGEST_DELAY {
            // It worked for a while: this is another failure, not the last one going on.
            worker.failures = 0;
            known = None;
        }
        let why = causes(&error);
        if known.as_ref() != Some(&why) {
            tracing::warn!(log = %worker.config.owner.log, database = %worker.config.connection, "not delivering: {why}");
            known = Some(why.clone());
        }
        worker.monitor.phase(Phase::Away(why));
        let delay = worker.next_delay();
        if worker.shutdown.run_until_cancelled(sleep(delay)).await.is_none() {
            break;
        }
    }
    worker.monitor.phase(Phase::Stopped);
}

struct Delivery {
    config: Config,
    options: Options,
    client: Http,
    monitor: Monitor,
    shutdown: CancellationToken,
    /// To connect, or soon after, in a row.
    failures: u32,
}

impl Delivery {
    /// One connection's life. Ends well only by the shutdown.
    async fn live(&mut self) -> Result<(), WorkerError> {
        let Config { connection, schema, owner, .. } = &self.config;
        let connecting = Worker::of(connection, schema, &owner.uid, self.options.only.as_ref());
        let Some(worker) = self.shutdown.run_until_cancelled(connecting).await else { return Ok(()) };
        let worker = Arc::new(worker?);
        let given = Given {
            config: &self.config,
            holder: &self.options.holder,
            client: self.client.clone(),
            monitor: &self.monitor,
            grace: self.options.grace,
        };
        let undertaker = Undertaker::new(worker.clone(), &self.config, self.client.clone(), &self.monitor.metrics);
        // Whichever ends first ends the other.
        tokio::select! {
            biased;
            result = session::run(given, worker.clone(), &self.shutdown) => result,
            never = undertaker.run(self.shutdown.clone()) => match never {},
        }
    }

    /// Exponential, with jitter, for all workers lose their database at the same moment.
    fn next_delay(&mut self) -> Duration {
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// The text of an error and of what caused it.
fn causes(error: &WorkerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
