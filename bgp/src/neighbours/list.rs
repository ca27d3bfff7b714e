//! The list of running peers: one task owns it, starts them, changes them and takes them out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

use super::{Asked, Change, Command, Common, Effect, Neighbours, Wanted, Watched};
use crate::bfd::{self, Path, Receivers, Standing};
use crate::config::{DynamicPeers, Peer};
use crate::listener::Listeners;
use crate::peer::{self, Lifetime, Order, Report, Ways};

/// Connections of one peer that wait to be looked at.
const INCOMING: usize = 4;
/// Questions to one peer's task that wait for an answer.
const QUESTIONS: usize = 16;
/// Connections and questions that wait for the list.
const WAITING: usize = 64;

/// A peer's task.
struct Running {
    peer: Peer,
    /// The prefix that it was made for.
    dynamic: Option<IpNet>,
    /// The path to it, if it is watched.
    path: Option<watch::Receiver<Standing>>,
    door: mpsc::Sender<TcpStream>,
    ask: mpsc::Sender<oneshot::Sender<Report>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Running {
    /// Whether connections from `address` are for it: one that is leaving takes none.
    fn is_at(&self, address: IpAddr) -> bool {
        self.peer.address.ip() == address && !self.door.is_closed()
    }
}

/// The list itself.
pub(crate) struct List {
    common: Common,
    commands: mpsc::Receiver<Command>,
    neighbours: Neighbours,
    wanted: Wanted,
    running: HashMap<Id, Running>,
    tasks: JoinSet<Vec<TcpStream>>,
    paths: JoinSet<()>,
    listeners: Listeners,
    receivers: Receivers,
    discriminators: usize,
}

impl List {
    /// Nobody wanted yet.
    pub(crate) fn new(common: Common) -> (Neighbours, Self) {
        let (sender, commands) = mpsc::channel(WAITING);
        let neighbours = Neighbours(sender);
        let list = Self {
            common,
            commands,
            neighbours: neighbours.clone(),
            wanted: Wanted::default(),
            running: HashMap::new(),
            tasks: JoinSet::new(),
            paths: JoinSet::new(),
            listeners: Listeners::default(),
            receivers: Receivers::default(),
            discriminators: 0,
        };
        (neighbours, list)
    }

