//! Live subscriber prefixes by feeds that a test plays: what they tell is served without a packet lost, and what they do not
//! tell any more, or tell wrongly, is not (A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

mod feed;
#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use feed::{Feed, Says};
use lab::{FAR4, Lab, Plane, SUB4, eventually, possible};
use nix::sys::signal::Signal;
use serde_json::Value;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    what_feeds_tell_changes_without_a_packet_lost,
    a_lost_feed_is_held_and_then_nobody_but_the_configured_is_served,
    a_restart_without_the_feed_goes_on_with_what_the_guard_has,
}

const BOTH: [&str; 2] = ["198.51.100.64/26", "2001:db8:5100:64::/64"];

/// A configuration without prefixes of its own, fed by `feed`; `more` are lines of the feed.
fn text(lab: &Lab, feed: &Feed, more: &str) -> String {
    let text = lab.text("");
    let (before, rest) = text.split_once("prefixes = [").unwrap();
    let (_, after) = rest.split_once("]\n").unwrap();
    let socket = feed.socket();
    let socket = socket.display();
    format!(
        "{before}prefixes = []\n[[subscribers.live]]\nname = \"test\"\nfrom = \"toolbox\"\nsocket = \"{socket}\"\n\
         within = [\"198.51.100.0/22\", \"2001:db8:5100::/40\", \"203.0.113.0/24\"]\nevery-ms = 200\n{more}\n{after}"
    )
}

fn rows(lab: &Lab, topic: &str) -> Value {
    serde_json::from_slice(&lab.ask(&["show", topic, "--json"]).stdout).unwrap_or_default()
}

/// Waits until the feed stands like this.
fn stands(lab: &Lab, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || Some(rows(lab, "feeds")[0].clone()).filter(|row| fits(row)))
}

fn serves(lab: &Lab, prefixes: &[&str]) {
    let mut wanted: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    wanted.sort();
    eventually(&format!("{prefixes:?} are served"), || {
        let table = rows(lab, "table");
        let all = table.as_array()?.iter().flat_map(|row| row["from_prefixes"].as_array().cloned().unwrap_or_default());
        let mut all: Vec<String> = all.filter_map(|prefix| prefix.as_str().map(str::to_owned)).collect();
        all.sort();
        (all == wanted).then_some(())
    });
}

fn what_feeds_tell_changes_without_a_packet_lost(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let watch = lab.watch();
    let feed = Feed::new(Says::prefixes(&BOTH));
    lab.write(&text(&lab, &feed, "max-prefixes = 100"));
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    let streams = lab.streams();
    streams.more_answers(20);
    // Each holds the two that send, and little else that the one before had.
    let many: Vec<String> = (0..60).map(|n| format!("198.51.101.{}/32", 2 * n)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["198.51.100.70/32", BOTH[1]]).collect();
    let variants = [
        &["198.51.100.70/32", "2001:db8:5100:64::70/128"][..],
        &["198.51.100.0/24", "2001:db8:5100::/48"],
        &many,
        &["198.51.100.64/27", "198.51.102.0/24", "2001:db8:5100:64::/63"],
        &BOTH,
    ];
    let rounds = if plane == Plane::Kernel { 15 } else { 10 };
    for number in 0..rounds {
        let told = variants[number % variants.len()];
        feed.say(Says::prefixes(told));
        serves(&lab, told);
        assert!(lab.ask(&["guard", "show"]).status.success(), "{told:?}");
        streams.more_sent(10);
    }
    // Without an answer of the process, by what the guard has.
    let text = String::from_utf8(lab.ask(&["show", "subscribers", "--json"]).stdout).unwrap();
    assert!(text.contains("\"from\":\"test\"") && text.contains("198.51.100.64/26"), "{text}");
    if plane == Plane::User {
        // Its packets pass a process; where it is late, a raw socket's queue may be full.
        streams.more_answers(20);
        streams.end();
    } else {
        for (sent, answered) in streams.end() {
            assert_eq!(sent, answered, "after {rounds} changes");
        }
    }
    // What is not told is not served, whatever else it is: outside, and about the private side.
    let spoofed = lab.dropped("spoofed-source");
    feed.say(Says::prefixes(&["198.51.0.0/16", "203.0.113.0/24", "192.0.2.0/24", BOTH[1]]));
    let row = stands(&lab, "what is left out is told of", |row| row["foreign"] == 2 && row["private"] == 1);
    assert_eq!(row["prefixes"], 1, "{row}");
    serves(&lab, &BOTH[1..]);
    lab.send("sub", SUB4, FAR4, 7005, 10);
    eventually("the subscriber's packets are dropped", || {
        (lab.dropped("spoofed-source") >= spoofed + 10).then_some(())
    });
    let explained = lab.ask(&["explain", "--in", "edge0", "--source", SUB4, "--destination", FAR4]);
    assert_eq!(explained.status.code(), Some(3), "by the live prefixes");
    // IPv4 has nobody to serve.
    forwarder.health.wait(FAR4, false);
    // A busy host may be told first that its guard was not read back for a while.
    eventually("the reason is told", || {
        rows(&lab, "health").to_string().contains("no subscriber prefix of its IP version is known").then_some(())
    });
    assert_eq!(lab.seen("far", 7005), 0);
    watch.clean(&lab);
}

