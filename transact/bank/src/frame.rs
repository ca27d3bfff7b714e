//! Messages in a stream: each behind its length and, where an institution wants one, a header.

use cloakway_crypto::{Secret, Zeroize};

/// The longest message that is taken, its header included: what four digits can say.
const LONGEST: usize = 9999;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length of zero.
    #[error("a message of length 0 was announced")]
    Empty,
    /// A length that is no longer than the header.
    #[error("a message of {length} octets was announced, and the header alone has {header}")]
    TooShort {
        /// What was announced.
        length: usize,
        /// Octets of the header.
        header: usize,
    },
    /// A length above what any message needs.
    #[error("a message of {length} octets was announced, at most {LONGEST} are taken")]
    TooLong {
        /// What was announced.
        length: usize,
    },
    /// A length that is not four digits, where four digits were agreed on.
    #[error("the length of a message is not four digits")]
    NoLength,
}

/// How a length is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LengthKind {
    /// Two octets, the high one first.
    #[default]
    Octets,
    /// Four digits in ASCII.
    Digits,
}

impl LengthKind {
    const fn octets(self) -> usize {
        match self {
            Self::Octets => 2,
            Self::Digits => 4,
        }
    }
}

/// How messages follow each other: the same in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Framing {
    /// How lengths are written; they do not count themselves.
    pub length: LengthKind,
    /// What stands between length and message in every message of ours, such as a TPDU. As many octets are passed over
    /// in every message that comes.
    pub header: Vec<u8>,
}

impl Framing {
    /// Puts length and header in front of a message.
    #[must_use]
    pub fn frame(&self, message: &Secret<Vec<u8>>) -> Secret<Vec<u8>> {
        let octets = message.expose();
        let length = octets.len().saturating_add(self.header.len());
        let mut framed = Vec::with_capacity(length.saturating_add(4));
        // A message of ours is far below either limit (`every_message_fits`).
        match self.length {
            LengthKind::Octets => framed.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()),
            LengthKind::Digits => framed.extend_from_slice(format!("{:04}", length.min(LONGEST)).as_bytes()),
        }
        framed.extend_from_slice(&self.header);
        framed.extend_from_slice(octets);
        Secret::new(framed)
    }
}

/// Puts the length of two octets in front of a message.
#[must_use]
pub fn frame(message: &Secret<Vec<u8>>) -> Secret<Vec<u8>> {
    Framing::default().frame(message)
}

/// Cuts a stream into messages. It holds one incomplete message at most.
#[derive(Debug, Default)]
pub struct Framer {
    framing: Framing,
    held: Held,
    failed: Option<FrameError>,
}

