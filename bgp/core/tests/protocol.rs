//! What capabilities and options change in a session, told as cases, against a scripted peer.

#![cfg(test)]

mod bench;

use std::time::Duration;

use bench::{Bench, PRIVATE, PRIVATE_V6, Seen, at, encode, peer_open, reset, router_id, routes, settings};
use bgp_core::{Down, Event, Export, Heard, Helper, Input, Options, RoleSetting, Settings, State};
use bgp_wire::{
    AddPath, AsPath, Asn, Attributes, Capability, Context, ErrorCode, Families, Family, GracefulRestart, Message,
    Notification, Open, Origin, Role, RouteRefresh, announce_v4,
};

fn with(capabilities: impl IntoIterator<Item = Capability>) -> Open {
    let mut open = peer_open();
    open.capabilities.extend(capabilities);
    open
}

fn established(settings: Settings, open: Open, reading: Context) -> Bench {
    let mut bench = Bench::open_sent(settings);
    bench.reading = reading;
    bench.hear(Message::Open(open));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.state(), State::Established);
    bench
}

fn plus(prefix: &str) -> Seen {
    Seen::Update(format!("+{prefix}"))
}

#[test]
fn an_enhanced_refresh_is_marked_where_it_begins_and_ends_even_when_empty() {
    let mut bench = established(settings(), with([Capability::EnhancedRouteRefresh]), Context::default());
    let request = |afi| Message::RouteRefresh(RouteRefresh { afi, subtype: RouteRefresh::REQUEST, safi: 1 });
    assert_eq!(bench.hear(request(1)), [Seen::Refresh(1, 1), Seen::Refresh(1, 2)]);
    bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    assert_eq!(bench.hear(request(2)), [Seen::Refresh(2, 1), plus(PRIVATE_V6), Seen::Refresh(2, 2)]);
    for subtype in [RouteRefresh::BEGIN, RouteRefresh::END, 3, 255] {
        assert_eq!(bench.hear(Message::RouteRefresh(RouteRefresh { afi: 1, subtype, safi: 1 })), []);
    }
}

#[test]
fn a_peer_is_asked_for_each_family_again_unless_it_cannot_be() {
    let mut without = peer_open();
    without.capabilities.retain(|capability| *capability != Capability::RouteRefresh);
    let mut bench = established(settings(), without, Context::default());
    assert_eq!(bench.session.ask_again(), Err("the peer does not know ROUTE-REFRESH (RFC 2918)"));
    assert_eq!(bench.drain(), []);
    let mut bench = established(settings(), peer_open(), Context::default());
    assert_eq!(bench.session.ask_again(), Ok(Family::ALL.into()));
    assert_eq!(bench.drain(), [Seen::Refresh(1, 0), Seen::Refresh(2, 0)]);
    bench.hear(Message::Notification(ErrorCode::HOLD_TIMER_EXPIRED.into()));
    assert_eq!(bench.session.ask_again(), Err("the session is not established"));
}

#[test]
fn a_refresh_mark_of_the_wrong_length_ends_the_session_with_the_message_as_data() {
    let mut bench = established(settings(), with([Capability::EnhancedRouteRefresh]), Context::default());
    let frame = [&[0xff; 16], &[0, 24, 5, 0, 1, 1, 1, 9][..]].concat();
    let seen = bench.hear_bytes(&frame);
    assert_eq!(seen, [Seen::Notification(ErrorCode::REFRESH_LENGTH, frame), Seen::Close, Seen::Down]);
}

#[test]
fn long_messages_are_taken_from_anybody_and_sent_to_those_who_offered() {
    let nets = [24, 10, 0, 0].repeat(1100);
    let long = [&[0xff; 16][..], &u16::try_from(23 + nets.len()).unwrap().to_be_bytes(), &[2]].concat();
    let withdrawn = u16::try_from(nets.len()).unwrap().to_be_bytes();
    let long = [&long[..], &withdrawn, &nets, &[0, 0]].concat();
    let mut bench = established(settings(), peer_open(), Context::default());
    bench.hear_bytes(&long);
    assert_eq!(bench.state(), State::Established);
    assert_eq!(bench.session.status().counters.prefixes_withdrawn, 1100);
    assert!(!bench.session.status().negotiated.unwrap().context.extended_messages);
    let bench = established(settings(), with([Capability::ExtendedMessages]), Context::default());
    assert!(bench.session.status().negotiated.unwrap().context.extended_messages);
    // Before the peer's OPEN is accepted nothing is long.
    let mut bench = Bench::open_sent(settings());
    let seen = bench.hear_bytes(&long);
    assert!(matches!(&seen[..], [Seen::Notification(ErrorCode::BAD_LENGTH, _), ..]), "{seen:?}");
}

