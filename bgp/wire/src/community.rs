//! Communities: of four octets (RFC 1997), extended (RFC 4360) and large (RFC 8092).

use std::fmt;
use std::str::FromStr;

/// A community (RFC 1997).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// The well-known communities by the names that operators write.
const WELL_KNOWN: [(Community, &str); 8] = [
    (Community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
    (Community::LLGR_STALE, "llgr-stale"),
    (Community::NO_LLGR, "no-llgr"),
    (Community::BLACKHOLE, "blackhole"),
    (Community::NO_EXPORT, "no-export"),
    (Community::NO_ADVERTISE, "no-advertise"),
    (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    (Community::NO_PEER, "no-peer"),
];

impl Community {
    /// The link is about to go: prefer any other path (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// Kept long after its router was lost: prefer any other path (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// Not to be kept when its router is lost (RFC 9494).
    pub const NO_LLGR: Self = Self(0xffff_0007);
    /// Drop what is sent there (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// Not to be advertised outside the AS (or confederation).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Not to be advertised to any other BGP peer.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not to be advertised outside the member AS of a confederation.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// Not to be advertised to bilateral peers (RFC 3765).
    pub const NO_PEER: Self = Self(0xffff_ff04);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

/// A text is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "community {0:?} is not understood: write `number:number` with numbers up to 65535, `no-export`, \
     `no-advertise`, `no-export-subconfed`, `no-peer`, `graceful-shutdown`, `llgr-stale`, `no-llgr` or `blackhole`"
)]
pub struct CommunityError(pub String);

impl FromStr for Community {
    type Err = CommunityError;
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Some((known, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == text) {
            return Ok(*known);
        }
        let wrong = || CommunityError(text.to_owned());
        let (high, low) = text.split_once(':').ok_or_else(wrong)?;
        let half = |text: &str| text.parse::<u16>().map(u32::from).map_err(|_| wrong());
        Ok(Self(half(high)? << 16 | half(low)?))
    }
}

/// An extended community (RFC 4360): type, subtype where it has one, and value, unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// Whether it may leave the AS (RFC 4360 §2).
    #[must_use]
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

/// As `rt:64500:100` or `ro:…` for route targets and origins of an AS or an address, otherwise as `0x` and sixteen digits.
impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subtype, a, b, c, d, e, g] = self.0;
        let name = match subtype {
            2 => "rt",
            3 => "ro",
            _ => "",
        };
        match (kind, name) {
            (0, "rt" | "ro") => {
                write!(f, "{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g]))
            }
            (2, "rt" | "ro") => {
                write!(f, "{name}:{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g]))
            }
            (1, "rt" | "ro") => write!(f, "{name}:{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, g])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

/// A text is no extended community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "extended community {0:?} is not understood: write `rt:64500:100` or `ro:192.0.2.1:100` (also `target:`, \
     `origin:`), `redirect:64500:100`, `bandwidth:64500:1e9`, or `0x` and sixteen digits"
)]
pub struct ExtendedCommunityError(pub String);

impl FromStr for ExtendedCommunity {
    type Err = ExtendedCommunityError;
    fn from_str(text: &str) -> Result<Self, ExtendedCommunityError> {
        read_extended(text).ok_or_else(|| ExtendedCommunityError(text.to_owned()))
    }
}

fn read_extended(text: &str) -> Option<ExtendedCommunity> {
    if let Some(digits) = text.strip_prefix("0x") {
        let right = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u64::from_str_radix(digits, 16).ok().filter(|_| right)?;
        return Some(ExtendedCommunity(number.to_be_bytes()));
    }
    let mut parts: Vec<&str> = text.split(':').collect();
    let name = if parts.len() == 2 { "target" } else { parts.remove(0) };
    let [whose, value] = parts.as_slice() else { return None };
    let of = |kind: u8, subtype: u8, whose: &[u8], value: &[u8]| {
        let bytes = [&[kind, subtype], whose, value].concat();
        bytes.try_into().ok().map(ExtendedCommunity)
    };
    let two = || whose.parse::<u16>().ok().map(u16::to_be_bytes);
    match name {
        "rt" | "target" | "ro" | "origin" | "target4" | "origin4" => {
            let subtype = if name.starts_with("rt") || name.starts_with("target") { 2 } else { 3 };
            if let Ok(address) = whose.parse::<std::net::Ipv4Addr>() {
                return of(1, subtype, &address.octets(), &value.parse::<u16>().ok()?.to_be_bytes());
            }
            // `L` behind a number says that it takes four octets.
            let (asn, long) = whose.strip_suffix('L').map_or((*whose, name.ends_with('4')), |asn| (asn, true));
            let asn = asn.parse::<u32>().ok()?;
            match u16::try_from(asn) {
                Ok(asn) if !long => of(0, subtype, &asn.to_be_bytes(), &value.parse::<u32>().ok()?.to_be_bytes()),
                _ => of(2, subtype, &asn.to_be_bytes(), &value.parse::<u16>().ok()?.to_be_bytes()),
            }
        }
        // RFC 8955 §7.4.
        "redirect" => of(0x80, 8, &two()?, &value.parse::<u32>().ok()?.to_be_bytes()),
        // Octets a second (draft-ietf-idr-link-bandwidth), which stays inside the AS.
        "bandwidth" => {
            let rate = value.parse::<f32>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0)?;
            of(0x40, 4, &two()?, &rate.to_be_bytes())
        }
        _ => None,
    }
}

