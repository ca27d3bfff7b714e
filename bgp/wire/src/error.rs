//! What is wrong with a message, and what to do about it.

use crate::notification::{ErrorCode, Notification};
use crate::rules::{self, code};
use crate::types::Family;

/// Why a message ends the session. [`DecodeError::notification`] is what to answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not BGP, or out of step.
    #[error("the marker is not all ones")]
    Marker,
    /// A length that the header or the message type does not allow.
    #[error("{what} of {length} octets is not allowed")]
    Length {
        /// Which message.
        what: &'static str,
        /// The length field.
        length: u16,
    },
    /// An unknown message type.
    #[error("message type {0} is unknown")]
    Type(u8),
    /// OPEN of another protocol version.
    #[error("version {0} is not spoken here, 4 is")]
    Version(u8),
    /// OPEN from AS 0 (RFC 7607).
    #[error("AS 0 is no peer")]
    AsZero,
    /// OPEN with router id 0.0.0.0 (RFC 6286).
    #[error("router id 0.0.0.0 is no router id")]
    RouterIdZero,
    /// OPEN with a hold time of one or two seconds.
    #[error("hold time {0} s is neither 0 nor at least 3")]
    HoldTime(u16),
    /// OPEN with an optional parameter other than capabilities.
    #[error("optional parameter {0} is not supported")]
    Parameter(u8),
    /// OPEN whose parameters or capabilities do not fit into each other.
    #[error("{0} overruns what holds it")]
    OpenTruncated(&'static str),
    /// ROUTE-REFRESH of another length than its subtype has; the whole message (RFC 7313 §5).
    #[error("ROUTE-REFRESH of {} octets", .0.len())]
    RouteRefreshLength(Vec<u8>),
    /// UPDATE whose lengths contradict each other.
    #[error("{0} overruns the UPDATE")]
    UpdateTruncated(&'static str),
    /// UPDATE with a prefix that does not parse.
    #[error("{0} holds a prefix that is too long or cut off")]
    Network(&'static str),
    /// UPDATE with an attribute for which nothing milder is possible.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
}

impl DecodeError {
    /// The NOTIFICATION that tells the peer (RFC 4271 §6).
    #[must_use]
    pub fn notification(&self) -> Notification {
        match self {
            Self::Marker => ErrorCode::NOT_SYNCHRONIZED.into(),
            Self::Length { length, .. } => Notification::new(ErrorCode::BAD_LENGTH, length.to_be_bytes()),
            Self::Type(kind) => Notification::new(ErrorCode::BAD_TYPE, [*kind]),
            Self::Version(_) => Notification::new(ErrorCode::UNSUPPORTED_VERSION, 4_u16.to_be_bytes()),
            Self::AsZero => ErrorCode::BAD_PEER_AS.into(),
            Self::RouterIdZero => ErrorCode::BAD_IDENTIFIER.into(),
            Self::HoldTime(_) => ErrorCode::UNACCEPTABLE_HOLD_TIME.into(),
            Self::Parameter(_) => ErrorCode::UNSUPPORTED_PARAMETER.into(),
            Self::OpenTruncated(_) => ErrorCode::OPEN_UNSPECIFIC.into(),
            Self::RouteRefreshLength(frame) => Notification::new(ErrorCode::REFRESH_LENGTH, frame.clone()),
            Self::UpdateTruncated(_) => ErrorCode::MALFORMED_ATTRIBUTES.into(),
            Self::Network(_) => ErrorCode::INVALID_NETWORK.into(),
            Self::Attribute(error) => error.notification(),
        }
    }
}

/// What RFC 7606 does about a flaw, mild to strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// The attribute is left out, the routes stand.
    Discard,
    /// The routes of the UPDATE count as withdrawn.
    Withdraw,
    /// Routes of the family are no longer listened to, until the session starts anew (RFC 7606 §2).
    DisableFamily,
    /// The session ends.
    Reset,
}

/// What is wrong with one path attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeFault {
    /// Optional or transitive bit contradicts the type.
    Flags,
    /// The length contradicts the type.
    Length,
    /// The value has no meaning.
    Value,
    /// The attribute list ends inside the attribute.
    CutOff,
    /// The type appears twice.
    Repeated,
    /// A well-known type that nobody knows.
    Unrecognized,
    /// A mandatory attribute is not there.
    Missing,
    /// A flow specification that is none, among others whose places are known (RFC 8955 §4.2).
    FlowRule,
}

