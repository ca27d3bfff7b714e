//! Changes and requests as bytes, for the journal. A million IPv4 prefixes take 5 MB.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_wire::{Asn, Community, ExtendedCommunity, LargeCommunity, Origin};
use ipnet::{Ipv4Net, Ipv6Net};

mod flow;

pub use flow::encode_flow;

use crate::desired::{Digest, Group, Others, Outcome, SetChange};
use crate::flow::FlowChange;
use crate::guard::Guard;
use crate::route::{NextHop, Prefixes, RouteAttributes};

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An accepted change.
    Change {
        /// The request's id, if it had one.
        id: Option<String>,
        /// What it asked.
        change: SetChange,
    },
    /// An accepted change of flow rules.
    Flow {
        /// The request's id, if it had one.
        id: Option<String>,
        /// What it asked.
        change: FlowChange,
    },
    /// A request whose change is part of what went before.
    Known {
        /// Its id.
        id: String,
        /// What it asked.
        digest: Digest,
        /// What it did.
        outcome: Outcome,
    },
    /// The operator drained a set, or took that back.
    Held {
        /// Its name.
        set: String,
        /// Whether it is held back.
        held: bool,
    },
}

/// The bytes are no record: damaged, or from a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no record of this version: damaged at octet {at}")]
pub struct RecordError {
    /// Where.
    pub at: usize,
}

const CHANGE: u8 = 1;
const KNOWN: u8 = 2;
/// A change with attributes that the first version did not know. What the first version can say is still written so:
/// the digest of a request stays what it was, whichever version took it.
const CHANGE_2: u8 = 16;
const HELD: u8 = 17;
const FLOW: u8 = 32;
/// The same with peers that it is for.
const FLOW_2: u8 = 33;

/// Writes an accepted change.
#[must_use]
pub fn encode_change(id: Option<&str>, change: &SetChange) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(64 + 5 * change.adds()));
    let version = if change.add.iter().any(|group| is_of_2(&group.attributes)) { CHANGE_2 } else { CHANGE };
    out.0.push(version);
    out.option(id, |out, id| out.text(id));
    out.body(change, version);
    out.0
}

fn is_of_2(route: &RouteAttributes) -> bool {
    route.next_hop == NextHop::Own
        || !route.extended_communities.is_empty()
        || !route.large_communities.is_empty()
        || !route.audience.is_empty()
}

/// The part of a change's record, made for `id`, that says what is asked: two requests are the same if theirs are.
#[must_use]
pub fn body_of<'a>(record: &'a [u8], id: Option<&str>) -> &'a [u8] {
    // The kind, whether there is an id, and the id behind its length.
    record.get(2 + id.map_or(0, |id| 4 + id.len())..).unwrap_or_default()
}

/// Writes what became of a request.
#[must_use]
pub fn encode_known(id: &str, digest: &Digest, outcome: &Outcome) -> Vec<u8> {
    let mut out = Writer(vec![KNOWN]);
    out.text(id);
    out.0.extend_from_slice(digest);
    for number in [outcome.added, outcome.changed, outcome.removed] {
        out.0.extend_from_slice(&number.to_be_bytes());
    }
    out.0
}

/// Writes whether the operator holds a set back.
#[must_use]
pub fn encode_held(set: &str, held: bool) -> Vec<u8> {
    let mut out = Writer(vec![HELD]);
    out.text(set);
    out.0.push(u8::from(held));
    out.0
}

/// Reads a record.
///
/// # Errors
/// [`RecordError`].
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let mut reader = Reader { bytes, at: 0 };
    let record = reader.record().filter(|_| reader.at == bytes.len());
    record.ok_or(RecordError { at: reader.at })
}

struct Writer(Vec<u8>);

impl Writer {
    fn length(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn body(&mut self, change: &SetChange, version: u8) {
        self.text(&change.set);
        self.0.push(u8::from(change.others == Others::Go));
        self.prefixes(&change.remove);
        self.length(change.add.len());
        for group in &change.add {
            self.attributes(&group.attributes, version);
            self.prefixes(&group.prefixes);
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.0.push(4);
                self.0.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.0.push(6);
                self.0.extend_from_slice(&address.octets());
            }
        }
    }

    fn attributes(&mut self, route: &RouteAttributes, version: u8) {
        match route.next_hop {
            NextHop::Address(address) => self.address(address),
            NextHop::Own => self.0.push(0),
        }
        self.0.push(route.origin as u8);
        self.length(route.as_path.len());
        route.as_path.iter().for_each(|asn| self.number(asn.0));
        self.option(route.med, Self::number);
        self.option(route.local_pref, Self::number);
        self.length(route.communities.len());
        route.communities.iter().for_each(|community| self.number(community.0));
        self.0.push(match route.guard {
            None => 0,
            Some(Guard::NoExport) => 1,
            Some(Guard::NoAdvertise) => 2,
        });
        if version == CHANGE_2 {
            self.length(route.extended_communities.len());
            route.extended_communities.iter().for_each(|community| self.0.extend_from_slice(&community.0));
            self.length(route.large_communities.len());
            for LargeCommunity(asn, first, second) in &route.large_communities {
                [asn, first, second].into_iter().for_each(|number| self.number(*number));
            }
            self.length(route.audience.len());
            route.audience.iter().for_each(|address| self.address(*address));
        }
    }

