//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// Addresses from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    last: u32,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of IPv4 addresses: 100.64.0.0/22 is one, and 100.64.0.1-100.64.3.254")]
pub struct RangeError(String);

impl Range {
    /// The range; none when it is the wrong way round.
    #[must_use]
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        let (first, last) = (u32::from(first), u32::from(last));
        (first <= last).then_some(Self { first, last })
    }

    /// How many addresses.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.last as u64 - self.first as u64 + 1
    }

    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for Range {
    type Err = RangeError;
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.to_owned());
        let range = match text.split_once('-') {
            Some((first, last)) => {
                Self::new(first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?)
            }
            None if text.contains('/') => {
                let net: Ipv4Net = text.parse().map_err(|_| wrong())?;
                if net == net.trunc() { Self::new(net.network(), net.broadcast()) } else { None }
            }
            None => text.parse().ok().and_then(|address| Self::new(address, address)),
        };
        range.ok_or_else(wrong)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", Ipv4Addr::from(self.first), Ipv4Addr::from(self.last))
    }
}

/// Ranges one after the other, their addresses counted through from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// The ranges in this order; none when there is none, or two of them meet.
    #[must_use]
    pub fn new(ranges: Vec<Range>) -> Option<Self> {
        let meet = |(index, range): (usize, &Range)| ranges.iter().skip(index + 1).any(|other| range.meets(*other));
        let right = !ranges.is_empty() && !ranges.iter().enumerate().any(meet);
        right.then_some(Self(ranges))
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|of| range.meets(*of)))
    }

    /// How many addresses.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.iter().map(|range| range.size()).sum()
    }

    /// The place of an address.
    #[must_use]
    pub fn place(&self, address: Ipv4Addr) -> Option<u64> {
        let address = u32::from(address);
        let mut before = 0;
        for range in &self.0 {
            if (range.first..=range.last).contains(&address) {
                return Some(before + u64::from(address - range.first));
            }
            before += range.size();
        }
        None
    }

    /// The address at a place.
    #[must_use]
    pub fn at(&self, place: u64) -> Option<Ipv4Addr> {
        let mut left = place;
        for range in &self.0 {
            if left < range.size() {
                return Some(Ipv4Addr::from(range.first + u32::try_from(left).ok()?));
            }
            left -= range.size();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_through_the_ranges() {
        let ranges = |texts: &[&str]| Ranges::new(texts.iter().map(|text| text.parse().unwrap()).collect());
        let two = ranges(&["10.0.0.8/30", "10.0.0.1-10.0.0.3"]).unwrap();
        assert_eq!(two.size(), 7);
        for place in 0..7 {
            assert_eq!(two.place(two.at(place).unwrap()), Some(place));
        }
        assert_eq!((two.at(4), two.at(7)), (Some([10, 0, 0, 1].into()), None));
        assert_eq!(two.place([10, 0, 0, 4].into()), None);
        assert!(ranges(&["10.0.0.0/30", "10.0.0.3-10.0.0.5"]).is_none(), "two that meet");
        assert!(ranges(&[]).is_none());
        assert_eq!(ranges(&["0.0.0.0/0"]).unwrap().size(), 1 << 32);
    }

    #[test]
    fn what_is_no_range_is_refused_with_one_that_is() {
        for wrong in ["", "10.0.0.1/24", "10.0.0.9-10.0.0.1", "::/0", "10.0.0.0/33", "a-b"] {
            assert!(wrong.parse::<Range>().unwrap_err().to_string().contains("100.64.0.0/22"), "{wrong}");
        }
        assert_eq!("10.0.0.1".parse::<Range>().unwrap().to_string(), "10.0.0.1-10.0.0.1");
    }
}
