//! Sends dead letters to where an EventTrigger wants them, besides the log: each until it is taken, in no order. It stands apart
//! from delivery, holds little in memory, and rests a dead letter sink that fails.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    format::{self, Item, Obituary},
    http::Http,
    lanes::Keys,
    metrics::Metrics,
    retry::{Ending, backoff},
    sender,
    target::Target,
};
use crate::log::{
    Capture, Claim, Definition, Failure, Forward, Worker, WorkerError,
    definition::{DeadLetterSink, Policy},
};

/// Between two looks for dead letters.
const LOOK: Duration = Duration::from_secs(1);
/// After a statement that failed.
const REST: Duration = Duration::from_secs(10);
/// Requests under way of one EventTrigger, and of all. Those of sinks that hang for their whole timeout are among them.
const EACH: usize = 4;
const ALL: usize = 32;
/// Bytes of the events that are under way; one that is larger goes alone.
const BYTES: usize = 4 << 20;
/// Captures that are remembered.
const CAPTURES: usize = 256;
/// Between two lines of the log about one EventTrigger.
const QUIET: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Undertaker {
    worker: Arc<Worker>,
    config: Config,
    client: Http,
    metrics: Metrics,
    captures: HashMap<i32, Arc<Capture>>,
    ledger: Ledger,
}

/// How it went with each EventTrigger's dead letter sink. Pure.
#[derive(Debug, Default)]
struct Ledger {
    /// Requests under way.
    open: HashMap<i32, usize>,
    bytes: usize,
    failing: HashMap<i32, Failing>,
    /// Whose turn it was last.
    last: i32,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// In a row.
    failures: u32,
    until: Instant,
    /// When that was last logged.
    told: Instant,
}

impl Ledger {
    /// What may be claimed now.
    fn claim(&self, now: Instant) -> Option<Claim> {
        let open: usize = self.open.values().sum();
        if open >= ALL || self.bytes >= BYTES {
            return None;
        }
        let busy = self.open.keys();
        let resting = self.failing.iter().filter(|(_, failing)| failing.until > now).map(|(of, _)| of);
        let mut not: Vec<_> = busy.chain(resting).copied().collect();
        not.sort_unstable();
        not.dedup();
        let (all, bytes) = (ALL - open, BYTES - self.bytes);
        Some(Claim { each: EACH, all, bytes, larger: self.bytes == 0, not, after: self.last })
    }

    fn begin(&mut self, of: i32, bytes: usize) {
        *self.open.entry(of).or_default() += 1;
        self.bytes += bytes;
        self.last = of;
    }

    fn end(&mut self, of: i32, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(open) = self.open.get_mut(&of) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&of);
            }
        }
    }

    /// It failed: how long it rests, and whether that is worth a line.
    fn failed(&mut self, of: i32, policy: &Policy, now: Instant, random: f64) -> (Duration, bool) {
        let before = self.failing.get(&of).copied();
        // Those that were under way together fail together.
        let failures = before.map_or(0, |before| before.failures + u32::from(before.until <= now));
        let delay = backoff(policy, failures, random).max(LOOK);
        let tells = before.is_none_or(|before| now.duration_since(before.told) >= QUIET);
        let told = before.filter(|_| !tells).map_or(now, |before| before.told);
        let until = before.map_or(now, |before| before.until).max(now + delay);
        self.failing.insert(of, Failing { failures, until, told });
        (delay, tells)
    }

    fn succeeded(&mut self, of: i32) {
        self.failing.remove(&of);
    }
}

/// What became of one.
enum End {
    Taken,
    /// It never can be.
    Impossible(String),
    Failed(String),
}

type Attempt = BoxFuture<'static, (Forward, End)>;

/// The dead letter sink, with what else the definition says of the event.
fn aim(definition: &Definition, config: &Config, log_id: &str) -> Result<Target, String> {
    let DeadLetterSink { sink, policy } = definition.dead_letter_sink.clone().ok_or("it is not configured any more")?;
    let definition = Definition { sink: Some(sink), policy, suspend: false, ..definition.clone() };
    Target::new(&definition, config, log_id).map_err(|hold| hold.to_string())
}

async fn send(client: &Http, target: &Target, forward: &Forward, capture: &Capture) -> End {
    let Forward { event, .. } = forward;
    let keys = format::keys(event, capture, &target.ordering).unwrap_or(Keys::None);
    let written = match target.write(&[Item { event, capture, keys: &keys, attempt: 1 }]) {
        Ok(written) => obituary(forward).added(&target.format, written),
        Err(error) => return End::Impossible(error.to_string()),
    };
    let attempt = sender::post(client, target, written).await;
    match attempt.ending {
        Ending::Status(200..=299) => End::Taken,
        Ending::Status(_) | Ending::Timeout | Ending::Connection => End::Failed(attempt.told()),
    }
}

fn obituary(Forward { destination, failure, .. }: &Forward) -> Obituary {
    let Failure { status, error, response } = failure;
    Obituary::new(destination, *status, if response.is_empty() { error } else { response })
}

