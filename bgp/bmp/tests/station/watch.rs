//! What routers say, and what the watch makes of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::bytes::{NEIGHBOUR, OURS, end_of_rib, header, monitoring, peer_up, update, withdrawal};
use bgp_bmp::{
    Action, Down, Finding, LeakState, Limits, Message, Notice, Overlap, PeerHeader, Private, Release, Report, Router,
    Settings, Statistic, View, Watch, WatchEvent,
};
use bgp_wire::{Asn, Community, Family};
use cloakway_types::Instant;
use ipnet::IpNet;

const PRIVATE: &str = "203.0.113.200/32";
const GUARD: [Community; 1] = [Community::NO_EXPORT];

fn at(seconds: u64) -> Instant {
    Instant::after_origin(Duration::from_secs(seconds))
}

fn settings() -> Settings {
    Settings {
        local_as: OURS,
        internal: BTreeSet::from([OURS, Asn(64501)]),
        overlap: Overlap::Inside,
        on_leak: Action::Withdraw,
        on_heard: Action::Alarm,
        on_blind: Action::Alarm,
        blind_after: Duration::from_secs(30),
        hold_down: Duration::from_secs(60),
        release: Release::HoldDown,
        expected: vec!["edge".to_owned()],
        private: vec![PRIVATE.parse().unwrap()],
    }
}

/// A watch and the connection of the router `edge`, of AS 64500 unless it says otherwise.
struct Station {
    watch: Watch,
    router: Router,
}

impl Station {
    fn new(settings: Settings) -> Self {
        let mut station = Self { watch: Watch::new(settings, at(0)), router: Self::router(16) };
        station.watch.connected("edge", at(0));
        station
    }

    fn router(peers: usize) -> Router {
        let private = Private { prefix: PRIVATE.parse().unwrap(), guard: Community::NO_EXPORT };
        Router::new(Arc::new([private]), Limits { peers })
    }

    fn hear(&mut self, bytes: &[u8], now: Instant) {
        self.router.received(bytes);
        while let Some(report) = self.router.poll_output() {
            self.watch.report("edge", report, now);
        }
    }

    fn again(&mut self, now: Instant) {
        self.watch.disconnected("edge", "connection lost", now);
        self.router = Self::router(16);
        self.watch.connected("edge", now);
    }

    fn findings(&self) -> Vec<(Finding, LeakState)> {
        self.watch.leaks().map(|leak| (leak.finding, leak.state)).collect()
    }

    fn withheld(&self) -> bool {
        self.watch.withheld().contains_key(&PRIVATE.parse::<IpNet>().unwrap())
    }

    fn events(&mut self) -> Vec<WatchEvent> {
        std::iter::from_fn(|| self.watch.poll_event()).collect()
    }
}

fn external(view: View) -> PeerHeader {
    header(view, "192.0.2.142", NEIGHBOUR)
}

/// A router with a session to a neighbour AS, to which it sends the private prefix.
fn leaking(settings: Settings) -> Station {
    let mut station = Station::new(settings);
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(1));
    station.hear(&monitoring(external(View::AdjRibOutPost), &update(&[PRIVATE], &GUARD)), at(2));
    station
}

#[test]
fn a_private_prefix_on_its_way_out_is_a_leak_and_is_withheld() {
    let mut station = leaking(settings());
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
    let events = station.events();
    assert!(matches!(&events[0], WatchEvent::Raised(leak) if leak.peer_as == NEIGHBOUR && leak.as_path == "64500"));
    assert!(matches!(&events[1], WatchEvent::Withheld { reason, .. } if reason.contains("to-external at edge")));
    assert!(station.withheld());
}

#[test]
fn it_is_withheld_until_it_has_been_over_for_the_hold_down() {
    let mut station = leaking(settings());
    station.hear(&monitoring(external(View::AdjRibOutPost), &withdrawal(PRIVATE)), at(10));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(10)))]);
    station.watch.tick(at(69));
    assert!(station.withheld());
    assert_eq!(station.watch.poll_timeout(), Some(at(70)));
    station.watch.tick(at(70));
    assert!(!station.withheld());
    assert!(matches!(station.events().last(), Some(WatchEvent::Released { .. })));
    // It comes back: twice as long.
    station.hear(&monitoring(external(View::AdjRibOutPost), &update(&[PRIVATE], &GUARD)), at(80));
    station.hear(&monitoring(external(View::AdjRibOutPost), &withdrawal(PRIVATE)), at(90));
    station.watch.tick(at(209));
    assert!(station.withheld());
    station.watch.tick(at(210));
    assert!(!station.withheld());
}

