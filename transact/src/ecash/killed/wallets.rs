//! Payers and payees, each with a wallet in memory that nobody kills.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakway_crypto::{Secret, System};
use cloakway_runtime::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use transact_ecash::wire::client::{Client, Event, Instrument, SentOutcome, Step, To};
use transact_ecash::wire::suite::{ServerKey, SigningKey, Suite};
use transact_ecash::wire::value::{
    Agreements, Currency, Functions, InstrumentNumber, Minutes, Money, OrderId, PersonaId, SessionId, Value,
};

pub(in crate::ecash) fn money(text: &str) -> Money {
    Money::read(text).unwrap()
}

/// Where the server of the moment listens, and how far things are.
#[derive(Clone, Default)]
pub(in crate::ecash) struct World {
    pub(in crate::ecash) server: Arc<Mutex<Option<SocketAddr>>>,
    pub(in crate::ecash) done: Arc<AtomicU64>,
}

/// Status and body; `None` when the server was not there, or went away.
async fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let request =
        format!("{head} HTTP/1.1\r\nhost: server\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(&[request.as_bytes(), body].concat()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), asking).await.ok()??;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).ok()?;
    let body = answer[end + 4..].to_vec();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    // A body that was cut is no answer.
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    length.is_none_or(|length| length.parse() == Ok(body.len())).then_some((status, body))
}

impl World {
    /// Asks until there is an answer of success.
    pub(in crate::ecash) async fn ask(&self, head: &str, body: &[u8]) -> Vec<u8> {
        loop {
            let address = *self.server.lock().unwrap();
            if let Some(address) = address
                && let Some((200, answer)) = exchange(address, head, body).await
            {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(in crate::ecash) async fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.ask(&format!("GET {path}"), b"").await).unwrap()
    }

    async fn key(&self) -> ServerKey {
        let keys = self.json("/v1/ecash/keys").await;
        let key = &keys["keys"][0];
        let bytes = cloakway_crypto::encode::unbase64(key["key"].as_str().unwrap()).unwrap();
        ServerKey::from_bytes(key["id"].as_str().unwrap(), Suite::Modern1, &bytes).unwrap()
    }
}

pub(in crate::ecash) struct Wallet {
    world: World,
    pub(in crate::ecash) client: Client,
}

impl Wallet {
    pub(in crate::ecash) async fn registered(world: &World, name: &str) -> Self {
        let signing = SigningKey::generate(Suite::Modern1, &mut System).unwrap();
        let (client, _) = Client::new(&world.key().await, "test", &signing);
        let mut wallet = Self { world: world.clone(), client };
        let (eur, none) = (Currency::read("eur").unwrap(), Agreements::default());
        let step = wallet.client.register(name, "a@example.org", "en-us", eur, none, None, clock::wall(), &mut System);
        let events = wallet.settle(step.unwrap()).await;
        assert!(matches!(&events[..], [Event::Registered(_)]), "{events:?}");
        wallet
    }

    /// Sends until every request and every batch is answered, byte for byte the same.
    pub(in crate::ecash) async fn settle(&mut self, step: Step) -> Vec<Event> {
        let (mut events, mut messages) = (step.events, step.send);
        let mut tries = 0;
        while let Some((to, message)) = messages.pop() {
            assert_eq!(to, To::Server);
            let answer = self.world.ask("POST /v1/ecash", &message).await;
            let mut step = self.client.receive(&answer, clock::wall(), &mut System);
            step.send.retain(|(to, _)| *to == To::Server);
            messages.extend(step.send);
            let noticed = step.events.iter().any(|event| matches!(event, Event::Notice(_)));
            events.extend(step.events.into_iter().filter(|event| !matches!(event, Event::Notice(_))));
            if noticed {
                // In progress, or busy: the same again.
                tries += 1;
                assert!(tries < 1000, "an answer comes in the end");
                tokio::time::sleep(Duration::from_millis(50)).await;
                messages.push((to, message));
            }
        }
        events
    }

    /// The bank declines now and then, and does not answer now and then: another request is made then.
    pub(in crate::ecash) async fn insist(&mut self, make: impl Fn(&mut Client) -> Step) -> Vec<Event> {
        loop {
            let step = make(&mut self.client);
            let events = self.settle(step).await;
            if !events.iter().any(|event| matches!(event, Event::Failed(..))) {
                return events;
            }
        }
    }

