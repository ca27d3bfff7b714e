//! One sentence a test.

use transact_bank::{
    Codec, Count, DisconnectReason, FrameError, Framer, Input, LinkConfig, MacKey, MessageType, Movement, Output,
    Profile, ResponseCode, Reversal, ReversalKind, Verdict, Why,
};

use crate::common::{Bench, answer, authorisation, config, refund, reversal};

fn code(text: &str) -> ResponseCode {
    ResponseCode::parse(text).unwrap()
}

/// A link that is up, with authorisation 1 asked for; and its 0100.
fn asked() -> (Bench, transact_bank::Message) {
    let mut bench = Bench::up();
    bench.handle(Input::Authorise(1, authorisation(42, 0)));
    let request = bench.said().remove(0);
    (bench, request)
}

#[test]
fn signing_off_lets_nothing_more_out_and_ends_with_its_answer_or_in_time() {
    let mut bench = Bench::up();
    bench.handle(Input::Authorise(1, authorisation(42, 0)));
    bench.said();
    bench.handle(Input::SignOff);
    let sign_off = bench.said().remove(0);
    assert_eq!((sign_off.message_type(), sign_off.get(70)), (MessageType::NetworkRequest, Some("002")));
    bench.handle(Input::Authorise(2, authorisation(43, 0)));
    assert_eq!(bench.told(), [Output::NotSent(2)]);
    bench.handle(Input::SignOff);
    assert_eq!((bench.said(), bench.told()), (vec![], vec![]), "once is enough");
    bench.hear(&answer(&sign_off, "00"));
    let lost = Output::TimedOut(1, Why::ConnectionLost);
    assert_eq!(bench.told(), [Output::Disconnect(0, DisconnectReason::SignedOff), lost]);
    assert_eq!((bench.link.lines_made(), bench.link.counters().get(Count::SignedOff)), (0, 1));

    let mut bench = Bench::up();
    bench.handle(Input::SignOff);
    bench.said();
    bench.wait_until(9_999);
    assert_eq!(bench.told(), []);
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::Disconnect(0, DisconnectReason::SignedOff)]);
}

#[test]
fn an_approval_is_told_with_its_authorisation_code() {
    let (mut bench, request) = asked();
    assert_eq!(request.message_type(), MessageType::AuthorisationRequest);

    bench.hear(&answer(&request, "00"));

    let approved = Verdict::Approved { authorisation_code: "A12345".into() };
    assert_eq!(bench.told(), [Output::Authorised(1, approved)]);
    assert_eq!((bench.link.outstanding(), bench.link.counters().get(Count::Approved)), (0, 1));
}

#[test]
fn a_refusal_is_told_with_its_code() {
    let (mut bench, request) = asked();
    bench.hear(&answer(&request, "51"));
    assert_eq!(bench.told(), [Output::Authorised(1, Verdict::Declined(code("51")))]);
}

#[test]
fn what_is_asked_while_the_link_is_down_is_refused_at_once() {
    let mut bench = Bench::down();
    bench.handle(Input::Authorise(1, authorisation(42, 0)));
    assert_eq!((bench.said(), bench.told()), (vec![], vec![Output::NotSent(1)]));

    bench.handle(Input::Connected(0));
    bench.said();
    bench.handle(Input::Authorise(2, authorisation(43, 0)));
    assert_eq!((bench.said(), bench.told()), (vec![], vec![Output::NotSent(2)]), "not signed on yet");
}

#[test]
fn one_more_than_the_bound_is_refused() {
    let mut bench = Bench::up();
    for n in 1..=257 {
        bench.handle(Input::Authorise(n, authorisation(n, 0)));
    }
    assert_eq!((bench.said().len(), bench.told()), (256, vec![Output::NotSent(257)]));
}

#[test]
fn the_same_trace_is_never_sent_twice() {
    let (mut bench, request) = asked();
    bench.handle(Input::Authorise(2, authorisation(42, 0)));
    assert_eq!((bench.said(), bench.told()), (vec![], vec![Output::NotSent(2)]));
    bench.hear(&answer(&request, "00"));
    bench.told();
    bench.handle(Input::Authorise(3, authorisation(42, 0)));
    assert_eq!((bench.said(), bench.told()), (vec![], vec![Output::NotSent(3)]));
}

