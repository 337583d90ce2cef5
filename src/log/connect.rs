//! Connecting to PostgreSQL, with libpq's TLS modes.

use std::{error::Error as _, fmt, io, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, config::SslMode, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::api::TlsMode;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything a connection needs. `Debug` leaves the password out.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectConfig {
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub dbname: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// Encryption.
    pub tls: TlsMode,
    /// Authorities to trust (PEM), for the verifying modes; the public ones if there are none.
    pub ca: Option<String>,
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ConnectConfig {
    /// Host, port and database: nothing secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.dbname)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URI cannot be read. Says what is wrong without repeating it: it holds a password.
    #[error("the connection URI is wrong: {0}")]
    Uri(String),
    /// The CA is not one.
    #[error("the CA is not a PEM certificate: {0}")]
    Ca(String),
    /// The server is away, or said no. The source tells which.
    #[error("failed to connect to {to}")]
    Refused {
        /// Host, port and database.
        to: String,
        /// What the server or the network said.
        source: tokio_postgres::Error,
    },
    /// Its certificate was looked at and refused. The source tells why.
    #[error(
        "the certificate of {to} is not trusted; connection.tls.ca must hold the authority that signed it, and the host be a name in it"
    )]
    Untrusted {
        /// Host, port and database.
        to: String,
        /// What was wrong with it.
        source: tokio_postgres::Error,
    },
    /// Nothing was heard in time.
    #[error("failed to connect to {to} within {seconds} s")]
    Timeout {
        /// Host, port and database.
        to: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl ConnectError {
    /// Whether it stays wrong until a person changes something: a wrong password or an unknown database, not a server that is away.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Uri(_) | Self::Ca(_) => true,
            // It may be issued anew.
            Self::Timeout { .. } | Self::Untrusted { .. } => false,
            Self::Refused { source, .. } => source.code().is_some_and(|code| {
                [
                    SqlState::INVALID_PASSWORD,
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    SqlState::INVALID_CATALOG_NAME,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                ]
                .contains(code)
            }),
        }
    }
}

impl ConnectConfig {
    /// Reads a `postgresql://` URI; `tls` and `ca` come before what it says.
    ///
    /// Of libpq's parameters `sslmode` is honoured; what only steers a client's convenience is left aside.
    pub fn from_uri(uri: &str, tls: Option<TlsMode>, ca: Option<String>) -> Result<Self, ConnectError> {
        let wrong = |why: &str| ConnectError::Uri(why.to_owned());
        let parsed = url::Url::parse(uri.trim()).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(wrong("it must start with postgresql://"));
        }
        let decoded = |part: &str| {
            percent_encoding::percent_decode_str(part)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| wrong("it is not UTF-8"))
        };
        let mut config = Self {
            host: decoded(parsed.host_str().unwrap_or_default())?.trim_matches(['[', ']']).to_owned(),
            port: parsed.port().unwrap_or(5432),
            dbname: decoded(parsed.path().trim_start_matches('/'))?,
            user: decoded(parsed.username())?,
            password: parsed.password().map(decoded).transpose()?,
            tls: tls.unwrap_or(TlsMode::Prefer),
            ca,
        };
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "sslmode" if tls.is_none() => {
                    config.tls = mode(&value).ok_or_else(|| wrong("sslmode is not one of libpq's"))?;
                }
                "host" => config.host = value.into_owned(),
                "port" => config.port = value.parse().map_err(|_| wrong("its port is not a number"))?,
                "dbname" => config.dbname = value.into_owned(),
                "user" => config.user = value.into_owned(),
                "password" => config.password = Some(value.into_owned()),
                _ => {}
            }
        }
        if config.host.is_empty() {
            return Err(wrong("it names no host"));
        }
        if config.user.is_empty() {
            return Err(wrong("it names no user"));
        }
        if config.dbname.is_empty() {
            config.dbname.clone_from(&config.user);
        }
        Ok(config)
    }

    /// Connects. The connection's own task ends with the client; what it ends of is logged.
    pub(super) async fn connect(&self, application: &str) -> Result<Client, ConnectError> {
        let mut postgres = tokio_postgres::Config::new();
        postgres
            .host(&self.host)
            .port(self.port)
            .dbname(&self.dbname)
            .user(&self.user)
            .application_name(application)
            .connect_timeout(PATIENCE)
            // A server that vanished without a word is noticed within half a minute.
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(30))
            .ssl_mode(match self.tls {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
            });
        if let Some(password) = &self.password {
            postgres.password(password);
        }
        let tls = MakeRustlsConnect::new(self.rustls()?);
        let refused = |source| match (self.to_string(), is_about_a_certificate(&source)) {
            (to, true) => ConnectError::Untrusted { to, source },
            (to, false) => ConnectError::Refused { to, source },
        };
        let (client, connection) = tokio::time::timeout(PATIENCE, postgres.connect(tls))
            .await
            .map_err(|_| ConnectError::Timeout { to: self.to_string(), seconds: PATIENCE.as_secs() })?
            .map_err(refused)?;
        let to = self.to_string();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(database = to, error = &error as &dyn std::error::Error, "connection lost");
            }
        });
        Ok(client)
    }

    fn rustls(&self) -> Result<ClientConfig, ConnectError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConnectError::Ca(error.to_string()))?;
        let unverified = || Arc::new(Lenient { names: None, provider: Arc::clone(&provider) });
        Ok(match self.tls {
            TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => {
                builder.dangerous().with_custom_certificate_verifier(unverified()).with_no_client_auth()
            }
            TlsMode::VerifyFull => builder.with_root_certificates(self.roots()?).with_no_client_auth(),
            TlsMode::VerifyCa => {
                let names = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider))
                    .build()
                    .map_err(|error| ConnectError::Ca(error.to_string()))?;
                let verifier = Arc::new(Lenient { names: Some(names), provider: Arc::clone(&provider) });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        })
    }

    fn roots(&self) -> Result<RootCertStore, ConnectError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate = certificate.map_err(|error| ConnectError::Ca(error.to_string()))?;
                    roots.add(certificate).map_err(|error| ConnectError::Ca(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(ConnectError::Ca("it holds none".to_owned()));
                }
            }
        }
        Ok(roots)
    }
}

