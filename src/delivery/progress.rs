//! How a worker fares, for readiness and for `run --until-idle`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::watch;

use super::metrics::Metrics;
use crate::name::ObjectName;

/// What a worker is doing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// It has not been connected yet.
    #[default]
    Starting,
    /// It is not connected; the text says why.
    Away(String),
    /// Other workers deliver everything; this one is ready to take over.
    StandingBy,
    /// It delivers its share.
    Delivering,
    /// It has ended.
    Stopped,
}

/// A trigger that cannot be delivered until somebody configures something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// The trigger.
    pub trigger: ObjectName,
    /// What is missing or wrong.
    pub why: String,
}

/// How a worker fares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Whether everything that was in the log when it last looked is delivered or given up, for every trigger of its slots
    /// that is not suspended.
    pub caught_up: bool,
    /// Triggers whose events wait, other than by their own wish.
    pub held: Vec<Held>,
    /// Events that a sink has accepted.
    pub delivered: u64,
    /// Attempts that have ended.
    pub attempts: u64,
    /// Attempts that were not an event's first.
    pub retries: u64,
    /// Events that were given up.
    pub dead: u64,
}

impl Progress {
    /// Whether the worker can deliver or take over; if not, why.
    pub fn readiness(&self) -> Result<(), String> {
        match &self.phase {
            Phase::StandingBy | Phase::Delivering => Ok(()),
            Phase::Starting => Err("not connected to the database yet".to_owned()),
            Phase::Away(why) => Err(why.clone()),
            Phase::Stopped => Err("stopped".to_owned()),
        }
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    delivered: AtomicU64,
    attempts: AtomicU64,
    retries: AtomicU64,
    dead: AtomicU64,
}

impl Tally {
    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Relaxed);
    }

    pub(super) fn attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    pub(super) fn retries(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn dead(&self) {
        self.dead.fetch_add(1, Relaxed);
    }
}

/// Where one worker tells how it fares.
#[derive(Debug)]
pub struct Monitor {
    pub(super) metrics: Metrics,
    pub(super) tally: Arc<Tally>,
    progress: watch::Sender<Progress>,
}

impl Monitor {
    /// For one worker; `metrics` may be shared with others.
    pub fn new(metrics: &Metrics) -> (Self, watch::Receiver<Progress>) {
        let (progress, receiver) = watch::channel(Progress::default());
        (Self { metrics: metrics.clone(), tally: Arc::default(), progress }, receiver)
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.update(|progress| {
            let caught_up = progress.caught_up && phase == Phase::Delivering;
            replace(&mut progress.caught_up, caught_up) | replace(&mut progress.phase, phase)
        });
    }

    pub(super) fn held(&self, held: Vec<Held>) {
        for Held { trigger, why } in held.iter().filter(|held| !self.progress.borrow().held.contains(held)) {
            tracing::warn!(%trigger, "events wait: {why}");
        }
        self.update(|progress| replace(&mut progress.held, held));
    }

    pub(super) fn caught_up(&self, caught_up: bool) {
        self.update(|progress| replace(&mut progress.caught_up, caught_up));
    }

    /// Applies a change, and wakes whoever watches if it was one. Called for every look at the log: nothing is copied.
    fn update(&self, change: impl FnOnce(&mut Progress) -> bool) {
        self.progress.send_if_modified(|progress| {
            change(progress)
                | replace(&mut progress.delivered, self.tally.delivered.load(Relaxed))
                | replace(&mut progress.attempts, self.tally.attempts.load(Relaxed))
                | replace(&mut progress.retries, self.tally.retries.load(Relaxed))
                | replace(&mut progress.dead, self.tally.dead.load(Relaxed))
        });
    }
}

/// Whether it was another.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}
