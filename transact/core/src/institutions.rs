//! Which institution is asked about a card, and how.

use std::collections::{BTreeMap, BTreeSet};

use transact_bank::{CardRanges, Movement};
use transact_wire::card::CardNumber;

/// The institutions, as far as orders need to know them.
#[derive(Debug, Clone, Default)]
pub struct Institutions {
    /// Whose a card is.
    pub ranges: CardRanges,
    /// How each is asked for a purchase.
    pub movements: BTreeMap<String, Movement>,
    /// Those to which PINs can be sent.
    pub pins: BTreeSet<String>,
}

impl Institutions {
    /// One institution for all cards, which is asked to authorise.
    #[must_use]
    pub fn one(id: &str) -> Self {
        let mut ranges = CardRanges::default();
        // Nothing else has the range.
        let _ = ranges.add(transact_bank::CardRange::ALL, id);
        Self { ranges, movements: BTreeMap::from([(id.to_owned(), Movement::Authorisation)]), pins: BTreeSet::new() }
    }

    /// Whose the card is, and how a purchase is asked for there.
    #[must_use]
    pub fn find(&self, card: &CardNumber) -> Option<(&str, Movement)> {
        let id = self.ranges.find(card)?;
        Some((id, self.movements.get(id).copied().unwrap_or_default()))
    }
}
