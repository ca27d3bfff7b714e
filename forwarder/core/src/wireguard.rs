//! What the kernel is told of a WireGuard link, and what it says of one: messages of generic netlink (`linux/genetlink.h`,
//! `linux/wireguard.h`), without I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use cloakway_crypto::Secret;
use ipnet::IpNet;

/// The name of the family, and of the kind of interface.
pub const FAMILY: &str = "wireguard";

/// No session lives longer than this without a new handshake (REJECT_AFTER_TIME), and with keepalives there is always one.
pub const HANDSHAKE_LIFE: Duration = Duration::from_secs(180);

/// Octets of a key.
pub const KEY: usize = 32;

/// Prefixes in a message: the kernel takes no message without end.
const PREFIXES: usize = 256;

/// One end of a tunnel, and the one other end that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuard {
    /// Our key.
    pub private_key: Secret<[u8; KEY]>,
    /// The UDP port of ours; 0 for any.
    pub listen_port: u16,
    /// The key of the other end.
    pub peer: [u8; KEY],
    /// Where it is.
    pub endpoint: SocketAddr,
    /// How often it hears of us, in seconds; 0 for only when there is something to say.
    pub keepalive_s: u16,
    /// What it has: the source of what comes from it, the destination of what goes to it.
    pub allowed: Vec<IpNet>,
}

/// What a link is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Our key, when there is one.
    pub private_key: Option<Secret<[u8; KEY]>>,
    /// The UDP port of ours.
    pub listen_port: u16,
    /// The other ends.
    pub peers: Vec<Peer>,
}

/// Another end as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub key: [u8; KEY],
    /// Where it is, as far as that is known.
    pub endpoint: Option<SocketAddr>,
    /// How often it hears of us, in seconds.
    pub keepalive_s: u16,
    /// When it last proved who it is, in seconds and nanoseconds of the wall clock; `None` for never.
    pub handshake: Option<Duration>,
    /// What it has.
    pub allowed: Vec<IpNet>,
}