/// A flaw in one path attribute (RFC 4271 §6.3, RFC 7606).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attribute {}: {}", rules::name(*.code), match .fault {
    AttributeFault::Flags => "flags contradict the type",
    AttributeFault::Length => "length contradicts the type",
    AttributeFault::Value => "value has no meaning",
    AttributeFault::CutOff => "cut off by the end of the attribute list",
    AttributeFault::Repeated => "given twice",
    AttributeFault::Unrecognized => "well-known, but not known",
    AttributeFault::Missing => "missing",
    AttributeFault::FlowRule => "holds a flow specification that is none",
})]
pub struct AttributeError {
    /// The attribute type.
    pub code: u8,
    /// What is wrong.
    pub fault: AttributeFault,
    /// The attribute as received: flags, type, length, value.
    pub received: Vec<u8>,
}

impl AttributeError {
    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match rules::treatment(self.fault, self.code).0 {
            // Nobody knows which family it was, or it is none that we could do without.
            Disposition::DisableFamily if self.family().is_none() && self.flow_family().is_none() => Disposition::Reset,
            disposition => disposition,
        }
    }

    /// The section that says so.
    #[must_use]
    pub fn section(&self) -> &'static str {
        rules::treatment(self.fault, self.code).1
    }

    /// The family whose prefixes a damaged MP_REACH_NLRI or MP_UNREACH_NLRI holds.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.codes().and_then(|(afi, safi)| Family::from_codes(afi, safi))
    }

    /// The family of the packets whose flow specifications it holds.
    #[must_use]
    pub fn flow_family(&self) -> Option<Family> {
        self.codes().and_then(|(afi, safi)| Family::from_flow_codes(afi, safi))
    }

    /// The address family and the subsequent one that prefixes or rules are of.
    fn codes(&self) -> Option<(u16, u8)> {
        let value = match self.received.as_slice() {
            [flags, _, _, _, value @ ..] if flags & rules::flag::EXTENDED != 0 => value,
            [_, _, _, value @ ..] => value,
            _ => return None,
        };
        match (self.code, value) {
            (code::MP_REACH | code::MP_UNREACH, [high, low, safi, ..]) => {
                Some((u16::from_be_bytes([*high, *low]), *safi))
            }
            _ => None,
        }
    }

    /// The NOTIFICATION where the session has to end over it.
    #[must_use]
    pub fn notification(&self) -> Notification {
        let error = match (self.fault, self.code) {
            (AttributeFault::Missing, _) => {
                return Notification::new(ErrorCode::MISSING_WELL_KNOWN, [self.code]);
            }
            (AttributeFault::Repeated, _) => return ErrorCode::MALFORMED_ATTRIBUTES.into(),
            (AttributeFault::Value, code::AS_PATH) => return ErrorCode::MALFORMED_AS_PATH.into(),
            (AttributeFault::Unrecognized, _) => ErrorCode::UNRECOGNIZED_WELL_KNOWN,
            (AttributeFault::Flags, _) => ErrorCode::ATTRIBUTE_FLAGS,
            (AttributeFault::Length | AttributeFault::Value, code::MP_REACH | code::MP_UNREACH) => {
                ErrorCode::OPTIONAL_ATTRIBUTE
            }
            (AttributeFault::Length | AttributeFault::CutOff, _) => ErrorCode::ATTRIBUTE_LENGTH,
            (AttributeFault::Value, code::ORIGIN) => ErrorCode::INVALID_ORIGIN,
            (AttributeFault::Value, code::NEXT_HOP) => ErrorCode::INVALID_NEXT_HOP,
            (AttributeFault::Value | AttributeFault::FlowRule, _) => ErrorCode::OPTIONAL_ATTRIBUTE,
        };
        Notification::new(error, self.received.clone())
    }
}

/// Why a value has no encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {length} octets exceeds {limit}")]
pub struct EncodeError {
    /// What is too long.
    pub what: &'static str,
    /// Its length in octets.
    pub length: usize,
    /// The most that fits.
    pub limit: usize,
}
