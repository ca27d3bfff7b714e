//! Limits as numbers: rates, bursts and quotas, each within what every data plane can count.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::policy::Policy;

/// A burst of bytes is at least this: a super-packet of the kernel is one packet here, and as large as that.
pub const LEAST_BYTE_BURST: u64 = 1 << 16;

/// Rates and bursts of bytes: 72 Gbit/s.
const MOST_BYTES: u64 = 9_000_000_000;
const MOST_PACKETS: u64 = 1_000_000_000;
/// Quotas of either kind.
const MOST_QUOTA: u64 = 1_000_000_000_000_000_000;
const LONGEST_PERIOD_S: u64 = 366 * 86_400;
/// How long an empty bucket may take to fill.
const LONGEST_FILL_S: u64 = 86_400;
/// Private prefixes with limits of their own or in common.
pub const MOST_PREFIXES: usize = 16_384;
/// Sources that are metered at a time.
pub const MOST_SOURCES: u32 = 1 << 22;

/// Why a number is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too small or too large.
    #[error("{value} is not allowed: {low} to {high}")]
    Range {
        /// As written.
        value: u64,
        /// The least.
        low: u64,
        /// The most.
        high: u64,
    },
    /// A burst without its rate.
    #[error("a burst needs its rate: give {rate} too")]
    BurstAlone {
        /// The field of the rate.
        rate: &'static str,
    },
    /// A burst that takes too long to come back.
    #[error("{burst} takes {seconds} s to come back at this rate: at most a day, {most}")]
    SlowBurst {
        /// As written.
        burst: u64,
        /// How long.
        seconds: u64,
        /// The most at this rate.
        most: u64,
    },
    /// A period and nothing to count in it.
    #[error("a period needs a quota: give quota-packets or quota-bytes too")]
    PeriodAlone,
    /// A quota for all time.
    #[error("a quota needs its period: give quota-period-s too, such as 86400 for a day")]
    NoPeriod,
    /// No private prefix.
    #[error("{0} is no private prefix of this configuration")]
    UnknownPrefix(IpNet),
    /// The same prefix again.
    #[error("{0} is listed twice")]
    Twice(IpNet),
    /// More private prefixes than can be metered.
    #[error("{0} private prefixes are more than are metered: {MOST_PREFIXES}")]
    Prefixes(usize),
    /// Nothing is limited.
    #[error("nothing is limited: give a rate or a quota, or leave the table out")]
    Nothing,
    /// A quota of packets that nftables cannot count.
    #[error(
        "{packets} packets in {period_s} s are more than the kernel data plane can count: {most} at most in this period; \
         give a quota of bytes, or data-plane.mode \"bpf\""
    )]
    KernelPackets {
        /// As written.
        packets: u64,
        /// In how many seconds.
        period_s: u64,
        /// What it can count.
        most: u64,
    },
    /// A burst of bytes that nftables cannot keep so small.
    #[error(
        "the kernel data plane lets a second's worth through at once, {rate}: give that or more, or data-plane.mode \"bpf\""
    )]
    KernelBurst {
        /// The rate.
        rate: u64,
    },
}

/// A token bucket: so much a second, and so much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Packets or bytes a second.
    pub per_second: u64,
    /// What a full bucket holds.
    pub burst: u64,
}

impl Rate {
    /// So many packets a second; without a burst, one second's worth.
    ///
    /// # Errors
    /// [`LimitError`], and whether the burst is meant.
    pub fn packets(per_second: u64, burst: Option<u64>) -> Result<Self, (bool, LimitError)> {
        Self::new(per_second, burst, 1, MOST_PACKETS)
    }

    /// So many bytes a second; without a burst, one second's worth or a super-packet.
    ///
    /// # Errors
    /// [`LimitError`], and whether the burst is meant.
    pub fn bytes(per_second: u64, burst: Option<u64>) -> Result<Self, (bool, LimitError)> {
        Self::new(per_second, burst, LEAST_BYTE_BURST, MOST_BYTES)
    }

    fn new(per_second: u64, burst: Option<u64>, least: u64, most: u64) -> Result<Self, (bool, LimitError)> {
        within(per_second, 1, most).map_err(|error| (false, error))?;
        let burst = burst.unwrap_or(per_second.max(least));
        within(burst, least, most).map_err(|error| (true, error))?;
        let slowest = per_second.saturating_mul(LONGEST_FILL_S);
        if burst > slowest {
            let seconds = burst / per_second;
            return Err((true, LimitError::SlowBurst { burst, seconds, most: slowest }));
        }
        Ok(Self { per_second, burst })
    }

    /// How long an empty bucket takes to fill.
    #[must_use]
    pub fn fill(self) -> Duration {
        Duration::from_nanos(
            u64::try_from(u128::from(self.burst) * 1_000_000_000 / u128::from(self.per_second) + 1).unwrap_or(u64::MAX),
        )
    }
}

/// What may be used in a period, which begins with the first packet behind the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// So many packets.
    pub packets: Option<u64>,
    /// So many bytes.
    pub bytes: Option<u64>,
    /// In this time.
    pub period: Duration,
}

