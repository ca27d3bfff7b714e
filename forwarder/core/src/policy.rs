//! The operator's policy, refused unless it is free of contradictions.

use std::fmt;
use std::net::IpAddr;

use cloakway_types::{PrefixMap, PrefixSet};
use ipnet::IpNet;

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
    /// The name of the link that they are reached by.
    pub link: String,
    /// The router on the link; without one the addresses are on the link itself.
    pub next_hop: Option<IpAddr>,
    /// The address whose ARP or ND answers are the heartbeat, where it is not clear.
    pub probe: Option<IpAddr>,
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
    /// The link that they are reached by.
    pub link: LinkId,
    /// The router on the link; `None` when the addresses are on the link itself.
    pub next_hop: Option<IpAddr>,
    /// The neighbour on the link whose ARP or ND answers are the heartbeat of the prefix.
    pub probe: IpAddr,
}

/// A policy without contradictions. What it holds never changes.
#[derive(Debug, Clone)]
pub struct Policy {
    links: Vec<Link>,
    prefixes: Vec<PrivatePrefix>,
    private: PrefixMap<LinkId>,
    subscriber_prefixes: Vec<IpNet>,
    subscribers: PrefixSet,
    subscriber_interfaces: Vec<String>,
}

/// Where in the [`Spec`] a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The list of links as a whole.
    Links,
    /// The name of the link with this index.
    LinkName(usize),
    /// The interface of the link with this index.
    LinkInterface(usize),
    /// The list of private prefixes as a whole.
    Prefixes,
    /// The prefix of the private prefix with this index.
    Prefix(usize),
    /// The link of the private prefix with this index.
    PrefixLink(usize),
    /// The next hop of the private prefix with this index.
    NextHop(usize),
    /// The probe of the private prefix with this index.
    Probe(usize),
    /// The list of subscriber prefixes as a whole.
    SubscriberPrefixes,
    /// The subscriber prefix with this index.
    SubscriberPrefix(usize),
    /// The list of subscriber-facing interfaces as a whole.
    SubscriberInterfaces,
    /// The subscriber-facing interface with this index.
    SubscriberInterface(usize),
}

/// Why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PolicyError {
    /// Where the problem is.
    pub place: Place,
    /// What it is.
    pub problem: Problem,
}

/// What is wrong with a policy, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A list needs an entry.
    #[error("nothing is listed: at least one {what} is needed")]
    Empty {
        /// What the list is of.
        what: &'static str,
    },
    /// Not usable as the name of a link.
    #[error("{name:?} is no link name: 1 to 24 of a-z, 0-9 and '-', beginning with a letter")]
    LinkName {
        /// As written.
        name: String,
    },
    /// Not usable as the name of an interface.
    #[error("{name:?} is no interface name: 1 to 15 of letters, digits, '.', '_' and '-'; not lo")]
    InterfaceName {
        /// As written.
        name: String,
    },
    /// Something stands twice.
    #[error("{what} is listed twice")]
    Twice {
        /// What stands twice.
        what: String,
    },
    /// One interface on both sides.
    #[error("interface {interface} is a private link: subscribers face another one")]
    BothSides {
        /// The interface.
        interface: String,
    },
    /// A link that is not there.
    #[error("no link is called {link:?}: {known}")]
    UnknownLink {
        /// As written.
        link: String,
        /// The links that there are.
        known: String,
    },
    /// Bits are set behind the prefix length.
    #[error("{prefix} has host bits set: {} is the prefix", prefix.trunc())]
    HostBits {
        /// As written.
        prefix: IpNet,
    },
    /// The prefix overlaps a block that is no ordinary unicast.
    #[error("{prefix} is {is}: an ordinary unicast prefix is needed")]
    NotUnicast {
        /// As written.
        prefix: IpNet,
        /// What it overlaps.
        is: &'static str,
    },
    /// Two prefixes that must be apart are not.
    #[error("{prefix} overlaps {kind} {other}")]
    Overlap {
        /// As written.
        prefix: IpNet,
        /// What the other one is.
        kind: &'static str,
        /// The other one.
        other: IpNet,
    },
    /// Nobody could ever use the prefix.
    #[error("{prefix} is {family} and no subscriber prefix is: add one, or leave the private prefix out")]
    NobodyToServe {
        /// The private prefix.
        prefix: IpNet,
        /// IPv4 or IPv6.
        family: &'static str,
    },
    /// Addresses of different families.
    #[error("{address} and {prefix} are of different IP versions")]
    MixedFamilies {
        /// The next hop or probe.
        address: IpAddr,
        /// The prefix.
        prefix: IpNet,
    },
    /// An address that no neighbour can have.
    #[error("{address} is no address of a neighbour: {why}")]
    NoNeighbour {
        /// As written.
        address: IpAddr,
        /// What it is instead.
        why: &'static str,
    },
    /// A probe beside a next hop.
    #[error("{address} is not probed: behind a next hop, ARP and ND see the next hop only; leave the probe out")]
    ProbeBehindNextHop {
        /// As written.
        address: IpAddr,
    },
    /// A probe outside its prefix.
    #[error("{address} is outside {prefix}: probe an address of the prefix")]
    ProbeOutside {
        /// As written.
        address: IpAddr,
        /// The prefix.
        prefix: IpNet,
    },
    /// A wide prefix whose heartbeat is not clear.
    #[error("{prefix} has many addresses: say with `probe` which one gives the heartbeat, or give a next hop")]
    ProbeMissing {
        /// The prefix.
        prefix: IpNet,
    },
}

