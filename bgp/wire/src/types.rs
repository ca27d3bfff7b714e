//! The scalars of the protocol.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The two-octet AS number that stands for a four-octet one (RFC 6793 §9).
pub const AS_TRANS: u16 = 23456;

/// An autonomous system number (RFC 6793).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// As two octets, [`AS_TRANS`] where it does not fit.
    #[must_use]
    pub fn two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(AS_TRANS)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BGP identifier: four octets, never zero (RFC 6286 §2.1). Ordered as an unsigned number (RFC 4271 §6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(u32);

/// The router id 0.0.0.0 is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("router id 0.0.0.0 is not allowed: RFC 6286 §2.1 takes any other, often an IPv4 address of the host")]
pub struct ZeroRouterId;

impl RouterId {
    /// From its four octets.
    ///
    /// # Errors
    /// [`ZeroRouterId`] for 0.0.0.0.
    pub fn new(id: Ipv4Addr) -> Result<Self, ZeroRouterId> {
        match u32::from(id) {
            0 => Err(ZeroRouterId),
            id => Ok(Self(id)),
        }
    }

    /// Its four octets.
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(self.0).fmt(f)
    }
}

/// A hold time (RFC 4271 §4.2: zero, or three seconds and more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

/// A hold time of one or two seconds is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("hold time {0} s is not allowed: RFC 4271 §4.2 takes 0 (off) or at least 3")]
pub struct HoldTimeTooShort(pub u16);

impl HoldTime {
    /// From whole seconds; zero turns keepalives off.
    ///
    /// # Errors
    /// [`HoldTimeTooShort`] for 1 and 2.
    pub const fn from_secs(seconds: u16) -> Result<Self, HoldTimeTooShort> {
        match seconds {
            1 | 2 => Err(HoldTimeTooShort(seconds)),
            0 | 3.. => Ok(Self(seconds)),
        }
    }

    /// In whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u16 {
        self.0
    }

    /// The smaller of two offers (RFC 4271 §4.2).
    #[must_use]
    pub fn negotiate(self, other: Self) -> Self {
        self.min(other)
    }

    /// How long silence is borne; `None` when keepalives are off.
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        (self.0 != 0).then(|| Duration::from_secs(u64::from(self.0)))
    }
}

impl fmt::Display for HoldTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// The subsequent address family of flow specifications (RFC 8955 §4): in the address family of the packets.
pub const FLOW_SAFI: u8 = 133;

/// An address family of unicast routes (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 unicast: AFI 1, SAFI 1.
    Ipv4,
    /// IPv6 unicast: AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The address family identifier.
    #[must_use]
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The subsequent address family identifier: unicast.
    #[must_use]
    pub const fn safi(self) -> u8 {
        1
    }

    /// The family of the codes, when it is one that is read here.
    #[must_use]
    pub const fn from_codes(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The family of packets whose flow specifications the codes stand for.
    #[must_use]
    pub const fn from_flow_codes(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, FLOW_SAFI) => Some(Self::Ipv4),
            (2, FLOW_SAFI) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The family of `prefix`.
    #[must_use]
    pub const fn of(prefix: &ipnet::IpNet) -> Self {
        match prefix {
            ipnet::IpNet::V4(_) => Self::Ipv4,
            ipnet::IpNet::V6(_) => Self::Ipv6,
        }
    }
}

/// A set of families that is as small as it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    /// IPv4 unicast.
    pub ipv4: bool,
    /// IPv6 unicast.
    pub ipv6: bool,
}

impl Families {
    /// The empty set.
    pub const NONE: Self = Self { ipv4: false, ipv6: false };

    /// Whether `family` is in it.
    #[must_use]
    pub const fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }

    /// Puts `family` in.
    pub const fn insert(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = true,
            Family::Ipv6 => self.ipv6 = true,
        }
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::NONE;
        families.into_iter().for_each(|family| set.insert(family));
        set
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4-unicast",
            Self::Ipv6 => "ipv6-unicast",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_time_is_zero_or_at_least_three_seconds() {
        assert_eq!(HoldTime::from_secs(0).unwrap().duration(), None);
        assert_eq!(HoldTime::from_secs(2), Err(HoldTimeTooShort(2)));
        assert_eq!(HoldTime::from_secs(3).unwrap().duration(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn router_ids_order_as_numbers_and_are_never_zero() {
        let id = |text: &str| RouterId::new(text.parse().unwrap());
        assert!(id("9.0.0.1").unwrap() < id("10.0.0.1").unwrap());
        assert_eq!(id("0.0.0.0"), Err(ZeroRouterId));
    }
}
