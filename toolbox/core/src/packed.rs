//! Sessions in few octets each, changed by one writer and looked up by readers that wait for nobody.
//!
//! A session is the octets of [`Session::encode`] in an [`arena`], behind a head that says until when it may be answered for
//! without further thought. It is found by the hashes of its name, and of each address with its ports. What a reader can't
//! decide at a glance (more than one session, doubt, age) it leaves to the table.

mod arena;
mod glances;
mod places;
mod shards;
mod shared;

pub use glances::{Glances, Seen, Sight};

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakway_types::{PrefixMap, Timestamp};
use ipnet::IpNet;
use toolbox_wire::http::Source;
use toolbox_wire::record::{Nas, Ports};

use crate::codec::Numbered;
use crate::session::{Session, SessionKey};
use crate::sessions::{Full, Pair};
use arena::Owner;
use places::Places;
use shards::{Filling, Shards};
use shared::{Shared, bits_of, name_hash, net_hash, pieces, set};

/// Words before the octets: lengths and device, and until when the session answers.
const HEAD: usize = 2;
/// In the head of a session that is over: it claims nothing.
const OVER: Timestamp = Timestamp::from_millis(0);
/// In the head of one that the table has to be asked about.
const ASK: Timestamp = Timestamp::from_millis(1);

#[derive(Debug)]
pub(crate) struct Packed {
    shared: Arc<Shared>,
    owner: Owner,
    names: Filling,
    nets: Filling,
    places: Places,
    prefixes: PrefixMap<()>,
    max_age: Duration,
    lengths: [usize; 33 + 129],
    sizes: [usize; 16],
    /// Prefixes that lie in shorter ones or may, in order: those of the longer lengths of a family.
    nested: BTreeSet<IpNet>,
    shortest: [Option<u8>; 2],
    /// Addresses that are shared by ports, and by how many ranges.
    split: HashMap<IpNet, usize>,
    /// Sessions that are too long for the arena.
    long: Full,
    /// How many of the others are open.
    open: usize,
}

fn length_index(net: IpNet) -> usize {
    usize::from(net.prefix_len()) + if net.addr().is_ipv4() { 0 } else { 33 }
}

/// A session in the arena.
struct Piece {
    at: u32,
    words: usize,
    place: u32,
    key: SessionKey,
    /// What [`Session::encode`] made.
    octets: Vec<u8>,
}

impl Piece {
    fn pair(self) -> Option<Pair> {
        // What was written here reads back.
        let session = Session::decode(&self.key, &self.octets).ok()?;
        Some((self.key, session))
    }
}

/// A session in the arena, read.
struct Stored {
    at: u32,
    place: u32,
    words: usize,
    session: Session,
}

/// Places that can be told apart; the bits above are the source's number.
const PLACES: u32 = 1 << 28;

/// The two lengths, the device and the source in a head.
fn head(octets: usize, name: usize, place: u32, source: Source) -> u64 {
    let source = Source::ALL.iter().position(|of| *of == source).unwrap_or(0) as u64;
    octets as u64 | (name as u64) << 16 | u64::from(place % PLACES) << 32 | source << 60
}

fn unhead(head: u64) -> (usize, usize, u32) {
    (head as u16 as usize, (head >> 16) as u16 as usize, (head >> 32) as u32 % PLACES)
}

fn source_of(head: u64) -> Source {
    Source::ALL.get((head >> 60) as usize).copied().unwrap_or(Source::Radius)
}

fn words_of(octets: usize) -> usize {
    HEAD + octets.div_ceil(8)
}

