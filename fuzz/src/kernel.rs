//! What the kernel says to the forwarder, over netlink and as nftables lists it. The kernel is no stranger, but what it quotes
//! is: names, and packets.

use forwarder_core::netfilter::{Answer, Counting, Watch, generation};
use forwarder_core::ruleset::Table;
use forwarder_core::trace::{Limits, acknowledged, samples};
use forwarder_core::wireguard::{Found, family, is_alive};

/// What answers are to.
const SEQUENCE: u32 = 7;

/// Rules of a meter with the numbers that the kernel gave them.
const METER: &str = "table inet cloakway-meter {\n\
    counter name \"source-quota\" drop # handle 31\n\
    counter name \"prefix-rate\" drop # handle 32\n}\n";

/// Behind an octet that says who reads them, messages as reads of a socket give them. However they are cut into reads, whole
/// messages come to the same.
pub fn forwarder_netlink(bytes: &[u8]) {
    let Some((reader, octets)) = bytes.split_first() else { return };
    match reader % 7 {
        0 => assert_eq!(counted([octets]), counted(messages(octets))),
        1 => {
            let answer = |reads: &[&[u8]]| {
                reads.iter().map(|read| generation(read, SEQUENCE)).find(|answer| *answer != Answer::More)
            };
            assert_eq!(answer(&[octets]), answer(&messages(octets)));
        }
        2 => {
            let heard = |reads: &[&[u8]]| {
                let mut watch = Watch::new(&["cloakway", "cloakway-meter"]);
                let touched = reads.iter().fold(false, |touched, read| watch.heard(read) | touched);
                let known = (0..5).flat_map(|since| (0..5).map(move |now| (since, now)));
                (touched, known.map(|(since, now)| watch.is_untouched(since, now)).collect::<Vec<_>>())
            };
            assert_eq!(heard(&[octets]), heard(&messages(octets)));
        }
        3 => {
            let all = samples(octets);
            assert_eq!(all, messages(octets).into_iter().flat_map(samples).collect::<Vec<_>>());
            assert!(all.iter().all(|sample| sample.length <= octets.len().max(40 + 65_535)));
        }
        4 => {
            let dropped = |reads: &[&[u8]]| {
                let mut limits = Limits::new(METER);
                let samples: Vec<_> = reads.iter().flat_map(|read| limits.samples(read)).collect();
                (samples, limits.is_outdated())
            };
            assert_eq!(dropped(&[octets]), dropped(&messages(octets)));
        }
        5 => {
            let mut found = Found::default();
            if found.take(octets) == Ok(true) {
                let alive = found.peers.first().map(|peer| is_alive(&found, &peer.key, std::time::Duration::MAX));
                assert!(alive.is_none_or(|alive| !alive || found.peers[0].handshake.is_some()));
            }
            let _ = family(octets);
        }
        _ => assert!(acknowledged(octets).is_none_or(|_| octets.len() >= 20)),
    }
}

/// The counters of a table, by the answer that ends the list.
fn counted<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Option<Answer<forwarder_core::netfilter::Counted>> {
    let (mut counting, asked) = Counting::of("cloakway", SEQUENCE);
    assert!(asked.len() > 20);
    reads.into_iter().map(|read| counting.take(read)).find(|answer| *answer != Answer::More)
}

/// Whole messages, each by itself; what is behind them is none.
fn messages(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize)
        && length >= 16
        && let Some(message) = rest.get(..length)
    {
        all.push(message);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// A table as `nft` lists it. From a table to itself leads nothing but the end of what was begun once.
pub fn forwarder_ruleset(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Limits::new(text);
    let Some(table) = Table::parse(text) else { return };
    assert_eq!(Table::parse(text).as_ref(), Some(&table));
    for set in ["subscribers4", "subscribers6", "private4"] {
        let prefixes = table.prefixes(set);
        assert!(prefixes.iter().all(|prefix| prefix.prefix_len() <= prefix.max_prefix_len()));
    }
    if let Some(steps) = table.update(&table) {
        assert!(steps.iter().all(|step| step.lines().all(|line| line.starts_with("delete "))), "{steps:?}");
    }
    let _ = table.update(&Table::default());
    let _ = Table::default().update(&table);
}
