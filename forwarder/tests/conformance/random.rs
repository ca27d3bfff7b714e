//! Random policies and packets: what the model decides is what each data plane did.
//!
//! `PLANES_CASES` says how many packets, `PLANES_SEED` where the draws begin; both are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::config;
use cloakway_types::Instant;
use forwarder::config::Config;
use forwarder_core::user::{Fate, Frame, Host, Port, Ration, User, Way};
use forwarder_core::{Egress, Ingress, Policy, Verdict, parse};
use ipnet::IpNet;

use crate::lab::{Lab, Plane, WIRES, macs, possible, private_prefix};
use crate::packet::{Words, address};
use crate::table::{Case, Out, Player, known};

const POLICIES: usize = 3;

/// A generator of numbers that is the same for the same seed (splitmix64).
struct Draw(u64);

impl Draw {
    fn number(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(below).unwrap()).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.number(of.len())]
    }

    /// Once in so many times.
    fn seldom(&mut self, times: usize) -> bool {
        self.number(times) == 0
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

pub(crate) fn what_the_model_says_is_what_happens(plane: Plane) {
    if !possible() {
        return;
    }
    let seed = setting("PLANES_SEED", 29_114);
    let cases = usize::try_from(setting("PLANES_CASES", 300)).unwrap();
    eprintln!("{plane:?}: PLANES_SEED={seed} PLANES_CASES={cases}");
    let mut draw = Draw(seed);
    let mut lab = Lab::new(plane);
    for _ in 0..POLICIES {
        let text = policy(&mut draw);
        let text = lab.restart(plane, &text);
        let config: Config = config::parse("forwarder.toml", &text).unwrap();
        let model = Model::new(Arc::new(config.policy));
        let mut player = Player::new(&lab);
        let mut wrong = Vec::new();
        // So that no bystander waits for a neighbour to answer.
        for (from, packet, to) in [("sub", "S>X udp", "net"), ("net", "X>S udp", "sub"), ("net", "X>T udp", "sub")] {
            for v4 in [true, false] {
                let out = Out::Forwarded(to);
                let (packet, says) = (packet.to_owned(), "a bystander".to_owned());
                let case = Case { line: 0, v4, end: from, packet, changed: None, out, counted: Vec::new(), says };
                wrong.extend(player.play(&case).err());
            }
        }
        for _ in 0..cases.div_ceil(POLICIES) {
            let case = model.expect(packet(&mut draw));
            wrong.extend(player.play(&case).err());
        }
        let late = player.late();
        assert!(wrong.is_empty(), "PLANES_SEED={seed}: {} are wrong:\n{}\n{text}", wrong.len(), wrong.join("\n"));
        assert!(late.is_empty(), "PLANES_SEED={seed}: came out late, or twice: {late:?}");
    }
}

/// A policy in which S is a subscriber, P is behind the first link and Q behind the second, and all else is drawn.
fn policy(draw: &mut Draw) -> String {
    let mut text = String::from("[subscribers]\ninterfaces = [\"edge0\"]\n");
    let prefixes = draw.one(&[
        "\"198.51.100.64/26\", \"2001:db8:5100:64::/64\"",
        "\"198.51.100.70/32\", \"2001:db8:5100:64::70/128\"",
        "\"198.51.100.68/30\", \"198.51.100.72/29\", \"2001:db8:5100::/48\"",
    ]);
    text.push_str(&format!("prefixes = [{prefixes}]\n"));
    for (name, interface) in [("main", "priv0"), ("second", "priv1")] {
        text.push_str(&format!("[[links]]\nname = \"{name}\"\ninterface = \"{interface}\"\n"));
    }
    for (name, link) in [("P", "main"), ("Q", "second")] {
        for v4 in [true, false] {
            text.push_str(&private_prefix(&IpNet::from(address(name, v4)).to_string(), link, ""));
        }
    }
    for name in ["R", "L"] {
        for v4 in [true, false] {
            if draw.seldom(5) {
                continue;
            }
            let count = draw.number(4);
            let all = ["tcp/443", "udp/5000-5100", "udp/9", "esp", "gre", "icmp"];
            let services: BTreeSet<&str> = (0..count).map(|_| draw.one(&all)).collect();
            let mut more = format!("services = {services:?}\n").replace(['{', '}'], "");
            more = more.replace("services = ", "services = [").replace('\n', "]\n");
            if draw.seldom(2) {
                more.push_str(&format!("next-hop = \"{}\"\n", address("F", v4)));
            }
            text.push_str(&private_prefix(&IpNet::from(address(name, v4)).to_string(), "main", &more));
        }
    }
    text + "[health]\nhold-down-ms = 100\nprobe-interval-ms = 200\nrise = 1\n"
}

/// Where a packet is sent, and what it is.
fn packet(draw: &mut Draw) -> (&'static str, bool, String) {
    let v4 = draw.seldom(2);
    let end = draw.one(&["sub", "sub", "sub", "far", "far", "far2", "net"]);
    let end = known(end);
    let anybody = ["S", "T", "P", "R", "L", "Q", "X", "Z", "E", "B", "F"];
    let (from, to): (&[&str], &[&str]) = match end {
        "sub" => (&["S", "S", "S", "T"], &["P", "R", "L", "Q"]),
        "far" => (&["P", "R", "L"], &["S", "S", "T"]),
        "far2" => (&["Q"], &["S", "S", "T"]),
        _ => (&["X", "Z"], &["P", "R", "Q"]),
    };
    let from = if draw.seldom(5) { draw.one(&anybody) } else { draw.one(from) };
    let to = if draw.seldom(5) { draw.one(&anybody) } else { draw.one(to) };
    // Our own address as a source to elsewhere is a martian in IPv4, and the kernel's own business.
    let from = if ["E", "B"].contains(&from) && !["P", "R", "L", "Q"].contains(&to) { "S" } else { from };
    // Back where it came from: the kernel would tell of a better way (RFC 4861 §8), and the guard drops that.
    let to = if end == "far" && to == "F" { "K" } else { to };
    let mut words = format!("{from}>{to}");
    let mut say = |word: &str| {
        words.push(' ');
        words.push_str(word);
    };
    let port = |draw: &mut Draw| draw.one(&["443", "5000", "5050", "5100", "5101", "4999", "9", "80"]);
    match draw.number(8) {
        0..=3 => say(&format!("udp sport={} dport={}", port(draw), port(draw))),
        4 => say(&format!("tcp sport={} dport={}", port(draw), port(draw))),
        5 => say(draw.one(&["echo", "error", "mtu-error"])),
        _ => say(&format!("proto={}", draw.one(&["50", "47", "4", "132", "59", "253"]))),
    }
    if draw.seldom(8) {
        say(&format!("hops={}", draw.number(3)));
    }
    if draw.seldom(6) {
        // No more than the interface at the other end takes.
        let lengths = ["200", "1000", "1400", "1401", "1500"];
        say(&format!("len={}", draw.one(if end == "far" { &lengths[..3] } else { &lengths })));
    }
    if draw.seldom(2) {
        say("df");
    }
    if draw.seldom(8) {
        say(&format!("frag={}", draw.one(&["first", "8", "64", "640"])));
    }
    if draw.seldom(10) {
        let four = ["opt=nop", "opt=record", "bad-sum", "ihl=4", "sum=0xfeff"];
        let six = ["hop-by-hop", "options", "options options", "route0", "route2", "atomic", "long-chain"];
        say(if v4 { draw.one(&four) } else { draw.one(&six) });
    }
    if draw.seldom(12) {
        say(draw.one(&["mac=other", "mac=broadcast", "vlan=5", "vlan=0", "l4-bad", "tos=0xb9"]));
    }
    (end, v4, words)
}

/// The model, on a host that is the lab's.
struct Model {
    policy: Arc<Policy>,
    host: Host,
}

impl Model {
    fn new(policy: Arc<Policy>) -> Self {
        let mut ports = BTreeMap::new();
        let mut all = Vec::new();
        for (number, (end, name, ..)) in WIRES.into_iter().enumerate() {
            let addresses: [IpNet; 2] = match end {
                "sub" => ["198.51.100.65/26", "2001:db8:5100:64::1/64"],
                "far" => ["192.0.2.249/30", "2001:db8:0:ff::1/64"],
                "far2" => ["192.0.2.245/30", "2001:db8:0:fe::1/64"],
                _ => ["192.0.2.2/30", "2001:db8:0:1::2/64"],
            }
            .map(|address| address.parse().unwrap());
            all.extend(addresses);
            let port = Port { name: name.to_owned(), mac: macs(end).1, addresses: addresses.to_vec() };
            ports.insert(u32::try_from(number).unwrap(), port);
        }
        Self { policy, host: Host::new(ports, &all) }
    }

    /// Where the lab's routes lead: to a private prefix by its link, to a net by its interface, else to the Internet.
    fn way(&self, address: IpAddr) -> (&'static str, Way) {
        let end = match self.policy.private_prefix(address).map(|entry| self.policy.interface(entry.ways[0].link)) {
            Some(link) => WIRES.iter().find(|wire| wire.1 == link).unwrap().0,
            None => {
                let of = |port: &Port| port.addresses.iter().any(|own| own.contains(&address));
                let port = self.host.ports.iter().find(|(_, port)| of(port)).map(|(index, _)| *index as usize);
                WIRES[port.unwrap_or(3)].0
            }
        };
        let number = WIRES.iter().position(|wire| wire.0 == end).unwrap();
        let (.., mtu, _, _) = WIRES[number];
        let index = u32::try_from(number).unwrap();
        (end, Way::Out { index, neighbour: address, mtu: mtu as usize })
    }

    /// The row of the table that the model would write.
    fn expect(&self, (end, v4, text): (&'static str, bool, String)) -> Case {
        let words = Words::new(&text, v4);
        let (from, to) = macs(end);
        let frame = words.frame(from, to, b"<#....#>");
        let port = u32::try_from(WIRES.iter().position(|wire| wire.0 == end).unwrap()).unwrap();
        let (out, counted) = self.outcome(end, port, &words, &frame);
        Case { line: 0, v4, end, packet: text.clone(), changed: None, out, counted, says: "at random".to_owned() }
    }

    fn outcome(&self, end: &'static str, port: u32, words: &Words<'_>, frame: &[u8]) -> (Out, Vec<&'static str>) {
        if words.has("vlan=5") || words.has("mac=other") {
            return (Out::Nothing, Vec::new());
        }
        // A priority tag is taken off before anybody looks.
        let untagged = [&frame[..12], &frame[16..]].concat();
        let octets = if words.has("vlan=0") { &untagged } else { frame };
        let user = User::new(self.policy.clone(), self.host.clone(), Ration::new(Duration::ZERO, Duration::ZERO));
        let fate =
            user.step(&Frame { port, octets, segment: None }, Instant::ORIGIN, &mut |address| self.way(address).1);
        let at = |index: u32| WIRES[index as usize].0;
        match fate {
            Fate::Dropped(reason) => (Out::Nothing, vec![reason.name()]),
            Fate::Over { over, .. } => (Out::Nothing, vec![over.name()]),
            Fate::Nothing => (Out::Nothing, Vec::new()),
            Fate::Forwarded(done) => {
                let counter = if matches!(done.verdict, Verdict::ToLink(_)) { "to-private" } else { "from-private" };
                let end = at(done.index);
                (if done.packets.len() == 1 { Out::Forwarded(end) } else { Out::Fragments(end) }, vec![counter])
            }
            Fate::Answered(answer) => {
                let from = parse(&answer.packet).unwrap().source;
                let header = if from.is_ipv4() { 20 } else { 40 };
                let message = &answer.packet[header..];
                let told = u16::from_be_bytes([message[6], message[7]]);
                let mtu = matches!(message[..2], [3, 4] | [2, 0]).then_some(told);
                let counted = if answer.is_upkeep { vec!["link-upkeep"] } else { Vec::new() };
                (Out::Error { end: at(answer.index), mtu, from }, counted)
            }
            Fate::Kernel => self.bystander(end, octets, words.has("mac=broadcast")),
        }
    }

    /// What the kernel and the guard make of a packet that no data plane forwards.
    fn bystander(&self, end: &'static str, octets: &[u8], to_everybody: bool) -> (Out, Vec<&'static str>) {
        let parsed = parse(&octets[14..]).unwrap();
        let (to, way) = self.way(parsed.destination);
        let name = |end: &str| WIRES.iter().find(|wire| wire.0 == end).unwrap().1;
        let is_host = self.host.own.contains(&parsed.destination) || self.host.shared.contains(&parsed.destination);
        let egress = if is_host { Egress::Host } else { Egress::Interface(name(to)) };
        let ends_here = parsed.hops <= 1 || matches!(way, Way::Out { mtu, .. } if octets.len() > mtu + 14);
        match self.policy.decide(&parsed.packet(Ingress::Interface(name(end)), egress, false)) {
            Verdict::Drop(reason) if reason.is_of_arrival() || !(ends_here || to_everybody) => {
                (Out::Nothing, vec![reason.name()])
            }
            _ => (Out::Anything, Vec::new()),
        }
    }
}
