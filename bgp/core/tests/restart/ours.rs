//! What we have peers keep while we are down.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp_core::{Ends, Export, Guard, Input, Options, Output, Policy, Rib, RouteAttributes, Session, Settings, State};
use bgp_wire::{Capability, Community, Context, ErrorCode, Family, Framer, GracefulRestart, LongLived, Message, Open};
use ipnet::IpNet;

use crate::bench::{Bench, PRIVATE, Seen, at, routes, settings};
use crate::theirs::helping;
use crate::{aware, established, open_with};

const ENDS: Ends =
    Ends { local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)) };
const KEPT: &str = "10.0.0.0/24";
const UNKEPT: &str = "10.0.1.0/24";
const GUARDED: &str = "10.0.2.0/24";

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

/// At the End-of-RIB the router drops what it kept and was not told again: nothing may come behind it.
#[test]
fn the_end_comes_behind_the_whole_table_however_slowly_that_is_read() {
    let mut bench = Bench::open_sent(keeping());
    bench.session = bench.session.with_table();
    bench.hear(open_with(aware(true)));
    assert_eq!(bench.hear(Message::KeepAlive), [Seen::Up]);
    let (mut rib, mut framer, mut said) = (table(), Framer::default(), Vec::new());
    while bench.session.wants_pull() {
        let (_, batch) = bench.session.pull(&mut rib, 1, |_| Some(ENDS)).unwrap();
        framer.push(&batch.bytes);
    }
    while let Some(frame) = framer.next_frame().unwrap() {
        let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() else { panic!() };
        let ended = update.ends_rib_of().map(|family| format!("end of {family}"));
        said.extend(ended.into_iter().chain(update.reachable().map(|prefix| prefix.to_string())));
    }
    said[..3].sort();
    assert_eq!(said, [KEPT, UNKEPT, GUARDED, "end of ipv4-unicast", "end of ipv6-unicast"]);
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
