//! Writing a status, and the part of it that every kind has.

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::object::HasStatus,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    error::{Error, failed, is_not_found},
    own::Own,
};
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

/// Applies `new` unless it is what the object says already. Whether there was something to write.
///
/// The object may be older than what was written last: then what it says proves nothing.
pub(super) async fn write<K, S>(client: &Client, own: &Own, object: &K, new: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus<Status = S>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    let uid = object.uid().unwrap_or_default();
    if !own.differs(&uid, new) && object.status() == Some(new) {
        return Ok(false);
    }
    let written = apply(client, object, new).await;
    if written.is_err() {
        own.forget(&uid);
    }
    written
}

async fn apply<K>(client: &Client, object: &K, new: &impl Serialize) -> Result<bool, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
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

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use kube::client::Body;
    use tower_test::mock;

    use super::*;
    use crate::{
        api::{EventSink, EventSinkStatus},
        resolve::testing::parse,
    };

    fn sink() -> EventSink {
        parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {name: pay, namespace: bank}, spec: {uri: 'http://a/'},
               status: {observedGeneration: 1, conditions: []}}",
        )
    }

    #[tokio::test]
    async fn an_equal_status_asks_nothing_of_the_api_server() {
        let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
        let (client, sink) = (Client::new(service, "default"), sink());
        let own = Own::default();
        for _ in 0..2 {
            assert!(!write(&client, &own, &sink, sink.status.as_ref().unwrap()).await.unwrap());
        }
        drop(client);
        assert!(server.next_request().await.is_none());
    }

    #[tokio::test]
    async fn a_new_status_is_applied_to_the_subresource_and_a_resource_that_is_gone_needs_none() {
        let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
        let (client, sink) = (Client::new(service, "default"), sink());
        let answer = tokio::spawn(async move {
            let (request, send) = server.next_request().await.unwrap();
            let gone = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"}"#;
            send.send_response(Response::builder().status(404).body(Body::from(gone.as_bytes().to_vec())).unwrap());
            let (parts, body) = request.into_parts();
            (parts, body.collect_bytes().await.unwrap())
        });
        let new = EventSinkStatus { observed_generation: 2, ..EventSinkStatus::default() };
        assert!(!write(&client, &Own::default(), &sink, &new).await.unwrap());
        let (parts, body) = answer.await.unwrap();
        assert_eq!(parts.method, Method::PATCH);
        assert_eq!(parts.uri.path(), "/apis/eventtrigger.dev/v1alpha1/namespaces/bank/eventsinks/pay/status");
        assert_eq!(parts.headers["content-type"], "application/apply-patch+yaml");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], json!({"observedGeneration": 2, "conditions": []}));
    }

    #[tokio::test]
    async fn a_status_that_was_taken_back_is_written_though_the_watch_does_not_know_of_it_yet() {
        let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
        let (client, own, sink) = (Client::new(service, "default"), Own::default(), sink());
        let answer = tokio::spawn(async move {
            for _ in 0..2 {
                let (_, send) = server.next_request().await.unwrap();
                send.send_response(Response::new(Body::from(serde_json::to_vec(&self::sink()).unwrap())));
            }
        });
        let new = EventSinkStatus { observed_generation: 2, ..EventSinkStatus::default() };
        assert!(write(&client, &own, &sink, &new).await.unwrap());
        // `sink` is what the watch still has: it says already what is to be said, but it is not what stands there.
        assert!(write(&client, &own, &sink, sink.status.as_ref().unwrap()).await.unwrap());
        answer.await.unwrap();
    }
}
