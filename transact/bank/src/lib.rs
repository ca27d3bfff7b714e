//! ISO 8583 messages and the link to a financial institution, without I/O or a clock (A13).
//!
//! ISO 8583:1987 over TCP, in the forms that institutions speak it:
//!
//! - [`spec`]: the data elements as a table. [`Message`]: a message. [`Profile`]: how it becomes octets (ASCII, packed
//!   binary, or between them). [`Codec`]: the same with a message authentication code. [`Framer`]: messages in a stream.
//! - [`Authorisation`] (0100 or 0200), [`Refund`] (0200), [`Reversal`] (0400 or 0420), [`Answer`]: what is asked and
//!   answered, typed.
//! - [`CardRanges`]: which institution a card belongs to.
//! - [`Link`]: the connections to one institution. No request is sent twice, none is left hanging: an answer that does
//!   not come is reversed until the institution has confirmed it.
//!
//! Left out: chip data, key exchange (0800/1xx), settlement (05xx).

mod counters;
mod events;
mod frame;
mod link;
mod message;
mod profile;
mod ranges;
mod request;
pub mod spec;

pub use cloakway_crypto::bank::{MacKey, PinKey};
pub use counters::{Count, Counters};
pub use events::{DisconnectReason, Input, LinkConfig, Output, Verdict, Why};
pub use frame::{FrameError, Framer, Framing, LengthKind, frame};
pub use link::Link;
pub use message::{DecodeError, FieldError, Message, MessageType, Part};
pub use profile::{Codec, Profile};
pub use ranges::{CardRange, CardRanges, RangeError};
pub use request::{
    Acceptor, AcceptorError, Answer, AnswerError, Authorisation, Movement, NetworkCode, Original, Refund, ResponseCode,
    Reversal, ReversalKind, Trace, TraceError, original_data,
};
pub use transact_wire::card::{CardNumber, Expiry, Pin};
