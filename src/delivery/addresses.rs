//! Which network addresses a worker may connect to. Pure.
//!
//! Whoever may write a sink's URL, or the DNS records of a name in it, has the worker connect for them. So every address
//! is checked, just before it is connected to, whether it was written or looked up.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use ipnet::IpNet;

/// Refused unless allowed: nothing there is a service of somebody else's.
const INTERNAL: [(&str, &str); 16] = [
    ("127.0.0.0/8", LOOPBACK),
    ("::1/128", LOOPBACK),
    ("0.0.0.0/8", "no host's address"),
    ("::/128", "no host's address"),
    ("169.254.0.0/16", "link-local, where clouds keep credentials"),
    ("fe80::/10", "link-local"),
    // Where clouds answer with credentials at other addresses: AWS, Google, Oracle, Alibaba, Azure.
    ("fd00:ec2::/32", METADATA),
    ("fd20:ce::/32", METADATA),
    ("192.0.0.192/32", METADATA),
    ("100.100.100.200/32", METADATA),
    ("168.63.129.16/32", METADATA),
    ("224.0.0.0/4", "multicast"),
    ("ff00::/8", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    // Only routers translate these, into addresses that nobody has checked.
    ("64:ff9b:1::/48", "translated to another address on its way"),
    ("2002::/16", "translated to another address on its way"),
];
const LOOPBACK: &str = "loopback: the worker itself";
const METADATA: &str = "a cloud's metadata service";

/// Networks that delivery may and may not connect to.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressOptions {
    /// Networks that events may be sent to although they are refused otherwise, such as 127.0.0.0/8. Of all that hold an
    /// address, the smallest network decides; of equal ones, the denied one. May be repeated.
    #[arg(long, env = "EVENTTRIGGER_ALLOW_ADDRESSES", value_name = "CIDR", value_delimiter = ',')]
    pub allow_addresses: Vec<IpNet>,

    /// Networks that events must not be sent to, such as 10.0.0.0/8, besides loopback, link-local and metadata addresses.
    /// To allow only some, deny `0.0.0.0/0` and `::/0`. May be repeated.
    #[arg(long, env = "EVENTTRIGGER_DENY_ADDRESSES", value_name = "CIDR", value_delimiter = ',')]
    pub deny_addresses: Vec<IpNet>,
}

impl AddressOptions {
    /// As the arguments of another process.
    pub fn arguments(&self) -> Vec<String> {
        let Self { allow_addresses, deny_addresses } = self;
        let allowed = allow_addresses.iter().map(|net| format!("--allow-addresses={net}"));
        allowed.chain(deny_addresses.iter().map(|net| format!("--deny-addresses={net}"))).collect()
    }
}

/// Who else runs where the worker does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Pods: a worker's loopback is its own, and nobody's sink.
    Cluster,
    /// The machine of whoever started it: sinks on loopback are what it is for.
    Local,
}

/// The addresses that may be connected to.
#[derive(Clone, Debug)]
pub struct Addresses(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    net: IpNet,
    verdict: Verdict,
}

#[derive(Clone, Debug)]
enum Verdict {
    Allowed,
    /// By an option.
    Denied,
    /// From the start, for this reason.
    Internal(&'static str),
}

/// An address that must not be connected to.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{address} must not be connected to: {net} {why}")]
pub(super) struct Refused {
    address: IpAddr,
    net: IpNet,
    why: String,
}

impl Addresses {
    /// The defaults of `place`, and over them `options`.
    pub fn new(place: Place, options: &AddressOptions) -> Self {
        let rule = |verdict: Verdict| move |net: &IpNet| Rule { net: *net, verdict: verdict.clone() };
        let internal = INTERNAL.iter().filter(|(_, why)| place == Place::Cluster || *why != LOOPBACK);
        let internal =
            internal.filter_map(|(net, why)| Some(Rule { net: net.parse().ok()?, verdict: Verdict::Internal(why) }));
        // The first of equal ones decides.
        let denied = options.deny_addresses.iter().map(rule(Verdict::Denied));
        let allowed = options.allow_addresses.iter().map(rule(Verdict::Allowed));
        Self(denied.chain(allowed).chain(internal).collect())
    }

    /// Whether `address` may be connected to.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let inner = embedded(address);
        let mut deciding: Option<&Rule> = None;
        for rule in self.0.iter().filter(|rule| rule.net.contains(&inner)) {
            if deciding.is_none_or(|found| rule.net.prefix_len() > found.net.prefix_len()) {
                deciding = Some(rule);
            }
        }
        let Some(Rule { net, verdict }) = deciding else { return Ok(()) };
        let why = match verdict {
            Verdict::Allowed => return Ok(()),
            Verdict::Denied => {
                "is denied by --deny-addresses; an administrator can allow a part of it by --allow-addresses".to_owned()
            }
            Verdict::Internal(why) => {
                format!(
                    "is {why}; correct the sink's address, or an administrator allows it by --allow-addresses={net}"
                )
            }
        };
        Err(Refused { address, net: *net, why })
    }
}

