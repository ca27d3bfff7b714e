//! Rows T2, T3, T6 to T15, T19, T28, T58 and T61 to T63 of the protocol's checklist: requests and their replies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

mod support;

use std::time::Duration;

use support::forge::{get, reframe, set, spoil};
use support::{PASSPHRASE, Wallet, World, card, funded, instrument, money, passphrase, policy, shop};
use transact_ecash::wire::canonical::Digest;
use transact_ecash::wire::client::{Event, To};
use transact_ecash::wire::frame::{Draft, Frame, Pairs};
use transact_ecash::wire::message::{Bind, Close, Kind, LoadUnload, OpenSession, Problem, Register, RequestHead};
use transact_ecash::wire::suite::{ReplySecret, ServerPrivateKey, SigningKey, Suite, header_context, signature_input};
use transact_ecash::wire::value::{Bytes, Minutes, PersonaId, Short, Value};
use transact_ecash::{Policy, Software, Suites};

/// A request made by hand: any fields, sealed to the server's key and signed by any key.
struct Made {
    message: Vec<u8>,
    secret: ReplySecret,
    kind: Kind,
}

fn head(world: &World, id: Option<&PersonaId>, transaction: u64) -> Draft {
    let head = RequestHead {
        id: id.cloned(),
        transaction,
        date: world.now,
        serverkey: Short("CC1001".to_owned()),
        service_category: Some(Short("cash".to_owned())),
    };
    let mut clear = Draft::default();
    head.write(&mut clear, 0);
    clear
}

fn make(world: &mut World, kind: Kind, clear: Draft, sealed: &Draft, key: Option<&SigningKey>) -> Made {
    let mut clear = clear;
    let mut sealed = sealed.clone();
    if let Some(key) = key {
        let input = signature_input(world.suite, kind, clear.iter(), sealed.iter());
        sealed.put("signature", 0, &Bytes(key.sign(&input)));
    }
    let server = world.server_key().public();
    let header = header_context(world.suite, clear.iter());
    let (opaque, secret) = server.wrap(kind, &header, sealed.render().as_bytes(), &mut world.random).unwrap();
    clear.put("opaque", 0, &Bytes(opaque));
    Made { message: clear.frame(world.suite), secret, kind }
}

/// What the sender reads of a reply: its problem.
fn problem(made: &Made, reply: &[u8]) -> Option<Problem> {
    let frame = Frame::parse(reply).unwrap();
    if frame.clear.get("type", 0).is_some() {
        return frame.clear.required("problem", 0).ok();
    }
    let kind = match made.kind {
        Kind::R1 => Kind::R2,
        Kind::BI1 | Kind::BI3 => Kind::BI4,
        Kind::LU1 => Kind::LU2,
        Kind::OS1 => Kind::OS2,
        _ => Kind::CS2,
    };
    let opaque: Bytes = frame.clear.required("opaque", 0).unwrap();
    let header = header_context(frame.suite, frame.clear.iter());
    let plain = made.secret.open(frame.suite, kind, &header, &Digest::of(&made.message), &opaque.0).unwrap();
    let pairs = Pairs::parse(std::str::from_utf8(&plain).unwrap()).unwrap();
    pairs.optional("problem", 0).unwrap()
}

fn ask(world: &mut World, made: &Made) -> Option<Problem> {
    let reply = world.one(&made.message);
    problem(made, &reply)
}

fn key_of(world: &World, wallet: &Wallet) -> SigningKey {
    SigningKey::from_secret(world.suite, wallet.client.identity().key.0.expose()).unwrap()
}

fn open_body(world: &World, key: &SigningKey, amount: &str) -> Draft {
    let body = OpenSession {
        server_date: world.now,
        swversion: Short("kit 1.0".to_owned()),
        record_note: None,
        amount: money(amount),
        key_lifetime: Minutes(10),
        key_use_limit: 10,
        key: Bytes(key.public().fingerprint(world.suite)),
    };
    let mut draft = Draft::default();
    draft.text("type", 0, Kind::OS1.type_text().to_owned());
    body.write(&mut draft, 0);
    draft
}

