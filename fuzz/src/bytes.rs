//! Taking a fuzzer's bytes apart.

/// Reads choices from the front of the bytes; at their end every choice is 0.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// As many bytes as there are, `length` at most.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A stream and two ways to cut it: whole, and in pieces of the size that the first byte says.
pub(crate) fn two_cuts(bytes: &[u8]) -> (impl Iterator<Item = &[u8]>, impl Iterator<Item = &[u8]>) {
    let (size, stream) = bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first).max(1), rest));
    (stream.chunks(stream.len().max(1)), stream.chunks(size))
}

/// The runs of at least twelve digits, as long as a card number is.
pub(crate) fn long_numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_digit()).filter(|run| run.len() >= 12)
}
