//! Limits of the user data plane: the model of the meter itself, which is gone with its process.

use cloakway_types::Instant;

use super::User;
use crate::decide::Verdict;
use crate::meter::{Meter, Metering, Over, Use};
use crate::parse::Parsed;
use crate::policy::Policy;

/// Between two sweeps of idle sources, and between two while there is no room.
const SWEEP_NANOS: u64 = 60_000_000_000;
const SWEEP_WHEN_FULL_NANOS: u64 = 2_000_000_000;

/// The meter, and when it forgot idle sources last.
#[derive(Debug)]
pub(super) struct Charger {
    meter: Meter,
    swept: Instant,
}

impl Charger {
    /// For what `policy` limits; `None` where this process counts nothing.
    pub(super) fn new(policy: &Policy) -> Option<Self> {
        let meter = || Meter::new(policy.limits().clone());
        (policy.metering() == Metering::User).then(|| Self { meter: meter(), swept: Instant::default() })
    }

    /// Other limits; what was used stays used.
    pub(super) fn follow(charger: &mut Option<Self>, policy: &Policy) {
        match charger {
            Some(charger) if policy.metering() == Metering::User => charger.meter.change(policy.limits().clone()),
            _ => *charger = Self::new(policy),
        }
    }

    fn sweep(&mut self, pause_nanos: u64, now: Instant) -> bool {
        let is_due = now.since(self.swept).as_nanos() >= u128::from(pause_nanos);
        if is_due {
            self.meter.sweep(now);
            self.swept = now;
        }
        is_due
    }
}

impl User {
    /// Charges what the policy lets through to its subscriber and its private prefix.
    pub(super) fn charge(
        &self,
        parsed: &Parsed,
        verdict: Verdict,
        (packets, bytes): (u64, u64),
        now: Instant,
    ) -> Result<(), Over> {
        let mut accounts = self.accounts();
        let Some(charger) = &mut accounts.charger else { return Ok(()) };
        let (subscriber, private) = match verdict {
            Verdict::ToLink(_) => (parsed.source, parsed.destination),
            Verdict::ToSubscriber if self.policy.limits().answers => (parsed.destination, parsed.source),
            _ => return Ok(()),
        };
        let Some(private) = self.policy.private_prefix(private).map(|entry| entry.prefix) else { return Ok(()) };
        charger.sweep(SWEEP_NANOS, now);
        match charger.meter.charge(subscriber, private, packets, bytes, now) {
            Err(Over::SourcesFull) if charger.sweep(SWEEP_WHEN_FULL_NANOS, now) => {
                charger.meter.charge(subscriber, private, packets, bytes, now)
            }
            done => done,
        }
    }

    /// What each source and private prefix has used, and has left.
    #[must_use]
    pub fn uses(&self, now: Instant) -> Vec<Use> {
        let accounts = self.accounts();
        let Some(charger) = &accounts.charger else { return Vec::new() };
        let limits = self.policy.limits();
        let sources = charger.meter.sources().map(|(who, account)| (who, account, limits.per_source, false));
        let prefixes = charger.meter.prefixes().map(|(who, account)| (who, account, limits.of_prefix(who), true));
        let told = sources.chain(prefixes).map(|(who, account, limit, is_private)| Use {
            who,
            is_private,
            packets: Some(account.packets),
            bytes: Some(account.bytes),
            refused: Some(account.refused),
            left: account.left(&limit, now),
        });
        told.collect()
    }
}
