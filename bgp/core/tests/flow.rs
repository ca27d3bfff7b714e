//! Flow specifications in a session, against a scripted peer: what is told in which order, and what is heard.

#![cfg(test)]

mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bench::{Bench, PRIVATE, PRIVATE_V6, peer_open, settings};
use bgp_core::{
    Event, Export, Filter, FlowChange, FlowHeard, FlowRoute, FlowTable, Flows, Guard, Input, Options, Others, Output,
    Permit, Policy, PrefixList, PrivateRoute, Routes, Rule, Settings, State, Verdict,
};
use bgp_wire::{
    Actions, AsPath, Attributes, Capability, Community, Context, Families, Family, FlowRule, Message, Origin,
    RouteRefresh, Update, announce_flow, withdraw_flow,
};
use proptest::prelude::*;

const FLOW: Context = Context { four_octet_as: true, flow: Families { ipv4: true, ipv6: true }, ..Context::LEAST };

fn established(settings: Settings, capabilities: impl IntoIterator<Item = Capability>) -> Bench {
    let mut open = peer_open();
    open.capabilities.extend(capabilities);
    let mut bench = Bench::open_sent(settings);
    bench.reading = FLOW;
    bench.hear(Message::Open(open));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.state(), State::Established);
    bench
}

fn flowing() -> Settings {
    Settings { export: Export::All, options: Options { flow: true, ..Options::default() }, ..settings() }
}

fn both() -> [Capability; 2] {
    Family::ALL.map(Capability::Flow)
}

fn route(prefix: &str, ports: &[u16]) -> PrivateRoute {
    let next_hop = if prefix.contains(':') { "2001:db8:5100:1::2" } else { "198.51.100.2" };
    let route = PrivateRoute::new(prefix.parse().unwrap(), next_hop.parse().unwrap(), Guard::NoExport, Vec::new());
    let ports = ports.iter().map(|port| *port..=*port).collect();
    let permit = Permit { protocol: 6, ports, actions: Actions::default() };
    route.unwrap().with_permits(&[permit]).unwrap()
}

fn all(routes: impl IntoIterator<Item = PrivateRoute>) -> Arc<Routes> {
    Arc::new(routes.into_iter().map(|route| (route.prefix(), route)).collect())
}

/// What the peer reads, each thing once: `+` comes, `-` goes.
fn told(bench: &mut Bench, input: Input<'_>) -> Vec<String> {
    bench.session.handle(input, bench.now);
    let mut told = Vec::new();
    while let Some(output) = bench.session.poll_output() {
        let Output::Send(_, bytes) = output else { continue };
        match Message::decode(&bytes, FLOW).unwrap() {
            Message::Update(update) => {
                assert!(update.flaws.is_empty());
                let actions = Actions::of(&update.attributes);
                told.extend(update.unreachable().map(|prefix| format!("-{prefix}")));
                told.extend(update.flow_unreachable().map(|rule| format!("-{rule}")));
                told.extend(update.flow_reachable().iter().map(|rule| format!("+{rule}: {actions}")));
                told.extend(update.reachable().map(|prefix| format!("+{prefix}")));
                if !update.flow_reachable().is_empty() {
                    assert_eq!(update.attributes.communities, [Community::NO_EXPORT], "{told:?}");
                }
            }
            Message::RouteRefresh(refresh) => told.push(format!("refresh {} {}", refresh.safi, refresh.subtype)),
            other => panic!("{other:?}"),
        }
    }
    told
}

const REST: &str = "destination 203.0.113.200/32";
const HTTPS: &str = "destination 203.0.113.200/32 protocol =6 destination-port =443";

#[test]
fn rules_stand_before_their_route_and_longer_than_it() {
    let mut bench = established(flowing(), both());
    let come = told(&mut bench, Input::Routes(all([route(PRIVATE, &[443])])));
    assert_eq!(come, [format!("+{REST}: discard"), format!("+{HTTPS}: accept"), format!("+{PRIVATE}")]);
    assert_eq!(bench.session.flow_advertised().len(), 2);
    assert_eq!(bench.session.status().flow_advertised, 2);
    // Other ports: nothing is open that was not open before or is not to be open now.
    let other = told(&mut bench, Input::Routes(all([route(PRIVATE, &[8443])])));
    let ssl = "destination 203.0.113.200/32 protocol =6 destination-port =8443";
    assert_eq!(other, [format!("+{ssl}: accept"), format!("+{PRIVATE}"), format!("-{HTTPS}")]);
    let gone = told(&mut bench, Input::Routes(all([])));
    assert_eq!(gone, [format!("-{PRIVATE}"), format!("-{ssl}"), format!("-{REST}")]);
}

