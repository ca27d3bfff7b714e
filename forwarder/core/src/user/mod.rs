//! The user data plane, as far as it is thought: a packet in, packets out, without I/O and without a clock.
//!
//! It does by itself what the guarded kernel does in the mode `kernel`: the policy, TTL and hop limit, ICMP errors with their
//! rations, fragmentation. So it is the oracle of the other data planes, and the policy's reference in a lab. The shell
//! reads frames from raw sockets, asks the kernel's routing and neighbour tables, and sends what comes out.

mod charge;
mod edit;
mod icmp;
mod ration;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakway_types::Instant;
use ipnet::IpNet;

use crate::decide::{Egress, Ingress, Reason, Verdict};
use crate::meter::Over;
use crate::parse::{Parsed, parse};
use crate::policy::Policy;
use charge::Charger;
pub use edit::{checksum, length};
pub use ration::Ration;

/// An interface of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Its addresses, each with the length of its subnet.
    pub addresses: Vec<IpNet>,
}

/// What the data plane knows of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The interfaces of the policy, by index.
    pub ports: BTreeMap<u32, Port>,
    /// All addresses of the host.
    pub own: BTreeSet<IpAddr>,
    /// The broadcast and anycast addresses of its subnets (RFC 919, RFC 4291 §2.6.1).
    pub shared: BTreeSet<IpAddr>,
}

impl Host {
    /// A host with these interfaces of the policy, and with `addresses` in all, each with the length of its subnet.
    #[must_use]
    pub fn new(ports: BTreeMap<u32, Port>, addresses: &[IpNet]) -> Self {
        let shared = addresses.iter().filter_map(|own| match own {
            IpNet::V4(net) => (net.prefix_len() < 31).then(|| net.broadcast().into()),
            IpNet::V6(net) => (net.prefix_len() < 127).then(|| net.network().into()),
        });
        Self { ports, own: addresses.iter().map(IpNet::addr).collect(), shared: shared.collect() }
    }
}

/// Where the routing table sends an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Out by the interface with this index, to this neighbour.
    Out {
        /// The index.
        index: u32,
        /// The neighbour.
        neighbour: IpAddr,
        /// The MTU of the interface, in octets of IP.
        mtu: usize,
    },
    /// Out by an interface that is none of the policy's.
    Elsewhere,
    /// Nowhere.
    Nowhere,
}

/// A frame that came in, as the socket gave it.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The index of the interface.
    pub port: u32,
    /// Its octets, from the Ethernet header on.
    pub octets: &'a [u8],
    /// For a super-packet, how much payload each of its packets has on the wire.
    pub segment: Option<usize>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is none of this data plane's: the kernel deals with it.
    Kernel,
    /// No host takes it for a packet, or it is for another one.
    Nothing,
    /// Dropped, and counted by its reason.
    Dropped(Reason),
    /// Dropped because it is beyond a limit.
    Over {
        /// Beyond which.
        over: Over,
        /// How many packets it counts as.
        counted: u64,
        /// How many octets it counts as.
        bytes: u64,
    },
    /// It goes on.
    Forwarded(Forwarded),
    /// It went no further, and its source is told.
    Answered(Answer),
}

/// A packet that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// To a private link or to a subscriber.
    pub verdict: Verdict,
    /// The index of the interface that it leaves by.
    pub index: u32,
    /// The neighbour there.
    pub neighbour: IpAddr,
    /// The packet, or its fragments.
    pub packets: Vec<Vec<u8>>,
    /// How many packets it counts as.
    pub counted: u64,
    /// How many octets it counts as.
    pub bytes: u64,
}

/// An ICMP error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The index of the interface that it leaves by.
    pub index: u32,
    /// The neighbour there.
    pub neighbour: IpAddr,
    /// The packet.
    pub packet: Vec<u8>,
    /// Whether it goes out by a private link, where it counts as what keeps the link working.
    pub is_upkeep: bool,
}

/// The data plane without its sockets: what it decides by, and accounts that outlive that. Many may step at a time; they meet
/// in the accounts alone, and nobody holds those while the routing table is asked.
#[derive(Debug)]
pub struct User {
    policy: Arc<Policy>,
    host: Host,
    accounts: Arc<Mutex<Accounts>>,
}

