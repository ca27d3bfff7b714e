//! Writes the first inputs of each corpus: `cargo run --example seeds`. It makes what libFuzzer would
//! take long to guess, valid messages of every kind, and leaves what was found later alone.

#[path = "seeds/ecash.rs"]
mod ecash;
#[path = "seeds/kept.rs"]
mod kept;
#[path = "seeds/kernel.rs"]
mod kernel;

use std::fs;
use std::path::Path;

use bgp_bmp::{Down, Message as Bmp, PeerHeader, PeerKey, PeerKind, PeerUp, Statistic, View};
use bgp_rpki::{ErrorKind, Pdu, Timing, Version, Vrp};
use bgp_wire::{
    AsPath, Asn, Attributes, Capability, Community, Context, ErrorCode, Families, Family, FlowRule, HoldTime, Message,
    Notification, Open, Origin, RouteRefresh, RouterId, Update, announce_flow, announce_v4, announce_v6, withdraw_v4,
    withdraw_v6,
};
use cloakway_crypto::sign::SigningKey;
use cloakway_crypto::{Secret, encode};
use cloakway_fuzz::SECRET;
use cloakway_types::{Money, Timestamp};
use toolbox_wire::accounting::kind;
use toolbox_wire::radius::{Request, build_request};
use transact_bank::{
    Acceptor, Authorisation, CardNumber, Codec, Expiry, MacKey, Movement, NetworkCode, Profile, Reversal, ReversalKind,
    Trace, frame,
};
use transact_wire::order::{Issued, Order, Placement, Reference};
use transact_wire::payment::{Claim, Outcome, Page, Payment, PaymentState};
use transact_wire::result::{Acknowledgement, Pending, PurchaseResult, SignedResult, Verdict};

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() -> std::io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora");
    let all: [(&str, Seeds); 29] = [
        ("bgp_flow", flow()),
        ("bgp_framer", streams(&bgp())),
        ("bgp_message", bgp()),
        ("bgp_rib", rib()),
        ("bmp_station", bmp()),
        ("cloak_frames", cloak()),
        ("ecash_ends", ecash::clear()),
        ("ecash_fields", ecash::fields()),
        ("ecash_frame", ecash::messages()),
        ("forwarder_frame", frames()),
        ("forwarder_line", forwarder()),
        ("forwarder_netlink", kernel::netlink()),
        ("forwarder_packet", packets()),
        ("forwarder_ruleset", kernel::rulesets()),
        ("iso8583_framer", framed_iso8583()),
        ("iso8583_message", iso8583()),
        ("iso8583_profile", iso8583_profiles()),
        ("card_range", card_ranges()),
        ("journal_log", kept::log()),
        ("mrt_rib", mrt()),
        ("radius_packet", radius()),
        ("rtr_client", rtr()),
        ("tap_frame", kept::frames()),
        ("toolbox_row", kept::rows()),
        ("toolbox_stream", kept::streams()),
        ("toolbox_verify", toolbox()),
        ("toolbox_words", kept::words()),
        ("transact_form", transact_forms()),
        ("transact_json", transact()),
    ];
    for (target, seeds) in all {
        let folder = corpora.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(format!("seed-{name}")), bytes)?;
        }
    }
    Ok(())
}

fn unhex(text: &str) -> Vec<u8> {
    encode::unhex(&text.split_whitespace().collect::<String>()).expect("hexadecimal")
}

/// Packets with everything that the forwarder's model follows.
fn packets() -> Seeds {
    let v6 = "20010db8510000640000000000000070 20010db8c10a00000000000000000200";
    let udp = "2328 01bb 0008 0000";
    vec![
        ("udp4", unhex("4500 001c 0001 0000 4011 138e c633 6446 cb00 71c8 2328 01bb 0008 0000")),
        ("udp6", unhex(&format!("60000000 0008 11 40 {v6} {udp}"))),
        ("fragment6", unhex(&format!("60000000 0010 2c 40 {v6} 1100 0001 00000001 {udp}"))),
        ("hop-by-hop6", unhex(&format!("60000000 0010 00 40 {v6} 1100 0104 00000000 {udp}"))),
        ("routing6", unhex(&format!("60000000 0010 2b 40 {v6} 1100 0000 00000000 {udp}"))),
        ("authentication6", unhex(&format!("60000000 0014 33 40 {v6} 1101 0000 00000001 00000001 {udp}"))),
        ("solicitation6", unhex(&format!("60000000 0008 3a ff {v6} 8700 0000 00000000"))),
    ]
}

