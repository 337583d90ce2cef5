//! The workers that an EventTrigger has of its own: a Deployment, and nothing else, as they are started with the log's Secret.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::status::{Captured, LOG_NOT_FOUND};
use crate::{
    api::{EventLog, EventTrigger, TriggerDeployment},
    controller::{
        context::Context,
        error::{Error, failed, is_not_found},
        log::{
            apply::{apply, owns},
            build::{self, Common},
        },
        trouble::Trouble,
    },
};

/// Brings the Deployment to what the spec says: there, or not. The one that is there, if there is one.
pub(super) async fn bring(
    trigger: &EventTrigger,
    ctx: &Context,
    log: &Result<EventLog, Trouble>,
    captured: &Captured,
) -> Result<Option<Deployment>, Trouble> {
    let asked = trigger.spec.deployment.as_ref();
    if asked.is_some() {
        bare(ctx).remove(&trigger.uid().unwrap_or_default());
    }
    match (asked, log, captured) {
        // The log says what the spec does: a worker that starts finds its EventTrigger there.
        (Some(asked), Ok(log), Captured::Yes(_)) => Ok(Some(start(trigger, asked, ctx, log).await?)),
        // Those of the log know by now that they are to deliver it.
        (None, Ok(_), Captured::Yes(_)) => {
            remove(trigger, ctx).await?;
            Ok(None)
        }
        // The Secret went with the log: no pod could start.
        (_, Err(trouble), _) if trouble.problem.reason == LOG_NOT_FOUND => {
            remove(trigger, ctx).await?;
            Ok(None)
        }
        // The workers go on with what they have.
        (Some(_), ..) => Ok(find(trigger, ctx).await?),
        (None, ..) => Ok(None),
    }
}

fn bare(ctx: &Context) -> MutexGuard<'_, HashSet<String>> {
    ctx.bare.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start(
    trigger: &EventTrigger,
    asked: &TriggerDeployment,
    ctx: &Context,
    log: &EventLog,
) -> Result<Deployment, Trouble> {
    let (namespace, name) = (log.namespace().unwrap_or_default(), build::name(log));
    let secrets = Api::<Secret>::namespaced(ctx.client.clone(), &namespace);
    let secret = secrets.get_metadata_opt(&name).await.map_err(failed(format!("get Secret {namespace}/{name}")))?;
    let Some(version) = secret.filter(|secret| owns(log, secret)).and_then(|secret| secret.resource_version()) else {
        let message = format!("EventLog {}: the Secret {name} for its workers is not there yet", log.name_any());
        return Err(Trouble::retry("Pending", message));
    };
    let common =
        Common { log, image: &ctx.image, addresses: &ctx.addresses, traces: &ctx.traces, secret_version: &version };
    apply(trigger, ctx, &build::own_deployment(trigger, asked, common)).await
}

async fn find(trigger: &EventTrigger, ctx: &Context) -> Result<Option<Deployment>, Error> {
    let (namespace, name) = (trigger.namespace().unwrap_or_default(), build::own_name(trigger));
    let api = Api::<Deployment>::namespaced(ctx.client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(failed(format!("get Deployment {namespace}/{name}")))?;
    Ok(found.filter(|found| owns(trigger, found)))
}

/// Deletes the Deployment if there is one; that there is none is remembered.
async fn remove(trigger: &EventTrigger, ctx: &Context) -> Result<(), Error> {
    let uid = trigger.uid().unwrap_or_default();
    if bare(ctx).contains(&uid) {
        return Ok(());
    }
    if let Some(found) = find(trigger, ctx).await? {
        let (namespace, name) = (found.namespace().unwrap_or_default(), found.name_any());
        tracing::info!(namespace, name, "deleting the Deployment that is not asked for any more");
        // That very one.
        let preconditions = Some(Preconditions { uid: found.uid(), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let api = Api::<Deployment>::namespaced(ctx.client.clone(), &namespace);
        match api.delete(&name, &params).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(failed(format!("delete Deployment {namespace}/{name}"))(error)),
        }
    }
    bare(ctx).insert(uid);
    Ok(())
}
