//! MAP-E (RFC 7597): the port of an IPv4 address says which IPv6 prefix the customer has.
//!
//! ```text
//! port         | A (offset bits, not 0) | PSID | the rest |
//! end-user     | rule IPv6 prefix | IPv4 suffix | PSID | …  the EA bits are the suffix and the PSID
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::Inside;

/// A basic mapping rule (RFC 7597 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapE {
    v6: Ipv6Net,
    v4: Ipv4Net,
    ea_bits: u8,
    psid_offset: u8,
    psid_bits: u8,
}

/// Why there is no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Longer than RFC 7597 §5.2 allows.
    #[error("{0} EA bits: from 0 to 48 there can be")]
    EaBits(u8),
    /// The end-user prefix would be longer than a prefix of a network.
    #[error("an end-user prefix of {0} bits: the rule's prefix and the EA bits may be 64 together")]
    EndUser(u16),
    /// Fewer EA bits than the IPv4 suffix.
    #[error("{ea} EA bits and {suffix} bits of IPv4 suffix: a customer would have a prefix, which is not shared")]
    Prefix {
        /// EA bits.
        ea: u8,
        /// Bits behind the rule's IPv4 prefix.
        suffix: u8,
    },
    /// More PSID bits than a port has behind the offset.
    #[error("an offset of {offset} and {psid} PSID bits: a port has 16")]
    Psid {
        /// The offset.
        offset: u8,
        /// PSID bits.
        psid: u8,
    },
}

