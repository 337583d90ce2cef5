//! A definition made ready to send: URL and headers checked, secrets filled in. Pure.

use std::{fmt, sync::OnceLock};

use http::{HeaderMap, HeaderName, Uri, header};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use super::{
    Config,
    auth::{self, Tokens},
    format,
    http::{Client, Http},
    secrets::{Reader, Secrets},
    signing::{self, Key},
    tls,
};
use crate::{
    log::{
        Definition,
        definition::{
            Auth, Batch, Columns, Context, Format, HeaderValue as Value, Mode, Ordering, Policy, SecretName, Sink,
            StatusRule,
        },
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
    pub(super) uri: Uri,
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
    /// CloudEvents' `source` and our `eventtrigger`, as JSON.
    pub(super) source: String,
    pub(super) eventtrigger: String,
    /// Attributes of the EventTrigger's own, as members of a JSON object.
    pub(super) extensions: String,
    pub(super) format: Format,
    /// What requests are signed with.
    pub(super) signing: Vec<Key>,
    /// Where tokens come from, if requests need them.
    pub(super) tokens: Option<Tokens>,
    /// TLS settings of its own, and of its token endpoint.
    own: Option<Own>,
    token_own: Option<Own>,
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
    #[error("{what}: the secret {secret} is not in the worker's configuration")]
    MissingSecret { what: String, secret: String },
    #[error("{what}: {why}")]
    Invalid { what: &'static str, why: String },
    #[error("header {0:?}: not a header name")]
    HeaderName(String),
    #[error("header {0}: its value has characters that a header cannot have, such as a line break at its end")]
    HeaderValue(String),
    #[error("header {0}: it is set by eventtrigger itself; remove it")]
    Reserved(HeaderName),
}

impl Hold {
    /// As the condition of the EventTrigger has it.
    pub(super) const REASON: &'static str = "DeliveryHeld";
}

/// A client for TLS settings that not every sink has; made when it is first needed.
struct Own {
    tls: ClientConfig,
    client: OnceLock<Client>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS settings")
    }
}

impl Own {
    fn new(tls: ClientConfig) -> Self {
        Self { tls, client: OnceLock::new() }
    }

    fn client(&self, http: &Http) -> &Client {
        self.client.get_or_init(|| http.with(self.tls.clone()))
    }
}

impl Target {
    /// Checks what `definition` says.
    pub(super) fn new(definition: &Definition, config: &Config, log_id: &str) -> Result<Self, Hold> {
        if definition.suspend {
            return Err(Hold::Suspended);
        }
        let sink = definition.sink.as_ref().ok_or(Hold::NoSink)?;
        let uri = uri(&sink.url)?;
        let mut reader = Reader { known: &config.secrets, hidden: Secrets::default() };
        let mut headers = HeaderMap::new();
        for header in &sink.headers {
            let name: HeaderName = header.name.parse().map_err(|_| Hold::HeaderName(header.name.clone()))?;
            if FRAMING.contains(&name) || format::sets(&name) || signing::sets(&name) {
                return Err(Hold::Reserved(name));
            }
            let value = reader.header(&header.name, &header.value)?;
            headers.append(name, value);
        }
        let source = format::cloudevents::source(&config.owner.log);
        format::constant(sink, &source, &definition.trigger, &mut headers);
        let tokens = authorize(sink.auth.as_ref(), &mut headers, &mut reader)?;
        let (own, token_own) = trust(sink, &mut reader)?;
        Ok(Self {
            trigger: definition.trigger.clone(),
            uri,
            headers,
            columns: definition.columns.clone(),
            context: definition.context.clone(),
            ordering: definition.ordering.clone(),
            policy: definition.policy.clone(),
            statuses: sink.statuses.clone(),
            resume: sink.resume.clone(),
            log_id: log_id.to_owned(),
            source: format::json(&source),
            eventtrigger: format::json(&definition.trigger.to_string()),
            extensions: format::cloudevents::members(&sink.extensions),
            format: sink.format.clone(),
            signing: sink.signing.iter().map(|name| key(name, &reader)).collect::<Result<_, _>>()?,
            tokens,
            own,
            token_own,
            secrets: reader.hidden,
        })
    }

    /// What it is sent with.
    pub(super) fn client<'a>(&'a self, http: &'a Http) -> &'a Client {
        self.own.as_ref().map_or_else(|| http.common(), |own| own.client(http))
    }

    /// What its tokens are asked for with.
    pub(super) fn token_client<'a>(&'a self, http: &'a Http) -> &'a Client {
        self.token_own.as_ref().map_or_else(|| http.common(), |own| own.client(http))
    }

    /// How many events go in one request, if it may be more than one.
    pub(super) fn batch(&self) -> Option<&Batch> {
        match &self.format {
            Format::CloudEvents(Mode::Batch(batch)) => Some(batch),
            _ => None,
        }
    }

    /// `text` without the values of secrets, for a sink may echo what it was sent.
    pub(super) fn redact(&self, text: String) -> String {
        self.secrets.redact(text)
    }
}

fn uri(url: &str) -> Result<Uri, Hold> {
    let url: Url = url.parse().map_err(|error: url::ParseError| Hold::Url(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(Hold::Url("not of that form".to_owned()));
    }
    url.as_str().parse().map_err(|_| Hold::Url("it has characters that a request cannot have".to_owned()))
}

fn key(name: &SecretName, reader: &Reader<'_>) -> Result<Key, Hold> {
    let what = "signing";
    Key::parse(reader.unsent(what, name)?).map_err(|error| Hold::Invalid { what, why: error.to_string() })
}

/// Sets what is always the same; returns where the rest comes from.
fn authorize(auth: Option<&Auth>, headers: &mut HeaderMap, reader: &mut Reader<'_>) -> Result<Option<Tokens>, Hold> {
    let value = match auth {
        None | Some(Auth::Certificate { .. }) => return Ok(None),
        Some(Auth::Bearer(name)) => format!("Bearer {}", reader.secret("auth.bearer", name)?),
        Some(Auth::Basic { username, password }) => {
            let username = reader.text("auth.basic.username", username)?.into_owned();
            auth::basic(&username, reader.secret("auth.basic.password", password)?)
        }
        Some(Auth::OAuth2(client)) => {
            let endpoint = uri(&client.token_url)?;
            let id = reader.text("auth.oauth2ClientCredentials.clientId", &client.client_id)?.into_owned();
            let secret = reader.secret("auth.oauth2ClientCredentials.clientSecret", &client.client_secret)?;
            return Ok(Some(Tokens::new(endpoint, &id, secret, &client.scopes, client.audience.as_deref())));
        }
    };
    reader.hidden.hide(&value);
    let value = auth::sensitive(&value).ok_or_else(|| Hold::HeaderValue("Authorization".to_owned()))?;
    headers.insert(header::AUTHORIZATION, value);
    Ok(None)
}

/// TLS settings of the sink and of its token endpoint, where they are not everybody's. The endpoint may be a public one: it is
/// trusted also if a public authority vouches for it.
fn trust(sink: &Sink, reader: &mut Reader<'_>) -> Result<(Option<Own>, Option<Own>), Hold> {
    let invalid = |what| move |error: tls::BadPem| Hold::Invalid { what, why: error.to_string() };
    let mut authorities = Vec::new();
    for pem in &sink.authorities {
        let pem = match pem {
            Value::Literal(pem) => pem,
            Value::Secret(name) => reader.unsent("tls.ca", name)?,
        };
        authorities.extend(tls::certificates(pem).map_err(invalid("tls.ca"))?);
    }
    let trusted = || match authorities.as_slice() {
        [] => tls::public(),
        some => tls::and(RootCertStore::empty(), some),
    };
    let own = match &sink.auth {
        Some(Auth::Certificate { certificate, key }) => {
            let what = "auth.clientCertificate";
            let (chain, key) = (reader.unsent(what, certificate)?, reader.unsent(what, key)?);
            let identified = tls::identity(chain, key).and_then(|identity| tls::identified(trusted(), identity));
            Some(Own::new(identified.map_err(invalid(what))?))
        }
        _ if authorities.is_empty() => None,
        _ => Some(Own::new(tls::anonymous(trusted()))),
    };
    let asks = matches!(sink.auth, Some(Auth::OAuth2(_))) && !authorities.is_empty();
    let token_own = asks.then(|| Own::new(tls::anonymous(tls::and(tls::public(), &authorities))));
    Ok((own, token_own))
}

#[cfg(test)]
pub(super) mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        api::TlsMode,
        log::{
            ConnectConfig, Owner,
            definition::{Header, HeaderValue as Source, Operations},
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
            partitions: 1,
            own_workers: None,
            sink: Some(Sink { headers, ..Sink::to(url) }),
            policy: Policy::default(),
            dead_letter_sink: None,
            suspend: false,
        }
    }

    fn with(auth: Auth, secrets: &[(&str, &str)]) -> Result<Target, Hold> {
        let mut definition = definition("https://billing/x", Vec::new());
        definition.sink = definition.sink.map(|sink| Sink { auth: Some(auth), ..sink });
        let mut config = config();
        config.secrets.extend(secrets.iter().map(|(key, value)| (named(key), (*value).to_owned())));
        Target::new(&definition, &config, "l")
    }

    fn named(key: &str) -> SecretName {
        SecretName::new("shop", "billing", key)
    }

    #[test]
    fn fixed_credentials_are_a_header_and_hidden_however_they_are_written() {
        let target = with(Auth::Bearer(named("bearer")), &[("bearer", "abc-123-def")]).unwrap();
        assert_eq!(target.headers["authorization"], "Bearer abc-123-def");
        let user = Value::Literal("Aladdin".to_owned());
        let basic = Auth::Basic { username: user, password: named("password") };
        let target = with(basic, &[("password", "open sesame")]).unwrap();
        assert_eq!(target.headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(target.headers["authorization"].is_sensitive());
        let echoed = "open sesame, QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned();
        assert_eq!(target.redact(echoed), "[redacted], [redacted]");
    }

    #[test]
    fn a_key_that_is_none_holds_delivery_and_is_not_repeated() {
        let mut definition = definition("http://billing/x", Vec::new());
        definition.sink = definition.sink.map(|sink| Sink { signing: vec![named("token")], ..sink });
        let hold = Target::new(&definition, &config(), "l").unwrap_err().to_string();
        assert!(hold.starts_with("signing: it does not begin with whsec_") && !hold.contains("abc-123"), "{hold}");
        let certificate = Auth::Certificate { certificate: named("token"), key: named("token") };
        let hold = with(certificate, &[]).unwrap_err().to_string();
        assert_eq!(hold, "auth.clientCertificate: it holds no certificate in PEM");
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
