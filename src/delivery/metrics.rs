//! What a worker counts. Labels are names of EventTriggers and fixed words: no label's values grow with the data.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicU64,
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::retry::Ending;
use crate::name::ObjectName;

/// An EventTrigger.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Of {
    namespace: String,
    trigger: String,
}

impl From<&ObjectName> for Of {
    fn from(ObjectName { namespace, name }: &ObjectName) -> Self {
        Self { namespace: namespace.clone(), trigger: name.clone() }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OfClass {
    namespace: String,
    trigger: String,
    class: &'static str,
}

/// How attempts end.
const CLASSES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "timeout", "connection"];

fn class(ending: Ending) -> usize {
    match ending {
        Ending::Status(status) => usize::from(status / 100).clamp(1, 5) - 1,
        Ending::Timeout => 5,
        Ending::Connection => 6,
    }
}

type Seconds = Gauge<f64, AtomicU64>;

/// The metrics of all delivery in one process. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<OfClass, Counter>,
    retries: Family<Of, Counter>,
    delivered: Family<Of, Counter>,
    dead: Family<Of, Counter>,
    parked: Family<Of, Counter>,
    sent: Family<Of, Counter>,
    forwarded: Family<Of, Counter>,
    forward_failures: Family<Of, Counter>,
    backlog: Family<Of, Gauge>,
    oldest: Family<Of, Seconds>,
    parked_now: Family<Of, Gauge>,
    open: Family<Of, Gauge>,
    resting: Family<Of, Gauge>,
    latency: Histogram,
    pub(super) in_flight: Gauge,
    unfinished: Gauge,
    memory: Gauge,
    passes: Gauge,
    held: Gauge,
    slots: Gauge,
    pub(super) commits: Counter,
}

/// The version of what runs, in the way that Prometheus has for it.
pub(crate) fn register_build(registry: &mut Registry) {
    let registry = registry.sub_registry_with_prefix("eventtrigger");
    registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
}

impl Metrics {
    /// Makes them known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        // From a millisecond, for a sink next door, to half an hour, for one that was away.
        let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];
        let metrics = Self {
            attempts: Family::default(),
            retries: Family::default(),
            delivered: Family::default(),
            dead: Family::default(),
            parked: Family::default(),
            sent: Family::default(),
            forwarded: Family::default(),
            forward_failures: Family::default(),
            backlog: Family::default(),
            oldest: Family::default(),
            parked_now: Family::default(),
            open: Family::default(),
            resting: Family::default(),
            latency: Histogram::new(bounds),
            in_flight: Gauge::default(),
            unfinished: Gauge::default(),
            memory: Gauge::default(),
            passes: Gauge::default(),
            held: Gauge::default(),
            slots: Gauge::default(),
            commits: Counter::default(),
        };
        register_build(registry);
        metrics.register_triggers(registry.sub_registry_with_prefix("eventtrigger"));
        metrics.register_process(registry.sub_registry_with_prefix("eventtrigger"));
        metrics
    }

    /// Something of everything, for what looks at all of them.
    #[cfg(test)]
    pub(crate) fn sample(&self) {
        let trigger = ObjectName::new("shop", "paid");
        self.counts(&trigger);
        self.forwarded(&trigger, false);
        self.forwarded(&trigger, true);
        self.show(&trigger, &State { backlog: Some(0), ..State::default() });
    }

    fn register_triggers(&self, registry: &mut Registry) {
        // The library adds `_total` to counters, units to names, and a full stop to each text.
        registry.register("delivery_attempts", "Attempts to deliver, by how they ended", self.attempts.clone());
        registry.register("delivery_retries", "Attempts that were not an event's first", self.retries.clone());
        registry.register("events_delivered", "Events that a sink has accepted", self.delivered.clone());
        registry.register("events_dead", "Events that were given up", self.dead.clone());
        registry.register(
            "events_parked",
            "Events that were put aside, because they failed or wait for one of their key that did",
            self.parked.clone(),
        );
        registry.register_with_unit("delivery_sent", "Bodies of requests", Unit::Bytes, self.sent.clone());
        registry.register(
            "dead_letters_forwarded",
            "Dead letters that the dead letter sink has accepted",
            self.forwarded.clone(),
        );
        registry.register(
            "dead_letter_sink_failures",
            "Attempts to send a dead letter to the dead letter sink that failed",
            self.forward_failures.clone(),
        );
        registry.register(
            "delivery_backlog_events",
            "Events that are committed and not delivered, parked or given up; an estimate",
            self.backlog.clone(),
        );
        registry.register_with_unit(
            "delivery_oldest_event_age",
            "Age of the oldest event that is neither delivered, parked nor given up; 0 if there is none",
            Unit::Seconds,
            self.oldest.clone(),
        );
        registry.register(
            "delivery_parked_events",
            "Events that are put aside now, because they failed or wait for one of their key that did",
            self.parked_now.clone(),
        );
        registry.register(
            "delivery_circuit_open",
            "1 while the sink as a whole takes nothing and is only probed",
            self.open.clone(),
        );
        registry.register(
            "dead_letter_sink_failing",
            "1 while the dead letter sink takes nothing and is tried again",
            self.resting.clone(),
        );
    }

    fn register_process(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "delivery_latency",
            "Time from an event's capture to its delivery",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register("delivery_in_flight", "Attempts under way", self.in_flight.clone());
        registry.register(
            "delivery_unfinished_events",
            "Events read from the log and neither delivered, parked nor given up",
            self.unfinished.clone(),
        );
        registry.register_with_unit("delivery_memory", "Events in memory", Unit::Bytes, self.memory.clone());
        registry.register("delivery_passes", "Independent readers of the log; 1 if all keep up", self.passes.clone());
        registry.register(
            "delivery_held_triggers",
            "EventTriggers that cannot be delivered until something is configured",
            self.held.clone(),
        );
        registry.register("delivery_slots_held", "Slots of logs that this process delivers from", self.slots.clone());
        registry.register("delivery_cursor_commits", "Transactions that moved cursors", self.commits.clone());
    }

    /// What is counted of one EventTrigger, looked up once.
    pub(super) fn counts(&self, trigger: &ObjectName) -> Counts {
        let of = Of::from(trigger);
        let Of { namespace, trigger } = &of;
        let attempts = CLASSES.map(|class| {
            let (namespace, trigger) = (namespace.clone(), trigger.clone());
            self.attempts.get_or_create_owned(&OfClass { namespace, trigger, class })
        });
        Counts {
            attempts,
            retries: self.retries.get_or_create_owned(&of),
            delivered: self.delivered.get_or_create_owned(&of),
            dead: self.dead.get_or_create_owned(&of),
            parked: self.parked.get_or_create_owned(&of),
            sent: self.sent.get_or_create_owned(&of),
            latency: self.latency.clone(),
        }
    }

    /// Counts what became of a dead letter on its way to the dead letter sink.
    pub(super) fn forwarded(&self, trigger: &ObjectName, taken: bool) {
        let of = Of::from(trigger);
        if taken { &self.forwarded } else { &self.forward_failures }.get_or_create(&of).inc();
        self.resting.get_or_create(&of).set(i64::from(!taken));
    }

    /// An EventTrigger is gone.
    pub(super) fn forget(&self, trigger: &ObjectName) {
        let of = Of::from(trigger);
        for class in CLASSES {
            let Of { namespace, trigger } = of.clone();
            self.attempts.remove(&OfClass { namespace, trigger, class });
        }
        let counters = [&self.retries, &self.delivered, &self.dead, &self.parked, &self.sent];
        for counter in counters.into_iter().chain([&self.forwarded, &self.forward_failures]) {
            counter.remove(&of);
        }
        self.resting.remove(&of);
        self.hide(trigger);
    }

    fn hide(&self, trigger: &ObjectName) {
        let of = Of::from(trigger);
        for gauge in [&self.backlog, &self.parked_now, &self.open] {
            gauge.remove(&of);
        }
        self.oldest.remove(&of);
    }

    fn show(&self, trigger: &ObjectName, state: &State) {
        let of = Of::from(trigger);
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(backlog) = state.backlog {
            self.backlog.get_or_create(&of).set(number(backlog));
        }
        self.oldest.get_or_create(&of).set(state.oldest.as_secs_f64());
        self.parked_now.get_or_create(&of).set(number(state.parked));
        self.open.get_or_create(&of).set(i64::from(state.circuit_open));
    }
}

