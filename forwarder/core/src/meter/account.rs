//! What one source or private prefix has used: two token buckets and two quotas.
//!
//! A bucket holds billionths of a packet or byte, so that a refill is one multiplication and loses nothing. The BPF
//! program (`forwarder/dataplane/bpf/meter.h`) does the same sums in the same order.

use cloakway_types::Instant;

use super::limit::{Limit, Rate};

/// Billionths in one.
const NANO: u64 = 1_000_000_000;

/// No packet costs more than this: it bounds a bucket's debt.
pub const MOST_AT_ONCE: u64 = 1 << 20;

/// Which of its limits refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A token bucket was empty.
    Rate,
    /// A quota is used up.
    Quota,
}

/// The use of one source or private prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Billionths of packets; below zero when a super-packet took more than there was.
    pub packet_tokens: i64,
    /// Billionths of bytes.
    pub byte_tokens: i64,
    /// When the buckets were filled last.
    pub filled: Instant,
    /// When the period began.
    pub started: Instant,
    /// Packets that passed in this period; since the beginning where there is none.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were refused, since the beginning.
    pub refused: u64,
}

impl Account {
    /// With full buckets, and nothing used.
    #[must_use]
    pub fn new(limit: &Limit, now: Instant) -> Self {
        Self {
            packet_tokens: limit.packets.map_or(0, full),
            byte_tokens: limit.bytes.map_or(0, full),
            filled: now,
            started: now,
            packets: 0,
            bytes: 0,
            refused: 0,
        }
    }

    /// Charges `packets` with `bytes` in all, which pass or are refused together.
    ///
    /// What a later limit refuses an earlier one has charged. A quota that refuses once is used up: nothing smaller
    /// slips through behind what did not fit.
    ///
    /// # Errors
    /// [`Refusal`] says which limit.
    pub fn charge(&mut self, limit: &Limit, packets: u64, bytes: u64, now: Instant) -> Result<(), Refusal> {
        let done = self.try_charge(limit, packets, bytes, now);
        if done.is_err() {
            self.refused = self.refused.saturating_add(packets);
        }
        done
    }

    fn try_charge(&mut self, limit: &Limit, packets: u64, bytes: u64, now: Instant) -> Result<(), Refusal> {
        self.bring_to(limit, now);
        for (tokens, rate, amount) in
            [(&mut self.packet_tokens, limit.packets, packets), (&mut self.byte_tokens, limit.bytes, bytes)]
        {
            let Some(rate) = rate else { continue };
            let cost = signed(amount.min(MOST_AT_ONCE).saturating_mul(NANO));
            // A packet larger than the bucket passes when that is full, and leaves a debt.
            if *tokens < cost.min(full(rate)) {
                return Err(Refusal::Rate);
            }
            *tokens -= cost;
        }
        let (used_packets, used_bytes) = (self.packets.saturating_add(packets), self.bytes.saturating_add(bytes));
        if let Some(quota) = limit.quota {
            if let Some(most) = quota.packets
                && used_packets > most
            {
                self.packets = most;
                return Err(Refusal::Quota);
            }
            if let Some(most) = quota.bytes
                && used_bytes > most
            {
                self.bytes = most;
                return Err(Refusal::Quota);
            }
        }
        (self.packets, self.bytes) = (used_packets, used_bytes);
        Ok(())
    }

    /// Whether it is as good as new at `now`: to forget it then forgets nothing.
    #[must_use]
    pub fn is_idle(&self, limit: &Limit, now: Instant) -> bool {
        let mut then = *self;
        then.bring_to(limit, now);
        let is_full = |tokens, rate: Option<Rate>| rate.is_none_or(|rate| tokens >= full(rate));
        let is_over = limit.quota.is_none_or(|quota| now.since(self.started) >= quota.period);
        is_full(then.packet_tokens, limit.packets) && is_full(then.byte_tokens, limit.bytes) && is_over
    }

    /// What is left at `now`: packets and bytes at once, and of the quota.
    #[must_use]
    pub fn left(&self, limit: &Limit, now: Instant) -> Left {
        let mut then = *self;
        then.bring_to(limit, now);
        let whole = |tokens: i64| u64::try_from(tokens).unwrap_or(0) / NANO;
        let quota = limit.quota;
        Left {
            packets_now: limit.packets.map(|_| whole(then.packet_tokens)),
            bytes_now: limit.bytes.map(|_| whole(then.byte_tokens)),
            quota_packets: quota.and_then(|quota| quota.packets).map(|most| most.saturating_sub(then.packets)),
            quota_bytes: quota.and_then(|quota| quota.bytes).map(|most| most.saturating_sub(then.bytes)),
        }
    }

    fn bring_to(&mut self, limit: &Limit, now: Instant) {
        if let Some(quota) = limit.quota
            && now.since(self.started) >= quota.period
        {
            (self.packets, self.bytes, self.started) = (0, 0, now);
        }
        // The word of another processor may be a little older than what is there.
        if now <= self.filled {
            return;
        }
        let elapsed = u64::try_from(now.since(self.filled).as_nanos()).unwrap_or(u64::MAX);
        self.filled = now;
        for (tokens, rate) in [(&mut self.packet_tokens, limit.packets), (&mut self.byte_tokens, limit.bytes)] {
            let Some(rate) = rate else { continue };
            let room = full(rate).saturating_sub(*tokens).max(0);
            let gained = elapsed.min(longest(rate)).saturating_mul(rate.per_second);
            *tokens = if gained >= room.unsigned_abs() { full(rate) } else { *tokens + signed(gained) };
        }
    }
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Packets that would pass now by their rate.
    pub packets_now: Option<u64>,
    /// Bytes that would pass now by their rate.
    pub bytes_now: Option<u64>,
    /// Packets left in this period.
    pub quota_packets: Option<u64>,
    /// Bytes left in this period.
    pub quota_bytes: Option<u64>,
}

/// A full bucket.
#[must_use]
pub fn full(rate: Rate) -> i64 {
    signed(rate.burst.saturating_mul(NANO))
}

/// Nanoseconds behind which any bucket is full, whatever it owes: no more are multiplied.
#[must_use]
pub fn longest(rate: Rate) -> u64 {
    let all = u128::from(rate.burst + MOST_AT_ONCE) * u128::from(NANO);
    u64::try_from(all.div_ceil(u128::from(rate.per_second))).unwrap_or(u64::MAX)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
