//! What we read in packets is what tshark reads in them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use cloakway_crypto::encode::hex;
use cloakway_testing::have;
use cloakway_types::Timestamp;
use toolbox_wire::accounting;
use toolbox_wire::radius::{Packet, Request, build_request};
use toolbox_wire::record::{AddressKind, Change, Record, User};

const SECRET: &[u8] = b"a secret between the two";
const PACKETS: u64 = 300;

/// Numbers from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }
}

fn packet(number: u64) -> Vec<u8> {
    let mut numbers = Numbers(number);
    let mut attributes: Vec<(u8, Vec<u8>)> = vec![
        (40, vec![0, 0, 0, 1 + numbers.below(3) as u8]),
        (44, format!("session {number}").into_bytes()),
        (1, format!("user{}@isp.example", numbers.below(99)).into_bytes()),
        (32, b"edge".to_vec()),
    ];
    let mut octets = |many: u64| (0..many).map(|_| 1 + numbers.below(255) as u8).collect::<Vec<u8>>();
    for kind in [4_u8, 8, 55] {
        attributes.push((kind, octets(4)));
    }
    for kind in [97_u8, 123] {
        for length in [48_u8, 56, 64] {
            attributes.push((kind, [vec![0, length], octets(u64::from(length) / 8)].concat()));
        }
    }
    for kind in [95_u8, 168] {
        attributes.push((kind, octets(16)));
    }
    // Some are left out, and the order is another one each time.
    let mut chosen = attributes[..4].to_vec();
    for attribute in attributes.drain(4..) {
        if numbers.below(3) > 0 {
            let at = numbers.below(chosen.len() as u64 + 1) as usize;
            chosen.insert(at, attribute);
        }
    }
    let borrowed: Vec<(u8, &[u8])> = chosen.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
    build_request(Request::Accounting, number as u8, &borrowed, SECRET, [0; 16], numbers.below(2) == 0).unwrap()
}

/// A file of packets that begin with their IP header (pcap, link type 101).
fn capture(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_535, 101] {
        file.extend(word.to_ne_bytes());
    }
    // Two halves in one word are the wrong way round on one kind of machine.
    file[4..8].copy_from_slice(&[2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat());
    for payload in packets {
        let udp = u16::try_from(payload.len() + 8).unwrap();
        let ip = (udp + 20).to_be_bytes();
        let head = [0x45, 0, ip[0], ip[1], 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        let length = u32::from(udp) + 20;
        for word in [0, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(head);
        for half in [40_000, 1813, udp, 0] {
            file.extend(half.to_be_bytes());
        }
        file.extend(payload);
    }
    file
}

fn values(packet: Packet<'_>, kind: u8) -> String {
    let of = packet.attributes().filter(|attribute| attribute.kind == kind);
    of.map(|attribute| hex(attribute.value)).collect::<Vec<_>>().join(",")
}

#[test]
fn tshark_reads_the_same_in_packets_of_every_kind() {
    if !have("tshark", "tshark") {
        return;
    }
    let packets: Vec<Vec<u8>> = (0..PACKETS).map(packet).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("packets.pcap");
    std::fs::write(&file, capture(&packets)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    for field in [
        "id",
        "Acct_Status_Type",
        "Acct_Session_Id",
        "User_Name",
        "NAS_IP_Address",
        "NAS_IPv6_Address",
        "Framed-IP-Address",
        "Framed_IPv6_Address",
        "Framed_IPv6_Prefix",
        "Delegated_IPv6_Prefix",
    ] {
        tshark.args(["-e", &format!("radius.{field}")]);
    }
    let output = tshark.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), packets.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (bytes, theirs) in packets.iter().zip(lines) {
        let packet = Packet::parse(bytes).unwrap();
        let verified = packet.verify(SECRET, false).unwrap();
        let Ok(Record::Session(record)) = accounting::read(&verified, Timestamp::from_secs(2_000_000_000)) else {
            panic!("{theirs}")
        };
        let status = match record.change {
            Change::Start => 1,
            Change::Stop => 2,
            Change::Interim => 3,
        };
        let User::Named(user) = record.user else { panic!("{theirs}") };
        let text = |address: Option<String>| address.unwrap_or_default();
        let of = |kind| {
            let found = record.addresses.iter().find(|address| address.kind == kind);
            text(found.map(|address| address.net.addr().to_string()))
        };
        let ours = [
            packet.identifier().to_string(),
            status.to_string(),
            record.session.clone(),
            user.to_string(),
            text(record.nas.v4.map(|at| at.to_string())),
            text(record.nas.v6.map(|at| at.to_string())),
            of(AddressKind::FramedV4),
            of(AddressKind::FramedV6),
            values(packet, 97),
            values(packet, 123),
        ]
        .join("|");
        assert_eq!(ours, theirs);
    }
}