    fn prefixes(&mut self, prefixes: &Prefixes) {
        self.length(prefixes.v4.len());
        for prefix in &prefixes.v4 {
            self.0.push(prefix.prefix_len());
            self.0.extend_from_slice(&prefix.addr().octets());
        }
        self.length(prefixes.v6.len());
        for prefix in &prefixes.v6 {
            self.0.push(prefix.prefix_len());
            self.0.extend_from_slice(&prefix.addr().octets());
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(array)
    }

    fn octet(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// How many things of at least `least` octets follow: never more than the bytes hold.
    fn count(&mut self, least: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(least)? <= self.bytes.len() - self.at).then_some(count)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.count(1)?;
        let text = self.bytes.get(self.at..self.at + length)?;
        self.at += length;
        String::from_utf8(text.to_vec()).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.octet()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn record(&mut self) -> Option<Record> {
        match self.octet()? {
            version @ (CHANGE | CHANGE_2) => {
                Some(Record::Change { id: self.option(Self::text)?, change: self.change(version)? })
            }
            version @ (FLOW | FLOW_2) => {
                Some(Record::Flow { id: self.option(Self::text)?, change: flow::read(self, version)? })
            }
            KNOWN => {
                let (id, digest) = (self.text()?, self.array()?);
                let [added, changed, removed] = [self.array()?, self.array()?, self.array()?].map(u64::from_be_bytes);
                Some(Record::Known { id, digest, outcome: Outcome { added, changed, removed } })
            }
            HELD => Some(Record::Held {
                set: self.text()?,
                held: match self.octet()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            _ => None,
        }
    }

    fn change(&mut self, version: u8) -> Option<SetChange> {
        let set = self.text()?;
        let others = match self.octet()? {
            0 => Others::Stay,
            1 => Others::Go,
            _ => return None,
        };
        let remove = self.prefixes()?;
        let groups = self.count(if version == CHANGE { 24 } else { 32 })?;
        let group = |_| Some(Group { attributes: self.attributes(version)?, prefixes: self.prefixes()? });
        let add = (0..groups).map(group).collect::<Option<_>>()?;
        Some(SetChange { set, others, remove, add })
    }

    fn address(&mut self, kind: u8) -> Option<IpAddr> {
        match kind {
            4 => Some(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Some(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => None,
        }
    }

    /// As many things as are said to follow, of at least `least` octets each.
    fn list<T>(&mut self, least: usize, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count(least)?;
        (0..count).map(|_| read(self)).collect()
    }

    fn attributes(&mut self, version: u8) -> Option<RouteAttributes> {
        let next_hop = match self.octet()? {
            0 if version == CHANGE_2 => NextHop::Own,
            kind => self.address(kind)?.into(),
        };
        let origin = match self.octet()? {
            0 => Origin::Igp,
            1 => Origin::Egp,
            2 => Origin::Incomplete,
            _ => return None,
        };
        let as_path = self.list(4, |reader| reader.number().map(Asn))?;
        let (med, local_pref) = (self.option(Self::number)?, self.option(Self::number)?);
        let communities = self.list(4, |reader| reader.number().map(Community))?;
        let guard = match self.octet()? {
            0 => None,
            1 => Some(Guard::NoExport),
            2 => Some(Guard::NoAdvertise),
            _ => return None,
        };
        let mut route =
            RouteAttributes { origin, as_path, med, local_pref, communities, guard, ..RouteAttributes::new(next_hop) };
        if version == CHANGE_2 {
            route.extended_communities = self.list(8, |reader| reader.array().map(ExtendedCommunity))?;
            let large = |reader: &mut Self| Some(LargeCommunity(reader.number()?, reader.number()?, reader.number()?));
            route.large_communities = self.list(12, large)?;
            route.audience = self.list(5, |reader| {
                let kind = reader.octet()?;
                reader.address(kind)
            })?;
        }
        Some(route)
    }

    fn prefixes(&mut self) -> Option<Prefixes> {
        let v4 = self.count(5)?;
        let v4 = (0..v4).map(|_| {
            let (bits, octets) = (self.octet()?, self.array::<4>()?);
            Ipv4Net::new(octets.into(), bits).ok()
        });
        let v4 = v4.collect::<Option<_>>()?;
        let v6 = self.count(17)?;
        let v6 = (0..v6).map(|_| {
            let (bits, octets) = (self.octet()?, self.array::<16>()?);
            Ipv6Net::new(octets.into(), bits).ok()
        });
        let v6 = v6.collect::<Option<_>>()?;
        Some(Prefixes { v4, v6 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> impl Strategy<Value = RouteAttributes> {
        (any::<IpAddr>(), 0..3u8, any::<Vec<u32>>(), any::<[Option<u32>; 2]>(), any::<Vec<u32>>(), 0..3u8).prop_map(
            |(next_hop, origin, path, [med, local_pref], communities, guard)| RouteAttributes {
                origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(origin)],
                as_path: path.into_iter().map(Asn).collect(),
                med,
                local_pref,
                communities: communities.into_iter().map(Community).collect(),
                guard: [None, Some(Guard::NoExport), Some(Guard::NoAdvertise)][usize::from(guard)],
                ..RouteAttributes::new(next_hop)
            },
        )
    }

    fn attributes() -> impl Strategy<Value = RouteAttributes> {
        let large = proptest::collection::vec(any::<[u32; 3]>(), 0..4);
        (plain(), any::<bool>(), any::<Vec<[u8; 8]>>(), large, any::<Vec<IpAddr>>()).prop_map(
            |(plain, own, extended, large, audience)| RouteAttributes {
                next_hop: if own { NextHop::Own } else { plain.next_hop },
                extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
                large_communities: large.into_iter().map(|[a, b, c]| LargeCommunity(a, b, c)).collect(),
                audience,
                ..plain
            },
        )
    }

    fn prefixes() -> impl Strategy<Value = Prefixes> {
        let one = (any::<IpAddr>(), 0..=32u8).prop_map(|(address, bits)| ipnet::IpNet::new(address, bits).unwrap());
        proptest::collection::vec(one, 0..10).prop_map(Prefixes::from_iter)
    }

    fn record() -> impl Strategy<Value = Record> {
        let group = (prop_oneof![plain(), attributes()], prefixes())
            .prop_map(|(attributes, prefixes)| Group { attributes, prefixes });
        let change = (".{0,8}", any::<bool>(), prefixes(), proptest::collection::vec(group, 0..4)).prop_map(
            |(set, go, remove, add)| SetChange { set, others: if go { Others::Go } else { Others::Stay }, remove, add },
        );
        prop_oneof![
            (proptest::option::of(".{0,8}"), change).prop_map(|(id, change)| Record::Change { id, change }),
            (".{0,8}", any::<Digest>(), any::<[u64; 3]>()).prop_map(|(id, digest, [added, changed, removed])| {
                Record::Known { id, digest, outcome: Outcome { added, changed, removed } }
            }),
            (".{0,8}", any::<bool>()).prop_map(|(set, held)| Record::Held { set, held }),
        ]
    }

    fn encode(record: &Record) -> Vec<u8> {
        match record {
            Record::Change { id, change } => encode_change(id.as_deref(), change),
            Record::Flow { id, change } => encode_flow(id.as_deref(), change),
            Record::Known { id, digest, outcome } => encode_known(id, digest, outcome),
            Record::Held { set, held } => encode_held(set, *held),
        }
    }

    /// A record as the first version wrote it, taken from a journal of that version.
    const OF_1: &[u8] = &[
        1, 1, 0, 0, 0, 1, b'r', 0, 0, 0, 1, b's', 1, 0, 0, 0, 1, 24, 10, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 192, 0, 2,
        1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0xfb, 0xf4, 0, 1, 1, 0, 0, 0, 1, 32, 10, 0, 0, 1, 0, 0, 0, 0,
    ];

    #[test]
    fn a_journal_of_the_first_version_is_still_read_and_what_it_could_say_still_written_so() {
        let attributes = RouteAttributes {
            med: Some(5),
            communities: vec![Community(64500 << 16 | 1)],
            guard: Some(Guard::NoExport),
            ..RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap())
        };
        let prefixes = |text: &str| Prefixes::from_iter([text.parse().unwrap()]);
        let add = vec![Group { attributes, prefixes: prefixes("10.0.0.1/32") }];
        let change = SetChange { set: "s".to_owned(), others: Others::Go, remove: prefixes("10.9.0.0/24"), add };
        assert_eq!(decode(OF_1), Ok(Record::Change { id: Some("r".to_owned()), change: change.clone() }));
        assert_eq!(encode_change(Some("r"), &change), OF_1);
        let mut newer = change;
        newer.add[0].attributes.large_communities = vec![LargeCommunity(1, 2, 3)];
        assert_eq!(encode_change(None, &newer).first(), Some(&CHANGE_2));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            prop_assert_eq!(decode(&encode(&record)), Ok(record));
        }

        #[test]
        fn the_body_of_a_change_does_not_depend_on_the_request(record in record(), other in ".{0,8}") {
            if let Record::Change { id, change } = record {
                let one = encode_change(id.as_deref(), &change);
                let two = encode_change(Some(&other), &change);
                prop_assert_eq!(body_of(&one, id.as_deref()), body_of(&two, Some(&other)));
                prop_assert!(one.ends_with(body_of(&one, id.as_deref())) && body_of(&one, id.as_deref()).len() + 2 <= one.len());
            }
        }

        #[test]
        fn what_is_cut_off_is_no_record(record in record(), cut: prop::sample::Index) {
            let bytes = encode(&record);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
