//! Writing a status, and the part of it that every kind has.

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::error::{Error, failed, is_not_found};
use crate::api::condition::{READY, RECONCILING, STALLED, Verdict, clear, set};

/// Field manager of everything that the controller applies.
pub(super) const MANAGER: &str = "eventtrigger-controller";

/// How a resource that is not ready may become so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// It is.
    Done,
    /// By waiting, or trying again.
    Reconciling,
    /// By a change that somebody makes.
    Stalled,
}

/// The moment, to the second: what the API server's own controllers write.
pub(super) fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

/// Writes the conditions of one round: those of the kind, in their order, then what they come to.
pub(super) fn conclude(
    conditions: &mut Vec<Condition>,
    parts: impl IntoIterator<Item = (&'static str, Verdict)>,
    ready: Verdict,
    progress: Progress,
    generation: i64,
    now: Timestamp,
) {
    for (kind, verdict) in parts {
        set(conditions, kind, verdict, generation, now);
    }
    for (kind, holds) in [(RECONCILING, Progress::Reconciling), (STALLED, Progress::Stalled)] {
        if progress == holds {
            set(conditions, kind, Verdict::yes(ready.reason, ready.message.clone()), generation, now);
        } else {
            clear(conditions, kind);
        }
    }
    set(conditions, READY, ready, generation, now);
}

/// Applies `new` unless it is what `old` says already. Whether there was something to write.
pub(super) async fn write<K, S>(client: &Client, object: &K, old: Option<&S>, new: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    if old == Some(new) {
        return Ok(false);
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": new,
    });
    // Server-side apply: what is left out is removed. Forced, as nobody else has a say in a status.
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(failed(format!("write the status of {} {namespace}/{name}", K::kind(&())))(error)),
    }
}