/// The same packets in frames from the subscribers' side, and turned round from a private link; and a super-packet.
fn frames() -> Seeds {
    let frame = |port: u8, segment: u8, packet: &[u8]| {
        let kind: &[u8] = if packet[0] >> 4 == 4 { &[8, 0] } else { &[0x86, 0xdd] };
        [&[port, segment][..], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9], kind, packet].concat()
    };
    let mut frames: Seeds = packets().into_iter().map(|(name, packet)| (name, frame(0, 0, &packet))).collect();
    let answer = unhex("4500 001c 0001 0000 4011 138e cb00 71c8 c633 6446 01bb 2328 0008 0000");
    let last_hop = unhex("4500 001c 0001 0000 0111 528e c633 6446 cb00 71c8 2328 01bb 0008 0000");
    frames.push(("answer4", frame(1, 0, &answer)));
    frames.push(("last-hop4", frame(0, 0, &last_hop)));
    frames
        .push(("super4", frame(0, 1, &unhex("4500 001c 0001 0000 4011 138e c633 6446 cb00 71c8 2328 01bb 0008 0000"))));
    frames
}

/// What peers do, in the order of kind, peer, and what the kind takes; after each the address that is looked up.
fn rib() -> Seeds {
    let announce = |peer, high, low, bits, flags| vec![0, peer, high, low, bits, flags, high, low, low];
    let withdraw = |peer, high, low, bits| vec![5, peer, high, low, bits, high, low, low];
    let does = |kind, peer| vec![kind, peer, 0, 0x41, 0x41];
    let read = |octets| vec![11, 0, octets, 0, 0x41, 0x41];
    let nested = [announce(0, 0, 0x41, 8, 0), announce(1, 0, 0x41, 16, 1), announce(0, 0, 0x41, 24, 2)].concat();
    let rivals = [announce(0, 3, 1, 24, 2), announce(1, 3, 1, 24, 0), announce(2, 3, 1, 24, 1), withdraw(1, 3, 1, 24)];
    let again = [does(9, 0), announce(0, 0, 0x41, 8, 0x40), does(10, 0), read(255)].concat();
    let told =
        |on_the_way: Vec<u8>| [nested.clone(), read(255), does(12, 0), on_the_way, does(12, 0), read(9)].concat();
    let ours = [announce(0, 1, 1, 24, 0), announce(1, 2, 1, 24, 0), announce(0, 0, 0, 0, 0x80), read(20)].concat();
    vec![
        ("nested", nested.clone()),
        ("rivals", rivals.concat()),
        ("told-again", [nested.clone(), again].concat()),
        ("taken-back-and-told", told(read(255))),
        ("told-otherwise-twice", told(read(1))),
        ("lost", [nested.clone(), read(1), does(7, 0), read(255)].concat()),
        ("stale", [nested, does(8, 0), does(8, 0), does(10, 1)].concat()),
        ("ours", ours),
    ]
}

/// The examples of RFC 8955 and RFC 8956, and a rule of every component.
fn flow() -> Seeds {
    let rule = |text: &str| {
        let rule: FlowRule = text.parse().expect("a rule");
        [&[u8::from(rule.family() == Family::Ipv6)], rule.encode().as_slice()].concat()
    };
    vec![
        ("port-25", rule("destination 192.0.2.0/24 protocol =6 port =25")),
        ("ports", rule("destination 192.0.2.0/24 source 203.0.113.0/24 port >=137&<=139 =8080")),
        ("fragment", rule("destination 192.0.2.1/32 fragment 0x5")),
        ("offset", rule("destination 2001:db8::/32 source ::1234:5678:9a00:0/64-104 protocol =6")),
        ("odd-offset", rule("destination 2001:db8::/32 source ::1234:5678:9a00:0/65-104")),
        (
            "everything",
            rule(
                "destination 2001:db8::/32 source 2001:db8:1::/48 protocol =6 =17 port >1&<9 destination-port =443 \
                 source-port !=53 icmp-type =128 icmp-code =0 tcp-flags =syn&!ack packet-length true:1500 dscp =46 \
                 fragment !is-fragment flow-label =7",
            ),
        ),
    ]
}

/// UPDATEs of flow specifications.
fn flow_updates(attributes: &Attributes) -> Seeds {
    let context = Context { flow: Families { ipv4: true, ipv6: true }, ..Context::default() };
    let rules: Vec<FlowRule> = ["destination 203.0.113.200/32 protocol =6 destination-port =443", "ipv6 protocol =17"]
        .map(|text| text.parse().expect("a rule"))
        .into();
    let write = |update: &Update| Message::Update(update.clone()).encode(context).expect("a valid message");
    let announced = |family| announce_flow(attributes, family, &rules, context).expect("it fits");
    vec![
        ("announce-flow-v4", write(&announced(Family::Ipv4)[0])),
        ("announce-flow-v6", write(&announced(Family::Ipv6)[0])),
        ("end-of-flow", write(&Update::end_of_flow(Family::Ipv4))),
    ]
}

