//! A server with its store and an issuer, wallets with theirs, and the invariants that are checked after every message.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

pub mod forge;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloakway_crypto::passphrase::Cost;
use cloakway_crypto::{Randomness, Secret, hpke};
use cloakway_sim::Rng;
use cloakway_types::Timestamp;
use transact_ecash::ledger::{Account, Entry, Event as Moved, Limit, Tariff};
use transact_ecash::wire::client::{self, Client, Event, Instrument, OfferKey, Step as ClientStep, To};
use transact_ecash::wire::frame::{Frame, Pairs};
use transact_ecash::wire::message::{Kind, Problem};
use transact_ecash::wire::suite::{ServerPrivateKey, SigningKey, Suite, header_context};
use transact_ecash::wire::value::{
    Agreements, Amounts, Bytes, Currency, Functions, InstrumentNumber, Minutes, Money, OrderId, Passphrase, PersonaId,
    SessionId, Signed, Value,
};
use transact_ecash::{
    BindDecision, BindingStatus, Effect, InstrumentPolicy, IssuerAnswer, IssuerQuestion, LoadHold, PaymentOutcome,
    Policy, QuestionId, Record, RecordKey, Role, Server, ServerKeys, Step, Ticket, Write,
};

pub struct Random(pub Rng);

impl Randomness for Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

pub fn money(text: &str) -> Money {
    Signed::read(text).unwrap().0
}

pub fn order(text: &str) -> OrderId {
    OrderId::read(text).unwrap()
}

pub const PASSPHRASE: &str = "open sesame";

pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::read(text).unwrap()
}

/// The policy of the tests: no holds, fees as given, cheap passphrases.
pub fn policy() -> Policy {
    let operator = hpke::PrivateKey::from_seed(hpke::Kem::X25519, [5; 32]).unwrap();
    Policy {
        load_hold: LoadHold::None,
        passphrase_cost: Cost { memory_kib: 32, passes: 1 },
        operator_key: Some(operator.public().clone()),
        ..Policy::new(Secret::new(vec![9; 32]))
    }
}

pub fn tariff(fees: &[(Kind, &str)]) -> Tariff {
    fees.iter().fold(Tariff::default(), |tariff, (kind, fee)| tariff.with(*kind, money(fee)))
}

/// The suite of the tests: `modern-1`, or the one that `ECASH_SUITE` names.
pub fn suite() -> Suite {
    let name = std::env::var("ECASH_SUITE").unwrap_or_else(|_| Suite::Modern1.name().to_owned());
    Suite::ALL.iter().copied().find(|suite| suite.name() == name).unwrap_or_else(|| panic!("no suite {name}"))
}

/// Runs every other test of this program once more, under another suite.
pub fn again_under(name: &str) {
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program)
        .env("ECASH_SUITE", name)
        .args(["--skip", "again_under", "--test-threads", "2"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "under {name}: {text}");
    assert!(text.contains("test result: ok") && !text.contains(" 0 passed"), "{text}");
}

