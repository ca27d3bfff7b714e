//! The operator's policy, refused unless it is free of contradictions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloakway_types::{PrefixMap, PrefixSet};
use ipnet::IpNet;

use crate::meter::{LimitError, Limits, Metering};
use crate::routes::OwnTable;

mod check;
mod live;
mod problem;
mod service;
mod ways;

use crate::made::Tunnel;
use check::{Disjoint, at, links, private_prefix, served, subscriber_interfaces, subscriber_prefixes};
pub use problem::{Place, PolicyError, Problem};
pub(crate) use service::name_of;
pub use service::{Service, ServiceError};
pub use ways::{MAX_WAYS, Way};

/// A policy as it was written down, nothing checked.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// The private links.
    pub links: Vec<SpecLink>,
    /// The private prefixes.
    pub prefixes: Vec<SpecPrefix>,
    /// The subscribers' prefixes, of both families.
    pub subscriber_prefixes: Vec<IpNet>,
    /// The interfaces by which subscribers' packets arrive.
    pub subscriber_interfaces: Vec<String>,
    /// For each feed of live subscriber prefixes, what its prefixes lie within.
    pub live: Vec<Vec<IpNet>>,
}

/// One private link as written down.
#[derive(Debug, Clone)]
pub struct SpecLink {
    /// The name that prefixes refer to.
    pub name: String,
    /// The kernel's interface.
    pub interface: String,
}

/// One private prefix as written down.
#[derive(Debug, Clone)]
pub struct SpecPrefix {
    /// The private network addresses.
    pub prefix: IpNet,
    /// The names of the links that they are reached by, the best first.
    pub links: Vec<String>,
    /// Whether all healthy links are used at once; else the first healthy one is.
    pub spread: bool,
    /// The router on every one of the links; without one the addresses are on the links themselves.
    pub next_hop: Option<IpAddr>,
    /// The router by the name of its link, where they differ.
    pub next_hops: BTreeMap<String, IpAddr>,
    /// The address whose ARP or ND answers are the heartbeat, where it is not clear.
    pub probe: Option<IpAddr>,
    /// What subscribers may use of it, as written; everything when there is none.
    pub services: Vec<String>,
    /// The DSCP that its packets get, 0 to 63; without one they keep theirs.
    pub dscp: Option<u8>,
}

impl SpecPrefix {
    /// A prefix whose addresses are on the one link, each its own heartbeat.
    #[must_use]
    pub fn new(prefix: IpNet, link: &str) -> Self {
        let (links, next_hops) = (vec![link.to_owned()], BTreeMap::new());
        Self { prefix, links, spread: false, next_hop: None, next_hops, probe: None, services: Vec::new(), dscp: None }
    }
}

/// The index of a link in [`Policy::links`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(crate) usize);

/// A private link: the interface behind which private network addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name in the configuration.
    pub name: String,
    /// The kernel's interface.
    pub interface: String,
}

/// A private prefix and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivatePrefix {
    /// The private network addresses.
    pub prefix: IpNet,
    /// The ways there, the best first; never none.
    pub ways: Vec<Way>,
    /// Whether all healthy ways are used at once; else the first healthy one is.
    pub spread: bool,
    /// What subscribers may use of it; everything when there is none.
    pub services: Vec<Service>,
    /// The DSCP that its packets get in both directions; without one they keep theirs (RFC 2474).
    pub dscp: Option<u8>,
}

/// A policy without contradictions. What it holds never changes.
#[derive(Debug, Clone)]
pub struct Policy {
    links: Vec<Link>,
    prefixes: Vec<PrivatePrefix>,
    /// Indexes into `prefixes`.
    private: PrefixMap<usize>,
    /// As configured.
    configured: Vec<IpNet>,
    /// With those that are live.
    subscriber_prefixes: Vec<IpNet>,
    subscribers: PrefixSet,
    subscriber_interfaces: Vec<String>,
    in_user_space: bool,
    limits: Limits,
    metering: Metering,
    tunnels: Vec<Tunnel>,
    clamps_mss: bool,
    only_attended: bool,
    own_table: Option<OwnTable>,
}

