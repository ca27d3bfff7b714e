//! The order's state machine, step by step.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{CARD, at, payment, placement, policy};
use std::time::Duration;
use transact_core::{
    Answer, Asked, BankEvent, CancelError, Effect, Orders, PayError, PlaceError, RefundError, State, Step, Ticket,
    Write,
};
use transact_wire::after::{OrderName, Phase, RefundOrder, RefundPlacement, RefundState};
use transact_wire::order::{Issued, Reference};
use transact_wire::payment::PaymentState;
use transact_wire::result::Verdict;

fn orders() -> Orders {
    Orders::restore(policy(), Vec::new(), 0, at(0)).0
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

fn asked(issued: &Issued) -> Asked {
    Asked::payment(&key(issued))
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
    let step = orders.bank(&asked(&issued), BankEvent::Approved { authorisation_code: "A1".into() }, at(11));
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
    let step = orders.bank(&asked(&issued), BankEvent::Declined, at(11));
    assert_eq!(answers(&step), [(Ticket(2), Ok(PaymentState::Declined)), (Ticket(3), Ok(PaymentState::Declined))]);
    let later = orders.pay(Ticket(4), payment(&issued, CARD), at(12));
    assert_eq!(answers(&later), [(Ticket(4), Ok(PaymentState::Declined))]);
}

#[test]
fn silence_is_reversed_and_a_late_approval_changes_nothing() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let step = orders.bank(&asked(&issued), BankEvent::TimedOut, at(12));
    assert!(matches!(&step.writes[..], [Write::Order(order)] if matches!(order.state, State::Reversing(_))));
    assert_eq!(answers(&step), [(Ticket(2), Ok(PaymentState::Reversing))]);
    assert!(matches!(step.effects[0], Effect::Reverse(_)));
    let late = orders.bank(&asked(&issued), BankEvent::Approved { authorisation_code: "A1".into() }, at(13));
    assert!(late.writes.is_empty() && late.effects.is_empty());
    let step = orders.bank(&asked(&issued), BankEvent::Reversed, at(14));
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Reversed))
    );
}

#[test]
fn what_was_never_sent_leaves_the_order_open() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    let step = orders.bank(&asked(&issued), BankEvent::NotSent, at(10));
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
    let step = orders.bank(&asked(&issued), BankEvent::Declined, at(11));
    let id = step
        .effects
        .iter()
        .find_map(|e| match e {
            Effect::Publish(id, _) => Some(id.clone()),
            _ => None,
        })
        .unwrap();
    let stored: Vec<_> = orders.iter().cloned().collect();
    let (mut restored, step) = Orders::restore(policy(), stored, 1, at(0));
    assert!(matches!(&step.effects[..], [Effect::Publish(again, _)] if *again == id));
    let step = restored.acknowledge(Ticket(3), &[id.clone(), "res_unknown".into()], at(20));
    assert_eq!(step.writes.len(), 1);
    assert!(restored.acknowledge(Ticket(4), &[id], at(21)).writes.is_empty(), "once is enough");
    let (mut restored, step) = Orders::restore(policy(), restored.iter().cloned().collect(), 1, at(0));
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
    let (mut restored, step) = Orders::restore(policy(), orders.iter().cloned().collect(), 1, at(0));
    assert!(matches!(&step.effects[..], [Effect::Reverse(reversal)] if reversal.attempt.stan == 1));
    let step = restored.bank(&asked(&issued), BankEvent::Reversed, at(30));
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Publish(_, result) if result.verdict == Verdict::Reversed))
    );
}

