//! The program in the kernel against its model, frame by frame, and the life of its pins.
//!
//! Needs root: each test has a network and a mount namespace of its own, with a BPF file system in it.
#![allow(clippy::indexing_slicing, clippy::panic, reason = "what fails here fails the test")]

use std::net::IpAddr;
use std::process::Command;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use forwarder_core::fast::{Hop, Host, HostInterface};
use forwarder_core::{Egress, Ingress, Policy, Spec, SpecLink, SpecPrefix, Verdict, parse};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;

mod metered;
mod tunnelled;

const EDGE: [u8; 6] = [2, 0, 0, 0, 0, 3];
const LINK: [u8; 6] = [2, 0, 0, 0, 0, 5];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SUBSCRIBER: [u8; 6] = [2, 0, 0, 0, 0, 7];
const MTU: usize = 1400;

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_REDIRECT: u32 = 7;

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Without it at its other end a veth takes no redirected frames.
fn gro(interface: &str, word: &str) {
    let status = Command::new("ethtool").args(["-K", interface, "gro", word]).status().unwrap();
    assert!(status.success(), "{interface}");
}

/// Runs `work` in namespaces of its own with a subscribers' side, a private link and a BPF file system.
fn within(work: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        cloakway_testing::skip("namespaces and BPF need root");
        return;
    }
    assert!(object::is_built_in(), "built without clang");
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount::<str, str, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        mount::<str, Path, str, str>(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), None).unwrap();
        for (setting, value) in
            [("ipv4.ip_forward", 1), ("ipv6.conf.all.forwarding", 1), ("ipv6.conf.default.accept_dad", 0)]
        {
            let status = Command::new("sysctl").args(["-q", "-w", &format!("net.{setting}={value}")]).status().unwrap();
            assert!(status.success(), "{setting}");
        }
        let mac = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
        ip("link set lo up");
        for (index, name, peer, own) in [(3, "edge0", "sub0", EDGE), (5, "priv0", "far0", LINK)] {
            let queues = "numrxqueues 1 numtxqueues 1";
            ip(&format!(
                "link add {name} index {index} address {} {queues} type veth peer name {peer} {queues}",
                mac(own)
            ));
            // Its kernel would send frames of its own, and they would be counted.
            let quiet = format!("net.ipv6.conf.{peer}.disable_ipv6=1");
            assert!(Command::new("sysctl").args(["-q", "-w", &quiet]).status().unwrap().success());
            ip(&format!("link set {peer} up"));
            gro(peer, "on");
            ip(&format!("link set {name} mtu {} up", if name == "priv0" { MTU } else { 1500 }));
        }
        ip("addr add 198.51.100.65/26 dev edge0");
        ip("addr add 2001:db8:5100:64::1/64 dev edge0 nodad");
        ip("addr add 192.0.2.249/30 dev priv0");
        for address in ["203.0.113.200", "203.0.113.202"] {
            ip(&format!("route add {address}/32 dev priv0"));
            ip(&format!("neigh add {address} lladdr {} dev priv0 nud permanent", mac(FAR)));
        }
        for address in ["2001:db8:c10a::200", "2001:db8:c10a::202"] {
            ip(&format!("-6 route add {address}/128 dev priv0"));
            ip(&format!("-6 neigh add {address} lladdr {} dev priv0 nud permanent", mac(FAR)));
        }
        // Routed wrongly on purpose, and not routed at all.
        ip("route add 203.0.113.201/32 dev edge0");
        ip(&format!("neigh add 203.0.113.201 lladdr {} dev edge0 nud permanent", mac(SUBSCRIBER)));
        ip("route add blackhole 203.0.113.203/32");
        ip(&format!("neigh add 198.51.100.70 lladdr {} dev edge0 nud permanent", mac(SUBSCRIBER)));
        ip(&format!("-6 neigh add 2001:db8:5100:64::70 lladdr {} dev edge0 nud permanent", mac(SUBSCRIBER)));
        work(&folder.path().join("pins"));
        nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    })
    .join()
    .unwrap_or_else(|cause| std::panic::resume_unwind(cause));
}