#[test]
fn silence_past_the_deadline_is_told_once_and_nothing_is_sent_again() {
    let (mut bench, _) = asked();
    bench.wait_until(9_999);
    assert_eq!(bench.told(), []);
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::TimedOut(1, Why::Deadline)]);
    bench.wait_until(25_000);
    assert_eq!((bench.told(), bench.said()), (vec![], vec![]));
}

#[test]
fn a_lost_connection_ends_what_was_asked_at_once() {
    let (mut bench, _) = asked();
    bench.handle(Input::Disconnected(0));
    assert_eq!(bench.told(), [Output::TimedOut(1, Why::ConnectionLost)]);
    assert_eq!(bench.link.poll_timeout(), None);
}

#[test]
fn a_late_answer_is_reported_and_changes_nothing() {
    let (mut bench, request) = asked();
    bench.wait_until(10_000);
    bench.told();
    bench.handle(Input::Reverse(1, reversal(42, 0)));
    let reversal = bench.said().remove(0);

    bench.hear(&answer(&request, "00"));
    bench.hear(&answer(&request, "00"));
    assert_eq!(bench.told(), [Output::Late(1, code("00"))]);
    assert_eq!(bench.link.counters().get(Count::Duplicate), 1);

    bench.hear(&answer(&reversal, "00"));
    assert_eq!(bench.told(), [Output::Reversed(1, code("00"))]);
}

#[test]
fn repeated_and_unknown_answers_are_counted_only() {
    let (mut bench, request) = asked();
    let approval = answer(&request, "00");
    bench.hear(&approval);
    bench.told();
    bench.hear(&approval);
    for (field, value) in [(11, "000043"), (7, "1114221321"), (41, "CLOAK002")] {
        let mut other = approval.clone();
        other.set(field, value).unwrap();
        bench.hear(&other);
    }
    assert_eq!((bench.told(), bench.said()), (vec![], vec![]));
    let counters = bench.link.counters();
    assert_eq!((counters.get(Count::Duplicate), counters.get(Count::Unmatched)), (1, 3));
}

#[test]
fn an_answer_with_another_retrieval_reference_is_not_ours() {
    let (mut bench, request) = asked();
    let mut approval = answer(&request, "00");
    approval.set(37, "000000000000").unwrap();
    bench.hear(&approval);
    assert_eq!((bench.told(), bench.link.outstanding()), (vec![], 1));
}

#[test]
fn approvals_of_something_else_than_what_was_asked_are_to_be_reversed() {
    for change in [(39, "10"), (39, "08"), (4, "000000001235"), (49, "840")] {
        let (mut bench, request) = asked();
        let mut approval = answer(&request, "00");
        approval.set(change.0, change.1).unwrap();
        bench.hear(&approval);
        assert!(matches!(bench.told()[..], [Output::TimedOut(1, Why::Unclear(_))]), "{change:?}");
    }
}

#[test]
fn an_answer_without_a_response_code_is_no_answer() {
    let (mut bench, request) = asked();
    let mut broken = transact_bank::Message::new(MessageType::AuthorisationResponse);
    broken.copy(&answer(&request, "00"), &[4, 7, 11, 37, 41, 49]);
    bench.hear(&broken);
    assert_eq!((bench.told(), bench.link.counters().get(Count::Undecodable)), (vec![], 1));
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::TimedOut(1, Why::Deadline)]);
}

