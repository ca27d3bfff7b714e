//! Round trips, arbitrary bytes, and bgpkit-parser as a second reader of what we write.

#![cfg(test)]

use bgp_wire::{
    AddPath, Aggregator, AsPath, Asn, Attributes, Capability, Community, Context, ErrorCode, ExtendedCommunity,
    Families, Family, Framer, GracefulRestart, HoldTime, LargeCommunity, LongLived, Message, MpReach, MpUnreach,
    Notification, Open, Origin, PathIds, RawAttribute, Role, RouteRefresh, RouterId, Segment, Update, announce_v4,
    announce_v4_by_v6, announce_v6, withdraw_v4, withdraw_v6,
};
use bgpkit_parser::models::{AsnLength, AttributeValue, BgpMessage, MetaCommunity};
use bgpkit_parser::parser::bgp::parse_bgp_message;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Of at least so many bits. Multicast groups are left out when they are read, so none is among these.
fn any_v4_from(shortest: u8) -> impl Strategy<Value = Ipv4Net> {
    (0..0xe000_0000_u32, shortest..=32).prop_map(|(bits, length)| Ipv4Net::new(bits.into(), length).unwrap().trunc())
}

fn any_v6_from(shortest: u8) -> impl Strategy<Value = Ipv6Net> {
    (0..0xff00_u128 << 112, shortest..=128)
        .prop_map(|(bits, length)| Ipv6Net::new(bits.into(), length).unwrap().trunc())
}

fn any_v4() -> impl Strategy<Value = Ipv4Net> {
    any_v4_from(0)
}

fn any_v6() -> impl Strategy<Value = Ipv6Net> {
    any_v6_from(0)
}

fn any_path(largest: u32) -> impl Strategy<Value = AsPath> {
    let segment = (0..4, vec((1..=largest).prop_map(Asn), 1..6)).prop_map(|(kind, numbers)| match kind {
        0 => Segment::Set(numbers),
        1 => Segment::Sequence(numbers),
        2 => Segment::ConfederationSequence(numbers),
        _ => Segment::ConfederationSet(numbers),
    });
    vec(segment, 0..4).prop_map(AsPath)
}

fn basic_attributes(largest_asn: u32) -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let unknown = (prop_oneof![Just(0x80), Just(0xc0), Just(0xe0)], vec(any::<u8>(), 0..300))
        .prop_map(|(flags, value)| RawAttribute { flags, code: 99, value });
    (
        origin,
        any_path(largest_asn),
        (1_u8..=223, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| [a, b, c, d].into()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        vec(any::<u32>().prop_map(Community), 0..80),
        option::of(unknown),
    )
        .prop_map(|(origin, path, next_hop, multi_exit_disc, local_pref, communities, unknown)| Attributes {
            origin: Some(origin),
            as_path: Some(path),
            next_hop: Some(next_hop),
            multi_exit_disc,
            local_pref,
            communities,
            others: unknown.into_iter().collect(),
            ..Attributes::default()
        })
}

/// The attributes that aggregation, reflection, roles and the newer communities bring.
fn any_attributes(largest_asn: u32) -> impl Strategy<Value = Attributes> {
    let address = || any::<[u8; 4]>().prop_map(std::net::Ipv4Addr::from);
    let aggregator = (1..=largest_asn, address()).prop_map(|(asn, address)| Aggregator { asn: Asn(asn), address });
    (
        basic_attributes(largest_asn),
        any::<bool>(),
        option::of(aggregator),
        option::of(address()),
        vec(address(), 0..5),
        vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..5),
        vec(any::<(u32, u32, u32)>().prop_map(|(a, b, c)| LargeCommunity(a, b, c)), 0..5),
        option::of(any::<u32>().prop_map(Asn)),
    )
        .prop_map(|(basic, atomic_aggregate, aggregator, originator_id, cluster_list, extended, large, otc)| {
            Attributes {
                atomic_aggregate,
                aggregator,
                originator_id,
                cluster_list,
                extended_communities: extended,
                large_communities: large,
                only_to_customer: otc,
                ..basic
            }
        })
}

