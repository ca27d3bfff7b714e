//! A session as octets: the same for disk and memory, and short where all its records agree.
//!
//! Most sessions have addresses that every record named, and one record in the last moment, which says nothing that the
//! session does not. Of such a one each time and address is written once. Whatever differs is written out; nothing is
//! left out, so that what is read back is equal.

use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, FOREVER, Ports, SessionRecord};

use crate::codec::{DecodeError, Reader, Writer};
use crate::rows::{Reset, ResetKey};
use crate::session::{Claim, End, EndedBy, Mark, Said, Session, SessionKey, Span};

pub(crate) const VERSION: u8 = 2;

/// What the first octets say of what follows.
pub(crate) mod flag {
    pub(crate) const WHOLE: u16 = 1;
    pub(crate) const ENDED: u16 = 1 << 1;
    pub(crate) const BY_RESET: u16 = 1 << 2;
    pub(crate) const DOUBT: u16 = 1 << 3;
    pub(crate) const UNTIL: u16 = 1 << 4;
    pub(crate) const FOREVER: u16 = 1 << 5;
    /// It was opened by its last record.
    pub(crate) const OPENED_LAST: u16 = 1 << 6;
    /// Every attribute was last said, and every address named, by the last record.
    pub(crate) const ALL_LAST: u16 = 1 << 7;
    /// All addresses are proved by the same records.
    pub(crate) const ONE_SPAN: u16 = 1 << 8;
    /// The one record of the last moment says what the session does.
    pub(crate) const PLAIN_MOMENT: u16 = 1 << 9;
    pub(crate) const ALL: u16 = (1 << 10) - 1;
}

pub(crate) type Spans = (Span, Timestamp, Timestamp);

fn spans(claim: &Claim) -> Spans {
    (claim.span, claim.from, claim.sure)
}