#[test]
fn a_reversal_is_repeated_with_back_off_until_it_is_confirmed() {
    let mut bench = Bench::up();
    bench.handle(Input::Reverse(1, reversal(42, 0)));
    let first = bench.said().remove(0);
    assert_eq!((first.message_type(), first.get(2)), (MessageType::ReversalRequest, None));

    for (time, number) in [(1_999, 0), (2_000, 1), (5_999, 0), (6_000, 1), (14_000, 1)] {
        bench.wait_until(time);
        let repeats = bench.said();
        assert_eq!(repeats.len(), number, "at {time} ms");
        assert!(repeats.iter().all(|m| m.message_type() == MessageType::ReversalRepeat && m.get(90) == first.get(90)));
    }
    bench.hear(&answer(&first, "96"));
    assert_eq!((bench.told(), bench.link.reversing()), (vec![], 1), "96 asks to try again");
    bench.hear(&answer(&first, "25"));
    assert_eq!((bench.told(), bench.link.reversing()), (vec![Output::Reversed(1, code("25"))], 0));
    bench.hear(&answer(&first, "25"));
    assert_eq!((bench.told(), bench.link.counters().get(Count::Duplicate)), (vec![], 1));
}

#[test]
fn a_reversal_waits_for_a_connection_and_goes_out_on_the_next() {
    let mut bench = Bench::down();
    bench.handle(Input::Reverse(1, reversal(42, 0)));
    bench.handle(Input::Reverse(1, reversal(42, 0)));
    assert_eq!((bench.said(), bench.link.poll_timeout()), (vec![], None));

    bench.connect();
    assert_eq!(bench.said().iter().map(|m| m.message_type().code()).collect::<Vec<_>>(), ["0400"]);
    bench.handle(Input::Disconnected(0));
    bench.connect();
    assert_eq!(bench.said().iter().map(|m| m.message_type().code()).collect::<Vec<_>>(), ["0401"]);
}

#[test]
fn many_reversals_are_paced() {
    let mut bench = Bench::down();
    for n in 1..=100 {
        bench.handle(Input::Reverse(n, reversal(n, 0)));
    }
    bench.connect();
    assert_eq!(bench.said().len(), 32);
    bench.wait_until(300);
    assert_eq!(bench.said().len(), 68);
}

#[test]
fn reversing_what_is_still_waiting_makes_its_answer_late() {
    let (mut bench, request) = asked();
    bench.handle(Input::Reverse(1, reversal(42, 0)));
    bench.hear(&answer(&request, "00"));
    assert_eq!(bench.told(), [Output::Late(1, code("00"))]);
    assert_eq!(bench.link.outstanding(), 0);
}

#[test]
fn a_sign_on_without_answer_or_with_a_refusal_ends_the_connection() {
    let mut bench = Bench::down();
    bench.handle(Input::Connected(0));
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::Disconnect(0, DisconnectReason::SignOnTimedOut)]);

    bench.handle(Input::Connected(0));
    let sign_on = bench.said().pop().unwrap();
    bench.hear(&answer(&sign_on, "91"));
    assert_eq!(bench.told(), [Output::Disconnect(0, DisconnectReason::SignOnRefused(code("91")))]);
    assert!(!bench.link.is_up());
}

#[test]
fn an_idle_link_is_echoed_and_a_dead_one_is_left() {
    let mut bench = Bench::up();
    bench.wait_until(30_000);
    let echo = bench.said().remove(0);
    assert_eq!(echo.get(70), Some("301"));
    bench.hear(&answer(&echo, "00"));
    bench.wait_until(59_999);
    assert_eq!(bench.said(), []);
    bench.wait_until(70_000);
    assert_eq!(bench.told(), [Output::Disconnect(0, DisconnectReason::EchoTimedOut)]);
}

#[test]
fn the_institution_may_send_an_echo_of_its_own() {
    let mut bench = Bench::up();
    let mut echo = transact_bank::Message::new(MessageType::NetworkRequest);
    for (field, value) in [(7, "1114221320"), (11, "000007"), (70, "301")] {
        echo.set(field, value).unwrap();
    }
    bench.hear(&echo);
    let reply = bench.said().remove(0);
    assert_eq!(
        (reply.message_type(), reply.get(11), reply.get(39)),
        (MessageType::NetworkResponse, Some("000007"), Some("00"))
    );
}

#[test]
fn a_stream_that_cannot_be_read_ends_the_connection_and_what_was_asked() {
    let (mut bench, _) = asked();
    bench.handle(Input::Bytes(0, &[0, 0]));
    assert_eq!(
        bench.told(),
        [Output::Disconnect(0, DisconnectReason::Stream(FrameError::Empty)), Output::TimedOut(1, Why::ConnectionLost)]
    );
    bench.handle(Input::Bytes(0, b"more"));
    bench.handle(Input::Disconnected(0));
    assert_eq!(bench.told(), []);
}

