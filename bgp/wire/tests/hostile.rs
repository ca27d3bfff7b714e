//! What a peer may get wrong: the NOTIFICATION of RFC 4271 §6, or the milder way of RFC 7606.

#![cfg(test)]

use bgp_wire::{
    AttributeError, AttributeFault, Context, DecodeError, Disposition, ErrorCode, Families, Family, Framer, Message,
    Notification, Update,
};

const CONTEXT: Context = Context { four_octet_as: true, ..Context::LEAST };

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16], length.to_be_bytes().as_slice(), &[kind], body].concat()
}

fn refusal(frame: &[u8]) -> (ErrorCode, Vec<u8>) {
    let notification = Message::decode(frame, CONTEXT).expect_err("must be refused").notification();
    (notification.error, notification.data)
}

fn open(body: &[u8]) -> (ErrorCode, Vec<u8>) {
    refusal(&frame(1, body))
}

fn update_frame(attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    frame(2, &[&[0, 0], length.as_slice(), attributes, announced].concat())
}

fn update(attributes: &[u8], announced: &[u8]) -> Result<Update, DecodeError> {
    Message::decode(&update_frame(attributes, announced), CONTEXT).map(|message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    })
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const PREFIX: &[u8] = &[24, 198, 51, 100];

/// The mandatory attributes with `extra` after them.
fn with(extra: &[u8]) -> Vec<u8> {
    [ORIGIN, AS_PATH, NEXT_HOP, extra].concat()
}

#[test]
fn header_errors() {
    let mut marker = frame(4, &[]);
    marker[3] = 0;
    assert_eq!(refusal(&marker), (ErrorCode::NOT_SYNCHRONIZED, vec![]));
    for (kind, length) in [(4_u8, 18_u16), (4, 20), (4, 4097), (1, 28), (2, 22), (2, 4097), (3, 20), (5, 22), (5, 24)] {
        let mut bytes = frame(kind, &vec![0; usize::from(length).saturating_sub(19)]);
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        assert_eq!(refusal(&bytes), (ErrorCode::BAD_LENGTH, length.to_be_bytes().into()), "type {kind}");
    }
    assert_eq!(refusal(&frame(6, &[])), (ErrorCode::BAD_TYPE, vec![6]));
    assert_eq!(refusal(&frame(0, &[])), (ErrorCode::BAD_TYPE, vec![0]));
}

#[test]
fn open_errors() {
    let good = [4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 0];
    assert!(Message::decode(&frame(1, &good), CONTEXT).is_ok());
    let change = |at: usize, to: &[u8]| {
        let mut body = good.to_vec();
        body.splice(at..at + to.len().min(body.len() - at), to.iter().copied());
        body
    };
    assert_eq!(open(&change(0, &[3])), (ErrorCode::UNSUPPORTED_VERSION, vec![0, 4]));
    assert_eq!(open(&change(0, &[5])), (ErrorCode::UNSUPPORTED_VERSION, vec![0, 4]));
    assert_eq!(open(&change(1, &[0, 0])), (ErrorCode::BAD_PEER_AS, vec![]));
    assert_eq!(open(&change(3, &[0, 2])), (ErrorCode::UNACCEPTABLE_HOLD_TIME, vec![]));
    assert_eq!(open(&change(5, &[0, 0, 0, 0])), (ErrorCode::BAD_IDENTIFIER, vec![]));
    // An authentication parameter (RFC 4271 took it away), parameters that overrun, a capability that overruns.
    assert_eq!(open(&change(9, &[3, 1, 1, 0])), (ErrorCode::UNSUPPORTED_PARAMETER, vec![]));
    assert_eq!(open(&change(9, &[9, 2, 0])), (ErrorCode::OPEN_UNSPECIFIC, vec![]));
    assert_eq!(open(&change(9, &[4, 2, 9, 2, 0])), (ErrorCode::OPEN_UNSPECIFIC, vec![]));
    assert_eq!(open(&change(9, &[4, 2, 2, 65, 4])), (ErrorCode::OPEN_UNSPECIFIC, vec![]));
    // Four-octet AS zero.
    assert_eq!(open(&change(9, &[8, 2, 6, 65, 4, 0, 0, 0, 0])), (ErrorCode::BAD_PEER_AS, vec![]));
}

