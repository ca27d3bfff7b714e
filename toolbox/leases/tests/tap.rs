//! What a tap makes of exchanges: DHCPv4 by dhcproto's encoder, DHCPv6 by RFC 8415's formats.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cloakway_types::Timestamp;
use dhcproto::v4::relay::{RelayAgentInformation, RelayInfo};
use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Encodable as _, Encoder};
use proptest::prelude::*;
use toolbox_leases::tap::{Datagram, Tap, TapError};
use toolbox_leases::{Book, Now, Record};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const RELAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 9));
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);

struct Heard {
    tap: Tap,
    book: Book,
}

impl Heard {
    fn new() -> Self {
        Self { tap: Tap::new(vec![SERVER, SERVER6]), book: Book::new() }
    }

    fn hear(&mut self, from: IpAddr, payload: &[u8], at: u64) -> Result<usize, TapError> {
        let leases = self.tap.hear(Datagram { from, payload, at: Timestamp::from_secs(at) }, &self.book)?;
        let mut changes = 0;
        for lease in leases {
            changes += self.book.take(&Record::Lease(Box::new(lease))).len();
        }
        Ok(changes)
    }

    fn held(&self, net: &str) -> Option<(&toolbox_leases::Holder, u64, Option<u64>)> {
        match self.book.get(net.parse().unwrap())? {
            Now::Held { holder, since, until, .. } => Some((holder, since.as_secs(), until.map(Timestamp::as_secs))),
            _ => None,
        }
    }
}

