//! Graceful restart, of NOTIFICATIONs and long-lived: what we have peers keep, and what we keep of theirs.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bench::{Bench, PRIVATE, Seen, at, encode, peer_open, routes, settings};
use bgp_core::{
    Down, Ends, Event, Export, Guard, Heard, Helper, Input, MaxPrefix, Options, Output, Policy, Rib, RouteAttributes,
    Session, Settings, State,
};
use bgp_wire::{
    Capability, Community, Context, ErrorCode, Family, Framer, GracefulRestart, LongLived, Message, Notification, Open,
};
use cloakway_types::Instant;
use ipnet::IpNet;
use proptest::prelude::*;

const ENDS: Ends =
    Ends { local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)) };
const KEPT: &str = "10.0.0.0/24";
const UNKEPT: &str = "10.0.1.0/24";
const GUARDED: &str = "10.0.2.0/24";

/// What a helper's OPEN has: nothing of its own to restart.
fn aware(notification: bool) -> [Capability; 2] {
    let graceful = GracefulRestart { notification, ..GracefulRestart::default() };
    [Capability::GracefulRestart(graceful), Capability::LongLivedGracefulRestart(vec![])]
}

fn keeping() -> Settings {
    Settings { export: Export::All, options: Options { keep: Some(3600), ..Options::default() }, ..settings() }
}

/// A table with a kept set, one that is not, and a guarded route in the kept one.
fn table() -> Rib {
    let mut rib = Rib::new(Arc::new(Policy::new(&["10.0.0.0/8".parse().unwrap()], &[])));
    let (kept, unkept) = (rib.set("kept"), rib.set("unkept"));
    rib.keep(kept, Some(3600));
    let plain = RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap());
    let guarded = RouteAttributes { guard: Some(Guard::NoExport), ..plain.clone() };
    for (set, prefix, attributes) in [(kept, KEPT, &plain), (unkept, UNKEPT, &plain), (kept, GUARDED, &guarded)] {
        let attributes = rib.intern(set, attributes);
        rib.add(prefix.parse().unwrap(), attributes, false);
    }
    rib
}

fn open_with(capabilities: impl IntoIterator<Item = Capability>) -> Message {
    let mut open = peer_open();
    open.capabilities.extend(capabilities);
    Message::Open(open)
}

/// Our OPEN.
fn offered(session: &mut Session) -> Open {
    session.handle(Input::Start, at(0));
    let Some(Output::Connect(link)) = session.poll_output() else { panic!() };
    session.handle(Input::Connected(link), at(0));
    let Some(Output::Send(_, bytes)) = session.poll_output() else { panic!() };
    match Message::decode(&bytes, Context::default()) {
        Ok(Message::Open(open)) => open,
        other => panic!("{other:?}"),
    }
}

fn established(settings: Settings, capabilities: impl IntoIterator<Item = Capability>, table: bool) -> Bench {
    let mut bench = Bench::new(settings);
    if table {
        bench.session = bench.session.with_table();
    }
    bench.handle(Input::Start);
    let link = bench.link.unwrap();
    bench.handle(Input::Connected(link));
    bench.hear(open_with(capabilities));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.state(), State::Established);
    bench
}

/// What a peer holds, by what it was sent: each prefix with its communities.
#[derive(Default)]
struct Held(BTreeMap<IpNet, Vec<Community>>);

impl Held {
    fn take(&mut self, bytes: &[u8]) {
        let mut framer = Framer::default();
        framer.push(bytes);
        while let Some(frame) = framer.next_frame().unwrap() {
            let context = Context { ipv4_by_ipv6: true, ..Context::default() };
            if let Message::Update(update) = Message::decode(frame, context).unwrap() {
                update.unreachable().for_each(|prefix| drop(self.0.remove(&prefix)));
                for prefix in update.reachable() {
                    self.0.insert(prefix, update.attributes.communities.clone());
                }
            }
        }
    }