fn policy() -> Policy {
    let prefix = |prefix: &str, services: &[&str]| SpecPrefix {
        services: services.iter().map(ToString::to_string).collect(),
        ..SpecPrefix::new(prefix.parse().unwrap(), "main")
    };
    let services = ["tcp/443", "udp/5000-5100", "icmp", "esp"];
    Policy::new(Spec {
        links: vec![SpecLink { name: "main".into(), interface: "priv0".into() }],
        prefixes: vec![
            prefix("203.0.113.200/32", &[]),
            prefix("203.0.113.201/32", &[]),
            prefix("203.0.113.202/32", &services),
            prefix("203.0.113.203/32", &[]),
            prefix("2001:db8:c10a::200/128", &[]),
            prefix("2001:db8:c10a::202/128", &services),
        ],
        subscriber_prefixes: ["198.51.100.64/26", "2001:db8:5100:64::/64"].map(|p| p.parse().unwrap()).to_vec(),
        subscriber_interfaces: vec!["edge0".into()],
        live: Vec::new(),
    })
    .unwrap()
}

fn host() -> Host {
    let interface = |index, mac| HostInterface { index, mac: Some(mac), kind: Some("veth".into()), tunnel: None };
    Host {
        interfaces: [("edge0".to_owned(), interface(3, EDGE)), ("priv0".to_owned(), interface(5, LINK))].into(),
        addresses: ["198.51.100.65/26", "192.0.2.249/30", "2001:db8:5100:64::1/64"]
            .map(|a| a.parse().unwrap())
            .to_vec(),
    }
}

/// What the routing table of [`within`] says.
fn hop(address: IpAddr) -> Option<Hop> {
    match address.to_string().as_str() {
        "203.0.113.200" | "203.0.113.202" | "2001:db8:c10a::200" | "2001:db8:c10a::202" => {
            Some(Hop { out: 5, mtu: MTU })
        }
        "203.0.113.201" | "198.51.100.70" | "2001:db8:5100:64::70" => Some(Hop { out: 3, mtu: 1500 }),
        _ => None,
    }
}

const ADDRESSES4: &[&str] = &[
    "198.51.100.70",
    "198.51.100.70",
    "198.51.100.71",
    "198.51.100.65",
    "198.51.100.127",
    "203.0.113.200",
    "203.0.113.200",
    "203.0.113.201",
    "203.0.113.202",
    "203.0.113.202",
    "203.0.113.203",
    "192.0.2.250",
    "224.0.0.1",
    "127.0.0.1",
    "8.8.8.8",
];

const ADDRESSES6: &[&str] = &[
    "2001:db8:5100:64::70",
    "2001:db8:5100:64::70",
    "2001:db8:5100:64::71",
    "2001:db8:5100:64::1",
    "2001:db8:5100:64::",
    "2001:db8:c10a::200",
    "2001:db8:c10a::200",
    "2001:db8:c10a::202",
    "2001:db8:c10a::202",
    "fe80::1",
    "ff02::1",
    "::1",
    "2001:db8::1",
];

/// A frame that is plain but for what the draws broke.
#[derive(Debug, Clone)]
struct Draw {
    port: u32,
    v4: bool,
    source: usize,
    destination: usize,
    protocol: u8,
    ports: (u16, u16),
    hops: u8,
    payload: usize,
    padding: usize,
    /// Octets to overwrite, within the frame.
    damage: Vec<(prop::sample::Index, u8)>,
    wrong_mac: bool,
    fragment: u16,
    /// To be added to the length field.
    longer: i16,
    /// Leave the header checksum as it was before the other damage.
    cut: Option<prop::sample::Index>,
}

