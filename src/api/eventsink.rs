//! `EventSink`: a target that several EventTriggers use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Auth, Delivery, DestinationRef, Format, SecretKeySelector, SecretSource, Signing, SinkTls};

/// A target of events: its address, the headers it wants, and how patiently it is to be called.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "eventtrigger.dev",
    version = "v1alpha1",
    kind = "EventSink",
    namespaced,
    status = "EventSinkStatus",
    derive = "PartialEq",
    shortname = "evsink",
    category = "eventing",
    category = "all",
    doc = "A target of events: its address, the headers it wants, and how patiently it is to be called.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.address.url"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.ref) || has(self.uri)").message("set ref, uri or both"))]
#[x_kube(validation = Rule::new("!has(self.ref) || !has(self.uri) || !self.uri.matches('^[A-Za-z][A-Za-z0-9+.-]*:') && !self.uri.startsWith('//')")
    .message("with ref, uri must be a path relative to it, such as /hooks/orders; for an absolute URI leave ref out"))]
#[x_kube(validation = Rule::new("has(self.ref) || !has(self.uri) || self.uri.matches('^https?://[^/?#@]+([/?].*)?$')")
    .message("without ref, uri must be absolute, such as http://billing.example.com/orders, and without user or password (use headers)"))]
#[x_kube(validation = Rule::new("!has(self.ref) || self.ref.kind != 'EventSink'").message("an EventSink cannot refer to an EventSink"))]
#[x_kube(validation = Rule::new("!has(self.auth) || has(self.auth.clientCertificate) || !has(self.headers) || !self.headers.exists(header, header.name.lowerAscii() == 'authorization')")
    .message("the header Authorization is set by auth; remove one of both"))]
pub struct EventSinkSpec {
    /// An object that has an address: a Service, or anything with `status.address.url`.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DestinationRef>,
    /// With `ref`: a path relative to its address. Alone: an absolute http or https URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub uri: Option<String>,
    /// Headers of every request. The names that the protocol uses (`ce-…`, `content-…`, `host` and the like) are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub headers: Vec<Header>,
    /// What a request looks like. Default: a CloudEvent in binary mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How requests are signed, so that the receiver knows that they are ours, new, and as we sent them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,
    /// How requests are authorized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Certificates of authorities in PEM, for https. They are trusted instead of the public ones; the name is Knative's.
    #[serde(rename = "CACerts", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certs: Option<String>,
    /// Whom to trust, if that is in a Secret; besides `CACerts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SinkTls>,
    /// How often and how patiently an event is sent; an EventTrigger's own comes before it, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// How much is sent at a time, by each worker, for all EventTriggers that use this sink together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What response statuses mean, where it is not the usual: 2xx is success; 404, 408, 409, 425, 429, 5xx and no response
    /// are retried; 401 and 403 stop the sink until they end, 410 until it is resumed; everything else is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_codes: Option<StatusCodes>,
    /// Namespaces whose EventTriggers may use this sink, besides its own; `*` stands for all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_namespaces: Vec<String>,
}

impl EventSinkSpec {
    /// Every key of a Secret that this reads, after the field that names it.
    pub fn secrets(&self) -> Vec<(String, SecretKeySelector)> {
        let mut found = Vec::new();
        for (at, header) in self.headers.iter().enumerate() {
            found.extend(header.value_from.as_ref().map(|source| (format!("headers[{at}].valueFrom"), source)));
        }
        let keys = self.signing.iter().flat_map(|signing| &signing.standard_webhooks).enumerate();
        found.extend(keys.map(|(at, key)| (format!("signing.standardWebhooks[{at}]"), key)));
        found.extend(self.tls.iter().filter_map(|tls| Some(("tls.ca".to_owned(), tls.ca.as_ref()?))));
        let mut found: Vec<_> =
            found.into_iter().map(|(field, source)| (field, source.secret_key_ref.clone())).collect();
        found.extend(self.auth.iter().flat_map(Auth::secrets).map(|(field, key)| (format!("auth.{field}"), key)));
        found.into_iter().map(|(field, key)| (format!("spec.{field}"), key)).collect()
    }
}