#[test]
fn an_unreadable_message_is_counted_and_the_link_goes_on() {
    let (mut bench, request) = asked();
    bench.handle(Input::Bytes(0, b"\x00\x040300"));
    assert_eq!(bench.link.counters().get(Count::Undecodable), 1);
    bench.hear(&answer(&request, "05"));
    assert_eq!(bench.told(), [Output::Authorised(1, Verdict::Declined(code("05")))]);
}

#[test]
fn nothing_that_is_said_shows_a_card_in_debug() {
    let mut bench = Bench::up();
    bench.link.handle(Input::Authorise(1, authorisation(42, 0)), crate::common::at(0), crate::common::wall(0));
    let output = bench.link.poll_output().unwrap();
    assert!(!format!("{output:?} {:?}", bench.link).contains("4111"));
}

#[test]
fn a_purchase_is_a_0200_and_its_reversal_names_it_as_one() {
    let mut bench = Bench::with(LinkConfig { reversals: ReversalKind::Advice, ..config() });
    bench.connect();
    let mut purchase = authorisation(42, 0);
    purchase.movement = Movement::Purchase;
    bench.handle(Input::Authorise(1, purchase));
    let request = bench.said().remove(0);
    assert_eq!((request.message_type().code(), request.get(3)), ("0200", Some("000000")));

    let mut other = transact_bank::Message::new(MessageType::AuthorisationResponse);
    other.copy(&answer(&request, "00"), &[4, 7, 11, 37, 39, 41, 49]);
    bench.hear(&other);
    assert_eq!(bench.told(), [], "a 0110 is no answer to a 0200");

    bench.handle(Input::Reverse(1, Reversal { movement: Movement::Purchase, ..reversal(42, 0) }));
    bench.wait_until(2_000);
    let reversals = bench.said();
    assert_eq!(reversals.iter().map(|m| m.message_type().code()).collect::<Vec<_>>(), ["0420", "0421"]);
    assert!(reversals[0].get(90).unwrap().starts_with("0200000042"));
    bench.hear(&answer(&reversals[1], "00"));
    assert_eq!(bench.told(), [Output::Reversed(1, code("00"))]);
}

#[test]
fn a_refund_is_answered_or_reversed_like_everything_else() {
    let mut bench = Bench::up();
    bench.handle(Input::Refund(1, refund(43, 0)));
    let request = bench.said().remove(0);
    assert_eq!((request.message_type().code(), request.get(3), request.get(2)), ("0200", Some("200000"), None));
    bench.hear(&answer(&request, "00"));
    assert!(matches!(bench.told()[..], [Output::Authorised(1, Verdict::Approved { .. })]));

    bench.handle(Input::Refund(2, refund(44, 0)));
    bench.said();
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::TimedOut(2, Why::Deadline)]);
    let refused =
        Reversal { trace: crate::common::trace(44, 0), movement: Movement::Refund, amount: crate::common::money(200) };
    bench.handle(Input::Reverse(2, refused));
    let reversal = bench.said().remove(0);
    assert_eq!(
        (reversal.get(3), reversal.get(90).map(|d| d[..10].to_owned())),
        (Some("200000"), Some("0200000044".into()))
    );
    assert_eq!(bench.link.counters().get(Count::Refund), 2);
}

/// Signs on over `line`, and gives what else is said then, each with its connection.
fn sign_on(bench: &mut Bench, line: usize) -> Vec<(usize, transact_bank::Message)> {
    bench.link.handle(Input::Connected(line), crate::common::at(0), crate::common::wall(0));
    let mut said = sends(bench);
    let (over, request) = said.remove(0);
    assert_eq!((over, said.len()), (line, 0));
    let reply = crate::common::framed(&answer(&request, "00"));
    bench.link.handle(Input::Bytes(line, &reply), crate::common::at(0), crate::common::wall(0));
    sends(bench)
}

