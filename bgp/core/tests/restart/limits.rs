//! How many routes a peer may tell (RFC 4486), and what ends with it.

use std::time::Duration;

use bgp_core::{Event, Input, MaxPrefix, Options, Settings, State};
use bgp_wire::{ErrorCode, Family};

use crate::bench::{Seen, at, settings};
use crate::established;
use crate::theirs::{helping, restarting};

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
