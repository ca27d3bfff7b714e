//! Making the table anew from its rows, on several threads: what a start waits for.
//!
//! Each thread takes some groups of rows. It writes the sessions into pages of its own, and notes for each of the small tables what
//! goes into it. When all are taken, each table is filled at once: first those of names, where of several rows of one session the last
//! one counts, as if they had come one by one; then those of addresses, without the sessions that were found to be replaced.
//!
//! Nobody looks meanwhile. What does not fit into the arena is put in at the end, in its order.

mod join;
mod tally;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::arena::Owner;
use super::claims::hashes;
use super::dues::Dues;
use super::head::{DEVICES, Head};
use super::places::Places;
use super::put::{fresh, join, room_of, write};
use super::shards::slot;
use super::shared::{Mixing, Shared, name_hash};
use super::{Packed, Scratch, skim_ours};
use crate::codec::DecodeError;
use crate::ours::Ours;
use crate::skim::KeyOctets;
pub use join::NoRoom;
pub(crate) use join::finish;
use tally::Tally;

/// Where a row stands among all: of two the later counts.
pub(crate) type Order = u64;

/// A row in the table of its name.
#[derive(Debug, Clone, Copy)]
struct Named {
    hash: u64,
    order: Order,
    /// Where the session is; none: [`ASIDE`].
    number: u32,
    /// Which of those that are put aside.
    aside: u32,
}

const ASIDE: u32 = 0;

/// A row that is not in the arena: the session is gone, or does not fit.
#[derive(Debug)]
struct Aside {
    key: Vec<u8>,
    octets: Option<Vec<u8>>,
    order: Order,
}

/// What one thread takes.
#[derive(Debug)]
pub(crate) struct Part {
    shared: Arc<Shared>,
    ours: Arc<Ours>,
    max_age: Duration,
    owner: Owner,
    places: Arc<Mutex<Places>>,
    /// The devices that were met here, and by how many sessions.
    devices: HashMap<Box<[u8]>, (u32, usize), Mixing>,
    names: Vec<Vec<Named>>,
    nets: Vec<Vec<u64>>,
    asides: Vec<Aside>,
    tally: Tally,
    dues: Dues,
    scratch: Scratch,
}

impl Part {
    /// Parts of an empty table, for as many threads.
    pub(crate) fn of(packed: &Packed, count: usize) -> Vec<Self> {
        let places = Arc::new(Mutex::new(Places::default()));
        let part = |_| Self {
            shared: packed.shared.clone(),
            ours: packed.ours.clone(),
            max_age: packed.max_age,
            owner: packed.owner.another(),
            places: places.clone(),
            devices: HashMap::default(),
            names: vec![Vec::new(); packed.shared.by_name.count()],
            nets: vec![Vec::new(); packed.shared.by_net.count()],
            asides: Vec::new(),
            tally: Tally::default(),
            dues: packed.dues.clone(),
            scratch: Scratch::default(),
        };
        (0..count).map(part).collect()
    }

    /// Takes a row; `octets` are none when the session is gone. Each part takes rows in their order.
    pub(crate) fn take(&mut self, order: Order, key: &[u8], octets: Option<&[u8]>) -> Result<(), DecodeError> {
        let read = KeyOctets::of(key)?;
        let name = name_hash(read.source, read.client, read.session);
        let kept = match octets {
            Some(octets) => self.keep(key, &read, octets, name)?,
            None => None,
        };
        let (number, aside) = match kept {
            Some(number) => (number, 0),
            None => {
                self.asides.push(Aside { key: key.to_vec(), octets: octets.map(<[u8]>::to_vec), order });
                (ASIDE, (self.asides.len() - 1) as u32)
            }
        };
        if let Some(names) = self.names.get_mut(self.shared.by_name.number(name)) {
            names.push(Named { hash: name, order, number, aside });
        }
        Ok(())
    }

    /// Writes a session into the arena; none when it does not fit.
    fn keep(
        &mut self,
        key_octets: &[u8],
        key: &KeyOctets<'_>,
        octets: &[u8],
        name: u64,
    ) -> Result<Option<u32>, DecodeError> {
        let Self { shared, ours, scratch, .. } = self;
        let skim = skim_ours(ours, octets, &mut scratch.claims)?;
        #[cfg(debug_assertions)]
        super::check(ours, self.max_age, key_octets, octets, &skim, &scratch.claims)?;
        #[cfg(not(debug_assertions))]
        let _ = key_octets;
        let length = octets.len() + key.session.len();
        if length > Head::LONGEST {
            return Ok(None);
        }
        key.device(&mut scratch.device);
        let room = room_of(&skim, length);
        let Some(at) = self.owner.take(&shared.words, room) else { return Ok(None) };
        let device = match self.devices.get_mut(scratch.device.as_slice()) {
            Some((number, count)) => {
                *count += 1;
                *number
            }
            None => {
                let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
                let place = || (key.source, key.client.to_owned(), key.nas().unwrap_or_default());
                let Some(number) = places.take(&scratch.device, DEVICES, place) else {
                    self.owner.give_back(at, room);
                    return Ok(None);
                };
                self.devices.insert(scratch.device.as_slice().into(), (number, 1));
                number
            }
        };
        let head = Head {
            octets: octets.len(),
            name: key.session.len(),
            device,
            source: key.source,
            fresh: fresh(&skim, self.max_age),
            room,
        };
        join(octets, key.session, &mut scratch.content);
        write(shared, at, head, &scratch.content);
        hashes(&scratch.claims, &mut scratch.hashes);
        for hash in &scratch.hashes {
            if let Some(nets) = self.nets.get_mut(shared.by_net.number(*hash)) {
                nets.push(slot(*hash, at));
            }
        }
        for claim in &scratch.claims {
            shared.hints.tell(claim.net, claim.ports);
            self.tally.add(claim.net, claim.ports);
        }
        self.dues.tell(shared.by_name.number(name), skim.forgettable_from(self.max_age));
        self.tally.sessions += 1;
        self.tally.open += usize::from(skim.is_open());
        Ok(Some(at))
    }
}