fn bgp() -> Seeds {
    let context = Context::default();
    let write = |message: Message| message.encode(context).expect("a valid message");
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64500), Asn(4_200_000_001)])),
        local_pref: Some(100),
        multi_exit_disc: Some(5),
        communities: vec![Community::NO_EXPORT],
        ..Attributes::default()
    };
    let v4 = || ["203.0.113.200/32", "198.51.100.0/24"].map(|prefix| prefix.parse().expect("a prefix"));
    let v6 = || ["2001:db8:c10a::200/128", "2001:db8::/32"].map(|prefix| prefix.parse().expect("a prefix"));
    let one = |updates: Vec<Update>| write(Message::Update(updates.into_iter().next().expect("a message")));
    let announced = announce_v4(&attributes, [198, 51, 100, 2].into(), v4(), context).expect("it fits");
    let two_octets = Context { external: true, ..Context::LEAST };
    let mut open = Open::new(
        Asn(64500),
        HoldTime::from_secs(9).expect("allowed"),
        RouterId::new([198, 51, 100, 2].into()).expect("not zero"),
        Family::ALL,
    );
    open.capabilities.push(Capability::Other { code: 64, value: vec![0, 0x78] });
    let next_hop_v6 = "2001:db8:5100:1::2".parse().expect("an address");
    let mut seeds = vec![
        ("open", write(Message::Open(open))),
        (
            // BIRD 2.0.12.
            "open-of-bird",
            unhex(
                "ffffffffffffffffffffffffffffffff 003b01045ba000f00a0000011e021c010400010001
                 0104000200010200400200784104fa56ea0146004700",
            ),
        ),
        (
            // FRR 8.4.4: a parameter for each capability.
            "open-of-frr",
            unhex(
                "ffffffffffffffffffffffffffffffff 00710104fbf400b40a00000254020601040001000102060104
                 00020001020280000202020002024600020641040000fbf402020600020a450800010101000201010206490402766d00
                 02044002c0780210470e0001018000000000020180000000",
            ),
        ),
        ("announce-two-octet", Message::Update(announced[0].clone()).encode(two_octets).expect("a valid message")),
        ("announce-v4", one(announced)),
        ("announce-v6", one(announce_v6(&attributes, next_hop_v6, v6(), context).expect("it fits"))),
        ("withdraw-v4", one(withdraw_v4(v4(), Context::default()))),
        ("withdraw-v6", one(withdraw_v6(v6(), Context::default()))),
        ("end-of-rib-v6", write(Message::Update(Update::end_of_rib(Family::Ipv6)))),
        ("keepalive", write(Message::KeepAlive)),
        ("notification", write(Message::Notification(Notification::new(ErrorCode::BAD_LENGTH, [0, 18])))),
        ("route-refresh", write(Message::RouteRefresh(RouteRefresh { afi: 1, subtype: 0, safi: 1 }))),
        // ORIGIN twice and a value that it cannot have; MP_REACH_NLRI with a next hop that is no host.
        ("flawed", unhex("02 0000 0019 40010107 40010100 400200 400304c6336402 c00804ffffff01 18cb0071")),
        (
            "flawed-v6",
            unhex("02 0000 0025 400101004002 00 800e1b 00020110 ff020000000000000000000000000001 00 2020010db8 00"),
        ),
    ];
    seeds.extend(flow_updates(&attributes));
    seeds
}

/// The messages one behind the other, cut in small and in large pieces.
fn streams(messages: &Seeds) -> Seeds {
    let whole: Vec<u8> =
        messages.iter().filter(|(_, m)| m.starts_with(&[0xff; 16])).flat_map(|(_, m)| m.clone()).collect();
    vec![
        ("octets", [&[1], whole.as_slice()].concat()),
        ("pieces", [&[200], whole.as_slice()].concat()),
        ("out-of-step", [&[19], &whole[..100], &[0], &whole[100..]].concat()),
    ]
}

