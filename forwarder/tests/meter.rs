//! Limits with real packets: exact to the packet, on every data plane, and whoever dies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::time::{Duration, Instant};

use lab::{FAR4, FAR6, Lab, Plane, SUB4, SUB6, eventually, possible};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    a_source_has_its_quota_to_the_packet_and_the_byte,
    a_private_prefix_has_its_quota_whoever_uses_it,
    a_rate_lets_a_burst_through_and_then_so_many_a_second,
    two_processors_have_one_budget,
    a_new_source_finds_a_full_table_and_is_dropped,
    odd_packets_have_no_budget_of_their_own,
    kill_9_and_a_restart_forget_nothing_and_the_next_period_begins_once,
    answers_are_charged_when_they_are_to_be,
    without_a_meter_nothing_passes_for_long,
    a_change_of_the_policy_keeps_what_was_used_and_other_limits_hold_at_once,
    limits_come_and_go_by_a_reload_without_a_packet_lost,
    a_trace_shows_what_limits_drop,
}

/// Other subscribers.
const SECOND4: &str = "198.51.100.71";
const THIRD4: &str = "198.51.100.72";
/// Of the same /64, and of another one.
const SECOND6: &str = "2001:db8:5100:64::71";
const THIRD6: &str = "2001:db8:5100:65::72";

fn lab(plane: Plane) -> Lab {
    let mut lab = Lab::new(plane);
    lab.subscribers = "\"2001:db8:5100:65::/64\", ".into();
    for address in [SECOND4, THIRD4, SECOND6, THIRD6] {
        let length = if address.contains(':') { 128 } else { 32 };
        lab.ip("sub", &format!("addr add {address}/{length} dev lo"));
    }
    lab.ip("isp", "route add 2001:db8:5100:65::/64 via 2001:db8:5100:64::70");
    lab
}

fn healthy(lab: &Lab, limits: &str) -> lab::Forwarder {
    let forwarder = lab.forwarder(limits);
    let (mut v4, mut v6) = (false, false);
    while !(v4 && v6) {
        let (prefix, _) = forwarder.health.wait_any(true);
        v4 |= prefix.starts_with(FAR4);
        v6 |= prefix.starts_with(FAR6);
    }
    forwarder
}

/// Waits until all that was sent to a port has either arrived or been counted as dropped.
fn settled(lab: &Lab, port: u16, sent: u64, reason: &str, dropped_before: u64) -> u64 {
    eventually(&format!("{sent} packets to {port} accounted for"), || {
        (lab.seen("far", port) + lab.dropped(reason) - dropped_before >= sent).then_some(())
    });
    assert_eq!(lab.seen("far", port) + lab.dropped(reason) - dropped_before, sent, "{reason}");
    lab.seen("far", port)
}

/// UDP to port `port` with so much in it, as an IP packet; behind an extension header or as a fragment where asked.
fn udp(from: &str, to: &str, port: u16, payload: usize, odd: bool) -> Vec<u8> {
    let octets = |address: &str| match address.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let word = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let udp = [&[0x23, 0x28][..], &port.to_be_bytes(), &word(payload + 8), &[0, 0], &vec![0xa5; payload]].concat();
    if from.contains(':') {
        // An atomic fragment (RFC 6946), or destination options of which there is only padding.
        let (next, header) = if odd { (60, vec![17, 0, 1, 4, 0, 0, 0, 0]) } else { (17, Vec::new()) };
        let length = word(header.len() + udp.len());
        return [&[0x60, 0, 0, 0][..], &length, &[next, 64], &octets(from), &octets(to), &header, &udp].concat();
    }
    // A first fragment, of which no other ever comes.
    let fragment = if odd { [0x20, 0] } else { [0x40, 0] };
    let head = [&[0x45, 0][..], &word(20 + udp.len()), &[0, 1], &fragment, &[64, 17, 0, 0]].concat();
    [head, octets(from), octets(to), udp].concat()
}

