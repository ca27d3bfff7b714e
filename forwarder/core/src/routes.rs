//! The routes that the policy wants in the kernel, the rules that lead to them, and the order in which they come and go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::{Policy, PrivatePrefix, Way};

/// The metric of the blackhole under each private prefix: worse than any real route.
pub const BLACKHOLE_METRIC: u32 = 4096;

/// The metric of the real route by the first link of a prefix; each further link has one more.
pub const LINK_METRIC: u32 = 10;

/// The routing protocol number that marks our routes (`rtm_protocol`); none of the well-known ones.
pub const ROUTE_PROTOCOL: u8 = 143;

/// The kernel's main table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// A routing table of our own, which every look-up meets before the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnTable {
    /// Its number.
    pub table: u32,
    /// The priority of the rules that lead to it.
    pub priority: u32,
}

/// One wanted rule: whatever is looked up is looked up there, at its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// For IPv4, or IPv6.
    pub v4: bool,
    /// The lower, the earlier.
    pub priority: u32,
    /// The table.
    pub table: u32,
}

/// Prefixes and interfaces of links that are not to be used for them now, because another link of theirs is better.
pub type Resting = BTreeSet<(IpNet, String)>;

/// One wanted route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The table that it is in.
    pub table: u32,
    /// The destinations.
    pub prefix: IpNet,
    /// The lower, the better.
    pub metric: u32,
    /// What happens to them.
    pub target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Nowhere: what matches is dropped.
    Blackhole,
    /// Out by a private link; by one of several, as the kernel's hash says.
    Links(Vec<Exit>),
}

/// One exit of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit {
    /// The kernel's interface.
    pub interface: String,
    /// The router there, or `None` for addresses on the link itself.
    pub next_hop: Option<IpAddr>,
}

impl Policy {
    /// The blackholes: in place before anything else, left there when the process ends. With a table of our own they are in
    /// that and in the main one, to which a look-up falls through when somebody takes away the rule or empties the table.
    #[must_use]
    pub fn blackholes(&self) -> Vec<Route> {
        let tables = [Some(MAIN_TABLE), self.own_table().map(|own| own.table)];
        let in_table = |table| {
            let route = move |entry: &PrivatePrefix| Route {
                table,
                prefix: entry.prefix,
                metric: BLACKHOLE_METRIC,
                target: Target::Blackhole,
            };
            self.prefixes().iter().map(route)
        };
        tables.into_iter().flatten().flat_map(in_table).collect()
    }

    /// The table of the real routes.
    #[must_use]
    pub fn table(&self) -> u32 {
        self.own_table().map_or(MAIN_TABLE, |own| own.table)
    }

    /// The rules that lead there: none for the main table.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let Some(OwnTable { table, priority }) = self.own_table() else { return Vec::new() };
        let has = |v4: &bool| self.prefixes().iter().any(|entry| entry.prefix.addr().is_ipv4() == *v4);
        [true, false].into_iter().filter(has).map(|v4| Rule { v4, priority, table }).collect()
    }

    /// The real routes by the links that are `up` and do not rest. Where a prefix has several links, the kernel has a
    /// route by each and takes the next one by itself when a link goes down, whether or not this process lives.
    #[must_use]
    pub fn routes(&self, resting: &Resting, up: impl Fn(&str) -> bool) -> Vec<Route> {
        let (mut routes, table) = (Vec::new(), self.table());
        for entry in self.prefixes() {
            let prefix = entry.prefix;
            let hop = |way: &Way| Exit { interface: self.interface(way.link).to_owned(), next_hop: way.next_hop };
            let hops = (LINK_METRIC..).zip(entry.ways.iter().map(hop));
            let usable = |hop: &Exit| up(&hop.interface) && !resting.contains(&(prefix, hop.interface.clone()));
            let hops = hops.filter(|(_, hop)| usable(hop));
            if entry.spread {
                let hops: Vec<Exit> = hops.map(|(_, hop)| hop).collect();
                if !hops.is_empty() {
                    routes.push(Route { table, prefix, metric: LINK_METRIC, target: Target::Links(hops) });
                }
            } else {
                routes.extend(hops.map(|(metric, hop)| Route {
                    table,
                    prefix,
                    metric,
                    target: Target::Links(vec![hop]),
                }));
            }
        }
        routes
    }
}

