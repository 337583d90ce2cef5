//! Who runs the embedded server: ourselves, or, because PostgreSQL refuses to run as root, somebody else.

use std::{fs, os::unix::fs::MetadataExt, path::Path, path::PathBuf};

use tokio::process::Command;

use super::error::{Doing, EmbeddedError};

/// Who runs the server.
#[derive(Clone, Debug)]
pub(super) enum Account {
    /// Whoever we are.
    Ourselves,
    /// Another one, since we are root.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    pub(super) fn of_the_server() -> Result<Self, EmbeddedError> {
        if !is_root() {
            return Ok(Self::Ourselves);
        }
        let passwd = Path::new("/etc/passwd");
        let text = fs::read_to_string(passwd).doing("read", passwd)?;
        ["postgres", "nobody"].iter().find_map(|name| find(&text, name)).ok_or(EmbeddedError::NobodyToRunAs)
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Ourselves => "of this process",
            Self::Other { name, .. } => name,
        }
    }

    /// Makes it the owner of a file or folder that we made.
    pub(super) fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid, .. } => {
                std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).doing("change the owner of", path)
            }
        }
    }

    pub(super) fn run_as(&self, command: &mut Command) {
        if let Self::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }
}

/// An entry of `/etc/passwd`: `name:password:uid:gid:…` (passwd(5)).
fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (found == name).then(|| Account::Other { name: name.to_owned(), uid, gid })
    })
}

/// Whether this process may become another user. The standard library has no `geteuid`; a process owns its own entry in /proc.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// Where servers' folders are.
pub(super) fn data_root() -> Result<PathBuf, EmbeddedError> {
    root_or_home("/var/lib/eventtrigger", "XDG_DATA_HOME", ".local/share")
}

/// Where downloads are.
pub(super) fn cache_root() -> Result<PathBuf, EmbeddedError> {
    root_or_home("/var/cache/eventtrigger", "XDG_CACHE_HOME", ".cache")
}

/// Folders as <https://specifications.freedesktop.org/basedir-spec> wants them; for root those of the system, because the
/// server's account cannot look into root's home.
fn root_or_home(root: &str, variable: &str, in_home: &str) -> Result<PathBuf, EmbeddedError> {
    if is_root() {
        return Ok(PathBuf::from(root));
    }
    let base = match std::env::var_os(variable).filter(|value| Path::new(value).is_absolute()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").ok_or(EmbeddedError::NoHome)?).join(in_home),
    };
    Ok(base.join("eventtrigger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgresql:x:7:7::/:\npostgres:x:101:104:a,b:/var/lib:/bin/sh\n";
        let Some(Account::Other { name, uid, gid }) = find(passwd, "postgres") else { panic!("not found") };
        assert_eq!((name.as_str(), uid, gid), ("postgres", 101, 104));
        assert!(find(passwd, "nobody").is_none());
    }
}