    fn pull(&mut self, bench: &mut Bench, rib: &mut Rib) {
        while let Some((_, batch)) = bench.session.pull(rib, 4096, |_| Some(ENDS)) {
            self.take(&batch.bytes);
            if !batch.more && !bench.session.wants_pull() {
                return;
            }
        }
    }

    fn marked(&self, prefix: &str) -> bool {
        self.0[&prefix.parse::<IpNet>().unwrap()].contains(&Community::NO_LLGR)
    }
}

#[test]
fn the_offer_goes_straight_to_the_long_lived_rules() {
    let of = |open: &Open| {
        open.capabilities.iter().fold((None, None), |(graceful, long), capability| match capability {
            Capability::GracefulRestart(graceful) => (Some(graceful.clone()), long),
            Capability::LongLivedGracefulRestart(families) => (graceful, Some(families.clone())),
            _ => (graceful, long),
        })
    };
    let session = |settings| Session::new(settings, 1, at(0));
    assert_eq!(of(&offered(&mut session(settings()))), (None, None));
    let (graceful, long) = of(&offered(&mut session(keeping()).restarted()));
    let families = Family::ALL.map(|family| (family, true)).into();
    let wanted = GracefulRestart { restarted: true, notification: true, restart_time_s: 1, families };
    assert_eq!(graceful, Some(wanted));
    let family = |family| LongLived { family, forwarding: true, stale_time_s: 3600 };
    assert_eq!(long, Some(Family::ALL.map(family).into()));
    // As a helper alone: aware of both, with nothing of our own.
    let (graceful, long) = of(&offered(&mut session(helping(0))));
    assert_eq!(graceful, Some(GracefulRestart { notification: true, restart_time_s: 1, ..GracefulRestart::default() }));
    assert_eq!(long, None);
    assert_eq!(of(&offered(&mut session(helping(10)))).1, Some(vec![]));
}

#[test]
fn what_is_not_to_be_kept_says_so_and_only_to_who_keeps_the_rest() {
    for (capabilities, keeps) in [(aware(true).to_vec(), true), (vec![], false)] {
        let mut bench = established(keeping(), capabilities, true);
        assert_eq!(bench.session.keeps(), keeps);
        let (mut held, mut rib) = (Held::default(), table());
        bench.session.handle(Input::Routes(routes(&[PRIVATE])), at(0));
        while let Some(output) = bench.session.poll_output() {
            let Output::Send(_, bytes) = output else { panic!("{output:?}") };
            held.take(&bytes);
        }
        held.pull(&mut bench, &mut rib);
        let marks = [PRIVATE, KEPT, UNKEPT, GUARDED].map(|prefix| held.marked(prefix));
        assert_eq!(marks, [keeps, false, keeps, keeps]);
        // Guarded is what asks for it, whether it was injected or is private, and nothing else.
        let guarded = |prefix: &&str| held.0[&prefix.parse::<IpNet>().unwrap()].contains(&Community::NO_EXPORT);
        assert_eq!([PRIVATE, KEPT, UNKEPT, GUARDED].map(|prefix| guarded(&prefix)), [true, false, false, true]);
    }
}

#[test]
fn what_is_to_be_kept_for_less_time_than_the_session_keeps_goes_at_once() {
    let plain = RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap());
    let table = || {
        let mut rib = table();
        for (name, prefix, keep_s) in [("long", "10.1.0.0/24", 7200), ("short", "10.2.0.0/24", 3599)] {
            let set = rib.set(name);
            rib.keep(set, Some(keep_s));
            let attributes = rib.intern(set, &plain);
            rib.add(prefix.parse().unwrap(), attributes, false);
        }
        rib
    };
    let mut bench = established(keeping(), aware(true), true);
    let (mut held, mut rib) = (Held::default(), table());
    held.pull(&mut bench, &mut rib);
    let marks = [KEPT, "10.1.0.0/24", "10.2.0.0/24"].map(|prefix| held.marked(prefix));
    assert_eq!(marks, [false, false, true], "never longer than asked");
    bench.handle(Input::Leave);
    held.pull(&mut bench, &mut rib);
    let kept: Vec<String> = held.0.keys().map(IpNet::to_string).collect();
    assert_eq!(kept, [KEPT, "10.1.0.0/24"], "a planned end does the same");
}

