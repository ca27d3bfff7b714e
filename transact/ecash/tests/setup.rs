//! Rows T16 to T30 and T51 to T56 of the protocol's checklist: personas, instruments, money, sessions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

mod support;

use std::time::Duration;

use support::forge::{Item, batch, get, read, reframe, set};
use support::{ALL, PASSPHRASE, Wallet, World, card, funded, instrument, money, passphrase, policy, shop, tariff};
use transact_ecash::ledger::{Direction, HoldState, Limit, Outcome};
use transact_ecash::wire::client::{Client, Event, Instrument, SentOutcome};
use transact_ecash::wire::message::{Kind, Problem};
use transact_ecash::wire::suite::SigningKey;
use transact_ecash::wire::value::{Agreements, Currency, Functions, Minutes, SessionId, Value};
use transact_ecash::{BindDecision, BindingStatus, ClosedBy, IssuerAnswer, LoadHold, Policy, Record, RecordKey, Role};

const HOUR: Duration = Duration::from_hours(1);

fn usd() -> Currency {
    Currency::read("usd").unwrap()
}

fn register(world: &mut World, wallet: &mut Wallet, id: &str, agreements: &str) -> Option<Event> {
    let agreements = Agreements::read(agreements).unwrap_or_default();
    let (now, pass) = (world.now, Some(passphrase(PASSPHRASE)));
    let step = wallet.client.register(id, "a@b.example", "en-us", usd(), agreements, pass, now, &mut world.random);
    wallet.exchange(world, step.unwrap());
    wallet.events.last().cloned()
}

#[test]
fn t16_a_persona_has_check_digits_and_the_servers_date() {
    let mut world = World::new(policy());
    for (base, id) in [("dora", "dora-64"), ("kite", "kite-17"), ("BrianB", "brianb-40")] {
        let wallet = Wallet::registered(&mut world, base);
        assert_eq!(wallet.id().as_str(), id);
        let persona = world.server.persona(&wallet.id()).unwrap();
        assert_eq!(persona.registered_at, world.now);
        assert_eq!((persona.email.as_str(), persona.language.as_str()), ("a@b.example", "en-us"));
        assert!(world.server.books().accounts().next().is_none());
    }
}

#[test]
fn t17_a_taken_id_gets_a_free_suggestion_that_works() {
    let mut world = World::new(policy());
    Wallet::registered(&mut world, "dora").open(&mut world, "usd 0.00", 10, 10);
    let mut second = Wallet::new(&mut world);
    register(&mut world, &mut second, "DoRa", "");
    let Some(Event::Taken(free)) = second.events.iter().find(|event| matches!(event, Event::Taken(_))).cloned() else {
        panic!("{:?}", second.events)
    };
    assert!(free.starts_with("dora") && !free.contains('-'));
    assert_eq!(second.failed_with(), Some(Problem::IdTaken));
    assert!(matches!(register(&mut world, &mut second, &free, ""), Some(Event::Registered(_))));
}

