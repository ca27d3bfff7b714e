//! Rows T31 to T50 of the protocol's checklist: offers, CA1 to CA4.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

mod support;

use std::time::Duration;

use support::forge::{Item, Read, batch, batch_of, get, read, receipt, reframe, relayed, set, spoil};
use support::{Shop, Wallet, funded, money, order, policy, shop, shop_with, tariff};
use transact_ecash::PaymentOutcome;
use transact_ecash::ledger::Exchange;
use transact_ecash::wire::client::{Event, Flag, OfferKey, PayError, RowStatus, SentOutcome};
use transact_ecash::wire::frame::Frame;
use transact_ecash::wire::message::{Kind, Offer, Problem};
use transact_ecash::wire::suite::{SessionSecrets, Suite, VerifyingKey, signature_input};
use transact_ecash::wire::value::{Amounts, Currency, SessionId, Value};

impl Shop {
    fn payee_secrets(&self) -> SessionSecrets {
        self.payee.client.session(self.to).unwrap().secrets.clone()
    }

    /// Hands in forged payments in the payee's name.
    fn hand_in(&mut self, index: u16, items: &[Item]) -> Read {
        let secrets = self.payee_secrets();
        let message = batch(&secrets, index, items, &mut self.world.random);
        let reply = self.world.one(&message);
        read(&secrets, &message, &reply)
    }
}

/// Everything that is stored, but the log and the payee's used indices.
fn money_state(shop: &Shop) -> String {
    let books = shop.world.server.books().clone();
    let payments: Vec<_> = shop.world.server.payments().collect();
    let payer = &shop.world.server.session(shop.from).unwrap().used;
    format!("{books:?} {payments:?} {payer:?}")
}

#[test]
fn t31_offers_that_are_wrong_are_ignored_and_a_right_one_proves_its_payee() {
    let mut shop = shop();
    let others = Some(Amounts(vec![money("jpy 5000")]));
    let (step, offer) =
        shop.payee.client.make_offer(order("K-1"), money("usd 1.00"), "kite", "u", others, shop.world.now).unwrap();
    shop.payee.take(step);
    assert_eq!(shop.payee.client.orders().next().unwrap().flag, Flag::Pending);
    for label in Offer::LABELS.iter().filter(|(_, required)| *required).map(|(label, _)| *label) {
        let without = reframe(&offer, |fields| fields.retain(|(other, _)| other != label));
        assert!(
            shop.payer.client.receive(&without, shop.world.now, &mut shop.world.random).writes.is_empty(),
            "{label}"
        );
    }
    shop.payer.receive(&mut shop.world, &offer);
    let key = OfferKey { payee: shop.payee.id(), order: order("K-1") };
    assert_eq!(shop.payer.client.offer(&key).unwrap().amount, money("usd 1.00"));

    let registered = shop.world.server.persona(&shop.payee.id()).unwrap().key.0.clone();
    let public = VerifyingKey::from_bytes(support::suite(), &registered).unwrap();
    let proves = |message: &[u8]| {
        let frame = Frame::parse(message).unwrap();
        let read = Offer::read(&frame.clear, 0).unwrap();
        public.verify(
            &signature_input(support::suite(), Kind::PR1, frame.clear.iter(), std::iter::empty()),
            &read.signature.0,
        )
    };
    assert!(proves(&offer));
    assert!(!proves(&set(&offer, "merchant-amount2", "jpy 50")));
    assert!(!proves(&set(&offer, "note", "another kite")));
}

