//! Rows T59, T60 and T64 of the protocol's checklist: payers and payees over a network that loses, doubles, delays and
//! reorders, with processes that die at any write. The seed decides everything: `SIM_SEED=17 cargo test …`.
//!
//! After every message the invariants are checked; in the end, when the network is whole again, both ends of every
//! payment agree, and nothing was made or lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use cloakway_sim::{Faults, Net, NodeId};
use cloakway_types::Timestamp;
use proptest::prelude::*;
use support::forge::{Item, batch, get, read, spoil};
use support::{Shop, Wallet, World, funded, money, order, policy, shop};
use transact_ecash::wire::client::{OfferKey, SentOutcome, To};
use transact_ecash::wire::value::{Currency, SessionId};
use transact_ecash::{PaymentOutcome, Ticket};

const SERVER: NodeId = 0;

#[derive(Clone)]
enum Message {
    Bytes(NodeId, Vec<u8>),
    Tick,
    Buy,
    Die,
}

/// The whole scene: the server is node 0, payers come next, then payees.
struct Scene {
    net: Net<Message>,
    world: World,
    wallets: Vec<Wallet>,
    payers: usize,
    sessions: Vec<SessionId>,
    start: Timestamp,
    bought: u32,
    deaths: u32,
    /// Who sent a payment, by session.
    from: BTreeMap<SessionId, NodeId>,
}

fn usd() -> Currency {
    money("usd 0.00").currency()
}

impl Scene {
    fn new(seed: u64, payers: usize, payees: usize) -> Self {
        let faults = Faults {
            loss_percent: 15,
            duplicate_percent: 15,
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_secs(4),
        };
        let mut world = World::with_suite(policy(), transact_ecash::wire::suite::Suite::Modern1, seed);
        world.checked = false;
        let mut wallets = Vec::new();
        let mut sessions = Vec::new();
        for n in 0..payers {
            let mut wallet = funded(&mut world, &format!("payer{n}"), n as u64, "usd 20.00");
            sessions.push(wallet.open(&mut world, "usd 3.00", 30, 12));
            wallets.push(wallet);
        }
        for n in 0..payees {
            let mut wallet = Wallet::registered(&mut world, &format!("payee{n}"));
            sessions.push(wallet.open(&mut world, "usd 0.00", 600, 500));
            wallets.push(wallet);
        }
        let start = world.now;
        let from = sessions.iter().enumerate().map(|(n, session)| (*session, n + 1)).collect();
        Self { net: Net::new(seed, faults), world, wallets, payers, sessions, start, bought: 0, deaths: 0, from }
    }

    fn send(&mut self, from: NodeId, messages: Vec<(To, Vec<u8>)>) {
        for (to, bytes) in messages {
            let node = match to {
                To::Server => SERVER,
                To::Payee(url) => url.parse().unwrap(),
                To::Payer(session, _) => self.from.get(&session).copied().unwrap_or(SERVER),
            };
            self.net.send(from, node, Message::Bytes(from, bytes));
        }
    }

    fn handle(&mut self, node: NodeId, message: Message) {
        self.world.now = self.start + self.net.now();
        match message {
            Message::Die if node == SERVER => {
                self.deaths += 1;
                self.world.restart();
            }
            Message::Die => {
                self.deaths += 1;
                self.wallets[node - 1].restart();
            }
            Message::Bytes(from, bytes) if node == SERVER => {
                // The process may die before what it decided is durable, or before it answers.
                let dies = self.net.rng.chance(2);
                if dies && self.net.rng.chance(50) {
                    let _ = self.world.server.handle(&bytes, Ticket(0), self.world.now, &mut self.world.random);
                    self.deaths += 1;
                    return self.world.restart();
                }
                let answers = self.world.send(&bytes);
                if dies {
                    self.deaths += 1;
                    return self.world.restart();
                }
                for answer in answers {
                    self.net.send(SERVER, from, Message::Bytes(SERVER, answer));
                }
            }
            Message::Bytes(_, bytes) => {
                let at = node - 1;
                let before = self.wallets[at].store.clone();
                let step = self.wallets[at].client.receive(&bytes, self.world.now, &mut self.world.random);
                let sent = self.wallets[at].take(step);
                if self.net.rng.chance(2) {
                    // Dies before the write, or after it and before anything is sent.
                    self.deaths += 1;
                    if self.net.rng.chance(50) {
                        self.wallets[at].store = before;
                    }
                    return self.wallets[at].restart();
                }
                self.send(node, sent);
            }
            Message::Tick if node == SERVER => {
                self.world.tick();
                self.net.after(Duration::from_secs(20), SERVER, Message::Tick);
            }
            Message::Tick => {
                let at = node - 1;
                let (now, random) = (self.world.now, &mut self.world.random);
                let step = self.wallets[at].client.tick(now, random);
                let mut sent = self.wallets[at].take(step);
                if at >= self.payers {
                    let step = self.wallets[at].client.collect(now, random);
                    sent.extend(self.wallets[at].take(step));
                }
                self.send(node, sent);
                self.net.after(Duration::from_secs(2), node, Message::Tick);
            }
            Message::Buy => self.buy(node),
        }
    }