#[test]
fn t18_registrations_that_are_refused_make_no_persona_and_one_that_is_resent_makes_one() {
    let agreements = [1, 7].into();
    let mut world = World::new(Policy { agreements, ..policy() });
    let mut wallet = Wallet::new(&mut world);
    for (id, agreed, problem) in [
        ("9lives", "1,7", Problem::BadId),
        ("a-b", "1,7", Problem::BadId),
        ("ab", "1,7", Problem::BadId),
        ("dora", "1", Problem::AgreementRequired),
    ] {
        register(&mut world, &mut wallet, id, agreed);
        assert_eq!(wallet.failed_with(), Some(problem), "{id}");
    }
    let pass = Some(transact_ecash::wire::value::Passphrase("short".into()));
    let (now, agreed) = (world.now, Agreements([1, 7].into()));
    let step =
        wallet.client.register("dora", "a@b", "en", usd(), agreed.clone(), pass, now, &mut world.random).unwrap();
    wallet.exchange(&mut world, step);
    assert_eq!(wallet.failed_with(), Some(Problem::Form));

    let step = wallet.client.register("dora", "a@b", "en", usd(), agreed, None, now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    assert_eq!(world.one(&message), reply);
    wallet.receive(&mut world, &reply);
    // The same key for a second persona.
    let key = SigningKey::from_secret(world.suite, wallet.client.identity().key.0.expose()).unwrap();
    let mut second = Wallet::new(&mut world);
    second.client = Client::new(&world.server_key().public(), "kit 1.0", &key).0;
    second.client.tick(world.now, &mut world.random);
    world.wait(Duration::from_secs(1));
    let step =
        second.client.register("other", "a@b", "en", usd(), Agreements([1, 7].into()), None, now, &mut world.random);
    second.exchange(&mut world, step.unwrap());
    let reused = second.failed_with();
    assert!(matches!(reused, Some(Problem::KeyInUse | Problem::TransactionReused)), "{reused:?}");
    assert!(world.store.0.keys().filter(|key| matches!(key, RecordKey::Persona(_))).count() == 1);
}

#[test]
fn t20_an_instruments_number_is_nowhere_but_with_its_owner() {
    let mut world = World::new(policy());
    world.issuer.functions = Functions { unload: false, ..ALL };
    let mut wallet = Wallet::registered(&mut world, "dora");
    let number = card(7);
    wallet.bind(&mut world, instrument(&number));
    wallet.load(&mut world, 1, money("usd 5.00"));
    assert!(!world.store.text().contains(&number), "I19");
    let binding = world.server.bindings().next().unwrap().clone();
    assert_eq!(binding.prefix, format!("41{}", &number[12..]));
    assert_eq!(binding.functions, Functions { load: true, ..Functions::default() });
    assert!(binding.sealed_number.is_none());
    let held = wallet.client.bindings().next().unwrap();
    let kept = String::from_utf8(held.recurring.0.expose().clone()).unwrap();
    for label in ["number", "type", "salt", "functions", "issuer", "seal"] {
        assert!(kept.contains(&format!("instrument-{label}: ")), "{label} in {kept}");
    }
    // Bound again with the same salt it is updated; the wallet takes a new salt each time, so by number it is another hash.
    wallet.bind(&mut world, instrument(&number));
    assert_eq!(wallet.client.bindings().count(), 1);
}

fn autoclose(number: u64, text: &str) -> Instrument {
    Instrument { autoclose: Some(passphrase(text)), ..instrument(&card(number)) }
}

#[test]
fn t21_the_instrument_for_autoclose_is_sealed_to_the_operator_and_is_one() {
    let mut world = World::new(policy());
    let mut wallet = Wallet::registered(&mut world, "dora");
    wallet.bind(&mut world, autoclose(1, "open sesami"));
    assert_eq!(wallet.failed_with(), Some(Problem::AutocloseRefused));
    let functions = Functions { load: true, ..Functions::default() };
    wallet.bind(&mut world, Instrument { functions, ..autoclose(1, PASSPHRASE) });
    assert_eq!(wallet.failed_with(), Some(Problem::AutocloseRefused));
    assert_eq!(world.server.bindings().count(), 0);
    for number in [1, 2] {
        wallet.bind(&mut world, autoclose(number, PASSPHRASE));
        let sealed: Vec<_> = world.server.bindings().filter(|binding| binding.autoclose).collect();
        assert_eq!(sealed.len(), 1);
        let bytes = &sealed[0].sealed_number.as_ref().unwrap().0;
        let (enc, body) = bytes.split_at(32);
        let operator =
            cloakway_crypto::hpke::PrivateKey::from_seed(cloakway_crypto::hpke::Kem::X25519, [5; 32]).unwrap();
        let context = operator.decapsulate(enc).unwrap().context(b"ecash-session/autoclose instrument");
        assert_eq!(context.open(b"", body).unwrap().as_slice(), card(number).as_bytes());
        assert!(!world.store.text().contains(&card(number)));
    }
    assert_eq!(world.server.bindings().filter(|binding| binding.sealed_number.is_some()).count(), 1, "I19");
}

#[test]
fn t22_an_issuers_questions_go_round_and_their_challenge_belongs_to_one_persona() {
    for (answer, bound) in [("Fido", true), ("wrong", false)] {
        let mut world = World::new(policy());
        let mut wallet = Wallet::registered(&mut world, "dora");
        world.issuer.questions = vec![vec!["your dog's name".to_owned(), "your code".to_owned()]];
        wallet.bind(&mut world, instrument(&card(1)));
        let Some(Event::Asked(challenge, questions)) = wallet.events.last().cloned() else {
            panic!("{:?}", wallet.events)
        };
        assert_eq!(questions, ["your dog's name", "your code"]);
        assert!(!world.store.text().contains(&card(1)), "I19");
        let answers = [answer.to_owned(), "1234".to_owned()];
        let mut thief = Wallet::registered(&mut world, "thief");
        let step = thief.client.answer(challenge.clone(), &answers, "x", world.now, &mut world.random).unwrap();
        thief.exchange(&mut world, step);
        assert_eq!(thief.failed_with(), Some(Problem::InstrumentRefused));
        world.restart();
        let step = wallet.client.answer(challenge, &answers, "x", world.now, &mut world.random).unwrap();
        wallet.exchange(&mut world, step);
        if bound {
            assert!(matches!(wallet.events.last(), Some(Event::Bound(1))), "{:?}", wallet.events);
        } else {
            assert_eq!(wallet.failed_with(), Some(Problem::InstrumentRefused));
        }
    }
    // Three rounds, and no fourth.
    let mut world = World::new(policy());
    let mut wallet = Wallet::registered(&mut world, "dora");
    world.issuer.questions = vec![vec!["again".to_owned()]; 9];
    wallet.bind(&mut world, instrument(&card(1)));
    for _ in 0..3 {
        let Some(Event::Asked(challenge, _)) = wallet.events.last().cloned() else { panic!("{:?}", wallet.events) };
        let step = wallet.client.answer(challenge, &["yes".to_owned()], "x", world.now, &mut world.random).unwrap();
        wallet.exchange(&mut world, step);
    }
    assert_eq!(wallet.failed_with(), Some(Problem::InstrumentRefused));
}

#[test]
fn t23_a_binding_moves_no_money_until_it_is_enabled() {
    use BindingStatus::{Created, Disabled, Enabled, PendingPrenote, PendingSignature};
    for path in [[Created, PendingPrenote, Enabled, Disabled], [Created, PendingSignature, Enabled, Disabled]] {
        let mut world = World::new(policy());
        world.issuer.status = path[0];
        let mut wallet = Wallet::registered(&mut world, "dora");
        wallet.bind(&mut world, instrument(&card(1)));
        let id = world.server.bindings().next().unwrap().id;
        for (at, status) in path.into_iter().enumerate() {
            if at > 0 {
                let (step, changed) = world.server.set_binding_status(id, status);
                assert!(changed, "{status:?}");
                world.carry_out(step);
            }
            assert!(!world.server.set_binding_status(id, Created).1);
            wallet.load(&mut world, 1, money("usd 1.00"));
            let problem = (status != Enabled).then_some(Problem::BindingNotEnabled);
            assert_eq!(wallet.failed_with(), problem, "{status:?}");
        }
        assert!(!world.server.set_binding_status(id, Enabled).1);
    }
}

#[test]
fn t24_a_load_is_held_released_once_and_not_added_again_by_a_replay() {
    let release = LoadHold::For(24 * HOUR);
    let mut world = World::new(Policy { load_hold: release, tariff: tariff(&[(Kind::LU1, "usd 0.10")]), ..policy() });
    let mut wallet = Wallet::registered(&mut world, "dora");
    wallet.bind(&mut world, instrument(&card(1)));
    wallet.load(&mut world, 1, money("usd 50.00"));
    assert_eq!(wallet.failed_with(), Some(Problem::InsufficientFunds), "the fee cannot be paid from money on hold");
    world.server.policy_mut().tariff = tariff(&[]);
    let step = wallet.client.load_unload(1, money("usd 50.00"), world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    let told = support::inside(&wallet, Kind::LU2, &reply);
    let of = |label: &str| told[label].as_str();
    let values = [of("amount"), of("fee"), of("balance"), of("on-hold"), of("session-funds"), of("response-code")];
    assert_eq!(values, ["usd 50.00", "usd 0.00", "usd 0.00", "usd 50.00", "usd 0.00", "success"]);
    wallet.receive(&mut world, &reply);
    let container = wallet.client.containers().next().unwrap().clone();
    assert_eq!((container.available, container.on_hold), (money("usd 0.00"), money("usd 50.00")));
    assert_eq!(world.one(&message), reply);
    assert_eq!(world.issuer.moved, 5000);
    wallet.try_open(&mut world, "usd 1.00", 10, 10);
    assert_eq!(wallet.failed_with(), Some(Problem::InsufficientFunds), "I26");
    world.wait(24 * HOUR);
    for _ in 0..3 {
        world.tick();
        let held = world.server.books().container(&wallet.id(), usd());
        assert_eq!((held.available, held.on_hold), (money("usd 50.00"), money("usd 0.00")), "I26");
    }
}

#[test]
fn t25_an_unload_leaves_the_container_at_once_and_comes_back_if_it_fails() {
    let fees = tariff(&[(Kind::LU1, "usd 1.00")]);
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    world.server.policy_mut().tariff = fees;
    wallet.load(&mut world, 1, money("usd -9.01"));
    assert_eq!(wallet.failed_with(), Some(Problem::InsufficientFunds));
    wallet.load(&mut world, 1, money("usd -9.00"));
    assert_eq!(wallet.events.last(), Some(&Event::Moved(money("usd -9.00"), money("usd 1.00"))));
    let hold = world.server.pending_holds().next().unwrap().clone();
    assert_eq!((hold.direction, hold.amount), (Direction::Unload, money("usd 9.00")));
    let (step, ended) = world.server.hold_ended(hold.id, Outcome::Reversed, world.now);
    assert!(ended);
    world.carry_out(step);
    assert_eq!(world.server.books().container(&wallet.id(), usd()).available, money("usd 9.00"));
    assert!(!world.server.hold_ended(hold.id, Outcome::Done, world.now).1, "I26");
    wallet.load(&mut world, 1, money("usd -8.00"));
    let hold = world.server.pending_holds().next().unwrap().id;
    let (step, _) = world.server.hold_ended(hold, Outcome::Done, world.now);
    world.carry_out(step);
    let settled = world
        .store
        .records()
        .into_iter()
        .any(|record| matches!(record, Record::Hold(kept) if kept.id == hold && kept.state == HoldState::Settled));
    assert!(settled);
    // Declined: what was set aside comes back, and no fee is taken.
    world.server.policy_mut().tariff = tariff(&[]);
    wallet.load(&mut world, 1, money("usd 5.00"));
    world.issuer.declines = true;
    let before = world.server.books().container(&wallet.id(), usd());
    wallet.load(&mut world, 1, money("usd -5.00"));
    assert_eq!(wallet.failed_with(), Some(Problem::IssuerDeclined));
    assert_eq!(world.server.books().container(&wallet.id(), usd()), before);
}

#[test]
fn t26_loads_that_are_refused_move_nothing() {
    let mut world = World::new(policy());
    world.issuer.limits = Limit { most: Some(10_000), hours: 24 };
    let mut wallet = Wallet::registered(&mut world, "dora");
    wallet.bind(&mut world, instrument(&card(1)));
    let mut other = Wallet::registered(&mut world, "eve");
    // Another's instrument, with the data that its owner was given.
    let stolen = wallet.store.iter().find(|(key, _)| format!("{key:?}").starts_with("Binding")).unwrap();
    other.store.insert(stolen.0.clone(), stolen.1.clone());
    other.restart();
    other.load(&mut world, 1, money("usd 1.00"));
    assert_eq!(other.failed_with(), Some(Problem::NoSuchBinding));
    // A changed recurring pair.
    let mut changed = wallet.clone();
    let key = changed.store.keys().find(|key| format!("{key:?}").starts_with("Binding")).unwrap().clone();
    let text = changed.store[&key].clone();
    let held = wallet.client.bindings().next().unwrap();
    let kept = String::from_utf8(held.recurring.0.expose().clone()).unwrap();
    let edited = kept.replace("A Bank", "B Bank");
    let encode = |text: &str| cloakway_crypto::encode::base64(text.as_bytes());
    changed.store.insert(key, text.replace(&encode(&kept), &encode(&edited)));
    changed.restart();
    changed.load(&mut world, 1, money("usd 1.00"));
    assert_eq!(changed.failed_with(), Some(Problem::NoSuchBinding));
    wallet.client = Client::restore(changed.store.iter().map(|(key, value)| {
        let original = if format!("{key:?}").starts_with("Binding") { &text } else { value };
        serde_json::from_str(original).unwrap()
    }))
    .unwrap();
    for (amount, problem) in [
        ("usd 0.00", Some(Problem::Form)),
        ("eur 1.00", Some(Problem::CurrencyMismatch)),
        ("usd 100.01", Some(Problem::LimitExceeded)),
        ("usd 100.00", None),
        ("usd 0.01", Some(Problem::LimitExceeded)),
    ] {
        wallet.load(&mut world, 1, money(amount));
        assert_eq!(wallet.failed_with(), problem, "{amount}");
    }
    world.wait(24 * HOUR);
    wallet.load(&mut world, 1, money("usd 100.00"));
    assert_eq!(wallet.failed_with(), None);
    assert_eq!(world.issuer.moved, 20_000);
}

#[test]
fn t26_a_function_that_was_not_granted_moves_nothing() {
    let mut world = World::new(policy());
    world.issuer.functions = Functions { unload: false, ..ALL };
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    wallet.load(&mut world, 1, money("usd -1.00"));
    assert_eq!(wallet.failed_with(), Some(Problem::FunctionNotEnabled));
}

#[test]
fn t27_a_session_gets_what_there_is_and_no_more_than_the_server_grants() {
    let mut world = World::new(Policy { tariff: tariff(&[(Kind::OS1, "usd 1.00")]), ..policy() });
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let first = wallet.open(&mut world, "usd 2.00", 9999, 60_000);
    let session = world.server.session(first).unwrap().clone();
    assert_eq!((session.lifetime, session.use_limit), (Minutes(1440), 1000));
    assert_eq!((session.role, session.opening), (Role::Payer, money("usd 2.00")));
    let second = wallet.open(&mut world, "usd 70.00", 10, 10);
    assert_eq!(second.0, first.0 + 1);
    let clipped = world.server.session(second).unwrap();
    assert_eq!(clipped.opening, money("usd 6.00"));
    let (a, b) = (session.secrets, clipped.secrets.clone());
    assert_ne!((a.key(), a.salt()), (b.key(), b.salt()));
    assert_eq!(world.server.books().container(&wallet.id(), usd()).available, money("usd 0.00"));
    for amount in ["usd 1.00", "usd 0.00"] {
        wallet.try_open(&mut world, amount, 10, 10);
        assert_eq!(wallet.failed_with(), Some(Problem::InsufficientFunds), "I22");
    }
    let mut payee = Wallet::registered(&mut world, "kite");
    world.server.policy_mut().tariff = tariff(&[]);
    let id = payee.open(&mut world, "usd 0.00", 9999, 65535);
    let session = world.server.session(id).unwrap();
    assert_eq!((session.role, session.lifetime, session.use_limit), (Role::Payee, Minutes(9999), 65535));
    payee.try_open(&mut world, "usd 1.00", 10, 10);
    assert_eq!(payee.failed_with(), Some(Problem::InsufficientFunds));
    payee.try_open(&mut world, "usd 0.00", 10, 0);
    assert_eq!(payee.failed_with(), Some(Problem::Form));
}

#[test]
fn t29_a_request_for_a_session_that_is_sent_again_gets_the_same_session() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let (now, amount) = (world.now, money("usd 4.00"));
    let step = wallet.client.open(amount, Minutes(10), 10, None, now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    world.restart();
    world.wait(HOUR);
    world.tick();
    assert_eq!(world.one(&message), reply);
    wallet.restart();
    wallet.receive(&mut world, &reply);
    assert_eq!(wallet.client.sessions().count(), 1);
    assert_eq!(world.server.sessions().count(), 1);
    let session = wallet.client.sessions().next().unwrap();
    assert!(!session.is_usable(world.now));
}

#[test]
fn t30_sessions_are_independent_and_only_open_ones_count() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let first = wallet.open(&mut world, "usd 3.00", 60, 10);
    let second = wallet.open(&mut world, "usd 4.00", 60, 10);
    let books = |world: &World, id: SessionId| world.server.books().session(id, usd());
    assert_eq!((books(&world, first), books(&world, second)), (money("usd 3.00"), money("usd 4.00")));
    wallet.close(&mut world, Some(first), false);
    assert_eq!(wallet.client.available(usd()), money("usd 6.00"));
    assert_eq!((books(&world, first), books(&world, second)), (money("usd 0.00"), money("usd 4.00")));
    // What a reply calls session funds is what the open ones were opened with, whatever was spent of it.
    let step = wallet.client.open(money("usd 1.50"), Minutes(60), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    let told = support::inside(&wallet, Kind::OS2, &reply);
    assert_eq!((told["session-funds"].as_str(), told["balance"].as_str()), ("usd 5.50", "usd 4.50"));
    wallet.receive(&mut world, &reply);
}

#[test]
fn again_under_modern_1h() {
    support::again_under("modern-1h");
}

#[test]
fn t51_closing_returns_what_is_left_less_a_capped_fee_and_tells_what_was_paid() {
    let mut shop = shop();
    shop.pay("K-1", "usd 42.50");
    let open = shop.ca1("K-2", "usd 1.00");
    let before = shop.payer.client.requests().count();
    let foreign = shop.payee.client.close(Some(shop.from), true, None, shop.world.now, &mut shop.world.random).unwrap();
    shop.payee.exchange(&mut shop.world, foreign);
    assert_eq!(shop.payee.failed_with(), Some(Problem::NoSuchSession));
    shop.payee.close(&mut shop.world, Some(SessionId(999)), true);
    assert_eq!(shop.payee.failed_with(), Some(Problem::NoSuchSession));
    shop.world.server.policy_mut().tariff = tariff(&[(Kind::CS1, "usd 0.50")]);
    shop.payer.close(&mut shop.world, Some(shop.from), true);
    assert_eq!(shop.payer.events.last(), Some(&Event::Closed(vec![money("usd 27.00")])));
    assert_eq!(shop.payer.client.requests().count(), before);
    assert_eq!(shop.available(&shop.payer, "usd"), "usd 57.00");
    let outcomes: Vec<_> = shop.payer.client.sent().map(|sent| sent.outcome.unwrap()).collect();
    assert_eq!(outcomes, [SentOutcome::Paid(money("usd 42.50")), SentOutcome::NeverCollected]);
    // What was not in the log can never be collected.
    shop.collect(&[open]);
    assert_eq!(shop.in_session(shop.to), "usd 42.50");
    // The fee is never more than what is returned.
    let small = shop.payer.open(&mut shop.world, "usd 0.30", 60, 10);
    shop.payer.close(&mut shop.world, Some(small), false);
    assert_eq!(shop.payer.events.last(), Some(&Event::Closed(vec![money("usd 0.00")])));
    shop.payer.open(&mut shop.world, "usd 2.00", 60, 10);
    shop.payer.open(&mut shop.world, "usd 3.00", 60, 10);
    shop.payer.close(&mut shop.world, None, true);
    assert_eq!(shop.payer.events.last(), Some(&Event::Closed(vec![money("usd 4.00")])));
    assert!(shop.payer.client.sessions().all(|held| held.closed));
}

#[test]
fn t52_closing_what_had_ended_succeeds_with_nothing_and_the_log() {
    let mut shop = shop();
    shop.pay("K-1", "usd 1.00");
    let lost = shop.ca1("K-2", "usd 2.00");
    shop.payee.receive(&mut shop.world, &lost);
    let message = shop.payee.batch(&mut shop.world);
    shop.world.one(&message);
    shop.world.wait(3 * HOUR);
    shop.payer.close(&mut shop.world, Some(shop.from), true);
    assert_eq!(shop.payer.client.responses().last().unwrap().problem, Some(Problem::AlreadyClosed));
    assert_eq!(shop.payer.events.last(), Some(&Event::Closed(vec![money("usd 0.00")])));
    assert!(shop.payer.client.sent().all(|sent| matches!(sent.outcome, Some(SentOutcome::Paid(_)))), "T55");
    assert_eq!(shop.payer.client.available(usd()), money("usd 97.00"));
}

#[test]
fn t53_a_payment_and_the_close_of_its_session_never_both_take_the_money() {
    for close_first in [true, false] {
        let mut shop = shop();
        let payment = shop.ca1("K-1", "usd 70.00");
        if close_first {
            shop.payer.close(&mut shop.world, Some(shop.from), true);
        }
        shop.collect(&[payment]);
        if !close_first {
            shop.payer.close(&mut shop.world, Some(shop.from), true);
        }
        let expected = if close_first { ("usd 100.00", "usd 0.00") } else { ("usd 30.00", "usd 70.00") };
        assert_eq!((shop.available(&shop.payer, "usd").as_str(), shop.in_session(shop.to).as_str()), expected);
    }
}

#[test]
fn t53_a_payment_and_a_close_at_once_end_in_one_of_two_ways() {
    for _ in 0..20 {
        let mut shop = shop();
        let payment = shop.ca1("K-1", "usd 70.00");
        shop.payee.receive(&mut shop.world, &payment);
        let batch = shop.payee.batch(&mut shop.world);
        let step = shop.payer.client.close(Some(shop.from), true, None, shop.world.now, &mut shop.world.random);
        let close = shop.payer.take(step.unwrap()).pop().unwrap().1;
        let shared = &std::sync::Mutex::new(&mut shop.world);
        std::thread::scope(|scope| {
            for message in [&batch, &close] {
                scope.spawn(move || shared.lock().unwrap().one(message));
            }
        });
        let ended = (shop.available(&shop.payer, "usd"), shop.in_session(shop.to));
        let ended = (ended.0.as_str(), ended.1.as_str());
        assert!(ended == ("usd 100.00", "usd 0.00") || ended == ("usd 30.00", "usd 70.00"), "{ended:?}");
    }
}

#[test]
fn t54_whether_a_timer_or_a_request_ends_a_session_cannot_be_seen() {
    let run = |ticks: bool| {
        let mut shop = shop();
        shop.pay("K-1", "usd 1.00");
        let late = shop.ca1("K-2", "usd 2.00");
        shop.payee.receive(&mut shop.world, &late);
        for _ in 0..121 {
            shop.world.wait(Duration::from_mins(1));
            if ticks {
                shop.world.tick();
            }
        }
        let message = shop.payee.batch(&mut shop.world);
        let reply = shop.world.one(&message);
        shop.relay(&reply);
        shop.payer.try_open(&mut shop.world, "usd 99.00", 10, 10);
        let told: Vec<_> = shop.payer.events.iter().chain(&shop.payee.events).cloned().collect();
        let closed = shop.world.server.session(shop.from).unwrap().closed.map(|(_, by)| by);
        (told, closed, shop.payer.client.available(usd()), shop.in_session(shop.to))
    };
    let (lazy, timer) = (run(false), run(true));
    assert_eq!(lazy, timer);
    assert_eq!(lazy.1, Some(ClosedBy::Lifetime));
    assert_eq!(lazy.3, "usd 1.00");
}

#[test]
fn t54_the_last_use_ends_a_session_after_its_reply() {
    let mut shop = shop();
    shop.from = shop.payer.open(&mut shop.world, "usd 5.00", 60, 1);
    shop.to = shop.payee.open(&mut shop.world, "usd 0.00", 60, 1);
    let payment = shop.ca1("K-1", "usd 1.00");
    let secrets = shop.payee.client.session(shop.to).unwrap().secrets.clone();
    let message = batch(&secrets, 1, &[Item::of(&payment, "usd 1.00")], &mut shop.world.random);
    let reply = shop.world.one(&message);
    assert_eq!(read(&secrets, &message, &reply).items, [(true, None)]);
    for session in [shop.from, shop.to] {
        assert_eq!(shop.world.server.session(session).unwrap().closed.unwrap().1, ClosedBy::UseLimit);
        assert_eq!(shop.in_session(session), "usd 0.00");
    }
    assert_eq!(shop.available(&shop.payer, "usd"), "usd 29.00");
    assert_eq!(shop.available(&shop.payee, "usd"), "usd 1.00");
    assert_eq!(shop.world.one(&message), reply);
}

#[test]
fn t55_what_is_unknown_is_found_out_by_asking_again() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    let message = shop.payee.batch(&mut shop.world);
    shop.world.one(&message);
    // CA3 is lost, and both wallets die.
    shop.payee.restart();
    shop.payer.restart();
    let again = shop.payee.client.tick(shop.world.now, &mut shop.world.random).send;
    assert_eq!(again[0].1, message);
    let reply = shop.world.one(&message);
    let receipt = shop.payee.receive(&mut shop.world, &reply).pop().unwrap().1;
    // CA4 is lost: the payer sends CA1 again, and the payee the same CA4.
    let resent = shop.payer.client.tick(shop.world.now, &mut shop.world.random).send;
    assert_eq!(resent[0].1, payment);
    assert_eq!(shop.payee.receive(&mut shop.world, &payment)[0].1, receipt);
    shop.payer.receive(&mut shop.world, &receipt);
    assert_eq!(shop.payer.client.session(shop.from).unwrap().current.to_string(), shop.in_session(shop.from));
    assert_eq!(shop.payee.client.session(shop.to).unwrap().current.to_string(), shop.in_session(shop.to));
}

#[test]
fn t56_autoclose_sends_everything_to_its_instrument_and_locks_after_five_wrong_tries() {
    let mut shop = shop();
    let try_with = |shop: &mut support::Shop, text: &str| {
        let step = shop.payer.client.autoclose(passphrase(text), shop.world.now, &mut shop.world.random).unwrap();
        shop.payer.exchange(&mut shop.world, step);
        shop.payer.failed_with()
    };
    assert_eq!(try_with(&mut shop, PASSPHRASE), Some(Problem::AutocloseRefused), "nothing is bound for it");
    shop.payer.bind(&mut shop.world, autoclose(3, PASSPHRASE));
    for _ in 0..5 {
        assert_eq!(try_with(&mut shop, "wrong one"), Some(Problem::AutocloseRefused));
    }
    assert_eq!(try_with(&mut shop, PASSPHRASE), Some(Problem::AutocloseRefused), "locked");
    shop.world.wait(24 * HOUR);
    shop.payer.open(&mut shop.world, "usd 40.00", 60, 10);
    assert_eq!(try_with(&mut shop, PASSPHRASE), None);
    assert_eq!(shop.payer.events.last(), Some(&Event::Autoclosed));
    let held: Vec<_> = shop.world.server.pending_holds().map(|hold| (hold.direction, hold.amount)).collect();
    assert_eq!(held, [(Direction::Unload, money("usd 100.00"))]);
    assert_eq!(shop.available(&shop.payer, "usd"), "usd 0.00");
    shop.payer.try_open(&mut shop.world, "usd 1.00", 10, 10);
    assert_eq!(shop.payer.failed_with(), Some(Problem::PersonaClosed));
}

#[test]
fn a_load_whose_answer_was_lost_is_taken_back_and_answered_once() {
    for amount in ["usd 5.00", "usd -5.00"] {
        let mut world = World::new(policy());
        let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
        world.issuer.slow = true;
        let step = wallet.client.load_unload(1, money(amount), world.now, &mut world.random).unwrap();
        let message = wallet.take(step).pop().unwrap().1;
        assert!(world.send(&message).is_empty());
        let waits = world.one(&message);
        assert_eq!(get(&waits, "problem"), "in-progress");
        let (question, _) = world.waiting[0].clone();
        world.restart();
        assert_eq!(world.taken_back, [question]);
        assert_eq!(world.server.books().container(&wallet.id(), usd()).available, money("usd 10.00"));
        let reply = world.one(&message);
        wallet.receive(&mut world, &reply);
        assert_eq!(wallet.failed_with(), Some(Problem::IssuerDeclined));
        // The issuer's answer comes after all: nobody asks any more.
        assert!(world.issuer_answers(question, IssuerAnswer::Move(true)).is_empty());
        assert!(world.issuer_answers(question, IssuerAnswer::Bind(BindDecision::Refuse)).is_empty());
        assert_eq!(world.server.books().container(&wallet.id(), usd()).available, money("usd 10.00"));
        assert_eq!(world.one(&message), reply);
        let changed = set(&message, "transaction", "77");
        assert_eq!(get(&world.one(&changed), "problem"), "undecryptable");
        let without = reframe(&message, |fields| fields.retain(|(label, _)| label != "serverkey"));
        assert!(world.send(&without).is_empty());
    }
}

#[test]
fn what_is_older_than_the_retention_time_is_forgotten_with_its_secrets() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    let message = shop.payee.batch(&mut shop.world);
    let reply = shop.world.one(&message);
    shop.payer.close(&mut shop.world, None, false);
    shop.payee.close(&mut shop.world, None, false);
    let secret = cloakway_crypto::encode::base64(shop.payer.client.session(shop.from).unwrap().secrets.key().expose());
    shop.world.wait(24 * HOUR * 30);
    shop.world.tick();
    assert_eq!(shop.world.one(&message), reply);
    assert!(shop.world.store.text().contains(&secret));
    shop.world.wait(HOUR);
    shop.world.tick();
    assert!(!shop.world.store.text().contains(&secret));
    assert_eq!((shop.world.server.sessions().count(), shop.world.server.payments().count()), (0, 0));
    assert_eq!(shop.world.server.logged(), 0);
    let late = shop.world.one(&message);
    assert_eq!(get(&late, "problem"), "unauthenticated");
    shop.world.restart();
    let next = shop.payee.open(&mut shop.world, "usd 0.00", 10, 10);
    assert!(next > shop.to, "I18: {next:?}");
    assert_eq!(shop.available(&shop.payee, "usd"), "usd 1.00");
}