/// What changes with every packet.
#[derive(Debug)]
struct Accounts {
    ration: Ration,
    charger: Option<Charger>,
}

impl User {
    /// A data plane for `policy` on `host`.
    #[must_use]
    pub fn new(policy: Arc<Policy>, host: Host, ration: Ration) -> Self {
        let accounts = Accounts { ration, charger: Charger::new(&policy) };
        Self { policy, host, accounts: Arc::new(Mutex::new(accounts)) }
    }

    /// The data plane that decides by `policy` on `host` from now on: what was told to whom, and what was used, is one.
    #[must_use]
    pub fn follow(&self, policy: &Arc<Policy>, host: Host) -> Self {
        if !Arc::ptr_eq(&self.policy, policy) {
            Charger::follow(&mut self.accounts().charger, policy);
        }
        Self { policy: policy.clone(), host, accounts: self.accounts.clone() }
    }

    /// A poisoned lock still holds the state of the moment.
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The interfaces.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Tells sources of errors so often, by IP version.
    pub fn ration(&self, v4: Duration, v6: Duration) {
        self.accounts().ration.set(v4, v6);
    }

    /// What becomes of `frame`; `way` asks the routing table.
    pub fn step(&self, frame: &Frame<'_>, now: Instant, way: &mut dyn FnMut(IpAddr) -> Way) -> Fate {
        let Some(port) = self.host.ports.get(&frame.port) else { return Fate::Kernel };
        let Some((header, packet)) = frame.octets.split_at_checked(14) else { return Fate::Nothing };
        let version = packet.first().map(|first| first >> 4);
        let kind = match header.get(12..) {
            Some([0x08, 0x00]) => Some(4),
            Some([0x86, 0xdd]) => Some(6),
            _ => return Fate::Kernel,
        };
        let Ok(parsed) = parse(packet).map_err(drop) else { return Fate::Nothing };
        if version != kind || is_never_a_source(parsed.source) {
            return Fate::Nothing;
        }
        let is_link = self.policy.link_of(&port.name).is_some();
        if !is_link && self.policy.private_prefix(parsed.destination).is_none() {
            return Fate::Kernel;
        }
        let mine = self.host.own.contains(&parsed.destination)
            || self.host.shared.contains(&parsed.destination)
            || parsed.destination.is_multicast();
        let to = if mine { None } else { Some(way(parsed.destination)) };
        let name = |index: u32| self.host.ports.get(&index).map_or("", |port| port.name.as_str());
        let egress = match to {
            None => Egress::Host,
            Some(Way::Out { index, .. }) => Egress::Interface(name(index)),
            Some(Way::Elsewhere) => Egress::Interface(""),
            Some(Way::Nowhere) => Egress::Nowhere,
        };
        let asked = parsed.packet(Ingress::Interface(&port.name), egress, self.is_own(parsed.source));
        let verdict = self.policy.decide(&asked);
        // Between two links, it depends on whether that is known before routing.
        let at_arrival = |reason: Reason| match reason {
            Reason::Hairpin => self.policy.private_prefix(parsed.destination).is_some(),
            reason => reason.is_of_arrival(),
        };
        if let Verdict::Drop(reason) = verdict
            && at_arrival(reason)
        {
            return Fate::Dropped(reason);
        }
        // A packet to everybody on the wire is nobody's to forward.
        if egress != Egress::Host && header.get(..6) != Some(&port.mac) {
            return Fate::Nothing;
        }
        let out = match to {
            Some(Way::Out { index, neighbour, mtu }) => Some((index, neighbour, mtu)),
            _ => None,
        };
        let leaves = matches!(to, Some(Way::Out { .. } | Way::Elsewhere));
        if leaves && parsed.hops <= 1 {
            return self.tell(icmp::Error::TimeExceeded, frame.port, packet, &parsed, now, way);
        }
        let Some(mut aged) = edit::aged(packet).filter(|_| leaves) else {
            return if let Verdict::Drop(reason) = verdict { Fate::Dropped(reason) } else { Fate::Kernel };
        };
        let its = if verdict == Verdict::ToSubscriber { parsed.source } else { parsed.destination };
        if let Some(dscp) = self.policy.private_prefix(its).and_then(|entry| entry.dscp) {
            edit::mark(&mut aged, dscp);
        }
        if let (true, Some((_, _, mtu))) = (self.policy.clamps_mss() && edit::synchronises(&aged, &parsed), out) {
            // The lesser MTU of the way there and the way back.
            let mtu = match way(parsed.source) {
                Way::Out { mtu: back, .. } => mtu.min(back),
                Way::Elsewhere | Way::Nowhere => mtu,
            };
            edit::clamp(&mut aged, &parsed, mtu);
        }
        let (headers, largest) = edit::segment(&aged, frame.segment);
        let mtu = out.map_or(usize::MAX, |(_, _, mtu)| mtu);
        let pieces = match largest <= mtu {
            true => vec![aged],
            false => match edit::fragments(&aged, mtu).filter(|_| frame.segment.is_none()) {
                Some(pieces) => pieces,
                None => return self.tell(icmp::Error::TooBig(mtu), frame.port, packet, &parsed, now, way),
            },
        };
        match (verdict, out) {
            (Verdict::ToLink(_) | Verdict::ToSubscriber, Some((index, neighbour, _))) => {
                let (counted, bytes) = on_the_wire(length(packet).unwrap_or_default(), headers, frame.segment);
                if let Err(over) = self.charge(&parsed, verdict, (counted, bytes), now) {
                    return Fate::Over { over, counted, bytes };
                }
                Fate::Forwarded(Forwarded { verdict, index, neighbour, packets: pieces, counted, bytes })
            }
            (Verdict::Drop(reason), _) => Fate::Dropped(reason),
            _ => Fate::Kernel,
        }
    }

