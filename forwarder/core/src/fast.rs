//! The fast path: which packets a program at the interfaces forwards by itself, and what it has to know for that.
//!
//! It forwards the plain packet that the policy allows, and hands every other one, unchanged, to the guarded kernel,
//! which drops and counts what is wrong. [`Table`] is what the program gets; [`Table::outcome`] is the model of
//! the program, which a test holds against it packet by packet.

mod outcome;
mod tunnel;

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloakway_types::PrefixMap;
use ipnet::IpNet;

use crate::decide::Kind;
use crate::meter::{Limit, Metering};
use crate::parse::{Parsed, parse};
use crate::policy::{LinkId, Policy, Service};

pub use outcome::Outcome;
pub use tunnel::{Tunnel, Underlay, Whole};

/// Services of one prefix that the program can hold; a prefix with more takes the slow path.
pub const MAX_SERVICES: usize = 32;

/// What the program needs to know of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The interfaces of the policy that are there, by name.
    pub interfaces: BTreeMap<String, HostInterface>,
    /// All addresses of the host, each with the length of its subnet.
    pub addresses: Vec<IpNet>,
}

/// One interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Its index.
    pub index: u32,
    /// Its link-layer address; `None` when it has no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// The kernel's word for a virtual interface, such as `veth` or `vxlan`; `None` for a device.
    pub kind: Option<String>,
    /// What it is, where it is a tunnel that the program can make in its place.
    pub tunnel: Option<Tunnel>,
}

/// Where the program meets packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// In the driver, before the kernel makes anything of the frame.
    Xdp,
    /// Behind the kernel's receive path, where offloads have their meaning.
    Tcx,
}

impl Hook {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
        }
    }
}

/// On which side of the host an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Subscribers' packets arrive there.
    Subscribers,
    /// It is a private link.
    Link,
}

/// An interface where the program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its side.
    pub role: Role,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Of a private link: its bit in [`Private::links`].
    pub bit: u64,
    /// Of a private link that is a tunnel, and made by the program where that meets the frames of its underlay.
    pub tunnel: Option<Tunnel>,
}

/// A private prefix as the program knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Private {
    /// The bits of its links' interfaces.
    pub links: u64,
    /// Whether the kernel's hash chooses among them, packet by packet.
    pub spread: bool,
    /// Its entry in [`Table::services`], counted from 1; 0 when everything is allowed.
    pub services: u32,
    /// Its entry in [`Metered::prefixes`], counted from 1; 0 when nothing is limited.
    pub limit: u32,
    /// The DSCP that its packets get; `None`: they keep theirs.
    pub dscp: Option<u8>,
}

/// What the program charges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// What each source may use.
    pub source: Limit,
    /// The private prefixes with limits, and those.
    pub prefixes: Vec<(IpNet, Limit)>,
    /// How long the prefix is that is one source of IPv6.
    pub v6_source: u8,
    /// How many sources there is room for.
    pub sources: u32,
    /// Whether what comes back is charged too.
    pub answers: bool,
}

/// All that the program knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The interfaces, by index.
    pub ports: BTreeMap<u32, Port>,
    /// The private prefixes that it forwards for.
    pub private: Vec<(IpNet, Private)>,
    /// The subscribers' prefixes, and `false` for addresses among them that are the host's own.
    pub subscribers: Vec<(IpNet, bool)>,
    /// Lists of services.
    pub services: Vec<Vec<Service>>,
    /// What is charged; `None` when nothing is.
    pub metered: Option<Metered>,
    /// Whether what begins a TCP connection is left to the kernel, which changes its MSS.
    pub clamps_mss: bool,
    /// Whether it stands aside unless somebody goes on saying that a forwarder is running.
    pub leased: bool,
}

