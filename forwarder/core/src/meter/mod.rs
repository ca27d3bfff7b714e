//! Metering: how much of the private links each source and each private prefix may use.
//!
//! A source is a subscriber: an address of IPv4, a prefix of IPv6. What passes the policy is charged to its source and
//! then to its private prefix; both must have it. [`Meter`] is the model of every data plane, and the core of the one that
//! has no kernel to count for it. [`ruleset`] is the same as nftables has it.

mod account;
mod limit;
pub mod ruleset;

use std::collections::HashMap;
use std::net::IpAddr;

use cloakway_types::Instant;
use ipnet::IpNet;

pub use account::{Account, Left, MOST_AT_ONCE, Refusal, full, longest};
pub use limit::{LEAST_BYTE_BURST, Limit, LimitError, Limits, MOST_PREFIXES, MOST_SOURCES, Metering, Quota, Rate};

/// The bit of a packet's mark that says that it was charged.
pub const MARK: u32 = 0x1000_0000;

/// What the model takes at most for one source or private prefix, in octets: a table doubles when it is full to seven eighths, and
/// has both for a moment.
pub const ACCOUNT_OCTETS: u64 = (size_of::<(IpNet, Account)>() as u64 + 1) * 4;

/// Why the meter drops. Each has a counter of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Over {
    /// Faster than its source may.
    SourceRate,
    /// Its source has used up its quota.
    SourceQuota,
    /// A new source, and no room to count for it.
    SourcesFull,
    /// Faster than its private prefix may.
    PrefixRate,
    /// Its private prefix has used up its quota.
    PrefixQuota,
}

impl Over {
    /// Every reason, in the order of the questions.
    pub const ALL: [Self; 5] =
        [Self::SourceRate, Self::SourceQuota, Self::SourcesFull, Self::PrefixRate, Self::PrefixQuota];

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceRate => "source-rate",
            Self::SourceQuota => "source-quota",
            Self::SourcesFull => "sources-full",
            Self::PrefixRate => "prefix-rate",
            Self::PrefixQuota => "prefix-quota",
        }
    }

    /// What it means, in a line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::SourceRate => "faster than its source may be",
            Self::SourceQuota => "the quota of its source is used up",
            Self::SourcesFull => "a new source, and no room to count for it",
            Self::PrefixRate => "faster than its private prefix may be",
            Self::PrefixQuota => "the quota of its private prefix is used up",
        }
    }
}

/// What a data plane tells of one source or private prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The source or private prefix.
    pub who: IpNet,
    /// Whether it is a private prefix.
    pub is_private: bool,
    /// Packets that passed in this period, or since it was first seen; `None` where they are not counted.
    pub packets: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// Packets that its limits refused; `None` where they are not counted for each.
    pub refused: Option<u64>,
    /// What is left.
    pub left: Left,
}

/// The use of every source and private prefix.
#[derive(Debug, Clone)]
pub struct Meter {
    limits: Limits,
    sources: HashMap<IpNet, Account>,
    prefixes: HashMap<IpNet, Account>,
}

impl Meter {
    /// Nothing used.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, sources: HashMap::new(), prefixes: HashMap::new() }
    }

    /// Charges what is between the subscriber's address `source` and the private prefix `private`: `packets` with
    /// `bytes` of IP in all, as they are on the wire.
    ///
    /// # Errors
    /// [`Over`] says why it is dropped. What the private prefix refuses its source has paid all the same.
    pub fn charge(
        &mut self,
        source: IpAddr,
        private: IpNet,
        packets: u64,
        bytes: u64,
        now: Instant,
    ) -> Result<(), Over> {
        let limit = self.limits.per_source;
        if !limit.is_none() {
            let key = self.limits.source_of(source);
            let is_full = self.sources.len() >= usize::try_from(self.limits.sources).unwrap_or(usize::MAX);
            if is_full && !self.sources.contains_key(&key) {
                return Err(Over::SourcesFull);
            }
            let account = self.sources.entry(key).or_insert_with(|| Account::new(&limit, now));
            account.charge(&limit, packets, bytes, now).map_err(|refusal| match refusal {
                Refusal::Rate => Over::SourceRate,
                Refusal::Quota => Over::SourceQuota,
            })?;
        }
        let limit = self.limits.of_prefix(private);
        if limit.is_none() {
            return Ok(());
        }
        let account = self.prefixes.entry(private).or_insert_with(|| Account::new(&limit, now));
        account.charge(&limit, packets, bytes, now).map_err(|refusal| match refusal {
            Refusal::Rate => Over::PrefixRate,
            Refusal::Quota => Over::PrefixQuota,
        })
    }

    /// Forgets the sources that are as good as new: room for others.
    pub fn sweep(&mut self, now: Instant) {
        let limit = self.limits.per_source;
        self.sources.retain(|_, account| !account.is_idle(&limit, now));
    }

    /// Other limits from now on; what was used stays used.
    pub fn change(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Every source and its use.
    pub fn sources(&self) -> impl Iterator<Item = (IpNet, &Account)> {
        self.sources.iter().map(|(source, account)| (*source, account))
    }

    /// Every private prefix that was used, and how much.
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, &Account)> {
        self.prefixes.iter().map(|(prefix, account)| (*prefix, account))
    }
}

#[cfg(test)]
pub(crate) mod tests;