#[test]
fn trace_numbers_go_round_after_999_999() {
    let (mut orders, _) = Orders::restore(policy(), Vec::new(), 999_999, at(0));
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

fn refund(issued: &Issued, id: &str, minor: u64) -> RefundPlacement {
    RefundPlacement {
        order: name(issued),
        refund: RefundOrder {
            refund_id: id.parse().unwrap(),
            amount: cloakway_types::Money::new(minor, "EUR".parse().unwrap()).unwrap(),
        },
    }
}

fn name(issued: &Issued) -> OrderName {
    OrderName { vendor: "shop".parse().unwrap(), transaction_id: issued.transaction_id.clone() }
}

fn refunding(issued: &Issued, id: &str) -> Asked {
    Asked { order: key(issued), refund: Some(id.parse().unwrap()) }
}

fn approved(code: &str) -> BankEvent {
    BankEvent::Approved { authorisation_code: code.into() }
}

/// Orders with one of 12.50 EUR that is paid.
fn paid() -> (Orders, Issued) {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    orders.pay(Ticket(2), payment(&issued, CARD), at(10));
    orders.bank(&asked(&issued), approved("A1"), at(11));
    (orders, issued)
}

fn receipts(step: &Step) -> Vec<Result<RefundState, RefundError>> {
    let receipt = |effect: &Effect| match effect {
        Effect::Answer(_, Answer::Refund(answer)) => Some(answer.clone().map(|receipt| receipt.state)),
        _ => None,
    };
    step.effects.iter().filter_map(receipt).collect()
}

fn published(step: &Step) -> Vec<Verdict> {
    let verdict = |effect: &Effect| match effect {
        Effect::Publish(_, result) => Some(result.verdict),
        _ => None,
    };
    step.effects.iter().filter_map(verdict).collect()
}

fn phase(orders: &Orders) -> Phase {
    orders.iter().next().unwrap().phase()
}

#[test]
fn money_goes_back_in_parts_and_never_more_than_was_paid() {
    let (mut orders, issued) = paid();
    let step = orders.refund(Ticket(3), &refund(&issued, "r-1", 500), at(20));
    assert!(matches!(&step.writes[..], [Write::Stan(2), Write::Order(_)]), "durable before the bank is asked");
    let [Effect::Refund(sent)] = &step.effects[..] else { panic!("{step:?}") };
    assert_eq!((sent.attempt.stan, sent.original.stan, sent.authorisation_code.as_deref()), (2, 1, Some("A1")));
    assert_eq!(phase(&orders), Phase::Refunding);
    let busy = orders.refund(Ticket(4), &refund(&issued, "r-2", 1), at(20));
    assert_eq!((receipts(&busy), busy.writes.len()), (vec![Err(RefundError::Busy)], 0));

    let step = orders.bank(&refunding(&issued, "r-1"), approved("B1"), at(21));
    assert_eq!((receipts(&step), published(&step)), (vec![Ok(RefundState::Given)], vec![Verdict::PartlyRefunded]));
    assert_eq!(phase(&orders), Phase::PartlyRefunded);
    let too_much = orders.refund(Ticket(5), &refund(&issued, "r-2", 751), at(22));
    assert_eq!(receipts(&too_much), [Err(RefundError::TooMuch { left: 750, currency: "EUR".into() })]);

    orders.refund(Ticket(6), &refund(&issued, "r-2", 750), at(22));
    let step = orders.bank(&refunding(&issued, "r-2"), approved("B2"), at(23));
    assert_eq!((published(&step), phase(&orders)), (vec![Verdict::Refunded], Phase::Refunded));
    let over = orders.refund(Ticket(7), &refund(&issued, "r-3", 1), at(24));
    assert_eq!(receipts(&over), [Err(RefundError::NotPaid(Phase::Refunded))]);
    let steps: Vec<_> = orders.iter().next().unwrap().steps.iter().map(|step| step.to).collect();
    use Phase as P;
    assert_eq!(
        steps,
        [
            P::Created,
            P::PageIssued,
            P::CardReceived,
            P::Authorising,
            P::Approved,
            P::Refunding,
            P::PartlyRefunded,
            P::Refunding,
            P::Refunded
        ]
    );
}

#[test]
fn the_same_refund_gets_the_same_answer_and_another_amount_is_a_conflict() {
    let (mut orders, issued) = paid();
    orders.refund(Ticket(3), &refund(&issued, "r-1", 500), at(20));
    let again = orders.refund(Ticket(4), &refund(&issued, "r-1", 500), at(20));
    assert!(again.writes.is_empty() && again.effects.is_empty(), "it joins the first");
    let other = orders.refund(Ticket(5), &refund(&issued, "r-1", 501), at(20));
    assert_eq!(receipts(&other), [Err(RefundError::Conflict)]);
    let step = orders.bank(&refunding(&issued, "r-1"), BankEvent::Declined, at(21));
    assert_eq!(receipts(&step), [Ok(RefundState::Refused), Ok(RefundState::Refused)]);
    assert_eq!((published(&step), phase(&orders)), (vec![Verdict::RefundFailed], Phase::Approved));
    let later = orders.refund(Ticket(6), &refund(&issued, "r-1", 500), at(22));
    assert_eq!((receipts(&later), later.writes.len()), (vec![Ok(RefundState::Refused)], 0));
}

#[test]
fn a_refund_without_answer_is_undone_also_over_a_restart() {
    let (mut orders, issued) = paid();
    orders.refund(Ticket(3), &refund(&issued, "r-1", 500), at(20));
    let step = orders.bank(&refunding(&issued, "r-1"), BankEvent::TimedOut, at(35));
    assert_eq!(receipts(&step), [Ok(RefundState::Undoing)]);
    assert!(
        step.effects.iter().any(|e| matches!(e, Effect::Reverse(r) if r.attempt.stan == 2 && r.amount.minor() == 500))
    );
    assert!(orders.bank(&refunding(&issued, "r-1"), approved("late"), at(36)).writes.is_empty());

    let (mut restored, step) = Orders::restore(policy(), orders.iter().cloned().collect(), 2, at(40));
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Reverse(r) if r.asked == refunding(&issued, "r-1"))));
    let step = restored.bank(&refunding(&issued, "r-1"), BankEvent::Reversed, at(41));
    assert_eq!((published(&step), phase(&restored)), (vec![Verdict::RefundFailed], Phase::Approved));
    restored.refund(Ticket(4), &refund(&issued, "r-2", 1250), at(42));
    let (restored, step) = Orders::restore(policy(), restored.iter().cloned().collect(), 3, at(43));
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Reverse(r) if r.attempt.stan == 3)), "asked when it ended");
    assert_eq!(phase(&restored), Phase::Refunding);
}