/// Whether the server's certificate is what a connection failed for. What TLS says comes inside of an error of its transport.
fn is_about_a_certificate(error: &tokio_postgres::Error) -> bool {
    let transport = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let tls = transport.and_then(|error| error.get_ref()?.downcast_ref());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

fn mode(text: &str) -> Option<TlsMode> {
    Some(match text {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

/// What libpq does below `verify-full`: the certificate's name is not checked, and below `verify-ca` nothing of it.
#[derive(Debug)]
struct Lenient {
    /// Checks the chain; `None` takes any.
    names: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(verifier) = &self.names else { return Ok(ServerCertVerified::assertion()) };
        match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain was good: webpki looks at the name last.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a database error says, in one line: its own message and detail, or what the network said.
pub fn explain(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => {
            said.detail().map_or_else(|| said.message().to_owned(), |detail| format!("{} ({detail})", said.message()))
        }
        None => std::error::Error::source(error).map_or_else(
            || error.to_string(),
            |cause| cause.downcast_ref::<io::Error>().map_or_else(|| cause.to_string(), ToString::to_string),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_uri_of_cloudnativepg_is_read() {
        let config = ConnectConfig::from_uri("postgresql://app:s%40cret@shop-rw.shop:5432/app", None, None).unwrap();
        assert_eq!((config.host.as_str(), config.port, config.dbname.as_str()), ("shop-rw.shop", 5432, "app"));
        assert_eq!(
            (config.user.as_str(), config.password.as_deref(), config.tls),
            ("app", Some("s@cret"), TlsMode::Prefer)
        );
    }

    #[test]
    fn the_spec_comes_before_the_uri() {
        let uri = "postgres://u@h/d?sslmode=disable";
        assert_eq!(ConnectConfig::from_uri(uri, None, None).unwrap().tls, TlsMode::Disable);
        assert_eq!(ConnectConfig::from_uri(uri, Some(TlsMode::VerifyFull), None).unwrap().tls, TlsMode::VerifyFull);
    }

    #[rstest]
    #[case("mysql://u:hidden@h/d", "the connection URI is wrong: it must start with postgresql://")]
    #[case("postgres://u:hidden@h/d?sslmode=maybe", "the connection URI is wrong: sslmode is not one of libpq's")]
    #[case("postgres:///d", "the connection URI is wrong: it names no host")]
    #[case("postgres://h/d", "the connection URI is wrong: it names no user")]
    fn a_wrong_uri_is_explained_without_its_password(#[case] uri: &str, #[case] message: &str) {
        assert_eq!(ConnectConfig::from_uri(uri, None, None).unwrap_err().to_string(), message);
    }

    #[test]
    fn the_password_is_not_printed() {
        let config = ConnectConfig::from_uri("postgres://u:hidden@h/d", None, None).unwrap();
        assert_eq!(format!("{config:?} {config}"), "h:5432/d h:5432/d");
    }
}
