//! What the controller counts. Labels are kinds, names of resources and fixed words.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicI64},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::context::{Stores, Watched, name_of, pick};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    delivery,
    log::Holding,
    name::ObjectName,
};

/// From what changes nothing to what waits for a database that does not answer.
const DURATIONS: [f64; 9] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// The metrics of one controller. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    reconciles: Family<Outcome, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    leader: Gauge<i64, AtomicI64>,
    segments: Family<Log, Gauge>,
    size: Family<Log, Gauge>,
    open: Family<Log, Gauge>,
    resources: Arc<Resources>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Outcome {
    kind: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Log {
    namespace: String,
    log: String,
}

impl From<&ObjectName> for Log {
    fn from(ObjectName { namespace, name }: &ObjectName) -> Self {
        Self { namespace: namespace.clone(), log: name.clone() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(DURATIONS);
        Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(histogram),
            leader: Gauge::default(),
            segments: Family::default(),
            size: Family::default(),
            open: Family::default(),
            resources: Arc::default(),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        delivery::register_build(registry);
        let own = registry.sub_registry_with_prefix("eventtrigger_controller");
        own.register("reconciles", "Reconciles, by kind and by what came of them", self.reconciles.clone());
        own.register_with_unit("reconcile_duration", "Time of a reconcile", Unit::Seconds, self.durations.clone());
        own.register("leader", "1 while this replica holds the lease", self.leader.clone());
        let all = registry.sub_registry_with_prefix("eventtrigger");
        all.register_collector(Box::new(self.resources.clone()));
        all.register("log_segments", "Parts of the log that are kept", self.segments.clone());
        all.register_with_unit("log_size", "Size of the log with its index", Unit::Bytes, self.size.clone());
        all.register_with_unit(
            "log_held_by_transaction",
            "For how long an open transaction has kept a part of the log from being finished; 0 if none does",
            Unit::Seconds,
            self.open.clone(),
        );
    }

    /// One reconcile of a kind; `outcome` is `settled`, `waiting`, `backoff` or `error`.
    pub(super) fn reconciled(&self, kind: &str, outcome: &'static str) {
        self.reconciles.get_or_create(&Outcome { kind: kind.to_owned(), outcome }).inc();
    }

    /// How long it took.
    pub(super) fn took(&self, kind: &str, duration: Duration) {
        self.durations.get_or_create(&Kind { kind: kind.to_owned() }).observe(duration.as_secs_f64());
    }

    pub(super) fn elected(&self) {
        self.leader.set(1);
    }

    /// What the watches know is what is told of resources.
    pub(super) fn watches(&self, stores: &Stores) {
        let _ = self.resources.0.set(stores.clone());
    }

    /// How a log was found.
    pub(super) fn log(&self, log: &ObjectName, holding: &Holding) {
        let (of, number) = (Log::from(log), |count: u64| i64::try_from(count).unwrap_or(i64::MAX));
        self.segments.get_or_create(&of).set(number(holding.segments as u64));
        self.size.get_or_create(&of).set(number(holding.bytes));
        self.open.get_or_create(&of).set(number(holding.held_open.map_or(0, |held| held.as_secs().max(1))));
    }

    /// A log is not looked at any more.
    pub(super) fn forget_log(&self, log: &ObjectName) {
        let of = Log::from(log);
        for gauge in [&self.segments, &self.size, &self.open] {
            gauge.remove(&of);
        }
    }
}

/// Conditions of all resources, as they are when somebody asks: what is deleted is not told of any more.
#[derive(Default)]
struct Resources(OnceLock<Stores>);

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resources").field(&self.0.get().is_some()).finish()
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Told {
    kind: String,
    namespace: String,
    name: String,
    condition: String,
}

impl Collector for Resources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let conditions = Family::<Told, Gauge>::default();
        if let Some(Stores { logs, sinks, triggers }) = self.0.get() {
            tell(&conditions, logs, |log: &EventLog| Some(log.status.as_ref()?.conditions.clone()));
            tell(&conditions, sinks, |sink: &EventSink| Some(sink.status.as_ref()?.conditions.clone()));
            tell(&conditions, triggers, |trigger: &EventTrigger| Some(trigger.status.as_ref()?.conditions.clone()));
        }
        let help = "1 if a condition of a resource is True, 0 if it is False or Unknown";
        conditions.encode(encoder.encode_descriptor("resource_condition", help, None, conditions.metric_type())?)
    }
}

