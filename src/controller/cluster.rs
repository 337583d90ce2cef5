//! Objects that resources name, read from the API server each time: a copy kept by a watch may be older than the change
//! that asked for the look.

use std::sync::Arc;

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Secret, Service},
};
use kube::{Api, Client, Resource, api::DynamicObject, core::GroupVersionKind, discovery, error::DiscoveryError};
use serde::de::DeserializeOwned;

use super::{error::is_not_found, scope::Scope};
use crate::{
    api::{EventLog, EventSink},
    resolve::{LookupError, Objects},
};

/// The cluster as a place to look up objects, or as much of it as this controller looks after.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    scopes: Arc<[Scope]>,
}

impl Cluster {
    pub(super) fn new(client: Client, scopes: &[Scope]) -> Self {
        Self { client, scopes: scopes.into() }
    }

    async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, LookupError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        if !all_are_names([namespace, name]) {
            return Ok(None);
        }
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        api.get_opt(name).await.map_err(|error| failed(&K::kind(&()), namespace, name, error))
    }
}

/// Whether these can be names of objects and their like (RFC 1123 subdomains, nearly). They become parts of a path: what
/// cannot be a name must not lead elsewhere with the controller's rights, and there is nothing called like it.
fn all_are_names<const N: usize>(names: [&str; N]) -> bool {
    let is_name = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(allowed)
    };
    names.into_iter().all(is_name)
}

fn failed(kind: &str, namespace: &str, name: &str, error: kube::Error) -> LookupError {
    LookupError { what: format!("{kind} {namespace}/{name}"), source: error.into() }
}

impl Objects for Cluster {
    fn reaches(&self, namespace: &str) -> bool {
        self.scopes.iter().any(|scope| scope.holds(namespace))
    }

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
        let core = group.is_empty() && api_version == version;
        if !all_are_names([namespace, name, version]) || !core && !all_are_names([group]) {
            return Ok(None);
        }
        // Asked each time: the kind may have come, or changed its plural, since the last.
        let resource = match discovery::pinned_kind(&self.client, &GroupVersionKind::gvk(group, version, kind)).await {
            Ok((resource, _)) => resource,
            Err(kube::Error::Discovery(DiscoveryError::MissingKind(_))) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let url = |object: DynamicObject| {
            object.data.pointer("/status/address/url").and_then(|url| url.as_str()).map(str::to_owned)
        };
        Ok(api.get_opt(name).await.map_err(failed)?.map(url))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("shop", true)]
    #[case("shop-app.v1", true)]
    #[case("4711", true)]
    #[case("", false)]
    #[case("..", false)]
    #[case("../../kube-system/secrets/token", false)]
    #[case("a/b", false)]
    #[case("a%2Fb", false)]
    #[case("a?b", false)]
    #[case("x'; DROP TABLE canary", false)]
    #[case("Shop", false)]
    fn what_cannot_be_a_name_is_not_asked_for(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(all_are_names([name]), expected);
    }
}
