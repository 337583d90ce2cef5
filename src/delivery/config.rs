//! What a delivery worker is told from outside. All the rest, policies included, it reads in the log's schema.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    log::{ConnectConfig, Owner, definition::SecretName},
    name::Ident,
};

/// The file that the controller mounts into a worker, as JSON. It holds secrets: `Debug` leaves them out.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Config {
    /// The EventLog.
    pub owner: Owner,
    /// Its schema.
    pub schema: Ident,
    /// Its database.
    pub connection: ConnectConfig,
    /// Values of Secrets that sinks need: for headers, signatures, authorization and trust.
    pub secrets: BTreeMap<SecretName, String>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, schema, connection, secrets } = self;
        f.debug_struct("Config")
            .field("owner", owner)
            .field("schema", schema)
            .field("connection", connection)
            .field("secrets", &secrets.keys())
            .finish()
    }
}
