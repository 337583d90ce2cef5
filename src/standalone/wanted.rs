//! What manifests want of the database: every log with its definitions and the values of its Secrets.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::manifests::{Manifests, Mistake, uid_of};
use crate::{
    api::EventTrigger,
    log::{ADOPT, Definition, Owner, Retention},
    name::{Ident, ObjectName, TableName},
    resolve::{self, LookupError, Problem},
};

/// One EventLog.
#[derive(Clone, Debug)]
pub(super) struct WantedLog {
    pub(super) owner: Owner,
    pub(super) schema: Ident,
    pub(super) retention: Retention,
    /// The server to adopt, if it is another one.
    pub(super) adopt: Option<String>,
    pub(super) triggers: Vec<WantedTrigger>,
    pub(super) secrets: resolve::Secrets,
}

/// One of its EventTriggers.
#[derive(Clone, Debug)]
pub(super) struct WantedTrigger {
    pub(super) uid: String,
    pub(super) definition: Definition,
}

/// Resolves everything, or names everything that keeps it from being resolved.
pub(super) async fn wanted(manifests: &Manifests) -> Result<Vec<WantedLog>, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    for (name, sink) in &manifests.sinks {
        if let Err(problem) = problem(resolve::event_sink(sink, manifests).await) {
            mistakes.push(mistake(manifests, "EventSink", name, &problem));
        }
    }
    let mut logs: BTreeMap<ObjectName, WantedLog> = BTreeMap::new();
    for (name, log) in &manifests.logs {
        let owner = Owner { uid: uid_of(log), log: name.clone() };
        let schema = Ident::new(&log.spec.schema);
        let empty = WantedLog {
            owner,
            schema,
            retention: (&log.spec.retention).into(),
            adopt: log.annotations().get(ADOPT).cloned(),
            triggers: Vec::new(),
            secrets: resolve::Secrets::default(),
        };
        logs.insert(name.clone(), empty);
    }
    for (name, trigger) in &manifests.triggers {
        let of = |problem: &Problem| mistake(manifests, "EventTrigger", name, problem);
        let log = ObjectName::new(&name.namespace, &trigger.spec.event_log_ref.name);
        if let Err(problem) = allowed(manifests, &log, trigger) {
            mistakes.push(of(&problem));
        }
        match problem(resolve::definition(trigger, manifests).await.map(Ok)) {
            Ok(resolved) => match (resolved.sink, logs.get_mut(&log)) {
                (Ok(()), Some(log)) => {
                    // There are no Deployments here: this process is all the workers that there are.
                    let definition = Definition { own_workers: None, ..resolved.definition };
                    log.triggers.push(WantedTrigger { uid: uid_of(trigger), definition });
                    log.secrets.0.extend(resolved.secrets.0);
                }
                (Ok(()), None) => {}
                // The EventSink's own mistake was said already, at its own line.
                (Err(problem), _) if problem.message.starts_with("EventSink ") => {}
                (Err(problem), _) => mistakes.push(of(&problem)),
            },
            Err(problem) => mistakes.push(of(&problem)),
        }
    }
    if mistakes.is_empty() { Ok(logs.into_values().collect()) } else { Err(mistakes) }
}

fn allowed(manifests: &Manifests, log: &ObjectName, trigger: &EventTrigger) -> Result<(), Problem> {
    let table = TableName::new(&trigger.spec.table.schema, &trigger.spec.table.name);
    let patterns = manifests.logs.get(log).and_then(|log| log.spec.tables.as_deref());
    resolve::table_allowed(patterns, &table)
}

/// Manifests are in memory, so that a look-up cannot fail; if it does one day, it is said.
fn problem<T>(outcome: Result<Result<T, Problem>, LookupError>) -> Result<T, Problem> {
    outcome.unwrap_or_else(|error| Err(Problem::new("LookupFailed", error.to_string())))
}

/// A problem at the line of the field that its message begins with.
pub(super) fn mistake(manifests: &Manifests, kind: &str, name: &ObjectName, problem: &Problem) -> Mistake {
    let field = problem.message.split(": ").next().unwrap_or_default();
    // What is wrong elsewhere is said of the whole.
    let field = if field.starts_with("spec") { field } else { "spec" };
    manifests.mistake(kind, name, field, problem.message.clone())
}
