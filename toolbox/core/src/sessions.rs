//! Where sessions are kept: by key, and by the addresses that they claim or claimed at their end.
//!
//! [`Packed`] is what runs. [`Full`] keeps the same sessions as they are, in maps: it holds what does not fit into the other,
//! and in tests the two are held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toolbox_wire::record::{Nas, Ports};

use crate::codec::DecodeError;
use crate::ours::Ours;
use crate::packed::Packed;
use crate::rows::Row;
use crate::session::{Session, SessionKey};

/// A session with its key.
pub(crate) type Pair = (SessionKey, Session);
/// And a prefix that it claims.
pub(crate) type Claimed = (IpNet, SessionKey, Session);

#[derive(Debug)]
pub(crate) enum Sessions {
    Packed(Box<Packed>),
    Full { sessions: Full, ours: Arc<Ours> },
}

impl Sessions {
    pub(crate) fn get(&self, key: &SessionKey) -> Option<Session> {
        match self {
            Self::Packed(packed) => packed.get(key),
            Self::Full { sessions, .. } => sessions.get(key),
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.open(),
            Self::Full { sessions, .. } => sessions.open(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.len(),
            Self::Full { sessions, .. } => sessions.len(),
        }
    }

    /// Sessions of the same name at what may be the same device, but one, in the order of keys.
    pub(crate) fn related(&self, key: &SessionKey, but: Option<&SessionKey>) -> Vec<Pair> {
        match self {
            Self::Packed(packed) => packed.related(key, but),
            Self::Full { sessions, .. } => sessions.related(key, but),
        }
    }

    /// Sessions by each prefix that they claim, in the order of prefixes and keys.
    pub(crate) fn by_net(&self) -> Vec<Claimed> {
        match self {
            Self::Packed(packed) => packed.by_net(),
            Self::Full { sessions, .. } => sessions.by_net(),
        }
    }

    /// Sessions with a prefix that holds `address`; where a port is asked about, at least those that have it.
    pub(crate) fn around(&self, address: IpAddr, port: Option<u16>) -> Vec<Claimed> {
        match self {
            Self::Packed(packed) => packed.around(address, port),
            Self::Full { sessions, .. } => sessions.around(address, port),
        }
    }

    /// Whether `live` says so of some session with a prefix that holds `address` and that claims ports; of many it is taken for granted.
    pub(crate) fn is_shared(&self, address: IpAddr, live: impl Fn(IpNet, &Session) -> bool) -> bool {
        match self {
            Self::Packed(packed) => packed.is_shared(address, live),
            Self::Full { sessions, .. } => {
                sessions.around(address, None).iter().any(|(net, _, session)| live(*net, session))
            }
        }
    }

    /// Sessions with a prefix that overlaps `net`: all of those that have some of `ports`, and perhaps others.
    pub(crate) fn touching(&self, net: IpNet, ports: Ports) -> Vec<Claimed> {
        match self {
            Self::Packed(packed) => packed.touching(net, ports),
            Self::Full { sessions, .. } => sessions.touching(net),
        }
    }

    /// Rows of some of all from a place on, at least `limit` if there are so many; and the next place. An empty part: there are no
    /// more.
    pub(crate) fn rows(&self, place: usize, limit: usize) -> (Vec<Row>, usize) {
        match self {
            Self::Packed(packed) => packed.rows(place, limit),
            Self::Full { sessions, .. } => {
                let (some, next) = sessions.part(place, limit);
                (some.iter().map(|(key, session)| Row::session(key, Some(session))).collect(), next)
            }
        }
    }

    /// Those that are forgettable of about `limit` from a place on, all of them or those that have been for a while; and the next
    /// place, if there is one.
    pub(crate) fn forgettable(
        &mut self,
        place: usize,
        limit: usize,
        now: Timestamp,
        max_age: Duration,
        all: bool,
    ) -> (Vec<Pair>, Option<usize>) {
        match self {
            Self::Packed(packed) => packed.forgettable(place, limit, now, all),
            Self::Full { sessions, .. } => {
                let all = sessions.by_key.iter().filter(|(_, session)| session.is_forgettable(now, max_age));
                (all.map(|(key, session)| (key.clone(), session.clone())).collect(), None)
            }
        }
    }

    /// Sessions at some devices, in the order of keys.
    pub(crate) fn at_devices(&self, which: impl Fn(&SessionKey) -> bool) -> Vec<SessionKey> {
        let mut keys = match self {
            Self::Packed(packed) => packed.at_devices(which),
            Self::Full { sessions, .. } => sessions.by_key.keys().filter(|key| which(key)).cloned().collect(),
        };
        keys.sort();
        keys
    }

    /// Keeps sessions that read back from the octets of their keys and their own.
    pub(crate) fn put_all(&mut self, rows: &[(&[u8], &[u8])]) -> Result<(), DecodeError> {
        match self {
            Self::Packed(packed) => packed.put_all(rows),
            Self::Full { .. } => rows.iter().try_for_each(|(key, octets)| {
                let key = SessionKey::decode(key)?;
                let session = Session::decode(&key, octets)?;
                self.put(key, session, None);
                Ok(())
            }),
        }
    }

    /// Keeps a session; `row` is what it is as a row, where that is known.
    pub(crate) fn put(&mut self, key: SessionKey, session: Session, row: Option<&Row>) {
        match self {
            Self::Packed(packed) => {
                let made = if row.is_some() { None } else { Some(Row::session(&key, Some(&session))) };
                if let Some(Row { key, value: Some(value), .. }) = row.or(made.as_ref()) {
                    // What was written here reads back.
                    let _ = packed.put(key, value);
                }
            }
            Self::Full { sessions, ours } => {
                let nets: BTreeSet<IpNet> = session.nets().filter(|net| ours.holds(net)).collect();
                sessions.put(key, session, nets);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        match self {
            Self::Packed(packed) => packed.remove(key),
            Self::Full { sessions, .. } => sessions.remove(key),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Full {
    by_key: BTreeMap<SessionKey, Session>,
    by_net: BTreeMap<IpNet, BTreeSet<SessionKey>>,
    /// How many indexed prefixes have each length: a look-up tries these only.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Full {
    pub(crate) fn get(&self, key: &SessionKey) -> Option<Session> {
        self.by_key.get(key).cloned()
    }

    pub(crate) fn open(&self) -> usize {
        self.by_key.values().filter(|session| session.is_open()).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn part(&self, place: usize, limit: usize) -> (Vec<Pair>, usize) {
        let some = self.by_key.iter().skip(place).take(limit);
        let some: Vec<Pair> = some.map(|(key, session)| (key.clone(), session.clone())).collect();
        let next = place + some.len();
        (some, next)
    }

    pub(crate) fn related(&self, key: &SessionKey, but: Option<&SessionKey>) -> Vec<Pair> {
        let first = SessionKey { nas: Nas::default(), ..key.clone() };
        let same = |of: &SessionKey| (of.source, &of.client, &of.session) == (key.source, &key.client, &key.session);
        let named = self.by_key.range(first..).take_while(|(of, _)| same(of));
        let related = named.filter(|(of, _)| of.nas.may_be(&key.nas) && Some(*of) != but);
        related.map(|(key, session)| (key.clone(), session.clone())).collect()
    }

    pub(crate) fn by_net(&self) -> Vec<Claimed> {
        self.by_net.iter().flat_map(|(net, keys)| self.those(*net, keys)).collect()
    }

    pub(crate) fn around(&self, address: IpAddr, _: Option<u16>) -> Vec<Claimed> {
        let nets = self.prefixes_around(address).filter_map(|net| self.by_net.get_key_value(&net));
        nets.flat_map(|(net, keys)| self.those(*net, keys)).collect()
    }

    pub(crate) fn touching(&self, net: IpNet) -> Vec<Claimed> {
        let (lowest, highest) = inside(net);
        let inside = self.by_net.range(lowest..=highest).filter(|(of, _)| net.contains(*of));
        let around = self.prefixes_around(net.addr()).filter(|of| *of != net && of.contains(&net));
        let around = around.filter_map(|of| self.by_net.get_key_value(&of));
        inside.chain(around).flat_map(|(net, keys)| self.those(*net, keys)).collect()
    }

    fn those<'t>(&'t self, net: IpNet, keys: &'t BTreeSet<SessionKey>) -> impl Iterator<Item = Claimed> + 't {
        keys.iter().filter_map(move |key| Some((net, key.clone(), self.by_key.get(key)?.clone())))
    }

    fn prefixes_around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> + '_ {
        let (from, to) = ((address.is_ipv6(), 0), (address.is_ipv6(), u8::MAX));
        self.lengths
            .range(from..=to)
            .filter_map(move |((_, length), _)| IpNet::new(address, *length).ok())
            .map(|n| n.trunc())
    }

    /// Keeps `session`, to be found by `nets`.
    pub(crate) fn put(&mut self, key: SessionKey, session: Session, nets: impl IntoIterator<Item = IpNet>) {
        self.remove(&key);
        for net in nets {
            let keys = self.by_net.entry(net).or_default();
            if keys.is_empty() {
                *self.lengths.entry((net.addr().is_ipv6(), net.prefix_len())).or_default() += 1;
            }
            keys.insert(key.clone());
        }
        self.by_key.insert(key, session);
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        let Some(session) = self.by_key.remove(key) else { return };
        for net in session.nets() {
            let Some(keys) = self.by_net.get_mut(&net) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.by_net.remove(&net);
                let length = (net.addr().is_ipv6(), net.prefix_len());
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }
}

/// Ends of the range that holds `net` and all inside it, in order.
pub(crate) fn inside(net: IpNet) -> (IpNet, IpNet) {
    match net {
        IpNet::V4(net) => {
            (Ipv4Net::new(net.network(), 0).unwrap_or_default().into(), Ipv4Net::from(net.broadcast()).into())
        }
        IpNet::V6(net) => {
            (Ipv6Net::new(net.network(), 0).unwrap_or_default().into(), Ipv6Net::from(net.broadcast()).into())
        }
    }
}
