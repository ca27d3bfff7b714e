//! One router's connection: who its peers are, and what it says of private prefixes.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_wire::{Asn, Community, Families, Family, Message as Bgp, Open, Update};
use ipnet::IpNet;

use crate::framer::Framer;
use crate::message::{Down, Message, PeerUp};
use crate::peer::{PeerHeader, PeerKey, PeerKind, View};
use crate::reading::{announced, open, path_ids, read, reading, withdrawn};
use crate::statistics::{Counted, Statistic};

/// A prefix to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Private {
    /// The private prefix.
    pub prefix: IpNet,
    /// The community that keeps it in.
    pub guard: Community,
}

/// What one router may take of us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Peers that are remembered; a router with more is hung up on.
    pub peers: usize,
}

/// What names a route that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SightKey {
    /// Which peer of the router.
    pub peer: PeerKey,
    /// In which table.
    pub view: View,
    /// The route's prefix.
    pub prefix: IpNet,
    /// Its path identifier (RFC 7911); 0 where there is none.
    pub path_id: u32,
}

/// A route that touches a private prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which, where.
    pub key: SightKey,
    /// The private prefix that it touches.
    pub private: Private,
    /// The peer's AS.
    pub peer_as: Asn,
    /// The router's own AS, if it has said so.
    pub own_as: Option<Asn>,
    /// Its AS_PATH, for people.
    pub as_path: String,
    /// Its communities.
    pub communities: Vec<Community>,
}

/// What a router says that the watch wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A route that touches a private prefix is there.
    Seen(Sight),
    /// It is there no more.
    Unseen(SightKey),
    /// That was all of a family in a table, for now.
    ViewEnded {
        /// Of which peer.
        peer: PeerKey,
        /// Which table.
        view: View,
        /// Which family.
        family: Family,
    },
    /// What was said of this table no longer counts.
    ViewGone {
        /// Of which peer.
        peer: PeerKey,
        /// Which table.
        view: View,
    },
    /// All tables of the peer are gone.
    PeerGone(PeerKey),
    /// For logs and counters.
    Notice(Notice),
    /// Close the connection.
    Close(String),
}

/// Something that an operator wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The router says who it is.
    Name(String),
    /// A session of the router came up.
    PeerUp(PeerInfo),
    /// A session of the router ended.
    PeerDown(PeerInfo, &'static str),
    /// The router reports numbers of a session.
    Statistics,
    /// The router mirrors messages, and has left some out: told once in a connection, counted always.
    MirroringLost,
    /// A message could not be read: told once in a connection, counted always.
    Unreadable(String),
}

/// A peer of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its name.
    pub key: PeerKey,
    /// Its AS.
    pub asn: Asn,
    /// The router's own AS towards it, if its OPEN could be read.
    pub own_as: Option<Asn>,
    /// Tables that were seen of it.
    pub views: Vec<View>,
    /// The name of the table, for Loc-RIB.
    pub table: Option<String>,
    /// What the router last reported of it.
    pub statistics: BTreeMap<Counted, u64>,
}

/// Counted since the connection came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterCounters {
    /// Messages.
    pub messages: u64,
    /// UPDATEs among them.
    pub updates: u64,
    /// What could not be read.
    pub unreadable: u64,
    /// BGP messages that the router mirrored.
    pub mirrored: u64,
    /// Times that it said that it mirrors not all.
    pub mirroring_lost: u64,
}

impl PeerInfo {
    fn new(header: &PeerHeader) -> Self {
        Self {
            key: header.key,
            asn: header.asn,
            own_as: None,
            views: Vec::new(),
            table: None,
            statistics: BTreeMap::new(),
        }
    }
}

#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    /// Families with path identifiers, in and out.
    path_ids: [Families; 2],
}

/// One router's connection.
#[derive(Debug)]
pub struct Router {
    private: Arc<[Private]>,
    limits: Limits,
    framer: Framer,
    peers: BTreeMap<PeerKey, Peer>,
    counters: RouterCounters,
    name: Option<String>,
    closed: bool,
    output: VecDeque<Report>,
}

impl Router {
    /// Of a new connection, to watch `private`.
    #[must_use]
    pub fn new(private: Arc<[Private]>, limits: Limits) -> Self {
        Self {
            private,
            limits,
            framer: Framer::default(),
            peers: BTreeMap::new(),
            counters: RouterCounters::default(),
            name: None,
            closed: false,
            output: VecDeque::new(),
        }
    }

