//! AS_PATH and AS4_PATH (RFC 4271 §4.3, RFC 5065 §3, RFC 6793 §4).

use std::fmt;

use crate::error::EncodeError;
use crate::reader::Reader;
use crate::types::Asn;

/// One segment of an AS_PATH, of 1 to 255 AS numbers (RFC 4271 §4.3, RFC 5065 §3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Unordered.
    Set(Vec<Asn>),
    /// Ordered, nearest first.
    Sequence(Vec<Asn>),
    /// Ordered, within the confederation.
    ConfederationSequence(Vec<Asn>),
    /// Unordered, within the confederation.
    ConfederationSet(Vec<Asn>),
}

impl Segment {
    fn new(kind: u8, numbers: Vec<Asn>) -> Option<Self> {
        match kind {
            1 => Some(Self::Set(numbers)),
            2 => Some(Self::Sequence(numbers)),
            3 => Some(Self::ConfederationSequence(numbers)),
            4 => Some(Self::ConfederationSet(numbers)),
            _ => None,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(_) => 2,
            Self::ConfederationSequence(_) => 3,
            Self::ConfederationSet(_) => 4,
        }
    }

    /// Its AS numbers.
    #[must_use]
    pub fn numbers(&self) -> &[Asn] {
        match self {
            Self::Set(numbers)
            | Self::Sequence(numbers)
            | Self::ConfederationSequence(numbers)
            | Self::ConfederationSet(numbers) => numbers,
        }
    }

    /// What it adds to the path's length (RFC 4271 §9.1.2.2, RFC 5065 §5.3).
    fn length(&self) -> usize {
        match self {
            Self::Set(_) => 1,
            Self::Sequence(numbers) => numbers.len(),
            Self::ConfederationSequence(_) | Self::ConfederationSet(_) => 0,
        }
    }

    pub(crate) const fn within_confederation(&self) -> bool {
        matches!(self, Self::ConfederationSequence(_) | Self::ConfederationSet(_))
    }
}

