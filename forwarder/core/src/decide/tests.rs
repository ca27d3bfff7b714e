//! The model beside the rules in words.

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
        let services = ["tcp/443", "udp/5000-5100", "gre"].map(str::to_owned).to_vec();
        spec.prefixes.push(SpecPrefix { probe, services, ..SpecPrefix::new(prefix, "second") });
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
        protocol: 6,
        ports: Some((50_000, 443)),
        is_fragment: false,
        has_options: false,
        source_is_own: false,
    }
}

#[test]
fn the_table_of_cases() {
    use Reason::*;
    let policy = policy();
    let main = policy.link_of("priv0").unwrap();
    let (sub4, sub6, priv4, priv6) = ("198.51.100.70", "2001:db8:5100:64::70", "203.0.113.200", "2001:db8:c10a::200");
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
        ("edge0", "priv0", "::ffff:198.51.100.70", priv6, Verdict::Drop(SpoofedSource)),
        ("edge0", "up0", "::ffff:198.51.100.70", "::ffff:203.0.113.200", Verdict::Untouched),
        ("up0", "priv0", sub4, priv4, Verdict::Drop(ToPrivateByPublic)),
        ("up0", "host", sub4, priv4, Verdict::Drop(ToPrivateByPublic)),
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
        ("edge0", "nowhere", "203.0.113.10", priv4, Verdict::Drop(SpoofedSource)),
        ("up0", "nowhere", "192.0.2.18", priv4, Verdict::Drop(ToPrivateByPublic)),
        ("priv0", "nowhere", priv4, "192.0.2.18", Verdict::Untouched),
        ("priv0", "nowhere", "192.0.2.250", "192.0.2.18", Verdict::Drop(FromPrivateForeignSource)),
        ("priv0", "host", "192.0.2.250", "192.0.2.249", Verdict::Drop(FromPrivateForeignSource)),
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
fn only_services_of_a_prefix_that_has_them_pass_and_no_fragment_does() {
    use Reason::{Fragment, NotAService};
    let policy = policy();
    let there = packet("edge0", "priv1", "198.51.100.70", "203.0.113.210");
    let back = packet("priv1", "edge0", "203.0.113.210", "198.51.100.70");
    let cases = [
        (6, Some((50_000, 443)), None),
        (6, Some((443, 50_000)), Some(NotAService)),
        (6, Some((50_000, 444)), Some(NotAService)),
        (17, Some((443, 5000)), None),
        (17, Some((443, 5100)), None),
        (17, Some((443, 5101)), Some(NotAService)),
        (47, None, None),
        (50, None, Some(NotAService)),
        // Cut off before its ports.
        (6, None, Some(NotAService)),
    ];
    for (protocol, ports, refused) in cases {
        let there = Packet { protocol, ports, ..there };
        let turned = ports.map(|(from, to)| (to, from));
        let back = Packet { protocol, ports: turned, ..back };
        for (way, passed) in [(there, Verdict::ToLink(LinkId(1))), (back, Verdict::ToSubscriber)] {
            assert_eq!(policy.decide(&way), refused.map_or(passed, Verdict::Drop), "{way:?}");
            let fragment = Packet { is_fragment: true, ..way };
            assert_eq!(policy.decide(&fragment), Verdict::Drop(Fragment));
            let error = Packet { kind: Kind::IcmpError, protocol: 1, ports: None, ..way };
            assert_eq!(policy.decide(&error), passed);
        }
    }
    let whole = packet("edge0", "priv0", "198.51.100.70", "203.0.113.200");
    assert_eq!(policy.decide(&Packet { is_fragment: true, ..whole }), Verdict::ToLink(LinkId(0)));
}

#[test]
fn the_host_itself_only_keeps_the_link_up() {
    let policy = policy();
    let out = |kind, to| policy.decide(&Packet { kind, ..packet("host", "priv0", "2001:db8:0:ff::1", to) });
    assert_eq!(out(Kind::Neighbour, "ff02::1:ff00:200"), Verdict::LinkUpkeep);
    assert_eq!(out(Kind::MulticastReport, "ff02::16"), Verdict::LinkUpkeep);
    assert_eq!(out(Kind::IcmpError, "2001:db8:c10a::200"), Verdict::LinkUpkeep);
    assert_eq!(out(Kind::IcmpError, "2001:db8::1"), Verdict::Drop(Reason::HostOutput));
    let within = |kind, to| policy.decide(&Packet { kind, ..packet("priv0", "host", "fe80::1", to) });
    assert_eq!(within(Kind::Neighbour, "fe80::2"), Verdict::LinkUpkeep);
    assert_eq!(within(Kind::MulticastReport, "fe80::2"), Verdict::Drop(Reason::FromPrivateForeignSource));
    // Neighbour discovery is between neighbours.
    for to in ["2001:db8:5100:64::1", "2001:db8:c10a::200"] {
        assert_eq!(within(Kind::Neighbour, to), Verdict::Drop(Reason::FromPrivateForeignSource));
    }
    let beyond = packet("priv0", "up0", "fe80::1", "2001:db8::1");
    let beyond = policy.decide(&Packet { kind: Kind::Neighbour, ..beyond });
    assert_eq!(beyond, Verdict::Drop(Reason::FromPrivateOther));
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
        policy.prefixes().iter().find(|entry| entry.prefix.contains(&address)).map(|entry| entry.ways[0].link.0)
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
    let ports =
        proptest::option::of((prop_oneof![Just(443_u16), any::<u16>()], prop_oneof![Just(443), 4990_u16..5110]));
    let transport = (prop_oneof![Just(6_u8), Just(17), Just(47), any::<u8>()], ports, prop::bool::weighted(0.1));
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (interface(), exit, addresses, kind, transport, flags).prop_map(
        |(from, to, (source, destination), kind, transport, (has_options, source_is_own))| Packet {
            ingress: if from == "host" { Ingress::Host } else { Ingress::Interface(from) },
            egress: egress(to),
            source,
            destination,
            kind,
            protocol: transport.0,
            ports: transport.1,
            is_fragment: transport.2,
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
        // Behind the second link are the prefixes with services.
        let port = |of_second: Option<usize>, port: Option<u16>| {
            of_second != Some(1)
                || !packet.is_fragment
                    && (packet.kind == Kind::IcmpError
                        || packet.protocol == 47
                        || packet.protocol == 6 && port == Some(443)
                        || packet.protocol == 17 && port.is_some_and(|port| (5000..=5100).contains(&port)))
        };
        let served_there = port(facts.private_destination, packet.ports.map(|(_, to)| to));
        let served_back = port(facts.private_source, packet.ports.map(|(from, _)| from));
        let there = served_there
            && forwarded
            && facts.to_link.is_some()
            && facts.private_destination == facts.to_link
            && facts.from_subscribers
            && facts.subscriber_source
            && !packet.has_options
            && !packet.source_is_own;
        let back = served_back
            && forwarded
            && facts.from_link.is_some()
            && facts.private_source == facts.from_link
            && facts.to_subscribers
            && facts.subscriber_destination
            && !packet.has_options;
        let upkeep = packet.kind == Kind::Neighbour
            && !facts.subscriber_destination
            && facts.private_destination.is_none();
        let refused = !upkeep && (packet.has_options || facts.private_source != facts.from_link);
        let private_side = (facts.from_link.is_some() && (packet.egress != Egress::Nowhere || refused))
            || facts.to_link.is_some()
            || facts.private_destination.is_some()
            || (facts.private_source.is_some() && packet.ingress != Ingress::Host && facts.from_link.is_none());
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
                Reason::Fragment => packet.is_fragment,
                Reason::NotAService => !served_there || !served_back,
                Reason::FromPrivateForeignSource => facts.from_link.is_some()
                    && facts.private_source != facts.from_link,
                Reason::FromPrivateOther => facts.from_link.is_some() && !facts.subscriber_destination,
                Reason::ForgedPrivate => facts.private_source.is_some() && facts.from_link.is_none(),
                Reason::ToHostFromPrivate => facts.from_link.is_some() && packet.egress == Egress::Host,
                Reason::HostOutput => packet.ingress == Ingress::Host,
                // The meter's word, which is none of the policy's.
                Reason::Unmetered | Reason::Unattended => false,
            };
            prop_assert!(true_reason, "{:?}", reason);
        }
    }
}

#[test]
fn what_is_in_a_tunnel_leaves_by_the_underlay_alone() {
    let tunnel =
        crate::Tunnel { underlay: "eth1".into(), remote: "192.0.2.9".parse().unwrap(), protocol: 17, port: Some(4789) };
    let policy = policy().by_tunnels(vec![tunnel]);
    let tunnelled = |to, port| {
        let packet =
            Packet { protocol: 17, ports: Some((50_000, port)), ..packet("host", to, "192.0.2.1", "192.0.2.9") };
        policy.decide(&packet)
    };
    assert_eq!(tunnelled("eth1", 4789), Verdict::Untouched);
    assert_eq!(tunnelled("up0", 4789), Verdict::Drop(Reason::WrongInterface));
    assert_eq!(tunnelled("up0", 53), Verdict::Untouched);
}
