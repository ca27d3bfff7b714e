//! The reference model: what happens to a packet, and why.

use std::net::IpAddr;

use crate::policy::{LinkId, Policy};

/// What the decision depends on. The data plane has parsed the packet and asked its routing table.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Where it came from.
    pub ingress: Ingress<'a>,
    /// Where routing would send it.
    pub egress: Egress<'a>,
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// What it is, as far as that matters.
    pub kind: Kind,
    /// Whether it has IPv4 options or a routing header of type 0 (RFC 5095).
    pub has_options: bool,
    /// Whether the source is this host's own address, or a broadcast, multicast or anycast one.
    pub source_is_own: bool,
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress<'a> {
    /// In by this interface.
    Interface(&'a str),
    /// A process or the kernel of this host.
    Host,
}

/// Where routing would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress<'a> {
    /// Out by this interface.
    Interface(&'a str),
    /// To this host itself.
    Host,
    /// Nowhere: it meets a blackhole.
    Nowhere,
}

/// What a packet is, as far as the host's own traffic on a private link is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A neighbour solicitation or advertisement with hop limit 255 (RFC 4861 §7.1).
    Neighbour,
    /// An MLD report, by which a switch learns who wants neighbour solicitations (RFC 3810).
    MulticastReport,
    /// An ICMP or ICMPv6 error message.
    IcmpError,
    /// Anything else.
    Other,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Out by this private link.
    ToLink(LinkId),
    /// Back to a subscriber.
    ToSubscriber,
    /// Between this host and a private link, needed to keep the link working.
    LinkUpkeep,
    /// Nothing to do with the private side.
    Untouched,
    /// Dropped and counted.
    Drop(Reason),
}

/// Why a packet was dropped. Each has a counter of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// To a private prefix whose link is down, or not up yet: it meets the blackhole.
    NoRoute,
    /// From a private link to a private prefix.
    Hairpin,
    /// Routed out by a private link, to no private prefix.
    NotPrivate,
    /// Routed out by another interface than the policy's.
    WrongInterface,
    /// To a private prefix from an interface that faces no subscribers.
    ToPrivateByPublic,
    /// With IPv4 options, among them source routes, or a routing header of type 0 (RFC 7126, RFC 5095).
    Options,
    /// To a private prefix from an address of this host, or from a broadcast or multicast one.
    OwnSource,
    /// To a private prefix from an address outside the subscribers' prefixes.
    SpoofedSource,
    /// In by a private link from an address that is not behind it.
    FromPrivateForeignSource,
    /// From a private prefix to something else than a subscriber.
    FromPrivateOther,
    /// With a private source, in by something else than its link.
    ForgedPrivate,
    /// In by a private link for this host itself.
    ToHostFromPrivate,
    /// From this host to a private link or prefix.
    HostOutput,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 13] = [
        Self::NoRoute,
        Self::Hairpin,
        Self::NotPrivate,
        Self::WrongInterface,
        Self::ToPrivateByPublic,
        Self::Options,
        Self::OwnSource,
        Self::SpoofedSource,
        Self::FromPrivateForeignSource,
        Self::FromPrivateOther,
        Self::ForgedPrivate,
        Self::ToHostFromPrivate,
        Self::HostOutput,
    ];

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Hairpin => "hairpin",
            Self::NotPrivate => "not-private",
            Self::WrongInterface => "wrong-interface",
            Self::ToPrivateByPublic => "to-private-by-public",
            Self::Options => "ip-options",
            Self::OwnSource => "own-source",
            Self::SpoofedSource => "spoofed-source",
            Self::FromPrivateForeignSource => "from-private-foreign-source",
            Self::FromPrivateOther => "from-private-other",
            Self::ForgedPrivate => "forged-private",
            Self::ToHostFromPrivate => "to-host-from-private",
            Self::HostOutput => "host-output",
        }
    }

    /// What it means, in a line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NoRoute => "to a private prefix whose link is down",
            Self::Hairpin => "from a private link to a private prefix",
            Self::NotPrivate => "routed to a private link, but to no private prefix",
            Self::WrongInterface => "routed out by another interface than the policy's",
            Self::ToPrivateByPublic => "to a private prefix from an interface that faces no subscribers",
            Self::Options => "with IPv4 options or a routing header of type 0",
            Self::OwnSource => "to a private prefix from this host's own or a multicast address",
            Self::SpoofedSource => "to a private prefix from outside the subscribers' prefixes",
            Self::FromPrivateForeignSource => "in by a private link from an address that is not behind it",
            Self::FromPrivateOther => "from a private prefix to something else than a subscriber",
            Self::ForgedPrivate => "with a private source, in by something else than its link",
            Self::ToHostFromPrivate => "in by a private link for this host itself",
            Self::HostOutput => "from this host to a private link or prefix",
        }
    }
}