/// Streams of a router, as `bmp_station` reads them: behind a byte that cuts.
fn bmp() -> Seeds {
    let context = Context::default();
    let write = |message: Message| message.encode(context).expect("a valid message");
    let open = |asn| {
        let id = RouterId::new([192, 0, 2, 1].into()).expect("not zero");
        write(Message::Open(Open::new(Asn(asn), HoldTime::from_secs(9).expect("allowed"), id, Family::ALL)))
    };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64500)])),
        ..Attributes::default()
    };
    let prefix = || vec!["203.0.113.200/32".parse().expect("a prefix")];
    let come = announce_v4(&attributes, [192, 0, 2, 7].into(), prefix(), context).expect("it fits");
    let come = write(Message::Update(come[0].clone()));
    let goes = write(Message::Update(withdraw_v4(prefix(), context)[0].clone()));
    let (sent, received) = (open(64500), open(64510));
    let header = |view| {
        let kind = if view == View::LocRib { PeerKind::LocRib } else { PeerKind::Global };
        let address = if view == View::LocRib { [0, 0, 0, 0] } else { [192, 0, 2, 142] };
        let key = PeerKey { kind, distinguisher: [0; 8], address: address.into() };
        PeerHeader { key, view, two_octet_as: false, asn: Asn(64510), router_id: [192, 0, 2, 9].into(), time: (1, 2) }
    };
    let up = |view| {
        let local_address = [192, 0, 2, 1].into();
        let (sent, received) = (sent.as_slice(), received.as_slice());
        let up =
            PeerUp { local_address, local_port: 179, remote_port: 1, sent, received, table: Some("main".to_owned()) };
        Bmp::PeerUp { peer: header(view), up }.encode()
    };
    let told = |view, update: &[u8]| Bmp::RouteMonitoring { peer: header(view), update }.encode();
    let hello = Bmp::Initiation { name: Some("edge".to_owned()), description: Some("a router".to_owned()) }.encode();
    let end = Bmp::Termination { reason: Some(0), text: Some("maintenance".to_owned()) }.encode();
    let down = Bmp::PeerDown { peer: header(View::AdjRibInPre), reason: Down::Event(2) }.encode();
    let leak = [
        &hello[..],
        &up(View::AdjRibInPre),
        &told(View::AdjRibOutPre, &come),
        &told(View::AdjRibOutPost, &come),
        &told(View::AdjRibOutPost, &goes),
        &down,
        &end,
    ];
    let numbers = [(0, None), (9, Some((1, 1)))].map(|(kind, family)| Statistic { kind, family, value: 7 });
    let numbers = Bmp::Statistics { peer: header(View::AdjRibInPre), statistics: numbers.into() }.encode();
    let mirrored =
        |message, lost| Bmp::Mirroring { peer: header(View::AdjRibInPre), message, errored: lost, lost }.encode();
    let mirrored = [&up(View::AdjRibInPre)[..], &mirrored(Some(&come), false), &mirrored(None, true), &numbers];
    let loc_rib = [&hello[..], &up(View::LocRib), &told(View::LocRib, &come), &told(View::AdjRibInPost, &come)];
    vec![
        ("leak", [&[255], leak.concat().as_slice()].concat()),
        ("mirrored-and-numbers", [&[255], mirrored.concat().as_slice()].concat()),
        ("leak-in-octets", [&[1], leak.concat().as_slice()].concat()),
        ("loc-rib", [&[7], loc_rib.concat().as_slice()].concat()),
        ("route-monitoring", told(View::AdjRibOutPost, &come)),
        ("peer-up", up(View::AdjRibInPre)),
    ]
}

/// Answers of a cache, as `rtr_client` reads them: behind a byte that cuts.
fn rtr() -> Seeds {
    let vrp = |prefix: &str, max_length| Vrp { prefix: prefix.parse().expect("a prefix"), max_length, asn: Asn(64500) };
    let come = |vrp| Pdu::Prefix { announce: true, vrp };
    let answer = |version| {
        let pdus = [
            Pdu::CacheResponse { session: 7 },
            come(vrp("10.0.0.0/8", 24)),
            come(vrp("2001:db8::/32", 48)),
            Pdu::EndOfData { session: 7, serial: 1, timing: Some(Timing::default()) },
            Pdu::SerialNotify { session: 7, serial: 2 },
            Pdu::CacheResponse { session: 7 },
            Pdu::Prefix { announce: false, vrp: vrp("10.0.0.0/8", 24) },
            Pdu::EndOfData { session: 7, serial: 2, timing: Some(Timing::default()) },
        ];
        pdus.iter().flat_map(|pdu| pdu.encode(version)).collect::<Vec<u8>>()
    };
    let refusal = Pdu::ErrorReport { kind: ErrorKind::UnsupportedVersion, about: vec![1, 2], text: "no".to_owned() };
    vec![
        ("version-1", [&[255], answer(Version::V1).as_slice()].concat()),
        ("version-0", [&[3], answer(Version::V0).as_slice()].concat()),
        ("refusal", [&[9], refusal.encode(Version::V0).as_slice()].concat()),
        ("reset", [&[9], Pdu::CacheReset.encode(Version::V1).as_slice()].concat()),
        ("payload", come(vrp("10.0.0.0/8", 24)).encode(Version::V1)),
    ]
}

