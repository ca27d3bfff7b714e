//! Cuts a byte stream into messages, however the reads fall.

use crate::error::DecodeError;
use crate::message::Header;

/// Bytes that a stream brought and nobody has taken yet: what every framer here is made of.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    buffer: Vec<u8>,
    taken: usize,
}

impl Pending {
    /// Adds what a read brought. What was taken makes room.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// What nobody has taken.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    /// The next frame. `length` says how long it is, by its head and without touching more; `None` where that has not
    /// come yet.
    ///
    /// # Errors
    /// Those of `length`.
    pub fn next<E>(&mut self, length: impl FnOnce(&[u8]) -> Result<Option<usize>, E>) -> Result<Option<&[u8]>, E> {
        let from = self.taken;
        let Some(octets) = length(self.bytes())? else { return Ok(None) };
        let Some(until) = from.checked_add(octets).filter(|until| *until <= self.buffer.len()) else { return Ok(None) };
        self.taken = until;
        Ok(self.buffer.get(from..until))
    }
}

/// Collects bytes and hands out whole messages.
///
/// Holds at most one incomplete message and what was pushed with it. After an error the stream is out of
/// step: answer the NOTIFICATION and close.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    pending: Pending,
    extended: bool,
}

impl Framer {
    /// From now on takes messages of up to 65535 octets (RFC 8654), because we offered to.
    pub fn allow_extended_messages(&mut self) {
        self.extended = true;
    }

    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.push(bytes);
    }

    /// The next whole message, for [`crate::Message::decode`]; `None` until more is pushed.
    ///
    /// # Errors
    /// [`DecodeError`] as soon as a header can't be one, before its body has come.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let extended = self.extended;
        self.pending.next(|bytes| Ok(Header::decode(bytes, extended)?.map(|header| header.length)))
    }
}
