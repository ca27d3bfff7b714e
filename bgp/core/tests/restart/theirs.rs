//! What we keep of a peer's while it is gone (RFC 4724, RFC 8538, RFC 9494).

use std::time::Duration;

use bgp_core::{Down, Event, Heard, Helper, Input, Options, Settings, State};
use bgp_wire::{Capability, Context, ErrorCode, Family, GracefulRestart, LongLived, Message, Notification};
use cloakway_types::Instant;
use proptest::prelude::*;

use crate::bench::{Bench, Seen, at, encode, settings};
use crate::{aware, established, open_with};

pub(crate) fn helping(long_lived: u64) -> Settings {
    let helper = Helper { restart: Duration::from_secs(100), long_lived: Duration::from_secs(long_lived) };
    Settings { options: Options { import: true, helper: Some(helper), ..Options::default() }, ..settings() }
}

pub(crate) fn restarting(forwarding: bool, notification: bool, long_lived: bool) -> Vec<Capability> {
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
