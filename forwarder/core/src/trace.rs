//! A live sample of what the guard drops: a copy of its table that logs where the guard drops, and what the kernel then says.
//!
//! The copy is asked just before the guard and drops nothing. Each of its rules logs no more than so many packets a second, so that
//! a flood costs the host little and hides no other reason.

mod limits;
mod recent;

use std::fmt::Write as _;

use crate::decide::Reason;
use crate::meter::{Metering, Over};
use crate::netfilter::{Message, messages};
use crate::parse::{Parsed, parse};
use crate::policy::Policy;
use crate::ruleset::{FAMILY, FROM_PRIVATE, TO_PRIVATE, render};
pub use limits::{GROUP as LIMITS_GROUP, Limits};
pub use recent::{Dropped, Recent, WANTED};

/// How many packets a rule logs in a second, and how many at once.
const RATE: u32 = 100;
const BURST: u32 = 20;

/// How many octets of a packet the kernel hands over: the headers, as long as they are of the usual length.
pub const SNAP: usize = 128;

/// The command that makes the copy, in one line. It is called `name`, belongs to the one who makes it, and goes with him;
/// it logs to `group`.
#[must_use]
pub fn command(policy: &Policy, name: &str, group: u16) -> String {
    // What the user data plane's guard drops as a copy has a reason too.
    let text = render(&policy.clone().in_kernel());
    let is_metered = policy.metering() == Metering::Kernel;
    let mut command = format!("table {FAMILY} {name} {{ flags owner;");
    // What the outer line of the table and its end say is said already.
    let mut lines = text.lines().map(str::trim).skip(1).peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("counter ") && line.ends_with('{') {
            // A counter counts in the guard.
            while lines.next_if(|line| *line != "}").is_some() {}
            lines.next();
            continue;
        }
        command.push(' ');
        match line {
            _ if line.ends_with('{') => command.push_str(line),
            "}" => command.push_str("};"),
            _ => write(&mut command, format_args!("{};", logging(line, group, is_metered))),
        }
    }
    // The last of these ends the table.
    command
}

/// A line of the guard as it stands in the copy. Behind what the guard lets through there may be a meter: a few of these are
/// followed there.
fn logging(line: &str, group: u16, is_metered: bool) -> String {
    if line.starts_with("type filter hook ") {
        return line
            .replace("priority filter - 10", "priority filter - 11")
            .replace("; policy accept;", "; policy accept");
    }
    let Some((test, rest)) = line.split_once("counter name \"") else { return line.to_owned() };
    let Some((name, verdict)) = rest.split_once("\" ") else { return line.to_owned() };
    if is_metered && verdict == "accept" && [TO_PRIVATE, FROM_PRIVATE].contains(&name) {
        return format!("{test}limit rate {RATE}/second burst {BURST} packets meta nftrace set 1 accept; {test}accept");
    }
    if verdict != "drop" {
        return format!("{test}{verdict}");
    }
    // With the burst used up the rule does not match, and the packet would meet the next one.
    let log =
        format!("limit rate {RATE}/second burst {BURST} packets log prefix \"{name}\" group {group} snaplen {SNAP}");
    format!("{test}{log} accept; {test}accept")
}

fn write(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a String never fails");
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// By the policy.
    Policy(Reason),
    /// It is beyond a limit.
    Limit(Over),
}

impl Why {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        Reason::ALL.into_iter().map(Self::Policy).chain(Over::ALL.into_iter().map(Self::Limit))
    }

    /// The one of this name.
    #[must_use]
    pub fn called(name: &str) -> Option<Self> {
        Self::all().find(|why| why.name() == name)
    }

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy(reason) => reason.name(),
            Self::Limit(over) => over.name(),
        }
    }

    /// What it means, in a line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Policy(reason) => reason.meaning(),
            Self::Limit(over) => over.meaning(),
        }
    }
}

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Why.
    pub why: Why,
    /// The index of the interface that it came in by, if any.
    pub from: Option<u32>,
    /// The index of the interface that it would have left by, as far as that was known.
    pub to: Option<u32>,
    /// How long it says that it is, in octets of IP.
    pub length: usize,
    /// What its headers say; `None` when they say nothing that can be understood.
    pub packet: Option<Parsed>,
}

/// What a message of the kernel's log is (`linux/netfilter/nfnetlink_log.h`).
const IN: u16 = 4;
const OUT: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// The type of a message with a packet: the subsystem, and the message in it.
pub const MESSAGE: u16 = 4 << 8;

/// The packets in what one read of the log's socket gave.
#[must_use]
pub fn samples(bytes: &[u8]) -> Vec<Sample> {
    messages(bytes).filter(|message| message.kind == MESSAGE).filter_map(sample).collect()
}

fn sample(message: Message<'_>) -> Option<Sample> {
    let (mut reason, mut from, mut to, mut payload) = (None, None, None, &[][..]);
    for (kind, value) in message.attributes() {
        match kind {
            PREFIX => {
                let name = value.split(|octet| *octet == 0).next().unwrap_or_default();
                reason = Reason::ALL.into_iter().find(|reason| reason.name().as_bytes() == name);
            }
            IN => from = index(value),
            OUT => to = index(value),
            PAYLOAD => payload = value,
            _ => {}
        }
    }
    let (length, packet) = read(payload);
    Some(Sample { why: Why::Policy(reason?), from, to, length, packet })
}

/// How long a packet says that it is, and what its headers say, of which this is the beginning.
fn read(beginning: &[u8]) -> (usize, Option<Parsed>) {
    let length = crate::user::length(beginning).unwrap_or(beginning.len());
    // What was cut off belongs to it, whatever it was.
    let mut whole = beginning.to_vec();
    whole.resize(length.max(beginning.len()), 0);
    (length, parse(&whole).ok())
}

