//! Why decoders differ, and who is right.

use bgp_wire::{AttributeFault as Fault, DecodeError};

use super::reading::{self, Reading};
use super::{Case, Difference, Other};
use Other::{Bgpkit, Netgauze};

/// Differences of one kind.
pub(crate) struct Class {
    pub(crate) other: Other,
    pub(crate) why: &'static str,
    /// What makes ours right, or leaves it to the receiver.
    pub(crate) section: &'static str,
    pub(crate) explains: fn(&Case) -> bool,
}

const fn class(other: Other, why: &'static str, section: &'static str, explains: fn(&Case) -> bool) -> Class {
    Class { other, why, section, explains }
}

/// Attribute types.
mod code {
    pub(super) const AS_PATH: u8 = 2;
    pub(super) const NEXT_HOP: u8 = 3;
    pub(super) const AGGREGATOR: u8 = 7;
    pub(super) const COMMUNITIES: u8 = 8;
    pub(super) const ORIGINATOR_ID: u8 = 9;
    pub(super) const CLUSTER_LIST: u8 = 10;
    pub(super) const MP_REACH: u8 = 14;
    pub(super) const MP_UNREACH: u8 = 15;
    pub(super) const EXTENDED_COMMUNITIES: u8 = 16;
    pub(super) const AS4_PATH: u8 = 17;
    pub(super) const AS4_AGGREGATOR: u8 = 18;
    pub(super) const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub(super) const LARGE_COMMUNITIES: u8 = 32;
    pub(super) const ONLY_TO_CUSTOMER: u8 = 35;
}

const NEXT_HOPS: [(Fault, u8); 2] = [(Fault::Value, code::NEXT_HOP), (Fault::Value, code::MP_REACH)];

const LISTS: [u8; 5] = [
    code::COMMUNITIES,
    code::CLUSTER_LIST,
    code::EXTENDED_COMMUNITIES,
    code::IPV6_EXTENDED_COMMUNITIES,
    code::LARGE_COMMUNITIES,
];

/// Optional attributes that one of the others takes apart, and that we have no use for.
const CARRIED: [&str; 14] = [
    "PREFIX_SID",
    "TRAFFIC_ENGINEERING",
    "TUNNEL",
    "DOMAIN_PATH",
    "AIGP",
    "BFD_DISCRIMINATOR",
    "BGP_LS",
    "BIER",
    "SFP",
    "PMSI",
    "in segment identifier",
    "in AIGP",
    "in BGP-LS",
    "ATTR_SET",
];

