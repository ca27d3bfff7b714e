//! The vocabulary of Cloakway as types: money, identifiers, prefixes and time.
//!
//! Everything here is a plain value: no I/O, no clock, no cryptography. A value that exists is
//! valid, so code behind the constructor never checks again.

pub mod count;
pub mod id;
mod lookup;
pub mod money;
pub mod prefix;
pub mod time;

pub use count::Counters;
pub use id::{IdError, IspId, SubscriberId, TransactionId, VendorId};
pub use lookup::{AddressMap, AddressMapBuilder};
pub use money::{Currency, Money, MoneyError};
pub use prefix::{PrefixMap, PrefixSet};
pub use time::{Instant, TimeError, Timestamp};
