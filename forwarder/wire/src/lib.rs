//! What the forwarder tells other roles: health per private prefix, one JSON value a line (A2, A3).
//!
//! The forwarder serves these lines on a Unix stream socket: the state of every private prefix on
//! connect, each change after that, and heartbeats in between. A reader announces a prefix only on a
//! live word of it; silence, an error or the end of the stream means that nothing is healthy.
//! Sockets and timers are the shells' business.

pub mod prefixes;

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The longest line, without its newline, in bytes.
pub const MAX_LINE: usize = 4096;

/// The longest reason, in bytes of UTF-8: even with every byte escaped, its line stays in [`MAX_LINE`].
pub const MAX_REASON: usize = 512;

/// The server sends a heartbeat at least this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

/// A client that has heard nothing for this long counts every prefix as unhealthy.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(1);

/// One line of the health stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Message {
    /// The health of one private prefix from now on.
    Prefix {
        /// The private prefix.
        prefix: IpNet,
        /// Whether its packets reach the far end, behind a verified guard.
        healthy: bool,
        /// Why, for people. [`encode`] cuts it to [`MAX_REASON`].
        reason: String,
    },
    /// The forwarder lives, and nothing has changed.
    Heartbeat {
        /// Counts up from 0 in each connection.
        sequence: u64,
    },
}

/// Why a line is no message. The reader closes the connection and counts every prefix as unhealthy.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The line is longer than [`MAX_LINE`].
    #[error("health line of {length} bytes: at most {MAX_LINE} are allowed")]
    TooLong {
        /// The length in bytes.
        length: usize,
    },
    /// More than one line.
    #[error("health line holds a line break at byte {at}: one message a line")]
    LineBreak {
        /// Where it is.
        at: usize,
    },
    /// Not one of the messages, or not JSON.
    #[error("health line is no message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The prefix has bits set behind its length.
    #[error("health line: prefix {prefix} has host bits set: {} is the prefix", prefix.trunc())]
    HostBits {
        /// As it stood in the line.
        prefix: IpNet,
    },
    /// The reason is longer than [`MAX_REASON`].
    #[error("health line: reason of {length} bytes: at most {MAX_REASON} are allowed")]
    ReasonTooLong {
        /// The length in bytes.
        length: usize,
    },
}

/// One line with its newline. A reason longer than [`MAX_REASON`] is cut at a character.
#[must_use]
pub fn encode(message: &Message) -> String {
    let cut = match message {
        Message::Prefix { prefix, healthy, reason } => Message::Prefix {
            prefix: prefix.trunc(),
            healthy: *healthy,
            reason: reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default().to_owned(),
        },
        Message::Heartbeat { sequence } => Message::Heartbeat { sequence: *sequence },
    };
    let mut line = serde_json::to_string(&cut).expect("two plain structs always serialise");
    line.push('\n');
    line
}

/// The message in `line`, with or without its final newline.
///
/// # Errors
/// [`WireError`] names what is wrong; unknown types, unknown fields and missing fields are refused.
pub fn decode(line: impl AsRef<[u8]>) -> Result<Message, WireError> {
    let line = line.as_ref();
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() > MAX_LINE {
        return Err(WireError::TooLong { length: line.len() });
    }
    if let Some(at) = line.iter().position(|byte| *byte == b'\n') {
        return Err(WireError::LineBreak { at });
    }
    let message = serde_json::from_slice(line)?;
    if let Message::Prefix { prefix, reason, .. } = &message {
        if *prefix != prefix.trunc() {
            return Err(WireError::HostBits { prefix: *prefix });
        }
        if reason.len() > MAX_REASON {
            return Err(WireError::ReasonTooLong { length: reason.len() });
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lines_are_the_documented_ones() {
        let prefix = Message::Prefix {
            prefix: "203.0.113.200/32".parse().unwrap(),
            healthy: true,
            reason: "link up, far end answers".into(),
        };
        assert_eq!(
            encode(&prefix),
            "{\"type\":\"prefix\",\"prefix\":\"203.0.113.200/32\",\"healthy\":true,\"reason\":\"link up, far end answers\"}\n"
        );
        assert_eq!(encode(&Message::Heartbeat { sequence: 17 }), "{\"type\":\"heartbeat\",\"sequence\":17}\n");
    }

    #[test]
    fn what_is_not_exactly_a_message_is_refused() {
        for line in [
            "",
            "{}",
            "null",
            r#"{"type":"heartbeat"}"#,
            r#"{"type":"heartbeat","sequence":-1}"#,
            r#"{"type":"heartbeat","sequence":1,"extra":0}"#,
            r#"{"type":"goodbye"}"#,
            r#"{"type":"prefix","prefix":"203.0.113.200","healthy":true,"reason":""}"#,
            r#"{"type":"prefix","prefix":"203.0.113.200/32","healthy":"yes","reason":""}"#,
            r#"{"type":"prefix","prefix":"203.0.113.200/32","healthy":true}"#,
            r#"{"type":"prefix","prefix":"203.0.113.200/32","healthy":true,"healthy":false,"reason":""}"#,
            r#"{"type":"heartbeat","sequence":1}{"type":"heartbeat","sequence":2}"#,
        ] {
            assert!(matches!(decode(line), Err(WireError::Malformed(_))), "{line}");
        }
        let host_bits = r#"{"type":"prefix","prefix":"203.0.113.200/24","healthy":true,"reason":""}"#;
        assert!(matches!(decode(host_bits), Err(WireError::HostBits { .. })));
        assert!(matches!(decode("{\"type\":\n\"heartbeat\"}"), Err(WireError::LineBreak { at: 8 })));
    }

    #[test]
    fn a_line_of_the_limit_is_read_and_one_byte_more_is_not() {
        let mut line = String::from("{\"type\":\"heartbeat\",\"sequence\":1}");
        line.push_str(&" ".repeat(MAX_LINE - line.len()));
        assert!(decode(&line).is_ok());
        line.push(' ');
        assert!(matches!(decode(&line), Err(WireError::TooLong { length }) if length == MAX_LINE + 1));
    }

    #[test]
    fn a_reason_of_the_worst_characters_still_fits_its_line() {
        let prefix = "2001:db8:c10a::200/128".parse().unwrap();
        for reason in ["\u{1}".repeat(2 * MAX_REASON), "é".repeat(MAX_REASON), "\"".repeat(MAX_REASON)] {
            let line = encode(&Message::Prefix { prefix, healthy: false, reason });
            assert!(line.len() <= MAX_LINE);
            assert!(decode(&line).is_ok());
        }
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let prefix = prop_oneof![
            (any::<[u8; 4]>(), 0_u8..=32).prop_map(|(bits, length)| IpNet::new(bits.into(), length).unwrap()),
            (any::<[u8; 16]>(), 0_u8..=128).prop_map(|(bits, length)| IpNet::new(bits.into(), length).unwrap()),
        ];
        prop_oneof![
            (prefix, any::<bool>(), "\\PC{0,100}").prop_map(|(prefix, healthy, reason)| Message::Prefix {
                prefix: prefix.trunc(),
                healthy,
                reason
            }),
            any::<u64>().prop_map(|sequence| Message::Heartbeat { sequence }),
        ]
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(message in any_message()) {
            prop_assert_eq!(decode(encode(&message)).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode(&bytes) {
                prop_assert_eq!(decode(encode(&message)).unwrap(), message);
            }
        }
    }
}
