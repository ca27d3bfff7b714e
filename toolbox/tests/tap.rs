//! Listening between radclient and FreeRADIUS: at a mirror port, and at the server's own interface.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakway_testing::{have, skip};
use pnet::datalink::{self, Channel, DataLinkSender};
use running::radius::{FreeRadius, HOME_SECRET, LETS_IN, program, radclient_in};
use running::{PATIENCE, Toolbox, eventually};
use serde_json::{Value, json};
use toolbox_wire::radius::Packet;
use toolbox_wire::radius::relay::{self, Side};

const ALICE: &str = "alice@isp.example";
const AT: &str = "198.51.100.70";

fn possible() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("listening to others needs root");
        return false;
    }
    have("freeradius", "freeradius") && have("radclient", "freeradius-utils")
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A NAS and a server in namespaces of their own, and what the server's interface sees at an interface here.
struct Lab {
    server: String,
    nas: String,
    mirror: String,
}

impl Lab {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lab = Self { server: format!("rt{name}s"), nas: format!("rt{name}n"), mirror: format!("rt{name}m") };
        let (server, nas, mirror) = (&lab.server, &lab.nas, &lab.mirror);
        let ip = |words: &str| must(Command::new("ip").args(words.split(' ')));
        ip(&format!("netns add {server}"));
        ip(&format!("netns add {nas}"));
        ip(&format!("-n {server} link add s0 type veth peer name n0 netns {nas}"));
        ip(&format!("link add {mirror} type veth peer name m0 netns {server}"));
        for (space, link, four, six) in
            [(server, "s0", "10.77.0.2/24", "2001:db8:77::2/64"), (nas, "n0", "10.77.0.1/24", "2001:db8:77::1/64")]
        {
            ip(&format!("-n {space} addr add {four} dev {link}"));
            ip(&format!("-n {space} addr add {six} dev {link} nodad"));
            ip(&format!("-n {space} link set {link} up"));
        }
        ip(&format!("-n {server} link set m0 up"));
        ip(&format!("link set {mirror} up"));
        let rules = "table netdev mirror {\n chain in {\n type filter hook ingress device s0 priority 0;\n dup to \"m0\";\n }\n \
                     chain out {\n type filter hook egress device s0 priority 0;\n dup to \"m0\";\n }\n}\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mirror.nft");
        std::fs::write(&file, rules).unwrap();
        must(program(Some(server), "nft").arg("-f").arg(file));
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The links go with their namespaces.
        for space in [&self.server, &self.nas] {
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn toolbox(interface: &str, nas: &[&str], servers: &str, ports: &[SocketAddr]) -> Toolbox {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nas.secret"), HOME_SECRET).unwrap();
    let dir = folder.path().display().to_string();
    let mut tables = String::new();
    for (n, prefix) in nas.iter().enumerate() {
        tables += &format!(
            "[[radius.clients]]\nname = \"nas{n}\"\nprefix = \"{prefix}\"\nsecret-file = \"{dir}/nas.secret\"\n"
        );
    }
    let numbers: Vec<u16> = ports.iter().map(SocketAddr::port).collect();
    tables += &format!(
        "[[radius.taps]]\nname = \"mirror\"\ninterface = \"{interface}\"\nservers = [{servers}]\n\
         authentication-ports = [{}]\naccounting-ports = {:?}\n",
        numbers[0],
        &numbers[1..]
    );
    Toolbox::start_in(folder, "", "", &tables)
}

fn seen(toolbox: &Toolbox, what: &str) -> u64 {
    let sources = toolbox.show("sources").unwrap();
    sources["taps"]["mirror"][what].as_u64().unwrap_or(0)
}

fn record(status: &str, session: &str) -> String {
    format!(
        "Acct-Status-Type = {status}, Acct-Session-Id = \"{session}\", User-Name = \"{ALICE}\", NAS-Identifier = \"edge\", \
         Framed-IP-Address = {AT}\n"
    )
}

#[test]
fn what_a_server_acknowledges_is_learnt_at_a_mirror_port_by_ipv4_and_ipv6() {
    if !possible() || !have("nft", "nftables") {
        return;
    }
    let lab = Lab::new();
    for (at, from) in [("10.77.0.2", "10.77.0.1"), ("2001:db8:77::2", "2001:db8:77::1")] {
        let more = format!("client nas {{\n    ipaddr = {from}\n    secret = \"{HOME_SECRET}\"\n}}\n");
        let home = FreeRadius::start_in(Some(&lab.server), at.parse().unwrap(), &more, LETS_IN);
        let servers = "\"10.77.0.2/32\", \"2001:db8:77::2/128\"";
        let toolbox = toolbox(
            &lab.mirror,
            &["10.77.0.1/32", "2001:db8:77::1/128"],
            servers,
            &[home.authentication, home.accounting],
        );
        let dir = toolbox.path("");
        let say = |server, command, attributes: &str| {
            let said = radclient_in(Some(&lab.nas), &dir, server, command, HOME_SECRET, attributes, 5);
            assert!(said.answered, "{}{}", said.text, home.log());
        };
        let access = format!("User-Name = \"{ALICE}\", User-Password = \"hello\", NAS-Identifier = \"edge\"\n");
        say(home.authentication, "auth", &access);
        eventually("the Accept is seen", || (seen(&toolbox, "granted") == 1).then_some(()));
        say(home.accounting, "acct", &record("Start", "1"));
        eventually("the Start is learnt", || (seen(&toolbox, "learnt") == 1).then_some(()));
        eventually("alice is there", || toolbox.live(ALICE, AT).then_some(()));
        assert!(toolbox.live(ALICE, "2001:db8:5100:6400::1"), "what the Accept delegates");
        assert_eq!(toolbox.verify(ALICE, AT)["source"], json!("radius-tap"));
        say(home.accounting, "acct", &record("Stop", "1"));
        eventually("alice is gone", || (toolbox.reason(ALICE, AT) == "ended").then_some(()));
        let sources = toolbox.show("sources").unwrap();
        assert_eq!(sources["kernel_drops"][&lab.mirror], json!(0));
        assert_eq!(seen(&toolbox, "not-genuine"), 0);
    }
}

#[test]
fn at_the_servers_own_interface_only_what_is_genuine_and_acknowledged_counts() {
    if !possible() {
        return;
    }
    let more = format!("client nas {{\n    ipaddr = 127.0.0.9\n    secret = \"{HOME_SECRET}\"\n}}\n");
    let home = FreeRadius::start(&more, LETS_IN);
    // Somebody at the server's address whose answers are what the test makes them.
    let odd = UdpSocket::bind("127.0.0.1:0").unwrap();
    odd.set_read_timeout(Some(PATIENCE)).unwrap();
    let odd_at = odd.local_addr().unwrap();
    let ports = [home.authentication, home.accounting, odd_at];
    let toolbox = toolbox("lo", &["127.0.0.9/32"], "\"127.0.0.1/32\"", &ports);
    let dir = toolbox.path("");
    let from = ", Packet-Src-IP-Address = 127.0.0.9\n";
    let record = |status: &str, session: &str| record(status, session).trim_end().to_owned() + from;
    let nas = UdpSocket::bind("127.0.0.9:0").unwrap();
    let start: Vec<u8> = {
        let attributes: [(u8, &[u8]); 5] =
            [(40, &[0, 0, 0, 1]), (44, b"odd"), (1, ALICE.as_bytes()), (32, b"edge"), (8, &[198, 51, 100, 70])];
        let kind = toolbox_wire::radius::Request::Accounting;
        toolbox_wire::radius::build_request(kind, 3, &attributes, HOME_SECRET.as_bytes(), [0; 16], false).unwrap()
    };
    let answer = |request: &[u8], secret: &[u8]| {
        let side = Side { secret, authenticator: Packet::parse(request).unwrap().authenticator() };
        let mut made = vec![5, request[1], 0, 20];
        made.resize(20, 0);
        relay::answer(Packet::parse(&made).unwrap(), request[1], side, side).unwrap()
    };
    let mut buffer = [0; 4096];
    // Never answered; then answered by who does not know the secret.
    nas.send_to(&start, odd_at).unwrap();
    let (length, _) = odd.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], &start);
    odd.send_to(&answer(&start, b"another secret"), nas.local_addr().unwrap()).unwrap();
    eventually("the forgery is seen", || (seen(&toolbox, "not-genuine") >= 1).then_some(()));
    // An answer to what nobody asked.
    let mut other = answer(&start, HOME_SECRET.as_bytes());
    other[1] = 77;
    odd.send_to(&other, nas.local_addr().unwrap()).unwrap();
    eventually("an answer to nothing is seen", || (seen(&toolbox, "unasked") >= 1).then_some(()));
    assert_eq!(toolbox.show("bindings").unwrap(), Value::Array(Vec::new()));
    assert_eq!(seen(&toolbox, "learnt"), 0);
    // And at last the right one.
    odd.send_to(&answer(&start, HOME_SECRET.as_bytes()), nas.local_addr().unwrap()).unwrap();
    eventually("alice is there", || toolbox.live(ALICE, AT).then_some(()));

    let said = radclient_in(None, &dir, home.accounting, "acct", HOME_SECRET, &record("Start", "1"), 5);
    assert!(said.answered, "{}{}", said.text, home.log());
    // On loopback each frame passes twice: out and in.
    eventually("it is learnt once", || (seen(&toolbox, "learnt") == 2).then_some(()));
    let rejected = format!("User-Name = \"{ALICE}\", User-Password = \"hullo\"{from}");
    let said = radclient_in(None, &dir, home.authentication, "auth", HOME_SECRET, &rejected, 5);
    assert!(said.text.contains("Access-Reject"), "{}", said.text);
    eventually("the Reject is seen", || (seen(&toolbox, "refused") == 1).then_some(()));
    assert_eq!((seen(&toolbox, "learnt"), seen(&toolbox, "granted")), (2, 0));
}