impl Policy {
    /// What the program has to know for this policy on `host`.
    #[must_use]
    pub fn fast_table(&self, host: &Host) -> Table {
        let mut table = Table::default();
        let bit = |link: usize| u32::try_from(link).ok().and_then(|link| 1_u64.checked_shl(link)).unwrap_or(0);
        let links = self.links().iter().enumerate().map(|(at, link)| (&link.interface, Role::Link, bit(at)));
        let all = self.subscriber_interfaces().iter().map(|name| (name, Role::Subscribers, 0)).chain(links);
        for (name, role, bit) in all {
            let Some(found) = host.interfaces.get(name) else { continue };
            if let Some(port) = Port::new(name, role, bit, found) {
                table.ports.insert(found.index, port);
            }
        }
        table.settle_tunnels();
        let limits = self.limits();
        let mut metered = (self.metering() == Metering::Mark).then(|| Metered {
            source: limits.per_source,
            prefixes: Vec::new(),
            v6_source: limits.v6_source,
            sources: limits.sources,
            answers: limits.answers,
        });
        for entry in self.prefixes() {
            let there = entry.ways.iter().filter(|way| self.is_port(way.link, host));
            let mut links = there.map(|way| bit(way.link.0)).fold(0, |all, bit| all | bit);
            // What it only charges has no link by which it could forward.
            if entry.services.len() > MAX_SERVICES {
                links = 0;
            }
            if links == 0 && metered.is_none() {
                continue;
            }
            let mut limit = 0;
            if let Some(metered) = &mut metered
                && !limits.of_prefix(entry.prefix).is_none()
            {
                metered.prefixes.push((entry.prefix, limits.of_prefix(entry.prefix)));
                limit = u32::try_from(metered.prefixes.len()).unwrap_or(u32::MAX);
            }
            let mut services = 0;
            if !entry.services.is_empty() && entry.services.len() <= MAX_SERVICES {
                table.services.push(entry.services.clone());
                services = u32::try_from(table.services.len()).unwrap_or(u32::MAX);
            }
            table
                .private
                .push((entry.prefix, Private { links, spread: entry.spread, services, limit, dscp: entry.dscp }));
        }
        let mut subscribers: BTreeMap<IpNet, bool> =
            self.subscriber_prefixes().iter().map(|prefix| (*prefix, true)).collect();
        for own in host.addresses.iter().flat_map(own).filter(|own| self.is_subscriber(*own)) {
            subscribers.insert(IpNet::from(own), false);
        }
        table.subscribers = subscribers.into_iter().collect();
        table.metered = metered;
        table.clamps_mss = self.clamps_mss();
        table.leased = self.is_only_attended();
        table
    }

    /// The better hook for the interfaces of this policy, and why. XDP is for frames as they come from a wire: a virtual
    /// interface may hand over super-packets and checksums that nobody has computed yet.
    #[must_use]
    pub fn hook(&self, host: &Host) -> (Hook, String) {
        let links = self.links().iter().map(|link| (&link.interface, Role::Link));
        let mut all = self.subscriber_interfaces().iter().map(|name| (name, Role::Subscribers)).chain(links);
        match all.find_map(|(name, role)| tunnel::virtual_one(host, name, role)) {
            Some((name, kind)) => (Hook::Tcx, format!("{name} is a {kind}, where packets may come with offloads")),
            None => (Hook::Xdp, "every interface is a device".to_owned()),
        }
    }

    fn is_port(&self, link: LinkId, host: &Host) -> bool {
        host.interfaces.get(self.interface(link)).is_some_and(|found| found.mac.is_some())
    }
}

/// The addresses that an address of the host takes from use as a source: itself, and the broadcast and anycast
/// addresses of its subnet (RFC 919, RFC 4291 §2.6.1).
fn own(address: &IpNet) -> Vec<IpAddr> {
    let mut taken = vec![address.addr(), address.network()];
    if address.addr().is_ipv4() && address.prefix_len() < 31 {
        taken.push(address.broadcast());
    }
    taken
}

/// Where the routing table would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The index of the interface.
    pub out: u32,
    /// The MTU of the way, in bytes of IP.
    pub mtu: usize,
}

impl Table {
    /// What the program does with the Ethernet frame `frame` that came in by the interface `port`, when the routing
    /// table answers with `hop` for its destination.
    #[must_use]
    pub fn outcome(&self, port: u32, frame: &[u8], hop: impl Fn(IpAddr) -> Option<Hop>) -> Option<Outcome> {
        let port = self.ports.get(&port)?;
        Some(match self.plain(port, frame) {
            Ok((parsed, length)) => match self.decide(port, &parsed, hop) {
                Ok((_, hop)) if length > hop.mtu => Outcome::TooBig,
                Ok((outcome, _)) | Err(outcome) => outcome,
            },
            Err(outcome) => outcome,
        })
    }

