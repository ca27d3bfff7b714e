//! Records to append, in one piece of memory: as the journal writes them.

use super::frame;

/// Records, in order.
#[derive(Debug, Clone, Default)]
pub struct Records {
    octets: Vec<u8>,
    count: u64,
}

impl Records {
    /// Adds the record that `write` puts behind what is there.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        frame::put_record_with(&mut self.octets, write);
        self.count += 1;
    }

    /// Adds a record.
    pub fn push(&mut self, record: &[u8]) {
        self.push_with(|octets| octets.extend_from_slice(record));
    }

    /// How many there are.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.octets
    }
}

impl From<Vec<Vec<u8>>> for Records {
    fn from(all: Vec<Vec<u8>>) -> Self {
        let mut records = Self::default();
        all.iter().for_each(|record| records.push(record));
        records
    }
}
