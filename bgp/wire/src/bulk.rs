//! UPDATEs around prefixes that are already in wire form: what a table of a million routes is sent with.
//!
//! The attributes are written once; each message is then two copies and two lengths. [`crate::Message`] stays the
//! way for everything that is sent rarely.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::attribute::Attributes;
use crate::error::EncodeError;
use crate::message::{Context, HEADER_LENGTH, MAX_LENGTH, Message};
use crate::nlri::encoded_length;
use crate::rules::{code, flag};
use crate::types::Family;
use crate::update::Update;

/// Octets of the longest prefix, its length octet and path identifier included.
const LARGEST_PREFIX: usize = 17 + PATH_ID.len();
/// Octets of a multiprotocol attribute's header with a two-octet length.
const EXTENDED_HEADER: usize = 4;

/// The path identifier of all that is sent in bulk: one path a prefix, wherever identifiers are wanted (RFC 7911).
const PATH_ID: [u8; 4] = 1_u32.to_be_bytes();

/// An UPDATE that lacks its prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulk {
    kind: Kind,
    /// Written-out path attributes, less those that carry prefixes.
    attributes: Vec<u8>,
    /// Prefixes carry path identifiers.
    path_ids: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AnnounceV4,
    WithdrawV4,
    /// Of the family, by way of IPv6.
    AnnounceByV6(Family, Ipv6Addr),
    WithdrawV6,
}

impl Bulk {
    /// Announces IPv4 prefixes by way of `next_hop`.
    ///
    /// # Errors
    /// [`EncodeError`] when the attributes leave no room for a prefix.
    pub fn announce_v4(attributes: &Attributes, next_hop: Ipv4Addr, context: Context) -> Result<Self, EncodeError> {
        let attributes = Attributes { next_hop: Some(next_hop), ..attributes.clone() };
        Self::new(Kind::AnnounceV4, attributes, context)
    }

    /// Announces IPv6 prefixes by way of `next_hop` (RFC 4760 §3).
    ///
    /// # Errors
    /// [`EncodeError`] when the attributes leave no room for a prefix.
    pub fn announce_v6(attributes: &Attributes, next_hop: Ipv6Addr, context: Context) -> Result<Self, EncodeError> {
        let attributes = Attributes { next_hop: None, ..attributes.clone() };
        Self::new(Kind::AnnounceByV6(Family::Ipv6, next_hop), attributes, context)
    }

    /// Announces IPv4 prefixes by way of an IPv6 `next_hop` (RFC 8950 §3), to a peer that takes them.
    ///
    /// # Errors
    /// [`EncodeError`] when the attributes leave no room for a prefix.
    pub fn announce_v4_by_v6(
        attributes: &Attributes,
        next_hop: Ipv6Addr,
        context: Context,
    ) -> Result<Self, EncodeError> {
        let attributes = Attributes { next_hop: None, ..attributes.clone() };
        Self::new(Kind::AnnounceByV6(Family::Ipv4, next_hop), attributes, context)
    }

    /// Withdraws prefixes of `family`.
    #[must_use]
    pub fn withdraw(family: Family, context: Context) -> Self {
        let kind = match family {
            Family::Ipv4 => Kind::WithdrawV4,
            Family::Ipv6 => Kind::WithdrawV6,
        };
        Self { kind, attributes: Vec::new(), path_ids: context.path_ids.has(family) }
    }

    /// Appends a prefix of `bits` to a list in wire form; `octets` may hold more than the prefix needs.
    pub fn push(&self, octets: &[u8], bits: u8, prefixes: &mut Vec<u8>) {
        if self.path_ids {
            prefixes.extend_from_slice(&PATH_ID);
        }
        prefixes.push(bits);
        prefixes.extend(octets.iter().take(encoded_length(bits) - 1));
    }

    /// Octets that a prefix of `bits` takes.
    #[must_use]
    pub fn length_of(&self, bits: u8) -> usize {
        encoded_length(bits) + if self.path_ids { PATH_ID.len() } else { 0 }
    }

    fn new(kind: Kind, attributes: Attributes, context: Context) -> Result<Self, EncodeError> {
        let message = Message::Update(Update { attributes, ..Update::default() }).encode(context)?;
        // Behind the header: no withdrawn routes, the length of the attributes, the attributes.
        let attributes = message.get(HEADER_LENGTH + 4..).unwrap_or_default().to_vec();
        let family = match kind {
            Kind::AnnounceV4 | Kind::WithdrawV4 => Family::Ipv4,
            Kind::AnnounceByV6(family, _) => family,
            Kind::WithdrawV6 => Family::Ipv6,
        };
        let bulk = Self { kind, attributes, path_ids: context.path_ids.has(family) };
        if bulk.room() < LARGEST_PREFIX {
            let what = "path attributes with room for one prefix";
            let limit = MAX_LENGTH - LARGEST_PREFIX - bulk.frame();
            return Err(EncodeError { what, length: bulk.attributes.len(), limit });
        }
        Ok(bulk)
    }