pub(crate) const CLASSES: &[Class] = &[
    // bgpkit-parser is made for archives: it reads what it can, and leaves the session's errors to others.
    class(Bgpkit, "takes a wrong marker with a warning in its log", "RFC 4271 §6.1", |case| {
        matches!(only_we(case), Some(DecodeError::Marker))
    }),
    class(Bgpkit, "takes a message of another length than its header says", "RFC 4271 §6.1", |case| {
        matches!(only_we(case), Some(DecodeError::Length { .. }))
    }),
    class(Bgpkit, "takes AS 0", "RFC 7607 §2", |case| {
        matches!(only_we(case), Some(DecodeError::AsZero))
            || flaw(case) == Some((Fault::Value, code::AS_PATH))
            || field(case, "as-path") && ours_is_empty(case)
    }),
    class(Bgpkit, "takes any version", "RFC 4271 §6.2", |case| matches!(only_we(case), Some(DecodeError::Version(_)))),
    class(Bgpkit, "takes hold times of one and two seconds", "RFC 4271 §6.2", |case| {
        matches!(only_we(case), Some(DecodeError::HoldTime(_)))
    }),
    class(Bgpkit, "keeps optional parameters that nobody knows", "RFC 4271 §6.2", |case| {
        matches!(only_we(case), Some(DecodeError::Parameter(_)))
    }),
    class(
        Bgpkit,
        "drops what is left of an OPEN behind its last whole parameter or capability",
        "RFC 4271 §6.2",
        |case| matches!(only_we(case), Some(DecodeError::OpenTruncated(_))),
    ),
    class(Bgpkit, "drops what is left of the list behind the last whole attribute", "RFC 7606 §4", |case| {
        flaw(case).is_some_and(|(fault, _)| fault == Fault::CutOff)
    }),
    class(Bgpkit, "takes well-known attributes that nobody knows", "RFC 4271 §6.3", |case| {
        flaw(case).is_some_and(|(fault, _)| fault == Fault::Unrecognized)
    }),
    class(Bgpkit, "takes lists without an entry", "RFC 7606 §7.8, §7.10, §7.14, §7.15, RFC 8092 §5", |case| {
        flaw(case).is_some_and(|(fault, code)| fault == Fault::Length && LISTS.contains(&code))
    }),
    class(Bgpkit, "takes an AGGREGATOR of either length on any session", "RFC 7606 §7.7, RFC 6793 §6", |case| {
        let words = [code::AGGREGATOR, code::AS4_AGGREGATOR];
        flaw(case).is_some_and(|(fault, code)| fault == Fault::Length && words.contains(&code))
            || field(case, "aggregator") && ours_is_empty(case)
    }),
    class(Bgpkit, "takes an AS4_PATH with an empty segment, or with AS 0", "RFC 6793 §6", |case| {
        flaw(case) == Some((Fault::Value, code::AS4_PATH))
    }),
    class(Bgpkit, "takes any next hop", "RFC 4271 §6.3, RFC 7606 §7.3", |case| {
        flaw(case).is_some_and(|flaw| NEXT_HOPS.contains(&flaw)) || field(case, "next-hop") && ours_is_empty(case)
    }),
    class(Bgpkit, "takes IPv6 prefixes with no next hop, or an IPv4 one", "RFC 2545 §3", |case| {
        flaw(case) == Some((Fault::Length, code::MP_REACH)) || field(case, "reach") && ours_is_empty(case)
    }),
    class(Bgpkit, "holds the partial bit against well-known attributes", "RFC 7606 §3 (c)", |case| {
        complaint(case).is_some_and(|text| text.contains("AttributeFlagsError")) && has_partial(case)
    }),
    class(Bgpkit, "knows other families by name, and no further ones", "RFC 4760 §3", |case| {
        complaint(case).is_some_and(|text| text.contains("NLRI")) && has_other_family(case)
    }),
    class(Bgpkit, "reads four-octet words from four-octet speakers", "RFC 6793 §6", |case| {
        case.context.four_octet_as && complaint(case).is_some_and(|text| text.contains("attr_type: AS4_"))
    }),
    class(Bgpkit, "reads attributes that are only carried here", "RFC 4271 §9", |case| {
        complaint(case).is_some_and(|text| CARRIED.iter().any(|name| text.contains(name)))
    }),
    class(
        Bgpkit,
        "wants ORIGIN and AS_PATH beside an MP_REACH_NLRI that holds no prefix of ours",
        "RFC 7606 §5.2",
        |case| complaint(case).is_some_and(|text| text.contains("MissingWellKnown")) && has(case, &[code::MP_REACH]),
    ),
    class(Bgpkit, "keeps prefixes of multicast groups", "RFC 4271 §6.3", |case| {
        (field(case, "announced") || field(case, "reach")) && theirs_has_multicast(case)
    }),
    class(Bgpkit, "guesses path identifiers where a prefix could be 0.0.0.0/0", "RFC 7911 §5", |case| {
        let stumbles = |text: &str| text.contains("NLRI") && text.contains("prefix");
        let reads = || has_ids(&reading::bgpkit(&case.message, case.context).0.unwrap_or_default());
        !case.context.path_ids.ipv4 && (complaint(case).is_some_and(stumbles) || reads())
    }),
    class(Bgpkit, "leaves AS4_PATH and AS4_AGGREGATOR beside what they amend", "RFC 6793 §4.2.3", amended),
    // netgauze-bgp-pkt ends at the first thing that it does not know, and says nothing of the message as a whole.
    class(Netgauze, "reads one message, whatever is behind it", "RFC 4271 §6.1", |case| {
        matches!(only_we(case), Some(DecodeError::Length { what: "frame", .. }))
    }),
    class(
        Netgauze,
        "refuses capabilities of families that it does not know, or of odd lengths",
        "RFC 5492 §3",
        |case| {
            complaint(case).is_some_and(|text| text.starts_with("in OPEN message: in open parameter: in capability"))
        },
    ),
    class(Netgauze, "takes what is behind an empty list of label counts for a part of it", "RFC 8277 §2.1", |case| {
        matches!(only_we(case), Some(DecodeError::OpenTruncated("a capability")))
            || matches!(&case.difference, Difference::Field { name: "capabilities", ours, theirs }
                if ours.starts_with(theirs) && theirs.ends_with(" 8"))
    }),
    class(Netgauze, "does not know the long form of parameters", "RFC 9072 §2", |case| {
        complaint(case).is_some_and(|text| text.contains("in OPEN message")) && case.message.get(29) == Some(&255)
    }),
    class(Netgauze, "takes AS 0", "RFC 7607 §2", |case| {
        matches!(only_we(case), Some(DecodeError::AsZero))
            || flaw(case) == Some((Fault::Value, code::AS_PATH))
            || field(case, "as-path") && ours_is_empty(case)
    }),
    class(Netgauze, "wants a router id to be a host's address", "RFC 6286 §2.1", |case| {
        complaint(case).is_some_and(|text| text.contains("invalid BGP identifier"))
    }),
    class(Netgauze, "refuses families that it does not know, and reads the ones that it does", "RFC 4760 §3", |case| {
        complaint(case).is_some_and(|text| text.contains("in MP ")) && has_other_family(case)
    }),
    class(Netgauze, "does not know confederation segments", "RFC 5065 §3", |case| {
        complaint(case).is_some_and(|text| text.contains("unknown AS_PATH segment type 3 ") || text.contains("type 4 "))
    }),
    class(Netgauze, "reads four-octet words from four-octet speakers", "RFC 6793 §6", |case| {
        complaint(case).is_some_and(|text| text.contains("in AS path")) && has(case, &[code::AS4_PATH])
    }),
    class(Netgauze, "refuses a message for a prefix of multicast groups", "RFC 4271 §6.3", |case| {
        complaint(case).is_some_and(|text| text.contains("unicast network"))
    }),
    class(
        Netgauze,
        "refuses codes and families in other messages that it does not know",
        "RFC 4271 §6.4, RFC 2918 §4",
        |case| {
            complaint(case)
                .is_some_and(|text| text.starts_with("in NOTIFICATION") || text.starts_with("in ROUTE-REFRESH"))
        },
    ),
    class(Netgauze, "holds the partial bit against well-known attributes", "RFC 7606 §3 (c)", |case| {
        complaint(case).is_some_and(|text| text.contains("Invalid partial flag"))
    }),
    class(Netgauze, "reads attributes that are only carried here", "RFC 4271 §9", |case| {
        complaint(case).is_some_and(|text| CARRIED.iter().any(|name| text.contains(name)))
    }),
    class(Netgauze, "does not look for attributes that are missing", "RFC 7606 §3 (d)", |case| {
        flaw(case).is_some_and(|(fault, _)| fault == Fault::Missing)
    }),
    class(Netgauze, "does not look for attributes that come twice, and keeps both", "RFC 7606 §3 (g)", |case| {
        flaw(case).is_some_and(|(fault, _)| fault == Fault::Repeated) || field_of_a_repeated(case)
    }),
    class(Netgauze, "takes well-known attributes that nobody knows", "RFC 4271 §6.3", |case| {
        flaw(case).is_some_and(|(fault, _)| fault == Fault::Unrecognized)
    }),
    class(Netgauze, "takes lists without an entry", "RFC 7606 §7.8, §7.10, §7.14, §7.15, RFC 8092 §5", |case| {
        flaw(case).is_some_and(|(fault, code)| fault == Fault::Length && LISTS.contains(&code))
    }),
    class(Netgauze, "reads the front of a number that is too long", "RFC 7606 §7.9, RFC 9234 §5", |case| {
        let numbers = [code::ORIGINATOR_ID, code::ONLY_TO_CUSTOMER];
        flaw(case).is_some_and(|(fault, code)| fault == Fault::Length && numbers.contains(&code))
            || ours_is_empty(case) && (field(case, "originator") || field(case, "only-to-customer"))
    }),
    class(Netgauze, "takes a next hop with a route distinguisher before unicast prefixes", "RFC 2545 §3", |case| {
        flaw(case) == Some((Fault::Length, code::MP_REACH)) || field(case, "reach") && ours_is_empty(case)
    }),
    class(Netgauze, "takes any next hop", "RFC 4271 §6.3, RFC 7606 §7.3", |case| {
        flaw(case).is_some_and(|flaw| NEXT_HOPS.contains(&flaw)) || field(case, "next-hop") && ours_is_empty(case)
    }),
    class(Netgauze, "carries AS4_AGGREGATOR unread", "RFC 6793 §6", |case| {
        flaw(case).is_some_and(|(_, code)| code == code::AS4_AGGREGATOR)
    }),
    class(Netgauze, "leaves AS4_PATH and AS4_AGGREGATOR beside what they amend", "RFC 6793 §4.2.3", amended),
];

