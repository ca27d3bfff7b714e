//! The cloak: every frame in, every frame out, and the connections between.

mod admission;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::{Instant, IspId};
use smoltcp::socket::tcp::RecvError;

use crate::config::{CloakConfig, ConfigError, Limits, Rules};
use crate::connection::{Connection, Fate, Stage, Transmit, World};
use crate::cookies::Cookies;
use crate::counters::{Count, Counters};
use crate::fragments::{Fragments, Piece};
use crate::frame::{Checksum, Flow, Heard, Segment, classify, joined};
use crate::neighbour::{self, Gateway};

/// Names a connection, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The subscriber's address.
    pub address: IpAddr,
    /// The subscriber's port.
    pub port: u16,
    /// The member ISP whose prefix holds the address.
    pub isp: IspId,
    /// Which private network address was called (A5).
    pub local: IpAddr,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many octets, at least one.
    Data(usize),
    /// Nothing yet: wait for [`Cloak::poll_ready`].
    Pending,
    /// The peer has sent everything.
    Eof,
}

/// The connection exists no more: reset by the peer, expired, closed or aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection {0} is gone")]
pub struct Gone(pub ConnectionId);

/// A cloaked interface.
pub struct Cloak {
    rules: Rules,
    limits: Limits,
    mtu: u16,
    randomness: Box<dyn Randomness + Send>,
    cookies: Cookies,
    gateway_v4: Option<Gateway>,
    gateway_v6: Option<Gateway>,
    connections: BTreeMap<ConnectionId, Connection>,
    flows: BTreeMap<Flow, ConnectionId>,
    /// Half-open connections, the oldest first.
    half_open: BTreeSet<(Instant, ConnectionId)>,
    /// Connections by source: an IPv4 address or an IPv6 /64.
    per_source: BTreeMap<IpAddr, usize>,
    per_isp: BTreeMap<IspId, OfIsp>,
    /// Connections that the application has let go of.
    closing: BTreeSet<ConnectionId>,
    timers: BTreeSet<(Instant, ConnectionId)>,
    /// Connections that were written to or read from since the last poll.
    touched: BTreeSet<ConnectionId>,
    backlog: VecDeque<ConnectionId>,
    accepted: BTreeSet<ConnectionId>,
    ready: BTreeSet<ConnectionId>,
    fragments: Fragments,
    transmit: Transmit,
    counters: Counters,
    next_id: u64,
}

/// What the subscribers of one ISP have.
#[derive(Debug, Default)]
struct OfIsp {
    /// Connections in any state.
    connections: usize,
    /// Those whose handshake is not finished, the oldest first.
    half_open: BTreeSet<(Instant, ConnectionId)>,
}

impl fmt::Debug for Cloak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloak")
            .field("rules", &self.rules)
            .field("connections", &self.connections.len())
            .field("half_open", &self.half_open.len())
            .finish_non_exhaustive()
    }
}

impl Cloak {
    /// A cloaked interface; `randomness` seeds the sequence numbers of its connections.
    ///
    /// # Errors
    /// [`ConfigError`] names what cannot be used.
    pub fn new(config: CloakConfig, mut randomness: Box<dyn Randomness + Send>) -> Result<Self, ConfigError> {
        let rules = config.rules()?;
        let gateway = |address: Option<IpAddr>| {
            let address = address?;
            let ours = rules.addresses.iter().find(|ours| ours.is_ipv4() == address.is_ipv4())?;
            Some(Gateway::new(address, *ours))
        };
        Ok(Self {
            gateway_v4: gateway(config.gateway_v4.map(IpAddr::V4)),
            gateway_v6: gateway(config.gateway_v6.map(IpAddr::V6)),
            rules,
            transmit: Transmit::new(config.limits.transmit_queue),
            limits: config.limits,
            mtu: config.mtu,
            cookies: Cookies::new(&mut *randomness),
            randomness,
            connections: BTreeMap::new(),
            flows: BTreeMap::new(),
            half_open: BTreeSet::new(),
            per_source: BTreeMap::new(),
            per_isp: BTreeMap::new(),
            closing: BTreeSet::new(),
            timers: BTreeSet::new(),
            touched: BTreeSet::new(),
            backlog: VecDeque::new(),
            accepted: BTreeSet::new(),
            ready: BTreeSet::new(),
            fragments: Fragments::default(),
            counters: Counters::default(),
            next_id: 0,
        })
    }