impl Packed {
    pub(crate) fn new(prefixes: PrefixMap<()>, max_age: Duration) -> Self {
        Self {
            shared: Arc::default(),
            owner: Owner::default(),
            names: Filling::default(),
            nets: Filling::default(),
            places: Places::default(),
            prefixes,
            max_age,
            lengths: [0; 33 + 129],
            sizes: [0; 16],
            nested: BTreeSet::new(),
            shortest: [None; 2],
            split: HashMap::new(),
            long: Full::default(),
            open: 0,
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
        let shards = self.shared.by_name.octets() + self.shared.by_net.octets();
        let nested = self.nested.len() * 2 * size_of::<IpNet>();
        let split = self.split.capacity() * (size_of::<(IpNet, usize)>() + 1);
        let names = self.places.all.iter().map(|((_, client, nas), _)| {
            2 * (client.len() + nas.identifier.as_ref().map_or(0, String::len) + size_of::<(Source, String, Nas)>())
        });
        self.owner.octets() + shards + self.names.octets() + self.nets.octets() + nested + split + names.sum::<usize>()
    }

    fn piece(&self, at: u32) -> Option<Piece> {
        let words = &self.shared.words;
        let (octets, name, place) = unhead(words.get(at));
        let count = words_of(octets + name);
        let mut all: Vec<u8> = Vec::with_capacity(count * 8);
        for word in words.at(at, count).get(HEAD..)? {
            all.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let ((source, client, nas), _) = self.places.all.get(place as usize)?;
        let session = std::str::from_utf8(all.get(octets..octets + name)?).ok()?.to_owned();
        all.truncate(octets);
        let key = SessionKey { source: *source, client: client.clone(), session, nas: nas.clone() };
        Some(Piece { at, words: count, place, key, octets: all })
    }

    fn pieces_of(&self, name: u64) -> Vec<Piece> {
        let mut found = Vec::new();
        self.shared.by_name.find(&self.shared.words, name, |number| {
            found.extend(self.piece(number));
            false
        });
        found
    }

    fn find(&self, key: &SessionKey) -> Option<Piece> {
        let name = name_hash(key.source, &key.client, &key.session);
        self.pieces_of(name).into_iter().find(|piece| piece.key == *key)
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Option<Session> {
        match self.find(key) {
            Some(piece) => piece.pair().map(|(_, session)| session),
            None => self.long.get(key),
        }
    }

    /// Sessions of the same name at what may be the same device.
    pub(crate) fn related(&self, key: &SessionKey, but: Option<&SessionKey>) -> Vec<Pair> {
        let name = name_hash(key.source, &key.client, &key.session);
        let same = |of: &SessionKey| {
            (of.source, &of.client, &of.session) == (key.source, &key.client, &key.session)
                && of.nas.may_be(&key.nas)
                && Some(of) != but
        };
        let pieces = self.pieces_of(name).into_iter().filter(|piece| same(&piece.key));
        let mut found: Vec<Pair> = pieces.filter_map(Piece::pair).collect();
        found.extend(self.long.related(key, but));
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    /// Those in some of the tables of names, from `shard` on: at least `limit` if there are so many; and the next table.
    pub(crate) fn part(&self, mut shard: usize, limit: usize) -> (Vec<Pair>, usize) {
        let mut found = Vec::new();
        while shard < Shards::COUNT && found.len() < limit {
            let numbers = self.shared.by_name.of(&self.shared.words, shard);
            found.extend(numbers.into_iter().filter_map(|number| self.piece(number)?.pair()));
            shard += 1;
        }
        if shard == Shards::COUNT && found.len() < limit {
            found.extend(self.long.part(0, usize::MAX).0);
            shard += 1;
        }
        (found, shard)
    }

    pub(crate) fn open(&self) -> usize {
        self.open + self.long.open()
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed) + self.long.len()
    }

    /// Sessions that claim exactly `net`, whole or with some of `ports`, and perhaps others close to these.
    fn at_net(&self, net: IpNet, ports: &RangeInclusive<u16>, found: &mut Vec<(IpNet, SessionKey, Session)>) {
        let mut numbers = BTreeSet::new();
        let mut collect = |hash| {
            self.shared.by_net.find(&self.shared.words, hash, |number| {
                numbers.insert(number);
                false
            });
        };
        collect(net_hash(net, None));
        if self.split.contains_key(&net) {
            for size in bits_of(self.shared.sizes.load(Ordering::Relaxed)) {
                let pieces = ports.start() >> size..=ports.end() >> size;
                pieces.for_each(|piece| collect(net_hash(net, Some((size, piece)))));
            }
        }
        for (key, session) in numbers.into_iter().filter_map(|number| self.piece(number)?.pair()) {
            if session.nets().any(|of| of == net) {
                found.push((net, key, session));
            }
        }
    }

    pub(crate) fn around(&self, address: IpAddr, port: Option<u16>) -> Vec<(IpNet, SessionKey, Session)> {
        let mut found = Vec::new();
        let ports = port.map_or(0..=u16::MAX, |port| port..=port);
        for length in self.shared.lengths(address.is_ipv4()) {
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
        for length in self.shared.lengths(net.addr().is_ipv4()).filter(|length| *length <= net.prefix_len()) {
            if let Ok(of) = IpNet::new(net.addr(), length) {
                self.at_net(of.trunc(), &range, &mut found);
            }
        }
        let (lowest, highest) = crate::sessions::inside(net);
        let inside = self.nested.range(lowest..=highest).filter(|of| **of != net && net.contains(*of));
        inside.for_each(|of| self.at_net(*of, &range, &mut found));
        // Shorter than any before it: what lies inside is not in order yet. That is once for a length.
        let family = usize::from(net.addr().is_ipv6());
        if self.shortest.get(family).copied().flatten().is_some_and(|shortest| net.prefix_len() < shortest) {
            found.extend(self.by_net().into_iter().filter(|(of, ..)| net.contains(of)));
        }
        found.extend(self.long.touching(net));
        found
    }

    /// Every prefix with its sessions, in the order of prefixes and keys.
    pub(crate) fn by_net(&self) -> Vec<(IpNet, SessionKey, Session)> {
        let mut all = Vec::new();
        for (key, session) in self.part(0, usize::MAX).0 {
            let nets: BTreeSet<IpNet> = session.nets().filter(|net| self.is_ours(net)).collect();
            all.extend(nets.into_iter().map(|net| (net, key.clone(), session.clone())));
        }
        all.sort_by(|(one, a, _), (other, b, _)| (one, a).cmp(&(other, b)));
        all
    }

    fn is_ours(&self, net: &IpNet) -> bool {
        self.prefixes.lookup(net.addr()).is_some_and(|(prefix, ())| prefix.contains(net))
    }

    /// The hashes that a session is found under by its addresses.
    fn hashes(&self, session: &Session) -> BTreeSet<u64> {
        let mut hashes = BTreeSet::new();
        for claim in session.claims().filter(|claim| self.is_ours(&claim.net)) {
            match pieces(claim.ports) {
                None => {
                    hashes.insert(net_hash(claim.net, None));
                }
                Some((size, pieces)) => {
                    hashes.extend(pieces.map(|piece| net_hash(claim.net, Some((size, piece)))));
                }
            }
        }
        hashes
    }

    pub(crate) fn put(&mut self, key: SessionKey, session: Session) {
        let octets = session.encode(&key);
        if octets.len() + key.session.len() > usize::from(u16::MAX) {
            self.remove(&key);
            return self.put_aside(key, session);
        }
        self.long.remove(&key);
        let hashes = self.hashes(&session);
        let mut content = octets;
        let lengths = (content.len(), key.session.len());
        content.extend_from_slice(key.session.as_bytes());
        let fresh = match session.answers_until(self.max_age) {
            Some(until) => until.max(ASK),
            None if session.is_over() => OVER,
            None => ASK,
        };
        let count = words_of(content.len());
        let shared = self.shared.clone();
        let write = |at: u32, place: u32| {
            let rest = content.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(word)
            });
            let all = [head(lengths.0, lengths.1, place, key.source), fresh.as_millis()].into_iter().chain(rest);
            shared.words.at(at, count).iter().zip(all).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        };
        let mut touched = hashes.clone();
        let old = self.find(&key).and_then(|piece| {
            let (at, place, words) = (piece.at, piece.place, piece.words);
            piece.pair().map(|(_, session)| Stored { at, place, words, session })
        });
        if let Some(old) = &old {
            if old.words == count && self.claimed(&old.session) == self.claimed(&session) {
                self.open = self.open + usize::from(session.is_open()) - usize::from(old.session.is_open());
                let _locked = Locked::new(&shared, &hashes);
                write(old.at, old.place);
                return;
            }
            touched.extend(self.hashes(&old.session));
        }
        // The old one goes and the new one comes at once for readers: whoever else claims its address must not look alone.
        let locked = Locked::new(&shared, &touched);
        if let Some(old) = old {
            self.take_out(&key, &old);
        }
        let place = self.places.take(&key);
        let name = name_hash(key.source, &key.client, &key.session);
        let Some(at) = self.owner.take(&shared.words, count) else {
            self.places.give_back(place);
            return self.put_aside(key, session);
        };
        write(at, place);
        let mut room = self.names.insert(&shared.by_name, &shared.words, &mut self.owner, name, at);
        for hash in &hashes {
            room &= self.nets.insert(&shared.by_net, &shared.words, &mut self.owner, *hash, at);
        }
        shared.count.fetch_add(1, Ordering::Relaxed);
        self.open += usize::from(session.is_open());
        self.count_claims(&session, true);
        if !room {
            self.take_out(&key, &Stored { at, place, words: count, session: session.clone() });
            self.put_aside(key, session);
        }
        drop(locked);
    }

    /// Keeps what the arena cannot hold.
    fn put_aside(&mut self, key: SessionKey, session: Session) {
        let nets: BTreeSet<IpNet> = session.nets().filter(|net| self.is_ours(net)).collect();
        self.shared.odd.store(true, Ordering::Release);
        self.long.put(key, session, nets);
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        self.long.remove(key);
        let Some(piece) = self.find(key) else { return };
        let (at, place, words) = (piece.at, piece.place, piece.words);
        let Some((_, session)) = piece.pair() else { return };
        let shared = self.shared.clone();
        let _locked = Locked::new(&shared, &self.hashes(&session));
        self.take_out(key, &Stored { at, place, words, session });
    }

    /// Takes out what is stored; readers of its addresses are locked out meanwhile.
    fn take_out(&mut self, key: &SessionKey, Stored { at, place, words, session }: &Stored) {
        let shared = self.shared.clone();
        for hash in &self.hashes(session) {
            self.nets.remove(&shared.by_net, &shared.words, *hash, *at);
        }
        self.names.remove(&shared.by_name, &shared.words, name_hash(key.source, &key.client, &key.session), *at);
        self.owner.give_back(*at, *words);
        self.places.give_back(*place);
        shared.count.fetch_sub(1, Ordering::Relaxed);
        self.open -= usize::from(session.is_open());
        self.count_claims(session, false);
    }

    fn claimed(&self, session: &Session) -> BTreeSet<(IpNet, Ports)> {
        let ours = session.claims().filter(|claim| self.is_ours(&claim.net));
        ours.map(|claim| (claim.net, claim.ports)).collect()
    }

    /// Keeps account of which lengths and sizes there are. They are told to readers late, when something is gone, and at
    /// once, when something is there.
    fn count_claims(&mut self, session: &Session, more: bool) {
        for (net, ports) in self.claimed(session) {
            if let Some((size, _)) = pieces(ports) {
                if let Some(count) = self.sizes.get_mut(usize::from(size)) {
                    *count = if more { *count + 1 } else { *count - 1 };
                    set(&self.shared.sizes, size.into(), *count > 0);
                }
                let count = self.split.entry(net).or_default();
                *count = if more { *count + 1 } else { *count - 1 };
                if *count == 0 {
                    self.split.remove(&net);
                }
            }
            let index = length_index(net);
            let Some(count) = self.lengths.get_mut(index) else { continue };
            *count = if more { *count + 1 } else { *count - 1 };
            let there = *count > 0;
            self.shared.set_length(net, there);
            self.nest(net, more);
        }
    }

    /// Prefixes longer than the shortest of their family are kept in order: a shorter one may come to lie around them.
    fn nest(&mut self, net: IpNet, more: bool) {
        let family = usize::from(net.addr().is_ipv6());
        let length = net.prefix_len();
        let Some(shortest) = self.shortest.get_mut(family) else { return };
        match (*shortest, more) {
            (None, true) => *shortest = Some(length),
            (Some(known), true) if length < known => {
                *shortest = Some(length);
                // Until now nothing lay around those of the length that was the shortest.
                let v4 = net.addr().is_ipv4();
                let all = self.part(0, usize::MAX).0;
                let nets = all.iter().flat_map(|(_, session)| session.nets());
                let longer: Vec<IpNet> = nets
                    .filter(|of| of.addr().is_ipv4() == v4 && of.prefix_len() > length && self.is_ours(of))
                    .collect();
                self.nested.extend(longer);
            }
            (Some(known), true) if length > known => {
                self.nested.insert(net);
            }
            (Some(known), false) if length > known => {
                let mut left = Vec::new();
                self.at_net(net, &(0..=u16::MAX), &mut left);
                if left.is_empty() {
                    self.nested.remove(&net);
                }
            }
            _ => {}
        }
    }
}

/// Readers of what these hashes lead to try again, until this is dropped.
struct Locked<'s> {
    shared: &'s Shared,
    shards: BTreeSet<usize>,
}

impl<'s> Locked<'s> {
    fn new(shared: &'s Shared, hashes: &BTreeSet<u64>) -> Self {
        let shards: BTreeSet<usize> = hashes.iter().map(|hash| Shards::number(*hash)).collect();
        shards.iter().for_each(|shard| shared.by_net.begin(*shard));
        Self { shared, shards }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.shards.iter().for_each(|shard| self.shared.by_net.end(*shard));
    }
}