fn draw() -> impl Strategy<Value = Draw> {
    let seldom = |odds: f64| prop::bool::weighted(odds);
    let addresses = (any::<usize>(), any::<usize>());
    let protocol =
        prop_oneof![4 => Just(6_u8), 4 => Just(17), 1 => Just(1), 1 => Just(58), 1 => Just(50), 1 => any::<u8>()];
    let port = prop_oneof![Just(443_u16), Just(5000), Just(5050), Just(5101), any::<u16>()];
    let payload = prop_oneof![0..80_usize, (MTU - 60)..=MTU];
    let damage = prop_oneof![
        8 => Just(Vec::new()),
        2 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3)
    ];
    (
        (prop_oneof![Just(3_u32), Just(5)], any::<bool>(), addresses, protocol, (port.clone(), port)),
        (
            prop_oneof![8 => Just(64_u8), 1 => 0..3_u8],
            payload,
            prop_oneof![4 => Just(0_usize), 1 => 0..50_usize],
            damage,
        ),
        (
            seldom(0.05),
            prop_oneof![9 => Just(0_u16), 1 => any::<u16>()],
            prop_oneof![9 => Just(0_i16), 1 => -60..60_i16],
        ),
        prop::option::weighted(0.05, any::<prop::sample::Index>()),
    )
        .prop_map(|(a, b, c, cut)| Draw {
            port: a.0,
            v4: a.1,
            // Every other one between a subscriber and the private prefix, as it should be.
            source: if a.2.0 % 2 == 0 {
                a.2.0 / 2
            } else if a.0 == 3 {
                0
            } else {
                5
            },
            destination: if a.2.0 % 2 == 0 {
                a.2.1
            } else if a.0 == 3 {
                5
            } else {
                0
            },
            protocol: a.3,
            ports: a.4,
            hops: b.0,
            payload: b.1,
            padding: b.2,
            damage: b.3,
            wrong_mac: c.0,
            fragment: c.1,
            longer: c.2,
            cut,
        })
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn frame(draw: &Draw) -> Vec<u8> {
    let own = if draw.port == 3 { EDGE } else { LINK };
    let mut to = own;
    if draw.wrong_mac {
        to[5] ^= 1;
    }
    let mut frame = [to, SUBSCRIBER].concat();
    // Not the sum of a pseudo header: that is looked at by itself.
    let transport = [draw.ports.0.to_be_bytes(), draw.ports.1.to_be_bytes()].concat();
    let payload: Vec<u8> = transport.into_iter().chain([0xa5].into_iter().cycle()).take(draw.payload).collect();
    let length = |header: usize| {
        let length = i32::try_from(payload.len() + header).unwrap() + i32::from(draw.longer);
        u16::try_from(length.max(0)).unwrap().to_be_bytes()
    };
    if draw.v4 {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(length(20));
        frame.extend([0, 1]);
        frame.extend(draw.fragment.to_be_bytes());
        frame.extend([draw.hops, draw.protocol, 0, 0]);
        frame.extend(octets(ADDRESSES4[draw.source % ADDRESSES4.len()]));
        frame.extend(octets(ADDRESSES4[draw.destination % ADDRESSES4.len()]));
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length(0));
        frame.extend([draw.protocol, draw.hops]);
        frame.extend(octets(ADDRESSES6[draw.source % ADDRESSES6.len()]));
        frame.extend(octets(ADDRESSES6[draw.destination % ADDRESSES6.len()]));
    }
    frame.extend(payload);
    frame.resize(frame.len() + draw.padding, 0);
    for (at, octet) in &draw.damage {
        let at = at.index(frame.len().min(80));
        frame[at] = *octet;
    }
    if let Some(cut) = &draw.cut {
        frame.truncate(14 + cut.index(frame.len() - 14));
    }
    frame
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.as_chunks().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// What the program in the kernel makes of a frame: its word, and the frame; `None` when it cannot be asked.
fn run(object: &mut Object, hook: Hook, port: u32, frame: &[u8]) -> Option<(u32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + 128];
    let length = u32::try_from(frame.len()).unwrap();
    let context = match hook {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex.
        Hook::Xdp => [0, length, 0, port].map(u32::to_ne_bytes).concat(),
        // struct __sk_buff: the eleventh word is ifindex.
        Hook::Tcx => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, port].map(u32::to_ne_bytes).concat(),
    };
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = match hook {
        Hook::Xdp => object.xdp().unwrap().test_run(options),
        Hook::Tcx => object.tcx().unwrap().test_run(options),
    };
    let result = match result {
        // The kernel takes no skb that is shorter than its IP header, whatever the frame is.
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::InvalidInput && frame.len() < 54 =>
        {
            return None;
        }
        result => result.unwrap(),
    };
    out.truncate(usize::try_from(result.data_size_out).unwrap());
    Some((result.return_value, out))
}

