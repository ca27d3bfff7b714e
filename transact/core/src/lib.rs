//! The order's state machine and the admission of payers: what the transaction server decides.
//!
//! Pure: no I/O, no clock, no randomness (ids and passwords are derived from a key). Every method
//! of [`Orders`] gives a [`Step`]: writes that have to be durable first, then effects that may leave
//! the process. A shell that keeps to that order loses nothing that it acknowledged (A9, A12, A13).
//!
//! ```text
//!            pay                 approved / declined
//!   Open ──────────> Authorising ──────────────────> Final ──refund──> Refunding ──given, refused, undone──> Final
//!    │  ^ not sent ──────┘ │ no answer, or restart     ^
//!    │                     v          0410             │
//!    │                 Reversing ──────────────────────┤
//!    └── expired, locked, cancelled ───────────────────┘
//! ```
//! [`machine::TRANSITIONS`] has every step; an order keeps those that it took.

pub mod admission;
mod institutions;
pub mod machine;
mod order;
mod orders;

pub use institutions::Institutions;
pub use order::{Asked, Attempt, Order, OrderKey, Refunding, State, Taken};
pub use orders::{
    Answer, BankEvent, BankOrder, BankRefund, BankReversal, CancelError, Effect, Known, Orders, PasswordMatched,
    PayError, PlaceError, Policy, RefundError, Step, Ticket, Write,
};
