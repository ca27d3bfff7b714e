//! Octets made from RFC 7011 §3 and the elements of RFC 8158 §5: no exporter is at hand that sends NAT events.

use proptest::prelude::*;

use super::*;
use crate::flows::{Flow, Mapping};

fn set(id: u16, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 4).unwrap();
    [&id.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
}

fn message(domain: u32, sequence: u32, sets: &[Vec<u8>]) -> Vec<u8> {
    let body = sets.concat();
    let length = u16::try_from(body.len() + 16).unwrap();
    let head = [&[0, 10][..], &length.to_be_bytes(), &1_795_375_686_u32.to_be_bytes()].concat();
    [head, sequence.to_be_bytes().to_vec(), domain.to_be_bytes().to_vec(), body].concat()
}

fn template(id: u16, fields: &[(u16, u16)]) -> Vec<u8> {
    let count = u16::try_from(fields.len()).unwrap();
    let fields: Vec<u8> =
        fields.iter().flat_map(|(element, length)| [element.to_be_bytes(), length.to_be_bytes()].concat()).collect();
    [&id.to_be_bytes()[..], &count.to_be_bytes(), &fields].concat()
}

/// A NAT44 session, as RFC 8158 §5.5 lists it.
const SESSION: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (4, 1), (7, 2), (227, 2), (12, 4), (11, 2)];
/// A block of ports (§5.10).
const BLOCK: &[(u16, u16)] = &[(323, 8), (230, 1), (8, 4), (225, 4), (361, 2), (362, 2)];

fn session(event: u8, internal: u8, port: u16) -> Vec<u8> {
    let at = 1_795_375_686_123_u64.to_be_bytes();
    let ports = [&5000_u16.to_be_bytes()[..], &port.to_be_bytes()].concat();
    [&at[..], &[event, 100, 64, 0, internal, 203, 0, 113, 1, 6], &ports, &[192, 0, 2, 1], &443_u16.to_be_bytes()]
        .concat()
}

fn block(event: u8, first: u16, last: u16) -> Vec<u8> {
    let at = 1_795_375_686_123_u64.to_be_bytes();
    [&at[..], &[event, 100, 64, 0, 7, 203, 0, 113, 1], &first.to_be_bytes(), &last.to_be_bytes()].concat()
}

fn flow(internal: u8, port: u16) -> Flow {
    let mapping =
        Mapping { external: [203, 0, 113, 1].into(), port, protocol: 6, internal: [100, 64, 0, internal].into() };
    Flow { mapping, internal_port: 5000, remote: [192, 0, 2, 1].into(), remote_port: 443 }
}

type Events = Vec<Result<Option<Event>, EventError>>;

fn read(exporter: &mut Session, dialect: Dialect, message: &[u8]) -> Result<(Told, Events), SessionError> {
    let mut events = Vec::new();
    let told = exporter.read(message, |_, record| events.push(dialect.event(record)))?;
    Ok((told, events))
}

#[test]
fn a_session_is_made_and_taken_away() {
    let mut exporter = Session::new();
    let first = message(1, 0, &[set(2, &template(256, SESSION)), set(256, &session(4, 7, 2048))]);
    let (told, events) = read(&mut exporter, Dialect::Rfc8158, &first).unwrap();
    assert_eq!((told.domain, told.first, told.gap, told.unreadable), (1, true, false, 0));
    let event =
        Event { which: Which::Begun, happening: Happening::Session(flow(7, 2048)), at_ms: Some(1_795_375_686_123) };
    assert_eq!(events, [Ok(Some(event))]);
    let (told, events) =
        read(&mut exporter, Dialect::Rfc8158, &message(1, 1, &[set(256, &session(5, 7, 2048))])).unwrap();
    assert!(!told.gap && !told.first);
    assert_eq!(events, [Ok(Some(Event { which: Which::Ended, ..event }))]);
}

#[test]
fn the_time_of_an_event_is_that_of_its_observation_or_of_its_flow() {
    let of = |element: u16, value: &[u8], event: u8| {
        let length = u16::try_from(value.len()).unwrap();
        let fields = [&[(element, length)], &BLOCK[1..]].concat();
        let record = [value, &block(event, 1, 2)[8..]].concat();
        let octets = message(1, 0, &[set(2, &template(256, &fields)), set(256, &record)]);
        read(&mut Session::new(), Dialect::Rfc8158, &octets).unwrap().1[0].unwrap().unwrap().at_ms
    };
    let (seconds, ms) = (1_795_375_686_u32, 1_795_375_686_500_u64);
    // NTP counts from 1900, and halves of a second are half of a fraction's range.
    let ntp = ((u64::from(seconds) + 2_208_988_800) << 32 | 1 << 31).to_be_bytes();
    for (begun, ended, value) in [
        (322, 322, &seconds.to_be_bytes()[..]),
        (323, 323, &ms.to_be_bytes()),
        (324, 324, &ntp),
        (325, 325, &ntp),
        (150, 151, &seconds.to_be_bytes()),
        (152, 153, &ms.to_be_bytes()),
        (154, 155, &ntp),
        (156, 157, &ntp),
    ] {
        let whole = if value.len() == 4 { u64::from(seconds) * 1000 } else { ms };
        assert_eq!((of(begun, value, 16), of(ended, value, 17)), (Some(whole), Some(whole)), "{begun}");
        if begun != ended {
            assert_eq!((of(ended, value, 16), of(begun, value, 17)), (None, None), "the other end of {begun}");
        }
        assert_eq!(of(begun, &vec![0; value.len()], 16), None, "0 is no time");
    }
}