fn against_the_model(hook: Hook, directory: &Path) {
    let cases = std::env::var("FAST_PATH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    let policy = policy();
    let table = policy.fast_table(&host());
    let mut path = FastPath::open(directory).unwrap();
    assert!(path.apply(&table, hook, false, FastPath::forwards).unwrap());
    // The same program once more, for its file descriptor: it forwards when its generation does.
    let mut object = Object::load(&table, hook, 1, directory).unwrap();
    let mut seen = BTreeMap::<Outcome, u32>::new();
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = draw();
    for _ in 0..cases {
        let draw = strategy.new_tree(&mut runner).unwrap().current();
        let frame = frame(&draw);
        let before = path.counts().unwrap();
        let Some((word, out)) = run(&mut object, hook, draw.port, &frame) else { continue };
        let after = path.counts().unwrap();
        let counted: Vec<Outcome> =
            Outcome::ALL.into_iter().filter(|outcome| after[outcome].packets != before[outcome].packets).collect();
        let expected = table.outcome(draw.port, &frame, hop).unwrap();
        assert_eq!(counted, [expected], "{draw:?}\n{frame:02x?}");
        *seen.entry(expected).or_default() += 1;
        if !matches!(expected, Outcome::ToPrivate | Outcome::FromPrivate) {
            let passed = if hook == Hook::Xdp { XDP_PASS } else { u32::MAX };
            assert_eq!(word, passed, "{draw:?}");
            assert_eq!(out, frame, "changed, and handed to the kernel: {draw:?}");
            continue;
        }
        assert_eq!(word, if hook == Hook::Xdp { XDP_REDIRECT } else { TC_REDIRECT }, "{draw:?}");
        // What the fast path forwards, the policy allows, and it leaves as the kernel would send it.
        let parsed = parse(&frame[14..]).unwrap();
        let (from, to) = if draw.port == 3 { ("edge0", "priv0") } else { ("priv0", "edge0") };
        let verdict = policy.decide(&parsed.packet(Ingress::Interface(from), Egress::Interface(to), false));
        let allowed = matches!(
            (expected, verdict),
            (Outcome::ToPrivate, Verdict::ToLink(_)) | (Outcome::FromPrivate, Verdict::ToSubscriber)
        );
        assert!(allowed, "{verdict:?} {draw:?}");
        let mut wanted = frame.clone();
        let macs = if draw.port == 3 { [FAR, LINK] } else { [SUBSCRIBER, EDGE] };
        wanted[..12].copy_from_slice(&macs.concat());
        if draw.v4 {
            wanted[22] -= 1;
            wanted[24..26].copy_from_slice(&[0, 0]);
            let sum = checksum(&wanted[14..34]);
            wanted[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            wanted[21] -= 1;
        }
        assert_eq!(out, wanted, "{draw:?}");
    }
    for outcome in [Outcome::ToPrivate, Outcome::FromPrivate, Outcome::Service, Outcome::NoHop, Outcome::TooBig] {
        assert!(seen.get(&outcome).copied().unwrap_or_default() > 3, "{outcome:?} hardly met: {seen:?}");
    }

    // Told to stand aside it does, until it is applied again.
    let good = Draw {
        port: 3,
        v4: true,
        source: 0,
        destination: 5,
        protocol: 17,
        ports: (1, 2),
        hops: 64,
        payload: 60,
        ..quiet()
    };
    let mut forwards =
        || run(&mut object, hook, 3, &frame(&good)).unwrap().0 != if hook == Hook::Xdp { XDP_PASS } else { u32::MAX };
    FastPath::stand_aside(directory).unwrap();
    assert!(!forwards());
    assert!(!path.apply(&table, hook, false, FastPath::forwards).unwrap());
    assert!(forwards());

    // Another generation stands aside, whatever it knows.
    let mut stale = Object::load(&table, hook, 7, directory).unwrap();
    assert!(run(&mut object, hook, 3, &frame(&good)).unwrap().0 != run(&mut stale, hook, 3, &frame(&good)).unwrap().0);
}

fn quiet() -> Draw {
    Draw {
        port: 3,
        v4: true,
        source: 0,
        destination: 0,
        protocol: 17,
        ports: (0, 0),
        hops: 64,
        payload: 0,
        padding: 0,
        damage: Vec::new(),
        wrong_mac: false,
        fragment: 0,
        longer: 0,
        cut: None,
    }
}

#[test]
fn with_xdp_it_does_what_its_model_does() {
    within(|directory| against_the_model(Hook::Xdp, directory));
}

#[test]
fn with_tcx_it_does_what_its_model_does() {
    within(|directory| against_the_model(Hook::Tcx, directory));
}

#[test]
fn a_checksum_that_was_left_to_a_device_is_left_to_the_kernel() {
    within(|directory| {
        let table = policy().fast_table(&host());
        let mut path = FastPath::open(directory).unwrap();
        path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap();
        let mut object = Object::load(&table, Hook::Xdp, 1, directory).unwrap();
        for v4 in [true, false] {
            let destination = 5;
            let mut octets = frame(&Draw { v4, destination, protocol: 6, payload: 20, ..quiet() });
            let header = if v4 { 20 } else { 40 };
            let addresses = if v4 { &octets[26..34] } else { &octets[22..54] };
            let pseudo = [addresses, &[0, 6, 0, 20]].concat();
            let partial = !checksum(&pseudo);
            octets[14 + header + 16..][..2].copy_from_slice(&partial.to_be_bytes());
            assert_eq!(run(&mut object, Hook::Xdp, 3, &octets).unwrap().0, XDP_PASS);
            octets[14 + header + 16] ^= 1;
            assert_eq!(run(&mut object, Hook::Xdp, 3, &octets).unwrap().0, XDP_REDIRECT);
        }
        assert_eq!(path.counts().unwrap()[&Outcome::PartialChecksum].packets, 2);
    });
}

#[test]
fn a_dscp_is_set_beside_every_ecn_and_what_begins_a_connection_is_left_to_the_kernel() {
    within(|directory| {
        let mut table = policy().fast_table(&host());
        for (_, private) in &mut table.private {
            private.dscp = Some(46);
        }
        table.clamps_mss = true;
        for hook in [Hook::Xdp, Hook::Tcx] {
            let mut path = FastPath::open(directory).unwrap();
            path.apply(&table, hook, false, FastPath::forwards).unwrap();
            let mut object = Object::load(&table, hook, path.pins.forwarding().unwrap(), directory).unwrap();
            for (v4, port, tos) in [true, false]
                .into_iter()
                .flat_map(|v4| [3, 5].map(|port| (v4, port)))
                .flat_map(|(v4, port)| (0..=255).map(move |tos| (v4, port, tos)))
            {
                let (source, destination) = if port == 3 { (0, 5) } else { (5, 0) };
                let mut octets = frame(&Draw { port, v4, source, destination, payload: 60, ..quiet() });
                let traffic_class = |octets: &mut [u8], tos: u8| {
                    if v4 {
                        octets[15] = tos;
                        octets[24..26].copy_from_slice(&[0, 0]);
                        let sum = checksum(&octets[14..34]);
                        octets[24..26].copy_from_slice(&sum.to_be_bytes());
                    } else {
                        octets[14..16].copy_from_slice(&[0x60 | tos >> 4, tos << 4 | 5]);
                    }
                };
                traffic_class(&mut octets, tos);
                let out = run(&mut object, hook, port, &octets).unwrap().1;
                let mut wanted = octets.clone();
                let macs = if port == 3 { [FAR, LINK] } else { [SUBSCRIBER, EDGE] };
                wanted[..12].copy_from_slice(&macs.concat());
                wanted[if v4 { 22 } else { 21 }] -= 1;
                traffic_class(&mut wanted, 46 << 2 | (tos & 3));
                assert_eq!(out, wanted, "{hook:?} {v4} {port} {tos:#x}");
            }
            for (v4, flags) in [(true, 0x02), (true, 0x12), (false, 0x42), (true, 0x10), (false, 0x11)] {
                let mut octets = frame(&Draw { v4, destination: 5, protocol: 6, payload: 24, ..quiet() });
                octets[if v4 { 47 } else { 67 }] = flags;
                let (word, out) = run(&mut object, hook, 3, &octets).unwrap();
                let outcome = table.outcome(3, &octets, hop).unwrap();
                if flags & 2 == 0 {
                    assert_eq!(outcome, Outcome::ToPrivate);
                    assert!(word == if hook == Hook::Xdp { XDP_REDIRECT } else { TC_REDIRECT });
                } else {
                    assert_eq!(outcome, Outcome::Synchronises);
                    assert_eq!((word, out), (if hook == Hook::Xdp { XDP_PASS } else { u32::MAX }, octets));
                }
            }
        }
        let counts = FastPath::open(directory).unwrap().counts().unwrap();
        assert_eq!(counts[&Outcome::Synchronises].packets, 6);
    });
}

/// Waits until the kernel has let go of a link whose last pin was removed: it does so a moment later.
fn gone(attached: &dyn Fn() -> bool) {
    let start = std::time::Instant::now();
    while attached() {
        assert!(start.elapsed().as_secs() < 10, "still attached");
        std::thread::yield_now();
    }
}

#[test]
fn pins_outlive_the_process_and_go_when_they_are_removed() {
    within(|directory| {
        let table = policy().fast_table(&host());
        let attached = || {
            let shown = Command::new("ip").args(["link", "show", "dev", "edge0"]).output().unwrap();
            String::from_utf8(shown.stdout).unwrap().contains("xdp")
        };
        let mut path = FastPath::open(directory).unwrap();
        assert!(path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap());
        assert!(!path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap(), "what is there stays");
        drop(path);
        assert!(attached());
        // Its successor takes over, and counts on.
        let mut path = FastPath::open(directory).unwrap();
        assert!(path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap());
        assert_eq!(path.pins.newest().unwrap(), 2);
        // To the other hook and back, without an interface that the policy no longer has.
        let mut fewer = table.clone();
        fewer.ports.remove(&5);
        assert!(path.apply(&fewer, Hook::Tcx, false, FastPath::forwards).unwrap());
        gone(&attached);
        assert!(path.pins.link(Hook::Tcx, 3).exists() && !path.pins.link(Hook::Tcx, 5).exists());
        assert!(path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap());
        assert!(attached());
        FastPath::remove(directory).unwrap();
        gone(&attached);
        assert!(!directory.exists());
        FastPath::remove(directory).unwrap();
    });
}

#[test]
fn where_redirected_frames_would_vanish_there_is_no_xdp() {
    within(|directory| {
        let table = policy().fast_table(&host());
        let mut path = FastPath::open(directory).unwrap();
        gro("far0", "off");
        let error = path.apply(&table, Hook::Xdp, true, FastPath::forwards).unwrap_err().to_string();
        assert_eq!(error, "XDP at priv0: it takes no redirected frames (a veth does when its other end has GRO on)");
        assert_eq!(path.pins.forwarding().unwrap(), 0);
        assert!(path.apply(&table, Hook::Tcx, false, FastPath::forwards).unwrap(), "tcx does not mind");
        gro("far0", "on");
        assert!(path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap());
        // Also when it is so no longer.
        gro("far0", "off");
        path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap_err();
        assert_eq!(path.pins.forwarding().unwrap(), 0);
    });
}

#[test]
fn a_directory_that_is_on_no_bpf_file_system_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = FastPath::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is on no BPF file system: mount one there or above"), "{error}");
}
