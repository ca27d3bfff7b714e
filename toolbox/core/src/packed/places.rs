//! The devices and clients of sessions, each once.

use std::collections::HashMap;

use toolbox_wire::http::Source;
use toolbox_wire::record::Nas;

use crate::session::SessionKey;

/// The device and client of sessions, each once.
#[derive(Debug, Default)]
pub(super) struct Places {
    numbers: HashMap<(Source, String, Nas), u32>,
    pub(super) all: Vec<((Source, String, Nas), usize)>,
    free: Vec<u32>,
}

impl Places {
    pub(super) fn take(&mut self, key: &SessionKey) -> u32 {
        let place = (key.source, key.client.clone(), key.nas.clone());
        if let Some(number) = self.numbers.get(&place) {
            if let Some((_, count)) = self.all.get_mut(*number as usize) {
                *count += 1;
            }
            return *number;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.all.push(((key.source, String::new(), Nas::default()), 0));
                (self.all.len() - 1) as u32
            }
        };
        if let Some(of) = self.all.get_mut(number as usize) {
            *of = (place.clone(), 1);
        }
        self.numbers.insert(place, number);
        number
    }

    pub(super) fn give_back(&mut self, number: u32) {
        if let Some((place, count)) = self.all.get_mut(number as usize) {
            *count -= 1;
            if *count == 0 {
                self.numbers.remove(place);
                self.free.push(number);
            }
        }
    }
}
