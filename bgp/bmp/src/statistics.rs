//! Numbers that a router reports of a peer (RFC 7854 §4.8, RFC 8671 §6.2).

use bgp_wire::{Family, Reader};

/// One number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistic {
    /// What it counts, by its number.
    pub kind: u16,
    /// Of one family alone: AFI and SAFI.
    pub family: Option<(u16, u8)>,
    /// How many.
    pub value: u64,
}

/// What a number counts, where it is known here, and of which of our families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counted {
    /// Short, for people and labels.
    pub name: &'static str,
    /// Of all, without one.
    pub family: Option<Family>,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)?;
        self.family.map_or(Ok(()), |family| write!(f, " of {family}"))
    }
}

impl Statistic {
    /// What it counts; `None` for what nobody here knows, and of families that are not ours.
    #[must_use]
    pub fn counted(&self) -> Option<Counted> {
        let (name, by_family) = known(self.kind)?;
        let family = match (by_family, self.family) {
            (true, Some((afi, safi))) => Some(Family::from_codes(afi, safi)?),
            (false, None) => None,
            _ => return None,
        };
        Some(Counted { name, family })
    }

    /// The value without its type and length: a counter of four octets, a gauge of eight, or one of a family.
    pub(crate) fn decode(kind: u16, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let (family, value) = match value.len() {
            4 => (None, u64::from(reader.u32()?)),
            8 => (None, u64::from_be_bytes(reader.array()?)),
            11 => (Some((reader.u16()?, reader.u8()?)), u64::from_be_bytes(reader.array()?)),
            _ => return None,
        };
        Some(Self { kind, family, value })
    }

    /// The same, written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some((afi, safi)) = self.family {
            out.extend_from_slice(&afi.to_be_bytes());
            out.push(safi);
        }
        match u32::try_from(self.value) {
            Ok(counter) if self.family.is_none() && is_counter(self.kind) => out.extend(counter.to_be_bytes()),
            _ => out.extend(self.value.to_be_bytes()),
        }
        out
    }
}

const fn is_counter(kind: u16) -> bool {
    matches!(kind, 0..=6 | 11..=13)
}

/// Its name, and whether it is told by family.
const fn known(kind: u16) -> Option<(&'static str, bool)> {
    Some(match kind {
        0 => ("rejected", false),
        1 => ("duplicate-prefixes", false),
        2 => ("duplicate-withdraws", false),
        3 => ("cluster-list-loops", false),
        4 => ("as-path-loops", false),
        5 => ("originator-loops", false),
        6 => ("confederation-loops", false),
        7 => ("adj-rib-in", false),
        8 => ("loc-rib", false),
        9 => ("adj-rib-in", true),
        10 => ("loc-rib", true),
        11 => ("treated-as-withdraw-updates", false),
        12 => ("treated-as-withdraw-prefixes", false),
        13 => ("duplicate-updates", false),
        14 => ("adj-rib-out-pre", false),
        15 => ("adj-rib-out-post", false),
        16 => ("adj-rib-out-pre", true),
        17 => ("adj-rib-out-post", true),
        _ => return None,
    })
}
