//! What the operator is told on its command line.

use std::net::SocketAddr;

use crate::delivery::{AddressOptions, TraceOptions};

/// Options of `eventtrigger controller`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Image of the delivery workers. Default: that of this pod's container `controller`, as both are one binary.
    #[arg(long, env = "EVENTTRIGGER_DELIVERY_IMAGE")]
    pub delivery_image: Option<String>,

    /// Namespaces to look after, and no others: rights in each of them are enough then. Default: the whole cluster. May be
    /// repeated.
    #[arg(long, env = "EVENTTRIGGER_WATCH_NAMESPACES", value_name = "NAMESPACE", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Name of the Lease by which replicas agree on who works. Controllers of different namespaces need different ones.
    #[arg(long, env = "EVENTTRIGGER_LEASE_NAME", default_value = "eventtrigger-controller")]
    pub lease_name: String,

    /// Namespace of that Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,

    /// Name of this replica in the Lease and in Events; no two may share one.
    #[arg(long, env = "POD_NAME", default_value_t = format!("eventtrigger-controller-{:08x}", fastrand::u32(..)))]
    pub identity: String,

    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[arg(long, env = "EVENTTRIGGER_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where delivery workers may send events: a policy for the whole cluster.
    #[command(flatten)]
    pub addresses: AddressOptions,

    /// Where delivery workers trace attempts.
    #[command(flatten)]
    pub traces: TraceOptions,
}
