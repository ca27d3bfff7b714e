//! DHCPv4 (RFC 2131), with the relay's option 82 (RFC 3046).
//!
//! Decoded here: dhcproto 0.15 panics at an option 80 that is not empty, and anybody can send one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::IpNet;

use super::{Datagram, Question, Tap, TapError};
use crate::book::{Book, Now};
use crate::holder::Holder;
use crate::lease::{Lease, State};

const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// Option 53.
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const RELEASE: u8 = 7;

/// A life that does not end (RFC 2131 §3.3).
const FOR_EVER: u32 = u32::MAX;

const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// A message, as far as it is about leases.
struct Message {
    operation: u8,
    transaction: u32,
    client: Ipv4Addr,
    yours: Ipv4Addr,
    relay: Ipv4Addr,
    hardware: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Message {
    fn read(octets: &[u8]) -> Option<Self> {
        let (head, options) = octets.split_at_checked(240)?;
        let word = |at: usize| head.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
        let length = usize::from(*head.get(2)?);
        if word(236)? != MAGIC || length > 16 {
            return None;
        }
        let mut message = Self {
            operation: *head.first()?,
            transaction: u32::from_be_bytes(word(4)?),
            client: word(12)?.into(),
            yours: word(16)?.into(),
            relay: word(24)?.into(),
            hardware: head.get(28..28 + length)?.to_vec(),
            options: BTreeMap::new(),
        };
        message.options(options)?;
        // Options may go on in the fields for a file and a server's name (RFC 2132 §9.3), in this order.
        let overload = message.octet(52).unwrap_or(0);
        if overload & 1 != 0 {
            message.options(head.get(108..236)?)?;
        }
        if overload & 2 != 0 {
            message.options(head.get(44..108)?)?;
        }
        Some(message)
    }

    fn options(&mut self, mut octets: &[u8]) -> Option<()> {
        loop {
            octets = match octets {
                [] | [255, ..] => return Some(()),
                [0, rest @ ..] => rest,
                [code, length, rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    // One that is said again goes on (RFC 3396).
                    self.options.entry(*code).or_default().extend_from_slice(value);
                    rest
                }
                [_] => return None,
            };
        }
    }

    fn octet(&self, code: u8) -> Option<u8> {
        match self.options.get(&code)?.as_slice() {
            [octet] => Some(*octet),
            _ => None,
        }
    }

    fn word(&self, code: u8) -> Option<[u8; 4]> {
        self.options.get(&code)?.as_slice().try_into().ok()
    }
}

pub(super) fn hear(tap: &mut Tap, datagram: Datagram<'_>, book: &Book) -> Result<Vec<Lease>, TapError> {
    let message =
        Message::read(datagram.payload).ok_or_else(|| TapError::Message("it has not the form of DHCPv4".into()))?;
    let mut holder = holder(&message);
    let question = Question { transaction: message.transaction, client: message.hardware.clone() };
    let lease = match (message.operation, message.octet(53)) {
        (QUESTION, Some(REQUEST)) => {
            // The copy that a relay sends on has its option 82; the client's own must not take it away.
            if let Some(known) = tap.asked.get(&question) {
                fill(&mut holder, known);
            }
            tap.ask(question, holder);
            None
        }
        (ANSWER, Some(ACK)) => granted(tap, &message, holder, &question, datagram)?,
        (QUESTION, Some(RELEASE)) => {
            let state = State::Over { at: Some(datagram.at) };
            given_back(message.client, holder, state, datagram.at, book)
        }
        (QUESTION, Some(DECLINE)) => {
            let address = message.word(50).ok_or_else(|| TapError::Message("a DECLINE of no address".into()))?;
            given_back(address.into(), holder, State::Declined, datagram.at, book)
        }
        _ => None,
    };
    Ok(lease.into_iter().collect())
}

/// An ACK with an address and a life; that of an INFORM has neither.
fn granted(
    tap: &Tap,
    message: &Message,
    mut holder: Holder,
    question: &Question,
    datagram: Datagram<'_>,
) -> Result<Option<Lease>, TapError> {
    let Some(life) = message.word(51).map(u32::from_be_bytes) else { return Ok(None) };
    if message.yours.is_unspecified() {
        return Ok(None);
    }
    // A relay passes on to the client what the server said: heard already, and the relay is no server.
    if let Err(stranger) = tap.believes(datagram.from) {
        let passed_on = datagram.from == IpAddr::V4(message.relay) && !message.relay.is_unspecified();
        return if passed_on { Ok(None) } else { Err(stranger) };
    }
    if let Some(asked) = tap.asked.get(question) {
        fill(&mut holder, asked);
    }
    let until = (life != FOR_EVER).then(|| datagram.at + Duration::from_secs(u64::from(life)));
    Ok(Some(lease(message.yours, holder, State::Held { until }, datagram.at)))
}

/// What a client gives back must be its own: anybody can send such a packet.
fn given_back(address: Ipv4Addr, holder: Holder, state: State, at: Timestamp, book: &Book) -> Option<Lease> {
    match book.get(IpNet::from(IpAddr::V4(address))) {
        Some(Now::Held { holder: known, .. }) if known.is_same_client(&holder) => {
            Some(lease(address, holder, state, at))
        }
        _ => None,
    }
}

fn lease(address: Ipv4Addr, holder: Holder, state: State, last: Timestamp) -> Lease {
    Lease { net: IpAddr::V4(address).into(), holder, last, state }
}

fn holder(message: &Message) -> Holder {
    let option = |code: u8| message.options.get(&code).filter(|value| !value.is_empty()).cloned();
    let hardware = message.hardware.clone();
    let mut holder = Holder {
        hardware: (!hardware.is_empty()).then_some(hardware),
        client_id: option(61),
        hostname: option(12).map(|name| String::from_utf8_lossy(&name).into_owned()),
        ..Holder::default()
    };
    holder.relay4(&option(82).unwrap_or_default());
    holder
}

/// A server repeats little of what it was asked (RFC 6842 lets it repeat the client id).
fn fill(holder: &mut Holder, asked: &Holder) {
    let from = |field: &mut Option<Vec<u8>>, other: &Option<Vec<u8>>| {
        if field.is_none() {
            field.clone_from(other);
        }
    };
    from(&mut holder.client_id, &asked.client_id);
    from(&mut holder.circuit_id, &asked.circuit_id);
    from(&mut holder.remote_id, &asked.remote_id);
    from(&mut holder.subscriber_id, &asked.subscriber_id);
    if holder.hostname.is_none() {
        holder.hostname.clone_from(&asked.hostname);
    }
}
