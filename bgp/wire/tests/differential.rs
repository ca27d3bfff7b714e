//! Our decoder beside bgpkit-parser's and netgauze-bgp-pkt's, over damaged messages: what they read in another way is
//! in a table that says who is right by which RFC, or it is an error.
//!
//! `BGP_MUTATIONS=1000000` takes that many messages, `SIM_SEED=…` other ones.

#![cfg(test)]

#[path = "differential/classes.rs"]
mod classes;
#[path = "differential/mutation.rs"]
mod mutation;
#[path = "differential/reading.rs"]
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bgp_wire::{Context, DecodeError, Families};
use classes::CLASSES;
use cloakway_sim::Rng;
use reading::Reading;

/// A decoder beside ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    Bgpkit,
    Netgauze,
}

/// What two decoders do not agree on.
#[derive(Debug)]
enum Difference {
    /// They find nothing wrong, we do.
    OnlyWe(DecodeError),
    /// We find nothing wrong, they do.
    OnlyThey(String),
    /// Both read it, and read this field differently.
    Field { name: &'static str, ours: String, theirs: String },
}

/// A difference, and where it is from.
#[derive(Debug)]
struct Case {
    other: Other,
    difference: Difference,
    message: Vec<u8>,
    context: Context,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex: String = self.message.iter().skip(16).map(|octet| format!("{octet:02x}")).collect();
        let octets = if self.context.four_octet_as { 4 } else { 2 };
        let ids = self.context.path_ids.ipv4;
        write!(f, "{:?}: {:?}\n    AS numbers of {octets} octets, path ids {ids}, {hex}", self.other, self.difference)
    }
}

/// Whether the messages of a session carry path identifiers, and the size of its AS numbers, per line of the seeds.
fn seeds() -> BTreeMap<(bool, bool), Vec<Vec<u8>>> {
    let mut seeds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in include_str!("differential/seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let (context, hex) = line.split_once(' ').unwrap();
        let octets: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        seeds
            .entry((context.contains('4'), context.contains('p')))
            .or_default()
            .push([&[0xff; 16][..], &octets].concat());
    }
    seeds
}

fn context((four_octet_as, path_ids): (bool, bool)) -> Context {
    Context {
        four_octet_as,
        // The others hold no limits of a session: as loose as they are.
        extended_messages: true,
        ipv4_by_ipv6: true,
        path_ids: if path_ids { Families { ipv4: true, ipv6: true } } else { Families::NONE },
        ..Context::LEAST
    }
}

fn differences(message: &[u8], context: Context) -> Vec<Case> {
    let (reading, objections) = reading::ours(message, context);
    let mut cases = Vec::new();
    for other in [Other::Bgpkit, Other::Netgauze] {
        let (theirs, complaint) = match other {
            Other::Bgpkit => reading::bgpkit(message, context),
            Other::Netgauze => reading::netgauze(message, context),
        };
        let mut differ = |difference| cases.push(Case { other, difference, message: message.into(), context });
        match complaint {
            Some(_) if !objections.is_empty() => continue,
            Some(complaint) => {
                differ(Difference::OnlyThey(complaint));
                continue;
            }
            None => objections.iter().for_each(|objection| differ(Difference::OnlyWe(objection.clone()))),
        }
        let (Some(ours), Some(theirs)) = (&reading, theirs) else { continue };
        for (name, ours, theirs) in unequal(ours, &theirs) {
            differ(Difference::Field { name, ours, theirs });
        }
    }
    cases
}

fn unequal(ours: &Reading, theirs: &Reading) -> Vec<(&'static str, String, String)> {
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).copied().collect();
    let said = |reading: &Reading, name| reading.get(name).cloned().unwrap_or_default();
    let both = names.into_iter().map(|name| (name, said(ours, name), said(theirs, name)));
    both.filter(|(_, ours, theirs)| ours != theirs).collect()
}

#[test]
fn every_disagreement_with_two_other_decoders_over_damaged_messages_is_explained() {
    let count = std::env::var("BGP_MUTATIONS").ok().map_or(100_000, |text| text.parse().unwrap());
    let seed = std::env::var("SIM_SEED").ok().map_or(1, |text| text.parse().unwrap());
    let seeds = seeds();
    let mut rng = Rng::new(seed);
    let mut seen = vec![0_u64; CLASSES.len()];
    let mut unexplained: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let share = count / seeds.len();
    for (key, seeds) in &seeds {
        for _ in 0..share {
            let message = mutation::mutate(&mut rng, seeds);
            for case in differences(&message, context(*key)) {
                match CLASSES.iter().position(|class| class.other == case.other && (class.explains)(&case)) {
                    Some(class) => seen[class] += 1,
                    None => {
                        let sort = classes::sort(&case);
                        unexplained.entry(sort).or_insert_with(|| (0, case.to_string())).0 += 1;
                    }
                }
            }
        }
    }
    for (class, seen) in CLASSES.iter().zip(&seen) {
        eprintln!("{seen:7} {:?}: {} ({})", class.other, class.why, class.section);
    }
    let report: Vec<_> = unexplained.iter().map(|(sort, (count, one))| format!("{count} × {sort}\n  {one}")).collect();
    assert!(report.is_empty(), "SIM_SEED={seed}: {} unexplained\n{}", report.len(), report.join("\n"));
    // A class that nothing falls in any more hides what comes later.
    let idle: Vec<_> = CLASSES.iter().zip(seen).filter(|(_, seen)| *seen == 0).map(|(class, _)| class.why).collect();
    assert!(idle.is_empty() || count < 100_000, "never met: {idle:#?}");
}

#[test]
fn undamaged_messages_are_read_alike() {
    for (key, seeds) in seeds() {
        for message in seeds {
            let unexplained: Vec<_> = differences(&message, context(key))
                .into_iter()
                .filter(|case| !CLASSES.iter().any(|class| class.other == case.other && (class.explains)(case)))
                .map(|case| case.to_string())
                .collect();
            assert!(unexplained.is_empty(), "{unexplained:#?}");
        }
    }
}
