//! What of a private prefix subscribers may use: protocols, and ports of those that have them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

// IP protocol numbers, as IANA assigns them.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

// By the names that `nft` prints, so that the table reads back as it was written.
const NAMES: [(&str, u8); 10] = [
    ("icmp", ICMP),
    ("tcp", TCP),
    ("udp", UDP),
    ("dccp", DCCP),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", ICMP6),
    ("sctp", SCTP),
    ("udplite", UDP_LITE),
];

/// One protocol, or some of its ports: `tcp/443`, `udp/5000-5100`, `icmp`, `50`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The IP protocol number.
    pub protocol: u8,
    /// The ports at the private end; `None` for all, and for protocols that have none.
    pub ports: Option<RangeInclusive<u16>>,
}

/// Why a text is no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The protocol is unknown.
    #[error("{0:?} is no protocol: give tcp, udp, sctp, dccp, udplite, icmp, gre, esp, ah or a number from 0 to 255")]
    Protocol(String),
    /// Ports of a protocol that has none.
    #[error("{0} has no ports: leave out what is behind the slash")]
    NoPorts(String),
    /// Not a port, or a range the wrong way round.
    #[error("{0:?} is no port or range of ports: such as 443, or 5000-5100")]
    Ports(String),
}

/// Whether `protocol` has ports, in the first four octets of its header.
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// The protocol as `nft` prints it.
pub(crate) fn name_of(protocol: u8) -> String {
    let known = NAMES.iter().find(|(_, number)| *number == protocol);
    known.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

impl Service {
    /// Of `prefix`: ICMP is ICMPv6 there if that is IPv6.
    #[must_use]
    pub fn of(mut self, prefix: IpNet) -> Self {
        if self.protocol == ICMP && prefix.addr().is_ipv6() {
            self.protocol = ICMP6;
        }
        self
    }

    /// Whether a packet of `protocol`, with this port at the private end, is part of it.
    #[must_use]
    pub fn has(&self, protocol: u8, port: Option<u16>) -> bool {
        protocol == self.protocol
            && self.ports.as_ref().is_none_or(|ports| port.is_some_and(|port| ports.contains(&port)))
    }

    /// Whether some packet is part of both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && match (&self.ports, &other.ports) {
                (Some(ours), Some(theirs)) => ours.start() <= theirs.end() && theirs.start() <= ours.end(),
                (None, _) | (_, None) => true,
            }
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let (name, ports) = match text.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (text, None),
        };
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        let protocol = known.or_else(|| decimal(name)).ok_or_else(|| ServiceError::Protocol(name.to_owned()))?;
        let Some(ports) = ports else { return Ok(Self { protocol, ports: None }) };
        if !has_ports(protocol) {
            return Err(ServiceError::NoPorts(name.to_owned()));
        }
        let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
        let range = decimal(low).zip(decimal(high)).filter(|(low, high)| low <= high);
        let (low, high) = range.ok_or_else(|| ServiceError::Ports(ports.to_owned()))?;
        Ok(Self { protocol, ports: Some(low..=high) })
    }
}

/// Digits and nothing else: `u16::from_str` takes a sign.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// As it is written in the configuration.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", name_of(self.protocol))?;
        match &self.ports {
            None => Ok(()),
            Some(ports) if ports.start() == ports.end() => write!(f, "/{}", ports.start()),
            Some(ports) => write!(f, "/{}-{}", ports.start(), ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn service(text: &str) -> Result<Service, String> {
        text.parse::<Service>().map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_is_a_protocol_with_or_without_ports() {
        assert_eq!(service("tcp/443"), Ok(Service { protocol: TCP, ports: Some(443..=443) }));
        assert_eq!(service("udp/5000-5100"), Ok(Service { protocol: UDP, ports: Some(5000..=5100) }));
        assert_eq!(service("icmp"), Ok(Service { protocol: ICMP, ports: None }));
        assert_eq!(service("132/0-65535"), Ok(Service { protocol: SCTP, ports: Some(0..=65535) }));
        assert_eq!(service("icmp").unwrap().of("2001:db8::1/128".parse().unwrap()).protocol, ICMP6);
        for (text, part) in [
            ("", "\"\" is no protocol"),
            ("http", "\"http\" is no protocol"),
            ("256", "is no protocol"),
            ("+6", "is no protocol"),
            ("icmp/8", "icmp has no ports"),
            ("tcp/", "\"\" is no port"),
            ("tcp/2-1", "\"2-1\" is no port"),
            ("tcp/65536", "is no port"),
            ("tcp/+1", "is no port"),
            ("tcp/1-2-3", "is no port"),
        ] {
            let refusal = service(text).unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(protocol: u8, ports: Option<(u16, u16)>) {
            let ports = ports.filter(|_| has_ports(protocol)).map(|(a, b)| a.min(b)..=a.max(b));
            let service = Service { protocol, ports };
            prop_assert_eq!(service.to_string().parse(), Ok(service));
        }

        #[test]
        fn overlaps_are_what_both_have(a in any_service(), b in any_service(), port in 0_u16..8) {
            let both = a.has(b.protocol, Some(port)) && b.has(b.protocol, Some(port));
            prop_assert!(!both || a.overlaps(&b));
            let shared = (0..=8).any(|port| a.has(b.protocol, Some(port)) && b.has(b.protocol, Some(port)));
            prop_assert_eq!(a.overlaps(&b), shared);
        }
    }

    fn any_service() -> impl Strategy<Value = Service> {
        (prop_oneof![Just(TCP), Just(UDP)], proptest::option::of((0_u16..8, 0_u16..8)))
            .prop_map(|(protocol, ports)| Service { protocol, ports: ports.map(|(a, b)| a.min(b)..=a.max(b)) })
    }
}
