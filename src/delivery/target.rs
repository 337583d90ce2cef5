//! A definition made ready to send: URL and headers checked, secrets filled in. Pure.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{Config, cloudevents};
use crate::{
    log::{
        Definition,
        definition::{Columns, Context, HeaderValue as Source, Ordering, Policy, SecretName, StatusRule},
    },
    name::ObjectName,
};

/// Headers that frame the request; a sink's own would break it.
const FRAMING: [HeaderName; 6] = [
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    http::header::CONNECTION,
    http::header::UPGRADE,
    http::header::TE,
    http::header::TRAILER,
];

/// Where and how one subscription's events are sent.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) trigger: ObjectName,
    pub(super) url: Url,
    /// The sink's own headers and those that every event of the subscription has.
    pub(super) headers: HeaderMap,
    pub(super) columns: Columns,
    pub(super) context: Context,
    pub(super) ordering: Ordering,
    pub(super) policy: Policy,
    pub(super) statuses: Vec<StatusRule>,
    /// See [`crate::log::definition::Sink::resume`].
    pub(super) resume: Option<String>,
    /// First half of every event's id.
    pub(super) log_id: String,
    /// Values of secrets: never to be shown.
    secrets: Secrets,
}

/// Why a subscription cannot be delivered for now; its events wait in the log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Hold {
    #[error("delivery is suspended")]
    Suspended,
    #[error("the sink has no address yet")]
    NoSink,
    #[error("sink URL: {0}; it must be an absolute http or https URL without user and password")]
    Url(String),
    #[error("header {name}: the secret {secret} is not in the worker's configuration")]
    MissingSecret { name: String, secret: String },
    #[error("header {0:?}: not a header name")]
    HeaderName(String),
    #[error("header {0}: its value has characters that a header cannot have, such as a line break at its end")]
    HeaderValue(String),
    #[error("header {0}: it is set by eventtrigger itself; remove it")]
    Reserved(HeaderName),
}

/// Hides secret values in what a sink answered.
#[derive(Default)]
struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Target {
    /// Checks what `definition` says.
    pub(super) fn new(definition: &Definition, config: &Config, log_id: &str) -> Result<Self, Hold> {
        if definition.suspend {
            return Err(Hold::Suspended);
        }
        let sink = definition.sink.as_ref().ok_or(Hold::NoSink)?;
        let url: Url = sink.url.parse().map_err(|error: url::ParseError| Hold::Url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
            return Err(Hold::Url("not of that form".to_owned()));
        }
        let mut headers = HeaderMap::new();
        let mut secrets = Secrets::default();
        for header in &sink.headers {
            let name: HeaderName = header.name.parse().map_err(|_| Hold::HeaderName(header.name.clone()))?;
            if FRAMING.contains(&name) || cloudevents::sets(&name) {
                return Err(Hold::Reserved(name));
            }
            let value = secrets.look_up(&header.name, &header.value, &config.secrets)?;
            headers.append(name, value);
        }
        headers.extend(cloudevents::constant(&config.owner.log, &definition.trigger));
        Ok(Self {
            trigger: definition.trigger.clone(),
            url,
            headers,
            columns: definition.columns.clone(),
            context: definition.context.clone(),
            ordering: definition.ordering.clone(),
            policy: definition.policy.clone(),
            statuses: sink.statuses.clone(),
            resume: sink.resume.clone(),
            log_id: log_id.to_owned(),
            secrets,
        })
    }

    /// `text` without the values of secrets, for a sink may echo what it was sent.
    pub(super) fn redact(&self, text: String) -> String {
        self.secrets.0.iter().fold(text, |text, secret| text.replace(secret, "[redacted]"))
    }
}

