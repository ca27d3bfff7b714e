//! Cuts a byte stream into messages, however the reads fall.

use crate::error::DecodeError;
use crate::message::Header;

/// Collects bytes and hands out whole messages.
///
/// Holds at most one incomplete message and what was pushed with it. After an error the stream is out of
/// step: answer the NOTIFICATION and close.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    taken: usize,
    extended: bool,
}

impl Framer {
    /// From now on takes messages of up to 65535 octets (RFC 8654), because we offered to.
    pub fn allow_extended_messages(&mut self) {
        self.extended = true;
    }

    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, for [`crate::Message::decode`]; `None` until more is pushed.
    ///
    /// # Errors
    /// [`DecodeError`] as soon as a header can't be one, before its body has come.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let pending = self.buffer.get(self.taken..).unwrap_or_default();
        let Some(header) = Header::decode(pending, self.extended)? else { return Ok(None) };
        let Some(frame) = pending.get(..header.length) else { return Ok(None) };
        self.taken += header.length;
        Ok(Some(frame))
    }
}
