//! Sessions in few octets each, changed by one writer and looked up by readers that wait for nobody.
//!
//! A session is the octets of [`Session::encode`] in an [`arena`], behind a [`head`] that says until when it may be answered for
//! without further thought. It is found by the hashes of its name, and of each address with its ports. What a reader can't
//! decide at a glance (more than one session, doubt, age) it leaves to the table.

mod arena;
mod claims;
mod glances;
mod head;
mod hints;
mod places;
mod shards;
mod shared;

pub use glances::{Glances, Seen, Sight};

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
use crate::skim::{KeyOctets, Skim, device};
use arena::{NOWHERE, Owner};
use claims::{Claimed, Claims, hashes, marks};
use head::{ASK, DEVICES, HEAD, Head, OVER, words_of};
use places::{Place, Places};
use shards::Filling;
use shared::{Part, Shared, hash_of, name_hash};

/// Words that a session may have to spare and keep.
const SPARE: usize = 4;
/// Octets by which most sessions grow with their second record.
const GROWTH: usize = 10;

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
    /// Sessions that are too long for the arena.
    long: Full,
    /// How many of the others are open.
    open: usize,
    scratch: Scratch,
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
        Self {
            names: Filling::new(&shared.by_name),
            nets: Filling::new(&shared.by_net),
            shared,
            owner: Owner::default(),
            places: Places::default(),
            ours,
            max_age,
            claims: Claims::default(),
            long: Full::default(),
            open: 0,
            scratch: Scratch::default(),
        }
    }

    pub(crate) fn glances(&self) -> Glances {
        Glances(self.shared.clone())
    }

    /// Lets readers ask the table about everything.
    pub(crate) fn leave_to_table(&self) {
        self.shared.odd.store(true, Ordering::Release);
    }

    /// Octets that all of it takes.
    pub(crate) fn octets(&self) -> usize {
        let shared = &self.shared;
        let shards = shared.by_name.octets() + shared.by_net.octets() + self.names.octets() + self.nets.octets();
        self.owner.octets() + shards + shared.hints.octets() + self.claims.octets() + self.places.octets()
    }

    // --- reading ---

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
        self.shared.by_name.find(&self.shared.words, name, |number| {
            found.extend(self.spot(number));
            false
        });
        found
    }

    fn find(&self, name: u64, device: &[u8], session: &str) -> Option<Spot> {
        let device = self.places.number(device)?;
        let mut found = None;
        self.shared.by_name.find(&self.shared.words, name, |number| {
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
    pub(crate) fn forgettable(&self, shard: usize, limit: usize, now: Timestamp) -> (Vec<Pair>, Option<usize>) {
        let mut found = Vec::new();
        let (mut content, mut claims) = (Vec::new(), Vec::new());
        let each = |spot: &Spot| {
            self.read(spot, &mut content);
            let skim = Skim::of(content.get(..spot.head.octets).unwrap_or_default(), &mut claims);
            if skim.is_ok_and(|skim| skim.is_forgettable(now, self.max_age)) {
                found.extend(self.pair(spot));
            }
        };
        let shard = self.some(shard, limit, each);
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
            self.shared.by_net.find(&self.shared.words, hash, |number| {
                numbers.push(number);
                false
            });
        };
        collect(hash_of(net, Part::Whole));
        if self.claims.is_split(net) {
            for size in self.claims.sizes() {
                let pieces = ports.start() >> size..=ports.end() >> size;
                pieces.for_each(|piece| collect(hash_of(net, Part::Piece(size, piece))));
            }
        }
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
                claims.iter().for_each(|(net, _)| each(*net, spot));
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

    /// Reads a session's octets, and which of our addresses it claims, in order and each once.
    fn skim(&self, octets: &[u8], claims: &mut Vec<Claimed>) -> Result<Skim, DecodeError> {
        let skim = Skim::of(octets, claims)?;
        claims.retain(|(net, _)| self.is_ours(net));
        claims.sort_unstable();
        claims.dedup();
        Ok(skim)
    }

    /// What is skimmed is what the session says.
    #[cfg(debug_assertions)]
    fn check(&self, key: &[u8], octets: &[u8], skim: &Skim, claims: &[Claimed]) -> Result<(), DecodeError> {
        let session = Session::decode(&SessionKey::decode(key)?, octets)?;
        let mut ours: Vec<Claimed> = session.claims().map(|of| (of.net, of.ports)).collect();
        ours.retain(|(net, _)| self.is_ours(net));
        ours.sort_unstable();
        ours.dedup();
        assert_eq!(claims, ours);
        assert_eq!(skim.answers_until(self.max_age), session.answers_until(self.max_age));
        assert_eq!((skim.is_open(), skim.is_over()), (session.is_open(), session.is_over()));
        for n in 0..400 {
            let now = Timestamp::from_secs(1_699_990_000 + n * 1000);
            assert_eq!(skim.is_forgettable(now, self.max_age), session.is_forgettable(now, self.max_age));
        }
        Ok(())
    }

    /// Has near what will be looked at when these are put: lines of the tables, without waiting for one before the other.
    pub(crate) fn fetch<'r>(&self, rows: impl Iterator<Item = (&'r [u8], &'r [u8])>) {
        let (mut lines, mut claims, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let shared = &*self.shared;
        for (key, octets) in rows {
            let Ok(key) = KeyOctets::of(key) else { continue };
            let name = name_hash(key.source, key.client, key.session);
            lines.extend(shared.by_name.first(&shared.words, name));
            if Skim::of(octets, &mut claims).is_ok() {
                hashes(&claims, &mut found);
                lines.extend(found.iter().filter_map(|hash| shared.by_net.first(&shared.words, *hash)));
            }
        }
        std::hint::black_box(lines.iter().fold(0, |all, word| all ^ word.load(Ordering::Relaxed)));
    }

    // --- writing ---

    /// Keeps a session: what [`SessionKey::encode`] and [`Session::encode`] made.
    pub(crate) fn put(&mut self, key: &[u8], octets: &[u8]) -> Result<(), DecodeError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let put = self.put_with(key, octets, &mut scratch);
        self.scratch = scratch;
        put
    }

    fn put_with(&mut self, key_octets: &[u8], octets: &[u8], scratch: &mut Scratch) -> Result<(), DecodeError> {
        let key = KeyOctets::of(key_octets)?;
        let skim = self.skim(octets, &mut scratch.claims)?;
        #[cfg(debug_assertions)]
        self.check(key_octets, octets, &skim, &scratch.claims)?;
        key.device(&mut scratch.device);
        let name = name_hash(key.source, key.client, key.session);
        let old = self.find(name, &scratch.device, key.session);
        if self.long.len() > 0 {
            self.long.remove(&SessionKey::decode(key_octets)?);
        }
        let length = octets.len() + key.session.len();
        if length > Head::LONGEST {
            // Before it is gone here: whoever else claims its address must not look alone.
            self.leave_to_table();
            if let Some(old) = old {
                self.take_out(&old, name, scratch)?;
            }
            return self.put_aside(key_octets, octets);
        }
        let fresh = match skim.answers_until(self.max_age) {
            Some(until) => until.max(ASK),
            None if skim.is_over() => OVER,
            None => ASK,
        };
        let head = Head {
            octets: octets.len(),
            name: key.session.len(),
            device: 0,
            source: key.source,
            fresh,
            room: words_of(length),
        };
        hashes(&scratch.claims, &mut scratch.hashes);
        let shared = self.shared.clone();
        let was_open = match &old {
            None => {
                join(octets, key.session, &mut scratch.content);
                false
            }
            Some(old) => {
                self.read(old, &mut scratch.content);
                let before = scratch.content.get(..old.head.octets).unwrap_or_default();
                let was_open = self.skim(before, &mut scratch.before)?.is_open();
                join(octets, key.session, &mut scratch.content);
                if scratch.before == scratch.claims {
                    let stays = (head.room..=head.room + SPARE).contains(&old.head.room);
                    let at = if stays { Some(old.at) } else { self.owner.take(&shared.words, head.room) };
                    if let Some(at) = at {
                        let room = if stays { old.head.room } else { head.room };
                        let head = Head { device: old.head.device, room, ..head };
                        let _locked = Locked::new(&shared, &scratch.hashes);
                        write(&shared, at, head, &scratch.content);
                        if !stays {
                            self.names.replace(&shared.by_name, &shared.words, name, old.at, at);
                            for hash in &scratch.hashes {
                                self.nets.replace(&shared.by_net, &shared.words, *hash, old.at, at);
                            }
                            self.owner.give_back(old.at, old.head.room);
                        }
                        self.open = self.open + usize::from(skim.is_open()) - usize::from(was_open);
                        return Ok(());
                    }
                }
                was_open
            }
        };
        // The old one goes and the new one comes at once for readers: whoever else claims its address must not look alone.
        scratch.touched.clear();
        scratch.touched.extend_from_slice(&scratch.hashes);
        marks(&scratch.claims, &mut scratch.touched);
        if old.is_some() {
            let mut before = Vec::new();
            hashes(&scratch.before, &mut before);
            marks(&scratch.before, &mut before);
            scratch.touched.append(&mut before);
        }
        for (net, ports) in &scratch.claims {
            shared.hints.tell(*net, *ports);
            if self.claims.is_shortest(*net) {
                self.order(*net);
            }
        }
        let locked = Locked::new(&shared, &scratch.touched);
        if let Some(old) = &old {
            self.unlink(old, name, &scratch.before, was_open);
        }
        let place = || (key.source, key.client.to_owned(), key.nas().unwrap_or_default());
        let room = if skim.will_grow() { words_of(length + GROWTH) } else { head.room };
        let device = self.places.take(&scratch.device, DEVICES, place);
        let (Some(device), Some(at)) = (device, self.owner.take(&shared.words, room)) else {
            device.into_iter().for_each(|device| self.places.give_back(device));
            return self.put_aside(key_octets, octets);
        };
        let spot = Spot { at, head: Head { device, room, ..head } };
        write(&shared, at, spot.head, &scratch.content);
        let mut fits = self.names.insert(&shared.by_name, &shared.words, &mut self.owner, name, at);
        for hash in &scratch.hashes {
            fits &= self.nets.insert(&shared.by_net, &shared.words, &mut self.owner, *hash, at);
        }
        shared.count.fetch_add(1, Ordering::Relaxed);
        self.open += usize::from(skim.is_open());
        fits &= self.count_claims(&scratch.claims, true);
        if !fits {
            self.unlink(&spot, name, &scratch.claims, skim.is_open());
            return self.put_aside(key_octets, octets);
        }
        drop(locked);
        Ok(())
    }

    /// Keeps what the arena cannot hold.
    fn put_aside(&mut self, key: &[u8], octets: &[u8]) -> Result<(), DecodeError> {
        let key = SessionKey::decode(key)?;
        let session = Session::decode(&key, octets)?;
        let nets: Vec<IpNet> = session.nets().filter(|net| self.is_ours(net)).collect();
        self.leave_to_table();
        self.long.put(key, session, nets);
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        self.long.remove(key);
        let Some(old) = self.find_key(key) else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        // What was written here reads back.
        let _ = self.take_out(&old, name_hash(key.source, &key.client, &key.session), &mut scratch);
        self.scratch = scratch;
    }

    /// Takes a session out.
    fn take_out(&mut self, old: &Spot, name: u64, scratch: &mut Scratch) -> Result<(), DecodeError> {
        self.read(old, &mut scratch.content);
        let before = scratch.content.get(..old.head.octets).unwrap_or_default();
        let skim = self.skim(before, &mut scratch.before)?;
        hashes(&scratch.before, &mut scratch.touched);
        marks(&scratch.before, &mut scratch.touched);
        let shared = self.shared.clone();
        let _locked = Locked::new(&shared, &scratch.touched);
        self.unlink(old, name, &scratch.before, skim.is_open());
        Ok(())
    }

    /// Takes out what is stored; readers of its addresses are locked out meanwhile.
    fn unlink(&mut self, spot: &Spot, name: u64, claims: &[Claimed], was_open: bool) {
        let shared = self.shared.clone();
        let mut all = Vec::new();
        hashes(claims, &mut all);
        for hash in all {
            self.nets.remove(&shared.by_net, &shared.words, hash, spot.at);
        }
        self.names.remove(&shared.by_name, &shared.words, name, spot.at);
        self.owner.give_back(spot.at, spot.head.room);
        self.places.give_back(spot.head.device);
        shared.count.fetch_sub(1, Ordering::Relaxed);
        self.open -= usize::from(was_open);
        self.count_claims(claims, false);
    }

    /// Puts what is longer than `net`, which is about to be the shortest of its family, in order.
    fn order(&mut self, net: IpNet) {
        let mut longer = Vec::new();
        let v4 = net.addr().is_ipv4();
        let wanted = |of: &IpNet| of.addr().is_ipv4() == v4 && of.prefix_len() > net.prefix_len();
        self.claiming(|of, _| longer.extend(Some(of).filter(&wanted)));
        self.claims.set_shortest(net, longer);
    }

    /// Keeps account of claims. False when there is no more room in memory.
    fn count_claims(&mut self, claims: &[Claimed], more: bool) -> bool {
        let shared = self.shared.clone();
        let mut fits = true;
        for (net, ports) in claims {
            let mark = hash_of(*net, Part::Mark);
            match self.claims.count((*net, *ports), more) {
                Some(true) => {
                    fits &= self.nets.insert(&shared.by_net, &shared.words, &mut self.owner, mark, NOWHERE);
                }
                Some(false) => self.nets.remove(&shared.by_net, &shared.words, mark, NOWHERE),
                None => {}
            }
        }
        fits
    }
}

/// Writes a session where nobody looks, or between [`shards::Shards::begin`] and [`shards::Shards::end`].
fn write(shared: &Shared, at: u32, head: Head, content: &[u8]) {
    let (chunks, _) = content.as_chunks::<8>();
    let rest = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk));
    let words = shared.words.at(at, head.room).iter();
    words.zip(head.write().into_iter().chain(rest)).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
}

/// The octets of a session and its name behind them, as whole words.
fn join(octets: &[u8], name: &str, to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(octets);
    to.extend_from_slice(name.as_bytes());
    to.resize(to.len().next_multiple_of(8), 0);
}

/// Readers of what these hashes lead to try again, until this is dropped.
struct Locked<'s> {
    shared: &'s Shared,
    shards: Vec<usize>,
}

impl<'s> Locked<'s> {
    fn new(shared: &'s Shared, hashes: &[u64]) -> Self {
        let mut shards: Vec<usize> = hashes.iter().map(|hash| shared.by_net.number(*hash)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.iter().for_each(|shard| shared.by_net.begin(*shard));
        Self { shared, shards }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.shards.iter().for_each(|shard| self.shared.by_net.end(*shard));
    }
}