impl Secrets {
    fn look_up(
        &mut self,
        name: &str,
        source: &Source,
        known: &BTreeMap<SecretName, String>,
    ) -> Result<HeaderValue, Hold> {
        let invalid = |_| Hold::HeaderValue(name.to_owned());
        match source {
            Source::Literal(value) => HeaderValue::from_str(value).map_err(invalid),
            Source::Secret(secret) => {
                let text = known
                    .get(secret)
                    .ok_or_else(|| Hold::MissingSecret { name: name.to_owned(), secret: secret.0.clone() })?;
                let mut value = HeaderValue::from_str(text).map_err(invalid)?;
                value.set_sensitive(true);
                // `Bearer abc` must not come back as `abc` either.
                self.0.extend(text.split_whitespace().filter(|part| part.len() >= 6).map(str::to_owned));
                Ok(value)
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        api::TlsMode,
        log::{
            ConnectConfig, Owner,
            definition::{Header, Operations, Sink},
        },
        name::{Ident, TableName},
    };

    pub(in crate::delivery) fn config() -> Config {
        Config {
            owner: Owner { uid: "u".to_owned(), log: ObjectName::new("shop", "shop") },
            schema: Ident::new("eventlog"),
            connection: ConnectConfig {
                host: "localhost".to_owned(),
                port: 5432,
                dbname: "d".to_owned(),
                user: "u".to_owned(),
                password: None,
                tls: TlsMode::Disable,
                ca: None,
            },
            secrets: [(SecretName::new("shop", "billing", "token"), "Bearer abc-123".to_owned())].into(),
        }
    }

    pub(in crate::delivery) fn definition(url: &str, headers: Vec<Header>) -> Definition {
        Definition {
            trigger: ObjectName::new("shop", "order-paid"),
            table: TableName::new("public", "orders"),
            on: Operations::default(),
            columns: Columns::All,
            context: Context::default(),
            replicated: false,
            ordering: crate::log::definition::Ordering::default(),
            sink: Some(Sink { headers, ..Sink::to(url.to_owned()) }),
            policy: Policy::default(),
            suspend: false,
        }
    }

    fn secret(key: &str) -> Vec<Header> {
        let value = Source::Secret(SecretName::new("shop", "billing", key));
        vec![Header { name: "Authorization".to_owned(), value }]
    }

    #[test]
    fn a_secret_goes_into_its_header_and_nowhere_else() {
        let target = Target::new(&definition("http://billing/x", secret("token")), &config(), "l").unwrap();
        assert_eq!(target.headers["authorization"], "Bearer abc-123");
        assert!(!format!("{target:?}").contains("abc-123"), "{target:?}");
        assert_eq!(target.redact("you sent abc-123".to_owned()), "you sent [redacted]");
    }

    #[test]
    fn a_missing_secret_holds_delivery() {
        let hold = Target::new(&definition("http://billing", secret("other")), &config(), "l").unwrap_err();
        assert_eq!(
            hold.to_string(),
            "header Authorization: the secret shop/billing/other is not in the worker's configuration"
        );
    }

    #[rstest]
    #[case("billing")]
    #[case("ftp://billing")]
    #[case("http://user:secret@billing")]
    fn a_wrong_url_holds_delivery_and_is_not_repeated(#[case] url: &str) {
        let hold = Target::new(&definition(url, Vec::new()), &config(), "l").unwrap_err();
        assert!(matches!(&hold, Hold::Url(why) if !why.contains("secret")), "{hold:?}");
    }

    #[rstest]
    #[case("a b", "x", Hold::HeaderName("a b".to_owned()))]
    #[case("a", "x\n", Hold::HeaderValue("a".to_owned()))]
    #[case("Ce-Id", "x", Hold::Reserved(HeaderName::from_static("ce-id")))]
    #[case("Content-Length", "5", Hold::Reserved(http::header::CONTENT_LENGTH))]
    fn a_wrong_header_holds_delivery(#[case] name: &str, #[case] value: &str, #[case] hold: Hold) {
        let header = Header { name: name.to_owned(), value: Source::Literal(value.to_owned()) };
        assert_eq!(Target::new(&definition("http://billing", vec![header]), &config(), "l").unwrap_err(), hold);
    }
}
