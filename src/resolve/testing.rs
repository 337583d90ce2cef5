//! Manifests as a world to resolve in.

use std::{collections::BTreeMap, future::ready};

use k8s_openapi::api::core::v1::{Secret, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{LookupError, Objects};
use crate::api::{EventLog, EventSink};

/// Objects by kind, namespace and name.
pub(crate) struct Manifests(BTreeMap<(String, String, String), Value>);

pub(crate) fn from_yaml<T: DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

/// A whole object, read by way of JSON as it comes from the API server.
pub(crate) fn parse<T: DeserializeOwned>(yaml: &str) -> T {
    serde_json::from_value(from_yaml(yaml)).unwrap()
}

impl Manifests {
    pub(crate) fn new(yaml: &str) -> Self {
        let text = |object: &Value, pointer| object.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
        let keyed = objects.into_iter().map(|object| {
            let key = (text(&object, "/kind"), text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            (key, object)
        });
        Self(keyed.collect())
    }

    fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.0.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    #[allow(clippy::unnecessary_wraps)] // as `Objects` wants it
    fn get<T: DeserializeOwned>(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<T>, LookupError> {
        Ok(self.find(kind, namespace, name).map(|object| serde_json::from_value(object.clone()).unwrap()))
    }
}

impl Objects for Manifests {
    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Secret>, LookupError>> + Send {
        ready(self.get("Secret", namespace, name))
    }

    fn service(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Service>, LookupError>> + Send {
        ready(self.get("Service", namespace, name))
    }

    fn service_url(&self, _: &str, _: &str) -> Option<String> {
        None
    }

    fn log(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<EventLog>, LookupError>> + Send {
        ready(self.get("EventLog", namespace, name))
    }

    fn sink(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<EventSink>, LookupError>> + Send {
        ready(self.get("EventSink", namespace, name))
    }

    fn address(
        &self,
        _: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Option<String>>, LookupError>> + Send {
        let url = |object: &Value| object.pointer("/status/address/url").and_then(Value::as_str).map(str::to_owned);
        ready(Ok(self.find(kind, namespace, name).map(url)))
    }
}