fn without(draft: &Draft, label: &str) -> Draft {
    let mut rest = Draft::default();
    draft.iter().filter(|(other, _)| *other != label).for_each(|(label, value)| rest.own(label.into(), value.into()));
    rest
}

fn with(draft: &Draft, label: &str, value: &str) -> Draft {
    let mut rest = Draft::default();
    let change = |(other, old): (&str, &str)| (other.to_owned(), if other == label { value } else { old }.to_owned());
    draft.iter().map(change).for_each(|(label, value)| rest.own(label, value));
    rest
}

#[test]
fn t03_white_space_does_not_matter_and_anything_else_does() {
    let mut world = World::new(policy());
    let mut wallet = Wallet::new(&mut world);
    let (now, usd) = (world.now, money("usd 0.00").currency());
    let step =
        wallet.client.register("dora", "a@b", "en", usd, Default::default(), None, now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let text = String::from_utf8(message.clone()).unwrap();
    let before = world.store.0.clone();
    for at in (0..text.len()).filter(|at| text.as_bytes()[*at] > b' ') {
        let mut changed = message.clone();
        changed[at] = if changed[at] == b'x' { b'y' } else { b'x' };
        assert!(world.send(&changed).is_empty(), "byte {at}");
    }
    assert_eq!(world.store.0, before);
    let reply = world.one(&message);
    for gateway in [text.replace('\n', "\r\n"), text.replace("opaque: ", "opaque:  ")] {
        assert_eq!(world.one(gateway.as_bytes()), reply);
    }
    let folded = text.replace("opaque: ", "opaque:\n ");
    assert_eq!(world.one(folded.as_bytes()), reply);
}

#[test]
fn t06_each_message_reaches_its_own_procedure_alone() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    let (step, offer) =
        shop.payee.client.make_offer(support::order("K-2"), money("usd 1.00"), "n", "u", None, shop.world.now).unwrap();
    shop.payee.take(step);
    shop.payee.receive(&mut shop.world, &payment);
    let batch = shop.payee.batch(&mut shop.world);
    let before = shop.world.store.0.clone();
    for stray in [
        &payment,
        &offer,
        &set(&batch, "type", "from-server"),
        &reframe(&batch, |fields| {
            fields.remove(0);
        }),
    ] {
        assert!(shop.world.send(stray).is_empty());
    }
    let open =
        shop.payer.client.open(money("usd 1.00"), Minutes(9), 9, None, shop.world.now, &mut shop.world.random).unwrap();
    let request = shop.payer.take(open).pop().unwrap().1;
    assert_eq!(shop.world.store.0, before);
    let (payer, payee) = (shop.payer.store.clone(), shop.payee.store.clone());
    assert!(shop.payer.receive(&mut shop.world, &batch).is_empty());
    for stray in [&batch, &request] {
        assert!(shop.payee.receive(&mut shop.world, stray).is_empty());
    }
    assert_eq!((shop.payer.store.clone(), shop.payee.store.clone()), (payer, payee));
}

#[test]
fn t07_whatever_is_wrong_with_a_seal_the_answer_is_the_same() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let before = (world.store.0.clone(), world.server.logged());
    let wrong = [
        set(&message, "serverkey", "CC9999"),
        spoil(&message, "opaque"),
        set(&message, "opaque", "AAAA"),
        set(&message, "opaque", "?"),
        set(&message, "opaque", &Bytes(vec![0; 200]).write()),
        set(&message, "transaction", "99"),
        set(&message, "service-category", "admin"),
        reframe(&message, |fields| fields.retain(|(label, _)| label != "opaque")),
    ];
    // The same work, too: each is unwrapped, by the key that it names or by one that stands for it.
    let mut answers = Vec::new();
    for message in &wrong {
        let cost = world.server.cost();
        answers.push(world.one(message));
        assert_eq!(world.server.cost(), transact_ecash::Cost { unwraps: cost.unwraps + 1, ..cost });
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(get(&answers[0], "problem"), "undecryptable");
    assert_eq!((world.store.0.clone(), world.server.logged()), before);
    world.wait(Duration::from_hours(24 * 91));
    let late = world.one(&message);
    assert_eq!(get(&late, "problem"), "undecryptable", "the key has ended");
}