fn message(opcode: Opcode, kind: MessageType, hardware: u8, options: Vec<DhcpOption>) -> Message {
    let mut message = Message::default();
    message.set_opcode(opcode).set_xid(7).set_chaddr(&[2, 0, 0, 0, 0, hardware]);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

fn octets(message: &Message) -> Vec<u8> {
    let mut buffer = Vec::new();
    message.encode(&mut Encoder::new(&mut buffer)).unwrap();
    buffer
}

fn request(hardware: u8, options: Vec<DhcpOption>) -> Vec<u8> {
    octets(&message(Opcode::BootRequest, MessageType::Request, hardware, options))
}

fn ack(hardware: u8, life: u32) -> Vec<u8> {
    let mut ack = message(Opcode::BootReply, MessageType::Ack, hardware, vec![DhcpOption::AddressLeaseTime(life)]);
    ack.set_yiaddr(LEASED);
    octets(&ack)
}

fn release(hardware: u8) -> Vec<u8> {
    let mut release = message(Opcode::BootRequest, MessageType::Release, hardware, Vec::new());
    release.set_ciaddr(LEASED);
    octets(&release)
}

#[test]
fn an_ack_of_the_server_grants_and_the_question_says_to_whom() {
    let mut heard = Heard::new();
    let mut relay = RelayAgentInformation::default();
    relay.insert(RelayInfo::AgentRemoteId(b"line-17".to_vec()));
    relay.insert(RelayInfo::AgentCircuitId(vec![0, 4]));
    heard.hear(CLIENT, &request(1, vec![DhcpOption::ClientIdentifier(vec![1, 2, 3])]), 100).unwrap();
    heard.hear(RELAY, &request(1, vec![DhcpOption::RelayAgentInformation(relay)]), 100).unwrap();
    assert_eq!(heard.hear(SERVER, &ack(1, 60), 101), Ok(1));
    let (holder, since, until) = heard.held("10.77.1.1/32").unwrap();
    assert_eq!((since, until), (101, Some(161)));
    assert_eq!(holder.hardware.as_deref(), Some(&[2, 0, 0, 0, 0, 1][..]));
    assert_eq!(holder.client_id.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(holder.remote_id.as_deref(), Some(&b"line-17"[..]));
    assert_eq!(holder.circuit_id.as_deref(), Some(&[0, 4][..]));
}

#[test]
fn an_ack_of_a_stranger_and_an_answer_to_inform_grant_nothing() {
    let mut heard = Heard::new();
    let stranger: IpAddr = "10.77.0.66".parse().unwrap();
    assert_eq!(heard.hear(stranger, &ack(1, 60), 101), Err(TapError::Stranger(stranger)));
    let inform = octets(&message(Opcode::BootReply, MessageType::Ack, 1, Vec::new()));
    assert_eq!(heard.hear(SERVER, &inform, 101), Ok(0));
    let offer = octets(&message(Opcode::BootReply, MessageType::Offer, 1, vec![DhcpOption::AddressLeaseTime(60)]));
    assert_eq!(heard.hear(SERVER, &offer, 101), Ok(0));
    assert!(heard.book.is_empty());
}

#[test]
fn a_relays_copy_of_an_ack_is_no_second_grant() {
    let mut heard = Heard::new();
    let mut passed_on = message(Opcode::BootReply, MessageType::Ack, 1, vec![DhcpOption::AddressLeaseTime(60)]);
    passed_on.set_yiaddr(LEASED).set_giaddr(Ipv4Addr::new(10, 77, 0, 9));
    assert_eq!(heard.hear(RELAY, &octets(&passed_on), 101), Ok(0));
    assert_eq!(heard.hear(SERVER, &octets(&passed_on), 101), Ok(1));
}

#[test]
fn only_the_holder_can_give_back() {
    let mut heard = Heard::new();
    heard.hear(SERVER, &ack(1, 60), 101).unwrap();
    assert_eq!(heard.hear(CLIENT, &release(2), 110), Ok(0));
    assert!(heard.held("10.77.1.1/32").is_some());
    assert_eq!(heard.hear(CLIENT, &release(1), 111), Ok(1));
    assert!(heard.held("10.77.1.1/32").is_none());
    heard.hear(SERVER, &ack(2, u32::MAX), 112).unwrap();
    assert_eq!(heard.held("10.77.1.1/32").map(|(_, since, until)| (since, until)), Some((112, None)));
    let decline = |hardware| {
        octets(&message(
            Opcode::BootRequest,
            MessageType::Decline,
            hardware,
            vec![DhcpOption::RequestedIpAddress(LEASED)],
        ))
    };
    assert_eq!(heard.hear(CLIENT, &decline(1), 113), Ok(0));
    assert_eq!(heard.hear(CLIENT, &decline(2), 113), Ok(1));
    assert_eq!(heard.book.get("10.77.1.1/32".parse().unwrap()), Some(&Now::Declined));
}

#[test]
fn options_that_go_on_elsewhere_are_read_and_odd_ones_break_nothing() {
    let mut heard = Heard::new();
    // The life is in the field for a file; an option 80 that is not empty stands before (dhcproto 0.15 panics there).
    let mut octets = ack(1, 60);
    let end = octets.len();
    octets.truncate(240);
    octets.extend([80, 1, 9, 53, 1, 5, 52, 1, 1, 12, 1, b'a', 12, 1, b'b', 255]);
    octets[108..115].copy_from_slice(&[51, 4, 0, 0, 0, 90, 255]);
    assert!(end > 240);
    assert_eq!(heard.hear(SERVER, &octets, 100), Ok(1));
    let (holder, _, until) = heard.held("10.77.1.1/32").unwrap();
    assert_eq!((until, holder.hostname.as_deref()), (Some(190), Some("ab")));
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

fn ia_na(address: &str, life: u32) -> Vec<u8> {
    let address: Ipv6Addr = address.parse().unwrap();
    let inner = option(5, &[&address.octets()[..], &life.to_be_bytes(), &life.to_be_bytes()].concat());
    option(3, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &inner].concat())
}

fn ia_pd(prefix: &str, length: u8, life: u32) -> Vec<u8> {
    let prefix: Ipv6Addr = prefix.parse().unwrap();
    let value = [&life.to_be_bytes()[..], &life.to_be_bytes(), &[length], &prefix.octets()].concat();
    option(25, &[&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(26, &value)].concat())
}

fn v6(kind: u8, duid: &[u8], rest: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 7][..], &option(1, duid), &option(2, b"server"), rest].concat()
}

fn relayed(kind: u8, hop: u8, options: &[u8], inner: &[u8]) -> Vec<u8> {
    [&[kind, hop][..], &[0; 32], options, &option(9, inner)].concat()
}

