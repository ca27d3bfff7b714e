//! NOTIFICATION: why a session ends (RFC 4271 §4.5, RFC 4486, RFC 6608).

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
}

/// Prints as `6/2 Administrative Shutdown`.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.0, self.1, self.name())
    }
}

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

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}