fn sends(bench: &mut Bench) -> Vec<(usize, transact_bank::Message)> {
    let mut said = vec![];
    while let Some(output) = bench.link.poll_output() {
        match output {
            Output::Send(line, octets) => said.push((line, crate::common::unframed(&octets))),
            told => bench.told.push(told),
        }
    }
    said
}

#[test]
fn several_connections_share_the_work_and_one_that_is_lost_takes_only_its_own_down() {
    let mut bench = Bench::with(LinkConfig { lines: 2, ..config() });
    sign_on(&mut bench, 0);
    sign_on(&mut bench, 1);
    assert_eq!(bench.link.lines_up(), 2);
    for stan in 1..=4 {
        bench.link.handle(Input::Authorise(stan, authorisation(stan, 0)), crate::common::at(0), crate::common::wall(0));
    }
    let asked = sends(&mut bench);
    assert_eq!(asked.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [0, 1, 0, 1]);

    bench.link.handle(Input::Disconnected(0), crate::common::at(0), crate::common::wall(0));
    assert_eq!(sends(&mut bench), []);
    let lost = |k| Output::TimedOut(k, Why::ConnectionLost);
    assert_eq!(bench.told(), [lost(1), lost(3)]);

    // What is owed goes over the one that is left, and answers are taken from wherever they come.
    bench.link.handle(Input::Reverse(1, reversal(1, 0)), crate::common::at(0), crate::common::wall(0));
    let owed = sends(&mut bench);
    assert_eq!((owed.len(), owed[0].0, owed[0].1.message_type().code()), (1, 1, "0400"));
    assert_eq!(sign_on(&mut bench, 0), [], "what is owed was tried already");
    let reply = crate::common::framed(&answer(&asked[1].1, "00"));
    bench.link.handle(Input::Bytes(0, &reply), crate::common::at(0), crate::common::wall(0));
    sends(&mut bench);
    assert!(matches!(bench.told()[..], [Output::Authorised(2, _)]));
    bench.link.handle(Input::Connected(7), crate::common::at(0), crate::common::wall(0));
    assert_eq!(bench.link.lines_up(), 2, "there is no connection 7");
}

#[test]
fn an_answer_that_is_not_authentic_counts_as_none() {
    let mac = MacKey::aes_cmac(cloakway_crypto::Secret::new(vec![7; 16])).unwrap();
    let codec = Codec { profile: Profile::BINARY, mac: Some(mac) };
    let mut bench = Bench::with(LinkConfig { codec: codec.clone(), ..config() });
    let (at, wall) = (crate::common::at, crate::common::wall);
    let say = |bench: &mut Bench, codec: &Codec, message: &transact_bank::Message| {
        let octets = transact_bank::frame(&codec.encode(message)).expose().clone();
        bench.link.handle(Input::Bytes(0, &octets), at(0), wall(0));
    };
    let heard = |bench: &mut Bench| {
        let Some(Output::Send(0, octets)) = bench.link.poll_output() else { panic!("nothing is said") };
        let mut messages = vec![];
        Framer::default().push(octets.expose(), |message| messages.push(codec.decode(message).unwrap())).unwrap();
        messages.remove(0)
    };
    bench.link.handle(Input::Connected(0), at(0), wall(0));
    let request = heard(&mut bench);
    say(&mut bench, &codec, &answer(&request, "00"));
    bench.link.handle(Input::Authorise(1, authorisation(42, 0)), at(0), wall(0));
    let request = heard(&mut bench);
    assert!(request.get(64).is_some());

    let bare = Codec { mac: None, ..codec.clone() };
    say(&mut bench, &bare, &answer(&request, "00"));
    let other = MacKey::aes_cmac(cloakway_crypto::Secret::new(vec![8; 16])).ok();
    say(&mut bench, &Codec { mac: other, ..codec.clone() }, &answer(&request, "00"));
    assert_eq!((bench.link.poll_output(), bench.link.counters().get(Count::Unauthentic)), (None, 2));
    say(&mut bench, &codec, &answer(&request, "05"));
    assert_eq!(bench.link.poll_output(), Some(Output::Authorised(1, Verdict::Declined(code("05")))));
}