/// The address that is meant: an IPv4 one may stand in an IPv6 one (RFC 4291 §2.5.5.2, and RFC 6052 §2.1 for NAT64).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [a, b, 0, 0, 0, 0, high, low] if (a, b) == (0x64, 0xff9b) || ((a, b) == (0, 0) && high > 0) => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        _ => v6.to_canonical(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn allowed(place: Place, allow: &str, deny: &str, address: &str) -> bool {
        let options = AddressOptions { allow_addresses: nets(allow), deny_addresses: nets(deny) };
        Addresses::new(place, &options).check(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn every_default_is_a_network() {
        assert_eq!(Addresses::new(Place::Cluster, &AddressOptions::default()).0.len(), INTERNAL.len());
    }

    #[rstest]
    #[case("10.0.0.1", true)]
    #[case("192.168.1.1", true)]
    #[case("93.184.216.34", true)]
    #[case("fd00::1", true)]
    #[case("2606:2800:220::1", true)]
    #[case("64:ff9b::8.8.8.8", true)]
    #[case("127.0.0.1", false)]
    #[case("127.8.9.1", false)]
    #[case("::1", false)]
    #[case("0.0.0.0", false)]
    #[case("::", false)]
    #[case("169.254.169.254", false)]
    #[case("fe80::1", false)]
    #[case("fd00:ec2::254", false)]
    #[case("224.0.0.1", false)]
    #[case::in_ipv6("::ffff:127.0.0.1", false)]
    #[case::in_ipv6("::ffff:169.254.169.254", false)]
    #[case::in_ipv6("::127.0.0.1", false)]
    #[case::by_nat64("64:ff9b::169.254.169.254", false)]
    #[case::by_nat64("64:ff9b:1::a9fe:a9fe", false)]
    #[case::by_6to4("2002:7f00:1::", false)]
    fn in_a_cluster_what_is_nobodys_service_is_refused(#[case] address: &str, #[case] expected: bool) {
        assert_eq!(allowed(Place::Cluster, "", "", address), expected);
    }

    #[rstest]
    #[case("127.0.0.1", true)]
    #[case("::1", true)]
    #[case("169.254.169.254", false)]
    #[case("0.0.0.0", false)]
    fn on_ones_own_machine_loopback_is_what_it_is_for(#[case] address: &str, #[case] expected: bool) {
        assert_eq!(allowed(Place::Local, "", "", address), expected);
    }

    #[rstest]
    #[case("127.0.0.0/8", "", "127.0.0.1", true)]
    #[case("0.0.0.0/0", "", "127.0.0.1", false)]
    #[case("", "10.0.0.0/8", "10.1.2.3", false)]
    #[case("10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", true)]
    #[case("10.1.0.0/16", "10.0.0.0/8", "10.2.2.3", false)]
    #[case("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", false)]
    #[case("10.0.0.0/8", "10.0.0.0/8", "10.1.2.3", false)]
    #[case("10.0.0.0/8", "0.0.0.0/0 ::/0", "8.8.8.8", false)]
    #[case("10.0.0.0/8", "0.0.0.0/0 ::/0", "::ffff:10.0.0.1", true)]
    #[case("127.0.0.0/8", "127.0.0.0/8", "127.0.0.1", false)]
    fn the_smallest_network_decides(
        #[case] allow: &str,
        #[case] deny: &str,
        #[case] address: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(allowed(Place::Cluster, allow, deny, address), expected);
    }

    #[test]
    fn a_refusal_names_address_rule_and_remedy() {
        let options = AddressOptions { deny_addresses: nets("10.0.0.0/8"), ..AddressOptions::default() };
        let addresses = Addresses::new(Place::Cluster, &options);
        let said = |address: &str| addresses.check(address.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            said("169.254.169.254"),
            "169.254.169.254 must not be connected to: 169.254.0.0/16 is link-local, where clouds keep credentials; \
             correct the sink's address, or an administrator allows it by --allow-addresses=169.254.0.0/16"
        );
        assert_eq!(
            said("10.0.0.1"),
            "10.0.0.1 must not be connected to: 10.0.0.0/8 is denied by --deny-addresses; an administrator can allow a part \
             of it by --allow-addresses"
        );
    }
}