impl Quota {
    /// A quota, unless none is written.
    ///
    /// # Errors
    /// [`LimitError`], and the field.
    pub fn new(
        packets: Option<u64>,
        bytes: Option<u64>,
        period_s: Option<u64>,
    ) -> Result<Option<Self>, (&'static str, LimitError)> {
        let Some(seconds) = period_s else {
            return match (packets, bytes) {
                (None, None) => Ok(None),
                (Some(_), _) => Err(("quota-packets", LimitError::NoPeriod)),
                (None, Some(_)) => Err(("quota-bytes", LimitError::NoPeriod)),
            };
        };
        within(seconds, 1, LONGEST_PERIOD_S).map_err(|error| ("quota-period-s", error))?;
        if packets.is_none() && bytes.is_none() {
            return Err(("quota-period-s", LimitError::PeriodAlone));
        }
        for (field, value) in [("quota-packets", packets), ("quota-bytes", bytes)] {
            within(value.unwrap_or(1), 1, MOST_QUOTA).map_err(|error| (field, error))?;
        }
        Ok(Some(Self { packets, bytes, period: Duration::from_secs(seconds) }))
    }
}

fn within(value: u64, low: u64, high: u64) -> Result<(), LimitError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(LimitError::Range { value, low, high }) }
}

/// What one source, or one private prefix, may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// Packets a second.
    pub packets: Option<Rate>,
    /// Bytes a second.
    pub bytes: Option<Rate>,
    /// In a period.
    pub quota: Option<Quota>,
}

impl Limit {
    /// Whether everything is allowed.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.packets.is_none() && self.bytes.is_none() && self.quota.is_none()
    }

    /// What the kernel's own nftables cannot count of it: the field, and why.
    ///
    /// # Errors
    /// [`LimitError`] and its field.
    pub fn for_nftables(&self) -> Result<(), (&'static str, LimitError)> {
        if let Some(Rate { per_second, burst }) = self.bytes
            && burst < per_second
        {
            return Err(("bytes-burst", LimitError::KernelBurst { rate: per_second }));
        }
        if let Some(Quota { packets: Some(packets), period, .. }) = self.quota {
            let most = super::ruleset::most_packets(period);
            if packets > most {
                let period_s = period.as_secs();
                return Err(("quota-packets", LimitError::KernelPackets { packets, period_s, most }));
            }
        }
        Ok(())
    }
}

/// In words, for people.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (rate, unit) in [(self.packets, "packets"), (self.bytes, "bytes")] {
            let words = |rate: Rate| format!("{} {unit}/s with {} at once", rate.per_second, rate.burst);
            parts.extend(rate.map(words));
        }
        if let Some(Quota { packets, bytes, period }) = self.quota {
            for (quota, unit) in [(packets, "packets"), (bytes, "bytes")] {
                parts.extend(quota.map(|quota| format!("{quota} {unit} in {} s", period.as_secs())));
            }
        }
        write!(f, "{}", if parts.is_empty() { "no limit".to_owned() } else { parts.join(", ") })
    }
}

/// The table `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// What each source may use.
    pub per_source: Limit,
    /// What each private prefix may carry, unless it is among the exceptions.
    pub per_prefix: Limit,
    /// Private prefixes with limits of their own.
    pub exceptions: Vec<(IpNet, Limit)>,
    /// How long the prefix is that is one source of IPv6.
    pub v6_source: u8,
    /// How many sources are metered at a time: one more is dropped.
    pub sources: u32,
    /// Whether what comes back is charged too, to the subscriber that it goes to.
    pub answers: bool,
}

/// Who counts, and how the guard knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Metering {
    /// Nobody: there are no limits.
    #[default]
    None,
    /// nftables, in a table behind the guard's.
    Kernel,
    /// The BPF program, which marks what it has charged: the guard passes nothing else.
    Mark,
    /// The process itself, which forwards: what was used is forgotten when it ends.
    User,
}

impl Limits {
    /// Checks what depends on the policy.
    ///
    /// # Errors
    /// [`LimitError`], and its field below `limits`.
    pub fn check(&self, policy: &Policy) -> Result<(), (String, LimitError)> {
        for (index, (prefix, limit)) in self.exceptions.iter().enumerate() {
            let field = format!("prefixes[{index}]");
            if !policy.prefixes().iter().any(|entry| entry.prefix == *prefix) {
                return Err((field + ".prefix", LimitError::UnknownPrefix(*prefix)));
            }
            if self.exceptions.iter().take(index).any(|(other, _)| other == prefix) {
                return Err((field + ".prefix", LimitError::Twice(*prefix)));
            }
            if limit.is_none() && self.per_prefix.is_none() {
                return Err((field, LimitError::Nothing));
            }
        }
        if policy.prefixes().len() > MOST_PREFIXES {
            return Err(("per-prefix".to_owned(), LimitError::Prefixes(policy.prefixes().len())));
        }
        if self.is_none() {
            return Err((String::new(), LimitError::Nothing));
        }
        Ok(())
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.per_source.is_none()
            && self.per_prefix.is_none()
            && self.exceptions.iter().all(|(_, limit)| limit.is_none())
    }

    /// The limit of this private prefix.
    #[must_use]
    pub fn of_prefix(&self, prefix: IpNet) -> Limit {
        self.exceptions.iter().find(|(other, _)| *other == prefix).map_or(self.per_prefix, |(_, limit)| *limit)
    }

    /// The source that the subscriber's address `address` is part of.
    #[must_use]
    pub fn source_of(&self, address: IpAddr) -> IpNet {
        match address {
            IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
            IpAddr::V6(v6) => {
                Ipv6Net::new(v6, self.v6_source.min(128)).map_or_else(|_| Ipv6Net::from(v6), |net| net.trunc()).into()
            }
        }
    }
}
