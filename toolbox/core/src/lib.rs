//! The binding table: who is live at an address now, and how we know (F1, F2).
//!
//! Sources turn what they hear into [`Event`]s, whose records are those of [`toolbox_wire::record`], where the
//! contract of a source stands; the [`Table`] orders them by the source's own time and answers.
//!
//! - A [`Question`] is about an address and, where it is shared, about a port: without one there is no answer
//!   about a shared address.
//! - A translation answers for an external address and ports by who is at the internal address. It is learnt, or
//!   computed by a [`Translator`]; the answer is unknown if either side is.
//!
//! **A wrong person is the one unforgivable answer.** Where evidence is missing, late or contradictory
//! the answer is [`Answer::Unknown`] with its reason. What follows from that:
//!
//! - A record proves only the addresses that it names, for the moment that it is about. A binding whose
//!   last proof is older than the configured age is stale.
//! - Order is the source's own: Event-Timestamps differ by a second or more, or arrivals (less
//!   Acct-Delay-Time) by more than the network's longest delay. Otherwise the order is unclear, and it is
//!   never guessed. An older record changes nothing that a later one has said.
//! - What comes to an end is told as [`Interval`]s, and a question may be about a moment: [`Moment`].
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
//! [`Table::replay`] takes them back.

mod answer;
mod carried;
mod changes;
mod closing;
mod codec;
mod history;
mod loading;
mod ours;
mod pack;
mod packed;
mod rows;
mod session;
mod sessions;
mod skim;
mod table;
mod translate;

pub use answer::{Answer, Binding, Live, Question, Unknown};
pub use carried::{Carried, Completed};
pub use changes::Place;
pub use codec::DecodeError;
pub use history::{Interval, Moment, Past, place};
pub use loading::{Loading, Part};
pub use packed::{Glances, NoRoom, Seen, Sight};
pub use rows::{Cursor, ResetKey, RestoreError, Row, Rows};
pub use session::{SessionKey, Span};
pub use table::{Applied, Effect, Event, Ignored, Settings, Table};
pub use translate::{Computed, Translator};