#[test]
fn prefixes_of_one_set_that_are_kept_and_that_are_not_go_in_messages_of_their_own() {
    let private = "10.3.0.0/24".parse().unwrap();
    let policy = Policy::new(&["10.0.0.0/8".parse().unwrap()], &[private]);
    let policy = policy.lift(private, bgp_core::Unguarded::lift(true, true).unwrap());
    let mut rib = Rib::new(Arc::new(policy));
    let set = rib.set("kept");
    rib.keep(set, Some(3600));
    let plain = rib.intern(set, &RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap()));
    // The one that is not private comes first, and its message has room.
    for prefix in [KEPT, "10.3.0.0/25"] {
        rib.add(prefix.parse().unwrap(), plain, false);
    }
    let mut bench = established(keeping(), aware(true), true);
    let mut held = Held::default();
    held.pull(&mut bench, &mut rib);
    assert_eq!([KEPT, "10.3.0.0/25"].map(|prefix| held.marked(prefix)), [false, true]);
}

#[test]
fn sessions_that_are_told_some_sets_alone_split_them() {
    let mut rib = table();
    let only = |name: &str| {
        let sets = Some([name.to_owned()].into_iter().collect());
        let options = Options { sets, ..keeping().options };
        established(Settings { options, ..keeping() }, aware(true), true)
    };
    let (mut kept, mut unkept) = (only("kept"), only("unkept"));
    let (mut of_kept, mut of_unkept) = (Held::default(), Held::default());
    of_kept.pull(&mut kept, &mut rib);
    of_unkept.pull(&mut unkept, &mut rib);
    let held = |held: &Held| held.0.keys().map(IpNet::to_string).collect::<Vec<_>>();
    assert_eq!(held(&of_kept), [KEPT, GUARDED]);
    assert_eq!(held(&of_unkept), [UNKEPT]);
    // Both want it: each session is told of its own.
    let set = rib.set("unkept");
    let med = RouteAttributes { med: Some(9), ..RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap()) };
    let attributes = rib.intern(set, &med);
    rib.add(KEPT.parse().unwrap(), attributes, false);
    of_unkept.pull(&mut unkept, &mut rib);
    assert_eq!(held(&of_unkept), [KEPT, UNKEPT]);
    assert!(rib.remove(KEPT.parse().unwrap(), set));
    of_kept.pull(&mut kept, &mut rib);
    of_unkept.pull(&mut unkept, &mut rib);
    assert_eq!(
        (held(&of_kept), held(&of_unkept)),
        (vec![KEPT.to_owned(), GUARDED.to_owned()], vec![UNKEPT.to_owned()])
    );
    let names: bgp_core::SetNames = ["process s".to_owned()].into_iter().collect();
    assert!(names.has("process s") && names.has("process s/2") && !names.has("process so"));
}

#[test]
fn ipv4_by_way_of_ipv6_goes_to_who_takes_it() {
    for takes in [true, false] {
        let capabilities = takes.then_some(Capability::ExtendedNextHop);
        let mut bench = established(settings_for_all(), capabilities, true);
        let mut rib = Rib::new(Arc::new(Policy::new(&["10.0.0.0/8".parse().unwrap()], &[])));
        let set = rib.set("s");
        let attributes = rib.intern(set, &RouteAttributes::new("2001:db8::1".parse::<IpAddr>().unwrap()));
        rib.add(KEPT.parse().unwrap(), attributes, false);
        let mut held = Held::default();
        held.pull(&mut bench, &mut rib);
        assert_eq!(held.0.len(), usize::from(takes));
        let status = bench.session.status();
        let route = RouteAttributes::new("2001:db8::1".parse::<IpAddr>().unwrap());
        let told = settings_for_all().tells_injected(&status, ENDS.remote, &KEPT.parse().unwrap(), ("s", &route));
        assert_eq!(told.err(), (!takes).then_some(bgp_core::NotTold::NextHop));
        assert!(rib.remove(KEPT.parse().unwrap(), set));
        held.pull(&mut bench, &mut rib);
        assert!(held.0.is_empty());
        assert_eq!(rib.refused(), 0);
    }
}

