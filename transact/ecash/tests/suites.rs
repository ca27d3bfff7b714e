//! Every suite from registration to receipt, row T63 of the checklist, and the equivocation of the protocol's §8.3.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

mod support;

use support::forge::{Item, batch, read, receipt, relayed, spoil};
use support::{Shop, World, funded, money, policy};
#[cfg(feature = "classic-1995")]
use transact_ecash::Policy;
use transact_ecash::wire::client::{Event, SentOutcome};
use transact_ecash::wire::message::Kind;
#[cfg(feature = "classic-1995")]
use transact_ecash::wire::message::Problem;
use transact_ecash::wire::suite::{SessionSecrets, Suite};

/// A payer and a payee with sessions in test money.
fn shop(suite: Suite) -> Shop {
    let policy = policy();
    #[cfg(feature = "classic-1995")]
    let policy = Policy { suites: transact_ecash::Suites::with_classic(false).unwrap(), ..policy };
    let mut world = World::with_suite(policy, suite, 3);
    let mut payer = funded(&mut world, "dora", 1, "xts 100.00");
    let mut payee = support::Wallet::registered(&mut world, "kite");
    let from = payer.open(&mut world, "xts 70.00", 120, 100);
    let to = payee.open(&mut world, "xts 0.00", 600, 1000);
    Shop { world, payer, payee, from, to }
}

#[test]
fn every_suite_pays_from_registration_to_receipt() {
    for suite in Suite::ALL {
        let mut shop = shop(*suite);
        shop.pay("K-1", "xts 42.50");
        assert!(matches!(shop.payer.events.last(), Some(Event::Paid(..))), "{suite:?} {:?}", shop.payer.events);
        assert_eq!(shop.in_session(shop.from), "xts 27.50");
        assert_eq!(shop.in_session(shop.to), "xts 42.50");
        shop.world.restart();
        shop.payer.close(&mut shop.world, Some(shop.from), true);
        assert_eq!(shop.available(&shop.payer, "xts"), "xts 57.50");
        shop.payee.close(&mut shop.world, None, false);
        assert_eq!(shop.available(&shop.payee, "xts"), "xts 42.50");
    }
}

/// What a server does that answers each copy of a payment as it comes: it says "refused" of a spoilt one, under the key that
/// depends on session, type, version and index alone, and remembers nothing.
fn naive_refusal(payer: &SessionSecrets, payment: &[u8], random: &mut support::Random) -> String {
    receipt(payer, payment, [("response-code", "failure"), ("amount", "xts 0.00"), ("problem", "payer-auth")], random)
}

/// A payee spoils a copy of a payment, gets a refusal for it, shows that to the payer, and collects the good copy.
#[test]
fn t47_equivocation_works_against_a_naive_server_and_not_against_this_one() {
    for suite in Suite::ALL {
        let mut shop = shop(*suite);
        let payment = shop.ca1("K-1", "xts 5.00");
        let spoilt = spoil(&payment, "opaque");
        let secrets = shop.payer.client.session(shop.from).unwrap().secrets.clone();
        let refusal = naive_refusal(&secrets, &spoilt, &mut shop.world.random);

        // Against the naive server: the payer of 1995 believes it, and has the money again that is then collected. A modern
        // receipt is for the very payment that the payer sent, and the payer sent another.
        let mut believer = shop.payer.clone();
        believer.receive(&mut shop.world, &relayed(&payment, &refusal));
        let fooled = believer.client.sent().next().unwrap().outcome.is_some();
        assert_eq!(fooled, suite.is_classic(), "{suite:?}");
        let held = believer.client.session(shop.from).unwrap().current;
        assert_eq!(held, money(if fooled { "xts 70.00" } else { "xts 65.00" }));

        // Against this one: there is no refusal for a payment that can be collected.
        let payee = shop.payee.client.session(shop.to).unwrap().secrets.clone();
        let told = |shop: &mut Shop, index, item| {
            let message = batch(&payee, index, &[item], &mut shop.world.random);
            let reply = shop.world.one(&message);
            read(&payee, &message, &reply)
        };
        let bad = told(&mut shop, 1, Item::of(&spoilt, "xts 5.00"));
        assert_eq!((bad.only(), bad.receipts.len()), (Some("payer-auth"), 0));
        let good = told(&mut shop, 2, Item::of(&payment, "xts 5.00"));
        assert_eq!(good.items, [(true, None)]);
        shop.payer.receive(&mut shop.world, &relayed(&payment, &good.receipts[0].1));
        let outcome = shop.payer.client.sent().next().unwrap().outcome;
        assert_eq!(outcome, Some(SentOutcome::Paid(money("xts 5.00"))));
    }
}

#[cfg(feature = "classic-1995")]
#[test]
fn t63_the_suite_of_1995_has_to_be_asked_for_and_moves_test_money_alone() {
    use transact_ecash::Suites;
    let classic = |suites| {
        let mut world = World::with_suite(Policy { suites, ..policy() }, Suite::Classic1995, 3);
        let mut wallet = support::Wallet::new(&mut world);
        let (now, usd) = (world.now, money("usd 0.00").currency());
        let agreements = Default::default();
        let step = wallet.client.register("dora", "a@b", "en", usd, agreements, None, now, &mut world.random).unwrap();
        wallet.exchange(&mut world, step);
        wallet.client.identity().persona.as_ref()?;
        wallet.bind(&mut world, support::instrument(&support::card(1)));
        wallet.load(&mut world, 1, money("usd 5.00"));
        Some(wallet.failed_with())
    };
    let (test, real) = (Suites::with_classic(false).unwrap(), Suites::with_classic(true).unwrap());
    assert_eq!(classic(Suites::MODERN), None);
    assert_eq!(classic(test), Some(Some(Problem::CurrencyMismatch)));
    assert_eq!(classic(real), Some(None));
    assert!(test.warning().is_some() && real.warning().is_some());
}

#[cfg(feature = "classic-1995")]
#[test]
fn t04_a_bar_in_an_authenticated_value_is_refused() {
    let mut shop = shop(Suite::Classic1995);
    let payment = shop.ca1("K-1", "xts 1.00");
    for label in ["order-id", "note-hash", "payee-id"] {
        let with_bar = support::forge::set(&payment, label, "K|1");
        assert!(shop.payee.receive(&mut shop.world, &with_bar).is_empty(), "{label}");
        assert_eq!(shop.payee.client.rows().count(), 0);
    }
}

/// T4: what is absent is left out of the lists, with its label.
#[test]
fn t04_absent_fields_change_what_is_authenticated() {
    for suite in Suite::ALL {
        let shop = shop(*suite);
        let secrets = &shop.payer.client.session(shop.from).unwrap().secrets;
        let mut codes: Vec<Vec<u8>> = [
            vec![("remark", "a"), ("amount", "b")],
            vec![("amount", "b")],
            vec![("amount", "a"), ("remark", "b")],
            vec![("remark", "a")],
        ]
        .iter()
        .map(|list| secrets.authenticate(Kind::CA4, list))
        .collect();
        codes.sort();
        codes.dedup();
        // The bars of 1995 say nothing of labels: there, two values are the same under other names.
        assert_eq!(codes.len(), if suite.is_classic() { 3 } else { 4 });
    }
}
