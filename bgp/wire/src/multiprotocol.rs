//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760, RFC 2545, RFC 8950, RFC 7911).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::attribute::is_host;
use crate::error::AttributeFault;
use crate::flow::{self, FlowRule};
use crate::message::Context;
use crate::nlri;
use crate::reader::Reader;
use crate::types::{FLOW_SAFI, Family};

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
    /// IPv4 unicast by way of IPv6 (RFC 8950).
    Ipv4ByIpv6 {
        /// Where to send.
        next_hop: Ipv6Addr,
        /// The next hop's link-local address, on a shared link.
        link_local: Option<Ipv6Addr>,
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
    /// Flow specifications, which have no next hop (RFC 8955 §4).
    Flow {
        /// Of which packets.
        family: Family,
        /// Which.
        rules: Vec<FlowRule>,
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
    /// Flow specifications.
    Flow {
        /// Of which packets.
        family: Family,
        /// Which.
        rules: Vec<FlowRule>,
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

impl MpReach {
    /// The value, its path identifiers, and what is wrong with it; `None` when it can't be read.
    pub(crate) fn decode(value: &[u8], context: Context) -> Option<(Self, Vec<u32>, Option<AttributeFault>)> {
        let mut reader = Reader::new(value);
        let (afi, safi) = (reader.u16()?, reader.u8()?);
        if let Some(family) = Family::from_flow_codes(afi, safi).filter(|family| context.flow.has(*family)) {
            // RFC 8955 §4: a next hop is ignored.
            let next_hop_length = reader.u8()?;
            reader.take(usize::from(next_hop_length) + 1)?;
            let (rules, fault) = read_rules(family, reader.rest())?;
            return Some((Self::Flow { family, rules }, Vec::new(), fault));
        }
        let Some(family) = Family::from_codes(afi, safi) else {
            return Some((Self::Other { afi, safi, rest: reader.rest().into() }, Vec::new(), None));
        };
        let host = |is_host: bool| (!is_host).then_some(AttributeFault::Value);
        let next_hop_length = reader.u8()?;
        let next_hop = reader.take(usize::from(next_hop_length))?;
        // One reserved octet, ignored on receipt (RFC 4760 §3).
        reader.u8()?;
        let with_ids = context.path_ids.has(family);
        match family {
            Family::Ipv4 if next_hop_length != 4 && context.ipv4_by_ipv6 => {
                let (next_hop, link_local) = split_next_hop(next_hop)?;
                let (prefixes, ids) = nlri::read_all(reader.rest(), with_ids)?;
                Some((Self::Ipv4ByIpv6 { next_hop, link_local, prefixes }, ids, host(is_host_v6(next_hop))))
            }
            Family::Ipv4 => {
                let next_hop = Ipv4Addr::from(*next_hop.as_array::<4>()?);
                let (prefixes, ids) = nlri::read_all(reader.rest(), with_ids)?;
                Some((Self::Ipv4 { next_hop, prefixes }, ids, host(is_host(next_hop))))
            }
            Family::Ipv6 => {
                let (next_hop, link_local) = split_next_hop(next_hop)?;
                let (prefixes, ids) = nlri::read_all(reader.rest(), with_ids)?;
                Some((Self::Ipv6 { next_hop, link_local, prefixes }, ids, host(is_host_v6(next_hop))))
            }
        }
    }

    pub(crate) fn encode(&self, ids: &[u32], context: Context) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ipv4 { next_hop, prefixes } => {
                write_family(Family::Ipv4, &mut out);
                out.push(4);
                out.extend_from_slice(&next_hop.octets());
                out.push(0);
                nlri::write_all(prefixes, ids, context.path_ids.ipv4, &mut out);
            }
            Self::Ipv4ByIpv6 { next_hop, link_local, prefixes } => {
                write_family(Family::Ipv4, &mut out);
                write_next_hop(*next_hop, *link_local, &mut out);
                nlri::write_all(prefixes, ids, context.path_ids.ipv4, &mut out);
            }
            Self::Ipv6 { next_hop, link_local, prefixes } => {
                write_family(Family::Ipv6, &mut out);
                write_next_hop(*next_hop, *link_local, &mut out);
                nlri::write_all(prefixes, ids, context.path_ids.ipv6, &mut out);
            }
            Self::Flow { family, rules } => {
                write_flow_family(*family, &mut out);
                out.extend_from_slice(&[0, 0]);
                rules.iter().for_each(|rule| rule.write(&mut out));
            }
            Self::Other { afi, safi, rest } => write_other(*afi, *safi, rest, &mut out),
        }
        out
    }
}

/// Rules, and the fault when some of them are none.
fn read_rules(family: Family, bytes: &[u8]) -> Option<(Vec<FlowRule>, Option<AttributeFault>)> {
    let (rules, wrong) = flow::read_all(family, bytes)?;
    Some((rules, (!wrong.is_empty()).then_some(AttributeFault::FlowRule)))
}

fn split_next_hop(octets: &[u8]) -> Option<(Ipv6Addr, Option<Ipv6Addr>)> {
    let (global, rest) = octets.split_first_chunk::<16>()?;
    let link_local = match rest {
        [] => None,
        rest => Some(Ipv6Addr::from(*rest.as_array::<16>()?)),
    };
    Some((Ipv6Addr::from(*global), link_local))
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// Length, addresses, and the reserved octet.
fn write_next_hop(next_hop: Ipv6Addr, link_local: Option<Ipv6Addr>, out: &mut Vec<u8>) {
    out.push(if link_local.is_some() { 32 } else { 16 });
    out.extend_from_slice(&next_hop.octets());
    out.extend(link_local.iter().flat_map(Ipv6Addr::octets));
    out.push(0);
}

impl MpUnreach {
    /// The value, its path identifiers, and what is wrong with it; `None` when it can't be read.
    pub(crate) fn decode(value: &[u8], context: Context) -> Option<(Self, Vec<u32>, Option<AttributeFault>)> {
        let mut reader = Reader::new(value);
        let (afi, safi) = (reader.u16()?, reader.u8()?);
        if let Some(family) = Family::from_flow_codes(afi, safi).filter(|family| context.flow.has(*family)) {
            let (rules, fault) = read_rules(family, reader.rest())?;
            return Some((Self::Flow { family, rules }, Vec::new(), fault));
        }
        match Family::from_codes(afi, safi) {
            Some(Family::Ipv4) => {
                let (prefixes, ids) = nlri::read_all(reader.rest(), context.path_ids.ipv4)?;
                Some((Self::Ipv4(prefixes), ids, None))
            }
            Some(Family::Ipv6) => {
                let (prefixes, ids) = nlri::read_all(reader.rest(), context.path_ids.ipv6)?;
                Some((Self::Ipv6(prefixes), ids, None))
            }
            None => Some((Self::Other { afi, safi, rest: reader.rest().into() }, Vec::new(), None)),
        }
    }

    pub(crate) fn encode(&self, ids: &[u32], context: Context) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ipv4(prefixes) => {
                write_family(Family::Ipv4, &mut out);
                nlri::write_all(prefixes, ids, context.path_ids.ipv4, &mut out);
            }
            Self::Ipv6(prefixes) => {
                write_family(Family::Ipv6, &mut out);
                nlri::write_all(prefixes, ids, context.path_ids.ipv6, &mut out);
            }
            Self::Flow { family, rules } => {
                write_flow_family(*family, &mut out);
                rules.iter().for_each(|rule| rule.write(&mut out));
            }
            Self::Other { afi, safi, rest } => write_other(*afi, *safi, rest, &mut out),
        }
        out
    }
}

fn write_flow_family(family: Family, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(FLOW_SAFI);
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