impl Undertaker {
    pub(super) fn new(worker: Arc<Worker>, config: &Config, client: Http, metrics: &Metrics) -> Self {
        let (config, metrics) = (config.clone(), metrics.clone());
        Self { worker, config, client, metrics, captures: HashMap::new(), ledger: Ledger::default() }
    }

    /// Works for as long as it is polled, and begins nothing new after `shutdown`. What is broken off is due again in a while.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Infallible {
        let mut attempts = FuturesUnordered::new();
        loop {
            let mut wait = LOOK;
            if !shutdown.is_cancelled() {
                match self.begin().await {
                    Ok(begun) => attempts.extend(begun),
                    Err(error) => {
                        wait = REST;
                        tracing::warn!(log = %self.config.owner.log, %error, "dead letters are not forwarded for now");
                    }
                }
            }
            tokio::select! {
                Some((forward, end)) = attempts.next() => self.end(forward, end).await,
                () = sleep(wait) => {}
            }
        }
    }

    /// Starts what is due and has room.
    async fn begin(&mut self) -> Result<Vec<Attempt>, WorkerError> {
        let Some(claim) = self.ledger.claim(Instant::now()) else { return Ok(Vec::new()) };
        let mut begun = Vec::new();
        for forward in self.worker.claim(&claim).await? {
            self.ledger.begin(forward.subscription, forward.bytes());
            let (client, capture) = (self.client.clone(), self.capture(forward.event.capture).await);
            let target = aim(&forward.definition, &self.config, self.worker.log_id());
            let attempt = async move {
                let end = match (target, capture) {
                    (Err(why), _) => End::Failed(why),
                    (_, Err(error)) => End::Failed(error.to_string()),
                    (_, Ok(None)) => End::Impossible("its capture is not in the log any more".to_owned()),
                    (Ok(target), Ok(Some(capture))) => send(&client, &target, &forward, &capture).await,
                };
                (forward, end)
            };
            begun.push(attempt.boxed());
        }
        Ok(begun)
    }

    async fn capture(&mut self, id: i32) -> Result<Option<Arc<Capture>>, WorkerError> {
        if let Some(capture) = self.captures.get(&id) {
            return Ok(Some(capture.clone()));
        }
        let Some(capture) = self.worker.capture(id).await?.map(Arc::new) else { return Ok(None) };
        if self.captures.len() >= CAPTURES {
            self.captures.clear();
        }
        self.captures.insert(id, capture.clone());
        Ok(Some(capture))
    }

    async fn end(&mut self, forward: Forward, end: End) {
        let (of, trigger) = (forward.subscription, &forward.definition.trigger);
        self.ledger.end(of, forward.bytes());
        self.metrics.forwarded(trigger, matches!(end, End::Taken));
        let again = match end {
            End::Taken => {
                self.ledger.succeeded(of);
                None
            }
            End::Impossible(why) => {
                tracing::error!(%trigger, event = forward.event.id, "a dead letter cannot be sent to the dead letter sink: {why}");
                None
            }
            End::Failed(why) => {
                let policy =
                    forward.definition.dead_letter_sink.as_ref().map(|to| to.policy.clone()).unwrap_or_default();
                let (delay, tells) = self.ledger.failed(of, &policy, Instant::now(), fastrand::f64());
                if tells {
                    tracing::warn!(%trigger, "the dead letter sink takes nothing, and is tried again and again: {why}");
                }
                Some(delay)
            }
        };
        // Otherwise it is sent once more when the claim is over.
        if let Err(error) = self.worker.forwarded(&forward, again).await {
            tracing::warn!(%trigger, %error, "a dead letter may be forwarded twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_sink_that_fails_rests_ever_longer_and_the_others_are_not_kept() {
        let (mut ledger, policy) = (Ledger::default(), Policy::default());
        let mut now = Instant::now();
        for (failures, seconds) in [1, 2, 4, 8].into_iter().enumerate() {
            // Four at once are one failure.
            (0..EACH).for_each(|_| ledger.begin(7, 10));
            for one in 0..EACH {
                ledger.end(7, 10);
                let (delay, tells) = ledger.failed(7, &policy, now, 0.5);
                assert_eq!((delay.as_secs(), tells), (seconds, failures + one == 0));
            }
            let claim = ledger.claim(now).unwrap();
            assert_eq!((claim.not, claim.after, claim.all), (vec![7], 7, ALL));
            now += Duration::from_secs(seconds);
            now += Duration::from_millis(1);
            assert!(ledger.claim(now).unwrap().not.is_empty());
        }
        ledger.succeeded(7);
        assert_eq!(ledger.failed(7, &policy, now, 0.5).0.as_secs(), 1);
    }

    #[test]
    fn what_is_under_way_is_bounded_in_number_and_bytes() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let claim = ledger.claim(now).unwrap();
        assert_eq!((claim.bytes, claim.larger), (BYTES, true));
        ledger.begin(1, BYTES - 1);
        let claim = ledger.claim(now).unwrap();
        assert_eq!((claim.bytes, claim.larger, claim.not), (1, false, vec![1]));
        ledger.begin(2, 1);
        assert!(ledger.claim(now).is_none());
        ledger.end(1, BYTES - 1);
        (0..ALL - 1).for_each(|_| ledger.begin(3, 0));
        assert!(ledger.claim(now).is_none());
    }
}