impl Policy {
    /// The policy in `spec`.
    ///
    /// # Errors
    /// [`PolicyError`] names the first contradiction and its place.
    pub fn new(spec: Spec) -> Result<Self, PolicyError> {
        let links = links(&spec.links)?;
        let subscriber_interfaces = subscriber_interfaces(&spec.subscriber_interfaces, &links)?;
        let served = served(&spec.live)?;
        let (subscriber_prefixes, apart) = subscriber_prefixes(&spec.subscriber_prefixes, !spec.live.is_empty())?;
        let [v4, v6] = [true, false]
            .map(|v4| served.iter().chain(&subscriber_prefixes).any(|prefix| prefix.addr().is_ipv4() == v4));
        let mut prefixes: Vec<PrivatePrefix> = Vec::with_capacity(spec.prefixes.len());
        let mut before = Disjoint::default();
        for (index, entry) in spec.prefixes.into_iter().enumerate() {
            let prefix = private_prefix(index, entry, &links, ([v4, v6], &apart), &before)?;
            before.add(prefix.prefix);
            prefixes.push(prefix);
        }
        if prefixes.is_empty() {
            return Err(at(Place::Prefixes, Problem::Empty { what: "private prefix" }));
        }
        Ok(Self {
            private: prefixes.iter().enumerate().map(|(index, entry)| (entry.prefix, index)).collect(),
            subscribers: subscriber_prefixes.iter().copied().collect(),
            links,
            prefixes,
            configured: subscriber_prefixes.clone(),
            subscriber_prefixes,
            subscriber_interfaces,
            in_user_space: false,
            limits: Limits::default(),
            metering: Metering::None,
            tunnels: Vec::new(),
            clamps_mss: false,
            only_attended: false,
            own_table: None,
        })
    }

    /// The same policy, with the kernel's routes in a table of their own.
    #[must_use]
    pub fn in_table(self, table: OwnTable) -> Self {
        Self { own_table: Some(table), ..self }
    }

    /// That table; `None` for the main one.
    #[must_use]
    pub const fn own_table(&self) -> Option<OwnTable> {
        self.own_table
    }

    /// The same policy, which tells both ends of a TCP connection to send no more at once than fits the way there and back:
    /// for networks that drop the ICMP errors by which they would learn it.
    #[must_use]
    pub fn clamping_mss(self) -> Self {
        Self { clamps_mss: true, ..self }
    }

    /// Whether it does.
    #[must_use]
    pub const fn clamps_mss(&self) -> bool {
        self.clamps_mss
    }

    /// The same policy, of which nothing passes while no forwarder is running.
    #[must_use]
    pub fn only_attended(self) -> Self {
        Self { only_attended: true, ..self }
    }

    /// Whether nothing passes then.
    #[must_use]
    pub const fn is_only_attended(&self) -> bool {
        self.only_attended
    }

    /// The same with limits, and who counts.
    ///
    /// # Errors
    /// [`LimitError`], and its field below `limits`.
    pub fn with_limits(mut self, limits: Limits, metering: Metering) -> Result<Self, (String, LimitError)> {
        limits.check(&self)?;
        (self.limits, self.metering) = (limits, metering);
        Ok(self)
    }

    /// What each source and private prefix may use.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who counts what they use.
    #[must_use]
    pub fn metering(&self) -> Metering {
        self.metering
    }

    /// The same policy, whose links go by these tunnels: what is in them leaves by their underlays and by nothing else. The
    /// kernel binds a tunnel to an interface, and sends it by another one all the same when IPv6's route there is gone.
    #[must_use]
    pub fn by_tunnels(self, tunnels: Vec<Tunnel>) -> Self {
        Self { tunnels, ..self }
    }

    /// The tunnels of its links.
    #[must_use]
    pub fn tunnels(&self) -> &[Tunnel] {
        &self.tunnels
    }

    /// The same policy, carried out by the user data plane: the kernel forwards nothing of it, since the raw sockets have
    /// copies.
    #[must_use]
    pub fn in_user_space(self) -> Self {
        Self { in_user_space: true, ..self }
    }

    /// The same policy, carried out by the kernel.
    #[must_use]
    pub fn in_kernel(self) -> Self {
        Self { in_user_space: false, ..self }
    }

    /// Whether the user data plane carries it out.
    #[must_use]
    pub const fn is_in_user_space(&self) -> bool {
        self.in_user_space
    }

    /// The private links.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The private prefixes; no two of them overlap.
    #[must_use]
    pub fn prefixes(&self) -> &[PrivatePrefix] {
        &self.prefixes
    }

    /// The subscribers' prefixes.
    #[must_use]
    pub fn subscriber_prefixes(&self) -> &[IpNet] {
        &self.subscriber_prefixes
    }

    /// The interfaces by which subscribers' packets arrive.
    #[must_use]
    pub fn subscriber_interfaces(&self) -> &[String] {
        &self.subscriber_interfaces
    }

    /// The interface of `link`.
    #[must_use]
    pub fn interface(&self, link: LinkId) -> &str {
        self.links.get(link.0).map_or("", |link| &link.interface)
    }

    /// The link whose interface this is.
    #[must_use]
    pub fn link_of(&self, interface: &str) -> Option<LinkId> {
        self.links.iter().position(|link| link.interface == interface).map(LinkId)
    }

