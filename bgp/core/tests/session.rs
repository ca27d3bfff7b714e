//! The state machine of RFC 4271 §8, told as cases, against a scripted peer.

#![cfg(test)]

mod bench;

use std::sync::Arc;
use std::time::Duration;

use bench::{
    Bench, PRIVATE, PRIVATE_V6, Seen, at, encode, hold, peer_open, refused, reset, router_id, routes, settings,
};
use bgp_core::{Down, Event, Export, Filter, Input, LinkId, PrefixList, Rule, Settings, State, Verdict};
use bgp_wire::{
    AsPath, Asn, Attributes, Capability, Context, ErrorCode, Family, Message, Notification, Open, Origin, RouteRefresh,
    announce_v4,
};

#[test]
fn what_is_healthy_is_announced_on_session_up_and_then_the_end_is_marked() {
    let mut bench = Bench::open_confirm();
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6]))), []);
    let expected = [
        Seen::Up,
        Seen::Update(format!("+{PRIVATE}")),
        Seen::Update(format!("+{PRIVATE_V6}")),
        Seen::Update("end of ipv4-unicast".to_owned()),
        Seen::Update("end of ipv6-unicast".to_owned()),
    ];
    assert_eq!(bench.hear(Message::KeepAlive), expected);
}

#[test]
fn changes_go_out_at_once_and_only_as_differences() {
    let mut bench = Bench::established();
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE]))), [Seen::Update(format!("+{PRIVATE}"))]);
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE]))), []);
    let both = bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    assert_eq!(both, [Seen::Update(format!("+{PRIVATE_V6}"))]);
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE_V6]))), [Seen::Update(format!("-{PRIVATE}"))]);
    assert_eq!(bench.session.status().advertised, [PRIVATE_V6.parse().unwrap()]);
}

#[test]
fn a_route_refresh_gets_its_family_again() {
    let mut bench = Bench::established();
    bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    let refresh = |afi, subtype| Message::RouteRefresh(RouteRefresh { afi, subtype, safi: 1 });
    assert_eq!(bench.hear(refresh(2, 0)), [Seen::Update(format!("+{PRIVATE_V6}"))]);
    assert_eq!(bench.hear(refresh(2, 1)), []);
    assert_eq!(bench.hear(refresh(25, 0)), []);
}

#[test]
fn the_smaller_hold_time_counts_and_silence_past_it_sends_4_0() {
    let mut bench = Bench::established();
    assert_eq!(bench.session.status().negotiated.unwrap().hold_time, hold(30));
    let before = bench.tick_at(at(29));
    assert!(before.iter().all(|seen| *seen == Seen::KeepAlive), "{before:?}");
    assert_eq!(bench.tick_at(at(30)), reset(ErrorCode::HOLD_TIMER_EXPIRED));
    assert_eq!(bench.state(), State::Idle);
}

#[test]
fn keepalives_and_updates_restart_the_hold_timer() {
    let mut bench = Bench::established();
    bench.now = at(29);
    bench.hear(Message::KeepAlive);
    assert_ne!(bench.tick_at(at(58)), reset(ErrorCode::HOLD_TIMER_EXPIRED));
    assert_eq!(bench.state(), State::Established);
    bench.hear(Message::Update(bgp_wire::Update::end_of_rib(Family::Ipv4)));
    bench.tick_at(at(87));
    assert_eq!(bench.state(), State::Established);
    bench.tick_at(at(88));
    assert_eq!(bench.state(), State::Idle);
}

#[test]
fn keepalives_come_at_a_third_of_the_hold_time_or_a_little_sooner() {
    let mut bench = Bench::established();
    let mut last = at(0);
    for _ in 0..20 {
        let due = bench.session.poll_timeout().unwrap();
        let gap = due - last;
        assert!((Duration::from_millis(7_500)..=Duration::from_secs(10)).contains(&gap), "{gap:?}");
        assert_eq!(bench.tick_at(due), [Seen::KeepAlive]);
        bench.hear(Message::KeepAlive);
        last = due;
    }
}

