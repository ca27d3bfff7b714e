//! Protocol data units (RFC 8210 §5, RFC 6810 §5): bytes to values and back.

use std::time::Duration;

use bgp_wire::{Asn, Pending};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::table::Vrp;

/// Octets of the longest unit that is read: an Error Report with a unit and a text in it.
pub const MAX_PDU: usize = 16 * 1024;

const HEADER: usize = 8;

/// The protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 6810.
    V0,
    /// RFC 8210.
    V1,
}

impl Version {
    /// On the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
        }
    }

    const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            0 => Some(Self::V0),
            1 => Some(Self::V1),
            _ => None,
        }
    }
}

/// What an Error Report says is wrong (RFC 8210 §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// 0: a unit can't be one.
    CorruptData,
    /// 1: something broke that is not the protocol's.
    Internal,
    /// 2: the cache has nothing yet. The only one that does not end the connection.
    NoData,
    /// 3: the cache finds the request senseless.
    InvalidRequest,
    /// 4: the version is not spoken.
    UnsupportedVersion,
    /// 5: the type is not known.
    UnsupportedType,
    /// 6: a withdrawal of what was never announced.
    UnknownWithdrawal,
    /// 7: an announcement of what is announced already.
    DuplicateAnnouncement,
    /// 8: another version than was settled.
    UnexpectedVersion,
    /// One that has no name here.
    Other(u16),
}

impl ErrorKind {
    /// On the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::CorruptData => 0,
            Self::Internal => 1,
            Self::NoData => 2,
            Self::InvalidRequest => 3,
            Self::UnsupportedVersion => 4,
            Self::UnsupportedType => 5,
            Self::UnknownWithdrawal => 6,
            Self::DuplicateAnnouncement => 7,
            Self::UnexpectedVersion => 8,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::CorruptData,
            1 => Self::Internal,
            2 => Self::NoData,
            3 => Self::InvalidRequest,
            4 => Self::UnsupportedVersion,
            5 => Self::UnsupportedType,
            6 => Self::UnknownWithdrawal,
            7 => Self::DuplicateAnnouncement,
            8 => Self::UnexpectedVersion,
            code => Self::Other(code),
        }
    }
}

/// How long data are good, as the cache wants it (RFC 8210 §6); whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After an answer, until the next question.
    pub refresh: Duration,
    /// After a question without an answer, until the next.
    pub retry: Duration,
    /// After an answer, until what it said counts no more.
    pub expire: Duration,
}

impl Default for Timing {
    /// What RFC 8210 §6 recommends.
    fn default() -> Self {
        Self { refresh: Duration::from_secs(3600), retry: Duration::from_secs(600), expire: Duration::from_secs(7200) }
    }
}

impl Timing {
    /// Held to the ranges of RFC 8210 §6; data never expire before the next question could be answered.
    #[must_use]
    pub fn bounded(self) -> Self {
        let within = |value: Duration, from, to| value.clamp(Duration::from_secs(from), Duration::from_secs(to));
        let (refresh, retry) = (within(self.refresh, 1, 86_400), within(self.retry, 1, 7200));
        let longest = refresh.max(retry) + Duration::from_secs(1);
        Self { refresh, retry, expire: within(self.expire, 600, 172_800).max(longest) }
    }
}

/// A unit without its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pdu {
    /// The cache has something new.
    SerialNotify {
        /// Of the cache's data.
        session: u16,
        /// How far the data have come.
        serial: u32,
    },
    /// What has changed since?
    SerialQuery {
        /// Of the cache's data.
        session: u16,
        /// How far we have come.
        serial: u32,
    },
    /// What is all?
    ResetQuery,
    /// An answer begins.
    CacheResponse {
        /// Of the cache's data.
        session: u16,
    },
    /// A payload, of IPv4 or IPv6.
    Prefix {
        /// It comes; else it goes.
        announce: bool,
        /// Which.
        vrp: Vrp,
    },
    /// The answer ends.
    EndOfData {
        /// Of the cache's data.
        session: u16,
        /// How far the data have come.
        serial: u32,
        /// From a cache of version 1.
        timing: Option<Timing>,
    },
    /// What you have is too old: ask for all.
    CacheReset,
    /// A router's key (BGPsec), of which nothing is kept.
    RouterKey(Vec<u8>),
    /// What is wrong.
    ErrorReport {
        /// Its code.
        kind: ErrorKind,
        /// The unit that it is about; may be empty.
        about: Vec<u8>,
        /// For people.
        text: String,
    },
}

