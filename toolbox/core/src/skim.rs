//! What is read of the octets of a session or a key without unpacking them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_wire::http::Source;
use toolbox_wire::record::{Nas, Ports};

use crate::answer::Question;
use crate::codec::{DecodeError, Reader, Writer};
use crate::pack::{VERSION, flag};
use crate::session::{SessionKey, Span};

/// The octets of [`SessionKey::encode`], read in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyOctets<'b> {
    pub(crate) source: Source,
    pub(crate) client: &'b str,
    pub(crate) session: &'b str,
    nas: Reader<'b>,
}

impl<'b> KeyOctets<'b> {
    pub(crate) fn of(octets: &'b [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a key");
        }
        let (source, client, session) = (reader.one()?, reader.text()?, reader.text()?);
        let nas = reader;
        reader.skip_nas()?;
        reader.end()?;
        Ok(Self { source, client, session, nas })
    }

    pub(crate) fn nas(&self) -> Result<Nas, DecodeError> {
        let mut reader = self.nas;
        reader.nas()
    }

    /// Source, client and device, by which they are told from others.
    pub(crate) fn device(&self, to: &mut Vec<u8>) {
        to.clear();
        let mut writer = Writer(std::mem::take(to));
        writer.one(self.source);
        writer.text(self.client);
        writer.0.extend_from_slice(self.nas.rest());
        *to = writer.0;
    }
}

/// As [`KeyOctets::device`] of this key.
pub(crate) fn device(key: &SessionKey) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.one(key.source);
    writer.text(&key.client);
    writer.nas(&key.nas);
    writer.0
}

/// A claim, and at which octet of the session it stands, if that is one of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claimed {
    pub(crate) net: IpNet,
    pub(crate) ports: Ports,
    pub(crate) at: u8,
}

/// [`Claimed::at`] of what stands further behind.
pub(crate) const FAR: u8 = u8::MAX;

/// Of the octets of a session what decides how it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Skim {
    flags: u16,
    heard: Timestamp,
    until: Option<Timestamp>,
    /// The oldest of the last proofs of its addresses.
    oldest: Timestamp,
}

impl Skim {
    /// Reads them, and puts the claims into `claims`. What was written by [`crate::session::Session::encode`] reads back.
    pub(crate) fn of(octets: &[u8], claims: &mut Vec<Claimed>) -> Result<Self, DecodeError> {
        claims.clear();
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a session");
        }
        let flags = match u16::try_from(reader.number()?) {
            Ok(flags) if flags <= flag::ALL => flags,
            _ => return reader.wrong("a session"),
        };
        let has = |bit: u16| flags & bit != 0;
        reader.skip_user()?;
        let all = reader;
        let kinds = reader.count()?;
        let mut kind = None;
        for _ in 0..kinds {
            kind = Some(reader.kind(kind)?);
            for _ in 0..reader.count()? {
                let at = u8::try_from(octets.len() - reader.rest().len()).unwrap_or(FAR);
                claims.push(Claimed { net: reader.net()?, ports: reader.ports()?, at });
            }
        }
        let heard = Timestamp::from_millis(reader.number()?);
        reader.mark(heard)?;
        if !has(flag::OPENED_LAST) {
            reader.mark(heard)?;
        }
        let until = match (has(flag::UNTIL), has(flag::FOREVER)) {
            (false, _) => None,
            (true, true) => Some(toolbox_wire::record::FOREVER),
            (true, false) => Some(reader.time(heard)?),
        };
        for bit in [flag::ENDED, flag::DOUBT] {
            if has(bit) {
                reader.mark(heard)?;
            }
        }
        let mut oldest = heard;
        if has(flag::ONE_SPAN) {
            oldest = oldest.min(reader.spans(heard)?.0.proof);
        }
        if !has(flag::ALL_LAST) || !has(flag::ONE_SPAN) {
            let mut counts = all;
            counts.count()?;
            for _ in 0..kinds {
                counts.octet()?;
                let count = counts.count()?;
                if !has(flag::ALL_LAST) {
                    reader.mark(heard)?;
                }
                for _ in 0..count {
                    counts.net()?;
                    counts.ports()?;
                    if !has(flag::ALL_LAST) {
                        reader.mark(heard)?;
                    }
                    if !has(flag::ONE_SPAN) {
                        oldest = oldest.min(reader.spans(heard)?.0.proof);
                    }
                }
            }
        }
        Ok(Self { flags, heard, until, oldest })
    }

    fn has(&self, bit: u16) -> bool {
        self.flags & bit != 0
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.has(flag::ENDED)
    }

    /// Whether it claims nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        self.has(flag::ENDED) && !self.has(flag::DOUBT)
    }

    /// Whether its next record is likely to make it longer.
    pub(crate) fn will_grow(&self) -> bool {
        self.has(flag::OPENED_LAST) && self.is_open()
    }

    /// As [`crate::session::Session::answers_until`].
    pub(crate) fn answers_until(&self, max_age: Duration) -> Option<Timestamp> {
        let plain = self.is_open() && !self.has(flag::DOUBT);
        plain.then(|| self.until.unwrap_or(self.oldest + max_age))
    }

    /// As [`crate::session::Session::is_forgettable`].
    pub(crate) fn is_forgettable(&self, now: Timestamp, max_age: Duration) -> bool {
        let over = self.until.filter(|_| self.is_open()).is_none_or(|until| now.since(until) > max_age);
        over && now.since(self.heard) > max_age * 2
    }

    /// The first moment at which it is forgettable.
    pub(crate) fn forgettable_from(&self, max_age: Duration) -> Timestamp {
        let heard = self.heard + max_age * 2;
        let until = self.until.filter(|_| self.is_open()).map_or(heard, |until| until + max_age);
        heard.max(until) + Duration::from_millis(1)
    }
}

