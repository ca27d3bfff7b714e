//! How other roles ask the BGP speaker whose an address is (A7): questions and answers of fixed length on a stream.
//!
//! ```text
//! question  version 1 · family 4 or 6 · 0 · 0 · id (4) · address (16, IPv4 first and zeroes behind)
//! answer    version 1 · verdict · family 4, 6 or 0 · bits · id (4) · prefix (16) · origin AS (4)
//! ```
//! Numbers are big-endian. Answers come in the order of the questions, each with its question's id, so that many may
//! be under way. Whoever gets something else than this closes the connection. Sockets are the shells' business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The version of the protocol.
pub const VERSION: u8 = 1;
/// Its name in a TLS handshake (ALPN).
pub const PROTOCOL: &[u8] = b"cloakway-look-up/1";
/// Octets of a question.
pub const QUESTION: usize = 24;
/// Octets of an answer.
pub const ANSWER: usize = 28;

/// Whose is this address?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Comes back with the answer.
    pub id: u32,
    /// The address; one that is IPv4 mapped into IPv6 counts as IPv4.
    pub address: IpAddr,
}

/// What the speaker says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub id: u32,
    /// What the routes say.
    pub verdict: Verdict,
}

/// What the speaker's routes say of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The longest prefix that holds it, and the AS that originates it.
    Origin {
        /// The prefix.
        prefix: IpNet,
        /// The AS.
        asn: u32,
    },
    /// The longest prefix that holds it has several origins, or none that can be told.
    Disputed {
        /// The prefix.
        prefix: IpNet,
    },
    /// No route holds it.
    NoRoute,
    /// The speaker has no peer that has told all its routes: ask elsewhere.
    NotReady,
}

/// Bytes that are not of this protocol, or not of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version, or another protocol.
    #[error("look-up protocol version {0}: {VERSION} is spoken here")]
    Version(u8),
    /// A field with a value that it does not have.
    #[error("look-up protocol: {field} is {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
}

const fn field(field: &'static str, value: u32) -> WireError {
    WireError::Field { field, value }
}

/// A prefix or an address as 16 octets, IPv4 first and zeroes behind.
fn octets(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets.iter_mut().zip(address.octets()).for_each(|(to, from)| *to = from);
            (4, octets)
        }
        IpAddr::V6(address) => (6, address.octets()),
    }
}

fn address(family: u8, octets: [u8; 16]) -> Result<IpAddr, WireError> {
    match (family, octets) {
        (4, [a, b, c, d, rest @ ..]) => {
            if rest == [0; 12] {
                Ok(Ipv4Addr::new(a, b, c, d).into())
            } else {
                Err(field("what follows an IPv4 address", 1))
            }
        }
        (6, octets) => Ok(Ipv6Addr::from(octets).into()),
        (other, _) => Err(field("the family", other.into())),
    }
}

impl Question {
    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (family, octets) = octets(self.address.to_canonical());
        out.extend_from_slice(&[VERSION, family, 0, 0]);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&octets);
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &[u8; QUESTION]) -> Result<Self, WireError> {
        let [version, family, z0, z1, i0, i1, i2, i3, octets @ ..] = *bytes;
        check_version(version)?;
        if [z0, z1] != [0, 0] {
            return Err(field("what is to be zero", u16::from_be_bytes([z0, z1]).into()));
        }
        let address = address(family, octets)?.to_canonical();
        Ok(Self { id: u32::from_be_bytes([i0, i1, i2, i3]), address })
    }
}

impl Answer {
    /// Writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (verdict, prefix, asn) = match self.verdict {
            Verdict::Origin { prefix, asn } => (0, Some(prefix), asn),
            Verdict::Disputed { prefix } => (1, Some(prefix), 0),
            Verdict::NoRoute => (2, None, 0),
            Verdict::NotReady => (3, None, 0),
        };
        let bits = prefix.map_or(0, |prefix| prefix.prefix_len());
        let (family, octets) = prefix.map_or((0, [0; 16]), |prefix| octets(prefix.network()));
        out.extend_from_slice(&[VERSION, verdict, family, bits]);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&octets);
        out.extend_from_slice(&asn.to_be_bytes());
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &[u8; ANSWER]) -> Result<Self, WireError> {
        let [version, verdict, family, bits, i0, i1, i2, i3, rest @ ..] = *bytes;
        let [octets @ .., n0, n1, n2, n3] = rest;
        check_version(version)?;
        let asn = u32::from_be_bytes([n0, n1, n2, n3]);
        let prefix = || {
            let prefix = IpNet::new(address(family, octets)?, bits).map_err(|_| field("the bits", bits.into()))?;
            if prefix.trunc() == prefix { Ok(prefix) } else { Err(field("what follows the prefix", 1)) }
        };
        let nothing_more = (family, bits, octets) == (0, 0, [0; 16]);
        let verdict = match verdict {
            0 if asn == 0 => return Err(field("the origin AS", 0)),
            0 => Verdict::Origin { prefix: prefix()?, asn },
            1..=3 if asn != 0 => return Err(field("the origin AS", asn)),
            1 => Verdict::Disputed { prefix: prefix()? },
            2..=3 if !nothing_more => return Err(field("a prefix where there is none", 1)),
            2 => Verdict::NoRoute,
            3 => Verdict::NotReady,
            other => return Err(field("the verdict", other.into())),
        };
        Ok(Self { id: u32::from_be_bytes([i0, i1, i2, i3]), verdict })
    }
}