fn cloak() -> Seeds {
    // Operations, as `cloak_frames` reads them.
    const ASK: [u8; 2] = [3, 11];
    const READ: u8 = 4;
    let segment = |who: u8, flags: u8, data: u8| [2, who, flags, 0, 0, 0, data].to_vec();
    let wait = |millis: u16| [&[1][..], &millis.to_be_bytes()].concat();
    let handshake = |who: u8| [segment(who, 2, 0), segment(who, 16, 0), vec![READ]].concat();
    let raw = |operation: u8, frame: &str| {
        let frame = unhex(frame);
        [&[operation, u8::try_from(frame.len()).expect("a short frame")], frame.as_slice()].concat()
    };
    const TO_CLOAK: &str = "0200000000c1 0200000000f0";
    let syn_v4 = format!(
        "{TO_CLOAK} 0800 45000028 00000000 40060000 c6336446 cb0071c8 9c4001bb000003e8000000005002040000000000"
    );
    let ping_v4 =
        format!("{TO_CLOAK} 0800 45000024 00000000 40010000 c6336446 cb0071c8 0800f7fd 00010001 3132333435363738");
    let syn_v6 = format!(
        "{TO_CLOAK} 86dd 6000000000140640 20010db8510000640000000000000070 20010db8c10a00000000000000000200
         9c4001bb000003e8000000005002040000000000"
    );
    let fragment_v6 = format!(
        "{TO_CLOAK} 86dd 6000000000082c40 20010db8510000640000000000000070 20010db8c10a00000000000000000200 0600000100000001"
    );
    let solicitation = "3333ff000200 0200000000f0 86dd 6000000000203aff 20010db8000000ff0000000000000001
         ff0200000000000000000001ff000200 8700000000000000 20010db8c10a00000000000000000200 01010200000000f0";
    vec![
        (
            "conversation-v4",
            [
                ASK.to_vec(),
                handshake(0),
                segment(0, 24, 10),
                vec![READ, 5, 0, 20],
                segment(0, 16, 0),
                vec![14, 0],
                wait(10),
                segment(0, 17, 0),
                segment(0, 16, 0),
            ]
            .concat(),
        ),
        (
            "conversation-v6",
            [
                ASK.to_vec(),
                handshake(1),
                segment(1, 24, 3),
                vec![READ, 5, 0, 200],
                wait(300),
                segment(1, 16, 0),
                segment(1, 17, 0),
                vec![6, 0],
                wait(900),
                segment(1, 16, 0),
            ]
            .concat(),
        ),
        // A SYN before the gateway is known; it answers later.
        (
            "late-gateway",
            [segment(0, 2, 0), segment(1, 2, 0), wait(500), vec![19, 27], segment(0, 16, 0), vec![READ, 7, 0]].concat(),
        ),
        (
            "flood",
            [
                ASK.to_vec(),
                (0..8).flat_map(|port| segment(port << 2, 2, 0)).collect(),
                wait(1100),
                (0..8).flat_map(|port| segment(port << 2 | 1, 2, 0)).collect(),
            ]
            .concat(),
        ),
        (
            "strangers",
            [
                ASK.to_vec(),
                segment(2, 2, 0),
                segment(3, 2, 0),
                segment(2, 16, 9),
                segment(0x20, 2, 0),
                segment(0, 4, 0),
                segment(0, 16, 1),
                segment(0, 2, 5),
            ]
            .concat(),
        ),
        (
            "reset",
            [ASK.to_vec(), handshake(0), segment(0, 4, 0), handshake(5), segment(5, 20, 0), vec![5, 0, 9]].concat(),
        ),
        // A SYN with MSS, window scale, SACK and timestamps, as Linux sends it.
        (
            "syn-of-linux",
            [
                ASK.to_vec(),
                vec![2, 0, 2, 0, 0, 5, 0],
                unhex("020405b4 0402080a 00000001 00000000 01030307"),
                segment(0, 16, 0),
                wait(5000),
            ]
            .concat(),
        ),
        (
            "out-of-window",
            [
                ASK.to_vec(),
                handshake(0),
                vec![2, 0, 24, 127, 0, 0, 4],
                vec![2, 0, 24, 0, 127, 0, 4],
                vec![2, 0, 24, 3, 255, 0, 4],
                segment(0, 24, 255),
                segment(0, 24, 255),
                segment(0, 24, 255),
            ]
            .concat(),
        ),
        (
            "frames",
            [
                ASK.to_vec(),
                raw(16, &syn_v4),
                raw(16, &syn_v6),
                raw(8, &syn_v4),
                raw(16, &ping_v4),
                raw(16, solicitation),
                raw(16, &fragment_v6),
            ]
            .concat(),
        ),
    ]
}

