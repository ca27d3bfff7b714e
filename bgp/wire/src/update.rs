//! UPDATE: routes that come and go (RFC 4271 §4.3, RFC 4760, RFC 7606).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attribute::{self, Attributes, RawAttribute, code, flag};
use crate::error::{AttributeError, AttributeFault, DecodeError, Disposition, EncodeError};
use crate::message::Context;
use crate::nlri;
use crate::reader::Reader;
use crate::types::Family;

/// MP_REACH_NLRI: prefixes that come, with their next hop (RFC 4760 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MpReach {
    /// IPv4 unicast.
    Ipv4 {
        /// Where to send.
        next_hop: Ipv4Addr,
        /// What for.
        prefixes: Vec<Ipv4Net>,
    },
    /// IPv6 unicast (RFC 2545).
    Ipv6 {
        /// Where to send.
        next_hop: Ipv6Addr,
        /// The next hop's link-local address, on a shared link.
        link_local: Option<Ipv6Addr>,
        /// What for.
        prefixes: Vec<Ipv6Net>,
    },
    /// A family that is not read here.
    Other {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
        /// The rest, unread.
        rest: Vec<u8>,
    },
}

/// MP_UNREACH_NLRI: prefixes that go (RFC 4760 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MpUnreach {
    /// IPv4 unicast.
    Ipv4(Vec<Ipv4Net>),
    /// IPv6 unicast.
    Ipv6(Vec<Ipv6Net>),
    /// A family that is not read here.
    Other {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
        /// The rest, unread.
        rest: Vec<u8>,
    },
}

/// An UPDATE message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// IPv4 prefixes that go.
    pub withdrawn: Vec<Ipv4Net>,
    /// Prefixes of any family that go.
    pub mp_unreach: Option<MpUnreach>,
    /// Prefixes of any family that come.
    pub mp_reach: Option<MpReach>,
    /// What is said of the prefixes that come.
    pub attributes: Attributes,
    /// IPv4 prefixes that come.
    pub announced: Vec<Ipv4Net>,
    /// What was wrong and could be borne (RFC 7606). Never encoded.
    pub flaws: Vec<AttributeError>,
}

