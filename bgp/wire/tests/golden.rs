//! Messages as BIRD 2.0.12 and FRR 8.4.4 send them, and as we do.

#![cfg(test)]

use std::collections::BTreeSet;

use bgp_wire::{
    AsPath, Asn, Attributes, Capability, Community, Context, ErrorCode, Family, GracefulRestart, HoldTime,
    LargeCommunity, Message, MpReach, Notification, Open, Origin, RouterId, Update, announce_v4, announce_v6,
    withdraw_v4, withdraw_v6,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let (pairs, []) = digits.as_chunks::<2>() else { panic!("odd number of digits") };
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

fn message(body: &str) -> Vec<u8> {
    hex(&format!("{MARKER}{body}"))
}

fn decode(body: &str) -> Message {
    Message::decode(&message(body), Context::default()).unwrap()
}

fn update(body: &str) -> Update {
    match decode(body) {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

fn router_id(text: &str) -> RouterId {
    RouterId::new(text.parse().unwrap()).unwrap()
}

#[test]
fn the_open_of_bird_with_a_four_octet_as() {
    let Message::Open(open) =
        decode("003b01045ba000f00a0000011e021c0104000100010104000200010200400200784104fa56ea0146004700")
    else {
        panic!()
    };
    assert_eq!(open.my_as, 23456);
    assert_eq!(open.asn(), Asn(4_200_000_001));
    assert_eq!(open.hold_time, HoldTime::from_secs(240).unwrap());
    assert_eq!(open.router_id, router_id("10.0.0.1"));
    assert_eq!(open.families(), BTreeSet::from(Family::ALL));
    assert!(open.capabilities.contains(&Capability::RouteRefresh));
    let restart = GracefulRestart { restart_time_s: 120, ..GracefulRestart::default() };
    assert!(open.capabilities.contains(&Capability::GracefulRestart(restart)));
}

#[test]
fn the_open_of_frr_with_a_parameter_for_each_capability() {
    let Message::Open(open) = decode(
        "00710104fbf400b40a0000025402060104000100010206010400020001020280000202020002024600020641040000fbf4\
         02020600020a450800010101000201010206490402766d0002044002c0780210470e0001018000000000020180000000",
    ) else {
        panic!()
    };
    assert_eq!(open.asn(), Asn(64500));
    assert_eq!(open.families(), BTreeSet::from(Family::ALL));
    assert_eq!(open.capabilities.len(), 11);
}

#[test]
fn ipv4_routes_of_frr_with_communities() {
    let update = update(
        "0048020000002840010100500200004003047f0000018004040000000740050400000064c00808fbf40064ffffff01\
         18c6336419cb007100",
    );
    assert_eq!(
        update,
        Update {
            attributes: Attributes {
                origin: Some(Origin::Igp),
                as_path: Some(AsPath::default()),
                next_hop: Some("127.0.0.1".parse().unwrap()),
                multi_exit_disc: Some(7),
                local_pref: Some(100),
                communities: vec!["64500:100".parse().unwrap(), Community::NO_EXPORT],
                ..Attributes::default()
            },
            announced: vec!["198.51.100.0/24".parse().unwrap(), "203.0.113.0/25".parse().unwrap()],
            ..Update::default()
        }
    );
}

#[test]
fn an_ipv6_route_of_frr_with_a_large_community() {
    let update = update(
        "005c0200000045900e001c0002011020010db8000000000000000000000001003020010db85100\
         40010100500200008004040000000040050400000064c0200c0000fbf40000000100000002",
    );
    assert_eq!(
        update.mp_reach,
        Some(MpReach::Ipv6 {
            next_hop: "2001:db8::1".parse().unwrap(),
            link_local: None,
            prefixes: vec!["2001:db8:5100::/48".parse().unwrap()]
        })
    );
    assert_eq!(update.attributes.large_communities, [LargeCommunity(64500, 1, 2)]);
    assert!(update.attributes.others.is_empty());
}

#[test]
fn withdrawals_and_ends_of_rib_of_bird() {
    let gone = update("002002000918c6336419cb0071000000");
    let prefixes: Vec<String> = gone.unreachable().map(|prefix| prefix.to_string()).collect();
    assert_eq!(prefixes, ["198.51.100.0/24", "203.0.113.0/25"]);
    assert_eq!(gone.ends_rib_of(), None);
    assert_eq!(update("00170200000000").ends_rib_of(), Some(Family::Ipv4));
    assert_eq!(update("001d0200000006800f03000201").ends_rib_of(), Some(Family::Ipv6));
}

#[test]
fn the_notification_of_a_shutdown() {
    let expected = Notification::from(ErrorCode::ADMINISTRATIVE_SHUTDOWN);
    assert_eq!(expected.to_string(), "6/2 Administrative Shutdown");
    assert_eq!(decode("0015030602"), Message::Notification(expected));
}

#[test]
fn our_own_messages_to_the_octet() {
    let encode = |message: Message| message.encode(Context::default()).unwrap();
    let open = Open::new(Asn(64500), HoldTime::from_secs(9).unwrap(), router_id("198.51.100.2"), Family::ALL);
    assert_eq!(
        encode(Message::Open(open)),
        message("00330104fbf40009c63364021602140104000100010104000200010200 4104 0000fbf4")
    );
    assert_eq!(encode(Message::KeepAlive), message("001304"));

    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::default()),
        local_pref: Some(100),
        communities: vec![Community::NO_EXPORT],
        ..Attributes::default()
    };
    let next_hop = "198.51.100.2".parse().unwrap();
    let v4 = announce_v4(&attributes, next_hop, ["203.0.113.200/32".parse().unwrap()], Context::default()).unwrap();
    let expected = "0038 02 0000 001c 40010100 400200 400304c6336402 40050400000064 c00804ffffff01 20cb0071c8";
    assert_eq!(v4.into_iter().map(|update| encode(Message::Update(update))).collect::<Vec<_>>(), [message(expected)]);

    let next_hop = "2001:db8:5100:1::2".parse().unwrap();
    let v6 = announce_v6(&attributes, next_hop, ["2001:db8:c10a::200/128".parse().unwrap()], Context::default());
    let expected = "0055 02 0000 003e 800e26 00020110 20010db8510000010000000000000002 00 \
        80 20010db8c10a00000000000000000200 40010100 400200 40050400000064 c00804ffffff01";
    let v6 = v6.unwrap();
    assert_eq!(v6.into_iter().map(|update| encode(Message::Update(update))).collect::<Vec<_>>(), [message(expected)]);

    let gone = withdraw_v4(["203.0.113.200/32".parse().unwrap()], Context::default());
    assert_eq!(encode(Message::Update(gone[0].clone())), message("001c 02 0005 20cb0071c8 0000"));
    let gone = withdraw_v6(["2001:db8:c10a::200/128".parse().unwrap()], Context::default());
    let expected = "002e 02 0000 0017 800f14 000201 80 20010db8c10a00000000000000000200";
    assert_eq!(encode(Message::Update(gone[0].clone())), message(expected));
}

#[test]
fn eight_hundred_host_routes_share_an_update() {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::default()),
        local_pref: Some(100),
        communities: vec![Community::NO_EXPORT],
        ..Attributes::default()
    };
    let v4 = (0..10_000_u32).map(|n| ipnet::Ipv4Net::from(std::net::Ipv4Addr::from(0x0a00_0000 + n)));
    let updates = announce_v4(&attributes, "192.0.2.1".parse().unwrap(), v4, Context::default()).unwrap();
    let sizes: Vec<usize> = updates.iter().map(|update| update.announced.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 10_000);
    assert!(sizes.iter().rev().skip(1).all(|size| *size >= 800), "{sizes:?}");
    let v6 = (0..1_000_u128).map(|n| ipnet::Ipv6Net::from(std::net::Ipv6Addr::from(n + 1)));
    let updates = announce_v6(&attributes, "2001:db8::1".parse().unwrap(), v6, Context::default()).unwrap();
    let sizes: Vec<usize> = updates.iter().map(|update| update.reachable().count()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 1_000);
    assert!(sizes.iter().rev().skip(1).all(|size| *size >= 230), "{sizes:?}");
    for update in updates {
        assert!(Message::Update(update).encode(Context::default()).is_ok());
    }
}