impl Policy {
    /// What happens to `packet`. The ruleset of [`crate::ruleset`] asks the same questions in the same order.
    #[must_use]
    pub fn decide(&self, packet: &Packet<'_>) -> Verdict {
        match (packet.ingress, packet.egress) {
            (Ingress::Interface(from), Egress::Interface(to)) => self.forward(packet, from, to),
            (Ingress::Interface(from), Egress::Host) => self.input(packet, from),
            (Ingress::Host, Egress::Interface(to)) => self.output(packet, Some(to)),
            (Ingress::Interface(_), Egress::Nowhere) if self.private_link(packet.destination).is_some() => {
                Verdict::Drop(Reason::NoRoute)
            }
            (Ingress::Interface(_), Egress::Nowhere) => Verdict::Untouched,
            (Ingress::Host, Egress::Host | Egress::Nowhere) => self.output(packet, None),
        }
    }

    fn forward(&self, packet: &Packet<'_>, from: &str, to: &str) -> Verdict {
        let destination = self.private_link(packet.destination);
        let source = self.private_link(packet.source);
        match (self.link_of(from), self.link_of(to)) {
            (Some(_), Some(_)) => Verdict::Drop(Reason::Hairpin),
            (None, Some(link)) => self.going_out(packet, from, link, destination),
            (Some(link), None) => self.coming_back(packet, to, link, source, destination),
            (None, None) if destination.is_some() => Verdict::Drop(Reason::WrongInterface),
            (None, None) if source.is_some() => Verdict::Drop(Reason::ForgedPrivate),
            (None, None) => Verdict::Untouched,
        }
    }

    fn going_out(&self, packet: &Packet<'_>, from: &str, link: LinkId, destination: Option<LinkId>) -> Verdict {
        Verdict::Drop(match destination {
            None => Reason::NotPrivate,
            Some(right) if right != link => Reason::WrongInterface,
            Some(_) if !self.faces_subscribers(from) => Reason::ToPrivateByPublic,
            Some(_) if packet.has_options => Reason::Options,
            Some(_) if packet.source_is_own => Reason::OwnSource,
            Some(_) if !self.is_subscriber(packet.source) => Reason::SpoofedSource,
            Some(_) => return Verdict::ToLink(link),
        })
    }

    fn coming_back(
        &self,
        packet: &Packet<'_>,
        to: &str,
        link: LinkId,
        source: Option<LinkId>,
        destination: Option<LinkId>,
    ) -> Verdict {
        Verdict::Drop(match destination {
            _ if packet.has_options => Reason::Options,
            _ if source != Some(link) => Reason::FromPrivateForeignSource,
            Some(_) => Reason::Hairpin,
            None if !self.is_subscriber(packet.destination) => Reason::FromPrivateOther,
            None if !self.faces_subscribers(to) => Reason::WrongInterface,
            None => return Verdict::ToSubscriber,
        })
    }

    fn input(&self, packet: &Packet<'_>, from: &str) -> Verdict {
        match self.link_of(from) {
            Some(_) if packet.kind == Kind::Neighbour => Verdict::LinkUpkeep,
            Some(_) => Verdict::Drop(Reason::ToHostFromPrivate),
            None if self.private_link(packet.destination).is_some() => Verdict::Drop(Reason::WrongInterface),
            None if self.private_link(packet.source).is_some() => Verdict::Drop(Reason::ForgedPrivate),
            None => Verdict::Untouched,
        }
    }

