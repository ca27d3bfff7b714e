//! Capabilities (RFC 5492).

use crate::error::EncodeError;
use crate::open::length_octet;
use crate::reader::Reader;
use crate::types::{Asn, FLOW_SAFI, Family};

/// What a speaker is to its neighbour (RFC 9234 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sells transit to the neighbour.
    Provider,
    /// Runs a route server that the neighbour uses.
    RouteServer,
    /// Uses the neighbour's route server.
    RouteServerClient,
    /// Buys transit from the neighbour.
    Customer,
    /// Exchanges its own and its customers' routes with the neighbour.
    Peer,
}

impl Role {
    const ALL: [Self; 5] = [Self::Provider, Self::RouteServer, Self::RouteServerClient, Self::Customer, Self::Peer];

    /// The only role that a neighbour of this one can have (RFC 9234 §4.2).
    #[must_use]
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }
}

/// Several routes for one prefix in a family (RFC 7911 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddPath {
    /// Which family.
    pub family: Family,
    /// The speaker can receive them.
    pub receive: bool,
    /// The speaker would like to send them.
    pub send: bool,
}

/// What a speaker does about its neighbours' restarts and its own (RFC 4724 §3, RFC 8538 §2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GracefulRestart {
    /// It has just restarted.
    pub restarted: bool,
    /// NOTIFICATION does not end graceful restart, Hard Reset does (RFC 8538).
    pub notification: bool,
    /// How long its restart may take, in seconds, up to 4095.
    pub restart_time_s: u16,
    /// Families that it keeps while it restarts, and whether it kept forwarding; others are left out.
    pub families: Vec<(Family, bool)>,
}

/// How long a family's routes may stay after their speaker is gone (RFC 9494 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongLived {
    /// Which family.
    pub family: Family,
    /// Forwarding was kept up.
    pub forwarding: bool,
    /// In seconds, up to 2^24 - 1.
    pub stale_time_s: u32,
}