    /// Keeps the list until the stop, and then until the last session has ended. Ends before the stop only when a
    /// peer's task has failed.
    pub(crate) async fn run(mut self) {
        let stop = self.common.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.told() => break,
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((id, late)) => {
                        self.running.remove(&id);
                        self.count_dynamic();
                        for stream in late {
                            if let Ok(from) = stream.peer_addr() {
                                self.accepted(stream, from);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the task of a peer failed");
                        return;
                    }
                },
                Some(command) = self.commands.recv() => self.command(command),
                Some(_) = self.paths.join_next() => {}
            }
        }
        self.listeners = Listeners::default();
        while self.tasks.join_next().await.is_some() {}
        while self.paths.join_next().await.is_some() {}
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Accepted(stream, from) => self.accepted(stream, from),
            Command::List(answer) => {
                let asked = |running: &Running| Asked {
                    peer: running.peer.clone(),
                    dynamic: running.dynamic.is_some(),
                    path: running.path.as_ref().map(|path| path.borrow().clone()),
                    ask: running.ask.clone(),
                    orders: running.orders.clone(),
                };
                let mut all: Vec<Asked> = self.running.values().map(asked).collect();
                all.sort_by(|a, b| (a.dynamic, &a.peer.name).cmp(&(b.dynamic, &b.peer.name)));
                let _ = answer.send(all);
            }
            Command::Watch(path, answer) => {
                let _ = answer.send(self.watch_path(path));
            }
            Command::Want(wanted, first, answer) => {
                let _ = answer.send(self.want(*wanted, first));
            }
        }
    }

    /// Hands a connection to its peer. Who is no peer, or knocks faster than we open, is shut out without a word.
    fn accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        let address = from.ip().to_canonical();
        let local = stream.local_addr().map(|local| local.ip().to_canonical()).ok();
        // A router may have several sessions, each to an address of ours.
        let at = || self.running.values().filter(|running| running.is_at(address));
        let door = at().find(|running| running.peer.local_address == local);
        let door = door.or_else(|| at().find(|running| running.peer.local_address.is_none()));
        let taken = match door.map(|running| running.door.clone()) {
            Some(door) => door.try_send(stream).is_ok(),
            None => match self.wanted.dynamic_at(address).cloned() {
                Some(dynamic) if self.count(dynamic.prefix) < dynamic.limit => {
                    let peer = dynamic.at(SocketAddr::new(address, from.port()));
                    self.start(peer, Some(dynamic.prefix), Some(stream));
                    true
                }
                Some(dynamic) => {
                    tracing::warn!(%from, prefix = %dynamic.prefix, limit = dynamic.limit, "too many dynamic neighbours");
                    false
                }
                None => false,
            },
        };
        if !taken {
            ::metrics::counter!("bgp_speaker_connections_refused_total").increment(1);
            tracing::debug!(%from, "connection refused");
        }
    }

    /// Tells of the dynamic neighbours.
    fn count_dynamic(&self) {
        for DynamicPeers { prefix, limit, .. } in &self.wanted.dynamic {
            let label = || prefix.to_string();
            ::metrics::gauge!("bgp_speaker_dynamic_peers", "prefix" => label()).set(self.count(*prefix) as f64);
            ::metrics::gauge!("bgp_speaker_dynamic_peers_limit", "prefix" => label()).set(*limit as f64);
        }
    }

    fn count(&self, prefix: IpNet) -> usize {
        self.running.values().filter(|running| running.dynamic == Some(prefix) && !running.door.is_closed()).count()
    }

    /// See [`Neighbours::want`].
    pub(crate) fn want(&mut self, wanted: Wanted, first: impl FnOnce()) -> Result<Vec<Change>, String> {
        let (from, to) = (self.wanted.expected(), wanted.expected());
        let bound = self.listeners.bind(&wanted.listen, &to)?;
        for path in wanted.peers.iter().filter_map(|peer| path(peer, 0)) {
            self.receivers.open(&path)?;
        }
        first();
        self.listeners.expect(&from, &to);
        self.listeners.take(bound, &wanted.listen, &self.neighbours, &self.common.stop);
        self.wanted = wanted.clone();
        let mut effects = Vec::new();
        let mut named: BTreeMap<String, Peer> =
            wanted.peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        let ids: Vec<Id> = self.running.keys().copied().collect();
        for id in ids {
            let Some(running) = self.running.get(&id) else { continue };
            let address = running.peer.address;
            let wanted = match running.dynamic {
                None => named.remove(&running.peer.name),
                Some(prefix) if !named.values().any(|peer| peer.address.ip() == address.ip()) => {
                    let dynamic = self.wanted.dynamic_at(address.ip()).filter(|dynamic| dynamic.prefix == prefix);
                    dynamic.map(|dynamic| dynamic.at(address))
                }
                Some(_) => None,
            };
            effects.extend(match wanted {
                Some(peer) => self.change(id, peer),
                None => self.remove(id),
            });
        }
        for peer in named.into_values() {
            effects.push(Change::known(peer.name.clone(), "new".to_owned()));
            self.start(peer, None, None);
        }
        self.count_dynamic();
        // Who comes later never heard of us before.
        self.common.restarted = false;
        effects.sort_by(|a, b| a.effect.peer.cmp(&b.effect.peer));
        Ok(effects)
    }

    fn remove(&mut self, id: Id) -> Option<Change> {
        let running = self.running.remove(&id)?;
        // Whose task has just ended is gone anyway.
        let _ = running.orders.send(Order::Remove);
        Some(Change::known(running.peer.name, "removed".to_owned()))
    }

    /// Tells the task of what `peer` has otherwise, if anything.
    fn change(&mut self, id: Id, peer: Peer) -> Option<Change> {
        let running = self.running.get_mut(&id)?;
        if running.peer == peer {
            return None;
        }
        let reset = running.peer.reset_by(&peer);
        let effect = match reset {
            Some(field) => format!("reset: {field} changed"),
            None => "changed, without a reset".to_owned(),
        };
        let watched_anew = running.peer.bfd != peer.bfd
            || running.peer.address.ip() != peer.address.ip()
            || running.peer.local_address != peer.local_address;
        running.peer = peer.clone();
        let orders = running.orders.clone();
        let lost = watched_anew.then(|| self.watch(&peer)).map(|(lost, path)| {
            if let Some(running) = self.running.get_mut(&id) {
                running.path = path;
            }
            lost
        });
        let effect = Effect { peer: peer.name.clone(), effect };
        let (done, configured) = oneshot::channel();
        let _ = orders.send(Order::Change { reset: reset.is_some(), peer: Box::new(peer), done, lost });
        Some(Change { effect, done: reset.is_none().then_some(configured) })
    }

    fn start(&mut self, peer: Peer, dynamic: Option<IpNet>, first: Option<TcpStream>) {
        let (lost, path) = self.watch(&peer);
        let (door, incoming) = mpsc::channel(INCOMING);
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let (orders, ordered) = mpsc::unbounded_channel();
        if let Some(stream) = first {
            // There is room: nobody else has the door yet.
            let _ = door.try_send(stream);
        }
        let lifetime = if dynamic.is_some() { Lifetime::UntilOver } else { Lifetime::Configured };
        let ways = Ways { incoming, questions, orders: ordered, lost };
        let task = self.tasks.spawn(peer::run(peer.clone(), lifetime, ways, self.common.clone()));
        self.running.insert(task.id(), Running { peer, dynamic, path, door, ask, orders });
        self.count_dynamic();
    }

    fn watch_path(&mut self, mut path: Path) -> Result<Watched, String> {
        self.receivers.open(&path)?;
        if self.receivers.expects(&path) {
            return Err(format!("the path to {} is watched already", path.peer));
        }
        self.discriminators += 1;
        path.settings.discriminator = bfd::discriminator(self.discriminators);
        let (lost, words) = mpsc::channel(1);
        let (standing, state) = watch::channel(Standing::new());
        let packets = self.receivers.expect(&path);
        self.paths.spawn(bfd::run(path, packets, lost, standing, self.common.events.clone()));
        Ok((state, words))
    }

    /// Watches the path to `peer`, if it is to be watched; gives the words that say that it is lost, and how it stands.
    fn watch(&mut self, peer: &Peer) -> (mpsc::Receiver<String>, Option<watch::Receiver<Standing>>) {
        let (lost, words) = mpsc::channel(1);
        self.discriminators += 1;
        let state = path(peer, self.discriminators).map(|path| {
            let (standing, state) = watch::channel(Standing::new());
            let packets = self.receivers.expect(&path);
            self.paths.spawn(bfd::run(path, packets, lost, standing, self.common.events.clone()));
            state
        });
        (words, state)
    }
}

/// How the path to `peer` is watched.
fn path(peer: &Peer, index: usize) -> Option<Path> {
    let wanted = peer.bfd?;
    let discriminator = bfd::discriminator(index);
    let settings = bfd_core::Settings { interval: wanted.interval, multiplier: wanted.multiplier, discriminator };
    Some(Path { peer: peer.address.ip(), local: peer.local_address, settings })
}