    /// The error that tells the source of a packet that its neighbour does not answer.
    pub fn unreachable(&self, frame: &Frame<'_>, now: Instant, way: &mut dyn FnMut(IpAddr) -> Way) -> Fate {
        let packet = frame.octets.get(14..).unwrap_or_default();
        match parse(packet) {
            Ok(parsed) => self.tell(icmp::Error::Unreachable, frame.port, packet, &parsed, now, way),
            Err(_) => Fate::Nothing,
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        let always = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_broadcast() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_loopback(),
        };
        always || address.is_multicast() || self.host.own.contains(&address) || self.host.shared.contains(&address)
    }

    /// Tells the source of `packet`, unless nobody may be told, or not so often.
    fn tell(
        &self,
        error: icmp::Error,
        port: u32,
        packet: &[u8],
        parsed: &Parsed,
        now: Instant,
        way: &mut dyn FnMut(IpAddr) -> Way,
    ) -> Fate {
        let Some(from) = self.host.ports.get(&port).and_then(|port| sane_source(port, parsed.source)) else {
            return Fate::Nothing;
        };
        if !icmp::may_be_told(packet, parsed) {
            return Fate::Nothing;
        }
        if !matches!(error, icmp::Error::TooBig(_)) && !self.accounts().ration.allows(parsed.source, now) {
            return Fate::Nothing;
        }
        match way(parsed.source) {
            Way::Out { index, neighbour, .. } => {
                let Some(out) = self.host.ports.get(&index) else { return Fate::Nothing };
                let is_upkeep = self.policy.link_of(&out.name).is_some();
                let packet = icmp::message(error, from, parsed.source, packet);
                Fate::Answered(Answer { index, neighbour, packet, is_upkeep })
            }
            Way::Elsewhere | Way::Nowhere => Fate::Nothing,
        }
    }
}

/// Sources that a host drops before any rule sees them.
fn is_never_a_source(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast(),
    }
}

/// How many packets of how many octets in all a packet is on the wire.
fn on_the_wire(length: usize, headers: usize, segment: Option<usize>) -> (u64, u64) {
    let whole = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let Some(payload) = segment.filter(|payload| *payload > 0) else { return (1, whole(length)) };
    let packets = length.saturating_sub(headers).div_ceil(payload).max(1);
    (whole(packets), whole(length + (packets - 1) * headers))
}

/// The address of the interface that the other side knows us by.
fn sane_source(port: &Port, other: IpAddr) -> Option<IpAddr> {
    let of_family = || port.addresses.iter().filter(|own| own.addr().is_ipv4() == other.is_ipv4());
    let usable = |own: &&IpNet| !matches!(own.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    let near = of_family().find(|own| own.contains(&other));
    near.or_else(|| of_family().find(usable)).map(IpNet::addr)
}

#[cfg(test)]
mod tests;
