//! A policy's parts, each refused when it contradicts itself or another.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::problem::{Place, PolicyError, Problem};
use super::service::Service;
use super::ways::{overlap, ways};
use super::{Link, PrivatePrefix, SpecLink, SpecPrefix};

pub(super) fn at(place: Place, problem: Problem) -> PolicyError {
    PolicyError { place, problem }
}

pub(super) fn links(spec: &[SpecLink]) -> Result<Vec<Link>, PolicyError> {
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

pub(super) fn subscriber_interfaces(spec: &[String], links: &[Link]) -> Result<Vec<String>, PolicyError> {
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

/// Prefixes of which no two overlap, by where they begin: tens of thousands are looked through at a glance.
#[derive(Debug, Default)]
pub(super) struct Disjoint(BTreeMap<IpAddr, IpNet>);

impl Disjoint {
    /// One of them that overlaps `prefix`. What holds it is the last that begins before it, as that overlaps no other;
    /// what lies inside begins there.
    pub(super) fn meets(&self, prefix: IpNet) -> Option<IpNet> {
        let (first, last) = (prefix.network(), prefix.broadcast());
        let around = self.0.range(..=first).next_back();
        let inside = self.0.range(first..=last).next();
        [around, inside].into_iter().flatten().map(|(_, other)| *other).find(|other| overlap(*other, prefix))
    }

    pub(super) fn add(&mut self, prefix: IpNet) {
        self.0.insert(prefix.network(), prefix);
    }
}

/// What feeds of live prefixes may tell.
pub(super) fn served(live: &[Vec<IpNet>]) -> Result<Vec<IpNet>, PolicyError> {
    let mut served = Vec::new();
    for (feed, within) in live.iter().enumerate() {
        for (index, prefix) in within.iter().enumerate() {
            check_unicast(Place::Within(feed, index), *prefix)?;
            served.push(*prefix);
        }
        if within.is_empty() {
            return Err(at(Place::WithinAll(feed), Problem::Empty { what: "prefix that bounds the feed" }));
        }
    }
    Ok(served)
}

pub(super) fn subscriber_prefixes(spec: &[IpNet], is_fed: bool) -> Result<(Vec<IpNet>, Disjoint), PolicyError> {
    let mut prefixes: Vec<IpNet> = Vec::with_capacity(spec.len());
    let mut apart = Disjoint::default();
    for (index, prefix) in spec.iter().enumerate() {
        let place = Place::SubscriberPrefix(index);
        check_unicast(place, *prefix)?;
        check_apart(place, *prefix, "subscriber prefix", &apart)?;
        apart.add(*prefix);
        prefixes.push(*prefix);
    }
    if prefixes.is_empty() && !is_fed {
        return Err(at(Place::SubscriberPrefixes, Problem::Empty { what: "subscriber prefix" }));
    }
    Ok((prefixes, apart))
}

pub(super) fn private_prefix(
    index: usize,
    entry: SpecPrefix,
    links: &[Link],
    ([v4, v6], apart): ([bool; 2], &Disjoint),
    before: &Disjoint,
) -> Result<PrivatePrefix, PolicyError> {
    let prefix = entry.prefix;
    let place = Place::Prefix(index);
    check_unicast(place, prefix)?;
    check_apart(place, prefix, "subscriber prefix", apart)?;
    check_apart(place, prefix, "private prefix", before)?;
    let (is_served, family) = if prefix.addr().is_ipv4() { (v4, "IPv4") } else { (v6, "IPv6") };
    if !is_served {
        return Err(at(place, Problem::NobodyToServe { prefix, family }));
    }
    let ways = ways(index, &entry, links, apart)?;
    let services = service_list(index, prefix, &entry.services)?;
    if let Some(dscp) = entry.dscp.filter(|dscp| *dscp > 63) {
        return Err(at(Place::Dscp(index), Problem::Dscp { dscp }));
    }
    Ok(PrivatePrefix { prefix, ways, spread: entry.spread, services, dscp: entry.dscp })
}

fn service_list(index: usize, prefix: IpNet, written: &[String]) -> Result<Vec<Service>, PolicyError> {
    let mut services: Vec<Service> = Vec::with_capacity(written.len());
    for (number, text) in written.iter().enumerate() {
        let place = Place::Service(index, number);
        let service = text.parse::<Service>().map_err(|error| at(place, error.into()))?.of(prefix);
        if let Some(other) = services.iter().find(|other| other.overlaps(&service)) {
            return Err(at(place, Problem::ServiceTwice { service, other: other.clone() }));
        }
        services.push(service);
    }
    Ok(services)
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

fn check_apart(place: Place, prefix: IpNet, kind: &'static str, others: &Disjoint) -> Result<(), PolicyError> {
    match others.meets(prefix) {
        Some(other) => Err(at(place, Problem::Overlap { prefix, kind, other })),
        None => Ok(()),
    }
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

pub(super) fn check_neighbour(place: Place, address: IpAddr, prefix: IpNet) -> Result<(), PolicyError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_overlaps_is_found_wherever_it_begins(
            given in proptest::collection::vec((0_u32..1 << 8, 20_u8..=32), 0..40),
            asked in (0_u32..1 << 8, 16_u8..=32),
        ) {
            let net = |(at, length): (u32, u8)| IpNet::new(std::net::Ipv4Addr::from(at << 6).into(), length).unwrap().trunc();
            let mut plain: Vec<IpNet> = Vec::new();
            let mut apart = Disjoint::default();
            for prefix in given.into_iter().map(net) {
                let meets = plain.iter().any(|other| overlap(*other, prefix));
                prop_assert_eq!(apart.meets(prefix).is_some(), meets, "{} in {:?}", prefix, plain);
                if !meets {
                    plain.push(prefix);
                    apart.add(prefix);
                }
            }
            let found = apart.meets(net(asked));
            prop_assert_eq!(found.is_some(), plain.iter().any(|other| overlap(*other, net(asked))));
            prop_assert!(found.is_none_or(|found| overlap(found, net(asked)) && plain.contains(&found)));
        }
    }
}
