//! One table of packets, and some sequences of them, held against every data plane: raw frames in at one end, whatever
//! comes out at any end, and what was counted (A1, A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod ends;
mod lab;
mod packet;
mod pcap;
mod random;
mod sequences;
mod table;
#[path = "../lab/wait.rs"]
mod wait;

use lab::{Lab, Plane, possible};
use table::Player;

macro_rules! on_every_data_plane {
    ($($case:path: $name:ident,)*) => {
        mod kernel { $(#[test] fn $name() { $case(super::Plane::Kernel); })* }
        mod tcx { $(#[test] fn $name() { $case(super::Plane::Tcx); })* }
        mod xdp { $(#[test] fn $name() { $case(super::Plane::Xdp); })* }
        mod user { $(#[test] fn $name() { $case(super::Plane::User); })* }
    };
}

on_every_data_plane! {
    crate::every_row_of_the_table_is_right: every_row_of_the_table_is_right,
    crate::every_change_is_right: every_change_is_right,
    crate::random::what_the_model_says_is_what_happens: what_the_model_says_is_what_happens,
    crate::sequences::neighbours_are_found_followed_and_missed: neighbours_are_found_followed_and_missed,
    crate::sequences::a_changed_mtu_is_told_at_once: a_changed_mtu_is_told_at_once,
    crate::sequences::errors_are_rationed: errors_are_rationed,
    crate::sequences::a_link_that_is_down_is_a_dead_end: a_link_that_is_down_is_a_dead_end,
    crate::sequences::the_policy_outlives_the_process: the_policy_outlives_the_process,
    crate::sequences::a_trace_says_what_is_dropped_and_leaves_nothing_behind: a_trace_says_what_is_dropped,
}

/// Limits that no row meets change no row.
mod metered {
    const LIMITS: &str = "[limits]\ncount-answers = true\n[limits.per-source]\npackets-per-second = 1000000\n\
                          [limits.per-prefix]\nquota-bytes = 100000000000\nquota-period-s = 600\n";

    #[test]
    fn kernel() {
        super::every_row_is_right_with(super::Plane::Kernel, LIMITS);
    }

    #[test]
    fn tcx() {
        super::every_row_is_right_with(super::Plane::Tcx, LIMITS);
    }

    #[test]
    fn xdp() {
        super::every_row_is_right_with(super::Plane::Xdp, LIMITS);
    }

    #[test]
    fn user() {
        super::every_row_is_right_with(super::Plane::User, LIMITS);
    }
}

/// Nor does a routing table of our own.
mod own_table {
    const ROUTING: &str = "[routing]\ntable = 143\n";

    #[test]
    fn kernel() {
        super::every_row_is_right_with(super::Plane::Kernel, ROUTING);
    }

    #[test]
    fn tcx() {
        super::every_row_is_right_with(super::Plane::Tcx, ROUTING);
    }

    #[test]
    fn xdp() {
        super::every_row_is_right_with(super::Plane::Xdp, ROUTING);
    }

    #[test]
    fn user() {
        super::every_row_is_right_with(super::Plane::User, ROUTING);
    }
}

fn every_row_of_the_table_is_right(plane: Plane) {
    every_row_is_right_with(plane, "");
}

fn every_row_is_right_with(plane: Plane, more: &str) {
    if possible() {
        play(plane, &Lab::with(plane, more), &table::cases());
    }
}

fn every_change_is_right(plane: Plane) {
    if possible() {
        play(plane, &Lab::changing(plane), &table::changes());
    }
}

fn play(plane: Plane, lab: &Lab, cases: &[table::Case]) {
    assert!(cases.len() >= 80, "{} rows", cases.len());
    let started = std::time::Instant::now();
    let mut player = Player::new(lab);
    let wrong: Vec<String> = cases.iter().filter_map(|case| player.play(case).err()).collect();
    let late = player.late();
    eprintln!("{plane:?}: {} packets in {:?}", cases.len(), started.elapsed());
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(late.is_empty(), "came out late, or twice: {late:?}");
    pcap::is_in_order(&lab.folder().join("allowed.pcap"), &player.good);
}