#[test]
fn t32_an_index_is_stored_before_it_is_sent_and_never_used_again() {
    let mut shop = shop();
    let key = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-1", "usd 42.50");
    let first = shop.payer.payment(&mut shop.world, &key, shop.from);
    // The process dies after it stored, before it sent: the same bytes are due.
    shop.payer.restart();
    let again = shop.payer.client.tick(shop.world.now, &mut shop.world.random);
    assert_eq!(
        again.send,
        [(transact_ecash::wire::client::To::Payee("https://shop.example/pay".into()), first.clone())]
    );
    let held = shop.payer.client.session(shop.from).unwrap();
    assert_eq!((held.last_index, held.current), (1, money("usd 27.50")));
    assert_eq!(
        shop.payer.client.pay(&key, shop.from, None, shop.world.now, &mut shop.world.random).unwrap_err(),
        PayError::UnderWay
    );
    let short = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-2", "usd 27.51");
    let pay = |shop: &mut Shop, key: &OfferKey| {
        let (now, from) = (shop.world.now, shop.from);
        shop.payer.client.pay(key, from, None, now, &mut shop.world.random).err()
    };
    assert_eq!(pay(&mut shop, &short), Some(PayError::Short));
    let fits = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-3", "usd 27.50");
    let second = shop.payer.payment(&mut shop.world, &fits, shop.from);
    assert_eq!(get(&second, "index"), "2");
    shop.world.wait(Duration::from_hours(3));
    let late = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-4", "usd 0.01");
    assert_eq!(pay(&mut shop, &late), Some(PayError::SessionOver));
    shop.from = shop.payer.open(&mut shop.world, "usd 5.00", 10, 1);
    let once = shop.ca1("K-5", "usd 1.00");
    assert_eq!(get(&once, "index"), "1");
    let over = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-6", "usd 1.00");
    assert_eq!(pay(&mut shop, &over), Some(PayError::SessionOver));
}

#[test]
fn t33_a_payee_collects_nothing_that_is_not_for_an_order_of_its_own() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    for (label, value, problem) in [
        ("order-id", "K-9", Problem::Form),
        ("payee-id", "dora-64", Problem::WrongPayee),
        ("note-hash", "AAAA", Problem::PayerAuth),
        ("payee-currency", "eur", Problem::PayeeCurrency),
    ] {
        let answers = shop.payee.receive(&mut shop.world, &set(&payment, label, value));
        assert_eq!(get(&answers[0].1, "problem"), problem.text(), "{label}");
        assert_eq!(shop.payee.client.rows().count(), 0);
    }
    shop.collect(std::slice::from_ref(&payment));
    // What was paid is told again, and no second order of it is taken.
    let again = shop.payee.receive(&mut shop.world, &payment);
    assert_eq!(get(&again[0].1, "type"), "cash-payer-receipt");
    let second = set(&payment, "index", "2");
    let answers = shop.payee.receive(&mut shop.world, &second);
    assert_eq!(get(&answers[0].1, "problem"), "already-collected");
    assert!(shop.payee.client.collect(shop.world.now, &mut shop.world.random).send.is_empty());
}

#[test]
fn t34_payments_of_several_payers_are_collected_in_batches_of_1_2_and_255() {
    for count in [1_usize, 2, 255] {
        let mut shop = shop_with(transact_ecash::Policy {
            payer_most: (transact_ecash::wire::value::Minutes(1440), 1000),
            ..policy()
        });
        shop.world.checked = count < 3;
        let mut other = funded(&mut shop.world, "eve", 2, "usd 50.00");
        let from = other.open(&mut shop.world, "usd 50.00", 120, 1000);
        shop.from = shop.payer.open(&mut shop.world, "usd 30.00", 120, 1000);
        for n in 0..count {
            let id = format!("K-{n}");
            let payer = if n % 2 == 0 { &mut shop.payer } else { &mut other };
            let session = if n % 2 == 0 { shop.from } else { from };
            let key = shop.payee.offer(&mut shop.world, payer, &id, "usd 0.10");
            let payment = payer.payment(&mut shop.world, &key, session);
            shop.payee.receive(&mut shop.world, &payment);
        }
        let message = shop.payee.batch(&mut shop.world);
        let reply = shop.world.one(&message);
        let told = shop.payee.receive(&mut shop.world, &reply);
        assert_eq!(told.len(), count);
        for (_, receipt) in told {
            shop.payer.receive(&mut shop.world, &receipt);
            other.receive(&mut shop.world, &receipt);
        }
        shop.world.check();
        let cents = count as i64 * 10;
        assert_eq!(shop.in_session(shop.to), format!("usd {}.{:02}", cents / 100, cents % 100));
        for wallet in [&shop.payer, &other] {
            for sent in wallet.client.sent() {
                assert_eq!(sent.outcome, Some(SentOutcome::Paid(money("usd 0.10"))));
            }
            for held in wallet.client.sessions() {
                let id = held.secrets.id();
                assert_eq!(held.current.to_string(), shop.in_session(id), "I23");
                assert_eq!(u32::from(held.last_index), shop.world.server.session(id).unwrap().used.count());
            }
        }
        assert_eq!(shop.payee.client.session(shop.to).unwrap().current.to_string(), shop.in_session(shop.to));
        assert!(shop.payee.client.orders().all(|order| order.flag == Flag::Paid));
    }
}

