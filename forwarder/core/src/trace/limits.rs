//! What limits drop of what the guard lets through: the kernel's own account of packets on their way through the meter.
//!
//! The meter's budgets cannot be asked twice, so there is no copy of its table as of the guard's. The copy marks a few of the
//! packets that the guard lets through (`meta nftrace set 1`), and the kernel says which rule they met last.

use std::collections::BTreeMap;

use super::{Sample, Why, index, read};
use crate::meter::{Over, ruleset};
use crate::netfilter::{Message, attributes, messages};

/// The group of netlink that hears of it (`NFNLGRP_NFTRACE`).
pub const GROUP: u32 = 9;

/// The type of its messages: the subsystem, and the message in it (`NFT_MSG_TRACE`).
const MESSAGE: u16 = 10 << 8 | 17;

// linux/netfilter/nf_tables.h
const TABLE: u16 = 1;
const RULE: u16 = 3;
const TYPE: u16 = 4;
const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const IN: u16 = 10;
const OUT: u16 = 12;
const OF_A_RULE: u32 = 3;
const VERDICT_CODE: u16 = 1;
const DROP: u32 = 0;

/// Packets that are on their way; more are forgotten.
const KEPT: usize = 1024;

/// What is known of the meter's rules, and of packets on their way through them.
#[derive(Debug, Default)]
pub struct Limits {
    rules: BTreeMap<u64, Over>,
    packets: BTreeMap<u32, Packet>,
    is_outdated: bool,
}

#[derive(Debug, Clone, Default)]
struct Packet {
    from: Option<u32>,
    to: Option<u32>,
    headers: Vec<u8>,
}

impl Limits {
    /// By what `nft -a list table` says of the meter.
    #[must_use]
    pub fn new(listing: &str) -> Self {
        let rules = listing.lines().filter_map(|line| {
            let (rule, handle) = line.split_once(" # handle ")?;
            let name = rule.split_once("counter name \"")?.1.strip_suffix("\" drop")?;
            let over = Over::ALL.into_iter().find(|over| over.name() == name)?;
            Some((handle.trim().parse().ok()?, over))
        });
        Self { rules: rules.collect(), ..Self::default() }
    }

    /// Whether a rule dropped a packet that is not known here: the table has become another.
    #[must_use]
    pub const fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    /// The packets that were dropped, in what one read gave.
    pub fn samples(&mut self, bytes: &[u8]) -> Vec<Sample> {
        messages(bytes).filter(|message| message.kind == MESSAGE).filter_map(|message| self.event(message)).collect()
    }

    fn event(&mut self, message: Message<'_>) -> Option<Sample> {
        let of = |wanted: u16| message.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let table = of(TABLE)?.split(|octet| *octet == 0).next()?;
        if table != ruleset::TABLE.as_bytes() {
            return None;
        }
        let id = index(of(ID)?)?;
        if let Some(header) = of(NETWORK_HEADER) {
            if self.packets.len() >= KEPT {
                self.packets.clear();
            }
            let headers = [header, of(TRANSPORT_HEADER).unwrap_or_default()].concat();
            self.packets.insert(id, Packet { from: of(IN).and_then(index), to: of(OUT).and_then(index), headers });
        }
        let verdict =
            attributes(of(VERDICT)?).find(|(kind, _)| *kind == VERDICT_CODE).and_then(|(_, code)| index(code));
        if index(of(TYPE)?)? != OF_A_RULE || verdict != Some(DROP) {
            return None;
        }
        let packet = self.packets.remove(&id).unwrap_or_default();
        let rule = of(RULE)?.first_chunk().map(|handle| u64::from_be_bytes(*handle))?;
        let Some(over) = self.rules.get(&rule) else {
            self.is_outdated = true;
            return None;
        };
        let (length, parsed) = read(&packet.headers);
        Some(Sample { why: Why::Limit(*over), from: packet.from, to: packet.to, length, packet: parsed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{attribute, message_of};
    use proptest::prelude::*;

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        message_of(MESSAGE, attributes)
    }

    fn event(table: &str, id: u32, handle: u64, code: i32, more: &[Vec<u8>]) -> Vec<u8> {
        let table = format!("{table}\0");
        let fixed = [
            attribute(TABLE, table.as_bytes()),
            attribute(ID, &id.to_be_bytes()),
            attribute(TYPE, &OF_A_RULE.to_be_bytes()),
            attribute(RULE, &handle.to_be_bytes()),
            attribute(VERDICT | 0x8000, &attribute(VERDICT_CODE, &code.to_be_bytes())),
        ];
        message(&[&fixed[..], more].concat())
    }

    const LISTING: &str = "table inet cloakway-meter { # handle 7\n\tchain to4-source-rate { # handle 9\n\
        \t\tupdate @source-rate4 { ip saddr limit rate 5/second } goto to4-passed # handle 31\n\
        \t\tip saddr != @source-rate4 counter name \"sources-full\" drop # handle 32\n\
        \t\tcounter name \"source-rate\" drop # handle 33\n\t}\n\tchain to4-passed { # handle 10\n\
        \t\tcounter name \"to-private\" accept # handle 34\n\t}\n}\n";

    #[test]
    fn the_rule_that_dropped_a_packet_says_why_and_the_first_event_which_packet() {
        let mut packet = vec![0x45, 0, 0, 36, 0, 1, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 70, 203, 0, 113, 200];
        let sum = crate::user::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let first = [
            attribute(NETWORK_HEADER, &packet),
            attribute(TRANSPORT_HEADER, &[0x0f, 0xa0, 0x01, 0xbb, 0, 16, 0, 0]),
            attribute(IN, &3_u32.to_be_bytes()),
            attribute(OUT, &5_u32.to_be_bytes()),
        ];
        let mut limits = Limits::new(LISTING);
        // GOTO, and another packet, and another table in between.
        assert!(limits.samples(&event("cloakway-meter", 1, 30, -4, &first)).is_empty());
        assert!(limits.samples(&event("cloakway-meter", 2, 34, 1, &first)).is_empty());
        assert!(limits.samples(&event("cloakway", 1, 33, 0, &first)).is_empty());
        let both = [event("cloakway-meter", 1, 33, 0, &[]), event("cloakway-meter", 3, 32, 0, &first)].concat();
        let samples = limits.samples(&both);
        let whys: Vec<_> = samples.iter().map(|sample| sample.why.name()).collect();
        assert_eq!(whys, ["source-rate", "sources-full"]);
        let [one, _] = &samples[..] else { panic!("two") };
        assert_eq!((one.from, one.to, one.length), (Some(3), Some(5), 36));
        assert_eq!(one.packet.unwrap().ports, Some((4000, 443)));
        assert!(!limits.is_outdated());
        assert!(limits.samples(&event("cloakway-meter", 4, 99, 0, &first)).is_empty());
        assert!(limits.is_outdated(), "a rule that is not known");
    }

    #[test]
    fn what_never_ends_is_forgotten() {
        let mut limits = Limits::new(LISTING);
        for id in 0..5000 {
            limits.samples(&event("cloakway-meter", id, 31, -4, &[attribute(NETWORK_HEADER, &[0x45])]));
        }
        assert!(limits.packets.len() <= KEPT);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..200), headers in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut limits = Limits::new(LISTING);
            let _ = limits.samples(&octets);
            let _ = limits.samples(&message(&[octets]));
            let _ = limits.samples(&event("cloakway-meter", 1, 33, 0, &[attribute(NETWORK_HEADER, &headers)]));
        }
    }
}
