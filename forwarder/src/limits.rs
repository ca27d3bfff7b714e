//! The table `[limits]`: what each source and each private prefix may use.

use std::fmt;

use cloakway_runtime::config::Invalid;
use forwarder_core::meter::{Limit, LimitError, Limits, MOST_SOURCES, Metering, Over, Quota, Rate};
use forwarder_core::{Parsed, Policy, Verdict};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::data_plane::Mode;

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    #[serde(default = "one_network")]
    ipv6_source: u8,
    #[serde(default = "many")]
    sources: u32,
    #[serde(default)]
    count_answers: bool,
    #[serde(default)]
    per_source: RawLimit,
    #[serde(default)]
    per_prefix: RawLimit,
    #[serde(default)]
    prefixes: Vec<RawException>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawLimit {
    packets_per_second: Option<u64>,
    packets_burst: Option<u64>,
    bytes_per_second: Option<u64>,
    bytes_burst: Option<u64>,
    quota_packets: Option<u64>,
    quota_bytes: Option<u64>,
    quota_period_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawException {
    prefix: IpNet,
    limit: RawLimit,
}

const fn one_network() -> u8 {
    64
}

const fn many() -> u32 {
    65_536
}

/// The policy with its limits, counted by what forwards.
pub(crate) fn limited(policy: Policy, raw: Option<&Raw>, mode: Mode) -> Result<Policy, Invalid> {
    let Some(raw) = raw else { return Ok(policy) };
    let metering = match mode {
        Mode::Kernel => Metering::Kernel,
        Mode::Bpf => Metering::Mark,
        Mode::User => Metering::User,
        Mode::Auto => {
            let why = "with [limits] give \"kernel\", \"bpf\" or \"user\": each keeps the budgets in its own way, and a change from \
                       one to the other would begin them anew";
            return Err(Invalid::at("data-plane.mode", why));
        }
    };
    if !(32..=128).contains(&raw.ipv6_source) {
        let why = format!("{} is not allowed: 32 to 128, such as 64 or 56", raw.ipv6_source);
        return Err(Invalid::at("limits.ipv6-source", why));
    }
    if !(1..=MOST_SOURCES).contains(&raw.sources) {
        let why = format!("{} is not allowed: 1 to {MOST_SOURCES}", raw.sources);
        return Err(Invalid::at("limits.sources", why));
    }
    let mut exceptions = Vec::with_capacity(raw.prefixes.len());
    for (index, entry) in raw.prefixes.iter().enumerate() {
        exceptions.push((entry.prefix, limit(&format!("prefixes[{index}].limit"), &entry.limit, metering)?));
    }
    let limits = Limits {
        per_source: limit("per-source", &raw.per_source, metering)?,
        per_prefix: limit("per-prefix", &raw.per_prefix, metering)?,
        exceptions,
        v6_source: raw.ipv6_source,
        sources: raw.sources,
        answers: raw.count_answers,
    };
    let refused = |(field, error): (String, LimitError)| {
        let field = if field.is_empty() { "limits".to_owned() } else { format!("limits.{field}") };
        Invalid::at(field, error)
    };
    policy.with_limits(limits, metering).map_err(refused)
}

fn limit(place: &str, raw: &RawLimit, metering: Metering) -> Result<Limit, Invalid> {
    let at = |field: &str, error: LimitError| Invalid::at(format!("limits.{place}.{field}"), error);
    let rate = |names: [&'static str; 2], per_second: Option<u64>, burst, make: Make| match (per_second, burst) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(at(names[1], LimitError::BurstAlone { rate: names[0] })),
        (Some(per_second), burst) => {
            let [of_rate, of_burst] = names;
            let named = |(is_burst, error)| at(if is_burst { of_burst } else { of_rate }, error);
            make(per_second, burst).map(Some).map_err(named)
        }
    };
    let packets =
        rate(["packets-per-second", "packets-burst"], raw.packets_per_second, raw.packets_burst, Rate::packets)?;
    let bytes = rate(["bytes-per-second", "bytes-burst"], raw.bytes_per_second, raw.bytes_burst, Rate::bytes)?;
    let quota = Quota::new(raw.quota_packets, raw.quota_bytes, raw.quota_period_s);
    let limit = Limit { packets, bytes, quota: quota.map_err(|(field, error)| at(field, error))? };
    if metering == Metering::Kernel {
        limit.for_nftables().map_err(|(field, error)| at(field, error))?;
    }
    Ok(limit)
}

type Make = fn(u64, Option<u64>) -> Result<Rate, (bool, LimitError)>;

/// Who pays for a packet, and by which limit it may be dropped.
#[derive(Debug, Serialize)]
pub(crate) struct Charged {
    who: String,
    limit: String,
    /// The counters of what goes beyond it.
    dropped_as: Vec<&'static str>,
}

impl fmt::Display for Charged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "charged to {}: {}, beyond that dropped as {}", self.who, self.limit, self.dropped_as.join(" or "))
    }
}

