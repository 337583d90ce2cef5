//! Objects that resources name, read from the API server each time: a copy kept by a watch may be older than the change
//! that asked for the look.

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Secret, Service},
};
use kube::{Api, Client, Resource, api::DynamicObject, core::GroupVersionKind, discovery, error::DiscoveryError};
use serde::de::DeserializeOwned;

use super::error::is_not_found;
use crate::{
    api::{EventLog, EventSink},
    resolve::{LookupError, Objects},
};

/// The cluster as a place to look up objects.
#[derive(Clone)]
pub(super) struct Cluster(pub(super) Client);

impl Cluster {
    async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, LookupError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api = Api::<K>::namespaced(self.0.clone(), namespace);
        api.get_opt(name).await.map_err(|error| failed(&K::kind(&()), namespace, name, error))
    }
}

fn failed(kind: &str, namespace: &str, name: &str, error: kube::Error) -> LookupError {
    LookupError { what: format!("{kind} {namespace}/{name}"), source: error.into() }
}

impl Objects for Cluster {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, LookupError> {
        self.get(namespace, name).await
    }

    async fn service(&self, namespace: &str, name: &str) -> Result<Option<Service>, LookupError> {
        self.get(namespace, name).await
    }

    fn service_url(&self, _: &str, _: &str) -> Option<String> {
        None
    }

    async fn log(&self, namespace: &str, name: &str) -> Result<Option<EventLog>, LookupError> {
        self.get(namespace, name).await
    }

    async fn sink(&self, namespace: &str, name: &str) -> Result<Option<EventSink>, LookupError> {
        self.get(namespace, name).await
    }

    async fn address(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Option<String>>, LookupError> {
        let failed = |error| failed(kind, namespace, name, error);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        // Asked each time: the kind may have come, or changed its plural, since the last.
        let resource = match discovery::pinned_kind(&self.0, &GroupVersionKind::gvk(group, version, kind)).await {
            Ok((resource, _)) => resource,
            Err(kube::Error::Discovery(DiscoveryError::MissingKind(_))) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.0.clone(), namespace, &resource);
        let url = |object: DynamicObject| {
            object.data.pointer("/status/address/url").and_then(|url| url.as_str()).map(str::to_owned)
        };
        Ok(api.get_opt(name).await.map_err(failed)?.map(url))
    }
}