const fn check_version(version: u8) -> Result<(), WireError> {
    if version == VERSION { Ok(()) } else { Err(WireError::Version(version)) }
}

/// Cuts a stream into questions or answers, however the reads fall.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    taken: usize,
}

impl Framer {
    /// Adds what a read brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next question; `None` until more is pushed.
    ///
    /// # Errors
    /// [`WireError`]: the stream is of no use any more.
    pub fn next_question(&mut self) -> Result<Option<Question>, WireError> {
        self.next().map(Question::decode).transpose()
    }

    /// The next answer; `None` until more is pushed.
    ///
    /// # Errors
    /// [`WireError`]: the stream is of no use any more.
    pub fn next_answer(&mut self) -> Result<Option<Answer>, WireError> {
        self.next().map(Answer::decode).transpose()
    }

    fn next<const N: usize>(&mut self) -> Option<&[u8; N]> {
        let chunk = self.buffer.get(self.taken..)?.first_chunk::<N>()?;
        self.taken += N;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()).to_canonical()),
        ]
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let prefix = (any_address(), 0_u8..=128).prop_map(|(address, bits)| {
            IpNet::new(address, if address.is_ipv4() { bits % 33 } else { bits }).unwrap().trunc()
        });
        let verdict = (prefix, 1_u32.., 0..4).prop_map(|(prefix, asn, kind)| match kind {
            0 => Verdict::Origin { prefix, asn },
            1 => Verdict::Disputed { prefix },
            2 => Verdict::NoRoute,
            _ => Verdict::NotReady,
        });
        (any::<u32>(), verdict).prop_map(|(id, verdict)| Answer { id, verdict })
    }

    #[test]
    fn the_octets_are_those_of_the_introduction() {
        let mut out = Vec::new();
        Question { id: 7, address: "192.0.2.1".parse().unwrap() }.encode(&mut out);
        assert_eq!(out, [&[1, 4, 0, 0, 0, 0, 0, 7, 192, 0, 2, 1][..], &[0; 12]].concat());
        out.clear();
        let verdict = Verdict::Origin { prefix: "192.0.2.0/24".parse().unwrap(), asn: 64500 };
        Answer { id: 7, verdict }.encode(&mut out);
        assert_eq!(out, [&[1, 0, 4, 24, 0, 0, 0, 7, 192, 0, 2, 0][..], &[0; 12], &[0, 0, 0xfb, 0xf4]].concat());
    }

    #[test]
    fn another_version_is_named() {
        let error = Question::decode(&[2; QUESTION]).unwrap_err();
        assert_eq!(error.to_string(), "look-up protocol version 2: 1 is spoken here");
    }

    proptest! {
        #[test]
        fn a_question_reads_as_it_was_written(id: u32, address in any_address()) {
            let question = Question { id, address };
            let mut out = Vec::new();
            question.encode(&mut out);
            prop_assert_eq!(Question::decode(out.as_array().unwrap()), Ok(question));
        }

        #[test]
        fn answers_read_as_they_were_written_however_the_reads_fall(
            answers in proptest::collection::vec(any_answer(), 0..10), cut in 1..40_usize,
        ) {
            let mut out = Vec::new();
            answers.iter().for_each(|answer| answer.encode(&mut out));
            let (mut framer, mut read) = (Framer::default(), Vec::new());
            for piece in out.chunks(cut) {
                framer.push(piece);
                while let Some(answer) = framer.next_answer().unwrap() {
                    read.push(answer);
                }
            }
            prop_assert_eq!(read, answers);
        }

        #[test]
        fn what_is_accepted_is_written_again_as_it_was(question: [u8; QUESTION], answer: [u8; ANSWER]) {
            let mut out = Vec::new();
            if let Ok(read) = Question::decode(&question) {
                read.encode(&mut out);
                let mapped = question[1] == 6 && out[1] == 4;
                prop_assert!(mapped || out == question);
            }
            out.clear();
            if let Ok(read) = Answer::decode(&answer) {
                read.encode(&mut out);
                prop_assert_eq!(out, answer);
            }
        }
    }
}
