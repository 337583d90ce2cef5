//! The mark on an object that asks the API server to wait until its SQL has been seen to.

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::{Error, failed, is_not_found};

/// Whether `object` carries `mark`.
pub(super) fn has(object: &impl ResourceExt, mark: &str) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == mark)
}

/// Puts `mark` on `object`.
pub(super) async fn add<K>(client: &Client, object: &K, mark: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let marks = object.finalizers().iter().map(String::as_str).chain([mark]).collect();
    patch(client, object, marks).await
}

/// Takes `mark` off `object`, and so lets it go.
pub(super) async fn remove<K>(client: &Client, object: &K, mark: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let marks = object.finalizers().iter().map(String::as_str).filter(|finalizer| *finalizer != mark).collect();
    patch(client, object, marks).await
}

/// A merge patch replaces the whole list, so it holds only for the version of the object that was read.
async fn patch<K>(client: &Client, object: &K, marks: Vec<&str>) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let body = json!({"metadata": {"finalizers": marks, "resourceVersion": object.resource_version()}});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(failed(format!("mark {} {namespace}/{name}", K::kind(&())))(error)),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use tower_test::mock;

    use super::*;
    use crate::{api::EventSink, resolve::testing::parse};

    #[tokio::test]
    async fn a_mark_changes_only_the_version_that_was_read_and_keeps_the_marks_of_others() {
        let object = r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink,
            metadata: {name: pay, namespace: bank, resourceVersion: '7', finalizers: [theirs]}, spec: {uri: 'http://a/'}}";
        let sink: EventSink = parse(object);
        let (service, mut server) = mock::pair::<Request<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let answer = tokio::spawn(async move {
            let mut bodies = Vec::new();
            for _ in 0..2 {
                let (request, send) = server.next_request().await.unwrap();
                let body = request.into_body().collect_bytes().await.unwrap();
                bodies.push(serde_json::from_slice::<Value>(&body).unwrap());
                let object = serde_json::to_vec(&parse::<Value>(object)).unwrap();
                send.send_response(Response::new(Body::from(object)));
            }
            bodies
        });
        add(&client, &sink, "ours").await.unwrap();
        remove(&client, &sink, "theirs").await.unwrap();
        assert_eq!(
            answer.await.unwrap(),
            [
                json!({"metadata": {"finalizers": ["theirs", "ours"], "resourceVersion": "7"}}),
                json!({"metadata": {"finalizers": [], "resourceVersion": "7"}}),
            ]
        );
    }
}
