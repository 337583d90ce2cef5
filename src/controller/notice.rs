//! Changes of the objects that resources name: whom does each concern?
//!
//! Only metadata is watched. What changed is read from the API server by the reconcile that the change asks for.

use std::fmt::Debug;

use futures::{StreamExt, pin_mut};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};

use super::{
    context::{Stores, log_of, name_of, pick},
    log::build::MANAGED,
    pokes::Pokes,
    scope::Scope,
};
use crate::{
    api::{Connection, Delivery, DestinationRef, EventLog, EventSink, EventTrigger, ValueSource},
    name::ObjectName,
};

/// What a change was about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Changed {
    Secret,
    Service,
    Sink,
    Log,
    Deployment,
}

/// Those whom a change concerns.
#[derive(Debug, Default, Eq, PartialEq)]
struct Concerned {
    logs: Vec<ObjectName>,
    sinks: Vec<ObjectName>,
    triggers: Vec<ObjectName>,
}

/// Watches one scope for as long as it is polled.
pub(super) async fn watch(client: Client, scope: Scope, stores: Stores, pokes: Pokes) {
    let all = watcher::Config::default;
    let told = Told { stores: &stores, pokes: &pokes };
    tokio::join!(
        follow(scope.api::<PartialObjectMeta<Secret>>(&client), all(), Changed::Secret, told),
        follow(scope.api::<PartialObjectMeta<Service>>(&client), all(), Changed::Service, told),
        follow(scope.api::<PartialObjectMeta<EventSink>>(&client), all(), Changed::Sink, told),
        follow(scope.api::<PartialObjectMeta<EventLog>>(&client), all(), Changed::Log, told),
        follow(scope.api::<PartialObjectMeta<Deployment>>(&client), all().labels(MANAGED), Changed::Deployment, told),
    );
}

/// Whom a change may concern, of all scopes: an EventTrigger may use an EventSink of another.
#[derive(Clone, Copy)]
struct Told<'a> {
    stores: &'a Stores,
    pokes: &'a Pokes,
}

async fn follow<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    kind: Changed,
    Told { stores, pokes }: Told<'_>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    let changes = watcher(api, config).default_backoff();
    pin_mut!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                concerned(kind, &object.metadata, stores).poke(pokes);
            }
            // A deletion may have been missed since the last list, or anything before the first: it concerns all.
            Ok(watcher::Event::InitDone) => everyone(stores).poke(pokes),
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "failed to watch; will try again"),
        }
    }
}

impl Concerned {
    fn poke(&self, pokes: &Pokes) {
        let Self { logs, sinks, triggers } = self;
        for log in logs {
            pokes.log(log);
        }
        for sink in sinks {
            pokes.sink(sink);
        }
        for trigger in triggers {
            pokes.trigger(trigger);
        }
    }
}

fn everyone(stores: &Stores) -> Concerned {
    Concerned {
        logs: pick(&stores.logs, |log| Some(name_of(log))),
        sinks: pick(&stores.sinks, |sink| Some(name_of(sink))),
        triggers: pick(&stores.triggers, |trigger| Some(name_of(trigger))),
    }
}

