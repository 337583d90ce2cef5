//! Bringing the workers of a log to what is wanted, writing only what differs.

use std::{collections::BTreeMap, fmt::Debug};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{NamespaceResourceScope, api::apps::v1::Deployment};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    build::{self, Common},
    covers::covers,
    owner, triggers,
};
use crate::{
    api::EventLog,
    controller::{
        context::Context,
        error::{Error, failed},
        status::{MANAGER, Progress},
        trouble::Trouble,
    },
    delivery::Config,
    log::{ConnectConfig, definition::SecretName},
    name::Ident,
    resolve::{self, Problem},
};

/// Sinks that are resolved at a time.
const AT_A_TIME: usize = 8;

/// The workers as they are now, if there are any.
pub(super) async fn find(log: &EventLog, ctx: &Context) -> Result<Option<Deployment>, Trouble> {
    let api = Api::<Deployment>::namespaced(ctx.client.clone(), &log.namespace().unwrap_or_default());
    let name = build::name(log);
    let found = api.get_opt(&name).await.map_err(failed(format!("get Deployment {name}")))?;
    Ok(found.filter(|found| owns(log, found)))
}

/// Applies the Secret, then the Deployment that mounts this version of it.
pub(super) async fn workers(log: &EventLog, ctx: &Context, connection: ConnectConfig) -> Result<Deployment, Trouble> {
    let config = Config {
        owner: owner(log),
        schema: Ident::new(&log.spec.schema),
        connection,
        secrets: secrets(log, ctx).await?,
    };
    let secret = apply(log, ctx, &build::secret(log, &config)).await?;
    let version = secret.resource_version().unwrap_or_default();
    let common =
        Common { log, image: &ctx.image, addresses: &ctx.addresses, traces: &ctx.traces, secret_version: &version };
    apply(log, ctx, &build::deployment(common)).await
}

/// What of a trigger goes to a sink.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Part {
    Events,
    DeadLetters,
}

/// The values of Secrets that the sinks of the log's triggers need. A sink that cannot be resolved gets no events, and so
/// needs none.
async fn secrets(log: &EventLog, ctx: &Context) -> Result<BTreeMap<SecretName, String>, Error> {
    let namespace = log.namespace().unwrap_or_default();
    let (here, cluster) = (namespace.as_str(), &ctx.cluster);
    let mut destinations = Vec::new();
    for trigger in triggers(log, ctx) {
        if trigger.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let dead_letters = trigger.spec.delivery.and_then(|delivery| delivery.dead_letter_sink);
        for wanted in [Some((trigger.spec.sink, Part::Events)), dead_letters.map(|to| (to, Part::DeadLetters))] {
            destinations.extend(wanted.filter(|wanted| !destinations.contains(wanted)));
        }
    }
    // Only an EventSink needs any.
    destinations.retain(|(destination, _)| destination.reference.as_ref().is_some_and(|to| to.kind == "EventSink"));
    let found: Vec<_> = stream::iter(destinations)
        .map(|(destination, part)| async move {
            Ok::<_, Error>(match part {
                Part::Events => resolve::destination(&destination, here, cluster).await?.map(|target| target.secrets),
                Part::DeadLetters => {
                    resolve::dead_letters(&destination, here, cluster).await?.map(|(_, secrets)| secrets)
                }
            })
        })
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().flat_map(|secrets| secrets.0).collect())
}

/// The object of `owner` as it is wanted: applied if it is missing or differs.
pub(in crate::controller) async fn apply<K, O>(owner: &O, ctx: &Context, wanted: &K) -> Result<K, Trouble>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let (kind, name) = (K::kind(&()), wanted.name_any());
    let namespace = wanted.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(ctx.client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(failed(format!("get {kind} {namespace}/{name}")))?;
    if let Some(found) = found {
        if !owns(owner, &found) {
            let of = O::kind(&());
            let message = format!(
                "{kind} {namespace}/{name} is needed for the delivery workers, and is not this {of}'s; delete it, or \
                 give the {of} another name"
            );
            return Err(Trouble::retry("NameTaken", message));
        }
        if covers(&json(&found), &json(wanted)) {
            return Ok(found);
        }
    }
    tracing::info!(%kind, namespace, name, "applying");
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(wanted)).await.map_err(|error| refused(&kind, &namespace, &name, error))
}

/// Whether `object` was made for this very owner, not for one of the same name before it.
pub(in crate::controller) fn owns(owner: &impl Resource, object: &impl Resource) -> bool {
    let owners = object.meta().owner_references.iter().flatten();
    owners.into_iter().any(|one| one.controller == Some(true) && Some(&one.uid) == owner.meta().uid.as_ref())
}

fn json(object: &impl Serialize) -> Value {
    // Objects of the API are JSON by nature.
    serde_json::to_value(object).unwrap_or_default()
}

/// What the API server does not accept comes from the spec (a quantity that is none), or is forbidden by somebody.
fn refused(kind: &str, namespace: &str, name: &str, error: kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            let message = format!("the API server refuses {kind} {namespace}/{name}: {}", status.message);
            Trouble { problem: Problem::new("WorkersRefused", message), progress: Progress::Stalled }
        }
        error => failed(format!("apply {kind} {namespace}/{name}"))(error).into(),
    }
}
