//! RADIUS packets, as the accounting port meets them.

use cloakway_types::Timestamp;
use toolbox_wire::access;
use toolbox_wire::accounting::{self, Naming, Record};
use toolbox_wire::radius::relay::{self, Side};
use toolbox_wire::radius::{Attribute, MAX_LENGTH, Packet, Request, build_request, code, dynamic, extended};

/// The shared secret of the corpus.
pub const SECRET: &[u8] = b"s3cr3t-of-edge";

const MESSAGE_AUTHENTICATOR: u8 = 80;

/// One datagram: as it is, and with its attributes signed by who knows the secret, because nothing
/// else gets past the authenticators.
pub fn radius_packet(bytes: &[u8]) {
    let packet = match Packet::parse(bytes) {
        Ok(packet) => packet,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(bytes.starts_with(packet.bytes()));
    let attributes: Vec<_> = packet.attributes().collect();
    assert_eq!(rebuilt(&packet, &attributes), packet.bytes());
    for demand in [false, true] {
        match packet.verify(SECRET, demand) {
            Ok(_) => recorded(packet, demand),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    relayed(packet);
    let plain: Vec<_> =
        attributes.iter().filter(|a| a.kind != MESSAGE_AUTHENTICATOR).map(|a| (a.kind, a.value)).collect();
    for request in [Request::Accounting, Request::StatusServer] {
        let signed = build_request(request, packet.identifier(), &plain, SECRET, packet.authenticator(), true);
        match signed {
            Ok(signed) => recorded(Packet::parse(&signed).expect("what is built can be read"), true),
            Err(_) => assert!(packet.bytes().len() + 18 > MAX_LENGTH, "the attributes fitted before"),
        }
    }
}

/// What a proxy passes on is a packet that the next hop takes, and there and back it is what it was.
fn relayed(packet: Packet<'_>) {
    const FAR: &[u8] = b"another secret";
    let side = |secret| Side { secret, authenticator: packet.authenticator() };
    match relay::request(packet, 9, SECRET, FAR) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(there) => {
            let there = Packet::parse(&there).expect("what is passed on can be read");
            assert_eq!((there.code(), there.identifier()), (packet.code(), 9));
            assert!(there.attributes().count() >= packet.attributes().count());
            let again = relay::request(there, 8, FAR, SECRET)
                .and_then(|back| relay::request(Packet::parse(&back).expect("so can what comes back"), 9, SECRET, FAR));
            assert_eq!(again.as_deref(), Ok(there.bytes()));
        }
    }
    if let Ok(answer) = relay::answer(packet, 9, side(FAR), side(SECRET)) {
        let answer = Packet::parse(&answer).expect("an answer is a packet");
        answer.verify_response(&packet.authenticator(), SECRET, false).expect("it was signed with the secret");
        let granted = access::grant(packet, answer, Naming::UserName).map(|grant| grant.delegated.len());
        assert!(granted.unwrap_or(0) <= packet.attributes().count());
        let _ = dynamic::answer(answer, 9, &packet.authenticator(), SECRET);
    }
    for block in extended::port_blocks(packet).flatten() {
        assert!(block.first <= block.last);
    }
}

fn rebuilt(packet: &Packet<'_>, attributes: &[Attribute<'_>]) -> Vec<u8> {
    let mut bytes = packet.bytes()[..20].to_vec();
    for attribute in attributes {
        assert_eq!(attribute.at, bytes.len());
        bytes.extend([attribute.kind, u8::try_from(attribute.value.len() + 2).expect("a length octet")]);
        bytes.extend(attribute.value);
    }
    bytes
}

/// A genuine packet is answered, and its record is the same after it was kept.
fn recorded(packet: Packet<'_>, demand: bool) {
    let verified = packet.verify(SECRET, demand).expect("it was signed with the secret");
    if let Ok(blocks) = accounting::blocks(&verified) {
        assert!(blocks.len() <= 2 * packet.attributes().count());
    }
    let answer = verified.response(SECRET);
    let answer = Packet::parse(&answer).expect("the answer is a packet");
    assert_eq!((answer.code(), answer.identifier()), (code::ACCOUNTING_RESPONSE, packet.identifier()));
    for arrival in [Timestamp::from_secs(0), Timestamp::from_secs(1_700_000_000), Timestamp::from_millis(u64::MAX)] {
        match accounting::read(&verified, arrival) {
            Ok(record) => {
                let kept = serde_json::to_string(&record).expect("a record is plain data");
                assert_eq!(serde_json::from_str::<Record>(&kept).expect("it was just written"), record);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