#[test]
fn a_hold_time_of_zero_means_no_timers_and_takes_both_ends() {
    let mut bench = Bench::open_sent(Settings { hold_time: hold(0), ..settings() });
    bench.hear(Message::Open(Open { hold_time: hold(0), ..peer_open() }));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.state(), State::Established);
    assert_eq!(bench.session.poll_timeout(), None);
    let mut bench = Bench::open_sent(settings());
    let open = Open { hold_time: hold(0), ..peer_open() };
    assert_eq!(bench.hear(Message::Open(open)), refused(ErrorCode::UNACCEPTABLE_HOLD_TIME));
}

#[test]
fn an_open_that_does_not_fit_is_refused_with_its_subcode() {
    let cases = [
        (Open::new(Asn(64501), hold(90), router_id("10.0.0.9"), Family::ALL), ErrorCode::BAD_PEER_AS),
        (Open { router_id: router_id("10.0.0.5"), ..peer_open() }, ErrorCode::BAD_IDENTIFIER),
    ];
    for (open, error) in cases {
        let mut bench = Bench::open_sent(settings());
        assert_eq!(bench.hear(Message::Open(open)), refused(error));
        assert_eq!(bench.state(), State::Idle);
    }
    let vpn = Capability::Other { code: 1, value: vec![0, 1, 0, 128] };
    let mut bench = Bench::open_sent(settings());
    let wanted = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    assert_eq!(
        bench.hear(Message::Open(Open { capabilities: vec![vpn], ..peer_open() })),
        [Seen::Notification(ErrorCode::UNSUPPORTED_CAPABILITY, wanted), Seen::Close, Seen::Failed]
    );
}

#[test]
fn an_external_peer_may_have_our_router_id() {
    let mut bench = Bench::open_sent(Settings { remote_as: Asn(64501), ..settings() });
    let open = Open::new(Asn(64501), hold(90), router_id("10.0.0.5"), Family::ALL);
    assert_eq!(bench.hear(Message::Open(open)), [Seen::KeepAlive]);
}

#[test]
fn a_peer_without_capabilities_is_an_ipv4_speaker_of_two_octets() {
    let mut bench = Bench::open_sent(settings());
    bench.hear(Message::Open(Open { capabilities: Vec::new(), ..peer_open() }));
    bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    let expected = [Seen::Up, Seen::Update(format!("+{PRIVATE}")), Seen::Update("end of ipv4-unicast".to_owned())];
    assert_eq!(bench.hear(Message::KeepAlive), expected);
    assert!(!bench.session.status().negotiated.unwrap().context.four_octet_as);
}

#[test]
fn a_message_out_of_turn_is_a_state_machine_error_with_the_state_in_the_subcode() {
    let open = || Message::Open(peer_open());
    let update = || Message::Update(bgp_wire::Update::end_of_rib(Family::Ipv4));
    let told = |error, kind, end| [Seen::Notification(error, vec![kind]), Seen::Close, end];
    for (message, kind) in [(Message::KeepAlive, 4), (update(), 2)] {
        let expected = told(ErrorCode::UNEXPECTED_IN_OPEN_SENT, kind, Seen::Failed);
        assert_eq!(Bench::open_sent(settings()).hear(message), expected);
    }
    for (message, kind) in [(open(), 1), (update(), 2)] {
        let expected = told(ErrorCode::UNEXPECTED_IN_OPEN_CONFIRM, kind, Seen::Failed);
        assert_eq!(Bench::open_confirm().hear(message), expected);
    }
    assert_eq!(Bench::established().hear(open()), told(ErrorCode::UNEXPECTED_IN_ESTABLISHED, 1, Seen::Down));
}

#[test]
fn garbage_ends_each_state_with_its_notification() {
    let garbage = b"SSH-2.0-OpenSSH_9.2p1";
    assert_eq!(Bench::open_sent(settings()).hear_bytes(garbage), refused(ErrorCode::NOT_SYNCHRONIZED));
    assert_eq!(Bench::open_confirm().hear_bytes(garbage), refused(ErrorCode::NOT_SYNCHRONIZED));
    assert_eq!(Bench::established().hear_bytes(garbage), reset(ErrorCode::NOT_SYNCHRONIZED));
}