impl MapE {
    /// The rule; `psid_offset` is 6 unless the domain says otherwise.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn new(v6: Ipv6Net, v4: Ipv4Net, ea_bits: u8, psid_offset: u8) -> Result<Self, MapError> {
        let suffix = 32 - v4.prefix_len();
        if ea_bits > 48 {
            return Err(MapError::EaBits(ea_bits));
        }
        let end_user = u16::from(v6.prefix_len()) + u16::from(ea_bits);
        if end_user > 64 {
            return Err(MapError::EndUser(end_user));
        }
        let psid_bits = ea_bits.checked_sub(suffix).ok_or(MapError::Prefix { ea: ea_bits, suffix })?;
        if psid_offset > 15 || psid_offset + psid_bits > 16 {
            return Err(MapError::Psid { offset: psid_offset, psid: psid_bits });
        }
        Ok(Self { v6: v6.trunc(), v4: v4.trunc(), ea_bits, psid_offset, psid_bits })
    }

    /// Who has `port` of `address`? Of a customer, the MAP address (RFC 7597 §6): it is in the delegated prefix.
    #[must_use]
    pub fn inside(&self, address: IpAddr, port: Option<u16>) -> Inside {
        let IpAddr::V4(address) = address else { return Inside::Elsewhere };
        if !self.v4.contains(&address) {
            return Inside::Elsewhere;
        }
        let psid = match port {
            _ if self.psid_bits == 0 => 0,
            None => return Inside::PortNeeded,
            // Ports whose offset bits are 0 are nobody's: the well-known ones (RFC 7597 §5.1).
            Some(port) if self.psid_offset > 0 && port >> (16 - self.psid_offset) == 0 => return Inside::Nobody,
            Some(port) => {
                let rest = 16 - self.psid_offset - self.psid_bits;
                (u32::from(port) >> rest) & ((1 << self.psid_bits) - 1)
            }
        };
        Inside::At(self.customer(address, psid).into())
    }

    fn customer(&self, address: Ipv4Addr, psid: u32) -> Ipv6Addr {
        let suffix = u64::from(u32::from(address)) & !(u64::MAX << (32 - self.v4.prefix_len()));
        let ea = u128::from((suffix << self.psid_bits) | u64::from(psid));
        let network = u128::from(self.v6.network());
        let place = 128 - u32::from(self.v6.prefix_len()) - u32::from(self.ea_bits);
        let interface = (u128::from(u32::from(address)) << 16) | u128::from(psid);
        Ipv6Addr::from(network | (ea << place) | interface)
    }

    /// What has a customer with the end-user prefix that holds `address`: the IPv4 address and its ports, range by range.
    #[must_use]
    pub fn outside(&self, address: Ipv6Addr) -> Option<(Ipv4Addr, Vec<(u16, u16)>)> {
        if !self.v6.contains(&address) {
            return None;
        }
        let place = 128 - u32::from(self.v6.prefix_len()) - u32::from(self.ea_bits);
        let ea = (u128::from(address) >> place) & !(u128::MAX << self.ea_bits);
        let ea = u64::try_from(ea).ok()?;
        let psid = u32::try_from(ea & !(u64::MAX << self.psid_bits)).ok()?;
        let v4 = u32::from(self.v4.network()) | u32::try_from(ea >> self.psid_bits).ok()?;
        let rest = 16 - u32::from(self.psid_offset) - u32::from(self.psid_bits);
        let first = u32::from(self.psid_bits > 0 && self.psid_offset > 0);
        let ranges = (first..1 << self.psid_offset).filter_map(|a| {
            let low = (a << (16 - u32::from(self.psid_offset))) | (psid << rest);
            Some((u16::try_from(low).ok()?, u16::try_from(low + (1 << rest) - 1).ok()?))
        });
        if self.psid_bits == 0 {
            return Some((v4.into(), vec![(0, u16::MAX)]));
        }
        Some((v4.into(), ranges.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(v6: &str, v4: &str, ea: u8, offset: u8) -> Result<MapE, MapError> {
        MapE::new(v6.parse().unwrap(), v4.parse().unwrap(), ea, offset)
    }

    #[test]
    fn the_example_of_rfc_7597_comes_out() {
        // Appendix A, example 1.
        let rule = rule("2001:db8::/40", "192.0.2.0/24", 16, 6).unwrap();
        let customer = "2001:db8:12:3400:0:c000:212:34".parse().unwrap();
        for port in [1232, 1235, 2256, 63696, 64723] {
            assert_eq!(rule.inside([192, 0, 2, 18].into(), Some(port)), Inside::At(customer), "{port}");
        }
        assert_ne!(rule.inside([192, 0, 2, 18].into(), Some(1236)), Inside::At(customer));
        assert_eq!(rule.inside([192, 0, 2, 18].into(), Some(1023)), Inside::Nobody);
        assert_eq!(rule.inside([192, 0, 2, 18].into(), None), Inside::PortNeeded);
        assert_eq!(rule.inside([192, 0, 3, 18].into(), Some(1232)), Inside::Elsewhere);
        let (address, ranges) = rule.outside("2001:db8:12:3400::9".parse().unwrap()).unwrap();
        assert_eq!((address, ranges.len()), ([192, 0, 2, 18].into(), 63));
        assert_eq!((ranges[0], ranges[1], ranges[62]), ((1232, 1235), (2256, 2259), (64720, 64723)));
    }

    #[test]
    fn a_whole_address_needs_no_port() {
        let rule = rule("2001:db8::/40", "192.0.2.0/24", 8, 6).unwrap();
        let customer = Inside::At("2001:db8:12:0:0:c000:212:0".parse().unwrap());
        assert_eq!(rule.inside([192, 0, 2, 18].into(), None), customer);
        assert_eq!(rule.inside([192, 0, 2, 18].into(), Some(22)), customer);
    }

    #[test]
    fn rules_that_cannot_be_are_refused() {
        assert_eq!(rule("2001:db8::/40", "192.0.2.0/24", 49, 6), Err(MapError::EaBits(49)));
        assert_eq!(rule("2001:db8::/56", "192.0.2.0/24", 16, 6), Err(MapError::EndUser(72)));
        assert_eq!(rule("2001:db8::/40", "192.0.2.0/24", 4, 6), Err(MapError::Prefix { ea: 4, suffix: 8 }));
        assert_eq!(rule("2001:db8::/40", "192.0.2.0/24", 20, 6), Err(MapError::Psid { offset: 6, psid: 12 }));
    }

    proptest! {
        #[test]
        fn both_directions_agree(
            host: u8, port: u16, prefix in 20..=32_u8, psid in 0..=10_u8, offset in 0..=6_u8,
        ) {
            let v4 = Ipv4Net::new([192, 0, 2, host].into(), prefix).unwrap();
            let v6 = "2001:db8::/36".parse().unwrap();
            let rule = MapE::new(v6, v4, 32 - prefix + psid, offset).unwrap();
            match rule.inside([192, 0, 2, host].into(), Some(port)) {
                Inside::At(IpAddr::V6(customer)) => {
                    let (address, ranges) = rule.outside(customer).unwrap();
                    prop_assert_eq!(address, Ipv4Addr::new(192, 0, 2, host));
                    prop_assert!(ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)));
                }
                Inside::Nobody => prop_assert!(offset > 0 && u32::from(port) < 1 << (16 - offset)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
