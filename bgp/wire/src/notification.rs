//! NOTIFICATION: why a session ends (RFC 4271 §4.5, RFC 4486, RFC 6608, RFC 8538, RFC 9003).

use std::fmt;

use crate::reader::Reader;

/// An error code and subcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u8, pub u8);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = ($code:literal, $subcode:literal) $text:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($code, $subcode);)*

            /// What the registry calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self($code, $subcode) => $text,)*
                    Self(1, _) => "Message Header Error",
                    Self(2, _) => "OPEN Message Error",
                    Self(3, _) => "UPDATE Message Error",
                    Self(4, _) => "Hold Timer Expired",
                    Self(5, _) => "Finite State Machine Error",
                    Self(6, _) => "Cease",
                    Self(7, _) => "ROUTE-REFRESH Message Error",
                    Self(8, _) => "Send Hold Timer Expired",
                    Self(_, _) => "unknown error",
                }
            }
        }
    };
}

error_codes! {
    /// The marker is not all ones.
    NOT_SYNCHRONIZED = (1, 1) "Connection Not Synchronized";
    /// A length that the message type does not allow; data is the length field.
    BAD_LENGTH = (1, 2) "Bad Message Length";
    /// An unknown message type; data is the type.
    BAD_TYPE = (1, 3) "Bad Message Type";
    /// An OPEN that does not parse.
    OPEN_UNSPECIFIC = (2, 0) "OPEN Message Error";
    /// Another version than 4; data is the version that we speak.
    UNSUPPORTED_VERSION = (2, 1) "Unsupported Version Number";
    /// Not the AS that was configured.
    BAD_PEER_AS = (2, 2) "Bad Peer AS";
    /// A router id that is zero, or our own on an internal session.
    BAD_IDENTIFIER = (2, 3) "Bad BGP Identifier";
    /// An optional parameter other than capabilities.
    UNSUPPORTED_PARAMETER = (2, 4) "Unsupported Optional Parameter";
    /// A hold time of one or two seconds.
    UNACCEPTABLE_HOLD_TIME = (2, 6) "Unacceptable Hold Time";
    /// No capability that we need; data is what we need (RFC 5492 §5).
    UNSUPPORTED_CAPABILITY = (2, 7) "Unsupported Capability";
    /// The roles of RFC 9234 §4.2 do not fit each other.
    ROLE_MISMATCH = (2, 11) "Role Mismatch";
    /// The lengths of an UPDATE contradict each other.
    MALFORMED_ATTRIBUTES = (3, 1) "Malformed Attribute List";
    /// A well-known attribute that is not known.
    UNRECOGNIZED_WELL_KNOWN = (3, 2) "Unrecognized Well-known Attribute";
    /// A mandatory attribute is missing; data is its type.
    MISSING_WELL_KNOWN = (3, 3) "Missing Well-known Attribute";
    /// The flags contradict the type.
    ATTRIBUTE_FLAGS = (3, 4) "Attribute Flags Error";
    /// The length contradicts the type.
    ATTRIBUTE_LENGTH = (3, 5) "Attribute Length Error";
    /// An undefined ORIGIN.
    INVALID_ORIGIN = (3, 6) "Invalid ORIGIN Attribute";
    /// A next hop that can't be one.
    INVALID_NEXT_HOP = (3, 8) "Invalid NEXT_HOP Attribute";
    /// An optional attribute whose value is wrong.
    OPTIONAL_ATTRIBUTE = (3, 9) "Optional Attribute Error";
    /// A prefix that does not parse.
    INVALID_NETWORK = (3, 10) "Invalid Network Field";
    /// An AS_PATH that does not parse.
    MALFORMED_AS_PATH = (3, 11) "Malformed AS_PATH";
    /// Silence past the hold time.
    HOLD_TIMER_EXPIRED = (4, 0) "Hold Timer Expired";
    /// A message that OpenSent does not take (RFC 6608).
    UNEXPECTED_IN_OPEN_SENT = (5, 1) "Receive Unexpected Message in OpenSent State";
    /// A message that OpenConfirm does not take (RFC 6608).
    UNEXPECTED_IN_OPEN_CONFIRM = (5, 2) "Receive Unexpected Message in OpenConfirm State";
    /// A message that Established does not take (RFC 6608).
    UNEXPECTED_IN_ESTABLISHED = (5, 3) "Receive Unexpected Message in Established State";
    /// More prefixes than the receiver's operator allows; data is family and limit (RFC 4486 §4).
    MAXIMUM_PREFIXES = (6, 1) "Maximum Number of Prefixes Reached";
    /// The peer's operator stops the session.
    ADMINISTRATIVE_SHUTDOWN = (6, 2) "Administrative Shutdown";
    /// The peer is no longer configured.
    PEER_DECONFIGURED = (6, 3) "Peer De-configured";
    /// The peer's operator resets the session.
    ADMINISTRATIVE_RESET = (6, 4) "Administrative Reset";
    /// The connection is not wanted.
    CONNECTION_REJECTED = (6, 5) "Connection Rejected";
    /// The peer's configuration changed.
    CONFIGURATION_CHANGE = (6, 6) "Other Configuration Change";
    /// The other of two crossing connections stays.
    CONNECTION_COLLISION = (6, 7) "Connection Collision Resolution";
    /// Out of resources.
    OUT_OF_RESOURCES = (6, 8) "Out of Resources";
    /// The session ends and no route of it is to be kept; data is the NOTIFICATION that says why (RFC 8538 §3).
    HARD_RESET = (6, 9) "Hard Reset";
    /// Bidirectional forwarding detection lost the peer (RFC 9384).
    BFD_DOWN = (6, 10) "BFD Down";
    /// A ROUTE-REFRESH of the wrong length; data is the message (RFC 7313 §5).
    REFRESH_LENGTH = (7, 1) "Invalid ROUTE-REFRESH Message Length";
    /// The peer reads nothing of what we send (RFC 9687).
    SEND_HOLD_TIMER_EXPIRED = (8, 0) "Send Hold Timer Expired";
}

