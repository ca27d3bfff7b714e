//! DHCPv6 with prefix delegation (RFC 8415), through any number of relays.
//!
//! Decoded here: dhcproto 0.15 takes every relayed message for one that is relayed again, and leaves out options behind one
//! that it cannot read.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv6Net};

use super::{Datagram, Question, Tap, TapError};
use crate::book::{Book, Now};
use crate::holder::Holder;
use crate::lease::{Lease, State};
use crate::octets;

const REQUEST: u8 = 3;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const SOLICIT: u8 = 1;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const RELAY_MESSAGE: u16 = 9;
const IA_PD: u16 = 25;
const IA_PREFIX: u16 = 26;

/// RFC 8415 §7.6: HOP_COUNT_LIMIT.
const HOPS: usize = 8;
/// A life that does not end (RFC 8415 §7.7).
const FOR_EVER: u32 = u32::MAX;

pub(super) fn hear(tap: &mut Tap, datagram: Datagram<'_>, book: &Book) -> Result<Vec<Lease>, TapError> {
    let mut holder = Holder::default();
    let (inner, relayed) = unwrapped(datagram.payload, &mut holder)?;
    let [kind, x1, x2, x3, body @ ..] = inner else { return Err(cut("a message of less than 4 octets")) };
    let options = octets::items16(body).ok_or_else(|| cut("an option is cut off"))?;
    let first = |code: u16| options.iter().find(|(found, _)| *found == code).map(|(_, value)| *value);
    let Some(duid) = first(CLIENT_ID) else { return Ok(Vec::new()) };
    holder.duid = Some(duid.to_vec());
    let question = Question { transaction: u32::from_be_bytes([0, *x1, *x2, *x3]), client: duid.to_vec() };
    match *kind {
        SOLICIT | REQUEST | RENEW | REBIND => {
            if let Some(known) = tap.asked.get(&question)
                && !relayed
            {
                holder = known.clone();
            }
            tap.ask(question, holder);
            Ok(Vec::new())
        }
        REPLY => {
            let granted = granted(&options)?;
            if granted.is_empty() || first(SERVER_ID).is_none() {
                return Ok(Vec::new());
            }
            // What a relay passes on to the client was heard already when the server said it.
            if let Err(stranger) = tap.believes(datagram.from) {
                let is_known = |one: &Granted| is_held(book, one.net, &holder);
                return if !relayed && granted.iter().all(is_known) { Ok(Vec::new()) } else { Err(stranger) };
            }
            if let Some(asked) = tap.asked.get(&question) {
                holder.circuit_id = holder.circuit_id.or_else(|| asked.circuit_id.clone());
                holder.remote_id = holder.remote_id.or_else(|| asked.remote_id.clone());
                holder.subscriber_id = holder.subscriber_id.or_else(|| asked.subscriber_id.clone());
            }
            Ok(granted.into_iter().map(|one| one.lease(&holder, datagram.at)).collect())
        }
        RELEASE | DECLINE => {
            let state = if *kind == RELEASE { State::Over { at: Some(datagram.at) } } else { State::Declined };
            let nets = granted(&options)?.into_iter().map(|one| one.net).filter(|net| is_held(book, *net, &holder));
            Ok(nets.map(|net| Lease { net, holder: holder.clone(), last: datagram.at, state }).collect())
        }
        _ => Ok(Vec::new()),
    }
}

fn is_held(book: &Book, net: IpNet, holder: &Holder) -> bool {
    matches!(book.get(net), Some(Now::Held { holder: known, .. }) if known.is_same_client(holder))
}

fn cut(reason: &str) -> TapError {
    TapError::Message(reason.to_owned())
}

/// The client's or server's own message, and what the relay that is nearest to the client said.
fn unwrapped<'d>(mut message: &'d [u8], holder: &mut Holder) -> Result<(&'d [u8], bool), TapError> {
    for hop in 0..=HOPS {
        let [RELAY_FORWARD | RELAY_REPLY, rest @ ..] = message else { return Ok((message, hop > 0)) };
        // Hop count, link address and peer address.
        let body = rest.get(33..).ok_or_else(|| cut("a relayed message is cut off"))?;
        let options = octets::items16(body).ok_or_else(|| cut("an option of a relay is cut off"))?;
        let inner = options.iter().find(|(code, _)| *code == RELAY_MESSAGE).map(|(_, value)| *value);
        *holder = Holder::default();
        holder.relay6(body);
        message = inner.ok_or_else(|| cut("a relay passes on nothing"))?;
    }
    Err(TapError::Relays)
}

/// An address or prefix in an identity association.
struct Granted {
    net: IpNet,
    iaid: Option<u32>,
    life: u32,
}

impl Granted {
    fn lease(self, holder: &Holder, at: Timestamp) -> Lease {
        let until = || at + Duration::from_secs(u64::from(self.life));
        let state = match self.life {
            0 => State::Over { at: Some(at) },
            FOR_EVER => State::Held { until: None },
            _ => State::Held { until: Some(until()) },
        };
        Lease { net: self.net, holder: Holder { iaid: self.iaid, ..holder.clone() }, last: at, state }
    }
}

fn granted(options: &[(u16, &[u8])]) -> Result<Vec<Granted>, TapError> {
    let mut granted = Vec::new();
    for (code, value) in options {
        let head = match *code {
            IA_NA | IA_PD => 12,
            IA_TA => 4,
            _ => continue,
        };
        let (head, inner) = value.split_at_checked(head).ok_or_else(|| cut("an association is cut off"))?;
        let iaid = head.first_chunk().map(|octets| u32::from_be_bytes(*octets));
        for (code, value) in octets::items16(inner).ok_or_else(|| cut("an option of an association is cut off"))? {
            let (net, life) = match code {
                IA_ADDRESS => address(value).ok_or_else(|| cut("an address is cut off"))?,
                IA_PREFIX => prefix(value).ok_or_else(|| cut("a prefix is none"))?,
                _ => continue,
            };
            granted.push(Granted { net, iaid, life });
        }
    }
    Ok(granted)
}

/// Address, preferred and valid life.
fn address(value: &[u8]) -> Option<(IpNet, u32)> {
    let (address, rest) = value.split_first_chunk::<16>()?;
    let life = u32::from_be_bytes(*rest.get(4..)?.first_chunk()?);
    Some((IpAddr::V6(Ipv6Addr::from(*address)).into(), life))
}

/// Preferred and valid life, length, prefix.
fn prefix(value: &[u8]) -> Option<(IpNet, u32)> {
    let life = u32::from_be_bytes(*value.get(4..)?.first_chunk()?);
    let length = *value.get(8)?;
    let address = Ipv6Addr::from(*value.get(9..)?.first_chunk::<16>()?);
    Some((Ipv6Net::new(address, length).ok()?.trunc().into(), life))
}