/// Octets of a message: never printed, wiped when they go.
#[derive(Default)]
struct Held(Vec<u8>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} octets", self.0.len())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Framer {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, held: Held::default(), failed: None }
    }

    /// Takes octets as they came and calls `each` with every message that they complete.
    ///
    /// # Errors
    /// [`FrameError`], from then on for every call: where the next message begins is unknown.
    pub fn push(&mut self, octets: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), FrameError> {
        let mut rest = octets;
        while !rest.is_empty() {
            let wanted = self.wanted()?;
            let (now, later) = rest.split_at(wanted.min(rest.len()));
            self.held.0.reserve_exact(wanted);
            self.held.0.extend_from_slice(now);
            rest = later;
            if self.wanted()? == 0 {
                let begin = self.framing.length.octets().saturating_add(self.framing.header.len());
                each(self.held.0.get(begin..).unwrap_or_default());
                self.held.0.zeroize();
            }
        }
        self.wanted().map(drop)
    }

    fn wanted(&mut self) -> Result<usize, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.missing().inspect_err(|error| self.failed = Some(*error))
    }

    /// How many octets the message at hand still needs; of one whose length is unknown, those of the length.
    fn missing(&self) -> Result<usize, FrameError> {
        let needed = self.framing.length.octets();
        let Some((length, body)) = self.held.0.split_at_checked(needed) else {
            return Ok(needed.saturating_sub(self.held.0.len()));
        };
        let length = match self.framing.length {
            LengthKind::Octets => length.iter().fold(0, |length, octet| (length << 8) | usize::from(*octet)),
            LengthKind::Digits if !length.iter().all(u8::is_ascii_digit) => return Err(FrameError::NoLength),
            LengthKind::Digits => length.iter().fold(0, |length, digit| length * 10 + usize::from(digit - b'0')),
        };
        let header = self.framing.header.len();
        match length {
            0 => Err(FrameError::Empty),
            length if length > LONGEST => Err(FrameError::TooLong { length }),
            length if length <= header => Err(FrameError::TooShort { length, header }),
            length => Ok(length.saturating_sub(body.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::field_of;
    use crate::{Message, MessageType};
    use proptest::prelude::*;

    fn cut(framer: &mut Framer, octets: &[u8]) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
        let mut messages = vec![];
        let result = framer.push(octets, |message| messages.push(message.to_vec()));
        (messages, result)
    }

    /// The fields that are ever set here, each at its longest.
    #[test]
    fn every_message_fits() {
        let mut longest = Message::new(MessageType::ReversalRequest);
        for number in [2, 3, 4, 7, 11, 12, 13, 14, 18, 22, 25, 26, 32, 37, 38, 41, 42, 49, 52, 90, 128] {
            longest.set(number, &"0".repeat(field_of(number).unwrap().max)).unwrap();
        }
        assert!(longest.encode().expose().len() <= 1024);
    }

    #[test]
    fn lengths_of_zero_and_above_the_bound_end_the_stream() {
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, b"\x00\x01a\x00\x00"), (vec![b"a".to_vec()], Err(FrameError::Empty)));
        assert_eq!(cut(&mut framer, b"\x00\x01a").1, Err(FrameError::Empty));
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, b"\x27\x10").1, Err(FrameError::TooLong { length: 10_000 }));
        let mut framer = Framer::default();
        assert_eq!(cut(&mut framer, &[&b"\x27\x0f"[..], &[b'x'; 9999]].concat()), (vec![vec![b'x'; 9999]], Ok(())));
    }

    #[test]
    fn lengths_may_be_digits_and_a_header_is_passed_over() {
        let framing = Framing { length: LengthKind::Digits, header: b"ISO01".to_vec() };
        let message = Secret::new(b"0800".to_vec());
        let framed = framing.frame(&message);
        assert_eq!(framed.expose(), b"0009ISO010800");
        let mut framer = Framer::new(framing.clone());
        assert_eq!(cut(&mut framer, b"0009OTHER0800"), (vec![b"0800".to_vec()], Ok(())));
        assert_eq!(cut(&mut framer, b"0005ISO01").1, Err(FrameError::TooShort { length: 5, header: 5 }));
        let mut framer = Framer::new(framing);
        assert_eq!(cut(&mut framer, b"00a9").1, Err(FrameError::NoLength));
    }

    proptest! {
        #[test]
        fn messages_come_out_however_the_stream_is_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            sizes in proptest::collection::vec(1_usize..40, 1..50),
            digits in any::<bool>(),
            header in proptest::collection::vec(any::<u8>(), 0..6),
        ) {
            let length = if digits { LengthKind::Digits } else { LengthKind::Octets };
            let framing = Framing { length, header };
            let stream: Vec<u8> = messages
                .iter()
                .flat_map(|message| framing.frame(&Secret::new(message.clone())).expose().clone())
                .collect();
            let (mut framer, mut out, mut rest) = (Framer::new(framing), vec![], &stream[..]);
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
        fn arbitrary_streams_never_panic_and_hold_little(octets in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let mut framer = Framer::default();
            let _ = framer.push(&octets, |_| {});
            prop_assert!(framer.held.0.len() <= LONGEST + 2);
        }
    }
}
