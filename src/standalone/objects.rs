//! Manifests as the place where resources find what they name.

use k8s_openapi::api::core::v1::{Secret, Service};

use super::manifests::Manifests;
use crate::{
    api::{EventLog, EventSink},
    name::ObjectName,
    resolve::{LookupError, Objects},
};

impl Objects for Manifests {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, LookupError> {
        Ok(self.secrets.get(&ObjectName::new(namespace, name)).cloned())
    }

    async fn service(&self, namespace: &str, name: &str) -> Result<Option<Service>, LookupError> {
        Ok(self.services.get(&ObjectName::new(namespace, name)).cloned())
    }

    fn service_url(&self, namespace: &str, name: &str) -> Option<String> {
        self.service_urls.get(&ObjectName::new(namespace, name)).cloned()
    }

    async fn log(&self, namespace: &str, name: &str) -> Result<Option<EventLog>, LookupError> {
        Ok(self.logs.get(&ObjectName::new(namespace, name)).cloned())
    }

    async fn sink(&self, namespace: &str, name: &str) -> Result<Option<EventSink>, LookupError> {
        Ok(self.sinks.get(&ObjectName::new(namespace, name)).cloned())
    }

    async fn address(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Option<String>>, LookupError> {
        let key = (api_version.to_owned(), kind.to_owned(), ObjectName::new(namespace, name));
        Ok(self.addresses.get(&key).cloned())
    }
}