fn index(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// What the kernel is asked for: the log's packets, each at once, and this much of each.
#[must_use]
pub fn requests(group: u16) -> Vec<Vec<u8>> {
    const CONFIGURE: u16 = MESSAGE | 1;
    const COMMAND: u16 = 1;
    const MODE: u16 = 2;
    const THRESHOLD: u16 = 5;
    let snap = u32::try_from(SNAP).unwrap_or(u32::MAX).to_be_bytes();
    let bind = vec![1];
    let packets = [&snap[..], &[2, 0]].concat();
    let at_once = 1_u32.to_be_bytes().to_vec();
    let request = |(kind, value): (u16, Vec<u8>)| {
        let size = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
        let mut attribute = [&size(value.len() + 4).to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let length = u32::from(size(attribute.len() + 20)).to_ne_bytes();
        // A request that is to be acknowledged.
        let flags = 5_u16.to_ne_bytes();
        let header = [&length[..], &CONFIGURE.to_ne_bytes(), &flags, &[0; 8]].concat();
        [header, vec![0, 0], group.to_be_bytes().to_vec(), attribute].concat()
    };
    [(COMMAND, bind), (MODE, packets), (THRESHOLD, at_once)].map(request).to_vec()
}

/// What an acknowledgement says: the number of the error, 0 for none; `None` when it is something else.
#[must_use]
pub fn acknowledged(bytes: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let kind: [u8; 2] = *bytes.get(4..)?.first_chunk()?;
    let code: [u8; 4] = *bytes.get(16..)?.first_chunk()?;
    (u16::from_ne_bytes(kind) == ERROR).then(|| -i32::from_ne_bytes(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;
    use crate::ruleset::counters;
    use proptest::prelude::*;

    pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut octets = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    pub(super) fn message_of(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = u32::try_from(body.len() + 20).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 14], &body].concat()
    }

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        message_of(MESSAGE, attributes)
    }

    #[test]
    fn the_copy_logs_where_the_guard_drops_and_drops_nothing() {
        let mut spec = example();
        spec.prefixes[0].services = vec!["tcp/443".into()];
        let policy = Policy::new(spec).unwrap().only_attended();
        let policy = policy.with_limits(crate::meter::tests::limits(), Metering::Mark).unwrap();
        let metered = policy.clone().with_limits(crate::meter::tests::limits(), Metering::Kernel).unwrap();
        let followed = command(&metered, "cloakway_trace", 7);
        assert!(followed.matches(" meta nftrace set 1 accept; ").count() >= 2, "{followed}");
        assert!(!command(&policy, "cloakway_trace", 7).contains("nftrace"));
        for policy in [policy.clone(), policy.in_user_space(), metered] {
            let command = command(&policy, "cloakway_trace", 7);
            assert!(command.starts_with("table inet cloakway_trace { flags owner; set "), "{command}");
            assert!(!command.contains('\n') && !command.contains("counter") && !command.contains(" drop"), "{command}");
            assert_eq!(command.matches('{').count(), command.matches('}').count(), "{command}");
            assert_eq!(command.matches("priority filter - 11;").count(), 4);
            // What the mark is for is the program's.
            let by_mark = policy.metering() == Metering::Mark;
            for reason in Reason::ALL.into_iter().filter(|reason| by_mark || *reason != Reason::Unmetered) {
                let log = format!("log prefix \"{}\" group 7 snaplen 128 accept;", reason.name());
                assert!(command.contains(&log), "{log}");
            }
        }
        assert!(counters().count() > Reason::ALL.len(), "what is not dropped is not logged");
    }

    #[test]
    fn a_message_says_why_which_way_and_what() {
        let mut packet = vec![0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 10, 203, 0, 113, 200];
        let sum = crate::user::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x0f, 0xa0, 0x01, 0xbb]);
        packet.resize(SNAP, 0xa5);
        let one = message(&[
            attribute(IN, &3_u32.to_be_bytes()),
            attribute(PREFIX, b"spoofed-source\0"),
            attribute(PAYLOAD, &packet),
        ]);
        let [sample] = &samples(&[one.clone(), message(&[attribute(PREFIX, b"strange\0")])].concat())[..] else {
            panic!("one is ours")
        };
        assert_eq!(
            (sample.why, sample.from, sample.to, sample.length),
            (Why::Policy(Reason::SpoofedSource), Some(3), None, 1500)
        );
        assert_eq!(sample.packet.unwrap().ports, Some((4000, 443)));
        assert_eq!(samples(&[one.clone(), one].concat()).len(), 2);
        assert!(samples(&message(&[attribute(PREFIX, b"hairpin\0")]))[0].packet.is_none());
    }

    #[test]
    fn the_log_is_asked_for_by_three_requests_and_acknowledges() {
        let requests = requests(0x1234);
        assert_eq!(requests.len(), 3);
        for request in requests {
            assert_eq!(u32::from_ne_bytes(*request.first_chunk().unwrap()) as usize, request.len());
            assert_eq!(request[18..20], [0x12, 0x34]);
        }
        let refusal = [&[36, 0, 0, 0][..], &2_u16.to_ne_bytes(), &[0; 10], &(-16_i32).to_ne_bytes()].concat();
        assert_eq!(acknowledged(&refusal), Some(16));
        assert_eq!(acknowledged(&message(&[])), None);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..200), kind in prop_oneof![Just(MESSAGE), any::<u16>()]) {
            let _ = (samples(&octets), acknowledged(&octets));
            let length = u32::try_from(octets.len() + 20).unwrap();
            let _ = samples(&[&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 14], &octets].concat());
        }
    }
}