fn forwarder() -> Seeds {
    let line = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "healthy",
            line(
                "{\"type\":\"prefix\",\"prefix\":\"203.0.113.200/32\",\"healthy\":true,\"reason\":\"main: answers\"}\n",
            ),
        ),
        (
            "down",
            line(
                "{\"type\":\"prefix\",\"prefix\":\"2001:db8:c10a::200/128\",\"healthy\":false,\"reason\":\"\\u0000\\\"é\"}",
            ),
        ),
        ("heartbeat", line("{\"type\":\"heartbeat\",\"sequence\":18446744073709551615}\n")),
        ("host-bits", line("{\"type\":\"prefix\",\"prefix\":\"203.0.113.200/24\",\"healthy\":true,\"reason\":\"\"}\n")),
        (
            "feed",
            line(
                "{\"ready\":true,\"tag\":\"2-73510008390b2c1a\",\"prefixes\":[\"198.51.100.0/24\",\"2001:db8::/48\"]}",
            ),
        ),
        ("feed-unchanged", line("{\"ready\":true,\"tag\":\"known\"}")),
        ("feed-not-ready", line("{\"ready\":false,\"why\":\"no peer is up\"}")),
    ]
}

fn amount() -> Money {
    Money::new(1250, "EUR".parse().expect("a currency")).expect("an amount")
}

fn card() -> (CardNumber, Expiry) {
    let card = CardNumber::parse(&Secret::from("4111111111111111")).expect("a test number");
    (card, Expiry::parse("12/29").expect("a month"))
}

fn iso8583() -> Seeds {
    let acceptor = Acceptor::new("CLOAK001", "CLOAKWAY0000001", "424242", "5999").expect("it fits");
    let trace = Trace::new(42, Timestamp::from_secs(1_700_000_000)).expect("in range");
    let reversal = Reversal { trace, movement: Movement::Authorisation, amount: amount() };
    let (card, expiry) = card();
    let authorisation =
        Authorisation { trace, movement: Movement::Authorisation, card, expiry, pin: None, amount: amount() }
            .message(&acceptor);
    let mut answer = transact_bank::Message::new(transact_bank::MessageType::AuthorisationResponse);
    answer.copy(&authorisation, &[3, 4, 7, 11, 37, 41, 42, 49]);
    for (field, value) in [(38, "A1B2C3"), (39, "00"), (54, "0040978D000000001000"), (64, "0123456789ABCDEF")] {
        answer.set(field, value).expect("it fits");
    }
    let written = |message: &transact_bank::Message| message.encode().expose().clone();
    vec![
        ("authorisation", written(&authorisation)),
        ("answer", written(&answer)),
        ("reversal", written(&reversal.message(&acceptor, ReversalKind::Request, false))),
        ("reversal-again", written(&reversal.message(&acceptor, ReversalKind::Advice, true))),
        ("sign-on", written(&NetworkCode::SignOn.message(trace))),
        ("echo", written(&NetworkCode::Echo.message(trace))),
    ]
}

/// The same messages in every profile and with every kind of code, behind the byte that says which.
fn iso8583_profiles() -> Seeds {
    let codes = |first: u8| match first / 3 {
        0 => None,
        1 => MacKey::retail(Secret::new(vec![7; 16])).ok(),
        _ => MacKey::aes_cmac(Secret::new(vec![7; 16])).ok(),
    };
    let names =
        ["ascii", "raw", "binary", "ascii-x919", "raw-x919", "binary-x919", "ascii-cmac", "raw-cmac", "binary-cmac"];
    let (_, octets) = iso8583().swap_remove(1);
    let answer = transact_bank::Message::decode(&octets).expect("it was written here");
    let write = |(first, name): (u8, &'static str)| {
        let codec = Codec { profile: Profile::NAMED[usize::from(first % 3)].1, mac: codes(first) };
        (name, [&[first], codec.encode(&answer).expose().as_slice()].concat())
    };
    (0..).zip(names).map(write).collect()
}

fn card_ranges() -> Seeds {
    [("all", "*"), ("one", "4"), ("several", "51-55"), ("longest", "9999999999999999999"), ("backwards", "55-51")]
        .map(|(name, text)| (name, text.as_bytes().to_vec()))
        .into()
}

fn framed_iso8583() -> Seeds {
    let messages = iso8583().into_iter().map(|(_, message)| frame(&Secret::new(message)));
    let stream: Vec<u8> = messages.flat_map(|message| message.expose().clone()).collect();
    vec![
        ("octets", [&[1], stream.as_slice()].concat()),
        ("pieces", [&[100], stream.as_slice()].concat()),
        ("empty-message", [&[7], stream.as_slice(), &[0, 0, 1]].concat()),
        ("too-long", [&[7], stream.as_slice(), &[0x27, 0x10, b'0']].concat()),
    ]
}

