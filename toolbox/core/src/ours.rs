//! Which prefixes are of this ISP's subscribers: asked several times for each record.

use std::net::IpAddr;

use cloakway_types::PrefixMap;
use ipnet::IpNet;

/// Prefixes up to which each is compared.
const FEW: usize = 16;

/// The subscribers' prefixes.
#[derive(Debug, Clone)]
pub(crate) struct Ours {
    all: PrefixMap<()>,
    /// Prefixes with their first and last address, the longest first; none when there are many.
    v4: Vec<(IpNet, u32, u32)>,
    v6: Vec<(IpNet, u128, u128)>,
    few: bool,
}

impl Ours {
    pub(crate) fn new(all: &PrefixMap<()>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let few = all.len() <= FEW;
        for (net, ()) in all.iter().filter(|_| few) {
            match net {
                IpNet::V4(of) => v4.push((net, of.network().into(), of.broadcast().into())),
                IpNet::V6(of) => v6.push((net, of.network().into(), of.broadcast().into())),
            }
        }
        v4.sort_by_key(|(net, ..)| std::cmp::Reverse(net.prefix_len()));
        v6.sort_by_key(|(net, ..)| std::cmp::Reverse(net.prefix_len()));
        Self { all: all.clone(), v4, v6, few }
    }

    /// Whether `net` lies inside the longest of them that holds its first address.
    pub(crate) fn holds(&self, net: &IpNet) -> bool {
        fn longest<T: PartialOrd + Copy>(all: &[(IpNet, T, T)], address: T) -> Option<IpNet> {
            all.iter().find(|(_, first, last)| *first <= address && address <= *last).map(|(net, ..)| *net)
        }
        let found = match net.addr() {
            address if !self.few => self.all.lookup(address).map(|(of, ())| of),
            IpAddr::V4(address) => longest(&self.v4, address.into()),
            // As `PrefixMap` has it, for a mapped address.
            address @ IpAddr::V6(of) => match address.to_canonical() {
                IpAddr::V4(address) => longest(&self.v4, address.into()),
                IpAddr::V6(_) => longest(&self.v6, of.into()),
            },
        };
        found.is_some_and(|of| of.contains(net))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_prefixes_say_what_many_do(
            all in proptest::collection::vec((any::<bool>(), 0_u32..64, 20_u8..=32), 0..20),
            asked in proptest::collection::vec((any::<bool>(), 0_u32..64, 18_u8..=32), 1..20),
        ) {
            let net = |(v4, bits, length): (bool, u32, u8)| -> IpNet {
                if v4 {
                    ipnet::Ipv4Net::new((0xc000_0200 + (bits << 4)).into(), length).unwrap().trunc().into()
                } else {
                    ipnet::Ipv6Net::new((u128::from(0x2001_0db8_u32 + bits) << 96).into(), length).unwrap().trunc().into()
                }
            };
            let all: PrefixMap<()> = all.into_iter().map(|of| (net(of), ())).collect();
            let ours = Ours::new(&all);
            for of in asked {
                let of = net(of);
                let expected = all.lookup(of.addr()).is_some_and(|(prefix, ())| prefix.contains(&of));
                prop_assert_eq!(ours.holds(&of), expected, "{}", of);
            }
        }
    }
}