fn concerned(kind: Changed, object: &ObjectMeta, stores: &Stores) -> Concerned {
    let changed =
        ObjectName::new(object.namespace.clone().unwrap_or_default(), object.name.clone().unwrap_or_default());
    let owners = |kind: &str| -> Vec<ObjectName> {
        let owners = object.owner_references.iter().flatten().filter(|owner| owner.kind == kind);
        owners.map(|owner| ObjectName::new(&changed.namespace, &owner.name)).collect()
    };
    let sinks = |uses: &dyn Fn(&EventSink) -> bool| pick(&stores.sinks, |sink| uses(sink).then(|| name_of(sink)));
    let triggers = |uses: &dyn Fn(&EventTrigger) -> bool| {
        pick(&stores.triggers, |trigger| uses(trigger).then(|| name_of(trigger)))
    };
    let sends_to =
        |sinks: &[ObjectName], trigger: &EventTrigger| referred(trigger, "EventSink").any(|sink| sinks.contains(&sink));
    // With those whose dead letters go there.
    let or_through = |mut to: Vec<ObjectName>| {
        let through = sinks(&|sink| {
            let here = sink.namespace().unwrap_or_default();
            dead_letters(sink.spec.delivery.as_ref())
                .and_then(|reference| target(reference, &here, "EventSink"))
                .is_some_and(|sink| to.contains(&sink))
        });
        to.extend(through);
        to
    };
    match kind {
        Changed::Secret => {
            let sinks = or_through(sinks(&|sink| {
                sink.namespace().as_deref() == Some(&changed.namespace) && reads(sink, &changed.name)
            }));
            let mut logs = pick(&stores.logs, |log| {
                let here = log.namespace().as_deref() == Some(&changed.namespace);
                (here && connects(log, &changed.name)).then(|| name_of(log))
            });
            let owners = owners(&EventLog::kind(&()));
            // Workers of their own are started with the log's Secret.
            let mounts = |one: &EventTrigger| one.spec.deployment.is_some() && owners.contains(&log_of(one));
            let triggers = triggers(&|one| sends_to(&sinks, one) || mounts(one));
            logs.extend(owners);
            Concerned { logs, sinks, triggers }
        }
        Changed::Service => {
            let sinks = or_through(sinks(&|sink| {
                let here = sink.namespace().unwrap_or_default();
                let references = sink.spec.reference.iter().chain(dead_letters(sink.spec.delivery.as_ref()));
                references.filter_map(|reference| target(reference, &here, "Service")).any(|service| service == changed)
            }));
            let uses = |trigger: &EventTrigger| {
                referred(trigger, "Service").any(|service| service == changed) || sends_to(&sinks, trigger)
            };
            Concerned { logs: Vec::new(), triggers: triggers(&uses), sinks }
        }
        Changed::Sink => {
            let mut sinks = or_through(vec![changed]);
            let triggers = triggers(&|trigger| sends_to(&sinks, trigger));
            // The sink itself is watched.
            sinks.remove(0);
            Concerned { sinks, triggers, ..Concerned::default() }
        }
        Changed::Log => Concerned { triggers: triggers(&|trigger| log_of(trigger) == changed), ..Concerned::default() },
        Changed::Deployment => {
            let (logs, triggers) = (owners(&EventLog::kind(&())), owners(&EventTrigger::kind(&())));
            Concerned { logs, triggers, ..Concerned::default() }
        }
    }
}

/// The objects of `kind` that a trigger's sink, and that of its dead letters, refer to.
fn referred(trigger: &EventTrigger, kind: &str) -> impl Iterator<Item = ObjectName> {
    let here = trigger.namespace().unwrap_or_default();
    let references = trigger.spec.sink.reference.iter().chain(dead_letters(trigger.spec.delivery.as_ref()));
    references.filter_map(move |reference| target(reference, &here, kind))
}

/// The object that dead letters go to.
fn dead_letters(delivery: Option<&Delivery>) -> Option<&DestinationRef> {
    delivery?.dead_letter_sink.as_ref()?.reference.as_ref()
}

fn target(reference: &DestinationRef, here: &str, kind: &str) -> Option<ObjectName> {
    let namespace = reference.namespace.as_deref().unwrap_or(here);
    (reference.kind == kind).then(|| ObjectName::new(namespace, &reference.name))
}

/// Whether `sink` needs something of Secret `name`.
fn reads(sink: &EventSink, name: &str) -> bool {
    sink.spec.secrets().iter().any(|(_, selector)| selector.name == name)
}

/// Whether the connection of `log` comes from Secret `name`.
fn connects(log: &EventLog, name: &str) -> bool {
    [Some(&log.spec.connection), log.spec.delivery.connection.as_ref()]
        .into_iter()
        .flatten()
        .any(|connection| comes_from(connection, name))
}

