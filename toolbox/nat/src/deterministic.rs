//! Deterministic CGNAT (RFC 7422): the n-th subscriber has the n-th share of the external addresses' ports.

use std::net::{IpAddr, Ipv4Addr};

use crate::Inside;
use crate::range::Ranges;

/// In which order shares are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All blocks of one external address, then those of the next: VPP (det44), Junos, A10, nftables maps.
    AddressByAddress,
    /// The first block of every external address, then the second of every one: "sequential" in RFC 7422 §2.2.
    BlockByBlock,
    /// The same ports of every external address: "round robin" in RFC 7422 §2.2.
    EveryAddress,
}

/// What a rule is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deterministic {
    internal: Ranges,
    external: Ranges,
    first_port: u16,
    last_port: u16,
    /// Ports of a subscriber, over all external addresses.
    ports: u32,
    order: Order,
}

/// Why there is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The ports are the wrong way round.
    #[error("ports {0} to {1} are none: the first must not be after the last")]
    Ports(u16, u16),
    /// No ports for a subscriber, or more than an address has.
    #[error("{ports} ports a subscriber: from 1 to {most} there can be")]
    Share {
        /// Ports asked for.
        ports: u32,
        /// The most that there can be.
        most: u32,
    },
    /// Ports do not come out even.
    #[error("{ports} ports a subscriber cannot be the same ones of {addresses} external addresses: take a multiple")]
    Uneven {
        /// Ports asked for.
        ports: u32,
        /// External addresses.
        addresses: u64,
    },
    /// More subscribers than shares.
    #[error(
        "{subscribers} internal addresses and {shares} shares of {ports} ports: give more external addresses or fewer \
         ports"
    )]
    TooMany {
        /// Internal addresses.
        subscribers: u64,
        /// Shares that the external addresses have.
        shares: u64,
        /// Ports of each.
        ports: u32,
    },
    /// An internal address is also external.
    #[error("internal and external addresses meet")]
    Meet,
}

/// What one subscriber has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The external addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The first port of each.
    pub first: u16,
    /// The last port of each.
    pub last: u16,
}