fn any_next_hop_v6() -> impl Strategy<Value = std::net::Ipv6Addr> {
    (0x2001_u16..0xfe00, any::<[u16; 7]>())
        .prop_map(|(first, [a, b, c, d, e, f, g])| std::net::Ipv6Addr::new(first, a, b, c, d, e, f, g))
}

fn any_reach() -> impl Strategy<Value = MpReach> {
    prop_oneof![
        (any_next_hop_v6(), option::of(any_next_hop_v6()), vec(any_v6(), 0..20))
            .prop_map(|(next_hop, link_local, prefixes)| MpReach::Ipv6 { next_hop, link_local, prefixes }),
        vec(any_v4(), 0..20).prop_map(|prefixes| MpReach::Ipv4 { next_hop: [192, 0, 2, 1].into(), prefixes }),
        (3_u16.., vec(any::<u8>(), 0..20)).prop_map(|(afi, rest)| MpReach::Other { afi, safi: 4, rest }),
    ]
}

fn any_unreach() -> impl Strategy<Value = MpUnreach> {
    prop_oneof![
        vec(any_v4(), 0..20).prop_map(MpUnreach::Ipv4),
        vec(any_v6(), 0..20).prop_map(MpUnreach::Ipv6),
        (3_u16.., vec(any::<u8>(), 0..20)).prop_map(|(afi, rest)| MpUnreach::Other { afi, safi: 4, rest }),
    ]
}

fn any_update(largest_asn: u32) -> impl Strategy<Value = Update> {
    (
        vec(any_v4(), 0..20),
        option::of(any_unreach()),
        option::of(any_reach()),
        any_attributes(largest_asn),
        vec(any_v4(), 0..20),
    )
        .prop_map(|(withdrawn, mp_unreach, mp_reach, attributes, announced)| Update {
            withdrawn,
            mp_unreach,
            mp_reach,
            attributes,
            announced,
            path_ids: PathIds::default(),
            flaws: Vec::new(),
            left_out: Vec::new(),
        })
}

fn any_open() -> impl Strategy<Value = Open> {
    let capability = prop_oneof![
        Just(Capability::Multiprotocol(Family::Ipv4)),
        Just(Capability::Multiprotocol(Family::Ipv6)),
        Just(Capability::RouteRefresh),
        (1_u32..).prop_map(|asn| Capability::FourOctetAs(Asn(asn))),
        Just(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessages),
        Just(Capability::EnhancedRouteRefresh),
        prop_oneof![Just(Role::Provider), Just(Role::RouteServerClient), Just(Role::Peer)].prop_map(Capability::Role),
        (any::<bool>(), any::<bool>()).prop_map(|(receive, send)| {
            let family = |family| AddPath { family, receive: receive || !send, send };
            Capability::AddPath(Family::ALL.map(family).into())
        }),
        (any::<bool>(), any::<bool>(), 0_u16..4096, any::<bool>()).prop_map(|(restarted, notification, time, kept)| {
            let families = vec![(Family::Ipv6, kept)];
            Capability::GracefulRestart(GracefulRestart { restarted, notification, restart_time_s: time, families })
        }),
        vec((any::<bool>(), 0..=LongLived::LONGEST_S), 0..3).prop_map(|families| {
            let family = |(forwarding, stale_time_s)| LongLived { family: Family::Ipv4, forwarding, stale_time_s };
            Capability::LongLivedGracefulRestart(families.into_iter().map(family).collect())
        }),
        (72_u8.., vec(any::<u8>(), 0..90)).prop_map(|(code, value)| Capability::Other { code, value }),
    ];
    (1_u16.., prop_oneof![Just(0_u16), 3_u16..], 1_u32.., vec(capability, 0..8)).prop_map(
        |(my_as, hold_time, router_id, capabilities)| Open {
            my_as,
            hold_time: HoldTime::from_secs(hold_time).unwrap(),
            router_id: RouterId::new(router_id.into()).unwrap(),
            capabilities,
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        any_open().prop_map(Message::Open),
        any_update(u32::MAX).prop_map(Message::Update),
        (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..64))
            .prop_map(|(code, subcode, data)| Message::Notification(Notification::new(ErrorCode(code, subcode), data))),
        Just(Message::KeepAlive),
        (any::<u16>(), any::<u8>(), any::<u8>()).prop_map(|(afi, subtype, safi)| Message::RouteRefresh(RouteRefresh {
            afi,
            subtype,
            safi
        })),
    ]
}