/// A capability.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Routes of a family (RFC 4760 §8).
    Multiprotocol(Family),
    /// Flow specifications for packets of a family (RFC 8955 §4).
    Flow(Family),
    /// ROUTE-REFRESH is answered (RFC 2918).
    RouteRefresh,
    /// IPv4 prefixes may come with an IPv6 next hop (RFC 8950 §4).
    ExtendedNextHop,
    /// Messages may have up to 65535 octets (RFC 8654).
    ExtendedMessages,
    /// What the speaker is to us (RFC 9234).
    Role(Role),
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Long-lived graceful restart (RFC 9494); other families are left out.
    LongLivedGracefulRestart(Vec<LongLived>),
    /// AS numbers of four octets, and the speaker's own (RFC 6793 §3).
    FourOctetAs(Asn),
    /// Several routes for one prefix (RFC 7911); other families are left out.
    AddPath(Vec<AddPath>),
    /// ROUTE-REFRESH marks where the answer begins and ends (RFC 7313).
    EnhancedRouteRefresh,
    /// One that is not read here.
    Other {
        /// Its code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

mod code {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const EXTENDED_MESSAGES: u8 = 6;
    pub(super) const ROLE: u8 = 9;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
    pub(super) const ADD_PATH: u8 = 69;
    pub(super) const ENHANCED_ROUTE_REFRESH: u8 = 70;
    pub(super) const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
}

/// IPv4 unicast by way of IPv6, as RFC 8950 §4 writes it: AFI 1, SAFI 1 in two octets, next hop AFI 2.
const IPV4_BY_IPV6: [u8; 6] = [0, 1, 0, 1, 0, 2];

impl Capability {
    /// From the code and value; anything of an unexpected shape is kept as [`Capability::Other`].
    pub(crate) fn decode(code: u8, value: &[u8]) -> Self {
        Self::known(code, value).unwrap_or_else(|| Self::Other { code, value: value.into() })
    }

    fn known(code: u8, value: &[u8]) -> Option<Self> {
        match (code, value) {
            (code::MULTIPROTOCOL, [high, low, _, safi]) => {
                let afi = u16::from_be_bytes([*high, *low]);
                let flow = || Family::from_flow_codes(afi, *safi).map(Self::Flow);
                Family::from_codes(afi, *safi).map(Self::Multiprotocol).or_else(flow)
            }
            (code::ROUTE_REFRESH, []) => Some(Self::RouteRefresh),
            (code::EXTENDED_NEXT_HOP, value) => {
                let (triples, rest) = value.as_chunks::<6>();
                (rest.is_empty() && triples.contains(&IPV4_BY_IPV6)).then_some(Self::ExtendedNextHop)
            }
            (code::EXTENDED_MESSAGES, []) => Some(Self::ExtendedMessages),
            (code::ROLE, [role]) => Role::ALL.get(usize::from(*role)).copied().map(Self::Role),
            (code::GRACEFUL_RESTART, value) => GracefulRestart::decode(value).map(Self::GracefulRestart),
            (code::FOUR_OCTET_AS, value) => {
                value.as_array::<4>().map(|octets| Self::FourOctetAs(Asn(u32::from_be_bytes(*octets))))
            }
            (code::ADD_PATH, value) => {
                let (families, rest) = value.as_chunks::<4>();
                let families = families.iter().filter_map(|family| AddPath::decode(*family)).collect();
                rest.is_empty().then_some(Self::AddPath(families))
            }
            (code::ENHANCED_ROUTE_REFRESH, []) => Some(Self::EnhancedRouteRefresh),
            (code::LONG_LIVED_GRACEFUL_RESTART, value) => {
                let (families, rest) = value.as_chunks::<7>();
                let families = families.iter().filter_map(|family| LongLived::decode(*family)).collect();
                rest.is_empty().then_some(Self::LongLivedGracefulRestart(families))
            }
            _ => None,
        }
    }

    /// As it stands in an OPEN: code, length, value.
    ///
    /// # Errors
    /// [`EncodeError`] for a value of more than 255 octets.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let (code, value): (u8, Vec<u8>) = match self {
            Self::Multiprotocol(family) => {
                let [high, low] = family.afi().to_be_bytes();
                (code::MULTIPROTOCOL, vec![high, low, 0, family.safi()])
            }
            Self::Flow(family) => {
                let [high, low] = family.afi().to_be_bytes();
                (code::MULTIPROTOCOL, vec![high, low, 0, FLOW_SAFI])
            }
            Self::RouteRefresh => (code::ROUTE_REFRESH, Vec::new()),
            Self::ExtendedNextHop => (code::EXTENDED_NEXT_HOP, IPV4_BY_IPV6.into()),
            Self::ExtendedMessages => (code::EXTENDED_MESSAGES, Vec::new()),
            Self::Role(role) => (code::ROLE, vec![*role as u8]),
            Self::GracefulRestart(restart) => (code::GRACEFUL_RESTART, restart.encode()),
            Self::FourOctetAs(asn) => (code::FOUR_OCTET_AS, asn.0.to_be_bytes().into()),
            Self::AddPath(families) => (code::ADD_PATH, families.iter().flat_map(AddPath::encode).collect()),
            Self::EnhancedRouteRefresh => (code::ENHANCED_ROUTE_REFRESH, Vec::new()),
            Self::LongLivedGracefulRestart(families) => {
                (code::LONG_LIVED_GRACEFUL_RESTART, families.iter().flat_map(LongLived::encode).collect())
            }
            Self::Other { code, value } => (*code, value.clone()),
        };
        let length = length_octet("capability", value.len())?;
        Ok([&[code, length], value.as_slice()].concat())
    }
}

impl AddPath {
    /// RFC 7911 §4: another value of the last octet than 1, 2 and 3 means that the family is not there.
    fn decode([high, low, safi, ways]: [u8; 4]) -> Option<Self> {
        let family = Family::from_codes(u16::from_be_bytes([high, low]), safi)?;
        matches!(ways, 1..=3).then_some(Self { family, receive: ways & 1 != 0, send: ways & 2 != 0 })
    }

    fn encode(&self) -> [u8; 4] {
        let [high, low] = self.family.afi().to_be_bytes();
        [high, low, self.family.safi(), u8::from(self.receive) | u8::from(self.send) << 1]
    }
}

impl LongLived {
    /// The longest time that three octets hold.
    pub const LONGEST_S: u32 = 0x00ff_ffff;

