//! Virtual time and a network whose faults the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Rng;

/// A node of the simulated network: an index that the simulation chose.
pub type NodeId = usize;

/// What the network may do to a message.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Of a hundred messages, how many are lost.
    pub loss_percent: u64,
    /// Of a hundred messages, how many arrive twice.
    pub duplicate_percent: u64,
    /// The shortest time on the way.
    pub delay_min: Duration,
    /// The longest time on the way; messages overtake each other when it is longer than the shortest.
    pub delay_max: Duration,
}

impl Faults {
    /// Nothing is lost, nothing is doubled, 1 ms on the way.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            loss_percent: 0,
            duplicate_percent: 0,
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(1),
        }
    }
}

/// The events to come, in the order of virtual time; those of one time in the order of posting.
///
/// `M` is what a node can be told: a message from another node, or a timer of its own.
#[derive(Debug)]
pub struct Net<M> {
    now: Duration,
    sequence: u64,
    queue: BTreeMap<(Duration, u64), (NodeId, M)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    ordered: BTreeMap<(NodeId, NodeId), Duration>,
    /// What happens to messages posted from now on.
    pub faults: Faults,
    /// The source of every decision.
    pub rng: Rng,
}

impl<M: Clone> Net<M> {
    /// An empty network at time zero.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now: Duration::ZERO,
            sequence: 0,
            queue: BTreeMap::new(),
            cut: BTreeSet::new(),
            ordered: BTreeMap::new(),
            faults,
            rng: Rng::new(seed),
        }
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Sends a datagram: it may be lost, doubled, delayed, overtaken.
    pub fn send(&mut self, from: NodeId, to: NodeId, message: M) {
        if self.cut.contains(&(from, to)) || self.rng.chance(self.faults.loss_percent) {
            return;
        }
        if self.rng.chance(self.faults.duplicate_percent) {
            let at = self.now + self.delay();
            self.post(at, to, message.clone());
        }
        let at = self.now + self.delay();
        self.post(at, to, message);
    }

    /// Sends on an ordered, reliable stream, as TCP would: delayed, never lost or overtaken while it is up.
    /// False when the two are cut off: the simulation then tells both ends that the stream broke.
    pub fn send_ordered(&mut self, from: NodeId, to: NodeId, message: M) -> bool {
        if self.cut.contains(&(from, to)) {
            return false;
        }
        let at = (self.now + self.delay()).max(self.ordered.get(&(from, to)).copied().unwrap_or_default());
        self.ordered.insert((from, to), at);
        self.post(at, to, message);
        true
    }

    /// Posts an event for `node` after `delay`: a timer, a crash, a restart. Faults do not touch it.
    pub fn after(&mut self, delay: Duration, node: NodeId, message: M) {
        let at = self.now + delay;
        self.post(at, node, message);
    }

    /// Cuts both directions between two nodes, or mends them.
    pub fn set_cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        for pair in [(a, b), (b, a)] {
            if cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// Forgets what is on its way and fits `gone`: a crash empties sockets and timers.
    pub fn discard(&mut self, gone: impl Fn(NodeId, &M) -> bool) {
        self.queue.retain(|_, (node, message)| !gone(*node, message));
    }

    /// The next event, with time moved to it. Not in the order of an iterator's items: posting changes what is next.
    pub fn step(&mut self) -> Option<(NodeId, M)> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// The next event if it is due by `end`; otherwise time moves to `end`.
    pub fn step_until(&mut self, end: Duration) -> Option<(NodeId, M)> {
        match self.queue.first_key_value() {
            Some(((at, _), _)) if *at <= end => self.step(),
            _ => {
                self.now = self.now.max(end);
                None
            }
        }
    }

    fn delay(&mut self) -> Duration {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.between(micros(self.faults.delay_min), micros(self.faults.delay_max)))
    }

    fn post(&mut self, at: Duration, node: NodeId, message: M) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (node, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> Vec<(Duration, u32)> {
        let faults = Faults {
            loss_percent: 20,
            duplicate_percent: 20,
            delay_min: Duration::ZERO,
            delay_max: Duration::from_millis(50),
        };
        let mut net = Net::new(seed, faults);
        for n in 0..100 {
            net.send(0, 1, n);
        }
        let mut seen = Vec::new();
        while let Some((_, n)) = net.step() {
            seen.push((net.now(), n));
        }
        seen
    }

    #[test]
    fn one_seed_decides_everything() {
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
        assert!(run(3).windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn a_stream_keeps_its_order_and_a_cut_stops_it() {
        let faults = Faults { delay_max: Duration::from_millis(50), ..Faults::none() };
        let mut net = Net::new(1, faults);
        for n in 0..100 {
            assert!(net.send_ordered(0, 1, n));
        }
        let order: Vec<u32> = std::iter::from_fn(|| net.step().map(|(_, n)| n)).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        net.set_cut(0, 1, true);
        assert!(!net.send_ordered(1, 0, 7));
        net.set_cut(0, 1, false);
        assert!(net.send_ordered(1, 0, 7));
    }
}