fn add_path(receive: bool, send: bool) -> Capability {
    Capability::AddPath(Family::ALL.map(|family| AddPath { family, receive, send }).into())
}

#[test]
fn path_identifiers_are_sent_to_who_receives_them_and_read_from_who_sends_them() {
    let settings = || Settings { options: Options { add_path: true, ..Options::default() }, ..settings() };
    let ids = Context { path_ids: Families { ipv4: true, ipv6: true }, ..Context::default() };
    let mut bench = established(settings(), with([add_path(true, false)]), ids);
    let seen = bench.handle(Input::Routes(routes(&[PRIVATE, PRIVATE_V6])));
    assert_eq!(seen, [plus(PRIVATE), plus(PRIVATE_V6)]);
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE_V6]))), [Seen::Update(format!("-{PRIVATE}"))]);
    assert_eq!(bench.session.status().negotiated.unwrap().incoming.path_ids, Families::NONE);

    let mut bench = established(settings(), with([add_path(false, true)]), Context::default());
    assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE]))), [plus(PRIVATE)]);
    let attributes =
        Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
    let nets = ["198.51.100.0/24".parse().unwrap()];
    let update = announce_v4(&attributes, [192, 0, 2, 1].into(), nets, ids).unwrap().remove(0);
    bench.hear_bytes(&Message::Update(update).encode(ids).unwrap());
    assert_eq!(bench.session.status().counters.prefixes_announced, 1);
}

#[test]
fn path_identifiers_take_both_ends() {
    let bench = established(settings(), with([add_path(true, true)]), Context::default());
    let negotiated = bench.session.status().negotiated.unwrap();
    assert_eq!((negotiated.context.path_ids, negotiated.incoming.path_ids), (Families::NONE, Families::NONE));
}

fn external(role: Role, strict: bool) -> Settings {
    Settings {
        remote_as: Asn(64501),
        options: Options { role: Some(RoleSetting { role, strict }), ..Options::default() },
        ..settings()
    }
}

fn external_open(roles: &[Role]) -> Open {
    let mut open = Open::new(Asn(64501), bench::hold(30), router_id("10.0.0.9"), Family::ALL);
    open.capabilities.extend(roles.iter().copied().map(Capability::Role));
    open
}

#[test]
fn roles_that_do_not_fit_are_refused_and_silence_only_where_it_is_strict() {
    let cases: &[(&[Role], bool, bool)] = &[
        (&[Role::Customer], false, true),
        (&[Role::Customer, Role::Customer], true, true),
        (&[Role::Provider], false, false),
        (&[Role::Customer, Role::Peer], false, false),
        (&[], false, true),
        (&[], true, false),
    ];
    for (roles, strict, accepted) in cases {
        let mut bench = Bench::open_sent(external(Role::Provider, *strict));
        let seen = bench.hear(Message::Open(external_open(roles)));
        if *accepted {
            assert_eq!(seen, [Seen::KeepAlive], "{roles:?}");
        } else {
            let refused = [Seen::Notification(ErrorCode::ROLE_MISMATCH, vec![]), Seen::Close, Seen::Failed];
            assert_eq!(seen, refused, "{roles:?}");
        }
    }
}

#[test]
fn a_role_that_is_none_fits_none() {
    let role = |value: &[u8]| {
        let mut open = external_open(&[]);
        open.capabilities.push(Capability::Other { code: 9, value: value.into() });
        open
    };
    for value in [&[5][..], &[255], &[], &[0, 0]] {
        for strict in [false, true] {
            let seen = Bench::open_sent(external(Role::Customer, strict)).hear(Message::Open(role(value)));
            let refused = [Seen::Notification(ErrorCode::ROLE_MISMATCH, vec![]), Seen::Close, Seen::Failed];
            assert_eq!(seen, refused, "{value:?}");
        }
    }
}

