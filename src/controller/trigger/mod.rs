//! EventTriggers: what a table's capture shall be, and where its events go.

mod release;
mod status;
mod workers;

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::timeout;

pub(super) use self::status::is_partial;
use self::status::{Captured, LOG_NOT_FOUND, Seen};
use super::{
    admins::ANSWER,
    context::{Context, log_of, name_of},
    error::Error,
    events::News,
    finalizer,
    run::{Kind, LONGEST},
    sink,
    status::{Progress, now, write},
    trouble::{Next, Trouble},
};
use crate::{
    api::{
        EventLog, EventTrigger,
        condition::{CAPTURED, LOG_READY},
    },
    log::{Admin, Definition, Hindrance},
    resolve::{self, Objects, Problem, Resolved},
};

/// Asks the API server to wait until capture has been seen to.
const FINALIZER: &str = "eventtrigger.dev/capture";
/// How soon a table is looked at again that is not as the spec wants it: nothing tells when it is.
const TABLE: Duration = Duration::from_secs(5);
/// The longest delay while a table is locked or a database fails.
const DATABASE: Duration = Duration::from_secs(30);

impl Kind for EventTrigger {
    async fn reconcile(trigger: Arc<Self>, ctx: Arc<Context>) -> Result<Next, Error> {
        if trigger.metadata.deletion_timestamp.is_some() {
            return release::release(&trigger, &ctx).await;
        }
        if !finalizer::has(&*trigger, FINALIZER) {
            finalizer::add(&ctx.client, &*trigger, FINALIZER).await?;
            return Ok(Next::Settled); // The mark comes back as a change.
        }
        let Some(seen) = look(&trigger, &ctx).await else {
            return Ok(Next::After(TABLE));
        };
        let old = trigger.status.as_ref();
        let new = status::status(old, &seen, &trigger, now());
        if write(&ctx.client, &ctx.own, &*trigger, &new).await? {
            let before = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
            ctx.events.readiness(&*trigger, before, &new.conditions).await;
        }
        Ok(next(&trigger, &seen))
    }
}

/// Resolves the trigger and installs it. `None` while this controller has only just started and its log is still being
/// opened: what an earlier one wrote holds until there is something to say.
async fn look(trigger: &EventTrigger, ctx: &Context) -> Option<Seen> {
    let log = find_log(trigger, ctx).await;
    let Resolved { definition, sink, secrets } = match resolve::definition(trigger, &ctx.cluster).await {
        Ok(resolved) => resolved,
        Err(error) => {
            let trouble = Trouble::from(Error::from(error));
            let (sink, hindrance, captured) = (Err(trouble), Hindrance::default(), Captured::NotTried);
            let workers = workers::bring(trigger, ctx, &log, &captured).await;
            return Some(Seen { log, sink, captured, workers, hindrance });
        }
    };
    if ctx.needs.changed(&name_of(trigger), secrets) {
        ctx.pokes.log(&log_of(trigger));
    }
    let url = definition.sink.as_ref().map(|sink| sink.url.clone()).unwrap_or_default();
    let sink = sink.map(|()| url).map_err(Trouble::stalled);
    let captured = match &log {
        Ok(log) => {
            let admin = ctx.admins.get(&log.uid().unwrap_or_default())?;
            capture(trigger, ctx, log, &admin, definition).await
        }
        Err(_) => Captured::NotTried,
    };
    let uid = log.as_ref().ok().and_then(ResourceExt::uid);
    let hindrance = uid.map(|uid| ctx.admins.hindrance(&uid, &name_of(trigger))).unwrap_or_default();
    let workers = workers::bring(trigger, ctx, &log, &captured).await;
    if let Err(Trouble { problem, .. }) = &workers {
        tracing::warn!(trigger = %name_of(trigger), reason = problem.reason, error = problem.message, "its own workers are not as they should be");
    }
    Some(Seen { log, sink, captured, workers, hindrance })
}

