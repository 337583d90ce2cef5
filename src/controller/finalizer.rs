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