#[test]
fn t08_each_required_field_is_missed() {
    let mut world = World::new(policy());
    let wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let (id, key) = (wallet.id(), key_of(&world, &wallet));
    let fill = |kind: Kind, labels: &[(&'static str, bool)]| {
        let mut draft = Draft::default();
        draft.text("type", 0, kind.type_text().to_owned());
        for (label, _) in labels {
            let value = match *label {
                "server-date" => world.now.write(),
                "amount" => "usd 1.00".to_owned(),
                "default-currency" => "usd".to_owned(),
                "instrument-functions" => "load".to_owned(),
                "autoclose" | "request-log" => "no".to_owned(),
                "key-lifetime" => "0010".to_owned(),
                "key-use-limit" | "agreements" => "10".to_owned(),
                "session-id" => "AAAAAAAAACk=".to_owned(),
                "instrument-number" => card(1),
                "email" => "a@b".to_owned(),
                _ => "AAAAAAAAAAAAAAAAAAAAAA==".to_owned(),
            };
            draft.text(label, 0, value);
        }
        draft
    };
    let bodies = [
        (Kind::R1, Register::LABELS),
        (Kind::BI1, Bind::LABELS),
        (Kind::LU1, LoadUnload::LABELS),
        (Kind::OS1, OpenSession::LABELS),
        (Kind::CS1, Close::LABELS),
    ];
    let bodies: Vec<_> = bodies.into_iter().map(|(kind, labels)| (kind, labels, fill(kind, labels))).collect();
    let before = world.store.0.clone();
    for (kind, labels, whole) in bodies {
        let owner = (kind != Kind::R1).then_some(&id);
        for (label, _) in labels.iter().filter(|(_, required)| *required) {
            let clear = head(&world, owner, 900);
            let made = make(&mut world, kind, clear, &without(&whole, label), Some(&key));
            assert_eq!(ask(&mut world, &made), Some(Problem::Form), "{kind:?} {label}");
        }
        for label in ["type", "signature"] {
            let clear = head(&world, owner, 900);
            let signer = (label != "signature").then_some(&key);
            let made = make(&mut world, kind, clear, &without(&whole, label), signer);
            assert_eq!(ask(&mut world, &made), Some(Problem::Form), "{kind:?} {label}");
        }
        for label in ["transaction", "date"] {
            let clear = without(&head(&world, owner, 900), label);
            let made = make(&mut world, kind, clear, &whole, Some(&key));
            assert_eq!(ask(&mut world, &made), Some(Problem::Form), "{kind:?} {label}");
        }
        // In both parts, twice, empty.
        let mut both = head(&world, owner, 900);
        both.text("type", 0, "x".to_owned());
        let made = make(&mut world, kind, without(&both, "type"), &with(&whole, "type", "gift"), Some(&key));
        assert_eq!(ask(&mut world, &made), Some(Problem::Form), "{kind:?}");
    }
    assert_eq!(world.store.0, before);
}

#[test]
fn t09_only_the_owner_of_a_persona_speaks_for_it() {
    let mut world = World::new(policy());
    let dora = funded(&mut world, "dora", 1, "usd 10.00");
    let eve = Wallet::registered(&mut world, "eve");
    let (id, own, foreign) = (dora.id(), key_of(&world, &dora), key_of(&world, &eve));
    let before = (world.store.0.clone(), world.server.logged());
    let body = open_body(&world, &own, "usd 1.00");
    let by_eve = open_body(&world, &foreign, "usd 1.00");
    let nobody = PersonaId::read("brianb-40").unwrap();
    for (who, body, key, expected) in [
        (&id, &body, &foreign, Problem::Signature),
        (&id, &by_eve, &foreign, Problem::KeyMismatch),
        (&eve.id(), &body, &own, Problem::KeyMismatch),
        (&nobody, &body, &own, Problem::UnknownPersona),
    ] {
        let clear = head(&world, Some(who), 900);
        let made = make(&mut world, Kind::OS1, clear, body, Some(key));
        assert_eq!(ask(&mut world, &made), Some(expected), "{who}");
    }
    // A field changed after it was signed.
    let clear = head(&world, Some(&id), 900);
    let input = signature_input(world.suite, Kind::OS1, clear.iter(), body.iter());
    let mut changed = with(&body, "amount", "usd 9.00");
    changed.put("signature", 0, &Bytes(own.sign(&input)));
    let made = make(&mut world, Kind::OS1, clear, &changed, None);
    assert_eq!(ask(&mut world, &made), Some(Problem::Signature));
    // I20: a signature for one kind is none for another.
    let clear = head(&world, Some(&id), 900);
    let input = signature_input(world.suite, Kind::CS1, clear.iter(), body.iter());
    let mut other = body.clone();
    other.put("signature", 0, &Bytes(own.sign(&input)));
    let made = make(&mut world, Kind::OS1, clear, &other, None);
    assert_eq!(ask(&mut world, &made), Some(Problem::Signature));
    assert_eq!((world.store.0.clone(), world.server.logged()), before);
}

#[test]
fn t10_old_software_is_warned_and_older_refused() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let software = |world: &mut World, state| {
        world.server.policy_mut().software = [("kit 1.0".to_owned(), state)].into();
    };
    software(&mut world, Software::Warning("get kit 2.0".to_owned()));
    wallet.try_open(&mut world, "usd 1.00", 9, 9);
    assert_eq!(wallet.client.sessions().count(), 1);
    assert!(wallet.events.contains(&Event::Software("get kit 2.0".to_owned())));
    software(&mut world, Software::Fatal("kit 1.0 has a hole".to_owned()));
    let books = world.server.books().clone();
    wallet.try_open(&mut world, "usd 1.00", 9, 9);
    assert_eq!(*world.server.books(), books);
    assert!(wallet.client.identity().blocked);
    assert!(wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).is_err());
}

