//! NAT events (RFC 8158).

use std::net::IpAddr;
use std::str::FromStr;

use super::fields;
use super::message::Record;
use crate::flows::{Flow, Mapping};

/// What an exporter means by its numbers of NAT events (element 230).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Those of RFC 8158 and IANA's list.
    Rfc8158,
    /// Those of draft-ietf-behave-ipfix-nat-logging-02, which Junos exports.
    Junos,
}

impl FromStr for Dialect {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "rfc8158" => Ok(Self::Rfc8158),
            "junos" => Ok(Self::Junos),
            _ => Err("rfc8158 and junos are the dialects"),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// A translation, or a block, was made.
    Begun,
    /// It was taken away.
    Ended,
}

/// What it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// A session: one flow through a translation.
    Session(Flow),
    /// A binding of a port, whatever flows go through it.
    Binding(Mapping),
    /// A block of ports of one internal address, of every protocol.
    Block {
        /// The external address.
        external: IpAddr,
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
        /// The internal address.
        internal: IpAddr,
    },
    /// A whole external address for an internal one.
    Address {
        /// The external address.
        external: IpAddr,
        /// The internal address.
        internal: IpAddr,
    },
}

/// A NAT event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub which: Which,
    /// To what.
    pub happening: Happening,
    /// When, in milliseconds since 1970, by the exporter's clock; without, the message's time counts.
    pub at_ms: Option<u64>,
}

/// Why a record about translations says nothing that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The dialect does not know the number.
    #[error("NAT event {0} has no meaning in this exporter's dialect")]
    Number(u64),
    /// An element is missing, or has not the length that it has.
    #[error("NAT event {event} without {what}")]
    Missing {
        /// The event's number.
        event: u64,
        /// What is missing.
        what: &'static str,
    },
    /// Ports that are no range.
    #[error("NAT event {event}: ports {first} to {last} in steps of {step}")]
    Ports {
        /// The event's number.
        event: u64,
        /// The first.
        first: u64,
        /// The last.
        last: u64,
        /// The step.
        step: u64,
    },
}

#[derive(Clone, Copy)]
enum Kind {
    Session,
    Binding,
    Address,
    Block,
}

impl Dialect {
    /// The event of a record; none when it is about something else.
    ///
    /// # Errors
    /// [`EventError`]: a translation changed, and it cannot be told which.
    pub fn event(self, record: &Record<'_>) -> Result<Option<Event>, EventError> {
        let Some(event) = record.number(fields::NAT_EVENT) else { return Ok(None) };
        let Some((kind, which)) = self.meaning(event)? else { return Ok(None) };
        let read = Reader { record, event };
        let internal = read.address(fields::SOURCE_V4, fields::SOURCE_V6, "an internal address")?;
        let external = read.address(fields::POST_NAT_SOURCE_V4, fields::POST_NAT_SOURCE_V6, "an external address")?;
        let happening = match kind {
            Kind::Address => Happening::Address { external, internal },
            Kind::Block => {
                let (first, last) = read.range()?;
                Happening::Block { external, first, last, internal }
            }
            Kind::Session | Kind::Binding => {
                let mapping = Mapping {
                    external,
                    port: read.port(fields::POST_NAT_SOURCE_PORT, "an external port")?,
                    protocol: record
                        .number(fields::PROTOCOL)
                        .and_then(|number| u8::try_from(number).ok())
                        .ok_or(EventError::Missing { event, what: "a protocol" })?,
                    internal,
                };
                match kind {
                    Kind::Binding => Happening::Binding(mapping),
                    _ => Happening::Session(Flow {
                        mapping,
                        internal_port: read.port(fields::SOURCE_PORT, "an internal port").unwrap_or(0),
                        remote: read
                            .address(fields::DESTINATION_V4, fields::DESTINATION_V6, "a destination")
                            .unwrap_or(IpAddr::from([0; 4])),
                        remote_port: read.port(fields::DESTINATION_PORT, "a destination port").unwrap_or(0),
                    }),
                }
            }
        };
        Ok(Some(Event { which, happening, at_ms: time(record, which) }))
    }

