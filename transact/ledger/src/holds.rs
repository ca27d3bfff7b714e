//! Money that is neither here nor gone: loads not collected yet, unloads not settled.

use std::collections::BTreeMap;

use cloakway_types::Timestamp;
use ecash_wire::value::{Money, PersonaId};
use serde::{Deserialize, Serialize};

use crate::books::{Account, Books, Cause, Entry, Event, LedgerError, Posting};
use crate::limits::BindingId;

/// The number of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldId(pub u64);

/// Which way the money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Into the container.
    Load,
    /// Out of it.
    Unload,
}

/// What became of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldState {
    /// Nothing yet.
    Pending,
    /// A load was collected: the money can be spent.
    Released,
    /// An unload arrived.
    Settled,
    /// It came to nothing.
    Reversed,
}

/// How a hold ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived: a load is released, an unload settled.
    Done,
    /// It did not.
    Reversed,
}

/// Money on hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its number.
    pub id: HoldId,
    /// Whose money.
    pub persona: PersonaId,
    /// Which way.
    pub direction: Direction,
    /// How much.
    pub amount: Money,
    /// From or to which instrument.
    pub binding: BindingId,
    /// Since when.
    pub opened_at: Timestamp,
    /// When a load is released by itself; `None` when the issuer has to confirm.
    pub release_at: Option<Timestamp>,
    /// What became of it.
    pub state: HoldState,
}

/// Why a hold does not end so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// No such hold.
    #[error("hold {} is not known", .0.0)]
    Unknown(HoldId),
    /// It ended before: money moves once.
    #[error("hold {} ended before: it is {state:?}", hold.0)]
    Ended {
        /// Which.
        hold: HoldId,
        /// How.
        state: HoldState,
    },
    /// The books refuse, which they do only when they are wrong.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// All holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    holds: BTreeMap<HoldId, Hold>,
    last: u64,
}

impl Holds {
    /// Takes up a stored hold.
    pub fn restore(&mut self, hold: Hold) {
        self.last = self.last.max(hold.id.0);
        self.holds.insert(hold.id, hold);
    }

    /// Opens one, for money that is on its owner's account for held money already.
    pub fn open(
        &mut self,
        persona: PersonaId,
        direction: Direction,
        amount: Money,
        binding: BindingId,
        (opened_at, release_at): (Timestamp, Option<Timestamp>),
    ) -> Hold {
        self.last += 1;
        let id = HoldId(self.last);
        let state = HoldState::Pending;
        let hold = Hold { id, persona, direction, amount, binding, opened_at, release_at, state };
        self.holds.insert(id, hold.clone());
        hold
    }

    /// Ends one: the entry, and the hold as it is now.
    ///
    /// # Errors
    /// [`HoldError`]; nothing changed then.
    pub fn end(
        &mut self,
        id: HoldId,
        outcome: Outcome,
        books: &mut Books,
        (at, log): (Timestamp, Option<u64>),
    ) -> Result<(Entry, Hold), HoldError> {
        let hold = self.holds.get_mut(&id).ok_or(HoldError::Unknown(id))?;
        if hold.state != HoldState::Pending {
            return Err(HoldError::Ended { hold: id, state: hold.state });
        }
        let available = Account::Available(hold.persona.clone());
        let (to, state) = match (hold.direction, outcome) {
            (Direction::Load, Outcome::Done) => (available, HoldState::Released),
            (Direction::Load, Outcome::Reversed) => (Account::Clearing, HoldState::Reversed),
            (Direction::Unload, Outcome::Done) => (Account::Clearing, HoldState::Settled),
            (Direction::Unload, Outcome::Reversed) => (available, HoldState::Reversed),
        };
        let postings =
            vec![Posting::take(Account::OnHold(hold.persona.clone()), hold.amount), Posting::add(to, hold.amount)];
        let entry = books.post(at, Cause { event: Event::Hold, log }, postings)?;
        hold.state = state;
        Ok((entry, hold.clone()))
    }

    /// The pending loads whose time has come.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<HoldId> {
        let due = self.pending().filter(|hold| hold.release_at.is_some_and(|at| at <= now));
        due.map(|hold| hold.id).collect()
    }

    /// When the next load is released.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.pending().filter_map(|hold| hold.release_at).min()
    }

    /// A hold.
    #[must_use]
    pub fn get(&self, id: HoldId) -> Option<&Hold> {
        self.holds.get(&id)
    }

    /// Those that wait.
    pub fn pending(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values().filter(|hold| hold.state == HoldState::Pending)
    }
}