#[test]
fn lengths_inside_an_update_that_contradict_each_other_reset() {
    assert_eq!(refusal(&frame(2, &[0, 9, 0, 0])), (ErrorCode::MALFORMED_ATTRIBUTES, vec![]));
    assert_eq!(refusal(&frame(2, &[0, 0, 0, 9])), (ErrorCode::MALFORMED_ATTRIBUTES, vec![]));
}

#[test]
fn prefixes_that_do_not_parse_reset() {
    let network = (ErrorCode::INVALID_NETWORK, vec![]);
    assert_eq!(refusal(&update_frame(&with(&[]), &[33, 1, 2, 3, 4, 5])), network);
    assert_eq!(refusal(&update_frame(&with(&[]), &[24, 1, 2])), network);
    assert_eq!(refusal(&frame(2, &[0, 2, 24, 1, 0, 0])), network);
}

#[test]
fn multiprotocol_prefixes_that_do_not_parse_disable_their_family_and_the_rest_stands() {
    let unreach = [0x80, 15, 5, 0, 2, 1, 129, 0];
    let reach_of_four = [&[0x80, 14, 13, 0, 2, 1, 4][..], &[0; 9]].concat();
    let reach_of_ipv4 = [0x80, 14, 10, 0, 1, 1, 4, 192, 0, 2, 1, 0, 33];
    let cut_next_hop = [0x90, 14, 0, 5, 0, 2, 1, 16, 0];
    for (attribute, family) in [
        (&unreach[..], Family::Ipv6),
        (&reach_of_four, Family::Ipv6),
        (&reach_of_ipv4, Family::Ipv4),
        (&cut_next_hop, Family::Ipv6),
    ] {
        let update = update(&with(attribute), PREFIX).unwrap();
        assert_eq!(update.disables().collect::<Vec<_>>(), [family], "{attribute:?}");
        assert_eq!(update.reachable().count(), 1, "{attribute:?}");
    }
    // Whose prefixes they were cannot be told: the attribute comes back as data.
    for cut in [&[0x80, 15, 2, 0, 2][..], &[0x80, 14, 0]] {
        assert_eq!(refusal(&update_frame(cut, &[])), (ErrorCode::OPTIONAL_ATTRIBUTE, cut.into()));
    }
}