fn marked(otc: u32) -> Vec<u8> {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64501)])),
        only_to_customer: Some(Asn(otc)),
        ..Attributes::default()
    };
    let update =
        announce_v4(&attributes, [192, 0, 2, 1].into(), ["198.51.100.0/24".parse().unwrap()], Context::default());
    encode(Message::Update(update.unwrap().remove(0)))
}

#[test]
fn a_marked_route_from_below_or_across_is_a_leak() {
    let cases = [
        (Role::Provider, 64501, true),
        (Role::RouteServer, 64501, true),
        (Role::Peer, 64501, false),
        (Role::Peer, 64502, true),
        (Role::Customer, 64502, false),
        (Role::RouteServerClient, 64502, false),
    ];
    for (role, otc, leak) in cases {
        let mut bench = established(external(role, false), external_open(&[]), Context::default());
        let seen = bench.hear_bytes(&marked(otc));
        assert_eq!(matches!(&seen[..], [Seen::Other(Event::RouteLeak(_))]), leak, "{role:?} {otc}");
        assert!(bench.hear_bytes(&marked(otc)).is_empty(), "told once");
        assert_eq!(bench.session.status().counters.leaks, if leak { 2 } else { 0 });
    }
}

#[test]
fn an_external_peer_is_told_nothing_unless_the_operator_says_so() {
    for (export, told) in [(Export::Nothing, 0), (Export::Private, 1)] {
        let settings = Settings { export, ..external(Role::Customer, false) };
        let mut bench = established(settings, external_open(&[]), Context { external: true, ..Context::default() });
        assert_eq!(bench.handle(Input::Routes(routes(&[PRIVATE]))).len(), told);
        assert_eq!(bench.session.status().advertised.len(), told);
    }
}

#[test]
fn the_operators_last_word_goes_out_and_the_peers_is_kept() {
    let mut bench = Bench::established();
    let shutdown = ErrorCode::ADMINISTRATIVE_SHUTDOWN;
    let seen = bench.handle(Input::Stop("back at noon"));
    assert_eq!(seen[0], Seen::Notification(shutdown, b"\x0cback at noon".into()));
    let mut bench = Bench::established();
    bench.hear(Message::Notification(Notification::with_communication(shutdown, "new line card")));
    let told = bench.session.status().last_down.unwrap().to_string();
    assert_eq!(told, "received 6/2 Administrative Shutdown: \"new line card\"");
}

#[test]
fn an_open_waits_for_the_peers_and_no_longer_than_the_delay() {
    let delayed = || Settings {
        options: Options { delay_open: Some(Duration::from_secs(5)), ..Options::default() },
        ..settings()
    };
    let connected = || {
        let mut bench = Bench::new(delayed());
        assert_eq!(bench.handle(Input::Start), [Seen::Connect]);
        let link = bench.link.unwrap();
        assert_eq!(bench.handle(Input::Connected(link)), []);
        assert_eq!(bench.state(), State::Connect);
        bench
    };
    let mut bench = connected();
    assert_eq!(bench.tick_at(at(4)), []);
    assert_eq!(bench.tick_at(at(5)), [Seen::Open]);
    assert_eq!(bench.state(), State::OpenSent);
    let mut bench = connected();
    assert_eq!(bench.hear(Message::Open(peer_open())), [Seen::Open, Seen::KeepAlive]);
    assert_eq!(bench.state(), State::OpenConfirm);
    // Before our OPEN there is nobody to send a NOTIFICATION.
    assert_eq!(connected().hear(Message::KeepAlive), [Seen::Close, Seen::Failed]);
    let mut bench = connected();
    let link = bench.link.unwrap();
    assert_eq!(bench.handle(Input::Closed(link)), [Seen::Failed]);
    assert_eq!(bench.state(), State::Active);
    // The other way round: the peer connected.
    let mut bench = Bench::new(Settings { passive: true, ..delayed() });
    bench.handle(Input::Start);
    let incoming = bench.session.new_link();
    assert_eq!(bench.handle(Input::Accepted(incoming)), []);
    assert_eq!(bench.state(), State::Active);
}