fn a_source_has_its_quota_to_the_packet_and_the_byte(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    // 100 packets, or 100 of 36 bytes; 64 of 56 bytes.
    let running =
        healthy(&lab, "[limits.per-source]\nquota-packets = 100\nquota-bytes = 3600\nquota-period-s = 3600\n");
    lab.send("sub", SUB4, FAR4, 7010, 150);
    assert_eq!(settled(&lab, 7010, 150, "source-quota", 0), 100);
    lab.send("sub", SECOND4, FAR4, 7011, 30);
    assert_eq!(settled(&lab, 7011, 30, "source-quota", 50), 30);
    // One network, one source.
    lab.send("sub", SUB6, FAR6, 7012, 40);
    lab.send("sub", SECOND6, FAR6, 7012, 40);
    assert_eq!(settled(&lab, 7012, 80, "source-quota", 50), 64);
    lab.send("sub", THIRD6, FAR6, 7013, 64);
    assert_eq!(settled(&lab, 7013, 64, "source-quota", 66), 64);
    // Of 21 bytes, what is left of packets counts.
    lab.send_raw("sub", FAR4, udp(THIRD4, FAR4, 7014, 1, false), 130);
    assert_eq!(settled(&lab, 7014, 130, "source-quota", 66), 100);
    assert_eq!(lab.counter("spoofed-source"), 0);

    let shown = lab.ask(&["show", "sources", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let row = |who: &str| rows.as_array().unwrap().iter().find(|row| row["who"] == who).cloned().unwrap();
    assert_eq!(row("198.51.100.70/32")["quota_bytes_left"], 0, "{rows}");
    assert_eq!(row("198.51.100.71/32")["quota_bytes_left"], 3600 - 30 * 36);
    assert_eq!(row("2001:db8:5100:65::/64")["bytes"], 64 * 56);
    assert!(rows.as_array().unwrap().len() >= 5);
    let passed = lab.forwarded("to-private");
    assert_eq!(passed, 100 + 30 + 64 + 64 + 100);
    drop(running);
}

fn a_private_prefix_has_its_quota_whoever_uses_it(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let limits = "[limits.per-prefix]\nquota-packets = 100\nquota-period-s = 3600\n\
                  [[limits.prefixes]]\nprefix = \"2001:db8:c10a::200/128\"\n\
                  limit = { quota-bytes = 5600, quota-period-s = 3600 }\n";
    let _running = healthy(&lab, limits);
    lab.send("sub", SUB4, FAR4, 7010, 60);
    lab.send("sub", SECOND4, FAR4, 7010, 60);
    assert_eq!(settled(&lab, 7010, 120, "prefix-quota", 0), 100);
    lab.send("sub", SUB6, FAR6, 7011, 70);
    lab.send("sub", THIRD6, FAR6, 7011, 70);
    assert_eq!(settled(&lab, 7011, 140, "prefix-quota", 20), 100);
}

fn a_rate_lets_a_burst_through_and_then_so_many_a_second(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let limits = "[limits.per-source]\npackets-per-second = 20\npackets-burst = 50\n\
                  [limits.per-prefix]\nbytes-per-second = 65536\n";
    let _running = healthy(&lab, limits);
    let begun = Instant::now();
    lab.send("sub", SUB4, FAR4, 7010, 200);
    lab.send("sub", SUB6, FAR6, 7011, 200);
    let most = |burst: u64| burst + u64::try_from(begun.elapsed().as_millis()).unwrap() * 20 / 1000 + 1;
    // Together first: the counter of the drops is one.
    eventually("all accounted for", || {
        (lab.seen("far", 7010) + lab.seen("far", 7011) + lab.dropped("source-rate") >= 400).then_some(())
    });
    for port in [7010, 7011] {
        let seen = lab.seen("far", port);
        assert!((50..=most(50)).contains(&seen), "{seen}");
    }
    // Its bucket fills: the same again passes only by the rate.
    eventually("some more", || {
        lab.send("sub", SUB4, FAR4, 7012, 5);
        (lab.seen("far", 7012) >= 20).then_some(())
    });
    let all = lab.seen("far", 7010) + lab.seen("far", 7012);
    assert!(all <= most(50), "{all}");
    // Bytes, to the private prefix as a whole: 63 of 1028 in a burst.
    let dropped = lab.dropped("prefix-rate");
    let begun = Instant::now();
    for source in [SECOND4, THIRD4] {
        lab.send_raw("sub", FAR4, udp(source, FAR4, 7013, 1000, false), 50);
    }
    let seen = settled(&lab, 7013, 100, "prefix-rate", dropped);
    let gained = u64::try_from(begun.elapsed().as_millis()).unwrap() * 66 / 1028 + 1;
    assert!((60..=63 + gained).contains(&seen), "{seen}, {gained}");
}

fn two_processors_have_one_budget(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let limits = "[limits.per-source]\nquota-packets = 5000\nquota-period-s = 600\n\
                  [limits.per-prefix]\nquota-bytes = 216000\nquota-period-s = 600\n";
    let _running = healthy(&lab, limits);
    // As many as there are; with one, the test is one of two threads.
    let processors = std::thread::available_parallelism().unwrap().get();
    let blast = |from: &'static str, port: u16, count: u32| {
        let threads: Vec<_> = (0..2)
            .map(|index| {
                lab.within("sub", move || {
                    let mut one = CpuSet::new();
                    one.set(index % processors).unwrap();
                    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
                    let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
                    for _ in 0..count {
                        let _ = socket.send_to(b"cloakway", (FAR4, port));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    // What was sent may be lost on its way through small queues, before or behind; what passed may not be too much.
    let exactly = |from, port, count, quota: u64, reason: &str| {
        let before = lab.forwarded("to-private");
        let passed = || lab.forwarded("to-private") - before;
        blast(from, port, count);
        eventually(&format!("{quota} pass"), || {
            let all = passed() >= quota;
            if !all {
                blast(from, port, count / 10);
            }
            all.then_some(())
        });
        let dropped = lab.dropped(reason);
        eventually("no more pass", || {
            lab.send("sub", from, FAR4, port, 10);
            (lab.dropped(reason) > dropped).then_some(())
        });
        assert_eq!(passed(), quota, "{reason}");
        assert!(lab.seen("far", port) <= quota);
    };
    exactly(SUB4, 7010, 4000, 5000, "source-quota");
    // 216000 bytes are 6000 packets of 36.
    exactly(SECOND4, 7011, 2000, 1000, "prefix-quota");
}

fn a_new_source_finds_a_full_table_and_is_dropped(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let limits = "[limits]\nsources = 2\n[limits.per-source]\nquota-packets = 50\nquota-period-s = 600\n";
    let _running = healthy(&lab, limits);
    lab.send("sub", SUB4, FAR4, 7010, 20);
    lab.send("sub", SECOND4, FAR4, 7010, 20);
    assert_eq!(settled(&lab, 7010, 40, "sources-full", 0), 40);
    lab.send("sub", THIRD4, FAR4, 7011, 20);
    assert_eq!(settled(&lab, 7011, 20, "sources-full", 0), 0);
    lab.send("sub", SUB4, FAR4, 7012, 20);
    assert_eq!(settled(&lab, 7012, 20, "sources-full", 20), 20);
}

fn odd_packets_have_no_budget_of_their_own(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let _running = healthy(&lab, "[limits.per-source]\nquota-packets = 100\nquota-period-s = 600\n");
    for (from, to, ports) in [(SUB4, FAR4, [7010, 7011, 7012]), (SUB6, FAR6, [7013, 7014, 7015])] {
        let dropped = lab.dropped("source-quota");
        lab.send("sub", from, to, ports[0], 40);
        lab.send_raw("sub", to, udp(from, to, ports[1], 10, true), 40);
        lab.send_raw("sub", to, udp(from, to, ports[2], 10, false), 40);
        let seen = || ports.iter().map(|port| lab.seen("far", *port)).sum::<u64>();
        eventually("all accounted for", || (seen() + lab.dropped("source-quota") - dropped >= 120).then_some(()));
        assert_eq!((seen(), lab.dropped("source-quota") - dropped), (100, 20));
        assert_eq!(lab.seen("far", ports[1]), 40, "{from}: odd ones pass like others");
    }
    // Too large for the link, and not to be cut: nothing passes, and the subscriber is told.
    lab.ip("isp", "link set priv0 mtu 1300");
    lab.send_raw("sub", FAR4, udp(SECOND4, FAR4, 7016, 1350, false), 10);
    lab.send("sub", SECOND4, FAR4, 7017, 100);
    eventually("the small ones are accounted for", || {
        (lab.seen("far", 7017) + lab.dropped("source-quota") >= 100 + 40 - 20).then_some(())
    });
    assert_eq!(lab.seen("far", 7016), 0);
    assert!(lab.seen("far", 7017) >= 90);
}

fn kill_9_and_a_restart_forget_nothing_and_the_next_period_begins_once(plane: Plane) {
    if !possible() {
        return;
    }
    if plane == Plane::User {
        return every_life_of_the_process_counts_anew();
    }
    // A period has to be longer than what happens within it, a restart among it, on this machine as busy as it is.
    if ![8, 20, 60].into_iter().any(|period| within_a_period(plane, period)) {
        panic!("a restart and 130 packets take more than a minute");
    }
}

/// Whether `period_s` is long enough to tell; then all of it was asserted.
fn within_a_period(plane: Plane, period_s: u64) -> bool {
    let period = Duration::from_secs(period_s);
    let lab = lab(plane);
    let limits = format!("[limits.per-source]\nquota-packets = 100\nquota-period-s = {period_s}\n");
    let mut running = healthy(&lab, &limits);
    let begun = Instant::now();
    lab.send("sub", SUB4, FAR4, 7010, 50);
    assert_eq!(settled(&lab, 7010, 50, "source-quota", 0), 50);
    running.signal(Signal::SIGKILL);
    running.wait();
    lab.send("sub", SUB4, FAR4, 7010, 20);
    eventually("they pass without the process", || {
        (lab.seen("far", 7010) == 70 || begun.elapsed() >= period).then_some(())
    });
    drop(running);
    let running = healthy(&lab, &limits);
    lab.send("sub", SUB4, FAR4, 7011, 60);
    let passed = settled(&lab, 7011, 60, "source-quota", 0);
    if begun.elapsed() >= period {
        return false;
    }
    assert_eq!((lab.seen("far", 7010), passed), (70, 30));
    // One at a time until the period is over: that one is the first of the next.
    let next = eventually("the next period", || {
        lab.send("sub", SUB4, FAR4, 7012, 1);
        (lab.seen("far", 7012) >= 1).then(Instant::now)
    });
    assert!(begun.elapsed() >= period - Duration::from_millis(100), "{:?}", begun.elapsed());
    let first = lab.seen("far", 7012);
    let dropped = lab.dropped("source-quota");
    lab.send("sub", SUB4, FAR4, 7013, 300);
    let seen = settled(&lab, 7013, 300, "source-quota", dropped);
    if next.elapsed() >= period - Duration::from_secs(1) {
        return false;
    }
    assert!(seen + first <= 100 && seen + first + 3 >= 100, "{seen} and {first}");
    drop(running);
    true
}

/// Of the user data plane, as `check` warns.
fn every_life_of_the_process_counts_anew() {
    let lab = lab(Plane::User);
    let limits = "[limits.per-source]\nquota-packets = 30\nquota-period-s = 600\n";
    for port in [7010, 7011] {
        let mut running = healthy(&lab, limits);
        lab.send("sub", SUB4, FAR4, port, 40);
        assert_eq!(settled(&lab, port, 40, "source-quota", 0), 30);
        running.signal(Signal::SIGKILL);
        running.wait();
        lab.send("sub", SUB4, FAR4, 7012, 10);
    }
    assert_eq!(lab.seen("far", 7012), 0, "nothing passes without the process");
}

fn answers_are_charged_when_they_are_to_be(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let quota = "[limits.per-source]\nquota-packets = 100\nquota-period-s = 600\n";
    let _running = healthy(&lab, &format!("[limits]\ncount-answers = true\n{quota}"));
    // That nobody listens there would be said, and charged.
    for short in ["sub", "far"] {
        lab.exec(short, &["nft", "add chain inet tap mute { type filter hook output priority 0 ; }"]);
        for rule in ["icmp type destination-unreachable", "icmpv6 type destination-unreachable"] {
            lab.exec(short, &["nft", &format!("add rule inet tap mute {rule} drop")]);
        }
    }
    lab.send("sub", SUB4, FAR4, 7010, 60);
    assert_eq!(settled(&lab, 7010, 60, "source-quota", 0), 60);
    lab.send("far", FAR4, SUB4, 7011, 60);
    eventually("all accounted for", || (lab.seen("sub", 7011) + lab.dropped("source-quota") >= 60).then_some(()));
    assert_eq!((lab.seen("sub", 7011), lab.dropped("source-quota")), (40, 20));
    assert_eq!(lab.forwarded("from-private"), 40);
    // Odd ones too.
    lab.send_raw("far", SUB6, udp(FAR6, SUB6, 7012, 10, true), 110);
    eventually("all accounted for", || (lab.seen("sub", 7012) + lab.dropped("source-quota") >= 130).then_some(()));
    assert_eq!((lab.seen("sub", 7012), lab.dropped("source-quota")), (100, 30));
}

fn without_a_meter_nothing_passes_for_long(plane: Plane) {
    // What the user data plane counts with is what forwards.
    if !possible() || plane == Plane::User {
        return;
    }
    let lab = lab(plane);
    let limits = "[limits.per-source]\nquota-packets = 100000\nquota-period-s = 60\n";
    let mut running = healthy(&lab, limits);
    if plane == Plane::Kernel {
        lab.exec("isp", &["nft", "delete", "table", "inet", "cloakway-meter"]);
        let (_, reason) = running.health.wait(FAR4, false);
        assert_eq!(reason, "guard: table inet cloakway-meter was not as wanted and is put back");
        running.health.wait(FAR4, true);
        assert!(lab.ask(&["guard", "show"]).status.success());
        return;
    }
    running.signal(Signal::SIGKILL);
    running.wait();
    lab.send("sub", SUB4, FAR4, 7010, 20);
    eventually("they pass without the process", || (lab.seen("far", 7010) == 20).then_some(()));
    // The programs go; guard and routes stay.
    lab.unpin();
    // The kernel lets go of a program a moment after its last pin.
    eventually("none of them is left", || {
        lab.send("sub", SUB4, FAR4, 7013, 1);
        (lab.counter("unmetered") > 0 && !lab.exec("isp", &["ip", "link"]).contains("xdp")).then_some(())
    });
    let before = lab.counter("unmetered");
    lab.send("sub", SUB4, FAR4, 7011, 20);
    lab.send("sub", SUB6, FAR6, 7011, 20);
    lab.counted("unmetered", before, 40);
    assert_eq!(lab.seen("far", 7011), 0);
    drop(running);
    let _running = healthy(&lab, limits);
    lab.send("sub", SUB4, FAR4, 7012, 20);
    eventually("they pass again", || (lab.seen("far", 7012) == 20).then_some(()));
}

fn a_change_of_the_policy_keeps_what_was_used_and_other_limits_hold_at_once(plane: Plane) {
    if !possible() {
        return;
    }
    let lab = lab(plane);
    let limits = |packets| format!("[limits.per-source]\nquota-packets = {packets}\nquota-period-s = 600\n");
    let _running = healthy(&lab, &limits(100));
    lab.send("sub", SUB4, FAR4, 7010, 60);
    assert_eq!(settled(&lab, 7010, 60, "source-quota", 0), 60);
    // Under traffic: nothing of another subscriber is lost, and none passes uncharged.
    let sending = lab.within("sub", || {
        let socket = std::net::UdpSocket::bind((SECOND4, 0)).unwrap();
        for _ in 0..90 {
            let _ = socket.send_to(b"cloakway", (FAR4, 7011));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let another = "[[private-prefixes]]\nprefix = \"203.0.113.202/32\"\nlink = \"main\"\n";
    lab.config(&(limits(100) + another));
    lab.reload().unwrap();
    lab.send("sub", SUB4, FAR4, 7012, 60);
    assert_eq!(settled(&lab, 7012, 60, "source-quota", 0), 40);
    sending.join().unwrap();
    eventually("all of the other one", || (lab.seen("far", 7011) >= 90).then_some(()));
    lab.send("sub", SECOND4, FAR4, 7011, 20);
    assert_eq!(settled(&lab, 7011, 110, "source-quota", 20), 100);

    // nftables' elements carry the limit that they were made with: there the budgets begin anew.
    lab.config(&limits(150));
    lab.reload().unwrap();
    let dropped = lab.dropped("source-quota");
    let left = if plane == Plane::Kernel { 150 } else { 50 };
    lab.send("sub", SUB4, FAR4, 7013, 160);
    assert_eq!(settled(&lab, 7013, 160, "source-quota", dropped), left);
}

fn limits_come_and_go_by_a_reload_without_a_packet_lost(plane: Plane) {
    // To and from the user data plane there is a gap.
    if !possible() || plane == Plane::User {
        return;
    }
    let mut lab = lab(plane);
    lab.echoes();
    let _running = healthy(&lab, "");
    let wide =
        "[limits]\ncount-answers = true\n[limits.per-source]\nquota-bytes = 100000000000\nquota-period-s = 600\n";
    let uses = |lab: &Lab| {
        let shown = lab.ask(&["show", "sources", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        rows.as_array().map_or(0, Vec::len)
    };
    let other = if plane == Plane::Kernel { Plane::Tcx } else { Plane::Kernel };
    // On, off, on with another who counts, and back.
    let steps = [(plane, wide), (plane, ""), (plane, wide), (other, wide), (plane, wide), (other, ""), (plane, wide)];
    for (step, (counts, limits)) in steps.into_iter().enumerate() {
        let streams = lab.streams();
        streams.more_answers(50);
        lab.plane = counts;
        lab.config(limits);
        lab.reload().unwrap();
        streams.more_answers(50);
        for (sent, answered) in streams.end() {
            assert_eq!(sent, answered, "step {step}");
        }
        if !limits.is_empty() {
            eventually("sources are charged", || (uses(&lab) > 0).then_some(()));
        }
    }
    assert_eq!((lab.leaked(), lab.counter("unmetered")), (0, 0));
    lab.config("[limits.per-source]\nquota-packets = 100\nquota-period-s = 600\n");
    lab.reload().unwrap();
    let dropped = lab.dropped("source-quota");
    lab.send("sub", SECOND4, FAR4, 7010, 160);
    assert_eq!(settled(&lab, 7010, 160, "source-quota", dropped), 100);
}

/// A process that ends with the test, also when that fails.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_trace_shows_what_limits_drop(plane: Plane) {
    use std::io::{BufRead as _, BufReader};

    if !possible() {
        return;
    }
    let lab = lab(plane);
    // nftables has that many of each IP version, the others in all.
    let sources = if plane == Plane::Kernel { 2 } else { 3 };
    let limits = format!(
        "[limits]\nsources = {sources}\n[limits.per-source]\nquota-packets = 5\nquota-period-s = 600\n\
         [[limits.prefixes]]\nprefix = \"2001:db8:c10a::200/128\"\n\
         limit = {{ quota-packets = 3, quota-period-s = 600 }}\n"
    );
    let _running = healthy(&lab, &limits);
    let mut trace = Ended(lab.begin(&["trace", "--json"]));
    let (sender, rows) = std::sync::mpsc::channel();
    let lines = BufReader::new(trace.0.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let row: serde_json::Value = serde_json::from_str(&line).unwrap();
            if sender.send(row).is_err() {
                return;
            }
        }
    });
    eventually("the trace runs", || {
        lab.exec("isp", &["nft", "list", "tables"]).contains("cloakway_trace").then_some(())
    });
    // The first of each are followed, those that pass among them; no more than so many a second.
    let dropped = |from: &str, to: &str, port: u16| {
        eventually(&format!("a packet from {from} to {port} is shown"), || {
            lab.send("sub", from, to, port, 7);
            let mut shown = std::iter::from_fn(|| rows.recv_timeout(Duration::from_millis(200)).ok());
            shown.find(|row| row["destination_port"] == port)
        })
    };
    for (from, to, port, reason) in [
        // Before its source has used up its own.
        (SUB6, FAR6, 7011, "prefix-quota"),
        (SUB4, FAR4, 7010, "source-quota"),
        (SECOND4, FAR4, 7012, "source-quota"),
        (THIRD4, FAR4, 7013, "sources-full"),
    ] {
        let row = dropped(from, to, port);
        assert_eq!((&row["reason"], &row["source"]), (&reason.into(), &from.into()), "{row}");
        assert_eq!(row["in_interface"], "edge0", "{row}");
        // Who drops it before it is routed does not know.
        let out = if plane == Plane::Kernel { "priv0".into() } else { serde_json::Value::Null };
        assert_eq!(row["out_interface"], out, "{row}");
    }
    // Another meter under the trace: its rules have other numbers.
    lab.config(&limits.replace("quota-packets = 5", "quota-packets = 6"));
    lab.reload().unwrap();
    assert_eq!(dropped(SUB4, FAR4, 7014)["reason"], "source-quota");
    // What the fast path hands to the kernel is charged, and seen, as well.
    // (Of those the kernel's own account, which nftables gives, has no ports behind extension headers.)
    for (to, port) in [(FAR4, 7015), (FAR6, 7016)].into_iter().filter(|_| plane != Plane::Kernel) {
        let from = if to == FAR4 { SUB4 } else { SUB6 };
        eventually("an odd packet is shown", || {
            lab.send_raw("sub", to, udp(from, to, port, 10, true), 7);
            let mut shown = std::iter::from_fn(|| rows.recv_timeout(Duration::from_millis(200)).ok());
            shown.find(|row| row["destination_port"] == port)
        });
    }
    drop(trace);
    eventually("it leaves nothing behind", || {
        (!lab.exec("isp", &["nft", "list", "tables"]).contains("cloakway_trace")).then_some(())
    });
}
