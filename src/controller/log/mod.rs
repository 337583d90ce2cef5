//! EventLogs: the log in the database, and the workers that deliver from it.

pub(super) mod apply;
pub(super) mod build;
mod covers;
mod release;
mod status;

use std::{sync::Arc, time::Duration};

use kube::ResourceExt;
use tokio::time::timeout;

use self::status::{Database, Seen};
pub(super) use self::status::{SCALED_TO_ZERO, STARTING, UNAVAILABLE, delivering, scale};
use super::{
    admins::{ANSWER, Age, Opened, Wanted},
    context::{Context, log_of, name_of, pick},
    error::Error,
    finalizer,
    run::{Kind, LONGEST},
    status::{Progress, now, write},
    trouble::{Next, Trouble},
};
use crate::{
    api::{EventLog, EventTrigger},
    log::{ADOPT, Admin, ConnectConfig, Owner},
    name::Ident,
    resolve,
};

/// Asks the API server to wait for the log's end.
const FINALIZER: &str = "eventtrigger.dev/log";
/// The longest delay while a database is away: it does not say when it is back.
const AWAY: Duration = Duration::from_secs(30);

impl Kind for EventLog {
    async fn reconcile(log: Arc<Self>, ctx: Arc<Context>) -> Result<Next, Error> {
        if log.metadata.deletion_timestamp.is_some() {
            return release::release(&log, &ctx).await;
        }
        if !finalizer::has(&*log, FINALIZER) {
            finalizer::add(&ctx.client, &*log, FINALIZER).await?;
            return Ok(Next::Settled); // The mark comes back as a change.
        }
        let seen = look(&log, &ctx).await;
        let old = log.status.as_ref();
        let new = status::status(old, &seen, log.metadata.generation.unwrap_or_default(), now());
        if write(&ctx.client, &ctx.own, &*log, &new).await? {
            let before = old.map(|old| old.conditions.as_slice()).unwrap_or_default();
            ctx.events.readiness(&*log, before, &new.conditions).await;
            for news in status::news(old, &new) {
                ctx.events.publish(&*log, news).await;
            }
        }
        Ok(next(&seen))
    }
}

/// Opens the log, and brings the workers to what the spec says.
async fn look(log: &EventLog, ctx: &Context) -> Seen {
    let config = match connection(log, ctx).await {
        Ok(config) => config,
        // The workers go on with what they have.
        Err(trouble) => return Seen { database: Err(trouble), workers: apply::find(log, ctx).await },
    };
    let (database, workers) = match open(log, ctx, &config).await {
        Ok((admin, database)) => match delivery(log, ctx, &admin).await {
            Ok(connection) => (Ok(database), connection.unwrap_or(config)),
            Err(trouble) => return Seen { database: Ok(database), workers: Err(trouble) },
        },
        Err(trouble) => match delivery_connection(log, ctx).await {
            Ok(connection) => (Err(trouble), connection.unwrap_or(config)),
            Err(_) => return Seen { database: Err(trouble), workers: apply::find(log, ctx).await },
        },
    };
    let opened_before = log.status.as_ref().is_some_and(|status| status.schema_version.is_some());
    let workers = match &database {
        Err(trouble) if trouble.progress == Progress::Stalled || !opened_before => apply::find(log, ctx).await,
        // A database that is away is no reason to leave its workers unrepaired.
        _ => apply::workers(log, ctx, workers).await.map(Some),
    };
    Seen { database, workers }
}

/// How the controller connects, as the Secrets are now.
pub(super) async fn connection(log: &EventLog, ctx: &Context) -> Result<ConnectConfig, Trouble> {
    match resolve::connection(log, &ctx.cluster).await {
        Ok(Ok(config)) => Ok(config),
        Ok(Err(problem)) => Err(Trouble::stalled(problem)),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// How the workers connect, if not as the controller does.
async fn delivery_connection(log: &EventLog, ctx: &Context) -> Result<Option<ConnectConfig>, Trouble> {
    match resolve::delivery_connection(log, &ctx.cluster).await {
        Ok(Ok(config)) => Ok(config),
        Ok(Err(problem)) => Err(Trouble::stalled(problem)),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// The same, with the rights that the workers' role needs.
async fn delivery(log: &EventLog, ctx: &Context, admin: &Admin) -> Result<Option<ConnectConfig>, Trouble> {
    let Some(config) = delivery_connection(log, ctx).await? else { return Ok(None) };
    match timeout(ANSWER, admin.allow(&config.user)).await {
        Ok(allowed) => allowed.map_err(|error| Trouble::from(&error))?,
        Err(_) => return Err(Trouble::retry("ConnectionFailed", format!("{config} does not answer"))),
    }
    Ok(Some(config))
}

async fn open(log: &EventLog, ctx: &Context, config: &ConnectConfig) -> Result<(Arc<Admin>, Database), Trouble> {
    let wanted = Wanted {
        owner: owner(log),
        schema: Ident::new(&log.spec.schema),
        config: config.clone(),
        retention: (&log.spec.retention).into(),
        adopt: log.annotations().get(ADOPT).cloned(),
    };
    let Opened { admin, facts, age, holding } = match timeout(ANSWER, ctx.admins.open(wanted)).await {
        Ok(opened) => opened.map_err(|error| Trouble::from(&error))?,
        Err(_) => return Err(Trouble::retry("ConnectionFailed", format!("{config} does not answer"))),
    };
    if age == Age::New {
        for trigger in triggers(log, ctx) {
            ctx.pokes.trigger(&name_of(&trigger));
        }
    }
    Ok((admin, Database { name: config.to_string(), facts, holding }))
}

/// Who owns the log in the database.
fn owner(log: &EventLog) -> Owner {
    Owner { uid: log.uid().unwrap_or_default(), log: name_of(log) }
}

/// The EventTriggers of a log.
fn triggers(log: &EventLog, ctx: &Context) -> Vec<EventTrigger> {
    let name = name_of(log);
    pick(&ctx.stores.triggers, |trigger| (log_of(trigger) == name).then(|| trigger.clone()))
}

fn next(seen: &Seen) -> Next {
    match seen {
        Seen { database: Err(_), .. } => Next::Backoff(AWAY),
        Seen { workers: Err(_), .. } => Next::Backoff(LONGEST),
        Seen { .. } => Next::Settled,
    }
}
