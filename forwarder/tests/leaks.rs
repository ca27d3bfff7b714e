//! Faults while traffic runs, on every data plane, with captures on every interface of every namespace: not one packet of the
//! streams where it must not be (A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::Mutex;

use lab::streams::Streams;
use lab::watch::Watch;
use lab::{FAR4, Forwarder, Lab, NET4, Plane, SUB4, eventually, possible};
use nix::sys::signal::Signal;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    a_stop_leaks_nothing,
    kill_9_leaks_nothing,
    a_link_that_goes_down_leaks_nothing,
    a_carrier_that_goes_leaks_nothing,
    a_reload_that_is_refused_leaks_nothing_and_loses_nothing,
    a_silent_next_hop_leaks_nothing,
    a_link_that_flaps_leaks_nothing_and_is_held_down,
    kernel_events_that_are_lost_leak_nothing_and_are_made_good,
    a_full_table_of_connections_leaks_nothing,
    a_fast_path_that_cannot_be_had_leaks_nothing,
}

/// A lab whose far end answers, watched everywhere, and a forwarder that says that both prefixes are healthy.
fn scene(plane: Plane) -> Option<(Lab, Watch, Forwarder)> {
    if !possible() {
        return None;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let watch = lab.watch();
    let forwarder = lab.healthy("");
    Some((lab, watch, forwarder))
}

/// Streams that are being answered.
fn flowing(lab: &Lab) -> Streams {
    let streams = lab.streams();
    streams.more_answers(20);
    streams
}

/// The process ends by this signal while packets pass, and another one begins.
fn ends_by(plane: Plane, signal: Signal) {
    let Some((lab, watch, mut forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    forwarder.signal(signal);
    streams.more_sent(50);
    forwarder.wait();
    streams.more_sent(100);
    let _again = lab.start();
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}

fn a_stop_leaks_nothing(plane: Plane) {
    ends_by(plane, Signal::SIGTERM);
}

fn kill_9_leaks_nothing(plane: Plane) {
    ends_by(plane, Signal::SIGKILL);
}

fn a_link_that_goes_down_leaks_nothing(plane: Plane) {
    let Some((lab, watch, forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    lab.ip("isp", "link set priv0 down");
    forwarder.health.wait(FAR4, false);
    streams.more_sent(100);
    lab.ip("isp", "link set priv0 up");
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}

fn a_carrier_that_goes_leaks_nothing(plane: Plane) {
    let Some((lab, watch, forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    // The other end of the wire: the link here is set up, and has no carrier.
    lab.ip("far", "link set priv0 down");
    forwarder.health.wait(FAR4, false);
    streams.more_sent(100);
    // Gone altogether, with the interface at both ends.
    lab.ip("far", "link del priv0");
    streams.more_sent(100);
    streams.end();
    watch.clean(&lab);
}

fn a_reload_that_is_refused_leaks_nothing_and_loses_nothing(plane: Plane) {
    let Some((lab, watch, _forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    let whole = lab.text("");
    for broken in [
        String::new(),
        whole.replace("[subscribers]", "[subscribers"),
        whole.replace("link = \"main\"", "link = \"mian\""),
        whole.replace("203.0.113.200/32", "198.51.100.70/32"),
        whole.replace("interface = \"priv0\"", "interface = \"vx0\"\nkind = \"vxlan\"\nunderlay = \"none0\"\nvni = 7\nlocal = \"192.0.2.249\"\nremote = \"192.0.2.250\""),
    ] {
        lab.write(&broken);
        let refused = lab.reload();
        assert!(refused.is_err(), "{refused:?}");
        streams.more_answers(20);
    }
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    watch.clean(&lab);
}

fn a_silent_next_hop_leaks_nothing(plane: Plane) {
    let Some((lab, watch, forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    // Nobody answers ARP and ND for them any more.
    lab.ip("far", "addr del 203.0.113.200/32 dev priv0");
    lab.ip("far", "addr del 2001:db8:c10a::200/128 dev priv0");
    forwarder.health.wait(FAR4, false);
    eventually("IPv6 falls too", || {
        let shown = lab.ask(&["show", "health", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        rows.as_array()?.iter().all(|row| row["healthy"] == false).then_some(())
    });
    streams.more_sent(50);
    lab.ip("far", "addr add 203.0.113.200/32 dev priv0");
    lab.ip("far", "addr add 2001:db8:c10a::200/128 dev priv0 nodad");
    // What named them as its source went with them.
    lab.ip("far", "route replace default via 192.0.2.249 src 203.0.113.200");
    lab.ip("far", "route replace default via 2001:db8:0:ff::1 src 2001:db8:c10a::200");
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}

fn a_link_that_flaps_leaks_nothing_and_is_held_down(plane: Plane) {
    let Some((lab, watch, forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    forwarder.health.words();
    let mut batch = lab.batch("isp");
    let mut commands = batch.stdin.take().unwrap();
    for _ in 0..15 {
        writeln!(commands, "link set priv0 down").unwrap();
        streams.more_sent(10);
        writeln!(commands, "link set priv0 up").unwrap();
        streams.more_sent(10);
    }
    drop(commands);
    assert!(batch.wait().unwrap().success());
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    let rises = forwarder.health.words();
    let rises = rises.iter().filter(|(prefix, healthy, _)| prefix.starts_with(FAR4) && *healthy).count();
    assert!(rises <= 3, "announced {rises} times");
    watch.clean(&lab);
}

fn kernel_events_that_are_lost_leak_nothing_and_are_made_good(plane: Plane) {
    const EVENTS: usize = 4000;
    let Some((lab, watch, mut forwarder)) = scene(plane) else { return };
    let streams = flowing(&lab);
    // It hears nothing while far more happens than its sockets hold, the loss of the link in the midst of it.
    forwarder.signal(Signal::SIGSTOP);
    let mut batch = lab.batch("isp");
    let mut commands = batch.stdin.take().unwrap();
    let flood = |commands: &mut std::process::ChildStdin| {
        for number in 0..EVENTS {
            writeln!(commands, "addr {} 192.0.2.130/32 dev lo", if number % 2 == 0 { "add" } else { "del" }).unwrap();
        }
    };
    flood(&mut commands);
    writeln!(commands, "link set priv0 down").unwrap();
    flood(&mut commands);
    drop(commands);
    assert!(batch.wait().unwrap().success());
    streams.more_sent(50);
    forwarder.signal(Signal::SIGCONT);
    forwarder.health.wait(FAR4, false);
    streams.more_sent(50);
    lab.ip("isp", "link set priv0 up");
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}

/// The table of connections has one size for the whole machine, and its entries take memory.
static ONE_FULL_TABLE: Mutex<()> = Mutex::new(());

fn a_full_table_of_connections_leaks_nothing(plane: Plane) {
    let _one = ONE_FULL_TABLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some((lab, watch, _forwarder)) = scene(plane) else { return };
    lab.exec(
        "isp",
        &[
            "nft",
            "add table inet watch; add chain inet watch door { type filter hook prerouting priority 0; }; \
                       add rule inet watch door ct state new accept",
        ],
    );
    let streams = flowing(&lab);
    let number = |name: &str| -> usize {
        lab.exec("isp", &["sysctl", "-n", &format!("net.netfilter.{name}")]).trim().parse().unwrap()
    };
    let size = number("nf_conntrack_max");
    // Full: connections are refused, or thrown out for new ones (the columns drop and early_drop, of each CPU).
    let refused = || {
        let text = lab.exec("isp", &["cat", "/proc/net/stat/nf_conntrack"]);
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let names = lines.next().unwrap();
        let columns: Vec<usize> =
            ["drop", "early_drop"].map(|name| names.iter().position(|known| *known == name).unwrap()).into();
        lines
            .flat_map(|row| {
                columns.iter().map(move |at| u64::from_str_radix(row[*at], 16).unwrap()).collect::<Vec<_>>()
            })
            .sum::<u64>()
    };
    // Bystanders' flows fill it: each port of ours to each of some, and to others while connections end meanwhile.
    for round in 0..6_u16 {
        let fill = lab.within("sub", move || {
            let mut sent = 0;
            for from in 20_000..=u16::MAX {
                let Ok(socket) = UdpSocket::bind((SUB4, from)) else { continue };
                for to in 0..8 {
                    let _ = socket.send_to(b"bystander", (NET4, 9000 + round * 8 + to));
                    sent += 1;
                }
                if sent > size {
                    return;
                }
            }
        });
        fill.join().unwrap();
        if refused() > 0 {
            break;
        }
    }
    assert!(refused() > 0, "{} of {size}", number("nf_conntrack_count"));
    let before = refused();
    streams.more_sent(50);
    // New flows, which find no place.
    for _ in 0..20 {
        lab.send("sub", SUB4, FAR4, 7000, 5);
        lab.send("far", FAR4, SUB4, 7000, 5);
        lab.send("far", FAR4, NET4, 7000, 5);
    }
    streams.end();
    // Those of the other data planes pass no table of connections, or not all of them.
    assert!(plane != Plane::Kernel || refused() > before, "nothing more was refused");
    watch.clean(&lab);
}

fn a_fast_path_that_cannot_be_had_leaks_nothing(plane: Plane) {
    if !possible() || !matches!(plane, Plane::Tcx | Plane::Xdp) {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let watch = lab.watch();
    // Pins on no BPF file system: the program cannot be loaded.
    let text = lab.text("");
    let (before, _) = text.split_once("pin-directory").unwrap();
    lab.write(&format!("{before}pin-directory = \"/proc/cloakway\"\n"));
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.both_healthy();
    let shown = lab.ask(&["show", "data-plane", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["data_plane"] == "kernel"), "{rows}");
    let streams = flowing(&lab);
    lab.ip("isp", "link set priv0 down");
    forwarder.health.wait(FAR4, false);
    streams.more_sent(50);
    lab.ip("isp", "link set priv0 up");
    lab.both_healthy();
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);
}
