//! Connecting to PostgreSQL, with libpq's TLS modes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::TlsMode;

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
        todo!()
    }
}

impl ConnectConfig {
    /// Reads a `postgresql://` URI; `tls` and `ca` come before what it says.
    pub fn from_uri(uri: &str, tls: Option<TlsMode>, ca: Option<String>) -> Result<Self, ConnectError> {
        let _ = (uri, tls, ca);
        todo!()
    }
}