/// What the limits are for a packet that the policy lets through.
pub(crate) fn charged(policy: &Policy, parsed: &Parsed, verdict: Verdict) -> Vec<Charged> {
    let limits = policy.limits();
    let (subscriber, private) = match verdict {
        Verdict::ToLink(_) => (parsed.source, parsed.destination),
        Verdict::ToSubscriber if limits.answers => (parsed.destination, parsed.source),
        _ => return Vec::new(),
    };
    let Some(prefix) = policy.private_prefix(private).map(|entry| entry.prefix) else { return Vec::new() };
    let row = |who: IpNet, limit: Limit, rate: Over, quota: Over, full: Option<Over>| {
        let by_rate = limit.packets.or(limit.bytes).map(|_| rate);
        let all = [by_rate, limit.quota.map(|_| quota), full];
        let dropped_as = all.into_iter().flatten().map(Over::name).collect();
        (!limit.is_none()).then(|| Charged { who: who.to_string(), limit: limit.to_string(), dropped_as })
    };
    let source = limits.source_of(subscriber);
    let of_source = row(source, limits.per_source, Over::SourceRate, Over::SourceQuota, Some(Over::SourcesFull));
    let of_prefix = row(prefix, limits.of_prefix(prefix), Over::PrefixRate, Over::PrefixQuota, None);
    of_source.into_iter().chain(of_prefix).collect()
}

