//! The words of the table to the octets of a frame.

use std::net::IpAddr;

/// Who is who, in either IP version.
const NAMES: &[(&str, &str, &str, &str)] = &[
    ("S", "198.51.100.70", "2001:db8:5100:64::70", "a subscriber"),
    ("T", "198.51.100.71", "2001:db8:5100:64::71", "another subscriber"),
    ("E", "198.51.100.65", "2001:db8:5100:64::1", "our address towards the subscribers"),
    ("B", "198.51.100.127", "2001:db8:5100:64::", "broadcast, and subnet-router anycast, of the subscribers' net"),
    ("P", "203.0.113.200", "2001:db8:c10a::200", "a private network address"),
    ("R", "203.0.113.201", "2001:db8:c10a::201", "another one behind the same link"),
    ("L", "203.0.113.202", "2001:db8:c10a::202", "one with services: tcp/443, udp/5000-5100, esp"),
    ("Q", "203.0.113.220", "2001:db8:c10a::220", "one behind the second link"),
    ("W", "203.0.113.210", "2001:db8:c10a::d2", "one of a wide prefix, where nobody answers"),
    ("K", "192.0.2.249", "2001:db8:0:ff::1", "our address on the private link"),
    ("F", "192.0.2.250", "2001:db8:0:ff::2", "the far router's address on it"),
    ("J", "192.0.2.245", "2001:db8:0:fe::1", "our address on the second link"),
    ("U", "192.0.2.2", "2001:db8:0:1::2", "our public address"),
    ("X", "192.0.2.1", "2001:db8:0:1::1", "somebody on the Internet"),
    ("Z", "203.0.113.10", "2001:db8:a000::10", "a stranger, for forging"),
    ("M", "233.252.0.1", "ff0e::1", "a multicast group"),
];