fn settings_for_all() -> Settings {
    Settings { export: Export::All, ..settings() }
}

#[test]
fn a_session_for_sets_alone_carries_nothing_private() {
    let settings = Settings { export: Export::Injected, ..keeping() };
    let mut bench = established(settings, aware(true), true);
    let (mut held, mut rib) = (Held::default(), table());
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE]))), []);
    held.pull(&mut bench, &mut rib);
    assert_eq!(held.0.keys().map(IpNet::to_string).collect::<Vec<_>>(), [KEPT, UNKEPT]);
    // What becomes private later is taken back, under guard or not.
    let set = rib.set("unkept");
    let guarded = RouteAttributes {
        guard: Some(Guard::NoExport),
        ..RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap())
    };
    let attributes = rib.intern(set, &guarded);
    rib.add(UNKEPT.parse().unwrap(), attributes, false);
    held.pull(&mut bench, &mut rib);
    assert_eq!(held.0.keys().map(IpNet::to_string).collect::<Vec<_>>(), [KEPT]);
}

#[test]
fn before_a_planned_end_everything_else_is_withdrawn_and_then_nothing_is_said() {
    let mut bench = established(keeping(), aware(true), true);
    let (mut held, mut rib) = (Held::default(), table());
    bench.handle(Input::Routes(routes(&[PRIVATE])));
    held.pull(&mut bench, &mut rib);
    assert_eq!(held.0.len(), 3);
    let seen = bench.handle(Input::Leave);
    assert_eq!(seen, [Seen::Update(format!("-{PRIVATE}"))]);
    assert!(!bench.session.has_left() && bench.session.wants_pull());
    held.pull(&mut bench, &mut rib);
    assert!(bench.session.has_left());
    assert_eq!(held.0.keys().map(IpNet::to_string).collect::<Vec<_>>(), [KEPT]);
    assert_eq!(bench.handle(Input::Left), [Seen::Down, Seen::Close]);
    assert_eq!((bench.state(), bench.session.poll_timeout()), (State::Idle, None));
}

#[test]
fn who_would_keep_routes_without_the_long_lived_rules_is_offered_nothing() {
    let mut bench = Bench::new(keeping());
    bench.handle(Input::Start);
    let link = bench.link.unwrap();
    bench.handle(Input::Connected(link));
    let graceful = || Capability::GracefulRestart(GracefulRestart::default());
    let seen = bench.hear(open_with([graceful()]));
    assert_eq!(seen[0], Seen::Notification(ErrorCode::CONFIGURATION_CHANGE, vec![]));
    assert!(bench.session.withheld_keep());
    let next = |bench: &mut Bench, capabilities: Vec<Capability>| {
        let retry = bench.session.poll_timeout().unwrap();
        assert_eq!(bench.tick_at(retry), [Seen::Connect]);
        let link = bench.link.unwrap();
        bench.handle(Input::Connected(link));
        bench.hear(open_with(capabilities))
    };
    assert_eq!(next(&mut bench, vec![graceful()]), [Seen::KeepAlive]);
    bench.hear(Message::KeepAlive);
    assert!(!bench.session.keeps());
    // When it has learnt the rules, it is offered them.
    let link = bench.link.unwrap();
    bench.handle(Input::Closed(link));
    let seen = next(&mut bench, aware(true).to_vec());
    assert_eq!(seen[0], Seen::Notification(ErrorCode::CONFIGURATION_CHANGE, vec![]));
    assert_eq!(next(&mut bench, aware(true).to_vec()), [Seen::KeepAlive]);
    bench.hear(Message::KeepAlive);
    assert!(bench.session.keeps());
}