impl Update {
    /// The End-of-RIB marker of `family` (RFC 4724 §2).
    #[must_use]
    pub fn end_of_rib(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::default(),
            Family::Ipv6 => Self { mp_unreach: Some(MpUnreach::Ipv6(Vec::new())), ..Self::default() },
        }
    }

    /// The family that it marks the end of, if it is an End-of-RIB.
    #[must_use]
    pub fn ends_rib_of(&self) -> Option<Family> {
        let rest_is_empty = self.withdrawn.is_empty()
            && self.announced.is_empty()
            && self.mp_reach.is_none()
            && self.attributes.is_empty()
            && self.flaws.is_empty();
        match &self.mp_unreach {
            _ if !rest_is_empty => None,
            None => Some(Family::Ipv4),
            Some(MpUnreach::Ipv4(gone)) if gone.is_empty() => Some(Family::Ipv4),
            Some(MpUnreach::Ipv6(gone)) if gone.is_empty() => Some(Family::Ipv6),
            Some(_) => None,
        }
    }

    /// Whether a flaw makes the prefixes that come count as withdrawn (RFC 7606 §2).
    #[must_use]
    pub fn treat_as_withdraw(&self) -> bool {
        self.flaws.iter().any(|flaw| flaw.disposition() == Disposition::Withdraw)
    }

    /// The prefixes that come, all families; none under [`Update::treat_as_withdraw`].
    pub fn reachable(&self) -> impl Iterator<Item = IpNet> {
        let counts = !self.treat_as_withdraw();
        self.named_reachable().filter(move |_| counts)
    }

    /// The prefixes that go, all families, with those that count as withdrawn.
    pub fn unreachable(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &self.mp_unreach {
            Some(MpUnreach::Ipv4(prefixes)) => (prefixes, &[]),
            Some(MpUnreach::Ipv6(prefixes)) => (&[], prefixes),
            Some(MpUnreach::Other { .. }) | None => (&[], &[]),
        };
        let counts = self.treat_as_withdraw();
        chain(&self.withdrawn, v4, v6).chain(self.named_reachable().filter(move |_| counts))
    }

    fn named_reachable(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &self.mp_reach {
            Some(MpReach::Ipv4 { prefixes, .. }) => (prefixes, &[]),
            Some(MpReach::Ipv6 { prefixes, .. }) => (&[], prefixes),
            Some(MpReach::Other { .. }) | None => (&[], &[]),
        };
        chain(&self.announced, v4, v6)
    }

    pub(crate) fn decode_body(body: &[u8], context: Context) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut field = |what| {
            let length = reader.u16().map(usize::from);
            length.and_then(|length| reader.take(length)).ok_or(DecodeError::UpdateTruncated(what))
        };
        let withdrawn = field("the list of withdrawn routes")?;
        let attributes = field("the list of path attributes")?;
        let mut update = Self {
            withdrawn: nlri::read_all(withdrawn).ok_or(DecodeError::Network("the list of withdrawn routes"))?,
            announced: nlri::read_all(reader.rest()).ok_or(DecodeError::Network("the list of announced routes"))?,
            ..Self::default()
        };
        update.read_attributes(attributes, context)?;
        // RFC 7606 §5.2: with a flaw, and no prefix found that would go with it, nothing milder is left.
        if update.named_reachable().next().is_none()
            && let Some(flaw) = update.flaws.iter().find(|flaw| flaw.disposition() == Disposition::Withdraw)
        {
            return Err(flaw.clone().into());
        }
        Ok(update)
    }

    fn read_attributes(&mut self, list: &[u8], context: Context) -> Result<(), DecodeError> {
        let (mut attributes, cut_off) = attribute::split(list);
        // AS4_PATH (17) amends AS_PATH (2); the order on the wire is free.
        attributes.sort_by_key(|attribute| attribute.code);
        let mut previous = None;
        for attribute in &attributes {
            let repeated = previous.replace(attribute.code) == Some(attribute.code);
            let read = if repeated {
                Err(AttributeFault::Repeated)
            } else {
                attribute::check_flags(attribute).and_then(|()| self.read_attribute(attribute, context))
            };
            if let Err(fault) = read {
                self.note(attribute::flaw(attribute, fault))?;
            }
            // RFC 7606 §3 (h): wrong flags on the prefixes' own attribute still say which ones to withdraw.
            if read == Err(AttributeFault::Flags)
                && matches!(attribute.code, code::MP_REACH | code::MP_UNREACH)
                && let Err(fault) = self.read_attribute(attribute, context)
            {
                self.note(attribute::flaw(attribute, fault))?;
            }
        }
        if let Some(flaw) = cut_off {
            self.note(flaw)?;
        }
        if self.named_reachable().next().is_some() {
            let missing = [
                (code::ORIGIN, self.attributes.origin.is_none()),
                (code::AS_PATH, self.attributes.as_path.is_none()),
                (code::NEXT_HOP, self.attributes.next_hop.is_none() && !self.announced.is_empty()),
            ];
            for (code, missing) in missing {
                if missing && !self.flaws.iter().any(|flaw| flaw.code == code) {
                    self.note(AttributeError { code, fault: AttributeFault::Missing, received: Vec::new() })?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a flaw that can be borne.
    fn note(&mut self, flaw: AttributeError) -> Result<(), AttributeError> {
        if flaw.disposition() == Disposition::Reset {
            return Err(flaw);
        }
        self.flaws.push(flaw);
        Ok(())
    }

    fn read_attribute(&mut self, attribute: &RawAttribute, context: Context) -> Result<(), AttributeFault> {
        match attribute.code {
            code::MP_REACH => {
                let (reach, next_hop_is_host) = MpReach::decode(&attribute.value).ok_or(AttributeFault::Length)?;
                self.mp_reach = Some(reach);
                if next_hop_is_host { Ok(()) } else { Err(AttributeFault::Value) }
            }
            code::MP_UNREACH => {
                self.mp_unreach = Some(MpUnreach::decode(&attribute.value).ok_or(AttributeFault::Length)?);
                Ok(())
            }
            _ => self.attributes.set(attribute, context),
        }
    }

    pub(crate) fn encode_body(&self, context: Context, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut withdrawn = Vec::new();
        nlri::write_all(&self.withdrawn, &mut withdrawn);
        let mut attributes = Vec::new();
        // RFC 7606 §5.1: first, so that the receiver finds the prefixes even if the rest is damaged.
        if let Some(unreach) = &self.mp_unreach {
            attribute::write_attribute(flag::OPTIONAL, code::MP_UNREACH, &unreach.encode(), &mut attributes)?;
        }
        if let Some(reach) = &self.mp_reach {
            attribute::write_attribute(flag::OPTIONAL, code::MP_REACH, &reach.encode(), &mut attributes)?;
        }
        self.attributes.write(context, &mut attributes)?;
        for (what, field) in [("list of withdrawn routes", &withdrawn), ("list of path attributes", &attributes)] {
            let length = field.len();
            let limit = usize::from(u16::MAX);
            let length = u16::try_from(length).map_err(|_| EncodeError { what, length, limit })?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(field);
        }
        nlri::write_all(&self.announced, out);
        Ok(())
    }
}

fn chain<'a>(first: &'a [Ipv4Net], v4: &'a [Ipv4Net], v6: &'a [Ipv6Net]) -> impl Iterator<Item = IpNet> + 'a {
    first.iter().chain(v4).copied().map(IpNet::V4).chain(v6.iter().copied().map(IpNet::V6))
}

impl MpReach {
    /// The value and whether its next hop can be one; `None` when it can't be read.
    fn decode(value: &[u8]) -> Option<(Self, bool)> {
        let mut reader = Reader::new(value);
        let (afi, safi) = (reader.u16()?, reader.u8()?);
        let Some(family) = Family::from_codes(afi, safi) else {
            return Some((Self::Other { afi, safi, rest: reader.rest().into() }, true));
        };
        let next_hop_length = reader.u8()?;
        let next_hop = reader.take(usize::from(next_hop_length))?;
        // One reserved octet, ignored on receipt (RFC 4760 §3).
        reader.u8()?;
        match family {
            Family::Ipv4 => {
                let next_hop = Ipv4Addr::from(*next_hop.as_array::<4>()?);
                let is_host = !next_hop.is_unspecified() && !next_hop.is_multicast() && !next_hop.is_broadcast();
                Some((Self::Ipv4 { next_hop, prefixes: nlri::read_all(reader.rest())? }, is_host))
            }
            Family::Ipv6 => {
                let (global, rest) = next_hop.split_first_chunk::<16>()?;
                let link_local = match rest {
                    [] => None,
                    rest => Some(Ipv6Addr::from(*rest.as_array::<16>()?)),
                };
                let next_hop = Ipv6Addr::from(*global);
                let is_host = !next_hop.is_unspecified() && !next_hop.is_multicast();
                Some((Self::Ipv6 { next_hop, link_local, prefixes: nlri::read_all(reader.rest())? }, is_host))
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ipv4 { next_hop, prefixes } => {
                write_family(Family::Ipv4, &mut out);
                out.push(4);
                out.extend_from_slice(&next_hop.octets());
                out.push(0);
                nlri::write_all(prefixes, &mut out);
            }
            Self::Ipv6 { next_hop, link_local, prefixes } => {
                write_family(Family::Ipv6, &mut out);
                out.push(if link_local.is_some() { 32 } else { 16 });
                out.extend_from_slice(&next_hop.octets());
                out.extend(link_local.iter().flat_map(Ipv6Addr::octets));
                out.push(0);
                nlri::write_all(prefixes, &mut out);
            }
            Self::Other { afi, safi, rest } => write_other(*afi, *safi, rest, &mut out),
        }
        out
    }
}

impl MpUnreach {
    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let (afi, safi) = (reader.u16()?, reader.u8()?);
        Some(match Family::from_codes(afi, safi) {
            Some(Family::Ipv4) => Self::Ipv4(nlri::read_all(reader.rest())?),
            Some(Family::Ipv6) => Self::Ipv6(nlri::read_all(reader.rest())?),
            None => Self::Other { afi, safi, rest: reader.rest().into() },
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ipv4(prefixes) => {
                write_family(Family::Ipv4, &mut out);
                nlri::write_all(prefixes, &mut out);
            }
            Self::Ipv6(prefixes) => {
                write_family(Family::Ipv6, &mut out);
                nlri::write_all(prefixes, &mut out);
            }
            Self::Other { afi, safi, rest } => write_other(*afi, *safi, rest, &mut out),
        }
        out
    }
}

fn write_family(family: Family, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(family.safi());
}

fn write_other(afi: u16, safi: u8, rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
    out.extend_from_slice(rest);
}