/// Why bytes are no unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// Of a version that is not spoken here.
    #[error("protocol version {0} is not spoken here: 0 and 1 are")]
    Version(u8),
    /// Of a type that nobody knows, or that this version does not have.
    #[error("unit type {0} is not known in this version")]
    Type(u8),
    /// Too long, or of another length than its type has.
    #[error("a unit of type {kind} with {length} octets is not allowed")]
    Length {
        /// The type.
        kind: u8,
        /// The length that it says.
        length: u32,
    },
    /// A prefix that can't be one.
    #[error("prefix length {length}, maximum {max}: not a payload")]
    Prefix {
        /// The prefix length.
        length: u8,
        /// The maximum.
        max: u8,
    },
    /// An Error Report whose parts do not fit into it.
    #[error("the parts of the Error Report overrun it")]
    Report,
}

impl PduError {
    /// What to tell the cache.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Version(_) => ErrorKind::UnsupportedVersion,
            Self::Type(_) => ErrorKind::UnsupportedType,
            Self::Length { .. } | Self::Prefix { .. } | Self::Report => ErrorKind::CorruptData,
        }
    }
}

mod kind {
    pub(super) const SERIAL_NOTIFY: u8 = 0;
    pub(super) const SERIAL_QUERY: u8 = 1;
    pub(super) const RESET_QUERY: u8 = 2;
    pub(super) const CACHE_RESPONSE: u8 = 3;
    pub(super) const IPV4: u8 = 4;
    pub(super) const IPV6: u8 = 6;
    pub(super) const END_OF_DATA: u8 = 7;
    pub(super) const CACHE_RESET: u8 = 8;
    pub(super) const ROUTER_KEY: u8 = 9;
    pub(super) const ERROR_REPORT: u8 = 10;
}

const ANNOUNCE: u8 = 1;

