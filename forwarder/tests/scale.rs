//! A large policy with limits: it becomes healthy, what somebody does to its guard is noticed, and it can be reloaded.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use lab::large::{FIRST_PRIVATE, FIRST_SUBSCRIBER, LIMITS, PRIVATE, SUBSCRIBERS};
use lab::{Lab, Plane, SUB4, eventually, possible};

on_data_planes! {
    [kernel Kernel, tcx Tcx]
    it_becomes_healthy_is_watched_and_reloaded,
}

/// What this takes on a slow and busy machine, without optimisation.
const PATIENCE: Duration = Duration::from_secs(180);

fn private(number: u32) -> String {
    Ipv4Addr::from(FIRST_PRIVATE + number).to_string()
}

/// The private prefixes, with a router that is there.
fn prefixes(numbers: impl Iterator<Item = u32>) -> String {
    numbers.fold(String::new(), |mut text, number| {
        let prefix = private(number);
        let _ = writeln!(
            text,
            "[[private-prefixes]]\nprefix = \"{prefix}/32\"\nlink = \"main\"\nnext-hop = \"192.0.2.250\""
        );
        text
    })
}

fn subscribers(numbers: impl Iterator<Item = u32>) -> String {
    numbers.fold(String::new(), |mut text, number| {
        let _ = write!(text, "\"{}/27\", ", Ipv4Addr::from(FIRST_SUBSCRIBER + number * 32));
        text
    })
}

/// Packets of a subscriber to a private prefix arrive, all of them.
fn passes(lab: &Lab, to: &str, port: u16) {
    lab.send("sub", SUB4, to, port, 50);
    eventually("what is sent arrives", || (lab.seen("far", port) == 50).then_some(()));
}

fn it_becomes_healthy_is_watched_and_reloaded(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.subscribers = subscribers(0..SUBSCRIBERS);
    let running = lab.forwarder(&(prefixes(0..PRIVATE) + LIMITS));
    let last = private(PRIVATE - 1);
    running.health.wait_within(PATIENCE, &last, true);
    passes(&lab, &last, 7005);

    let element = ["nft", "get", "element", "inet", "cloakway", "subscribers4", "{ 100.64.0.0/27 }"];
    for (what, arguments) in [
        ("nothing is left", "flush ruleset"),
        ("a subscriber less", "delete element inet cloakway subscribers4 { 100.64.0.0/27 }"),
        ("a way past the rules", "insert rule inet cloakway forward accept"),
    ] {
        lab.exec("isp", &["nft", arguments]);
        while !running.health.wait_within(PATIENCE, &last, false).1.contains("table inet cloakway") {}
        running.health.wait_within(PATIENCE, &last, true);
        lab.exec("isp", &element);
        let chain = lab.exec("isp", &["nft", "list", "chain", "inet", "cloakway", "forward"]);
        assert!(!chain.contains("\t\taccept"), "{what}: {chain}");
    }
    passes(&lab, &last, 7006);

    // Some of both go, some come.
    lab.subscribers = subscribers(5..SUBSCRIBERS + 5);
    lab.config(&(prefixes(5..PRIVATE + 5) + LIMITS));
    // Without optimisation it takes longer than an answer of the socket may: who waits is told that it goes on.
    let done = lab.ask(&["reload", "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let changed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(changed["changed"], serde_json::json!(["private-prefixes", "subscribers.prefixes"]), "{changed}");
    let new = private(PRIVATE + 4);
    running.health.wait_within(PATIENCE, &new, true);
    passes(&lab, &new, 7007);
    passes(&lab, &last, 7008);
    // Nothing is known of it any more.
    let routes = lab.exec("isp", &["ip", "route", "show", &private(0)]);
    assert_eq!(routes, "");
}