#[test]
fn an_end_for_good_is_a_hard_reset_where_notifications_keep_routes() {
    let mut bench = established(keeping(), aware(true), false);
    let seen = bench.handle(Input::Stop("bye"));
    assert_eq!(seen[0], Seen::Notification(ErrorCode::HARD_RESET, b"\x06\x02\x03bye".to_vec()));
    let mut bench = established(keeping(), aware(true), false);
    assert_eq!(bench.handle(Input::Remove)[0], Seen::Notification(ErrorCode::HARD_RESET, vec![6, 3]));
    let mut bench = established(keeping(), aware(false), false);
    assert_eq!(bench.handle(Input::Stop(""))[0], Seen::Notification(ErrorCode::ADMINISTRATIVE_SHUTDOWN, vec![]));
}

fn helping(long_lived: u64) -> Settings {
    let helper = Helper { restart: Duration::from_secs(100), long_lived: Duration::from_secs(long_lived) };
    Settings { options: Options { import: true, helper: Some(helper), ..Options::default() }, ..settings() }
}

fn restarting(forwarding: bool, notification: bool, long_lived: bool) -> Vec<Capability> {
    let families = vec![(Family::Ipv4, forwarding)];
    let graceful = GracefulRestart { restarted: false, notification, restart_time_s: 60, families };
    let long = LongLived { family: Family::Ipv4, forwarding, stale_time_s: 10_000 };
    let mut capabilities = vec![Capability::GracefulRestart(graceful)];
    capabilities.extend(long_lived.then(|| Capability::LongLivedGracefulRestart(vec![long])));
    capabilities
}

fn heard(seen: &[Seen]) -> Vec<&Heard> {
    seen.iter().filter_map(|seen| if let Seen::Heard(heard) = seen { Some(heard) } else { None }).collect()
}

/// Up again, as `capabilities` have it.
fn again(bench: &mut Bench, capabilities: Vec<Capability>) -> Vec<Seen> {
    let mut seen = Vec::new();
    while !seen.contains(&Seen::Connect) {
        let now = bench.session.poll_timeout().unwrap();
        seen = bench.tick_at(now);
    }
    let link = bench.link.unwrap();
    bench.handle(Input::Connected(link));
    bench.hear(open_with(capabilities));
    bench.hear(Message::KeepAlive)
}

fn end_of_rib() -> Vec<u8> {
    encode(Message::Update(bgp_wire::Update::end_of_rib(Family::Ipv4)))
}

#[test]
fn a_restarting_peers_routes_are_outdated_until_it_has_told_them_again() {
    let mut bench = established(helping(0), restarting(true, false, false), false);
    let link = bench.link.unwrap();
    let seen = bench.handle(Input::Closed(link));
    assert_eq!(heard(&seen), [&Heard::Stale(Family::Ipv4)]);
    assert_eq!(seen.last(), Some(&Seen::Down));
    let seen = again(&mut bench, restarting(true, false, false));
    assert_eq!(heard(&seen), Vec::<&Heard>::new());
    let seen = bench.hear_bytes(&end_of_rib());
    assert_eq!(heard(&seen), [&Heard::EndOfRib(Family::Ipv4), &Heard::Sweep(Family::Ipv4)]);
    assert_eq!(bench.session.stale().count(), 0);
}

#[test]
fn what_the_peer_did_not_keep_forwarding_goes_as_soon_as_it_is_back() {
    for back in [restarting(false, false, false), vec![]] {
        let mut bench = established(helping(0), restarting(true, false, false), false);
        let link = bench.link.unwrap();
        bench.handle(Input::Closed(link));
        assert_eq!(heard(&again(&mut bench, back)), [&Heard::Sweep(Family::Ipv4)]);
    }
}

