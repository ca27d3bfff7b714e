//! OPEN: who the peer is and what it can do (RFC 4271 §4.2, RFC 5492).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::error::{DecodeError, EncodeError};
use crate::reader::Reader;
use crate::types::{Asn, Family, HoldTime, RouterId};

const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
/// What an optional parameter, and all of them, can hold (RFC 4271 §4.2).
const PARAMETER_LIMIT: usize = 255;

/// A capability (RFC 5492).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Routes of a family (RFC 4760 §8).
    Multiprotocol(Family),
    /// ROUTE-REFRESH is answered (RFC 2918).
    RouteRefresh,
    /// AS numbers of four octets, and the speaker's own (RFC 6793 §3).
    FourOctetAs(Asn),
    /// One that is not read here.
    Other {
        /// Its code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

impl Capability {
    /// From the code and value; anything of an unexpected shape is kept as [`Capability::Other`].
    fn decode(code: u8, value: &[u8]) -> Self {
        let other = || Self::Other { code, value: value.into() };
        match (code, value) {
            (1, [afi_high, afi_low, 0, safi]) => {
                let afi = u16::from_be_bytes([*afi_high, *afi_low]);
                Family::from_codes(afi, *safi).map_or_else(other, Self::Multiprotocol)
            }
            (2, []) => Self::RouteRefresh,
            (65, value) => {
                value.as_array::<4>().map_or_else(other, |octets| Self::FourOctetAs(Asn(u32::from_be_bytes(*octets))))
            }
            _ => other(),
        }
    }

    /// As it stands in an OPEN: code, length, value.
    ///
    /// # Errors
    /// [`EncodeError`] for a value of more than 255 octets.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let (code, value): (u8, Vec<u8>) = match self {
            Self::Multiprotocol(family) => {
                let [high, low] = family.afi().to_be_bytes();
                (1, vec![high, low, 0, family.safi()])
            }
            Self::RouteRefresh => (2, Vec::new()),
            Self::FourOctetAs(asn) => (65, asn.0.to_be_bytes().into()),
            Self::Other { code, value } => (*code, value.clone()),
        };
        let length = length_octet("capability", value.len())?;
        Ok([&[code, length], value.as_slice()].concat())
    }
}

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
        if !self
            .capabilities
            .iter()
            .any(|c| matches!(c, Capability::Multiprotocol(_) | Capability::Other { code: 1, .. }))
        {
            return BTreeSet::from([Family::Ipv4]);
        }
        let family = |capability: &Capability| match capability {
            Capability::Multiprotocol(family) => Some(*family),
            _ => None,
        };
        self.capabilities.iter().filter_map(family).collect()
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
        let parameters = reader.rest();
        if parameters.len() != usize::from(parameters_length) {
            return Err(DecodeError::OpenTruncated("the list of optional parameters"));
        }
        let capabilities = decode_parameters(parameters)?;
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
        // All in one parameter, as RFC 5492 §4 prefers.
        out.push(length_octet("list of optional parameters", capabilities.len() + 2)?);
        out.push(PARAMETER_CAPABILITIES);
        out.push(length_octet("list of capabilities", capabilities.len())?);
        out.extend_from_slice(&capabilities);
        Ok(())
    }
}

fn decode_parameters(parameters: &[u8]) -> Result<Vec<Capability>, DecodeError> {
    let mut reader = Reader::new(parameters);
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let (kind, value) = read_tlv(&mut reader).ok_or(DecodeError::OpenTruncated("an optional parameter"))?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(DecodeError::Parameter(kind));
        }
        let mut list = Reader::new(value);
        while !list.is_empty() {
            let (code, value) = read_tlv(&mut list).ok_or(DecodeError::OpenTruncated("a capability"))?;
            capabilities.push(Capability::decode(code, value));
        }
    }
    Ok(capabilities)
}

fn read_tlv<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let (kind, length) = (reader.u8()?, reader.u8()?);
    Some((kind, reader.take(usize::from(length))?))
}

fn length_octet(what: &'static str, length: usize) -> Result<u8, EncodeError> {
    u8::try_from(length).map_err(|_| EncodeError { what, length, limit: PARAMETER_LIMIT })
}