    /// The name of `link`.
    #[must_use]
    pub fn link_name(&self, link: LinkId) -> &str {
        self.links.get(link.0).map_or("", |link| &link.name)
    }

    /// The private prefix that `address` is in.
    #[must_use]
    pub fn private_prefix(&self, address: IpAddr) -> Option<&PrivatePrefix> {
        self.private.lookup(plain(address)?).and_then(|(_, index)| self.prefixes.get(*index))
    }

    /// Whether `address` is a subscriber's.
    #[must_use]
    pub fn is_subscriber(&self, address: IpAddr) -> bool {
        plain(address).is_some_and(|address| self.subscribers.contains(address))
    }

    /// Whether subscribers' packets arrive by `interface`.
    #[must_use]
    pub fn faces_subscribers(&self, interface: &str) -> bool {
        self.subscriber_interfaces.iter().any(|name| name == interface)
    }
}

/// An IPv4 address that is written as IPv6 is nobody's in a packet; the look-up would take it for the IPv4 address.
fn plain(address: IpAddr) -> Option<IpAddr> {
    (address.to_canonical() == address).then_some(address)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The policy of the example configuration.
    pub(crate) fn example() -> Spec {
        let prefix = |prefix: &str| SpecPrefix::new(prefix.parse().unwrap(), "main");
        Spec {
            links: vec![SpecLink { name: "main".into(), interface: "priv0".into() }],
            prefixes: vec![prefix("203.0.113.200/32"), prefix("2001:db8:c10a::200/128")],
            subscriber_prefixes: ["198.51.100.64/26", "2001:db8:5100:64::/64"].map(|p| p.parse().unwrap()).to_vec(),
            subscriber_interfaces: vec!["edge0".into()],
            live: Vec::new(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Spec)) -> String {
        let mut spec = example();
        change(&mut spec);
        let error = Policy::new(spec).unwrap_err();
        format!("{}: {error}", error.place)
    }

    #[test]
    fn the_example_is_a_policy_and_each_address_is_its_own_heartbeat() {
        let policy = Policy::new(example()).unwrap();
        assert_eq!(policy.prefixes()[0].ways[0].probe, "203.0.113.200".parse::<IpAddr>().unwrap());
        assert_eq!(policy.interface(policy.prefixes()[1].ways[0].link), "priv0");
    }

    #[test]
    fn overlaps_are_refused_whichever_way_round() {
        let prefix = |text: &'static str| move |spec: &mut Spec| spec.prefixes[0].prefix = text.parse().unwrap();
        assert_eq!(
            refusal(prefix("198.51.100.70/32")),
            "private-prefixes[0].prefix: 198.51.100.70/32 overlaps subscriber prefix 198.51.100.64/26"
        );
        assert_eq!(
            refusal(prefix("198.51.100.0/24")),
            "private-prefixes[0].prefix: 198.51.100.0/24 overlaps subscriber prefix 198.51.100.64/26"
        );
        assert_eq!(
            refusal(|spec| spec.prefixes[1].prefix = "203.0.113.200/32".parse().unwrap()),
            "private-prefixes[1].prefix: 203.0.113.200/32 overlaps private prefix 203.0.113.200/32"
        );
        assert_eq!(
            refusal(|spec| spec.subscriber_prefixes.push("198.51.100.64/27".parse().unwrap())),
            "subscribers.prefixes[2]: 198.51.100.64/27 overlaps subscriber prefix 198.51.100.64/26"
        );
    }

    #[test]
    fn what_is_no_ordinary_unicast_is_refused() {
        for (text, is) in [
            ("0.0.0.0/0", "the default route"),
            ("::/0", "the default route"),
            ("224.0.0.0/24", "multicast (RFC 5771)"),
            ("0.0.0.0/1", "\"this network\" (RFC 791)"),
            ("255.255.255.255/32", "reserved or broadcast (RFC 1112)"),
            ("127.0.0.1/32", "loopback (RFC 1122)"),
            ("ff02::/16", "multicast (RFC 4291)"),
            ("fe80::1/128", "link-local (RFC 4291)"),
            ("::ffff:203.0.113.200/128", "IPv4-mapped (RFC 4291): write it as IPv4"),
        ] {
            let expected = format!(
                "private-prefixes[0].prefix: {} is {is}: an ordinary unicast prefix is needed",
                text.parse::<IpNet>().unwrap()
            );
            assert_eq!(refusal(|spec| spec.prefixes[0].prefix = text.parse().unwrap()), expected);
            assert!(refusal(|spec| spec.subscriber_prefixes[0] = text.parse().unwrap()).contains(is));
        }
        assert_eq!(
            refusal(|spec| spec.prefixes[0].prefix = "203.0.113.200/24".parse().unwrap()),
            "private-prefixes[0].prefix: 203.0.113.200/24 has host bits set: 203.0.113.0/24 is the prefix"
        );
    }

    #[test]
    fn links_and_interfaces_must_exist_once_and_on_one_side() {
        assert_eq!(
            refusal(|spec| spec.prefixes[0].links = vec!["spare".into()]),
            "private-prefixes[0].link: no link is called \"spare\": there is main"
        );
        assert_eq!(
            refusal(|spec| spec.subscriber_interfaces.push("priv0".into())),
            "subscribers.interfaces[1]: interface priv0 is a private link: subscribers face another one"
        );
        assert_eq!(
            refusal(|spec| spec.links.push(SpecLink { name: "main".into(), interface: "priv1".into() })),
            "links[1].name: link main is listed twice"
        );
        assert_eq!(
            refusal(|spec| spec.links.push(SpecLink { name: "second".into(), interface: "priv0".into() })),
            "links[1].interface: interface priv0 is listed twice"
        );
        for bad in ["", "lo", "a b", "\"; flush ruleset; \"", "sixteen-letters-", "../x", "priv*"] {
            assert!(refusal(|spec| spec.links[0].interface = bad.into()).contains("is no interface name"), "{bad}");
            assert!(refusal(|spec| spec.subscriber_interfaces[0] = bad.into()).contains("is no interface name"));
        }
        assert!(refusal(|spec| spec.links[0].name = "Main".into()).contains("is no link name"));
    }

    #[test]
    fn every_list_needs_an_entry_and_every_family_somebody_to_serve() {
        assert!(refusal(|spec| spec.links.clear()).starts_with("links: nothing is listed"));
        assert!(refusal(|spec| spec.prefixes.clear()).starts_with("private-prefixes: nothing"));
        assert!(refusal(|spec| spec.subscriber_prefixes.clear()).starts_with("subscribers.prefixes: nothing"));
        assert!(refusal(|spec| spec.subscriber_interfaces.clear()).starts_with("subscribers.interfaces: nothing"));
        assert_eq!(
            refusal(|spec| spec.subscriber_prefixes.truncate(1)),
            "private-prefixes[1].prefix: 2001:db8:c10a::200/128 is IPv6 and no subscriber prefix is: \
             add one, or leave the private prefix out"
        );
    }

    #[test]
    fn services_are_protocols_and_ports_each_once() {
        let services = |list: &'static [&str]| {
            move |spec: &mut Spec| spec.prefixes[1].services = list.iter().map(ToString::to_string).collect()
        };
        let mut spec = example();
        services(&["tcp/443", "udp/5000-5100", "icmp"])(&mut spec);
        let policy = Policy::new(spec).unwrap();
        let written: Vec<_> = policy.prefixes()[1].services.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["tcp/443", "udp/5000-5100", "ipv6-icmp"]);
        assert!(
            refusal(services(&["tcp/443", "tcp/0x1bb"]))
                .starts_with("private-prefixes[1].services[1]: \"0x1bb\" is no port")
        );
        assert_eq!(
            refusal(services(&["tcp/1-1000", "tcp/443"])),
            "private-prefixes[1].services[1]: tcp/443 is in tcp/1-1000 already"
        );
    }

    #[test]
    fn a_next_hop_or_probe_must_be_a_neighbour_that_can_answer() {
        let hop = |text: &'static str| move |spec: &mut Spec| spec.prefixes[0].next_hop = Some(text.parse().unwrap());
        assert!(refusal(hop("2001:db8::1")).contains("are of different IP versions"));
        assert!(refusal(hop("224.0.0.1")).contains("it is multicast"));
        assert!(refusal(hop("0.0.0.0")).contains("it is unspecified"));
        assert!(refusal(hop("198.51.100.65")).contains("overlaps subscriber prefix"));
        assert!(
            refusal(|spec| {
                spec.prefixes[0].next_hop = Some("192.0.2.250".parse().unwrap());
                spec.prefixes[0].probe = Some("203.0.113.200".parse().unwrap());
            })
            .starts_with("private-prefixes[0].probe: 203.0.113.200 is not probed")
        );
        let wide = |spec: &mut Spec| spec.prefixes[0].prefix = "203.0.113.192/27".parse().unwrap();
        assert!(refusal(wide).contains("203.0.113.192/27 has many addresses"));
        assert!(
            refusal(|spec| {
                wide(spec);
                spec.prefixes[0].probe = Some("203.0.113.100".parse().unwrap());
            })
            .contains("203.0.113.100 is outside 203.0.113.192/27")
        );
        let mut spec = example();
        wide(&mut spec);
        spec.prefixes[0].probe = Some("203.0.113.200".parse().unwrap());
        assert!(Policy::new(spec).is_ok());
    }
}
