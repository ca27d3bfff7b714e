//! The conversation with a cache, unit by unit.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use bgp_rpki::{Client, ErrorKind, Event, Input, Output, Pdu, Settings, State, Timing, Version, Vrp};
use bgp_wire::Asn;
use cloakway_types::Instant;

const SESSION: u16 = 7;

fn at(seconds: u64) -> Instant {
    Instant::after_origin(Duration::from_secs(seconds))
}

fn client() -> Client {
    Client::new(Settings { max_payloads: 4, timing: Timing::default() }, at(0))
}

fn drain(client: &mut Client) -> Vec<Output> {
    std::iter::from_fn(|| client.poll_output()).collect()
}

fn sent(outputs: &[Output]) -> Vec<(Version, Pdu)> {
    let read = |output: &Output| match output {
        Output::Send(bytes) => Some(Pdu::decode(bytes).unwrap()),
        _ => None,
    };
    outputs.iter().filter_map(read).collect()
}

/// Connects and gives what is asked first.
fn connect(client: &mut Client, now: Instant) -> Vec<(Version, Pdu)> {
    client.handle(Input::Tick, now);
    assert!(drain(client).contains(&Output::Connect));
    client.handle(Input::Connected, now);
    sent(&drain(client))
}

fn say(client: &mut Client, version: Version, pdus: &[Pdu], now: Instant) -> Vec<Output> {
    let bytes: Vec<u8> = pdus.iter().flat_map(|pdu| pdu.encode(version)).collect();
    client.handle(Input::Received(&bytes), now);
    drain(client)
}

fn vrp(n: u8) -> Vrp {
    Vrp { prefix: format!("10.{n}.0.0/16").parse().unwrap(), max_length: 24, asn: Asn(64500) }
}

fn answer(serial: u32, changes: &[(bool, u8)]) -> Vec<Pdu> {
    let change = |(announce, n): &(bool, u8)| Pdu::Prefix { announce: *announce, vrp: vrp(*n) };
    let mut pdus = vec![Pdu::CacheResponse { session: SESSION }];
    pdus.extend(changes.iter().map(change));
    pdus.push(Pdu::EndOfData { session: SESSION, serial, timing: Some(Timing::default()) });
    pdus
}

fn synchronised() -> Client {
    let mut client = client();
    assert_eq!(connect(&mut client, at(0)), [(Version::V1, Pdu::ResetQuery)]);
    let outputs = say(&mut client, Version::V1, &answer(1, &[(true, 1), (true, 2)]), at(1));
    assert_eq!(outputs, [Output::Event(Event::Updated { serial: 1, payloads: 2, added: 2, removed: 0 })]);
    assert_eq!(client.status().state, State::Synchronised);
    client
}

