//! An EventTrigger becomes the definition that the log's schema holds.

use kube::ResourceExt;

use super::{LookupError, Objects, Problem, Secrets, sink};
use crate::{
    api::{self, EventTrigger, EventTriggerSpec},
    log::definition::{Columns, Context, Definition, Operations, Ordering, OwnWorkers, Policy, Sink, Updates},
    name::{Ident, ObjectName, TableName},
};

/// An EventTrigger with everything it names.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What to install. Without a sink while there is none: capture goes on, so that nothing is lost meanwhile.
    pub definition: Definition,
    /// Why there is no sink.
    pub sink: Result<(), Problem>,
    /// The values of the headers that come from Secrets.
    pub secrets: Secrets,
}

/// What `trigger` wants. Whether its EventLog allows the table is for [`super::table_allowed`].
pub async fn definition(trigger: &EventTrigger, objects: &impl Objects) -> Result<Resolved, LookupError> {
    let namespace = trigger.namespace().unwrap_or_default();
    let EventTriggerSpec {
        event_log_ref: _,
        table,
        on,
        columns,
        context,
        capture_replicated,
        ordering,
        partitions,
        deployment,
        sink,
        ce_overrides,
        delivery,
        suspend,
        reclaim_policy: _,
    } = &trigger.spec;
    let own = delivery.clone().unwrap_or_default();
    let mut secrets = Secrets::default();
    let (mut sink, delivery, mut dead_letter_sink, mut outcome) =
        match sink::destination(sink, &namespace, objects).await? {
            Ok(target) => {
                secrets = target.secrets;
                (Some(target.sink), own.over(&target.delivery), target.dead_letters, Ok(()))
            }
            Err(problem) => (None, own.clone(), None, Err(problem)),
        };
    if let Some(destination) = &own.dead_letter_sink {
        match sink::dead_letters(destination, &namespace, objects).await? {
            Ok((found, needed)) => {
                dead_letter_sink = Some(found);
                secrets.0.extend(needed.0);
            }
            // What would then be given up had nowhere to go.
            Err(problem) => (sink, outcome) = (None, outcome.and(Err(problem))),
        }
    }
    let sink = sink.map(|sink| match sink.name {
        Some(_) => sink,
        // There is no EventSink that could be annotated.
        None => Sink { resume: trigger.annotations().get(sink::RESUME).cloned(), ..sink },
    });
    let extensions = ce_overrides.as_ref().map(|overrides| overrides.extensions.clone()).unwrap_or_default();
    let sink = sink.map(|sink| Sink { extensions: extensions.clone(), ..sink });
    if let Some(dead_letter_sink) = &mut dead_letter_sink {
        dead_letter_sink.sink.extensions = extensions;
    }
    let definition = Definition {
        trigger: ObjectName::new(namespace, trigger.name_any()),
        table: TableName::new(&table.schema, &table.name),
        on: operations(on),
        columns: columns.as_ref().map_or(Columns::All, shown),
        context: context.as_ref().map(asked).unwrap_or_default(),
        replicated: *capture_replicated,
        ordering: ordering.as_ref().map(ordered).unwrap_or_default(),
        partitions: partitions.map_or(1, |partitions| partitions.clamp(1, 16).unsigned_abs()),
        own_workers: deployment.as_ref().map(workers),
        sink,
        policy: Policy::from_api(&delivery),
        dead_letter_sink,
        suspend: *suspend,
    };
    Ok(Resolved { definition, sink: outcome, secrets })
}

fn workers(deployment: &api::TriggerDeployment) -> OwnWorkers {
    if deployment.replicas > 0 { OwnWorkers::Running } else { OwnWorkers::Stopped }
}

fn operations(api::Operations { insert, update, delete, truncate }: &api::Operations) -> Operations {
    let updates = |update: &api::Update| match &update.columns {
        None => Updates::All,
        Some(columns) => Updates::Of(idents(columns)),
    };
    Operations {
        insert: insert.is_some(),
        update: update.as_ref().map(updates),
        delete: delete.is_some(),
        truncate: truncate.is_some(),
    }
}

fn shown(api::Columns { include, exclude }: &api::Columns) -> Columns {
    match (include, exclude) {
        (Some(include), _) => Columns::Include(idents(include)),
        (None, Some(exclude)) => Columns::Exclude(idents(exclude)),
        (None, None) => Columns::All,
    }
}