    fn decode([high, low, safi, flags, a, b, c]: [u8; 7]) -> Option<Self> {
        let family = Family::from_codes(u16::from_be_bytes([high, low]), safi)?;
        Some(Self { family, forwarding: flags & 0x80 != 0, stale_time_s: u32::from_be_bytes([0, a, b, c]) })
    }

    fn encode(&self) -> [u8; 7] {
        let [high, low] = self.family.afi().to_be_bytes();
        let [_, a, b, c] = self.stale_time_s.min(Self::LONGEST_S).to_be_bytes();
        [high, low, self.family.safi(), u8::from(self.forwarding) << 7, a, b, c]
    }
}

impl GracefulRestart {
    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let head = reader.u16()?;
        let (families, rest) = reader.rest().as_chunks::<4>();
        let family = |[high, low, safi, flags]: &[u8; 4]| {
            let family = Family::from_codes(u16::from_be_bytes([*high, *low]), *safi)?;
            Some((family, flags & 0x80 != 0))
        };
        rest.is_empty().then(|| Self {
            restarted: head & 0x8000 != 0,
            notification: head & 0x4000 != 0,
            restart_time_s: head & 0x0fff,
            families: families.iter().filter_map(family).collect(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let flags = u16::from(self.restarted) << 15 | u16::from(self.notification) << 14;
        let mut out = Vec::from((flags | self.restart_time_s & 0x0fff).to_be_bytes());
        for (family, kept) in &self.families {
            out.extend_from_slice(&family.afi().to_be_bytes());
            out.extend_from_slice(&[family.safi(), u8::from(*kept) << 7]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values_from_the_rfcs() {
        let cases: &[(&[u8], Capability)] = &[
            (&[5, 6, 0, 1, 0, 1, 0, 2], Capability::ExtendedNextHop),
            (&[6, 0], Capability::ExtendedMessages),
            (&[9, 1, 3], Capability::Role(Role::Customer)),
            (&[70, 0], Capability::EnhancedRouteRefresh),
            (&[71, 0], Capability::LongLivedGracefulRestart(vec![])),
            (
                &[71, 7, 0, 1, 1, 0x80, 1, 0x51, 0x80],
                Capability::LongLivedGracefulRestart(vec![LongLived {
                    family: Family::Ipv4,
                    forwarding: true,
                    stale_time_s: 86400,
                }]),
            ),
            (
                &[69, 8, 0, 1, 1, 1, 0, 2, 1, 3],
                Capability::AddPath(vec![
                    AddPath { family: Family::Ipv4, receive: true, send: false },
                    AddPath { family: Family::Ipv6, receive: true, send: true },
                ]),
            ),
            (
                &[64, 6, 0xc0, 120, 0, 1, 1, 0x80],
                Capability::GracefulRestart(GracefulRestart {
                    restarted: true,
                    notification: true,
                    restart_time_s: 120,
                    families: vec![(Family::Ipv4, true)],
                }),
            ),
        ];
        for (bytes, capability) in cases {
            assert_eq!(capability.encode().unwrap(), *bytes);
            assert_eq!(Capability::decode(bytes[0], &bytes[2..]), *capability);
        }
    }

    #[test]
    fn a_capability_of_another_shape_is_kept_unread() {
        for (code, value) in [
            (9, vec![5]),
            (9, vec![]),
            (6, vec![1]),
            (69, vec![0, 1, 1]),
            (64, vec![0]),
            (71, vec![0; 6]),
            (5, vec![0; 6]),
        ] {
            assert_eq!(Capability::decode(code, &value), Capability::Other { code, value });
        }
        // Send/Receive 0 and 4: the family counts as not there (RFC 7911 §4).
        for ways in [0, 4] {
            assert_eq!(Capability::decode(69, &[0, 1, 1, ways]), Capability::AddPath(vec![]));
        }
    }

    #[test]
    fn roles_fit_their_counterparts_only() {
        for role in Role::ALL {
            assert_eq!(role.counterpart().counterpart(), role);
        }
        assert_eq!(Role::Provider.counterpart(), Role::Customer);
        assert_eq!(Role::RouteServer.counterpart(), Role::RouteServerClient);
    }
}
