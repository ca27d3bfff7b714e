//! What a RADIUS session has that not every record of it says: prefixes that only the Access-Accept delegated, and port
//! blocks, which are told once when they are given and once when they are taken away.
//!
//! Both are carried along here and added to what the [`crate::Table`] is told: delegated prefixes to the session's own
//! records, each port block as a session of its own that goes on and stops with the one that has it. What was granted
//! goes to the session that begins next under the same name at the same NAS by the same line; when it could be
//! one of several it goes to none.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toolbox_wire::access::{Grant, Line};
use toolbox_wire::accounting::Block;
use toolbox_wire::record::{Address, AddressKind, Change, Nas, Ports, Record, SessionRecord, User};

use crate::rows::RestoreError;
use crate::session::SessionKey;

/// How long after an Access-Accept its session may begin.
const FRESH: Duration = Duration::from_secs(300);
/// Grants that wait for their sessions; the oldest makes room.
const WAITING: usize = 65_536;
/// Port blocks of one session.
const BLOCKS: usize = 64;

/// What one session has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Has {
    /// The earliest moment of it that is known, by its own clock.
    begun: Timestamp,
    heard: Timestamp,
    delegated: Vec<IpNet>,
    blocks: Vec<(Ipv4Addr, Ports)>,
}

/// What sessions have beside what their records say.
#[derive(Debug, Default)]
pub struct Carried {
    granted: Vec<(Timestamp, String, Grant)>,
    sessions: BTreeMap<SessionKey, Has>,
}

