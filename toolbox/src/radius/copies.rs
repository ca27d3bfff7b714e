//! Which packets are copies of one that was answered, or is being answered.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cloakway_types::Instant;

/// How long an answer is kept for a NAS that did not get it (RFC 5080 §2.2.2).
const KEPT: Duration = Duration::from_secs(30);
/// Answers kept at once.
const KEPT_ANSWERS: usize = 65_536;

/// What makes two packets copies of one (RFC 5080 §2.2.2): the port tells apart processes of one NAS, and the authenticator
/// records that were given the same identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) from: SocketAddr,
    pub(super) identifier: u8,
    pub(super) authenticator: [u8; 16],
}

impl Hash for Key {
    /// Of what tells nearly all packets apart: the hasher is keyed, and the rest is compared.
    fn hash<H: Hasher>(&self, to: &mut H) {
        to.write_u128(u128::from_ne_bytes(self.authenticator));
        to.write_u16(self.from.port());
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The answer is on its way.
    OnItsWay,
    /// It was learnt: the answer to it is the same whenever it is made.
    Learnt,
    /// This was answered.
    Sent(Vec<u8>),
}

/// Records that become durable together, and whether they did.
#[derive(Debug, Clone, Default)]
pub(super) struct Group(Arc<AtomicU8>);

const LEARNT: u8 = 1;
const FAILED: u8 = 2;

impl Group {
    /// All of them are durable; or none will be, and the next copy of each is taken as if it were the first.
    pub(super) fn ended(&self, durable: bool) {
        self.0.store(if durable { LEARNT } else { FAILED }, Ordering::Release);
    }
}

#[derive(Debug)]
enum Kept {
    OnItsWay,
    In(Group),
    Sent(Vec<u8>),
}

/// Answers of the last half minute.
#[derive(Debug, Default)]
pub(super) struct Copies {
    kept: HashMap<Key, Kept>,
    order: VecDeque<(Instant, Key)>,
    group: Group,
}

impl Copies {
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Known> {
        while let Some((begun, oldest)) = self.order.front().copied() {
            if now.since(begun) < KEPT && self.order.len() < KEPT_ANSWERS {
                break;
            }
            self.order.pop_front();
            self.kept.remove(&oldest);
        }
        match self.kept.get(key)? {
            Kept::OnItsWay => Some(Known::OnItsWay),
            Kept::Sent(answer) => Some(Known::Sent(answer.clone())),
            Kept::In(Group(state)) => match state.load(Ordering::Acquire) {
                LEARNT => Some(Known::Learnt),
                FAILED => None,
                _ => Some(Known::OnItsWay),
            },
        }
    }

    pub(super) fn begin(&mut self, key: Key, now: Instant) {
        self.kept.insert(key, Kept::OnItsWay);
        self.order.push_back((now, key));
    }

    /// A record that is learnt with others: see [`Copies::group`].
    pub(super) fn begin_in_group(&mut self, key: Key, now: Instant) {
        self.kept.insert(key, Kept::In(self.group.clone()));
        self.order.push_back((now, key));
    }

    /// Those that were begun since the last call.
    pub(super) fn group(&mut self) -> Group {
        std::mem::take(&mut self.group)
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
        assert_eq!(copies.get(&key(1), at(1)), Some(Known::OnItsWay));
        copies.done(key(1), vec![5]);
        assert_eq!(copies.get(&key(1), at(29)), Some(Known::Sent(vec![5])));
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
        assert_eq!(copies.get(&key(1), at(2)), Some(Known::Sent(vec![5])));
    }

    #[test]
    fn what_is_learnt_together_is_known_together() {
        let mut copies = Copies::default();
        let begin = |copies: &mut Copies, ports: [u16; 2]| {
            ports.into_iter().for_each(|port| copies.begin_in_group(key(port), at(0)));
            copies.group()
        };
        let (first, second) = (begin(&mut copies, [1, 2]), begin(&mut copies, [3, 4]));
        let mut known = || [1, 2, 3, 4].map(|port| copies.get(&key(port), at(1)));
        assert_eq!(known(), [const { Some(Known::OnItsWay) }; 4]);
        first.ended(true);
        assert_eq!(known(), [Some(Known::Learnt), Some(Known::Learnt), Some(Known::OnItsWay), Some(Known::OnItsWay)]);
        second.ended(false);
        assert_eq!(known(), [Some(Known::Learnt), Some(Known::Learnt), None, None]);
        copies.begin_in_group(key(3), at(2));
        assert_eq!(copies.get(&key(3), at(2)), Some(Known::OnItsWay));
    }

    #[test]
    fn packets_of_one_authenticator_are_told_apart() {
        let mut copies = Copies::default();
        let other = Key { identifier: 2, ..key(1) };
        let elsewhere = Key { from: ([127, 0, 0, 2], 1).into(), ..key(1) };
        copies.begin(key(1), at(0));
        assert_eq!((copies.get(&other, at(0)), copies.get(&elsewhere, at(0))), (None, None));
    }
}
