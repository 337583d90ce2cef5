//! The end of an EventLog.

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::timeout;

use super::{FINALIZER, connection, open, triggers};
use crate::{
    api::{EventLog, ReclaimPolicy, condition::Verdict},
    controller::{
        admins::ANSWER,
        context::{Context, name_of},
        error::Error,
        events::News,
        farewell::{Parting, RETRY, abandoned, is_abandoned, judge, record, waiting},
        finalizer,
        status::{Progress, conclude, now, write},
        trouble::{Next, Trouble},
    },
    log::Admin,
};

/// How long a log that stays waits to see whether its triggers are being deleted, too: with a namespace they are, a
/// moment later, and need its connection.
const TOGETHER: Duration = Duration::from_secs(5);

/// Drops or releases the log, then lets the resource go.
pub(super) async fn release(log: &EventLog, ctx: &Context) -> Result<Next, Error> {
    if !finalizer::has(log, FINALIZER) {
        return Ok(Next::Settled);
    }
    let parting = if is_abandoned(log) {
        Parting::Go(abandoned("abandoned as annotated"))
    } else {
        judge(log, end(log, ctx).await, now())
    };
    match parting {
        Parting::Go(news) => {
            record(log, &news);
            ctx.events.publish(log, news).await;
            finalizer::remove(&ctx.client, log, FINALIZER).await?;
            ctx.admins.close(&log.uid().unwrap_or_default());
            // They look for their log again, and find it gone.
            for trigger in triggers(log, ctx) {
                ctx.pokes.trigger(&name_of(&trigger));
            }
            Ok(Next::Settled)
        }
        Parting::Wait(trouble) => {
            let mut new = log.status.clone().unwrap_or_default();
            let ready = Verdict::no("Terminating", waiting(&trouble));
            let generation = log.metadata.generation.unwrap_or_default();
            conclude(&mut new.conditions, [], ready, Progress::Reconciling, generation, now());
            new.observed_generation = generation;
            write(&ctx.client, &ctx.own, log, &new).await?;
            Ok(Next::Backoff(RETRY))
        }
    }
}

async fn end(log: &EventLog, ctx: &Context) -> Result<News, Trouble> {
    let opened = log.status.as_ref().is_some_and(|status| status.schema_version.is_some());
    let known = ctx.admins.get(&log.uid().unwrap_or_default());
    if !opened && known.is_none() {
        return Ok(News::normal("Released", "nothing had been made in the database"));
    }
    let (admin, lost) = match connection(log, ctx).await {
        Ok(config) => (open(log, ctx, &config).await?.0, None),
        // The Secret went first; what is open still serves.
        Err(trouble) => match known {
            Some(admin) => (admin, Some(trouble)),
            None => return Err(trouble),
        },
    };
    if log.spec.reclaim_policy == ReclaimPolicy::Retain {
        await_triggers(log, ctx)?;
    }
    let ended = match log.spec.reclaim_policy {
        ReclaimPolicy::Delete => drop_log(&admin).await,
        ReclaimPolicy::Retain => keep(&admin).await,
    };
    // If what was open is of no use any more, then no other connection can be made without the Secret.
    ended.map_err(|trouble| lost.unwrap_or(trouble))
}

async fn drop_log(admin: &Arc<Admin>) -> Result<News, Trouble> {
    match timeout(ANSWER, admin.drop_log()).await {
        Ok(Ok(())) => Ok(News::normal("Dropped", "the log and its SQL triggers were dropped (reclaimPolicy Delete)")),
        Ok(Err(error)) => Err(Trouble::from(&error)),
        Err(_) => Err(Trouble::retry("DatabaseError", "the database does not answer")),
    }
}

async fn keep(admin: &Arc<Admin>) -> Result<News, Trouble> {
    let kept = "the log stays in the database (reclaimPolicy Retain); an EventLog of the same name takes it over again";
    match timeout(ANSWER, admin.release()).await {
        Ok(Ok(())) => Ok(News::normal("Released", kept)),
        Ok(Err(error)) => Err(Trouble::from(&error)),
        Err(_) => Err(Trouble::retry("DatabaseError", "the database does not answer")),
    }
}

/// Triggers that are being deleted see to their SQL first, by way of this log's connection.
fn await_triggers(log: &EventLog, ctx: &Context) -> Result<(), Trouble> {
    let triggers = triggers(log, ctx);
    let going = triggers.iter().filter(|trigger| trigger.metadata.deletion_timestamp.is_some()).count();
    if going > 0 {
        let message = format!("{going} of its EventTriggers are still being deleted");
        return Err(Trouble::retry("WaitingForTriggers", message));
    }
    let since = log.metadata.deletion_timestamp.as_ref().map_or_else(now, |since| since.0);
    let waited = Duration::try_from(now().duration_since(since)).unwrap_or_default();
    if !triggers.is_empty() && waited < TOGETHER {
        return Err(Trouble::retry("WaitingForTriggers", "its EventTriggers may be about to be deleted, too"));
    }
    Ok(())
}
