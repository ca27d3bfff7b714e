//! The money of electronic cash: double entry in each currency, without I/O or a clock (G2, G3).
//!
//! Every movement is an [`Entry`], whose postings sum to zero in each currency. Balances are nothing but the sum of
//! entries: [`Books::audit`] proves it from the stored ones. Above the books are [`holds`](Hold), [`limits`](Limits) over
//! windows, [`fees`](Tariff), [`exchange`](Exchange), and the [`ends`](Ends) of sessions, which a timer and a request
//! find alike.
//!
//! What is left out: who may move money, and why. That is `transact-ecash`.

mod books;
mod ends;
mod exchange;
mod fees;
mod holds;
mod limits;

pub use books::{Account, AuditError, Audited, Books, Cause, Container, Entry, Event, LedgerError, Posting};
pub use ends::Ends;
pub use exchange::Exchange;
pub use fees::Tariff;
pub use holds::{Direction, Hold, HoldError, HoldId, HoldState, Holds, Outcome};
pub use limits::{BindingId, Function, Limit, Limits, Use};
