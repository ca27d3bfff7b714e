//! Accounts, entries, and the proof that they agree.

use std::collections::BTreeMap;
use std::fmt;

use cloakway_types::Timestamp;
use ecash_wire::value::{Currency, Money, PersonaId, SessionId};
use serde::{Deserialize, Serialize};

/// Where money is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Account {
    /// Outside: what issuers owe, or are owed.
    Clearing,
    /// What the operator earned.
    Fees,
    /// What changed its currency.
    Exchange,
    /// A client's container: to be spent, unloaded, or put into a session.
    Available(PersonaId),
    /// A client's container: loads not collected yet, and unloads not settled.
    OnHold(PersonaId),
    /// A session.
    Session(SessionId),
}

impl Account {
    /// Whether it belongs to a client, and can never be below zero.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        matches!(self, Self::Available(_) | Self::OnHold(_) | Self::Session(_))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clearing => f.write_str("clearing"),
            Self::Fees => f.write_str("fees"),
            Self::Exchange => f.write_str("exchange"),
            Self::Available(persona) => write!(f, "available of {persona}"),
            Self::OnHold(persona) => write!(f, "on hold of {persona}"),
            Self::Session(session) => write!(f, "session {}", session.0),
        }
    }
}

/// A change of one account; positive adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// Which account.
    pub account: Account,
    /// Which of its currencies.
    pub currency: Currency,
    /// Minor units.
    pub minor: i64,
}

impl Posting {
    /// Adds `money` to `account`.
    #[must_use]
    pub fn add(account: Account, money: Money) -> Self {
        Self { account, currency: money.currency(), minor: money.minor() }
    }

    /// Takes `money` from `account`.
    #[must_use]
    pub fn take(account: Account, money: Money) -> Self {
        Self { account, currency: money.currency(), minor: -money.minor() }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Money came in.
    Load,
    /// Money is on its way out.
    Unload,
    /// A hold came to its end.
    Hold,
    /// A fee.
    Fee,
    /// A session was opened.
    Open,
    /// A payment was collected.
    Payment,
    /// A session ended, and what was left of it went back.
    Sweep,
}

/// Why an entry was made: exactly one log record, or one scheduled event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What happened.
    pub event: Event,
    /// The number of the log record; `None` for what a timer did.
    pub log: Option<u64>,
}

/// A movement of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counted from 1, without gaps.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// They sum to zero in each currency.
    pub postings: Vec<Posting>,
}

/// Why money was not moved. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// An entry that would make or lose money.
    #[error("the postings in {currency} sum to {sum} and not to zero")]
    Unbalanced {
        /// The currency.
        currency: Currency,
        /// What is left.
        sum: i128,
    },
    /// A client's account would fall below zero.
    #[error("{account} has {free} minor units of {currency}, {asked} are asked")]
    Insufficient {
        /// The account.
        account: Account,
        /// The currency.
        currency: Currency,
        /// What is there.
        free: i64,
        /// What is wanted.
        asked: i128,
    },
    /// Beyond what an account can count.
    #[error("{account} cannot count so many minor units of {currency}")]
    Overflow {
        /// The account.
        account: Account,
        /// The currency.
        currency: Currency,
    },
    /// Nothing to move.
    #[error("an entry moves something")]
    Empty,
}

/// Why stored entries do not prove the balances.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry is missing, or stands twice.
    #[error("entry {expected} was expected and entry {found} stands there")]
    Gap {
        /// The next number.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// An entry that could not have been made.
    #[error("entry {number}: {source}")]
    Entry {
        /// Its number.
        number: u64,
        /// Why not.
        source: LedgerError,
    },
    /// A balance that no entries lead to.
    #[error("{account} holds {held} minor units of {currency}, its entries sum to {proved}")]
    Balance {
        /// The account.
        account: Account,
        /// The currency.
        currency: Currency,
        /// What the books say.
        held: i64,
        /// What the entries say.
        proved: i64,
    },
}

/// What an audit proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audited {
    /// How many entries there are.
    pub entries: u64,
    /// In each currency, what belongs to clients; the agency accounts have to cover it, but for loads in clearing.
    pub client_money: BTreeMap<Currency, i128>,
    /// In each currency, what came in and has not gone out.
    pub clearing: BTreeMap<Currency, i128>,
    /// In each currency, what fees earned.
    pub fees: BTreeMap<Currency, i128>,
}

/// What a client sees of its money in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// To be spent.
    pub available: Money,
    /// Neither here nor gone.
    pub on_hold: Money,
}

/// All balances. Nothing but [`Books::post`] changes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    balances: BTreeMap<(Account, Currency), i64>,
    /// Sessions apart from the rest: they are what payments look for.
    sessions: BTreeMap<(SessionId, Currency), i64>,
    entries: u64,
}

impl Books {
    /// What is on an account.
    #[must_use]
    pub fn balance(&self, account: &Account, currency: Currency) -> i64 {
        match account {
            Account::Session(session) => self.sessions.get(&(*session, currency)),
            other => self.balances.get(&(other.clone(), currency)),
        }
        .copied()
        .unwrap_or(0)
    }

    /// What is in a session.
    #[must_use]
    pub fn session(&self, session: SessionId, currency: Currency) -> Money {
        let minor = self.sessions.get(&(session, currency)).copied().unwrap_or(0);
        Money::new(currency, minor).unwrap_or(Money::zero(currency))
    }

