//! Where events go, in the words of Knative's `Destination`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A port of a Service, by name or by number.
pub type Port = IntOrString;

/// A target: an object that has an address, a URI, or a path relative to the object's address.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.ref) || has(self.uri)").message("set ref, uri or both"))]
#[x_kube(validation = Rule::new("!has(self.ref) || !has(self.uri) || !self.uri.matches('^[A-Za-z][A-Za-z0-9+.-]*:') && !self.uri.startsWith('//')")
    .message("with ref, uri must be a path relative to it, such as /hooks/orders; for an absolute URI leave ref out"))]
#[x_kube(validation = Rule::new("has(self.ref) || !has(self.uri) || self.uri.matches('^https?://[^/?#@]+([/?].*)?$')")
    .message("without ref, uri must be absolute, such as http://billing.example.com/orders, and without user or password (use headers)"))]
pub struct Destination {
    /// An object that has an address: a Service, an EventSink, or anything with `status.address.url`.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DestinationRef>,
    /// With `ref`: a path relative to its address. Alone: an absolute http or https URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub uri: Option<String>,
}

/// Names an object that has an address.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.port) || self.kind == 'Service'").message("port is for a Service only"))]
pub struct DestinationRef {
    /// API version of the object, such as `v1` for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub api_version: Option<String>,
    /// Kind of the object.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the object; default: this resource's own. Only an EventSink whose `allowedNamespaces` says so
    /// can be referred to from another namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Port of a Service, by name or number. Default: its only port, or else the one named `http` or numbered 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}
