//! What the cloak is told: its addresses, its neighbours, its members, its bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::{IspId, PrefixMap};
use ipnet::IpNet;

/// What a cloaked interface is and whom it answers.
#[derive(Debug, Clone)]
pub struct CloakConfig {
    /// The interface's own Ethernet address.
    pub hardware_address: [u8; 6],
    /// The private network addresses that live here, IPv4 and IPv6 (A1).
    pub addresses: Vec<IpAddr>,
    /// The one TCP port that is served.
    pub port: u16,
    /// The forwarder's IPv4 address on the link: next hop of every IPv4 answer.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The forwarder's IPv6 address on the link: next hop of every IPv6 answer.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Source prefixes of the member ISPs; the longest match names the ISP.
    pub members: Vec<(IpNet, IspId)>,
    /// The largest IP packet on the link, octets. TCP segment sizes follow from it.
    pub mtu: u16,
    /// How much state and time strangers may use.
    pub limits: Limits,
}

/// The bounds of everything that grows with traffic (A12).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in any state, half-open and closing ones included.
    pub max_connections: usize,
    /// Connections whose handshake is not finished.
    pub max_half_open: usize,
    /// Connections in any state from one ISP's subscribers.
    pub max_per_isp: usize,
    /// Connections from one ISP's subscribers whose handshake is not finished.
    pub max_half_open_per_isp: usize,
    /// Connections in any state from one IPv4 address or one IPv6 /64.
    pub max_per_source: usize,
    /// From the SYN to the end of the handshake; then the half-open connection is forgotten.
    pub handshake_timeout: Duration,
    /// Without a segment from the peer; then the connection is forgotten.
    pub idle_timeout: Duration,
    /// From [`Cloak::close`](crate::Cloak::close) until a connection is forgotten, acknowledged or not.
    pub linger_timeout: Duration,
    /// Receive buffer of a connection, octets.
    pub receive_buffer: usize,
    /// Send buffer of a connection, octets.
    pub send_buffer: usize,
    /// Frames waiting for [`Cloak::poll_transmit`](crate::Cloak::poll_transmit).
    pub transmit_queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_half_open: 128,
            max_per_isp: 1024,
            max_half_open_per_isp: 128,
            max_per_source: 16,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(5),
            receive_buffer: 16 * 1024,
            send_buffer: 16 * 1024,
            transmit_queue: 1024,
        }
    }
}

/// Why a [`CloakConfig`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The Ethernet address is a group address or zero.
    #[error("hardware address {0:02x?} is not a unicast Ethernet address")]
    HardwareAddress([u8; 6]),
    /// No private network address.
    #[error("no private network address is given: the cloak has nothing to answer for")]
    NoAddress,
    /// An address that no host can have.
    #[error("private network address {0} is not a unicast address")]
    Address(IpAddr),
    /// The same address twice.
    #[error("private network address {0} is given twice")]
    DuplicateAddress(IpAddr),
    /// An address family without a way back.
    #[error("private network address {0} has no gateway of its family: give the forwarder's address on the link")]
    NoGateway(IpAddr),
    /// A gateway that no host can be, or that is one of our own addresses.
    #[error("gateway {0} is not the unicast address of another host")]
    Gateway(IpAddr),
    /// Port 0.
    #[error("port 0 cannot be served: give 1 to 65535")]
    Port,
    /// Nobody may connect.
    #[error("no member prefix is given: nobody could connect")]
    NoMember,
    /// A prefix that covers a whole address family.
    #[error("member prefix {0} lets everybody in: give the ISP's own prefixes")]
    MemberTooWide(IpNet),
    /// The same prefix twice.
    #[error("member prefix {0} is given twice")]
    DuplicateMember(IpNet),
    /// An MTU below what IPv6 guarantees (RFC 8200 §5).
    #[error("MTU {0} is too small: at least 1280 is needed (RFC 8200 §5)")]
    Mtu(u16),
    /// A limit of nothing.
    #[error("limit {0} is zero")]
    ZeroLimit(&'static str),
}

/// The checked rules that a frame meets.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) hardware_address: [u8; 6],
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) port: u16,
    pub(crate) members: PrefixMap<IspId>,
}

impl CloakConfig {
    pub(crate) fn rules(&self) -> Result<Rules, ConfigError> {
        if !is_unicast_mac(self.hardware_address) {
            return Err(ConfigError::HardwareAddress(self.hardware_address));
        }
        if self.port == 0 {
            return Err(ConfigError::Port);
        }
        if self.mtu < 1280 {
            return Err(ConfigError::Mtu(self.mtu));
        }
        self.limits.check()?;
        let addresses = self.checked_addresses()?;
        for gateway in self.gateway_v4.map(IpAddr::V4).into_iter().chain(self.gateway_v6.map(IpAddr::V6)) {
            if !is_unicast(gateway) || addresses.contains(&gateway) {
                return Err(ConfigError::Gateway(gateway));
            }
        }
        Ok(Rules {
            hardware_address: self.hardware_address,
            addresses,
            port: self.port,
            members: self.checked_members()?,
        })
    }