/// What to tell the table, in order, and what to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The record, and those that follow from it.
    pub records: Vec<Record>,
    /// Rows to make durable before the record is acknowledged.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Carried {
    /// What these rows describe.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore<'r>(rows: impl IntoIterator<Item = (&'r [u8], &'r [u8])>) -> Result<Self, RestoreError> {
        let mut carried = Self::default();
        for (key, value) in rows {
            carried.sessions.insert(serde_json::from_slice(key)?, serde_json::from_slice(value)?);
        }
        Ok(carried)
    }

    /// An Access-Accept from a home server of `client`.
    pub fn granted(&mut self, client: &str, grant: Grant, now: Timestamp) {
        self.granted.retain(|(at, of, known)| {
            let again = of == client
                && known.user == grant.user
                && known.nas == grant.nas
                && known.line.is_the_same(&grant.line);
            now.since(*at) <= FRESH && !again
        });
        // A grant of nothing takes the place of an older one all the same.
        if matches!(grant.user, User::Named(_)) {
            if self.granted.len() >= WAITING {
                self.granted.remove(0);
            }
            self.granted.push((now, client.to_owned(), grant));
        }
    }

    /// Completes a record of `key`'s source and client.
    pub fn complete(
        &mut self,
        key: impl Fn(&str, &Nas) -> SessionKey,
        record: Record,
        line: impl FnOnce() -> Line,
        blocks: &[Block],
        now: Timestamp,
    ) -> Completed {
        match record {
            record if blocks.is_empty() && self.granted.is_empty() && self.sessions.is_empty() => {
                Completed { records: vec![record], rows: Vec::new() }
            }
            Record::Session(record) => {
                let key = key(&record.session, &record.nas);
                self.session(key, record, line, blocks, now)
            }
            Record::NasReset { nas, time } => {
                let any = key("", &nas);
                let gone: Vec<SessionKey> = self
                    .sessions
                    .iter()
                    .filter(|(of, has)| {
                        of.source == any.source
                            && of.client == any.client
                            && of.nas.may_be(&nas)
                            && has.begun <= time.at
                    })
                    .map(|(of, _)| of.clone())
                    .collect();
                let rows = gone.iter().filter_map(|key| self.keep(key, None)).collect();
                Completed { records: vec![Record::NasReset { nas, time }], rows }
            }
            other @ Record::Other { .. } => Completed { records: vec![other], rows: Vec::new() },
        }
    }

    fn session(
        &mut self,
        key: SessionKey,
        mut record: SessionRecord,
        line: impl FnOnce() -> Line,
        blocks: &[Block],
        now: Timestamp,
    ) -> Completed {
        let known = self.sessions.get(&key).cloned();
        let (stop, at) = (record.change == Change::Stop, record.time.at);
        // The name is used again, and the Stop was lost.
        let anew = record.change == Change::Start && known.as_ref().is_some_and(|has| has.begun < at);
        let mut has = match known.clone().filter(|_| !anew) {
            Some(has) => has,
            None => Has { begun: at, heard: now, delegated: Vec::new(), blocks: Vec::new() },
        };
        // Any other record may be of a session that began before the grant.
        if record.change == Change::Start && (known.is_none() || anew) {
            has.delegated = self.grant_of(&key, &record, &line(), now);
        }
        has.begun = has.begun.min(at);
        has.heard = now;
        let mut told = Vec::new();
        for left in known.iter().filter(|_| anew).flat_map(|has| &has.blocks) {
            told.push(block(&record, *left, Change::Stop));
        }
        for Block { address, ports, given } in blocks {
            let of = (*address, *ports);
            let had = has.blocks.iter().position(|known| *known == of);
            match (given, had) {
                (true, None) if has.blocks.len() < BLOCKS => {
                    has.blocks.push(of);
                    told.push(block(&record, of, Change::Start));
                }
                (true, _) => {}
                (false, had) => {
                    had.map(|at| has.blocks.remove(at));
                    told.push(block(&record, of, Change::Stop));
                }
            }
        }
        let new: Vec<String> = told.iter().map(|record| record.session.clone()).collect();
        let on = if stop { Change::Stop } else { Change::Interim };
        let still = has.blocks.iter().map(|of| block(&record, *of, on)).filter(|on| !new.contains(&on.session));
        told.extend(still);
        if !record.addresses.iter().any(|address| address.kind == AddressKind::DelegatedPrefixV6) && !stop {
            let delegated = has.delegated.iter();
            record.addresses.extend(delegated.map(|net| Address::whole(AddressKind::DelegatedPrefixV6, *net)));
        }
        let empty = has.delegated.is_empty() && has.blocks.is_empty();
        let rows = self.keep(&key, Some(has).filter(|_| !stop && !empty)).into_iter().collect();
        let records = std::iter::once(record).chain(told).map(Record::Session).collect();
        Completed { records, rows }
    }

    /// Takes the grant that this session begins with, if it is the only one that it may be.
    fn grant_of(&mut self, key: &SessionKey, record: &SessionRecord, line: &Line, now: Timestamp) -> Vec<IpNet> {
        self.granted.retain(|(at, ..)| now.since(*at) <= FRESH);
        let mut fitting = self.granted.iter().enumerate().filter(|(_, (_, client, grant))| {
            *client == key.client
                && grant.user == record.user
                && grant.nas.may_be(&record.nas)
                && grant.line.may_be(line)
        });
        match (fitting.next().map(|(at, _)| at), fitting.next()) {
            (Some(at), None) => self.granted.remove(at).2.delegated,
            _ => Vec::new(),
        }
    }

    /// Forgets sessions that were not heard of for `age`: by then the table believes none of it.
    pub fn forget(&mut self, now: Timestamp, age: Duration) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let gone: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, has)| now.since(has.heard) > age).map(|(key, _)| key.clone()).collect();
        gone.iter().filter_map(|key| self.keep(key, None)).collect()
    }

    /// Keeps what a session has, and gives the row where it changed.
    fn keep(&mut self, key: &SessionKey, has: Option<Has>) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let row = |value: Option<&Has>| Some((json(key)?, value.and_then(json)));
        match has {
            Some(has) => {
                let row = row(Some(&has));
                self.sessions.insert(key.clone(), has);
                row
            }
            None => self.sessions.remove(key).and_then(|_| row(None)),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    serde_json::to_vec(value).ok()
}

