//! The database of a run: one that exists, or our own.

use super::{
    embedded::{Embedded, EmbeddedError},
    options::Input,
};
use crate::log::{ConnectConfig, ConnectError};

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is wrong.
    #[error("--database-url")]
    Url(#[from] ConnectError),
    /// No embedded server.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
}

/// The database.
#[derive(Debug)]
pub(super) enum Database {
    Given(ConnectConfig),
    Embedded(Embedded),
}

impl Database {
    pub(super) async fn open(input: &Input) -> Result<Self, DatabaseError> {
        match &input.database_url {
            Some(url) => Ok(Self::Given(ConnectConfig::from_uri(url, None, None)?)),
            None => Ok(Self::Embedded(Embedded::start(input.embedded()).await?)),
        }
    }

    pub(super) fn config(&self) -> ConnectConfig {
        match self {
            Self::Given(config) => config.clone(),
            Self::Embedded(server) => server.config(),
        }
    }

    /// Ends what was started, unless somebody else uses it, too.
    pub(super) async fn close(self) -> Result<(), DatabaseError> {
        match self {
            Self::Given(_) => Ok(()),
            Self::Embedded(server) => Ok(server.stop().await?),
        }
    }
}