/// TABLE_DUMP_V2 (RFC 6396 §4.3): one peer, two IPv4 prefixes, one IPv6 prefix; and other records.
fn mrt() -> Seeds {
    let record = |kind: u16, subtype: u16, body: &[u8]| {
        let length = u32::try_from(body.len()).expect("a short body").to_be_bytes();
        [&1_700_000_000_u32.to_be_bytes()[..], &kind.to_be_bytes(), &subtype.to_be_bytes(), &length, body].concat()
    };
    // Collector 192.0.2.1 without a view name; peer 192.0.2.2, AS 64500 in four octets.
    let peers = record(13, 1, &unhex("c0000201 0000 0001 02 c0000202 c0000202 0000fbf4"));
    let entry = |sequence: u8, prefix: &str, attributes: &str| {
        let attributes = unhex(attributes);
        let length = u16::try_from(attributes.len()).expect("short").to_be_bytes();
        [&[0, 0, 0, sequence][..], &unhex(prefix), &unhex("0001 0000 6553f100"), &length, &attributes].concat()
    };
    let path = "40010100 400206 0201 0000fbf4 400304c0000202";
    let v4 = [
        record(13, 2, &entry(0, "18c63364", path)),
        record(13, 2, &entry(1, "19cb007180", "40010100 40020a 0202 0000fbf4 0000fbfe 400304c0000202")),
    ]
    .concat();
    let set = record(13, 2, &entry(2, "20cb0071c8", "40010100 40020e 01 03 0000fbf4 0000fbf5 0000fbf6 400304c0000202"));
    let v6 = record(
        13,
        4,
        &entry(3, "3020010db85100", "40010100 400206 0201 0000fbf4 800e11 10 20010db8000000010000000000000002"),
    );
    let (_, update) = bgp().into_iter().find(|(name, _)| *name == "announce-v4").expect("it is there");
    let live = record(16, 4, &[unhex("0000fbf4 0000fbf5 0000 0001 c0000202 c0000201"), update].concat());
    let old = record(
        12,
        1,
        &unhex("0000 0000 c6336400 18 01 6553f100 c0000202 fbf4 0012 40010100 400204 0201 fbf4 400304c0000202"),
    );
    vec![
        ("rib", [peers.clone(), v4.clone(), v6].concat()),
        ("rib-with-as-set", [peers.clone(), set].concat()),
        ("no-peers", v4),
        ("updates", live),
        ("table-dump-1", old),
        ("no-routes", peers),
    ]
}

