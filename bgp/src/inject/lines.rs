//! A bulk as it streams in: attributes as JSON, prefixes that share the last of them, and `-prefix` for what goes.
//!
//! ```text
//! {"next-hop":"192.0.2.1","communities":["64500:1"]}
//! 10.0.0.0/32
//! -10.0.9.0/24
//! .
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use bgp_core::{Checked, Draft, Others, Policy};
use ipnet::{IpNet, Ipv4Net};

use super::request::{RawGroup, Stream};

/// The lines of one bulk, held to the policy as they come.
#[derive(Debug)]
pub(super) struct Lines {
    /// The change so far, or the first thing that is wrong with it.
    draft: Result<Draft, String>,
    limit: usize,
    count: usize,
}

/// What a look at the octets that have come found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Octets of whole lines.
    pub(super) octets: usize,
    /// The full stop was among them.
    pub(super) ended: bool,
}

impl Lines {
    /// A bulk of at most twice `limit` lines, for the routes that go and those that come.
    pub(super) fn new(stream: Stream, limit: usize, policy: Arc<Policy>) -> Self {
        let others = if stream.replace { Others::Go } else { Others::Stay };
        let draft = Draft::new(policy, stream.set, others).map_err(|error| error.to_string());
        Self { draft, limit, count: 0 }
    }

    /// Takes the whole lines in `bytes`, up to the full stop. When something is wrong, the lines behind it are read
    /// and left out.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut octets = 0;
        loop {
            let rest = bytes.get(octets..).unwrap_or_default();
            // Most lines are this, and a million of them come at once.
            if let Some((prefix, length)) = v4(rest)
                && rest.get(length) == Some(&b'\n')
            {
                octets += length + 1;
                self.line(|draft| draft.add(prefix.into()).map_err(|error| error.to_string()));
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                return Taken { octets, ended: false };
            };
            octets += end + 1;
            let line = rest.get(..end).unwrap_or_default();
            if line == b"." {
                return Taken { octets, ended: true };
            }
            self.line(|draft| take(draft, line));
        }
    }

    fn line(&mut self, take: impl FnOnce(&mut Draft) -> Result<(), String>) {
        self.count += 1;
        let Ok(draft) = &mut self.draft else { return };
        let taken = if self.count > self.limit.saturating_mul(2) {
            Err(format!("more lines than twice inject.max-routes, {}", self.limit))
        } else {
            take(draft)
        };
        if let Err(error) = taken {
            self.draft = Err(format!("line {}: {error}", self.count));
        }
    }

    /// The whole change.
    ///
    /// # Errors
    /// The first thing that was wrong, with the number of its line.
    pub(super) fn finish(self) -> Result<Checked, String> {
        self.draft.map(Draft::finish)
    }
}

fn take(draft: &mut Draft, line: &[u8]) -> Result<(), String> {
    if line.first() == Some(&b'{') {
        let raw: RawGroup = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if !raw.prefixes.is_empty() {
            return Err("prefixes come in lines of their own".to_owned());
        }
        return draft.group(raw.attributes()?).map_err(|error| error.to_string());
    }
    match line.strip_prefix(b"-") {
        Some(prefix) => {
            draft.remove(parse(prefix)?);
            Ok(())
        }
        None => draft.add(parse(line)?).map_err(|error| error.to_string()),
    }
}

/// A prefix as text.
fn parse(text: &[u8]) -> Result<IpNet, String> {
    if let Some((prefix, _)) = v4(text).filter(|(_, length)| *length == text.len()) {
        return Ok(prefix.into());
    }
    let text = String::from_utf8_lossy(text);
    let parsed = text.parse().map(IpNet::V6);
    parsed.map_err(|_| format!("{text:?} is no prefix: write it as 192.0.2.0/24 or 2001:db8::/32"))
}

/// The IPv4 prefix that `text` begins with, and how long it is.
fn v4(text: &[u8]) -> Option<(Ipv4Net, usize)> {
    let (mut address, mut at) = (0_u32, 0);
    for end in *b".../" {
        let (number, length) = number(text.get(at..)?)?;
        address = address << 8 | number;
        at += length + 1;
        if text.get(at - 1) != Some(&end) {
            return None;
        }
    }
    let (bits, length) = number(text.get(at..)?)?;
    let prefix = Ipv4Net::new(Ipv4Addr::from(address), u8::try_from(bits).ok()?).ok()?;
    Some((prefix, at + length))
}