/// Why what the kernel said is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's word on WireGuard ends in the midst of {0}")]
pub struct CutOff(&'static str);

// linux/genetlink.h
const CONTROL: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

// linux/wireguard.h
const VERSION: u8 = 1;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_FLAGS: u16 = 5;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const REPLACE_PEERS: u32 = 1;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_HANDSHAKE: u16 = 6;
const PEER_ALLOWED: u16 = 9;
const REPLACE_ALLOWED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;

// linux/netlink.h
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const DONE: u16 = 3;

// linux/socket.h
const INET: u16 = 2;
const INET6: u16 = 10;

/// Asks for the number of the family.
#[must_use]
pub fn ask_family() -> Vec<u8> {
    let name = [FAMILY.as_bytes(), &[0]].concat();
    message(CONTROL, REQUEST | ACKNOWLEDGE, CONTROL_GET_FAMILY, &attribute(CONTROL_FAMILY_NAME, &name))
}

/// The number of the family, when this is the answer.
#[must_use]
pub fn family(answer: &[u8]) -> Option<u16> {
    let (kind, body) = messages(answer).next()?;
    let found = attributes(body.get(4..)?).find(|(kind, _)| *kind == CONTROL_FAMILY_ID)?;
    (kind == CONTROL).then(|| found.1.first_chunk().map(|octets| u16::from_ne_bytes(*octets)))?
}

/// Asks what the link called `interface` is.
#[must_use]
pub fn ask_device(family: u16, interface: &str) -> Vec<u8> {
    message(family, REQUEST | DUMP, GET_DEVICE, &name_of(interface))
}

impl WireGuard {
    /// What makes a link that is `found` this one, a message at a time: nothing where it is this one already. A tunnel to the
    /// same other end goes on meanwhile.
    #[must_use]
    pub fn changes(&self, family: u16, interface: &str, found: &Found) -> Vec<Secret<Vec<u8>>> {
        let peer = match &found.peers[..] {
            [peer] if peer.key == self.peer => Some(peer),
            _ => None,
        };
        let listens = self.listen_port == 0 || self.listen_port == found.listen_port;
        let has_key = found.private_key.as_ref() == Some(&self.private_key);
        let same = |peer: &Peer| {
            peer.endpoint == Some(self.endpoint)
                && peer.keepalive_s == self.keepalive_s
                && has_all(&peer.allowed, &self.allowed)
        };
        let stale = peer.is_some_and(|peer| !has_all(&self.allowed, &peer.allowed));
        if has_key && listens && peer.is_some_and(same) && !stale {
            return Vec::new();
        }
        // What is there stays while more comes; only what is too much takes the whole list anew.
        let mut flags = if stale { REPLACE_ALLOWED } else { 0 };
        let mut device = Vec::with_capacity(256);
        device.extend(name_of(interface));
        if !has_key {
            device.extend(attribute(DEVICE_PRIVATE_KEY, self.private_key.expose()));
        }
        if !listens {
            device.extend(attribute(DEVICE_LISTEN_PORT, &self.listen_port.to_ne_bytes()));
        }
        if peer.is_none() {
            device.extend(attribute(DEVICE_FLAGS, &REPLACE_PEERS.to_ne_bytes()));
        }
        let mut messages = Vec::new();
        let lists: Vec<&[IpNet]> =
            if self.allowed.is_empty() { vec![&[]] } else { self.allowed.chunks(PREFIXES).collect() };
        for list in lists {
            let mut of_peer = attribute(PEER_PUBLIC_KEY, &self.peer);
            of_peer.extend(attribute(PEER_FLAGS, &flags.to_ne_bytes()));
            of_peer.extend(attribute(PEER_ENDPOINT, &socket_address(self.endpoint)));
            of_peer.extend(attribute(PEER_KEEPALIVE, &self.keepalive_s.to_ne_bytes()));
            of_peer.extend(attribute(PEER_ALLOWED | NESTED, &list.iter().flat_map(allowed).collect::<Vec<u8>>()));
            device.extend(attribute(DEVICE_PEERS | NESTED, &attribute(NESTED, &of_peer)));
            messages.push(Secret::new(message(family, REQUEST | ACKNOWLEDGE, SET_DEVICE, &device)));
            // The octets of the key are not left behind.
            drop(Secret::new(std::mem::take(&mut device)));
            device.extend(name_of(interface));
            flags = 0;
        }
        messages
    }
}

impl Found {
    /// Takes in a part of the kernel's answer; says whether it was the last.
    ///
    /// # Errors
    /// [`CutOff`], or the number of the kernel's error.
    pub fn take(&mut self, answer: &[u8]) -> Result<bool, Result<i32, CutOff>> {
        for (kind, body) in messages(answer) {
            match kind {
                DONE => return Ok(true),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| -i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(true) } else { Err(Ok(code)) };
                }
                _ => self.take_device(body.get(4..).ok_or(Err(CutOff("its header")))?).map_err(Err)?,
            }
        }
        Ok(false)
    }

    fn take_device(&mut self, body: &[u8]) -> Result<(), CutOff> {
        for (kind, value) in attributes(body) {
            match kind {
                DEVICE_PRIVATE_KEY => {
                    self.private_key = Some(Secret::new(*value.first_chunk().ok_or(CutOff("a key"))?));
                }
                DEVICE_LISTEN_PORT => {
                    self.listen_port = u16::from_ne_bytes(*value.first_chunk().ok_or(CutOff("a port"))?);
                }
                DEVICE_PEERS => {
                    for (_, peer) in attributes(value) {
                        let peer = Peer::read(peer)?;
                        // One with many prefixes is told in several messages.
                        match self.peers.last_mut().filter(|last| last.key == peer.key) {
                            Some(last) => last.allowed.extend(peer.allowed),
                            None => self.peers.push(peer),
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Peer {
    fn read(octets: &[u8]) -> Result<Self, CutOff> {
        let mut peer = Self::default();
        for (kind, value) in attributes(octets) {
            match kind {
                PEER_PUBLIC_KEY => peer.key = *value.first_chunk().ok_or(CutOff("a key"))?,
                PEER_ENDPOINT => peer.endpoint = endpoint(value),
                PEER_KEEPALIVE => {
                    peer.keepalive_s = u16::from_ne_bytes(*value.first_chunk().ok_or(CutOff("a keepalive"))?);
                }
                PEER_HANDSHAKE => {
                    let time: &[u8; 16] = value.first_chunk().ok_or(CutOff("a time"))?;
                    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, n4, n5, n6, n7] = *time;
                    let seconds = u64::from_ne_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
                    let nanos = u64::from_ne_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
                    let time = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos));
                    peer.handshake = Some(time).filter(|time| !time.is_zero());
                }
                PEER_ALLOWED => {
                    for (_, prefix) in attributes(value) {
                        peer.allowed.push(prefix_of(prefix).ok_or(CutOff("a prefix"))?);
                    }
                }
                _ => {}
            }
        }
        Ok(peer)
    }
}

/// Whether the other end has proved itself of late: with keepalives a tunnel that works never has an older handshake.
#[must_use]
pub fn is_alive(found: &Found, peer: &[u8; KEY], wall: Duration) -> bool {
    let last = found.peers.iter().find(|known| known.key == *peer).and_then(|known| known.handshake);
    // A clock that was set back meanwhile says nothing against it.
    last.is_some_and(|last| wall.saturating_sub(last) < HANDSHAKE_LIFE)
}

/// Whether `all` are among `these`.
fn has_all(these: &[IpNet], all: &[IpNet]) -> bool {
    all.iter().all(|prefix| these.contains(prefix))
}

fn name_of(interface: &str) -> Vec<u8> {
    attribute(DEVICE_IFNAME, &[interface.as_bytes(), &[0]].concat())
}

fn allowed(prefix: &IpNet) -> Vec<u8> {
    let (family, address) = match prefix {
        IpNet::V4(net) => (INET, net.addr().octets().to_vec()),
        IpNet::V6(net) => (INET6, net.addr().octets().to_vec()),
    };
    let mut octets = attribute(ALLOWED_FAMILY, &family.to_ne_bytes());
    octets.extend(attribute(ALLOWED_ADDRESS, &address));
    octets.extend(attribute(ALLOWED_LENGTH, &[prefix.prefix_len()]));
    attribute(NESTED, &octets)
}

fn prefix_of(octets: &[u8]) -> Option<IpNet> {
    let of = |wanted: u16| attributes(octets).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let address: IpAddr =
        match (of(ALLOWED_FAMILY)?.first_chunk().map(|family| u16::from_ne_bytes(*family))?, of(ALLOWED_ADDRESS)?) {
            (INET, address) => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
            (INET6, address) => Ipv6Addr::from(*address.first_chunk::<16>()?).into(),
            _ => return None,
        };
    IpNet::new(address, *of(ALLOWED_LENGTH)?.first()?).ok()
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(endpoint: SocketAddr) -> Vec<u8> {
    let port = endpoint.port().to_be_bytes();
    match endpoint {
        SocketAddr::V4(v4) => [&INET.to_ne_bytes()[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => {
            let (flow, scope) = (v6.flowinfo().to_be_bytes(), v6.scope_id().to_ne_bytes());
            [&INET6.to_ne_bytes()[..], &port, &flow, &v6.ip().octets(), &scope].concat()
        }
    }
}

fn endpoint(octets: &[u8]) -> Option<SocketAddr> {
    let (&[f0, f1, p0, p1], rest) = octets.split_first_chunk()?;
    let port = u16::from_be_bytes([p0, p1]);
    match u16::from_ne_bytes([f0, f1]) {
        INET => Some(SocketAddr::new(Ipv4Addr::from(*rest.first_chunk::<4>()?).into(), port)),
        INET6 => Some(SocketAddr::new(Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?).into(), port)),
        _ => None,
    }
}

fn message(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(attributes.len() + 20).unwrap_or(u32::MAX);
    let mut octets = Vec::with_capacity(attributes.len() + 20);
    octets.extend(length.to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(flags.to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend([command, VERSION, 0, 0]);
    octets.extend(attributes);
    octets
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut octets = Vec::with_capacity(value.len().next_multiple_of(4) + 4);
    octets.extend(length.to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(value);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// Type and body of each message that one read gave.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, l2, l3, t0, t1], _) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let body = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]), body))
    })
}

/// Type and value of each attribute.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, t0, t1], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is coded.
        Some((u16::from_ne_bytes([t0, t1]) & 0x3fff, value))
    })
}

#[cfg(test)]
mod tests;
