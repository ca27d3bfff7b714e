//! Messages in a stream: each behind its length in two octets, the high one first.

use cloakway_crypto::{Secret, Zeroize};

/// The longest message that is taken: every field of the profile at its longest fits.
const LONGEST: usize = 1024;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length of zero.
    #[error("a message of length 0 was announced")]
    Empty,
    /// A length above what any message of the profile needs.
    #[error("a message of {length} octets was announced, at most {LONGEST} are taken")]
    TooLong {
        /// What was announced.
        length: usize,
    },
}

/// Puts the length in front of a message.
#[must_use]
pub fn frame(message: &Secret<Vec<u8>>) -> Secret<Vec<u8>> {
    let octets = message.expose();
    // A message of the profile is far below 65 536 octets (`every_message_fits`).
    let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(octets.len().saturating_add(2));
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(octets);
    Secret::new(framed)
}

/// Cuts a stream into messages. It holds one incomplete message at most.
#[derive(Debug, Default)]
pub struct Framer {
    held: Vec<u8>,
    failed: Option<FrameError>,
}

impl Framer {
    /// Takes octets as they came and calls `each` with every message that they complete.
    ///
    /// # Errors
    /// [`FrameError`], from then on for every call: where the next message begins is unknown.
    pub fn push(&mut self, octets: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), FrameError> {
        let mut rest = octets;
        while !rest.is_empty() {
            if let Some(error) = self.failed {
                return Err(error);
            }
            let wanted = match self.wanted() {
                Ok(wanted) => wanted,
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            };
            let (now, later) = rest.split_at(wanted.min(rest.len()));
            self.held.extend_from_slice(now);
            rest = later;
            if let Ok(0) = self.wanted() {
                each(self.held.get(2..).unwrap_or_default());
                self.held.zeroize();
            }
        }
        match self.wanted() {
            Ok(_) => Ok(()),
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// How many octets the message at hand still needs; of one whose length is unknown, those of the length.
    fn wanted(&self) -> Result<usize, FrameError> {
        let &[high, low, ref body @ ..] = self.held.as_slice() else {
            return Ok(2_usize.saturating_sub(self.held.len()));
        };
        match usize::from(u16::from_be_bytes([high, low])) {
            0 => Err(FrameError::Empty),
            length if length > LONGEST => Err(FrameError::TooLong { length }),
            length => Ok(length.saturating_sub(body.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::FIELDS;
    use crate::{Message, MessageType};
    use proptest::prelude::*;

    fn cut(framer: &mut Framer, octets: &[u8]) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
        let mut messages = vec![];
        let result = framer.push(octets, |message| messages.push(message.to_vec()));
        (messages, result)
    }

    #[test]
    fn every_message_fits() {
        let mut longest = Message::new(MessageType::ReversalRequest);
        for field in FIELDS {
            longest.set(field.number, &"0".repeat(field.max)).unwrap();
        }
        assert!(longest.encode().expose().len() <= LONGEST);
    }

    #[test]
    fn lengths_of_zero_and_above_the_bound_end_the_stream() {
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, b"\x00\x01a\x00\x00"), (vec![b"a".to_vec()], Err(FrameError::Empty)));
        assert_eq!(cut(&mut framer, b"\x00\x01a").1, Err(FrameError::Empty));
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, b"\x04\x01").1, Err(FrameError::TooLong { length: 1025 }));
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, &[&b"\x04\x00"[..], &[b'x'; 1024]].concat()), (vec![vec![b'x'; 1024]], Ok(())));
    }

    proptest! {
        #[test]
        fn messages_come_out_however_the_stream_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            sizes in proptest::collection::vec(1_usize..40, 1..50),
        ) {
            let stream: Vec<u8> =
                messages.iter().flat_map(|message| frame(&Secret::new(message.clone())).expose().clone()).collect();
            let (mut framer, mut out, mut rest) = (Framer::default(), vec![], &stream[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                let (cut, result) = cut(&mut framer, now);
                prop_assert_eq!(result, Ok(()));
                out.extend(cut);
                rest = later;
            }
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn arbitrary_streams_never_panic_and_hold_little(octets in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let mut framer = Framer::default();
            let _ = framer.push(&octets, |_| {});
            prop_assert!(framer.held.len() <= LONGEST + 2);
        }
    }
}