/// The fields inside a reply to the request that a wallet made last.
pub fn inside(wallet: &Wallet, kind: Kind, reply: &[u8]) -> BTreeMap<String, String> {
    let request = wallet.client.requests().last().unwrap();
    let frame = Frame::parse(reply).unwrap();
    let opaque: Bytes = frame.clear.required("opaque", 0).unwrap();
    let header = header_context(frame.suite, frame.clear.iter());
    let plain = request.secret.open(frame.suite, kind, &header, &request.digest, &opaque.0).unwrap();
    let pairs = Pairs::parse(std::str::from_utf8(&plain).unwrap()).unwrap();
    pairs.iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

/// What the issuer of the tests says.
pub struct Issuer {
    pub limits: Limit,
    pub native: Option<Currency>,
    pub status: BindingStatus,
    pub questions: Vec<Vec<String>>,
    pub refuses: bool,
    pub declines: bool,
    /// Answers wait to be fetched by the test.
    pub slow: bool,
    pub functions: Functions,
    pub moved: i64,
}

pub const ALL: Functions = Functions { charge: true, credit: true, load: true, unload: true };

#[derive(Default, Clone)]
pub struct Store(pub BTreeMap<RecordKey, String>);

impl Store {
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put(record) => {
                    self.0.insert(record.key(), serde_json::to_string(record).unwrap());
                }
                Write::Delete(key) => {
                    assert!(!matches!(key, RecordKey::Entry(_)), "an entry is never deleted");
                    self.0.remove(key);
                }
            }
        }
    }

    pub fn records(&self) -> Vec<Record> {
        self.0.values().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    pub fn reply(&self, number: u64) -> Vec<u8> {
        match serde_json::from_str(&self.0[&RecordKey::Log(number)]).unwrap() {
            Record::Log(log) => log.reply.0,
            other => panic!("{:?}", other.key()),
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.records().into_iter().filter_map(|record| match record {
            Record::Entry(entry) => Some(entry),
            _ => None,
        });
        entries.collect()
    }

    pub fn text(&self) -> String {
        self.0.values().cloned().collect::<Vec<_>>().join("\n")
    }
}

pub struct World {
    pub server: Server,
    pub store: Store,
    pub now: Timestamp,
    pub random: Random,
    pub issuer: Issuer,
    pub policy: Policy,
    pub suite: Suite,
    pub waiting: Vec<(QuestionId, IssuerQuestion)>,
    pub taken_back: Vec<QuestionId>,
    pub diagnostics: Vec<String>,
    key: Vec<u8>,
    ticket: u64,
    /// Whether the invariants are checked after each message.
    pub checked: bool,
}

fn keys(suite: Suite, secret: &[u8], random: &mut Random) -> ServerKeys {
    let mut keys = ServerKeys::new(random).unwrap();
    let key = ServerPrivateKey::from_secret("CC1001", suite, secret).unwrap();
    let start = Timestamp::from_secs(1_700_000_000);
    keys.add(key, start, start + Duration::from_hours(24 * 90));
    keys
}

impl World {
    pub fn new(policy: Policy) -> Self {
        Self::with_suite(policy, suite(), 1)
    }

    pub fn with_suite(policy: Policy, suite: Suite, seed: u64) -> Self {
        let mut random = Random(Rng::new(seed));
        let key = ServerPrivateKey::generate("CC1001", suite, &mut random).unwrap().secret().expose().clone();
        let now = Timestamp::from_secs(1_700_100_000);
        let keys = keys(suite, &key, &mut random);
        let (server, _) = Server::restore(policy.clone(), keys, [], now, &mut random).unwrap();
        let issuer = Issuer {
            limits: Limit::NONE,
            native: None,
            status: BindingStatus::Enabled,
            questions: Vec::new(),
            refuses: false,
            declines: false,
            slow: false,
            functions: ALL,
            moved: 0,
        };
        Self {
            server,
            store: Store::default(),
            now,
            random,
            issuer,
            policy,
            suite,
            waiting: Vec::new(),
            taken_back: Vec::new(),
            diagnostics: Vec::new(),
            key,
            ticket: 0,
            checked: true,
        }
    }

    pub fn server_key(&self) -> ServerPrivateKey {
        ServerPrivateKey::from_secret("CC1001", self.suite, &self.key).unwrap()
    }

    /// The process dies, and another takes up what was stored.
    pub fn restart(&mut self) {
        let keys = keys(self.suite, &self.key, &mut self.random);
        self.waiting.clear();
        let restored =
            Server::restore(self.policy.clone(), keys, self.store.records(), self.now, &mut self.random).unwrap();
        let step = restored.1;
        self.server = restored.0;
        self.carry_out(step);
    }

    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub fn tick(&mut self) {
        let step = self.server.tick(self.now);
        self.carry_out(step);
    }

    /// Hands in a message; the answers to it.
    pub fn send(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.ticket += 1;
        let step = self.server.handle(message, Ticket(self.ticket), self.now, &mut self.random);
        self.carry_out(step)
    }

    pub fn one(&mut self, message: &[u8]) -> Vec<u8> {
        let mut answers = self.send(message);
        assert_eq!(answers.len(), 1);
        answers.pop().unwrap()
    }

    pub fn carry_out(&mut self, step: Step) -> Vec<Vec<u8>> {
        self.store.apply(&step.writes);
        let mut answers = Vec::new();
        for effect in step.effects {
            match effect {
                Effect::Answer(_, bytes) => answers.push(bytes),
                Effect::Repeat(_, number) => answers.push(self.store.reply(number)),
                Effect::Ask(id, question) => {
                    if self.issuer.slow {
                        self.waiting.push((id, *question));
                    } else {
                        let answer = self.ask(&question);
                        answers.append(&mut self.issuer_answers(id, answer));
                    }
                }
                Effect::TakeBack(id, _, _) => self.taken_back.push(id),
                Effect::Diagnostic(text) => self.diagnostics.push(text),
            }
        }
        if self.checked {
            self.check();
        }
        answers
    }

    pub fn issuer_answers(&mut self, id: QuestionId, answer: IssuerAnswer) -> Vec<Vec<u8>> {
        let step = self.server.issuer_answered(id, answer, self.now, &mut self.random);
        self.carry_out(step)
    }

    pub fn ask(&mut self, question: &IssuerQuestion) -> IssuerAnswer {
        match question {
            IssuerQuestion::Bind { answers, .. } => {
                if let Some(questions) = self.issuer.questions.pop() {
                    return IssuerAnswer::Bind(BindDecision::Ask(questions));
                }
                let wrong = answers.iter().any(|(_, answer)| answer == "wrong");
                if self.issuer.refuses || wrong {
                    return IssuerAnswer::Bind(BindDecision::Refuse);
                }
                IssuerAnswer::Bind(BindDecision::Accept(InstrumentPolicy {
                    functions: self.issuer.functions,
                    load_limit: self.issuer.limits,
                    unload_limit: self.issuer.limits,
                    native: self.issuer.native,
                    status: self.issuer.status,
                    issuer_id: "411111".to_owned(),
                    recurring: vec![("instrument-issuer".to_owned(), "A Bank".to_owned())],
                }))
            }
            IssuerQuestion::Move { amount, .. } => {
                if !self.issuer.declines {
                    self.issuer.moved += amount.minor();
                }
                IssuerAnswer::Move(!self.issuer.declines)
            }
        }
    }

    /// I1 to I8 and I18, of the state as it is.
    pub fn check(&self) {
        let books = self.server.books();
        assert!(books.sums().values().all(|sum| *sum == 0), "I1");
        for (account, currency) in books.accounts() {
            assert!(!account.is_client() || books.balance(&account, currency) >= 0, "I1 {account}");
        }
        let entries = self.store.entries();
        self.server.audit(&entries).unwrap();
        let fees = |session: SessionId| -> i64 {
            let of = entries.iter().filter(|entry| entry.cause.event == Moved::Fee).flat_map(|entry| &entry.postings);
            of.filter(|posting| posting.account == Account::Session(session)).map(|posting| -posting.minor).sum()
        };
        let mut ids = BTreeSet::new();
        let mut secrets = BTreeSet::new();
        for session in self.server.sessions() {
            assert!(ids.insert(session.id), "I18");
            let kept = &session.secrets;
            assert!(secrets.insert(kept.key().expose().clone()) && secrets.insert(kept.salt().expose().clone()), "I18");
            let current = books.session(session.id, session.currency()).minor();
            let collected = |payment: &&transact_ecash::Payment| payment.outcome == PaymentOutcome::Collected;
            let debits = self.server.payments().filter(collected).filter(|payment| payment.session == session.id);
            let (count, debited) = debits.fold((0_u32, 0), |(n, sum), payment| (n + 1, sum + payment.debit.minor()));
            let credits =
                self.server.payments().filter(collected).filter(|payment| payment.collected_by.0 == session.id);
            let credited: i64 = credits.map(|payment| payment.credit.minor()).sum();
            match (session.closed, session.role) {
                (Some(_), _) => assert_eq!(current, 0, "I4"),
                (None, Role::Payer) => assert_eq!(session.opening.minor() - current, debited, "I3"),
                (None, Role::Payee) => assert_eq!(current, credited - fees(session.id), "I3"),
            }
            assert!(count <= session.used.count() && session.used.count() <= u32::from(session.use_limit), "I7");
        }
        for payment in self.server.payments().filter(|payment| payment.outcome == PaymentOutcome::Collected) {
            let payer = self.server.session(payment.session).unwrap();
            let payee = self.server.session(payment.collected_by.0).unwrap();
            for (session, index) in [(payer, payment.index), (payee, payment.collected_by.1)] {
                let age = payment.decided_at.since(session.opened_at);
                assert!(age <= session.lifetime.as_duration(), "I8");
                assert!((1..=session.use_limit).contains(&index), "I8");
                assert!(session.closed.is_none_or(|(at, _)| at >= payment.decided_at), "I8");
                assert!(session.used.has(index), "I7");
            }
            assert_eq!(payment.payee, payee.persona, "I9");
            assert!(payment.debit == payment.credit || payment.rate.is_some(), "I6");
        }
    }
}

#[derive(Clone)]
pub struct Wallet {
    pub client: Client,
    pub store: BTreeMap<client::RecordKey, String>,
    pub events: Vec<Event>,
    pub drift: i64,
}

pub fn instrument(number: &str) -> Instrument {
    Instrument {
        number: InstrumentNumber::read(number).unwrap(),
        category: "credit-card".to_owned(),
        sub_type: "visa".to_owned(),
        functions: Functions { charge: false, credit: false, load: true, unload: true },
        expiration_date: Some("2812".to_owned()),
        name: "D. Ora".to_owned(),
        country: "us".to_owned(),
        agreements: Agreements::default(),
        autoclose: None,
        description: "my card".to_owned(),
    }
}

/// A card number with its check digit.
pub fn card(n: u64) -> String {
    (0..10)
        .map(|digit| format!("41111111{n:07}{digit}"))
        .find(|number| {
            let digits = number.bytes().rev().enumerate().map(|(place, byte)| {
                let digit = u32::from(byte - b'0');
                if place % 2 == 1 { digit * 2 / 10 + digit * 2 % 10 } else { digit }
            });
            digits.sum::<u32>() % 10 == 0
        })
        .unwrap()
}

impl Wallet {
    pub fn new(world: &mut World) -> Self {
        let key = SigningKey::generate(world.suite, &mut world.random).unwrap();
        let (client, step) = Client::new(&world.server_key().public(), "kit 1.0", &key);
        let mut wallet = Self { client, store: BTreeMap::new(), events: Vec::new(), drift: 0 };
        wallet.store(&step);
        wallet
    }

    pub fn store(&mut self, step: &ClientStep) {
        for write in &step.writes {
            match write {
                client::Write::Put(record) => {
                    self.store.insert(record.key(), serde_json::to_string(record).unwrap());
                }
                client::Write::Delete(key) => {
                    self.store.remove(key);
                }
            }
        }
    }

    /// The process dies, and another takes up what was stored.
    pub fn restart(&mut self) {
        let records = self.store.values().map(|text| serde_json::from_str(text).unwrap());
        self.client = Client::restore(records).unwrap();
    }

    /// Makes a step durable; what it sends.
    pub fn take(&mut self, step: ClientStep) -> Vec<(To, Vec<u8>)> {
        self.store(&step);
        self.events.extend(step.events);
        step.send
    }

    pub fn receive(&mut self, world: &mut World, message: &[u8]) -> Vec<(To, Vec<u8>)> {
        let step = self.client.receive(message, world.now, &mut world.random);
        self.take(step)
    }

    /// Talks to the server until nobody has anything to say. What is for others is returned.
    pub fn exchange(&mut self, world: &mut World, step: ClientStep) -> Vec<(To, Vec<u8>)> {
        let mut open = self.take(step);
        let mut others = Vec::new();
        while let Some((to, message)) = open.pop() {
            if to != To::Server {
                others.push((to, message));
                continue;
            }
            for answer in world.send(&message) {
                open.append(&mut self.receive(world, &answer));
            }
        }
        others
    }

    pub fn registered(world: &mut World, name: &str) -> Self {
        let mut wallet = Self::new(world);
        let currency = money("usd 0.00").currency();
        let (now, agreements) = (world.now, Agreements::default());
        let pass = Some(passphrase(PASSPHRASE));
        let step =
            wallet.client.register(name, "a@b.example", "en-us", currency, agreements, pass, now, &mut world.random);
        wallet.exchange(world, step.unwrap());
        assert!(matches!(wallet.events.last(), Some(Event::Registered(_))), "{:?}", wallet.events);
        wallet
    }

    pub fn bind(&mut self, world: &mut World, instrument: Instrument) {
        let step = self.client.bind(instrument, world.now, &mut world.random).unwrap();
        self.exchange(world, step);
    }

    pub fn load(&mut self, world: &mut World, binding: u64, amount: Money) {
        let step = self.client.load_unload(binding, amount, world.now, &mut world.random).unwrap();
        self.exchange(world, step);
    }

    pub fn open(&mut self, world: &mut World, amount: &str, minutes: u16, uses: u16) -> SessionId {
        self.try_open(world, amount, minutes, uses);
        match self.events.last() {
            Some(Event::Opened(session, _)) => *session,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_open(&mut self, world: &mut World, amount: &str, minutes: u16, uses: u16) {
        let (now, amount) = (world.now, money(amount));
        let step = self.client.open(amount, Minutes(minutes), uses, None, now, &mut world.random).unwrap();
        self.exchange(world, step);
    }

    pub fn close(&mut self, world: &mut World, session: Option<SessionId>, log: bool) {
        let step = self.client.close(session, log, None, world.now, &mut world.random).unwrap();
        self.exchange(world, step);
    }

    pub fn id(&self) -> PersonaId {
        self.client.identity().persona.clone().unwrap()
    }

    pub fn failed_with(&self) -> Option<Problem> {
        match self.events.last() {
            Some(Event::Failed(_, problem, _)) => *problem,
            _ => None,
        }
    }

    /// PR1 of a payee, made and read.
    pub fn offer(&mut self, world: &mut World, payer: &mut Self, id: &str, price: &str) -> OfferKey {
        self.offer_with(world, payer, id, price, "Box kite, red", None)
    }

    pub fn offer_with(
        &mut self,
        world: &mut World,
        payer: &mut Self,
        id: &str,
        price: &str,
        note: &str,
        others: Option<Amounts>,
    ) -> OfferKey {
        let url = "https://shop.example/pay";
        let (step, offer) = self.client.make_offer(order(id), money(price), note, url, others, world.now).unwrap();
        self.take(step);
        payer.receive(world, &offer);
        OfferKey { payee: self.id(), order: order(id) }
    }

    /// CA1 for an offer.
    pub fn payment(&mut self, world: &mut World, key: &OfferKey, session: SessionId) -> Vec<u8> {
        let step = self.client.pay(key, session, None, world.now, &mut world.random).unwrap();
        self.take(step).pop().unwrap().1
    }

    /// CA2 of what waits.
    pub fn batch(&mut self, world: &mut World) -> Vec<u8> {
        let step = self.client.collect(world.now, &mut world.random);
        self.take(step).pop().unwrap().1
    }
}

/// A payer with money in a session, and a payee with a session.
pub struct Shop {
    pub world: World,
    pub payer: Wallet,
    pub payee: Wallet,
    pub from: SessionId,
    pub to: SessionId,
}

pub fn funded(world: &mut World, name: &str, number: u64, amount: &str) -> Wallet {
    let mut wallet = Wallet::registered(world, name);
    wallet.bind(world, instrument(&card(number)));
    wallet.load(world, 1, money(amount));
    wallet
}

pub fn shop_with(policy: Policy) -> Shop {
    shop_of(World::new(policy))
}

pub fn shop_of(mut world: World) -> Shop {
    let mut payer = funded(&mut world, "dora", 1, "usd 100.00");
    let mut payee = Wallet::registered(&mut world, "kite");
    let from = payer.open(&mut world, "usd 70.00", 120, 100);
    let to = payee.open(&mut world, "usd 0.00", 600, 1000);
    Shop { world, payer, payee, from, to }
}

pub fn shop() -> Shop {
    shop_with(policy())
}

impl Shop {
    /// An offer, and CA1 for it.
    pub fn ca1(&mut self, id: &str, price: &str) -> Vec<u8> {
        let key = self.payee.offer(&mut self.world, &mut self.payer, id, price);
        self.payer.payment(&mut self.world, &key, self.from)
    }

    /// The payee takes CA1s, collects them, and relays what comes of it.
    pub fn collect(&mut self, payments: &[Vec<u8>]) {
        for payment in payments {
            self.payee.receive(&mut self.world, payment);
        }
        let batch = self.payee.batch(&mut self.world);
        let reply = self.world.one(&batch);
        self.relay(&reply);
    }

    /// CA3 to the payee, CA4s to the payer.
    pub fn relay(&mut self, reply: &[u8]) {
        for (_, receipt) in self.payee.receive(&mut self.world, reply) {
            self.payer.receive(&mut self.world, &receipt);
        }
    }

    pub fn pay(&mut self, id: &str, price: &str) {
        let payment = self.ca1(id, price);
        self.collect(&[payment]);
    }

    pub fn in_session(&self, session: SessionId) -> String {
        let currency = self.world.server.session(session).unwrap().currency();
        self.world.server.books().session(session, currency).to_string()
    }

    pub fn available(&self, wallet: &Wallet, code: &str) -> String {
        let currency = Currency::read(code).unwrap();
        self.world.server.books().container(&wallet.id(), currency).available.to_string()
    }
}