/// The address that a name, or an address as it is written, stands for.
pub(crate) fn address(name: &str, v4: bool) -> IpAddr {
    let known = NAMES.iter().find(|(known, ..)| *known == name);
    known.map_or(name, |(_, four, six, _)| if v4 { four } else { six }).parse().unwrap()
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The ones' complement sum of RFC 1071, folded.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// What the table says of one packet.
#[derive(Debug, Clone)]
pub(crate) struct Words<'a> {
    v4: bool,
    source: IpAddr,
    destination: IpAddr,
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(text: &'a str, v4: bool) -> Self {
        let mut words = text.split_whitespace();
        let (source, destination) = words.next().unwrap().split_once('>').unwrap();
        Self { v4, source: address(source, v4), destination: address(destination, v4), words: words.collect() }
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.value(key).map(|text| {
            let hex = text.strip_prefix("0x").map(|text| usize::from_str_radix(text, 16));
            hex.unwrap_or_else(|| text.parse()).unwrap()
        })
    }

    fn octet(&self, key: &str) -> Option<u8> {
        self.number(key).map(|number| u8::try_from(number).unwrap())
    }

    fn port(&self, key: &str, otherwise: u16) -> [u8; 2] {
        self.number(key).map_or(otherwise, |number| u16::try_from(number).unwrap()).to_be_bytes()
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The frame between these two hardware addresses. `tag` makes it known again, wherever it comes out.
    pub(crate) fn frame(&self, from: [u8; 6], to: [u8; 6], tag: &[u8; 8]) -> Vec<u8> {
        if self.has("who-has") {
            return self.question(from);
        }
        let to = match self.value("mac") {
            None => to,
            Some("broadcast") => [0xff; 6],
            Some("multicast") => [1, 0, 0x5e, 0, 0, 1],
            Some("other") => [2, 0, 0, 0, 9, 9],
            Some(other) => panic!("mac={other}"),
        };
        let mut frame = [to, from].concat();
        for tag in [("svlan", 0x88a8_u16), ("vlan", 0x8100)] {
            if let Some(id) = self.number(tag.0) {
                frame.extend(tag.1.to_be_bytes());
                frame.extend(u16::try_from(id).unwrap().to_be_bytes());
            }
        }
        let kind: u16 = if self.v4 != self.has("wrong-type") { 0x0800 } else { 0x86dd };
        let kind = self.number("type").map_or(kind, |kind| u16::try_from(kind).unwrap());
        frame.extend(kind.to_be_bytes());
        frame.extend(self.packet(tag));
        frame.resize(frame.len() + self.number("pad").unwrap_or(0), 0);
        frame
    }

    /// The IP packet; none where a neighbour is asked for.
    pub(crate) fn packet(&self, tag: &[u8; 8]) -> Vec<u8> {
        if self.has("who-has") {
            return Vec::new();
        }
        let mut packet = if self.v4 { self.v4_packet(tag) } else { self.v6_packet(tag) };
        if let Some(cut) = self.number("cut") {
            packet.truncate(cut);
        }
        packet
    }

    fn v4_packet(&self, tag: &[u8; 8]) -> Vec<u8> {
        let options: &[u8] = match self.value("opt") {
            None => &[],
            Some("record") => &[7, 7, 4, 0, 0, 0, 0, 0],
            Some("time") => &[68, 8, 5, 0, 0, 0, 0, 0],
            Some("alert") => &[148, 4, 0, 0],
            Some("nop") => &[1, 1, 1, 1],
            // A loose and a strict source route that are used up.
            Some("loose") => &[131, 7, 8, 198, 51, 100, 65, 0],
            Some("strict") => &[137, 7, 8, 198, 51, 100, 65, 0],
            Some("broken") => &[7, 60, 4, 0],
            Some(other) => panic!("opt={other}"),
        };
        let header = 20 + options.len();
        let (protocol, payload) = self.payload(tag, header);
        let words = self.octet("ihl").unwrap_or(u8::try_from(header / 4).unwrap());
        let total = self.number("total").unwrap_or(header + payload.len());
        let fragment: u16 = match self.value("frag") {
            None => 0,
            Some("first") => 0x2000,
            Some(offset) => offset.parse::<u16>().unwrap() / 8,
        };
        let flags = if self.has("df") { 0x4000 } else { 0 };
        let mut packet = vec![0x40 | words, self.octet("tos").unwrap_or(0)];
        packet.extend(u16::try_from(total).unwrap().to_be_bytes());
        packet.extend([0, 1]);
        packet.extend((fragment | flags).to_be_bytes());
        packet.extend([self.octet("hops").unwrap_or(64), protocol, 0, 0]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.destination));
        packet.extend(options);
        if let Some(wanted) = self.number("sum") {
            // The identification that gives the header this checksum.
            packet[4..6].fill(0);
            let wanted = !u16::try_from(wanted).unwrap();
            let without = sum(&packet);
            let id = if wanted >= without { wanted - without } else { wanted.wrapping_sub(without).wrapping_sub(1) };
            packet[4..6].copy_from_slice(&id.to_be_bytes());
        }
        let checksum = if self.has("bad-sum") { sum(&packet) } else { !sum(&packet) };
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn v6_packet(&self, tag: &[u8; 8]) -> Vec<u8> {
        let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
        for word in &self.words {
            let header = match *word {
                "hop-by-hop" => (0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
                "options" => (60, vec![0, 0, 1, 4, 0, 0, 0, 0]),
                "long-chain" => {
                    chain.extend(std::iter::repeat_n((60, vec![0, 0, 1, 4, 0, 0, 0, 0]), 11));
                    (60, vec![0, 0, 1, 4, 0, 0, 0, 0])
                }
                "route0" => (43, [vec![0, 2, 0, 0, 0, 0, 0, 0], octets(self.destination)].concat()),
                "route2" => (43, [vec![0, 2, 2, 0, 0, 0, 0, 0], octets(self.destination)].concat()),
                "atomic" => (44, vec![0, 0, 0, 0, 0, 0, 0, 1]),
                "frag=first" => (44, vec![0, 0, 0, 1, 0, 0, 0, 1]),
                word => match word.strip_prefix("frag=") {
                    Some(offset) => {
                        let [high, low] = offset.parse::<u16>().unwrap().to_be_bytes();
                        (44, vec![0, 0, high, low, 0, 0, 0, 1])
                    }
                    None => continue,
                },
            };
            chain.push(header);
        }
        let before = 40 + chain.iter().map(|(_, header)| header.len()).sum::<usize>();
        let (protocol, payload) = self.payload(tag, before);
        let mut next = protocol;
        let mut behind = payload;
        for (kind, mut header) in chain.into_iter().rev() {
            header[0] = next;
            next = kind;
            behind = [header, behind].concat();
        }
        let class = u32::from(self.octet("tos").unwrap_or(0)) << 20;
        let flow = u32::try_from(self.number("flow").unwrap_or(0)).unwrap();
        let length = self.number("total").unwrap_or(behind.len());
        let mut packet = (0x6000_0000 | class | flow).to_be_bytes().to_vec();
        packet.extend(u16::try_from(length).unwrap().to_be_bytes());
        packet.extend([next, self.octet("hops").unwrap_or(64)]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.destination));
        packet.extend(behind);
        packet
    }

    /// The protocol, and what is behind a header of this length.
    fn payload(&self, tag: &[u8; 8], header: usize) -> (u8, Vec<u8>) {
        let icmp = if self.v4 { 1 } else { 58 };
        let (protocol, mut payload, checksum) = if self.has("udp") {
            (17, [self.port("sport", 4000), self.port("dport", 4000), [0, 0], [0, 0]].concat(), Some(6))
        } else if self.has("tcp") {
            let options = self.tcp_options();
            let words = u8::try_from(5 + options.len() / 4).unwrap();
            let flags = self.octet("flags").unwrap_or(2);
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0];
            (6, [&self.port("sport", 4000)[..], &self.port("dport", 443), &rest, &options].concat(), Some(16))
        } else if self.has("echo") {
            (icmp, vec![if self.v4 { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1], Some(2))
        } else if self.has("error") || self.has("mtu-error") {
            let [kind, code] = match (self.v4, self.has("error")) {
                (true, true) => [3, 3],
                (false, true) => [1, 4],
                (true, false) => [3, 4],
                (false, false) => [2, 0],
            };
            let turned = Self {
                source: self.destination,
                destination: self.source,
                words: vec!["udp", "hops=60"],
                ..self.clone()
            };
            (icmp, [vec![kind, code, 0, 0, 0, 0, 5, 0], turned.packet(tag)].concat(), Some(2))
        } else if let Some(kind) = self.octet("icmp") {
            // A message of neighbour discovery about our address, as far as its type goes.
            (icmp, [vec![kind, 0, 0, 0, 0, 0, 0, 0], octets(self.destination)].concat(), Some(2))
        } else {
            (self.octet("proto").unwrap(), Vec::new(), None)
        };
        if self.has("inside") {
            // A packet in a packet, of which nobody may look at more than the outer header.
            payload = Words::new("X>P udp", self.v4).packet(tag);
        }
        let later = self.value("frag").is_some_and(|frag| frag != "first");
        if later {
            payload.clear();
        }
        if !self.has("empty") {
            payload.extend(tag);
        }
        let wanted =
            self.number("len").map_or(payload.len() + if self.has("empty") { 0 } else { 8 }, |len| len - header);
        payload.resize(wanted, 0xa5);
        if later {
            return (protocol, payload);
        }
        if protocol == 17 {
            let length = u16::try_from(payload.len()).unwrap();
            payload[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if let Some(at) = checksum.filter(|_| !self.has("l4-zero")) {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            let pseudo = [octets(self.source), octets(self.destination), length.to_vec(), vec![0, 0, 0, protocol]];
            let pseudo = if protocol == 1 { Vec::new() } else { pseudo.concat() };
            let right = match !sum(&[pseudo, payload.clone()].concat()) {
                0 if protocol == 17 => 0xffff,
                right => right,
            };
            let written = if self.has("l4-bad") { right ^ 0x5555 } else { right };
            payload[at..at + 2].copy_from_slice(&written.to_be_bytes());
        }
        (protocol, payload)
    }

    /// Behind the header of TCP: the MSS, and what may be wrong with it.
    fn tcp_options(&self) -> Vec<u8> {
        let Some(size) = self.number("mss") else { return Vec::new() };
        let [high, low] = u16::try_from(size).unwrap().to_be_bytes();
        match self.value("broken") {
            None if self.has("behind") => vec![1, 1, 4, 2, 2, 4, high, low],
            None if self.has("twice") => vec![2, 4, high, low, 2, 4, 0xff, 0xff],
            // Behind what ends the list.
            None if self.has("ended") => vec![1, 1, 1, 0, 2, 4, high, low],
            None => vec![2, 4, high, low],
            Some("empty") => vec![2, 0, high, low],
            Some("short") => vec![2, 3, high, low],
            Some("long") => vec![2, 5, high, low],
            Some("cut") => vec![1, 1, 2, 4],
            Some("hidden") => vec![4, 40, 2, 4, high, low, 1, 1],
            Some(other) => panic!("broken={other}"),
        }
    }

    /// Who has the destination? By ARP or a neighbour solicitation.
    fn question(&self, from: [u8; 6]) -> Vec<u8> {
        if self.v4 {
            let head = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &from].concat();
            return [head, octets(self.source), vec![0; 6], octets(self.destination)].concat();
        }
        let target = octets(self.destination);
        let group = [&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff][..], &target[13..]].concat();
        let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, &[1, 1], &from].concat();
        let to = [&[0x33, 0x33, 0xff][..], &target[13..]].concat();
        [to, from.to_vec(), vec![0x86, 0xdd], neighbour(&octets(self.source), &group, body, self.octet("hops"))]
            .concat()
    }
}

/// A message of neighbour discovery, with its checksum.
pub(crate) fn neighbour(source: &[u8], destination: &[u8], mut body: Vec<u8>, hops: Option<u8>) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    let checksum = !sum(&[source, destination, &[0, 0, 0, length, 0, 0, 0, 58], &body].concat());
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    [&[0x60, 0, 0, 0, 0, length, 58, hops.unwrap_or(255)], source, destination, &body].concat()
}
