//! From routes to UPDATEs: what internal and external peers are told (RFC 4271 §5), and only differences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Family, FlowRule, Message, Origin, Role, Update, announce_flow,
    announce_v4, announce_v4_by_v6, announce_v6, withdraw_flow, withdraw_v4, withdraw_v6,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::flow::{FlowRoute, FlowRoutes};
use crate::guard::{Guarded, PrivateRoute, Reach};
use crate::injector::Routes;

/// LOCAL_PREF of our routes on internal sessions: the usual default, so that the operator's policy decides.
pub(crate) const LOCAL_PREF: u32 = 100;

/// How routes look to one peer.
#[derive(Debug, Clone)]
pub(crate) struct Exporter {
    pub(crate) local_as: Asn,
    pub(crate) context: Context,
    pub(crate) families: BTreeSet<Family>,
    /// What we are to the peer.
    pub(crate) role: Option<Role>,
    /// For how many seconds the peer keeps routes when we are gone, but for those marked NO_LLGR, if it does.
    pub(crate) keeps: Option<u32>,
}

impl Exporter {
    /// RFC 4271 §5.1: to an external peer with our AS on the path; to an internal one with LOCAL_PREF.
    fn attributes(&self, route: &PrivateRoute) -> Guarded {
        route.guarded(self.bare())
    }

