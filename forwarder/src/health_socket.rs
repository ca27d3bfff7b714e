//! The health stream: the state of every prefix to each client, then changes and heartbeats.
//!
//! The loop that knows the health also asks for the heartbeats, so that a forwarder whose loop hangs
//! falls silent. A client that does not read is cut off: it must not believe old news.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_runtime::{Stop, admin};
use forwarder_core::Change;
use forwarder_wire::{Message, encode};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const CLIENT_LIMIT: usize = 32;
/// How many words may wait for a client to read them, and for each prefix how many more: all of them change at once when
/// the guard does.
const BACKLOG: usize = 256;
const BACKLOG_PER_PREFIX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(1);

/// The server's side of the health stream.
#[derive(Debug, Clone)]
pub struct HealthSocket(Arc<Mutex<Hub>>);

#[derive(Debug, Default)]
struct Hub {
    words: BTreeMap<IpNet, Change>,
    clients: Vec<Waiting>,
    tasks: JoinSet<()>,
}

/// What waits for one client.
#[derive(Debug)]
struct Waiting {
    items: mpsc::UnboundedSender<Item>,
    count: Arc<AtomicUsize>,
}

#[derive(Debug, Clone)]
enum Item {
    Word(Change),
    Heartbeat,
}

impl HealthSocket {
    /// Serves on `path` until the stop. Before the first word of a prefix nothing is said of it.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn serve(path: &Path, stop: Stop) -> std::io::Result<Self> {
        let listener = admin::bind(path)?;
        let socket = Self(Arc::default());
        let accepting = socket.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.told() => return,
                    accepted = listener.accept() => accepted,
                };
                if let Ok((stream, _)) = accepted {
                    accepting.add(stream);
                }
            }
        });
        Ok(socket)
    }

    /// Says `change` to every client.
    pub fn say(&self, change: &Change) {
        let mut hub = self.hub();
        hub.words.insert(change.prefix, change.clone());
        hub.send(&Item::Word(change.clone()));
    }

    /// Says `change` to every client that is there, and nothing more of its prefix from now on.
    pub fn say_last(&self, change: &Change) {
        let mut hub = self.hub();
        hub.words.remove(&change.prefix);
        hub.send(&Item::Word(change.clone()));
    }

    /// Says that the forwarder lives.
    pub fn heartbeat(&self) {
        self.hub().send(&Item::Heartbeat);
    }

    /// How many clients are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.hub().clients.len()
    }

    /// Lets every client read what was said, then ends the streams.
    pub async fn close(&self) {
        let mut tasks = {
            let mut hub = self.hub();
            hub.clients.clear();
            std::mem::take(&mut hub.tasks)
        };
        let _ = tokio::time::timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
    }

    fn add(&self, stream: UnixStream) {
        let mut hub = self.hub();
        hub.clients.retain(|client| !client.items.is_closed());
        while hub.tasks.try_join_next().is_some() {}
        if hub.clients.len() >= CLIENT_LIMIT {
            tracing::warn!(limit = CLIENT_LIMIT, "a health client was refused");
            return;
        }
        let (items, receiver) = mpsc::unbounded_channel();
        let waiting = Waiting { items, count: Arc::default() };
        hub.tasks.spawn(client(stream, receiver, waiting.count.clone()));
        let limit = hub.limit();
        for word in hub.words.values() {
            waiting.send(&Item::Word(word.clone()), limit);
        }
        hub.clients.push(waiting);
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    fn send(&mut self, item: &Item) {
        let limit = self.limit();
        self.clients.retain(|client| client.send(item, limit));
    }

    fn limit(&self) -> usize {
        self.words.len() * BACKLOG_PER_PREFIX + BACKLOG
    }
}

impl Waiting {
    /// False for a client that is gone, or is to be cut off since it does not read.
    fn send(&self, item: &Item, limit: usize) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed) < limit && self.items.send(item.clone()).is_ok()
    }
}