#[test]
fn the_operator_ends_what_is_over_and_not_what_is_there() {
    for release in [Release::HoldDown, Release::Acknowledge] {
        let mut station = leaking(Settings { release, ..settings() });
        let refusal = station.watch.clear(None).unwrap_err();
        assert!(refusal.contains("203.0.113.200/32 at edge, peer 192.0.2.142, to-external"), "{refusal}");
        station.hear(&monitoring(external(View::AdjRibOutPost), &withdrawal(PRIVATE)), at(10));
        if release == Release::Acknowledge {
            station.watch.tick(at(1_000_000));
            assert!(station.withheld(), "time is not enough");
        }
        assert_eq!(station.watch.clear(Some(PRIVATE.parse().unwrap())), Ok(1));
        assert!(!station.withheld());
        assert_eq!(station.watch.clear(None), Ok(0));
    }
}

#[test]
fn what_is_found_where() {
    let inside = header(View::AdjRibInPre, "192.0.2.10", Asn(64501));
    let at_view = |view, from: PeerHeader| PeerHeader { view, ..from };
    type Case = (&'static str, PeerHeader, Asn, &'static [Community], Option<Finding>);
    let cases: [Case; 9] = [
        ("to a neighbour, before policy", external(View::AdjRibOutPre), OURS, &GUARD, Some(Finding::ToExternal)),
        ("from a neighbour", external(View::AdjRibInPre), OURS, &GUARD, Some(Finding::FromExternal)),
        ("from a neighbour, taken", external(View::AdjRibInPost), OURS, &[], Some(Finding::FromExternal)),
        ("from another AS of the ISP", inside, OURS, &GUARD, None),
        ("to another AS of the ISP", at_view(View::AdjRibOutPost, inside), OURS, &GUARD, None),
        ("the same without its guard", at_view(View::AdjRibOutPost, inside), OURS, &[], Some(Finding::Unguarded)),
        ("under a stronger guard", inside, OURS, &[Community::NO_ADVERTISE], None),
        (
            "from us, at a router elsewhere",
            header(View::AdjRibInPre, "192.0.2.11", OURS),
            NEIGHBOUR,
            &GUARD,
            Some(Finding::FromExternal),
        ),
        (
            "within another AS",
            header(View::AdjRibInPre, "192.0.2.12", NEIGHBOUR),
            NEIGHBOUR,
            &GUARD,
            Some(Finding::Outside),
        ),
    ];
    for (what, peer, own, communities, finding) in cases {
        let mut station = Station::new(settings());
        station.hear(&peer_up(PeerHeader { view: View::AdjRibInPre, ..peer }, own), at(1));
        station.hear(&monitoring(peer, &update(&[PRIVATE], communities)), at(2));
        let found: Vec<Finding> = station.watch.leaks().map(|leak| leak.finding).collect();
        assert_eq!(found, Vec::from_iter(finding), "{what}");
        assert_eq!(station.withheld(), finding == Some(Finding::ToExternal), "{what}");
    }
    for (own, finding) in [(OURS, None), (NEIGHBOUR, Some(Finding::Outside))] {
        let mut station = Station::new(settings());
        let peer = header(View::LocRib, "0.0.0.0", own);
        station.hear(&peer_up(peer, own), at(1));
        station.hear(&monitoring(peer, &update(&[PRIVATE], &GUARD)), at(2));
        assert_eq!(station.watch.leaks().map(|leak| leak.finding).collect::<Vec<_>>(), Vec::from_iter(finding));
    }
}

#[test]
fn what_is_inside_counts_and_what_covers_only_where_asked() {
    for (overlap, route, counts) in [
        (Overlap::Inside, "203.0.113.0/24", false),
        (Overlap::Any, "203.0.113.0/24", true),
        (Overlap::Any, "0.0.0.0/0", false),
        (Overlap::Inside, "203.0.113.200/32", true),
        (Overlap::Any, "203.0.113.201/32", false),
    ] {
        let mut station = Station::new(Settings { overlap, ..settings() });
        station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(1));
        station.hear(&monitoring(external(View::AdjRibOutPost), &update(&[route], &[])), at(2));
        assert_eq!(station.watch.leaks().count() == 1, counts, "{overlap:?} {route}");
    }
}

