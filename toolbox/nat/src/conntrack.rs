//! Linux' connection tracking, as nfnetlink tells it (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::IpAddr;

use crate::flows::{Flow, Mapping};

/// The multicast group of new flows.
pub const GROUP_NEW: u32 = 1;
/// The multicast group of flows that end.
pub const GROUP_DESTROY: u32 = 3;

const SUBSYSTEM: u8 = 1;
const NEW: u8 = 0;
const GET: u8 = 1;
const DELETE: u8 = 2;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

const DONE: u16 = 3;
const ERROR: u16 = 2;
const OVERRUN: u16 = 4;
const HEADER: usize = 16;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A flow whose source is translated is there.
    Begun(Flow),
    /// It is gone.
    Ended(Flow),
    /// A flow that is not translated, or of a zone of its own: nothing for us.
    Other,
    /// The end of a dump.
    Done,
    /// The kernel refuses, by its number.
    Refused(i32),
    /// Messages were lost.
    Overrun,
}

/// A message that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is shorter than it says.
    #[error("a netlink message of {said} octets in {there}")]
    Cut {
        /// The length that it says.
        said: usize,
        /// What is there.
        there: usize,
    },
    /// An attribute does not fit.
    #[error("attribute {0} of a conntrack message is cut off")]
    Attribute(u16),
    /// A flow without an address or a protocol.
    #[error("a conntrack message without {0}")]
    Missing(&'static str),
}

/// The request for all flows.
#[must_use]
pub fn dump() -> Vec<u8> {
    const REQUEST_DUMP: u16 = 0x301;
    let mut octets = Vec::new();
    octets.extend(20_u32.to_ne_bytes());
    octets.extend([GET, SUBSYSTEM]);
    octets.extend(REQUEST_DUMP.to_ne_bytes());
    octets.extend([0; 8]);
    // Of every family, version 0.
    octets.extend([0; 4]);
    octets
}

/// Reads the messages of one datagram, each by itself.
pub fn read(mut datagram: &[u8]) -> impl Iterator<Item = Result<Message, MessageError>> + '_ {
    std::iter::from_fn(move || {
        let (head, _) = datagram.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, t0, t1, ..] = *head;
        let said = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = datagram.get(HEADER..said) else {
            let there = datagram.len();
            datagram = &[];
            return Some(Err(MessageError::Cut { said, there }));
        };
        datagram = datagram.get(said.next_multiple_of(4)..).unwrap_or_default();
        Some(message(u16::from_ne_bytes([t0, t1]), body))
    })
}

fn message(kind: u16, body: &[u8]) -> Result<Message, MessageError> {
    match kind {
        DONE => return Ok(Message::Done),
        OVERRUN => return Ok(Message::Overrun),
        ERROR => {
            let number = body.first_chunk().map_or(0, |octets| i32::from_ne_bytes(*octets));
            return Ok(if number == 0 { Message::Other } else { Message::Refused(number.saturating_neg()) });
        }
        _ => {}
    }
    let [low, high] = kind.to_le_bytes();
    if high != SUBSYSTEM || (low != NEW && low != DELETE) {
        return Ok(Message::Other);
    }
    let attributes = body.get(4..).ok_or(MessageError::Missing("its header"))?;
    let (mut original, mut reply) = (None, None);
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        match kind {
            ORIGINAL => original = Some(Tuple::read(value)?),
            REPLY => reply = Some(Tuple::read(value)?),
            // Addresses of another zone are other addresses.
            ZONE => return Ok(Message::Other),
            _ => {}
        }
    }
    let original = original.ok_or(MessageError::Missing("its first direction"))?;
    let reply = reply.ok_or(MessageError::Missing("its other direction"))?;
    if original.source == reply.destination {
        return Ok(Message::Other);
    }
    let mapping = Mapping {
        external: reply.destination,
        port: reply.destination_port,
        protocol: original.protocol,
        internal: original.source,
    };
    let flow =
        Flow { mapping, internal_port: original.source_port, remote: reply.source, remote_port: reply.source_port };
    Ok(if low == NEW { Message::Begun(flow) } else { Message::Ended(flow) })
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