    /// A payer takes an offer from some payee, and pays it if it can.
    fn buy(&mut self, node: NodeId) {
        let payees: Vec<NodeId> = (self.payers + 1..=self.wallets.len()).collect();
        let payee = *self.net.rng.pick(&payees).unwrap();
        self.bought += 1;
        let cents = self.net.rng.between(1, 60);
        let price = format!("usd 0.{cents:02}");
        let id = format!("K-{}", self.bought);
        let now = self.world.now;
        let (step, offer) = self.wallets[payee - 1]
            .client
            .make_offer(order(&id), money(&price), "a thing", &payee.to_string(), None, now)
            .unwrap();
        self.wallets[payee - 1].take(step);
        let at = node - 1;
        self.wallets[at].receive(&mut self.world, &offer);
        let key = OfferKey { payee: self.wallets[payee - 1].id(), order: order(&id) };
        let session = self.sessions[at];
        let paid = self.wallets[at].client.pay(&key, session, None, now, &mut self.world.random);
        if let Ok(step) = paid {
            let sent = self.wallets[at].take(step);
            self.send(node, sent);
        }
    }

    /// I23 and I24, of wallets as they are.
    fn check_wallets(&self, seed: u64) {
        for (wallet, session) in self.wallets.iter().zip(&self.sessions).take(self.payers) {
            let held = wallet.client.session(*session).unwrap();
            let there = self.world.server.books().session(*session, usd());
            let open = self.world.server.session(*session).unwrap().closed.is_none();
            assert!(!open || held.current.minor() <= there.minor(), "I23 SIM_SEED={seed}");
        }
    }

    fn settle(&mut self, seed: u64) {
        self.net.faults = Faults::none();
        let end = self.net.now() + Duration::from_secs(700);
        while let Some((node, message)) = self.net.step_until(end) {
            if !matches!(message, Message::Die | Message::Buy) {
                self.handle(node, message);
            }
        }
        self.world.check();
        for at in 0..self.payers {
            self.wallets[at].close(&mut self.world, Some(self.sessions[at]), true);
        }
        self.world.check();
        let collected: BTreeMap<(SessionId, u16), i64> = self
            .world
            .server
            .payments()
            .filter(|payment| payment.outcome == PaymentOutcome::Collected)
            .map(|payment| ((payment.session, payment.index), payment.debit.minor()))
            .collect();
        let mut paid = BTreeMap::new();
        for wallet in &self.wallets[..self.payers] {
            for sent in wallet.client.sent() {
                match sent.outcome.unwrap_or_else(|| panic!("nobody knows of {sent:?} SIM_SEED={seed}")) {
                    SentOutcome::Paid(charged) => {
                        assert_eq!(charged, sent.amount);
                        paid.insert((sent.session, sent.index), charged.minor());
                    }
                    SentOutcome::Refused(_) | SentOutcome::NeverCollected => {}
                }
            }
            assert_eq!(
                wallet.client.available(usd()),
                self.world.server.books().container(&wallet.id(), usd()).available
            );
        }
        assert_eq!(paid, collected, "T55 SIM_SEED={seed}");
        let mut taken = 0;
        for (wallet, session) in self.wallets.iter().zip(&self.sessions).skip(self.payers) {
            let held = wallet.client.session(*session).unwrap();
            assert_eq!(held.current, self.world.server.books().session(*session, usd()), "SIM_SEED={seed}");
            taken += held.current.minor();
        }
        assert_eq!(taken, collected.values().sum::<i64>(), "SIM_SEED={seed}");
    }
}