/// What only we object to.
fn only_we(case: &Case) -> Option<&DecodeError> {
    match &case.difference {
        Difference::OnlyWe(error) => Some(error),
        _ => None,
    }
}

/// The flaw in an attribute that only we see.
fn flaw(case: &Case) -> Option<(Fault, u8)> {
    match only_we(case)? {
        DecodeError::Attribute(flaw) => Some((flaw.fault, flaw.code)),
        _ => None,
    }
}

/// What only they object to.
fn complaint(case: &Case) -> Option<&str> {
    match &case.difference {
        Difference::OnlyThey(text) => Some(text),
        _ => None,
    }
}

fn field(case: &Case, wanted: &str) -> bool {
    matches!(&case.difference, Difference::Field { name, .. } if *name == wanted)
}

fn ours_is_empty(case: &Case) -> bool {
    matches!(&case.difference, Difference::Field { ours, .. } if ours.is_empty())
}

fn theirs_has_multicast(case: &Case) -> bool {
    let Difference::Field { theirs, .. } = &case.difference else { return false };
    let multicast = |text: &str| text.parse::<ipnet::IpNet>().is_ok_and(|net| net.addr().is_multicast());
    // With a path identifier before it, or without.
    theirs.split(' ').any(|word| multicast(word) || word.split_once(':').is_some_and(|(_, prefix)| multicast(prefix)))
}

