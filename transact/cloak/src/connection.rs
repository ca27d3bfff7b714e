//! One connection: a smoltcp interface with one socket, between the door and the egress filter.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::{Instant, IspId};
use smoltcp::iface::{Config, Interface, PollResult, Route, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use crate::config::Limits;
use crate::counters::{Count, Counters};
use crate::frame::{Flow, may_leave};
use crate::neighbour;

/// The router that smoltcp is told of. It exists inside this module only: real gateways are found by
/// [`neighbour::Gateway`], because smoltcp answers and asks on its own terms, and believes no ARP from a
/// gateway outside its own prefix, which is where the forwarder always is. IPv4 goes by it as well.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// smoltcp forgets a neighbour after 60 s.
const INTRODUCE_AGAIN: Duration = Duration::from_secs(30);

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The SYN came at this time.
    HalfOpen(Instant),
    /// The handshake is done.
    Open,
    /// The application let go at this time; only what is queued is still delivered.
    Closing(Instant),
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing yet.
    Waiting,
    /// The handshake that began at `since` is done.
    Opened { since: Instant },
    /// Over, as both sides wished.
    Finished,
    /// Over for this reason.
    Failed(Count),
}

/// The frames that wait to be sent, all connections together.
#[derive(Debug)]
pub(crate) struct Transmit {
    frames: VecDeque<Vec<u8>>,
    bound: usize,
}

impl Transmit {
    pub(crate) fn new(bound: usize) -> Self {
        Self { frames: VecDeque::new(), bound }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.frames.len() < self.bound
    }

    pub(crate) fn push(&mut self, frame: Vec<u8>, counters: &mut Counters) {
        if self.has_room() {
            self.frames.push_back(frame);
        } else {
            counters.add(Count::TransmitFull);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }
}

/// What a connection borrows from the cloak while it works.
pub(crate) struct World<'a> {
    pub(crate) now: Instant,
    pub(crate) own_mac: [u8; 6],
    pub(crate) port: u16,
    pub(crate) mtu: u16,
    /// Where answers go; nothing leaves while it is unknown.
    pub(crate) gateway: Option<[u8; 6]>,
    pub(crate) transmit: &'a mut Transmit,
    pub(crate) counters: &'a mut Counters,
}

/// One TCP connection with a member's subscriber.
pub(crate) struct Connection {
    pub(crate) flow: Flow,
    pub(crate) isp: IspId,
    pub(crate) stage: Stage,
    /// When the peer was last heard.
    pub(crate) heard_at: Instant,
    /// When [`Connection::work`] is due for this connection.
    pub(crate) due: Instant,
    /// Both sides had said FIN when the peer was last heard: the end that follows is no reset.
    finished: bool,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    introduced: Option<([u8; 6], Instant)>,
}