/// What we accept whole stays the same through another encode and decode.
fn stable(bytes: &[u8], context: Context) {
    if let Ok(message) = Message::decode(bytes, context) {
        if let Message::Update(update) = &message
            && !(update.flaws.is_empty() && update.left_out.is_empty())
        {
            return;
        }
        let again = message.encode(context).expect("a short message stays short");
        assert_eq!(Message::decode(&again, context), Ok(message));
    }
}

// bgpkit-parser takes a list that starts with a zero length for one with path identifiers (RFC 7911), which
// a session has to negotiate; so no default route is shown to it.
fn any_v4_but_default() -> impl Strategy<Value = Ipv4Net> {
    any_v4_from(1)
}

fn any_v6_but_default() -> impl Strategy<Value = Ipv6Net> {
    any_v6_from(1)
}

/// Every update, in a session that has settled everything, with identifiers for all of its prefixes.
fn any_rich_update() -> impl Strategy<Value = Update> {
    (any_update(u32::MAX), any_next_hop_v6(), vec(any::<u32>(), 20), any::<bool>()).prop_map(
        |(mut update, next_hop, ids, by_v6)| {
            if by_v6 && let Some(MpReach::Ipv4 { prefixes, .. }) = update.mp_reach {
                update.mp_reach = Some(MpReach::Ipv4ByIpv6 { next_hop, link_local: None, prefixes });
            }
            let of = |length: usize| ids.iter().copied().take(length).collect();
            let reach = match &update.mp_reach {
                Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => prefixes.len(),
                Some(MpReach::Ipv6 { prefixes, .. }) => prefixes.len(),
                Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => 0,
            };
            let unreach = match &update.mp_unreach {
                Some(MpUnreach::Ipv4(prefixes)) => prefixes.len(),
                Some(MpUnreach::Ipv6(prefixes)) => prefixes.len(),
                Some(MpUnreach::Flow { .. } | MpUnreach::Other { .. }) | None => 0,
            };
            update.path_ids = PathIds {
                withdrawn: of(update.withdrawn.len()),
                mp_unreach: of(unreach),
                mp_reach: of(reach),
                announced: of(update.announced.len()),
            };
            update
        },
    )
}

const RICH: Context = Context {
    four_octet_as: true,
    external: false,
    extended_messages: true,
    enhanced_refresh: true,
    ipv4_by_ipv6: true,
    path_ids: Families { ipv4: true, ipv6: true },
    flow: Families { ipv4: true, ipv6: true },
};

