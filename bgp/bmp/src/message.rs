//! Messages (RFC 7854 §4): bytes to values and back. What BGP messages they hold is left to bgp-wire.

use std::net::{IpAddr, Ipv6Addr};

use bgp_wire::Reader;

use crate::framer::HEADER_LENGTH;
use crate::peer::PeerHeader;
use crate::statistics::Statistic;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BmpError {
    /// Not BMP, or out of step.
    #[error("version {0} is not spoken here: 3 is")]
    Version(u8),
    /// A length that can't be.
    #[error("a message of {0} octets is not allowed")]
    Length(u32),
    /// A part overruns the message.
    #[error("{0} overruns the message")]
    Truncated(&'static str),
}

/// Why a session of the router ended (RFC 7854 §4.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down<'a> {
    /// 1: the router sent this NOTIFICATION.
    Sent(&'a [u8]),
    /// 2: the router ended it without, for this event of its state machine.
    Event(u16),
    /// 3: the peer sent this NOTIFICATION.
    Received(&'a [u8]),
    /// 4: the connection broke.
    Lost,
    /// 5: the peer is no longer monitored; its session may well stand.
    Unmonitored,
    /// 6: Loc-RIB is no longer monitored (RFC 9069 §5.3).
    LocRib,
    /// One that has no name here.
    Other(u8),
}

/// A session of the router came up (RFC 7854 §4.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerUp<'a> {
    /// The router's end.
    pub local_address: IpAddr,
    /// Its port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// The OPEN that the router sent.
    pub sent: &'a [u8],
    /// The OPEN that it received.
    pub received: &'a [u8],
    /// The name of the table (RFC 9069 §5.4), where it says so.
    pub table: Option<String>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// One UPDATE of a table.
    RouteMonitoring {
        /// Whose.
        peer: PeerHeader,
        /// The UPDATE with its header.
        update: &'a [u8],
    },
    /// Numbers of a session.
    Statistics {
        /// Of whom.
        peer: PeerHeader,
        /// Those whose length fits a number.
        statistics: Vec<Statistic>,
    },
    /// A session ended; all its routes are gone.
    PeerDown {
        /// Whose.
        peer: PeerHeader,
        /// Why.
        reason: Down<'a>,
    },
    /// A session came up.
    PeerUp {
        /// Whose.
        peer: PeerHeader,
        /// With what.
        up: PeerUp<'a>,
    },
    /// Who the router is.
    Initiation {
        /// Its name.
        name: Option<String>,
        /// What it is.
        description: Option<String>,
    },
    /// The router ends the connection.
    Termination {
        /// RFC 7854 §4.5.
        reason: Option<u16>,
        /// In its words.
        text: Option<String>,
    },
    /// What the router got, as it got it (RFC 7854 §4.7).
    Mirroring {
        /// From whom.
        peer: PeerHeader,
        /// The BGP message with its header; there may be none.
        message: Option<&'a [u8]>,
        /// The router could not read it as it is.
        errored: bool,
        /// Others came and are not here.
        lost: bool,
    },
    /// A type, or a type of peer, that nobody knows; to be passed over (RFC 7854 §4.1).
    Unknown,
}

mod kind {
    pub(super) const ROUTE_MONITORING: u8 = 0;
    pub(super) const STATISTICS: u8 = 1;
    pub(super) const PEER_DOWN: u8 = 2;
    pub(super) const PEER_UP: u8 = 3;
    pub(super) const INITIATION: u8 = 4;
    pub(super) const TERMINATION: u8 = 5;
    pub(super) const MIRRORING: u8 = 6;
}

/// Information types, by message.
mod information {
    pub(super) const TEXT: u16 = 0;
    pub(super) const DESCRIPTION: u16 = 1;
    pub(super) const NAME: u16 = 2;
    /// RFC 9069 §5.4, in Peer Up.
    pub(super) const TABLE: u16 = 3;
    /// In Termination.
    pub(super) const REASON: u16 = 1;
    /// In Route Mirroring.
    pub(super) const MIRRORED: u16 = 0;
    pub(super) const ABOUT_MIRRORED: u16 = 1;
    pub(super) const ERRORED: [u8; 2] = [0, 0];
    pub(super) const LOST: [u8; 2] = [0, 1];
}

fn text(value: &[u8]) -> String {
    // For people: what can't be shown is not kept, and it is kept short.
    let text: String = String::from_utf8_lossy(value).chars().filter(|c| !c.is_control()).take(255).collect();
    text
}

impl<'a> Message<'a> {
    /// One whole message as the framer hands it over.
    ///
    /// # Errors
    /// [`BmpError::Truncated`] names the part that does not fit. The stream is still in step.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BmpError> {
        let cut = |what| BmpError::Truncated(what);
        let mut reader = Reader::new(bytes);
        let header = reader.array::<HEADER_LENGTH>().ok_or(cut("the header"))?;
        let [_, _, _, _, _, kind] = header;
        match kind {
            kind::INITIATION => {
                let mut message = (None, None);
                while !reader.is_empty() {
                    match information(&mut reader).ok_or(cut("an information value"))? {
                        (information::NAME, value) => message.0 = Some(text(value)),
                        (information::DESCRIPTION, value) => message.1 = Some(text(value)),
                        _ => {}
                    }
                }
                return Ok(Self::Initiation { name: message.0, description: message.1 });
            }
            kind::TERMINATION => {
                let (mut reason, mut words) = (None, None);
                while !reader.is_empty() {
                    match information(&mut reader).ok_or(cut("an information value"))? {
                        (information::TEXT, value) => words = Some(text(value)),
                        (information::REASON, [high, low]) => reason = Some(u16::from_be_bytes([*high, *low])),
                        _ => {}
                    }
                }
                return Ok(Self::Termination { reason, text: words });
            }
            kind::ROUTE_MONITORING | kind::STATISTICS | kind::PEER_DOWN | kind::PEER_UP | kind::MIRRORING => {}
            _ => return Ok(Self::Unknown),
        }
        let peer = match PeerHeader::decode(&mut reader).ok_or(cut("the per-peer header"))? {
            Ok(peer) => peer,
            Err(_) => return Ok(Self::Unknown),
        };
        Ok(match kind {
            kind::ROUTE_MONITORING => {
                Self::RouteMonitoring { peer, update: bgp_message(&mut reader).ok_or(cut("the UPDATE"))? }
            }
            kind::STATISTICS => {
                Self::Statistics { peer, statistics: statistics(&mut reader).ok_or(cut("the statistics"))? }
            }
            kind::PEER_DOWN => Self::PeerDown { peer, reason: down(&mut reader).ok_or(cut("the reason"))? },
            kind::PEER_UP => Self::PeerUp { peer, up: up(&mut reader, &peer)? },
            _ => {
                let (mut message, mut errored, mut lost) = (None, false, false);
                while !reader.is_empty() {
                    match information(&mut reader).ok_or(cut("a mirrored message"))? {
                        (information::MIRRORED, value) => message = Some(value),
                        (information::ABOUT_MIRRORED, value) if value == information::ERRORED => errored = true,
                        (information::ABOUT_MIRRORED, value) if value == information::LOST => lost = true,
                        _ => {}
                    }
                }
                Self::Mirroring { peer, message, errored, lost }
            }
        })
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let information = |body: &mut Vec<u8>, kind: u16, value: &[u8]| {
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
            body.extend(value.iter().take(usize::from(u16::MAX)));
        };
        let kind = match self {
            Self::RouteMonitoring { peer, update } => {
                body.extend_from_slice(&peer.encode());
                body.extend_from_slice(update);
                kind::ROUTE_MONITORING
            }
            Self::Statistics { peer, statistics } => {
                body.extend_from_slice(&peer.encode());
                body.extend_from_slice(&u32::try_from(statistics.len()).unwrap_or(u32::MAX).to_be_bytes());
                statistics.iter().for_each(|one| information(&mut body, one.kind, &one.encode()));
                kind::STATISTICS
            }
            Self::PeerDown { peer, reason } => {
                body.extend_from_slice(&peer.encode());
                let (code, data): (u8, &[u8]) = match reason {
                    Down::Sent(message) => (1, message),
                    Down::Event(event) => (2, &event.to_be_bytes()),
                    Down::Received(message) => (3, message),
                    Down::Lost => (4, &[]),
                    Down::Unmonitored => (5, &[]),
                    Down::LocRib => (6, &[]),
                    Down::Other(code) => (*code, &[]),
                };
                body.push(code);
                body.extend_from_slice(data);
                kind::PEER_DOWN
            }
            Self::PeerUp { peer, up } => {
                body.extend_from_slice(&peer.encode());
                body.extend_from_slice(&match up.local_address {
                    IpAddr::V4(address) => u128::from(u32::from(address)).to_be_bytes(),
                    IpAddr::V6(address) => address.octets(),
                });
                body.extend_from_slice(&up.local_port.to_be_bytes());
                body.extend_from_slice(&up.remote_port.to_be_bytes());
                body.extend_from_slice(up.sent);
                body.extend_from_slice(up.received);
                if let Some(table) = &up.table {
                    information(&mut body, information::TABLE, table.as_bytes());
                }
                kind::PEER_UP
            }
            Self::Initiation { name, description } => {
                for (kind, value) in [(information::DESCRIPTION, description), (information::NAME, name)] {
                    information(&mut body, kind, value.as_deref().unwrap_or_default().as_bytes());
                }
                kind::INITIATION
            }
            Self::Termination { reason, text } => {
                if let Some(text) = text {
                    information(&mut body, information::TEXT, text.as_bytes());
                }
                if let Some(reason) = reason {
                    information(&mut body, information::REASON, &reason.to_be_bytes());
                }
                kind::TERMINATION
            }
            Self::Mirroring { peer, message, errored, lost } => {
                body.extend_from_slice(&peer.encode());
                for about in [lost.then_some(information::LOST), errored.then_some(information::ERRORED)] {
                    about.iter().for_each(|code| information(&mut body, information::ABOUT_MIRRORED, code));
                }
                // It comes last.
                message.iter().for_each(|message| information(&mut body, information::MIRRORED, message));
                kind::MIRRORING
            }
            Self::Unknown => u8::MAX,
        };
        let length = u32::try_from(HEADER_LENGTH + body.len()).unwrap_or(u32::MAX);
        let mut out = vec![3];
        out.extend_from_slice(&length.to_be_bytes());
        out.push(kind);
        out.extend_from_slice(&body);
        out
    }
}