fn run(seed: u64) -> (usize, u32) {
    let mut scene = Scene::new(seed, 3, 2);
    for node in 0..=scene.wallets.len() {
        scene.net.after(Duration::from_millis(node as u64), node, Message::Tick);
        let dies = Duration::from_secs(scene.net.rng.between(1, 200));
        scene.net.after(dies, node, Message::Die);
    }
    for n in 0..30 {
        let node = 1 + usize::try_from(scene.net.rng.between(0, 2)).unwrap();
        scene.net.after(Duration::from_secs(n * 6), node, Message::Buy);
    }
    let mut steps = 0_u32;
    while let Some((node, message)) = scene.net.step_until(Duration::from_secs(240)) {
        scene.handle(node, message);
        steps += 1;
        if steps.is_multiple_of(16) {
            scene.world.check();
        }
        scene.check_wallets(seed);
    }
    scene.settle(seed);
    let collected =
        scene.world.server.payments().filter(|payment| payment.outcome == PaymentOutcome::Collected).count();
    (collected, scene.deaths)
}

#[test]
fn t59_and_t64_whatever_is_lost_or_dies_both_ends_agree_in_the_end() {
    let (mut collected, mut deaths) = (0, 0);
    for seed in cloakway_sim::seeds(12) {
        let (payments, died) = run(seed);
        collected += payments;
        deaths += died;
    }
    let chosen = ["SIM_SEED", "SIM_SEEDS"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(chosen || (collected > 60 && deaths > 60), "{collected} {deaths}");
}

/// What a payee may do with payments that it was given.
#[derive(Debug, Clone)]
enum Move {
    HandIn(Vec<usize>, Option<&'static str>),
    Close,
    Wait(u64),
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let change = prop::option::weighted(
        0.4,
        prop::sample::select(vec![
            "order-id",
            "payer-index",
            "note-hash",
            "payee-id",
            "merchant-amount",
            "opaque",
            "subversion",
        ]),
    );
    let one = prop_oneof![
        8 => (prop::collection::vec(0_usize..6, 1..4), change).prop_map(|(which, change)| Move::HandIn(which, change)),
        1 => Just(Move::Close),
        1 => (0_u64..40).prop_map(Move::Wait),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 1..14)
}

fn changed(item: Item, payment: &[u8], change: Option<&str>) -> Item {
    match change {
        Some("opaque") => Item { opaque: get(&spoil(payment, "opaque"), "opaque"), ..item },
        Some("merchant-amount") => item.with("merchant-amount", "usd 0.99"),
        Some("payer-index" | "subversion") => item.with(change.unwrap(), "5"),
        Some("order-id") => item.with("order-id", "K-77"),
        Some("payee-id") => item.with("payee-id", "dora-64"),
        Some(_) => item.with("note-hash", "AAAA"),
        None => item,
    }
}

/// Hands in by a second session of the payee, too, and reads every receipt in the payer's place.
fn play(shop: &mut Shop, moves: &[Move]) {
    let second = shop.payee.open(&mut shop.world, "usd 0.00", 600, 1000);
    let payments: Vec<Vec<u8>> = (0..6).map(|n| shop.ca1(&format!("K-{n}"), "usd 1.00")).collect();
    let mut receipts: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut index = 0;
    for step in moves {
        match step {
            Move::HandIn(which, change) => {
                index += 1;
                let session = if index % 3 == 0 { second } else { shop.to };
                let secrets = shop.payee.client.session(session).unwrap().secrets.clone();
                let items: Vec<Item> = which
                    .iter()
                    .map(|n| changed(Item::of(&payments[*n], "usd 1.00"), &payments[*n], *change))
                    .collect();
                let message = batch(&secrets, index, &items, &mut shop.world.random);
                let reply = shop.world.one(&message);
                assert_eq!(shop.world.one(&message), reply, "I12");
                for (n, opaque) in read(&secrets, &message, &reply).receipts {
                    let item = &items[usize::from(n) - 1];
                    let field = |label| item.fields.iter().find(|(other, _)| *other == label).unwrap().1.clone();
                    let key = (field("payer-session-id"), field("payer-index"));
                    let first = receipts.entry(key).or_insert_with(|| opaque.clone());
                    assert_eq!(*first, opaque, "I5, I10, I14: one receipt for each use");
                }
            }
            Move::Close => shop.payer.close(&mut shop.world, Some(shop.from), true),
            Move::Wait(minutes) => shop.world.wait(Duration::from_mins(*minutes)),
            Move::Restart => shop.world.restart(),
        }
    }
    for payment in shop.world.server.payments() {
        let key = (transact_ecash::wire::value::Value::write(&payment.session), payment.index.to_string());
        assert!(receipts.contains_key(&key));
    }
}

/// Four payees at once hand in what three payers sent each of them; whoever comes first gets what the payers have.
#[test]
fn t60_payments_of_many_threads_are_as_if_they_had_come_one_by_one() {
    let mut world = World::new(policy());
    world.checked = false;
    let mut payers: Vec<(Wallet, SessionId)> = (0..3)
        .map(|n| {
            let mut wallet = funded(&mut world, &format!("payer{n}"), n, "usd 20.00");
            let session = wallet.open(&mut world, "usd 2.00", 60, 1000);
            // A wallet that thinks that it is rich: not everything that it sends can be paid.
            let key = transact_ecash::wire::client::RecordKey::Session(session);
            let text = wallet.store[&key].replace("\"current\":\"usd 2.00\"", "\"current\":\"usd 90.00\"");
            wallet.store.insert(key, text);
            wallet.restart();
            (wallet, session)
        })
        .collect();
    let mut work = Vec::new();
    for n in 0..4 {
        let mut payee = Wallet::registered(&mut world, &format!("payee{n}"));
        let session = payee.open(&mut world, "usd 0.00", 60, 1000);
        let secrets = payee.client.session(session).unwrap().secrets.clone();
        let items: Vec<Item> = (0..250)
            .map(|m| {
                let (payer, from) = &mut payers[m % 3];
                let key = payee.offer(&mut world, payer, &format!("K-{n}-{m}"), "usd 0.01");
                Item::of(&payer.payment(&mut world, &key, *from), "usd 0.01")
            })
            .collect();
        let batches: Vec<Vec<u8>> = (1..)
            .zip(items.chunks(10))
            .map(|(index, items)| batch(&secrets, index, items, &mut world.random))
            .collect();
        work.push((session, batches));
    }
    let sessions: Vec<SessionId> = work.iter().map(|(session, _)| *session).collect();
    let shared = &std::sync::Mutex::new(&mut world);
    std::thread::scope(|scope| {
        for (_, batches) in &work {
            scope.spawn(move || {
                for message in batches {
                    let first = shared.lock().unwrap().one(message);
                    assert_eq!(shared.lock().unwrap().one(message), first);
                }
            });
        }
    });
    world.check();
    let collected = world.server.payments().filter(|payment| payment.outcome == PaymentOutcome::Collected).count();
    assert_eq!((world.server.payments().count(), collected), (1000, 600), "three payers had two dollars each");
    let taken: i64 = sessions.iter().map(|session| world.server.books().session(*session, usd()).minor()).sum();
    assert_eq!(taken, 600);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// I1 to I14 after every message, whatever a malicious payee hands in, in whatever order.
    #[test]
    fn i10_no_use_of_a_session_gets_two_decisions(moves in moves()) {
        play(&mut shop(), &moves);
    }

    /// I15: payments in one batch lead to the same books as one by one.
    #[test]
    fn i15_a_batch_is_as_good_as_its_payments_one_by_one(prices in prop::collection::vec(1_u32..3000, 1..8)) {
        let run = |together: bool| {
            let mut shop = shop();
            let secrets = shop.payee.client.session(shop.to).unwrap().secrets.clone();
            let record = transact_ecash::wire::client::RecordKey::Session(shop.from);
            let text = shop.payer.store[&record].replace("\"current\":\"usd 70.00\"", "\"current\":\"usd 9000.00\"");
            shop.payer.store.insert(record, text);
            shop.payer.restart();
            let items: Vec<Item> = prices.iter().enumerate().map(|(n, cents)| {
                let price = format!("usd {}.{:02}", cents / 100, cents % 100);
                Item::of(&shop.ca1(&format!("K-{n}"), &price), &price)
            }).collect();
            let chunk = if together { items.len() } else { 1 };
            for (index, items) in (1..).zip(items.chunks(chunk)) {
                let message = batch(&secrets, index, items, &mut shop.world.random);
                shop.world.one(&message);
            }
            (shop.in_session(shop.from), shop.in_session(shop.to))
        };
        prop_assert_eq!(run(true), run(false));
    }
}