/// A decimal number up to 255 of one to three digits, and how many they are. As everywhere, 010 is refused rather
/// than guessed at.
fn number(text: &[u8]) -> Option<(u32, usize)> {
    let digit = |at: usize| text.get(at).map(|byte| u32::from(byte.wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    let first = digit(0)?;
    let Some(second) = digit(1) else { return Some((first, 1)) };
    if first == 0 {
        return None;
    }
    let Some(third) = digit(2) else { return Some((first * 10 + second, 2)) };
    let number = first * 100 + second * 10 + third;
    (number <= 255 && digit(3).is_none()).then_some((number, 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(limit: usize) -> Lines {
        let policy = Policy::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()], &[]);
        Lines::new(Stream { set: "s".to_owned(), replace: false }, limit, Arc::new(policy))
    }

    #[test]
    fn prefixes_read_as_the_library_reads_them() {
        let right = ["10.0.0.0/8", "255.255.255.255/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "203.0.113.200/32"];
        for text in right {
            assert_eq!(parse(text.as_bytes()), Ok(text.parse().unwrap()), "{text}");
        }
        let wrong = [
            "",
            "10.0.0.0",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "256.0.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "010.0.0.0/8",
            "x",
            "10.0.0.0/8 ",
            "10.0.0.0/08",
            "1000.0.0.0/8",
            "10.0.0.0/256",
            "10..0.0/8",
        ];
        for text in wrong {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_carries_attributes_prefixes_and_removals() {
        let mut stream = lines(10);
        let text = b"{\"next-hop\":\"192.0.2.1\"}\n10.0.0.0/24\n-10.9.0.0/24\n\
            {\"next-hop\":\"2001:db8::1\",\"med\":5}\n2001:db8:1::/48\n.\nwhat follows";
        let stop = text.len() - "what follows".len();
        // However it is cut up.
        for cut in [1, 7, 40, stop] {
            let mut stream = lines(10);
            let (mut at, mut end) = (0, 0);
            let taken = loop {
                end = (end + cut).min(text.len());
                let taken = stream.take(&text[at..end]);
                at += taken.octets;
                if taken.ended {
                    break at;
                }
            };
            assert_eq!(taken, stop);
            let checked = stream.finish().unwrap();
            let change = checked.change();
            assert_eq!(change.add.len(), 2);
            assert_eq!((change.adds(), change.remove.len()), (2, 1));
            assert_eq!(change.add[1].attributes.med, Some(5));
        }
        assert!(!stream.take(b"10.0.0.0/24").ended);
    }

    #[test]
    fn the_first_fault_is_told_with_its_line() {
        let hop = "{\"next-hop\":\"192.0.2.1\"}\n";
        for (text, expected) in [
            ("10.0.0.0/8\n10.0.0/8\n.\n".to_owned(), "line 1: a prefix before any attributes"),
            (format!("{hop}10.0.0.0/24\n11.0.0.0/24\n10.0.0/8\n.\n"), "line 3: routes[0]: 11.0.0.0/24 is outside"),
            (format!("{hop}10.0.0/24\n.\n"), "line 2: \"10.0.0/24\" is no prefix"),
            (format!("{hop}2001:db8::/48\n.\n"), "line 2: routes[0]: next hop 192.0.2.1 is not of the family"),
            (format!("{hop}10.0.0.1/24\n.\n"), "line 2: routes[0]: 10.0.0.1/24 has host bits"),
            ("{\"next-hop\":\"192.0.2.1\",\"prefixes\":[\"10.0.0.0/8\"]}\n.\n".to_owned(), "lines of their own"),
            (format!("{hop}-10.0.0.0/8\n-10.0.0.0/8\n.\n"), "line 3: more lines than twice"),
        ] {
            let mut lines = lines(1);
            if !expected.contains("more lines") {
                lines.limit = 10;
            }
            assert!(lines.take(text.as_bytes()).ended);
            let error = lines.finish().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_like_the_library_does(address in "[0-9]{0,4}(\\.[0-9]{0,3}){2,4}", bits in "[0-9]{0,3}") {
            let plain = bits == "0" || !bits.starts_with('0');
            let prefix = || Some(Ipv4Net::new(address.parse().ok()?, bits.parse().ok()?).ok()?.into());
            prop_assert_eq!(parse(format!("{address}/{bits}").as_bytes()).ok(), prefix().filter(|_: &IpNet| plain));
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let taken = lines(10).take(&bytes);
            prop_assert!(taken.octets <= bytes.len());
        }
    }
}