    /// What a number means; none for what is no translation (pools that are exhausted, quotas).
    fn meaning(self, event: u64) -> Result<Option<(Kind, Which)>, EventError> {
        use Kind::{Address, Binding, Block, Session};
        use Which::{Begun, Ended};
        Ok(match (self, event) {
            (Self::Rfc8158, 4 | 6) => Some((Session, Begun)),
            (Self::Rfc8158, 5 | 7) => Some((Session, Ended)),
            (Self::Rfc8158, 8 | 10) => Some((Binding, Begun)),
            (Self::Rfc8158, 9 | 11) => Some((Binding, Ended)),
            (Self::Rfc8158, 14) => Some((Address, Begun)),
            (Self::Rfc8158, 15) => Some((Address, Ended)),
            (Self::Rfc8158, 16) => Some((Block, Begun)),
            (Self::Rfc8158, 17) => Some((Block, Ended)),
            (Self::Rfc8158, 3 | 12 | 13 | 18) => None,
            (Self::Junos, 1) => Some((Session, Begun)),
            (Self::Junos, 2) => Some((Session, Ended)),
            (Self::Junos, 14) => Some((Block, Begun)),
            (Self::Junos, 15) => Some((Block, Ended)),
            (Self::Junos, 3) => None,
            _ => return Err(EventError::Number(event)),
        })
    }
}

/// When it happened: the time of its observation, or else that of the beginning or end of its flow. A time of 0 is none.
fn time(record: &Record<'_>, which: Which) -> Option<u64> {
    let [s, ms, us, ns] = match which {
        Which::Begun => [fields::FLOW_START_S, fields::FLOW_START_MS, fields::FLOW_START_US, fields::FLOW_START_NS],
        Which::Ended => [fields::FLOW_END_S, fields::FLOW_END_MS, fields::FLOW_END_US, fields::FLOW_END_NS],
    };
    let whole = |element| record.number(element).filter(|number| *number > 0);
    let seconds = |element| whole(element)?.checked_mul(1000);
    let ntp = |element| ntp_ms(record.get(element)?.try_into().ok()?);
    whole(fields::OBSERVED_MS)
        .or_else(|| seconds(fields::OBSERVED_S))
        .or_else(|| ntp(fields::OBSERVED_US))
        .or_else(|| ntp(fields::OBSERVED_NS))
        .or_else(|| whole(ms))
        .or_else(|| seconds(s))
        .or_else(|| ntp(us))
        .or_else(|| ntp(ns))
}

/// From the seconds and the fraction of NTP, which count from 1900 (RFC 7011 §6.1.9); the era of 2036 is the next one.
fn ntp_ms(octets: [u8; 8]) -> Option<u64> {
    const FROM_1900: u64 = 2_208_988_800;
    let both = u64::from_be_bytes(octets);
    if both == 0 {
        return None;
    }
    let (seconds, fraction) = (both >> 32, both & 0xffff_ffff);
    let seconds = if seconds < FROM_1900 { seconds + (1 << 32) } else { seconds };
    Some((seconds - FROM_1900) * 1000 + ((fraction * 1000) >> 32))
}

struct Reader<'r, 'm> {
    record: &'r Record<'m>,
    event: u64,
}

impl Reader<'_, '_> {
    /// An address that is there and not 0.
    fn address(&self, v4: u16, v6: u16, what: &'static str) -> Result<IpAddr, EventError> {
        let four = self.record.get(v4).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(IpAddr::from);
        let six = self.record.get(v6).and_then(|value| <[u8; 16]>::try_from(value).ok()).map(IpAddr::from);
        let there = |address: &IpAddr| !address.is_unspecified();
        let missing = EventError::Missing { event: self.event, what };
        four.filter(there).or_else(|| six.filter(there)).ok_or(missing)
    }

    fn port(&self, element: u16, what: &'static str) -> Result<u16, EventError> {
        let port = self.record.number(element).and_then(|number| u16::try_from(number).ok());
        port.ok_or(EventError::Missing { event: self.event, what })
    }

    /// A block of ports one after the other: by its ends, or by its first and how many.
    fn range(&self) -> Result<(u16, u16), EventError> {
        let (record, event) = (self.record, self.event);
        let missing = |what| EventError::Missing { event, what };
        let first = record.number(fields::RANGE_FIRST).ok_or(missing("the first port of its block"))?;
        let size = record.number(fields::RANGE_SIZE).filter(|size| *size > 0);
        let last = record
            .number(fields::RANGE_LAST)
            .or_else(|| size.and_then(|size| first.checked_add(size - 1)))
            .ok_or(missing("the last port of its block"))?;
        let step = record.number(fields::RANGE_STEP).unwrap_or(1);
        let wrong = EventError::Ports { event, first, last, step };
        let whole = size.is_none_or(|size| first.checked_add(size - 1) == Some(last));
        match (u16::try_from(first), u16::try_from(last)) {
            // Ports between the steps are somebody else's.
            (Ok(first), Ok(last)) if first <= last && step <= 1 && whole => Ok((first, last)),
            _ => Err(wrong),
        }
    }
}
