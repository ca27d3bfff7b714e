//! Putting together what the threads noted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use zerocopy::FromZeros as _;

use super::{ASIDE, Aside, Named, Part, Tally};
use crate::codec::DecodeError;
use crate::packed::arena::{NOWHERE, Owner};
use crate::packed::claims::Claims;
use crate::packed::shards::{Fill, Filling, slot};
use crate::packed::shared::{Part as Of, hash_of};
use crate::packed::{Packed, Spot};
use crate::rows::RestoreError;
use crate::skim::{Claimed, KeyOctets};

/// Why a table cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for all sessions")]
pub struct NoRoom;

/// What one thread found in the tables of names.
#[derive(Default)]
struct Names {
    fills: Vec<Fill>,
    owner: Owner,
    /// Sessions in whose place another row stands, and what they counted for.
    dead: Vec<u32>,
    minus: Minus,
    /// What is put in at the end.
    asides: Vec<u32>,
    full: bool,
}

#[derive(Default)]
struct Minus {
    claims: Claims,
    /// Of these the prefixes that are longer than the shortest.
    longer: Vec<IpNet>,
    open: usize,
    devices: Vec<u32>,
}

/// Sessions that are in the arena and in no table: a bit for each word that one may begin at.
struct Dead(Vec<AtomicU64>);

impl Dead {
    fn of(names: &[Names], words: usize) -> Result<Self, NoRoom> {
        let none = names.iter().all(|names| names.dead.is_empty());
        let bits = AtomicU64::new_vec_zeroed(if none { 0 } else { words / 64 + 1 }).map_err(|_| NoRoom)?;
        for number in names.iter().flat_map(|names| &names.dead) {
            if let Some(word) = bits.get(*number as usize / 64) {
                word.fetch_or(1 << (number % 64), Ordering::Relaxed);
            }
        }
        Ok(Self(bits))
    }

    fn has(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 == 1)
    }
}

/// Makes `packed`, which is empty, what the rows say that the parts of it took.
pub(crate) fn finish(packed: &mut Packed, parts: Vec<Part>) -> Result<(), RestoreError> {
    let threads = parts.len().max(1);
    let (mut names, mut nets, mut asides, mut tallies) = (Vec::new(), Vec::new(), Vec::<Aside>::new(), Vec::new());
    let places = parts.first().map(|part| part.places.clone()).unwrap_or_default();
    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
    for part in parts {
        let before = asides.len() as u32;
        let mut own = part.names;
        let aside = own.iter_mut().flatten().filter(|of| of.number == ASIDE);
        aside.for_each(|of| of.aside += before);
        names.push(own);
        nets.push(part.nets);
        asides.extend(part.asides);
        packed.owner.join(part.owner);
        part.devices.into_values().for_each(|(number, count)| places.add(number, count - 1));
        packed.dues.join(&part.dues);
        tallies.push(part.tally);
    }
    packed.places = std::mem::take(&mut *places);
    let sessions: usize = tallies.iter().map(|tally| tally.sessions).sum();
    let open: usize = tallies.iter().map(|tally| tally.open).sum();
    let (claims, anew) = Tally::together(tallies);
    packed.claims = claims;

    let whole = &*packed;
    let found = each_part(threads, packed.shared.by_name.count(), |from, to| {
        let mut found = Names { owner: whole.owner.another(), ..Names::default() };
        let mut all = Vec::new();
        for shard in from..to {
            all.clear();
            all.extend(names.iter().filter_map(|names: &Vec<Vec<Named>>| names.get(shard)).flatten().copied());
            found.settle(whole, shard, &mut all, &asides)?;
        }
        Ok::<Names, DecodeError>(found)
    });
    let found = found.into_iter().collect::<Result<Vec<Names>, DecodeError>>()?;
    drop(names);
    if found.iter().any(|names| names.full) {
        return Err(NoRoom.into());
    }
    let dead = Dead::of(&found, packed.owner.words())?;
    let filled = each_part(threads, packed.shared.by_net.count(), |from, to| {
        let mut owner = whole.owner.another();
        let (mut all, mut fills) = (Vec::new(), Vec::new());
        for shard in from..to {
            all.clear();
            let entries = nets.iter().filter_map(|nets: &Vec<Vec<u64>>| nets.get(shard)).flatten().copied();
            all.extend(entries.filter(|entry| !dead.has(*entry as u32)));
            fills.extend(whole.shared.by_net.fill(shard, &whole.shared.words, &mut owner, &all));
        }
        (fills, owner)
    });
    drop(nets);
    let (mut by_name, mut by_net) = (Vec::new(), Vec::new());
    let (mut dead, mut last) = (0, Vec::new());
    packed.open = open;
    for names in found {
        by_name.extend(names.fills);
        packed.owner.join(names.owner);
        dead += names.dead.len();
        last.extend(names.asides);
        packed.open -= names.minus.open;
        names.minus.devices.into_iter().for_each(|device| packed.places.give_back(device));
        packed.claims.subtract(names.minus.claims, names.minus.longer);
    }
    for (fills, owner) in filled {
        by_net.extend(fills);
        packed.owner.join(owner);
    }
    if by_net.len() < packed.shared.by_net.count() {
        return Err(NoRoom.into());
    }
    packed.names = Filling::of(by_name);
    packed.nets = Filling::of(by_net);
    packed.shared.count.store(sessions - dead, Ordering::Relaxed);
    end(packed, anew, last, &asides)
}

