//! From start to shutdown: connect, get the lease or stand by, deliver, and begin again after a failure.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Addresses, Config,
    http::Http,
    progress::{Monitor, Phase},
    session::{self, Given},
    undertaker::Undertaker,
};
use crate::log::{ConnectError, Lease, Worker, WorkerError};

/// For how long the lease is taken: a holder that hangs is replaced after it. One whose connection breaks is at once.
const LEASE: Duration = Duration::from_secs(10);
/// Between renewals: two may fail before the lease is over.
const RENEWAL: Duration = Duration::from_secs(3);
/// Before the lease is over by our clock, nothing may be under way: the server's clock may run a little faster.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two requests of a worker that stands by.
const STANDBY: Duration = Duration::from_secs(1);
/// Before the first new attempt to connect; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A database that is back is found within this.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How a worker behaves, apart from what the log says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names this worker, for people who look at the lease.
    pub holder: String,
    /// How long attempts that are under way may take to end after a shutdown.
    pub grace: Duration,
    /// Where events may be sent.
    pub addresses: Addresses,
}

impl Options {
    /// A Pod has 30 s between SIGTERM and SIGKILL: this leaves time for the last commit.
    pub const GRACE: Duration = Duration::from_secs(25);
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
        let connecting = Worker::connect(connection, schema, &owner.uid);
        let Some(worker) = self.shutdown.run_until_cancelled(connecting).await else { return Ok(()) };
        let worker = Arc::new(worker?);
        let shutdown = self.shutdown.clone();
        let Some(held) = shutdown.run_until_cancelled(self.stand_by(&worker)).await else { return Ok(()) };
        let (lease, since) = held?;
        tracing::info!(log = %self.config.owner.log, epoch = lease.epoch, "delivering");
        self.monitor.phase(Phase::Delivering);
        let given = Given {
            config: &self.config,
            client: self.client.clone(),
            monitor: &self.monitor,
            grace: self.options.grace,
        };
        let undertaker = Undertaker::new(worker.clone(), &self.config, self.client.clone());
        // Whichever ends first ends the other: without the lease, what is under way is broken off.
        tokio::select! {
            biased;
            error = self.renew(&worker, lease, since) => return Err(error),
            result = session::run(given, worker.clone(), lease, &self.shutdown) => result?,
            never = undertaker.run(self.shutdown.clone()) => match never {},
        }
        // Everything is written: whether the lease can be given back now or ends by itself changes little.
        if let Err(error) = worker.release(lease).await {
            tracing::debug!("failed to release the lease: {}", causes(&error));
        }
        Ok(())
    }

    /// Asks until the lease is ours. Also returns since when it is.
    async fn stand_by(&self, worker: &Worker) -> Result<(Lease, Instant), WorkerError> {
        loop {
            let asked = Instant::now();
            let held = timeout(LEASE, worker.hold(None, &self.options.holder, LEASE)).await;
            if let Some(lease) = held.map_err(|_| self.no_answer())?? {
                return Ok((lease, asked));
            }
            self.monitor.phase(Phase::StandingBy);
            sleep(STANDBY.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    /// Exponential, with jitter, for all workers lose their database at the same moment.
    fn next_delay(&mut self) -> Duration {
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_DELAY);
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Renews the lease for as long as that works. `since` is when it was asked for.
    async fn renew(&self, worker: &Worker, lease: Lease, since: Instant) -> WorkerError {
        let mut until = since + LEASE - MARGIN;
        loop {
            sleep(RENEWAL).await;
            let asked = Instant::now();
            match timeout_at(until, worker.hold(Some(lease), &self.options.holder, LEASE)).await {
                Ok(Ok(Some(held))) if held == lease => until = asked + LEASE - MARGIN,
                Ok(Ok(_)) => return WorkerError::Fenced,
                Ok(Err(error)) => return error,
                Err(_) => return self.no_answer(),
            }
        }
    }

    /// The connection is half dead: another one may work.
    fn no_answer(&self) -> WorkerError {
        let to = self.config.connection.to_string();
        ConnectError::Timeout { to, seconds: LEASE.as_secs() }.into()
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
