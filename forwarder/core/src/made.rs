//! Private links that the forwarder makes itself: a tag or a tunnel on an interface that is there.

use std::net::IpAddr;

use ipnet::IpNet;

/// An interface to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeLink {
    /// Its name.
    pub interface: String,
    /// The interface that carries it. What is to leave by it leaves by no other, whatever the routes say.
    pub underlay: String,
    /// What it is.
    pub kind: MadeKind,
    /// Addresses of this host on it.
    pub addresses: Vec<IpNet>,
    /// Its MTU, where it is not that of the underlay without the overhead.
    pub mtu: Option<u32>,
}

/// What is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeKind {
    /// A VLAN (IEEE 802.1Q).
    Vlan {
        /// 1 to 4094.
        id: u16,
    },
    /// Ethernet in UDP (RFC 7348).
    Vxlan {
        /// The network identifier, of 24 bits.
        vni: u32,
        /// Our end.
        local: IpAddr,
        /// The other end.
        remote: IpAddr,
        /// The UDP port of both.
        port: u16,
    },
    /// Ethernet in GRE (RFC 2784, RFC 2890): an interface with ARP and ND, whose answers are the heartbeat.
    Gre {
        /// Our end.
        local: IpAddr,
        /// The other end.
        remote: IpAddr,
        /// The key, where there is one.
        key: Option<u32>,
    },
}

impl MadeKind {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vlan { .. } => "vlan",
            Self::Vxlan { .. } => "vxlan",
            Self::Gre { .. } => "gre",
        }
    }

    /// The kernel's option that it takes.
    #[must_use]
    pub const fn kernel_option(&self) -> &'static str {
        match self {
            Self::Vlan { .. } => "CONFIG_VLAN_8021Q",
            Self::Vxlan { .. } => "CONFIG_VXLAN",
            Self::Gre { remote: IpAddr::V4(_), .. } => "CONFIG_NET_IPGRE",
            Self::Gre { remote: IpAddr::V6(_), .. } => "CONFIG_IPV6_GRE",
        }
    }

    /// What of the underlay's MTU is not left for the packets inside. A tag is none of it.
    #[must_use]
    pub const fn overhead(&self) -> u32 {
        const ETHERNET: u32 = 14;
        const UDP_AND_VXLAN: u32 = 8 + 8;
        const GRE: u32 = 4;
        match self {
            Self::Vlan { .. } => 0,
            Self::Vxlan { remote, .. } => ip_header(remote) + UDP_AND_VXLAN + ETHERNET,
            Self::Gre { remote, key, .. } => {
                // Over IPv6 with the option that limits nesting (RFC 2473 §5.1), which the kernel may put in.
                let option = if remote.is_ipv6() { 8 } else { 0 };
                ip_header(remote) + option + GRE + if key.is_some() { 4 } else { 0 } + ETHERNET
            }
        }
    }
}

/// What leaves this host for the other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// The one interface that it may leave by.
    pub underlay: String,
    /// The other end.
    pub remote: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
    /// The destination port, where there are ports.
    pub port: Option<u16>,
}

impl MadeLink {
    /// The tunnel, if it is one.
    #[must_use]
    pub fn tunnel(&self) -> Option<Tunnel> {
        let (remote, protocol, port) = match self.kind {
            MadeKind::Vlan { .. } => return None,
            MadeKind::Vxlan { remote, port, .. } => (remote, 17, Some(port)),
            MadeKind::Gre { remote, .. } => (remote, 47, None),
        };
        Some(Tunnel { underlay: self.underlay.clone(), remote, protocol, port })
    }

    /// The MTU on an underlay with `underlay`.
    #[must_use]
    pub fn mtu_on(&self, underlay: u32) -> u32 {
        self.mtu.unwrap_or_else(|| underlay.saturating_sub(self.kind.overhead()))
    }
}

const fn ip_header(address: &IpAddr) -> u32 {
    if address.is_ipv4() { 20 } else { 40 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_is_that_of_the_headers() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let vxlan = |address| MadeKind::Vxlan { vni: 1, local: address, remote: address, port: 4789 };
        let gre = |address, key| MadeKind::Gre { local: address, remote: address, key };
        for (kind, overhead, option) in [
            (MadeKind::Vlan { id: 1 }, 0, "CONFIG_VLAN_8021Q"),
            (vxlan(v4), 50, "CONFIG_VXLAN"),
            (vxlan(v6), 70, "CONFIG_VXLAN"),
            (gre(v4, None), 38, "CONFIG_NET_IPGRE"),
            (gre(v4, Some(7)), 42, "CONFIG_NET_IPGRE"),
            (gre(v6, None), 66, "CONFIG_IPV6_GRE"),
        ] {
            assert_eq!((kind.overhead(), kind.kernel_option()), (overhead, option));
            let link = |mtu| MadeLink {
                interface: "tun0".into(),
                underlay: "eth1".into(),
                kind: kind.clone(),
                addresses: Vec::new(),
                mtu,
            };
            assert_eq!(link(None).mtu_on(1500), 1500 - overhead);
            assert_eq!(link(Some(1400)).mtu_on(1500), 1400);
        }
    }
}