impl Session {
    /// The session as octets, without its key.
    pub(crate) fn encode(&self, key: &SessionKey) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(160));
        let mut flags = 0;
        let mut set = |bit: u16, on: bool| flags |= if on { bit } else { 0 };
        let first = self.claims().next().map(spans);
        let all_last = self.said.values().all(|said| said.last == self.last)
            && self.claims().all(|claim| claim.named == self.last);
        let one_span = first.is_some() && self.claims().all(|claim| Some(spans(claim)) == first);
        let plain = self.plain_moment(key);
        set(flag::WHOLE, self.whole);
        set(flag::ENDED, self.ended.is_some());
        set(flag::BY_RESET, self.ended.is_some_and(|end| end.by == EndedBy::Reset));
        set(flag::DOUBT, self.doubt.is_some());
        set(flag::UNTIL, self.until.is_some());
        set(flag::FOREVER, self.until == Some(FOREVER));
        set(flag::OPENED_LAST, self.opened == self.last);
        set(flag::ALL_LAST, all_last);
        set(flag::ONE_SPAN, one_span);
        set(flag::PLAIN_MOMENT, plain.is_some());
        writer.octet(VERSION);
        writer.number(flags.into());
        writer.user(&self.user);
        writer.number(self.said.len() as u64);
        for (kind, said) in &self.said {
            writer.one(*kind);
            writer.number(said.claims.len() as u64);
            for claim in &said.claims {
                writer.net(claim.net);
                writer.ports(claim.ports);
            }
        }
        writer.number(self.heard.as_millis());
        let near = self.heard;
        writer.mark(self.last, near);
        if self.opened != self.last {
            writer.mark(self.opened, near);
        }
        if let Some(until) = self.until.filter(|until| *until != FOREVER) {
            writer.time(until, near);
        }
        if let Some(end) = self.ended {
            writer.mark(end.mark, near);
        }
        if let Some(doubt) = self.doubt {
            writer.mark(doubt, near);
        }
        if let Some(spans) = first.filter(|_| one_span) {
            writer.spans(spans, near);
        }
        for said in self.said.values() {
            if !all_last {
                writer.mark(said.last, near);
            }
            for claim in &said.claims {
                if !all_last {
                    writer.mark(claim.named, near);
                }
                if !one_span {
                    writer.spans(spans(claim), near);
                }
            }
        }
        match plain {
            Some(record) => {
                writer.one(record.change);
                writer.time(record.time.sent, near);
            }
            None => {
                writer.number(self.moment.len() as u64);
                self.moment.iter().for_each(|record| writer.record(record, near));
            }
        }
        writer.0
    }

    /// What [`Session::encode`] made of the session with this key.
    pub(crate) fn decode(key: &SessionKey, octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a session");
        }
        let flags = match u16::try_from(reader.number()?) {
            Ok(flags) if flags <= flag::ALL => flags,
            _ => return reader.wrong("a session"),
        };
        let has = |bit: u16| flags & bit != 0;
        let user = reader.user()?;
        let mut places: Vec<(AddressKind, Vec<(IpNet, Ports)>)> = Vec::new();
        for _ in 0..reader.count()? {
            let kind = reader.kind(places.last().map(|(kind, _)| *kind))?;
            let nets = (0..reader.count()?).map(|_| Ok((reader.net()?, reader.ports()?)));
            places.push((kind, nets.collect::<Result<_, DecodeError>>()?));
        }
        let heard = Timestamp::from_millis(reader.number()?);
        let last = reader.mark(heard)?;
        let opened = if has(flag::OPENED_LAST) { last } else { reader.mark(heard)? };
        let until = match (has(flag::UNTIL), has(flag::FOREVER)) {
            (false, _) => None,
            (true, true) => Some(FOREVER),
            (true, false) => Some(reader.time(heard)?),
        };
        let by = if has(flag::BY_RESET) { EndedBy::Reset } else { EndedBy::Stop };
        let ended = if has(flag::ENDED) { Some(End { mark: reader.mark(heard)?, by }) } else { None };
        let doubt = if has(flag::DOUBT) { Some(reader.mark(heard)?) } else { None };
        let one = if has(flag::ONE_SPAN) { Some(reader.spans(heard)?) } else { None };
        let mut session = Self {
            user,
            opened,
            last,
            heard,
            until,
            ended,
            doubt,
            whole: has(flag::WHOLE),
            ..Self::empty(last, heard)
        };
        for (kind, nets) in places {
            let mark = if has(flag::ALL_LAST) { last } else { reader.mark(heard)? };
            let mut claims = Vec::with_capacity(nets.len());
            for (net, ports) in nets {
                let named = if has(flag::ALL_LAST) { last } else { reader.mark(heard)? };
                let (span, from, sure) = match one {
                    Some(spans) => spans,
                    None => reader.spans(heard)?,
                };
                claims.push(Claim { net, ports, span, named, from, sure });
            }
            session.said.insert(kind, Said { last: mark, claims });
        }
        if has(flag::PLAIN_MOMENT) {
            let (change, sent) = (reader.one()?, reader.time(heard)?);
            session.moment = vec![session.as_record(key, change, sent)];
        } else {
            for _ in 0..reader.count()? {
                session.moment.push(reader.record(key, heard)?);
            }
        }
        reader.end()?;
        Ok(session)
    }

    /// The one record of the last moment, if it says what the session does.
    fn plain_moment(&self, key: &SessionKey) -> Option<&SessionRecord> {
        let [record] = self.moment.as_slice() else { return None };
        let EventTime { at, basis, proof, sent } = record.time;
        let same = record.session == key.session && record.user == self.user && record.nas == key.nas;
        let time = (at, basis, proof) == (self.last.at, self.last.basis, at.min(sent));
        let addresses = || record.addresses.iter().copied().eq(self.addresses());
        (same && time && record.until == self.until && addresses()).then_some(record)
    }

    fn addresses(&self) -> impl Iterator<Item = Address> {
        self.said.iter().flat_map(|(kind, said)| {
            said.claims.iter().map(|claim| Address { kind: *kind, net: claim.net, ports: claim.ports })
        })
    }

    /// The last record of a session that says no more than that record did.
    fn as_record(&self, key: &SessionKey, change: Change, sent: Timestamp) -> SessionRecord {
        let (at, basis) = (self.last.at, self.last.basis);
        SessionRecord {
            change,
            session: key.session.clone(),
            user: self.user.clone(),
            nas: key.nas.clone(),
            addresses: self.addresses().collect(),
            time: EventTime { at, basis, proof: at.min(sent), sent },
            until: self.until,
        }
    }
}

impl Writer {
    fn mark(&mut self, mark: Mark, near: Timestamp) {
        self.one(mark.basis);
        self.time(mark.at, near);
    }

