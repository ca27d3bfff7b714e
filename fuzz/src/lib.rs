//! Every decoder that meets a stranger's bytes, as a plain function that panics when something does
//! not hold: the binaries in `fuzz_targets` give these functions to libFuzzer, `tests/replay.rs`
//! replays the corpora with them on every run of the tests.
//!
//! What must hold is more than "no panic": what is accepted must mean the same after another encode
//! and decode, however a stream is cut the same messages come out of it, the cloak lets nothing out
//! but what its introduction lists, and no error quotes a card number. A table that is filled by strangers holds, beside
//! a plain one, whatever they say.

#![forbid(unsafe_code)]

mod access;
mod bank;
mod bgp;
mod bytes;
mod cloak;
mod ecash;
mod form;
mod json;
mod kept;
mod kernel;
mod look_up;
mod monitor;
mod mrt;
mod packet;
mod radius;
mod rib;

pub use access::{conntrack_message, dhcp_tap, ipfix_message, lease_file};
pub use bank::{card_range, iso8583_framer, iso8583_message, iso8583_profile};
pub use bgp::{bgp_flow, bgp_framer, bgp_message};
pub use cloak::cloak_frames;
pub use ecash::{ecash_ends, ecash_fields, ecash_frame};
pub use form::transact_form;
pub use json::{forwarder_line, toolbox_verify, transact_json};
pub use kept::{journal_log, tap_frame, toolbox_row, toolbox_stream, toolbox_words};
pub use kernel::{forwarder_netlink, forwarder_ruleset};
pub use look_up::look_up;
pub use monitor::{bmp_station, rtr_client};
pub use mrt::mrt_rib;
pub use packet::{forwarder_frame, forwarder_packet};
pub use radius::{SECRET, radius_packet};
pub use rib::bgp_rib;

/// A name, which is also the name of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("bgp_flow", bgp_flow),
    ("bgp_framer", bgp_framer),
    ("bgp_message", bgp_message),
    ("bgp_rib", bgp_rib),
    ("bmp_station", bmp_station),
    ("card_range", card_range),
    ("cloak_frames", cloak_frames),
    ("conntrack_message", conntrack_message),
    ("dhcp_tap", dhcp_tap),
    ("ecash_ends", ecash_ends),
    ("ecash_fields", ecash_fields),
    ("ecash_frame", ecash_frame),
    ("forwarder_frame", forwarder_frame),
    ("forwarder_line", forwarder_line),
    ("forwarder_netlink", forwarder_netlink),
    ("forwarder_packet", forwarder_packet),
    ("forwarder_ruleset", forwarder_ruleset),
    ("ipfix_message", ipfix_message),
    ("iso8583_framer", iso8583_framer),
    ("iso8583_message", iso8583_message),
    ("iso8583_profile", iso8583_profile),
    ("journal_log", journal_log),
    ("lease_file", lease_file),
    ("look_up", look_up),
    ("mrt_rib", mrt_rib),
    ("radius_packet", radius_packet),
    ("rtr_client", rtr_client),
    ("tap_frame", tap_frame),
    ("toolbox_row", toolbox_row),
    ("toolbox_stream", toolbox_stream),
    ("toolbox_verify", toolbox_verify),
    ("toolbox_words", toolbox_words),
    ("transact_form", transact_form),
    ("transact_json", transact_json),
];