/// A large community (RFC 8092): whose, and two numbers of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

/// A text is no large community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("large community {0:?} is not understood: write three numbers up to 4294967295, as in `64500:1:2`")]
pub struct LargeCommunityError(pub String);

impl FromStr for LargeCommunity {
    type Err = LargeCommunityError;
    fn from_str(text: &str) -> Result<Self, LargeCommunityError> {
        let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([asn, first, second]) => Ok(Self(*asn, *first, *second)),
            _ => Err(LargeCommunityError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_read_as_they_print() {
        for text in ["no-export", "no-advertise", "no-peer", "blackhole", "64500:100", "0:0"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1:65536", "1:2:3", "-1:2", "NO-EXPORT"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
    }

    #[test]
    fn extended_communities_read_as_operators_write_them() {
        for (text, octets) in [
            ("rt:64500:100", [0, 2, 0xfb, 0xf4, 0, 0, 0, 100]),
            ("target:64500:100", [0, 2, 0xfb, 0xf4, 0, 0, 0, 100]),
            ("64500:100", [0, 2, 0xfb, 0xf4, 0, 0, 0, 100]),
            ("origin:64500:100", [0, 3, 0xfb, 0xf4, 0, 0, 0, 100]),
            ("target4:100:7", [2, 2, 0, 0, 0, 100, 0, 7]),
            ("target:100L:7", [2, 2, 0, 0, 0, 100, 0, 7]),
            ("ro:65536:100", [2, 3, 0, 1, 0, 0, 0, 100]),
            ("rt:192.0.2.1:5", [1, 2, 192, 0, 2, 1, 0, 5]),
            ("redirect:64500:100", [0x80, 8, 0xfb, 0xf4, 0, 0, 0, 100]),
            ("bandwidth:64500:1", [0x40, 4, 0xfb, 0xf4, 0x3f, 0x80, 0, 0]),
            ("0x4300000000000002", [0x43, 0, 0, 0, 0, 0, 0, 2]),
        ] {
            assert_eq!(text.parse(), Ok(ExtendedCommunity(octets)), "{text}");
        }
        for text in [
            "",
            "rt:1",
            "1",
            "rt:65536:65536",
            "rt:1:2:3",
            "rt:x:1",
            "0x43",
            "0x430000000000000g",
            "0x+300000000000002",
            "bandwidth:1:nan",
            "colour:1:2",
            "rt:192.0.2.1:65536",
        ] {
            assert!(text.parse::<ExtendedCommunity>().is_err(), "{text}");
        }
        let shown = ["rt:64500:100", "ro:65536:100", "rt:192.0.2.1:5", "0x4300000000000002"];
        for text in shown {
            assert_eq!(text.parse::<ExtendedCommunity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn extended_and_large_communities_print_as_operators_write_them() {
        assert_eq!(ExtendedCommunity([0, 2, 0xfb, 0xf4, 0, 0, 0, 100]).to_string(), "rt:64500:100");
        assert_eq!(ExtendedCommunity([2, 3, 0, 1, 0, 0, 0, 100]).to_string(), "ro:65536:100");
        assert_eq!(ExtendedCommunity([0x43, 0, 0, 0, 0, 0, 0, 2]).to_string(), "0x4300000000000002");
        assert!(!ExtendedCommunity([0x43, 0, 0, 0, 0, 0, 0, 2]).is_transitive());
        for text in ["0:0:0", "64500:1:4294967295"] {
            assert_eq!(text.parse::<LargeCommunity>().unwrap().to_string(), text);
        }
        for text in ["", "1:2", "1:2:3:4", "1:2:4294967296", "a:b:c"] {
            assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
        }
    }
}
