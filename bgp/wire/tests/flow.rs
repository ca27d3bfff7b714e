//! Flow specifications: the examples of RFC 8955 and RFC 8956, round trips, their order, and what damage leads to.

#![cfg(test)]

use std::cmp::Ordering;
use std::net::IpAddr;

use bgp_wire::{
    Action, Actions, AsPath, Asn, Attributes, BitField, BitTerm, Capability, Comparison, Component, Context,
    DecodeError, Disposition, ErrorCode, Families, Family, FlowError, FlowRule, Message, MpReach, MpUnreach,
    NumberField, NumberTerm, Operand, Origin, Pattern, Rate, Update, announce_flow, withdraw_flow,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const FLOW: Context = Context { four_octet_as: true, flow: Families { ipv4: true, ipv6: true }, ..Context::LEAST };

fn rule(text: &str) -> FlowRule {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn attributes() -> Attributes {
    Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() }
}

/// The NLRI field of the one UPDATE that announces `rule`.
fn nlri(rule: &FlowRule) -> Vec<u8> {
    let updates = announce_flow(&Attributes::default(), rule.family(), [rule], FLOW).unwrap();
    let [update] = &updates[..] else { panic!("{updates:?}") };
    let bytes = Message::Update(update.clone()).encode(FLOW).unwrap();
    // Header 19, two lengths 4, attribute header 3 (4 when long), family 3, next hop 1, reserved 1.
    let long = usize::from(bytes[23] & 0x10 != 0);
    bytes[19 + 4 + 3 + long + 5..].to_vec()
}

#[test]
fn the_examples_of_the_rfcs() {
    // RFC 8955 §4.3, RFC 8956 §3.8.
    for (bytes, text) in [
        ("0b 0118c00002 038106 048119", "destination 192.0.2.0/24 protocol =6 port =25"),
        (
            "12 0118c00002 0218cb0071 0403894 58b911f90",
            "destination 192.0.2.0/24 source 203.0.113.0/24 port >=137&<=139 =8080",
        ),
        ("09 0120c0000201 0c8005", "destination 192.0.2.1/32 fragment 0x5"),
        (
            "12 01200020010db8 026840123456789a 038106",
            "destination 2001:db8::/32 source ::1234:5678:9a00:0/64-104 protocol =6",
        ),
        ("0f 01200020010db8 0268412468acf134", "destination 2001:db8::/32 source ::1234:5678:9a00:0/65-104"),
    ] {
        let bytes = bytes.replace(' ', "");
        let bytes: Vec<u8> =
            (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap()).collect();
        assert_eq!(rule(text).to_string(), text);
        assert_eq!(nlri(&rule(text)), bytes, "{text}");
        assert_eq!(FlowRule::decode(rule(text).family(), &bytes[1..]), Ok(rule(text)));
    }
}

#[test]
fn a_rule_of_240_octets_has_a_length_of_two() {
    // RFC 8955 §4.1: 239 is 0xef, 240 is 0xf0f0.
    let ports = |count: usize| -> FlowRule {
        let ports: Vec<String> = (0..count).map(|port| format!("={port}")).collect();
        rule(&format!("protocol =6 port {}", ports.join(" ")))
    };
    assert_eq!(nlri(&ports(117))[0], 3 + 1 + 234);
    assert_eq!(nlri(&ports(118))[..2], [0xf0, 0xf0]);
    assert_eq!(ports(118).encoded_length(), 242);
    // A long length that says little is read as well.
    let update = reach(&[0xf0, 3, 3, 0x81, 6]);
    assert_eq!(read(&update).unwrap().flow_reachable(), [rule("protocol =6")]);
    let longest = rule(&format!("port {}", vec!["=1"; 2047].join(" ")));
    assert_eq!(longest.encoded_length(), 2 + 4095);
    let error = format!("port {}", vec!["=1"; 2048].join(" ")).parse::<FlowRule>().unwrap_err();
    assert!(error.reason.contains("4097 octets"), "{error}");
}

#[test]
fn rules_read_as_operators_write_them() {
    for (written, printed) in [
        (
            "destination 203.0.113.200 protocol tcp destination-port 443",
            "destination 203.0.113.200/32 protocol =6 destination-port =443",
        ),
        ("protocol udp port 80-90 >1024", "protocol =17 port >=80&<=90 >1024"),
        ("port ==53 destination 10.0.0.0/8", "destination 10.0.0.0/8 port =53"),
        ("tcp-flags =syn&!ack fragment !is-fragment", "tcp-flags =0x2&!0x10 fragment !0x2"),
        ("tcp-flags syn+ack", "tcp-flags 0x12"),
        ("ipv6 protocol icmpv6 icmp-type 128", "ipv6 protocol =58 icmp-type =128"),
        ("flow-label 7 dscp !=46", "dscp !=46 flow-label =7"),
        ("ipv4 packet-length true:5 false:0x10", "packet-length true:5 false:16"),
        ("port =80#2", "port =80#2"),
    ] {
        assert_eq!(rule(written).to_string(), printed);
        assert_eq!(rule(printed), rule(written));
    }
    for (text, named) in [
        ("", "no component"),
        ("colour red", "colour: not understood: destination"),
        ("destination", "destination: give one prefix"),
        ("destination 10.0.0.1/8", "bits set that are not meant"),
        ("destination 10.0.0.0/33", "no prefix"),
        ("destination 10.0.0.0/8-16", "no prefix"),
        ("destination 2001:db8::/64-64", "no prefix"),
        ("destination 10.0.0.0/8 source 2001:db8::/32", "source is not of the rule's family"),
        ("ipv4 flow-label 1", "flow-label is not of the rule's family"),
        ("port", "port: give a value"),
        ("port 80 port 90", "port stands behind port"),
        ("port http", "\"http\" is no number"),
        ("port =-1", "no number"),
        ("protocol smtp", "none of icmp"),
        ("port =80#3", "does not fit 3 octets"),
        ("port =256#1", "does not fit 1 octets"),
        ("dscp =0#2", "dscp with a value of 2 octets"),
        ("tcp-flags 0x10000", "tcp-flags with a value of 4 octets"),
        ("fragment 0x100", "fragment with a value of 2 octets"),
    ] {
        let error = text.parse::<FlowRule>().unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn actions_on_the_wire_and_in_words() {
    // RFC 8955 §7, RFC 8956 §6.1; 1000.0 is 0x447a0000.
    for (words, community) in [
        ("discard", [0x80, 6, 0, 0, 0, 0, 0, 0]),
        ("rate-bytes 1000", [0x80, 6, 0, 0, 0x44, 0x7a, 0, 0]),
        ("rate-bytes 64500:0", [0x80, 6, 0xfb, 0xf4, 0, 0, 0, 0]),
        ("rate-packets 1000", [0x80, 0x0c, 0, 0, 0x44, 0x7a, 0, 0]),
        ("continue", [0x80, 7, 0, 0, 0, 0, 0, 1]),
        ("sample", [0x80, 7, 0, 0, 0, 0, 0, 2]),
        ("redirect 64500:100", [0x80, 8, 0xfb, 0xf4, 0, 0, 0, 100]),
        ("redirect 192.0.2.1:100", [0x81, 8, 192, 0, 2, 1, 0, 100]),
        ("redirect 64500L:100", [0x82, 8, 0, 0, 0xfb, 0xf4, 0, 100]),
        ("mark 46", [0x80, 9, 0, 0, 0, 0, 0, 46]),
    ] {
        let actions: Actions = words.parse().unwrap();
        let attached = actions.attach(attributes());
        assert_eq!(attached.extended_communities[0].0, community, "{words}");
        assert_eq!(Actions::of(&attached), actions);
        assert_eq!(actions.to_string(), words);
    }
    let long: Actions = "redirect [2001:db8::1]:7, rate-packets 10".parse().unwrap();
    let attached = long.attach(attributes());
    assert_eq!(attached.others[0].value[..4], [0, 0x0d, 0x20, 0x01]);
    assert_eq!((attached.others[0].code, attached.others[0].value.len()), (25, 20));
    assert_eq!(Actions::of(&attached), long);
    assert_eq!("accept".parse(), Ok(Actions::default()));
    assert_eq!(Actions::default().to_string(), "accept");
    assert_eq!("redirect 4200000001:1".parse(), Ok(Action::RedirectAs4(4_200_000_001, 1)));
    for wrong in ["", "drop", "rate-bytes -1", "rate-bytes NaN", "mark 64", "redirect 1", "redirect 1:65536:2"] {
        assert!(wrong.parse::<Action>().is_err(), "{wrong}");
    }
    // RFC 8955 §7.1: below zero counts as zero.
    assert_eq!(Rate::new(-5.0), Some(Rate::ZERO));
}

/// An UPDATE with ORIGIN, AS_PATH and this MP_REACH_NLRI of IPv4 flow specifications.
fn reach(nlri: &[u8]) -> Vec<u8> {
    let value = [&[0, 1, 133, 0, 0], nlri].concat();
    body(&[&[0x80, 14, u8::try_from(value.len()).unwrap()], &value[..], &[0x40, 1, 1, 0, 0x40, 2, 0]].concat())
}

fn unreach(nlri: &[u8]) -> Vec<u8> {
    let value = [&[0, 1, 133], nlri].concat();
    body(&[&[0x80, 15, u8::try_from(value.len()).unwrap()], &value[..]].concat())
}

fn body(attributes: &[u8]) -> Vec<u8> {
    let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length(23 + attributes.len()), &[2, 0, 0], &length(attributes.len()), attributes].concat()
}

fn read(bytes: &[u8]) -> Result<Update, DecodeError> {
    match Message::decode(bytes, FLOW)? {
        Message::Update(update) => Ok(update),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_that_is_none_withdraws_and_takes_nothing_else_with_it() {
    let tcp = [3, 3, 0x81, 6];
    for (name, broken) in [
        ("unknown type", &[3, 14, 0x81, 6][..]),
        ("type zero", &[3, 0, 0x81, 6]),
        ("empty", &[0]),
        ("out of order", &[6, 4, 0x81, 25, 3, 0x81, 6]),
        ("twice", &[6, 3, 0x81, 6, 3, 0x81, 6]),
        ("no end of list", &[3, 3, 0x01, 6]),
        ("value cut off", &[3, 4, 0x91, 25]),
        ("prefix too long", &[7, 1, 33, 1, 2, 3, 4, 5]),
        ("prefix cut off", &[4, 1, 32, 1, 2]),
        ("flow label in IPv4", &[3, 13, 0x81, 6]),
        ("fragment of two octets", &[4, 12, 0x90, 0, 1]),
    ] {
        let update = read(&reach(&[broken, &tcp].concat())).unwrap();
        let [flaw] = &update.flaws[..] else { panic!("{name}: {:?}", update.flaws) };
        assert_eq!((flaw.disposition(), flaw.section()), (Disposition::Withdraw, "RFC 8955 §4.2, §10"), "{name}");
        assert!(update.flow_reachable().is_empty(), "{name}");
        assert_eq!(update.flow_unreachable().collect::<Vec<_>>(), [&rule("protocol =6")], "{name}");
        // Even alone it is no reason to end the session.
        assert!(read(&reach(broken)).unwrap().treat_as_withdraw(), "{name}");

        let update = read(&unreach(&[broken, &tcp].concat())).unwrap();
        assert_eq!(update.flaws[0].disposition(), Disposition::Discard, "{name}");
        assert_eq!(update.flow_unreachable().collect::<Vec<_>>(), [&rule("protocol =6")], "{name}");
    }
}

#[test]
fn rules_that_overrun_their_field_disable_the_family() {
    for bytes in [reach(&[4, 3, 0x81, 6]), reach(&[0xf1]), unreach(&[4, 3, 0x81, 6])] {
        let update = read(&bytes).unwrap();
        assert_eq!(update.disables_flow().collect::<Vec<_>>(), [Family::Ipv4]);
        assert_eq!(update.disables().next(), None, "unicast goes on");
        // Where flow specifications were not settled on, nobody looks into them.
        let other = Message::decode(&bytes, Context::default());
        assert!(matches!(other, Ok(Message::Update(update)) if update.flaws.is_empty()));
    }
}

#[test]
fn a_rate_that_is_no_number_withdraws_and_a_missing_as_path_too() {
    let rules = [rule("protocol =6")];
    let nan = bgp_wire::ExtendedCommunity([0x80, 6, 0, 0, 0x7f, 0xc0, 0, 0]);
    let damaged = Attributes { extended_communities: vec![nan], ..attributes() };
    let [update] = &announce_flow(&damaged, Family::Ipv4, &rules, FLOW).unwrap()[..] else { panic!() };
    let update = read(&Message::Update(update.clone()).encode(FLOW).unwrap()).unwrap();
    assert_eq!(update.flaws[0].section(), "RFC 7606 §7.14");
    assert_eq!(update.flow_unreachable().count(), 1);
    let bare = Attributes { origin: Some(Origin::Igp), ..Attributes::default() };
    let [update] = &announce_flow(&bare, Family::Ipv4, &rules, FLOW).unwrap()[..] else { panic!() };
    let update = read(&Message::Update(update.clone()).encode(FLOW).unwrap()).unwrap();
    assert!(update.treat_as_withdraw());
    // On a route that is no flow specification the same community is somebody else's word.
    let unicast = Update {
        announced: vec!["10.0.0.0/8".parse().unwrap()],
        attributes: Attributes { next_hop: Some([192, 0, 2, 1].into()), ..damaged },
        ..Update::default()
    };
    assert!(read(&Message::Update(unicast).encode(FLOW).unwrap()).unwrap().flaws.is_empty());
}

#[test]
fn a_next_hop_is_ignored() {
    let with_next_hop = [&[0, 1, 133, 4, 192, 0, 2, 1, 0][..], &[3, 3, 0x81, 6]].concat();
    let length = u8::try_from(with_next_hop.len()).unwrap();
    let bytes = body(&[&[0x80, 14, length], &with_next_hop[..], &[0x40, 1, 1, 0, 0x40, 2, 0]].concat());
    assert_eq!(read(&bytes).unwrap().flow_reachable(), [rule("protocol =6")]);
}

#[test]
fn families_are_offered_and_end_as_others_do() {
    assert_eq!(Capability::Flow(Family::Ipv6).encode().unwrap(), [1, 4, 0, 2, 0, 133]);
    for family in Family::ALL {
        let bytes = Message::Update(Update::end_of_flow(family)).encode(FLOW).unwrap();
        let update = read(&bytes).unwrap();
        assert_eq!((update.ends_flow_of(), update.ends_rib_of()), (Some(family), None));
    }
    assert_eq!(Update::end_of_rib(Family::Ipv4).ends_flow_of(), None);
    let refused = read(&body(&[0x80, 14, 4, 0, 1, 133, 0])).unwrap();
    assert_eq!(refused.disables_flow().next(), Some(Family::Ipv4));
    assert_eq!(refused.flaws[0].notification().error, ErrorCode::OPTIONAL_ATTRIBUTE);
}

fn any_operand(widest: u32) -> impl Strategy<Value = Operand> {
    (0..=widest, any::<u64>()).prop_map(|(power, value)| {
        let octets = 1_u8 << power;
        Operand::new(value >> (64 - 8 * u32::from(octets)), octets).unwrap()
    })
}

fn any_numbers(field: NumberField) -> impl Strategy<Value = Component> {
    let comparisons = [
        Comparison::False,
        Comparison::Equal,
        Comparison::Greater,
        Comparison::AtLeast,
        Comparison::Less,
        Comparison::AtMost,
        Comparison::Not,
        Comparison::True,
    ];
    let widest = if field == NumberField::Dscp { 0 } else { 3 };
    let term = (any::<bool>(), 0..8_usize, any_operand(widest))
        .prop_map(move |(and, comparison, operand)| NumberTerm { and, comparison: comparisons[comparison], operand });
    vec(term, 1..4).prop_map(move |terms| Component::Numbers(field, terms))
}

fn any_bits(field: BitField) -> impl Strategy<Value = Component> {
    let widest = u32::from(field == BitField::TcpFlags);
    let term = (any::<[bool; 3]>(), any_operand(widest)).prop_map(|([and, not, all], operand)| BitTerm {
        and,
        not,
        all,
        operand,
    });
    vec(term, 1..4).prop_map(move |terms| Component::Bits(field, terms))
}

/// Few different bits, so that patterns overlap.
fn any_pattern(v4: bool) -> impl Strategy<Value = Pattern> {
    (any::<u8>(), any::<u8>(), any::<u8>(), any::<u128>()).prop_filter_map(
        "no pattern",
        move |(bits, offset, few, many)| {
            let number = u128::from(few) << 120 | u128::from(few) << 57 | many & 0b11;
            match v4 {
                true => Pattern::new(IpAddr::V4(((number >> 96) as u32).into()), 0, bits % 33),
                false => {
                    let (bits, offset) = (bits % 129, if few % 2 == 0 { 0 } else { offset % 128 });
                    Pattern::new(IpAddr::V6(number.into()), if offset < bits { offset } else { 0 }, bits)
                }
            }
        },
    )
}

fn any_rule_of(v4: bool) -> impl Strategy<Value = FlowRule> {
    use NumberField as N;
    let numbers = (
        option::of(any_numbers(N::Protocol)),
        option::of(any_numbers(N::Port)),
        option::of(any_numbers(N::DestinationPort)),
        option::of(any_numbers(N::SourcePort)),
        option::of(any_numbers(N::IcmpType)),
        option::of(any_numbers(N::IcmpCode)),
        option::of(any_numbers(N::PacketLength)),
        option::of(any_numbers(N::Dscp)),
        option::of(any_numbers(N::FlowLabel)),
    );
    let others = (
        option::of(any_pattern(v4)),
        option::of(any_pattern(v4)),
        option::of(any_bits(BitField::TcpFlags)),
        option::of(any_bits(BitField::Fragment)),
    );
    (numbers, others).prop_filter_map("no rule", move |((a, b, c, d, e, f, g, h, i), (to, from, flags, fragment))| {
        let numbers = [a, b, c, d, e, f, g, h, i.filter(|_| !v4)];
        let patterns = [to.map(Component::Destination), from.map(Component::Source)];
        let mut all: Vec<Component> = numbers.into_iter().chain(patterns).chain([flags, fragment]).flatten().collect();
        all.sort_by_key(Component::kind);
        FlowRule::new(if v4 { Family::Ipv4 } else { Family::Ipv6 }, all).ok()
    })
}

fn any_rule() -> impl Strategy<Value = FlowRule> {
    prop_oneof![any_rule_of(true), any_rule_of(false)]
}

/// Rules with few components of few values, so that they often agree.
fn similar() -> impl Strategy<Value = FlowRule> {
    let few = (0..3_u8, 0..3_u8, 0..3_u8, vec(0..2_u8, 0..3), any::<bool>());
    few.prop_filter_map("no rule", |(to, from, protocol, ports, v4)| {
        let networks = match v4 {
            true => ["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"],
            false => ["2001:db8::/32", "::db8:0:0:0:0/16-64", "2001:db8:1::/48"],
        };
        let mut text = format!("destination {}", networks[usize::from(to)]);
        if from > 0 {
            text += &format!(" source {}", networks[usize::from(from)]);
        }
        if protocol > 0 {
            text += &format!(" protocol ={protocol}");
        }
        if !ports.is_empty() {
            let ports: Vec<String> = ports.iter().map(|port| format!("={port}")).collect();
            text += &format!(" port {}", ports.join(" "));
        }
        text.parse().ok()
    })
}

/// The pseudo-code of RFC 8955, appendix A, and RFC 8956, appendix A, line by line; `Less` is A_HAS_PRECEDENCE.
fn flow_rule_cmp(a: &FlowRule, b: &FlowRule) -> Ordering {
    let value = |component: &Component| -> Vec<u8> {
        let alone = FlowRule::new(a.family(), vec![component.clone()]).unwrap();
        nlri(&alone)[if alone.encoded_length() > 240 { 3 } else { 2 }..].to_vec()
    };
    let count = a.components().len().max(b.components().len());
    for at in 0..count {
        let (Some(one), Some(two)) = (a.components().get(at), b.components().get(at)) else {
            return if at < a.components().len() { Ordering::Less } else { Ordering::Greater };
        };
        if one.kind() != two.kind() {
            return one.kind().cmp(&two.kind());
        }
        if let (Component::Destination(one), Component::Destination(two))
        | (Component::Source(one), Component::Source(two)) = (one, two)
        {
            if one.offset() != two.offset() {
                return one.offset().cmp(&two.offset());
            }
            let net = |pattern: &Pattern| ipnet::IpNet::new(pattern.address(), pattern.bits()).unwrap();
            let (one, two) = (net(one), net(two));
            if one.contains(&two) || two.contains(&one) {
                if one.prefix_len() != two.prefix_len() {
                    return two.prefix_len().cmp(&one.prefix_len());
                }
            } else {
                return one.network().cmp(&two.network());
            }
        } else {
            let (one, two) = (value(one), value(two));
            let common = one.len().min(two.len());
            if one[..common] != two[..common] {
                return one[..common].cmp(&two[..common]);
            }
            if one.len() != two.len() {
                return two.len().cmp(&one.len());
            }
        }
    }
    Ordering::Equal
}

#[test]
fn rules_apply_in_the_order_of_the_rfc() {
    // First to last: what a router looks at first stands first.
    let ordered = [
        "destination 203.0.113.200/32 protocol =6 destination-port =443",
        "destination 203.0.113.200/32 protocol =6",
        "destination 203.0.113.200/32 protocol =17 port =1 =2",
        "destination 203.0.113.200/32",
        "destination 203.0.113.0/24",
        "destination 203.0.114.0/24",
        "source 10.0.0.0/8",
        "protocol =6",
        "port =1 =2",
        "port =1",
    ]
    .map(rule);
    let mut sorted = ordered.clone();
    sorted.reverse();
    sorted.sort();
    // `=1 =2` has no end-of-list bit in its first octet, and so is the lower.
    assert_eq!(sorted, ordered);
    let v6 = ["destination 2001:db8::/32", "destination ::1:0:0:0:0/32-64"].map(rule);
    assert!(v6[0] < v6[1], "the lower offset goes first");
}

proptest! {
    #[test]
    fn every_rule_survives_the_wire_and_its_own_words(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse::<FlowRule>(), Ok(rule.clone()));
        let bytes = nlri(&rule);
        let head = bytes.len() + if bytes.len() > 240 { 0 } else { 1 } - rule.encoded_length();
        prop_assert_eq!(bytes.len(), rule.encoded_length());
        let value = &bytes[if bytes[0] >= 0xf0 { 2 } else { 1 }..];
        prop_assert_eq!(FlowRule::decode(rule.family(), value), Ok(rule), "{}", head);
    }

    #[test]
    fn updates_of_many_rules_lose_none(rules in vec(any_rule(), 0..60), extended: bool) {
        let context = Context { extended_messages: extended, ..FLOW };
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            for update in announce_flow(&attributes(), family, &rules, context).unwrap() {
                let bytes = Message::Update(update).encode(context).unwrap();
                let Ok(Message::Update(update)) = Message::decode(&bytes, context) else { panic!() };
                prop_assert!(update.flaws.is_empty());
                let is_flow = matches!(update.mp_reach, Some(MpReach::Flow { .. }));
                prop_assert!(is_flow);
                come.extend(update.flow_reachable().to_vec());
            }
            for update in withdraw_flow(family, &rules, context).unwrap() {
                let bytes = Message::Update(update).encode(context).unwrap();
                let Ok(Message::Update(update)) = Message::decode(&bytes, context) else { panic!() };
                let is_flow = matches!(update.mp_unreach, Some(MpUnreach::Flow { .. }));
                prop_assert!(is_flow);
                gone.extend(update.flow_unreachable().cloned());
            }
        }
        let mut expected = rules;
        expected.sort_by_key(FlowRule::family);
        prop_assert_eq!(&come, &expected);
        prop_assert_eq!(&gone, &expected);
    }

    #[test]
    fn the_order_is_that_of_the_pseudo_code(a in any_rule(), b in any_rule()) {
        if a.family() == b.family() {
            prop_assert_eq!(a.cmp(&b), flow_rule_cmp(&a, &b));
        }
    }

    #[test]
    fn the_order_of_similar_rules_is_total(a in similar(), b in similar(), c in similar()) {
        if a.family() == b.family() {
            prop_assert_eq!(a.cmp(&b), flow_rule_cmp(&a, &b), "{} and {}", &a, &b);
        }
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a.cmp(&b) == Ordering::Equal, a == b);
        if a <= b && b <= c {
            prop_assert!(a <= c, "{}, {}, {}", &a, &b, &c);
        }
    }

    #[test]
    fn no_bytes_do_harm_and_what_is_read_is_written_as_it_was_understood(bytes in vec(any::<u8>(), 0..60), v4: bool) {
        let family = if v4 { Family::Ipv4 } else { Family::Ipv6 };
        if let Ok(rule) = FlowRule::decode(family, &bytes) {
            let again = nlri(&rule);
            prop_assert_eq!(FlowRule::decode(family, &again[1..]), Ok(rule));
        }
    }

    #[test]
    fn any_field_of_rules_is_borne_with(field in vec(any::<u8>(), 0..200), reaching: bool) {
        let bytes = if reaching { reach(&field) } else { unreach(&field) };
        let update = read(&bytes).unwrap();
        prop_assert!(update.flaws.iter().all(|flaw| flaw.disposition() < Disposition::Reset));
    }

    #[test]
    fn no_text_does_harm(text in "[a-z0-9:./=!<>&#-]{0,12}( (destination|port|[=<>!]{0,2}[0-9]{1,3})){0,6}") {
        if let Ok(rule) = text.parse::<FlowRule>() {
            prop_assert_eq!(rule.to_string().parse::<FlowRule>(), Ok(rule));
        }
        let _ = text.parse::<Actions>();
    }

    #[test]
    fn every_action_survives_the_wire_and_its_own_words(bytes in vec(any::<[u8; 8]>(), 0..6), kinds in vec(0..7_usize, 6)) {
        let heads = [[0x80, 6], [0x80, 7], [0x80, 8], [0x80, 9], [0x80, 12], [0x81, 8], [0x82, 8]];
        let communities = bytes.iter().zip(&kinds).map(|([_, _, rest @ ..], kind)| {
            let mut community = [0; 8];
            community[..2].copy_from_slice(&heads[*kind]);
            community[2..].copy_from_slice(rest);
            bgp_wire::ExtendedCommunity(community)
        });
        let actions = Actions::of(&Attributes { extended_communities: communities.collect(), ..attributes() });
        prop_assert_eq!(Actions::of(&actions.attach(attributes())), actions.clone());
        prop_assert_eq!(actions.to_string().parse::<Actions>(), Ok(actions.clone()), "{}", actions);
    }

    #[test]
    fn a_path_stays_beside_the_rules(asn in 1_u32.., rules in vec(any_rule_of(true), 1..4)) {
        let path = Attributes { as_path: Some(AsPath::sequence([Asn(asn)])), ..attributes() };
        for update in announce_flow(&path, Family::Ipv4, &rules, FLOW).unwrap() {
            let bytes = Message::Update(update.clone()).encode(FLOW).unwrap();
            prop_assert_eq!(Message::decode(&bytes, FLOW), Ok(Message::Update(update)));
        }
    }

    #[test]
    fn wrong_components_make_no_rule(one in any_rule_of(true), other in any_rule_of(false)) {
        let twice = [one.components(), one.components()].concat();
        let refused = matches!(FlowRule::new(Family::Ipv4, twice), Err(FlowError::Order { .. }));
        prop_assert!(refused);
        if other.destination().is_some() {
            prop_assert!(FlowRule::new(Family::Ipv4, other.components().to_vec()).is_err());
        }
    }
}