#[test]
fn a_reply_grants_addresses_and_prefixes_through_two_relays() {
    let mut heard = Heard::new();
    let relay: IpAddr = "2001:db8::9".parse().unwrap();
    let line = [option(18, b"port-3"), option(37, &[0, 0, 0, 9, b'l', b'1'])].concat();
    let asked = relayed(12, 1, &option(18, b"uplink"), &relayed(12, 0, &line, &v6(3, b"duid-1", &[])));
    heard.hear(relay, &asked, 100).unwrap();
    let grants = [ia_na("2001:db8:77::1000", 60), ia_pd("2001:db8:8000:100::", 56, 90)].concat();
    // A server repeats the interface id and not the remote id.
    let answer =
        relayed(13, 1, &option(18, b"uplink"), &relayed(13, 0, &option(18, b"port-3"), &v6(7, b"duid-1", &grants)));
    assert_eq!(heard.hear(SERVER6, &answer, 101), Ok(2));
    let (holder, _, until) = heard.held("2001:db8:8000:100::/56").unwrap();
    assert_eq!(until, Some(191));
    assert_eq!(holder.duid.as_deref(), Some(&b"duid-1"[..]));
    assert_eq!((holder.circuit_id.as_deref(), holder.remote_id.as_deref()), (Some(&b"port-3"[..]), Some(&b"l1"[..])));
    assert_eq!(holder.iaid, Some(2));
    // The relay's copy to the client.
    let copy = v6(7, b"duid-1", &grants);
    assert!(matches!(heard.hear(relay, &copy, 101), Ok(0)));
    let (holder, ..) = heard.held("2001:db8:77::1000/128").unwrap();
    assert_eq!(holder.remote_id.as_deref(), Some(&b"l1"[..]));
}

#[test]
fn a_life_of_nothing_ends_and_only_the_holder_gives_back() {
    let mut heard = Heard::new();
    let grants = [ia_na("2001:db8:77::1000", 60), ia_pd("2001:db8:8000:100::", 56, 90)].concat();
    let client: IpAddr = "fe80::2".parse().unwrap();
    assert_eq!(heard.hear(SERVER6, &v6(7, b"duid-1", &grants), 100), Ok(2));
    assert_eq!(heard.hear(client, &v6(8, b"duid-2", &grants), 101), Ok(0));
    assert_eq!(heard.hear(client, &v6(8, b"duid-1", &ia_pd("2001:db8:8000:100::", 56, 0)), 102), Ok(1));
    assert!(heard.held("2001:db8:8000:100::/56").is_none());
    assert_eq!(heard.hear(SERVER6, &v6(7, b"duid-1", &ia_na("2001:db8:77::1000", 0)), 103), Ok(1));
    assert!(heard.book.is_empty());
    let stranger: IpAddr = "fe80::66".parse().unwrap();
    assert_eq!(heard.hear(stranger, &v6(7, b"duid-3", &grants), 104), Err(TapError::Stranger(stranger)));
    // Not even when somebody has asked.
    heard.hear(client, &v6(3, b"duid-3", &[]), 105).unwrap();
    assert_eq!(heard.hear(stranger, &v6(7, b"duid-3", &grants), 106), Err(TapError::Stranger(stranger)));
}

#[test]
fn relays_without_end_and_cut_messages_are_refused() {
    let mut heard = Heard::new();
    let deep = (0..10).fold(v6(3, b"duid-1", &[]), |inner, hop| relayed(12, hop, &[], &inner));
    assert_eq!(heard.hear(SERVER6, &deep, 1), Err(TapError::Relays));
    let whole = v6(7, b"duid-1", &ia_na("2001:db8:77::1000", 60));
    for length in 1..whole.len() {
        let _ = heard.hear(SERVER6, &whole[..length], 1);
    }
    assert!(heard.book.is_empty(), "half a grant is none");
}

proptest! {
    #[test]
    fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..600), v4 in any::<bool>()) {
        let mut heard = Heard::new();
        let _ = heard.hear(if v4 { SERVER } else { SERVER6 }, &octets, 5);
    }

    #[test]
    fn no_change_of_an_octet_breaks_it(at in 0..400_usize, octet in any::<u8>(), v4 in any::<bool>()) {
        let grants = [ia_na("2001:db8:77::1000", 60), ia_pd("2001:db8:8000:100::", 56, 90)].concat();
        let mut payload = if v4 { ack(1, 60) } else { relayed(13, 0, &option(18, b"p"), &v6(7, b"duid-1", &grants)) };
        let at = at % payload.len();
        payload[at] = octet;
        let _ = Heard::new().hear(if v4 { SERVER } else { SERVER6 }, &payload, 5);
    }
}
