//! OPEN: who the peer is and what it can do (RFC 4271 §4.2, RFC 5492, RFC 9072).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::capability::Capability;
use crate::error::{DecodeError, EncodeError};
use crate::reader::Reader;
use crate::types::{Asn, Family, HoldTime, RouterId};

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
/// In the place of the first parameter's type: lengths of two octets follow (RFC 9072 §2).
const PARAMETERS_EXTENDED: u8 = 255;
/// What an optional parameter, and all of them, can hold (RFC 4271 §4.2).
const PARAMETER_LIMIT: usize = 255;

/// An OPEN message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The two-octet AS field. [`Open::asn`] is the one that counts.
    pub my_as: u16,
    /// The offer.
    pub hold_time: HoldTime,
    /// Who speaks.
    pub router_id: RouterId,
    /// In the order given.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The OPEN of a four-octet speaker for `families`, with route refresh.
    #[must_use]
    pub fn new(asn: Asn, hold_time: HoldTime, router_id: RouterId, families: impl IntoIterator<Item = Family>) -> Self {
        let capabilities = families
            .into_iter()
            .map(Capability::Multiprotocol)
            .chain([Capability::RouteRefresh, Capability::FourOctetAs(asn)])
            .collect();
        Self { my_as: asn.two_octets(), hold_time, router_id, capabilities }
    }

    /// The speaker's AS number, of four octets where it says so.
    #[must_use]
    pub fn asn(&self) -> Asn {
        self.four_octet_as().unwrap_or(Asn(u32::from(self.my_as)))
    }

    /// The four-octet AS number, from a speaker that has the capability.
    #[must_use]
    pub fn four_octet_as(&self) -> Option<Asn> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// The families that it takes; IPv4 alone from a speaker without the capability (RFC 4760 §8).
    #[must_use]
    pub fn families(&self) -> BTreeSet<Family> {
        // A capability of another family still means that the speaker lists what it takes.
        if !self.capabilities.iter().any(|c| {
            matches!(c, Capability::Multiprotocol(_) | Capability::Flow(_) | Capability::Other { code: 1, .. })
        }) {
            return BTreeSet::from([Family::Ipv4]);
        }
        let family = |capability: &Capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        };
        self.capabilities.iter().filter_map(family).collect()
    }

    /// The families of packets whose flow specifications it takes.
    pub fn flow_families(&self) -> impl Iterator<Item = Family> {
        self.capabilities.iter().filter_map(|capability| match capability {
            Capability::Flow(family) => Some(*family),
            _ => None,
        })
    }

    pub(crate) fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let cut = DecodeError::OpenTruncated("the fixed part");
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or(cut.clone())?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let my_as = reader.u16().ok_or(cut.clone())?;
        let hold_time = reader.u16().ok_or(cut.clone())?;
        let router_id = reader.u32().ok_or(cut.clone())?;
        let parameters_length = reader.u8().ok_or(cut)?;
        let capabilities = decode_parameters(parameters_length, reader.rest())?;
        let open = Self {
            my_as,
            hold_time: HoldTime::from_secs(hold_time).map_err(|error| DecodeError::HoldTime(error.0))?,
            router_id: RouterId::new(Ipv4Addr::from(router_id)).map_err(|_| DecodeError::RouterIdZero)?,
            capabilities,
        };
        if open.my_as == 0 || open.asn() == Asn(0) {
            return Err(DecodeError::AsZero);
        }
        Ok(open)
    }

    pub(crate) fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(VERSION);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.as_secs().to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capabilities.extend_from_slice(&capability.encode()?);
        }
        if capabilities.is_empty() {
            out.push(0);
            return Ok(());
        }
        // All in one parameter, as RFC 5492 §4 prefers; in the long form only if there is no other way (RFC 9072 §2).
        match length_octet("list of optional parameters", capabilities.len() + 2) {
            Ok(length) => {
                out.extend_from_slice(&[length, PARAMETER_CAPABILITIES]);
                out.push(length_octet("list of capabilities", capabilities.len())?);
            }
            Err(_) => {
                out.extend_from_slice(&[PARAMETERS_EXTENDED, PARAMETERS_EXTENDED]);
                out.extend_from_slice(&two_octets("list of optional parameters", capabilities.len() + 3)?);
                out.push(PARAMETER_CAPABILITIES);
                out.extend_from_slice(&two_octets("list of capabilities", capabilities.len())?);
            }
        }
        out.extend_from_slice(&capabilities);
        Ok(())
    }
}