#[test]
fn who_takes_no_rules_is_not_told_of_a_restricted_prefix() {
    for (settings, capabilities) in [(flowing(), vec![]), (settings(), both().to_vec())] {
        let mut bench = established(settings, capabilities);
        assert_eq!(told(&mut bench, Input::Routes(all([route(PRIVATE, &[443])]))), [""; 0]);
        assert!(bench.session.advertised().is_empty());
    }
    // One family of rules is not the other.
    let mut bench = established(flowing(), [Capability::Flow(Family::Ipv6)]);
    let routes = all([route(PRIVATE, &[443]), route(PRIVATE_V6, &[443])]);
    let come = told(&mut bench, Input::Routes(routes));
    assert_eq!(come.len(), 3);
    assert!(come.iter().all(|word| word.contains("2001:db8")), "{come:?}");
}

#[test]
fn a_rule_may_be_for_other_peers_and_a_session_for_other_sets() {
    let rule = || "destination 10.0.0.0/24 protocol =17".parse::<FlowRule>().unwrap();
    let of = |audience: &[&str]| {
        let audience = audience.iter().map(|text| text.parse().unwrap()).collect();
        let communities = vec![Community::NO_EXPORT];
        let route = FlowRoute { communities, audience, ..FlowRoute::new(Actions::discard()) };
        let mut table = FlowTable::new(Arc::new(everything()));
        let (remove, add) = (Vec::new(), vec![(rule(), route)]);
        table.apply(&FlowChange { set: "s".to_owned(), others: Others::Go, remove, add });
        Arc::new(table.wanted())
    };
    let peer = |sets: Option<&str>| {
        let sets = sets.map(|set| [set.to_owned()].into_iter().collect());
        let address = Some("192.0.2.1".parse().unwrap());
        established(Settings { options: Options { address, sets, ..flowing().options }, ..flowing() }, both())
    };
    for (audience, sets, is_told) in [
        (&[][..], None, true),
        (&["192.0.2.1"], None, true),
        (&["192.0.2.2"], None, false),
        (&[], Some("s"), true),
        (&[], Some("other"), false),
    ] {
        let come = told(&mut peer(sets), Input::Flows(of(audience)));
        assert_eq!(come.len(), usize::from(is_told), "{audience:?} {sets:?}: {come:?}");
    }
    // For another from now on.
    let mut bench = peer(None);
    told(&mut bench, Input::Flows(of(&["192.0.2.1"])));
    assert_eq!(told(&mut bench, Input::Flows(of(&["192.0.2.2"]))), [format!("-{}", rule())]);
}

#[test]
fn rules_alone_lead_packets_in_place_of_the_route() {
    let plain =
        || PrivateRoute::new(PRIVATE.parse().unwrap(), "192.0.2.1".parse().unwrap(), Guard::NoExport, vec![]).unwrap();
    let permit = |actions: &str| Permit { protocol: 6, ports: vec![443..=443], actions: actions.parse().unwrap() };
    let none = plain().by_rules_alone().unwrap_err().to_string();
    assert!(none.contains("give flow"), "{none}");
    let stays = plain().with_permits(&[permit("accept")]).unwrap().by_rules_alone().unwrap_err().to_string();
    assert!(stays.contains("protocol =6 destination-port =443") && stays.contains("redirect"), "{stays}");
    let with = plain().with_permits(&[permit("redirect 64500:7")]).unwrap();
    let alone = with.clone().by_rules_alone().unwrap();
    let mut bench = established(flowing(), both());
    let come = told(&mut bench, Input::Routes(all([alone.clone()])));
    assert_eq!(
        come,
        [
            format!("+destination {PRIVATE}: discard"),
            format!("+destination {PRIVATE} protocol =6 destination-port =443: redirect 64500:7"),
        ]
    );
    // The route comes beside them, and goes again.
    assert_eq!(told(&mut bench, Input::Routes(all([with]))), [format!("+{PRIVATE}")]);
    assert_eq!(told(&mut bench, Input::Routes(all([alone]))), [format!("-{PRIVATE}")]);
    let gone = told(&mut bench, Input::Routes(all([])));
    assert!(gone.len() == 2 && gone.iter().all(|word| word.starts_with("-destination")), "{gone:?}");
}

