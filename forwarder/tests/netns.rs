//! The forwarder in namespaces, with real packets: what passes, what is dropped and counted, and that
//! nothing ever follows the default route (A1, A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::io::Write as _;
use std::time::Instant;

use lab::{FAR4, FAR6, Lab, NET4, NET6, Plane, SUB4, SUB6, eventually, possible};
use nix::sys::signal::Signal;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp]
    good_packets_pass_both_ways_and_bystanders_are_untouched,
    everything_else_is_dropped_and_counted_by_its_reason,
    source_routes_are_dropped_even_where_the_kernel_takes_them,
    of_a_prefix_with_services_nothing_else_passes_and_no_fragment,
    a_lost_link_is_said_at_once_and_leaks_nothing,
    kill_9_and_a_restart_lose_no_packet_and_a_flushed_ruleset_is_put_back,
    with_the_process_dead_a_lost_link_leaks_nothing_and_sigterm_leaves_the_guard,
    a_silent_far_end_is_noticed_and_only_its_prefix_falls,
    a_better_route_of_somebody_else_and_a_renamed_link_are_fenced,
}

fn healthy(lab: &Lab, extra: &str) -> lab::Forwarder {
    lab.healthy(extra)
}

fn good_packets_pass_both_ways_and_bystanders_are_untouched(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let forwarder = healthy(&lab, "");
    let streams = lab.streams();
    streams.more_answers(200);
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    assert_eq!(lab.leaked(), 0);
    let forwarded = lab.counter("to-private");
    assert_eq!(forwarded, lab.counter("from-private"));
    assert_eq!(forwarded, lab.seen("far", 7000) + lab.seen("far", 7001));
    let planes = lab.ask(&["show", "data-plane", "--json"]);
    let planes: serde_json::Value = serde_json::from_slice(&planes.stdout).unwrap();
    let used = |name: &str| planes.as_array().unwrap().iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    match plane {
        Plane::Kernel | Plane::User => assert_eq!(used("data_plane"), ["kernel", "kernel"]),
        Plane::Tcx | Plane::Xdp => {
            assert_eq!(used("hook"), [if plane == Plane::Tcx { "tcx" } else { "xdp" }; 2], "{planes}");
            let fast = lab.fast_path("to-private") + lab.fast_path("from-private");
            assert!(fast * 10 > forwarded * 2 * 9, "{fast} of {forwarded} twice took the fast path");
        }
    }
    lab.send("sub", SUB4, NET4, 7002, 50);
    lab.send("sub", SUB6, NET6, 7002, 50);
    lab.send("net", NET4, SUB4, 7003, 50);
    eventually("bystanders arrive", || (lab.seen("net", 7002) == 100 && lab.seen("sub", 7003) == 50).then_some(()));
    assert_eq!(lab.counter("to-private"), forwarded);

    // The text in the kernel is the text that we render: a restart adopts it.
    let guard = lab.ask(&["guard", "show"]);
    assert!(guard.status.success(), "{}", String::from_utf8_lossy(&guard.stdout));
    assert!(!lab.ask(&["guard", "remove"]).status.success(), "the guard of a running forwarder stays");
    let silence = forwarder.health.longest_silence(10);
    assert!(silence.as_millis() < 1000, "{silence:?} without a line");
    for topic in ["table", "links", "health", "counters"] {
        let shown = lab.ask(&["show", topic, "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert!(!rows.as_array().unwrap().is_empty(), "{topic}");
    }
}

fn everything_else_is_dropped_and_counted_by_its_reason(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let second = "[[private-prefixes]]\nprefix = \"203.0.113.201/32\"\nlink = \"main\"\n";
    let _forwarder = healthy(&lab, second);
    // Addresses to forge with.
    for (ns, address) in [
        ("sub", "203.0.113.10/32"),
        ("sub", "2001:db8:a000::10/128"),
        ("sub", "2001:db8:0:1::2/128"),
        ("net", "203.0.113.200/32"),
        ("net", "198.51.100.71/32"),
        ("far", "2001:db8:5100:64::99/128"),
        ("far", "198.51.100.99/32"),
    ] {
        lab.ip(ns, &format!("addr add {address} dev lo"));
    }
    let cases = [
        ("spoofed-source", "sub", "203.0.113.10", FAR4),
        ("spoofed-source", "sub", "2001:db8:a000::10", FAR6),
        ("own-source", "sub", "2001:db8:0:1::2", FAR6),
        ("not-private", "sub", SUB4, "192.0.2.250"),
        ("not-private", "sub", SUB6, "2001:db8:0:ff::2"),
        ("to-private-by-public", "net", NET6, FAR6),
        ("to-private-by-public", "net", "198.51.100.71", "203.0.113.201"),
        ("forged-private", "net", FAR4, SUB4),
        ("forged-private", "net", FAR4, "192.0.2.2"),
        ("from-private-other", "far", FAR4, NET4),
        ("from-private-other", "far", FAR6, NET6),
        ("from-private-foreign-source", "far", "2001:db8:5100:64::99", SUB6),
        ("from-private-foreign-source", "far", "2001:db8:0:ff::2", NET6),
        ("hairpin", "far", FAR4, "203.0.113.201"),
        ("to-host-from-private", "far", FAR4, "192.0.2.249"),
        ("to-host-from-private", "far", FAR4, "198.51.100.65"),
        ("to-host-from-private", "far", FAR6, "2001:db8:0:ff::1"),
        ("host-output", "isp", "192.0.2.249", FAR4),
        ("host-output", "isp", "2001:db8:0:ff::1", FAR6),
        ("host-output", "isp", "192.0.2.249", "192.0.2.250"),
    ];
    for ((reason, ns, from, to), port) in cases.into_iter().zip(7000..) {
        let before = lab.counter(reason);
        lab.send(ns, from, to, port, 20);
        lab.counted(reason, before, 20);
        for other in ["sub", "far", "net"] {
            assert_eq!(lab.seen(other, port), 0, "{reason}: {from} > {to} arrived in {other}");
        }
    }
    // A subscriber's address from the private side: before the kernel's own test of sources sees it.
    let before = lab.counter("from-private-foreign-source");
    lab.send("far", "198.51.100.99", SUB4, 7031, 20);
    lab.counted("from-private-foreign-source", before, 20);
    assert_eq!(lab.seen("sub", 7031), 0);
    assert_eq!(lab.counter("wrong-interface"), 0);
}

fn source_routes_are_dropped_even_where_the_kernel_takes_them(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let forwarder = healthy(&lab, "");
    for interface in ["all", "edge0"] {
        lab.exec("isp", &["sysctl", "-q", "-w", &format!("net.ipv4.conf.{interface}.accept_source_route=1")]);
    }
    // UDP from port 1 to 7000 or 7001, nothing in it, no checksum (for IPv6 the door does not mind).
    let udp = |port: u16| [1_u16.to_be_bytes(), port.to_be_bytes(), [0, 8], [0, 0]].concat();
    let octets = |address: &str| match address.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // A loose source route that is used up (RFC 791 §3.1), and no operation to fill the word.
    let route = [vec![131, 7, 8], octets("198.51.100.65"), vec![1]].concat();
    let options = |route: &[u8], port| {
        let words = u8::try_from(5 + route.len() / 4).unwrap();
        let head = vec![0x40 | words, 0, 0, 4 * words + 8, 0, 1, 0, 0, 64, 17, 0, 0];
        [head, octets(SUB4), octets(FAR4), route.to_vec(), udp(port)].concat()
    };
    // A routing header of type 0 with no segment left (RFC 5095), and its like of type 2.
    let routing = |kind: u8, port| {
        let head = vec![0x60, 0, 0, 0, 0, 32, 43, 64];
        let header = vec![17, 2, kind, 0, 0, 0, 0, 0];
        [head, octets(SUB6), octets(FAR6), header, octets("2001:db8:5100:64::1"), udp(port)].concat()
    };
    let before = lab.counter("ip-options");
    lab.send_raw("sub", FAR4, options(&route, 7000), 10);
    lab.counted("ip-options", before, 10);
    lab.send_raw("sub", FAR6, routing(0, 7001), 10);
    lab.counted("ip-options", before, 20);
    // The same packets without what is wrong with them arrive.
    lab.send_raw("sub", FAR4, options(&[], 7002), 10);
    lab.send_raw("sub", FAR6, routing(2, 7003), 10);
    eventually("good ones arrive", || (lab.seen("far", 7002) == 10 && lab.seen("far", 7003) == 10).then_some(()));
    assert_eq!((lab.seen("far", 7000), lab.seen("far", 7001)), (0, 0));

    // A rule slipped into the guard is as bad as no guard.
    lab.exec("isp", &["nft", "insert", "rule", "inet", "cloakway", "to-link", "accept"]);
    let (_, reason) = forwarder.health.wait(FAR4, false);
    assert_eq!(reason, "guard: table inet cloakway was not as wanted and is put back");
    forwarder.health.wait(FAR4, true);
    assert!(lab.ask(&["guard", "show"]).status.success());
}

/// UDP in an IPv4 packet, with these flags and offset of fragments.
fn udp4((from, from_port): (&str, u16), (to, to_port): (&str, u16), fragment: u16) -> Vec<u8> {
    let octets = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap().octets().to_vec();
    let head = vec![0x45, 0, 0, 28, 0, 1];
    let udp = [from_port.to_be_bytes(), to_port.to_be_bytes(), [0, 8], [0, 0]].concat();
    [head, fragment.to_be_bytes().to_vec(), vec![64, 17, 0, 0], octets(from), octets(to), udp].concat()
}

/// UDP in an IPv6 packet, behind a fragment header where there is an offset.
fn udp6((from, from_port): (&str, u16), (to, to_port): (&str, u16), fragment: Option<u16>) -> Vec<u8> {
    let octets = |address: &str| address.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let (next, header) = match fragment {
        None => (17, Vec::new()),
        Some(offset) => (44, [vec![17, 0], offset.to_be_bytes().to_vec(), vec![0, 0, 0, 1]].concat()),
    };
    let length = u8::try_from(header.len()).unwrap() + 8;
    let udp = [from_port.to_be_bytes(), to_port.to_be_bytes(), [0, 8], [0, 0]].concat();
    [vec![0x60, 0, 0, 0, 0, length, next, 64], octets(from), octets(to), header, udp].concat()
}

fn of_a_prefix_with_services_nothing_else_passes_and_no_fragment(plane: Plane) {
    const LIMITED4: &str = "203.0.113.202";
    const LIMITED6: &str = "2001:db8:c10a::202";
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    for address in ["203.0.113.202/32", "2001:db8:c10a::202/128"] {
        lab.ip("far", &format!("addr add {address} dev priv0"));
    }
    let limited = |prefix: &str| {
        let services = "[\"udp/7000-7001\", \"tcp/443\", \"tcp/8000-8010\", \"icmp\", \"esp\"]";
        format!("[[private-prefixes]]\nprefix = \"{prefix}\"\nlink = \"main\"\nservices = {services}\n")
    };
    let _forwarder = healthy(&lab, &(limited("203.0.113.202/32") + &limited("2001:db8:c10a::202/128")));
    // What is in the kernel reads back as it was written: a restart leaves it alone.
    eventually("the guard is the one of the configuration", || {
        lab.ask(&["guard", "show"]).status.success().then_some(())
    });

    lab.ping("sub", LIMITED4);
    lab.ping("sub", LIMITED6);
    let (sub4, far4) = (|port| (SUB4, port), |port| (LIMITED4, port));
    let (sub6, far6) = (|port| (SUB6, port), |port| (LIMITED6, port));
    let cases = [
        ("to-private", "sub", LIMITED4, udp4(sub4(9000), far4(7000), 0x4000)),
        ("to-private", "sub", LIMITED6, udp6(sub6(9000), far6(7001), None)),
        ("from-private", "far", SUB4, udp4(far4(7001), sub4(9000), 0)),
        ("from-private", "far", SUB6, udp6(far6(7000), sub6(9000), None)),
        ("not-a-service", "sub", LIMITED4, udp4(sub4(7000), far4(7002), 0)),
        ("not-a-service", "sub", LIMITED6, udp6(sub6(7000), far6(7002), None)),
        ("not-a-service", "far", SUB4, udp4(far4(9000), sub4(7003), 0)),
        ("not-a-service", "far", SUB6, udp6(far6(9000), sub6(7003), None)),
        // First, later and only one.
        ("fragment", "sub", LIMITED4, udp4(sub4(9000), far4(7004), 0x2000)),
        ("fragment", "sub", LIMITED4, udp4(sub4(9000), far4(7004), 0x0003)),
        ("fragment", "sub", LIMITED6, udp6(sub6(9000), far6(7004), Some(1))),
        ("fragment", "sub", LIMITED6, udp6(sub6(9000), far6(7004), Some(8))),
        ("fragment", "sub", LIMITED6, udp6(sub6(9000), far6(7004), Some(0))),
        ("fragment", "far", SUB4, udp4(far4(7000), sub4(7005), 0x2000)),
        ("fragment", "far", SUB6, udp6(far6(7000), sub6(7005), Some(8))),
    ];
    for (counter, ns, to, packet) in cases {
        let before = lab.counter(counter);
        lab.send_raw(ns, to, packet, 20);
        lab.counted(counter, before, 20);
    }
    for (ns, port) in [("far", 7000), ("far", 7001), ("sub", 7000), ("sub", 7001)] {
        eventually("good ones arrive", || (lab.seen(ns, port) == 20).then_some(()));
    }
    for (ns, port) in [("far", 7002), ("sub", 7003), ("far", 7004), ("sub", 7005)] {
        assert_eq!(lab.seen(ns, port), 0, "{port} arrived in {ns}");
    }
    // Without services, fragments pass.
    lab.send_raw("sub", FAR4, udp4((SUB4, 9000), (FAR4, 7006), 0x2000), 20);
    eventually("fragments arrive", || (lab.seen("far", 7006) == 20).then_some(()));
    assert_eq!(lab.seen("net", 7000) + lab.seen("net", 7002) + lab.seen("net", 7004), 0);
}

fn a_lost_link_is_said_at_once_and_leaks_nothing(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let forwarder = healthy(&lab, "");
    let streams = lab.streams();
    let mut latencies = Vec::new();
    for (ns, cut, mend) in
        [("far", "link set priv0 down", "link set priv0 up"), ("isp", "link set priv0 down", "link set priv0 up")]
    {
        streams.more_answers(20);
        let mut batch = lab.batch(ns);
        let mut commands = batch.stdin.take().unwrap();
        let start = Instant::now();
        writeln!(commands, "{cut}").unwrap();
        let (at, reason) = forwarder.health.wait(FAR4, false);
        latencies.push(at - start);
        assert_eq!(reason, "link priv0 is down");
        streams.more_sent(100);
        let mended = Instant::now();
        writeln!(commands, "{mend}").unwrap();
        drop(commands);
        assert!(batch.wait().unwrap().success());
        if ns == "far" {
            // The far end's kernel forgets these when its link goes down; a cloaked stack has nothing to forget.
            lab.ip("far", "addr replace 2001:db8:c10a::200/128 dev priv0 nodad");
            lab.ip("far", "addr replace 2001:db8:0:ff::2/64 dev priv0 nodad");
            lab.ip("far", "route replace default via 192.0.2.249 src 203.0.113.200");
            lab.ip("far", "route replace default via 2001:db8:0:ff::1 src 2001:db8:c10a::200");
        }
        let (at, _) = forwarder.health.wait(FAR4, true);
        assert!((at - mended).as_millis() >= 900, "the hold-down was not kept");
        eprintln!("{ns} {cut}: unhealthy after {:?}, healthy {:?} after mending", latencies.last(), at - mended);
    }
    streams.more_answers(20);
    lab.ip("isp", "link del priv0");
    let (_, reason) = forwarder.health.wait(FAR4, false);
    assert!(reason.contains("priv0"), "{reason}");
    streams.more_sent(100);
    lab.private_link();
    forwarder.health.wait(FAR4, true);
    streams.more_answers(20);
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
    let slowest = latencies.iter().max().unwrap();
    assert!(slowest.as_millis() < 50, "link loss was said after {latencies:?}");
}

fn kill_9_and_a_restart_lose_no_packet_and_a_flushed_ruleset_is_put_back(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let mut forwarder = healthy(&lab, "");
    let streams = lab.streams();
    streams.more_answers(50);
    let before = lab.counter("to-private");
    forwarder.signal(Signal::SIGKILL);
    forwarder.health.wait_end();
    streams.more_answers(50);
    drop(forwarder);
    let forwarder = healthy(&lab, "");
    assert!(lab.counter("to-private") > before, "the guard was not adopted but loaded anew");
    streams.more_answers(50);
    let counts = streams.end();
    assert!(counts.iter().all(|(sent, answered)| sent == answered), "sent and answered: {counts:?}");

    let streams = lab.streams();
    streams.more_answers(20);
    let flushed = Instant::now();
    lab.exec("isp", &["nft", "flush", "ruleset"]);
    let (at, reason) = forwarder.health.wait(FAR4, false);
    eprintln!("flushed ruleset: unhealthy after {:?}: {reason}", at - flushed);
    assert!((at - flushed).as_millis() < 1500);
    forwarder.health.wait(FAR4, true);
    assert!(lab.ask(&["guard", "show"]).status.success());
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");
}

fn with_the_process_dead_a_lost_link_leaks_nothing_and_sigterm_leaves_the_guard(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let mut forwarder = healthy(&lab, "");
    forwarder.signal(Signal::SIGTERM);
    let (_, reason) = forwarder.health.wait(FAR4, false);
    assert_eq!(reason, "the forwarder is stopping");
    forwarder.health.wait_end();
    assert!(forwarder.wait().success());
    let routes = lab.exec("isp", &["ip", "route", "show", "proto", "143"]);
    assert_eq!(routes.trim(), "blackhole 203.0.113.200 metric 4096");
    assert!(lab.ask(&["guard", "show"]).status.success());
    let before = lab.counter("no-route");
    lab.send("sub", SUB4, FAR4, 7004, 20);
    lab.send("sub", SUB6, FAR6, 7004, 20);
    lab.counted("no-route", before, 40);
    let streams = lab.streams();
    streams.more_sent(50);

    let mut forwarder = healthy(&lab, "");
    streams.more_answers(20);
    forwarder.signal(Signal::SIGKILL);
    forwarder.wait();
    lab.ip("isp", "link set priv0 down");
    streams.more_sent(50);
    lab.ip("isp", "link del priv0");
    streams.more_sent(50);
    lab.exec("isp", &["nft", "flush", "ruleset"]);
    streams.more_sent(50);
    streams.end();
    assert_eq!(lab.leaked(), 0, "packets followed the default route");

    assert_eq!(lab.ask(&["guard", "show"]).status.code(), Some(3));
    assert!(lab.ask(&["guard", "remove"]).status.success());
    assert_eq!(lab.exec("isp", &["ip", "route", "show", "proto", "143"]), "");
    assert_eq!(lab.exec("isp", &["ip", "-6", "route", "show", "proto", "143"]), "");
}

fn a_silent_far_end_is_noticed_and_only_its_prefix_falls(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let forwarder = healthy(&lab, "");
    lab.ip("far", "addr del 203.0.113.200/32 dev priv0");
    let silent = Instant::now();
    let (at, reason) = forwarder.health.wait(FAR4, false);
    eprintln!("silent far end: unhealthy after {:?}: {reason}", at - silent);
    assert!((at - silent).as_secs() < 4);
    let shown = lab.ask(&["show", "health", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&rows[0]["healthy"], &rows[1]["healthy"]), (&false.into(), &true.into()), "{rows}");
    lab.ip("far", "addr add 203.0.113.200/32 dev priv0");
    forwarder.health.wait(FAR4, true);
}

fn a_better_route_of_somebody_else_and_a_renamed_link_are_fenced(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = Lab::new(plane);
    let forwarder = healthy(&lab, "");
    let breaks = [
        (
            "route add 203.0.113.200/32 via 192.0.2.1 metric 1",
            "route del 203.0.113.200/32 via 192.0.2.1 metric 1",
            "route: the kernel sends 203.0.113.200 out by interface",
        ),
        ("link set priv0 name other0", "link set other0 name priv0", "there is no interface priv0"),
    ];
    for ((damage, repair, expected), port) in breaks.into_iter().zip(7000..) {
        let before = lab.counter("wrong-interface");
        lab.ip("isp", damage);
        let (_, reason) = forwarder.health.wait(FAR4, false);
        assert!(reason.starts_with(expected), "{reason}");
        lab.send("sub", SUB4, FAR4, port, 20);
        lab.counted("wrong-interface", before, 20);
        assert_eq!((lab.seen("net", port), lab.seen("far", port)), (0, 0), "{damage}");
        lab.ip("isp", repair);
        forwarder.health.wait(FAR4, true);
    }
}
