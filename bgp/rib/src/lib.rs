//! What peers tell of routes: kept, compared, looked up and passed on, without I/O or a clock.
//!
//! [`Rib`] holds every route of every peer that the operator wants to import (Adj-RIB-In and Loc-RIB in one), and the
//! best of each prefix by the decision process of RFC 4271 §9.1 with RFC 4456, 8326 and 9494. Every route keeps why it
//! is best, why not, or why it was refused. [`Rib::look_up`] finds the longest prefix that holds an address (A7);
//! [`Rib::read`] brings a peer that the operator wants to tell up to date.
//!
//! One route costs 16 octets and its prefix 12, beside an index; attributes are kept once for all routes that share
//! them. Not here: FlowSpec and other families, route reflection, and what the kernel is told.

mod attributes;
mod decision;
mod export;
mod flow;
mod import;
mod peer;
mod rib;
mod table;
mod view;

pub use decision::Step;
pub use export::{Batch, Export, NotTold, ReaderId};
pub use flow::{FlowCheck, FlowClaim, Infeasible};
pub use import::{Import, Judge, Rejected};
pub use peer::{Counts, PeerId, PeerSettings};
pub use rib::{Again, Rib, Settings, Walk};
pub use view::{Match, Origin, PathView, Standing};