#[test]
fn t11_identical_bytes_execute_once_and_are_answered_the_same_for_ever() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    let stored = world.store.0.clone();
    for round in 0..100 {
        assert_eq!(world.one(&message), reply);
        if round % 40 == 0 {
            world.restart();
        }
    }
    assert_eq!(world.store.0, stored);
    world.wait(Duration::from_hours(24 * 29));
    world.tick();
    world.server.policy_mut().software = [("kit 1.0".to_owned(), Software::Fatal("x".to_owned()))].into();
    assert_eq!(world.one(&message), reply);
}

#[test]
fn t11_identical_bytes_from_many_threads_and_after_their_sessions_end_execute_once() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let shared = &std::sync::Mutex::new(&mut world);
    let replies: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| (0..25).map(|_| shared.lock().unwrap().one(&message)).collect::<Vec<_>>());
        let threads: Vec<_> = (0..4).map(|_| ask()).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(replies.len() == 100 && replies.iter().all(|reply| *reply == replies[0]));
    assert_eq!((world.server.sessions().count(), world.server.books().entries()), (1, 2), "a load and a session");
    wallet.receive(&mut world, &replies[0]);
    let session = wallet.client.sessions().next().unwrap().secrets.id();
    wallet.close(&mut world, Some(session), false);
    let entries = world.server.books().entries();
    world.restart();
    assert_eq!(world.one(&message), replies[0]);
    assert_eq!(world.server.books().entries(), entries);
}

#[test]
fn again_under_modern_1h() {
    support::again_under("modern-1h");
}

#[test]
fn t12_requests_are_fresh_and_numbers_are_used_once() {
    let mut world = World::new(policy());
    let wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let (id, key) = (wallet.id(), key_of(&world, &wallet));
    let books = world.server.books().clone();
    let day = Duration::from_hours(24);
    for (transaction, date, expected) in [
        (901, world.now - day - Duration::from_millis(1), Some(Problem::StaleDate)),
        (902, world.now + Duration::from_millis(600_001), Some(Problem::StaleDate)),
        (2, world.now, Some(Problem::TransactionReused)),
        (901, world.now - day, None),
        (902, world.now + Duration::from_mins(10), None),
        (901, world.now, Some(Problem::TransactionReused)),
    ] {
        let before = world.server.books().clone();
        let body = with(&open_body(&world, &key, "usd 1.00"), "server-date", &date.write());
        let clear = head(&world, Some(&id), transaction);
        let made = make(&mut world, Kind::OS1, clear, &body, Some(&key));
        assert_eq!(ask(&mut world, &made), expected, "{transaction} {date}");
        assert_eq!(*world.server.books() == before, expected.is_some(), "{transaction}");
    }
    assert_ne!(*world.server.books(), books);
}