fn header(bytes: &[u8]) -> Option<(u8, u8, u16, u32)> {
    match *bytes.first_chunk::<HEADER>()? {
        [version, kind, a, b, c, d, e, f] => {
            Some((version, kind, u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets))
}

impl Pdu {
    /// One whole unit as the framer hands it over, and its version.
    ///
    /// # Errors
    /// [`PduError`] says what can't be.
    pub fn decode(bytes: &[u8]) -> Result<(Version, Self), PduError> {
        let cut = PduError::Length { kind: 0, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        let (octet, kind, field, length) = header(bytes).ok_or(cut)?;
        let version = Version::from_octet(octet).ok_or(PduError::Version(octet))?;
        let wrong = || PduError::Length { kind, length };
        let body = bytes.get(HEADER..).unwrap_or_default();
        if usize::try_from(length).ok() != Some(bytes.len()) {
            return Err(wrong());
        }
        let number = |at| u32_at(body, at).ok_or_else(wrong);
        let seconds = |at| number(at).map(|seconds| Duration::from_secs(u64::from(seconds)));
        let exactly = |expected: usize| if body.len() == expected { Ok(()) } else { Err(wrong()) };
        let pdu = match (kind, version) {
            (kind::SERIAL_NOTIFY, _) => {
                exactly(4)?;
                Self::SerialNotify { session: field, serial: number(0)? }
            }
            (kind::SERIAL_QUERY, _) => {
                exactly(4)?;
                Self::SerialQuery { session: field, serial: number(0)? }
            }
            (kind::RESET_QUERY, _) => exactly(0).map(|()| Self::ResetQuery)?,
            (kind::CACHE_RESPONSE, _) => exactly(0).map(|()| Self::CacheResponse { session: field })?,
            (kind::IPV4, _) => {
                exactly(12)?;
                Self::prefix(body, |length| Some(Ipv4Net::new(number(4).ok()?.into(), length).ok()?.into()), 32, 8)?
            }
            (kind::IPV6, _) => {
                exactly(24)?;
                let address = body.get(4..).and_then(<[u8]>::first_chunk::<16>).ok_or_else(wrong)?;
                Self::prefix(body, |length| Some(Ipv6Net::new((*address).into(), length).ok()?.into()), 128, 20)?
            }
            (kind::END_OF_DATA, Version::V0) => {
                exactly(4)?;
                Self::EndOfData { session: field, serial: number(0)?, timing: None }
            }
            (kind::END_OF_DATA, Version::V1) => {
                exactly(16)?;
                let timing = Timing { refresh: seconds(4)?, retry: seconds(8)?, expire: seconds(12)? };
                Self::EndOfData { session: field, serial: number(0)?, timing: Some(timing) }
            }
            (kind::CACHE_RESET, _) => exactly(0).map(|()| Self::CacheReset)?,
            (kind::ROUTER_KEY, Version::V1) => Self::RouterKey(bytes.into()),
            (kind::ERROR_REPORT, _) => {
                let (about, text) = report(body).ok_or(PduError::Report)?;
                Self::ErrorReport { kind: ErrorKind::from_code(field), about, text }
            }
            _ => return Err(PduError::Type(kind)),
        };
        Ok((version, pdu))
    }

    fn prefix(body: &[u8], prefix: impl Fn(u8) -> Option<IpNet>, bits: u8, asn_at: usize) -> Result<Self, PduError> {
        let [flags, length, max_length, _] = *body.first_chunk::<4>().ok_or(PduError::Report)?;
        let wrong = PduError::Prefix { length, max: max_length };
        // Host bits are of no consequence to what is covered, and are cleared.
        let prefix =
            prefix(length).filter(|_| length <= max_length && max_length <= bits).ok_or(wrong.clone())?.trunc();
        let asn = Asn(u32_at(body, asn_at).ok_or(wrong)?);
        Ok(Self::Prefix { announce: flags & ANNOUNCE != 0, vrp: Vrp { prefix, max_length, asn } })
    }

    /// As `version` writes it.
    #[must_use]
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let (kind, field, body): (u8, u16, Vec<u8>) = match self {
            Self::SerialNotify { session, serial } => (kind::SERIAL_NOTIFY, *session, serial.to_be_bytes().into()),
            Self::SerialQuery { session, serial } => (kind::SERIAL_QUERY, *session, serial.to_be_bytes().into()),
            Self::ResetQuery => (kind::RESET_QUERY, 0, Vec::new()),
            Self::CacheResponse { session } => (kind::CACHE_RESPONSE, *session, Vec::new()),
            Self::Prefix { announce, vrp } => {
                let mut body = vec![u8::from(*announce), vrp.prefix.prefix_len(), vrp.max_length, 0];
                let kind = match vrp.prefix {
                    IpNet::V4(prefix) => {
                        body.extend_from_slice(&prefix.network().octets());
                        kind::IPV4
                    }
                    IpNet::V6(prefix) => {
                        body.extend_from_slice(&prefix.network().octets());
                        kind::IPV6
                    }
                };
                body.extend_from_slice(&vrp.asn.0.to_be_bytes());
                (kind, 0, body)
            }
            Self::EndOfData { session, serial, timing } => {
                let mut body: Vec<u8> = serial.to_be_bytes().into();
                if version == Version::V1 {
                    let timing = timing.unwrap_or_default();
                    for duration in [timing.refresh, timing.retry, timing.expire] {
                        let seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
                        body.extend_from_slice(&seconds.to_be_bytes());
                    }
                }
                (kind::END_OF_DATA, *session, body)
            }
            Self::CacheReset => (kind::CACHE_RESET, 0, Vec::new()),
            Self::RouterKey(bytes) => return bytes.clone(),
            Self::ErrorReport { kind, about, text } => {
                let mut body = Vec::new();
                for part in [about.as_slice(), text.as_bytes()] {
                    body.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                    body.extend_from_slice(part);
                }
                (kind::ERROR_REPORT, kind.code(), body)
            }
        };
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut out = vec![version.octet(), kind];
        out.extend_from_slice(&field.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
        out
    }
}

/// The unit that an Error Report is about, and its text.
fn report(body: &[u8]) -> Option<(Vec<u8>, String)> {
    let part = |bytes: &[u8]| {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let (part, rest) = bytes.get(4..)?.split_at_checked(length)?;
        Some((part.to_vec(), rest.to_vec()))
    };
    let (about, rest) = part(body)?;
    let (text, rest) = part(&rest)?;
    rest.is_empty().then(|| (about, String::from_utf8_lossy(&text).into_owned()))
}

/// Cuts a byte stream into units, however the reads fall. Holds at most one unfinished unit and what was pushed with it.
#[derive(Debug, Clone, Default)]
pub struct Framer(Pending);

impl Framer {
    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole unit, for [`Pdu::decode`]; `None` until more is pushed.
    ///
    /// # Errors
    /// [`PduError::Length`] as soon as a header says a length that can't be; the stream is then out of step.
    pub fn next_pdu(&mut self) -> Result<Option<&[u8]>, PduError> {
        self.0.next(|bytes| {
            let Some((_, kind, _, length)) = header(bytes) else { return Ok(None) };
            let octets = usize::try_from(length).ok().filter(|octets| (HEADER..=MAX_PDU).contains(octets));
            octets.ok_or(PduError::Length { kind, length }).map(Some)
        })
    }
}
