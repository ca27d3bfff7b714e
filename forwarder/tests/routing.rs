//! The kernel's routes in a table of their own: applied, read back, left in place, and fenced whatever is taken away.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use lab::{FAR4, FAR6, Lab, Plane, SUB4, SUB6, eventually, possible};
use nix::sys::signal::Signal;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp]
    whatever_is_taken_away_nothing_follows_the_default_route,
    killed_it_forwards_on_and_whatever_is_taken_away_then_leaks_nothing,
    a_reload_moves_the_routes_to_a_table_and_back_without_a_packet_lost,
}

const ROUTING: &str = "[routing]\ntable = 143\nrule-priority = 700\n";

/// Everything by which packets could find their way.
const DAMAGES: [&str; 6] = [
    "rule del priority 700",
    "-6 rule del priority 700",
    "route flush table 143",
    "-6 route flush table 143",
    "route flush proto 143",
    "-6 route flush table main proto 143",
];

/// Ours in a table, one a line. A table that is not there is no error this way.
fn routes(lab: &Lab, table: &str) -> String {
    let all = lab.exec("isp", &["ip", "-4", "route", "show", "table", "all", "proto", "143"])
        + &lab.exec("isp", &["ip", "-6", "route", "show", "table", "all", "proto", "143"]);
    let is_there = |line: &&str| match line.split_once("table ") {
        Some((_, rest)) => rest.split(' ').next() == Some(table),
        None => table == "main",
    };
    all.lines().filter(is_there).flat_map(|line| [line, "\n"]).collect()
}

fn rules(lab: &Lab) -> usize {
    let both = lab.exec("isp", &["ip", "rule"]) + &lab.exec("isp", &["ip", "-6", "rule"]);
    both.lines().filter(|line| line.starts_with("700:") && line.contains("lookup 143")).count()
}

fn is_whole(lab: &Lab) -> bool {
    let (own, main) = (routes(lab, "143"), routes(lab, "main"));
    let count = |text: &str, what: &str| text.lines().filter(|line| line.contains(what)).count();
    rules(lab) == 2
        && (count(&own, "blackhole"), count(&own, "dev priv0")) == (2, 2)
        && (count(&main, "blackhole"), count(&main, "dev priv0")) == (2, 0)
}

fn whatever_is_taken_away_nothing_follows_the_default_route(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let mut forwarder = lab.healthy(ROUTING);
    assert!(is_whole(&lab), "{}{}", routes(&lab, "143"), routes(&lab, "main"));
    let streams = lab.streams();
    streams.more_answers(100);
    for damage in DAMAGES {
        lab.ip("isp", damage);
        streams.more_sent(50);
        eventually("it is put back", || is_whole(&lab).then_some(()));
        streams.more_answers(50);
    }
    lab.ip("isp", "link set priv0 down");
    streams.more_sent(50);
    assert!(lab.ask(&["guard", "show"]).status.success());
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
    lab.ip("isp", "link set priv0 up");
    streams.more_answers(50);

    forwarder.signal(Signal::SIGTERM);
    forwarder.wait();
    streams.more_sent(50);
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
    assert_eq!((rules(&lab), routes(&lab, "143").contains("dev priv0")), (2, false));
    assert!(lab.ask(&["guard", "show"]).status.success());
    assert!(lab.ask(&["guard", "remove"]).status.success());
    assert_eq!((rules(&lab), routes(&lab, "143"), routes(&lab, "main")), (0, String::new(), String::new()));
}

fn killed_it_forwards_on_and_whatever_is_taken_away_then_leaks_nothing(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let mut forwarder = lab.healthy(ROUTING);
    forwarder.signal(Signal::SIGKILL);
    forwarder.wait();
    let streams = lab.streams();
    streams.more_answers(100);
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    let streams = lab.streams();
    for damage in &DAMAGES[..4] {
        lab.ip("isp", damage);
        streams.more_sent(50);
    }
    lab.ip("isp", "link del priv0");
    streams.more_sent(50);
    // The last fence of the routes, or that of nftables: either alone is enough.
    lab.exec("isp", &["nft", "flush", "ruleset"]);
    streams.more_sent(50);
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
    assert_eq!(lab.ask(&["guard", "show"]).status.code(), Some(3));
}

fn a_reload_moves_the_routes_to_a_table_and_back_without_a_packet_lost(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let _forwarder = lab.healthy("");
    let other = ROUTING.replace("143", "70143").replace("700\n", "701\n");
    for _ in 0..3 {
        // For each change a stream of its own: all that was sent is answered.
        for (routing, table) in [(ROUTING, "143"), (other.as_str(), "70143"), ("", "main")] {
            let streams = lab.streams();
            streams.more_answers(50);
            lab.config(routing);
            lab.reload().unwrap();
            eventually("the routes are there alone", || {
                let real = |table: &str| routes(&lab, table).lines().filter(|line| line.contains("dev priv0")).count();
                let all = ["main", "143", "70143"].map(|name| (name == table, real(name)));
                all.iter().all(|(wanted, found)| *found == if *wanted { 2 } else { 0 }).then_some(())
            });
            streams.more_answers(50);
            for (sent, answered) in streams.end() {
                assert_eq!(sent, answered, "{table}");
            }
        }
    }
    assert_eq!(lab.leaked(), 0);
    assert_eq!(rules(&lab), 0);
    lab.ping("sub", FAR4);
    lab.ping("sub", FAR6);
    lab.send("sub", SUB4, FAR4, 7005, 10);
    lab.send("sub", SUB6, FAR6, 7005, 10);
    eventually("all arrive", || (lab.seen("far", 7005) == 20).then_some(()));
}
