//! How much of the host's memory the policy takes, and may take: for each prefix, and for each source that is metered.

use forwarder_core::Policy;
use forwarder_core::meter::{ACCOUNT_OCTETS, Limit, MOST_PREFIXES, Metering};
use serde::Serialize;

/// One kind of what is kept.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: &'static str,
    kept_by: &'static str,
    /// How many there are, or may be at most.
    most: u64,
    octets_each: u64,
    octets_in_all: u64,
}

/// The kernel's, as measured (docs/forwarder.md).
const SUBSCRIBER_PREFIX: u64 = 165;
const PRIVATE_PREFIX: u64 = 520;
const NFTABLES_RATES: u64 = 280;
const NFTABLES_QUOTAS: u64 = 180;
const BPF_SOURCE: u64 = 160;
const BPF_PREFIX: u64 = 100;
const BPF_PREFIXES: u64 = 1 << 20;

/// What nftables takes for one account.
fn nftables(limits: &[Limit]) -> u64 {
    let any = |has: fn(&Limit) -> bool| limits.iter().any(has);
    let rates = if any(|limit| limit.packets.is_some() || limit.bytes.is_some()) { NFTABLES_RATES } else { 0 };
    rates + if any(|limit| limit.quota.is_some()) { NFTABLES_QUOTAS } else { 0 }
}

/// What `policy` takes.
pub(crate) fn rows(policy: &Policy) -> Vec<Row> {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let row = |what, kept_by, most: u64, octets_each: u64, first: u64| Row {
        what,
        kept_by,
        most,
        octets_each,
        octets_in_all: first.saturating_add(most.saturating_mul(octets_each)),
    };
    let private = count(policy.prefixes().len());
    let mut rows = vec![
        row("subscriber prefixes", "the guard", count(policy.subscriber_prefixes().len()), SUBSCRIBER_PREFIX, 0),
        row("private prefixes", "the guard and the routes", private, PRIVATE_PREFIX, 0),
    ];
    let limits = policy.limits();
    let sources = if limits.per_source.is_none() { 0 } else { u64::from(limits.sources) };
    let of_prefixes: Vec<Limit> = policy.prefixes().iter().map(|entry| limits.of_prefix(entry.prefix)).collect();
    let metered = count(of_prefixes.iter().filter(|limit| !limit.is_none()).count());
    match policy.metering() {
        Metering::None => {}
        Metering::Kernel => {
            // Of each IP version.
            rows.push(row("metered sources", "nftables", sources * 2, nftables(&[limits.per_source]), 0));
            let most = metered.min(count(MOST_PREFIXES));
            rows.push(row("metered private prefixes", "nftables", most, nftables(&of_prefixes), 0));
        }
        Metering::Mark => {
            rows.push(row("metered sources", "the program, taken at the start", sources, BPF_SOURCE, 0));
            rows.push(row("metered private prefixes", "the program", metered, BPF_PREFIX, BPF_PREFIXES));
        }
        Metering::User => {
            rows.push(row("metered sources", "this process", sources, ACCOUNT_OCTETS, 0));
            rows.push(row("metered private prefixes", "this process", metered, ACCOUNT_OCTETS, 0));
        }
    }
    rows
}

/// Tells Prometheus of it.
pub(crate) fn tell(policy: &Policy) {
    for Row { what, octets_in_all, .. } in rows(policy) {
        // A gauge is a floating-point number; beyond 4 GiB it says 4 GiB.
        let octets = u32::try_from(octets_in_all).unwrap_or(u32::MAX);
        metrics::gauge!("forwarder_memory_octets", "what" => what).set(octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_runtime::config;

    use crate::config::Config;

    #[test]
    fn what_is_kept_is_told_for_each_prefix_and_each_source() {
        let example = include_str!("../../configs/forwarder.toml");
        let limits = "[limits]\nsources = 1000\n[limits.per-source]\npackets-per-second = 5\nquota-bytes = 70000\n\
                      quota-period-s = 60\n[limits.per-prefix]\nquota-packets = 9\nquota-period-s = 60\n";
        let told = |mode: &str, limits: &str| -> Vec<(u64, u64, u64)> {
            let text = example.replace("mode = \"kernel\"", &format!("mode = \"{mode}\"")) + limits;
            let config: Config = config::parse("forwarder.toml", &text).unwrap();
            rows(&config.policy).iter().map(|row| (row.most, row.octets_each, row.octets_in_all)).collect()
        };
        let guard = [(2, 165, 330), (2, 520, 1040)];
        assert_eq!(told("kernel", ""), guard);
        assert_eq!(told("kernel", limits)[2..], [(2000, 460, 920_000), (2, 180, 360)]);
        assert_eq!(told("bpf", limits)[2..], [(1000, 160, 160_000), (2, 100, (1 << 20) + 200)]);
        assert_eq!(told("user", limits)[2].0, 1000);
        assert!(told("user", limits)[2].1 >= 100);
    }
}