#[test]
fn t35_a_batch_has_1_to_255_payments_without_gaps() {
    let mut shop = shop();
    let secrets = shop.payee_secrets();
    let item = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    let bare = Item { opaque: String::new(), ..item.clone() };
    let other = item.clone().with("payer-index", "9");
    let before = money_state(&shop);
    for (index, items) in [
        (1, vec![]),
        (2, vec![(2, &item)]),
        (3, vec![(1, &item), (3, &other)]),
        (4, vec![(1, &bare)]),
        (5, vec![(1, &item), (2, &bare)]),
    ] {
        let message = batch_of(&secrets, index, &items, &mut shop.world.random);
        let reply = shop.world.one(&message);
        assert_eq!(read(&secrets, &message, &reply).problem.as_deref(), Some("form"), "{index}");
        assert_eq!(money_state(&shop), before);
    }
    assert_eq!(shop.hand_in(6, &[item]).items, [(true, None)]);
}

#[test]
fn t36_what_is_not_by_the_owner_of_a_session_leaves_no_trace() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    let message = shop.payee.batch(&mut shop.world);
    let (logged, before) = (shop.world.server.logged(), shop.world.store.0.clone());
    let unknown = SessionId(77).write();
    let mut wrong = vec![
        set(&message, "session-id", &unknown),
        set(&message, "session-id", &shop.from.write()),
        set(&message, "index", "2"),
        set(&message, "version", "2"),
        set(&message, "service-category", "admin"),
        set(&message, "customer-opaque_1", "AAAA"),
        spoil(&message, "merchant-opaque"),
        spoil(&message, "customer-opaque_1"),
        reframe(&message, |fields| fields.push(("more".to_owned(), "1".to_owned()))),
    ];
    let foreign = SessionSecrets::new(Suite::Modern1, shop.to, vec![1; 32], vec![2; 32]).unwrap();
    wrong.push(batch(&foreign, 1, &[Item::of(&payment, "usd 1.00")], &mut shop.world.random));
    for message in wrong {
        let answer = shop.world.one(&message);
        assert_eq!(get(&answer, "problem"), "unauthenticated");
        assert_eq!(shop.world.server.logged(), logged);
        assert_eq!(shop.world.store.0, before);
    }
    let reply = shop.world.one(&message);
    shop.relay(&reply);
    assert_eq!(shop.in_session(shop.to), "usd 1.00");
}

#[test]
fn t37_a_payees_session_has_its_last_millisecond_and_its_last_index() {
    for (late, problem) in [(0, None), (1, Some("session-closed"))] {
        let mut shop = shop();
        shop.to = shop.payee.open(&mut shop.world, "usd 0.00", 60, 2);
        let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
        shop.world.wait(Duration::from_millis(3_600_000 + late));
        let told = shop.hand_in(1, &[payment]);
        assert_eq!(told.problem.as_deref(), problem);
        assert_eq!(shop.world.server.payments().count(), usize::from(late == 0));
    }
    let mut shop = shop();
    shop.to = shop.payee.open(&mut shop.world, "usd 0.00", 60, 2);
    let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    for index in [0, 3] {
        let told = shop.hand_in(index, std::slice::from_ref(&payment));
        assert_eq!(told.problem.as_deref(), Some("index-out-of-range"));
        assert_eq!(shop.world.server.payments().count(), 0);
    }
    assert_eq!(shop.hand_in(2, &[payment]).problem, None);
    shop.payee.close(&mut shop.world, Some(shop.to), false);
    assert_eq!(shop.hand_in(1, &[]).problem.as_deref(), Some("form"));
    let late = Item::of(&shop.ca1("K-2", "usd 1.00"), "usd 1.00");
    let closed = {
        let to = shop.payee.open(&mut shop.world, "usd 0.00", 60, 2);
        shop.payee.close(&mut shop.world, Some(to), false);
        shop.to = to;
        shop.hand_in(1, &[late])
    };
    assert_eq!(closed.problem.as_deref(), Some("session-closed"));
}

