//! The devices and clients of sessions, each once.

use std::collections::HashMap;

use toolbox_wire::http::Source;
use toolbox_wire::record::Nas;

use super::shared::Mixing;

/// Of which source and client, at which device.
pub(super) type Place = (Source, String, Nas);

/// The device and client of sessions, each once.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By the octets of [`crate::skim::device`].
    numbers: HashMap<Box<[u8]>, u32, Mixing>,
    all: Vec<Option<Known>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Known {
    octets: Box<[u8]>,
    place: Place,
    sessions: usize,
}

impl Places {
    pub(super) fn number(&self, octets: &[u8]) -> Option<u32> {
        self.numbers.get(octets).copied()
    }

    pub(super) fn get(&self, number: u32) -> Option<&Place> {
        self.all.get(number as usize)?.as_ref().map(|known| &known.place)
    }

    /// Those that sessions are at.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Place)> {
        let all = (0..).zip(&self.all);
        all.filter_map(|(number, known)| Some((number, &known.as_ref()?.place)))
    }

    /// The number of a place for one more session; none when `limit` is reached.
    pub(super) fn take(&mut self, octets: &[u8], limit: u32, place: impl FnOnce() -> Place) -> Option<u32> {
        if let Some(number) = self.number(octets) {
            self.again(number);
            return Some(number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.all.len() >= limit as usize => return None,
            None => {
                self.all.push(None);
                (self.all.len() - 1) as u32
            }
        };
        if let Some(to) = self.all.get_mut(number as usize) {
            *to = Some(Known { octets: octets.into(), place: place(), sessions: 1 });
        }
        self.numbers.insert(octets.into(), number);
        Some(number)
    }

    fn again(&mut self, number: u32) {
        self.add(number, 1);
    }

    /// That `count` more sessions are there.
    pub(super) fn add(&mut self, number: u32, count: usize) {
        if let Some(Some(known)) = self.all.get_mut(number as usize) {
            known.sessions += count;
        }
    }

    pub(super) fn give_back(&mut self, number: u32) {
        let Some(place) = self.all.get_mut(number as usize) else { return };
        let Some(known) = place else { return };
        known.sessions -= 1;
        if known.sessions == 0 {
            self.numbers.remove(&known.octets);
            *place = None;
            self.free.push(number);
        }
    }

    pub(super) fn octets(&self) -> usize {
        let of = |known: &Known| {
            let text = known.place.1.len() + known.place.2.identifier.as_ref().map_or(0, String::len);
            2 * (known.octets.len() + 24) + text
        };
        self.all.capacity() * size_of::<Option<Known>>() + self.all.iter().flatten().map(of).sum::<usize>()
    }
}