/// The error that the client told the cache, before it hung up.
fn refused(outputs: &[Output]) -> ErrorKind {
    assert!(outputs.contains(&Output::Close), "{outputs:?}");
    match &sent(outputs)[..] {
        [(_, Pdu::ErrorReport { kind, .. })] => *kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_is_asked_first_and_what_changed_from_then_on() {
    let mut client = synchronised();
    assert_eq!(client.poll_timeout(), Some(at(1 + 3600)));
    client.handle(Input::Tick, at(3600));
    assert_eq!(drain(&mut client), []);
    client.handle(Input::Tick, at(3601));
    assert_eq!(sent(&drain(&mut client)), [(Version::V1, Pdu::SerialQuery { session: SESSION, serial: 1 })]);
    let outputs = say(&mut client, Version::V1, &answer(2, &[(false, 1), (true, 3)]), at(3602));
    assert_eq!(outputs, [Output::Event(Event::Updated { serial: 2, payloads: 2, added: 1, removed: 1 })]);
    assert_eq!(client.data().unwrap().iter().collect::<Vec<_>>(), [vrp(2), vrp(3)]);
}

#[test]
fn a_notify_asks_at_once_and_an_old_one_does_not() {
    let mut client = synchronised();
    let notify = |serial| [Pdu::SerialNotify { session: SESSION, serial }];
    assert_eq!(say(&mut client, Version::V1, &notify(1), at(2)), []);
    let asked = sent(&say(&mut client, Version::V1, &notify(2), at(3)));
    assert_eq!(asked, [(Version::V1, Pdu::SerialQuery { session: SESSION, serial: 1 })]);
    assert_eq!(say(&mut client, Version::V1, &notify(3), at(3)), [], "asked already");
}

#[test]
fn nothing_counts_before_the_end_of_data() {
    let mut client = synchronised();
    client.handle(Input::Tick, at(3601));
    drain(&mut client);
    let whole = answer(2, &[(false, 1), (true, 3)]);
    say(&mut client, Version::V1, &whole[..3], at(3602));
    assert_eq!(client.data().unwrap().iter().collect::<Vec<_>>(), [vrp(1), vrp(2)]);
    client.handle(Input::Closed("gone"), at(3603));
    assert_eq!(client.data().unwrap().len(), 2);
    drain(&mut client);
    let asked = connect(&mut client, at(3604));
    assert_eq!(asked, [(Version::V1, Pdu::SerialQuery { session: SESSION, serial: 1 })]);
}

#[test]
fn cache_reset_asks_for_all_and_keeps_what_there_is_meanwhile() {
    let mut client = synchronised();
    client.handle(Input::Tick, at(3601));
    drain(&mut client);
    let outputs = say(&mut client, Version::V1, &[Pdu::CacheReset], at(3602));
    assert_eq!(sent(&outputs), [(Version::V1, Pdu::ResetQuery)]);
    assert_eq!(client.data().unwrap().len(), 2);
    say(&mut client, Version::V1, &answer(9, &[(true, 3)]), at(3603));
    assert_eq!(client.data().unwrap().iter().collect::<Vec<_>>(), [vrp(3)]);
}

#[test]
fn a_cache_that_started_anew_is_left_and_asked_for_all() {
    let mut client = synchronised();
    client.handle(Input::Tick, at(3601));
    drain(&mut client);
    let outputs = say(&mut client, Version::V1, &[Pdu::CacheResponse { session: SESSION + 1 }], at(3602));
    assert_eq!(refused(&outputs), ErrorKind::CorruptData);
    assert_eq!(connect(&mut client, at(3610)), [(Version::V1, Pdu::ResetQuery)]);
    assert_eq!(client.data().unwrap().len(), 2, "until all of the new is here");
    // The same by notify, without losing the connection.
    let mut client = synchronised();
    let outputs = say(&mut client, Version::V1, &[Pdu::SerialNotify { session: SESSION + 1, serial: 1 }], at(2));
    assert_eq!(sent(&outputs), [(Version::V1, Pdu::ResetQuery)]);
}

#[test]
fn an_older_cache_is_met_in_its_version() {
    // It answers in its own version.
    let mut one = client();
    connect(&mut one, at(0));
    say(&mut one, Version::V0, &answer(1, &[(true, 1)]), at(1));
    assert_eq!((one.status().version, one.data().unwrap().len()), (Version::V0, 1));
    // It reports that it does not know ours, or only hangs up.
    let report = Pdu::ErrorReport { kind: ErrorKind::UnsupportedVersion, about: Vec::new(), text: String::new() };
    for hang_up in [false, true] {
        let mut client = client();
        connect(&mut client, at(0));
        if hang_up {
            client.handle(Input::Closed("reset"), at(1));
        } else {
            assert!(say(&mut client, Version::V0, std::slice::from_ref(&report), at(1)).contains(&Output::Close));
        }
        assert_eq!(connect(&mut client, at(5)), [(Version::V0, Pdu::ResetQuery)]);
        say(&mut client, Version::V0, &answer(1, &[(true, 1)]), at(6));
        assert_eq!(client.data().unwrap().len(), 1);
    }
}

#[test]
fn another_version_later_is_refused() {
    let mut client = synchronised();
    let outputs = say(&mut client, Version::V0, &[Pdu::SerialNotify { session: SESSION, serial: 2 }], at(2));
    assert_eq!(refused(&outputs), ErrorKind::UnexpectedVersion);
}

#[test]
fn what_cannot_be_is_refused_by_its_code() {
    let announce = |n| Pdu::Prefix { announce: true, vrp: vrp(n) };
    let begin = Pdu::CacheResponse { session: SESSION };
    let cases: [(Vec<Pdu>, ErrorKind); 8] = [
        (vec![begin.clone(), announce(1), announce(1)], ErrorKind::DuplicateAnnouncement),
        (vec![begin.clone(), Pdu::Prefix { announce: false, vrp: vrp(1) }], ErrorKind::UnknownWithdrawal),
        (vec![announce(1)], ErrorKind::CorruptData),
        (vec![begin.clone(), begin.clone()], ErrorKind::CorruptData),
        (vec![begin.clone(), Pdu::EndOfData { session: 8, serial: 1, timing: None }], ErrorKind::CorruptData),
        (vec![Pdu::CacheReset], ErrorKind::CorruptData),
        (vec![Pdu::ResetQuery], ErrorKind::InvalidRequest),
        ([vec![begin], (1..=5).map(announce).collect()].concat(), ErrorKind::Internal),
    ];
    for (pdus, kind) in cases {
        let mut client = client();
        connect(&mut client, at(0));
        assert_eq!(refused(&say(&mut client, Version::V1, &pdus, at(1))), kind, "{pdus:?}");
        assert!(client.data().is_none());
    }
    for (bytes, kind) in [
        ([1, 99, 0, 0, 0, 0, 0, 8], ErrorKind::UnsupportedType),
        ([9, 3, 0, 0, 0, 0, 0, 8], ErrorKind::UnsupportedVersion),
        ([1, 3, 0, 0, 0, 0, 0, 7], ErrorKind::CorruptData),
    ] {
        let mut client = client();
        connect(&mut client, at(0));
        client.handle(Input::Received(&bytes), at(1));
        assert_eq!(refused(&drain(&mut client)), kind);
    }
}

#[test]
fn an_error_report_is_never_answered_by_one() {
    let mut client = synchronised();
    let report = Pdu::ErrorReport { kind: ErrorKind::Internal, about: Vec::new(), text: "disk".to_owned() };
    let outputs = say(&mut client, Version::V1, &[report], at(2));
    assert_eq!(sent(&outputs), []);
    assert!(outputs.contains(&Output::Close));
}

#[test]
fn a_cache_without_data_is_asked_again_after_the_retry_interval() {
    let mut client = client();
    connect(&mut client, at(0));
    let report = Pdu::ErrorReport { kind: ErrorKind::NoData, about: Vec::new(), text: String::new() };
    let outputs = say(&mut client, Version::V1, &[report], at(1));
    assert!(!outputs.contains(&Output::Close), "{outputs:?}");
    assert_eq!(client.poll_timeout(), Some(at(601)));
    client.handle(Input::Tick, at(601));
    assert_eq!(sent(&drain(&mut client)), [(Version::V1, Pdu::ResetQuery)]);
}

#[test]
fn what_was_said_counts_until_it_expires_and_not_a_second_longer() {
    let mut client = synchronised();
    client.handle(Input::Closed("gone"), at(2));
    drain(&mut client);
    let mut now = 2;
    while now < 7200 {
        client.handle(Input::Tick, at(now));
        if drain(&mut client).contains(&Output::Connect) {
            client.handle(Input::Closed("refused"), at(now));
        }
        assert!(client.data().is_some(), "{now}");
        now += 1;
    }
    drain(&mut client);
    client.handle(Input::Tick, at(7201));
    assert!(drain(&mut client).contains(&Output::Event(Event::Expired)));
    assert!(client.data().is_none());
    assert_eq!(client.status().serial, None);
}

#[test]
fn a_difference_to_what_has_expired_is_no_answer() {
    let mut client = synchronised();
    client.handle(Input::Tick, at(3601));
    drain(&mut client);
    // It is asked, hung up on, and asked again when little time is left.
    client.handle(Input::Closed("gone"), at(3602));
    drain(&mut client);
    let asked = connect(&mut client, at(7170));
    assert_eq!(asked, [(Version::V1, Pdu::SerialQuery { session: SESSION, serial: 1 })]);
    let difference = answer(2, &[(true, 3)]);
    say(&mut client, Version::V1, &difference[..2], at(7190));
    client.handle(Input::Tick, at(7201));
    let outputs = drain(&mut client);
    assert!(outputs.contains(&Output::Event(Event::Expired)) && outputs.contains(&Output::Close), "{outputs:?}");
    say(&mut client, Version::V1, &difference[2..], at(7201));
    assert_eq!(client.data(), None);
    assert_eq!(connect(&mut client, at(7210)), [(Version::V1, Pdu::ResetQuery)]);
}

#[test]
fn silence_in_the_middle_of_an_answer_ends_the_connection() {
    let mut client = client();
    connect(&mut client, at(0));
    client.handle(Input::Tick, at(59));
    assert_eq!(drain(&mut client), []);
    client.handle(Input::Tick, at(60));
    assert!(drain(&mut client).contains(&Output::Close));
}

#[test]
fn attempts_that_fail_alike_are_told_once_and_come_ever_slower() {
    let mut client = client();
    let (mut attempts, mut told) = (Vec::new(), 0);
    for now in 0..3600 {
        client.handle(Input::Tick, at(now));
        for output in drain(&mut client) {
            match output {
                Output::Connect => {
                    attempts.push(now);
                    client.handle(Input::Closed("refused"), at(now));
                }
                Output::Event(Event::Down(_)) => told += 1,
                _ => {}
            }
        }
    }
    told += drain(&mut client).iter().filter(|output| matches!(output, Output::Event(_))).count();
    assert_eq!(told, 1);
    assert_eq!(attempts[..6], [0, 1, 3, 7, 15, 31]);
    assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] <= 600), "{attempts:?}");
}

#[test]
fn intervals_are_held_to_their_ranges() {
    let secs = Duration::from_secs;
    let wild = Timing { refresh: secs(0), retry: secs(9999), expire: secs(u64::from(u32::MAX)) }.bounded();
    assert_eq!(wild, Timing { refresh: secs(1), retry: secs(7200), expire: secs(172_800) });
    let hasty = Timing { refresh: secs(86_400), retry: secs(1), expire: secs(1) }.bounded();
    assert!(hasty.expire > hasty.refresh);
}