/// The trigger's log, if it is open.
async fn find_log(trigger: &EventTrigger, ctx: &Context) -> Result<EventLog, Trouble> {
    let name = log_of(trigger);
    let found = ctx.cluster.log(&name.namespace, &name.name).await.map_err(Error::from)?;
    let Some(log) = found else {
        let message = format!(
            "spec.eventLogRef.name: there is no EventLog {name}; create it, or make an EventTrigger for another"
        );
        return Err(Trouble::stalled(Problem::new(LOG_NOT_FOUND, message)));
    };
    if log.metadata.deletion_timestamp.is_some() {
        return Err(Trouble::retry("LogTerminating", format!("EventLog {name} is being deleted")));
    }
    let conditions = log.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == LOG_READY) {
        Some(ready) if ready.status == "True" => Ok(log),
        Some(ready) => Err(Trouble::retry("LogNotReady", format!("EventLog {name}: {}", ready.message))),
        None => Err(Trouble::retry("Pending", format!("EventLog {name} is being opened"))),
    }
}

/// Installs what the trigger wants, if its log lets it name the table.
async fn capture(
    trigger: &EventTrigger,
    ctx: &Context,
    log: &EventLog,
    admin: &Admin,
    definition: Definition,
) -> Captured {
    let before = trigger.status.as_ref();
    let was_captured = before.is_some_and(|status| !status.sql_triggers.is_empty());
    let refusal = resolve::table_allowed(log.spec.tables.as_deref(), &definition.table).err();
    let definition = match &refusal {
        None => definition,
        // It was allowed once: nothing more leaves, but what was captured waits until this is decided.
        Some(_) if was_captured => Definition { suspend: true, ..definition },
        Some(problem) => return Captured::Failed(Trouble::stalled(problem.clone())),
    };
    let uid = trigger.uid().unwrap_or_default();
    let installed = match timeout(ANSWER, admin.install(&uid, &definition)).await {
        Ok(Ok(installed)) => installed,
        Ok(Err(error)) => return Captured::Failed(Trouble::from(&error)),
        Err(_) => return Captured::Failed(Trouble::retry("DatabaseError", "the database does not answer")),
    };
    if let Some(problem) = refusal {
        return Captured::Failed(Trouble::stalled(problem));
    }
    if let Some(what) = ctx.admins.take_drift(&definition.trigger)
        && installed.changed
    {
        ctx.events.publish(trigger, News::normal("Repaired", what)).await;
    } else if installed.changed && !is_told(trigger, &installed.sql_triggers) {
        let note = format!("SQL triggers of {}: {}", definition.table.plain(), installed.sql_triggers.join(", "));
        ctx.events.publish(trigger, News::normal("Installed", note)).await;
    }
    Captured::Yes(installed.sql_triggers)
}

/// Whether capture is told to stand already, by these very SQL triggers.
fn is_told(trigger: &EventTrigger, sql_triggers: &[String]) -> bool {
    trigger.status.as_ref().is_some_and(|status| {
        let captured = status.conditions.iter().find(|condition| condition.type_ == CAPTURED);
        status.sql_triggers == sql_triggers && captured.is_some_and(|captured| captured.status == "True")
    })
}

fn next(trigger: &EventTrigger, seen: &Seen) -> Next {
    match &seen.captured {
        Captured::Failed(Trouble { progress: Progress::Stalled, .. }) => Next::After(TABLE),
        Captured::Failed(_) => Next::Backoff(DATABASE),
        // The log's own change wakes the trigger up; the delay is for a failed look-up.
        Captured::NotTried if seen.log.is_err() => Next::Backoff(LONGEST),
        _ if seen.workers.is_err() => Next::Backoff(LONGEST),
        _ => sink::next(seen.sink.as_ref().err(), &trigger.spec.sink, trigger.spec.delivery.as_ref()),
    }
}
