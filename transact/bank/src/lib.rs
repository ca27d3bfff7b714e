//! ISO 8583 messages and the link to a financial institution, without I/O or a clock (A13).
//!
//! The profile is ISO 8583:1987 over TCP: every message behind its length in two octets, text in
//! ASCII, bitmaps and binary fields as hexadecimal digits, the fields of [`spec::FIELDS`].
//!
//! - [`spec`]: the fields as data. [`Message`]: the codec over them. [`Framer`]: messages in a stream.
//! - [`Authorisation`], [`Reversal`], [`Answer`]: what is asked and answered, typed.
//! - [`Link`]: one connection after another to one institution. No authorisation is sent twice, none is
//!   left hanging: an answer that does not come is reversed until the institution has confirmed it.
//!
//! Left out: MAC (field 64) is carried, not computed; PIN blocks; chip data.

mod counters;
mod frame;
mod link;
mod message;
mod request;
pub mod spec;

pub use counters::{Count, Counters};
pub use frame::{FrameError, Framer, frame};
pub use link::{DisconnectReason, Input, Link, LinkConfig, Output, Verdict, Why};
pub use message::{DecodeError, FieldError, Message, MessageType, Part};
pub use request::{
    Acceptor, AcceptorError, Answer, AnswerError, Authorisation, NetworkCode, ResponseCode, Reversal, Trace,
    TraceError, original_data,
};
pub use transact_wire::card::{CardNumber, Expiry};
