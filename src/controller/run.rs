//! The loop that every kind shares.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource, ResourceExt,
    core::object::HasStatus,
    runtime::{
        Controller,
        controller::{Action, Config, Error as RunError},
        reflector::ObjectRef,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, Watched, name_of},
    error::Error,
    trouble::Next,
};

/// Objects of one kind that are worked on at a time.
const CONCURRENCY: u16 = 16;
/// The longest delay after failures of the API server.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// A kind that this controller looks after.
pub(super) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasStatus<Status: Serialize>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Brings one object and its status to what its spec says.
    fn reconcile(object: Arc<Self>, ctx: Arc<Context>) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// Reconciles every object of a kind at each change, each poke and each delay that it asked for, until `shutdown`;
/// then lets what is under way finish.
pub(super) async fn run<K: Kind>(
    controller: Controller<Watched<K>>,
    pokes: UnboundedReceiver<ObjectRef<Watched<K>>>,
    ctx: Arc<Context>,
    shutdown: CancellationToken,
) {
    controller
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(pokes)
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(reconcile::<K>, on_error, ctx)
        .for_each(async |outcome| match outcome {
            Ok((object, next)) => tracing::debug!(%object, ?next, "reconciled"),
            Err(RunError::ReconcilerFailed(error, object)) => {
                tracing::warn!(%object, error = error.explain(), "failed to reconcile; will try again");
            }
            // It was deleted, and a poke was still on its way.
            Err(RunError::ObjectNotFound(object)) => tracing::debug!(%object, "gone"),
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "failed to watch; will try again"),
        })
        .await;
}

async fn reconcile<K: Kind>(object: Arc<Watched<K>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let uid = object.uid().unwrap_or_default();
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(error) => {
            let name = name_of(&*object);
            tracing::error!(kind = %K::kind(&()), %name, %error, "cannot be read; do the CRDs fit this controller?");
            return Ok(Action::await_change());
        }
    };
    let began = Instant::now();
    let reconciled = K::reconcile(object, ctx.clone()).await;
    ctx.metrics.took(&K::kind(&()), began.elapsed());
    let next = reconciled?;
    if !matches!(next, Next::Backoff(_)) {
        ctx.backoffs.settled(&uid);
    }
    let (outcome, action) = match next {
        Next::Settled => ("settled", Action::await_change()),
        Next::After(delay) => ("waiting", Action::requeue(delay)),
        Next::Backoff(cap) => ("backoff", Action::requeue(ctx.backoffs.failed(&uid, cap))),
    };
    ctx.metrics.reconciled(&K::kind(&()), outcome);
    Ok(action)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is the library's")]
fn on_error<K: Kind>(object: Arc<Watched<K>>, _: &Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconciled(&K::kind(&()), "error");
    Action::requeue(ctx.backoffs.failed(&object.uid().unwrap_or_default(), LONGEST))
}
