//! What stands before the octets of a session: how long they are, whose device it is, and until when the session answers.

use cloakway_types::Timestamp;
use toolbox_wire::http::Source;
use toolbox_wire::record::FOREVER;

use crate::codec::Numbered;

/// Words before the octets.
pub(super) const HEAD: usize = 2;
/// Answers of a session that is over: it claims nothing.
pub(super) const OVER: Timestamp = Timestamp::from_millis(0);
/// Of one that the table has to be asked about.
pub(super) const ASK: Timestamp = Timestamp::from_millis(1);

/// Devices that can be told apart.
pub(super) const DEVICES: u32 = 1 << 28;
/// Bits of a time.
const TIME: u32 = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Octets of the session, and of its name behind them.
    pub(super) octets: usize,
    pub(super) name: usize,
    pub(super) device: u32,
    pub(super) source: Source,
    /// Until when it may be answered for without further thought.
    pub(super) fresh: Timestamp,
    /// Words that it has, used or not.
    pub(super) room: usize,
}

pub(super) fn words_of(octets: usize) -> usize {
    HEAD + octets.div_ceil(8)
}

impl Head {
    /// The longest session with its name.
    pub(super) const LONGEST: usize = u16::MAX as usize;

    #[inline]
    pub(super) fn read(first: u64, second: u64) -> Self {
        let fresh = second & ((1 << TIME) - 1);
        Self {
            octets: first as u16 as usize,
            name: (first >> 16) as u16 as usize,
            device: (first >> 32) as u32 % DEVICES,
            source: Source::ALL.get((first >> 60) as usize).copied().unwrap_or(Source::Radius),
            fresh: if fresh == (1 << TIME) - 1 { FOREVER } else { Timestamp::from_millis(fresh) },
            room: (second >> TIME) as usize,
        }
    }

    pub(super) fn write(self) -> [u64; HEAD] {
        let source = Source::ALL.iter().position(|of| *of == self.source).unwrap_or(0) as u64;
        let first =
            self.octets as u64 | (self.name as u64) << 16 | u64::from(self.device % DEVICES) << 32 | source << 60;
        [first, self.fresh.as_millis().min((1 << TIME) - 1) | (self.room as u64) << TIME]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_head_reads_back(octets: u16, name: u16, device in 0..DEVICES, source in 0_usize..7, fresh in 0_u64..1 << 47, room: u16) {
            for fresh in [Timestamp::from_millis(fresh), FOREVER] {
                let head = Head {
                    octets: octets.into(), name: name.into(), device, source: Source::ALL[source], fresh, room: room.into(),
                };
                let [first, second] = head.write();
                prop_assert_eq!(Head::read(first, second), head);
            }
        }
    }
}