/// What `check` says about them: each limit, and what to beware of.
pub(crate) fn summary(policy: &Policy) -> Vec<String> {
    let limits = policy.limits();
    if limits.is_none() {
        return Vec::new();
    }
    let both = if limits.answers { ", answers too" } else { "" };
    let mut lines = vec![
        format!(
            "each source (IPv6: /{}) may use {}{both}; {} of them",
            limits.v6_source, limits.per_source, limits.sources
        ),
        format!("each private prefix may carry {}{both}", limits.per_prefix),
    ];
    lines.extend(limits.exceptions.iter().map(|(prefix, limit)| format!("{prefix} may carry {limit}{both}")));
    let in_packets =
        |limit: &Limit| limit.packets.is_some() || limit.quota.is_some_and(|quota| quota.packets.is_some());
    let all = limits.exceptions.iter().map(|(_, limit)| limit).chain([&limits.per_source, &limits.per_prefix]);
    if policy.metering() == Metering::Kernel && all.into_iter().any(in_packets) {
        let why = "warning: the kernel data plane counts a super-packet (GRO, or a virtual interface) as one packet: \
                   switch GRO off (ethtool -K IF gro off), or use data-plane.mode \"bpf\"";
        lines.push(why.to_owned());
    }
    if policy.metering() == Metering::User {
        let why =
            "warning: the user data plane forgets what was used when the process ends: every budget begins anew then";
        lines.push(why.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use cloakway_runtime::config;

    use super::*;
    use crate::config::Config;

    const EXAMPLE: &str = include_str!("../../configs/forwarder.toml");

    fn parsed(limits: &str, mode: &str) -> Result<Config, String> {
        let example = EXAMPLE.replace("mode = \"kernel\"", &format!("mode = \"{mode}\""));
        config::parse("forwarder.toml", &format!("{example}\n{limits}")).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_read_and_the_commented_example_is_right() {
        let policy = parsed("", "auto").unwrap().policy;
        assert_eq!((policy.metering(), summary(&policy).len()), (Metering::None, 0));
        let commented: String = EXAMPLE
            .split_once("# [limits]")
            .map(|(_, rest)| format!("# [limits]{rest}"))
            .unwrap()
            .lines()
            .take_while(|line| line.starts_with('#'))
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        for (mode, metering) in [("kernel", Metering::Kernel), ("bpf", Metering::Mark), ("user", Metering::User)] {
            let policy = parsed(&commented, mode).unwrap().policy;
            assert_eq!(policy.metering(), metering);
            let limits = policy.limits();
            assert!(limits.per_source.packets.is_some() && limits.per_source.quota.is_some(), "{limits:?}");
            assert_eq!((limits.v6_source, limits.exceptions.len()), (64, 1));
            assert_eq!(summary(&policy).len(), if mode == "bpf" { 3 } else { 4 });
        }
    }

    #[test]
    fn a_packet_is_charged_to_its_source_and_its_prefix() {
        let text = "[limits.per-source]\npackets-per-second = 5\nquota-bytes = 70000\nquota-period-s = 60\n\
                    [limits.per-prefix]\nquota-packets = 9\nquota-period-s = 60\n";
        let policy = parsed(text, "kernel").unwrap().policy;
        let [source, destination] = ["2001:db8:5100:64::70", "2001:db8:c10a::200"].map(|text| text.parse().unwrap());
        let packet = Parsed {
            source,
            destination,
            hops: 64,
            protocol: 6,
            ports: None,
            is_fragment: false,
            has_options: false,
            kind: forwarder_core::Kind::Other,
            transport: None,
        };
        let link = policy.prefixes()[0].ways[0].link;
        let lines: Vec<_> = charged(&policy, &packet, Verdict::ToLink(link)).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "charged to 2001:db8:5100:64::/64: 5 packets/s with 5 at once, 70000 bytes in 60 s, \
                 beyond that dropped as source-rate or source-quota or sources-full",
                "charged to 2001:db8:c10a::200/128: 9 packets in 60 s, beyond that dropped as prefix-quota"
            ]
        );
        assert!(charged(&policy, &packet, Verdict::ToSubscriber).is_empty(), "answers are free here");
        assert!(charged(&policy, &packet, Verdict::Untouched).is_empty());
    }

    #[test]
    fn what_a_data_plane_lacks_and_what_is_no_limit_is_refused_by_its_field() {
        let source = |text: &str| format!("[limits.per-source]\n{text}\n");
        for (mode, text, expected) in [
            (
                "auto",
                source("packets-per-second = 5"),
                "data-plane.mode: with [limits] give \"kernel\", \"bpf\" or \"user\"",
            ),
            ("kernel", source("packets-per-second = 0"), "limits.per-source.packets-per-second: 0 is not allowed"),
            ("kernel", source("packets-burst = 10"), "limits.per-source.packets-burst: a burst needs its rate"),
            ("kernel", source("bytes-per-second = 9\nbytes-burst = 10"), "bytes-burst: 10 is not allowed: 65536 to"),
            (
                "kernel",
                source("bytes-per-second = 100000\nbytes-burst = 70000"),
                "a second's worth through at once, 100000",
            ),
            (
                "kernel",
                source("quota-packets = 92000\nquota-period-s = 86400"),
                "per-source.quota-packets: 92000 packets in",
            ),
            ("bpf", source("quota-packets = 92000"), "limits.per-source.quota-packets: a quota needs its period"),
            ("bpf", source("quota-period-s = 10"), "limits.per-source.quota-period-s: a period needs a quota"),
            ("bpf", source("stray = 1"), "unknown field `stray`"),
            ("bpf", "[limits]\nstray = 1".to_owned(), "unknown field `stray`"),
            ("bpf", "[limits]\nsources = 5".to_owned(), "limits: nothing is limited"),
            ("bpf", "[limits]\nsources = 0".to_owned(), "limits.sources: 0 is not allowed: 1 to"),
            ("bpf", "[limits]\nipv6-source = 129".to_owned(), "limits.ipv6-source: 129 is not allowed"),
            (
                "bpf",
                "[[limits.prefixes]]\nprefix = \"203.0.113.0/24\"\nlimit = { packets-per-second = 5 }".to_owned(),
                "limits.prefixes[0].prefix: 203.0.113.0/24 is no private prefix of this configuration",
            ),
        ] {
            let message = parsed(&text, mode).map(|_| ()).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
        assert!(parsed(&source("quota-packets = 92000\nquota-period-s = 86400"), "bpf").is_ok());
        assert!(parsed(&source("bytes-per-second = 100000\nbytes-burst = 70000"), "bpf").is_ok());
    }
}
