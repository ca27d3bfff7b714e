//! VXLAN by the program: every octet of what leaves, and what of all that comes in is let out of the tunnel.

use std::net::Ipv4Addr;

use forwarder_core::fast::Tunnel;

use super::*;
use crate::Kernel;

const DEVICE: [u8; 6] = [2, 0, 0, 0, 0, 0x70];
const INSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x71];

/// Of the interface that carries the tunnel, of the tunnel, and of the private address in it.
const UNDERLAY: u32 = 5;
const TUNNEL: u32 = 7;
/// An MTU of the underlay that the device does not know of.
const SMALL: usize = 1300;

/// Two ends, and what else `ip link add` is told of them.
struct Case {
    local: &'static str,
    remote: &'static str,
    options: &'static str,
}

const CASES: [Case; 4] = [
    Case { local: "192.0.2.249", remote: "192.0.2.250", options: "" },
    Case {
        local: "192.0.2.249",
        remote: "192.0.2.250",
        options: " noudpcsum df set ttl 33 tos 0x28 srcport 5000 5010",
    },
    Case { local: "192.0.2.249", remote: "192.0.2.250", options: " df inherit tos inherit" },
    Case { local: "2001:db8:0:fe::1", remote: "2001:db8:0:fe::2", options: "" },
];

fn mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn make(case: &Case) {
    ip("addr add 2001:db8:0:fe::1/64 dev priv0 nodad");
    ip(&format!("neigh replace 192.0.2.250 lladdr {} dev priv0 nud permanent", mac(FAR)));
    ip(&format!("-6 neigh replace 2001:db8:0:fe::2 lladdr {} dev priv0 nud permanent", mac(FAR)));
    let Case { local, remote, options } = case;
    ip(&format!(
        "link add vx0 index {TUNNEL} address {} type vxlan id 42 local {local} remote {remote} dstport 4790 dev priv0{options}",
        mac(DEVICE)
    ));
    ip("link set vx0 up");
    ip("addr add 192.0.2.241/30 dev vx0");
    for (family, address) in [("-4", "203.0.113.200"), ("-6", "2001:db8:c10a::200")] {
        ip(&format!("{family} route replace {address} dev vx0"));
        ip(&format!("{family} neigh replace {address} lladdr {} dev vx0 nud permanent", mac(INSIDE)));
    }
}

fn tunnel_policy() -> Policy {
    let prefix = |prefix: &str| SpecPrefix::new(prefix.parse().unwrap(), "main");
    Policy::new(Spec {
        links: vec![SpecLink { name: "main".into(), interface: "vx0".into() }],
        prefixes: vec![prefix("203.0.113.200/32"), prefix("2001:db8:c10a::200/128")],
        subscriber_prefixes: ["198.51.100.64/26", "2001:db8:5100:64::/64"].map(|p| p.parse().unwrap()).to_vec(),
        subscriber_interfaces: vec!["edge0".into()],
        live: Vec::new(),
    })
    .unwrap()
}

/// As the kernel tells it.
fn table() -> Table {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let policy = tunnel_policy();
    let host = runtime.block_on(async { Kernel::open().unwrap().host(&policy).await.unwrap() });
    policy.fast_table(&host)
}

fn sum(parts: &[&[u8]]) -> u16 {
    let mut all = parts.concat();
    all.resize(all.len().next_multiple_of(2), 0);
    checksum(&all)
}

/// The frame that carries `inside`, from `from` to `to`.
fn outside(
    tunnel: &Tunnel,
    macs: [[u8; 6]; 2],
    from: IpAddr,
    to: IpAddr,
    source: u16,
    tos: u8,
    inside: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(inside.len() + 16).unwrap().to_be_bytes();
    let mut udp = [source.to_be_bytes(), tunnel.port.to_be_bytes(), length, [0, 0]].concat();
    udp.extend([8, 0, 0, 0, 0, 0, 42, 0]);
    udp.extend(inside);
    let addresses = [octets(&from.to_string()), octets(&to.to_string())].concat();
    if tunnel.checksum {
        let check = sum(&[&addresses, &[0, 17], &length, &udp]);
        udp[6..8].copy_from_slice(&(if check == 0 { 0xffff } else { check }).to_be_bytes());
    }
    let mut frame = macs.concat();
    if from.is_ipv4() {
        frame.extend([8, 0, 0x45, tos]);
        frame.extend(u16::try_from(udp.len() + 20).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, tunnel.hops, 17, 0, 0]);
        frame.extend(addresses);
        seal(&mut frame);
    } else {
        frame.extend([0x86, 0xdd, 0x60 | tos >> 4, tos << 4, 0, 0]);
        frame.extend(length);
        frame.extend([17, tunnel.hops]);
        frame.extend(addresses);
    }
    frame.extend(udp);
    frame
}