    /// With money of its own, in a session.
    pub(in crate::ecash) async fn funded(world: &World, name: &str, load: &str, uses: u16) -> (Self, SessionId) {
        let mut wallet = Self::registered(world, name).await;
        let instrument = Instrument {
            number: InstrumentNumber(Secret::from("4111111111111111")),
            category: "credit-card".to_owned(),
            sub_type: "visa".to_owned(),
            functions: Functions { charge: false, credit: false, load: true, unload: true },
            expiration_date: Some("12/49".to_owned()),
            name: "A".to_owned(),
            country: "de".to_owned(),
            agreements: Agreements::default(),
            autoclose: None,
            description: "card".to_owned(),
        };
        wallet.insist(|client| client.bind(instrument.clone(), clock::wall(), &mut System).unwrap()).await;
        wallet.insist(|client| client.load_unload(1, money(load), clock::wall(), &mut System).unwrap()).await;
        let open = |client: &mut Client| {
            client.open(money(load), Minutes(600), uses, None, clock::wall(), &mut System).unwrap()
        };
        let events = wallet.insist(open).await;
        let session = match &events[..] {
            [Event::Opened(session, false)] => *session,
            other => panic!("{other:?}"),
        };
        (wallet, session)
    }

    pub(in crate::ecash) async fn close_all(&mut self) {
        let step = self.client.close(None, true, None, clock::wall(), &mut System).unwrap();
        let events = self.settle(step).await;
        assert!(events.iter().any(|event| matches!(event, Event::Closed(_))), "{events:?}");
    }

    pub(in crate::ecash) fn paid(&self) -> BTreeMap<(PersonaId, OrderId), i64> {
        let mut paid = BTreeMap::new();
        for sent in self.client.sent() {
            if let Some(SentOutcome::Paid(charged)) = sent.outcome {
                let of = (sent.payee.clone(), sent.order.clone());
                assert!(paid.insert(of, charged.minor()).is_none(), "paid once");
            }
        }
        paid
    }
}

pub(in crate::ecash) enum Ask {
    Offer(Money, oneshot::Sender<Vec<u8>>),
    Pay((SessionId, u16), Vec<u8>, oneshot::Sender<Vec<u8>>),
}

/// A shop: offers, gathers what comes together into batches, and hands out receipts. It ends when nobody asks any more.
pub(in crate::ecash) async fn shop(mut wallet: Wallet, mut asked: mpsc::Receiver<Ask>) -> Wallet {
    let open = wallet.client.open(money("eur 0.00"), Minutes(600), 60_000, None, clock::wall(), &mut System).unwrap();
    wallet.settle(open).await;
    let mut number = 0;
    while let Some(first) = asked.recv().await {
        let mut waiting: BTreeMap<(SessionId, u16), oneshot::Sender<Vec<u8>>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Offer(amount, answer) => {
                    number += 1;
                    let order = OrderId::read(&format!("K-{number}")).unwrap();
                    let made = wallet.client.make_offer(order, amount, "a page", "shop", None, clock::wall());
                    let _ = answer.send(made.unwrap().1);
                }
                Ask::Pay(key, message, answer) => {
                    wallet.client.receive(&message, clock::wall(), &mut System);
                    waiting.insert(key, answer);
                }
            }
            next = asked.try_recv().ok();
        }
        while !waiting.is_empty() {
            let batches = wallet.client.collect(clock::wall(), &mut System);
            assert!(!batches.send.is_empty(), "what waits can be collected");
            for (_, batch) in batches.send {
                let answer = wallet.world.ask("POST /v1/ecash", &batch).await;
                for (to, receipt) in wallet.client.receive(&answer, clock::wall(), &mut System).send {
                    let To::Payer(session, index) = to else { continue };
                    if let Some(payer) = waiting.remove(&(session, index)) {
                        let _ = payer.send(receipt);
                    }
                }
            }
        }
    }
    wallet
}

/// A payer buys `count` times.
pub(in crate::ecash) async fn buy(
    mut wallet: Wallet,
    session: SessionId,
    shops: Vec<mpsc::Sender<Ask>>,
    count: u64,
    seed: u64,
) -> Wallet {
    let mut rng = cloakway_sim::Rng::new(seed);
    for _ in 0..count {
        let shop = rng.pick(&shops).unwrap();
        let price = Money::new(Currency::read("eur").unwrap(), i64::try_from(rng.between(1, 9)).unwrap()).unwrap();
        let (answer, offer) = oneshot::channel();
        shop.send(Ask::Offer(price, answer)).await.ok().unwrap();
        let offer = offer.await.unwrap();
        let events = wallet.client.receive(&offer, clock::wall(), &mut System).events;
        let [Event::Offered(key)] = &events[..] else { panic!("{events:?}") };
        let step = wallet.client.pay(key, session, None, clock::wall(), &mut System).unwrap();
        let index = wallet.client.session(session).unwrap().last_index;
        let (answer, receipt) = oneshot::channel();
        shop.send(Ask::Pay((session, index), step.send[0].1.clone(), answer)).await.ok().unwrap();
        let receipt = receipt.await.unwrap();
        let events = wallet.client.receive(&receipt, clock::wall(), &mut System).events;
        assert!(matches!(&events[..], [Event::Paid(..)]), "{events:?}");
        wallet.world.done.fetch_add(1, Ordering::Relaxed);
    }
    wallet
}