#[test]
fn t38_a_payees_index_is_good_for_one_message() {
    let mut shop = shop();
    let first = shop.ca1("K-1", "usd 1.00");
    let second = Item::of(&shop.ca1("K-2", "usd 2.00"), "usd 2.00");
    shop.payee.receive(&mut shop.world, &first);
    let message = shop.payee.batch(&mut shop.world);
    let reply = shop.world.one(&message);
    assert_eq!(shop.world.one(&message), reply);
    let stored = shop.world.store.0.clone();
    let told = shop.hand_in(1, &[second]);
    assert_eq!(told.problem.as_deref(), Some("index-reused"));
    assert_eq!(shop.world.store.0, stored);
    shop.world.restart();
    assert_eq!(shop.world.one(&message), reply);
}

#[test]
fn t39_whatever_a_payee_changes_of_a_payment_it_is_rejected_and_can_be_collected_rightly_later() {
    let mut shop = shop();
    let first = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    let second = Item::of(&shop.ca1("K-2", "usd 1.00"), "usd 1.00");
    let other = shop.payer.open(&mut shop.world, "usd 10.00", 60, 10);
    let before = money_state(&shop);
    let changes = [
        first.clone().with("type", "cash-gift"),
        first.clone().with("subversion", "2"),
        first.clone().with("payer-session-id", &other.write()),
        first.clone().with("payer-session-id", &SessionId(99).write()),
        first.clone().with("payer-index", "3"),
        first.clone().with("merchant-amount", "eur 1.00"),
        first.clone().with("note-hash", "AAAA"),
        first.clone().with("payee-id", "dora-64"),
        first.clone().with("order-id", "K-2"),
        Item { opaque: second.opaque.clone(), ..first.clone() },
    ];
    for (index, item) in (1..).zip(changes) {
        let told = shop.hand_in(index, std::slice::from_ref(&item));
        assert_eq!(told.only(), Some("payer-auth"), "{item:?}");
        assert!(told.receipts.is_empty());
        assert_eq!(money_state(&shop), before);
    }
    assert_eq!(shop.hand_in(50, &[first, second]).items, [(true, None), (true, None)]);
}

#[test]
fn t40_a_stolen_payment_is_worth_nothing_to_the_thief() {
    let mut shop = shop();
    let mut thief = Wallet::registered(&mut shop.world, "thief");
    let session = thief.open(&mut shop.world, "usd 0.00", 60, 10);
    let secrets = thief.client.session(session).unwrap().secrets.clone();
    let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    let before = money_state(&shop);
    for (index, item, problem) in
        [(1, payment.clone(), "wrong-payee"), (2, payment.clone().with("payee-id", thief.id().as_str()), "payer-auth")]
    {
        let message = batch(&secrets, index, &[item], &mut shop.world.random);
        let reply = shop.world.one(&message);
        let told = read(&secrets, &message, &reply);
        assert_eq!(told.only(), Some(problem));
        assert!(told.receipts.is_empty());
        assert_eq!(money_state(&shop), before);
    }
    assert_eq!(shop.hand_in(1, &[payment]).items, [(true, None)]);
}

#[test]
fn t41_a_payment_is_collected_once_however_often_it_is_handed_in() {
    let mut shop = shop();
    let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    let told = shop.hand_in(1, &[payment.clone(), payment.clone()]);
    assert_eq!(told.items, [(true, None), (false, Some("duplicate-in-batch".to_owned()))]);
    let after = money_state(&shop);
    let receipt = told.receipts[0].1.clone();
    let again = |shop: &mut Shop, index| {
        let told = shop.hand_in(index, std::slice::from_ref(&payment));
        assert_eq!(told.items, [(true, Some("already-collected".to_owned()))]);
        assert_eq!(told.receipts, [(1, receipt.clone())]);
    };
    again(&mut shop, 2);
    assert_eq!(money_state(&shop), after);
    shop.to = shop.payee.open(&mut shop.world, "usd 0.00", 60, 10);
    again(&mut shop, 1);
    shop.payer.close(&mut shop.world, Some(shop.from), false);
    again(&mut shop, 2);
    assert_eq!(shop.world.server.payments().count(), 1);
}

