//! What objects say of each other: every name must lead somewhere before anything is installed.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use super::{Manifests, Mistake, schema::nearest};
use crate::{
    api::{self, Delivery, DestinationRef, SecretKeySelector},
    name::ObjectName,
};

/// The environment variable that may hold a Secret's key: `EVENTTRIGGER_SECRET_<NAMESPACE>_<NAME>_<KEY>` in capitals, with
/// `_` for everything that is neither letter nor digit.
pub fn variable(secret: &ObjectName, key: &str) -> String {
    let name = format!("EVENTTRIGGER_SECRET_{}_{}_{key}", secret.namespace, secret.name);
    name.chars().map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' }).collect()
}

/// Finds what leads nowhere; takes the Secrets that manifests lack from the environment.
pub(super) fn check(manifests: &mut Manifests, environment: &BTreeMap<String, String>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (name, trigger) in &manifests.triggers {
        let log = ObjectName::new(&name.namespace, &trigger.spec.event_log_ref.name);
        if !manifests.has("EventLog", &log) {
            let what = format!(
                "spec.eventLogRef.name: there is no EventLog {log}; {}",
                elsewhere(manifests, "EventLog", &log)
            );
            mistakes.push(manifests.mistake("EventTrigger", name, "spec.eventLogRef.name", what));
        }
        let sink = trigger.spec.sink.reference.as_ref().map(|to| ("spec.sink.ref", to));
        for (field, reference) in sink.into_iter().chain(dead_letters(trigger.spec.delivery.as_ref())) {
            if let Err(what) = find(manifests, &name.namespace, reference) {
                let (at, what) = (format!("{field}.name"), format!("{field}: {what}"));
                mistakes.push(manifests.mistake("EventTrigger", name, &at, what));
            }
        }
    }
    let mut from_environment = Vec::new();
    for (name, sink) in &manifests.sinks {
        let target = sink.spec.reference.as_ref().map(|to| ("spec.ref", to));
        for (field, reference) in target.into_iter().chain(dead_letters(sink.spec.delivery.as_ref())) {
            if let Err(what) = find(manifests, &name.namespace, reference) {
                let (at, what) = (format!("{field}.name"), format!("{field}: {what}"));
                mistakes.push(manifests.mistake("EventSink", name, &at, what));
            }
        }
        for (field, SecretKeySelector { name: secret, key }) in sink.spec.secrets() {
            let secret = ObjectName::new(&name.namespace, secret);
            if holds(manifests, &secret, &key) {
                continue;
            }
            let variable = variable(&secret, &key);
            if let Some(value) = environment.get(&variable) {
                from_environment.push((secret, key.clone(), value.clone()));
                continue;
            }
            // A `secretRef` is there itself.
            let field = if field.ends_with("Ref") { field } else { format!("{field}.secretKeyRef") };
            let what = format!(
                "{field}: there is no Secret {secret} with a key {key:?}; add it to the manifests, or set the environment \
                 variable {variable}"
            );
            mistakes.push(manifests.mistake("EventSink", name, &field, what));
        }
    }
    for (secret, key, value) in from_environment {
        let data = manifests.secrets.entry(secret).or_default().data.get_or_insert_default();
        data.insert(key, ByteString(value.into_bytes()));
    }
    mistakes.extend(shared_schemas(manifests));
    mistakes
}

/// The object that dead letters go to, and the field that says so.
fn dead_letters(delivery: Option<&Delivery>) -> Option<(&'static str, &DestinationRef)> {
    let reference = delivery?.dead_letter_sink.as_ref()?.reference.as_ref()?;
    Some(("spec.delivery.deadLetterSink.ref", reference))
}

/// All EventLogs are in one database here.
fn shared_schemas(manifests: &Manifests) -> Vec<Mistake> {
    let mut owners = BTreeMap::new();
    let mut mistakes = Vec::new();
    for (name, log) in &manifests.logs {
        if let Some(first) = owners.insert(&log.spec.schema, name) {
            let what = format!(
                "spec.schema: {:?} is also the schema of EventLog {first}, and without a cluster both are in one database; give \
                 each its own",
                log.spec.schema
            );
            mistakes.push(manifests.mistake("EventLog", name, "spec.schema", what));
        }
    }
    mistakes
}

/// A Secret that is there but wrong was complained of already.
fn holds(manifests: &Manifests, secret: &ObjectName, key: &str) -> bool {
    match manifests.secrets.get(secret) {
        Some(found) => {
            found.data.as_ref().is_some_and(|data| data.contains_key(key))
                || found.string_data.as_ref().is_some_and(|data| data.contains_key(key))
        }
        None => manifests.has("Secret", secret),
    }
}

/// Whether there is an object at the end of a reference, and if not, what to do.
fn find(manifests: &Manifests, namespace: &str, reference: &DestinationRef) -> Result<(), String> {
    let DestinationRef { api_version, kind, name, namespace: other, port: _ } = reference;
    let target = ObjectName::new(other.as_deref().unwrap_or(namespace), name);
    let ours = format!("{}/{}", api::GROUP, api::VERSION);
    match (api_version.as_deref(), kind.as_str()) {
        (None, "EventSink") => find_sink(manifests, &target),
        (Some(version), "EventSink") if version == ours => find_sink(manifests, &target),
        (None | Some("v1"), "Service") => {
            if manifests.has("Service", &target) || manifests.service_urls.contains_key(&target) {
                return Ok(());
            }
            Err(format!(
                "there is no Service {target}; say where it is with --service {}.{}=http://127.0.0.1:8080, or add it to the \
                 manifests",
                target.name, target.namespace
            ))
        }
        (version, kind) => {
            let key = (version.unwrap_or_default().to_owned(), kind.to_owned(), target.clone());
            match manifests.addresses.get(&key) {
                Some(Some(_)) => Ok(()),
                _ => Err(format!(
                    "without a cluster, nobody can tell the address of {kind} {target}; add it to the manifests with its \
                     status.address.url, or use uri alone"
                )),
            }
        }
    }
}

fn find_sink(manifests: &Manifests, target: &ObjectName) -> Result<(), String> {
    if manifests.has("EventSink", target) {
        return Ok(());
    }
    Err(format!("there is no EventSink {target}; {}", elsewhere(manifests, "EventSink", target)))
}

/// What the user may have meant.
fn elsewhere(manifests: &Manifests, kind: &str, wanted: &ObjectName) -> String {
    let all: Vec<_> = manifests.origins.keys().filter(|(found, _)| found == kind).map(|(_, name)| name).collect();
    let here: Vec<_> =
        all.iter().filter(|name| name.namespace == wanted.namespace).map(|name| name.name.as_str()).collect();
    if let Some(near) = nearest(&wanted.name, &here) {
        return format!("did you mean {near}?");
    }
    match all.iter().find(|name| name.name == wanted.name) {
        Some(other) => format!("there is one in namespace {}; use that namespace for both", other.namespace),
        None if here.is_empty() => "add it to the manifests".to_owned(),
        None => format!("there is: {}", here.join(", ")),
    }
}
