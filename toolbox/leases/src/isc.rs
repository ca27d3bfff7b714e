//! `dhcpd.leases` and `dhcpd6.leases` of ISC DHCP (`dhcpd.leases(5)`).
//!
//! A log of declarations; the last one of an address counts, and in DHCPv6 the last one of an identity association. The
//! server writes the file anew from time to time and moves it into place.

mod declaration;
mod token;

use crate::lease::{Damage, Record};

/// Octets of a declaration.
const LONGEST: usize = 1024 * 1024;

/// What only stands at the beginning of a line where a declaration begins: the server indents what is inside.
const HEADS: [&[u8]; 4] = [b"lease ", b"ia-na ", b"ia-ta ", b"ia-pd "];
const LONGEST_HEAD: usize = 6;

/// A file that is none of ISC DHCP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: a declaration of more than {LONGEST} octets: this is no lease file of ISC DHCP")]
pub struct FileError {
    /// Where it begins, from 1.
    pub line: u64,
}

/// Reads one file from its beginning, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Reader {
    /// What has not ended yet.
    waiting: Vec<u8>,
    /// How far it has been looked at.
    at: usize,
    depth: usize,
    quoted: Option<Quote>,
    comment: bool,
    /// Lines before `waiting`.
    lines: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    Plain,
    Escaped,
}

impl Reader {
    /// A reader at the beginning of a file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next octets of the file, and tells `each` what ends in them.
    ///
    /// # Errors
    /// [`FileError`]; the reader cannot go on then.
    pub fn push(&mut self, octets: &[u8], mut each: impl FnMut(Record)) -> Result<(), FileError> {
        self.waiting.extend_from_slice(octets);
        let mut begun = 0;
        while let Some(octet) = self.waiting.get(self.at).copied() {
            let line_begins = self.at == begun || self.waiting.get(self.at.wrapping_sub(1)) == Some(&b'\n');
            if line_begins && (self.depth > 0 || self.quoted.is_some()) {
                let here = self.waiting.get(self.at..).unwrap_or_default();
                if HEADS.iter().any(|head| here.starts_with(head)) {
                    // The server died while it wrote what is before.
                    self.finish(begun, true, &mut each);
                    begun = self.at;
                    continue;
                }
                if here.len() < LONGEST_HEAD && HEADS.iter().any(|head| head.starts_with(here)) {
                    break;
                }
            }
            self.at += 1;
            let ended = match (octet, self.quoted) {
                (b'\n', None) => {
                    self.comment = false;
                    false
                }
                _ if self.comment => false,
                (b'"', Some(Quote::Plain)) => {
                    self.quoted = None;
                    false
                }
                (b'\\', Some(Quote::Plain)) => {
                    self.quoted = Some(Quote::Escaped);
                    false
                }
                (_, Some(_)) => {
                    self.quoted = Some(Quote::Plain);
                    false
                }
                (b'#', None) => {
                    self.comment = true;
                    false
                }
                (b'"', None) => {
                    self.quoted = Some(Quote::Plain);
                    false
                }
                (b'{', None) => {
                    self.depth += 1;
                    false
                }
                (b'}', None) => {
                    self.depth = self.depth.saturating_sub(1);
                    self.depth == 0
                }
                (b';', None) => self.depth == 0,
                (_, None) => false,
            };
            if ended {
                self.finish(begun, false, &mut each);
                begun = self.at;
            }
        }
        self.waiting.drain(..begun);
        self.at -= begun;
        if self.waiting.len() > LONGEST { Err(FileError { line: self.lines + 1 }) } else { Ok(()) }
    }

    /// Whether the file ended in the middle of a declaration.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        self.depth > 0 || self.quoted.is_some()
    }

    fn finish(&mut self, begun: usize, torn: bool, each: &mut impl FnMut(Record)) {
        let text = self.waiting.get(begun..self.at).unwrap_or_default();
        let blank =
            text.iter().take_while(|octet| octet.is_ascii_whitespace()).filter(|octet| **octet == b'\n').count();
        let line = self.lines + 1 + blank as u64;
        self.lines += text.iter().filter(|octet| **octet == b'\n').count() as u64;
        (self.depth, self.quoted, self.comment) = (0, None, false);
        let read = if torn { Err("it has no end".to_owned()) } else { declaration::read(text) };
        match read {
            Ok(Some(record)) => each(record),
            Ok(None) => {}
            Err(reason) => each(Record::Damaged(Damage { line, reason, about: declaration::about(text) })),
        }
    }
}

#[cfg(test)]
mod tests;