#[test]
fn what_policy_holds_back_is_no_leak_once_the_router_shows_what_it_sends() {
    let mut station = Station::new(settings());
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(1));
    station.hear(&monitoring(external(View::AdjRibOutPre), &update(&[PRIVATE], &GUARD)), at(2));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
    station.hear(&monitoring(external(View::AdjRibOutPost), &update(&["198.51.100.0/24"], &[])), at(3));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(3)))]);
    station.hear(&monitoring(external(View::AdjRibOutPre), &update(&[PRIVATE], &GUARD)), at(4));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(3)))]);
}

#[test]
fn a_session_that_ends_takes_its_leaks_with_it() {
    let mut station = leaking(settings());
    let down = Message::PeerDown { peer: external(View::AdjRibInPre), reason: Down::Lost };
    station.hear(&down.encode(), at(5));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(5)))]);
}

#[test]
fn a_router_that_is_away_takes_nothing_back() {
    let mut station = leaking(settings());
    station.watch.disconnected("edge", "connection lost", at(5));
    station.watch.tick(at(100_000));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
    assert!(station.withheld());
    assert_eq!(station.watch.clear(None), Ok(1), "the operator knows better");
    assert!(!station.withheld());
}

#[test]
fn a_router_that_is_back_says_it_again_or_it_is_over() {
    for ends in [true, false] {
        let mut station = leaking(settings());
        station.again(at(10));
        station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(11));
        assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
        if ends {
            station.hear(&monitoring(external(View::AdjRibOutPost), &end_of_rib(Family::Ipv6)), at(12));
            assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
            station.hear(&monitoring(external(View::AdjRibOutPost), &end_of_rib(Family::Ipv4)), at(12));
            assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(12)))]);
        } else {
            station.watch.tick(at(309));
            assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
            station.watch.tick(at(310));
            assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Over(at(310)))]);
        }
    }
    let mut station = leaking(settings());
    station.again(at(10));
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(11));
    station.hear(&monitoring(external(View::AdjRibOutPost), &update(&[PRIVATE], &GUARD)), at(12));
    station.hear(&monitoring(external(View::AdjRibOutPost), &end_of_rib(Family::Ipv4)), at(13));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
}

#[test]
fn a_router_that_should_tell_and_does_not_makes_the_watch_blind() {
    let mut watch = Watch::new(Settings { on_blind: Action::Withdraw, ..settings() }, at(0));
    watch.tick(at(29));
    assert_eq!(watch.blind().count(), 0);
    assert_eq!(watch.poll_timeout(), Some(at(30)));
    watch.tick(at(30));
    assert_eq!(watch.blind().collect::<Vec<_>>(), [("edge", "it has not connected yet")]);
    assert_eq!(watch.withheld().len(), 1);
    watch.connected("edge", at(40));
    assert_eq!((watch.blind().count(), watch.withheld().len()), (0, 0));
    watch.disconnected("edge", "reset", at(50));
    watch.tick(at(60));
    assert_eq!(watch.withheld().len(), 0, "not yet");
    watch.tick(at(80));
    assert!(watch.withheld().values().all(|reason| reason == "the leak watch is blind: edge: reset"));
}

#[test]
fn a_leak_in_a_route_with_a_flaw_is_still_seen() {
    let mut bytes = update(&[PRIVATE], &GUARD);
    // ORIGIN of a value that there is not: to be treated as a withdrawal, by whoever receives it.
    let origin = bytes.windows(4).position(|window| window == [0x40, 1, 1, 0]).unwrap();
    bytes[origin + 3] = 9;
    let mut station = Station::new(settings());
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(1));
    station.hear(&monitoring(external(View::AdjRibOutPost), &bytes), at(2));
    assert_eq!(station.findings(), [(Finding::ToExternal, LeakState::Present)]);
}

#[test]
fn a_router_with_too_many_peers_is_hung_up_on() {
    let mut router = Station::router(2);
    for n in 1..=2 {
        router.received(&peer_up(header(View::AdjRibInPre, &format!("192.0.2.{n}"), NEIGHBOUR), OURS));
    }
    assert!(!std::iter::from_fn(|| router.poll_output()).any(|report| matches!(report, Report::Close(_))));
    router.received(&peer_up(header(View::AdjRibInPre, "192.0.2.3", NEIGHBOUR), OURS));
    let last = std::iter::from_fn(|| router.poll_output()).last();
    assert_eq!(last, Some(Report::Close("more than 2 peers: bmp.max-peers".to_owned())));
    assert_eq!(router.peers().count(), 2);
}