impl Policy {
    /// The policy in `spec`.
    ///
    /// # Errors
    /// [`PolicyError`] names the first contradiction and its place.
    pub fn new(spec: Spec) -> Result<Self, PolicyError> {
        let links = links(&spec.links)?;
        let subscriber_interfaces = subscriber_interfaces(&spec.subscriber_interfaces, &links)?;
        let subscriber_prefixes = subscriber_prefixes(&spec.subscriber_prefixes)?;
        let mut prefixes: Vec<PrivatePrefix> = Vec::with_capacity(spec.prefixes.len());
        for (index, entry) in spec.prefixes.into_iter().enumerate() {
            let prefix = private_prefix(index, entry, &links, &subscriber_prefixes, &prefixes)?;
            prefixes.push(prefix);
        }
        if prefixes.is_empty() {
            return Err(at(Place::Prefixes, Problem::Empty { what: "private prefix" }));
        }
        Ok(Self {
            private: prefixes.iter().map(|entry| (entry.prefix, entry.link)).collect(),
            subscribers: subscriber_prefixes.iter().copied().collect(),
            links,
            prefixes,
            subscriber_prefixes,
            subscriber_interfaces,
        })
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

    /// The link behind which `address` is, when it is a private network address.
    #[must_use]
    pub fn private_link(&self, address: IpAddr) -> Option<LinkId> {
        self.private.lookup(address).map(|(_, link)| *link)
    }

    /// Whether `address` is a subscriber's.
    #[must_use]
    pub fn is_subscriber(&self, address: IpAddr) -> bool {
        self.subscribers.contains(address)
    }

    /// Whether subscribers' packets arrive by `interface`.
    #[must_use]
    pub fn faces_subscribers(&self, interface: &str) -> bool {
        self.subscriber_interfaces.iter().any(|name| name == interface)
    }
}

fn at(place: Place, problem: Problem) -> PolicyError {
    PolicyError { place, problem }
}

fn links(spec: &[SpecLink]) -> Result<Vec<Link>, PolicyError> {
    let mut links: Vec<Link> = Vec::with_capacity(spec.len());
    for (index, SpecLink { name, interface }) in spec.iter().enumerate() {
        if !is_link_name(name) {
            return Err(at(Place::LinkName(index), Problem::LinkName { name: name.clone() }));
        }
        if links.iter().any(|link| link.name == *name) {
            return Err(at(Place::LinkName(index), Problem::Twice { what: format!("link {name}") }));
        }
        let place = Place::LinkInterface(index);
        check_interface(place, interface)?;
        if links.iter().any(|link| link.interface == *interface) {
            return Err(at(place, Problem::Twice { what: format!("interface {interface}") }));
        }
        links.push(Link { name: name.clone(), interface: interface.clone() });
    }
    if links.is_empty() {
        return Err(at(Place::Links, Problem::Empty { what: "private link" }));
    }
    Ok(links)
}

fn subscriber_interfaces(spec: &[String], links: &[Link]) -> Result<Vec<String>, PolicyError> {
    let mut names: Vec<String> = Vec::with_capacity(spec.len());
    for (index, name) in spec.iter().enumerate() {
        let place = Place::SubscriberInterface(index);
        check_interface(place, name)?;
        if names.contains(name) {
            return Err(at(place, Problem::Twice { what: format!("interface {name}") }));
        }
        if links.iter().any(|link| link.interface == *name) {
            return Err(at(place, Problem::BothSides { interface: name.clone() }));
        }
        names.push(name.clone());
    }
    if names.is_empty() {
        return Err(at(Place::SubscriberInterfaces, Problem::Empty { what: "subscriber-facing interface" }));
    }
    Ok(names)
}

fn subscriber_prefixes(spec: &[IpNet]) -> Result<Vec<IpNet>, PolicyError> {
    let mut prefixes: Vec<IpNet> = Vec::with_capacity(spec.len());
    for (index, prefix) in spec.iter().enumerate() {
        let place = Place::SubscriberPrefix(index);
        check_unicast(place, *prefix)?;
        check_apart(place, *prefix, "subscriber prefix", prefixes.iter().copied())?;
        prefixes.push(*prefix);
    }
    if prefixes.is_empty() {
        return Err(at(Place::SubscriberPrefixes, Problem::Empty { what: "subscriber prefix" }));
    }
    Ok(prefixes)
}

fn private_prefix(
    index: usize,
    entry: SpecPrefix,
    links: &[Link],
    subscribers: &[IpNet],
    before: &[PrivatePrefix],
) -> Result<PrivatePrefix, PolicyError> {
    let SpecPrefix { prefix, link, next_hop, probe } = entry;
    let place = Place::Prefix(index);
    check_unicast(place, prefix)?;
    check_apart(place, prefix, "subscriber prefix", subscribers.iter().copied())?;
    check_apart(place, prefix, "private prefix", before.iter().map(|entry| entry.prefix))?;
    if !subscribers.iter().any(|subscriber| subscriber.addr().is_ipv4() == prefix.addr().is_ipv4()) {
        let family = if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(at(place, Problem::NobodyToServe { prefix, family }));
    }
    let Some(link_index) = links.iter().position(|known| known.name == link) else {
        let known = links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(at(Place::PrefixLink(index), Problem::UnknownLink { link, known: format!("there is {known}") }));
    };
    if let Some(address) = next_hop {
        check_neighbour(Place::NextHop(index), address, prefix)?;
        if let Some(other) = subscribers.iter().find(|subscriber| subscriber.contains(&address)) {
            let problem = Problem::Overlap { prefix: address.into(), kind: "subscriber prefix", other: *other };
            return Err(at(Place::NextHop(index), problem));
        }
    }
    let probe_place = Place::Probe(index);
    let probe = match (next_hop, probe) {
        (Some(_), Some(address)) => return Err(at(probe_place, Problem::ProbeBehindNextHop { address })),
        (Some(next_hop), None) => next_hop,
        (None, Some(address)) => {
            check_neighbour(probe_place, address, prefix)?;
            if !prefix.contains(&address) {
                return Err(at(probe_place, Problem::ProbeOutside { address, prefix }));
            }
            address
        }
        (None, None) if prefix.prefix_len() == prefix.max_prefix_len() => prefix.addr(),
        (None, None) => return Err(at(probe_place, Problem::ProbeMissing { prefix })),
    };
    Ok(PrivatePrefix { prefix, link: LinkId(link_index), next_hop, probe })
}

fn is_link_name(name: &str) -> bool {
    name.len() <= 24
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

// Narrower than the kernel, which takes quotes and '*' too: the name goes into the ruleset as it is.
fn check_interface(place: Place, name: &str) -> Result<(), PolicyError> {
    let usable = (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "lo")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if usable { Ok(()) } else { Err(at(place, Problem::InterfaceName { name: name.to_owned() })) }
}

fn check_apart(
    place: Place,
    prefix: IpNet,
    kind: &'static str,
    others: impl IntoIterator<Item = IpNet>,
) -> Result<(), PolicyError> {
    match others.into_iter().find(|other| overlap(*other, prefix)) {
        Some(other) => Err(at(place, Problem::Overlap { prefix, kind, other })),
        None => Ok(()),
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

const SPECIAL: [(&str, &str); 14] = [
    ("0.0.0.0/8", "\"this network\" (RFC 791)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved or broadcast (RFC 1112)"),
    ("::/128", "the unspecified address (RFC 4291)"),
    ("::1/128", "loopback (RFC 4291)"),
    ("::ffff:0:0/96", "IPv4-mapped (RFC 4291): write it as IPv4"),
    ("fe80::/10", "link-local (RFC 4291)"),
    ("ff00::/8", "multicast (RFC 4291)"),
    ("64:ff9b::/96", "translated IPv4 (RFC 6052)"),
    ("100::/64", "discard-only (RFC 6666)"),
    ("2002::/16", "6to4 (RFC 7526)"),
    ("fec0::/10", "site-local (RFC 3879)"),
];

fn check_unicast(place: Place, prefix: IpNet) -> Result<(), PolicyError> {
    if prefix != prefix.trunc() {
        return Err(at(place, Problem::HostBits { prefix }));
    }
    if prefix.prefix_len() == 0 {
        return Err(at(place, Problem::NotUnicast { prefix, is: "the default route" }));
    }
    match SPECIAL.iter().find(|(block, _)| block.parse().is_ok_and(|block| overlap(block, prefix))) {
        Some((_, is)) => Err(at(place, Problem::NotUnicast { prefix, is })),
        None => Ok(()),
    }
}

fn check_neighbour(place: Place, address: IpAddr, prefix: IpNet) -> Result<(), PolicyError> {
    if address.is_ipv4() != prefix.addr().is_ipv4() {
        return Err(at(place, Problem::MixedFamilies { address, prefix }));
    }
    let why = match address {
        _ if address.is_unspecified() => "it is unspecified",
        _ if address.is_loopback() => "it is loopback",
        _ if address.is_multicast() => "it is multicast",
        IpAddr::V4(v4) if v4.octets().first().is_some_and(|first| *first >= 240 || *first == 0) => "it is reserved",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "it is IPv4-mapped",
        _ => return Ok(()),
    };
    Err(at(place, Problem::NoNeighbour { address, why }))
}

/// The field as the configuration spells it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Links => write!(f, "links"),
            Self::LinkName(index) => write!(f, "links[{index}].name"),
            Self::LinkInterface(index) => write!(f, "links[{index}].interface"),
            Self::Prefixes => write!(f, "private-prefixes"),
            Self::Prefix(index) => write!(f, "private-prefixes[{index}].prefix"),
            Self::PrefixLink(index) => write!(f, "private-prefixes[{index}].link"),
            Self::NextHop(index) => write!(f, "private-prefixes[{index}].next-hop"),
            Self::Probe(index) => write!(f, "private-prefixes[{index}].probe"),
            Self::SubscriberPrefixes => write!(f, "subscribers.prefixes"),
            Self::SubscriberPrefix(index) => write!(f, "subscribers.prefixes[{index}]"),
            Self::SubscriberInterfaces => write!(f, "subscribers.interfaces"),
            Self::SubscriberInterface(index) => write!(f, "subscribers.interfaces[{index}]"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The policy of the example configuration.
    pub(crate) fn example() -> Spec {
        let prefix = |prefix: &str| SpecPrefix {
            prefix: prefix.parse().unwrap(),
            link: "main".into(),
            next_hop: None,
            probe: None,
        };
        Spec {
            links: vec![SpecLink { name: "main".into(), interface: "priv0".into() }],
            prefixes: vec![prefix("203.0.113.200/32"), prefix("2001:db8:c10a::200/128")],
            subscriber_prefixes: ["198.51.100.64/26", "2001:db8:5100:64::/64"].map(|p| p.parse().unwrap()).to_vec(),
            subscriber_interfaces: vec!["edge0".into()],
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
        assert_eq!(policy.prefixes()[0].probe, "203.0.113.200".parse::<IpAddr>().unwrap());
        assert_eq!(policy.interface(policy.prefixes()[1].link), "priv0");
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
            refusal(|spec| spec.prefixes[0].link = "spare".into()),
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
