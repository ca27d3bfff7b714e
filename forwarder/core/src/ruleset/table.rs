//! A table as text taken apart, and the transactions that turn one into another without a packet lost.
//!
//! Replacing the whole table loses packets: its base chains are unhooked and hooked again, its counters start anew. So
//! what is the same stays, and a chain that differs has its rules changed within one transaction: a packet meets the old
//! rules or the new ones, all of them. Sets change element by element, but for two cases in which the kernel may miss
//! an element that is there before and after: intervals that overlap those that they replace (`nft_set_rbtree`), and
//! concatenations of intervals (`nft_set_pipapo`). Such a set is made anew under a name with the next version, as in
//! `private4.1`, before the rules change over to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;

use super::{FAMILY, TABLE};

/// More pairs of elements than this are taken to overlap.
const COMPARED: usize = 1 << 20;

/// A table: what is declared in it, by kind and name.
#[derive(Debug, Clone, Default)]
pub struct Table {
    blocks: BTreeMap<(String, String), Block>,
    /// Of sets that are not the first of their name.
    versions: BTreeMap<String, u32>,
    /// Sets that no rule uses beside one of the same name: what was begun and not ended.
    leftovers: Vec<(String, String)>,
}

/// Versions are no part of what a table means.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.blocks == other.blocks && self.leftovers == other.leftovers
    }
}

impl Eq for Table {}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Block {
    /// What says what it is: type and flags of a set, the hook of a chain.
    head: Vec<String>,
    /// The rules of a chain in their order, the elements of a set sorted.
    body: Vec<String>,
}

/// How a set becomes another.
enum Way {
    New,
    InPlace,
    Anew,
}