#[test]
fn t42_another_payment_with_a_used_index_is_rejected_without_a_receipt() {
    let mut shop = shop();
    let before = shop.payer.clone();
    let first = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    shop.payer = before;
    let second = Item::of(&shop.ca1("K-2", "usd 2.00"), "usd 2.00");
    shop.hand_in(1, &[first]);
    let after = money_state(&shop);
    let told = shop.hand_in(2, &[second]);
    assert_eq!(told.only(), Some("index-reused"));
    assert!(told.receipts.is_empty());
    assert_eq!(money_state(&shop), after);
}

#[test]
fn t43_a_payers_session_that_is_over_refuses_with_a_receipt() {
    let mut closed = shop();
    let payment = closed.ca1("K-1", "usd 1.00");
    closed.payer.close(&mut closed.world, Some(closed.from), false);
    closed.collect(&[payment]);
    assert!(
        closed.payer.client.sent().all(|sent| sent.outcome == Some(SentOutcome::Refused(Some(Problem::SessionClosed))))
    );
    assert_eq!(closed.available(&closed.payer, "usd"), "usd 100.00");

    for (late, paid) in [(0, true), (1, false)] {
        let mut shop = shop();
        let payment = shop.ca1("K-1", "usd 1.00");
        shop.world.wait(Duration::from_millis(120 * 60_000 + late));
        shop.collect(&[payment]);
        let outcome = shop.payer.client.sent().next().unwrap().outcome;
        let refused = Some(SentOutcome::Refused(Some(Problem::SessionClosed)));
        assert_eq!(outcome, if paid { Some(SentOutcome::Paid(money("usd 1.00"))) } else { refused });
    }
}

#[test]
fn t43_an_index_beyond_the_limit_refuses_for_ever() {
    let mut shop = shop();
    // A payer that counts on: what its wallet would never do.
    shop.from = shop.payer.open(&mut shop.world, "usd 10.00", 60, 2);
    let id = shop.from;
    let record = shop.payer.store.get_mut(&transact_ecash::wire::client::RecordKey::Session(id)).unwrap();
    *record = record.replace("\"use_limit\":2", "\"use_limit\":9").replace("\"last_index\":0", "\"last_index\":2");
    shop.payer.restart();
    let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    for index in [1, 2] {
        let told = shop.hand_in(index, std::slice::from_ref(&payment));
        assert_eq!(told.only(), Some("index-out-of-range"));
        assert_eq!(told.receipts.len(), 1);
    }
    assert_eq!(shop.in_session(id), "usd 10.00");
}

#[test]
fn t44_amounts_agree_to_the_cent_and_no_more_is_spent_than_is_there() {
    let mut shop = shop();
    for (index, (price, asked, problem)) in (1..).zip([
        ("usd 1.00", "usd 1.01", Some("amount-mismatch")),
        ("usd 1.00", "usd 0.99", Some("amount-mismatch")),
        ("usd 1.00", "usd 0.00", Some("amount-invalid")),
        ("usd 1.00", "usd 1.00", None),
        ("usd 66.00", "usd 66.00", None),
    ]) {
        let payment = shop.ca1(&format!("K-{index}"), price);
        let told = shop.hand_in(index, &[Item::of(&payment, asked)]);
        assert_eq!(told.only(), problem, "{asked}");
        assert_eq!(told.receipts.len(), 1);
    }
    assert_eq!(shop.in_session(shop.from), "usd 3.00");
    let record = shop.payer.store.get_mut(&transact_ecash::wire::client::RecordKey::Session(shop.from)).unwrap();
    let current = shop.payer.client.session(shop.from).unwrap().current;
    *record = record.replace(&format!("\"current\":\"{current}\""), "\"current\":\"usd 50.00\"");
    shop.payer.restart();
    let over = Item::of(&shop.ca1("K-8", "usd 3.01"), "usd 3.01");
    assert_eq!(shop.hand_in(8, &[over]).only(), Some("insufficient-funds"));
    let exact = Item::of(&shop.ca1("K-9", "usd 3.00"), "usd 3.00");
    assert_eq!(shop.hand_in(9, &[exact]).items, [(true, None)]);
}