/// One BGP message, by the length in its own header.
fn bgp_message<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let [.., high, low] = reader.peek::<18>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < bgp_wire::HEADER_LENGTH { None } else { reader.take(length) }
}

/// A type and a value (RFC 7854 §4.4).
fn information<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    let (kind, length) = (reader.u16()?, reader.u16()?);
    Some((kind, reader.take(usize::from(length))?))
}

/// What fits a number; the count in front says no more than the rest of the message does.
fn statistics(reader: &mut Reader<'_>) -> Option<Vec<Statistic>> {
    let count = reader.u32()?;
    let mut statistics = Vec::new();
    for _ in 0..count {
        let (kind, value) = information(reader)?;
        statistics.extend(Statistic::decode(kind, value));
    }
    Some(statistics)
}

fn down<'a>(reader: &mut Reader<'a>) -> Option<Down<'a>> {
    Some(match reader.u8()? {
        1 => Down::Sent(reader.rest()),
        2 => Down::Event(reader.u16()?),
        3 => Down::Received(reader.rest()),
        4 => Down::Lost,
        5 => Down::Unmonitored,
        6 => Down::LocRib,
        other => Down::Other(other),
    })
}

fn up<'a>(reader: &mut Reader<'a>, peer: &PeerHeader) -> Result<PeerUp<'a>, BmpError> {
    let cut = |what| BmpError::Truncated(what);
    let address = reader.array::<16>().ok_or(cut("the local address"))?;
    let local_address = match (peer.key.address, address) {
        (IpAddr::V6(_), octets) => IpAddr::V6(Ipv6Addr::from(octets)),
        (IpAddr::V4(_), [.., a, b, c, d]) => IpAddr::from([a, b, c, d]),
    };
    let ports = reader.u16().zip(reader.u16()).ok_or(cut("the ports"))?;
    let sent = bgp_message(reader).ok_or(cut("the sent OPEN"))?;
    let received = bgp_message(reader).ok_or(cut("the received OPEN"))?;
    let mut table = None;
    while !reader.is_empty() {
        if let (information::TABLE, value) = information(reader).ok_or(cut("an information value"))? {
            table = Some(text(value));
        }
    }
    Ok(PeerUp { local_address, local_port: ports.0, remote_port: ports.1, sent, received, table })
}