#[test]
fn nothing_after_a_fatal_message_counts() {
    let mut bench = Bench::established();
    let bytes = [encode(Message::Open(peer_open())), encode(Message::KeepAlive)].concat();
    let told = Seen::Notification(ErrorCode::UNEXPECTED_IN_ESTABLISHED, vec![1]);
    assert_eq!(bench.hear_bytes(&bytes), [told, Seen::Close, Seen::Down]);
    assert_eq!(bench.session.status().counters.received.keepalive, 1);
}

#[test]
fn a_notification_is_not_answered() {
    let mut bench = Bench::established();
    let notification = Notification::from(ErrorCode::ADMINISTRATIVE_RESET);
    assert_eq!(bench.hear(Message::Notification(notification.clone())), [Seen::Close, Seen::Down]);
    let status = bench.session.status();
    assert_eq!(status.last_down, Some(Down::Received(notification)));
    assert_eq!((status.counters.flaps, status.counters.established), (1, 1));
}

#[test]
fn a_peer_that_rejects_the_connection_may_still_connect_itself() {
    for error in [ErrorCode::CONNECTION_REJECTED, ErrorCode::CONNECTION_COLLISION] {
        let mut bench = Bench::open_sent(settings());
        assert_eq!(bench.hear(Message::Notification(error.into())), [Seen::Close, Seen::Failed]);
        assert_eq!(bench.state(), State::Active);
        let incoming = bench.session.new_link();
        assert_eq!(bench.handle(Input::Accepted(incoming)), [Seen::Open]);
    }
}

#[test]
fn a_stop_tells_the_peer_and_a_start_begins_anew() {
    let mut bench = Bench::established();
    bench.handle(Input::Routes(routes(&[PRIVATE])));
    assert_eq!(bench.handle(Input::Stop("")), reset(ErrorCode::ADMINISTRATIVE_SHUTDOWN));
    assert!(bench.session.advertised().is_empty());
    assert_eq!(bench.session.poll_timeout(), None);
    assert_eq!(bench.handle(Input::Start), [Seen::Connect]);
    assert_eq!(bench.handle(Input::Stop("")), [Seen::Close]);
}

#[test]
fn a_refused_connection_is_tried_again_ever_more_slowly() {
    let mut bench = Bench::new(settings());
    bench.handle(Input::Start);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let link = bench.link.unwrap();
        let told = bench.handle(Input::ConnectFailed(link, "connection refused"));
        assert_eq!(told.len(), usize::from(waits.is_empty()), "told once");
        assert_eq!(bench.state(), State::Active);
        let due = bench.session.poll_timeout().unwrap();
        waits.push((due - bench.now).as_millis());
        assert_eq!(bench.tick_at(due), [Seen::Connect]);
    }
    assert!(waits[0] <= 1000 && waits[0] >= 750, "{waits:?}");
    assert!(waits[5] <= 10_000 && waits[5] >= 7_500, "{waits:?}");
}

