//! What the operator decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_crypto::passphrase::Cost;
use ecash_wire::suite::Suite;
use ecash_wire::value::{Currency, Minutes};
use transact_ledger::{Exchange, Tariff};

/// Which suites are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suites {
    classic: bool,
    classic_real_money: bool,
}

/// Why a suite is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuiteRefused {
    /// This program does not contain it.
    NotBuilt,
}

impl Suites {
    /// The modern ones.
    pub const MODERN: Self = Self { classic: false, classic_real_money: false };

    /// The suite of 1995 besides, for the test currency; for all with the second switch.
    ///
    /// # Errors
    /// [`SuiteRefused::NotBuilt`] without the cargo feature `classic-1995`.
    pub const fn with_classic(real_money: bool) -> Result<Self, SuiteRefused> {
        if cfg!(feature = "classic-1995") {
            Ok(Self { classic: true, classic_real_money: real_money })
        } else {
            Err(SuiteRefused::NotBuilt)
        }
    }

    /// Whether messages of `suite` are served.
    #[must_use]
    pub const fn serves(self, suite: Suite) -> bool {
        !suite.is_classic() || self.classic
    }

    /// Whether money of `currency` may move under `suite`.
    #[must_use]
    pub fn allows(self, suite: Suite, currency: Currency) -> bool {
        !suite.is_classic() || self.classic_real_money || currency == Currency::TEST
    }

    /// What the operator is warned of at start.
    #[must_use]
    pub const fn warning(self) -> Option<&'static str> {
        match self {
            Self { classic: false, .. } => None,
            Self { classic_real_money: false, .. } => {
                Some("the suite classic-1995 is served: RSA-768, DES and MD5 protect nothing; money for tests only")
            }
            Self { classic_real_money: true, .. } => {
                Some("the suite classic-1995 is served FOR REAL MONEY: RSA-768, DES and MD5 protect nothing")
            }
        }
    }
}

/// What is known of a version of a client's software.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Software {
    /// Served, with a word about a newer one.
    Warning(String),
    /// Not served.
    Fatal(String),
}

/// How long money that was loaded is kept from being spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadHold {
    /// Not at all.
    None,
    /// For a while.
    For(Duration),
    /// Until the issuer says that it was collected.
    UntilConfirmed,
}

/// Everything that the operator decides.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which suites are served.
    pub suites: Suites,
    /// Versions of software that are not simply served.
    pub software: BTreeMap<String, Software>,
    /// Legal texts that have to be accepted for registering.
    pub agreements: BTreeSet<u32>,
    /// Currencies that are served; all when empty.
    pub currencies: BTreeSet<Currency>,
    /// The longest life and the most uses of a payer's session.
    pub payer_most: (Minutes, u16),
    /// The longest life and the most uses of a payee's session.
    pub payee_most: (Minutes, u16),
    /// How far a request's date may lie back, and ahead.
    pub freshness: (Duration, Duration),
    /// How long replies, and payments after their session's end, are kept.
    pub retention: Duration,
    /// Fees.
    pub tariff: Tariff,
    /// Exchange of currencies; off unless it was switched on.
    pub exchange: Exchange,
    /// What happens to loads.
    pub load_hold: LoadHold,
    /// How much work a guess of a passphrase costs.
    pub passphrase_cost: Cost,
    /// Wrong passphrases of one persona in a day, until autoclose is locked.
    pub passphrase_tries: usize,
    /// Rounds of questions that an issuer may ask.
    pub question_rounds: u8,
    /// 32 bytes: instrument hashes, seals and challenges are made from it.
    pub secret: Secret<Vec<u8>>,
    /// The operator's key, whose private half is off line: numbers of instruments for autoclose are sealed to it.
    pub operator_key: Option<cloakway_crypto::hpke::PublicKey>,
}

impl Policy {
    /// The defaults of the protocol's appendix C, with no fees and no exchange.
    #[must_use]
    pub fn new(secret: Secret<Vec<u8>>) -> Self {
        Self {
            suites: Suites::MODERN,
            software: BTreeMap::new(),
            agreements: BTreeSet::new(),
            currencies: BTreeSet::new(),
            payer_most: (Minutes(1440), 1000),
            payee_most: (Minutes::MOST, u16::MAX),
            freshness: (Duration::from_hours(24), Duration::from_mins(10)),
            retention: Duration::from_hours(30 * 24),
            tariff: Tariff::default(),
            exchange: Exchange::off(),
            load_hold: LoadHold::For(Duration::from_hours(24)),
            passphrase_cost: Cost::LEAST,
            passphrase_tries: 5,
            question_rounds: 3,
            secret,
            operator_key: None,
        }
    }
}
