//! A bank with books of its own, which nobody kills, and a proxy before it that drops, repeats and cuts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_sim::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use transact_bank::{Framer, Message, MessageType, frame};

/// Trace number and transmission time.
type Key = (String, String);

/// Where a request stands in the books.
#[derive(Debug, Default, Clone)]
struct Entry {
    /// Field 39 of its answer, once it was heard.
    decision: Option<&'static str>,
    /// It was taken back, or is not to be taken should it still come.
    reversed: bool,
    amount: u64,
    /// Of a refund: which payment.
    of: Option<Key>,
    /// Money for a card that names no payment.
    credit: bool,
}

/// What stands of one payment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Standing {
    /// How many times it is charged.
    pub(crate) held: u64,
    /// Minor units that went back.
    pub(crate) given_back: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Books(BTreeMap<Key, Entry>);

impl Books {
    fn standing(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.0.iter().filter(|(_, entry)| entry.decision == Some("00") && !entry.reversed)
    }

    /// What stands of the payments, by their amount, which every purchase has for itself.
    pub(crate) fn payments(&self) -> BTreeMap<u64, Standing> {
        let mut payments: BTreeMap<u64, Standing> = BTreeMap::new();
        for (_, entry) in self.standing() {
            match &entry.of {
                None => payments.entry(entry.amount).or_default().held += 1,
                Some(of) => {
                    let payment = self.0.get(of).map_or(0, |payment| payment.amount);
                    payments.entry(payment).or_default().given_back += entry.amount;
                }
            }
        }
        payments
    }

    /// Minor units that came from cards and have not gone back.
    pub(crate) fn net(&self) -> i64 {
        let signed = |entry: &Entry| {
            let minor = i64::try_from(entry.amount).unwrap();
            if entry.credit || entry.of.is_some() { -minor } else { minor }
        };
        self.standing().map(|(_, entry)| signed(entry)).sum()
    }

    pub(crate) fn requests(&self) -> usize {
        self.0.len()
    }

    fn answer(&mut self, message: &Message, chance: u64) -> Message {
        let mut answer = Message::new(message.message_type().answer().unwrap());
        answer.copy(message, &[4, 7, 11, 37, 41, 42, 49, 70]);
        let key = || (message.get(11).unwrap().to_owned(), message.get(7).unwrap().to_owned());
        let original = || {
            let data = message.get(90).unwrap();
            (data[4..10].to_owned(), data[10..20].to_owned())
        };
        let amount = || message.get(4).unwrap().parse::<u64>().unwrap();
        let code = match message.message_type() {
            MessageType::NetworkRequest => "00",
            MessageType::AuthorisationRequest | MessageType::FinancialRequest => {
                let back = message.get(3) == Some("200000");
                let credit = back && message.get(90).is_none();
                let of = (back && !credit).then(original);
                let paid = of.as_ref().is_none_or(|of| {
                    self.0.get(of).is_some_and(|payment| payment.decision == Some("00") && !payment.reversed)
                });
                let entry = self.0.entry(key()).or_default();
                let code = if entry.reversed || !paid || chance < 10 { "05" } else { "00" };
                (entry.amount, entry.of, entry.credit) = (amount(), of, credit);
                // The same request again gets the same answer.
                *entry.decision.get_or_insert(code)
            }
            _ => {
                let entry = self.0.entry(original()).or_default();
                entry.reversed = true;
                if entry.decision.is_some() { "00" } else { "25" }
            }
        };
        answer.set(39, code).unwrap();
        if code == "00" && !message.message_type().is_network_management() {
            answer.set(38, "A1B2C3").unwrap();
        }
        answer
    }
}

#[derive(Clone)]
pub(crate) struct Bank {
    pub(crate) address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

impl Bank {
    pub(crate) async fn start(calm: Arc<AtomicBool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bank = Self { address: listener.local_addr().unwrap(), books: Arc::default() };
        let books = bank.books.clone();
        tokio::spawn(async move {
            let mut seed = 0;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seed += 1;
                tokio::spawn(converse(stream, books.clone(), calm.clone(), Rng::new(seed)));
            }
        });
        bank
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

/// The next messages of a connection; none at its end.
async fn hear(reading: &mut OwnedReadHalf, framer: &mut Framer) -> Option<Vec<Vec<u8>>> {
    let mut octets = [0; 4096];
    let read = reading.read(&mut octets).await.ok().filter(|read| *read > 0)?;
    let mut messages = Vec::new();
    framer.push(&octets[..read], |message| messages.push(message.to_vec())).ok()?;
    Some(messages)
}

type Writing = Arc<AsyncMutex<OwnedWriteHalf>>;

async fn say(writing: &Writing, octets: &[u8]) {
    // Who has left hears nothing.
    let _ = writing.lock().await.write_all(octets).await;
}

fn framed(message: &[u8]) -> Vec<u8> {
    frame(&Secret::new(message.to_vec())).expose().clone()
}

/// The bank: decides, is silent now and then, and late.
async fn converse(stream: TcpStream, books: Arc<Mutex<Books>>, calm: Arc<AtomicBool>, mut rng: Rng) {
    let (mut reading, writing) = stream.into_split();
    let (writing, mut framer): (Writing, _) = (Arc::new(AsyncMutex::new(writing)), Framer::default());
    while let Some(messages) = hear(&mut reading, &mut framer).await {
        for message in messages {
            let message = Message::decode(&message).unwrap();
            let quiet = calm.load(Ordering::Relaxed);
            let answer = books.lock().unwrap().answer(&message, if quiet { 100 } else { rng.between(0, 99) });
            let octets = framed(answer.encode().expose());
            match rng.between(0, 99) {
                0..5 if !quiet && !message.message_type().is_network_management() => {}
                5..10 if !quiet => {
                    let (writing, late) = (writing.clone(), Duration::from_millis(rng.between(300, 1_500)));
                    tokio::spawn(async move {
                        tokio::time::sleep(late).await;
                        say(&writing, &octets).await;
                    });
                }
                _ => say(&writing, &octets).await,
            }
        }
    }
}

/// What stands between the server and its bank.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
}

impl Proxy {
    pub(crate) async fn start(bank: SocketAddr, calm: Arc<AtomicBool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut seed = 1_000;
            loop {
                let (server, _) = listener.accept().await.unwrap();
                let Ok(bank) = TcpStream::connect(bank).await else { continue };
                seed += 2;
                let ((from_server, to_server), (from_bank, to_bank)) = (server.into_split(), bank.into_split());
                let there = carry(from_server, to_bank, calm.clone(), Rng::new(seed));
                let back = carry(from_bank, to_server, calm.clone(), Rng::new(seed + 1));
                tokio::spawn(async move {
                    // One direction that ends takes the other with it.
                    tokio::select! {
                        () = there => {}
                        () = back => {}
                    }
                });
            }
        });
        Self { address }
    }
}

/// One direction: a message in a hundred or so is dropped, or comes twice, or is cut in the midst, and the connection
/// with it.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, calm: Arc<AtomicBool>, mut rng: Rng) {
    let mut framer = Framer::default();
    while let Some(messages) = hear(&mut from, &mut framer).await {
        for message in messages {
            let octets = framed(&message);
            let fate = if calm.load(Ordering::Relaxed) { 100 } else { rng.between(0, 99) };
            let carried: Vec<u8> = match fate {
                0..3 => Vec::new(),
                3..6 => [octets.as_slice(), octets.as_slice()].concat(),
                6..8 => octets[..octets.len() / 2].to_vec(),
                _ => octets,
            };
            if to.write_all(&carried).await.is_err() || (6..8).contains(&fate) {
                return;
            }
        }
    }
}