fn decode_parameters(length: u8, rest: &[u8]) -> Result<Vec<Capability>, DecodeError> {
    let cut = |what| DecodeError::OpenTruncated(what);
    let list = "the list of optional parameters";
    // RFC 9072 §2: the type 255 in front says that it is the long form; the length octet then says nothing.
    let extended = length != 0 && rest.first() == Some(&PARAMETERS_EXTENDED);
    let mut reader = Reader::new(rest);
    let length = if extended {
        reader.u8();
        reader.u16().ok_or(cut(list))?
    } else {
        u16::from(length)
    };
    let parameters = reader.rest();
    if parameters.len() != usize::from(length) {
        return Err(cut(list));
    }
    let mut reader = Reader::new(parameters);
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let (kind, value) = read_tlv(&mut reader, extended).ok_or(cut("an optional parameter"))?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(DecodeError::Parameter(kind));
        }
        let mut list = Reader::new(value);
        while !list.is_empty() {
            let (code, value) = read_tlv(&mut list, false).ok_or(cut("a capability"))?;
            capabilities.push(Capability::decode(code, value));
        }
    }
    Ok(capabilities)
}

fn read_tlv<'a>(reader: &mut Reader<'a>, extended: bool) -> Option<(u8, &'a [u8])> {
    let kind = reader.u8()?;
    let length = if extended { reader.u16()? } else { u16::from(reader.u8()?) };
    Some((kind, reader.take(usize::from(length))?))
}

fn two_octets(what: &'static str, length: usize) -> Result<[u8; 2], EncodeError> {
    let limit = usize::from(u16::MAX);
    u16::try_from(length).map(u16::to_be_bytes).map_err(|_| EncodeError { what, length, limit })
}

pub(crate) fn length_octet(what: &'static str, length: usize) -> Result<u8, EncodeError> {
    u8::try_from(length).map_err(|_| EncodeError { what, length, limit: PARAMETER_LIMIT })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Context, Message};

    fn open(capabilities: Vec<Capability>) -> Open {
        let router_id = RouterId::new([10, 0, 0, 1].into()).unwrap();
        Open { my_as: 64500, hold_time: HoldTime::from_secs(9).unwrap(), router_id, capabilities }
    }

    #[test]
    fn capabilities_beyond_255_octets_take_the_long_form_and_no_fewer() {
        for (size, long) in [(249, false), (250, false), (251, false), (252, true)] {
            let open = open(vec![Capability::Other { code: 200, value: vec![0; size] }]);
            let bytes = Message::Open(open.clone()).encode(Context::default()).unwrap();
            assert_eq!(bytes[28..30] == [255, 255], long, "{size}");
            assert_eq!(Message::decode(&bytes, Context::default()), Ok(Message::Open(open)));
        }
    }

    #[test]
    fn the_long_form_is_read_whatever_its_first_length_says() {
        // RFC 9072 §2: any non-zero length octet, then 255, two octets of length, and parameters with two octets each.
        let body = |first: u8, length: u8| {
            let fixed = [4, 0xfb, 0xf4, 0, 9, 10, 0, 0, 1, first, 255, 0, length];
            [&fixed[..], &[2, 0, 2, 2, 0]].concat()
        };
        for first in [255, 8, 1] {
            assert_eq!(Open::decode_body(&body(first, 5)), Ok(open(vec![Capability::RouteRefresh])));
        }
        for length in [4, 6] {
            assert!(matches!(Open::decode_body(&body(255, length)), Err(DecodeError::OpenTruncated(_))));
        }
    }
}