#[test]
fn t13_each_right_blocks_its_own_message() {
    for blocked in [Kind::BI1, Kind::LU1, Kind::OS1, Kind::CS1, Kind::CA1, Kind::CA2] {
        let mut shop = shop();
        for id in [shop.payer.id(), shop.payee.id()] {
            let (step, changed) = shop.world.server.set_right(&id, blocked, false);
            assert!(changed);
            shop.world.carry_out(step);
        }
        let disabled = |wallet: &Wallet| wallet.failed_with() == Some(Problem::ServiceDisabled);
        shop.payer.events.clear();
        shop.payer.bind(&mut shop.world, instrument(&card(4)));
        assert_eq!(disabled(&shop.payer), blocked == Kind::BI1);
        shop.payer.load(&mut shop.world, 1, money("usd 1.00"));
        assert_eq!(disabled(&shop.payer), blocked == Kind::LU1);
        shop.payer.try_open(&mut shop.world, "usd 1.00", 9, 9);
        assert_eq!(disabled(&shop.payer), blocked == Kind::OS1);
        shop.pay("K-1", "usd 1.00");
        let paid = shop.payer.events.iter().any(|event| matches!(event, Event::Paid(..)));
        assert_eq!(paid, !matches!(blocked, Kind::CA1 | Kind::CA2), "{blocked:?}");
        shop.payer.close(&mut shop.world, Some(shop.from), false);
        assert_eq!(disabled(&shop.payer), blocked == Kind::CS1);
    }
}

#[test]
fn t14_a_reply_that_is_not_quite_right_changes_nothing_and_is_told_of_once() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let first = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&first);
    let transaction: u64 = get(&first, "transaction").parse().unwrap();
    assert!(wallet.receive(&mut world, &set(&reply, "transaction", "77")).is_empty());
    let mut sent = Vec::new();
    for wrong in [
        set(&reply, "id", "kite-17"),
        reframe(&reply, |fields| fields.retain(|(label, _)| label != "id")),
        set(&reply, "date", "20200101000000000"),
        spoil(&reply, "opaque"),
        set(&reply, "service-category", "admin"),
        reframe(&reply, |fields| fields.push(("more".to_owned(), "1".to_owned()))),
    ] {
        sent.extend(wallet.receive(&mut world, &wrong));
        assert_eq!(wallet.client.requests().map(|request| request.transaction).collect::<Vec<_>>(), [transaction]);
        assert_eq!(wallet.client.sessions().count(), 0);
    }
    // T58: DG1 has no secret in it, and is not answered.
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, To::Server);
    assert!(world.send(&sent[0].1).is_empty());
    assert_eq!(world.diagnostics.len(), 1);
    assert!(world.diagnostics[0].starts_with("OS1: "), "{:?}", world.diagnostics);
    wallet.receive(&mut world, &reply);
    assert_eq!((wallet.client.requests().count(), wallet.client.sessions().count()), (0, 1));
    // A failure is shown, and the request is gone.
    wallet.try_open(&mut world, "eur 1.00", 9, 9);
    assert_eq!(wallet.failed_with(), Some(Problem::InsufficientFunds));
    assert_eq!(wallet.client.requests().count(), 0);
}

#[test]
fn t15_a_request_survives_its_wallets_death_byte_for_byte() {
    let mut world = World::new(policy());
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    wallet.restart();
    let resent = wallet.client.tick(world.now, &mut world.random).send;
    assert_eq!(resent, [(To::Server, message.clone())]);
    let reply = world.one(&message);
    wallet.restart();
    wallet.receive(&mut world, &reply);
    assert_eq!(wallet.client.sessions().count(), 1);
    // Nothing is sent again that was answered; what was not, after 5 s, then later and later, up to 5 minutes.
    assert!(wallet.client.tick(world.now, &mut world.random).send.is_empty());
    wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let mut last = world.now;
    for round in 0..12_u32 {
        let next = wallet.client.next_tick().unwrap();
        let wait = next.since(last).as_millis();
        let full = u128::from((5_000_u64 << round.min(6)).min(300_000));
        assert!(wait <= full && wait >= full * 7 / 8, "{round}: {wait}");
        assert_eq!(wallet.client.tick(next, &mut world.random).send.len(), 1);
        last = next;
    }
}

