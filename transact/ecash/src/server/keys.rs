//! The server's key pairs: which serves when, and when a private half is erased.

use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use ecash_wire::suite::{KeyRefused, ServerKey, ServerPrivateKey, Suite};

/// No key serves longer.
const LONGEST: Duration = Duration::from_hours(90 * 24);

#[derive(Debug)]
struct Pair {
    key: ServerPrivateKey,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// The key pairs, and one of each suite that stands for those that are not there.
#[derive(Debug)]
pub struct ServerKeys {
    pairs: Vec<Pair>,
    decoys: Vec<ServerPrivateKey>,
}

impl ServerKeys {
    /// No keys yet.
    ///
    /// # Errors
    /// [`KeyRefused`], which randomness does not lead to.
    pub fn new(random: &mut dyn Randomness) -> Result<Self, KeyRefused> {
        let decoys = Suite::ALL.iter().map(|suite| ServerPrivateKey::generate("none", *suite, random));
        Ok(Self { pairs: Vec::new(), decoys: decoys.collect::<Result<_, _>>()? })
    }

    /// Takes a key that serves from `not_before` to `not_after`, both included, and no longer than 90 days.
    pub fn add(&mut self, key: ServerPrivateKey, not_before: Timestamp, not_after: Timestamp) {
        let not_after = not_after.min(not_before + LONGEST);
        self.pairs.push(Pair { key, not_before, not_after });
    }

    /// The public halves that serve now, the one that serves longest first.
    #[must_use]
    pub fn public(&self, now: Timestamp) -> Vec<ServerKey> {
        let mut serving: Vec<&Pair> = self.pairs.iter().filter(|pair| pair.serves(now)).collect();
        serving.sort_by_key(|pair| std::cmp::Reverse(pair.not_after));
        serving.into_iter().map(|pair| pair.key.public()).collect()
    }

    /// Until when the key of this id serves.
    #[must_use]
    pub fn ends(&self, id: &str) -> Option<Timestamp> {
        self.pairs.iter().find(|pair| pair.key.id() == id).map(|pair| pair.not_after)
    }

    /// When the last key of `suite` ends: another has to be there before. `None` when there is none.
    #[must_use]
    pub fn serves_until(&self, suite: Suite) -> Option<Timestamp> {
        self.pairs.iter().filter(|pair| pair.key.suite() == suite).map(|pair| pair.not_after).max()
    }

    /// Erases private halves that ended more than `grace` ago: what was recorded under them stays closed. Their ids.
    pub fn erase(&mut self, grace: Duration, now: Timestamp) -> Vec<String> {
        let (gone, kept) =
            std::mem::take(&mut self.pairs).into_iter().partition(|pair| now.since(pair.not_after) > grace);
        self.pairs = kept;
        gone.iter().map(|pair: &Pair| pair.key.public().id).collect()
    }

    /// The key of this id, or a decoy of its suite: going on takes as long.
    pub(super) fn find(&self, id: &str, suite: Suite, now: Timestamp) -> Option<(&ServerPrivateKey, bool)> {
        let known = self.pairs.iter().find(|pair| pair.key.id() == id && pair.key.suite() == suite && pair.serves(now));
        let decoy = || self.decoys.iter().find(|key| key.suite() == suite).map(|key| (key, false));
        known.map(|pair| (&pair.key, true)).or_else(decoy)
    }
}

impl Pair {
    fn serves(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}