#[test]
fn a_peer_that_does_not_come_back_loses_its_routes_in_its_time_or_ours() {
    // It asks for 60 s, which we allow; then for 10000 s, of which we allow 500.
    let mut bench = established(helping(500), restarting(true, false, true), false);
    let link = bench.link.unwrap();
    bench.now = at(10);
    bench.handle(Input::Closed(link));
    let stale = |bench: &Bench| bench.session.stale().collect::<Vec<(Family, bool, Instant)>>();
    assert_eq!(stale(&bench), [(Family::Ipv4, false, at(70))]);
    assert_eq!(heard(&bench.tick_at(at(69))), Vec::<&Heard>::new());
    assert_eq!(heard(&bench.tick_at(at(70))), [&Heard::LongLived(Family::Ipv4)]);
    assert_eq!(stale(&bench), [(Family::Ipv4, true, at(570))]);
    assert_eq!(heard(&bench.tick_at(at(570))), [&Heard::Sweep(Family::Ipv4)]);
    assert_eq!(stale(&bench), []);
}

#[test]
fn an_end_of_rib_that_never_comes_is_not_waited_for_for_ever() {
    let mut bench = established(helping(0), restarting(true, false, false), false);
    let link = bench.link.unwrap();
    bench.handle(Input::Closed(link));
    again(&mut bench, restarting(true, false, false));
    let (_, _, until) = bench.session.stale().next().unwrap();
    assert_eq!(until, bench.now + Duration::from_secs(100));
    // Keepalives hold the session up meanwhile.
    while bench.now < until {
        bench.now = (bench.now + Duration::from_secs(10)).min(until);
        bench.hear(Message::KeepAlive);
        let seen = bench.tick_at(bench.now);
        assert_eq!(heard(&seen).len(), usize::from(bench.now == until));
    }
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_notification_keeps_routes_only_where_both_say_so_and_hard_reset_never_does() {
    let cease = Notification::from(ErrorCode::ADMINISTRATIVE_RESET);
    let hard = Notification::new(ErrorCode::HARD_RESET, [6, 4]);
    for (both, notification, kept) in [(true, &cease, 1), (false, &cease, 0), (true, &hard, 0)] {
        let mut bench = established(helping(0), restarting(true, both, false), false);
        let seen = bench.hear(Message::Notification(notification.clone()));
        assert_eq!(heard(&seen).len(), kept, "{both} {notification}");
        // Silence, too, is told by a NOTIFICATION: ours.
        let mut bench = established(helping(0), restarting(true, both, false), false);
        let seen = bench.tick_at(at(30));
        assert!(seen.contains(&Seen::Down));
        assert_eq!(heard(&seen).len(), usize::from(both));
    }
}

/// RFC 4724 §5: where the end of the old connection was never seen, a host that died and is back.
#[test]
fn a_peer_that_restarts_and_connects_anew_replaces_the_connection_that_we_still_hold() {
    let mut bench = established(helping(0), restarting(true, false, false), false);
    let (old, new) = (bench.link.unwrap(), bench.session.new_link());
    let seen = bench.handle(Input::Accepted(new));
    assert_eq!(seen, [Seen::Close, Seen::Heard(Heard::Stale(Family::Ipv4)), Seen::Down, Seen::Open]);
    assert_eq!(bench.session.status().last_down, Some(Down::ConnectedAnew));
    assert_eq!(bench.handle(Input::Received(old, &encode(Message::KeepAlive))), [], "the old one is over");
    let open = open_with(restarting(true, false, false));
    assert_eq!(bench.handle(Input::Received(new, &encode(open))), [Seen::KeepAlive]);
    let seen = bench.handle(Input::Received(new, &encode(Message::KeepAlive)));
    assert_eq!((&seen[0], heard(&seen)), (&Seen::Up, vec![]), "what it told stays");
    assert_eq!(bench.session.established_link(), Some(new));
    // A peer that restarts nothing gracefully, or that we do not help, has to wait: RFC 4271 §6.8.
    for (settings, capabilities) in [(helping(0), aware(true).to_vec()), (settings(), restarting(true, false, false))] {
        let mut bench = established(settings, capabilities, false);
        let new = bench.session.new_link();
        assert_eq!(bench.handle(Input::Accepted(new)), [Seen::Open]);
        assert_eq!(bench.state(), State::Established);
    }
}

#[test]
fn without_import_or_a_helper_nothing_stays() {
    let mut deaf = helping(10);
    deaf.options.import = false;
    for settings in [deaf, settings()] {
        let mut bench = established(settings, restarting(true, true, true), false);
        let link = bench.link.unwrap();
        assert_eq!(heard(&bench.handle(Input::Closed(link))), Vec::<&Heard>::new());
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Lose,
    Cease,
    HardReset,
    Back { forwarding: bool, long_lived: bool },
    EndOfRib,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Lose),
        1 => Just(Step::Cease),
        1 => Just(Step::HardReset),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(forwarding, long_lived)| Step::Back { forwarding, long_lived }),
        3 => Just(Step::EndOfRib),
        4 => (1..400u64).prop_map(Step::Wait),
    ]
}