fn has_ids(reading: &Reading) -> bool {
    let words = reading.values().flat_map(|value| value.split(' ')).filter_map(|word| word.split_once(':'));
    words.into_iter().any(|(id, prefix)| id.parse::<u32>().is_ok() && prefix.parse::<ipnet::IpNet>().is_ok())
}

fn amended(case: &Case) -> bool {
    !case.context.four_octet_as
        && (field(case, "as-path") && has(case, &[code::AS4_PATH])
            || field(case, "aggregator") && has(case, &[code::AS4_AGGREGATOR]))
}

/// Flags, type and value of each attribute that can be found.
fn attributes(case: &Case) -> Vec<(u8, u8, &[u8])> {
    let mut found = Vec::new();
    let length = |at: usize| case.message.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])));
    let Some(start) = length(19).map(|withdrawn| 21 + withdrawn) else { return found };
    let list = length(start).and_then(|length| case.message.get(start + 2..start + 2 + length));
    let mut list = list.unwrap_or_default();
    while let [flags, code, rest @ ..] = list {
        let (length, rest) = match (flags & 0x10, rest) {
            (0, [length, rest @ ..]) => (usize::from(*length), rest),
            (_, [high, low, rest @ ..]) if flags & 0x10 != 0 => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => break,
        };
        let Some((value, rest)) = rest.split_at_checked(length) else { break };
        found.push((*flags, *code, value));
        list = rest;
    }
    found
}

fn has(case: &Case, codes: &[u8]) -> bool {
    attributes(case).iter().any(|(_, code, _)| codes.contains(code))
}

fn has_partial(case: &Case) -> bool {
    attributes(case).iter().any(|(flags, _, _)| flags & 0x20 != 0)
}

/// Whether the prefixes of a multiprotocol attribute are of a family that is not read here.
fn has_other_family(case: &Case) -> bool {
    let other = |value: &[u8]| !matches!(value, [0, 1 | 2, 1, ..]);
    attributes(case).iter().any(|(_, code, value)| matches!(*code, code::MP_REACH | code::MP_UNREACH) && other(value))
}

fn field_of_a_repeated(case: &Case) -> bool {
    let code = match &case.difference {
        Difference::Field { name, .. } => match *name {
            "origin" => 1,
            "as-path" => 2,
            "next-hop" => code::NEXT_HOP,
            "med" => 4,
            "local-pref" => 5,
            "aggregator" => code::AGGREGATOR,
            "communities" => code::COMMUNITIES,
            "originator" => code::ORIGINATOR_ID,
            "clusters" => 10,
            "extended" => code::EXTENDED_COMMUNITIES,
            "large" => code::LARGE_COMMUNITIES,
            "only-to-customer" => code::ONLY_TO_CUSTOMER,
            _ => return false,
        },
        _ => return false,
    };
    attributes(case).iter().filter(|(_, other, _)| *other == code).count() > 1
}

/// What an unexplained difference is filed under.
pub(crate) fn sort(case: &Case) -> String {
    let what = match &case.difference {
        Difference::OnlyWe(error) => format!("only we: {error}"),
        Difference::OnlyThey(complaint) => {
            let letters: String = complaint.chars().filter(|c| !c.is_ascii_digit()).take(110).collect();
            format!("only they: {letters}")
        }
        Difference::Field { name, .. } => format!("field {name}"),
    };
    format!("{:?}, {what}", case.other)
}
