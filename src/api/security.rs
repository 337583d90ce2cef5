//! How an `EventSink` is convinced of who sends, and how it convinces us.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SecretKeySelector, SecretSource, ValueSource};

/// How requests are signed.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signing {
    /// Keys of Standard Webhooks (<https://www.standardwebhooks.com>), each in a Secret: `whsec_` and 24 to 64 bytes in
    /// base64, or `whsk_` and an ed25519 key. A request has a signature by each, so that a receiver can change from one to
    /// the next at its own time.
    #[schemars(length(min = 1, max = 8))]
    pub standard_webhooks: Vec<SecretSource>,
}

/// How requests are authorized: exactly one way.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.bearer), has(self.basic), has(self.oauth2ClientCredentials), has(self.clientCertificate)].filter(given, given).size() == 1")
    .message("set exactly one of bearer, basic, oauth2ClientCredentials and clientCertificate"))]
pub struct Auth {
    /// A token, sent as `Authorization: Bearer …`. The Secret holds it without the word `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretSource>,
    /// User and password (RFC 7617).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// A token that an authorization server gives for the credentials of a client (RFC 6749 §4.4); it is kept until shortly
    /// before it expires, or until the sink answers 401.
    #[serde(rename = "oauth2ClientCredentials", default, skip_serializing_if = "Option::is_none")]
    pub oauth2_client_credentials: Option<ClientCredentials>,
    /// A certificate of ours, for sinks whose URL is https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
}

impl Auth {
    /// Every key of a Secret that this reads, after the field that names it.
    pub fn secrets(&self) -> Vec<(&'static str, SecretKeySelector)> {
        let Self { bearer, basic, oauth2_client_credentials: oauth2, client_certificate } = self;
        let mut found = Vec::new();
        found.extend(bearer.as_ref().map(|token| ("bearer", token.secret_key_ref.clone())));
        if let Some(Basic { username, password }) = basic {
            found.extend(username.secret_key_ref.clone().map(|name| ("basic.username", name)));
            found.push(("basic.password", password.secret_key_ref.clone()));
        }
        if let Some(ClientCredentials { client_id, client_secret, .. }) = oauth2 {
            found.extend(client_id.secret_key_ref.clone().map(|id| ("oauth2ClientCredentials.clientId", id)));
            found.push(("oauth2ClientCredentials.clientSecret", client_secret.secret_key_ref.clone()));
        }
        if let Some(ClientCertificate { secret_ref: TlsSecret { name } }) = client_certificate {
            let key = |key: &str| SecretKeySelector { name: name.clone(), key: key.to_owned() };
            let keys = [TlsSecret::CERTIFICATE, TlsSecret::KEY];
            found.extend(keys.map(|name| ("clientCertificate.secretRef", key(name))));
        }
        found
    }
}

/// User and password.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Basic {
    /// The user's name, without a colon.
    pub username: ValueSource,
    /// The password. It may only stand in a Secret.
    pub password: SecretSource,
}

/// Credentials of an OAuth 2.0 client, and where they are good for a token.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCredentials {
    /// URL of the token endpoint.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^/?#@]+([/?][^#]*)?$"))]
    pub token_url: String,
    /// The client's name.
    pub client_id: ValueSource,
    /// Its secret. It is sent to the token endpoint as the password of basic authorization.
    pub client_secret: SecretSource,
    /// What the token is to be good for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256), regex(pattern = r"^[!#-\[\]-~]+$")))]
    pub scopes: Vec<String>,
    /// Whom the token is for, where the server asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub audience: Option<String>,
}

/// A certificate of ours.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// A Secret of type `kubernetes.io/tls`, as cert-manager makes it: keys `tls.crt` and `tls.key`.
    pub secret_ref: TlsSecret,
}

/// A Secret of this namespace of type `kubernetes.io/tls`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl TlsSecret {
    /// Key of the certificate, and of those that vouch for it.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Key of its private key.
    pub const KEY: &str = "tls.key";
}

/// Whom to trust.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkTls {
    /// Certificates of authorities in PEM, in a Secret. They are trusted instead of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretSource>,
}