impl Table {
    /// What `nft list table` printed, or what is to be loaded; `None` when that is no table, or not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.next().filter(|line| line.starts_with("table ") && line.ends_with('{'))?;
        let mut blocks = BTreeMap::new();
        loop {
            let line = lines.next()?;
            if line == "}" {
                return Self::without_versions(blocks);
            }
            let (kind, name) = line.strip_suffix('{')?.trim().split_once(' ')?;
            blocks.insert((kind.to_owned(), name.to_owned()), Block::parse(kind, &mut lines)?);
        }
    }

    fn without_versions(mut blocks: BTreeMap<(String, String), Block>) -> Option<Self> {
        let mut used: BTreeMap<String, u32> = BTreeMap::new();
        for block in blocks.iter_mut().filter(|((kind, _), _)| kind == "chain").map(|(_, block)| block) {
            for rule in &mut block.body {
                let mut words = Vec::new();
                for word in rule.split(' ') {
                    let Some(set) = word.strip_prefix('@') else {
                        words.push(word.to_owned());
                        continue;
                    };
                    let (name, version) = versioned(set);
                    if *used.entry(name.to_owned()).or_insert(version) != version {
                        return None;
                    }
                    words.push(format!("@{name}"));
                }
                *rule = words.join(" ");
            }
        }
        let mut table = Self::default();
        for ((kind, name), block) in blocks {
            let (base, version) = if is_set(&kind) { versioned(&name) } else { (name.as_str(), 0) };
            if used.get(base).is_some_and(|used| is_set(&kind) && *used != version) {
                table.leftovers.push((kind, name));
                continue;
            }
            if version > 0 {
                table.versions.insert(base.to_owned(), version);
            }
            table.blocks.insert((kind, base.to_owned()), block);
        }
        Some(table)
    }

    /// The prefixes in a set, of whichever version; none where there is no such set.
    #[must_use]
    pub fn prefixes(&self, set: &str) -> Vec<IpNet> {
        let found = self.blocks.get(&("set".to_owned(), set.to_owned()));
        found.into_iter().flat_map(|block| &block.body).filter_map(|element| prefix(element)).collect()
    }

    /// The transactions, one after the other, that turn this table into `wanted`; `None` when something changes that
    /// takes a new table.
    #[must_use]
    pub fn update(&self, wanted: &Self) -> Option<Vec<String>> {
        // Sets first, the one change of what packets meet, and away with what is not used any more.
        let [mut prepare, mut last] = [String::new(), String::new()];
        let mut steps: [String; 6] = Default::default();
        let [objects, chains, fewer, more, flushed, rules] = &mut steps;
        let mut versions = self.versions.clone();
        let mut anew = BTreeSet::new();
        for ((kind, name), new) in wanted.blocks.iter().filter(|((kind, _), _)| is_set(kind)) {
            let old = self.blocks.get(&(kind.clone(), name.clone()));
            match old.map_or(Way::New, |old| old.way_to(new)) {
                Way::InPlace => {
                    let before = old.map_or(&[][..], |old| &old.body);
                    elements(fewer, "delete element", &raw(&versions, name), before, &new.body);
                    elements(more, "add element", &raw(&versions, name), &new.body, before);
                    continue;
                }
                Way::New => drop(versions.remove(name)),
                Way::Anew => {
                    command(&mut last, &format!("delete {kind}"), &raw(&versions, name), "");
                    anew.insert(format!("@{name}"));
                    let taken = |version: &u32| {
                        let raw = format!("{name}.{version}");
                        self.leftovers.iter().any(|(_, left)| *left == raw)
                    };
                    let next = versions.get(name).map_or(1, |version| version + 1);
                    versions.insert(name.clone(), (next..).find(|version| !taken(version))?);
                }
            }
            command(&mut prepare, &format!("add {kind}"), &raw(&versions, name), &new.declared());
            elements(&mut prepare, "add element", &raw(&versions, name), &new.body, &[]);
        }
        for ((kind, name), new) in wanted.blocks.iter().filter(|((kind, _), _)| !is_set(kind)) {
            let old = self.blocks.get(&(kind.clone(), name.clone()));
            if old.is_some_and(|old| old.head != new.head) {
                return None;
            }
            if kind != "chain" {
                if old.is_none() {
                    command(objects, &format!("add {kind}"), name, &new.declared());
                }
                continue;
            }
            let led_to = |rule: &String| rule.split(' ').any(|word| anew.contains(word));
            if old.is_some_and(|old| old.body == new.body) && !new.body.iter().any(led_to) {
                continue;
            }
            match old {
                None => command(chains, "add chain", name, &new.declared()),
                Some(_) => command(flushed, "flush chain", name, ""),
            }
            new.body.iter().for_each(|rule| command(rules, "add rule", name, &with_versions(rule, &versions)));
        }
        let gone = || self.blocks.keys().filter(|key| !wanted.blocks.contains_key(*key));
        for (_, name) in gone().filter(|(kind, _)| kind == "chain") {
            command(flushed, "flush chain", name, "");
        }
        // Elements of a map before the chains that they lead to, and both before what chains count with.
        for (kind, name) in gone().filter(|(kind, _)| is_set(kind)) {
            command(&mut last, &format!("delete {kind}"), &raw(&self.versions, name), "");
        }
        self.leftovers.iter().for_each(|(kind, name)| command(&mut last, &format!("delete {kind}"), name, ""));
        for chains in [true, false] {
            for (kind, name) in gone().filter(|(kind, _)| !is_set(kind) && (kind == "chain") == chains) {
                command(&mut last, &format!("delete {kind}"), name, "");
            }
        }
        let transactions = [prepare, steps.concat(), last];
        Some(transactions.into_iter().filter(|transaction| !transaction.is_empty()).collect())
    }
}

impl Block {
    fn parse<'a>(kind: &str, lines: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut block = Self::default();
        loop {
            let mut statement = lines.next()?.to_owned();
            if statement == "}" {
                break;
            }
            // A list of elements goes on over many lines.
            let mut open = opened(&statement);
            while open > 0 {
                let line = lines.next()?;
                open += opened(line);
                statement.push(' ');
                statement.push_str(line);
            }
            match kind {
                "chain" if !statement.starts_with("type ") => block.body.push(statement),
                kind if is_set(kind) && statement.starts_with("elements ") => {
                    let list = statement.split_once('{')?.1.strip_suffix('}')?;
                    block.body = list.split(',').map(|element| element.trim().to_owned()).collect();
                    block.body.sort();
                }
                // What was counted is not what is wanted.
                "counter" => {}
                _ => block.head.push(statement),
            }
        }
        // Elements that packets made are the kernel's own.
        if block.has_flag("dynamic") {
            block.body.clear();
        }
        Some(block)
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.head.iter().filter_map(|line| line.strip_prefix("flags ")).any(|flags| flags.contains(flag))
    }

    /// What stands between braces when it is declared.
    fn declared(&self) -> String {
        if self.head.is_empty() {
            return String::new();
        }
        let statements: String =
            self.head.iter().map(|line| format!("{}; ", line.trim_end_matches(';').trim())).collect();
        format!("{{ {statements}}}")
    }

    /// How this set becomes `new`.
    fn way_to(&self, new: &Self) -> Way {
        if self.head != new.head {
            return Way::Anew;
        }
        if self.body == new.body || !self.has_flag("interval") {
            return Way::InPlace;
        }
        let concatenated = self.head.iter().any(|line| line.starts_with("type ") && line.contains(" . "));
        let (going, coming) = (other(&self.body, &new.body), other(&new.body, &self.body));
        let prefixes = |list: &[&String]| list.iter().map(|element| prefix(element)).collect::<Option<Vec<IpNet>>>();
        let apart = going.len().saturating_mul(coming.len()) < COMPARED
            && prefixes(&going).zip(prefixes(&coming)).is_some_and(|(going, coming)| {
                let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
                !going.iter().any(|old| coming.iter().any(|new| overlap(old, new)))
            });
        if concatenated || !apart { Way::Anew } else { Way::InPlace }
    }
}