async fn client(stream: UnixStream, mut items: mpsc::UnboundedReceiver<Item>, waiting: Arc<AtomicUsize>) {
    let (mut read, mut write) = stream.into_split();
    let mut sequence = 0;
    let mut ignored = [0; 64];
    loop {
        let item = tokio::select! {
            item = items.recv() => item,
            // Clients have nothing to say; the end of their side means that they are gone.
            heard = read.read(&mut ignored) => match heard {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
        };
        let message = match item {
            None => return,
            Some(Item::Word(Change { prefix, healthy, reason })) => Message::Prefix { prefix, healthy, reason },
            Some(Item::Heartbeat) => {
                sequence += 1;
                Message::Heartbeat { sequence: sequence - 1 }
            }
        };
        waiting.fetch_sub(1, Ordering::Relaxed);
        let line = encode(&message);
        if !matches!(tokio::time::timeout(PATIENCE, write.write_all(line.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forwarder_wire::decode;
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    fn change(healthy: bool, reason: &str) -> Change {
        Change { prefix: "203.0.113.200/32".parse().unwrap(), healthy, reason: reason.to_owned() }
    }

    struct Client(tokio::io::Lines<BufReader<UnixStream>>);

    impl Client {
        async fn new(path: &Path, socket: &HealthSocket) -> Self {
            let before = socket.clients();
            let stream = UnixStream::connect(path).await.unwrap();
            while socket.clients() == before {
                tokio::task::yield_now().await;
            }
            Self(BufReader::new(stream).lines())
        }

        async fn next(&mut self) -> Option<Message> {
            let line = tokio::time::timeout(Duration::from_secs(10), self.0.next_line()).await.unwrap();
            line.unwrap().map(|line| decode(line).unwrap())
        }
    }

    fn word(change: Change) -> Option<Message> {
        Some(Message::Prefix { prefix: change.prefix, healthy: change.healthy, reason: change.reason })
    }

    #[tokio::test]
    async fn a_client_gets_the_state_then_changes_and_heartbeats_and_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health");
        let socket = HealthSocket::serve(&path, Stop::new()).unwrap();
        socket.say(&change(false, "starting"));
        let mut first = Client::new(&path, &socket).await;
        assert_eq!(first.next().await, word(change(false, "starting")));
        socket.heartbeat();
        socket.say(&change(true, "good"));
        socket.heartbeat();
        assert_eq!(first.next().await, Some(Message::Heartbeat { sequence: 0 }));
        assert_eq!(first.next().await, word(change(true, "good")));
        assert_eq!(first.next().await, Some(Message::Heartbeat { sequence: 1 }));
        let mut second = Client::new(&path, &socket).await;
        assert_eq!(second.next().await, word(change(true, "good")));
        socket.say(&change(false, "stopping"));
        socket.close().await;
        for client in [&mut first, &mut second] {
            assert_eq!(client.next().await, word(change(false, "stopping")));
            assert_eq!(client.next().await, None);
        }
    }

    #[tokio::test]
    async fn of_a_prefix_that_is_gone_a_new_client_hears_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health");
        let socket = HealthSocket::serve(&path, Stop::new()).unwrap();
        socket.say(&change(true, "good"));
        let mut first = Client::new(&path, &socket).await;
        assert_eq!(first.next().await, word(change(true, "good")));
        socket.say_last(&change(false, "gone"));
        assert_eq!(first.next().await, word(change(false, "gone")));
        let mut second = Client::new(&path, &socket).await;
        socket.heartbeat();
        assert_eq!(second.next().await, Some(Message::Heartbeat { sequence: 0 }));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off_and_the_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health");
        let socket = HealthSocket::serve(&path, Stop::new()).unwrap();
        let _deaf = Client::new(&path, &socket).await;
        let mut good = Client::new(&path, &socket).await;
        let long = "x".repeat(500);
        let mut said = 0;
        while socket.clients() == 2 {
            socket.say(&change(said % 2 == 0, &format!("{said} {long}")));
            assert!(good.next().await.is_some());
            said += 1;
            assert!(said < 100_000, "the deaf client is never cut off");
        }
        socket.heartbeat();
        assert_eq!(good.next().await, Some(Message::Heartbeat { sequence: 0 }));
    }

    #[tokio::test]
    async fn thousands_of_words_at_once_cut_nobody_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health");
        let socket = HealthSocket::serve(&path, Stop::new()).unwrap();
        let mut client = Client::new(&path, &socket).await;
        for round in 0..3 {
            for number in 0..3000_u32 {
                let prefix = std::net::Ipv4Addr::from(0x0a80_0000 + number);
                socket.say(&Change { prefix: ipnet::Ipv4Net::from(prefix).into(), ..change(round == 2, "all") });
            }
        }
        for _ in 0..3 * 3000 {
            assert!(matches!(client.next().await, Some(Message::Prefix { .. })));
        }
        assert_eq!(socket.clients(), 1);
    }

    #[tokio::test]
    async fn a_client_that_leaves_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("health");
        let socket = HealthSocket::serve(&path, Stop::new()).unwrap();
        drop(Client::new(&path, &socket).await);
        while socket.clients() > 0 {
            socket.heartbeat();
            tokio::task::yield_now().await;
        }
    }
}