fn injected(policy: Policy, rules: &[(&str, &str)]) -> Arc<Flows> {
    let mut table = FlowTable::new(Arc::new(policy));
    let add = rules.iter().map(|(rule, actions)| {
        let actions = actions.parse().unwrap();
        let communities = vec![Community::NO_EXPORT];
        let route = FlowRoute { communities, guard: Some(Guard::NoExport), ..FlowRoute::new(actions) };
        (rule.parse().unwrap(), route)
    });
    let add = add.collect();
    table.apply(&FlowChange { set: "s".to_owned(), others: Others::Go, remove: Vec::new(), add });
    Arc::new(table.wanted())
}

fn everything() -> Policy {
    Policy::new(&["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], &[])
}

#[test]
fn injected_rules_go_to_who_takes_them_and_never_loosen_a_private_prefix() {
    let rules = [("destination 10.0.0.0/24 protocol =17", "rate-bytes 1000"), (REST, "accept")];
    let mut bench = established(flowing(), both());
    told(&mut bench, Input::Routes(all([route(PRIVATE, &[443])])));
    let come = told(&mut bench, Input::Flows(injected(everything(), &rules)));
    assert_eq!(come, ["+destination 10.0.0.0/24 protocol =17: rate-bytes 1000"]);
    // Held to the policy once more where bytes are made.
    let narrow = Policy::new(&["11.0.0.0/8".parse().unwrap()], &[]);
    let gone = told(&mut bench, Input::Flows(injected(narrow, &rules)));
    assert_eq!(gone, ["-destination 10.0.0.0/24 protocol =17"]);
    told(&mut bench, Input::Flows(injected(everything(), &rules)));
    let inside = Rule::new("203.0.113.0/24".parse().unwrap(), None, Some(32), Verdict::Permit).unwrap();
    let list = PrefixList::new(vec![inside]);
    let options = Options { filter: Filter::List(Arc::new(list)), ..flowing().options };
    bench.session.configure(Settings { options, ..flowing() }, bench.now);
    assert!(!bench.session.flow_advertised().contains_key(&rule(rules[0].0)), "the peer's list holds for rules too");
    let mut private_only = established(Settings { export: Export::Private, ..flowing() }, both());
    assert_eq!(told(&mut private_only, Input::Flows(injected(everything(), &rules))), [""; 0]);
}

#[test]
fn the_session_begins_with_its_rules_and_an_end_and_a_refresh_repeats_one_family() {
    let mut bench = Bench::open_sent(flowing());
    bench.reading = FLOW;
    let routes = all([route(PRIVATE, &[443]), route(PRIVATE_V6, &[443])]);
    bench.session.handle(Input::Routes(routes), bench.now);
    let mut open = peer_open();
    open.capabilities.extend(both());
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    bench.hear(Message::Open(open));
    let link = bench.link.unwrap();
    bench.session.handle(Input::Received(link, &bench::encode(Message::KeepAlive)), bench.now);
    let (mut ends, mut rules) = (BTreeSet::new(), 0);
    while let Some(output) = bench.session.poll_output() {
        if let Output::Send(_, bytes) = output
            && let Message::Update(update) = Message::decode(&bytes, FLOW).unwrap()
        {
            ends.extend(update.ends_flow_of());
            rules += update.flow_reachable().len();
        }
    }
    assert_eq!((ends, rules), (BTreeSet::from(Family::ALL), 4));
    let request = |afi, safi| bench::encode(Message::RouteRefresh(RouteRefresh { afi, subtype: 0, safi }));
    let again = told(&mut bench, Input::Received(link, &request(1, 133)));
    assert_eq!(again, ["refresh 133 1", &format!("+{REST}: discard"), &format!("+{HTTPS}: accept"), "refresh 133 2"]);
    // Without flow rules nobody is asked for them.
    let mut plain = established(settings(), both());
    let link = plain.link.unwrap();
    assert_eq!(told(&mut plain, Input::Received(link, &request(1, 133))), [""; 0]);
}

fn heard(update: Update) -> Vec<u8> {
    Message::Update(update).encode(FLOW).unwrap()
}

fn rule(text: &str) -> FlowRule {
    text.parse().unwrap()
}

fn attributes() -> Attributes {
    let attributes =
        Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
    Actions::discard().attach(attributes)
}

#[test]
fn what_a_peer_announces_is_kept_to_be_shown_and_goes_with_its_word_and_its_session() {
    let mut bench = established(flowing(), both());
    let (tcp, udp) = (rule("destination 10.0.0.0/24 protocol =6"), rule("destination 10.0.0.0/24 protocol =17"));
    for update in announce_flow(&attributes(), Family::Ipv4, [&tcp, &udp], FLOW).unwrap() {
        bench.hear_bytes(&heard(update));
    }
    let said = FlowHeard { actions: Actions::discard(), neighbour: None, local: true, originator: None };
    let expected: BTreeMap<FlowRule, FlowHeard> =
        [&tcp, &udp].map(|rule| (rule.clone(), said.clone())).into_iter().collect();
    assert_eq!(bench.session.flow_heard(), &expected);
    for update in withdraw_flow(Family::Ipv4, [&tcp], FLOW).unwrap() {
        bench.hear_bytes(&heard(update));
    }
    let counters = bench.session.status().counters;
    assert_eq!((counters.flow_announced, counters.flow_withdrawn, counters.prefixes_announced), (2, 1, 0));
    assert_eq!(bench.session.status().flow_heard, 1);
    bench.hear_bytes(&bench::encode(Message::Notification(bgp_wire::ErrorCode::ADMINISTRATIVE_SHUTDOWN.into())));
    assert!(bench.session.flow_heard().is_empty());
}

#[test]
fn a_damaged_field_of_rules_ends_listening_to_them_and_not_the_session() {
    let mut bench = established(flowing(), both());
    let good = announce_flow(&attributes(), Family::Ipv4, [&rule("protocol =6")], FLOW).unwrap();
    bench.hear_bytes(&heard(good[0].clone()));
    // The one rule says that it has four octets, and three are there.
    let mut bytes = heard(good[0].clone());
    let at = bytes.windows(4).position(|four| four == [3, 3, 0x81, 6]).unwrap();
    bytes[at] = 4;
    let seen = bench.hear_bytes(&bytes);
    assert!(seen.contains(&bench::Seen::Other(Event::FlowDisabled(Family::Ipv4))), "{seen:?}");
    bench.hear_bytes(&heard(good[0].clone()));
    assert!(bench.session.flow_heard().is_empty());
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_peer_that_announces_rules_without_end_fills_no_memory() {
    let mut bench = established(flowing(), both());
    for third in 0..=255_u8 {
        let rules: Vec<FlowRule> = (0..=255_u8).map(|n| rule(&format!("destination 10.1.{third}.{n}/32"))).collect();
        for update in announce_flow(&attributes(), Family::Ipv4, &rules, FLOW).unwrap() {
            bench.hear_bytes(&heard(update));
        }
    }
    let status = bench.session.status();
    assert_eq!((status.flow_heard, status.counters.flow_announced), (4096, 65_536));
}

proptest! {
    /// Whatever changes, there is no moment at which the peer holds a restricted route without the rule that discards.
    #[test]
    fn no_route_ever_stands_without_its_rules(steps in proptest::collection::vec((0..4_u8, 0..3_u8), 1..20)) {
        let mut bench = established(flowing(), both());
        let (mut routes, mut rules) = (BTreeSet::new(), BTreeSet::new());
        let mut wanted: BTreeMap<u8, u8> = BTreeMap::new();
        for (which, ports) in steps {
            match ports {
                0 => wanted.remove(&which),
                ports => wanted.insert(which, ports),
            };
            let now = wanted.iter().map(|(which, ports)| route(&format!("203.0.113.{which}/32"), &[u16::from(*ports)]));
            for word in told(&mut bench, Input::Routes(all(now))) {
                let (sign, rest) = word.split_at(1);
                let is_rule = rest.starts_with("destination");
                let rest = rest.split(": ").next().unwrap().to_owned();
                match (sign, is_rule) {
                    ("+", true) => rules.insert(rest),
                    ("+", false) => routes.insert(rest),
                    (_, true) => rules.remove(&rest),
                    (_, false) => routes.remove(&rest),
                };
                for route in &routes {
                    let rest = format!("destination {route}");
                    prop_assert!(rules.contains(&rest), "{} stands open", route);
                }
            }
            prop_assert_eq!(routes.len(), wanted.len());
            prop_assert_eq!(rules.len(), 2 * wanted.len());
        }
    }
}