fn ordered(api::Ordering { key, none: _ }: &api::Ordering) -> Ordering {
    key.as_ref().map_or(Ordering::None, |names| Ordering::Columns(idents(names)))
}

fn asked(api::Context { role, application_name, settings, traceparent }: &api::Context) -> Context {
    Context {
        role: *role,
        application: *application_name,
        settings: settings.clone().unwrap_or_default(),
        traceparent: traceparent.clone(),
    }
}

fn idents(names: &[String]) -> Vec<Ident> {
    names.iter().map(Ident::new).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::{
        api::BackoffPolicy,
        log::definition::{DeadLetterSink, Limits, StatusRule},
        resolve::testing::{Manifests, parse},
    };

    const SINK: &str = r#"
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: billing, namespace: shop}
spec: {uri: "http://billing.example.com/in", delivery: {retry: 3, backoffPolicy: linear, timeout: PT2S, retryAfterMax: 1m},
  limits: {inFlight: 8, perSecond: 500}, statusCodes: {retry: [4xx, "422"], final: ["404"]}}
"#;

    fn trigger(spec: &str) -> EventTrigger {
        parse(&format!(
            "apiVersion: eventtrigger.dev/v1alpha1\nkind: EventTrigger\nmetadata: {{name: paid, namespace: shop}}\nspec: {spec}"
        ))
    }

    #[tokio::test]
    async fn a_trigger_is_laid_over_its_sink_and_that_over_the_defaults() {
        let trigger = trigger(
            "{eventLogRef: {name: shop}, table: {name: Orders}, on: {insert: {}, update: {columns: [status]}, truncate: {}}, columns: {exclude: [card]}, \
             context: {role: true, settings: [app.user], traceparent: app.trace}, captureReplicated: true, ordering: {key: [customer]}, partitions: 4, deployment: {replicas: 2}, sink: {ref: {kind: EventSink, name: billing}}, ceOverrides: {extensions: {region: eu}}, delivery: {retry: 5}, suspend: true}",
        );
        let resolved = definition(&trigger, &Manifests::new(SINK)).await.unwrap();
        let expected = Definition {
            trigger: ObjectName::new("shop", "paid"),
            table: TableName::new("public", "Orders"),
            on: Operations {
                insert: true,
                update: Some(Updates::Of(vec![Ident::new("status")])),
                delete: false,
                truncate: true,
            },
            columns: Columns::Exclude(vec![Ident::new("card")]),
            context: Context {
                role: true,
                application: false,
                settings: vec!["app.user".to_owned()],
                traceparent: Some("app.trace".to_owned()),
            },
            replicated: true,
            ordering: Ordering::Columns(vec![Ident::new("customer")]),
            partitions: 4,
            own_workers: Some(OwnWorkers::Running),
            sink: Some(Sink {
                name: Some("shop/billing".to_owned()),
                extensions: [("region".to_owned(), "eu".to_owned())].into(),
                limits: Limits { in_flight: 8, per_second: Some(500) },
                statuses: vec![
                    StatusRule { from: 422, to: 422, retry: true },
                    StatusRule { from: 404, to: 404, retry: false },
                    StatusRule { from: 400, to: 499, retry: true },
                ],
                ..Sink::to("http://billing.example.com/in")
            }),
            policy: Policy {
                retry: 5,
                backoff: BackoffPolicy::Linear,
                delay: Duration::from_secs(1),
                max: Duration::from_mins(5),
                timeout: Duration::from_secs(2),
                retry_after_max: Duration::from_mins(1),
            },
            dead_letter_sink: None,
            suspend: true,
        };
        assert_eq!(resolved.definition, expected);
        assert_eq!(resolved.sink, Ok(()));
    }

    #[rstest]
    #[case("null", None)]
    #[case("{}", Some(OwnWorkers::Running))]
    #[case("{replicas: 3}", Some(OwnWorkers::Running))]
    #[case("{replicas: 0}", Some(OwnWorkers::Stopped))]
    #[tokio::test]
    async fn workers_of_its_own_run_unless_there_are_to_be_none(
        #[case] deployment: &str,
        #[case] expected: Option<OwnWorkers>,
    ) {
        let trigger = trigger(&format!(
            "{{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, sink: {{uri: 'http://a/'}}, deployment: {deployment}}}"
        ));
        let resolved = definition(&trigger, &Manifests::new(SINK)).await.unwrap();
        assert_eq!(resolved.definition.own_workers, expected);
        // The log's schema tells these cases apart by the member: it is not there for the log's workers.
        let written = serde_json::to_value(&resolved.definition).unwrap();
        assert_eq!(written.get("own_workers").is_some(), expected.is_some());
    }

    const MORGUE: &str = r#"
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: billing, namespace: bank}
spec: {uri: "http://billing.example.com/in", allowedNamespaces: [shop], delivery: {deadLetterSink: {ref: {kind: EventSink, name: morgue}, uri: bank}}}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: morgue, namespace: bank}
spec: {uri: "http://morgue.example.com/", delivery: {timeout: 2s, deadLetterSink: {uri: "http://nowhere/"}},
  headers: [{name: Authorization, valueFrom: {secretKeyRef: {name: keys, key: token}}}]}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: bank}
