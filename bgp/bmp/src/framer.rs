//! Cuts a byte stream into messages, however the reads fall.

use bgp_wire::Pending;

use crate::message::BmpError;

/// Octets of the common header (RFC 7854 §4.1).
pub const HEADER_LENGTH: usize = 6;

/// Octets of the longest message that is read. A Route Monitoring message holds one UPDATE of at most 65535.
pub const MAX_MESSAGE: usize = 256 * 1024;

const VERSION: u8 = 3;

/// Collects bytes and hands out whole messages. Holds at most one unfinished message and what was pushed with it.
///
/// After an error the stream is out of step: close it.
#[derive(Debug, Clone, Default)]
pub struct Framer(Pending);

impl Framer {
    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next whole message, for [`crate::Message::decode`]; `None` until more is pushed.
    ///
    /// # Errors
    /// [`BmpError`] as soon as a header can't be one, before its body has come.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, BmpError> {
        self.0.next(|bytes| {
            if let Some(version) = bytes.first()
                && *version != VERSION
            {
                return Err(BmpError::Version(*version));
            }
            let Some([_, a, b, c, d, _]) = bytes.first_chunk::<HEADER_LENGTH>() else { return Ok(None) };
            let length = u32::from_be_bytes([*a, *b, *c, *d]);
            let octets = usize::try_from(length).ok().filter(|octets| (HEADER_LENGTH..=MAX_MESSAGE).contains(octets));
            octets.ok_or(BmpError::Length(length)).map(Some)
        })
    }
}
