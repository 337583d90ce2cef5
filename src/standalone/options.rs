//! What `run` and `plan` are told on the command line.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use clap::Args;
use url::Url;

use super::{
    embedded::{self, Major},
    manifests::{Settings, is_variable},
};
use crate::{
    delivery::{AddressOptions, TraceOptions},
    name::ObjectName,
};

/// Which manifests, and which database.
#[derive(Args, Clone, Debug)]
pub struct Input {
    /// Manifests: a file, a folder (its .yaml, .yml and .json files), or - for standard input. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,

    /// Namespace of manifests that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,

    /// Where a Service is that a manifest refers to, such as `billing.shop=http://127.0.0.1:8080`. May be repeated.
    #[arg(long = "service", value_name = "NAME.NAMESPACE=URL", value_parser = service)]
    pub services: Vec<(ObjectName, String)>,

    /// The database, such as `postgresql://app:secret@localhost/app`; used for every EventLog in place of its connection.
    /// Without it, an embedded PostgreSQL is downloaded and started.
    #[arg(long, env = "EVENTTRIGGER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// Major version of the embedded PostgreSQL: 14 to 18.
    #[arg(long = "postgres", value_name = "VERSION", default_value_t, conflicts_with = "database_url")]
    pub major: Major,

    /// Folder of the embedded PostgreSQL's data; made if it is missing. Default: /var/lib/eventtrigger/postgres-VERSION for
    /// root, else eventtrigger/postgres-VERSION in `$XDG_DATA_HOME` or ~/.local/share.
    #[arg(long, value_name = "FOLDER", conflicts_with = "database_url")]
    pub data_dir: Option<PathBuf>,

    /// Folder where the embedded PostgreSQL's programs are kept. Default: /var/cache/eventtrigger for root, else
    /// eventtrigger in `$XDG_CACHE_HOME` or ~/.cache.
    #[arg(long, value_name = "FOLDER", conflicts_with = "database_url")]
    pub cache_dir: Option<PathBuf>,
}

/// What `run` is told.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Manifests and database.
    #[command(flatten)]
    pub input: Input,

    /// End as soon as everything captured is delivered or given up: with 0 then, with 1 if an EventTrigger cannot get
    /// there until somebody changes something.
    #[arg(long)]
    pub until_idle: bool,

    /// Remove what earlier runs installed for EventTriggers that are in no manifest any more, with events that wait for them.
    #[arg(long)]
    pub prune: bool,

    /// Address to serve /livez, /readyz and /metrics at, such as 127.0.0.1:9090. Default: none.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Where events may be sent; loopback is allowed here.
    #[command(flatten)]
    pub addresses: AddressOptions,

    /// Where attempts are traced.
    #[command(flatten)]
    pub traces: TraceOptions,
}

/// What `plan` is told.
#[derive(Args, Clone, Debug)]
pub struct PlanOptions {
    /// Manifests and database.
    #[command(flatten)]
    pub input: Input,
}

/// What to do with EventTriggers that an earlier run installed and no manifest has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leftovers {
    /// They go on, and are mentioned.
    Keep,
    /// They are removed.
    Remove,
}

impl Input {
    /// For reading manifests, with the environment as it is.
    pub(super) fn settings(&self) -> Settings {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("EVENTTRIGGER_SECRET_") || is_variable(name))
            .collect();
        let services: BTreeMap<_, _> = self.services.iter().cloned().collect();
        Settings { namespace: self.namespace.clone(), services, environment }
    }

    pub(super) fn embedded(&self) -> embedded::Options {
        embedded::Options {
            major: self.major,
            data_dir: self.data_dir.clone(),
            cache_dir: self.cache_dir.clone(),
            settings: Vec::new(),
        }
    }
}

fn service(written: &str) -> Result<(ObjectName, String), String> {
    let form = "write it as NAME.NAMESPACE=URL, such as billing.shop=http://127.0.0.1:8080";
    let (target, url) = written.split_once('=').ok_or(form)?;
    // A Service's name has no dot (RFC 1035 label); what follows the namespace in a DNS name may be written, too.
    let target = target.strip_suffix(".svc.cluster.local").or_else(|| target.strip_suffix(".svc")).unwrap_or(target);
    let (name, namespace) = target.split_once('.').filter(|(_, namespace)| !namespace.contains('.')).ok_or(form)?;
    if name.is_empty() || namespace.is_empty() {
        return Err(form.to_owned());
    }
    let parsed = Url::parse(url).map_err(|error| format!("{url:?} is not a URL ({error}); {form}"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("{url:?} is neither http nor https; {form}"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("the URL holds a user or password; send them as a header from a Secret".to_owned());
    }
    Ok((ObjectName::new(namespace, name), url.to_owned()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("billing.shop=http://127.0.0.1:8080/x", Ok(("shop/billing", "http://127.0.0.1:8080/x")))]
    #[case("billing.shop.svc.cluster.local=http://a?b=c", Ok(("shop/billing", "http://a?b=c")))]
    #[case("billing=http://a", Err("NAME.NAMESPACE=URL"))]
    #[case("billing.shop", Err("NAME.NAMESPACE=URL"))]
    #[case(".shop=http://a", Err("NAME.NAMESPACE=URL"))]
    #[case("a.b.c=http://a", Err("NAME.NAMESPACE=URL"))]
    #[case("billing.shop=localhost:80", Err("neither http nor https"))]
    #[case("billing.shop=127.0.0.1", Err("not a URL"))]
    #[case("billing.shop=http://u:p@a", Err("holds a user or password"))]
    fn a_service_is_written_name_namespace_url(#[case] written: &str, #[case] expected: Result<(&str, &str), &str>) {
        match (service(written), expected) {
            (Ok((name, url)), Ok(expected)) => assert_eq!((name.to_string().as_str(), url.as_str()), expected),
            (Err(said), Err(part)) => assert!(said.contains(part) && !said.contains("u:p"), "{said}"),
            (found, _) => panic!("{found:?}"),
        }
    }
}
