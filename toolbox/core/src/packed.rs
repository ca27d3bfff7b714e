//! Sessions in few octets each, changed by one writer and looked up by readers that wait for nobody.
//!
//! A session is the octets of [`Session::encode`] in an [`arena`], behind a [`head`] that says until when it may be answered for
//! without further thought. It is found by the hashes of its name, and of each address with its ports. What a reader can't
//! decide at a glance (more than one session, doubt, age) it leaves to the table.

mod arena;
mod claims;
mod dues;
mod each;
mod glances;
mod head;
mod hints;
mod load;
mod places;
mod put;
mod shards;
mod shared;

pub use glances::{Glances, Seen, Sight};
pub use load::NoRoom;
pub(crate) use load::{Part as Loaded, finish};

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_wire::record::Ports;

use crate::codec::DecodeError;
use crate::ours::Ours;
use crate::rows::{Row, Rows};
use crate::session::{Session, SessionKey};
use crate::sessions::{Full, Pair};
use crate::skim::{Claimed, Skim, device};
use crate::table::Settings;
use arena::Owner;
use claims::{Claims, each_once};
use dues::Dues;
use head::{HEAD, Head, words_of};
use places::{Place, Places};
use shards::Filling;
use shared::{Part, Shared, hash_of, name_hash};

#[derive(Debug)]
pub(crate) struct Packed {
    shared: Arc<Shared>,
    owner: Owner,
    names: Filling,
    nets: Filling,
    places: Places,
    ours: Arc<Ours>,
    max_age: Duration,
    claims: Claims,
    dues: Dues,
    /// Sessions that are too long for the arena.
    long: Full,
    /// How many of the others are open.
    open: usize,
    scratch: Scratch,
    pool: Vec<Scratch>,
}

/// Memory that is used again.
#[derive(Debug, Default)]
struct Scratch {
    device: Vec<u8>,
    content: Vec<u8>,
    claims: Vec<Claimed>,
    before: Vec<Claimed>,
    hashes: Vec<u64>,
    touched: Vec<u64>,
}

/// Sessions with ports of one address that are looked at before it is called shared, whatever they say.
const MANY: usize = 256;

/// Where a session is.
#[derive(Debug, Clone, Copy)]
struct Spot {
    at: u32,
    head: Head,
}

impl Spot {
    fn length(&self) -> usize {
        self.head.octets + self.head.name
    }
}

impl Packed {
    pub(crate) fn new(ours: Arc<Ours>, max_age: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let dues = Dues::new(shared.by_name.count(), max_age);
        Self {
            names: Filling::new(&shared.by_name),
            nets: Filling::new(&shared.by_net),
            shared,
            owner: Owner::default(),
            places: Places::default(),
            ours,
            max_age,
            claims: Claims::default(),
            dues,
            long: Full::default(),
            open: 0,
            scratch: Scratch::default(),
            pool: Vec::new(),
        }
    }

    /// `rules`: of translations that are computed, if there are any.
    pub(crate) fn glances(&self, rules: Option<Arc<Settings>>) -> Glances {
        Glances { shared: self.shared.clone(), rules }
    }

    /// Lets readers ask the table about everything.
    pub(crate) fn leave_to_table(&self) {
        self.shared.odd.store(true, Ordering::Release);
    }

    /// Octets that all of it takes.
    pub(crate) fn octets(&self) -> usize {
        let shared = &self.shared;
        let shards = shared.by_name.octets() + shared.by_net.octets() + self.names.octets() + self.nets.octets();
        self.owner.octets()
            + shards
            + shared.hints.octets()
            + self.claims.octets()
            + self.places.octets()
            + self.dues.octets()
    }