    /// A client's container in `currency`.
    #[must_use]
    pub fn container(&self, persona: &PersonaId, currency: Currency) -> Container {
        let money = |account| {
            let minor = self.balance(&account, currency);
            Money::new(currency, minor).unwrap_or(Money::zero(currency))
        };
        Container {
            available: money(Account::Available(persona.clone())),
            on_hold: money(Account::OnHold(persona.clone())),
        }
    }

    /// How many entries were posted.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Moves money: all postings, or none.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing changed then.
    pub fn post(&mut self, at: Timestamp, cause: Cause, postings: Vec<Posting>) -> Result<Entry, LedgerError> {
        let postings: Vec<Posting> = postings.into_iter().filter(|posting| posting.minor != 0).collect();
        self.apply(&postings)?;
        self.entries += 1;
        Ok(Entry { number: self.entries, at, cause, postings })
    }

    /// Takes up a stored entry.
    ///
    /// # Errors
    /// [`AuditError`] for an entry that is not the next, or could not have been made.
    pub fn replay(&mut self, entry: &Entry) -> Result<(), AuditError> {
        let expected = self.entries + 1;
        if entry.number != expected {
            return Err(AuditError::Gap { expected, found: entry.number });
        }
        self.apply(&entry.postings).map_err(|source| AuditError::Entry { number: entry.number, source })?;
        self.entries = expected;
        Ok(())
    }

    /// Proves every balance from the stored entries.
    ///
    /// # Errors
    /// [`AuditError`] names the first that does not hold.
    pub fn audit<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<Audited, AuditError> {
        let mut proved = Self::default();
        for entry in entries {
            proved.replay(entry)?;
        }
        self.hold_against(&proved)
    }

    /// Whether these balances are those that the stored entries led to, which were replayed one by one.
    ///
    /// # Errors
    /// [`AuditError`] names the first that does not hold.
    pub fn hold_against(&self, proved: &Self) -> Result<Audited, AuditError> {
        if proved.entries != self.entries {
            return Err(AuditError::Gap { expected: self.entries, found: proved.entries });
        }
        let mut audited = Audited { entries: proved.entries, ..Audited::default() };
        let keys: std::collections::BTreeSet<_> = self.accounts().chain(proved.accounts()).collect();
        for (account, currency) in keys {
            let (held, proved) = (self.balance(&account, currency), proved.balance(&account, currency));
            if held != proved {
                return Err(AuditError::Balance { account, currency, held, proved });
            }
            let sum = match &account {
                Account::Clearing => &mut audited.clearing,
                Account::Fees => &mut audited.fees,
                Account::Exchange => continue,
                _ => &mut audited.client_money,
            };
            *sum.entry(currency).or_default() += i128::from(held);
        }
        Ok(audited)
    }

    /// In each currency, the sum over all accounts: zero, always.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<Currency, i128> {
        let mut sums = BTreeMap::new();
        for (account, currency) in self.accounts() {
            *sums.entry(currency).or_insert(0) += i128::from(self.balance(&account, currency));
        }
        sums
    }

    /// Every account with every currency that it ever had.
    pub fn accounts(&self) -> impl Iterator<Item = (Account, Currency)> {
        let sessions = self.sessions.keys().map(|(session, currency)| (Account::Session(*session), *currency));
        self.balances.keys().cloned().chain(sessions)
    }

    fn apply(&mut self, postings: &[Posting]) -> Result<(), LedgerError> {
        let mut sums: Vec<(Currency, i128)> = Vec::with_capacity(2);
        // What each account gains: one that is posted to twice must not fall below zero in between, nor hide that it does.
        let mut gains: Vec<(&Account, Currency, i128)> = Vec::with_capacity(postings.len());
        for posting in postings {
            let minor = i128::from(posting.minor);
            match sums.iter_mut().find(|(currency, _)| *currency == posting.currency) {
                Some((_, sum)) => *sum += minor,
                None => sums.push((posting.currency, minor)),
            }
            let same = |(account, currency, _): &&mut (&Account, Currency, i128)| {
                *account == &posting.account && *currency == posting.currency
            };
            match gains.iter_mut().find(same) {
                Some((_, _, gain)) => *gain += minor,
                None => gains.push((&posting.account, posting.currency, minor)),
            }
        }
        if gains.is_empty() {
            return Err(LedgerError::Empty);
        }
        if let Some((currency, sum)) = sums.into_iter().find(|(_, sum)| *sum != 0) {
            return Err(LedgerError::Unbalanced { currency, sum });
        }
        let mut after = Vec::with_capacity(gains.len());
        for (account, currency, gain) in gains {
            let free = self.balance(account, currency);
            let minor = i64::try_from(i128::from(free) + gain)
                .map_err(|_| LedgerError::Overflow { account: account.clone(), currency })?;
            if minor < 0 && account.is_client() {
                let account = account.clone();
                return Err(LedgerError::Insufficient { account, currency, free, asked: -gain });
            }
            after.push((account, currency, minor));
        }
        for (account, currency, minor) in after {
            match account {
                // Sessions come and go; one that is empty needs no place.
                Account::Session(session) if minor == 0 => self.sessions.remove(&(*session, currency)),
                Account::Session(session) => self.sessions.insert((*session, currency), minor),
                other => self.balances.insert((other.clone(), currency), minor),
            };
        }
        Ok(())
    }
}