proptest! {
    #[test]
    fn decode_inverts_encode_where_everything_is_settled(update in any_rich_update()) {
        let bytes = Message::Update(update.clone()).encode(RICH).unwrap();
        prop_assert_eq!(Message::decode(&bytes, RICH), Ok(Message::Update(update)));
    }

    #[test]
    fn any_update_body_is_decoded_or_refused_where_everything_is_settled(body in vec(any::<u8>(), 0..300)) {
        let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
        stable(&[&[0xff; 16], length.as_slice(), &[2], &body].concat(), RICH);
    }

    #[test]
    fn decode_inverts_encode(message in any_message()) {
        let bytes = message.encode(Context::default()).unwrap();
        prop_assert_eq!(Message::decode(&bytes, Context::default()), Ok(message));
    }

    #[test]
    fn decode_inverts_encode_to_a_two_octet_speaker(update in any_update(65_535)) {
        let context = Context { external: false, ..Context::LEAST };
        let bytes = Message::Update(update.clone()).encode(context).unwrap();
        prop_assert_eq!(Message::decode(&bytes, context), Ok(Message::Update(update)));
    }

    #[test]
    fn a_path_of_large_numbers_passes_a_two_octet_speaker(numbers in vec((1_u32..).prop_map(Asn), 1..20)) {
        let context = Context { external: true, ..Context::LEAST };
        let path = AsPath::sequence(numbers);
        let update = Update {
            attributes: Attributes { as_path: Some(path.clone()), ..Attributes::default() },
            ..Update::default()
        };
        let bytes = Message::Update(update).encode(context).unwrap();
        let Ok(Message::Update(update)) = Message::decode(&bytes, context) else { panic!() };
        prop_assert_eq!(update.attributes.as_path, Some(path));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..200), four_octet_as: bool, external: bool) {
        stable(&bytes, Context { four_octet_as, external, ..Context::LEAST });
        let mut framer = Framer::default();
        framer.push(&bytes);
        while let Ok(Some(frame)) = framer.next_frame() {
            stable(frame, Context { four_octet_as, external, ..Context::LEAST });
        }
    }

    #[test]
    fn any_body_is_decoded_or_refused(
        kind in 1_u8..=5,
        body in vec(any::<u8>(), 0..200),
        four_octet_as: bool,
        external: bool,
    ) {
        let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
        let frame = [&[0xff; 16], length.as_slice(), &[kind], &body].concat();
        stable(&frame, Context { four_octet_as, external, ..Context::LEAST });
    }

    #[test]
    fn a_damaged_message_is_decoded_or_refused(
        message in any_message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        external: bool,
    ) {
        let mut bytes = message.encode(Context::default()).unwrap();
        for (at, to) in damage {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        stable(&bytes, Context { external, ..Context::default() });
    }

    #[test]
    fn bgpkit_reads_our_announcements(
        attributes in any_attributes(u32::MAX),
        v4 in vec(any_v4_but_default(), 1..2000),
        v6 in vec(any_v6_but_default(), 1..600),
        next_hop in any_next_hop_v6(),
    ) {
        let context = Context::default();
        let expected = [
            v4.iter().copied().map(IpNet::V4).collect::<Vec<_>>(),
            v6.iter().copied().map(IpNet::V6).collect::<Vec<_>>(),
        ];
        let updates = [
            announce_v4(&attributes, [192, 0, 2, 9].into(), v4, context).unwrap(),
            announce_v6(&attributes, next_hop, v6, context).unwrap(),
        ];
        for (updates, expected) in updates.into_iter().zip(expected) {
            let mut seen = Vec::new();
            for update in updates {
                let bytes = Message::Update(update).encode(context).unwrap();
                prop_assert!(bytes.len() <= bgp_wire::MAX_LENGTH);
                let theirs = bgpkit(&bytes);
                let BgpMessage::Update(theirs) = theirs else { panic!("{theirs:?}") };
                seen.extend(theirs.announced_prefixes.iter().map(|prefix| prefix.prefix));
                for attribute in theirs.attributes.iter() {
                    match attribute {
                        AttributeValue::MpReachNlri(reach) => {
                            seen.extend(reach.prefixes.iter().map(|prefix| prefix.prefix));
                            prop_assert_eq!(reach.next_hop_addr(), std::net::IpAddr::from(next_hop));
                        }
                        AttributeValue::LocalPreference(value) => prop_assert_eq!(Some(*value), attributes.local_pref),
                        AttributeValue::MultiExitDiscriminator(value) => {
                            prop_assert_eq!(Some(*value), attributes.multi_exit_disc);
                        }
                        _ => {}
                    }
                }
                let communities = theirs.attributes.iter_communities().filter(|community| matches!(community, MetaCommunity::Plain(_)));
                prop_assert_eq!(communities.count(), attributes.communities.len());
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn bgpkit_reads_our_withdrawals_and_opens(
        v4 in vec(any_v4_but_default(), 1..2000),
        v6 in vec(any_v6_but_default(), 1..600),
        asn in 1_u32..,
    ) {
        let mut seen = Vec::new();
        for update in withdraw_v4(v4.clone(), Context::default()).into_iter().chain(withdraw_v6(v6.clone(), Context::default())) {
            let theirs = bgpkit(&Message::Update(update).encode(Context::default()).unwrap());
            let BgpMessage::Update(theirs) = theirs else { panic!("{theirs:?}") };
            seen.extend(theirs.withdrawn_prefixes.iter().map(|prefix| prefix.prefix));
            for attribute in theirs.attributes.iter() {
                if let AttributeValue::MpUnreachNlri(gone) = attribute {
                    seen.extend(gone.prefixes.iter().map(|prefix| prefix.prefix));
                }
            }
        }
        let expected: Vec<IpNet> = v4.into_iter().map(IpNet::V4).chain(v6.into_iter().map(IpNet::V6)).collect();
        prop_assert_eq!(seen, expected);

        let router_id = RouterId::new([198, 51, 100, 2].into()).unwrap();
        let open = Open::new(Asn(asn), HoldTime::from_secs(90).unwrap(), router_id, Family::ALL);
        let theirs = bgpkit(&Message::Open(open).encode(Context::default()).unwrap());
        let BgpMessage::Open(theirs) = theirs else { panic!("{theirs:?}") };
        prop_assert_eq!(theirs.hold_time, 90);
        prop_assert_eq!(theirs.bgp_identifier.octets(), [198, 51, 100, 2]);
    }
}

proptest! {
    // Large lists: few of them.
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_is_packed_fits_and_is_all_there(
        v4 in vec(any_v4(), 1..30_000), v6 in vec(any_v6(), 1..5_000), next_hop in any_next_hop_v6(),
        extended: bool, ids: bool,
    ) {
        let path_ids = if ids { RICH.path_ids } else { Families::NONE };
        let context = Context { extended_messages: extended, path_ids, ..RICH };
        let attributes = Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
        let came = [
            announce_v4(&attributes, [192, 0, 2, 1].into(), v4.iter().copied(), context).unwrap(),
            announce_v4_by_v6(&attributes, next_hop, v4.iter().copied(), context).unwrap(),
            announce_v6(&attributes, next_hop, v6.iter().copied(), context).unwrap(),
        ].concat();
        let went = [withdraw_v4(v4.iter().copied(), context), withdraw_v6(v6.iter().copied(), context)].concat();
        let (mut reachable, mut unreachable) = (0, 0);
        for update in came.into_iter().chain(went) {
            let bytes = Message::Update(update).encode(context).unwrap();
            let Ok(Message::Update(update)) = Message::decode(&bytes, context) else { panic!() };
            prop_assert!(update.flaws.is_empty());
            reachable += update.reachable().count();
            unreachable += update.unreachable().count();
        }
        prop_assert_eq!(reachable, 2 * v4.len() + v6.len());
        prop_assert_eq!(unreachable, v4.len() + v6.len());
    }
}

fn bgpkit(bytes: &[u8]) -> BgpMessage {
    parse_bgp_message(&mut bytes.to_vec().into(), false, &AsnLength::Bits32).expect("bgpkit-parser reads it")
}

proptest! {
    #[test]
    fn an_attribute_list_reads_as_it_was_written(attributes in basic_attributes(u32::MAX), four_octet_as: bool) {
        let context = Context { four_octet_as, ..Context::LEAST };
        let mut list = Vec::new();
        attributes.encode(attributes.next_hop, context, &mut list).unwrap();
        prop_assert!(list.windows(2).count() > 0);
        let read = Attributes::decode(&list, context);
        let confederation = attributes.as_path.iter().flat_map(|path| &path.0).any(|segment| {
            matches!(segment, Segment::ConfederationSequence(_) | Segment::ConfederationSet(_))
        });
        // Two octets lose where a confederation stood among long numbers (RFC 6793 §4.2.3).
        prop_assert!(read.as_ref() == Some(&attributes) || (!four_octet_as && confederation && read.is_some()));
    }

    #[test]
    fn an_attribute_list_of_arbitrary_bytes_never_panics(list in vec(any::<u8>(), 0..200)) {
        for context in [Context::LEAST, Context { external: true, ..Context::default() }] {
            if let Some(attributes) = Attributes::decode(&list, context) {
                let mut again = Vec::new();
                attributes.encode(attributes.next_hop, context, &mut again).unwrap();
                prop_assert_eq!(Attributes::decode(&again, context), Some(attributes));
            }
        }
    }

    #[test]
    fn a_prepended_path_begins_with_its_as_and_counts_one_more(path in any_path(u32::MAX), asn in 1..u32::MAX) {
        let longer = path.prepended(Asn(asn));
        prop_assert_eq!(longer.first(), Some(Asn(asn)));
        prop_assert_eq!(longer.length(), path.length() + 1);
        prop_assert_eq!(longer.origin(), if path.length() == 0 { Some(Asn(asn)) } else { path.origin() });
    }
}