    /// Octets of the message that are neither attributes nor prefixes.
    const fn frame(&self) -> usize {
        HEADER_LENGTH
            + 4
            + match self.kind {
                Kind::AnnounceV4 | Kind::WithdrawV4 => 0,
                // AFI, SAFI, next hop with its length, a reserved octet.
                Kind::AnnounceByV6(..) => EXTENDED_HEADER + 3 + 17 + 1,
                Kind::WithdrawV6 => EXTENDED_HEADER + 3,
            }
    }

    /// Octets of each message that are no prefixes.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        self.frame() + self.attributes.len()
    }

    /// Octets that prefixes may take in one message.
    #[must_use]
    pub const fn room(&self) -> usize {
        MAX_LENGTH.saturating_sub(self.overhead())
    }

    /// Appends as many whole messages as `prefixes` in wire form take, and says how many those are.
    pub fn write(&self, prefixes: &[u8], out: &mut Vec<u8>) -> u64 {
        let room = self.room();
        let (mut messages, mut start, mut at) = (0, 0, 0);
        while let Some(bits) = prefixes.get(at + if self.path_ids { PATH_ID.len() } else { 0 }) {
            let length = self.length_of(*bits);
            if at + length - start > room {
                self.message(prefixes.get(start..at).unwrap_or_default(), out);
                messages += 1;
                start = at;
            }
            at += length;
        }
        if start < prefixes.len() {
            self.message(prefixes.get(start..).unwrap_or_default(), out);
            messages += 1;
        }
        messages
    }

    fn message(&self, prefixes: &[u8], out: &mut Vec<u8>) {
        let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[0xff; 16]);
        out.extend_from_slice(&length(self.overhead() + prefixes.len()));
        out.push(2);
        match self.kind {
            Kind::AnnounceV4 => {
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&length(self.attributes.len()));
                out.extend_from_slice(&self.attributes);
                out.extend_from_slice(prefixes);
            }
            Kind::WithdrawV4 => {
                out.extend_from_slice(&length(prefixes.len()));
                out.extend_from_slice(prefixes);
                out.extend_from_slice(&[0, 0]);
            }
            Kind::AnnounceByV6(family, next_hop) => {
                let value = 3 + 17 + 1 + prefixes.len();
                multiprotocol(code::MP_REACH, family, value, self.attributes.len(), out);
                out.push(16);
                out.extend_from_slice(&next_hop.octets());
                out.push(0);
                out.extend_from_slice(prefixes);
                out.extend_from_slice(&self.attributes);
            }
            Kind::WithdrawV6 => {
                multiprotocol(code::MP_UNREACH, Family::Ipv6, 3 + prefixes.len(), 0, out);
                out.extend_from_slice(prefixes);
            }
        }
    }
}