#[test]
fn a_refund_that_was_never_sent_leaves_no_trace_and_may_be_asked_again() {
    let (mut orders, issued) = paid();
    orders.refund(Ticket(3), &refund(&issued, "r-1", 500), at(20));
    let step = orders.bank(&refunding(&issued, "r-1"), BankEvent::NotSent, at(20));
    assert_eq!((receipts(&step), phase(&orders)), (vec![Err(RefundError::BankUnreachable)], Phase::Approved));
    let again = orders.refund(Ticket(4), &refund(&issued, "r-1", 500), at(30));
    assert!(matches!(&again.effects[..], [Effect::Refund(_)]));
}

#[test]
fn results_of_an_order_come_in_order_and_each_is_acknowledged_for_itself() {
    let (mut orders, issued) = paid();
    orders.refund(Ticket(3), &refund(&issued, "r-1", 500), at(20));
    orders.bank(&refunding(&issued, "r-1"), approved("B"), at(21));
    let (mut orders, step) = Orders::restore(policy(), orders.iter().cloned().collect(), 2, at(30));
    assert_eq!(published(&step), [Verdict::Approved, Verdict::PartlyRefunded]);
    let ids: Vec<String> = orders.iter().next().unwrap().results().into_iter().map(|(id, ..)| id).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(orders.acknowledge(Ticket(4), &ids[1..], at(40)).writes.len(), 1);
    assert!(orders.tick(at(40 + 86_400)).writes.is_empty(), "the first is not acknowledged");
    orders.acknowledge(Ticket(5), &ids[..1], at(41));
    assert!(matches!(&orders.tick(at(41 + 86_400)).writes[..], [Write::Forget(_)]));
}

fn told(step: &Step) -> Result<Phase, CancelError> {
    let status = |effect: &Effect| match effect {
        Effect::Answer(_, Answer::Status(answer)) => Some(answer.clone().map(|known| known.status.phase)),
        _ => None,
    };
    step.effects.iter().find_map(status).unwrap()
}

