//! How many frames a lab forwards in a second, between a generator and a sink that are XDP programs.

use std::process::Command;
use std::time::{Duration, Instant};

use aya::maps::PerCpuArray;
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::number;

/// Frames between two looks at the clock: fewer, and the kernel's tearing down of the pages shows.
const LAP: u32 = 1 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// So many, one in `stride` addresses from `first_source` on.
    pub(crate) sources: u32,
    pub(crate) stride: u32,
    pub(crate) first_source: u32,
    pub(crate) destinations: u32,
    pub(crate) first_destination: u32,
    /// A generator on each.
    pub(crate) cores: usize,
}

/// The programs, compiled.
pub(crate) fn compiled() -> Vec<u8> {
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

/// Millions a second: the best round, and the one in the middle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) best: f64,
    pub(crate) median: f64,
}

/// What a lab forwards.
pub(crate) fn measure(lab: &Lab, object: &[u8], load: Load) -> Rate {
    let (rounds, laps) = (number("ROUNDS", 7), number("LAPS", 4));
    let index = |short: &str, interface: &str| -> u32 {
        let path = format!("/sys/class/net/{interface}/ifindex");
        lab.exec(short, &["cat", &path]).trim().parse().unwrap()
    };
    let mac = lab.exec("isp", &["cat", "/sys/class/net/edge0/address"]);
    let mac: Vec<u8> = mac.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    let mac = mac.iter().rev().fold(0_u64, |all, octet| all << 8 | u64::from(*octet));
    let (out, far) = (index("sub", "eth0"), index("far", "priv0"));
    let loaded = move |object: &[u8]| -> Ebpf {
        EbpfLoader::new()
            .override_global("out", &out, true)
            .override_global("sources", &load.sources, true)
            .override_global("stride", &load.stride, true)
            .override_global("first_source", &load.first_source, true)
            .override_global("destinations", &load.destinations, true)
            .override_global("first_destination", &load.first_destination, true)
            .override_global("to_mac", &mac, true)
            .load(object)
            .unwrap()
    };
    let sink = {
        let object = object.to_vec();
        let attached = lab.within("far", move || {
            let mut ebpf = loaded(&object);
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
    let lap = move |core: usize| {
        let object = object.clone();
        move || {
            let mut cores = CpuSet::new();
            cores.set(core).unwrap();
            sched_setaffinity(Pid::from_raw(0), &cores).unwrap();
            let mut ebpf = loaded(&object);
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
        }
    };
    let mut rates = Vec::new();
    for _ in 0..=rounds {
        let before = arrived(&sink);
        let threads: Vec<_> = (0..load.cores).map(|core| lab.within("sub", lap(core))).collect();
        let took = threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap_or(Duration::ZERO);
        let count = arrived(&sink) - before;
        rates.push(count as f64 / took.as_secs_f64() / 1e6);
    }
    // The first one warmed up: neighbours, pages.
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    Rate { best: rates[rates.len() - 1], median: rates[rates.len() / 2] }
}
