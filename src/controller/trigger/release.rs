//! The end of an EventTrigger.

use std::sync::PoisonError;

use kube::ResourceExt;
use tokio::time::timeout;

use super::FINALIZER;
use crate::{
    api::{EventTrigger, ReclaimPolicy, condition::Verdict},
    controller::{
        admins::ANSWER,
        context::{Context, log_of, name_of},
        error::Error,
        events::News,
        farewell::{Parting, RETRY, abandoned, is_abandoned, judge, record, waiting},
        finalizer,
        log::connection,
        status::{Progress, conclude, now, write},
        trouble::{Next, Trouble},
    },
    resolve::{Objects, Problem, Secrets},
};

/// Removes or keeps the capture, then lets the resource go.
pub(super) async fn release(trigger: &EventTrigger, ctx: &Context) -> Result<Next, Error> {
    if !finalizer::has(trigger, FINALIZER) {
        return Ok(Next::Settled);
    }
    let parting = if is_abandoned(trigger) {
        Parting::Go(abandoned("abandoned as annotated"))
    } else {
        judge(trigger, end(trigger, ctx).await, now())
    };
    match parting {
        Parting::Go(news) => {
            record(trigger, &news);
            ctx.events.publish(trigger, news).await;
            finalizer::remove(&ctx.client, trigger, FINALIZER).await?;
            ctx.needs.changed(&name_of(trigger), Secrets::default());
            ctx.bare.lock().unwrap_or_else(PoisonError::into_inner).remove(&trigger.uid().unwrap_or_default());
            // Its workers may need fewer secrets now, and a log that is being deleted waits for its triggers.
            ctx.pokes.log(&log_of(trigger));
            Ok(Next::Settled)
        }
        Parting::Wait(trouble) => {
            let mut new = trigger.status.clone().unwrap_or_default();
            let ready = Verdict::no("Terminating", waiting(&trouble));
            let generation = trigger.metadata.generation.unwrap_or_default();
            conclude(&mut new.conditions, [], ready, Progress::Reconciling, generation, now());
            new.observed_generation = generation;
            write(&ctx.client, &ctx.own, trigger, &new).await?;
            Ok(Next::Backoff(RETRY))
        }
    }
}

async fn end(trigger: &EventTrigger, ctx: &Context) -> Result<News, Trouble> {
    let retain = trigger.spec.reclaim_policy == ReclaimPolicy::Retain;
    if retain && trigger.spec.deployment.is_none() {
        return Ok(News::normal("Retained", "capture goes on (reclaimPolicy Retain)"));
    }
    let name = log_of(trigger);
    let found = ctx.cluster.log(&name.namespace, &name.name).await.map_err(Error::from)?;
    let Some(log) = found else {
        return Ok(abandoned(&format!("EventLog {name} is gone")));
    };
    if log.status.as_ref().is_none_or(|status| status.schema_version.is_none()) {
        return Ok(News::normal("Removed", "nothing had been made in the database"));
    }
    let Some(admin) = ctx.admins.get(&log.uid().unwrap_or_default()) else {
        let conditions = log.status.iter().flat_map(|status| &status.conditions);
        let stalled = conditions.into_iter().find(|one| one.type_ == crate::api::condition::STALLED);
        return Err(match stalled {
            Some(why) => Trouble::stalled(Problem::new("LogNotReady", format!("EventLog {name}: {}", why.message))),
            None => Trouble::retry("LogNotReady", format!("EventLog {name} is not open")),
        });
    };
    let trigger = name_of(trigger);
    let done = async { if retain { admin.share(&trigger).await } else { admin.remove(&trigger).await } };
    let failed = match timeout(ANSWER, done).await {
        Ok(Ok(())) if retain => {
            return Ok(News::normal(
                "Retained",
                "capture goes on (reclaimPolicy Retain), and the EventLog's workers deliver its events",
            ));
        }
        Ok(Ok(())) => return Ok(News::normal("Removed", "capture for this EventTrigger was removed")),
        Ok(Err(error)) => Trouble::from(&error),
        Err(_) => Trouble::retry("DatabaseError", "the database does not answer"),
    };
    Err(match connection(&log, ctx).await {
        // What was open is of no use any more, and no other connection can be made.
        Err(lost) if lost.progress == Progress::Stalled => lost,
        _ => failed,
    })
}
