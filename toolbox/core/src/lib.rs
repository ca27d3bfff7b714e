//! The binding table: who is live at an address now, and how we know (F1, F2).
//!
//! Sources turn what they hear into [`Event`]s; the [`Table`] orders them by the source's own time and
//! answers. RADIUS accounting is the source so far; another one yields the same events.
//!
//! **A wrong person is the one unforgivable answer.** Where evidence is missing, late or contradictory
//! the answer is [`Answer::Unknown`] with its reason. What follows from that:
//!
//! - A record proves only the addresses that it names, for the moment that it is about. A binding whose
//!   last proof is older than the configured age is stale.
//! - Order is the source's own: Event-Timestamps differ by a second or more, or arrivals (less
//!   Acct-Delay-Time) by more than the network's longest delay. Otherwise the order is unclear, and it is
//!   never guessed. An older record changes nothing that a later one has said.
//! - After a Stop, no Interim-Update opens the session again; a Start that is certainly later does.
//!   Accounting-On and Off end what the NAS said before.
//! - A record that cannot be put in order makes its session doubtful up to then: what no certainly later
//!   record repeats answers for nobody, and stands in the way of everyone else who claims the address. To
//!   drop it instead would be wrong: the other claimant may be the one whose Stop was lost.
//! - Two sessions of different subscribers on one address make it unknown, also when one NAS reports both
//!   and the newer could be meant to replace the older. It ends with a Stop, with Accounting-On or Off, or
//!   when one of the two falls silent. Two sessions of one subscriber do not contradict each other.
//!
//! Pure: time is an argument. Durability is the shell's: each change comes out as [`Row`]s to keep, and
//! [`Table::restore`] takes them back.

mod session;
mod table;

pub use session::{SessionKey, Span};
pub use table::{
    Answer, Applied, Binding, Effect, Event, Ignored, Live, ResetKey, RestoreError, Row, Rows, Settings, Table, Unknown,
};