#[test]
fn a_connection_attempt_that_hangs_is_given_up() {
    let mut bench = Bench::new(settings());
    bench.handle(Input::Start);
    assert_eq!(bench.tick_at(at(9)), []);
    assert_eq!(bench.tick_at(at(10)), [Seen::Close, Seen::Failed]);
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn an_open_that_never_comes_ends_in_the_hold_timer() {
    let mut bench = Bench::open_sent(settings());
    assert_eq!(bench.tick_at(at(239)), []);
    assert_eq!(bench.tick_at(at(240)), refused(ErrorCode::HOLD_TIMER_EXPIRED));
}

#[test]
fn errors_in_a_row_are_damped_and_the_peer_is_kept_out_meanwhile() {
    let mut bench = Bench::established();
    let link = bench.link.unwrap();
    assert_eq!(bench.handle(Input::Closed(link)), [Seen::Down]);
    assert_eq!(bench.state(), State::Idle);
    let incoming = bench.session.new_link();
    let rejected = [Seen::Notification(ErrorCode::CONNECTION_REJECTED, vec![]), Seen::Close];
    assert_eq!(bench.handle(Input::Accepted(incoming)), rejected);
    let due = bench.session.poll_timeout().unwrap();
    assert!(due - bench.now <= Duration::from_secs(1));
    assert_eq!(bench.tick_at(due), [Seen::Connect]);
}

#[test]
fn a_passive_session_waits_for_the_peer() {
    let mut bench = Bench::new(Settings { passive: true, ..settings() });
    assert_eq!(bench.handle(Input::Start), []);
    assert_eq!(bench.state(), State::Active);
    assert_eq!(bench.session.poll_timeout(), None);
    bench.link = Some(bench.session.new_link());
    let link = bench.link.unwrap();
    assert_eq!(bench.handle(Input::Accepted(link)), [Seen::Open]);
    bench.hear(Message::Open(peer_open()));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.state(), State::Established);
}

/// Both ends connected at once; our router id is 10.0.0.5.
fn crossing(theirs: &str) -> (Vec<Seen>, LinkId, LinkId, Bench) {
    let mut bench = Bench::open_sent(settings());
    let outgoing = bench.link.unwrap();
    let incoming = bench.session.new_link();
    assert_eq!(bench.handle(Input::Accepted(incoming)), [Seen::Open]);
    let open = encode(Message::Open(Open { router_id: router_id(theirs), ..peer_open() }));
    assert_eq!(bench.handle(Input::Received(outgoing, &open)), [Seen::KeepAlive]);
    let seen = bench.handle(Input::Received(incoming, &open));
    (seen, outgoing, incoming, bench)
}