#[test]
fn one_number_means_two_things_and_the_dialect_decides() {
    let octets = message(1, 0, &[set(2, &template(256, BLOCK)), set(256, &block(14, 2048, 2559))]);
    let happening = |dialect| {
        let (_, events) = read(&mut Session::new(), dialect, &octets).unwrap();
        events[0].unwrap().unwrap().happening
    };
    let (external, internal) = ([203, 0, 113, 1].into(), [100, 64, 0, 7].into());
    assert_eq!(happening(Dialect::Junos), Happening::Block { external, first: 2048, last: 2559, internal });
    assert_eq!(happening(Dialect::Rfc8158), Happening::Address { external, internal });
    let draft = message(1, 0, &[set(2, &template(256, SESSION)), set(256, &session(1, 7, 2048))]);
    let (_, events) = read(&mut Session::new(), Dialect::Rfc8158, &draft).unwrap();
    assert_eq!(events, [Err(EventError::Number(1))], "historic: never guessed");
    assert!("JUNOS".parse::<Dialect>().is_err() && "junos".parse() == Ok(Dialect::Junos));
}

#[test]
fn blocks_that_are_no_range_are_refused() {
    let of = |fields: &[(u16, u16)], record: &[u8]| {
        let octets = message(1, 0, &[set(2, &template(256, fields)), set(256, record)]);
        read(&mut Session::new(), Dialect::Rfc8158, &octets).unwrap().1[0]
    };
    assert!(matches!(of(BLOCK, &block(16, 2559, 2048)), Err(EventError::Ports { .. })));
    let stepped = [BLOCK, &[(363, 2)]].concat();
    assert!(matches!(
        of(&stepped, &[block(16, 2048, 2559), vec![0, 4]].concat()),
        Err(EventError::Ports { step: 4, .. })
    ));
    // By its first port and how many.
    let sized: Vec<(u16, u16)> =
        BLOCK.iter().map(|(id, length)| (if *id == 362 { 364 } else { *id }, *length)).collect();
    let event = of(&sized, &block(16, 2048, 512)).unwrap().unwrap();
    assert!(matches!(event.happening, Happening::Block { first: 2048, last: 2559, .. }));
    assert!(matches!(of(&BLOCK[..5], &block(16, 2048, 2)[..19]), Err(EventError::Missing { .. })));
}

#[test]
fn templates_belong_to_their_domain_and_can_be_withdrawn() {
    let mut exporter = Session::new();
    let data = |domain, sequence| message(domain, sequence, &[set(256, &session(4, 7, 2048))]);
    exporter.read(&message(1, 0, &[set(2, &template(256, SESSION))]), |_, _| {}).unwrap();
    assert_eq!(exporter.read(&data(2, 0), |_, _| panic!("of another domain")).unwrap().unreadable, 1);
    exporter.read(&message(1, 0, &[set(2, &[1, 0, 0, 0])]), |_, _| {}).unwrap();
    assert_eq!(exporter.read(&data(1, 0), |_, _| panic!("withdrawn")).unwrap().unreadable, 1);
    // Withdrawn all at once, and given another meaning.
    exporter.read(&message(1, 0, &[set(2, &template(256, SESSION))]), |_, _| {}).unwrap();
    exporter.read(&message(1, 0, &[set(2, &[0, 2, 0, 0]), set(2, &template(256, BLOCK))]), |_, _| {}).unwrap();
    let (_, events) = read(&mut exporter, Dialect::Rfc8158, &message(1, 0, &[set(256, &block(16, 1, 2))])).unwrap();
    assert!(matches!(events[0], Ok(Some(_))));
}

#[test]
fn records_that_are_lost_leave_a_gap_of_their_domain() {
    let mut exporter = Session::new();
    let data = |domain, sequence| message(domain, sequence, &[set(256, &session(4, 7, 2048))]);
    for domain in [1, 2] {
        exporter.read(&message(domain, 10, &[set(2, &template(256, SESSION))]), |_, _| {}).unwrap();
    }
    let mut gap = |domain, sequence| exporter.read(&data(domain, sequence), |_, _| {}).unwrap().gap;
    assert!(!gap(1, 10) && !gap(1, 11));
    assert!(gap(1, 13), "12 was lost");
    assert!(!gap(1, 14) && !gap(2, 10));
    assert!(gap(1, 14), "it came twice");
    // The number comes round.
    assert!(gap(1, u32::MAX) && !gap(1, 0));
}