/// The marks of shared addresses, what lies inside what, and what did not fit.
fn end(packed: &mut Packed, anew: bool, mut last: Vec<u32>, asides: &[Aside]) -> Result<(), RestoreError> {
    let shared = packed.shared.clone();
    let split: Vec<IpNet> = packed.claims.split().collect();
    for net in split {
        let mark = hash_of(net, Of::Mark);
        if !packed.nets.insert(&shared.by_net, &shared.words, &mut packed.owner, mark, NOWHERE) {
            return Err(NoRoom.into());
        }
    }
    if anew {
        for v4 in [true, false] {
            let Some(length) = packed.claims.lengths(v4).next() else { continue };
            let (mut longer, mut shortest) = (Vec::new(), None);
            packed.claiming(|net, _| match net.addr().is_ipv4() == v4 {
                true if net.prefix_len() > length => longer.push(net),
                true => shortest = Some(net),
                false => {}
            });
            longer.sort_unstable();
            if let Some(net) = shortest {
                packed.claims.set_nested(net, longer);
            }
        }
    }
    last.sort_unstable_by_key(|aside| asides.get(*aside as usize).map(|of| of.order));
    for Aside { key, octets, .. } in last.into_iter().filter_map(|aside| asides.get(aside as usize)) {
        if let Some(octets) = octets {
            packed.put(key, octets)?;
        }
    }
    Ok(())
}

/// Work at parts of `0..count`, a thread each.
fn each_part<T: Send>(threads: usize, count: usize, work: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let size = count.div_ceil(threads);
    let work = &work;
    let done: Vec<Mutex<Option<T>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for (part, done) in done.iter().enumerate() {
            scope.spawn(move || {
                let made = work((part * size).min(count), ((part + 1) * size).min(count));
                *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
            });
        }
    });
    done.into_iter().filter_map(|done| done.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

impl Names {
    /// Fills a table of names; of rows of one session the last one counts.
    fn settle(
        &mut self,
        packed: &Packed,
        shard: usize,
        all: &mut [Named],
        asides: &[Aside],
    ) -> Result<(), DecodeError> {
        all.sort_unstable_by_key(|of| (of.hash, of.order));
        let (mut entries, mut live) = (Vec::with_capacity(all.len()), Vec::new());
        for run in all.chunk_by(|one, other| one.hash == other.hash) {
            live.clear();
            for of in run {
                let mut before = None;
                for (at, known) in live.iter().enumerate() {
                    if is_same(packed, known, of, asides)? {
                        before = Some(at);
                        break;
                    }
                }
                if let Some(known) = before.map(|at| live.swap_remove(at)) {
                    self.bury(packed, &known)?;
                }
                live.push(*of);
            }
            for of in &live {
                match of.number {
                    ASIDE => self.asides.push(of.aside),
                    number => entries.push(slot(of.hash, number)),
                }
            }
        }
        match packed.shared.by_name.fill(shard, &packed.shared.words, &mut self.owner, &entries) {
            Some(fill) => self.fills.push(fill),
            None => self.full = true,
        }
        Ok(())
    }

    /// A session in whose place another row stands.
    fn bury(&mut self, packed: &Packed, gone: &Named) -> Result<(), DecodeError> {
        let Some(spot) = packed.spot(gone.number).filter(|_| gone.number != ASIDE) else { return Ok(()) };
        let (mut content, mut claims) = (Vec::new(), Vec::new());
        packed.read(&spot, &mut content);
        let skim = packed.skim(content.get(..spot.head.octets).unwrap_or_default(), &mut claims)?;
        self.minus.open += usize::from(skim.is_open());
        self.minus.devices.push(spot.head.device);
        for Claimed { net, ports, .. } in claims {
            self.minus.claims.add(net, ports);
            self.minus.longer.extend(Some(net).filter(|net| packed.claims.is_longer(*net)));
        }
        self.dead.push(spot.at);
        self.owner.give_back(spot.at, spot.head.room);
        Ok(())
    }
}

/// Whether two rows whose names have one hash are of one session.
fn is_same(packed: &Packed, one: &Named, other: &Named, asides: &[Aside]) -> Result<bool, DecodeError> {
    let spot = |of: &Named| packed.spot(of.number).filter(|_| of.number != ASIDE);
    let key = |of: &Named| asides.get(of.aside as usize).map_or(&[][..], |aside| aside.key.as_slice());
    let fits = |spot: &Spot, key: &[u8]| {
        let read = KeyOctets::of(key)?;
        let mut device = Vec::new();
        read.device(&mut device);
        let same = packed.places.number(&device) == Some(spot.head.device);
        Ok(same && packed.name_is(spot, read.session.as_bytes()))
    };
    match (spot(one), spot(other)) {
        (Some(one), Some(other)) => {
            let mut name = Vec::new();
            packed.read(&one, &mut name);
            let name = name.get(one.head.octets..).unwrap_or_default();
            Ok(one.head.device == other.head.device && packed.name_is(&other, name))
        }
        (Some(spot), None) => fits(&spot, key(other)),
        (None, Some(spot)) => fits(&spot, key(one)),
        (None, None) => Ok(key(one) == key(other)),
    }
}
