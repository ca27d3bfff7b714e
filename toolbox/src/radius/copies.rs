//! Which packets are copies of one that was answered, or is being answered.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use cloakway_types::Instant;

/// How long an answer is kept for a NAS that did not get it (RFC 5080 §2.2.2).
const KEPT: Duration = Duration::from_secs(30);
/// Answers kept at once.
const KEPT_ANSWERS: usize = 65_536;

/// What makes two packets copies of one (RFC 5080 §2.2.2): the port tells apart processes of one NAS, and the authenticator
/// records that were given the same identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) from: SocketAddr,
    pub(super) identifier: u8,
    pub(super) authenticator: [u8; 16],
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    OnItsWay,
    Sent(Vec<u8>),
}

/// Answers of the last half minute.
#[derive(Debug, Default)]
pub(super) struct Copies {
    kept: HashMap<Key, Kept>,
    order: VecDeque<(Instant, Key)>,
}

impl Copies {
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Kept> {
        while let Some((begun, oldest)) = self.order.front().copied() {
            if now.since(begun) < KEPT && self.order.len() < KEPT_ANSWERS {
                break;
            }
            self.order.pop_front();
            self.kept.remove(&oldest);
        }
        self.kept.get(key).cloned()
    }

    pub(super) fn begin(&mut self, key: Key, now: Instant) {
        self.kept.insert(key, Kept::OnItsWay);
        self.order.push_back((now, key));
    }

    pub(super) fn done(&mut self, key: Key, answer: Vec<u8>) {
        if let Some(kept) = self.kept.get_mut(&key) {
            *kept = Kept::Sent(answer);
        }
    }

    /// There is no answer: the next copy is taken as if it were the first.
    pub(super) fn failed(&mut self, key: &Key) {
        self.kept.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::after_origin(Duration::from_secs(s))
    }

    fn key(port: u16) -> Key {
        Key { from: ([127, 0, 0, 1], port).into(), identifier: 1, authenticator: [0; 16] }
    }

    #[test]
    fn an_answer_is_kept_half_a_minute_and_only_so_many() {
        let mut copies = Copies::default();
        copies.begin(key(1), at(0));
        assert_eq!(copies.get(&key(1), at(1)), Some(Kept::OnItsWay));
        copies.done(key(1), vec![5]);
        assert_eq!(copies.get(&key(1), at(29)), Some(Kept::Sent(vec![5])));
        assert_eq!(copies.get(&key(1), at(30)), None);
        for n in 0..=u16::MAX {
            copies.begin(key(n), at(31));
        }
        assert!(copies.get(&key(9), at(31)).is_some());
        assert!(copies.get(&key(0), at(31)).is_none(), "the oldest made room");
    }

    #[test]
    fn what_got_no_answer_is_taken_anew() {
        let mut copies = Copies::default();
        copies.begin(key(1), at(0));
        copies.failed(&key(1));
        assert_eq!(copies.get(&key(1), at(1)), None);
        copies.begin(key(1), at(1));
        copies.done(key(1), vec![5]);
        assert_eq!(copies.get(&key(1), at(2)), Some(Kept::Sent(vec![5])));
    }
}
