//! From when until when a certificate is valid (RFC 5280, 4.1.2.5), which the TLS library tells only of other people's.

use cloakway_types::Timestamp;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Tag and contents of what stands first in `der`, and what is behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, mut der) = der.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let (octets, rest) = der.split_at_checked(usize::from(first & 0x7f))?;
        der = rest;
        octets.iter().try_fold(0_usize, |length, octet| length.checked_mul(256)?.checked_add(usize::from(*octet)))?
    };
    let (contents, rest) = der.split_at_checked(length)?;
    Some((tag, contents, rest))
}

fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).and_then(|(tag, contents, rest)| (tag == SEQUENCE).then_some((contents, rest)))
}

/// Both ends of the validity of a certificate.
pub(super) fn of(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (certificate, _) = sequence(certificate)?;
    let (mut fields, _) = sequence(certificate)?;
    if let Some((VERSION, _, rest)) = element(fields) {
        fields = rest;
    }
    // Serial number, signature's algorithm, issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (validity, _) = sequence(fields)?;
    let (tag, from, rest) = element(validity)?;
    let from = time(tag, from)?;
    let (tag, to, _) = element(rest)?;
    Some((from, time(tag, to)?))
}

/// `YYMMDDHHMMSSZ` from 1950 to 2049, or `YYYYMMDDHHMMSSZ`. What was before 1970 is the beginning of 1970.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if tag == UTC_TIME { 2 } else { 4 })?;
    let number = |at: usize| {
        let digits = rest.get(at..at + 2)?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let year: i64 = year.bytes().all(|digit| digit.is_ascii_digit()).then(|| year.parse().ok())??;
    let year = match tag {
        UTC_TIME if year < 50 => 2000 + year,
        UTC_TIME => 1900 + year,
        GENERALIZED_TIME => year,
        _ => return None,
    };
    let (month, day) = (number(0)?, number(2)?);
    if rest.len() != 10 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 in a calendar whose years begin in March.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + number(4)? * 3600 + number(6)? * 60 + number(8)?;
    Some(Timestamp::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_both_forms() {
        for (tag, text, is) in [
            (UTC_TIME, "491231235959Z", "2049-12-31T23:59:59Z"),
            (UTC_TIME, "750101000000Z", "1975-01-01T00:00:00Z"),
            (UTC_TIME, "500101000000Z", "1970-01-01T00:00:00Z"),
            (UTC_TIME, "000229120000Z", "2000-02-29T12:00:00Z"),
            (GENERALIZED_TIME, "20500301000001Z", "2050-03-01T00:00:01Z"),
            (GENERALIZED_TIME, "40960101000000Z", "4096-01-01T00:00:00Z"),
        ] {
            assert_eq!(time(tag, text.as_bytes()), Some(is.parse().unwrap()), "{text}");
        }
        assert!(time(GENERALIZED_TIME, b"99991231235959Z").is_some(), "no end");
        for text in
            ["", "Z", "4912312359Z", "491331235959Z", "49123123595Z", "4912312359+9Z", "+91231235959Z", "491231235959"]
        {
            assert_eq!(time(UTC_TIME, text.as_bytes()), None, "{text}");
        }
        assert_eq!(time(0x16, b"20500301000001Z"), None);
    }

    #[test]
    fn the_validity_of_a_certificate_is_found_and_octets_never_panic() {
        let mut params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der().as_ref();
        let wanted = ("2020-02-29T00:00:00Z".parse().unwrap(), "2051-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(of(der), Some(wanted));
        for length in 0..der.len() {
            assert_eq!(of(&der[..length]), None);
        }
        for place in 0..der.len().min(300) {
            for change in [0, 1, 0x7f, 0x80, 0xff] {
                let mut der = der.to_vec();
                der[place] = change;
                let _ = of(&der);
            }
        }
    }
}