    /// The packet and its length, when it is plain.
    fn plain(&self, port: &Port, frame: &[u8]) -> Result<(Parsed, usize), Outcome> {
        let (header, packet) = frame.split_at_checked(14).ok_or(Outcome::NotIp)?;
        let (destination, kind) = (header.get(..6), header.get(12..));
        if destination != Some(&port.mac) {
            return Err(Outcome::LinkLayer);
        }
        let least = match kind {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => return Err(Outcome::NotIp),
        };
        let octet = |at: usize| packet.get(at).copied().unwrap_or_default();
        let word = |at: usize| u16::from_be_bytes([octet(at), octet(at + 1)]);
        if packet.len() < least {
            return Err(Outcome::IpHeader);
        }
        let length = if least == 20 {
            if octet(0) != 0x45 {
                return Err(Outcome::IpHeader);
            }
            if word(6) & 0x3fff != 0 {
                return Err(Outcome::Fragment);
            }
            if octet(8) <= 1 {
                return Err(Outcome::HopsLeft);
            }
            usize::from(word(2))
        } else {
            if octet(0) >> 4 != 6 {
                return Err(Outcome::IpHeader);
            }
            match octet(6) {
                44 => return Err(Outcome::Fragment),
                0 | 43 | 51 | 59 | 60 | 135 | 139 | 140 | 253 | 254 => return Err(Outcome::IpHeader),
                _ => {}
            }
            if octet(7) <= 1 {
                return Err(Outcome::HopsLeft);
            }
            usize::from(word(4)) + 40
        };
        if !sums_up(packet.get(..20).filter(|_| least == 20)) || length < least {
            return Err(Outcome::IpHeader);
        }
        // A frame of less than 60 octets is padded on the wire.
        if length > packet.len() || (length < packet.len() && packet.len() > 46) {
            return Err(Outcome::IpHeader);
        }
        let parsed = parse(packet).map_err(|_| Outcome::IpHeader)?;
        // What the program has to read of the transport, or would be a strange thing to meet.
        let transport = match parsed.protocol {
            6 => 20,
            17 => 8,
            33 | 132 | 136 => 4,
            1 | 58 => 1,
            _ => 0,
        };
        if length < least + transport {
            return Err(Outcome::IpHeader);
        }
        const SYN: u8 = 2;
        if self.clamps_mss && parsed.protocol == 6 && octet(least + 13) & SYN != 0 {
            return Err(Outcome::Synchronises);
        }
        Ok((parsed, length))
    }

    /// Who pays for the frame: a subscriber and a private prefix, and the bytes of IP. Frames that the kernel is sure
    /// to drop by their headers are not looked at here.
    #[must_use]
    pub fn payer(&self, port: u32, frame: &[u8]) -> Option<(IpAddr, IpNet, u64)> {
        let (metered, port) = (self.metered.as_ref()?, self.ports.get(&port)?);
        let (header, packet) = frame.split_at_checked(14)?;
        if header.get(..6) != Some(&port.mac) {
            return None;
        }
        let word =
            |at: usize| packet.get(at..at + 2).and_then(|two| two.first_chunk().copied()).map(u16::from_be_bytes);
        let first = *packet.first()?;
        let address = |at: usize| match header.get(12..)? {
            [0x08, 0x00] => packet.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
            _ => packet.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        };
        let (source, destination, length, least) = match header.get(12..)? {
            [0x08, 0x00] if first >> 4 == 4 && first & 15 >= 5 => {
                (address(12)?, address(16)?, usize::from(word(2)?), usize::from(first & 15) * 4)
            }
            [0x86, 0xdd] if first >> 4 == 6 => (address(8)?, address(24)?, usize::from(word(4)?) + 40, 40),
            _ => return None,
        };
        if length < least || length > packet.len() {
            return None;
        }
        let private: PrefixMap<()> = self.private.iter().map(|(prefix, _)| (*prefix, ())).collect();
        let subscribers: PrefixMap<bool> = self.subscribers.iter().copied().collect();
        let (subscriber, private) = match port.role {
            Role::Subscribers => (source, private.lookup(destination)?.0),
            Role::Link if metered.answers => (destination, private.lookup(source)?.0),
            Role::Link => return None,
        };
        subscribers.lookup(subscriber).filter(|(_, is)| **is)?;
        Some((subscriber, private, u64::try_from(length).unwrap_or(u64::MAX)))
    }