fn comes_from(connection: &Connection, name: &str) -> bool {
    let Connection { uri, host, port, dbname, user, password, tls } = connection;
    let values = [host, port, dbname, user, password].into_iter().flatten();
    let values = values.filter_map(|value: &ValueSource| value.secret_key_ref.as_ref());
    let ca = tls.as_ref().and_then(|tls| tls.ca.as_ref());
    let sources = [uri.as_ref(), ca].into_iter().flatten().map(|source| &source.secret_key_ref);
    values.chain(sources).any(|selector| selector.name == name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use kube::runtime::reflector::{Store, store::Writer};
    use rstest::rstest;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::{controller::context::Watched, resolve::testing::parse};

    fn store<K>(spec: &[&str]) -> Vec<Store<Watched<K>>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
    {
        let mut writer = Writer::default();
        for spec in spec {
            writer.apply_watcher_event(&watcher::Event::Apply(parse(spec)));
        }
        vec![writer.as_reader()]
    }

    fn stores() -> Stores {
        Stores {
            logs: store(&[
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop}, spec: {connection: {uri: {secretKeyRef: {name: app, key: uri}}}}}",
            ]),
            sinks: store(&[
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {name: pay, namespace: bank}, spec: {ref: {kind: Service, name: vault}, headers: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: a}}}], delivery: {deadLetterSink: {ref: {kind: EventSink, name: morgue}}}}}",
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {name: morgue, namespace: bank}, spec: {uri: 'http://a/', headers: [{name: A, valueFrom: {secretKeyRef: {name: cold, key: a}}}]}}",
            ]),
            triggers: store(&[
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: paid, namespace: shop}, spec: {eventLogRef: {name: shop}, table: {name: orders}, on: {insert: {}}, sink: {ref: {kind: EventSink, name: pay, namespace: bank}}}}",
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: sent, namespace: shop}, spec: {eventLogRef: {name: shop}, table: {name: orders}, on: {insert: {}}, sink: {ref: {kind: Service, name: mail}}, delivery: {deadLetterSink: {ref: {kind: Service, name: morgue}}}}}",
                r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: loud, namespace: shop}, spec: {eventLogRef: {name: shop}, table: {name: orders}, on: {insert: {}}, sink: {uri: 'http://a/'}, deployment: {}}}",
            ]),
        }
    }

    fn names(names: &str) -> Vec<ObjectName> {
        let pair = |name: &str| name.split_once('/').map(|(namespace, name)| ObjectName::new(namespace, name)).unwrap();
        names.split_whitespace().map(pair).collect()
    }

    #[rstest]
    #[case(Changed::Secret, "shop/app", "shop/shop", "", "")]
    #[case(Changed::Secret, "bank/keys", "", "bank/pay", "shop/paid")]
    #[case(Changed::Secret, "shop/keys", "", "", "")]
    #[case(Changed::Service, "bank/vault", "", "bank/pay", "shop/paid")]
    #[case(Changed::Service, "shop/mail", "", "", "shop/sent")]
    #[case(Changed::Service, "shop/vault", "", "", "")]
    #[case(Changed::Sink, "bank/pay", "", "", "shop/paid")]
    #[case::dead_letters(Changed::Service, "shop/morgue", "", "", "shop/sent")]
    #[case::dead_letters(Changed::Sink, "bank/morgue", "", "bank/pay", "shop/paid")]
    #[case::dead_letters(Changed::Secret, "bank/cold", "", "bank/morgue bank/pay", "shop/paid")]
    #[case(Changed::Log, "shop/shop", "", "", "shop/loud shop/paid shop/sent")]
    fn a_change_concerns_those_who_name_the_object(
        #[case] kind: Changed,
        #[case] object: &str,
        #[case] logs: &str,
        #[case] sinks: &str,
        #[case] triggers: &str,
    ) {
        assert_eq!(
            found(kind, object, None),
            Concerned { logs: names(logs), sinks: names(sinks), triggers: names(triggers) }
        );
    }

    #[rstest]
    #[case::the_logs_workers(Changed::Deployment, "shop/shop-delivery", "EventLog shop", "shop/shop", "")]
    #[case::its_own_workers(Changed::Deployment, "shop/paid-workers", "EventTrigger paid", "", "shop/paid")]
    #[case::what_all_workers_mount(Changed::Secret, "shop/shop-delivery", "EventLog shop", "shop/shop", "shop/loud")]
    #[case::somebody_elses(Changed::Deployment, "shop/other", "Shop shop", "", "")]
    fn a_child_concerns_its_owner_and_those_that_are_made_of_it(
        #[case] kind: Changed,
        #[case] object: &str,
        #[case] owner: &str,
        #[case] logs: &str,
        #[case] triggers: &str,
    ) {
        let expected = Concerned { logs: names(logs), triggers: names(triggers), sinks: Vec::new() };
        assert_eq!(found(kind, object, owner.split_once(' ')), expected);
    }

    fn found(kind: Changed, object: &str, owner: Option<(&str, &str)>) -> Concerned {
        let ObjectName { namespace, name } = names(object).remove(0);
        let owner = owner.map(|(kind, name)| {
            vec![OwnerReference { kind: kind.to_owned(), name: name.to_owned(), ..OwnerReference::default() }]
        });
        let meta = ObjectMeta {
            namespace: Some(namespace),
            name: Some(name),
            owner_references: owner,
            ..ObjectMeta::default()
        };
        let mut found = concerned(kind, &meta, &stores());
        found.triggers.sort();
        found
    }
}
