//! Several links to one private prefix: one takes over from the other, or all are used at once, and the prefix is healthy
//! while one of them is (A1, A2, A3).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::sync::atomic::Ordering;
use std::time::Instant;

use lab::{FAR4, FAR6, Forwarder, Lab, Plane, SUB4, eventually, possible};
use nix::sys::signal::Signal;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp]
    the_next_link_takes_over_and_nothing_is_withdrawn_until_the_last_is_gone,
    with_the_process_dead_the_next_link_takes_over_all_the_same,
    a_spread_uses_all_links_and_leaves_the_one_that_fails,
}

const SPARE: &str = "[[links]]\nname = \"spare\"\ninterface = \"priv1\"\n";

/// Two links, and every way by both is healthy.
fn with_two_links(lab: &Lab, change: impl Fn(String) -> String) -> Forwarder {
    lab.second_link();
    let text = lab.text(SPARE).replace("link = \"main\"", "links = [\"main\", \"spare\"]");
    lab.write(&change(text));
    let forwarder = lab.start();
    all_ways(lab, |row| row["healthy"] == true);
    forwarder
}

fn all_ways(lab: &Lab, good: impl Fn(&serde_json::Value) -> bool) {
    eventually("all ways are as they should be", || {
        let shown = lab.ask(&["show", "ways", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        rows.as_array()?.iter().all(&good).then_some(())
    });
}

fn used(lab: &Lab, prefix: &str) -> String {
    let shown = lab.ask(&["show", "ways", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let its = |row: &&serde_json::Value| row["prefix"].as_str().unwrap().starts_with(prefix) && row["use"] == "used";
    let names: Vec<&str> =
        rows.as_array().unwrap().iter().filter(its).map(|row| row["link"].as_str().unwrap()).collect();
    names.join(" ")
}

/// What a link that was set down at the far end has forgotten there.
fn mend(lab: &Lab, link: &str) {
    lab.ip("far", &format!("link set {link} up"));
    let (hop4, hop6, own6, metric) = match link {
        "priv0" => ("192.0.2.249", "2001:db8:0:ff::1", "2001:db8:0:ff::2", 0),
        _ => ("192.0.2.245", "2001:db8:0:fe::1", "2001:db8:0:fe::2", 2000),
    };
    lab.ip("far", &format!("addr replace 2001:db8:c10a::200/128 dev {link} nodad"));
    lab.ip("far", &format!("addr replace {own6}/64 dev {link} nodad"));
    lab.ip("far", &format!("route replace default via {hop4} src {FAR4} metric {metric}"));
    lab.ip("far", &format!("route replace default via {hop6} src {FAR6} metric {}", metric.max(1024)));
}

fn the_next_link_takes_over_and_nothing_is_withdrawn_until_the_last_is_gone(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let leaked = lab.capture("net");
    let forwarder = with_two_links(&lab, |text| text);
    assert_eq!((used(&lab, FAR4), used(&lab, FAR6)), ("main".to_owned(), "main".to_owned()));
    // What was said before all was well.
    forwarder.health.words();
    let mut said = Vec::new();
    let streams = lab.streams();
    streams.more_answers(20);
    for round in 0..2 {
        let (cut, before) = (Instant::now(), said.len());
        lab.ip("far", "link set priv0 down");
        eventually("the other link's word", || {
            said.extend(forwarder.health.words());
            let words = said[before..].iter().filter(|(prefix, _, _)| prefix.starts_with(FAR4));
            let mut reasons = words.map(|(_, _, reason)| reason);
            reasons.any(|word| word.contains("priv1 is up") && word.ends_with("link priv0 is down")).then_some(())
        });
        let at = Instant::now();
        streams.more_answers(20);
        eprintln!("{plane:?} {round}: said after {:?}, answers again after {:?}", at - cut, cut.elapsed());
        assert_eq!(used(&lab, FAR4), "spare");
        mend(&lab, "priv0");
        all_ways(&lab, |row| row["healthy"] == true);
        eventually("the first link is used again", || {
            lab.exec("isp", &["ip", "route", "get", FAR4]).contains("priv0").then_some(())
        });
        streams.more_answers(20);
    }
    // Alive and silent: of IPv4 alone.
    let silence = |value: u8| format!("net.ipv4.conf.priv0.arp_ignore={value}");
    lab.exec("far", &["sysctl", "-q", "-w", &silence(8)]);
    eventually("the silent link rests", || (used(&lab, FAR4) == "spare").then_some(()));
    assert_eq!(used(&lab, FAR6), "main");
    streams.more_answers(20);
    lab.exec("far", &["sysctl", "-q", "-w", &silence(0)]);
    all_ways(&lab, |row| row["healthy"] == true);
    said.extend(forwarder.health.words());
    let bad: Vec<_> = said.iter().filter(|(_, healthy, _)| !healthy).collect();
    assert!(bad.is_empty(), "withdrawn while a link was good: {bad:?}");

    lab.ip("far", "link set priv0 down");
    lab.ip("far", "link set priv1 down");
    let (_, reason) = forwarder.health.wait(FAR4, false);
    assert!(reason.contains("link priv0 is down; link priv1 is down"), "{reason}");
    streams.more_sent(50);
    mend(&lab, "priv1");
    forwarder.health.wait(FAR4, true);
    streams.more_answers(20);
    streams.end();
    assert_eq!((lab.leaked(), leaked.load(Ordering::Relaxed)), (0, 0), "packets followed the default route");
}

fn with_the_process_dead_the_next_link_takes_over_all_the_same(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let mut forwarder = with_two_links(&lab, |text| text);
    let streams = lab.streams();
    streams.more_answers(20);
    forwarder.signal(Signal::SIGKILL);
    forwarder.wait();
    lab.ip("far", "link set priv0 down");
    streams.more_answers(20);
    lab.ip("isp", "link set priv1 down");
    streams.more_sent(50);
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
}

fn a_spread_uses_all_links_and_leaves_the_one_that_fails(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let hops = "next-hops = { main = \"2001:db8:0:ff::2\", spare = \"2001:db8:0:fe::2\" }\nspread = \"hash\"\n";
    let _forwarder = with_two_links(&lab, |text| {
        let text = text.replace("203.0.113.200/32\"\n", "203.0.113.200/32\"\nspread = \"hash\"\n");
        text.replace("2001:db8:c10a::200/128\"\n", &format!("2001:db8:c10a::200/128\"\n{hops}"))
    });
    assert_eq!((used(&lab, FAR4), used(&lab, FAR6)), ("main spare".to_owned(), "main spare".to_owned()));
    for last in 71..=99 {
        lab.ip("sub", &format!("addr add 198.51.100.{last}/26 dev eth0"));
        lab.ip("sub", &format!("addr add 2001:db8:5100:64::{last}/64 dev eth0 nodad"));
    }
    let received = |link: &str| -> u64 {
        lab.exec("far", &["cat", &format!("/sys/class/net/{link}/statistics/rx_packets")]).trim().parse().unwrap()
    };
    let send = |port: u16| {
        for last in 71..=99 {
            lab.send("sub", &format!("198.51.100.{last}"), FAR4, port, 10);
            lab.send("sub", &format!("2001:db8:5100:64::{last}"), FAR6, port, 10);
        }
        eventually("all of them arrive", || (lab.seen("far", port) == 2 * 29 * 10).then_some(()));
    };
    let before = (received("priv0"), received("priv1"));
    send(7010);
    let (first, second) = (received("priv0") - before.0, received("priv1") - before.1);
    assert!(first > 50 && second > 50, "{first} and {second}");
    let streams = lab.streams();
    streams.more_answers(20);
    lab.ip("far", "link set priv0 down");
    eventually("the other link carries all", || {
        (used(&lab, FAR4) == "spare" && used(&lab, FAR6) == "spare").then_some(())
    });
    eventually("the routes are changed", || {
        let routes =
            lab.exec("isp", &["ip", "route", "show", FAR4]) + &lab.exec("isp", &["ip", "-6", "route", "show", FAR6]);
        (!routes.contains("priv0")).then_some(())
    });
    send(7011);
    streams.more_answers(20);
    streams.end();
    assert_eq!(lab.leaked() + lab.seen("net", 7010) + lab.seen("net", 7011), 0);
    let text = lab.ask(&["show", "table"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("main + spare"));
    lab.ping("sub", FAR4);
    assert!(lab.exec("sub", &["ip", "addr"]).contains(SUB4));
}
