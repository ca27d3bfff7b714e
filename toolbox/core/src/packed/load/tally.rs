//! What the sessions of one thread claim, before it is known what all of them do.

use ipnet::IpNet;
use toolbox_wire::record::Ports;

use crate::packed::claims::Claims;

/// Prefixes of the shortest length so far that are kept, in case that a shorter one comes.
const PENDING: usize = 1024;

/// Prefixes of one family that are longer than the shortest of them.
#[derive(Debug, Default)]
struct Family {
    shortest: Option<u8>,
    /// Of that length.
    pending: Vec<IpNet>,
    /// There were more of them.
    lost: bool,
    longer: Vec<IpNet>,
    /// Some that are longer were not kept.
    incomplete: bool,
}

impl Family {
    fn add(&mut self, net: IpNet) {
        let length = net.prefix_len();
        match self.shortest {
            Some(shortest) if shortest < length => return self.longer.push(net),
            Some(shortest) if shortest == length => {}
            _ => self.shorten(length),
        }
        if self.pending.len() < PENDING {
            self.pending.push(net);
        } else {
            self.lost = true;
        }
    }

    /// That no prefix is shorter than this.
    fn shorten(&mut self, length: u8) {
        if self.shortest.is_some_and(|shortest| shortest > length) {
            self.incomplete |= self.lost;
            self.longer.append(&mut self.pending);
            self.lost = false;
        }
        self.shortest = Some(length);
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sessions: usize,
    pub(super) open: usize,
    pub(super) claims: Claims,
    v4: Family,
    v6: Family,
}

impl Tally {
    pub(super) fn add(&mut self, net: IpNet, ports: Ports) {
        self.claims.add(net, ports);
        if net.addr().is_ipv4() { self.v4.add(net) } else { self.v6.add(net) }
    }

    /// What all claim; and whether what lies inside what has to be looked for anew.
    pub(super) fn together(parts: Vec<Self>) -> (Claims, bool) {
        let mut claims = Claims::default();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for part in parts {
            claims.absorb(part.claims);
            v4.push(part.v4);
            v6.push(part.v6);
        }
        let mut anew = false;
        for families in [v4, v6] {
            let Some(shortest) = families.iter().filter_map(|family| family.shortest).min() else { continue };
            let (mut longer, mut some) = (Vec::new(), None);
            for mut family in families.into_iter().filter(|family| family.shortest.is_some()) {
                family.shorten(shortest);
                anew |= family.incomplete;
                some = some.or(family.pending.first().copied());
                longer.append(&mut family.longer);
            }
            longer.sort_unstable();
            if let Some(net) = some {
                claims.set_nested(net, longer);
            }
        }
        (claims, anew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_together_count_what_one_does_by_one(
            all in proptest::collection::vec((0_u8..4, any::<bool>(), 0_u32..40, 0_usize..4, any::<bool>()), 0..60),
        ) {
            let mut parts: Vec<Tally> = (0..4).map(|_| Tally::default()).collect();
            let mut expected = Claims::default();
            let mut nets: Vec<IpNet> = Vec::new();
            for (part, v4, bits, length, whole) in all {
                let net: IpNet = if v4 {
                    ipnet::Ipv4Net::new((0xc633_6400 + bits).into(), [24, 28, 30, 32][length]).unwrap().trunc().into()
                } else {
                    let address = (0x2001_0db8_u128 << 96) + (u128::from(bits) << 64);
                    ipnet::Ipv6Net::new(address.into(), [56, 60, 64, 128][length]).unwrap().trunc().into()
                };
                let ports = if whole { Ports::ALL } else { Ports::new(1024, 1535).unwrap() };
                if expected.is_shortest(net) {
                    let longer = |of: &&IpNet| {
                        of.addr().is_ipv4() == v4 && of.prefix_len() > net.prefix_len()
                    };
                    expected.set_shortest(net, nets.iter().filter(longer).copied().collect());
                }
                expected.count(net, ports, true);
                nets.push(net);
                parts[usize::from(part)].add(net, ports);
            }
            let (claims, anew) = Tally::together(parts);
            prop_assert!(!anew);
            prop_assert_eq!(claims.all(), expected.all());
        }
    }

    #[test]
    fn what_was_not_kept_is_looked_for_anew() {
        let mut tally = Tally::default();
        let net = |n: u32, length| IpNet::from(ipnet::Ipv4Net::new(n.into(), length).unwrap().trunc());
        (0..2000).for_each(|n| tally.add(net(n, 32), Ports::ALL));
        assert!(!Tally::together(vec![std::mem::take(&mut tally)]).1);
        (0..2000).for_each(|n| tally.add(net(n, 32), Ports::ALL));
        let mut other = Tally::default();
        other.add(net(0, 24), Ports::ALL);
        assert!(Tally::together(vec![tally, other]).1);
    }
}