fn radius() -> Seeds {
    let nas: (u8, &[u8]) = (kind::NAS_IP_ADDRESS, &[198, 51, 100, 1]);
    let accounting = |status: u8, more: &[(u8, &[u8])], signed: bool| {
        let status = [0, 0, 0, status];
        let first: [(u8, &[u8]); 3] = [(kind::ACCT_STATUS_TYPE, &status), nas, (kind::ACCT_SESSION_ID, b"0000A001")];
        build_request(Request::Accounting, 7, &[first.as_slice(), more].concat(), SECRET, [0; 16], signed)
            .expect("it fits")
    };
    let user: (u8, &[u8]) = (kind::USER_NAME, b"alice@isp.example");
    let address: (u8, &[u8]) = (kind::FRAMED_IP_ADDRESS, &[198, 51, 100, 70]);
    vec![
        (
            // radclient of FreeRADIUS 3.2.1.
            "start",
            unhex(
                "04b60069498f758f9a1372b8360ae5444f23d4302806000000012c0a30303030413030310113616c696365406973702e65
                 78616d706c652006656467650406c63364010806c63364466114004020010db851000064000000000000000037066553f1
                 00290600000000",
            ),
        ),
        (
            "interim",
            unhex(
                "046200961707d3e11912bdda40ad0b03eb10d2fb2806000000032c0a30303030413030310113616c696365406973702e65
                 78616d706c655f1220010db85100000100000000000000010806c63364467b14003820010db851006400000000000000
                 0000a81220010db851000064000000000000007029060000000721047031210570322d501299f793d941832b83a567551
                 57c205043",
            ),
        ),
        ("status", unhex("0ced0026ff8cfb407698b2469ae9f3c1d85e139d501294e955e0900c18cbf0e36e0ffe6448eb")),
        ("stop", accounting(2, &[user, address, (kind::ACCT_DELAY_TIME, &[0, 0, 0, 9])], true)),
        (
            "interim-late",
            accounting(3, &[user, (kind::EVENT_TIMESTAMP, &[0x65, 0x53, 0xf1, 0]), (33, b"proxy")], false),
        ),
        ("nas-on", accounting(7, &[], true)),
        ("tunnel", accounting(9, &[user, address], false)),
        (
            "port-block",
            accounting(
                3,
                &[(
                    241,
                    &[
                        6, 1, 6, 0, 0, 0, 2, 8, 6, 0, 0, 0, 1, 3, 6, 203, 0, 113, 1, 9, 6, 0, 0, 8, 0, 10, 6, 0, 0, 9,
                        255,
                    ],
                )],
                false,
            ),
        ),
        (
            "access",
            build_request(
                Request::Access,
                7,
                &[
                    user,
                    (2, &[9; 32]),
                    (26, &[0, 0, 1, 55, 16, 20, 0x80, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
                ],
                SECRET,
                [5; 16],
                true,
            )
            .expect("it fits"),
        ),
        ("accept", {
            let granted: [(u8, &[u8]); 2] = [(123, &[0, 56, 0x20, 1, 0x0d, 0xb8, 0x51]), (69, &[1; 19])];
            let mut accept = build_request(Request::Access, 7, &granted, SECRET, [5; 16], false).expect("it fits");
            accept[0] = 2;
            accept
        }),
    ]
}

fn toolbox() -> Seeds {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("question", text(r#"{"address":"198.51.100.70","subscriber":"alice@isp.example"}"#)),
        ("question-v6", text(r#"{"address":"2001:db8:5100:64::70","subscriber":"bob"}"#)),
        (
            "live",
            text(
                r#"{"live":true,"since":"2023-11-14T22:13:20.123Z","source":"radius","proved_at":"2023-11-14T22:13:20.123Z"}"#,
            ),
        ),
        ("not-live", text(r#"{"live":false,"reason":"no-session"}"#)),
        ("error", text(r#"{"error":{"code":"invalid","message":"the field is missing","field":"address"}}"#)),
    ]
}

fn transact_forms() -> Seeds {
    [
        ("payment", "vendor=shop&transaction_id=o-1&password=pw&lang=de&card_number=4111+1111-1111%201111&expiry=12%2F30&pin="),
        ("pin", "vendor=shop&transaction_id=o-1&password=p%C3%A9&card_number=4111111111111111&expiry=12%2F30&pin=1234"),
        ("outcome", "vendor=shop&transaction_id=o-1&password=pw&lang=fr"),
        ("twice", "vendor=shop&vendor=4111111111111111&transaction_id=o-1&password=pw"),
        ("languages", "de-CH,de;q=0.9,en;q=0.8,*;q=0.1"),
        ("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("headers", "res_1\nv1a,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\n{\"vendor\":\"shop\"}\nsha-256=:AAAA:\npage=(\"@status\" \"content-digest\" \"content-type\");created=1;keyid=\"page\";alg=\"ed25519\""),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into()
}

fn transact() -> Seeds {
    fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
        serde_json::to_vec(value).expect("plain data")
    }
    let now = Timestamp::from_secs(1_700_000_000);
    let transaction = || "o-1001".parse().expect("an id");
    let vendor = || "shop".parse().expect("an id");
    let order = |reference| Order {
        reference,
        amount: amount(),
        client_ip: [198, 51, 100, 70].into(),
        description: "A book".to_owned(),
    };
    let placement = Placement {
        vendor: vendor(),
        isp: "isp-a".parse().expect("an id"),
        order: order(Reference::TemporaryId(transaction())),
    };
    let password = || Secret::from("k3J9-one-time");
    let issued = Issued {
        transaction_id: transaction(),
        password: password(),
        address: [203, 0, 113, 200].into(),
        port: 443,
        expires_at: now,
    };
    let page = Page {
        vendor: vendor(),
        payee: "Example Shop".to_owned(),
        description: "A book".to_owned(),
        amount: amount(),
        amount_text: amount().to_string(),
        transaction_id: transaction(),
        password: password(),
        private_origin: "https://203.0.113.200".to_owned(),
        expires_at: now,
    };
    let claim = Claim { vendor: vendor(), transaction_id: transaction(), password: password() };
    let (card_number, expiry) = card();
    let payment = Payment { transaction: claim.clone(), card_number, expiry, pin: None };
    let result = PurchaseResult {
        vendor: vendor(),
        transaction_id: transaction(),
        temporary_id: Some("tmp-1".parse().expect("an id")),
        amount: amount(),
        verdict: Verdict::Approved,
        decided_at: now,
        refund: None,
    };
    let key = SigningKey::from_base64(&Secret::new(encode::base64(&[7; 32]))).expect("a key");
    let signed = SignedResult::sign("r-1", &result, &key, now).expect("plain data");
    let pending = Pending { cursor: 17, results: vec![signed.clone()] };
    let number_for_text =
        String::from_utf8(json(&payment)).expect("text").replace("\"4111111111111111\"", "4111111111111111");
    vec![
        ("order", json(&order(Reference::TransactionId(transaction())))),
        ("placement", json(&placement)),
        ("issued", json(&issued)),
        ("page", json(&page)),
        ("claim", json(&claim)),
        ("payment", json(&payment)),
        ("payment-with-a-number", number_for_text.into_bytes()),
        ("outcome", json(&Outcome::from(PaymentState::Reversing))),
        ("result", json(&result)),
        ("signed-result", json(&signed)),
        ("pending", json(&pending)),
        ("acknowledgement", json(&Acknowledgement { ids: vec!["r-1".to_owned(), "r-2".to_owned()] })),
    ]
}
