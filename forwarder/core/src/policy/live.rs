//! Subscriber prefixes that come and go while the policy stands.

use ipnet::IpNet;

use super::Policy;
use super::check::Disjoint;

impl Policy {
    /// The same policy with these live subscriber prefixes beside the configured ones, in the place of those that it had, and
    /// those of them that are left out: what touches a private prefix, or a router or heartbeat on a private link, is no
    /// subscriber's.
    #[must_use]
    pub fn serving(&self, live: &[IpNet]) -> (Self, Vec<IpNet>) {
        let mut ours = apart(self.prefixes.iter().map(|entry| entry.prefix));
        for way in self.prefixes.iter().flat_map(|entry| &entry.ways) {
            let probe = IpNet::from(way.probe);
            if ours.meets(probe).is_none() {
                ours.add(probe);
            }
        }
        let (out, live): (Vec<IpNet>, Vec<IpNet>) = live.iter().partition(|prefix| ours.meets(**prefix).is_some());
        let holds = |wider: &Disjoint, prefix: &IpNet| wider.meets(*prefix).is_some_and(|found| found.contains(prefix));
        let configured = apart(self.configured.iter().copied());
        let live: Vec<IpNet> =
            IpNet::aggregate(&live).into_iter().filter(|prefix| !holds(&configured, prefix)).collect();
        let wider = apart(live.iter().copied());
        let mut all: Vec<IpNet> = self.configured.iter().filter(|prefix| !holds(&wider, prefix)).copied().collect();
        all.extend(&live);
        let mut policy = self.clone();
        policy.subscribers = all.iter().copied().collect();
        policy.subscriber_prefixes = all;
        (policy, out)
    }

    /// The private prefixes that no subscriber has an address of the right IP version for: nobody can use them now.
    pub fn unserved(&self) -> impl Iterator<Item = IpNet> {
        let [v4, v6] =
            [true, false].map(|v4| self.subscriber_prefixes.iter().any(|prefix| prefix.addr().is_ipv4() == v4));
        let all = self.prefixes.iter().map(|entry| entry.prefix);
        all.filter(move |prefix| if prefix.addr().is_ipv4() { !v4 } else { !v6 })
    }

    /// The subscriber prefixes that are configured, without those that are live.
    #[must_use]
    pub fn configured_prefixes(&self) -> &[IpNet] {
        &self.configured
    }
}

fn apart(prefixes: impl Iterator<Item = IpNet>) -> Disjoint {
    let mut apart = Disjoint::default();
    prefixes.for_each(|prefix| apart.add(prefix));
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn live_prefixes_stand_beside_the_configured_ones_and_no_two_overlap() {
        let policy = Policy::new(example()).unwrap();
        for (live, all) in [
            (&[][..], &["198.51.100.64/26", "2001:db8:5100:64::/64"][..]),
            (&["198.51.100.70/32"], &["198.51.100.64/26", "2001:db8:5100:64::/64"]),
            (&["198.51.100.0/24"], &["2001:db8:5100:64::/64", "198.51.100.0/24"]),
            (
                &["198.51.101.0/32", "198.51.101.1/32", "198.51.101.1/32"],
                &["198.51.100.64/26", "2001:db8:5100:64::/64", "198.51.101.0/31"],
            ),
        ] {
            let (serving, out) = policy.serving(&nets(live));
            assert_eq!((serving.subscriber_prefixes(), out), (&*nets(all), Vec::new()), "{live:?}");
            for prefix in nets(all) {
                assert!(serving.is_subscriber(prefix.addr()));
            }
            let (back, _) = serving.serving(&[]);
            assert_eq!(back.subscriber_prefixes(), policy.subscriber_prefixes(), "those before are in no one's way");
        }
    }

    #[test]
    fn what_touches_the_private_side_is_no_subscribers() {
        let mut spec = example();
        spec.prefixes[0].next_hop = Some("192.0.2.250".parse().unwrap());
        let policy = Policy::new(spec).unwrap();
        let live =
            nets(&["203.0.113.0/24", "203.0.113.200/32", "192.0.2.248/30", "198.51.101.0/24", "2001:db8:c10a::/48"]);
        let (serving, out) = policy.serving(&live);
        assert_eq!(out, nets(&["203.0.113.0/24", "203.0.113.200/32", "192.0.2.248/30", "2001:db8:c10a::/48"]));
        assert!(serving.is_subscriber("198.51.101.1".parse().unwrap()));
        assert!(!serving.is_subscriber("203.0.113.200".parse().unwrap()));
    }

    #[test]
    fn a_policy_that_is_fed_needs_no_configured_prefix() {
        let mut spec = example();
        spec.subscriber_prefixes.clear();
        spec.live = vec![nets(&["198.51.100.0/22"])];
        let refusal = Policy::new(spec.clone()).unwrap_err();
        assert!(refusal.to_string().contains("is IPv6 and no subscriber prefix is"), "{refusal}");
        spec.live[0].extend(nets(&["2001:db8:5100::/48"]));
        let policy = Policy::new(spec.clone()).unwrap();
        let [v4, v6] = [0, 1].map(|index| policy.prefixes()[index].prefix);
        assert_eq!(policy.unserved().collect::<Vec<_>>(), [v4, v6]);
        let (serving, _) = policy.serving(&nets(&["198.51.100.0/24"]));
        assert_eq!(serving.unserved().collect::<Vec<_>>(), [v6]);
        for (within, place) in
            [(&[][..], "subscribers.live[0].within"), (&["0.0.0.0/0"], "subscribers.live[0].within[0]")]
        {
            spec.live = vec![nets(within)];
            assert_eq!(Policy::new(spec.clone()).unwrap_err().place.to_string(), place);
        }
    }
}
