//! What DHCP servers write down, and say on the wire, about who has an address (F1).
//!
//! - [`kea`]: the lease files of Kea's memfile backend, DHCPv4 and DHCPv6 with prefix delegation.
//! - [`isc`]: `dhcpd.leases` and `dhcpd6.leases` of ISC DHCP.
//! - [`tap`]: messages between clients, relays and a server (RFC 2131, 3046, 8415).
//! - [`Book`]: the leases of one server by address, and what a new record changes.
//! - [`Naming`]: which of a lease's identities is the subscriber.
//!
//! A record that cannot be read is never passed over in silence: what it may have been about is doubtful until the
//! server says it again. Pure: no file, no socket, no clock.

mod book;
mod holder;
pub mod isc;
pub mod kea;
mod lease;
mod naming;
mod octets;
pub mod tap;

pub use book::{Book, Change, Now};
pub use holder::Holder;
pub use lease::{Damage, Lease, Record, State};
pub use naming::{Identities, Identity, IdentityError, Naming, Unnamed};