#[test]
fn a_malformed_attribute_withdraws_the_routes_and_keeps_the_session() {
    let cases: &[(&str, Vec<u8>, AttributeFault)] = &[
        ("ORIGIN 3", [&[0x40, 1, 1, 3], AS_PATH, NEXT_HOP].concat(), AttributeFault::Value),
        ("ORIGIN of two octets", [&[0x40, 1, 2, 0, 0], AS_PATH, NEXT_HOP].concat(), AttributeFault::Length),
        ("ORIGIN optional", [&[0xc0, 1, 1, 0], AS_PATH, NEXT_HOP].concat(), AttributeFault::Flags),
        ("AS_PATH segment 9", [ORIGIN, &[0x40, 2, 6, 9, 1, 0, 0, 0, 1], NEXT_HOP].concat(), AttributeFault::Value),
        ("AS_PATH cut off", [ORIGIN, &[0x40, 2, 4, 2, 1, 0, 0], NEXT_HOP].concat(), AttributeFault::Value),
        ("AS_PATH empty segment", [ORIGIN, &[0x40, 2, 2, 2, 0], NEXT_HOP].concat(), AttributeFault::Value),
        ("NEXT_HOP of three octets", [ORIGIN, AS_PATH, &[0x40, 3, 3, 1, 2, 3]].concat(), AttributeFault::Length),
        ("NEXT_HOP 0.0.0.0", [ORIGIN, AS_PATH, &[0x40, 3, 4, 0, 0, 0, 0]].concat(), AttributeFault::Value),
        ("NEXT_HOP multicast", [ORIGIN, AS_PATH, &[0x40, 3, 4, 224, 0, 0, 1]].concat(), AttributeFault::Value),
        ("MED of three octets", with(&[0x80, 4, 3, 0, 0, 0]), AttributeFault::Length),
        ("LOCAL_PREF of five octets", with(&[0x40, 5, 5, 0, 0, 0, 0, 0]), AttributeFault::Length),
        ("COMMUNITIES empty", with(&[0xc0, 8, 0]), AttributeFault::Length),
        ("COMMUNITIES of six octets", with(&[0xc0, 8, 6, 0, 0, 0, 0, 0, 0]), AttributeFault::Length),
        ("EXTENDED_COMMUNITIES empty", with(&[0xc0, 16, 0]), AttributeFault::Length),
        (
            "EXTENDED_COMMUNITIES of nine octets",
            with(&[0xc0, 16, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            AttributeFault::Length,
        ),
        ("LARGE_COMMUNITIES of four octets", with(&[0xc0, 32, 4, 0, 0, 0, 0]), AttributeFault::Length),
        ("IPV6_EXTENDED_COMMUNITIES of one octet", with(&[0xc0, 25, 1, 0]), AttributeFault::Length),
        ("ORIGINATOR_ID of three octets", with(&[0x80, 9, 3, 0, 0, 0]), AttributeFault::Length),
        ("CLUSTER_LIST of five octets", with(&[0x80, 10, 5, 0, 0, 0, 0, 0]), AttributeFault::Length),
        ("ONLY_TO_CUSTOMER of two octets", with(&[0xc0, 35, 2, 0, 0]), AttributeFault::Length),
        ("AS_PATH with AS 0", [ORIGIN, &[0x40, 2, 6, 2, 1, 0, 0, 0, 0], NEXT_HOP].concat(), AttributeFault::Value),
        ("no ORIGIN", [AS_PATH, NEXT_HOP].concat(), AttributeFault::Missing),
        ("no AS_PATH", [ORIGIN, NEXT_HOP].concat(), AttributeFault::Missing),
        ("no NEXT_HOP", [ORIGIN, AS_PATH].concat(), AttributeFault::Missing),
        ("last attribute cut off", with(&[0xc0, 8, 4, 0]), AttributeFault::CutOff),
        ("last attribute header cut off", with(&[0xc0]), AttributeFault::CutOff),
        ("extended length cut off", with(&[0xd0, 8, 0]), AttributeFault::CutOff),
    ];
    for (name, attributes, fault) in cases {
        let update = update(attributes, PREFIX).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(update.flaws.iter().map(|flaw| flaw.fault).collect::<Vec<_>>(), [*fault], "{name}");
        assert!(update.treat_as_withdraw(), "{name}");
        assert_eq!(update.reachable().count(), 0, "{name}");
        assert_eq!(update.unreachable().map(|prefix| prefix.to_string()).collect::<Vec<_>>(), ["198.51.100.0/24"]);
    }
}

#[test]
fn the_same_flaw_without_a_prefix_to_withdraw_resets() {
    assert_eq!(refusal(&update_frame(&[0x40, 1, 1, 3], &[])), (ErrorCode::INVALID_ORIGIN, vec![0x40, 1, 1, 3]));
    let path = [0x40, 2, 2, 2, 0];
    assert_eq!(refusal(&update_frame(&path, &[])), (ErrorCode::MALFORMED_AS_PATH, vec![]));
    let next_hop = [0x40, 3, 4, 0, 0, 0, 0];
    assert_eq!(refusal(&update_frame(&next_hop, &[])), (ErrorCode::INVALID_NEXT_HOP, next_hop.into()));
    let flags = [0x80, 1, 1, 0];
    assert_eq!(refusal(&update_frame(&flags, &[])), (ErrorCode::ATTRIBUTE_FLAGS, flags.into()));
    let length = [0x80, 4, 1, 0];
    assert_eq!(refusal(&update_frame(&length, &[])), (ErrorCode::ATTRIBUTE_LENGTH, length.into()));
    // As it came: bits that mean nothing and a length of two octets that one would hold.
    let odd = [0x5f, 1, 0, 1, 3];
    assert_eq!(refusal(&update_frame(&odd, &[])), (ErrorCode::INVALID_ORIGIN, odd.into()));
}

/// What each error of RFC 4271 §6.1 to §6.3 is answered with. Those of §6.4 to §6.8 are a session's: `bgp-core` has
/// them in `tests/session.rs` (a NOTIFICATION is never answered, 4/0, 5/1 to 5/3, 6/x, and 6/7 for collisions), and
/// 2/2 and 2/3 of the wrong peer as well.
#[test]
fn every_error_of_rfc_4271_has_its_code_subcode_and_data() {
    let mut marker = frame(4, &[]);
    marker[15] = 0xfe;
    let long_keepalive = [&[0xff; 16][..], &[0, 20, 4, 0]].concat();
    let open_with = |at: usize, octet: u8| {
        let mut body = [4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 0];
        body[at] = octet;
        frame(1, &body)
    };
    let no_hold = frame(1, &[4, 0xfb, 0xf4, 0, 1, 10, 0, 0, 1, 0]);
    let no_id = frame(1, &[4, 0xfb, 0xf4, 0, 90, 0, 0, 0, 0, 0]);
    let no_as = frame(1, &[4, 0, 0, 0, 90, 10, 0, 0, 1, 0]);
    let parameter = frame(1, &[4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 3, 7, 1, 0]);
    let cut_parameter = frame(1, &[4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 2, 2, 9]);
    let bare = |attributes: &[u8]| update_frame(attributes, &[]);
    type Row = (&'static str, Vec<u8>, (u8, u8), Vec<u8>);
    let rows: &[Row] = &[
        ("§6.1 marker", marker, (1, 1), vec![]),
        ("§6.1 length", long_keepalive, (1, 2), vec![0, 20]),
        ("§6.1 type", frame(77, &[]), (1, 3), vec![77]),
        ("§6.2 version", open_with(0, 3), (2, 1), vec![0, 4]),
        ("§6.2 AS", no_as, (2, 2), vec![]),
        ("§6.2 identifier", no_id, (2, 3), vec![]),
        ("§6.2 parameter unknown", parameter, (2, 4), vec![]),
        ("§6.2 parameter malformed", cut_parameter, (2, 0), vec![]),
        ("§6.2 hold time", no_hold, (2, 6), vec![]),
        ("§6.3 lengths", frame(2, &[0, 0, 0, 1]), (3, 1), vec![]),
        ("§6.3 an attribute twice, MP_UNREACH", bare(&[0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1]), (3, 1), vec![]),
        ("§6.3 well-known unknown", bare(&[0x40, 50, 1, 9]), (3, 2), vec![0x40, 50, 1, 9]),
        ("§6.3 flags", bare(&[0xc0, 1, 1, 0]), (3, 4), vec![0xc0, 1, 1, 0]),
        ("§6.3 length", bare(&[0x40, 1, 2, 0, 0]), (3, 5), vec![0x40, 1, 2, 0, 0]),
        ("§6.3 ORIGIN", bare(&[0x40, 1, 1, 9]), (3, 6), vec![0x40, 1, 1, 9]),
        ("§6.3 NEXT_HOP", bare(&[0x40, 3, 4, 255, 255, 255, 255]), (3, 8), vec![0x40, 3, 4, 255, 255, 255, 255]),
        ("§6.3 optional", bare(&[0x80, 14, 2, 0, 2]), (3, 9), vec![0x80, 14, 2, 0, 2]),
        ("§6.3 network", update_frame(&with(&[]), &[33, 1, 2, 3, 4, 5]), (3, 10), vec![]),
        ("§6.3 AS_PATH", bare(&[0x40, 2, 2, 7, 0]), (3, 11), vec![]),
    ];
    for (what, frame, (code, subcode), data) in rows {
        assert_eq!(refusal(frame), (ErrorCode(*code, *subcode), data.clone()), "{what}");
    }
    // A mandatory attribute that is missing withdraws (RFC 7606 §3 (d)); the code is there for who asks.
    let missing = AttributeError { code: 3, fault: AttributeFault::Missing, received: Vec::new() };
    assert_eq!(missing.notification(), Notification::new(ErrorCode(3, 3), [3]));
}

#[test]
fn harmless_flaws_only_lose_the_attribute() {
    let cases: &[(&str, &[u8], AttributeFault)] = &[
        ("ATOMIC_AGGREGATE with a value", &[0x40, 6, 1, 0], AttributeFault::Length),
        ("AGGREGATOR of six octets", &[0xc0, 7, 6, 0, 0, 0, 0, 0, 0], AttributeFault::Length),
        ("AGGREGATOR of AS 0", &[0xc0, 7, 8, 0, 0, 0, 0, 192, 0, 2, 1], AttributeFault::Value),
        ("ORIGIN twice", ORIGIN, AttributeFault::Repeated),
    ];
    for (name, extra, fault) in cases {
        let update = update(&with(extra), PREFIX).unwrap();
        assert_eq!(update.flaws.iter().map(|flaw| flaw.fault).collect::<Vec<_>>(), [*fault], "{name}");
        assert_eq!(update.reachable().count(), 1, "{name}");
        assert!(!update.attributes.atomic_aggregate && update.attributes.aggregator.is_none(), "{name}");
    }
}

#[test]
fn a_two_octet_peer_with_a_damaged_as4_word_only_loses_the_word() {
    let context = Context { four_octet_as: false, ..CONTEXT };
    for extra in [&[0xc0, 17, 1, 0][..], &[0xc0, 17, 6, 2, 1, 0, 0, 0, 0], &[0xc0, 18, 7, 0, 0, 0, 0, 0, 0, 0]] {
        let path = [0x40, 2, 4, 2, 1, 0xfb, 0xf4];
        let frame = update_frame(&[ORIGIN, &path, NEXT_HOP, extra].concat(), PREFIX);
        let Ok(Message::Update(update)) = Message::decode(&frame, context) else { panic!() };
        assert_eq!(update.flaws.iter().map(AttributeError::disposition).collect::<Vec<_>>(), [Disposition::Discard]);
        assert_eq!(update.reachable().count(), 1);
        // A four-octet peer has no business saying it: not even looked at.
        assert!(is_borne(&with(extra)));
    }
}

fn is_borne(attributes: &[u8]) -> bool {
    update(attributes, PREFIX).unwrap().flaws.is_empty()
}

#[test]
fn a_confederation_path_from_an_external_peer_withdraws() {
    let path = [0x40, 2, 6, 3, 1, 0, 0, 0xfb, 0xf4];
    let frame = update_frame(&[ORIGIN, &path, NEXT_HOP].concat(), PREFIX);
    let flaws = |context| match Message::decode(&frame, context) {
        Ok(Message::Update(update)) => update.flaws.iter().map(AttributeError::section).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(flaws(Context { external: true, ..CONTEXT }), ["RFC 7606 §7.2"]);
    assert!(flaws(CONTEXT).is_empty());
}

#[test]
fn a_begin_or_end_of_refresh_of_another_length_comes_back_whole_where_it_was_negotiated() {
    let enhanced = Context { enhanced_refresh: true, ..CONTEXT };
    let error = |frame: &[u8], context| Message::decode(frame, context).unwrap_err().notification();
    for subtype in [1, 2] {
        let frame = frame(5, &[0, 1, subtype, 1, 0]);
        assert_eq!(error(&frame, enhanced), Notification::new(ErrorCode::REFRESH_LENGTH, frame.clone()));
        assert_eq!(error(&frame, CONTEXT), Notification::new(ErrorCode::BAD_LENGTH, [0, 24]));
    }
    let request = frame(5, &[0, 1, 0, 1, 0]);
    assert_eq!(error(&request, enhanced), Notification::new(ErrorCode::BAD_LENGTH, [0, 24]));
}

#[test]
fn long_messages_are_taken_where_we_offered_to_and_open_and_keepalive_stay_short() {
    let extended = Context { extended_messages: true, ..CONTEXT };
    let nets = [24, 10, 0, 0].repeat(1100);
    let long = update_frame(&with(&[]), &nets);
    assert_eq!(refusal(&long).0, ErrorCode::BAD_LENGTH);
    assert!(matches!(Message::decode(&long, extended), Ok(Message::Update(_))));
    for kind in [1, 4] {
        let error = Message::decode(&frame(kind, &[0; 4078]), extended).unwrap_err();
        assert_eq!(error.notification().error, ErrorCode::BAD_LENGTH);
    }
    let mut framer = Framer::default();
    framer.push(&long);
    assert!(framer.next_frame().is_err());
    let mut framer = Framer::default();
    framer.allow_extended_messages();
    framer.push(&long);
    assert_eq!(framer.next_frame().unwrap().map(<[u8]>::len), Some(long.len()));
}

#[test]
fn an_unknown_attribute_is_borne_only_when_optional() {
    let transitive = update(&with(&[0xe0, 99, 1, 7]), PREFIX).unwrap();
    assert!(transitive.flaws.is_empty());
    assert_eq!(transitive.attributes.others[0].flags, 0xe0);
    let well_known = [0x40, 99, 1, 7];
    let expected = (ErrorCode::UNRECOGNIZED_WELL_KNOWN, well_known.to_vec());
    assert_eq!(refusal(&update_frame(&with(&well_known), PREFIX)), expected);
}

#[test]
fn two_reach_attributes_reset() {
    let unreach = [0x80, 15, 3, 0, 2, 1];
    let twice = [unreach, unreach].concat();
    assert_eq!(refusal(&update_frame(&twice, &[])), (ErrorCode::MALFORMED_ATTRIBUTES, vec![]));
}

#[test]
fn an_ipv6_next_hop_that_is_none_withdraws() {
    let reach = [&[0x80, 14, 22, 0, 2, 1, 16][..], &[0; 17], &[0]].concat();
    let update = update(&[ORIGIN, AS_PATH, &reach].concat(), &[]).unwrap();
    assert!(update.treat_as_withdraw());
    assert_eq!(update.unreachable().map(|prefix| prefix.to_string()).collect::<Vec<_>>(), ["::/0"]);
}

#[test]
fn a_prefix_of_multicast_groups_is_left_out_and_the_rest_stands() {
    let both = [&[4, 224, 3, 224][..], &[32, 239, 1, 2, 3], PREFIX].concat();
    let update = update(&with(&[]), &both).unwrap();
    // 224.0.0.0/3 holds more than groups; nobody routes by it, and it is no error.
    assert_eq!(
        update.reachable().map(|prefix| prefix.to_string()).collect::<Vec<_>>(),
        ["224.0.0.0/3", "198.51.100.0/24"]
    );
    assert_eq!(update.left_out.iter().map(ToString::to_string).collect::<Vec<_>>(), ["224.0.0.0/4", "239.1.2.3/32"]);
    assert!(update.flaws.is_empty());
    let reach =
        [&[0x80, 14, 29, 0, 2, 1, 16, 0x20, 1][..], &[1; 14], &[0, 16, 0xff, 2, 32, 0x20, 1, 13, 0xb8]].concat();
    let with_ids = [
        &[0x80, 14, 37, 0, 2, 1, 16, 0x20, 1][..],
        &[1; 14],
        &[0],
        &[0, 0, 0, 7, 16, 0xff, 2],
        &[0, 0, 0, 8, 32, 0x20, 1, 13, 0xb8],
    ]
    .concat();
    for (reach, path_ids) in [(reach, Families::NONE), (with_ids, Families { ipv4: false, ipv6: true })] {
        let frame = update_frame(&[ORIGIN, AS_PATH, &reach].concat(), &[]);
        let Ok(Message::Update(update)) = Message::decode(&frame, Context { path_ids, ..CONTEXT }) else { panic!() };
        assert_eq!(update.reachable().map(|prefix| prefix.to_string()).collect::<Vec<_>>(), ["2001:db8::/32"]);
        assert_eq!(update.path_ids.mp_reach, if path_ids.ipv6 { vec![8] } else { vec![] });
    }
}

#[test]
fn local_pref_of_an_external_peer_is_left_out_whatever_it_holds() {
    let frame = update_frame(&with(&[0x40, 5, 5, 0, 0, 0, 0, 9]), PREFIX);
    let external = Context { external: true, ..CONTEXT };
    let Ok(Message::Update(update)) = Message::decode(&frame, external) else { panic!() };
    assert_eq!(update.attributes.local_pref, None);
    assert!(update.flaws.is_empty());
    assert_eq!(update.reachable().count(), 1);
}

#[test]
fn the_framer_takes_any_split_and_refuses_garbage_at_once() {
    let stream = [frame(4, &[]), update_frame(&with(&[]), PREFIX), frame(4, &[])].concat();
    for step in 1..stream.len() {
        let mut framer = Framer::default();
        let mut sizes = Vec::new();
        for chunk in stream.chunks(step) {
            framer.push(chunk);
            while let Some(frame) = framer.next_frame().unwrap() {
                sizes.push(frame.len());
            }
        }
        assert_eq!(sizes, [19, 47, 19], "in steps of {step}");
    }
    let mut framer = Framer::default();
    framer.push(b"GET / HTTP/1.1\r\n");
    assert_eq!(framer.next_frame(), Err(DecodeError::Marker));
    let mut framer = Framer::default();
    framer.push(&frame(9, &[])[..19]);
    assert_eq!(framer.next_frame(), Err(DecodeError::Type(9)));
}

#[test]
fn cutting_a_message_anywhere_is_an_error() {
    let open = frame(1, &[4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 8, 2, 6, 65, 4, 0, 0, 0xfb, 0xf4]);
    let update = update_frame(&with(&[0xc0, 8, 4, 0xff, 0xff, 0xff, 1]), PREFIX);
    for whole in [open, update, frame(3, &[6, 2]), frame(4, &[]), frame(5, &[0, 1, 0, 1])] {
        assert!(Message::decode(&whole, CONTEXT).is_ok());
        for length in 0..whole.len() {
            assert!(Message::decode(&whole[..length], CONTEXT).is_err(), "{length} of {whole:?}");
        }
    }
}

#[test]
fn cutting_a_body_anywhere_under_a_right_header_is_an_error_or_a_withdrawal() {
    let open = [4, 0xfb, 0xf4, 0, 90, 10, 0, 0, 1, 8, 2, 6, 65, 4, 0, 0, 0xfb, 0xf4];
    for length in 0..open.len() {
        assert!(Message::decode(&frame(1, &open[..length]), CONTEXT).is_err(), "{length}");
    }
    // An attribute list that stops early, with its length field right.
    let attributes = with(&[0xc0, 8, 4, 0xff, 0xff, 0xff, 1]);
    let whole_attributes = [ORIGIN.len() + AS_PATH.len() + NEXT_HOP.len(), attributes.len()];
    for length in 0..=attributes.len() {
        let update = update(&attributes[..length], PREFIX).unwrap();
        assert_eq!(update.treat_as_withdraw(), !whole_attributes.contains(&length), "{length}");
    }
}
