//! The ways to a private prefix: one for each of its links.

use std::net::IpAddr;

use ipnet::IpNet;

use super::check::{Disjoint, at, check_neighbour};
use super::problem::{Place, PolicyError, Problem};
use super::{Link, LinkId, Policy, PrivatePrefix, SpecPrefix};

/// How many links a prefix can have: as many metrics there are between the best route and a worse one of others.
pub const MAX_WAYS: usize = 16;

/// One way to a private prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The link.
    pub link: LinkId,
    /// The router on the link; `None` when the addresses are on the link itself.
    pub next_hop: Option<IpAddr>,
    /// The neighbour on the link whose ARP or ND answers are the heartbeat of this way.
    pub probe: IpAddr,
}

impl PrivatePrefix {
    /// Whether it can be reached by `link`.
    #[must_use]
    pub fn is_behind(&self, link: LinkId) -> bool {
        self.ways.iter().any(|way| way.link == link)
    }
}

impl Policy {
    /// While `before` becomes this policy: what both have, by the links of either, so that no packet meets a guard that
    /// knows only the link that it does not take any more, or not yet. `None` where no prefix changes to another link.
    #[must_use]
    pub fn bridge(&self, before: &Self) -> Option<Self> {
        let mut bridge = self.clone();
        for old in &before.prefixes {
            for way in &old.ways {
                let interface = before.interface(way.link);
                if bridge.faces_subscribers(interface) {
                    continue;
                }
                let of_it = |entry: &PrivatePrefix| overlap(entry.prefix, old.prefix);
                let by_it = |policy: &Self, entry: &PrivatePrefix| {
                    entry.ways.iter().any(|way| policy.interface(way.link) == interface)
                };
                if !bridge.prefixes.iter().any(|entry| of_it(entry) && !by_it(&bridge, entry)) {
                    continue;
                }
                let link = bridge.link_of(interface).unwrap_or_else(|| {
                    let name = format!("before-{}", bridge.links.len());
                    bridge.links.push(Link { name, interface: interface.to_owned() });
                    LinkId(bridge.links.len() - 1)
                });
                for entry in &mut bridge.prefixes {
                    if of_it(entry) && !entry.is_behind(link) {
                        entry.ways.push(Way { link, ..*way });
                    }
                }
            }
        }
        (bridge.prefixes != self.prefixes).then_some(bridge)
    }
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

pub(super) fn ways(
    index: usize,
    entry: &SpecPrefix,
    links: &[Link],
    subscribers: &Disjoint,
) -> Result<Vec<Way>, PolicyError> {
    let SpecPrefix { prefix, next_hop, next_hops, .. } = entry;
    if entry.links.is_empty() {
        return Err(at(Place::PrefixLink(index), Problem::Empty { what: "private link" }));
    }
    if entry.links.len() > MAX_WAYS {
        let problem = Problem::TooManyLinks { count: entry.links.len(), most: MAX_WAYS };
        return Err(at(Place::PrefixLink(index), problem));
    }
    if next_hop.is_some() && !next_hops.is_empty() {
        return Err(at(Place::NextHop(index), Problem::NextHopTwice));
    }
    if let Some(link) = next_hops.keys().find(|link| !entry.links.contains(link)) {
        return Err(at(Place::NextHop(index), Problem::NextHopElsewhere { link: link.clone() }));
    }
    for address in next_hop.iter().chain(next_hops.values()) {
        check_neighbour(Place::NextHop(index), *address, *prefix)?;
        if let Some(other) = subscribers.meets((*address).into()) {
            let problem = Problem::Overlap { prefix: (*address).into(), kind: "subscriber prefix", other };
            return Err(at(Place::NextHop(index), problem));
        }
    }
    let mut ways: Vec<Way> = Vec::with_capacity(entry.links.len());
    for (number, name) in entry.links.iter().enumerate() {
        let place = if entry.links.len() == 1 { Place::PrefixLink(index) } else { Place::PrefixLinks(index, number) };
        let Some(link) = links.iter().position(|known| known.name == *name).map(LinkId) else {
            let known = links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(at(place, Problem::UnknownLink { link: name.clone(), known: format!("there is {known}") }));
        };
        if ways.iter().any(|way| way.link == link) {
            return Err(at(place, Problem::Twice { what: format!("link {name}") }));
        }
        let next_hop = next_hop.or_else(|| next_hops.get(name).copied());
        ways.push(Way { link, next_hop, probe: next_hop.unwrap_or(prefix.addr()) });
    }
    probes(index, entry, &mut ways)?;
    if entry.spread && ways.len() == 1 {
        return Err(at(Place::Spread(index), Problem::SpreadAlone));
    }
    if entry.spread && prefix.addr().is_ipv6() && ways.iter().any(|way| way.next_hop.is_none()) {
        return Err(at(Place::Spread(index), Problem::SpreadNeedsNextHops { prefix: *prefix }));
    }
    Ok(ways)
}

/// Which address of the prefix is asked on the links where there is no next hop.
fn probes(index: usize, entry: &SpecPrefix, ways: &mut [Way]) -> Result<(), PolicyError> {
    let (prefix, place) = (entry.prefix, Place::Probe(index));
    let mut on_link = ways.iter_mut().filter(|way| way.next_hop.is_none()).peekable();
    let probe = match entry.probe {
        Some(address) if on_link.peek().is_none() => return Err(at(place, Problem::ProbeBehindNextHop { address })),
        Some(address) => {
            check_neighbour(place, address, prefix)?;
            if !prefix.contains(&address) {
                return Err(at(place, Problem::ProbeOutside { address, prefix }));
            }
            address
        }
        None if on_link.peek().is_none() || prefix.prefix_len() == prefix.max_prefix_len() => prefix.addr(),
        None => return Err(at(place, Problem::ProbeMissing { prefix })),
    };
    on_link.for_each(|way| way.probe = probe);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;
    use crate::policy::{Spec, SpecLink};

    fn two_links() -> Spec {
        let mut spec = example();
        spec.links.push(SpecLink { name: "spare".into(), interface: "priv1".into() });
        for entry in &mut spec.prefixes {
            entry.links.push("spare".into());
        }
        spec
    }

    fn refusal(change: impl FnOnce(&mut Spec)) -> String {
        let mut spec = two_links();
        change(&mut spec);
        let error = Policy::new(spec).unwrap_err();
        format!("{}: {error}", error.place)
    }

    #[test]
    fn a_prefix_has_a_way_by_each_of_its_links_in_their_order() {
        let mut spec = two_links();
        spec.prefixes[1].next_hops = [("main", "2001:db8:0:ff::2"), ("spare", "2001:db8:0:fe::2")]
            .map(|(l, a)| (l.into(), a.parse().unwrap()))
            .into();
        let policy = Policy::new(spec).unwrap();
        let ways = |index: usize| {
            let ways = policy.prefixes()[index].ways.iter();
            ways.map(|way| (policy.interface(way.link), way.probe.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(ways(0), [("priv0", "203.0.113.200".into()), ("priv1", "203.0.113.200".into())]);
        assert_eq!(ways(1), [("priv0", "2001:db8:0:ff::2".into()), ("priv1", "2001:db8:0:fe::2".into())]);
    }

    #[test]
    fn links_of_a_prefix_that_contradict_themselves_are_refused() {
        assert_eq!(
            refusal(|spec| spec.prefixes[0].links[1] = "third".into()),
            "private-prefixes[0].links[1]: no link is called \"third\": there is main, spare"
        );
        assert_eq!(
            refusal(|spec| spec.prefixes[0].links[1] = "main".into()),
            "private-prefixes[0].links[1]: link main is listed twice"
        );
        assert!(refusal(|spec| spec.prefixes[0].links.clear()).starts_with("private-prefixes[0].link: nothing"));
        assert_eq!(
            refusal(|spec| spec.prefixes[0].links = vec!["main".into(); 17]),
            "private-prefixes[0].link: 17 links: at most 16 are allowed"
        );
        assert_eq!(
            refusal(|spec| {
                spec.prefixes[0].spread = true;
                spec.prefixes[0].links.truncate(1);
            }),
            "private-prefixes[0].spread: one link alone: spreading takes two or more"
        );
        assert!(refusal(|spec| spec.prefixes[1].spread = true).contains("spreads over next hops only"));
        let hop = || "192.0.2.250".parse().unwrap();
        assert!(
            refusal(|spec| {
                spec.prefixes[0].next_hop = Some(hop());
                spec.prefixes[0].next_hops = [("main".to_owned(), hop())].into();
            })
            .starts_with("private-prefixes[0].next-hop: both next-hop and next-hops")
        );
        assert!(
            refusal(|spec| spec.prefixes[0].next_hops = [("third".to_owned(), hop())].into())
                .contains("a next hop on link \"third\", which is none")
        );
    }

    #[test]
    fn a_bridge_has_the_links_of_both_policies_and_no_prefix_of_the_old_one_alone() {
        let before = Policy::new(example()).unwrap();
        assert!(before.bridge(&before).is_none());
        let mut spec = example();
        // The name is the same, the interface is not; and one prefix is wider, another new.
        spec.links[0].interface = "priv1".into();
        spec.prefixes[0].prefix = "203.0.113.200/31".parse().unwrap();
        spec.prefixes[0].probe = Some("203.0.113.201".parse().unwrap());
        spec.prefixes[1].prefix = "2001:db8:c10a::300/128".parse().unwrap();
        let policy = Policy::new(spec).unwrap();
        let bridge = policy.bridge(&before).unwrap();
        let interfaces = |index: usize| {
            let ways = bridge.prefixes()[index].ways.iter();
            ways.map(|way| bridge.interface(way.link)).collect::<Vec<_>>()
        };
        assert_eq!(interfaces(0), ["priv1", "priv0"]);
        assert_eq!(interfaces(1), ["priv1"]);
        assert!(bridge.private_prefix("2001:db8:c10a::200".parse().unwrap()).is_none());
    }
}