#[test]
fn a_peer_that_reads_nothing_for_eight_minutes_is_given_up() {
    let mut bench = Bench::established();
    let link = bench.link.unwrap();
    let hear_on = |bench: &mut Bench, now| {
        bench.now = at(now);
        bench.hear(Message::KeepAlive);
        bench.tick_at(at(now))
    };
    bench.handle(Input::Stalled(link));
    for now in (20..=460).step_by(20) {
        hear_on(&mut bench, now);
        bench.handle(Input::Stalled(link));
    }
    bench.handle(Input::Took { link, all: false });
    for now in (480..=920).step_by(20) {
        hear_on(&mut bench, now);
    }
    assert_eq!(bench.state(), State::Established, "it read something at 460 s");
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.tick_at(at(939)).last(), Some(&Seen::KeepAlive));
    bench.hear(Message::KeepAlive);
    assert_eq!(bench.tick_at(at(940)), reset(ErrorCode::SEND_HOLD_TIMER_EXPIRED));
}

#[test]
fn a_socket_that_takes_all_again_stops_the_clock() {
    let mut bench = Bench::established();
    let link = bench.link.unwrap();
    bench.handle(Input::Stalled(link));
    bench.handle(Input::Took { link, all: true });
    for now in (20..=600).step_by(20) {
        bench.now = at(now);
        bench.hear(Message::KeepAlive);
        bench.tick_at(at(now));
    }
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_lost_path_ends_an_established_session_and_no_other() {
    let mut bench = Bench::established();
    assert_eq!(bench.handle(Input::PathLost("BFD: no packet for 150 ms")), reset(ErrorCode::BFD_DOWN));
    assert!(matches!(bench.session.status().last_down, Some(Down::Sent { detail, .. }) if detail.contains("150 ms")));
    let mut bench = Bench::open_confirm();
    assert_eq!(bench.handle(Input::PathLost("")), []);
}

#[test]
fn a_damaged_family_is_no_longer_listened_to_and_the_other_is() {
    let mut bench = Bench::established();
    // MP_UNREACH_NLRI of IPv6 with a prefix of 129 bits.
    let body = [0, 0, 0, 8, 0x80, 15, 5, 0, 2, 1, 129, 0];
    let frame = [&[0xff; 16], &[0, 31, 2][..], &body].concat();
    let seen = bench.hear_bytes(&frame);
    assert_eq!(seen.last(), Some(&Seen::Other(Event::FamilyDisabled(Family::Ipv6))));
    assert_eq!(bench.state(), State::Established);
    let gone_v6 = bgp_wire::withdraw_v6(["2001:db8::/32".parse().unwrap()], Context::default()).remove(0);
    let gone_v4 = bgp_wire::withdraw_v4(["192.0.2.0/24".parse().unwrap()], Context::default()).remove(0);
    bench.hear(Message::Update(gone_v6));
    bench.hear(Message::Update(gone_v4));
    assert_eq!(bench.session.status().counters.prefixes_withdrawn, 1);
}

fn importing() -> Settings {
    Settings { options: Options { import: true, ..Options::default() }, ..settings() }
}

/// An UPDATE in wire form: `attributes` and `nlri` as they are.
fn update(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
    let total = length(23 + attributes.len() + nlri.len());
    [&[0xff; 16][..], &total, &[2, 0, 0], &length(attributes.len()), attributes, nlri].concat()
}

#[test]
fn what_the_peer_says_of_routes_is_handed_out_as_it_counts_and_only_where_it_is_wanted() {
    let good = [0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1];
    let bad_origin = [0x40, 1, 1, 9, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1];
    let net = [24, 198, 51, 100];
    let mut bench = established(settings(), peer_open(), Context::default());
    assert_eq!(bench.hear_bytes(&update(&good, &net)), []);

    let mut bench = established(importing(), with([Capability::EnhancedRouteRefresh]), Context::default());
    let heard = |seen: Vec<Seen>| match &seen[..] {
        [Seen::Heard(Heard::Update(update))] | [Seen::Other(_), Seen::Heard(Heard::Update(update))] => {
            let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
            gone.chain(update.reachable().map(|prefix| format!("+{prefix}"))).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(heard(bench.hear_bytes(&update(&good, &net))), "+198.51.100.0/24");
    assert_eq!(heard(bench.hear_bytes(&update(&bad_origin, &net))), "-198.51.100.0/24", "RFC 7606: withdrawn");
    // IPv6 announced with an IPv4 address for next hop: the family goes, the rest of the UPDATE counts.
    let bad_reach = [&good[..], &[0x80, 14, 13, 0, 2, 1, 4, 192, 0, 2, 1, 0, 32, 0x20, 1, 0xd]].concat();
    let seen = bench.hear_bytes(&update(&bad_reach, &net));
    assert!(seen.contains(&Seen::Other(Event::FamilyDisabled(Family::Ipv6))), "{seen:?}");
    let v6 = [&good[..7], &[0x80, 14, 26, 0, 2, 1, 16], &[0x20; 16], &[0, 32, 0x20, 1, 0xd, 0xb8]].concat();
    assert_eq!(heard(bench.hear_bytes(&update(&v6, &[]))), "", "a family that is disabled is taken out");

    assert_eq!(bench.hear_bytes(&update(&[], &[])), [Seen::Heard(Heard::EndOfRib(Family::Ipv4))]);
    let mark = |subtype| Message::RouteRefresh(RouteRefresh { afi: 2, subtype, safi: 1 });
    assert_eq!(bench.hear(mark(RouteRefresh::BEGIN)), [Seen::Heard(Heard::RefreshBegins(Family::Ipv6))]);
    assert_eq!(bench.hear(mark(RouteRefresh::END)), [Seen::Heard(Heard::RefreshEnds(Family::Ipv6))]);
}

/// Look-ups wait for it where no End-of-RIB comes.
#[test]
fn a_peer_that_marks_no_end_has_told_all_when_a_keepalive_comes_behind_five_quiet_seconds() {
    let settled = Family::ALL.map(|family| Seen::Heard(Heard::Settled(family)));
    let route = || {
        let attributes =
            Attributes { origin: Some(Origin::Igp), as_path: Some(AsPath::default()), ..Attributes::default() };
        let prefixes = ["198.51.100.0/24".parse().unwrap()];
        Message::Update(
            announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, Context::default()).unwrap().remove(0),
        )
    };
    let hear = |bench: &mut Bench, at_s: u64, message: Message| {
        bench.now = at(at_s);
        let seen = bench.hear(message);
        seen.into_iter().filter(|seen| matches!(seen, Seen::Heard(Heard::Settled(_)))).collect::<Vec<_>>()
    };
    let mut bench = established(importing(), peer_open(), Context::default());
    // Nothing was told yet: there may be much to come.
    assert_eq!(hear(&mut bench, 10, Message::KeepAlive), []);
    assert_eq!(hear(&mut bench, 20, route()), []);
    assert_eq!(hear(&mut bench, 24, Message::KeepAlive), [], "it may be between two messages");
    assert_eq!(hear(&mut bench, 25, Message::KeepAlive), settled);
    // Once in a session is enough.
    assert_eq!(hear(&mut bench, 26, route()), []);
    assert_eq!(hear(&mut bench, 40, Message::KeepAlive), []);
    // What was not listened to is told from the start.
    let mut deaf = importing();
    deaf.options.import = false;
    let mut bench = established(deaf, peer_open(), Context::default());
    assert_eq!([hear(&mut bench, 1, route()), hear(&mut bench, 10, Message::KeepAlive)], [[], []]);
    bench.session.configure(importing(), at(10));
    bench.drain();
    assert_eq!([hear(&mut bench, 20, Message::KeepAlive), hear(&mut bench, 21, route())], [[], []]);
    assert_eq!(hear(&mut bench, 30, Message::KeepAlive), settled);
    // Where both offer graceful restart the end is marked.
    let helper = Helper { restart: Duration::from_secs(60), long_lived: Duration::ZERO };
    let helping = Settings { options: Options { helper: Some(helper), ..importing().options }, ..importing() };
    let graceful = || with([Capability::GracefulRestart(GracefulRestart::default())]);
    for (settings, open, marks) in
        [(helping.clone(), graceful(), true), (helping, peer_open(), false), (importing(), graceful(), false)]
    {
        let mut bench = established(settings, open, Context::default());
        hear(&mut bench, 1, route());
        assert_eq!(hear(&mut bench, 20, Message::KeepAlive).is_empty(), marks);
    }
}
