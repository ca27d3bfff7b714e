//! Private links that the forwarder makes itself: a tag or a tunnel on an interface that is there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::Policy;
use crate::wireguard::WireGuard;

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
    /// IP in WireGuard: without ARP and ND. Its handshakes are the heartbeat.
    WireGuard(WireGuard),
}

impl MadeKind {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vlan { .. } => "vlan",
            Self::Vxlan { .. } => "vxlan",
            Self::Gre { .. } => "gre",
            Self::WireGuard(_) => crate::wireguard::FAMILY,
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
            Self::WireGuard(_) => "CONFIG_WIREGUARD",
        }
    }

    /// What of the underlay's MTU is not left for the packets inside. A tag is none of it.
    #[must_use]
    pub const fn overhead(&self) -> u32 {
        const ETHERNET: u32 = 14;
        const UDP_AND_VXLAN: u32 = 8 + 8;
        const GRE: u32 = 4;
        const UDP_AND_WIREGUARD: u32 = 8 + 16 + 16;
        match self {
            Self::Vlan { .. } => 0,
            Self::Vxlan { remote, .. } => ip_header(remote) + UDP_AND_VXLAN + ETHERNET,
            Self::Gre { remote, key, .. } => {
                // Over IPv6 with the option that limits nesting (RFC 2473 §5.1), which the kernel may put in.
                let option = if remote.is_ipv6() { 8 } else { 0 };
                ip_header(remote) + option + GRE + if key.is_some() { 4 } else { 0 } + ETHERNET
            }
            Self::WireGuard(tunnel) => UDP_AND_WIREGUARD + if tunnel.endpoint.is_ipv4() { 20 } else { 40 },
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
        let (remote, protocol, port) = match &self.kind {
            MadeKind::Vlan { .. } => return None,
            MadeKind::Vxlan { remote, port, .. } => (*remote, 17, Some(*port)),
            MadeKind::Gre { remote, .. } => (*remote, 47, None),
            MadeKind::WireGuard(tunnel) => (tunnel.endpoint.ip(), 17, Some(tunnel.endpoint.port())),
        };
        Some(Tunnel { underlay: self.underlay.clone(), remote, protocol, port })
    }

    /// Lets the other end of a WireGuard tunnel have what `policy` has behind it, and nothing else: what goes to the private prefixes
    /// goes to it, and what comes from it comes from them.
    #[must_use]
    pub fn serving(self, policy: &Policy) -> Self {
        let id = policy.link_of(&self.interface);
        let behind = policy.prefixes().iter().filter(|entry| id.is_some_and(|id| entry.is_behind(id)));
        let kind = match self.kind {
            MadeKind::WireGuard(tunnel) => {
                MadeKind::WireGuard(WireGuard { allowed: behind.map(|entry| entry.prefix).collect(), ..tunnel })
            }
            other => other,
        };
        Self { kind, ..self }
    }

    /// The WireGuard tunnel, if it is one.
    #[must_use]
    pub const fn wireguard(&self) -> Option<&WireGuard> {
        match &self.kind {
            MadeKind::WireGuard(tunnel) => Some(tunnel),
            _ => None,
        }
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
        let wireguard = |endpoint: &str| {
            let (private_key, endpoint) = (cloakway_crypto::Secret::new([7; 32]), endpoint.parse().unwrap());
            MadeKind::WireGuard(WireGuard {
                private_key,
                listen_port: 0,
                peer: [9; 32],
                endpoint,
                keepalive_s: 25,
                allowed: Vec::new(),
            })
        };
        for (kind, overhead, option) in [
            (MadeKind::Vlan { id: 1 }, 0, "CONFIG_VLAN_8021Q"),
            (vxlan(v4), 50, "CONFIG_VXLAN"),
            (vxlan(v6), 70, "CONFIG_VXLAN"),
            (gre(v4, None), 38, "CONFIG_NET_IPGRE"),
            (gre(v4, Some(7)), 42, "CONFIG_NET_IPGRE"),
            (gre(v6, None), 66, "CONFIG_IPV6_GRE"),
            (wireguard("192.0.2.1:51820"), 60, "CONFIG_WIREGUARD"),
            (wireguard("[2001:db8::1]:51820"), 80, "CONFIG_WIREGUARD"),
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

    #[test]
    fn the_other_end_of_a_wireguard_tunnel_has_the_private_prefixes_behind_it_and_no_more() {
        let policy = Policy::new(crate::policy::tests::example()).unwrap();
        let private_key = cloakway_crypto::Secret::new([7; 32]);
        let endpoint = "192.0.2.9:51820".parse().unwrap();
        let tunnel =
            WireGuard { private_key, listen_port: 0, peer: [9; 32], endpoint, keepalive_s: 25, allowed: Vec::new() };
        let link = |interface: &str| MadeLink {
            interface: interface.into(),
            underlay: "eth1".into(),
            kind: MadeKind::WireGuard(tunnel.clone()),
            addresses: Vec::new(),
            mtu: None,
        };
        let all: Vec<IpNet> = policy.prefixes().iter().map(|entry| entry.prefix).collect();
        assert_eq!(link("priv0").serving(&policy).wireguard().unwrap().allowed, all);
        assert!(link("wg9").serving(&policy).wireguard().unwrap().allowed.is_empty());
        let leaves = link("priv0").tunnel().unwrap();
        assert_eq!((leaves.protocol, leaves.port, leaves.remote), (17, Some(51820), "192.0.2.9".parse().unwrap()));
    }
}
