//! What an EventSink signs and authorizes with, and whom it trusts.

use super::{Objects, Problem, Secrets, Stop, headers::legal, secret};
use crate::{
    api::{self, EventSinkSpec, SecretKeySelector, TlsSecret, ValueSource},
    delivery::{signing, tls},
    log::definition::{Auth, ClientCredentials, HeaderValue, SecretName},
};

const INVALID: &str = "InvalidSecret";
const SINK: &str = "InvalidSink";

/// Reads Secrets of a sink's namespace, and keeps what it read.
pub(super) struct Found<'a, O> {
    pub(super) namespace: &'a str,
    pub(super) objects: &'a O,
    pub(super) secrets: &'a mut Secrets,
}

impl<O: Objects> Found<'_, O> {
    pub(super) async fn signing(&mut self, spec: Option<&api::Signing>) -> Result<Vec<SecretName>, Stop> {
        let mut keys = Vec::new();
        for (at, source) in spec.iter().flat_map(|spec| &spec.standard_webhooks).enumerate() {
            let selector = &source.secret_key_ref;
            let field = format!("spec.signing.standardWebhooks[{at}]");
            let (name, value) = self.secret(&field, selector).await?;
            signing::Key::parse(&value).map_err(|error| self.invalid(&field, selector, &error))?;
            keys.push(name);
        }
        Ok(keys)
    }

    pub(super) async fn auth(&mut self, spec: &EventSinkSpec) -> Result<Option<Auth>, Stop> {
        let Some(api::Auth { bearer, basic, oauth2_client_credentials, client_certificate }) = &spec.auth else {
            return Ok(None);
        };
        let auth = match (bearer, basic, oauth2_client_credentials, client_certificate) {
            (Some(bearer), None, None, None) => self.bearer(&bearer.secret_key_ref).await?,
            (None, Some(basic), None, None) => self.basic(basic).await?,
            (None, None, Some(client), None) => self.client_credentials(client).await?,
            (None, None, None, Some(ours)) => return Ok(Some(self.certificate(ours).await?)),
            _ => {
                let message =
                    "spec.auth: set exactly one of bearer, basic, oauth2ClientCredentials and clientCertificate";
                return Err(Problem::new(SINK, message).into());
            }
        };
        if let Some(at) = spec.headers.iter().position(|header| header.name.eq_ignore_ascii_case("authorization")) {
            let message = format!("spec.headers[{at}]: Authorization is set by spec.auth; remove one of both");
            return Err(Problem::new("InvalidHeader", message).into());
        }
        Ok(Some(auth))
    }

    async fn bearer(&mut self, selector: &SecretKeySelector) -> Result<Auth, Stop> {
        let field = "spec.auth.bearer";
        let (name, value) = self.secret(field, selector).await?;
        let what = format!("the value of key {:?} in Secret {}/{}", selector.key, self.namespace, selector.name);
        legal(&value, field, &what)?;
        if value.is_empty() || value.contains(' ') {
            let message =
                format!("{field}: {what} is not a token; write it without spaces, and without the word Bearer");
            return Err(Problem::new(INVALID, message).into());
        }
        Ok(Auth::Bearer(name))
    }

    async fn basic(&mut self, api::Basic { username, password }: &api::Basic) -> Result<Auth, Stop> {
        let (name, text) = self.value("spec.auth.basic.username", username).await?;
        if text.contains(':') {
            // The first colon ends it (RFC 7617 §2).
            let message =
                "spec.auth.basic.username: the value has a colon, which a user's name cannot have; correct it";
            return Err(Problem::new(SINK, message).into());
        }
        let (password, _) = self.secret("spec.auth.basic.password", &password.secret_key_ref).await?;
        Ok(Auth::Basic { username: name, password })
    }

    async fn client_credentials(&mut self, spec: &api::ClientCredentials) -> Result<Auth, Stop> {
        let api::ClientCredentials { token_url, client_id, client_secret, scopes, audience } = spec;
        let field = "spec.auth.oauth2ClientCredentials";
        let url = url::Url::parse(token_url).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = url else {
            // Not repeated: it may hold a password.
            let message =
                format!("{field}.tokenUrl: it must be an absolute http or https URL without user and password");
            return Err(Problem::new(SINK, message).into());
        };
        let (client_id, _) = self.value(&format!("{field}.clientId"), client_id).await?;
        let (client_secret, _) = self.secret(&format!("{field}.clientSecret"), &client_secret.secret_key_ref).await?;
        let (scopes, audience) = (scopes.clone(), audience.clone());
        Ok(Auth::OAuth2(ClientCredentials { token_url: url.into(), client_id, client_secret, scopes, audience }))
    }

    async fn certificate(&mut self, spec: &api::ClientCertificate) -> Result<Auth, Stop> {
        let field = "spec.auth.clientCertificate.secretRef";
        let selector = |key: &str| SecretKeySelector { name: spec.secret_ref.name.clone(), key: key.to_owned() };
        let (certificate, chain) = self.secret(field, &selector(TlsSecret::CERTIFICATE)).await?;
        let (key, private) = self.secret(field, &selector(TlsSecret::KEY)).await?;
        tls::identity(&chain, &private).map_err(|error| {
            let secret = &spec.secret_ref.name;
            Problem::new(INVALID, format!("{field}: Secret {}/{secret}: {error}; correct it", self.namespace))
        })?;
        Ok(Auth::Certificate { certificate, key })
    }

    pub(super) async fn authorities(&mut self, spec: &EventSinkSpec) -> Result<Vec<HeaderValue>, Stop> {
        let mut authorities = Vec::new();
        if let Some(pem) = &spec.ca_certs {
            let problem = |error| Problem::new(SINK, format!("spec.CACerts: {error}; write certificates in PEM"));
            tls::certificates(pem).map_err(problem)?;
            authorities.push(HeaderValue::Literal(pem.clone()));
        }
        if let Some(source) = spec.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            let (field, selector) = ("spec.tls.ca", &source.secret_key_ref);
            let (name, pem) = self.secret(field, selector).await?;
            tls::certificates(&pem).map_err(|error| self.invalid(field, selector, &error))?;
            authorities.push(HeaderValue::Secret(name));
        }
        Ok(authorities)
    }

    /// A value that may stand in the manifest: where workers find it, and what it is.
    async fn value(&mut self, field: &str, source: &ValueSource) -> Result<(HeaderValue, String), Stop> {
        match (&source.value, &source.secret_key_ref) {
            (Some(value), None) => Ok((HeaderValue::Literal(value.clone()), value.clone())),
            (None, Some(selector)) => {
                let (name, value) = self.secret(field, selector).await?;
                Ok((HeaderValue::Secret(name), value))
            }
            _ => {
                let message = format!("{field}: set exactly one of value and secretKeyRef");
                Err(Problem::new(SINK, message).into())
            }
        }
    }

    async fn secret(&mut self, field: &str, selector: &SecretKeySelector) -> Result<(SecretName, String), Stop> {
        let value = secret::value(self.objects, self.namespace, field, selector).await?;
        let name = SecretName::new(self.namespace, &selector.name, &selector.key);
        self.secrets.0.insert(name.clone(), value.clone());
        Ok((name, value))
    }

    /// Never repeats the value.
    fn invalid(&self, field: &str, selector: &SecretKeySelector, error: &dyn std::fmt::Display) -> Problem {
        let SecretKeySelector { name, key } = selector;
        Problem::new(INVALID, format!("{field}: key {key:?} of Secret {}/{name}: {error}", self.namespace))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        log::definition::{Format, Mode, Sink},
        resolve::{
            Target, event_sink,
            testing::{Manifests, parse},
        },
    };

    const SECRETS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: shop}
