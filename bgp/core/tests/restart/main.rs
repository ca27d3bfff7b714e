//! Graceful restart, of NOTIFICATIONs and long-lived: what we have peers keep, and what we keep of theirs.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[path = "../bench/mod.rs"]
mod bench;
mod limits;
mod ours;
mod theirs;

use bench::{Bench, peer_open};
use bgp_core::{Input, Settings, State};
use bgp_wire::{Capability, GracefulRestart, Message};

/// What a helper's OPEN has: nothing of its own to restart.
pub(crate) fn aware(notification: bool) -> [Capability; 2] {
    let graceful = GracefulRestart { notification, ..GracefulRestart::default() };
    [Capability::GracefulRestart(graceful), Capability::LongLivedGracefulRestart(vec![])]
}

pub(crate) fn open_with(capabilities: impl IntoIterator<Item = Capability>) -> Message {
    let mut open = peer_open();
    open.capabilities.extend(capabilities);
    Message::Open(open)
}

pub(crate) fn established(
    settings: Settings,
    capabilities: impl IntoIterator<Item = Capability>,
    table: bool,
) -> Bench {
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