    /// The next thing that it says.
    pub fn poll_output(&mut self) -> Option<Report> {
        self.output.pop_front()
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> RouterCounters {
        self.counters
    }

    /// Its name, if it has said one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it reported, summed up over its peers.
    #[must_use]
    pub fn statistics(&self) -> BTreeMap<Counted, u64> {
        let mut sums = BTreeMap::new();
        for (counted, value) in self.peers.values().flat_map(|peer| &peer.info.statistics) {
            let sum: &mut u64 = sums.entry(*counted).or_default();
            *sum = sum.saturating_add(*value);
        }
        sums
    }

    /// Its peers.
    pub fn peers(&self) -> impl Iterator<Item = &PeerInfo> {
        self.peers.values().map(|peer| &peer.info)
    }

    /// Takes bytes from the router; every one of them is hostile.
    pub fn received(&mut self, bytes: &[u8]) {
        let mut framer = std::mem::take(&mut self.framer);
        framer.push(bytes);
        while !self.closed {
            match framer.next_message() {
                Ok(None) => break,
                Ok(Some(bytes)) => {
                    self.counters.messages += 1;
                    match Message::decode(bytes) {
                        Ok(message) => self.message(message),
                        Err(error) => self.unreadable(error.to_string()),
                    }
                }
                Err(error) => self.close(error.to_string()),
            }
        }
        self.framer = framer;
    }

    fn close(&mut self, why: String) {
        self.closed = true;
        self.output.push_back(Report::Close(why));
    }

    fn notice(&mut self, notice: Notice) {
        self.output.push_back(Report::Notice(notice));
    }

    fn unreadable(&mut self, why: String) {
        self.counters.unreadable += 1;
        if self.counters.unreadable == 1 {
            self.notice(Notice::Unreadable(why));
        }
    }

    fn message(&mut self, message: Message<'_>) {
        match message {
            Message::Initiation { name, .. } => {
                if let Some(name) = name.filter(|name| !name.is_empty()) {
                    self.name = Some(name.clone());
                    self.notice(Notice::Name(name));
                }
            }
            Message::Termination { reason, text } => {
                let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let text = text.unwrap_or_default();
                self.close(format!("the router ends the connection{reason} {text}").trim_end().to_owned());
            }
            Message::PeerUp { peer, up } => self.peer_up(&peer, &up),
            Message::PeerDown { peer, reason } => {
                if let Some(gone) = self.peers.remove(&peer.key) {
                    let why = match reason {
                        Down::Sent(_) => "the router sent a NOTIFICATION",
                        Down::Event(_) => "the router ended it",
                        Down::Received(_) => "the peer sent a NOTIFICATION",
                        Down::Lost => "the connection was lost",
                        Down::Unmonitored | Down::LocRib => "no longer monitored",
                        Down::Other(_) => "for a reason that is not known",
                    };
                    self.notice(Notice::PeerDown(gone.info, why));
                }
                self.output.push_back(Report::PeerGone(peer.key));
            }
            Message::RouteMonitoring { peer, update } => self.monitored(&peer, update),
            Message::Statistics { peer, statistics } => self.reported(&peer, &statistics),
            Message::Mirroring { peer, message, lost, .. } => {
                if lost {
                    self.counters.mirroring_lost += 1;
                    if self.counters.mirroring_lost == 1 {
                        self.notice(Notice::MirroringLost);
                    }
                }
                message.iter().for_each(|message| self.mirrored(&peer, message));
            }
            Message::Unknown => {}
        }
    }

    fn peer_up(&mut self, header: &PeerHeader, up: &PeerUp<'_>) {
        if self.peers.len() >= self.limits.peers && !self.peers.contains_key(&header.key) {
            return self.close(format!("more than {} peers: bmp.max-peers", self.limits.peers));
        }
        let (sent, received) = (open(up.sent), open(up.received));
        if sent.is_none() {
            self.unreadable(format!("the OPEN that the router sent to {}", header.key.address));
        }
        let own_as = match header.key.kind {
            PeerKind::LocRib => Some(header.asn),
            PeerKind::Global | PeerKind::Distinguished | PeerKind::Local => sent.as_ref().map(Open::asn),
        };
        let path_ids = path_ids(sent.as_ref(), received.as_ref(), header.key.kind);
        let info = PeerInfo { own_as, table: up.table.clone(), ..PeerInfo::new(header) };
        // A session that comes up again has forgotten all that was before.
        if self.peers.insert(header.key, Peer { info: info.clone(), path_ids }).is_some() {
            self.output.push_back(Report::PeerGone(header.key));
        }
        self.notice(Notice::PeerUp(info));
    }

    fn monitored(&mut self, header: &PeerHeader, update: &[u8]) {
        self.counters.updates += 1;
        self.meet(header);
        let (mut own_as, mut path_ids) = (None, Families::NONE);
        if let Some(peer) = self.peers.get_mut(&header.key) {
            let [incoming, outgoing] = peer.path_ids;
            path_ids = if header.view.is_out() { outgoing } else { incoming };
            own_as = peer.info.own_as;
            if !peer.info.views.contains(&header.view) {
                peer.info.views.push(header.view);
                // What is sent decides, as soon as the router shows it; what its policy may yet hold back does not.
                if header.view == View::AdjRibOutPost {
                    self.output.push_back(Report::ViewGone { peer: header.key, view: View::AdjRibOutPre });
                }
            }
            if header.view == View::AdjRibOutPre && peer.info.views.contains(&View::AdjRibOutPost) {
                return;
            }
        }
        let update = match read(update, header.two_octet_as, path_ids) {
            Ok(update) => update,
            Err(why) => return self.unreadable(format!("an UPDATE of {}: {why}", header.key.address)),
        };
        self.update(header, own_as, &update);
    }

    /// Some routers tell of Loc-RIB without a Peer Up.
    fn meet(&mut self, header: &PeerHeader) {
        if !self.peers.contains_key(&header.key) && self.peers.len() < self.limits.peers {
            let own_as = Some(header.asn).filter(|asn| header.key.kind == PeerKind::LocRib && asn.0 != 0);
            let info = PeerInfo { own_as, ..PeerInfo::new(header) };
            self.peers.insert(header.key, Peer { info, path_ids: [Families::NONE; 2] });
        }
    }

    fn reported(&mut self, header: &PeerHeader, statistics: &[Statistic]) {
        self.meet(header);
        if let Some(peer) = self.peers.get_mut(&header.key) {
            let known = statistics.iter().filter_map(|one| Some((one.counted()?, one.value)));
            peer.info.statistics.extend(known);
            self.notice(Notice::Statistics);
        }
    }

    /// What the peer sent, as the router got it: of the table before its policy, whether or not the router could read it.
    /// An End-of-RIB among it is the peer's, and ends nothing that the router tells us.
    fn mirrored(&mut self, header: &PeerHeader, message: &[u8]) {
        self.counters.mirrored += 1;
        if header.key.kind == PeerKind::LocRib {
            return;
        }
        let header = PeerHeader { view: View::AdjRibInPre, ..*header };
        let peer = self.peers.get(&header.key);
        let (own_as, path_ids) = peer.map_or((None, Families::NONE), |peer| {
            let [incoming, _] = peer.path_ids;
            (peer.info.own_as, incoming)
        });
        match Bgp::decode(message, reading(header.two_octet_as, path_ids)) {
            Ok(Bgp::Update(update)) if update.ends_rib_of().is_none() => self.update(&header, own_as, &update),
            Ok(_) => {}
            Err(error) => self.unreadable(format!("a mirrored message of {}: {error}", header.key.address)),
        }
    }

    fn update(&mut self, header: &PeerHeader, own_as: Option<Asn>, update: &Update) {
        let (peer, view) = (header.key, header.view);
        if let Some(family) = update.ends_rib_of() {
            self.output.push_back(Report::ViewEnded { peer, view, family });
            return;
        }
        let touched = |prefix: &IpNet| {
            let touches = |private: &&Private| private.prefix.contains(prefix) || prefix.contains(&private.prefix);
            self.private.iter().find(touches).copied()
        };
        let mut reports = Vec::new();
        for (prefix, path_id) in withdrawn(update) {
            if touched(&prefix).is_some() {
                reports.push(Report::Unseen(SightKey { peer, view, prefix, path_id }));
            }
        }
        // A route with a flaw that would count as withdrawn is still a route that somebody was sent.
        for (prefix, path_id) in announced(update) {
            let Some(private) = touched(&prefix) else { continue };
            reports.push(Report::Seen(Sight {
                key: SightKey { peer, view, prefix, path_id },
                private,
                peer_as: header.asn,
                own_as,
                as_path: update.attributes.as_path.as_ref().map(ToString::to_string).unwrap_or_default(),
                communities: update.attributes.communities.clone(),
            }));
        }
        self.output.extend(reports);
    }
}

/// For people: the address, or what stands for it.
impl std::fmt::Display for PeerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address: IpAddr = self.address;
        match self.kind {
            PeerKind::Global => address.fmt(f),
            PeerKind::LocRib => f.write_str("loc-rib"),
            PeerKind::Distinguished | PeerKind::Local => {
                write!(f, "{address} of instance {:016x}", u64::from_be_bytes(self.distinguisher))
            }
        }
    }
}