    /// Each time by its distance from the one before it: they lie close together.
    fn spans(&mut self, (span, from, sure): Spans, near: Timestamp) {
        self.time(span.proof, near);
        self.time(sure, span.proof);
        self.time(span.since, span.proof);
        self.time(from, span.since);
    }

    fn record(&mut self, record: &SessionRecord, near: Timestamp) {
        self.one(record.change);
        self.user(&record.user);
        self.number(record.addresses.len() as u64);
        record.addresses.iter().for_each(|address| self.place(address));
        let EventTime { at, basis, proof, sent } = record.time;
        self.mark(Mark { at, basis }, near);
        self.time(proof, near);
        self.time(sent, near);
        self.octet(u8::from(record.until.is_some()));
        record.until.iter().for_each(|until| self.time(*until, near));
    }
}

impl Reader<'_> {
    /// The next kind of address, behind `before`. Each stands once: of two, one reader might take the first and another the last.
    pub(crate) fn kind(&mut self, before: Option<AddressKind>) -> Result<AddressKind, DecodeError> {
        let kind = self.one()?;
        if before.is_some_and(|before| before >= kind) {
            return self.wrong("the kinds of a session's addresses, in order and each once");
        }
        Ok(kind)
    }

    pub(crate) fn mark(&mut self, near: Timestamp) -> Result<Mark, DecodeError> {
        Ok(Mark { basis: self.one()?, at: self.time(near)? })
    }

    pub(crate) fn spans(&mut self, near: Timestamp) -> Result<Spans, DecodeError> {
        let proof = self.time(near)?;
        let sure = self.time(proof)?;
        let since = self.time(proof)?;
        let from = self.time(since)?;
        Ok((Span { since, proof }, from, sure))
    }

    /// A record of the session with this key.
    fn record(&mut self, key: &SessionKey, near: Timestamp) -> Result<SessionRecord, DecodeError> {
        let (change, user) = (self.one()?, self.user()?);
        let addresses = (0..self.count()?).map(|_| self.place()).collect::<Result<_, _>>()?;
        let Mark { at, basis } = self.mark(near)?;
        let time = EventTime { at, basis, proof: self.time(near)?, sent: self.time(near)? };
        let until = if self.octet()? == 0 { None } else { Some(self.time(near)?) };
        Ok(SessionRecord { change, session: key.session.clone(), user, nas: key.nas.clone(), addresses, time, until })
    }
}

impl SessionKey {
    /// The key as octets.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(64));
        writer.octet(VERSION);
        writer.key(self);
        writer.0
    }

    /// What [`SessionKey::encode`] made.
    pub(crate) fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a key");
        }
        let key = reader.key()?;
        reader.end()?;
        Ok(key)
    }
}

impl ResetKey {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.octet(VERSION);
        writer.one(self.source);
        writer.text(&self.client);
        writer.nas(&self.nas);
        writer.one(self.basis);
        writer.0
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a key");
        }
        let (source, client) = (reader.one()?, reader.text()?.to_owned());
        let key = Self { source, client, nas: reader.nas()?, basis: reader.one()? };
        reader.end()?;
        Ok(key)
    }
}

impl Reset {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.octet(VERSION);
        writer.number(self.heard.as_millis());
        let EventTime { at, basis, proof, sent } = self.time;
        writer.mark(Mark { at, basis }, self.heard);
        writer.time(proof, self.heard);
        writer.time(sent, self.heard);
        writer.0
    }

    pub(crate) fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(octets);
        if reader.octet()? != VERSION {
            return reader.wrong("the version of a reset");
        }
        let heard = Timestamp::from_millis(reader.number()?);
        let Mark { at, basis } = reader.mark(heard)?;
        let time = EventTime { at, basis, proof: reader.time(heard)?, sent: reader.time(heard)? };
        reader.end()?;
        Ok(Self { time, heard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_octets_make_the_readers_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            let key = SessionKey {
                source: toolbox_wire::http::Source::Radius,
                client: "edge".into(),
                session: "s".into(),
                nas: toolbox_wire::record::Nas::default(),
            };
            for _ in 0..2 {
                let _ = (SessionKey::decode(&octets), ResetKey::decode(&octets), Reset::decode(&octets));
                let _ = Session::decode(&key, &octets);
                octets.insert(0, VERSION);
            }
        }
    }
}
