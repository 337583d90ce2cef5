//! What the controller counts. Labels are of fixed sets: never an object's name.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The counters of one controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    reconciles: Family<Labels, Counter>,
    leader: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    kind: String,
    outcome: &'static str,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("eventtrigger_controller");
        registry.register("reconciles", "Reconciles, by kind and by what came of them", self.reconciles.clone());
        registry.register("leader", "1 while this replica holds the lease", self.leader.clone());
    }

    /// One reconcile of a kind; `outcome` is `settled`, `waiting`, `backoff` or `error`.
    pub(super) fn reconciled(&self, kind: &str, outcome: &'static str) {
        self.reconciles.get_or_create(&Labels { kind: kind.to_owned(), outcome }).inc();
    }

    pub(super) fn elected(&self) {
        self.leader.set(1);
    }
}
