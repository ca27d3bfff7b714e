//! Bidirectional forwarding detection beside the sessions: sockets and timers (RFC 5881).

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use bfd_core::{Input, Output, Session, Settings, State};
use cloakway_runtime::clock;
use cloakway_types::Instant;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::events::{Event, Events};

/// Where control packets go (RFC 5881 §4).
const PORT: u16 = 3784;
/// Where they come from (RFC 5881 §4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// What they carry when they leave and when they arrive: nobody further away can forge them (RFC 5881 §5).
const TTL: u32 = 255;
/// Packets that wait for their session.
const WAITING: usize = 64;

/// A path to be watched.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) peer: IpAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) settings: Settings,
}

impl Path {
    fn local(&self) -> IpAddr {
        let any = if self.peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.local.unwrap_or(any)
    }
}

/// How a path stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: State,
    pub(crate) since: Instant,
    /// Why it was lost last, or cannot be watched.
    pub(crate) last_down: Option<String>,
}

impl Standing {
    /// Nothing has come from the far end yet.
    pub(crate) fn new() -> Self {
        Self { state: State::Down, since: clock::now(), last_down: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    fn take(&mut self, state: State, last_down: Option<String>) {
        if self.state != state {
            (self.state, self.since) = (state, clock::now());
        }
        if last_down.is_some() {
            self.last_down = last_down;
        }
    }
}

/// A number for a session that no other of this host has.
pub(crate) fn discriminator(index: usize) -> NonZeroU32 {
    let random = RandomState::new().build_hasher().finish();
    let spread = u32::try_from(random >> 48).unwrap_or_default() << 16;
    let index = u32::try_from(index).unwrap_or_default() & 0xffff;
    NonZeroU32::new(spread | index).unwrap_or(NonZeroU32::MIN)
}

/// Whose packets arrive at one of our addresses, and where they go.
type Sessions = Arc<Mutex<BTreeMap<IpAddr, mpsc::Sender<Vec<u8>>>>>;

/// The receivers of what arrives, one for each of our own addresses; they end with this.
#[derive(Default)]
pub(crate) struct Receivers {
    sessions: BTreeMap<IpAddr, Sessions>,
    tasks: JoinSet<()>,
}

impl Receivers {
    /// Opens the socket that `path` takes, if it is not open.
    ///
    /// # Errors
    /// Names the address.
    pub(crate) fn open(&mut self, path: &Path) -> Result<(), String> {
        let local = path.local();
        if self.sessions.contains_key(&local) {
            return Ok(());
        }
        let socket = listen(local).map_err(|error| format!("cannot take BFD on {local}: {error}"))?;
        let sessions = Sessions::default();
        self.tasks.spawn(Receiver { socket, sessions: sessions.clone() }.run());
        self.sessions.insert(local, sessions);
        Ok(())
    }

    /// Whether packets from the peer of `path` have somebody who wants them.
    pub(crate) fn expects(&self, path: &Path) -> bool {
        let of_local = self.sessions.get(&path.local());
        let taken = |sessions: &Sessions| {
            let sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.get(&path.peer).is_some_and(|session| !session.is_closed())
        };
        of_local.is_some_and(taken)
    }

    /// The packets from the peer of `path`, whose socket is open.
    pub(crate) fn expect(&mut self, path: &Path) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let sessions = self.sessions.entry(path.local()).or_default();
        sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(path.peer, sender);
        receiver
    }
}

/// Takes what arrives at one of our addresses.
struct Receiver {
    socket: UdpSocket,
    sessions: Sessions,
}

impl Receiver {
    /// Hands packets to their sessions.
    async fn run(self) {
        loop {
            match self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await {
                Ok(Datagram { from: Some(from), ttl: Some(255), bytes }) => {
                    let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
                    // A session that does not keep up loses packets, as on the wire.
                    if let Some(session) = sessions.get(&from.to_canonical()) {
                        let _ = session.try_send(bytes);
                    }
                }
                Ok(_) => metrics::counter!("bgp_speaker_bfd_packets_refused_total").increment(1),
                Err(error) => tracing::debug!(%error, "cannot receive BFD"),
            }
        }
    }
}

struct Datagram {
    from: Option<IpAddr>,
    ttl: Option<i32>,
    bytes: Vec<u8>,
}

fn receive(socket: &UdpSocket) -> io::Result<Datagram> {
    let mut bytes = vec![0; 128];
    let mut space = nix::cmsg_space!(libc::c_int);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(ttl),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    let length = message.bytes;
    bytes.truncate(length);
    Ok(Datagram { from, ttl, bytes })
}

fn udp(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(TTL)?;
    } else {
        socket.set_ttl_v4(TTL)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(local: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(local, PORT);
    let socket = udp(address)?;
    if local.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket to send from, on the first source port that is free.
fn sender(path: &Path) -> io::Result<UdpSocket> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for port in SOURCE_PORTS {
        let address = SocketAddr::new(path.local(), port);
        let socket = udp(address)?;
        match socket.bind(&address.into()) {
            Ok(()) => return UdpSocket::from_std(socket.into()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// Watches `path` for as long as somebody hears on `lost` why it was lost: a session that ends in good order says so
/// before its path does.
#[tracing::instrument(name = "bfd", skip_all, fields(peer = %path.peer))]
pub(crate) async fn run(
    path: Path,
    mut packets: mpsc::Receiver<Vec<u8>>,
    lost: mpsc::Sender<String>,
    standing: watch::Sender<Standing>,
    events: Events,
) {
    let address = path.peer.to_string();
    let note = |works: bool| {
        let to = if works { "up" } else { "down" };
        metrics::gauge!("bgp_speaker_bfd_up", "address" => address.clone()).set(f64::from(u8::from(works)));
        metrics::counter!("bgp_speaker_bfd_changes_total", "address" => address.clone(), "to" => to).increment(1);
    };
    metrics::gauge!("bgp_speaker_bfd_up", "address" => address.clone()).set(0.0);
    let socket = match sender(&path) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "cannot send BFD: the path is not watched");
            standing.send_modify(|now| now.take(State::Down, Some(format!("cannot send BFD: {error}"))));
            lost.closed().await;
            return;
        }
    };
    let to = SocketAddr::new(path.peer, PORT);
    let seed = RandomState::new().build_hasher().finish();
    let mut session = Session::new(path.settings, seed, clock::now());
    loop {
        let mut last_down = None;
        while let Some(output) = session.poll_output() {
            match output {
                // A packet that cannot leave is one that was lost: the far end will notice.
                Output::Send(bytes) => drop(socket.try_send_to(&bytes, to)),
                Output::Up => {
                    tracing::info!("the path works");
                    note(true);
                    events.tell(Event::BfdUp { address: address.clone() });
                }
                Output::Down(why) => {
                    last_down = Some(why.to_string());
                    tracing::warn!(%why, "the path is lost");
                    note(false);
                    events.tell(Event::BfdDown { address: address.clone(), reason: why.to_string() });
                    // If the session has not yet ended over an earlier word, it will.
                    let _ = lost.try_send(format!("BFD: {why}"));
                }
            }
        }
        standing.send_if_modified(|now| {
            let was_up = now.is_up();
            now.take(session.state(), last_down);
            // Whoever waits waits for the path to work, or to be lost.
            was_up != now.is_up()
        });
        tokio::select! {
            biased;
            () = lost.closed() => break,
            Some(packet) = packets.recv() => session.handle(Input::Received(&packet), clock::now()),
            () = clock::until(session.poll_timeout()) => session.handle(Input::Tick, clock::now()),
        }
    }
    session.handle(Input::Stop, clock::now());
    while let Some(output) = session.poll_output() {
        if let Output::Send(bytes) = output {
            let _ = socket.try_send_to(&bytes, to);
        }
    }
}