#[test]
fn t45_a_refusal_is_final() {
    let mut shop = shop();
    let payment = Item::of(&shop.ca1("K-1", "usd 1.00"), "usd 1.00");
    let wrong = payment.clone().with("merchant-amount", "usd 1.01");
    let first = shop.hand_in(1, std::slice::from_ref(&wrong));
    assert_eq!(first.only(), Some("amount-mismatch"));
    for (index, item) in [(2, wrong), (3, payment)] {
        let told = shop.hand_in(index, &[item]);
        assert_eq!(told.only(), Some("amount-mismatch"));
        assert_eq!(told.receipts, first.receipts);
    }
    assert_eq!(shop.in_session(shop.from), "usd 70.00");
}

#[test]
fn t46_one_payments_failure_leaves_the_others_alone() {
    let mut shop = shop();
    shop.from = shop.payer.open(&mut shop.world, "usd 3.00", 60, 10);
    let items: Vec<Item> = (1..=3).map(|n| Item::of(&shop.ca1(&format!("K-{n}"), "usd 1.00"), "usd 1.00")).collect();
    let spoilt = items[1].clone().with("order-id", "K-9");
    let told = shop.hand_in(1, &[items[0].clone(), spoilt, items[2].clone()]);
    assert_eq!(told.items, [(true, None), (false, Some("payer-auth".into())), (true, None)]);
    assert_eq!(told.receipts.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(shop.hand_in(2, &items[1..2]).items, [(true, None)]);
    assert_eq!(shop.in_session(shop.from), "usd 0.00");
}

#[test]
fn t47_no_refusal_can_be_drawn_for_a_payment_that_is_then_collected() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 5.00");
    let good = Item::of(&payment, "usd 5.00");
    // Every spoilt copy that a payee can make, and whatever it is told for it.
    let mut receipts = Vec::new();
    let mut spoilt = good.clone();
    spoilt.opaque = get(&spoil(&payment, "opaque"), "opaque");
    for (index, item) in
        [(1, spoilt), (2, good.clone().with("note-hash", "AAAA")), (3, good.clone().with("order-id", "K-2"))]
    {
        receipts.extend(shop.hand_in(index, &[item]).receipts);
    }
    assert_eq!(receipts, []);
    let told = shop.hand_in(4, &[good]);
    assert_eq!(told.items, [(true, None)]);
    // I10: the one receipt that there is says success, and a debit goes with it.
    let kept: Vec<_> = shop.world.server.payments().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].outcome, PaymentOutcome::Collected);
}

#[test]
fn t48_a_payee_believes_only_what_its_own_session_authenticates() {
    let mut shop = shop_with(transact_ecash::Policy { tariff: tariff(&[(Kind::CA2, "usd 0.30")]), ..policy() });
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    let message = shop.payee.batch(&mut shop.world);
    let reply = shop.world.one(&message);
    for wrong in [
        spoil(&reply, "merchant-opaque"),
        spoil(&reply, "customer-opaque_1"),
        set(&reply, "index", "2"),
        set(&reply, "service-category", "admin"),
        set(&reply, "type", "cash-payer-receipt"),
        reframe(&reply, |fields| fields.retain(|(label, _)| !label.starts_with("customer"))),
    ] {
        shop.payee.receive(&mut shop.world, &wrong);
        assert!(shop.payee.client.rows().all(|row| row.status == RowStatus::Attempt));
        assert_eq!(shop.payee.client.batches().count(), 1);
    }
    shop.relay(&reply);
    assert_eq!(shop.payee.client.session(shop.to).unwrap().current, money("usd 0.70"));
    assert_eq!(shop.in_session(shop.to), "usd 0.70");
    shop.relay(&reply);
    assert_eq!(shop.payee.client.session(shop.to).unwrap().current, money("usd 0.70"));
}