/// How much is sent at a time, by each worker that has EventTriggers of the sink.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Requests under way. Default 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub in_flight: Option<u32>,
    /// Requests begun in a second. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: Option<u32>,
}

/// What response statuses mean: each a code such as `400`, or a class such as `4xx`. A code comes before a class, `retry`
/// before `final`. 2xx cannot be changed.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusCodes {
    /// The event is sent again, by the policy in `delivery`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = r"^[1345]([0-9][0-9]|xx)$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub retry: Vec<String>,
    /// The event is given up at once.
    #[serde(default, rename = "final", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = r"^[1345]([0-9][0-9]|xx)$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub terminal: Vec<String>,
}

/// A header of every request.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.value) != has(self.valueFrom)").message("set exactly one of value and valueFrom"))]
#[x_kube(validation = Rule::new("!self.name.lowerAscii().startsWith('ce-') && !(self.name.lowerAscii() in ['content-type', 'content-length', 'host', 'connection', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'proxy-connection', 'webhook-id', 'webhook-timestamp', 'webhook-signature', 'traceparent'])")
    .message("this header is set by the protocol and cannot be chosen"))]
pub struct Header {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub name: String,
    /// The value itself. Whoever can read this resource, or the event log's schema, can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^[\t\x20-\x7e]*$"))]
    pub value: Option<String>,
    /// A value in a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<SecretSource>,
}

/// What the controller found. `address` makes the sink a Knative Addressable.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSinkStatus {
    /// The generation of the spec that this status is about; -1 before the first.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Ready` sums up the others.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Where events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// Knative's `Addressable`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Address {
    /// The URL to POST to.
    pub url: String,
    /// Whom to trust there: what `CACerts` of the spec says.
    #[serde(rename = "CACerts", default, skip_serializing_if = "Option::is_none")]
    pub ca_certs: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::from_yaml;

    #[test]
    fn every_secret_that_a_sink_reads_is_told_with_its_field() {
        let key = |name: &str| format!("{{secretKeyRef: {{name: s, key: {name}}}}}");
        let read = |auth: &str| {
            let spec = format!(
                "{{uri: 'http://a/', headers: [{{name: A, value: x}}, {{name: B, valueFrom: {}}}], \
                 signing: {{standardWebhooks: [{}]}}, tls: {{ca: {}}}, auth: {auth}}}",
                key("header"),
                key("whsec"),
                key("ca")
            );
            let found = from_yaml::<EventSinkSpec>(&spec).secrets();
            found.into_iter().map(|(field, selector)| format!("{field} {}", selector.key)).collect::<Vec<_>>()
        };
        let always = ["spec.headers[1].valueFrom header", "spec.signing.standardWebhooks[0] whsec", "spec.tls.ca ca"];
        let bearer = read(&format!("{{bearer: {}}}", key("token")));
        assert_eq!(bearer, [&always[..], &["spec.auth.bearer token"]].concat());
        let basic = read(&format!("{{basic: {{username: {}, password: {}}}}}", key("u"), key("p")));
        assert_eq!(basic[3..], ["spec.auth.basic.username u", "spec.auth.basic.password p"]);
        let client = format!("{{tokenUrl: 'http://a', clientId: {{value: x}}, clientSecret: {}}}", key("c"));
        let client = read(&format!("{{oauth2ClientCredentials: {client}}}"));
        assert_eq!(client[3..], ["spec.auth.oauth2ClientCredentials.clientSecret c"]);
        let certificate = read("{clientCertificate: {secretRef: {name: tls}}}");
        let field = "spec.auth.clientCertificate.secretRef";
        assert_eq!(certificate[3..], [format!("{field} tls.crt"), format!("{field} tls.key")]);
    }
}
