//! The order's state machine, step by step.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{CARD, at, payment, placement, policy};
use std::time::Duration;
use transact_core::{Answer, BankEvent, Effect, Orders, PayError, PlaceError, State, Step, Ticket, Write};
use transact_wire::order::{Issued, Reference};
use transact_wire::payment::PaymentState;
use transact_wire::result::Verdict;

fn orders() -> Orders {
    Orders::restore(policy(), Vec::new(), 0).0
}

fn placed(step: Step) -> Result<Issued, PlaceError> {
    step.effects
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Answer(_, Answer::Placed(answer)) => Some(answer),
            _ => None,
        })
        .unwrap()
}

fn answers(step: &Step) -> Vec<(Ticket, Result<PaymentState, PayError>)> {
    let answer = |effect: &Effect| match effect {
        Effect::Answer(ticket, Answer::Payment(answer)) => Some((*ticket, answer.clone())),
        _ => None,
    };
    step.effects.iter().filter_map(answer).collect()
}

fn key(issued: &Issued) -> transact_core::OrderKey {
    transact_core::OrderKey { vendor: "shop".parse().unwrap(), transaction_id: issued.transaction_id.clone() }
}

#[test]
fn the_same_placement_gets_the_same_answer_and_another_body_is_a_conflict() {
    let mut orders = orders();
    let first = orders.place(Ticket(1), &placement("o-1"), at(0));
    assert_eq!(first.writes.len(), 1);
    let first = placed(first).unwrap();
    let again = orders.place(Ticket(2), &placement("o-1"), at(5));
    assert!(again.writes.is_empty());
    assert_eq!(placed(again).unwrap(), first);
    let mut other = placement("o-1");
    other.order.description = "Another".to_owned();
    assert_eq!(placed(orders.place(Ticket(3), &other, at(5))), Err(PlaceError::Conflict));
}

#[test]
fn a_temporary_id_gets_a_real_one_that_stays() {
    let mut orders = orders();
    let mut temporary = placement("x");
    temporary.order.reference = Reference::TemporaryId("tmp-1".parse().unwrap());
    let first = placed(orders.place(Ticket(1), &temporary, at(0))).unwrap();
    assert_ne!(first.transaction_id.as_str(), "tmp-1");
    assert_eq!(placed(orders.place(Ticket(2), &temporary, at(1))).unwrap().transaction_id, first.transaction_id);
}

#[test]
fn the_address_is_of_the_clients_family_and_unknown_isps_are_refused() {
    let mut orders = orders();
    let mut v6 = placement("o-6");
    v6.order.client_ip = "2001:db8:5100:64::70".parse().unwrap();
    assert_eq!(placed(orders.place(Ticket(1), &v6, at(0))).unwrap().address.to_string(), "2001:db8:c10a::200");
    let mut stranger = placement("o-7");
    stranger.isp = "nobody".parse().unwrap();
    assert!(matches!(placed(orders.place(Ticket(2), &stranger, at(0))), Err(PlaceError::UnknownIsp(_))));
    let mut empty = placement("o-8");
    empty.order.description = String::new();
    assert!(matches!(
        placed(orders.place(Ticket(3), &empty, at(0))),
        Err(PlaceError::Field { field: "description", .. })
    ));
    assert_eq!(orders.iter().count(), 1, "a refusal changes nothing");
}

#[test]
fn an_approved_payment_is_durable_before_the_bank_is_asked_and_before_anybody_is_told() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let step = orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    assert!(
        matches!(&step.writes[..], [Write::Stan(1), Write::Order(order)] if matches!(order.state, State::Authorising(_)))
    );
    assert!(matches!(&step.effects[..], [Effect::Proven(Ticket(2), _), Effect::Authorise(_)]));
    let step = orders.bank(&key(&issued), BankEvent::Approved { authorisation_code: "A1".into() }, at(11));
    assert!(matches!(&step.writes[..], [Write::Order(order)]
        if matches!(&order.state, State::Final { verdict: Verdict::Approved, .. })));
    assert_eq!(answers(&step), [(Ticket(2), Ok(PaymentState::Approved))]);
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Approved))
    );
}

#[test]
fn a_second_payment_joins_the_first_and_never_reaches_the_bank() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let second = orders.pay(Ticket(3), payment(&issued, "4000000000000002"), at(10));
    assert!(second.writes.is_empty() && !second.effects.iter().any(|e| matches!(e, Effect::Authorise(_))));
    let step = orders.bank(&key(&issued), BankEvent::Declined, at(11));
    assert_eq!(answers(&step), [(Ticket(2), Ok(PaymentState::Declined)), (Ticket(3), Ok(PaymentState::Declined))]);
    let later = orders.pay(Ticket(4), payment(&issued, CARD), at(12));
    assert_eq!(answers(&later), [(Ticket(4), Ok(PaymentState::Declined))]);
}

#[test]
fn silence_is_reversed_and_a_late_approval_changes_nothing() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let step = orders.bank(&key(&issued), BankEvent::TimedOut, at(12));
    assert!(matches!(&step.writes[..], [Write::Order(order)] if matches!(order.state, State::Reversing(_))));
    assert_eq!(answers(&step), [(Ticket(2), Ok(PaymentState::Reversing))]);
    assert!(matches!(step.effects[0], Effect::Reverse(_)));
    let late = orders.bank(&key(&issued), BankEvent::Approved { authorisation_code: "A1".into() }, at(13));
    assert!(late.writes.is_empty() && late.effects.is_empty());
    let step = orders.bank(&key(&issued), BankEvent::Reversed, at(14));
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Reversed))
    );
}