#[test]
fn t49_a_payer_believes_only_a_receipt_for_its_own_payment() {
    let mut shop = shop();
    let first = shop.ca1("K-1", "usd 1.00");
    let second = shop.ca1("K-2", "usd 2.00");
    for payment in [&first, &second] {
        shop.payee.receive(&mut shop.world, payment);
    }
    let message = shop.payee.batch(&mut shop.world);
    let reply = shop.world.one(&message);
    let receipts: Vec<Vec<u8>> =
        shop.payee.receive(&mut shop.world, &reply).into_iter().map(|(_, bytes)| bytes).collect();
    let receipt = receipts.iter().find(|bytes| get(bytes, "order-id") == "K-1").unwrap().clone();
    let other = receipts.iter().find(|bytes| get(bytes, "order-id") == "K-2").unwrap().clone();
    for wrong in [
        spoil(&receipt, "opaque"),
        set(&receipt, "order-id", "K-2"),
        set(&receipt, "index", "2"),
        set(&receipt, "version", "2"),
        set(&receipt, "opaque", &get(&other, "opaque")),
    ] {
        shop.payer.receive(&mut shop.world, &wrong);
        assert!(shop.payer.client.sent().all(|sent| sent.outcome.is_none()));
        assert_eq!(shop.payer.client.session(shop.from).unwrap().current, money("usd 67.00"));
    }
    for _ in 0..2 {
        shop.payer.receive(&mut shop.world, &receipt);
        assert_eq!(shop.payer.client.session(shop.from).unwrap().current, money("usd 67.00"));
    }
    assert_eq!(shop.payer.events.iter().filter(|event| matches!(event, Event::Paid(..))).count(), 1);
}

#[test]
fn t49_a_refusal_gives_back_what_was_set_aside() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    let (secrets, item) = (shop.payee_secrets(), Item::of(&payment, "usd 1.01"));
    let message = batch(&secrets, 1, &[item], &mut shop.world.random);
    let reply = shop.world.one(&message);
    let told = read(&secrets, &message, &reply);
    let relay = relayed(&payment, &told.receipts[0].1);
    assert_eq!(shop.payer.client.session(shop.from).unwrap().current, money("usd 69.00"));
    shop.payer.receive(&mut shop.world, &relay);
    assert_eq!(shop.payer.client.session(shop.from).unwrap().current, money("usd 70.00"));
    assert!(matches!(shop.payer.events.last(), Some(Event::NotPaid(_, Some(Problem::AmountMismatch)))));
}

#[test]
fn t49_a_receipt_that_charges_too_much_is_kept_and_ends_the_use_of_its_session() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    let secrets = shop.payer.client.session(shop.from).unwrap().secrets.clone();
    let lie =
        receipt(&secrets, &payment, [("response-code", "success"), ("amount", "usd 1.01")], &mut shop.world.random);
    shop.payer.receive(&mut shop.world, &relayed(&payment, &lie));
    let order_id = order("K-1");
    assert!(shop.payer.events.contains(&Event::Alarm(order_id, money("usd 1.01"))));
    let held = shop.payer.client.session(shop.from).unwrap();
    assert!(held.alarmed && !held.is_usable(shop.world.now));
    assert!(shop.payer.client.sent().next().unwrap().receipt.is_some());
    let key = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-2", "usd 1.00");
    let (now, from) = (shop.world.now, shop.from);
    assert_eq!(
        shop.payer.client.pay(&key, from, None, now, &mut shop.world.random).unwrap_err(),
        PayError::SessionOver
    );
}

