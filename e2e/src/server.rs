//! A PostgreSQL of its own, in a folder that goes with it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use eventtrigger::{
    log::ConnectConfig,
    standalone::embedded::{Embedded, Options},
};
use tempfile::TempDir;

/// A server that nobody else uses.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    embedded: Embedded,
}

impl Server {
    /// Downloads PostgreSQL if this machine never did, and starts it on a database without tables.
    pub async fn start() -> Result<Self> {
        // PostgreSQL does not run as root: whoever it runs as must be able to pass through.
        let passable = std::fs::Permissions::from_mode(0o711);
        let folder = tempfile::Builder::new().prefix("eventtrigger-").permissions(passable).tempdir();
        let folder = folder.context("failed to make a folder")?;
        let options = Options { data_dir: Some(data(folder.path())), ..Options::default() };
        let embedded = Embedded::start(options).await.context("failed to start PostgreSQL")?;
        Ok(Self { folder, embedded })
    }

    /// Its folder, as `eventtrigger run --data-dir` takes it.
    pub fn data(&self) -> PathBuf {
        data(self.folder.path())
    }

    /// A folder for other files, which goes with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How to log in as the owner of the database, who is no superuser.
    pub fn config(&self) -> tokio_postgres::Config {
        plain(&self.embedded.config())
    }

    /// How to log in as the superuser.
    pub fn superuser_config(&self) -> tokio_postgres::Config {
        plain(&self.embedded.superuser_config())
    }

    /// Stops it, and removes its folder.
    pub async fn stop(self) -> Result<()> {
        self.embedded.stop().await.context("failed to stop PostgreSQL")?;
        self.folder.close().context("failed to remove PostgreSQL's folder")
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("postgres")
}

/// The driver's form of a configuration without TLS.
fn plain(config: &ConnectConfig) -> tokio_postgres::Config {
    let mut plain = tokio_postgres::Config::new();
    plain.host(&config.host).port(config.port).user(&config.user).dbname(&config.dbname);
    plain.password(config.password.as_deref().unwrap_or_default());
    plain
}