/// Puts the checksum of the outer IPv4 header right.
fn seal(frame: &mut [u8]) {
    frame[24..26].copy_from_slice(&[0, 0]);
    let check = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// A packet between a subscriber and the private address.
fn between(port: u32, v4: bool, payload: usize, tos: u8, whole: bool) -> Vec<u8> {
    let (source, destination) = if port == 3 { (0, 5) } else { (5, 0) };
    let fragment = if whole { 0x4000 } else { 0 };
    let mut frame = frame(&Draw { port, v4, source, destination, fragment, payload, ..quiet() });
    if v4 {
        frame[15] = tos;
        seal(&mut frame);
    } else {
        frame[14] |= tos >> 4;
        frame[15] |= tos << 4;
    }
    if port != 3 {
        frame[..6].copy_from_slice(&DEVICE);
    }
    frame
}

/// As it is behind this host.
fn passed_on(frame: &[u8], macs: [[u8; 6]; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].copy_from_slice(&macs.concat());
    if frame[12] == 8 {
        frame[22] -= 1;
        seal(&mut frame);
    } else {
        frame[21] -= 1;
    }
    frame
}

fn run_carrier(object: &mut Object, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 128];
    let context = [0, u32::try_from(frame.len()).unwrap(), 0, UNDERLAY].map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = object.carrier().unwrap().test_run(options).unwrap();
    out.truncate(usize::try_from(result.data_size_out).unwrap());
    (result.return_value, out)
}

fn leaves_as_the_device_would_send_it(object: &mut Object, tunnel: &Tunnel) {
    let mut ports = Vec::new();
    for (v4, payload, tos, whole) in [
        (true, 30, 0, false),
        (true, 31, 0xb8, true),
        (false, 33, 0x02, false),
        (false, 1001, 0x03, false),
        (true, 1234, 0x01, true),
        (true, 8, 0x2b, false),
    ] {
        let plain = between(3, v4, payload, tos, whole);
        let mut frame = plain.clone();
        if frame.len() < 60 {
            // What was padded for the wire is not carried.
            frame.resize(60, 0xee);
        }
        let (word, out) = run(object, Hook::Xdp, 3, &frame).unwrap();
        assert_eq!(word, XDP_REDIRECT);
        let inside = passed_on(&plain, [INSIDE, DEVICE]);
        let start = if tunnel.remote.is_ipv4() { 34 } else { 54 };
        let port = u16::from_be_bytes([out[start], out[start + 1]]);
        assert!(tunnel.sources.contains(&port), "{port}");
        ports.push(port);
        let congestion = if tos & 3 == 3 { 2 } else { tos & 3 };
        let outer_tos = if tunnel.tos == 1 { tos & 0xfc } else { tunnel.tos & 0xfc } | congestion;
        let mut wanted = outside(tunnel, [FAR, LINK], tunnel.local, tunnel.remote, port, outer_tos, &inside);
        if tunnel.remote.is_ipv4() {
            use forwarder_core::fast::Whole;
            let keeps = match tunnel.whole {
                Whole::No => false,
                Whole::Yes => true,
                Whole::Inherited => !v4 || whole,
            };
            wanted[18..20].copy_from_slice(&out[18..20]);
            wanted[20] = if keeps { 0x40 } else { 0 };
            seal(&mut wanted);
        }
        assert_eq!(out, wanted, "{v4} {payload} {tos:#x}");
        assert_eq!(run(object, Hook::Xdp, 3, &frame).unwrap().1[start..start + 2], port.to_be_bytes(), "of the flow");
    }
    ports.dedup();
    assert!(ports.len() > 1, "every flow has the same source port");
}