#[test]
fn options_variable_lengths_enterprise_elements_and_padding_are_read() {
    let options = [&[1, 1, 0, 2, 0, 1][..], &[0, 149, 0, 4], &[0, 41, 0, 8]].concat();
    let mixed =
        [&[1, 0, 0, 3][..], &[0x80 | 1, 0, 0xff, 0xff, 0, 0, 0x0a, 0x4c], &[0, 230, 0, 1], &[0, 82, 0xff, 0xff]]
            .concat();
    let long = [vec![255, 1, 0], vec![7; 256], vec![16], vec![2, b'o', b'k']].concat();
    let short = [vec![1, 9], vec![17], vec![0]].concat();
    let octets = message(
        1,
        0,
        &[
            set(3, &[options, vec![0, 0]].concat()),
            set(2, &mixed),
            set(257, &[0; 12]),
            set(256, &[long, short, vec![0, 0]].concat()),
        ],
    );
    let mut seen = Vec::new();
    let mut exporter = Session::new();
    exporter
        .read(&octets, |_, record| {
            let name = record.get(82).unwrap().to_vec();
            seen.push((record.get_of(2636, 256).map(<[u8]>::len), record.number(230), name));
        })
        .unwrap();
    assert_eq!(seen, [(Some(256), Some(16), b"ok".to_vec()), (Some(1), Some(17), Vec::new())]);
    // Three records, that of the options too.
    assert!(!exporter.read(&message(1, 3, &[]), |_, _| {}).unwrap().gap);
}

#[test]
fn what_is_no_message_is_refused() {
    let mut exporter = Session::new();
    let mut refused = |octets: &[u8]| exporter.read(octets, |_, _| {}).unwrap_err();
    let mut netflow = message(1, 0, &[]);
    netflow[1] = 9;
    assert_eq!(refused(&netflow), SessionError::Version(9));
    assert!(matches!(refused(&message(1, 0, &[])[..10]), SessionError::Length { .. }));
    let whole = message(1, 0, &[set(2, &template(256, SESSION))]);
    assert!(matches!(refused(&whole[..30]), SessionError::Length { said: 60, there: 30 }));
    assert!(matches!(refused(&message(1, 0, &[vec![1, 0, 0, 3]])), SessionError::Set { id: 256, at: 16 }));
    let empty = template(256, &[(230, 0)]);
    assert!(matches!(refused(&message(1, 0, &[set(2, &empty)])), SessionError::Template { id: 256, .. }));
    let cut = [template(256, &[(82, 65535)]), vec![]].concat();
    assert_eq!(refused(&message(1, 0, &[set(2, &cut), set(256, &[9, 1])])), SessionError::Record(256));
}

#[test]
fn messages_on_a_stream_say_how_long_they_are() {
    let whole = message(1, 0, &[set(2, &template(256, SESSION))]);
    assert_eq!(Session::length(&whole), Ok(Some(whole.len())));
    assert_eq!(Session::length(&whole[..3]), Ok(None));
    assert_eq!(Session::length(&[0, 5, 0, 0]), Err(SessionError::Version(5)));
    assert!(Session::length(&[0, 10, 0, 3]).is_err());
}

#[test]
fn templates_have_a_bound() {
    let mut exporter = Session::new();
    let of = |domain: u32| message(domain, 0, &[set(2, &template(256, BLOCK))]);
    for domain in 0..1024 {
        exporter.read(&of(domain), |_, _| {}).unwrap();
    }
    assert_eq!(exporter.read(&of(5000), |_, _| {}), Err(SessionError::TooMany));
    assert!(exporter.read(&of(5), |_, _| {}).is_ok(), "one that is known may be said again");
}

proptest! {
    #[test]
    fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..300), id in 0..400_u16) {
        let mut exporter = Session::new();
        let _ = exporter.read(&octets, |_, _| {});
        let templates = set(2, &[template(256, SESSION), template(257, BLOCK)].concat());
        let _ = exporter.read(&message(1, 0, &[templates, set(id, &octets)]), |_, record| {
            for dialect in [Dialect::Rfc8158, Dialect::Junos] {
                let _ = dialect.event(record);
            }
        });
    }

    #[test]
    fn every_block_reads_as_it_was_written(first: u16, last: u16, begun: bool) {
        let octets = message(9, 0, &[set(2, &template(300, BLOCK)), set(300, &block(if begun { 16 } else { 17 }, first, last))]);
        let (_, events) = read(&mut Session::new(), Dialect::Rfc8158, &octets).unwrap();
        match events[0] {
            Ok(Some(Event { which, happening: Happening::Block { first: one, last: two, .. }, .. })) => {
                prop_assert_eq!((which == Which::Begun, one, two), (begun, first, last));
            }
            Err(EventError::Ports { .. }) => prop_assert!(first > last),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