#[test]
fn t19_and_t28_a_wallet_takes_no_other_key_and_no_more_than_it_asked_for() {
    let mut world = World::new(policy());
    let mut wallet = Wallet::new(&mut world);
    let (now, usd) = (world.now, money("usd 0.00").currency());
    let step =
        wallet.client.register("dora", "a@b", "en", usd, Default::default(), None, now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    let forge =
        |wallet: &Wallet, world: &mut World, kind: Kind, message: &[u8], reply: &[u8], change: &[(&str, &str)]| {
            // A server that lies: it alone can seal such a reply.
            let request = wallet.client.requests().next().unwrap();
            let frame = Frame::parse(reply).unwrap();
            let header = header_context(frame.suite, frame.clear.iter());
            let opaque: Bytes = frame.clear.required("opaque", 0).unwrap();
            let digest = Digest::of(message);
            let plain = request.secret.open(frame.suite, kind, &header, &digest, &opaque.0).unwrap();
            let text = std::str::from_utf8(&plain).unwrap();
            let mut draft = Draft::default();
            for (label, value) in Pairs::parse(text).unwrap().iter() {
                let value = change.iter().find(|(other, _)| *other == label).map_or(value, |(_, new)| new);
                draft.own(label.to_owned(), value.to_owned());
            }
            let sealed =
                request.secret.seal(frame.suite, kind, &header, &digest, draft.render().as_bytes(), &mut world.random);
            set(reply, "opaque", &Bytes(sealed.unwrap()).write())
        };
    let other = forge(&wallet, &mut world, Kind::R2, &message, &reply, &[("pubkey", "AAAA")]);
    wallet.receive(&mut world, &other);
    assert!(wallet.client.identity().persona.is_none());
    wallet.receive(&mut world, &reply);
    assert!(wallet.client.identity().persona.is_some());
    wallet.bind(&mut world, instrument(&card(1)));
    wallet.load(&mut world, 1, money("usd 10.00"));
    let step = wallet.client.open(money("usd 5.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = wallet.take(step).pop().unwrap().1;
    let reply = world.one(&message);
    for (label, value) in
        [("amount", "usd 5.01"), ("key-lifetime", "0010"), ("key-use-limit", "10"), ("amount", "eur 5.00")]
    {
        let more = forge(&wallet, &mut world, Kind::OS2, &message, &reply, &[(label, value)]);
        wallet.receive(&mut world, &more);
        assert_eq!(wallet.client.sessions().count(), 0, "{label}");
    }
    wallet.receive(&mut world, &reply);
    assert_eq!(wallet.client.sessions().count(), 1);
}

#[test]
fn t58_notices_change_nothing() {
    let mut shop = shop();
    let payment = shop.ca1("K-1", "usd 1.00");
    shop.payee.receive(&mut shop.world, &payment);
    shop.payee.batch(&mut shop.world);
    let before = (shop.payer.store.clone(), shop.payee.store.clone());
    for problem in Problem::ALL {
        let mut notice = Draft::default();
        notice.text("type", 0, "error-notice".to_owned());
        notice.put("session-id", 0, &shop.from);
        notice.put("index", 0, &1_u16);
        notice.put("problem", 0, problem);
        notice.text("message", 0, "believe me".to_owned());
        let notice = notice.frame(support::suite());
        shop.payer.receive(&mut shop.world, &notice);
        shop.payee.receive(&mut shop.world, &notice);
        assert!(shop.world.send(&notice).is_empty());
    }
    assert_eq!((shop.payer.store.clone(), shop.payee.store.clone()), before, "I25");
}

#[test]
fn t61_secrets_are_in_no_print() {
    let mut shop = shop();
    shop.pay("K-1", "usd 1.00");
    let held = shop.payer.client.session(shop.from).unwrap();
    let encode = |bytes: &[u8]| cloakway_crypto::encode::base64(bytes);
    let secrets = [
        encode(held.secrets.key().expose()),
        encode(held.secrets.salt().expose()),
        encode(shop.payer.client.identity().key.0.expose()),
        card(1),
        PASSPHRASE.to_owned(),
    ];
    let sessions: Vec<_> = shop.world.server.sessions().collect();
    let personas = shop.world.server.persona(&shop.payer.id());
    let prints = format!("{:?} {:?} {:?} {:?}", shop.payer.client, sessions, personas, passphrase(PASSPHRASE));
    let raw = format!("{:?}", held.secrets.key().expose());
    for secret in secrets {
        assert!(!prints.contains(&secret));
    }
    assert!(!prints.contains(&raw));
    assert!(!shop.world.store.text().contains(PASSPHRASE));
}

#[test]
fn t62_payments_cost_no_public_key_operation() {
    let mut shop = shop();
    let before = shop.world.server.cost();
    for n in 0..20 {
        shop.pay(&format!("K-{n}"), "usd 0.01");
    }
    assert_eq!(shop.world.server.cost(), before);
    shop.payer.open(&mut shop.world, "usd 1.00", 9, 9);
    let after = shop.world.server.cost();
    assert_eq!((after.unwraps, after.verifications), (before.unwraps + 1, before.verifications + 1));
}

#[test]
fn t63_a_suite_belongs_to_the_servers_key() {
    assert_eq!(Suites::with_classic(false).is_ok(), cfg!(feature = "classic-1995"));
    assert_eq!(Suites::MODERN.warning(), None);
    let mut world = World::with_suite(policy(), Suite::Modern1, 1);
    let mut wallet = funded(&mut world, "dora", 1, "usd 10.00");
    let step = wallet.client.open(money("usd 1.00"), Minutes(9), 9, None, world.now, &mut world.random).unwrap();
    let message = String::from_utf8(wallet.take(step).pop().unwrap().1).unwrap();
    let before = world.store.0.clone();
    for protocol in ["1995.1", "2026.1h", "2026.2"] {
        let renamed = message.replace("ECASH-2026.1-", &format!("ECASH-{protocol}-"));
        assert!(world.send(renamed.as_bytes()).is_empty());
        let frame = reframe(message.as_bytes(), |_| {});
        assert_eq!(frame, message.as_bytes());
    }
    // With a checksum that fits, the key is none of that suite's.
    let mut draft = Draft::default();
    Frame::parse(message.as_bytes())
        .unwrap()
        .clear
        .iter()
        .for_each(|(label, value)| draft.own(label.into(), value.into()));
    let answer = world.one(&draft.frame(Suite::Modern1h));
    assert_eq!(get(&answer, "problem"), "undecryptable");
    assert_eq!(world.store.0, before);
}

#[test]
fn keys_serve_90_days_at_most_and_are_erased_when_requests_under_them_are_stale() {
    let mut world = World::new(Policy { suites: Suites::MODERN, ..policy() });
    let day = Duration::from_hours(24);
    let next = ServerPrivateKey::generate("CC1002", Suite::Modern1, &mut world.random).unwrap();
    world.server.keys_mut().add(next, world.now + day * 80, world.now + day * 365);
    let serving = |world: &mut World| -> Vec<String> {
        let now = world.now;
        world.server.keys_mut().public(now).into_iter().map(|key| key.id).collect()
    };
    assert_eq!(serving(&mut world), ["CC1001"]);
    world.wait(day * 85);
    assert_eq!(serving(&mut world), ["CC1002", "CC1001"]);
    world.wait(day * 5);
    assert_eq!(serving(&mut world), ["CC1002"]);
    let now = world.now;
    assert!(world.server.keys_mut().erase(day * 9, now).is_empty());
    world.wait(day * 2);
    let now = world.now;
    assert_eq!(world.server.keys_mut().erase(day, now), ["CC1001"]);
    let until = world.server.keys_mut().serves_until(Suite::Modern1).unwrap();
    assert!(until.since(now) <= day * 90);
}