    fn spot(&self, at: u32) -> Option<Spot> {
        let [first, second] = self.shared.words.at(at, HEAD) else { return None };
        let head = Head::read(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed));
        (head.octets > 0).then_some(Spot { at, head })
    }

    /// Copies the octets of a session, and its name behind them.
    fn read(&self, spot: &Spot, to: &mut Vec<u8>) {
        to.clear();
        for word in self.shared.words.at(spot.at, words_of(spot.length())).get(HEAD..).unwrap_or_default() {
            to.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        to.truncate(spot.length());
    }

    fn name_is(&self, spot: &Spot, name: &[u8]) -> bool {
        let words = self.shared.words.at(spot.at, words_of(spot.length())).get(HEAD..).unwrap_or_default();
        let words = words.iter().skip(spot.head.octets / 8);
        let octets = words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        spot.head.name == name.len() && octets.skip(spot.head.octets % 8).zip(name).all(|(own, of)| own == *of)
    }

    /// All under the hash of a name.
    fn named(&self, name: u64) -> Vec<Spot> {
        let mut found = Vec::new();
        self.shared.by_name.find(&self.shared.words, name, |number, _| {
            found.extend(self.spot(number));
            false
        });
        found
    }

    fn find(&self, name: u64, device: &[u8], session: &str) -> Option<Spot> {
        let device = self.places.number(device)?;
        let mut found = None;
        self.shared.by_name.find(&self.shared.words, name, |number, _| {
            let same = |spot: &Spot| spot.head.device == device && self.name_is(spot, session.as_bytes());
            found = self.spot(number).filter(same);
            found.is_some()
        });
        found
    }

    fn find_key(&self, key: &SessionKey) -> Option<Spot> {
        self.find(name_hash(key.source, &key.client, &key.session), &device(key), &key.session)
    }

    /// The key of the session with these octets and this name behind them.
    fn key(&self, spot: &Spot, content: &[u8]) -> Option<SessionKey> {
        let session = std::str::from_utf8(content.get(spot.head.octets..)?).ok()?.to_owned();
        let (source, client, nas) = self.places.get(spot.head.device)?;
        Some(SessionKey { source: *source, client: client.clone(), session, nas: nas.clone() })
    }

    fn pair(&self, spot: &Spot) -> Option<Pair> {
        let mut content = Vec::with_capacity(spot.length() + 8);
        self.read(spot, &mut content);
        let key = self.key(spot, &content)?;
        // What was written here reads back.
        let session = Session::decode(&key, content.get(..spot.head.octets)?).ok()?;
        Some((key, session))
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Option<Session> {
        match self.find_key(key) {
            Some(spot) => {
                let mut content = Vec::with_capacity(spot.length() + 8);
                self.read(&spot, &mut content);
                Session::decode(key, content.get(..spot.head.octets)?).ok()
            }
            None => self.long.get(key),
        }
    }

    /// Sessions of the same name at what may be the same device.
    pub(crate) fn related(&self, key: &SessionKey, but: Option<&SessionKey>) -> Vec<Pair> {
        let same = |spot: &Spot| {
            let Some((source, client, nas)) = self.places.get(spot.head.device) else { return false };
            (*source, client) == (key.source, &key.client)
                && nas.may_be(&key.nas)
                && but.is_none_or(|but| *nas != but.nas)
                && self.name_is(spot, key.session.as_bytes())
        };
        let spots = self.named(name_hash(key.source, &key.client, &key.session));
        let mut found: Vec<Pair> = spots.iter().filter(|spot| same(spot)).filter_map(|spot| self.pair(spot)).collect();
        found.extend(self.long.related(key, but));
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    /// Hands on the sessions in some of the tables of names, from `shard` on: at least `limit`; gives the next table.
    fn some(&self, mut shard: usize, limit: usize, mut each: impl FnMut(&Spot)) -> usize {
        let mut count = 0;
        while shard < self.shared.by_name.count() && count < limit {
            for number in self.shared.by_name.of(&self.shared.words, shard) {
                count += 1;
                self.spot(number).iter().for_each(&mut each);
            }
            shard += 1;
        }
        shard
    }

    /// Rows of those in some of the tables of names, from `shard` on: at least `limit` if there are so many; and the next table.
    pub(crate) fn rows(&self, shard: usize, limit: usize) -> (Vec<Row>, usize) {
        let mut found = Vec::new();
        let mut content = Vec::new();
        let each = |spot: &Spot| {
            self.read(spot, &mut content);
            let key = self.key(spot, &content);
            content.truncate(spot.head.octets);
            let row = |key: SessionKey| Row { table: Rows::Sessions, key: key.encode(), value: Some(content.clone()) };
            found.extend(key.map(row));
        };
        let mut shard = self.some(shard, limit, each);
        if shard == self.shared.by_name.count() && found.len() < limit {
            let long = self.long.part(0, usize::MAX).0;
            found.extend(long.iter().map(|(key, session)| Row::session(key, Some(session))));
            shard += 1;
        }
        (found, shard)
    }

    /// Those in some of the tables of names, `limit` or more looked at, that are forgettable; and the next table, if there is one.
    /// A table in which none may be that yet is passed by, unless `all` are to be looked at.
    pub(crate) fn forgettable(
        &mut self,
        mut shard: usize,
        limit: usize,
        now: Timestamp,
        all: bool,
    ) -> (Vec<Pair>, Option<usize>) {
        let (mut found, mut looked) = (Vec::new(), 0);
        let (mut content, mut claims) = (Vec::new(), Vec::new());
        while shard < self.shared.by_name.count() && looked < limit {
            if all || self.dues.is_due(shard, now) {
                self.dues.begin(shard);
                for at in self.shared.by_name.of(&self.shared.words, shard) {
                    let Some(spot) = self.spot(at) else { continue };
                    looked += 1;
                    self.read(&spot, &mut content);
                    let octets = content.get(..spot.head.octets).unwrap_or_default();
                    let Ok(skim) = Skim::of(octets, &mut claims) else { continue };
                    if skim.is_forgettable(now, self.max_age) {
                        found.extend(self.pair(&spot));
                    } else {
                        self.dues.tell(shard, skim.forgettable_from(self.max_age));
                    }
                }
            }
            shard += 1;
        }
        if shard < self.shared.by_name.count() {
            return (found, Some(shard));
        }
        let long = self.long.part(0, usize::MAX).0;
        found.extend(long.into_iter().filter(|(_, session)| session.is_forgettable(now, self.max_age)));
        (found, None)
    }

    /// The sessions at some devices.
    pub(crate) fn at_devices(&self, which: impl Fn(&SessionKey) -> bool) -> Vec<SessionKey> {
        let nameless = |(source, client, nas): &Place| SessionKey {
            source: *source,
            client: client.clone(),
            session: String::new(),
            nas: nas.clone(),
        };
        let devices: Vec<u32> =
            self.places.all().filter(|(_, place)| which(&nameless(place))).map(|(number, _)| number).collect();
        let mut found = Vec::new();
        let mut content = Vec::new();
        if !devices.is_empty() {
            let each = |spot: &Spot| {
                if devices.binary_search(&spot.head.device).is_ok() {
                    self.read(spot, &mut content);
                    found.extend(self.key(spot, &content));
                }
            };
            self.some(0, usize::MAX, each);
        }
        found.extend(self.long.part(0, usize::MAX).0.into_iter().map(|(key, _)| key).filter(|key| which(key)));
        found
    }

    pub(crate) fn open(&self) -> usize {
        self.open + self.long.open()
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed) + self.long.len()
    }

    /// Sessions that claim exactly `net`, whole or with some of `ports`, and perhaps others close to these.
    fn at_net(&self, net: IpNet, ports: &RangeInclusive<u16>, found: &mut Vec<(IpNet, SessionKey, Session)>) {
        let mut numbers = Vec::new();
        let mut collect = |hash| {
            self.shared.by_net.find(&self.shared.words, hash, |number, _| {
                numbers.push(number);
                false
            });
        };
        collect(hash_of(net, Part::Whole));
        self.claims.pieces(net, ports).for_each(|(size, piece)| collect(hash_of(net, Part::Piece(size, piece))));
        numbers.sort_unstable();
        numbers.dedup();
        for spot in numbers.into_iter().filter_map(|number| self.spot(number)) {
            if let Some((key, session)) = self.pair(&spot)
                && session.nets().any(|of| of == net)
            {
                found.push((net, key, session));
            }
        }
    }

    /// Whether `live` says so of some session that claims ports of a prefix around `address`; of many it is taken for granted.
    pub(crate) fn is_shared(&self, address: IpAddr, live: impl Fn(IpNet, &Session) -> bool) -> bool {
        let (mut looked, mut shared) = (0, false);
        for net in self.claims.lengths(address.is_ipv4()).filter_map(|length| IpNet::new(address, length).ok()) {
            let net = net.trunc();
            for (size, piece) in self.claims.pieces(net, &(0..=u16::MAX)) {
                self.shared.by_net.find(&self.shared.words, hash_of(net, Part::Piece(size, piece)), |number, _| {
                    looked += 1;
                    let pair = self.spot(number).and_then(|spot| self.pair(&spot));
                    shared = looked > MANY || pair.is_some_and(|(_, session)| live(net, &session));
                    shared
                });
                if shared {
                    return true;
                }
            }
        }
        self.long.around(address, None).iter().any(|(net, _, session)| live(*net, session))
    }

    pub(crate) fn around(&self, address: IpAddr, port: Option<u16>) -> Vec<(IpNet, SessionKey, Session)> {
        let mut found = Vec::new();
        let ports = port.map_or(0..=u16::MAX, |port| port..=port);
        for length in self.claims.lengths(address.is_ipv4()) {
            if let Ok(net) = IpNet::new(address, length) {
                self.at_net(net.trunc(), &ports, &mut found);
            }
        }
        found.extend(self.long.around(address, port));
        found
    }

    /// Sessions with a prefix that overlaps `net` and with some of its `ports`, and perhaps others close to these.
    pub(crate) fn touching(&self, net: IpNet, ports: Ports) -> Vec<(IpNet, SessionKey, Session)> {
        let mut found = Vec::new();
        let range = ports.first()..=ports.last();
        for length in self.claims.lengths(net.addr().is_ipv4()).filter(|length| *length <= net.prefix_len()) {
            if let Ok(of) = IpNet::new(net.addr(), length) {
                self.at_net(of.trunc(), &range, &mut found);
            }
        }
        self.claims.inside(net).for_each(|of| self.at_net(of, &range, &mut found));
        // Shorter than any before it: what lies inside is not in order yet. That is once for a length.
        if self.claims.is_shortest(net) {
            self.claiming(|of, spot| {
                let pair = if net.contains(&of) { self.pair(spot) } else { None };
                found.extend(pair.map(|(key, session)| (of, key, session)));
            });
        }
        found.extend(self.long.touching(net));
        found
    }

    /// Hands on the prefix of every claim, and whose it is.
    fn claiming(&self, mut each: impl FnMut(IpNet, &Spot)) {
        let (mut content, mut claims) = (Vec::new(), Vec::new());
        let of = |spot: &Spot| {
            self.read(spot, &mut content);
            if self.skim(content.get(..spot.head.octets).unwrap_or_default(), &mut claims).is_ok() {
                claims.iter().for_each(|claim| each(claim.net, spot));
            }
        };
        self.some(0, usize::MAX, of);
    }

    /// Every prefix with its sessions, in the order of prefixes and keys.
    pub(crate) fn by_net(&self) -> Vec<(IpNet, SessionKey, Session)> {
        let mut all = Vec::new();
        self.claiming(|net, spot| all.extend(self.pair(spot).map(|(key, session)| (net, key, session))));
        for (key, session) in self.long.part(0, usize::MAX).0 {
            let mut nets: Vec<IpNet> = session.nets().filter(|net| self.is_ours(net)).collect();
            nets.sort_unstable();
            nets.dedup();
            all.extend(nets.into_iter().map(|net| (net, key.clone(), session.clone())));
        }
        all.sort_by(|(one, a, _), (other, b, _)| (one, a).cmp(&(other, b)));
        all.dedup_by(|(one, a, _), (other, b, _)| (one, a) == (other, b));
        all
    }

    fn is_ours(&self, net: &IpNet) -> bool {
        self.ours.holds(net)
    }

    fn skim(&self, octets: &[u8], claims: &mut Vec<Claimed>) -> Result<Skim, DecodeError> {
        skim_ours(&self.ours, octets, claims)
    }
}

/// Reads a session's octets, and which of our addresses it claims, each once.
fn skim_ours(ours: &Ours, octets: &[u8], claims: &mut Vec<Claimed>) -> Result<Skim, DecodeError> {
    let skim = Skim::of(octets, claims)?;
    claims.retain(|claim| ours.holds(&claim.net));
    each_once(claims, |claim| (claim.net, claim.ports));
    Ok(skim)
}

/// What is skimmed is what the session says.
#[cfg(debug_assertions)]
fn check(
    ours: &Ours,
    max_age: Duration,
    key: &[u8],
    octets: &[u8],
    skim: &Skim,
    claims: &[Claimed],
) -> Result<(), DecodeError> {
    let session = Session::decode(&SessionKey::decode(key)?, octets)?;
    let mut held: Vec<(IpNet, Ports)> = session.claims().map(|of| (of.net, of.ports)).collect();
    held.retain(|(net, _)| ours.holds(net));
    held.sort_unstable();
    held.dedup();
    let mut skimmed: Vec<(IpNet, Ports)> = claims.iter().map(|claim| (claim.net, claim.ports)).collect();
    skimmed.sort_unstable();
    assert_eq!(skimmed, held);
    assert_eq!(skim.answers_until(max_age), session.answers_until(max_age));
    assert_eq!((skim.is_open(), skim.is_over()), (session.is_open(), session.is_over()));
    for n in 0..400 {
        let now = Timestamp::from_secs(1_699_990_000 + n * 1000);
        assert_eq!(skim.is_forgettable(now, max_age), session.is_forgettable(now, max_age));
        assert_eq!(skim.is_forgettable(now, max_age), now >= skim.forgettable_from(max_age));
    }
    Ok(())
}
