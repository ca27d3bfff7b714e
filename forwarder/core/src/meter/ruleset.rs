//! The meter as an nftables table, behind the guard's: what the guard has accepted is charged, or dropped and counted.
//!
//! A table of its own, so that a change of the policy takes no budget with it. Each limit is a set whose elements carry
//! the limit and its use. The rules are made so that a full set drops: `update @set { … } goto next` goes on only when the
//! element is there and has something left. (The usual `{ … quota over … } drop` accepts when the set is full.) The
//! text is what `nft -t list table` prints for it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use ipnet::IpNet;

use super::{Limit, Limits, MOST_PREFIXES, Metering, Over, Quota, Rate};
use crate::policy::Policy;
use crate::ruleset::{FAMILY, FROM_PRIVATE, TO_PRIVATE};

/// The name of the meter's table.
pub const TABLE: &str = "cloakway-meter";

const WEEK_S: u64 = 7 * 86_400;

/// What `nft -f` is given: replaces the table in one transaction. Without limits there is none.
#[must_use]
pub fn load_text(policy: &Policy) -> String {
    let remove = format!("table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n");
    remove + &render(policy).unwrap_or_default()
}

/// What `nft -f` is given to go over to this policy and keep every budget, where the table that is there has the same
/// sets and charges them in the same way: the rules alone are replaced. `None` where it has not, or there is none.
#[must_use]
pub fn change_text(listing: &str, policy: &Policy) -> Option<String> {
    let wanted = render(policy)?;
    if budgets(listing) != budgets(&wanted) {
        return None;
    }
    let stale = chain_names(listing).filter(|name| !chain_names(&wanted).any(|other| other == *name));
    let mut text = format!("flush table {FAMILY} {TABLE}\n");
    for name in stale {
        push(&mut text, format_args!("delete chain {FAMILY} {TABLE} {name}\n"));
    }
    Some(text + &wanted)
}

/// Each set as it is declared, and what the rules put into it, without which way and by which key.
fn budgets(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let upto_brace = || words.iter().skip(at).take_while(|word| **word != "}").copied();
        match *word {
            "set" => drop(found.insert(upto_brace().collect::<Vec<_>>().join(" "))),
            "update" | "add" => {
                let key = ["limit", "quota"];
                let set = words.get(at + 1).copied().unwrap_or_default();
                let charged: Vec<&str> = upto_brace().skip_while(|word| !key.contains(word)).collect();
                found.insert(format!("{word} {set} {}", charged.join(" ")));
            }
            _ => {}
        }
    }
    found
}

fn chain_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"))
}

/// Whether `listing`, from `nft -t -s list table`, is the wanted table; an absent one is an empty text.
#[must_use]
pub fn is_wanted(listing: &str, policy: &Policy) -> bool {
    listing.split_whitespace().eq(render(policy).unwrap_or_default().split_whitespace())
}

/// The names of the counters: what passed, then one per [`Over`].
pub fn counters() -> impl Iterator<Item = &'static str> {
    [TO_PRIVATE, FROM_PRIVATE].into_iter().chain(Over::ALL.map(Over::name))
}

/// The set with the use of each source of one family, and how it counts.
#[must_use]
pub fn source_set(limits: &Limits, v4: bool) -> Option<String> {
    let last = stages(&limits.per_source, "source").pop()?;
    Some(format!("{}{}", last.set, if v4 { 4 } else { 6 }))
}

/// The sets with the use of private prefixes: the name, the length of the prefixes, and their limit.
#[must_use]
pub fn prefix_sets(policy: &Policy) -> Vec<(String, u8, Limit)> {
    let of_group = |group: &Group| Some((stages(&group.limit, &group.name).pop()?.set, group.length, group.limit));
    Table::new(policy).groups.iter().filter_map(of_group).collect()
}

/// The most packets that a quota of this period may have: nftables counts them with a token bucket that gains less
/// than one packet in the period, in nanoseconds of 63 bits.
#[must_use]
pub fn most_packets(period: Duration) -> u64 {
    match weekly(period) {
        0 => 0,
        weekly => (i64::MAX.unsigned_abs() / (WEEK_S * 1_000_000_000 / weekly)).min(u32::MAX.into()),
    }
}

/// Packets a week that are less than one in `period`.
fn weekly(period: Duration) -> u64 {
    WEEK_S.div_ceil(period.as_secs().max(1)) - 1
}