stringData: {token: Bearer t0p}
"#;

    fn sent_to_the_bank(delivery: &str) -> EventTrigger {
        trigger(&format!(
            "{{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, delivery: {{{delivery}}}, \
             sink: {{ref: {{kind: EventSink, name: billing, namespace: bank}}}}}}"
        ))
    }

    #[tokio::test]
    async fn a_sink_says_in_its_own_namespace_where_dead_letters_go_and_a_trigger_may_say_otherwise_in_its() {
        let objects = Manifests::new(MORGUE);
        let resolved = definition(&sent_to_the_bank("retry: 3"), &objects).await.unwrap();
        let DeadLetterSink { sink, policy } = resolved.definition.dead_letter_sink.unwrap();
        assert_eq!((sink.url.as_str(), sink.headers.len()), ("http://morgue.example.com/bank", 1));
        assert_eq!((policy.timeout, policy.retry), (Duration::from_secs(2), Policy::default().retry));
        assert_eq!(resolved.secrets.0.values().collect::<Vec<_>>(), ["Bearer t0p"]);
        let own = sent_to_the_bank("deadLetterSink: {uri: 'http://own.example.com/'}");
        let resolved = definition(&own, &objects).await.unwrap();
        let own = DeadLetterSink { sink: Sink::to("http://own.example.com/"), policy: Policy::default() };
        assert_eq!(resolved.definition.dead_letter_sink, Some(own));
    }

    #[tokio::test]
    async fn a_dead_letter_sink_that_is_not_there_holds_events_and_is_named() {
        let trigger = sent_to_the_bank("deadLetterSink: {ref: {kind: EventSink, name: morgue}}");
        let resolved = definition(&trigger, &Manifests::new(MORGUE)).await.unwrap();
        assert_eq!(resolved.definition.sink, None);
        let expected =
            "spec.delivery.deadLetterSink.ref: there is no EventSink shop/morgue; create it, or correct the name";
        assert_eq!(resolved.sink.unwrap_err().message, expected);
    }

    #[rstest]
    #[case::there_is_no_other_to_annotate("uri: 'http://billing.example.com/'", Some("2"))]
    #[case::the_sink_has_its_own("ref: {kind: EventSink, name: billing}", None)]
    #[tokio::test]
    async fn a_trigger_resumes_its_sink_if_that_is_no_event_sink(#[case] sink: &str, #[case] expected: Option<&str>) {
        let spec =
            format!("{{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, sink: {{{sink}}}}}");
        let mut trigger = trigger(&spec);
        trigger.annotations_mut().insert("eventtrigger.dev/resume".to_owned(), "2".to_owned());
        let resolved = definition(&trigger, &Manifests::new(SINK)).await.unwrap();
        assert_eq!(resolved.definition.sink.unwrap().resume.as_deref(), expected);
    }

    #[tokio::test]
    async fn a_trigger_without_a_sink_is_captured_all_the_same() {
        let trigger = trigger(
            "{eventLogRef: {name: shop}, table: {name: orders}, on: {delete: {}}, sink: {ref: {kind: EventSink, name: gone}}}",
        );
        let resolved = definition(&trigger, &Manifests::new(SINK)).await.unwrap();
        assert_eq!(resolved.definition.sink, None);
        assert!(resolved.definition.on.delete);
        assert_eq!(resolved.sink.unwrap_err().reason, "SinkNotFound");
    }
}