#[test]
fn of_crossing_connections_the_one_of_the_higher_router_id_stays() {
    let collision = [Seen::Notification(ErrorCode::CONNECTION_COLLISION, vec![]), Seen::Failed, Seen::Close];
    // 9.0.0.1 is lower than ours: the connection that we opened stays.
    let (seen, outgoing, _, mut bench) = crossing("9.0.0.1");
    assert_eq!(seen, collision);
    bench.handle(Input::Received(outgoing, &encode(Message::KeepAlive)));
    assert_eq!(bench.state(), State::Established);
    // 10.0.0.9 is higher: theirs stays.
    let (seen, _, incoming, mut bench) = crossing("10.0.0.9");
    assert_eq!(seen, [&collision[..], &[Seen::KeepAlive]].concat());
    bench.handle(Input::Received(incoming, &encode(Message::KeepAlive)));
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_new_connection_does_not_disturb_an_established_one() {
    let mut bench = Bench::established();
    let incoming = bench.session.new_link();
    assert_eq!(bench.handle(Input::Accepted(incoming)), [Seen::Open]);
    let open = encode(Message::Open(peer_open()));
    let collision = [Seen::Notification(ErrorCode::CONNECTION_COLLISION, vec![]), Seen::Failed, Seen::Close];
    assert_eq!(bench.handle(Input::Received(incoming, &open)), collision);
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn beside_an_established_connection_another_is_tracked_until_its_open_comes() {
    let open = encode(Message::Open(Open { hold_time: hold(0), ..peer_open() }));
    let keepalive = encode(Message::KeepAlive);
    // Ours stands first, or the peer's; neither end has yet decided anything about the other.
    for ours_first in [true, false] {
        let tracked = || {
            let mut bench = Bench::open_sent(Settings { hold_time: hold(0), ..settings() });
            let outgoing = bench.link.unwrap();
            let incoming = bench.session.new_link();
            assert_eq!(bench.handle(Input::Accepted(incoming)), [Seen::Open]);
            let (first, second) = if ours_first { (outgoing, incoming) } else { (incoming, outgoing) };
            assert_eq!(bench.handle(Input::Received(first, &open)), [Seen::KeepAlive]);
            let seen = bench.handle(Input::Received(first, &keepalive));
            assert_eq!((&seen[0], seen.contains(&Seen::Close)), (&Seen::Up, false), "{seen:?}");
            (bench, first, second)
        };
        let collision = [Seen::Notification(ErrorCode::CONNECTION_COLLISION, vec![]), Seen::Failed, Seen::Close];
        let cease = encode(Message::Notification(ErrorCode::CONNECTION_COLLISION.into()));
        type End<'a> = (&'a dyn Fn(&mut Bench, LinkId) -> Vec<Seen>, &'a [Seen]);
        let ends: [End<'_>; 4] = [
            (&|bench, second| bench.handle(Input::Received(second, &open)), &collision),
            (&|bench, second| bench.handle(Input::Received(second, &cease)), &[Seen::Close, Seen::Failed]),
            (&|bench, second| bench.handle(Input::Closed(second)), &[Seen::Failed]),
            (&|bench, _| bench.tick_at(at(240)), &refused(ErrorCode::HOLD_TIMER_EXPIRED)),
        ];
        for (end, expected) in ends {
            let (mut bench, first, second) = tracked();
            assert_eq!(bench.tick_at(at(239)), []);
            assert_eq!(end(&mut bench, second), expected);
            assert_eq!((bench.session.established_link(), bench.session.status().last_down), (Some(first), None));
            assert_eq!(bench.session.poll_timeout(), None, "nothing is tried again");
        }
        // When the Established one ends, what is tracked goes on as any other.
        let (mut bench, first, second) = tracked();
        assert_eq!(bench.handle(Input::Closed(first)), [Seen::Down]);
        assert_eq!(bench.state(), State::OpenSent);
        assert_eq!(bench.handle(Input::Received(second, &open)), [Seen::KeepAlive]);
        bench.handle(Input::Received(second, &keepalive));
        assert_eq!(bench.session.established_link(), Some(second));
    }
}

#[test]
fn an_attempt_to_connect_ends_when_the_peers_connection_is_established() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.handle(Input::Start), [Seen::Connect]);
    let incoming = bench.session.new_link();
    bench.handle(Input::Accepted(incoming));
    bench.handle(Input::Received(incoming, &encode(Message::Open(peer_open()))));
    let seen = bench.handle(Input::Received(incoming, &encode(Message::KeepAlive)));
    assert_eq!(seen[..2], [Seen::Close, Seen::Up]);
}

#[test]
fn hearing_our_private_prefix_is_told_once_and_counted_always() {
    let mut bench = Bench::established();
    let attributes =
        Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
    let prefixes = [PRIVATE, "198.51.100.0/24"].map(|prefix| prefix.parse().unwrap());
    let updates = announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, Context::default()).unwrap();
    let update = Message::Update(updates[0].clone());
    let prefix = PRIVATE.parse().unwrap();
    let told = Event::PrivatePrefixReceived { received: prefix, ours: prefix };
    assert_eq!(bench.hear(update.clone()), [Seen::Other(told)]);
    assert_eq!(bench.hear(update), []);
    let counters = bench.session.status().counters;
    assert_eq!((counters.private_received, counters.prefixes_announced), (2, 4));
}

#[test]
fn a_damaged_update_is_borne_and_reported() {
    let mut bench = Bench::established();
    // ORIGIN 9, with a prefix to withdraw.
    let body = [0, 0, 0, 4, 0x40, 1, 1, 9, 24, 198, 51, 100];
    let frame = [&[0xff; 16], &[0, 31, 2][..], &body].concat();
    let seen = bench.hear_bytes(&frame);
    assert!(matches!(&seen[..], [Seen::Other(Event::Flaw(_)), ..]), "{seen:?}");
    assert_eq!(bench.state(), State::Established);
    assert_eq!(bench.session.status().counters.prefixes_announced, 0);
    assert_eq!(bench.session.status().counters.prefixes_withdrawn, 1);
}