/// A cable between two interfaces here.
struct Cable(String, String);

impl Cable {
    fn new() -> Self {
        let cable = Self(format!("rt{}y", std::process::id()), format!("rt{}z", std::process::id()));
        must(Command::new("ip").args(["link", "add", &cable.0, "type", "veth", "peer", "name", &cable.1]));
        for end in [&cable.0, &cable.1] {
            must(Command::new("ip").args(["link", "set", end, "up"]));
        }
        cable
    }

    fn sender(&self) -> Box<dyn DataLinkSender> {
        let interface = datalink::interfaces().into_iter().find(|found| found.name == self.0).unwrap();
        match datalink::channel(&interface, datalink::Config::default()).unwrap() {
            Channel::Ethernet(sender, _) => sender,
            _ => panic!("no Ethernet"),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

/// The frames of a UDP datagram, in fragments of 400 octets where that is asked for.
fn frames(tags: &[u8], from: SocketAddr, to: SocketAddr, payload: &[u8], id: u16, fragments: bool) -> Vec<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    let datagram = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &length, &[0, 0], payload].concat();
    let size = if fragments { 400 } else { datagram.len() };
    let mut all = Vec::new();
    for at in (0..datagram.len()).step_by(size) {
        let piece = &datagram[at..(at + size).min(datagram.len())];
        let (offset, more) = (u16::try_from(at).unwrap(), at + size < datagram.len());
        let packet = match (from.ip(), to.ip()) {
            (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                let total = u16::try_from(20 + piece.len()).unwrap().to_be_bytes();
                let flags = ((offset / 8) | (u16::from(more) << 13)).to_be_bytes();
                let (id, ends) = (id.to_be_bytes(), [from.octets(), to.octets()].concat());
                [&[0x45, 0, total[0], total[1]], &id[..], &flags, &[64, 17, 0, 0], &ends, piece].concat()
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                let flags = (offset | u16::from(more)).to_be_bytes();
                let head = [&[17, 0][..], &flags, &[0, 0], &id.to_be_bytes()].concat();
                let body = if fragments { [&head, piece].concat() } else { piece.to_vec() };
                let length = u16::try_from(body.len()).unwrap().to_be_bytes();
                let next = if fragments { 44 } else { 17 };
                let ends = [from.octets(), to.octets()].concat();
                [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &ends, &body].concat()
            }
            _ => panic!("of two families"),
        };
        let kind: [u8; 2] = if from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        all.push([&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], tags, &kind, &packet].concat());
    }
    all
}