    /// Takes a frame from the private link. Whatever it holds, nothing but what the crate's
    /// introduction lists ever comes of it.
    pub fn handle_frame(&mut self, frame: &[u8], checksum: Checksum, now: Instant) {
        match classify(frame, checksum, &self.rules) {
            Err(reason) => self.counters.add(reason),
            Ok(Heard::Segment(segment)) => self.segment(frame, segment, now),
            Ok(Heard::Fragment(piece)) => self.fragment(frame, piece, checksum, now),
            Ok(Heard::ArpRequest { target, sender, mac }) => {
                self.learn_gateway(sender.into(), mac, now, Gateway::learn);
                self.counters.add(Count::ArpAnswered);
                let reply = neighbour::arp_reply(self.rules.hardware_address, target, (mac, sender));
                self.transmit.push(reply, &mut self.counters);
            }
            Ok(Heard::Solicitation { target, sender, mac }) => {
                self.learn_gateway(sender.into(), mac, now, Gateway::learn);
                self.counters.add(Count::SolicitationAnswered);
                let reply = neighbour::advertisement(self.rules.hardware_address, target, (mac, sender));
                self.transmit.push(reply, &mut self.counters);
            }
            Ok(Heard::ArpReply { sender, mac }) => {
                if !self.learn_gateway(sender.into(), mac, now, Gateway::answered) {
                    self.counters.add(Count::OtherArp);
                }
            }
            Ok(Heard::Advertisement { target, mac }) => {
                if !self.learn_gateway(target.into(), mac, now, Gateway::answered) {
                    self.counters.add(Count::OtherDiscovery);
                }
            }
        }
    }

    /// Keeps a piece; the datagram that it completes meets the same door as any other.
    fn fragment(&mut self, frame: &[u8], piece: Piece, checksum: Checksum, now: Instant) {
        match self.fragments.take(piece, now) {
            Err(reason) => self.counters.add(reason),
            Ok(None) => self.counters.add(Count::FragmentKept),
            Ok(Some(contents)) => {
                self.counters.add(Count::FragmentsJoined);
                let whole = joined(frame, &contents).unwrap_or_default();
                match classify(&whole, checksum, &self.rules) {
                    Ok(Heard::Segment(segment)) => self.segment(&whole, segment, now),
                    Ok(_) => self.counters.add(Count::Malformed),
                    Err(reason) => self.counters.add(reason),
                }
            }
        }
    }

    /// Does what is due: retransmissions, expiries, questions for the gateway, and what reads, writes
    /// and closes since the last call have left to send.
    pub fn poll(&mut self, now: Instant) {
        for _ in 0..self.fragments.expire(now) {
            self.counters.add(Count::FragmentsExpired);
        }
        for id in std::mem::take(&mut self.touched) {
            self.settle(id, now);
        }
        while let Some(&(due, id)) = self.timers.first() {
            if due > now || !self.transmit.has_room() {
                break;
            }
            self.settle(id, now);
            // A connection that is due again at once, whatever the stack thinks, waits for the next call.
            if self.connections.get(&id).is_some_and(|connection| connection.due <= now) {
                self.set_timer(id, now + Duration::from_millis(1));
            }
        }
        self.ask_gateways(now);
    }