fn a_lost_feed_is_held_and_then_nobody_but_the_configured_is_served(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let watch = lab.watch();
    let feed = Feed::new(Says::prefixes(&BOTH));
    // Long enough for every fault to be seen while they are held.
    let held = text(&lab, &feed, "hold-s = 3600\nmax-prefixes = 5");
    lab.write(&held);
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    let streams = lab.streams();
    streams.more_answers(20);
    let six = ["10.0.0.0/32", "10.0.0.2/32", "10.0.0.4/32", "10.0.0.6/32", "10.0.0.8/32", "10.0.0.10/32"];
    let faults = [
        (Says::Raw("{\"ok\":{\"ready\":false,\"why\":\"no peer is up\"}}\n".into()), "no peer is up"),
        (Says::Raw("{\"error\":\"no such topic\"}\n".into()), "no such topic"),
        (Says::Raw("nonsense".into()), "not understood"),
        (Says::Raw("{\"ok\":{\"ready\":true,\"tag\":\"x\",\"prefixes\":[\"198.51.100.70/24\"]}}".into()), "host bits"),
        (Says::Raw(String::new()), "not understood"),
        (Says::Raw("x".repeat(100_000)), "an answer of more than"),
        (Says::prefixes(&six), "there are 6 prefixes: 5 are the most"),
        (Says::prefixes_anyhow(&six), "6 prefixes are told: at most 5"),
        (Says::Silence, "no answer within 2 s"),
    ];
    for (fault, problem) in faults {
        feed.say(fault);
        let row = stands(&lab, problem, |row| row["problem"].as_str().is_some_and(|said| said.contains(problem)));
        assert_eq!((&row["state"], &row["prefixes"]), (&"held".into(), &2.into()), "{row}");
        feed.say(Says::prefixes(&BOTH));
        let row = stands(&lab, "the feed speaks again", |row| row["state"] == "fed");
        assert_eq!(row["prefixes"], 2);
        streams.more_answers(5);
    }
    // Nobody there, and held for a second alone.
    lab.write(&held.replace("hold-s = 3600", "hold-s = 1"));
    lab.reload().unwrap();
    feed.close();
    stands(&lab, "the feed is lost", |row| row["state"] == "lost" && row["prefixes"] == 0);
    forwarder.health.wait(FAR4, false);
    serves(&lab, &[]);
    let before = lab.dropped("spoofed-source");
    streams.more_sent(20);
    eventually("their packets are dropped", || (lab.dropped("spoofed-source") >= before + 20).then_some(()));
    feed.open(Says::prefixes(&BOTH));
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}

fn a_restart_without_the_feed_goes_on_with_what_the_guard_has(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let feed = Feed::new(Says::prefixes(&BOTH));
    lab.write(&text(&lab, &feed, "hold-s = 3600"));
    let mut forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    feed.close();
    let streams = lab.streams();
    streams.more_answers(20);
    forwarder.signal(Signal::SIGKILL);
    forwarder.wait();
    assert!(lab.ask(&["guard", "show"]).status.success(), "by what the guard has");
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    let row = stands(&lab, "held", |row| row["state"] == "held");
    assert_eq!(row["prefixes"], 2, "{row}");
    streams.more_answers(20);
    let counts = streams.end();
    if plane != Plane::User {
        assert!(counts.iter().all(|(sent, answered)| sent == answered), "lost at the restart: {counts:?}");
    }
    // Another life of the forwarder that may not have them.
    drop(forwarder);
    lab.write(&text(&lab, &feed, "hold-s = 3600").replace("\"198.51.100.0/22\"", "\"198.51.104.0/22\""));
    let _forwarder = lab.start();
    serves(&lab, &BOTH[1..]);
    assert_eq!(lab.leaked(), 0);
}