/// What is counted of one EventTrigger.
#[derive(Debug)]
pub(super) struct Counts {
    attempts: [Counter; CLASSES.len()],
    pub(super) retries: Counter,
    delivered: Counter,
    pub(super) dead: Counter,
    pub(super) parked: Counter,
    pub(super) sent: Counter,
    latency: Histogram,
}

impl Counts {
    /// Counts an attempt.
    pub(super) fn attempt(&self, ending: Ending) {
        self.attempts[class(ending)].inc();
    }

    /// Counts a delivery that took so long from the capture.
    pub(super) fn delivery(&self, latency: Duration) {
        self.delivered.inc();
        self.latency.observe(latency.as_secs_f64());
    }
}

/// How an EventTrigger stands.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// `None` as long as nothing is known.
    pub(super) backlog: Option<u64>,
    pub(super) oldest: Duration,
    pub(super) parked: u64,
    pub(super) circuit_open: bool,
}

impl State {
    /// Of parts of one EventTrigger.
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            backlog: self.backlog.zip(other.backlog).map(|(one, two)| one + two),
            oldest: self.oldest.max(other.oldest),
            parked: self.parked + other.parked,
            circuit_open: self.circuit_open || other.circuit_open,
        }
    }
}

/// One worker's parts of the gauges, for there may be several in a process; taken back when they are dropped.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) unfinished: Part,
    pub(super) memory: Part,
    pub(super) passes: Part,
    pub(super) held: Part,
    pub(super) slots: Part,
    shown: BTreeSet<ObjectName>,
    metrics: Metrics,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let part = |gauge: &Gauge| Part { gauge: gauge.clone(), part: 0 };
        Self {
            unfinished: part(&metrics.unfinished),
            memory: part(&metrics.memory),
            passes: part(&metrics.passes),
            held: part(&metrics.held),
            slots: part(&metrics.slots),
            shown: BTreeSet::new(),
            metrics: metrics.clone(),
        }
    }

    /// Shows how those stand that this worker delivers, and no others.
    pub(super) fn show(&mut self, states: BTreeMap<ObjectName, State>) {
        for gone in self.shown.iter().filter(|trigger| !states.contains_key(*trigger)) {
            self.metrics.hide(gone);
        }
        for (trigger, state) in &states {
            self.metrics.show(trigger, state);
        }
        self.shown = states.into_keys().collect();
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.show(BTreeMap::new());
    }
}

/// A part of a gauge's value.
#[derive(Debug)]
pub(super) struct Part {
    gauge: Gauge,
    part: i64,
}

impl Part {
    pub(super) fn set(&mut self, count: usize) {
        let part = i64::try_from(count).unwrap_or(i64::MAX);
        self.gauge.inc_by(part - self.part);
        self.part = part;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.gauge.dec_by(self.part);
    }
}