/// Whether the blackhole of `prefix` must wait for its real route: a wider prefix of `carrying`, those that have real
/// routes of ours now, carries its packets, and the longer blackhole would take them. The wider blackhole guards meanwhile.
#[must_use]
pub fn blackhole_waits(prefix: IpNet, carrying: &BTreeSet<IpNet>) -> bool {
    carrying.iter().any(|wider| *wider != prefix && wider.contains(&prefix))
}

/// The rank in which a route of ours goes that the policy wants no more. Where a wider prefix takes over, the blackhole
/// goes before the real route, or it would drop in between; elsewhere it goes last.
#[must_use]
pub fn rank_of_going(prefix: IpNet, blackhole: bool, wanted: &BTreeSet<IpNet>) -> u8 {
    u8::from(blackhole_waits(prefix, wanted) != blackhole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SpecLink;
    use crate::policy::tests::example;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn policy(spread: bool) -> Policy {
        let mut spec = example();
        spec.links.push(SpecLink { name: "spare".into(), interface: "priv1".into() });
        spec.prefixes.truncate(1);
        spec.prefixes[0].links.push("spare".into());
        spec.prefixes[0].spread = spread;
        Policy::new(spec).unwrap()
    }

    fn told(routes: &[Route]) -> Vec<(u32, Vec<&str>)> {
        let hops = |route: &'_ Route| match &route.target {
            Target::Blackhole => Vec::new(),
            Target::Links(hops) => hops.iter().map(|hop| hop.interface.clone()).collect(),
        };
        let known = ["priv0", "priv1"];
        let name = |name: String| *known.iter().find(|known| **known == name).unwrap();
        routes.iter().map(|route| (route.metric, hops(route).into_iter().map(name).collect())).collect()
    }

    #[test]
    fn each_link_has_a_route_of_its_own_metric_unless_it_is_down_or_rests() {
        let policy = policy(false);
        let all = |_: &str| true;
        assert_eq!(told(&policy.routes(&Resting::new(), all)), [(10, vec!["priv0"]), (11, vec!["priv1"])]);
        let resting = [(net("203.0.113.200/32"), "priv0".to_owned())].into();
        assert_eq!(told(&policy.routes(&resting, all)), [(11, vec!["priv1"])]);
        assert_eq!(told(&policy.routes(&Resting::new(), |name| name == "priv1")), [(11, vec!["priv1"])]);
        assert!(policy.routes(&Resting::new(), |_| false).is_empty());
    }

    #[test]
    fn a_spread_is_one_route_over_what_is_there() {
        let policy = policy(true);
        assert_eq!(told(&policy.routes(&Resting::new(), |_| true)), [(10, vec!["priv0", "priv1"])]);
        assert_eq!(told(&policy.routes(&Resting::new(), |name| name == "priv1")), [(10, vec!["priv1"])]);
    }

    #[test]
    fn in_a_table_of_our_own_are_real_routes_and_blackholes_and_in_the_main_one_blackholes() {
        let main = policy(false);
        assert!(main.rules().is_empty());
        let own = policy(false).in_table(OwnTable { table: 143, priority: 1000 });
        let tables = |routes: Vec<Route>| routes.iter().map(|route| route.table).collect::<Vec<_>>();
        assert_eq!(tables(main.routes(&Resting::new(), |_| true)), [MAIN_TABLE; 2]);
        assert_eq!(tables(own.routes(&Resting::new(), |_| true)), [143; 2]);
        assert_eq!((tables(main.blackholes()), tables(own.blackholes())), (vec![MAIN_TABLE], vec![MAIN_TABLE, 143]));
        assert_eq!(own.rules(), [Rule { v4: true, priority: 1000, table: 143 }]);
        let both = Policy::new(example()).unwrap().in_table(OwnTable { table: 143, priority: 1000 });
        assert_eq!(both.rules().len(), 2);
    }

    #[test]
    fn a_longer_blackhole_comes_after_its_route_and_goes_before_it() {
        let carrying: BTreeSet<IpNet> = [net("203.0.113.0/24")].into();
        assert!(blackhole_waits(net("203.0.113.128/25"), &carrying));
        assert!(!blackhole_waits(net("203.0.113.0/24"), &carrying));
        assert!(!blackhole_waits(net("203.0.112.0/23"), &carrying));
        let order = |prefix: &str| {
            let mut routes = [true, false];
            routes.sort_by_key(|blackhole| rank_of_going(net(prefix), *blackhole, &carrying));
            routes
        };
        assert_eq!(order("203.0.113.128/25"), [true, false]);
        assert_eq!(order("192.0.2.0/24"), [false, true]);
    }
}