fn is_let_out_or_left_alone(object: &mut Object, tunnel: &Tunnel) {
    let (is_v4, udp) = if tunnel.remote.is_ipv4() { (true, 34) } else { (false, 54) };
    let carry = |inside: &[u8], tos| outside(tunnel, [LINK, FAR], tunnel.remote, tunnel.local, 5001, tos, inside);
    for (v4, payload) in [(true, 30), (false, 700), (true, 1233)] {
        let inside = between(TUNNEL, v4, payload, 0x01, false);
        let (word, out) = run_carrier(object, &carry(&inside, 0x01));
        assert_eq!((word, &out), (XDP_REDIRECT, &passed_on(&inside, [SUBSCRIBER, EDGE])));
    }
    let inside = between(TUNNEL, true, 300, 0, false);
    let mut left_alone = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = carry(&inside, 0);
        change(&mut frame);
        if is_v4 {
            seal(&mut frame);
        }
        // The sum is right, unless that is the change.
        if what != "a wrong sum" && what != "no sum" && tunnel.checksum {
            frame[udp + 6..udp + 8].copy_from_slice(&[0, 0]);
            let addresses = if is_v4 { frame[26..34].to_vec() } else { frame[22..54].to_vec() };
            let length = u16::try_from(frame.len() - udp).unwrap().to_be_bytes();
            let check = sum(&[&addresses, &[0, 17], &length, &frame[udp..]]);
            frame[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
        }
        let (word, out) = run_carrier(object, &frame);
        assert_eq!(word, XDP_PASS, "{what}");
        assert_eq!(out, frame, "{what}: changed, and handed to the kernel");
    };
    let last = if is_v4 { (29, 33) } else { (37, 53) };
    left_alone("another VNI", &|frame| frame[udp + 14] = 43);
    left_alone("a number behind the VNI", &|frame| frame[udp + 15] = 1);
    left_alone("flags", &|frame| frame[udp + 8] = 0x88);
    left_alone("no VNI", &|frame| frame[udp + 8] = 0);
    left_alone("another remote", &|frame| frame[last.0] ^= 4);
    left_alone("another local", &|frame| frame[last.1] ^= 4);
    left_alone("another port", &|frame| frame[udp + 3] ^= 1);
    left_alone("another link-layer address", &|frame| frame[5] ^= 1);
    left_alone("congestion on the way", &|frame| if is_v4 { frame[15] |= 3 } else { frame[15] |= 0x30 });
    left_alone("a shorter UDP", &|frame| frame[udp + 5] -= 1);
    left_alone("an octet behind", &|frame| frame.push(0));
    left_alone("cut off", &|frame| frame.truncate(udp + 17));
    if is_v4 {
        left_alone("a fragment", &|frame| frame[20] = 0x20);
        left_alone("options", &|frame| frame[14] = 0x46);
    }
    if tunnel.checksum {
        left_alone("a wrong sum", &|frame| frame[udp + 7] ^= 1);
    }
    if !is_v4 {
        left_alone("no sum", &|frame| frame[udp + 6..udp + 8].copy_from_slice(&[0, 0]));
    }
    let inner = udp + 16;
    left_alone("another address inside", &|frame| frame[inner + 5] ^= 1);
    left_alone("a TTL that ends", &|frame| frame[inner + 22] = 1);
    left_alone("a source that is not private", &|frame| {
        frame[inner + 29] = 9;
        seal(&mut frame[inner..]);
    });
    left_alone("to no subscriber", &|frame| {
        frame[inner + 30..inner + 34].copy_from_slice(&Ipv4Addr::new(8, 8, 8, 8).octets());
        seal(&mut frame[inner..]);
    });
}