/// Whether a route of before is held, and as what, by the rules for whoever hears: a naive Adj-RIB-In of one prefix.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Holds {
    Nothing,
    Fresh,
    Stale,
}

proptest! {
    #[test]
    fn whatever_happens_nothing_outdated_outlives_its_time(steps in proptest::collection::vec(step(), 1..40)) {
        let allowed = Duration::from_secs(100 + 300);
        let mut bench = established(helping(300), restarting(true, true, true), false);
        let (mut holds, mut outdated_at, mut up) = (Holds::Fresh, at(0), true);
        for step in steps {
            let mut seen = Vec::new();
            match step {
                Step::Lose if up => {
                    let link = bench.link.unwrap();
                    seen = bench.handle(Input::Closed(link));
                }
                Step::Cease if up => seen = bench.hear(Message::Notification(ErrorCode::ADMINISTRATIVE_RESET.into())),
                Step::HardReset if up => seen = bench.hear(Message::Notification(ErrorCode::HARD_RESET.into())),
                Step::Back { forwarding, long_lived } if !up => {
                    while !seen.contains(&Seen::Connect) {
                        let now = bench.session.poll_timeout().unwrap();
                        seen.extend(bench.tick_at(now));
                    }
                    let link = bench.link.unwrap();
                    bench.handle(Input::Connected(link));
                    bench.hear(open_with(restarting(forwarding, true, long_lived)));
                    seen.extend(bench.hear(Message::KeepAlive));
                }
                Step::EndOfRib if up => seen = bench.hear_bytes(&end_of_rib()),
                Step::Wait(seconds) => {
                    let until = bench.now + Duration::from_secs(seconds);
                    while let Some(next) = bench.session.poll_timeout().filter(|next| *next <= until) {
                        seen.extend(bench.tick_at(next.max(bench.now)));
                        // Nobody answers an attempt to connect, and an established peer says that it is there.
                        if up {
                            bench.hear(Message::KeepAlive);
                        }
                    }
                    bench.now = until.max(bench.now);
                }
                _ => {}
            }
            for seen in seen {
                match seen {
                    Seen::Up => (up, bench.reading) = (true, Context::default()),
                    Seen::Down => {
                        up = false;
                        // What was not declared outdated just before goes with the session.
                        if holds == Holds::Fresh {
                            holds = Holds::Nothing;
                        }
                    }
                    Seen::Heard(Heard::Stale(Family::Ipv4)) => {
                        prop_assert!(holds != Holds::Stale, "outdated twice");
                        if holds == Holds::Fresh {
                            (holds, outdated_at) = (Holds::Stale, bench.now);
                        }
                    }
                    Seen::Heard(Heard::Sweep(Family::Ipv4)) if holds == Holds::Stale => holds = Holds::Nothing,
                    Seen::Other(Event::Flaw(_)) => prop_assert!(false, "no flaw is sent here"),
                    _ => {}
                }
            }
            if up && holds == Holds::Nothing {
                // It tells its route.
                holds = Holds::Fresh;
            }
            if holds == Holds::Stale {
                prop_assert!(bench.session.stale().next().is_some(), "outdated with no end in sight");
                if !up {
                    prop_assert!(bench.now.since(outdated_at) <= allowed + Duration::from_secs(60), "{:?}", bench.now);
                }
            }
        }
        // Lost for good: in its time, nothing is left.
        if up {
            let link = bench.link.unwrap();
            bench.handle(Input::Closed(link));
        }
        for _ in 0..10_000 {
            if bench.session.stale().next().is_none() {
                break;
            }
            let next = bench.session.poll_timeout().unwrap();
            bench.tick_at(next);
        }
        prop_assert!(bench.session.stale().next().is_none());
    }
}