    /// The next frame to send on the private link.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmit.pop()
    }

    /// When [`Cloak::poll`] is due, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let touched = (!self.touched.is_empty()).then_some(Instant::ORIGIN);
        let timer = self.timers.first().map(|(due, _)| *due);
        let gateways = [&self.gateway_v4, &self.gateway_v6].into_iter().flatten().filter_map(Gateway::ask_at);
        gateways.chain(touched).chain(timer).min()
    }

    /// The next connection whose handshake is done.
    pub fn accept(&mut self) -> Option<(ConnectionId, Peer)> {
        while let Some(id) = self.backlog.pop_front() {
            if let Some(connection) = self.connections.get(&id) {
                let peer = Peer {
                    address: connection.flow.remote.ip(),
                    port: connection.flow.remote.port(),
                    isp: connection.isp.clone(),
                    local: connection.flow.local,
                };
                self.accepted.insert(id);
                return Some((id, peer));
            }
        }
        None
    }

    /// The next accepted connection on which something happened: data or the end may be read, room may
    /// have come for more to write, or it is [`Gone`].
    pub fn poll_ready(&mut self) -> Option<ConnectionId> {
        self.ready.pop_first()
    }

    /// Reads into `buffer`.
    ///
    /// # Errors
    /// [`Gone`]: what was not read before is lost.
    pub fn read(&mut self, id: ConnectionId, buffer: &mut [u8]) -> Result<Read, Gone> {
        let connection = self.usable(id)?;
        match connection.socket().recv_slice(buffer) {
            Ok(0) => Ok(Read::Pending),
            Ok(octets) => {
                self.touched.insert(id);
                Ok(Read::Data(octets))
            }
            Err(RecvError::Finished) => Ok(Read::Eof),
            Err(RecvError::InvalidState) => Err(Gone(id)),
        }
    }

    /// Queues as much of `data` as there is room for, and says how much: 0 means to wait for
    /// [`Cloak::poll_ready`].
    ///
    /// # Errors
    /// [`Gone`], also after [`Cloak::shutdown`].
    pub fn write(&mut self, id: ConnectionId, data: &[u8]) -> Result<usize, Gone> {
        let connection = self.usable(id)?;
        let octets = connection.socket().send_slice(data).map_err(|_| Gone(id))?;
        self.touched.insert(id);
        Ok(octets)
    }

    /// Ends our half: after what is queued comes a FIN. Reading goes on.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn shutdown(&mut self, id: ConnectionId) -> Result<(), Gone> {
        self.usable(id)?.socket().close();
        self.touched.insert(id);
        Ok(())
    }

    /// Lets go of a connection: what is queued and a FIN are still delivered, within
    /// [`Limits::linger_timeout`]; what the peer sends is read by nobody.
    pub fn close(&mut self, id: ConnectionId, now: Instant) {
        self.accepted.remove(&id);
        self.ready.remove(&id);
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.stage == Stage::Open
        {
            connection.stage = Stage::Closing(now);
            self.closing.insert(id);
            connection.socket().close();
            self.touched.insert(id);
        }
    }

    /// Forgets a connection at once and in silence: no FIN and no RST leaves.
    pub fn abort(&mut self, id: ConnectionId) {
        self.accepted.remove(&id);
        self.remove(id);
        self.ready.remove(&id);
    }

    /// Connections in any state.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Connections whose handshake is not finished.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// What happened so far, by reason.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn usable(&mut self, id: ConnectionId) -> Result<&mut Connection, Gone> {
        self.connections.get_mut(&id).filter(|connection| connection.stage == Stage::Open).ok_or(Gone(id))
    }

    fn segment(&mut self, frame: &[u8], segment: Segment, now: Instant) {
        let (id, redeemed) = match self.flows.get(&segment.flow) {
            Some(id) => (*id, false),
            None => match self.stranger(segment, now) {
                Ok(Some(known)) => known,
                Ok(None) => return,
                Err(reason) => return self.counters.add(reason),
            },
        };
        self.counters.add(Count::SegmentIn);
        self.with_connection(id, now, |connection, _, world| connection.hear(frame, world));
        self.settle(id, now);
        // The answer to a cookie is the end of a handshake, or nothing.
        if redeemed && self.connections.get(&id).is_some_and(|made| matches!(made.stage, Stage::HalfOpen(_))) {
            self.remove(id);
        }
        if self.accepted.contains(&id) {
            self.ready.insert(id);
        }
    }

    /// Lets a connection send, then draws the consequences of the state that it is in.
    fn settle(&mut self, id: ConnectionId, now: Instant) {
        self.with_connection(id, now, Connection::work);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.fate(&self.limits, now) {
            Fate::Waiting => {}
            Fate::Opened { since } => {
                connection.stage = Stage::Open;
                self.half_open.remove(&(since, id));
                if let Some(of_isp) = self.per_isp.get_mut(&connection.isp) {
                    of_isp.half_open.remove(&(since, id));
                }
                self.backlog.push_back(id);
                self.counters.add(Count::ConnectionOpened);
            }
            Fate::Finished => self.remove(id),
            Fate::Failed(reason) => {
                self.counters.add(reason);
                self.remove(id);
            }
        }
    }

    fn with_connection(
        &mut self,
        id: ConnectionId,
        now: Instant,
        work: impl FnOnce(&mut Connection, &Limits, &mut World<'_>),
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let gateway = if connection.flow.local.is_ipv4() { &self.gateway_v4 } else { &self.gateway_v6 };
        let before = connection.due;
        let mut world = World {
            now,
            own_mac: self.rules.hardware_address,
            port: self.rules.port,
            mtu: self.mtu,
            gateway: gateway.as_ref().and_then(Gateway::mac),
            transmit: &mut self.transmit,
            counters: &mut self.counters,
        };
        work(connection, &self.limits, &mut world);
        let after = connection.due;
        self.timers.remove(&(before, id));
        self.timers.insert((after, id));
    }

    fn set_timer(&mut self, id: ConnectionId, due: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            self.timers.remove(&(connection.due, id));
            connection.due = due;
            self.timers.insert((due, id));
        }
    }

    fn remove(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.flows.remove(&connection.flow);
        self.timers.remove(&(connection.due, id));
        if let Stage::HalfOpen(since) = connection.stage {
            self.half_open.remove(&(since, id));
        }
        // As many entries as there are member ISPs; they stay.
        if let Some(of_isp) = self.per_isp.get_mut(&connection.isp) {
            of_isp.connections = of_isp.connections.saturating_sub(1);
            if let Stage::HalfOpen(since) = connection.stage {
                of_isp.half_open.remove(&(since, id));
            }
        }
        let source = source_key(connection.flow.remote.ip());
        if let Some(number) = self.per_source.get_mut(&source) {
            *number = number.saturating_sub(1);
            if *number == 0 {
                self.per_source.remove(&source);
            }
        }
        if let Some(gateway) = self.gateway_mut(connection.flow.local) {
            gateway.remove_user();
        }
        self.closing.remove(&id);
        self.backlog.retain(|waiting| *waiting != id);
        self.touched.remove(&id);
        if self.accepted.remove(&id) {
            self.ready.insert(id);
        }
    }

    fn gateway_mut(&mut self, local: IpAddr) -> Option<&mut Gateway> {
        match local {
            IpAddr::V4(_) => self.gateway_v4.as_mut(),
            IpAddr::V6(_) => self.gateway_v6.as_mut(),
        }
    }

    fn learn_gateway(
        &mut self,
        address: IpAddr,
        mac: [u8; 6],
        now: Instant,
        learn: fn(&mut Gateway, IpAddr, [u8; 6], Instant) -> bool,
    ) -> bool {
        let Some(gateway) = self.gateway_mut(address) else { return false };
        let before = gateway.mac();
        if !learn(gateway, address, mac, now) {
            return false;
        }
        self.counters.add(Count::GatewayLearnt);
        if before != Some(mac) {
            // What waited for the gateway can leave now.
            let waiting = self.connections.iter().filter(|(_, c)| c.flow.local.is_ipv4() == address.is_ipv4());
            self.touched.extend(waiting.map(|(id, _)| *id));
        }
        true
    }

    fn ask_gateways(&mut self, now: Instant) {
        for gateway in [&mut self.gateway_v4, &mut self.gateway_v6].into_iter().flatten() {
            if let Some(question) = gateway.ask(self.rules.hardware_address, now) {
                self.counters.add(Count::GatewayAsked);
                self.transmit.push(question, &mut self.counters);
            }
        }
    }
}

/// What the bound per source counts by: a subscriber has one IPv4 address, but at least a whole IPv6 /64.
pub(crate) fn source_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}
