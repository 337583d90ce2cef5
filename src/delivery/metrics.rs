//! What a worker counts. No label's values grow with the data.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::retry::Ending;

/// The metrics of all delivery in one process. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) retries: Counter,
    pub(super) delivered: Counter,
    pub(super) dead: Counter,
    pub(super) parked: Counter,
    pub(super) latency: Histogram,
    pub(super) in_flight: Gauge,
    unfinished: Gauge,
    passes: Gauge,
    held: Gauge,
    leases: Gauge,
    pub(super) commits: Counter,
}

impl Metrics {
    /// Makes them known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        // From a millisecond, for a sink next door, to half an hour, for one that was away.
        let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];
        let metrics = Self {
            attempts: Family::default(),
            retries: Counter::default(),
            delivered: Counter::default(),
            dead: Counter::default(),
            parked: Counter::default(),
            latency: Histogram::new(bounds),
            in_flight: Gauge::default(),
            unfinished: Gauge::default(),
            passes: Gauge::default(),
            held: Gauge::default(),
            leases: Gauge::default(),
            commits: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("eventtrigger");
        // The library adds `_total` to counters.
        registry.register("delivery_attempts", "Attempts to deliver an event, by outcome", metrics.attempts.clone());
        registry.register("delivery_retries", "Attempts that were not an event's first", metrics.retries.clone());
        registry.register("events_delivered", "Events that a sink has accepted", metrics.delivered.clone());
        registry.register("events_dead", "Events that were given up", metrics.dead.clone());
        registry.register(
            "events_parked",
            "Events that were put aside, because they failed or wait for one of their key that did",
            metrics.parked.clone(),
        );
        registry.register(
            "delivery_latency_seconds",
            "Time from an event's capture to its delivery",
            metrics.latency.clone(),
        );
        registry.register("delivery_in_flight", "Attempts under way", metrics.in_flight.clone());
        registry.register(
            "delivery_unfinished_events",
            "Events read from the log and neither delivered nor given up",
            metrics.unfinished.clone(),
        );
        registry.register(
            "delivery_passes",
            "Independent readers of the log; 1 if all keep up",
            metrics.passes.clone(),
        );
        registry.register(
            "delivery_held_triggers",
            "Triggers that cannot be delivered until something is configured",
            metrics.held.clone(),
        );
        registry.register(
            "delivery_leases_held",
            "Slots of logs that this process delivers from, of 16 for each log",
            metrics.leases.clone(),
        );
        registry.register("delivery_cursor_commits", "Transactions that moved cursors", metrics.commits.clone());
        metrics
    }

    /// Counts an attempt.
    pub(super) fn attempt(&self, ending: Ending) {
        let class = match ending {
            Ending::Status(..=199) => "1xx",
            Ending::Status(200..=299) => "2xx",
            Ending::Status(300..=399) => "3xx",
            Ending::Status(400..=499) => "4xx",
            Ending::Status(500..) => "5xx",
            Ending::Timeout => "timeout",
            Ending::Connection => "connection",
        };
        self.attempts.get_or_create(&[("class", class)]).inc();
    }

    /// Counts a delivery that took so long from the capture.
    pub(super) fn delivery(&self, latency: Duration) {
        self.delivered.inc();
        self.latency.observe(latency.as_secs_f64());
    }
}

/// One worker's parts of the gauges, for there may be several in a process; taken back when they are dropped.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) unfinished: Part,
    pub(super) passes: Part,
    pub(super) held: Part,
    pub(super) leases: Part,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let part = |gauge: &Gauge| Part { gauge: gauge.clone(), part: 0 };
        Self {
            unfinished: part(&metrics.unfinished),
            passes: part(&metrics.passes),
            held: part(&metrics.held),
            leases: part(&metrics.leases),
        }
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