fn limited(ends: bool, restart: Option<u64>) -> Settings {
    let restart = restart.map(Duration::from_secs);
    let max_prefix = Some(MaxPrefix { limit: 100, warn_percent: 80, ends, restart });
    Settings { options: Options { import: true, max_prefix, ..helping(10).options }, ..settings() }
}

#[test]
fn one_route_too_many_ends_the_session_with_its_family_and_limit() {
    let mut bench = established(limited(true, Some(600)), restarting(true, true, true), false);
    assert_eq!(bench.handle(Input::Held(Family::Ipv6, 79)), []);
    let told = Event::ManyPrefixes { family: Family::Ipv6, held: 80, limit: 100 };
    assert_eq!(bench.handle(Input::Held(Family::Ipv6, 80)), [Seen::Other(told)]);
    assert_eq!(bench.handle(Input::Held(Family::Ipv6, 100)), []);
    let seen = bench.handle(Input::Held(Family::Ipv6, 101));
    // RFC 4486 §4: AFI, SAFI, and the limit. Nothing of such a peer stays.
    let data = vec![0, 2, 1, 0, 0, 0, 100];
    assert_eq!(seen, [Seen::Notification(ErrorCode::MAXIMUM_PREFIXES, data), Seen::Close, Seen::Down]);
    assert_eq!(bench.session.poll_timeout(), Some(at(600)));
    let link = bench.session.new_link();
    assert_eq!(bench.handle(Input::Accepted(link))[0], Seen::Notification(ErrorCode::CONNECTION_REJECTED, vec![]));
    assert_eq!(bench.tick_at(at(600)), [Seen::Connect]);
}

#[test]
fn without_a_time_it_waits_for_the_operator_and_a_warning_ends_nothing() {
    let mut bench = established(limited(true, None), restarting(true, true, true), false);
    bench.handle(Input::Held(Family::Ipv4, 101));
    assert_eq!((bench.session.poll_timeout(), bench.session.is_over()), (None, false));
    assert_eq!(bench.state(), State::Idle);
    let mut more = limited(true, None);
    more.options.max_prefix = Some(MaxPrefix { limit: 200, warn_percent: 80, ends: true, restart: None });
    bench.session.configure(more, at(9));
    assert_eq!(bench.drain(), [Seen::Connect]);

    let mut bench = established(limited(false, None), [], false);
    let told = |held| Seen::Other(Event::ManyPrefixes { family: Family::Ipv4, held, limit: 100 });
    assert_eq!(bench.handle(Input::Held(Family::Ipv4, 99)), [told(99)]);
    assert_eq!(bench.handle(Input::Held(Family::Ipv4, 101)), [told(101)]);
    assert_eq!(bench.handle(Input::Held(Family::Ipv4, 102)), []);
    assert_eq!(bench.state(), State::Established);
}
