//! Six speakers in five ASes, each with the session of `bgp-core` towards every neighbour, the table of what is injected and
//! the table of what neighbours tell, over virtual days in which everything goes wrong: links that swallow what is sent,
//! connections that break for one end or for both, both ends connecting at once, crashes in the middle of a change
//! (what survives is the journal), machines that sleep and wake long after (the clock has jumped), operators who stop
//! and start sessions, private routes that come and go. Then all is mended but for one speaker, and:
//!
//! - every session stands, and every table holds what its journal and the others' say, and nothing else: what was kept
//!   of a speaker that did not come back (RFC 4724, RFC 9494) is gone as well;
//! - at any time, a private or guarded route leaves no AS that it has come to, always has its
//!   guard, crosses no AS, and is gone everywhere soon after it was taken back, whoever died meanwhile.
//!
//! There is no wall clock to jump: the cores know none, and are handed [`Instant`]s.
//!
//! `SIM_SEED=…` replays one run, `SIM_SEEDS=200` makes many.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::needless_range_loop, reason = "a node is its index, everywhere")]
#![cfg(test)]

mod node;
mod world;

use std::time::Duration;

use cloakway_sim::seeds;

use node::{ASNS, LINKS, guarded_prefix, kept_prefix, open_prefix, private_prefix};
use world::World;

const TROUBLE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Longer than whatever is kept of whoever is gone, and than any wait.
const HEALING: Duration = Duration::from_secs(3 * 3600);

/// What happened, over all seeds: a simulation in which it did not happen shows nothing.
#[derive(Debug, Default)]
struct Seen {
    sessions: u64,
    collisions: u64,
    expired: u64,
    kept: u64,
    crossings: u64,
    lost_changes: u64,
}

#[test]
fn speakers_converge_keep_nothing_stale_and_pass_no_guarded_route_on() {
    let mut seen = Seen::default();
    for seed in seeds(4) {
        let mut world = World::new(seed);
        world.run(TROUBLE);
        let gone = world.heal();
        world.run(TROUBLE + HEALING);
        for (link, (a, b)) in LINKS.iter().enumerate() {
            if *a != gone && *b != gone {
                world.assert_established(link);
            }
        }
        for node in (0..ASNS.len()).filter(|node| *node != gone) {
            for origin in (0..ASNS.len()).filter(|origin| *origin != node) {
                let about = format!("SIM_SEED={seed}: node {node}, of {origin}, without {gone}");
                let (alive, near) = (origin != gone, world::is_near(node, origin, gone));
                let wants = |prefix| world.nodes[origin].wants(prefix);
                world.assert_held(node, open_prefix(origin), alive && wants(open_prefix(origin)), &about);
                world.assert_held(node, kept_prefix(origin), alive && wants(kept_prefix(origin)), &about);
                world.assert_held(node, guarded_prefix(origin), alive && near && wants(guarded_prefix(origin)), &about);
                let announced = world.nodes[origin].announces_private();
                world.assert_held(node, private_prefix(origin), alive && near && announced, &about);
            }
        }
        world.add_to(&mut seen);
    }
    let all_happened = seen.sessions > 300
        && seen.collisions > 20
        && seen.expired > 20
        && seen.kept > 20
        && seen.crossings > 1000
        && seen.lost_changes > 0;
    assert!(all_happened || std::env::var_os("SIM_SEED").is_some(), "this shows nothing: {seen:?}");
}