    fn decide(
        &self,
        port: &Port,
        parsed: &Parsed,
        hop: impl Fn(IpAddr) -> Option<Hop>,
    ) -> Result<(Outcome, Hop), Outcome> {
        let private: PrefixMap<Private> = self.private.iter().copied().collect();
        let subscribers: PrefixMap<bool> = self.subscribers.iter().copied().collect();
        let of = |address| private.lookup(address).map(|(_, found)| *found);
        let is_subscriber = |address| subscribers.lookup(address).is_some_and(|(_, found)| *found);
        let (source_port, destination_port) = parsed.ports.unwrap_or_default();
        let destination = of(parsed.destination);
        match port.role {
            Role::Subscribers => {
                let destination = destination.ok_or(Outcome::Bystander)?;
                if !is_subscriber(parsed.source) {
                    return Err(Outcome::Source);
                }
                self.serves(destination, parsed, destination_port)?;
                let its = |hop: &Hop| self.ports.get(&hop.out).is_some_and(|to| to.bit & destination.links != 0);
                let hop = hop(parsed.destination).filter(its).ok_or(Outcome::NoHop)?;
                Ok((Outcome::ToPrivate, hop))
            }
            Role::Link => {
                let source = of(parsed.source).filter(|source| source.links & port.bit != 0).ok_or(Outcome::Source)?;
                if destination.is_some() || !is_subscriber(parsed.destination) {
                    return Err(Outcome::Destination);
                }
                self.serves(source, parsed, source_port)?;
                let subscribers = |hop: &Hop| self.ports.get(&hop.out).is_some_and(|to| to.role == Role::Subscribers);
                let hop = hop(parsed.destination).filter(subscribers).ok_or(Outcome::NoHop)?;
                Ok((Outcome::FromPrivate, hop))
            }
        }
    }

    fn serves(&self, private: Private, parsed: &Parsed, port: u16) -> Result<(), Outcome> {
        let Some(index) = private.services.checked_sub(1) else { return Ok(()) };
        let services = usize::try_from(index).ok().and_then(|index| self.services.get(index));
        let has = |service: &Service| service.has(parsed.protocol, Some(port));
        let serves = parsed.kind != Kind::IcmpError && services.is_some_and(|services| services.iter().any(has));
        if serves { Ok(()) } else { Err(Outcome::Service) }
    }
}

/// Whether the header's ones' complement sum is all ones (RFC 1071); so it is without one.
fn sums_up(header: Option<&[u8]>) -> bool {
    let Some(header) = header else { return true };
    let (words, _) = header.as_chunks();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;

    fn host() -> Host {
        let interface = |index, mac| HostInterface { index, mac, kind: Some("veth".into()), tunnel: None };
        Host {
            interfaces: [
                ("edge0", interface(3, Some([2, 0, 0, 0, 0, 3]))),
                ("priv0", interface(5, Some([2, 0, 0, 0, 0, 5]))),
            ]
            .map(|(name, found)| (name.to_owned(), found))
            .into(),
            addresses: ["198.51.100.65/26", "192.0.2.249/30", "2001:db8:5100:64::1/64"]
                .map(|a| a.parse().unwrap())
                .to_vec(),
        }
    }

    #[test]
    fn own_broadcast_and_anycast_addresses_are_no_sources() {
        let table = Policy::new(example()).unwrap().fast_table(&host());
        let holes: Vec<_> =
            table.subscribers.iter().filter(|(_, allowed)| !allowed).map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(
            holes,
            [
                "198.51.100.64/32",
                "198.51.100.65/32",
                "198.51.100.127/32",
                "2001:db8:5100:64::/128",
                "2001:db8:5100:64::1/128"
            ]
        );
    }

    #[test]
    fn without_an_ethernet_link_its_prefixes_take_the_slow_path() {
        let mut host = host();
        host.interfaces.get_mut("priv0").unwrap().mac = None;
        let table = Policy::new(example()).unwrap().fast_table(&host);
        assert!(table.private.is_empty());
        assert_eq!(table.ports.len(), 1);
    }

    #[test]
    fn outcomes_are_counted_in_their_order() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.name());
        }
    }
}