/// The table, as `nft -t -s list table` prints it apart from white space.
#[must_use]
pub fn render(policy: &Policy) -> Option<String> {
    if policy.metering() != Metering::Kernel {
        return None;
    }
    let table = Table::new(policy);
    let mut text = format!("table {FAMILY} {TABLE} {{\n");
    for counter in counters() {
        push(&mut text, format_args!("\tcounter {counter} {{\n\t}}\n"));
    }
    for set in table.sets() {
        text.push_str(&set);
    }
    for (name, rules) in table.chains() {
        push(&mut text, format_args!("\tchain {name} {{\n"));
        for rule in rules {
            push(&mut text, format_args!("\t\t{rule}\n"));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    Some(text)
}

/// One look-up: a set, and what an element must have left.
struct Stage {
    set: String,
    chain: String,
    /// A rate forgets what is idle; a quota forgets what is over.
    operation: &'static str,
    timeout: Duration,
    expressions: String,
    over: (Over, Option<Over>),
}

fn stages(limit: &Limit, subject: &str) -> Vec<Stage> {
    let of_source = subject == "source";
    let mut stages = Vec::new();
    let rates: Vec<String> =
        [limit.packets.map(packet_rate), limit.bytes.map(byte_rate)].into_iter().flatten().collect();
    if !rates.is_empty() {
        let slowest = [limit.packets, limit.bytes].into_iter().flatten().map(Rate::fill).max().unwrap_or_default();
        let is_last = limit.quota.is_none();
        stages.push(Stage {
            set: format!("{subject}-rate"),
            chain: format!("{subject}-rate"),
            operation: "update",
            timeout: Duration::from_secs(slowest.as_secs() + 10),
            expressions: counted(rates, is_last),
            over: if of_source { (Over::SourceRate, Some(Over::SourcesFull)) } else { (Over::PrefixRate, None) },
        });
    }
    if let Some(Quota { packets, bytes, period }) = limit.quota {
        let packets = packets.map(|most| format!("limit rate {}/week{}", weekly(period), burst(most)));
        let bytes = bytes.map(|most| format!("quota {}", in_units(most)));
        stages.push(Stage {
            set: format!("{subject}-quota"),
            chain: format!("{subject}-quota"),
            operation: "add",
            timeout: period,
            expressions: counted([packets, bytes].into_iter().flatten().collect(), true),
            over: if of_source { (Over::SourceQuota, Some(Over::SourcesFull)) } else { (Over::PrefixQuota, None) },
        });
    }
    stages
}

/// An element takes two expressions: where there is room, what passed is counted for `show sources`.
fn counted(mut expressions: Vec<String>, is_last: bool) -> String {
    if is_last && expressions.len() < 2 {
        expressions.push("counter".to_owned());
    }
    expressions.join(" ")
}

fn packet_rate(rate: Rate) -> String {
    format!("limit rate {}/second{}", rate.per_second, burst(rate.burst))
}

fn burst(packets: u64) -> String {
    // The one that need not be said is not printed.
    if packets == 5 { String::new() } else { format!(" burst {packets} packets") }
}

fn byte_rate(rate: Rate) -> String {
    let per_second = in_units(rate.per_second);
    // nftables lets a second's worth through, and the burst beyond that.
    match rate.burst.saturating_sub(rate.per_second) {
        0 => format!("limit rate {per_second}/second"),
        more => format!("limit rate {per_second}/second burst {}", in_units(more)),
    }
}

fn in_units(bytes: u64) -> String {
    match bytes {
        _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("{} mbytes", bytes >> 20),
        _ if bytes > 0 && bytes.is_multiple_of(1 << 10) => format!("{} kbytes", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

fn in_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// Private prefixes with the same limit and length: one key fits them all.
struct Group {
    name: String,
    v4: bool,
    length: u8,
    limit: Limit,
    prefixes: Vec<IpNet>,
}

struct Table<'a> {
    policy: &'a Policy,
    limits: &'a Limits,
    groups: Vec<Group>,
}

impl<'a> Table<'a> {
    fn new(policy: &'a Policy) -> Self {
        let limits = policy.limits();
        let mut groups: Vec<Group> = Vec::new();
        let mut prefixes: Vec<IpNet> = policy.prefixes().iter().map(|entry| entry.prefix).collect();
        prefixes.sort();
        for prefix in prefixes {
            let (limit, v4, length) = (limits.of_prefix(prefix), prefix.addr().is_ipv4(), prefix.prefix_len());
            if limit.is_none() {
                continue;
            }
            let same = |group: &&mut Group| group.limit == limit && group.v4 == v4 && group.length == length;
            match groups.iter_mut().find(same) {
                Some(group) => group.prefixes.push(prefix),
                None => {
                    let name = format!("prefix{}", groups.len());
                    groups.push(Group { name, v4, length, limit, prefixes: vec![prefix] });
                }
            }
        }
        Self { policy, limits, groups }
    }

    fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        let mut set = |name: &str, v4: bool, size: usize, stage: &Stage| {
            let kind = if v4 { "ipv4_addr" } else { "ipv6_addr" };
            sets.push(format!(
                "\tset {name} {{\n\t\ttype {kind}\n\t\tsize {size}\n\t\tflags dynamic,timeout\n\t\ttimeout {}\n\t}}\n",
                in_time(stage.timeout)
            ));
        };
        for stage in stages(&self.limits.per_source, "source") {
            for v4 in [true, false] {
                let size = usize::try_from(self.limits.sources).unwrap_or(usize::MAX);
                set(&format!("{}{}", stage.set, if v4 { 4 } else { 6 }), v4, size, &stage);
            }
        }
        for group in &self.groups {
            for stage in stages(&group.limit, &group.name) {
                set(&stage.set, group.v4, MOST_PREFIXES, &stage);
            }
        }
        sets
    }

    fn chains(&self) -> Vec<(String, Vec<String>)> {
        let mut names: Vec<String> = self.policy.links().iter().map(|link| format!("{:?}", link.interface)).collect();
        names.sort();
        let links = one_of(&names);
        let mut ways =
            vec![Way { name: "to", interface: "oifname", source: "saddr", private: "daddr", counter: TO_PRIVATE }];
        if self.limits.answers {
            let (source, private) = ("daddr", "saddr");
            ways.push(Way { name: "from", interface: "iifname", source, private, counter: FROM_PRIVATE });
        }
        // Behind the guard, which has dropped what it does not allow.
        let mut base = vec!["type filter hook forward priority filter - 9; policy accept;".to_owned()];
        for Way { name, interface, .. } in &ways {
            base.push(format!("{interface} {links} meta nfproto ipv4 goto {name}4"));
            base.push(format!("{interface} {links} meta nfproto ipv6 goto {name}6"));
        }
        let mut chains = vec![("forward".to_owned(), base)];
        for way in &ways {
            self.way(way, true, &mut chains);
            self.way(way, false, &mut chains);
        }
        chains
    }

    /// Source, private prefix, and the end where it is counted as passed.
    fn way(&self, way: &Way, v4: bool, chains: &mut Vec<(String, Vec<String>)>) {
        let (ip, family) = if v4 { ("ip", 4) } else { ("ip6", 6) };
        let head = format!("{}{family}", way.name);
        let source = match v4 {
            true => format!("ip {}", way.source),
            false => masked("ip6", way.source, mask6(self.limits.v6_source)),
        };
        let behind = format!("{head}-prefix");
        let of_source = stages(&self.limits.per_source, "source");
        let first = of_source.first().map_or(behind.clone(), |stage| format!("{head}-{}", stage.chain));
        chains.push((head.clone(), vec![format!("goto {first}")]));
        charge(&of_source, &head, &source, &family.to_string(), &behind, chains);

        let groups: Vec<&Group> = self.groups.iter().filter(|group| group.v4 == v4).collect();
        let passed = format!("{head}-passed");
        let mut rules = Vec::new();
        let mut tails = Vec::new();
        for group in groups {
            let of_group = stages(&group.limit, &group.name);
            let Some(first) = of_group.first() else { continue };
            let among = one_of(&group.prefixes.iter().map(element).collect::<Vec<_>>());
            rules.push(format!("{ip} {} {among} goto {head}-{}", way.private, first.chain));
            let key = match (v4, group.length) {
                (true, 32) | (false, 128) => format!("{ip} {}", way.private),
                (true, length) => masked("ip", way.private, mask4(length)),
                (false, length) => masked("ip6", way.private, mask6(length)),
            };
            charge(&of_group, &head, &key, "", &passed, &mut tails);
        }
        rules.push(format!("goto {passed}"));
        chains.push((behind, rules));
        chains.extend(tails);
        chains.push((passed, vec![format!("counter name \"{}\" accept", way.counter)]));
    }
}

struct Way {
    name: &'static str,
    interface: &'static str,
    source: &'static str,
    private: &'static str,
    counter: &'static str,
}

/// A chain for each stage: on with what has something left, and the reason for the rest.
fn charge(
    stages: &[Stage],
    head: &str,
    key: &str,
    family: &str,
    behind: &str,
    chains: &mut Vec<(String, Vec<String>)>,
) {
    let drop = |over: Over| format!("counter name \"{}\" drop", over.name());
    for (index, stage) in stages.iter().enumerate() {
        let next = stages.get(index + 1).map_or(behind.to_owned(), |next| format!("{head}-{}", next.chain));
        let set = format!("@{}{family}", stage.set);
        let mut rules = vec![format!("{} {set} {{ {key} {} }} goto {next}", stage.operation, stage.expressions)];
        let (over, full) = stage.over;
        if let Some(full) = full {
            // There was no room for it. Asked the other way round the kernel would ask the element once more, and that
            // says no again.
            rules.push(format!("{key} != {set} {}", drop(full)));
            rules.push(drop(over));
        } else {
            rules.push(drop(over));
        }
        chains.push((format!("{head}-{}", stage.chain), rules));
    }
}

fn masked(ip: &str, field: &str, mask: String) -> String {
    format!("{ip} {field} & {mask}")
}

fn mask4(length: u8) -> String {
    ipnet::Ipv4Net::new(std::net::Ipv4Addr::UNSPECIFIED, length)
        .map(|net| net.netmask().to_string())
        .unwrap_or_default()
}

fn mask6(length: u8) -> String {
    ipnet::Ipv6Net::new(std::net::Ipv6Addr::UNSPECIFIED, length)
        .map(|net| net.netmask().to_string())
        .unwrap_or_default()
}

fn element(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr().to_string() } else { prefix.to_string() }
}

fn one_of(elements: &[String]) -> String {
    match elements {
        [one] => one.clone(),
        many => format!("{{ {} }}", many.join(", ")),
    }
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a String never fails");
}