#[test]
fn loc_rib_is_heard_without_a_peer_up() {
    let mut station = Station::new(settings());
    let peer = header(View::LocRib, "0.0.0.0", OURS);
    station.hear(&monitoring(peer, &update(&[PRIVATE], &[])), at(2));
    assert_eq!(station.findings(), [(Finding::Unguarded, LeakState::Present)]);
    assert_eq!(station.router.peers().next().unwrap().views, [View::LocRib]);
}

#[test]
fn what_cannot_be_read_is_counted_and_told_once() {
    let mut router = Station::router(2);
    for _ in 0..3 {
        router.received(&monitoring(external(View::AdjRibInPre), &crate::bytes::open(OURS)));
    }
    let told =
        std::iter::from_fn(|| router.poll_output()).filter(|r| matches!(r, Report::Notice(Notice::Unreadable(_))));
    assert_eq!(told.count(), 1);
    assert_eq!(router.counters().unreadable, 3);
}

#[test]
fn a_mirrored_message_shows_what_a_peer_sent_and_its_end_of_rib_ends_nothing_here() {
    let mirrored = |message: &[u8], errored| {
        Message::Mirroring { peer: external(View::AdjRibInPre), message: Some(message), errored, lost: false }.encode()
    };
    let mut station = Station::new(settings());
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(1));
    for (message, errored) in
        [(crate::bytes::open(NEIGHBOUR), false), (update(&["198.51.100.0/24"], &[]), false), (vec![0; 19], true)]
    {
        station.hear(&mirrored(&message, errored), at(2));
    }
    assert_eq!((station.findings(), station.router.counters().unreadable), (vec![], 1));
    station.hear(&mirrored(&update(&[PRIVATE], &[]), true), at(3));
    let heard = [(Finding::FromExternal, LeakState::Present)];
    assert_eq!(station.findings(), heard, "the router could not read it, and it was sent");
    // The connection is another: until it is said again, or five minutes are over, the leak is thought to be there.
    station.again(at(4));
    station.hear(&peer_up(external(View::AdjRibInPre), OURS), at(4));
    station.hear(&mirrored(&end_of_rib(Family::Ipv4), false), at(5));
    assert_eq!(station.findings(), heard);
    station.hear(&mirrored(&withdrawal(PRIVATE), false), at(6));
    assert!(
        matches!(station.findings()[..], [(Finding::FromExternal, LeakState::Over(_))]),
        "{:?}",
        station.findings()
    );
    assert_eq!(station.router.counters().mirrored, 2);
}

#[test]
fn messages_that_a_router_does_not_mirror_are_counted_and_told_once() {
    let mut router = Station::router(2);
    let lost =
        Message::Mirroring { peer: external(View::AdjRibInPre), message: None, errored: false, lost: true }.encode();
    (0..3).for_each(|_| router.received(&lost));
    let told = std::iter::from_fn(|| router.poll_output()).filter(|r| *r == Report::Notice(Notice::MirroringLost));
    assert_eq!((told.count(), router.counters().mirroring_lost), (1, 3));
}

#[test]
fn numbers_of_peers_are_kept_by_what_they_count_and_summed_up() {
    let mut router = Station::router(2);
    type Number = (u16, Option<(u16, u8)>, u64);
    let report = |address: &str, numbers: &[Number]| {
        let statistics =
            numbers.iter().map(|(kind, family, value)| Statistic { kind: *kind, family: *family, value: *value });
        let peer = header(View::AdjRibInPre, address, NEIGHBOUR);
        Message::Statistics { peer, statistics: statistics.collect() }.encode()
    };
    router.received(&report("192.0.2.1", &[(0, None, 3), (7, None, 100)]));
    // Said again, a number takes the place of the one before; what nobody here knows is passed over.
    router
        .received(&report("192.0.2.1", &[(0, None, 4), (9, Some((1, 1)), 60), (9, Some((25, 70)), 9), (99, None, 1)]));
    router.received(&report("192.0.2.2", &[(0, None, 1), (7, None, u64::MAX)]));
    // A third peer is one too many.
    router.received(&report("192.0.2.3", &[(0, None, 1000)]));
    let said: Vec<String> = router.statistics().iter().map(|(counted, value)| format!("{counted} {value}")).collect();
    assert_eq!(said, [format!("adj-rib-in {}", u64::MAX), "adj-rib-in of ipv4-unicast 60".into(), "rejected 5".into()]);
    assert_eq!(router.counters().unreadable, 0);
    router.received(
        &Message::PeerDown { peer: header(View::AdjRibInPre, "192.0.2.2", NEIGHBOUR), reason: Down::Lost }.encode(),
    );
    assert_eq!(router.statistics().values().copied().collect::<Vec<_>>(), [100, 60, 4]);
}
