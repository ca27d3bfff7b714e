//! One sentence a test.

use transact_bank::{Count, DisconnectReason, FrameError, Input, MessageType, Output, ResponseCode, Verdict, Why};

use crate::common::{Bench, answer, authorisation, reversal};

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

    bench.handle(Input::Connected);
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
    bench.handle(Input::Disconnected);
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
    bench.handle(Input::Disconnected);
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
    bench.handle(Input::Connected);
    bench.wait_until(10_000);
    assert_eq!(bench.told(), [Output::Disconnect(DisconnectReason::SignOnTimedOut)]);

    bench.handle(Input::Connected);
    let sign_on = bench.said().pop().unwrap();
    bench.hear(&answer(&sign_on, "91"));
    assert_eq!(bench.told(), [Output::Disconnect(DisconnectReason::SignOnRefused(code("91")))]);
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
    assert_eq!(bench.told(), [Output::Disconnect(DisconnectReason::EchoTimedOut)]);
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
    bench.handle(Input::Bytes(&[0, 0]));
    assert_eq!(
        bench.told(),
        [Output::Disconnect(DisconnectReason::Stream(FrameError::Empty)), Output::TimedOut(1, Why::ConnectionLost)]
    );
    bench.handle(Input::Bytes(b"more"));
    bench.handle(Input::Disconnected);
    assert_eq!(bench.told(), []);
}

#[test]
fn an_unreadable_message_is_counted_and_the_link_goes_on() {
    let (mut bench, request) = asked();
    bench.handle(Input::Bytes(b"\x00\x040200"));
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