/// I16: payments of different payers, and to different payees, lead to the same books in whatever order they come.
#[test]
fn i16_payments_of_others_commute() {
    let run = |order: &[usize]| {
        let mut world = support::World::new(policy());
        let mut payers: Vec<(Wallet, SessionId)> = (0..3)
            .map(|n| {
                let mut wallet = funded(&mut world, &format!("payer{n}"), n, "usd 20.00");
                let session = wallet.open(&mut world, "usd 10.00", 60, 100);
                (wallet, session)
            })
            .collect();
        let mut batches = Vec::new();
        for n in 0..6 {
            let mut payee = Wallet::registered(&mut world, &format!("payee{n}"));
            let to = payee.open(&mut world, "usd 0.00", 60, 100);
            let items: Vec<Item> = (0..4)
                .map(|m| {
                    let (payer, from) = &mut payers[(n + m) % 3];
                    let price = format!("usd 0.{:02}", 1 + n * 4 + m);
                    let key = payee.offer(&mut world, payer, &format!("K-{n}-{m}"), &price);
                    Item::of(&payer.payment(&mut world, &key, *from), &price)
                })
                .collect();
            let secrets = payee.client.session(to).unwrap().secrets.clone();
            batches.push(batch(&secrets, 1, &items, &mut world.random));
        }
        for at in order {
            world.one(&batches[*at]);
        }
        let accounts: Vec<_> = world.server.books().accounts().collect();
        let balances = accounts.into_iter().map(|(account, currency)| {
            let minor = world.server.books().balance(&account, currency);
            (format!("{account}"), minor)
        });
        let decisions = world.server.payments().map(|payment| (payment.session, payment.index, payment.outcome));
        (balances.collect::<Vec<_>>(), decisions.collect::<Vec<_>>())
    };
    let first = run(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(first.1.len(), 24);
    for order in [[5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3], [3, 5, 0, 4, 2, 1]] {
        assert_eq!(run(&order), first, "I16 {order:?}");
    }
}

#[test]
fn again_under_modern_1h() {
    support::again_under("modern-1h");
}

#[test]
fn t50_no_message_passes_for_another() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    let message = shop.payee.batch(&mut shop.world);
    let reply = shop.world.one(&message);
    let receipt = shop.payee.receive(&mut shop.world, &reply).pop().unwrap().1;
    let state = |shop: &Shop| (shop.payer.store.clone(), shop.payee.store.clone(), shop.world.store.0.clone());
    let before = state(&shop);
    let as_receipt = set(&receipt, "opaque", &get(&reply, "merchant-opaque"));
    let as_payment = set(&receipt, "type", "cash-payment");
    let other_suite = {
        let text = String::from_utf8(receipt.clone()).unwrap();
        text.replace("2026.1", "2026.1h").into_bytes()
    };
    shop.payer.receive(&mut shop.world, &as_receipt);
    shop.payer.receive(&mut shop.world, &other_suite);
    shop.payee.receive(&mut shop.world, &as_payment);
    shop.world.send(&payment);
    shop.world.send(&reply);
    shop.world.send(&receipt);
    assert_eq!(state(&shop), before);
}

#[test]
fn t57_exchange_is_off_until_it_is_on_and_rounds_up_to_the_ceiling() {
    let (usd, cad, jpy) =
        (Currency::read("usd").unwrap(), Currency::read("cad").unwrap(), Currency::read("jpy").unwrap());
    let collect = |exchange: Option<Exchange>, price: &str, ceiling: &str| {
        let mut shop = shop();
        shop.to = shop.payee.open(
            &mut shop.world,
            &format!("{} 0{}", &price[..3], if price.starts_with("jpy") { "" } else { ".00" }),
            60,
            10,
        );
        let key = shop.payee.offer(&mut shop.world, &mut shop.payer, "K-1", price);
        let (now, from) = (shop.world.now, shop.from);
        let step = shop.payer.client.pay(&key, from, Some(money(ceiling)), now, &mut shop.world.random).unwrap();
        let payment = shop.payer.take(step).pop().unwrap().1;
        if let Some(exchange) = exchange {
            shop.world.server.policy_mut().exchange = exchange;
        }
        shop.collect(&[payment]);
        let left = shop.payer.client.session(from).unwrap().current;
        assert!(shop.world.server.books().sums().values().all(|sum| *sum == 0));
        (shop.payer.client.sent().next().unwrap().outcome, left)
    };
    let on = |rate| {
        let mut exchange = Exchange::on();
        exchange.set(usd, cad, rate);
        exchange.set(usd, jpy, 15_120);
        Some(exchange)
    };
    let refused = |problem| (Some(SentOutcome::Refused(Some(problem))), money("usd 70.00"));
    assert_eq!(collect(None, "cad 54.25", "usd 40.00"), refused(Problem::CurrencyMismatch));
    let paid = (Some(SentOutcome::Paid(money("usd 39.95"))), money("usd 30.05"));
    assert_eq!(collect(on(13_580), "cad 54.25", "usd 40.00"), paid);
    assert_eq!(collect(on(13_580), "cad 54.25", "usd 39.95"), paid);
    assert_eq!(collect(on(13_580), "cad 54.25", "usd 39.94"), refused(Problem::RateMoved));
    assert_eq!(collect(on(13_000), "cad 54.25", "usd 40.00"), refused(Problem::RateMoved));
    let yen = (Some(SentOutcome::Paid(money("usd 33.07"))), money("usd 36.93"));
    assert_eq!(collect(on(13_580), "jpy 5000", "usd 34.00"), yen);
    // No rate for now: nothing is decided, and nothing burnt.
    assert_eq!(collect(Some(Exchange::on()), "cad 54.25", "usd 40.00"), (None, money("usd 30.00")));
}