fn tell<K>(
    told: &Family<Told, Gauge>,
    stores: &[kube::runtime::reflector::Store<Watched<K>>],
    conditions: impl Fn(&K) -> Option<Vec<Condition>>,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    for (ObjectName { namespace, name }, conditions) in
        pick(stores, |resource| Some((name_of(resource), conditions(resource)?)))
    {
        for Condition { type_, status, .. } in conditions {
            let (kind, namespace, name) = (K::kind(&()).into_owned(), namespace.clone(), name.clone());
            told.get_or_create(&Told { kind, namespace, name, condition: type_ }).set(i64::from(status == "True"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kube::{
        core::DeserializeGuard,
        runtime::{
            reflector::{self, store::Writer},
            watcher::Event,
        },
    };

    use super::*;
    use crate::resolve::testing::parse;

    fn sink() -> EventSink {
        parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {name: pay, namespace: bank}, spec: {uri: 'http://a/'},
               status: {observedGeneration: 1, conditions: [{type: Ready, status: 'True', reason: Ready, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]}}",
        )
    }

    /// Makes watches known; what they know of sinks.
    fn watched(metrics: &Metrics) -> Writer<Watched<EventSink>> {
        let ((logs, _), (sinks, writer), (triggers, _)) = (reflector::store(), reflector::store(), reflector::store());
        metrics.watches(&Stores { logs: vec![logs], sinks: vec![sinks], triggers: vec![triggers] });
        writer
    }

    #[test]
    fn conditions_of_the_resources_that_there_are_are_told() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let mut sinks = watched(&metrics);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let line =
            r#"eventtrigger_resource_condition{kind="EventSink",namespace="bank",name="pay",condition="Ready"} 1"#;
        sinks.apply_watcher_event(&Event::Apply(DeserializeGuard(Ok(sink()))));
        assert!(text().contains(line), "{}", text());
        sinks.apply_watcher_event(&Event::Delete(DeserializeGuard(Ok(sink()))));
        assert!(!text().contains("bank"), "{}", text());
    }

    /// Name, type and labels of every metric.
    fn exported(registry: &Registry) -> BTreeSet<(String, String, String)> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let each = types.map(|(family, type_)| {
            let name = match type_ {
                "counter" => format!("{family}_total"),
                "info" => format!("{family}_info"),
                _ => family.to_owned(),
            };
            let sample = if type_ == "histogram" { format!("{name}_count") } else { name.clone() };
            let sample =
                text.lines().find_map(|line| line.strip_prefix(&sample).filter(|rest| rest.starts_with(['{', ' '])));
            let sample = sample.unwrap_or_else(|| panic!("no sample of {name}: {text}"));
            let labels =
                sample.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let labels = labels.split(',').filter_map(|label| Some(format!("`{}`", label.split_once('=')?.0)));
            (name, type_.to_owned(), labels.collect::<Vec<_>>().join(", "))
        });
        each.collect()
    }

    fn described(section: &str) -> BTreeSet<(String, String, String)> {
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), cells[3].to_owned())).collect()
    }

    #[test]
    fn the_page_of_metrics_lists_exactly_what_is_exported() {
        let page = include_str!("../../docs/reference/metrics.md");
        let (workers, controller) = page.split_once("## Of the controller").unwrap();
        let mut registry = Registry::default();
        delivery::Metrics::register(&mut registry).sample();
        assert_eq!(described(workers), exported(&registry));

        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.reconciled("EventLog", "settled");
        metrics.took("EventLog", Duration::from_secs(1));
        metrics.log(&ObjectName::new("shop", "shop"), &Holding::default());
        watched(&metrics).apply_watcher_event(&Event::Apply(DeserializeGuard(Ok(sink()))));
        assert_eq!(described(controller), exported(&registry));
    }
}