    fn output(&self, packet: &Packet<'_>, to: Option<&str>) -> Verdict {
        let private = self.private_link(packet.destination).is_some();
        match to.and_then(|to| self.link_of(to)) {
            Some(_) => match packet.kind {
                Kind::Neighbour | Kind::MulticastReport => Verdict::LinkUpkeep,
                Kind::IcmpError if private => Verdict::LinkUpkeep,
                Kind::IcmpError | Kind::Other => Verdict::Drop(Reason::HostOutput),
            },
            None if private => Verdict::Drop(Reason::HostOutput),
            None => Verdict::Untouched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;
    use crate::policy::{SpecLink, SpecPrefix};
    use proptest::prelude::*;

    /// Two links, so that the wrong one can be taken.
    fn policy() -> Policy {
        let mut spec = example();
        spec.links.push(SpecLink { name: "second".into(), interface: "priv1".into() });
        for prefix in ["203.0.113.208/28", "2001:db8:c10b::/64"] {
            let prefix: ipnet::IpNet = prefix.parse().unwrap();
            let probe = prefix.hosts().next();
            spec.prefixes.push(SpecPrefix { prefix, link: "second".into(), next_hop: None, probe });
        }
        Policy::new(spec).unwrap()
    }

    fn egress(to: &str) -> Egress<'_> {
        match to {
            "host" => Egress::Host,
            "nowhere" => Egress::Nowhere,
            interface => Egress::Interface(interface),
        }
    }

    fn packet<'a>(from: &'a str, to: &'a str, source: &str, destination: &str) -> Packet<'a> {
        Packet {
            ingress: if from == "host" { Ingress::Host } else { Ingress::Interface(from) },
            egress: egress(to),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            kind: Kind::Other,
            has_options: false,
            source_is_own: false,
        }
    }

    #[test]
    fn the_table_of_cases() {
        use Reason::*;
        let policy = policy();
        let main = policy.link_of("priv0").unwrap();
        let (sub4, sub6, priv4, priv6) =
            ("198.51.100.70", "2001:db8:5100:64::70", "203.0.113.200", "2001:db8:c10a::200");
        let cases = [
            ("edge0", "priv0", sub4, priv4, Verdict::ToLink(main)),
            ("edge0", "priv0", sub6, priv6, Verdict::ToLink(main)),
            ("priv0", "edge0", priv4, sub4, Verdict::ToSubscriber),
            ("priv0", "edge0", priv6, sub6, Verdict::ToSubscriber),
            ("edge0", "up0", sub4, "192.0.2.18", Verdict::Untouched),
            ("up0", "edge0", "192.0.2.18", sub4, Verdict::Untouched),
            ("edge0", "priv0", "203.0.113.10", priv4, Verdict::Drop(SpoofedSource)),
            ("edge0", "priv0", priv4, priv4, Verdict::Drop(SpoofedSource)),
            ("edge0", "priv0", "::ffff:203.0.113.10", priv6, Verdict::Drop(SpoofedSource)),
            ("up0", "priv0", sub4, priv4, Verdict::Drop(ToPrivateByPublic)),
            ("edge0", "up0", sub4, priv4, Verdict::Drop(WrongInterface)),
            ("edge0", "priv1", sub4, priv4, Verdict::Drop(WrongInterface)),
            ("edge0", "priv0", sub4, "192.0.2.250", Verdict::Drop(NotPrivate)),
            ("priv0", "up0", priv4, "192.0.2.18", Verdict::Drop(FromPrivateOther)),
            ("priv0", "up0", priv4, sub4, Verdict::Drop(WrongInterface)),
            ("priv0", "edge0", sub4, sub4, Verdict::Drop(FromPrivateForeignSource)),
            ("priv0", "edge0", "203.0.113.210", sub4, Verdict::Drop(FromPrivateForeignSource)),
            ("priv0", "priv1", priv4, "203.0.113.210", Verdict::Drop(Hairpin)),
            ("priv0", "edge0", priv4, "203.0.113.210", Verdict::Drop(Hairpin)),
            ("up0", "edge0", priv4, sub4, Verdict::Drop(ForgedPrivate)),
            ("up0", "host", priv4, "198.51.100.2", Verdict::Drop(ForgedPrivate)),
            ("edge0", "host", sub4, priv4, Verdict::Drop(WrongInterface)),
            ("edge0", "nowhere", sub4, priv4, Verdict::Drop(NoRoute)),
            ("up0", "nowhere", "192.0.2.18", priv6, Verdict::Drop(NoRoute)),
            ("edge0", "nowhere", sub4, "192.0.2.18", Verdict::Untouched),
            ("priv0", "host", priv4, "192.0.2.249", Verdict::Drop(ToHostFromPrivate)),
            ("host", "priv0", "192.0.2.249", priv4, Verdict::Drop(HostOutput)),
            ("host", "up0", "198.51.100.2", priv4, Verdict::Drop(HostOutput)),
            ("host", "up0", "198.51.100.2", "192.0.2.18", Verdict::Untouched),
        ];
        for (from, to, source, destination, expected) in cases {
            let verdict = policy.decide(&packet(from, to, source, destination));
            assert_eq!(verdict, expected, "{from} > {to} {source} > {destination}");
        }
    }

    #[test]
    fn options_and_own_sources_are_dropped() {
        let policy = policy();
        let there = packet("edge0", "priv0", "198.51.100.70", "203.0.113.200");
        let back = packet("priv0", "edge0", "203.0.113.200", "198.51.100.70");
        for way in [there, back] {
            let verdict = policy.decide(&Packet { has_options: true, ..way });
            assert_eq!(verdict, Verdict::Drop(Reason::Options));
        }
        assert_eq!(policy.decide(&Packet { source_is_own: true, ..there }), Verdict::Drop(Reason::OwnSource));
    }

    #[test]
    fn the_host_itself_only_keeps_the_link_up() {
        let policy = policy();
        let out = |kind, to| policy.decide(&Packet { kind, ..packet("host", "priv0", "2001:db8:0:ff::1", to) });
        assert_eq!(out(Kind::Neighbour, "ff02::1:ff00:200"), Verdict::LinkUpkeep);
        assert_eq!(out(Kind::MulticastReport, "ff02::16"), Verdict::LinkUpkeep);
        assert_eq!(out(Kind::IcmpError, "2001:db8:c10a::200"), Verdict::LinkUpkeep);
        assert_eq!(out(Kind::IcmpError, "2001:db8::1"), Verdict::Drop(Reason::HostOutput));
        let within = |kind| policy.decide(&Packet { kind, ..packet("priv0", "host", "fe80::1", "fe80::2") });
        assert_eq!(within(Kind::Neighbour), Verdict::LinkUpkeep);
        assert_eq!(within(Kind::MulticastReport), Verdict::Drop(Reason::ToHostFromPrivate));
    }

    /// The policy's facts about one packet, found by linear search over what the operator wrote.
    struct Facts {
        from_link: Option<usize>,
        to_link: Option<usize>,
        private_source: Option<usize>,
        private_destination: Option<usize>,
        subscriber_source: bool,
        subscriber_destination: bool,
        from_subscribers: bool,
        to_subscribers: bool,
    }

    fn facts(policy: &Policy, packet: &Packet<'_>) -> Facts {
        let from = if let Ingress::Interface(name) = packet.ingress { name } else { "" };
        let to = if let Egress::Interface(name) = packet.egress { name } else { "" };
        let link = |name: &str| policy.links().iter().position(|link| link.interface == name);
        let private = |address: IpAddr| {
            policy.prefixes().iter().find(|entry| entry.prefix.contains(&address)).map(|entry| entry.link.0)
        };
        let subscriber = |address: IpAddr| policy.subscriber_prefixes().iter().any(|p| p.contains(&address));
        let faces = |name: &str| policy.subscriber_interfaces().iter().any(|known| known == name);
        Facts {
            from_link: link(from),
            to_link: link(to),
            private_source: private(packet.source),
            private_destination: private(packet.destination),
            subscriber_source: subscriber(packet.source),
            subscriber_destination: subscriber(packet.destination),
            from_subscribers: faces(from),
            to_subscribers: faces(to),
        }
    }

    fn any_packet() -> impl Strategy<Value = Packet<'static>> {
        let interface = || prop_oneof![Just("edge0"), Just("up0"), Just("priv0"), Just("priv1"), Just("host")];
        let exit = prop_oneof![4 => interface(), 1 => Just("nowhere")];
        let v4 = || {
            prop_oneof![
                (64_u8..=127).prop_map(|last| IpAddr::from([198, 51, 100, last])),
                (190_u8..=230).prop_map(|last| IpAddr::from([203, 0, 113, last])),
                any::<[u8; 4]>().prop_map(IpAddr::from),
            ]
        };
        let v6 = || {
            let at = |base: &str, low: u16| {
                let IpAddr::V6(base) = base.parse().unwrap() else { unreachable!() };
                IpAddr::V6((u128::from(base) | u128::from(low)).into())
            };
            prop_oneof![
                any::<u16>().prop_map(move |low| at("2001:db8:5100:64::", low)),
                (0x1f8_u16..0x208).prop_map(move |low| at("2001:db8:c10a::", low)),
                any::<u16>().prop_map(move |low| at("2001:db8:c10b::", low)),
                any::<[u8; 16]>().prop_map(IpAddr::from).prop_filter("mapped", |a| a.to_canonical() == *a),
            ]
        };
        let addresses = prop_oneof![(v4(), v4()), (v6(), v6())];
        let kind =
            prop_oneof![Just(Kind::Neighbour), Just(Kind::MulticastReport), Just(Kind::IcmpError), Just(Kind::Other)];
        (interface(), exit, addresses, kind, prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
            |(from, to, (source, destination), kind, has_options, source_is_own)| Packet {
                ingress: if from == "host" { Ingress::Host } else { Ingress::Interface(from) },
                egress: egress(to),
                source,
                destination,
                kind,
                has_options,
                source_is_own,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn every_verdict_is_what_the_rules_in_words_say(packet in any_packet()) {
            let policy = policy();
            let facts = facts(&policy, &packet);
            let verdict = policy.decide(&packet);
            let forwarded = matches!((packet.ingress, packet.egress), (Ingress::Interface(_), Egress::Interface(_)));
            let there = forwarded
                && facts.to_link.is_some()
                && facts.private_destination == facts.to_link
                && facts.from_subscribers
                && facts.subscriber_source
                && !packet.has_options
                && !packet.source_is_own;
            let back = forwarded
                && facts.from_link.is_some()
                && facts.private_source == facts.from_link
                && facts.to_subscribers
                && facts.subscriber_destination
                && !packet.has_options;
            let private_side = (facts.from_link.is_some() && packet.egress != Egress::Nowhere)
                || facts.to_link.is_some()
                || facts.private_destination.is_some()
                || (facts.private_source.is_some()
                    && packet.ingress != Ingress::Host
                    && packet.egress != Egress::Nowhere);
            prop_assert_eq!(matches!(verdict, Verdict::ToLink(_)), there, "{:?}", verdict);
            prop_assert_eq!(verdict == Verdict::ToSubscriber, back, "{:?}", verdict);
            prop_assert_eq!(verdict == Verdict::Untouched, !private_side, "{:?}", verdict);
            if let Verdict::ToLink(link) = verdict {
                prop_assert_eq!(Some(link.0), facts.to_link);
            }
            if verdict == Verdict::LinkUpkeep {
                prop_assert!(!forwarded && packet.kind != Kind::Other);
            }
            if let Verdict::Drop(reason) = verdict {
                let true_reason = match reason {
                    Reason::NoRoute => packet.egress == Egress::Nowhere && facts.private_destination.is_some(),
                    Reason::Hairpin => facts.from_link.is_some()
                        && (facts.to_link.is_some() || facts.private_destination.is_some()),
                    Reason::NotPrivate => facts.to_link.is_some() && facts.private_destination.is_none(),
                    Reason::WrongInterface => (facts.private_destination.is_some()
                        && facts.private_destination != facts.to_link)
                        || (facts.from_link.is_some() && !facts.to_subscribers),
                    Reason::ToPrivateByPublic => facts.private_destination.is_some() && !facts.from_subscribers,
                    Reason::Options => packet.has_options,
                    Reason::OwnSource => packet.source_is_own,
                    Reason::SpoofedSource => !facts.subscriber_source,
                    Reason::FromPrivateForeignSource => facts.from_link.is_some()
                        && facts.private_source != facts.from_link,
                    Reason::FromPrivateOther => facts.from_link.is_some() && !facts.subscriber_destination,
                    Reason::ForgedPrivate => facts.private_source.is_some() && facts.from_link.is_none(),
                    Reason::ToHostFromPrivate => facts.from_link.is_some() && packet.egress == Egress::Host,
                    Reason::HostOutput => packet.ingress == Ingress::Host,
                };
                prop_assert!(true_reason, "{:?}", reason);
            }
        }
    }
}