#[test]
fn an_order_is_cancelled_until_a_card_comes_and_not_afterwards() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    assert_eq!(told(&orders.status(Ticket(2), &name(&issued), at(1))), Ok(Phase::PageIssued));
    let step = orders.cancel(Ticket(3), &name(&issued), at(2));
    assert_eq!((told(&step), published(&step)), (Ok(Phase::Cancelled), vec![Verdict::Cancelled]));
    let again = orders.cancel(Ticket(4), &name(&issued), at(3));
    assert_eq!((told(&again), again.writes.len()), (Ok(Phase::Cancelled), 0));
    let pay = orders.pay(Ticket(5), payment(&issued, CARD), at(4));
    assert_eq!(answers(&pay), [(Ticket(5), Ok(PaymentState::Cancelled))]);
    let placed_again = placed(orders.place(Ticket(6), &placement("o-1"), at(5)));
    assert!(placed_again.is_ok(), "the same order gets the same answer");

    let second = placed(orders.place(Ticket(7), &placement("o-2"), at(5))).unwrap();
    orders.pay(Ticket(8), payment(&second, CARD), at(6));
    assert_eq!(told(&orders.cancel(Ticket(9), &name(&second), at(6))), Err(CancelError::Busy));
    orders.bank(&asked(&second), approved("A"), at(7));
    assert_eq!(told(&orders.cancel(Ticket(10), &name(&second), at(8))), Err(CancelError::Decided(Phase::Approved)));
    let stranger = OrderName { vendor: "other".parse().unwrap(), ..name(&second) };
    assert_eq!(told(&orders.status(Ticket(11), &stranger, at(9))), Err(CancelError::Unknown));
    assert_eq!(told(&orders.cancel(Ticket(12), &stranger, at(9))), Err(CancelError::Unknown));
}

#[test]
fn steps_are_bounded_however_often_a_bank_is_not_there() {
    let mut orders = orders();
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    for second in 1..100 {
        orders.pay(Ticket(second), payment(&issued, CARD), at(second));
        orders.bank(&asked(&issued), BankEvent::NotSent, at(second));
    }
    let steps = &orders.iter().next().unwrap().steps;
    assert_eq!((steps.len(), steps[0].to, steps[63].at), (64, Phase::Created, at(99)));
}

#[test]
fn orders_of_an_older_version_are_read() {
    let old = r#"{"key":{"vendor":"shop","transaction_id":"o-1"},"temporary_id":null,"isp":"isp",
        "amount":{"minor":1250,"currency":"EUR"},"fingerprint":"f","verifier":"v","wrong_passwords":0,
        "created_at":1795000000000,"expires_at":1795000900000,
        "state":{"authorising":{"stan":7,"sent_at":1795000001000,"last_four":"1111"}}}"#;
    let order: transact_core::Order = serde_json::from_str(old).unwrap();
    let (orders, step) = Orders::restore(policy(), vec![order], 7, at(30));
    assert!(matches!(&step.effects[..], [Effect::Reverse(reversal)] if reversal.attempt.institution == "bank"));
    assert_eq!(phase(&orders), Phase::Reversing);
}

/// A card of no institution is refused before anything is stored.
#[test]
fn a_card_that_nobody_takes_leaves_the_order_open() {
    let mut narrow = policy();
    let mut ranges = transact_bank::CardRanges::default();
    ranges.add("51-55".parse().unwrap(), "red").unwrap();
    narrow.institutions.ranges = ranges;
    let (mut orders, _) = Orders::restore(narrow, Vec::new(), 0, at(0));
    let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
    let step = orders.pay(Ticket(2), payment(&issued, CARD), at(1));
    assert_eq!((answers(&step), step.writes.len()), (vec![(Ticket(2), Err(PayError::CardNotTaken))], 0));
    let step = orders.pay(Ticket(3), payment(&issued, "5100000000000008"), at(2));
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Authorise(order) if order.attempt.institution == "red")));
}

#[test]
fn a_pin_goes_to_who_can_take_it_and_nowhere_else() {
    let mut with_pins = policy();
    with_pins.institutions.pins.insert("bank".to_owned());
    for (policy, taken) in [(policy(), false), (with_pins, true)] {
        let (mut orders, _) = Orders::restore(policy, Vec::new(), 0, at(0));
        let issued = placed(orders.place(Ticket(1), &placement("o-1"), at(0))).unwrap();
        let mut payment = payment(&issued, CARD);
        payment.pin = transact_wire::card::Pin::parse("987654".into()).ok();
        let step = orders.pay(Ticket(2), payment, at(1));
        if taken {
            assert!(step.effects.iter().any(|e| matches!(e, Effect::Authorise(order) if order.pin.is_some())));
            let stored: Vec<_> = orders.iter().map(|order| serde_json::to_string(order).unwrap()).collect();
            assert!(!format!("{step:?} {stored:?}").contains("987654"));
        } else {
            assert_eq!((answers(&step), step.writes.len()), (vec![(Ticket(2), Err(PayError::PinNotTaken))], 0));
        }
    }
}