    /// What every route of ours says, whatever else it does.
    fn bare(&self) -> Attributes {
        let (as_path, local_pref) = if self.context.external {
            (AsPath::sequence([self.local_as]), None)
        } else {
            (AsPath::default(), Some(LOCAL_PREF))
        };
        Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(as_path),
            local_pref,
            only_to_customer: self.only_to_customer(),
            communities: self.keeps.map(|_| Community::NO_LLGR).into_iter().collect(),
            ..Attributes::default()
        }
    }

    /// RFC 9234 §5: whoever gets it downwards or sideways must not pass it up or sideways.
    pub(crate) fn only_to_customer(&self) -> Option<Asn> {
        matches!(self.role, Some(Role::Provider | Role::Peer | Role::RouteServer)).then_some(self.local_as)
    }

    /// Messages that turn what the peer holds, `from`, into `to`. Routes that go are withdrawn first. Rules come before
    /// the routes that they restrict, those that discard before those that permit, and go behind them in the other
    /// order: at no moment does a route stand without its rules.
    pub(crate) fn difference(&self, from: (&Routes, &FlowRoutes), to: (&Routes, &FlowRoutes)) -> Vec<Vec<u8>> {
        // Some are told by their rules alone.
        let told = |routes: &Routes, prefix| routes.get(prefix).is_some_and(|route| !route.is_by_rules_alone());
        let gone = from.0.keys().filter(|prefix| told(from.0, prefix) && !told(to.0, prefix));
        let new = to.0.iter().filter(|(prefix, route)| told(to.0, prefix) && from.0.get(*prefix) != Some(*route));
        let new = new.map(|(_, route)| route);
        let new_rules = to.1.iter().filter(|(rule, route)| from.1.get(*rule) != Some(*route));
        let gone_rules = from.1.iter().filter(|(rule, _)| !to.1.contains_key(*rule));
        let mut messages = self.withdraw(gone);
        messages.extend(self.announce_rules(new_rules));
        messages.extend(self.announce(new));
        messages.extend(self.withdraw_rules(gone_rules));
        messages.iter().map(|update| self.encode(update)).collect()
    }

    fn announce_rules<'a>(&self, rules: impl Iterator<Item = (&'a FlowRule, &'a FlowRoute)>) -> Vec<Update> {
        let mut groups: BTreeMap<(bool, Family, &FlowRoute), Vec<&FlowRule>> = BTreeMap::new();
        for (rule, route) in rules {
            groups.entry((!route.discards(), rule.family(), route)).or_default().push(rule);
        }
        let updates = groups.into_iter().map(|((_, family, route), rules)| {
            let attributes = Attributes { communities: route.communities.clone(), ..self.bare() };
            let attributes = match route.guard {
                Some(guard) => guard.attach(attributes),
                None => attributes,
            };
            announce_flow(&route.actions.attach(attributes), family, rules, self.context)
        });
        let updates: Result<Vec<_>, _> = updates.collect();
        updates.expect("MAX_FLOW_RULE, MAX_ACTIONS and MAX_COMMUNITIES fit a message").into_iter().flatten().collect()
    }

    fn withdraw_rules<'a>(&self, rules: impl Iterator<Item = (&'a FlowRule, &'a FlowRoute)>) -> Vec<Update> {
        let mut groups: BTreeMap<(bool, Family), Vec<&FlowRule>> = BTreeMap::new();
        for (rule, route) in rules {
            groups.entry((route.discards(), rule.family())).or_default().push(rule);
        }
        let updates = groups.into_iter().map(|((_, family), rules)| withdraw_flow(family, rules, self.context));
        let updates: Result<Vec<_>, _> = updates.collect();
        updates.expect("a rule that was announced fits a message").into_iter().flatten().collect()
    }

    /// The part of `routes` that the peer takes.
    pub(crate) fn taken(&self, routes: &Routes) -> Routes {
        let taken = routes.iter().filter(|(prefix, route)| {
            let next_hop_fits =
                self.context.ipv4_by_ipv6 || route.is_by_rules_alone() || !matches!(route.reach, Reach::V4ByV6(..));
            // Fail closed: who takes no rules would let everything pass.
            let rules_fit = !route.is_restricted() || self.context.flow.has(Family::of(prefix));
            self.families.contains(&Family::of(prefix)) && next_hop_fits && rules_fit
        });
        taken.map(|(prefix, route)| (*prefix, route.clone())).collect()
    }

    /// The End-of-RIB of `family`.
    pub(crate) fn end_of_rib(&self, family: Family) -> Vec<u8> {
        self.encode(&Update::end_of_rib(family))
    }

    fn announce<'a>(&self, routes: impl Iterator<Item = &'a PrivateRoute>) -> Vec<Update> {
        let mut v4: BTreeMap<(Guarded, Ipv4Addr), Vec<Ipv4Net>> = BTreeMap::new();
        let mut v4_by_v6: BTreeMap<(Guarded, Ipv6Addr), Vec<Ipv4Net>> = BTreeMap::new();
        let mut v6: BTreeMap<(Guarded, Ipv6Addr), Vec<Ipv6Net>> = BTreeMap::new();
        for route in routes {
            let guarded = self.attributes(route);
            match route.reach {
                Reach::V4(prefix, next_hop) => v4.entry((guarded, next_hop)).or_default().push(prefix),
                Reach::V4ByV6(prefix, next_hop) => v4_by_v6.entry((guarded, next_hop)).or_default().push(prefix),
                Reach::V6(prefix, next_hop) => v6.entry((guarded, next_hop)).or_default().push(prefix),
            }
        }
        let v4 = v4
            .into_iter()
            .map(|((guarded, next_hop), prefixes)| announce_v4(guarded.attributes(), next_hop, prefixes, self.context));
        let v6 = v6
            .into_iter()
            .map(|((guarded, next_hop), prefixes)| announce_v6(guarded.attributes(), next_hop, prefixes, self.context));
        let v4_by_v6 = v4_by_v6.into_iter().map(|((guarded, next_hop), prefixes)| {
            announce_v4_by_v6(guarded.attributes(), next_hop, prefixes, self.context)
        });
        let updates: Result<Vec<_>, _> = v4.chain(v4_by_v6).chain(v6).collect();
        updates.expect("MAX_COMMUNITIES leaves room for prefixes").into_iter().flatten().collect()
    }

    fn withdraw<'a>(&self, prefixes: impl Iterator<Item = &'a IpNet>) -> Vec<Update> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => v4.push(*prefix),
                IpNet::V6(prefix) => v6.push(*prefix),
            }
        }
        withdraw_v4(v4, self.context).into_iter().chain(withdraw_v6(v6, self.context)).collect()
    }

    pub(crate) fn encode(&self, update: &Update) -> Vec<u8> {
        Message::Update(update.clone()).encode(self.context).expect("the packer keeps to the message size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Guard, Keep};
    use bgp_wire::{Community, MpReach};
    use proptest::prelude::*;

    fn exporter(external: bool) -> Exporter {
        Exporter {
            local_as: Asn(64500),
            context: Context { external, ..Context::default() },
            families: Family::ALL.into(),
            role: None,
            keeps: None,
        }
    }

    fn difference(exporter: &Exporter, from: &Routes, to: &Routes) -> Vec<Vec<u8>> {
        exporter.difference((from, &FlowRoutes::new()), (to, &FlowRoutes::new()))
    }

    fn routes(prefixes: &[&str], guard: Guard) -> Routes {
        let route = |prefix: &&str| {
            let prefix: IpNet = prefix.parse().unwrap();
            let next_hop = if prefix.addr().is_ipv4() { "198.51.100.2" } else { "2001:db8:5100:1::2" };
            (prefix, PrivateRoute::new(prefix, next_hop.parse().unwrap(), guard, Vec::new()).unwrap())
        };
        prefixes.iter().map(route).collect()
    }

    fn updates(messages: &[Vec<u8>], context: Context) -> Vec<Update> {
        let decode = |bytes: &Vec<u8>| match Message::decode(bytes, context) {
            Ok(Message::Update(update)) => update,
            other => panic!("{other:?}"),
        };
        messages.iter().map(decode).collect()
    }

    #[test]
    fn an_internal_peer_gets_local_pref_and_an_empty_path() {
        let exporter = exporter(false);
        let messages = difference(&exporter, &Routes::new(), &routes(&["203.0.113.200/32"], Guard::NoExport));
        let [update] = &updates(&messages, exporter.context)[..] else { panic!() };
        assert_eq!(update.attributes.as_path, Some(AsPath::default()));
        assert_eq!(update.attributes.local_pref, Some(100));
        assert_eq!(update.attributes.communities, [Community::NO_EXPORT]);
        assert_eq!(update.attributes.next_hop, Some("198.51.100.2".parse().unwrap()));
    }

    #[test]
    fn an_external_peer_gets_our_as_and_no_local_pref() {
        let exporter = exporter(true);
        let messages = difference(&exporter, &Routes::new(), &routes(&["2001:db8:c10a::200/128"], Guard::NoAdvertise));
        let [update] = &updates(&messages, exporter.context)[..] else { panic!() };
        assert_eq!(update.attributes.as_path, Some(AsPath::sequence([Asn(64500)])));
        assert_eq!(update.attributes.local_pref, None);
        assert_eq!(update.attributes.communities, [Community::NO_ADVERTISE]);
        assert!(
            matches!(&update.mp_reach, Some(MpReach::Ipv6 { next_hop, .. }) if next_hop.to_string() == "2001:db8:5100:1::2")
        );
    }

    #[test]
    fn what_goes_down_or_sideways_is_marked_only_to_customer() {
        let roles = [Role::Provider, Role::Peer, Role::RouteServer, Role::Customer, Role::RouteServerClient];
        for (role, marked) in roles.into_iter().zip([true, true, true, false, false]) {
            let exporter = Exporter { role: Some(role), ..exporter(true) };
            let messages = difference(&exporter, &Routes::new(), &routes(&["203.0.113.200/32"], Guard::NoExport));
            let [update] = &updates(&messages, exporter.context)[..] else { panic!() };
            assert_eq!(update.attributes.only_to_customer, marked.then_some(Asn(64500)), "{role:?}");
        }
    }

    #[test]
    fn ipv4_by_ipv6_goes_to_who_has_the_capability() {
        let prefix: IpNet = "203.0.113.200/32".parse().unwrap();
        let route = PrivateRoute::new(prefix, "2001:db8::1".parse().unwrap(), Guard::NoExport, Vec::new()).unwrap();
        let routes = Routes::from([(prefix, route)]);
        assert!(exporter(false).taken(&routes).is_empty());
        let context = Context { ipv4_by_ipv6: true, ..Context::default() };
        let exporter = Exporter { context, ..exporter(false) };
        let messages = difference(&exporter, &Routes::new(), &exporter.taken(&routes));
        let [update] = &updates(&messages, context)[..] else { panic!() };
        assert!(matches!(&update.mp_reach, Some(MpReach::Ipv4ByIpv6 { .. })));
        assert_eq!(update.reachable().collect::<Vec<_>>(), [prefix]);
        assert_eq!(update.attributes.communities, [Community::NO_EXPORT]);
    }

    #[test]
    fn a_family_that_the_peer_does_not_take_stays_here() {
        let exporter = Exporter { families: [Family::Ipv4].into(), ..exporter(false) };
        let both = routes(&["203.0.113.200/32", "2001:db8:c10a::200/128"], Guard::NoExport);
        let taken: Vec<String> = exporter.taken(&both).keys().map(IpNet::to_string).collect();
        assert_eq!(taken, ["203.0.113.200/32"]);
    }

    proptest! {
        #[test]
        fn the_difference_turns_one_set_into_the_other(
            from in any_routes(), to in any_routes(), external: bool,
        ) {
            let exporter = exporter(external);
            let mut held: BTreeMap<IpNet, Vec<Community>> = BTreeMap::new();
            let messages = [difference(&exporter, &Routes::new(), &from), difference(&exporter, &from, &to)].concat();
            for update in updates(&messages, exporter.context) {
                prop_assert!(update.flaws.is_empty());
                for prefix in update.unreachable() {
                    prop_assert!(held.remove(&prefix).is_some(), "{} was not announced", prefix);
                }
                for prefix in update.reachable() {
                    held.insert(prefix, update.attributes.communities.clone());
                }
            }
            prop_assert!(held.keys().eq(to.keys()));
            for (prefix, communities) in held {
                let Keep::Guard(guard) = to[&prefix].keep() else { panic!() };
                prop_assert!(communities.contains(&guard.community()));
            }
            prop_assert!(difference(&exporter, &to, &to).is_empty());
        }
    }

    fn any_routes() -> impl Strategy<Value = Routes> {
        let prefix = (any::<u8>(), any::<bool>())
            .prop_map(|(n, v4)| if v4 { format!("203.0.113.{n}/32") } else { format!("2001:db8:c10a::{n:x}/128") });
        proptest::collection::vec((prefix, any::<bool>()), 0..40).prop_map(|list| {
            let guard = |no_export| if no_export { Guard::NoExport } else { Guard::NoAdvertise };
            list.iter().flat_map(|(prefix, no_export)| routes(&[prefix], guard(*no_export))).collect()
        })
    }
}