stringData:
  whsec: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"
  next: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx
  weak: whsec_c2hvcnQ=
  token: t0ken
  sentence: Bearer t0ken
  password: p w
  text: no PEM
---
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: shop}
type: kubernetes.io/tls
stringData: {tls.crt: no PEM, tls.key: no PEM}
"#;

    async fn resolved(spec: &str) -> Result<Target, Problem> {
        let sink: api::EventSink = parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventSink, metadata: {{name: billing, namespace: shop}}, \
             spec: {{uri: 'https://billing.example.com/', {spec}}}}}"
        ));
        event_sink(&sink, &Manifests::new(SECRETS)).await.unwrap()
    }

    fn key(name: &str) -> String {
        format!("{{secretKeyRef: {{name: keys, key: {name}}}}}")
    }

    fn named(key: &str) -> SecretName {
        SecretName::new("shop", "keys", key)
    }

    async fn auth(spec: &str) -> (Auth, Vec<SecretName>) {
        let Target { sink, secrets, .. } = resolved(&format!("auth: {spec}")).await.unwrap();
        (sink.auth.unwrap(), secrets.0.into_keys().collect())
    }

    #[tokio::test]
    async fn every_signing_key_goes_to_the_workers_and_only_its_name_into_the_definition() {
        let spec = format!("signing: {{standardWebhooks: [{}, {}]}}", key("whsec"), key("next"));
        let Target { sink: Sink { signing, .. }, secrets, .. } = resolved(&spec).await.unwrap();
        assert_eq!(signing, [named("whsec"), named("next")]);
        assert_eq!(secrets.0.keys().collect::<Vec<_>>(), [&named("next"), &named("whsec")]);
    }

    #[tokio::test]
    async fn credentials_are_named_and_their_values_go_to_the_workers() {
        assert_eq!(
            auth(&format!("{{bearer: {}}}", key("token"))).await,
            (Auth::Bearer(named("token")), vec![named("token")])
        );
        let spec = format!("{{basic: {{username: {{value: me}}, password: {}}}}}", key("password"));
        let username = HeaderValue::Literal("me".to_owned());
        assert_eq!(auth(&spec).await, (Auth::Basic { username, password: named("password") }, vec![named("password")]));
        let spec = format!(
            "{{oauth2ClientCredentials: {{tokenUrl: 'https://auth.example.com/token', clientId: {}, clientSecret: {}, scopes: [a, b], audience: x}}}}",
            key("text"),
            key("token")
        );
        let client = ClientCredentials {
            token_url: "https://auth.example.com/token".to_owned(),
            client_id: HeaderValue::Secret(named("text")),
            client_secret: named("token"),
            scopes: vec!["a".to_owned(), "b".to_owned()],
            audience: Some("x".to_owned()),
        };
        assert_eq!(auth(&spec).await, (Auth::OAuth2(client), vec![named("text"), named("token")]));
    }

    #[rstest]
    #[case("format: {}", Format::CloudEvents(Mode::Binary))]
    #[case("format: {cloudEvents: {}}", Format::CloudEvents(Mode::Binary))]
    #[case("format: {cloudEvents: {mode: Structured}}", Format::CloudEvents(Mode::Structured))]
    #[case("format: {hasura: {}}", Format::Hasura { trigger: None })]
    #[case("format: {hasura: {triggerName: insert_user}}", Format::Hasura { trigger: Some("insert_user".to_owned()) })]
    #[tokio::test]
    async fn a_format_is_passed_on(#[case] spec: &str, #[case] format: Format) {
        assert_eq!(resolved(spec).await.unwrap().sink.format, format);
    }

    #[rstest]
    #[case(format!("signing: {{standardWebhooks: [{}]}}", key("weak")), r#"spec.signing.standardWebhooks[0]: key "weak" of Secret shop/keys: it has 5 bytes; a key after whsec_ has 24 to 64, in base64"#)]
    #[case(format!("signing: {{standardWebhooks: [{}, {}]}}", key("whsec"), key("token")), r#"spec.signing.standardWebhooks[1]: key "token" of Secret shop/keys: it does not begin with whsec_ or whsk_; write whsec_ and 24 to 64 random bytes in base64"#)]
    #[case(format!("auth: {{bearer: {}}}", key("gone")), r#"spec.auth.bearer: Secret shop/keys has no key "gone"; it has: next, password, sentence, text, token, weak, whsec"#)]
    #[case(format!("auth: {{bearer: {}}}", key("sentence")), r#"spec.auth.bearer: the value of key "sentence" in Secret shop/keys is not a token; write it without spaces, and without the word Bearer"#)]
    #[case(format!("auth: {{bearer: {}}}", key("whsec")), r#"spec.auth.bearer: the value of key "whsec" in Secret shop/keys ends with a line break; write it without one (echo -n, printf)"#)]
    #[case("auth: {}", "spec.auth: set exactly one of bearer, basic, oauth2ClientCredentials and clientCertificate")]
    #[case(format!("auth: {{basic: {{username: {{value: 'a:b'}}, password: {}}}}}", key("password")), "spec.auth.basic.username: the value has a colon, which a user's name cannot have; correct it")]
    #[case(format!("auth: {{bearer: {}}}, headers: [{{name: authorization, value: x}}]", key("token")), "spec.headers[0]: Authorization is set by spec.auth; remove one of both")]
    #[case(format!("auth: {{oauth2ClientCredentials: {{tokenUrl: 'https://a:s3cret@b/', clientId: {{value: a}}, clientSecret: {}}}}}", key("token")), "spec.auth.oauth2ClientCredentials.tokenUrl: it must be an absolute http or https URL without user and password")]
    #[case(
        "auth: {clientCertificate: {secretRef: {name: tls}}}",
        "spec.auth.clientCertificate.secretRef: Secret shop/tls: it holds no certificate in PEM; correct it"
    )]
    #[case("auth: {clientCertificate: {secretRef: {name: keys}}}", r#"spec.auth.clientCertificate.secretRef: Secret shop/keys has no key "tls.crt"; it has: next, password, sentence, text, token, weak, whsec"#)]
    #[case("CACerts: no PEM", "spec.CACerts: it holds no certificate in PEM; write certificates in PEM")]
    #[case(format!("tls: {{ca: {}}}", key("text")), r#"spec.tls.ca: key "text" of Secret shop/keys: it holds no certificate in PEM"#)]
    #[tokio::test]
    async fn a_problem_names_field_and_remedy_and_never_the_value(
        #[case] spec: impl Into<String>,
        #[case] message: &str,
    ) {
        assert_eq!(resolved(&spec.into()).await.unwrap_err().message, message);
    }
}