    fn checked_addresses(&self) -> Result<BTreeSet<IpAddr>, ConfigError> {
        let mut addresses = BTreeSet::new();
        for &address in &self.addresses {
            if !is_unicast(address) {
                return Err(ConfigError::Address(address));
            }
            let reachable = match address {
                IpAddr::V4(_) => self.gateway_v4.is_some(),
                IpAddr::V6(_) => self.gateway_v6.is_some(),
            };
            if !reachable {
                return Err(ConfigError::NoGateway(address));
            }
            if !addresses.insert(address) {
                return Err(ConfigError::DuplicateAddress(address));
            }
        }
        if addresses.is_empty() { Err(ConfigError::NoAddress) } else { Ok(addresses) }
    }

    fn checked_members(&self) -> Result<PrefixMap<IspId>, ConfigError> {
        let mut members = BTreeMap::new();
        for (prefix, isp) in &self.members {
            if prefix.prefix_len() == 0 {
                return Err(ConfigError::MemberTooWide(*prefix));
            }
            if members.insert(prefix.trunc(), isp.clone()).is_some() {
                return Err(ConfigError::DuplicateMember(*prefix));
            }
        }
        if members.is_empty() { Err(ConfigError::NoMember) } else { Ok(members.into_iter().collect()) }
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let zero = [
            ("max-connections", self.max_connections == 0),
            ("max-half-open", self.max_half_open == 0),
            ("max-per-isp", self.max_per_isp == 0),
            ("max-half-open-per-isp", self.max_half_open_per_isp == 0),
            ("max-per-source", self.max_per_source == 0),
            ("handshake-timeout", self.handshake_timeout.is_zero()),
            ("idle-timeout", self.idle_timeout.is_zero()),
            ("linger-timeout", self.linger_timeout.is_zero()),
            ("receive-buffer", self.receive_buffer == 0),
            ("send-buffer", self.send_buffer == 0),
            ("transmit-queue", self.transmit_queue == 0),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(ConfigError::ZeroLimit(name)),
            None => Ok(()),
        }
    }
}

/// Whether one host can have this address on a link; an IPv4-mapped IPv6 address is no such thing.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    match address {
        IpAddr::V4(v4) => !special && !v4.is_broadcast(),
        IpAddr::V6(v6) => !special && v6.to_ipv4_mapped().is_none(),
    }
}

pub(crate) fn is_unicast_mac(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> CloakConfig {
        CloakConfig {
            hardware_address: [2, 0, 0, 0, 0, 1],
            addresses: vec!["203.0.113.200".parse().unwrap(), "2001:db8:c10a::200".parse().unwrap()],
            port: 443,
            gateway_v4: Some("192.0.2.249".parse().unwrap()),
            gateway_v6: Some("2001:db8:0:ff::1".parse().unwrap()),
            members: vec![("198.51.100.0/24".parse().unwrap(), "isp".parse().unwrap())],
            mtu: 1500,
            limits: Limits::default(),
        }
    }

    fn refused(change: impl FnOnce(&mut CloakConfig)) -> ConfigError {
        let mut config = valid();
        change(&mut config);
        config.rules().unwrap_err()
    }

    #[test]
    fn a_valid_configuration_is_taken() {
        assert_eq!(valid().rules().unwrap().addresses.len(), 2);
    }

    #[test]
    fn each_mistake_is_named() {
        let everywhere: IpNet = "0.0.0.0/0".parse().unwrap();
        let v6: IpAddr = "2001:db8:c10a::200".parse().unwrap();
        assert_eq!(refused(|c| c.hardware_address = [1; 6]), ConfigError::HardwareAddress([1; 6]));
        assert_eq!(refused(|c| c.addresses.clear()), ConfigError::NoAddress);
        assert_eq!(refused(|c| c.addresses.push(v6)), ConfigError::DuplicateAddress(v6));
        assert_eq!(refused(|c| c.gateway_v6 = None), ConfigError::NoGateway(v6));
        assert_eq!(
            refused(|c| c.addresses.push("224.0.0.1".parse().unwrap())),
            ConfigError::Address("224.0.0.1".parse().unwrap())
        );
        assert_eq!(
            refused(|c| c.gateway_v4 = Some("203.0.113.200".parse().unwrap())),
            ConfigError::Gateway("203.0.113.200".parse().unwrap())
        );
        assert_eq!(refused(|c| c.port = 0), ConfigError::Port);
        assert_eq!(refused(|c| c.members.clear()), ConfigError::NoMember);
        assert_eq!(
            refused(|c| c.members.push((everywhere, "isp".parse().unwrap()))),
            ConfigError::MemberTooWide(everywhere)
        );
        assert_eq!(
            refused(|c| c.members.push(("198.51.100.7/24".parse().unwrap(), "b".parse().unwrap()))),
            ConfigError::DuplicateMember("198.51.100.7/24".parse().unwrap())
        );
        assert_eq!(refused(|c| c.mtu = 1279), ConfigError::Mtu(1279));
        assert_eq!(refused(|c| c.limits.max_half_open = 0), ConfigError::ZeroLimit("max-half-open"));
    }
}