/// Whose a session is, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// By the octets from here to there.
    Named {
        from: usize,
        to: usize,
    },
    Behind(IpAddr),
    Nobody,
}

/// Octets that are read without a word about what is wrong with them.
struct Glance<'b>(&'b [u8]);

impl<'b> Glance<'b> {
    #[inline]
    fn octet(&mut self) -> Option<u8> {
        let (octet, left) = self.0.split_first()?;
        self.0 = left;
        Some(*octet)
    }

    #[inline]
    fn some(&mut self, count: usize) -> Option<&'b [u8]> {
        let (some, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(some)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (some, left) = self.0.split_first_chunk::<N>()?;
        self.0 = left;
        Some(*some)
    }

    #[inline]
    fn number(&mut self) -> Option<usize> {
        let first = self.octet()?;
        if first < 0x80 {
            return Some(first.into());
        }
        let mut number = usize::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let octet = self.octet()?;
            number |= usize::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Whether the prefix that follows holds an address.
    #[inline]
    fn net_holds(&mut self, address: IpAddr) -> Option<bool> {
        let tag = usize::from(self.octet()?);
        let all = self.0;
        if tag <= 32 {
            let given = self.some(tag.div_ceil(8))?;
            let IpAddr::V4(address) = address else { return Some(false) };
            let net = match all.first_chunk() {
                Some(net) => u32::from_be_bytes(*net),
                None => {
                    let mut net = [0; 4];
                    net.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
                    u32::from_be_bytes(net)
                }
            };
            // Behind its length come other octets.
            return Some((u32::from(address) ^ net).checked_shr(32 - tag as u32).unwrap_or(0) == 0);
        }
        let length = tag.checked_sub(64).filter(|length| *length <= 128)?;
        let given = self.some(length.div_ceil(8))?;
        let IpAddr::V6(address) = address else { return Some(false) };
        let bits = u128::from(address);
        if let (Some(net), true) = (all.first_chunk(), length <= 64) {
            let differing = (bits >> 64) as u64 ^ u64::from_be_bytes(*net);
            return Some(differing.checked_shr(64 - length as u32).unwrap_or(0) == 0);
        }
        let mut net = [0; 16];
        net.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
        Some((bits ^ u128::from_be_bytes(net)).checked_shr(128 - length as u32).unwrap_or(0) == 0)
    }

    #[inline]
    fn ports_hold(&mut self, question: &Question) -> Option<bool> {
        let protocol = match self.octet()? {
            0 => return Some(true),
            1 => None,
            2 => Some(self.octet()?),
            _ => return None,
        };
        let [a, b, c, d] = self.array()?;
        let (first, last) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let fits = match (protocol, question.protocol) {
            (Some(own), Some(asked)) => own == asked,
            _ => true,
        };
        Some(question.port.is_none_or(|port| first <= port && port <= last && fits))
    }
}

/// Whose the session is; and what stands behind that in the octets of [`crate::session::Session::encode`].
#[inline]
fn whose(octets: &[u8]) -> Option<(Whose, Glance<'_>)> {
    let mut left = Glance(octets);
    if left.octet()? != VERSION {
        return None;
    }
    left.number()?;
    let whose = match left.octet()? {
        2 => {
            let length = left.number()?;
            let from = octets.len() - left.0.len();
            left.some(length)?;
            Whose::Named { from, to: from + length }
        }
        3 => Whose::Behind(match left.octet()? {
            4 => Ipv4Addr::from(left.array::<4>()?).into(),
            6 => Ipv6Addr::from(left.array::<16>()?).into(),
            _ => return None,
        }),
        _ => Whose::Nobody,
    };
    Some((whose, left))
}

/// Whose the session is if it claims what is asked about, perhaps by the claim that stands at an octet.
#[inline]
pub(crate) fn glance(octets: &[u8], question: &Question, at: u8) -> Option<Whose> {
    let (whose, left) = whose(octets)?;
    let one = || {
        let mut claim = Glance(octets.get(usize::from(at)..).filter(|_| at != FAR)?);
        Some(claim.net_holds(question.address)? && claim.ports_hold(question)?)
    };
    (one() == Some(true) || any_holds(left, question)?).then_some(whose)
}

#[cold]
fn any_holds(mut left: Glance<'_>, question: &Question) -> Option<bool> {
    for _ in 0..left.number()? {
        left.octet()?;
        for _ in 0..left.number()? {
            if left.net_holds(question.address)? & left.ports_hold(question)? {
                return Some(true);
            }
        }
    }
    Some(false)
}

/// From when to when all addresses of the session are proved, if that is one span.
pub(crate) fn span_of(octets: &[u8]) -> Option<Span> {
    let mut reader = Reader::new(octets);
    reader.octet().ok()?;
    let flags = reader.number().ok()? as u16;
    if flags & flag::ONE_SPAN == 0 || flags & (flag::ENDED | flag::DOUBT) != 0 {
        return None;
    }
    reader.skip_user().ok()?;
    for _ in 0..reader.count().ok()? {
        reader.octet().ok()?;
        for _ in 0..reader.count().ok()? {
            reader.net().ok()?;
            reader.ports().ok()?;
        }
    }
    let heard = Timestamp::from_millis(reader.number().ok()?);
    reader.mark(heard).ok()?;
    if flags & flag::OPENED_LAST == 0 {
        reader.mark(heard).ok()?;
    }
    if flags & (flag::UNTIL | flag::FOREVER) == flag::UNTIL {
        reader.time(heard).ok()?;
    }
    reader.spans(heard).ok().map(|(span, ..)| span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_holds_at_a_glance_what_it_holds(
            v4: u32, v6: u128, length in 0_u8..=128, flip in 0_u32..128, behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let one = Ipv4Net::new(v4.into(), length.min(32)).unwrap().trunc();
            let other = Ipv6Net::new(v6.into(), length).unwrap().trunc();
            let v4s = [v4, v4 ^ 1 << (flip % 32)].map(|of| IpAddr::V4(of.into()));
            let v6s = [v6, v6 ^ 1 << flip].map(|of| IpAddr::V6(of.into()));
            for net in [IpNet::V4(one), IpNet::V6(other)] {
                let mut writer = Writer::default();
                writer.net(net);
                writer.0.extend_from_slice(&behind);
                for address in v4s.into_iter().chain(v6s) {
                    let mut read = Glance(&writer.0);
                    prop_assert_eq!(read.net_holds(address), Some(net.contains(&address)), "{} {}", net, address);
                    prop_assert_eq!(read.0, behind.as_slice());
                }
            }
        }

        #[test]
        fn no_octets_make_a_glance_panic(octets: Vec<u8>, v4: u32, v6: u128, at: u8) {
            let mut written = vec![VERSION];
            written.extend_from_slice(&octets);
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let question = Question::new(address, Some(443));
                let _ = (glance(&octets, &question, at), glance(&written, &question, at), span_of(&written));
            }
            let _ = (Skim::of(&written, &mut Vec::new()), KeyOctets::of(&written));
        }
    }
}