/// A port block as a session of its own.
fn block(of: &SessionRecord, (address, ports): (Ipv4Addr, Ports), change: Change) -> SessionRecord {
    SessionRecord {
        change,
        session: format!("{} {address}:{ports}", of.session),
        addresses: vec![Address::ports(AddressKind::PortBlock, address.into(), ports)],
        ..of.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_wire::http::Source;
    use toolbox_wire::record::EventTime;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_secs(1_700_000_000 + s)
    }

    fn key(session: &str, nas: &Nas) -> SessionKey {
        SessionKey { source: Source::Radius, client: "edge".into(), session: session.into(), nas: nas.clone() }
    }

    fn edge() -> Nas {
        Nas { identifier: Some("edge".into()), ..Nas::default() }
    }

    fn grant(user: &str, prefix: &str) -> Grant {
        let user = User::Named(user.parse().unwrap());
        Grant { user, nas: edge(), line: Line::default(), delegated: vec![prefix.parse().unwrap()] }
    }

    fn record(change: Change, session: &str, user: &str, s: u64) -> SessionRecord {
        SessionRecord {
            change,
            session: session.into(),
            user: User::Named(user.parse().unwrap()),
            nas: edge(),
            addresses: Vec::new(),
            time: EventTime::stated(at(s), at(s)),
            until: None,
        }
    }

    fn tell(carried: &mut Carried, record: SessionRecord, blocks: &[Block]) -> Vec<SessionRecord> {
        let now = record.time.at;
        let completed = carried.complete(key, Record::Session(record), Line::default, blocks, now);
        completed
            .records
            .into_iter()
            .map(|record| match record {
                Record::Session(record) => record,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn nets(record: &SessionRecord) -> Vec<String> {
        record.addresses.iter().map(|address| address.net.to_string()).collect()
    }

    const A: &str = "2001:db8:5100:6400::/56";
    const B: &str = "2001:db8:5100:6500::/56";

    #[test]
    fn what_was_granted_goes_with_every_record_until_the_stop_and_over_a_restart() {
        let mut carried = Carried::default();
        carried.granted("edge", grant("alice", A), at(0));
        let completed =
            carried.complete(key, Record::Session(record(Change::Start, "s", "alice", 1)), Line::default, &[], at(1));
        assert_eq!(completed.rows.len(), 1);
        let rows = completed.rows.iter().map(|(key, value)| (key.as_slice(), value.as_deref().unwrap()));
        let mut carried = Carried::restore(rows).unwrap();
        assert_eq!(nets(&tell(&mut carried, record(Change::Interim, "s", "alice", 60), &[])[0]), [A]);
        assert!(nets(&tell(&mut carried, record(Change::Stop, "s", "alice", 90), &[])[0]).is_empty());
        assert!(nets(&tell(&mut carried, record(Change::Interim, "s", "alice", 91), &[])[0]).is_empty());
    }

    #[test]
    fn a_grant_is_used_once_while_it_is_fresh_by_the_one_that_it_was_for() {
        let mut carried = Carried::default();
        carried.granted("edge", grant("alice", A), at(0));
        assert!(nets(&tell(&mut carried, record(Change::Start, "s", "bob", 1), &[])[0]).is_empty());
        assert_eq!(nets(&tell(&mut carried, record(Change::Start, "t", "alice", 1), &[])[0]), [A]);
        assert!(nets(&tell(&mut carried, record(Change::Start, "u", "alice", 2), &[])[0]).is_empty());
        carried.granted("other", grant("carol", A), at(2));
        assert!(nets(&tell(&mut carried, record(Change::Start, "v", "carol", 2), &[])[0]).is_empty());
        carried.granted("edge", grant("dave", A), at(3));
        assert!(nets(&tell(&mut carried, record(Change::Start, "w", "dave", 304), &[])[0]).is_empty());
    }

    #[test]
    fn of_two_grants_neither_is_guessed_and_a_newer_one_by_the_same_line_counts() {
        let line = |port: u8| {
            let built = toolbox_wire::radius::build_request(
                toolbox_wire::radius::Request::Access,
                1,
                &[(5, &[0, 0, 0, port])],
                b"s",
                [0; 16],
                false,
            );
            Line::of(toolbox_wire::radius::Packet::parse(built.unwrap().leak()).unwrap())
        };
        let mut carried = Carried::default();
        carried.granted("edge", Grant { line: line(1), ..grant("alice", A) }, at(0));
        carried.granted("edge", Grant { line: line(2), ..grant("alice", B) }, at(0));
        assert!(nets(&tell(&mut carried, record(Change::Start, "s", "alice", 1), &[])[0]).is_empty());
        let known = Record::Session(record(Change::Start, "t", "alice", 1));
        let completed = carried.complete(key, known, || line(2), &[], at(1));
        assert!(matches!(&completed.records[0], Record::Session(record) if nets(record) == [B]));
        let mut carried = Carried::default();
        carried.granted("edge", grant("alice", A), at(0));
        carried.granted("edge", grant("alice", B), at(1));
        assert_eq!(nets(&tell(&mut carried, record(Change::Start, "s", "alice", 2), &[])[0]), [B]);
    }

    #[test]
    fn what_accounting_says_itself_counts_and_a_name_used_again_begins_anew() {
        let mut carried = Carried::default();
        carried.granted("edge", grant("alice", A), at(0));
        let mut own = record(Change::Start, "s", "alice", 1);
        own.addresses.push(Address::whole(AddressKind::DelegatedPrefixV6, B.parse().unwrap()));
        assert_eq!(nets(&tell(&mut carried, own, &[])[0]), [B]);
        assert_eq!(nets(&tell(&mut carried, record(Change::Start, "s", "alice", 1), &[])[0]), [A], "a copy");
        assert!(nets(&tell(&mut carried, record(Change::Start, "s", "alice", 9), &[])[0]).is_empty());
        carried.granted("edge", grant("alice", B), at(20));
        assert_eq!(nets(&tell(&mut carried, record(Change::Start, "s", "alice", 21), &[])[0]), [B]);
        let reset = Record::NasReset { nas: edge(), time: EventTime::stated(at(30), at(30)) };
        assert_eq!(carried.complete(key, reset, Line::default, &[], at(30)).rows.len(), 1);
        assert!(nets(&tell(&mut carried, record(Change::Interim, "s", "alice", 31), &[])[0]).is_empty());
    }

    #[test]
    fn a_port_block_goes_on_and_ends_with_its_session_or_before() {
        let ports = |first| Ports::new(first, first + 511).unwrap();
        let of = |first, given| Block { address: [203, 0, 113, 1].into(), ports: ports(first), given };
        let mut carried = Carried::default();
        let told = |carried: &mut Carried, change, s, blocks: &[Block]| -> Vec<(Change, String)> {
            tell(carried, record(change, "s", "alice", s), blocks)
                .into_iter()
                .skip(1)
                .map(|record| (record.change, record.session))
                .collect()
        };
        let (one, two) = ("s 203.0.113.1:1024-1535".to_owned(), "s 203.0.113.1:2048-2559".to_owned());
        assert_eq!(told(&mut carried, Change::Start, 1, &[of(1024, true)]), [(Change::Start, one.clone())]);
        assert_eq!(
            told(&mut carried, Change::Interim, 2, &[of(2048, true)]),
            [(Change::Start, two.clone()), (Change::Interim, one.clone())]
        );
        assert_eq!(
            told(&mut carried, Change::Interim, 3, &[of(1024, false)]),
            [(Change::Stop, one), (Change::Interim, two.clone())]
        );
        assert_eq!(told(&mut carried, Change::Interim, 4, &[]), [(Change::Interim, two.clone())]);
        assert_eq!(told(&mut carried, Change::Stop, 5, &[]), [(Change::Stop, two)]);
        assert_eq!(told(&mut carried, Change::Stop, 6, &[]), []);
    }

    #[test]
    fn what_was_long_not_heard_of_is_forgotten() {
        let mut carried = Carried::default();
        carried.granted("edge", grant("alice", A), at(0));
        tell(&mut carried, record(Change::Start, "s", "alice", 1), &[]);
        assert!(carried.forget(at(3601), Duration::from_secs(3600)).is_empty());
        assert_eq!(carried.forget(at(3602), Duration::from_secs(3600)).len(), 1);
    }
}