#[test]
fn what_passes_in_fragments_and_under_tags_is_learnt_as_other_things_are() {
    if !nix::unistd::geteuid().is_root() {
        return skip("listening to others needs root");
    }
    let cable = Cable::new();
    let ports: [SocketAddr; 2] = [([10, 77, 0, 2], 1812).into(), ([10, 77, 0, 2], 1813).into()];
    let toolbox =
        toolbox(&cable.1, &["10.77.0.1/32", "2001:db8:77::1/128"], "\"10.77.0.2/32\", \"2001:db8:77::2/128\"", &ports);
    let mut sender = cable.sender();
    let secret = HOME_SECRET.as_bytes();
    let mut number = 0_u8;
    let four: (SocketAddr, SocketAddr) = (([10, 77, 0, 1], 40_000).into(), ports[1]);
    let six: (SocketAddr, SocketAddr) =
        ("[2001:db8:77::1]:40000".parse().unwrap(), "[2001:db8:77::2]:1813".parse().unwrap());
    let (one, two) = (&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7][..]);
    for (nas, server) in [four, six] {
        for (tags, fragments) in [(&[][..], true), (one, false), (one, true), (two, false), (two, true)] {
            number += 1;
            let (name, long) = (format!("user{number}"), [7; 250]);
            let attributes: [(u8, &[u8]); 8] = [
                (40, &[0, 0, 0, 1]),
                (44, name.as_bytes()),
                (1, name.as_bytes()),
                (32, b"edge"),
                (8, &[198, 51, 100, 70 + number]),
                (25, &long),
                (25, &long),
                (25, &long),
            ];
            let kind = toolbox_wire::radius::Request::Accounting;
            let request =
                toolbox_wire::radius::build_request(kind, number, &attributes, secret, [0; 16], false).unwrap();
            let side = Side { secret, authenticator: Packet::parse(&request).unwrap().authenticator() };
            let mut made = vec![5, number, 0, 20];
            made.resize(20, 0);
            let answer = relay::answer(Packet::parse(&made).unwrap(), number, side, side).unwrap();
            // Of something else, which the kernel keeps to itself.
            let other = frames(tags, nas, SocketAddr::new(server.ip(), 53), &request, 9, fragments);
            let mut asked = frames(tags, nas, server, &request, u16::from(number), fragments);
            // The last one first, and one of them twice.
            asked.reverse();
            asked.push(asked[0].clone());
            let answered = frames(tags, server, nas, &answer, u16::from(number), false);
            for frame in other.iter().take(1).chain(&asked).chain(&answered) {
                sender.send_to(frame, None).unwrap().unwrap();
            }
            eventually(&format!("{name} is there"), || {
                toolbox.live(&name, &format!("198.51.100.{}", 70 + number)).then_some(())
            });
        }
    }
    assert_eq!(seen(&toolbox, "learnt"), u64::from(number));
    assert_eq!(seen(&toolbox, "malformed"), 0);
    assert_eq!(toolbox.show("sources").unwrap()["kernel_drops"][&cable.1], json!(0));
}
