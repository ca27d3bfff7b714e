//! Keeping sessions: what the one writer does while readers look.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakway_types::Timestamp;
use ipnet::IpNet;

use super::arena::NOWHERE;
use super::claims::{hashes, marks};
use super::head::{ASK, DEVICES, Head, OVER, words_of};
use super::shared::{Part, Shared, hash_of, name_hash};
use super::{Packed, Scratch, Spot};
use crate::codec::DecodeError;
use crate::session::{Session, SessionKey};
use crate::skim::{Claimed, KeyOctets, Skim};

/// Words that a session may have to spare and keep.
const SPARE: usize = 4;
/// Octets by which most sessions grow with their second record.
const GROWTH: usize = 10;

/// A session that is to be kept, and what was read of it; its claims are in a [`Scratch`].
#[derive(Debug, Clone, Copy)]
struct Skimmed<'r> {
    key_octets: &'r [u8],
    octets: &'r [u8],
    key: KeyOctets<'r>,
    skim: Skim,
    name: u64,
}

impl Packed {
    /// Keeps a session: what [`SessionKey::encode`] and [`Session::encode`] made.
    pub(crate) fn put(&mut self, key: &[u8], octets: &[u8]) -> Result<(), DecodeError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let put = self.skimmed(key, octets, &mut scratch).and_then(|new| self.put_with(&new, &mut scratch));
        self.scratch = scratch;
        put
    }

    /// [`Packed::put`] of several, which wait for memory together.
    pub(crate) fn put_all(&mut self, rows: &[(&[u8], &[u8])]) -> Result<(), DecodeError> {
        let mut pool = std::mem::take(&mut self.pool);
        pool.resize_with(rows.len().max(pool.len()), Scratch::default);
        let put = self.put_these(rows, &mut pool);
        self.pool = pool;
        put
    }

    fn put_these(&mut self, rows: &[(&[u8], &[u8])], pool: &mut [Scratch]) -> Result<(), DecodeError> {
        let shared = self.shared.clone();
        let (mut new, mut near) = (Vec::with_capacity(rows.len()), Vec::with_capacity(8 * rows.len()));
        for ((key, octets), scratch) in rows.iter().zip(pool.iter_mut()) {
            let skimmed = self.skimmed(key, octets, scratch)?;
            near.extend(shared.by_name.first(&shared.words, skimmed.name));
            near.extend(scratch.hashes.iter().filter_map(|hash| shared.by_net.first(&shared.words, *hash)));
            new.push(skimmed);
        }
        // All lines that will be looked at, without waiting for one before the other.
        std::hint::black_box(near.iter().fold(0, |all, word| all ^ word.load(Ordering::Relaxed)));
        new.iter().zip(pool).try_for_each(|(new, scratch)| self.put_with(new, scratch))
    }

    fn skimmed<'r>(
        &self,
        key_octets: &'r [u8],
        octets: &'r [u8],
        scratch: &mut Scratch,
    ) -> Result<Skimmed<'r>, DecodeError> {
        let key = KeyOctets::of(key_octets)?;
        let skim = self.skim(octets, &mut scratch.claims)?;
        #[cfg(debug_assertions)]
        super::check(&self.ours, self.max_age, key_octets, octets, &skim, &scratch.claims)?;
        key.device(&mut scratch.device);
        hashes(&scratch.claims, &mut scratch.hashes);
        Ok(Skimmed { key_octets, octets, key, skim, name: name_hash(key.source, key.client, key.session) })
    }

    fn put_with(&mut self, new: &Skimmed<'_>, scratch: &mut Scratch) -> Result<(), DecodeError> {
        let Skimmed { key_octets, octets, key, skim, name } = *new;
        self.dues.tell(self.shared.by_name.number(name), skim.forgettable_from(self.max_age));
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
        let head = Head {
            octets: octets.len(),
            name: key.session.len(),
            device: 0,
            source: key.source,
            fresh: fresh(&skim, self.max_age),
            room: words_of(length),
        };
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
        for Claimed { net, ports, .. } in &scratch.claims {
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
        let room = room_of(&skim, length);
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
        for Claimed { net, ports, .. } in claims {
            let mark = hash_of(*net, Part::Mark);
            match self.claims.count(*net, *ports, more) {
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

/// Until when a session answers without further thought.
pub(super) fn fresh(skim: &Skim, max_age: Duration) -> Timestamp {
    match skim.answers_until(max_age) {
        Some(until) => until.max(ASK),
        None if skim.is_over() => OVER,
        None => ASK,
    }
}

/// Words for a session that is so long with its name.
pub(super) fn room_of(skim: &Skim, length: usize) -> usize {
    words_of(if skim.will_grow() { length + GROWTH } else { length })
}

/// Writes a session where nobody looks, or between [`shards::Shards::begin`] and [`shards::Shards::end`].
pub(super) fn write(shared: &Shared, at: u32, head: Head, content: &[u8]) {
    let (chunks, _) = content.as_chunks::<8>();
    let rest = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk));
    let words = shared.words.at(at, head.room).iter();
    words.zip(head.write().into_iter().chain(rest)).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
}

/// The octets of a session and its name behind them, as whole words.
pub(super) fn join(octets: &[u8], name: &str, to: &mut Vec<u8>) {
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