/// How many braces more are opened than closed.
fn opened(text: &str) -> isize {
    text.bytes().map(|octet| isize::from(octet == b'{') - isize::from(octet == b'}')).sum()
}

fn is_set(kind: &str) -> bool {
    matches!(kind, "set" | "map")
}

fn prefix(element: &str) -> Option<IpNet> {
    element.parse().ok().or_else(|| element.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

/// A set's name without its version.
fn versioned(name: &str) -> (&str, u32) {
    let parts = name.rsplit_once('.').and_then(|(base, version)| Some((base, version.parse().ok()?)));
    parts.unwrap_or((name, 0))
}

/// The name of a set in the kernel.
fn raw(versions: &BTreeMap<String, u32>, name: &str) -> String {
    versions.get(name).map_or_else(|| name.to_owned(), |version| format!("{name}.{version}"))
}

fn with_versions(rule: &str, versions: &BTreeMap<String, u32>) -> String {
    let word = |word: &str| match word.strip_prefix('@') {
        Some(name) => format!("@{}", raw(versions, name)),
        None => word.to_owned(),
    };
    rule.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn command(text: &mut String, what: &str, name: &str, rest: &str) {
    writeln!(text, "{}", format!("{what} {FAMILY} {TABLE} {name} {rest}").trim_end())
        .expect("writing to a String never fails");
}

/// Those of `all` that are not in `but`; both are sorted.
fn other<'a>(all: &'a [String], but: &[String]) -> Vec<&'a String> {
    all.iter().filter(|element| but.binary_search(element).is_err()).collect()
}

fn elements(text: &mut String, what: &str, name: &str, all: &[String], but: &[String]) {
    let list: Vec<&str> = other(all, but).into_iter().map(String::as_str).collect();
    if !list.is_empty() {
        command(text, what, name, &format!("{{ {} }}", list.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::policy::tests::example;
    use crate::ruleset::render;

    fn table(change: impl FnOnce(&mut crate::Spec)) -> Table {
        let mut spec = example();
        change(&mut spec);
        Table::parse(&render(&Policy::new(spec).unwrap())).unwrap()
    }

    #[test]
    fn a_list_over_many_lines_in_any_order_is_the_same_set() {
        let listing = "table inet cloakway {\n\tcounter c {\n\t\tpackets 7 bytes 8\n\t}\n\n\tset s {\n\t\ttype ipv4_addr\n\
                       \t\telements = { 192.0.2.2,\n\t\t\t     192.0.2.1 }\n\t}\n\tchain f {\n\t\ttype filter hook forward \
                       priority filter - 10; policy accept;\n\t\tip saddr { 192.0.2.1, 192.0.2.2 } drop\n\t}\n}\n";
        let other = listing.replace("192.0.2.2,\n\t\t\t     192.0.2.1 }", "192.0.2.1, 192.0.2.2 }").replace('7', "9");
        let table = Table::parse(listing).unwrap();
        assert_eq!(Some(&table), Table::parse(&other).as_ref());
        assert_eq!(table.update(&table), Some(Vec::new()));
        let chain = &table.blocks[&("chain".to_owned(), "f".to_owned())];
        assert_eq!(chain.body, ["ip saddr { 192.0.2.1, 192.0.2.2 } drop"]);
    }

    #[test]
    fn what_is_no_table_is_not_taken_for_one() {
        for text in ["", "}", "table inet cloakway {", "table inet cloakway {\n\tcounter\n}", "set s {\n}"] {
            assert_eq!(Table::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_differs_is_touched() {
        let before = table(|_| {});
        let after = table(|spec| {
            spec.subscriber_prefixes[0] = "198.51.100.128/27".parse().unwrap();
            spec.prefixes[0].prefix = "203.0.113.202/32".parse().unwrap();
        });
        assert_eq!(
            before.update(&after).unwrap(),
            ["delete element inet cloakway arrivals4 { \"edge0\" . 203.0.113.200 : goto arrival4 }\n\
              delete element inet cloakway departures4 { \"priv0\" . 203.0.113.200 : goto to-link }\n\
              delete element inet cloakway link-main-v4 { 203.0.113.200 }\n\
              delete element inet cloakway private4 { 203.0.113.200 }\n\
              delete element inet cloakway subscribers4 { 198.51.100.64/26 }\n\
              add element inet cloakway arrivals4 { \"edge0\" . 203.0.113.202 : goto arrival4 }\n\
              add element inet cloakway departures4 { \"priv0\" . 203.0.113.202 : goto to-link }\n\
              add element inet cloakway link-main-v4 { 203.0.113.202 }\n\
              add element inet cloakway private4 { 203.0.113.202 }\n\
              add element inet cloakway subscribers4 { 198.51.100.128/27 }\n"]
        );
    }

    #[test]
    fn a_set_whose_intervals_overlap_their_successors_is_made_anew_before_the_rules_change_over() {
        let before = table(|_| {});
        let after = table(|spec| spec.subscriber_prefixes[0] = "198.51.100.64/27".parse().unwrap());
        let transactions = before.update(&after).unwrap();
        let [prepare, change, last] = transactions.as_slice() else { panic!("{transactions:?}") };
        assert_eq!(
            *prepare,
            "add set inet cloakway subscribers4.1 { type ipv4_addr; flags interval; }\n\
             add element inet cloakway subscribers4.1 { 198.51.100.64/27 }\n"
        );
        assert!(change.contains("ip saddr != @subscribers4.1 counter"), "{change}");
        assert!(!change.contains("chain inet cloakway input"), "{change}");
        assert_eq!(last, "delete set inet cloakway subscribers4\n");

        // What the kernel lists then is what is wanted, and what comes after it has the next version.
        let mut text = render(
            &Policy::new({
                let mut spec = example();
                spec.subscriber_prefixes[0] = "198.51.100.64/27".parse().unwrap();
                spec
            })
            .unwrap(),
        );
        text = text.replace("set subscribers4 ", "set subscribers4.1 ").replace("@subscribers4 ", "@subscribers4.1 ");
        let listed = Table::parse(&text).unwrap();
        assert_eq!(listed, after);
        let back = listed.update(&before).unwrap().concat();
        assert!(back.contains("add set inet cloakway subscribers4.2 {"), "{back}");
        assert!(back.ends_with("delete set inet cloakway subscribers4.1\n"), "{back}");

        // A change that was broken off leaves a set behind, which is taken away.
        let begun = text.replacen("\tchain ", "\tset subscribers4.2 {\n\t\ttype ipv4_addr\n\t}\n\tchain ", 1);
        let begun = Table::parse(&begun).unwrap();
        assert_ne!(begun, after);
        assert_eq!(begun.update(&after).unwrap(), ["delete set inet cloakway subscribers4.2\n"]);
        assert!(begun.update(&before).unwrap().concat().contains("add set inet cloakway subscribers4.3 {"));
    }

    #[test]
    fn chains_and_sets_come_before_what_leads_to_them_and_go_after_it() {
        let before = table(|_| {});
        let after = table(|spec| spec.prefixes[0].services = vec!["tcp/443".into()]);
        let there = before.update(&after).unwrap().concat();
        let at = |text: &str, what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
        assert!(at(&there, "add chain inet cloakway service\n") < at(&there, "goto service"));
        assert!(at(&there, "add set inet cloakway limited4 { type ipv4_addr; size 64; }") < at(&there, "goto service"));
        assert!(!there.contains("chain inet cloakway input"), "{there}");
        let back = after.update(&before).unwrap().concat();
        assert!(at(&back, "flush chain inet cloakway to-link\n") < at(&back, "delete chain inet cloakway service\n"));
        assert!(at(&back, "flush chain inet cloakway service\n") < at(&back, "delete set inet cloakway limited4\n"));
    }

    #[test]
    fn a_changed_hook_takes_a_new_table() {
        let before = table(|_| {});
        let mut after = before.clone();
        let chain = ("chain".to_owned(), "forward".to_owned());
        after.blocks.get_mut(&chain).unwrap().head[0] = "type filter hook forward priority filter;".into();
        assert_eq!(before.update(&after), None);
    }
}