/// An AS path; empty for a route of the own AS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of one sequence; of none when `numbers` is empty.
    #[must_use]
    pub fn sequence(numbers: impl Into<Vec<Asn>>) -> Self {
        let numbers = numbers.into();
        Self(if numbers.is_empty() { Vec::new() } else { vec![Segment::Sequence(numbers)] })
    }

    /// Whether `asn` is on the path: a loop, if it is our own (RFC 4271 §9.1.2).
    #[must_use]
    pub fn contains(&self, asn: Asn) -> bool {
        self.0.iter().any(|segment| segment.numbers().contains(&asn))
    }

    /// How long it counts (RFC 4271 §9.1.2.2): a set as one, what is within a confederation as nothing.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.iter().map(Segment::length).sum()
    }

    /// The neighbouring AS that it came from: the first of the first sequence outside the confederation; `None` when
    /// there is none or a set comes first.
    #[must_use]
    pub fn first(&self) -> Option<Asn> {
        match self.0.iter().find(|segment| !segment.within_confederation())? {
            Segment::Sequence(numbers) => numbers.first().copied(),
            _ => None,
        }
    }

    /// The AS that originated the route (RFC 6811 §2): the last of the last sequence; `None` when a set comes last or
    /// the path is empty.
    #[must_use]
    pub fn origin(&self) -> Option<Asn> {
        match self.0.iter().rfind(|segment| !segment.within_confederation())? {
            Segment::Sequence(numbers) => numbers.last().copied(),
            _ => None,
        }
    }

    /// The path as `asn` passes it to another AS (RFC 4271 §5.1.2, RFC 5065 §4.1): in front of it, and without what is
    /// within a confederation.
    #[must_use]
    pub fn prepended(&self, asn: Asn) -> Self {
        let mut segments: Vec<Segment> =
            self.0.iter().filter(|segment| !segment.within_confederation()).cloned().collect();
        match segments.first_mut() {
            Some(Segment::Sequence(numbers)) if numbers.len() < 255 => numbers.insert(0, asn),
            _ => segments.insert(0, Segment::Sequence(vec![asn])),
        }
        Self(segments)
    }

    /// `None` when it is malformed: RFC 7606 §7.2 names the ways.
    pub(crate) fn decode(value: &[u8], four_octets: bool) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let (kind, count) = (reader.u8()?, reader.u8()?);
            let octets = reader.take(usize::from(count) * if four_octets { 4 } else { 2 })?;
            let numbers: Vec<Asn> = if four_octets {
                octets.as_chunks().0.iter().map(|number| Asn(u32::from_be_bytes(*number))).collect()
            } else {
                octets.as_chunks().0.iter().map(|number| Asn(u16::from_be_bytes(*number).into())).collect()
            };
            // RFC 7606 §7.2: an empty segment; RFC 7607 §2: AS 0.
            if numbers.is_empty() || numbers.contains(&Asn(0)) {
                return None;
            }
            segments.push(Segment::new(kind, numbers)?);
        }
        Some(Self(segments))
    }

    pub(crate) fn encode(&self, four_octets: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        for segment in &self.0 {
            let length = segment.numbers().len();
            let count =
                u8::try_from(length).map_err(|_| EncodeError { what: "AS_PATH segment", length, limit: 255 })?;
            out.extend_from_slice(&[segment.kind(), count]);
            for number in segment.numbers() {
                if four_octets {
                    out.extend_from_slice(&number.0.to_be_bytes());
                } else {
                    out.extend_from_slice(&number.two_octets().to_be_bytes());
                }
            }
        }
        Ok(())
    }

    /// Whether two octets a number lose something.
    pub(crate) fn needs_as4(&self) -> bool {
        self.0.iter().flat_map(Segment::numbers).any(|number| number.0 > u32::from(u16::MAX))
    }

    /// The path that AS_PATH and AS4_PATH say together (RFC 6793 §4.2.3).
    pub(crate) fn merged(self, as4: Self) -> Self {
        let Some(mut leading) = self.length().checked_sub(as4.length()) else { return self };
        let mut segments = Vec::new();
        for segment in self.0 {
            if segment.within_confederation() {
                segments.push(segment);
                continue;
            }
            if leading == 0 {
                break;
            }
            match segment {
                Segment::Sequence(mut numbers) if numbers.len() > leading => {
                    numbers.truncate(leading);
                    leading = 0;
                    segments.push(Segment::Sequence(numbers));
                }
                segment => {
                    leading = leading.saturating_sub(segment.length());
                    segments.push(segment);
                }
            }
        }
        segments.extend(as4.0);
        Self(segments)
    }
}

/// As `64500 64501 {64502,64503}`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |numbers: &[Asn], by| numbers.iter().map(Asn::to_string).collect::<Vec<_>>().join(by);
        let words = self.0.iter().map(|segment| match segment {
            Segment::Sequence(numbers) => join(numbers, " "),
            Segment::Set(numbers) => format!("{{{}}}", join(numbers, ",")),
            Segment::ConfederationSequence(numbers) => format!("({})", join(numbers, " ")),
            Segment::ConfederationSet(numbers) => format!("[{}]", join(numbers, ",")),
        });
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::AS_TRANS;

    fn asns(numbers: &[u32]) -> Vec<Asn> {
        numbers.iter().copied().map(Asn).collect()
    }

    #[test]
    fn as4_path_fills_in_what_two_octets_lose() {
        let path = AsPath::sequence(asns(&[64500, u32::from(AS_TRANS), 64502]));
        let as4 = AsPath::sequence(asns(&[4_200_000_001, 64502]));
        let merged = path.clone().merged(as4);
        assert_eq!(merged.to_string(), "64500 4200000001 64502");
        // RFC 6793 §4.2.3: a longer AS4_PATH is ignored.
        let longer = AsPath::sequence(asns(&[1, 2, 3, 4]));
        assert_eq!(path.clone().merged(longer), path);
    }

    #[test]
    fn a_path_prints_its_sets_and_confederations() {
        let path = AsPath(vec![
            Segment::ConfederationSequence(asns(&[65001])),
            Segment::Sequence(asns(&[64500, 64501])),
            Segment::Set(asns(&[64502, 64503])),
        ]);
        assert_eq!(path.to_string(), "(65001) 64500 64501 {64502,64503}");
        assert!(path.contains(Asn(64503)));
        assert!(!path.contains(Asn(64504)));
    }
}