impl Connection {
    /// A connection that waits for exactly one SYN.
    pub(crate) fn new(flow: Flow, isp: IspId, seed: u64, limits: &Limits, world: &mut World<'_>) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(world.own_mac)));
        config.random_seed = seed;
        let (port, now) = (world.port, world.now);
        let mut interface = Interface::new(config, &mut Port::new(None, flow, world), smoltcp_time(now));
        let own = IpCidr::new(flow.local.into(), if flow.local.is_ipv4() { 32 } else { 128 });
        let everywhere = match flow.local {
            IpAddr::V4(_) => IpCidr::new(IpAddress::v4(0, 0, 0, 0), 0),
            IpAddr::V6(_) => IpCidr::new(IpAddress::v6(0, 0, 0, 0, 0, 0, 0, 0), 0),
        };
        let route =
            Route { cidr: everywhere, via_router: IpAddress::Ipv6(ROUTER), preferred_until: None, expires_at: None };
        // Both lists are empty and hold at least one entry by smoltcp's own minimum.
        interface.update_ip_addrs(|addresses| addresses.extend([own]));
        interface.routes_mut().update(|routes| routes.extend([route]));

        let buffer = |size: usize| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(limits.receive_buffer), buffer(limits.send_buffer));
        socket.set_nagle_enabled(false);
        // Fails for port 0 only, which the configuration refuses; the SYN would then find nobody.
        let _ = socket.listen((IpAddress::from(flow.local), port));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            flow,
            isp,
            stage: Stage::HalfOpen(now),
            heard_at: now,
            due: now,
            finished: false,
            interface,
            sockets,
            handle,
            introduced: None,
        }
    }

    /// Gives the peer's segment to TCP. The caller calls [`Connection::work`] afterwards.
    pub(crate) fn hear(&mut self, frame: &[u8], world: &mut World<'_>) {
        self.heard_at = world.now;
        self.finished = matches!(self.state(), tcp::State::Closing | tcp::State::LastAck | tcp::State::TimeWait);
        self.introduce_gateway(world);
        self.feed(frame, world);
    }

    /// Sends what is to be sent and sets [`Connection::due`].
    pub(crate) fn work(&mut self, limits: &Limits, world: &mut World<'_>) {
        let at = smoltcp_time(world.now);
        if let Stage::Closing(_) = self.stage {
            // Nobody reads any more, but the peer's FIN is behind what it sent before it.
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
            while socket.can_recv() && socket.recv(|data| (data.len(), ())).is_ok() {}
        }
        self.introduce_gateway(world);
        let mut next = None;
        if world.gateway.is_some() {
            let mut port = Port::new(None, self.flow, world);
            while let PollResult::SocketStateChanged = self.interface.poll_egress(at, &mut port, &mut self.sockets) {}
            next = self.interface.poll_at(at, &self.sockets).map(our_time);
        }
        let deadline = self.deadline(limits);
        self.due = next.map_or(deadline, |next| next.min(deadline));
    }

    /// When the connection is forgotten unless something happens.
    pub(crate) fn deadline(&self, limits: &Limits) -> Instant {
        match self.stage {
            Stage::HalfOpen(since) => since + limits.handshake_timeout,
            Stage::Open => self.heard_at + limits.idle_timeout,
            Stage::Closing(since) => since + limits.linger_timeout,
        }
    }

    /// What the state of TCP and the time mean for the connection.
    pub(crate) fn fate(&self, limits: &Limits, now: Instant) -> Fate {
        let state = self.state();
        // smoltcp goes back to LISTEN when a half-open connection is reset (RFC 9293 §3.10.7.4).
        let over = matches!(state, tcp::State::Closed | tcp::State::Listen);
        let expired = now >= self.deadline(limits);
        match self.stage {
            Stage::Closing(_) if over => Fate::Finished,
            Stage::HalfOpen(_) | Stage::Open if over && !self.finished => Fate::Failed(Count::PeerReset),
            Stage::HalfOpen(since) if state != tcp::State::SynReceived => Fate::Opened { since },
            Stage::HalfOpen(_) if expired => Fate::Failed(Count::HandshakeExpired),
            Stage::Open if expired => Fate::Failed(Count::IdleExpired),
            Stage::Closing(_) if expired => Fate::Failed(Count::LingerExpired),
            Stage::HalfOpen(_) | Stage::Open | Stage::Closing(_) => Fate::Waiting,
        }
    }

    pub(crate) fn state(&self) -> tcp::State {
        self.sockets.get::<tcp::Socket<'_>>(self.handle).state()
    }

    pub(crate) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn introduce_gateway(&mut self, world: &mut World<'_>) {
        let Some(gateway) = world.gateway else { return };
        let fresh = self.introduced.is_some_and(|(mac, at)| mac == gateway && world.now.since(at) < INTRODUCE_AGAIN);
        if !fresh {
            self.introduced = Some((gateway, world.now));
            let frame = neighbour::introduction(world.own_mac, ROUTER, gateway);
            self.feed(&frame, world);
        }
    }

    fn feed(&mut self, frame: &[u8], world: &mut World<'_>) {
        let at = smoltcp_time(world.now);
        let mut port = Port::new(Some(frame), self.flow, world);
        let _ = self.interface.poll_ingress_single(at, &mut port, &mut self.sockets);
    }
}

/// The device that a connection's interface sees: at most one frame in, filtered frames out.
struct Port<'a, 'w> {
    incoming: Option<&'a [u8]>,
    flow: Flow,
    world: &'a mut World<'w>,
}

impl<'a, 'w> Port<'a, 'w> {
    fn new(incoming: Option<&'a [u8]>, flow: Flow, world: &'a mut World<'w>) -> Self {
        Self { incoming, flow, world }
    }
}

impl<'w> Device for Port<'_, 'w> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t, 'w>
    where
        Self: 't;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming<'_>, Outgoing<'_, 'w>)> {
        let frame = self.incoming.take()?;
        Some((Incoming(frame), Outgoing { flow: self.flow, world: &mut *self.world }))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_, 'w>> {
        self.world.transmit.has_room().then_some(Outgoing { flow: self.flow, world: &mut *self.world })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.world.mtu).saturating_add(14);
        // The door has verified them.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.icmpv6 = Checksum::Tx;
        capabilities
    }
}

struct Incoming<'t>(&'t [u8]);

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

struct Outgoing<'t, 'w> {
    flow: Flow,
    world: &'t mut World<'w>,
}

impl phy::TxToken for Outgoing<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        let verdict = match self.world.gateway {
            Some(gateway) => may_leave(&frame, &self.flow, self.world.port, gateway),
            None => Err(Count::EgressRefused),
        };
        match verdict {
            Ok(()) => {
                self.world.counters.add(Count::SegmentOut);
                self.world.transmit.push(frame, self.world.counters);
            }
            Err(count) => self.world.counters.add(count),
        }
        result
    }
}

fn smoltcp_time(at: Instant) -> smoltcp::time::Instant {
    let micros = i64::try_from(at.since_origin().as_micros()).unwrap_or(i64::MAX);
    smoltcp::time::Instant::from_micros(micros)
}

fn our_time(at: smoltcp::time::Instant) -> Instant {
    Instant::after_origin(Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
}
