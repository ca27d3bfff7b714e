//! Octets as text.

use std::fmt::Write as _;

/// `00:1b:…`, in small letters.
pub(crate) fn colons(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 3);
    for (index, octet) in octets.iter().enumerate() {
        let _ = write!(text, "{}{octet:02x}", if index == 0 { "" } else { ":" });
    }
    text
}

/// Reads `00:1b:…`; one digit an octet will do.
pub(crate) fn from_colons(text: &str) -> Option<Vec<u8>> {
    let octet = |part: &str| {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        if digits { u8::from_str_radix(part, 16).ok() } else { None }
    };
    text.split(':').map(octet).collect()
}

/// Reads `0x001b…` and `001b…`.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text).as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let octet = |[high, low]: &[u8; 2]| Some((nibble(*high)? << 4) | nibble(*low)?);
    if rest.is_empty() { pairs.iter().map(octet).collect() } else { None }
}

/// Items of a code and a length of one octet each, as in option 82 (RFC 3046 §2.0). `None` when one is cut off.
pub(crate) fn items8(mut octets: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut items = Vec::new();
    while let [code, length, rest @ ..] = octets {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        items.push((*code, value));
        octets = rest;
    }
    octets.is_empty().then_some(items)
}

/// Options of a code and a length of two octets each (RFC 8415 §21.1). `None` when one is cut off.
pub(crate) fn items16(mut octets: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut items = Vec::new();
    while let [c0, c1, l0, l1, rest @ ..] = octets {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
        items.push((u16::from_be_bytes([*c0, *c1]), value));
        octets = rest;
    }
    octets.is_empty().then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_read_back() {
        assert_eq!(colons(&[0, 0x1b, 255]), "00:1b:ff");
        assert_eq!(from_colons("0:1B:ff"), Some(vec![0, 0x1b, 255]));
        for wrong in ["", ":", "00:", "000", "+1", "0g"] {
            assert_eq!(from_colons(wrong), None, "{wrong}");
        }
        assert_eq!(from_hex("0x001bFF"), Some(vec![0, 0x1b, 255]));
        assert_eq!((from_hex("01b"), from_hex("0x+1")), (None, None));
    }

    #[test]
    fn items_that_are_cut_off_are_none() {
        assert_eq!(items8(&[1, 2, 7, 8, 2, 0]), Some(vec![(1, &[7, 8][..]), (2, &[])]));
        assert_eq!((items8(&[1, 2, 7]), items8(&[1])), (None, None));
        assert_eq!(items16(&[0, 37, 0, 1, 9]), Some(vec![(37, &[9][..])]));
        assert_eq!(items16(&[0, 37, 0, 2, 9]), None);
    }
}