#[test]
fn what_was_never_sent_leaves_the_order_open() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let step = orders.bank(&key(&issued), BankEvent::NotSent, at(10));
    assert_eq!(answers(&step), [(Ticket(2), Err(PayError::BankUnreachable))]);
    let retry = orders.pay(Ticket(3), payment(&issued, CARD), at(20));
    assert!(retry.effects.iter().any(|e| matches!(e, Effect::Authorise(_))));
}

#[test]
fn wrong_passwords_reveal_nothing_and_the_last_one_closes_the_order() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let mut wrong = payment(&issued, CARD);
    wrong.transaction.password = "guess".into();
    let mut unknown = payment(&issued, CARD);
    unknown.transaction.transaction_id = "o-2".parse().unwrap();
    assert_eq!(answers(&orders.pay(Ticket(2), unknown, at(1))), [(Ticket(2), Err(PayError::NoMatch))]);
    for _ in 0..2 {
        assert_eq!(answers(&orders.pay(Ticket(3), wrong.clone(), at(1))), [(Ticket(3), Err(PayError::NoMatch))]);
    }
    assert_eq!(
        answers(&orders.outcome(Ticket(4), &payment(&issued, CARD).transaction, at(1))),
        [(Ticket(4), Ok(PaymentState::Open))]
    );
    let third = orders.pay(Ticket(5), wrong, at(1));
    assert!(third.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Locked)));
    assert_eq!(answers(&orders.pay(Ticket(6), payment(&issued, CARD), at(2))), [(Ticket(6), Ok(PaymentState::Locked))]);
}

#[test]
fn an_order_expires_on_time_by_itself_and_at_a_late_payment() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    assert!(orders.tick(at(899)).writes.is_empty());
    let late = orders.pay(Ticket(2), payment(&issued, CARD), at(900));
    assert_eq!(answers(&late), [(Ticket(2), Ok(PaymentState::Expired))]);
    placed(orders.place(Ticket(3), &placement("o-2"), at(900))).unwrap();
    let step = orders.tick(at(1800));
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Expired)));
}

#[test]
fn an_expired_card_is_refused_and_the_order_stays_open() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let mut old = payment(&issued, CARD);
    old.expiry = transact_wire::card::Expiry::parse("01/20").unwrap();
    let step = orders.pay(Ticket(2), old, at(1));
    assert_eq!(answers(&step), [(Ticket(2), Err(PayError::CardExpired))]);
    assert!(step.writes.is_empty());
}

#[test]
fn open_orders_are_bounded() {
    let mut orders = orders();
    for n in 0..100 {
        placed(orders.place(Ticket(n), &placement(&format!("o-{n}")), at(0))).unwrap();
    }
    assert_eq!(placed(orders.place(Ticket(100), &placement("o-100"), at(0))), Err(PlaceError::TooMany));
    orders.tick(at(900));
    assert!(placed(orders.place(Ticket(101), &placement("o-100"), at(900))).is_ok());
}

#[test]
fn results_are_published_again_after_a_restart_until_they_are_acknowledged_and_then_forgotten_in_time() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let step = orders.bank(&key(&issued), BankEvent::Declined, at(11));
    let id = step
        .effects
        .iter()
        .find_map(|e| match e {
            Effect::Publish(id, _) => Some(id.clone()),
            _ => None,
        })
        .unwrap();
    let stored: Vec<_> = orders.iter().cloned().collect();
    let (mut restored, step) = Orders::restore(policy(), stored, 1);
    assert!(matches!(&step.effects[..], [Effect::Publish(again, _)] if *again == id));
    let step = restored.acknowledge(Ticket(3), &[id.clone(), "res_unknown".into()], at(20));
    assert_eq!(step.writes.len(), 1);
    assert!(restored.acknowledge(Ticket(4), &[id], at(21)).writes.is_empty(), "once is enough");
    let (mut restored, step) = Orders::restore(policy(), restored.iter().cloned().collect(), 1);
    assert!(step.effects.is_empty());
    let end = at(20) + Duration::from_secs(86_400);
    assert!(matches!(&restored.tick(end).writes[..], [Write::Forget(_)]));
    assert_eq!(restored.iter().count(), 0);
}

#[test]
fn a_crash_while_authorising_is_reversed_with_the_same_trace_number() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let (mut restored, step) = Orders::restore(policy(), orders.iter().cloned().collect(), 1);
    assert!(matches!(&step.effects[..], [Effect::Reverse(reversal)] if reversal.attempt.stan == 1));
    let step = restored.bank(&key(&issued), BankEvent::Reversed, at(30));
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Reversed))
    );
}

#[test]
fn trace_numbers_go_round_after_999_999() {
    let (mut orders, _) = Orders::restore(policy(), Vec::new(), 999_999);
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let step = orders.pay(Ticket(2), payment(&issued, CARD), at(1));
    assert_eq!(step.writes[0], Write::Stan(1));
}

#[test]
fn nothing_stored_or_printed_holds_card_or_password() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let step = orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let text = format!("{step:?} {orders:?}");
    assert!(!text.contains(CARD) && !text.contains(issued.password.expose().as_str()), "{text}");
    for order in orders.iter() {
        let stored = serde_json::to_string(order).unwrap();
        assert!(!stored.contains(CARD) && !stored.contains(issued.password.expose().as_str()));
        assert_eq!(serde_json::from_str::<transact_core::Order>(&stored).unwrap(), *order);
    }
}