#[test]
fn a_tunnel_is_made_and_read_as_the_kernels_device_would() {
    for case in CASES {
        within(move |directory| {
            make(&case);
            let table = table();
            let tunnel = table.ports[&TUNNEL].tunnel.clone().unwrap();
            assert_eq!((tunnel.underlay.index, tunnel.vni, tunnel.port), (UNDERLAY, 42, 4790));
            let mut path = FastPath::open(directory).unwrap();
            path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap();
            assert!(path.pins.link(Hook::Xdp, UNDERLAY).exists() && !path.pins.link(Hook::Xdp, TUNNEL).exists());
            let mut object = Object::load(&table, Hook::Xdp, 1, directory).unwrap();
            leaves_as_the_device_would_send_it(&mut object, &tunnel);
            is_let_out_or_left_alone(&mut object, &tunnel);

            // Too big for what carries it, whatever the device's own MTU says.
            let size = if tunnel.remote.is_ipv4() { 50 } else { 70 };
            ip(&format!("link set priv0 mtu {SMALL}"));
            let long = |length: usize| between(3, true, length - 20, 0, true);
            refused_soon(&mut object, &long(SMALL - size + 1));
            assert!(is_forwarded(&mut object, &long(SMALL - size)));

            // An unknown neighbour on the way, and a way by another interface.
            let good = between(3, true, 30, 0, false);
            let (family, remote) = if size == 50 { ("-4", "192.0.2.250") } else { ("-6", "2001:db8:0:fe::2") };
            ip(&format!("{family} neigh del {remote} dev priv0"));
            refused_soon(&mut object, &good);
            ip(&format!("{family} neigh replace {remote} lladdr {} dev priv0 nud permanent", mac(FAR)));
            assert!(is_forwarded(&mut object, &good));
            ip(&format!("{family} route add {remote} dev edge0"));
            ip(&format!("{family} neigh replace {remote} lladdr {} dev edge0 nud permanent", mac(SUBSCRIBER)));
            let (word, out) = run(&mut object, Hook::Xdp, 3, &good).unwrap();
            assert!(word == XDP_PASS || out[..12] == [FAR, LINK].concat(), "it left by another interface");
            ip(&format!("{family} route del {remote} dev edge0"));
            ip("link set priv0 down");
            refused_soon(&mut object, &good);
        });
    }
}

#[test]
fn a_tunnel_that_is_down_or_not_a_plain_one_is_left_to_the_kernel() {
    within(|directory| {
        make(&CASES[0]);
        let table_up = table();
        let mut path = FastPath::open(directory).unwrap();
        path.apply(&table_up, Hook::Xdp, false, FastPath::forwards).unwrap();
        ip("link set vx0 down");
        let table_down = table();
        let tunnel = table_down.ports[&TUNNEL].tunnel.clone().unwrap();
        assert!(!tunnel.is_up);
        assert!(path.apply(&table_down, Hook::Xdp, false, FastPath::forwards).unwrap());
        let mut object = Object::load(&table_down, Hook::Xdp, 2, directory).unwrap();
        let inside = between(TUNNEL, true, 30, 0, false);
        let frame = outside(&tunnel, [LINK, FAR], tunnel.remote, tunnel.local, 5001, 0, &inside);
        assert_eq!(run_carrier(&mut object, &frame), (XDP_PASS, frame));
        // Any other end, and extensions.
        for how in
            ["id 42 dstport 4790 dev priv0", "id 42 local 192.0.2.249 remote 192.0.2.250 gbp dstport 4790 dev priv0"]
        {
            ip("link del vx0");
            ip(&format!("link add vx0 index {TUNNEL} address {} type vxlan {how}", mac(DEVICE)));
            assert_eq!(table().ports[&TUNNEL].tunnel, None, "{how}");
        }
        // Then there is no XDP, and tcx behind the device.
        let error = path.apply(&table(), Hook::Xdp, true, FastPath::forwards).unwrap_err().to_string();
        assert!(error.contains("vx0") || error.contains("interface 7"), "{error}");
        assert!(path.apply(&table(), Hook::Tcx, false, FastPath::forwards).unwrap());
    });
}

/// Whether it is forwarded, soon: an answer of the routing table is kept for some ticks.
fn is_forwarded(object: &mut Object, frame: &[u8]) -> bool {
    let start = std::time::Instant::now();
    while run(object, Hook::Xdp, 3, frame).unwrap().0 != XDP_REDIRECT {
        if start.elapsed().as_secs() > 30 {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn refused_soon(object: &mut Object, frame: &[u8]) {
    let start = std::time::Instant::now();
    while run(object, Hook::Xdp, 3, frame).unwrap() != (XDP_PASS, frame.to_vec()) {
        assert!(start.elapsed().as_secs() < 30, "still forwarded");
        std::thread::yield_now();
    }
}
