//! Packets a second of each data plane beside bare kernel forwarding, in one run on one core.
//!
//! `cargo bench -p forwarder` (root). `ROUNDS=n` (7): best and median are told; `LAPS=n` (4): how many million frames a
//! round sends. Generator, forwarder and sink share the core, so that a ratio says less than the forwarder gained.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench tells, and ends when it cannot"
)]

#[path = "../../tests/lab/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod lab;

use std::process::Command;
use std::time::Instant;

use aya::maps::PerCpuArray;
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lab::{FAR4, Lab, Plane, eventually, possible};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Many subscribers' addresses, behind the edge router.
const MANY: &str = "100.64.0.0/16";
const FIRST: u32 = 0x6440_0001;

/// Frames between two looks at the clock: fewer, and the kernel's tearing down of the pages shows.
const LAP: u32 = 1 << 20;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn compiled() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("traffic.o");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data_plane/traffic.c");
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let status = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", &include, "-c", source, "-o"])
        .arg(&object)
        .status()
        .unwrap();
    assert!(status.success(), "clang");
    std::fs::read(object).unwrap()
}

/// What a lab forwards in a second, in millions, each round.
fn measure(lab: &Lab, object: &[u8], sources: u32) -> Vec<f64> {
    let (rounds, laps) = (number("ROUNDS", 7), number("LAPS", 4));
    let index = |short: &str, interface: &str| -> u32 {
        let path = format!("/sys/class/net/{interface}/ifindex");
        lab.exec(short, &["cat", &path]).trim().parse().unwrap()
    };
    let mac = lab.exec("isp", &["cat", "/sys/class/net/edge0/address"]);
    let mac: Vec<u8> = mac.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    let mac = mac.iter().rev().fold(0_u64, |all, octet| all << 8 | u64::from(*octet));
    let destination = u32::from_ne_bytes(FAR4.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let (out, far) = (index("sub", "eth0"), index("far", "priv0"));
    let load = move |object: &[u8]| -> Ebpf {
        EbpfLoader::new()
            .override_global("out", &out, true)
            .override_global("sources", &sources, true)
            .override_global("first_source", &FIRST, true)
            .override_global("destination", &destination, true)
            .override_global("to_mac", &mac, true)
            .load(object)
            .unwrap()
    };
    let sink = {
        let object = object.to_vec();
        let attached = lab.within("far", move || {
            let mut ebpf = load(&object);
            let program: &mut Xdp = ebpf.program_mut("sink").unwrap().try_into().unwrap();
            program.load().unwrap();
            program.attach_to_if_index(far, XdpMode::Driver).unwrap();
            ebpf
        });
        attached.join().unwrap()
    };
    let arrived = |sink: &Ebpf| -> u64 {
        let counts: PerCpuArray<_, u64> = sink.map("counts").unwrap().try_into().unwrap();
        counts.get(&1, 0).unwrap().iter().sum()
    };
    let object = object.to_vec();
    let lap = move || {
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let mut ebpf = load(&object);
        let program: &mut Xdp = ebpf.program_mut("generate").unwrap().try_into().unwrap();
        program.load().unwrap();
        let frame = [0_u8; 64];
        let start = Instant::now();
        for _ in 0..laps {
            let options = TestRunOptions {
                data_in: Some(&frame),
                repeat: LAP,
                attrs: TestRunAttrs::new().xdp_live_frames(64),
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap();
        }
        start.elapsed()
    };
    let mut rates = Vec::new();
    for _ in 0..=rounds {
        let before = arrived(&sink);
        let took = lab.within("sub", lap.clone()).join().unwrap();
        let count = arrived(&sink) - before;
        rates.push(f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64() / 1e6);
    }
    // The first one warmed up: neighbours, pages.
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    rates
}

fn main() {
    if !possible() {
        return;
    }
    let object = compiled();
    println!("millions of 64-octet frames a second on one core: best (median), and its ratio to bare forwarding\n");
    println!("{:24} {:>22} {:>30}", "", "1 source", "4096 sources");
    let mut bare = [0.0; 2];
    for (name, plane) in [
        ("bare kernel forwarding", None),
        ("kernel", Some(Plane::Kernel)),
        ("bpf, tcx", Some(Plane::Tcx)),
        ("bpf, xdp", Some(Plane::Xdp)),
    ] {
        // Every end as from a wire: the sink is an XDP program in any case.
        let mut lab = Lab::new(Plane::Xdp);
        lab.plane = plane.unwrap_or(Plane::Kernel);
        lab.subscribers = format!("{MANY:?}, ");
        for interface in ["edge0", "priv0"] {
            lab.exec("isp", &["ethtool", "-K", interface, "gro", "on"]);
        }
        // What the tests count by would cost the kernel's path, and no other.
        for short in ["sub", "isp", "far", "net"] {
            lab.exec(short, &["nft", "flush", "ruleset"]);
        }
        lab.ip("isp", &format!("route add {MANY} via 198.51.100.70"));
        let running = plane.map(|_| {
            let forwarder = lab.forwarder("");
            forwarder.health.wait(FAR4, true);
            forwarder
        });
        if running.is_none() {
            lab.exec("isp", &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
            lab.ip("isp", &format!("route add {FAR4}/32 dev priv0"));
            lab.exec("isp", &["ping", "-n", "-c", "1", "-W", "5", FAR4]);
        } else {
            eventually("routes", || lab.exec("isp", &["ip", "route", "get", FAR4]).contains("priv0").then_some(()));
        }
        let mut line = format!("{name:24}");
        for (at, sources) in [(0, 1), (1, 4096)] {
            let rates = measure(&lab, &object, sources);
            let (best, median) = (rates[rates.len() - 1], rates[rates.len() / 2]);
            if plane.is_none() {
                bare[at] = best;
            }
            line.push_str(&format!("  {best:7.2} ({median:5.2})  {:5.2} x", best / bare[at]));
        }
        println!("{line}");
    }
}