impl Tuple {
    fn read(octets: &[u8]) -> Result<Self, MessageError> {
        let (mut source, mut destination, mut protocol) = (None, None, None);
        let (mut source_port, mut destination_port) = (0, 0);
        for attribute in Attributes(octets) {
            match attribute? {
                (TUPLE_ADDRESSES, inner) => {
                    for attribute in Attributes(inner) {
                        match attribute? {
                            (kind @ (1 | 3), value) => source = Some(address(kind, value)?),
                            (kind @ (2 | 4), value) => destination = Some(address(kind, value)?),
                            _ => {}
                        }
                    }
                }
                (TUPLE_PROTOCOL, inner) => {
                    for attribute in Attributes(inner) {
                        match attribute? {
                            (1, value) => protocol = value.first().copied(),
                            // An ICMP query has one identifier for both ends.
                            (kind @ (4 | 7), value) => {
                                source_port = port(kind, value)?;
                                destination_port = source_port;
                            }
                            (kind @ 2, value) => source_port = port(kind, value)?,
                            (kind @ 3, value) => destination_port = port(kind, value)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            source: source.ok_or(MessageError::Missing("a source address"))?,
            destination: destination.ok_or(MessageError::Missing("a destination address"))?,
            protocol: protocol.ok_or(MessageError::Missing("a protocol"))?,
            source_port,
            destination_port,
        })
    }
}

fn address(kind: u16, value: &[u8]) -> Result<IpAddr, MessageError> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).map_err(|_| MessageError::Attribute(kind))
}

fn port(kind: u16, value: &[u8]) -> Result<u16, MessageError> {
    <[u8; 2]>::try_from(value).map(u16::from_be_bytes).map_err(|_| MessageError::Attribute(kind))
}

/// `struct nlattr`: a length with its own four octets, a type whose two top bits say how the value is written.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1, ..] = *self.0 else {
            let rest = std::mem::take(&mut self.0);
            return if rest.is_empty() { None } else { Some(Err(MessageError::Attribute(0))) };
        };
        let kind = u16::from_ne_bytes([k0, k1]) & 0x3fff;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = self.0.get(4..length) else {
            self.0 = &[];
            return Some(Err(MessageError::Attribute(kind)));
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut octets = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    const NESTED: u16 = 0x8000;

    fn tuple(kind: u16, source: &[u8], destination: &[u8], ports: (u16, u16)) -> Vec<u8> {
        let (from, to) = if source.len() == 4 { (1, 2) } else { (3, 4) };
        let addresses = [attribute(from, source), attribute(to, destination)].concat();
        let protocol =
            [attribute(1, &[6]), attribute(2, &ports.0.to_be_bytes()), attribute(3, &ports.1.to_be_bytes())].concat();
        attribute(kind | NESTED, &[attribute(1 | NESTED, &addresses), attribute(2 | NESTED, &protocol)].concat())
    }

    fn datagram(low: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [vec![2, 0, 0, 0], attributes.concat()].concat();
        let length = u32::try_from(body.len() + HEADER).unwrap();
        [&length.to_ne_bytes()[..], &[low, SUBSYSTEM], &[0; 10], &body].concat()
    }

    fn translated(low: u8) -> Vec<u8> {
        let original = tuple(ORIGINAL, &[100, 64, 0, 7], &[192, 0, 2, 1], (5000, 443));
        let reply = tuple(REPLY, &[192, 0, 2, 1], &[203, 0, 113, 1], (443, 2048));
        datagram(low, &[original, reply])
    }

    fn flow() -> Flow {
        let mapping =
            Mapping { external: [203, 0, 113, 1].into(), port: 2048, protocol: 6, internal: [100, 64, 0, 7].into() };
        Flow { mapping, internal_port: 5000, remote: [192, 0, 2, 1].into(), remote_port: 443 }
    }

    fn all(datagram: &[u8]) -> Vec<Result<Message, MessageError>> {
        read(datagram).collect()
    }

    #[test]
    fn a_translated_flow_begins_and_ends() {
        let both = [translated(NEW), translated(DELETE)].concat();
        assert_eq!(all(&both), [Ok(Message::Begun(flow())), Ok(Message::Ended(flow()))]);
    }

    #[test]
    fn what_is_not_translated_and_what_is_in_a_zone_is_nothing_for_us() {
        let plain = datagram(
            NEW,
            &[
                tuple(ORIGINAL, &[100, 64, 0, 7], &[192, 0, 2, 1], (5000, 443)),
                tuple(REPLY, &[192, 0, 2, 1], &[100, 64, 0, 7], (443, 5000)),
            ],
        );
        assert_eq!(all(&plain), [Ok(Message::Other)]);
        let zone = datagram(NEW, &[attribute(ZONE, &[0, 5])]);
        assert_eq!(all(&zone), [Ok(Message::Other)]);
        let port_only = datagram(
            NEW,
            &[
                tuple(ORIGINAL, &[203, 0, 113, 1], &[192, 0, 2, 1], (5000, 443)),
                tuple(REPLY, &[192, 0, 2, 1], &[203, 0, 113, 1], (443, 6000)),
            ],
        );
        assert_eq!(all(&port_only), [Ok(Message::Other)], "the host's own address, at another port");
    }

    #[test]
    fn the_ends_of_a_dump_are_read() {
        let message = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
        };
        assert_eq!(all(&message(DONE, &[0; 4])), [Ok(Message::Done)]);
        assert_eq!(all(&message(ERROR, &(-1_i32).to_ne_bytes())), [Ok(Message::Refused(1))]);
        assert_eq!(all(&message(OVERRUN, &[])), [Ok(Message::Overrun)]);
        assert_eq!(dump().len(), 20);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let whole = translated(NEW);
        assert_eq!(all(&whole[..40]), [Err(MessageError::Cut { said: whole.len(), there: 40 })]);
        assert_eq!(all(&datagram(NEW, &[])), [Err(MessageError::Missing("its first direction"))]);
    }

    proptest! {
        #[test]
        fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..200), at in 0..200_usize, octet: u8) {
            let _ = all(&octets);
            let mut damaged = translated(NEW);
            let at = at % damaged.len();
            damaged[at] = octet;
            prop_assert!(all(&damaged).len() < 20);
        }
    }
}