impl Deterministic {
    /// The rule.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(
        internal: Ranges,
        external: Ranges,
        first_port: u16,
        last_port: u16,
        ports: u32,
        order: Order,
    ) -> Result<Self, RuleError> {
        if first_port > last_port {
            return Err(RuleError::Ports(first_port, last_port));
        }
        let rule = Self { internal, external, first_port, last_port, ports, order };
        let addresses = rule.external.size();
        let each = rule.usable();
        let most = match order {
            Order::AddressByAddress | Order::BlockByBlock => each,
            Order::EveryAddress => u32::try_from(u64::from(each).saturating_mul(addresses)).unwrap_or(u32::MAX),
        };
        if ports == 0 || ports > most {
            return Err(RuleError::Share { ports, most });
        }
        if order == Order::EveryAddress && u64::from(ports) % addresses != 0 {
            return Err(RuleError::Uneven { ports, addresses });
        }
        let (subscribers, shares) = (rule.internal.size(), rule.shares());
        if subscribers > shares {
            return Err(RuleError::TooMany { subscribers, shares, ports });
        }
        if rule.internal.meets(&rule.external) {
            return Err(RuleError::Meet);
        }
        Ok(rule)
    }

    /// Ports of an external address that are given out.
    const fn usable(&self) -> u32 {
        self.last_port as u32 - self.first_port as u32 + 1
    }

    /// Ports of one subscriber at one external address.
    fn block(&self) -> u32 {
        match self.order {
            Order::AddressByAddress | Order::BlockByBlock => self.ports,
            Order::EveryAddress => u32::try_from(u64::from(self.ports) / self.external.size()).unwrap_or(u32::MAX),
        }
    }

    /// Blocks of one external address.
    fn blocks(&self) -> u64 {
        u64::from(self.usable() / self.block().max(1))
    }

    fn shares(&self) -> u64 {
        match self.order {
            Order::AddressByAddress | Order::BlockByBlock => self.blocks() * self.external.size(),
            Order::EveryAddress => self.blocks(),
        }
    }

    /// Who has `port` of `address`?
    #[must_use]
    pub fn inside(&self, address: IpAddr, port: Option<u16>) -> Inside {
        let IpAddr::V4(address) = address else { return Inside::Elsewhere };
        let Some(place) = self.external.place(address) else { return Inside::Elsewhere };
        let Some(port) = port else { return Inside::PortNeeded };
        if !(self.first_port..=self.last_port).contains(&port) {
            return Inside::Nobody;
        }
        let block = u64::from(u32::from(port - self.first_port) / self.block().max(1));
        if block >= self.blocks() {
            return Inside::Nobody;
        }
        let subscriber = match self.order {
            Order::AddressByAddress => place * self.blocks() + block,
            Order::BlockByBlock => block * self.external.size() + place,
            Order::EveryAddress => block,
        };
        self.internal.at(subscriber).map_or(Inside::Nobody, |inside| Inside::At(inside.into()))
    }

    /// What has `internal`?
    #[must_use]
    pub fn outside(&self, internal: Ipv4Addr) -> Option<Share> {
        let subscriber = self.internal.place(internal)?;
        let (addresses, block): (Vec<u64>, u64) = match self.order {
            Order::AddressByAddress => (vec![subscriber / self.blocks()], subscriber % self.blocks()),
            Order::BlockByBlock => (vec![subscriber % self.external.size()], subscriber / self.external.size()),
            Order::EveryAddress => ((0..self.external.size()).collect(), subscriber),
        };
        let first = u64::from(self.first_port) + block * u64::from(self.block());
        Some(Share {
            addresses: addresses.into_iter().filter_map(|place| self.external.at(place)).collect(),
            first: u16::try_from(first).ok()?,
            last: u16::try_from(first + u64::from(self.block()) - 1).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(texts: &[&str]) -> Ranges {
        Ranges::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
    }

    fn at(address: &str) -> Inside {
        Inside::At(address.parse().unwrap())
    }

    #[test]
    fn vpps_example_comes_out() {
        // det44 with inside 10.0.0.0/18 and outside 203.0.113.0/24: 64 to one address, 1008 ports each.
        let rule = Deterministic::new(
            ranges(&["10.0.0.0/18"]),
            ranges(&["203.0.113.0/24"]),
            1024,
            65535,
            1008,
            Order::AddressByAddress,
        )
        .unwrap();
        let inside = |address: &str, port| rule.inside(address.parse().unwrap(), Some(port));
        assert_eq!(inside("203.0.113.0", 1024), at("10.0.0.0"));
        assert_eq!(inside("203.0.113.0", 2031), at("10.0.0.0"));
        assert_eq!(inside("203.0.113.0", 2032), at("10.0.0.1"));
        assert_eq!(inside("203.0.113.1", 1024), at("10.0.0.64"));
        assert_eq!(inside("203.0.113.255", 65535), at("10.0.63.255"));
        assert_eq!(inside("203.0.113.9", 1023), Inside::Nobody);
        assert_eq!(inside("198.51.100.1", 2000), Inside::Elsewhere);
        assert_eq!(rule.inside("203.0.113.9".parse().unwrap(), None), Inside::PortNeeded);
        let share = rule.outside("10.0.0.65".parse().unwrap()).unwrap();
        assert_eq!((share.addresses, share.first, share.last), (vec![[203, 0, 113, 1].into()], 2032, 3039));
    }

    #[test]
    fn the_orders_of_rfc_7422_differ() {
        let of = |order, ports| {
            Deterministic::new(
                ranges(&["10.0.0.1-10.0.0.4"]),
                ranges(&["203.0.113.1-203.0.113.2"]),
                1000,
                1999,
                ports,
                order,
            )
        };
        let across = of(Order::BlockByBlock, 500).unwrap();
        assert_eq!(across.inside([203, 0, 113, 2].into(), Some(1000)), at("10.0.0.2"));
        assert_eq!(across.inside([203, 0, 113, 1].into(), Some(1500)), at("10.0.0.3"));
        let every = of(Order::EveryAddress, 500).unwrap();
        for address in [1, 2] {
            assert_eq!(every.inside([203, 0, 113, address].into(), Some(1250)), at("10.0.0.2"));
        }
        assert_eq!(of(Order::EveryAddress, 501), Err(RuleError::Uneven { ports: 501, addresses: 2 }));
    }

    #[test]
    fn rules_that_cannot_be_are_refused() {
        let of = |internal: &str, first, last, ports| {
            Deterministic::new(
                ranges(&[internal]),
                ranges(&["203.0.113.0/30"]),
                first,
                last,
                ports,
                Order::AddressByAddress,
            )
        };
        assert_eq!(of("10.0.0.0/24", 2000, 1000, 10), Err(RuleError::Ports(2000, 1000)));
        assert_eq!(of("10.0.0.0/24", 1000, 1999, 1001), Err(RuleError::Share { ports: 1001, most: 1000 }));
        assert!(matches!(of("10.0.0.0/24", 1000, 1999, 500), Err(RuleError::TooMany { shares: 8, .. })));
        assert_eq!(of("203.0.113.2", 1000, 1999, 500), Err(RuleError::Meet));
    }

    #[test]
    fn a_rule_holds_nothing_per_subscriber() {
        // 2^22 subscribers and 2^16 external addresses, in the size of two ranges.
        let rule = Deterministic::new(
            ranges(&["10.0.0.0/10"]),
            ranges(&["198.0.0.0/16"]),
            1024,
            65535,
            1008,
            Order::AddressByAddress,
        )
        .unwrap();
        assert_eq!(rule.internal.size(), 1 << 22);
        assert!(size_of_val(&rule) < 128);
    }

    fn order() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::AddressByAddress), Just(Order::BlockByBlock), Just(Order::EveryAddress)]
    }

    proptest! {
        #[test]
        fn both_directions_agree_and_no_two_subscribers_share_a_port(
            addresses in 1..5_u8, subscribers in 1..60_u8, first in 0..3000_u16, length in 0..3000_u16, ports in 1..400_u32,
            order in order(),
        ) {
            let internal = ranges(&[&format!("10.0.0.0-10.0.0.{}", subscribers - 1)]);
            let external = ranges(&[&format!("203.0.113.0-203.0.113.{}", addresses - 1)]);
            let Ok(rule) = Deterministic::new(internal, external, first, first + length, ports, order) else { return Ok(()) };
            let mut taken = 0_u64;
            for n in 0..subscribers {
                let internal = Ipv4Addr::new(10, 0, 0, n);
                let share = rule.outside(internal).unwrap();
                let each = u64::from(share.last - share.first) + 1;
                taken += each * share.addresses.len() as u64;
                prop_assert_eq!(each * share.addresses.len() as u64, u64::from(ports));
                for address in share.addresses {
                    for port in [share.first, share.last, share.first + (share.last - share.first) / 2] {
                        prop_assert_eq!(rule.inside(address.into(), Some(port)), Inside::At(internal.into()));
                    }
                }
            }
            let given = |address: u8| {
                (first..=first + length)
                    .filter(|port| matches!(rule.inside([203, 0, 113, address].into(), Some(*port)), Inside::At(_)))
                    .count() as u64
            };
            prop_assert_eq!((0..addresses).map(given).sum::<u64>(), taken);
        }
    }
}