#[test]
fn what_the_open_says_ends_the_session_when_it_changes_and_nothing_else_does() {
    let with = |change: fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        settings
    };
    type Change = fn(&mut Settings);
    let hard: [(&str, Change); 6] = [
        ("local-as", |s| s.local_as = Asn(64501)),
        ("router-id", |s| s.router_id = router_id("10.0.0.6")),
        ("remote-as", |s| s.remote_as = Asn(64502)),
        ("hold-time-s", |s| s.hold_time = hold(91)),
        ("passive", |s| s.passive = true),
        ("add-path", |s| s.options.add_path = true),
    ];
    for (name, change) in hard {
        let (mut bench, new) = (Bench::established(), with(change));
        assert_eq!(settings().reset_by(&new), Some(name));
        bench.session.configure(new, at(0));
        let seen = bench.drain();
        assert_eq!(seen[..3], reset(ErrorCode::CONFIGURATION_CHANGE), "{name}");
        assert_eq!(seen.get(3), (name != "passive").then_some(&Seen::Connect), "{name}");
    }
    let soft: [Change; 3] = [
        |s| s.private = [PRIVATE_V6.parse().unwrap()].into(),
        |s| s.export = Export::All,
        |s| s.options.filter = Filter::Nothing,
    ];
    for change in soft {
        let mut bench = Bench::established();
        bench.session.configure(with(change), at(0));
        assert_eq!((bench.drain(), bench.state()), (vec![], State::Established));
    }
}

#[test]
fn another_filter_tells_only_what_differs() {
    let mut bench = Bench::established();
    bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    let rule = Rule::new("2001:db8::/32".parse().unwrap(), None, Some(128), Verdict::Permit).unwrap();
    let filtered = |filter| {
        let mut settings = settings();
        settings.options.filter = filter;
        settings
    };
    bench.session.configure(filtered(Filter::List(Arc::new(PrefixList::new(vec![rule])))), at(0));
    assert_eq!(bench.drain(), [Seen::Update(format!("-{PRIVATE}"))]);
    bench.session.configure(filtered(Filter::All), at(0));
    assert_eq!(bench.drain(), [Seen::Update(format!("+{PRIVATE}"))]);
}

#[test]
fn a_peer_that_is_taken_out_hears_so_and_nothing_is_tried_again() {
    let mut bench = Bench::established();
    assert_eq!(bench.handle(Input::Remove), reset(ErrorCode::PEER_DECONFIGURED));
    assert_eq!((bench.session.poll_timeout(), bench.session.is_over()), (None, true));
}

#[test]
fn a_session_for_several_as_numbers_takes_each_of_them_and_no_other() {
    for (asn, taken) in [(64510, true), (64515, true), (64519, true), (64509, false), (64520, false), (64530, true)] {
        let mut any = Settings { remote_as: Asn(64510), passive: true, ..settings() };
        any.options.remote_as_among = vec![Asn(64510)..=Asn(64519), Asn(64530)..=Asn(64530)];
        let mut bench = Bench::new(any);
        assert_eq!(bench.handle(Input::Start), []);
        let link = bench.session.new_link();
        bench.link = Some(link);
        assert!(bench.session.is_over());
        assert_eq!(bench.handle(Input::Accepted(link)), [Seen::Open]);
        let seen = bench.hear(Message::Open(Open::new(Asn(asn), hold(30), router_id("10.0.0.9"), Family::ALL)));
        assert_eq!(seen == [Seen::KeepAlive], taken, "{asn}: {seen:?}");
        if taken {
            bench.hear(Message::KeepAlive);
            assert_eq!(bench.session.status().negotiated.unwrap().asn, Asn(asn));
            assert!(!bench.session.is_over());
        }
        bench.handle(Input::Closed(link));
        // Not before the wait after an error is over: whoever connects again and again is damped.
        let until = bench.session.poll_timeout().unwrap();
        assert!(!bench.session.is_over());
        bench.tick_at(until);
        assert!(bench.session.is_over());
    }
}
