//! A running forwarder goes over to another configuration: nothing that both allow is lost, nothing passes by, and what
//! is refused changes nothing (A1, A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use lab::{FAR4, FAR6, Lab, Plane, SUB4, eventually, possible};
use nix::sys::signal::Signal;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp]
    under_hundreds_of_changes_no_packet_of_an_allowed_flow_is_lost,
    a_prefix_moves_to_another_link_without_a_packet_lost,
    what_is_refused_changes_nothing_and_says_why,
}

/// Both prefixes are healthy.
fn healthy(lab: &Lab) -> lab::Forwarder {
    let forwarder = lab.forwarder("");
    forwarder.health.wait(FAR4, true);
    eventually("IPv6 is healthy too", || {
        let shown = lab.ask(&["show", "health", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        rows.as_array()?.iter().all(|row| row["healthy"] == true).then_some(())
    });
    forwarder
}

/// `RELOADS=n` for more or fewer; the thousand is `RELOADS=1000`.
fn reloads(plane: Plane) -> usize {
    let default = if plane == Plane::Kernel { 240 } else { 48 };
    std::env::var("RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Policies that all allow the streams, and have little else in common.
fn variants(base: &str) -> Vec<String> {
    let limited = "[[private-prefixes]]\nprefix = \"203.0.113.202/32\"\nlink = \"main\"\n\
                   services = [\"tcp/443\", \"udp/5000-5100\", \"icmp\"]\n";
    let link = "link = \"main\"\n";
    let changed = |from: &str, to: &str| {
        assert!(base.contains(from), "{from} is not in {base}");
        base.replace(from, to)
    };
    vec![
        format!("{base}{limited}"),
        changed("\"198.51.100.64/26\"", "\"198.51.100.64/27\", \"198.51.100.96/27\", \"198.51.100.128/25\""),
        changed(link, "link = \"main\"\nservices = [\"udp/7000-7010\", \"icmp\"]\n"),
        changed(link, "link = \"main\"\nservices = [\"udp\", \"tcp/443\"]\n"),
        changed("203.0.113.200/32\"\n", "203.0.113.192/28\"\nprobe = \"203.0.113.200\"\n"),
        changed("\"main\"", "\"another-name\""),
        changed("interfaces = [\"edge0\"]", "interfaces = [\"edge0\", \"edge1\"]"),
        changed("probe-interval-ms = 500", "probe-interval-ms = 400"),
        changed("fall = 2", "fall = 3"),
        base.to_owned(),
    ]
}

fn under_hundreds_of_changes_no_packet_of_an_allowed_flow_is_lost(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let watch = lab.watch();
    let _forwarder = healthy(&lab);
    let base = lab.text("");
    let variants = variants(&base);
    let before = lab.counter("to-private");
    let streams = lab.streams();
    streams.more_answers(20);
    let (rounds, swaps) = (reloads(plane), lab.generation());
    for number in 0..rounds {
        let variant = number % variants.len();
        lab.write(&variants[variant]);
        assert_eq!(lab.reload().err(), None, "variant {variant}");
        if number < variants.len() {
            let guard = lab.ask(&["guard", "show"]);
            assert!(guard.status.success(), "variant {variant}: {}", String::from_utf8_lossy(&guard.stdout));
        }
    }
    let swaps = lab.generation() - swaps;
    // The fast path goes and comes back, too.
    for text in [base.replace("mode = \"bpf\"", "mode = \"kernel\""), base] {
        lab.write(&text);
        lab.reload().unwrap();
        streams.more_answers(20);
    }
    let counts = streams.end();
    eprintln!("{plane:?}: {rounds} changes, {swaps} programs, sent and answered {counts:?}");
    for (sent, answered) in counts {
        assert_eq!(sent, answered, "after {rounds} changes");
    }
    watch.clean(&lab);
    // Counted on all the time, and nothing twice.
    let sent: u64 = counts.iter().map(|(sent, _)| sent).sum();
    assert_eq!(lab.seen("far", 7000) + lab.seen("far", 7001), sent);
    if plane == Plane::Kernel {
        assert_eq!(lab.counter("to-private") - before, sent);
    } else {
        assert!(swaps > u64::try_from(rounds / 2).unwrap(), "hardly a program was changed");
    }
}

fn a_prefix_moves_to_another_link_without_a_packet_lost(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    lab.second_link();
    let watch = lab.watch();
    let _sinks = lab.sinks();
    let _forwarder = healthy(&lab);
    let first = lab.text("");
    let second = first.replace("interface = \"priv0\"", "interface = \"priv1\"");
    let narrow = second.replace("203.0.113.200/32\"\n", "203.0.113.192/27\"\nprobe = \"203.0.113.200\"\n");
    // What is sent before the far end's link-layer address is known waits in the kernel, in a queue that is short.
    for link in ["priv0", "priv1"] {
        let mac = lab.exec("far", &["cat", &format!("/sys/class/net/{link}/address")]);
        for address in [FAR4, FAR6] {
            lab.ip("isp", &format!("neigh replace {address} lladdr {} dev {link} nud reachable", mac.trim()));
        }
    }
    let streams = lab.streams();
    streams.more_sent(20);
    let moves = if plane == Plane::Kernel { 20 } else { 9 };
    for number in 0..moves {
        lab.write([&second, &narrow, &first][number % 3]);
        lab.reload().unwrap();
        let link = if number % 3 == 2 { "priv0" } else { "priv1" };
        assert!(lab.exec("isp", &["ip", "route", "get", FAR4]).contains(link));
        streams.more_sent(20);
    }
    let counts = streams.end();
    for ((sent, _), port) in counts.into_iter().zip(7000..) {
        assert_eq!(lab.seen("far", port), sent, "port {port} after {moves} moves");
    }
    watch.clean(&lab);
    assert!(lab.ask(&["guard", "show"]).status.success());
    let blackholes = lab.exec("isp", &["ip", "route", "show", "proto", "143", "type", "blackhole"]);
    assert_eq!(blackholes.lines().count(), 1, "{blackholes}");
}

fn what_is_refused_changes_nothing_and_says_why(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let mut forwarder = healthy(&lab);
    let base = lab.text("");
    let table = || String::from_utf8(lab.ask(&["show", "table", "--json"]).stdout).unwrap();
    let before = table();
    for (text, word) in [
        (
            base.replacen("link = \"main\"", "link = \"mian\"", 1),
            "private-prefixes[0].link: no link is called \"mian\"",
        ),
        (base.replace("203.0.113.200/32", "198.51.100.70/32"), "overlaps subscriber prefix 198.51.100.64/26"),
        (base.replace("[subscribers]", "[subscribers"), "forwarder.toml:"),
        (format!("stray = 1\n{base}"), "unknown field `stray`"),
        (base.replace("forwarder-health.sock", "other.sock"), "health-socket: takes a restart to change"),
        (format!("metrics-listen = \"127.0.0.1:0\"\n{base}"), "metrics-listen: takes a restart to change"),
    ] {
        lab.write(&text);
        let refusal = lab.reload().unwrap_err();
        assert!(refusal.contains(word), "{refusal}");
    }
    assert_eq!(table(), before);
    lab.ping("sub", FAR4);

    // By signal too; what is new is said to who reads health, and what is gone is said once.
    lab.write(&base.replace("203.0.113.200/32", "203.0.113.201/32"));
    forwarder.signal(Signal::SIGHUP);
    let (_, reason) = forwarder.health.wait(FAR4, false);
    assert_eq!(reason, "no private prefix any more");
    forwarder.health.wait("203.0.113.201", false);
    let routes = lab.exec("isp", &["ip", "route", "show", "proto", "143"]);
    assert!(!routes.contains(FAR4) && routes.contains("203.0.113.201"), "{routes}");
    lab.write(&base);
    lab.ask(&["reload"]);
    forwarder.health.wait(FAR4, true);
    lab.send("sub", SUB4, FAR4, 7005, 10);
    eventually("packets pass again", || (lab.seen("far", 7005) == 10).then_some(()));
}