/// Prints as `6/2 Administrative Shutdown`.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.0, self.1, self.name())
    }
}

/// The longest text that RFC 9003 §2 lets an operator say.
pub const LONGEST_COMMUNICATION: usize = 255;

/// A NOTIFICATION message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What is wrong.
    pub error: ErrorCode,
    /// What the error's definition puts there.
    pub data: Vec<u8>,
}

impl Notification {
    /// With `data` as the error's definition asks.
    #[must_use]
    pub fn new(error: ErrorCode, data: impl Into<Vec<u8>>) -> Self {
        Self { error, data: data.into() }
    }

    /// `error` with a word from the operator (RFC 9003), cut at [`LONGEST_COMMUNICATION`] octets.
    #[must_use]
    pub fn with_communication(error: ErrorCode, text: &str) -> Self {
        let end = text.floor_char_boundary(LONGEST_COMMUNICATION);
        let text = text.get(..end).unwrap_or_default().as_bytes();
        match u8::try_from(text.len()) {
            Ok(length) if length > 0 => Self::new(error, [&[length], text].concat()),
            _ => error.into(),
        }
    }

    /// What the peer's operator says (RFC 9003), with control characters escaped.
    #[must_use]
    pub fn communication(&self) -> Option<String> {
        if !matches!(self.error, ErrorCode::ADMINISTRATIVE_SHUTDOWN | ErrorCode::ADMINISTRATIVE_RESET) {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let length = reader.u8().filter(|length| *length > 0)?;
        let text = String::from_utf8_lossy(reader.take(usize::from(length))?).into_owned();
        let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Some(text.chars().map(visible).collect())
    }

    /// The NOTIFICATION that a Hard Reset wraps (RFC 8538 §3).
    #[must_use]
    pub fn hard_reset(&self) -> Option<Self> {
        if self.error != ErrorCode::HARD_RESET { None } else { Self::decode_body(&self.data) }
    }

    pub(crate) fn decode_body(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let error = ErrorCode(reader.u8()?, reader.u8()?);
        Some(Self::new(error, reader.rest()))
    }

    pub(crate) fn encode_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.error.0, self.error.1]);
        out.extend_from_slice(&self.data);
    }
}

impl From<ErrorCode> for Notification {
    fn from(error: ErrorCode) -> Self {
        Self::new(error, [])
    }
}

/// As `6/2 Administrative Shutdown: "back in an hour"`.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        // One level: a Hard Reset in a Hard Reset is nobody's.
        let inner = self.hard_reset();
        if let Some(inner) = &inner {
            write!(f, " ({})", inner.error)?;
        }
        match inner.as_ref().unwrap_or(self).communication() {
            Some(text) => write!(f, ": \"{text}\""),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_word_is_carried_cut_and_shown_without_control_characters() {
        let shutdown = ErrorCode::ADMINISTRATIVE_SHUTDOWN;
        let notification = Notification::with_communication(shutdown, "Wartung ü");
        assert_eq!(notification.data, [&[10], "Wartung ü".as_bytes()].concat());
        assert_eq!(notification.to_string(), "6/2 Administrative Shutdown: \"Wartung ü\"");
        assert_eq!(Notification::with_communication(shutdown, ""), shutdown.into());
        // 254 octets and a letter of two: the letter does not fit.
        let long = "x".repeat(254) + "ü";
        assert_eq!(Notification::with_communication(shutdown, &long).data.len(), 255);
        assert_eq!(Notification::with_communication(shutdown, &"x".repeat(256)).data.len(), 256);
        let evil = Notification::new(shutdown, *b"\x04a\x1b\nb");
        assert_eq!(evil.communication().as_deref(), Some("a\\u{1b}\\nb"));
        for data in [&b""[..], b"\x00", b"\x05abc"] {
            assert_eq!(Notification::new(shutdown, data).communication(), None);
        }
        assert_eq!(Notification::new(ErrorCode::BAD_PEER_AS, *b"\x01a").communication(), None);
    }

    #[test]
    fn a_hard_reset_shows_what_it_wraps() {
        let notification = Notification::new(ErrorCode::HARD_RESET, *b"\x06\x02\x03bye");
        assert_eq!(notification.to_string(), "6/9 Hard Reset (6/2 Administrative Shutdown): \"bye\"");
        assert_eq!(Notification::new(ErrorCode::HARD_RESET, [6]).to_string(), "6/9 Hard Reset");
    }
}
