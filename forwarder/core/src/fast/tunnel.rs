//! Tunnels whose headers the program writes and reads itself, in place of the kernel's device.

use std::net::IpAddr;
use std::ops::Range;

use super::{Host, HostInterface, Port, Role, Table};

/// A VXLAN device of the kernel (RFC 7348) with one other end, as far as its frames depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The interface that carries it.
    pub underlay: Underlay,
    /// Our end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// The network identifier, of 24 bits.
    pub vni: u32,
    /// The UDP port of both.
    pub port: u16,
    /// Source ports, of which a flow has one.
    pub sources: Range<u16>,
    /// The TTL or hop limit outside.
    pub hops: u8,
    /// What of the traffic class is outside: its DSCP, or 1 for that of the packet inside.
    pub tos: u8,
    /// Whether IPv4 outside is kept whole.
    pub whole: Whole,
    /// Whether UDP outside has a checksum.
    pub checksum: bool,
    /// Whether it may come without one.
    pub takes_unsummed: bool,
    /// Whether the device is set up: else nothing comes by it.
    pub is_up: bool,
}

/// The bit "don't fragment" of the outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// Not set.
    No,
    /// Set.
    Yes,
    /// As the packet inside has it; IPv6 is never fragmented.
    Inherited,
}

/// An interface that carries tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// The kernel's word for a virtual interface; `None` for a device.
    pub kind: Option<String>,
}

impl Table {
    /// Leaves the tunnels away whose underlay is an interface of the policy itself: there is one program at each.
    pub(super) fn settle_tunnels(&mut self) {
        let own: Vec<u32> = self.ports.keys().copied().collect();
        for port in self.ports.values_mut() {
            port.tunnel.take_if(|tunnel| own.contains(&tunnel.underlay.index));
        }
    }

    /// The private links that are tunnels, with the index of each one's device.
    pub fn tunnels(&self) -> impl Iterator<Item = (u32, &Tunnel)> {
        self.ports.iter().filter_map(|(index, port)| Some((*index, port.tunnel.as_ref()?)))
    }

    /// The interfaces where frames of the policy meet a driver, by index: its own, and what carries its tunnels.
    pub fn devices(&self) -> impl Iterator<Item = (u32, &str)> {
        self.ports.iter().map(|(index, port)| match &port.tunnel {
            Some(tunnel) => (tunnel.underlay.index, tunnel.underlay.name.as_str()),
            None => (*index, port.name.as_str()),
        })
    }
}

/// A virtual interface that frames come by, if it is one: of a tunnel that is made here, what carries it.
pub(super) fn virtual_one<'a>(host: &'a Host, name: &'a str, role: Role) -> Option<(&'a str, &'a str)> {
    let found: &HostInterface = host.interfaces.get(name)?;
    match &found.tunnel {
        Some(tunnel) if role == Role::Link && !host.interfaces.contains_key(&tunnel.underlay.name) => {
            tunnel.underlay.kind.as_deref().map(|kind| (tunnel.underlay.name.as_str(), kind))
        }
        _ => found.kind.as_deref().map(|kind| (name, kind)),
    }
}

impl Port {
    /// Of an interface that is there and has an Ethernet header.
    pub(super) fn new(name: &str, role: Role, bit: u64, found: &HostInterface) -> Option<Self> {
        let tunnel = found.tunnel.clone().filter(|_| role == Role::Link);
        Some(Self { name: name.to_owned(), role, mac: found.mac?, bit, tunnel })
    }
}