/// Everything from the withdrawn routes (none) to the family of a multiprotocol attribute of `value` octets.
fn multiprotocol(code: u8, family: Family, value: usize, others: usize, out: &mut Vec<u8>) {
    let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&length(EXTENDED_HEADER + value + others));
    out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED, code]);
    out.extend_from_slice(&length(value));
    out.extend_from_slice(&family.afi().to_be_bytes());
    out.push(family.safi());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::as_path::AsPath;
    use crate::attribute::Origin;
    use crate::community::Community;
    use crate::framer::Framer;
    use crate::types::{Asn, Families};
    use ipnet::IpNet;
    use proptest::prelude::*;

    fn attributes(communities: usize) -> Attributes {
        Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence([Asn(64500)])),
            local_pref: Some(100),
            communities: vec![Community::NO_EXPORT; communities],
            ..Attributes::default()
        }
    }

    fn wire(bulk: &Bulk, prefixes: &[IpNet]) -> Vec<u8> {
        let mut out = Vec::new();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => bulk.push(&prefix.addr().octets(), prefix.prefix_len(), &mut out),
                IpNet::V6(prefix) => bulk.push(&prefix.addr().octets(), prefix.prefix_len(), &mut out),
            }
        }
        out
    }

    fn read(bytes: &[u8], context: Context) -> Vec<Update> {
        let (mut framer, mut updates) = (Framer::default(), Vec::new());
        framer.push(bytes);
        while let Some(frame) = framer.next_frame().unwrap() {
            let Message::Update(update) = Message::decode(frame, context).unwrap() else { panic!() };
            assert_eq!(update.flaws, []);
            updates.push(update);
        }
        updates
    }

    fn prefixes(count: u32, v4: bool) -> Vec<IpNet> {
        let one = |n: u32| match v4 {
            true => IpNet::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 32),
            false => IpNet::new(Ipv6Addr::from((0x2001_0db8 << 96) + u128::from(n)).into(), 128),
        };
        (0..count).map(|n| one(n).unwrap()).collect()
    }

    #[test]
    fn a_message_holds_at_least_800_ipv4_or_230_ipv6_hosts() {
        let context = Context::default();
        let v4 = Bulk::announce_v4(&attributes(1), Ipv4Addr::new(192, 0, 2, 1), context).unwrap();
        let v6 = Bulk::announce_v6(&attributes(1), Ipv6Addr::LOCALHOST, context).unwrap();
        for (bulk, is_v4, least) in [(v4, true, 800), (v6, false, 230)] {
            let all = prefixes(3 * least, is_v4);
            let mut out = Vec::new();
            assert_eq!(bulk.write(&wire(&bulk, &all), &mut out), 3);
            let updates = read(&out, Context::default());
            let first = updates[0].reachable().count();
            assert!(first >= least as usize, "{first}");
            assert!(updates.iter().flat_map(Update::reachable).eq(all));
            assert_eq!(updates[0].attributes.communities, [Community::NO_EXPORT]);
        }
    }

    #[test]
    fn ipv4_by_way_of_ipv6_is_whole_and_full() {
        for ids in [false, true] {
            let path_ids = if ids { Families::from_iter([Family::Ipv4]) } else { Families::NONE };
            let context = Context { path_ids, ipv4_by_ipv6: true, ..Context::default() };
            let bulk = Bulk::announce_v4_by_v6(&attributes(1), Ipv6Addr::LOCALHOST, context).unwrap();
            let all = prefixes(2000, true);
            let mut out = Vec::new();
            assert!(bulk.write(&wire(&bulk, &all), &mut out) <= 5);
            let updates = read(&out, context);
            assert!(updates.iter().flat_map(Update::reachable).eq(all));
            assert!(matches!(updates[0].mp_reach, Some(crate::MpReach::Ipv4ByIpv6 { .. })));
        }
    }

    #[test]
    fn withdrawals_carry_no_attributes() {
        for (family, is_v4) in [(Family::Ipv4, true), (Family::Ipv6, false)] {
            let all = prefixes(2000, is_v4);
            let mut out = Vec::new();
            let bulk = Bulk::withdraw(family, Context::default());
            bulk.write(&wire(&bulk, &all), &mut out);
            let updates = read(&out, Context::default());
            assert!(updates.iter().flat_map(Update::unreachable).eq(all));
            assert!(updates.iter().all(|update| update.attributes.is_empty()));
        }
    }

    #[test]
    fn attributes_that_leave_no_room_are_an_error() {
        let error = Bulk::announce_v4(&attributes(1010), Ipv4Addr::LOCALHOST, Context::default()).unwrap_err();
        assert!(error.to_string().contains("room"), "{error}");
    }

    proptest! {
        #[test]
        fn every_message_is_whole_and_none_is_lost(lengths in proptest::collection::vec(0u8..=128, 0..2000), v4: bool, ids: bool) {
            let context = Context { path_ids: if ids { Families::from_iter(Family::ALL) } else { Families::NONE }, ..Context::default() };
            let one = |bits: &u8| match v4 {
                true => IpNet::new(Ipv4Addr::from(0x0a09_0807).into(), *bits % 33).unwrap().trunc(),
                false => IpNet::new(Ipv6Addr::from(0x2001_0db8_u128 << 96 | 77).into(), *bits).unwrap().trunc(),
            };
            let all: Vec<IpNet> = lengths.iter().map(one).collect();
            let bulk = match v4 {
                true => Bulk::announce_v4(&attributes(3), Ipv4Addr::new(192, 0, 2, 1), context),
                false => Bulk::announce_v6(&attributes(3), Ipv6Addr::LOCALHOST, context),
            };
            let mut out = Vec::new();
            let bulk = bulk.unwrap();
            let messages = bulk.write(&wire(&bulk, &all), &mut out);
            let updates = read(&out, context);
            prop_assert_eq!(messages, updates.len() as u64);
            prop_assert!(updates.iter().flat_map(Update::reachable).eq(all));
        }
    }
}
