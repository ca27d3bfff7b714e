//! BGP-4 messages: bytes to values and back.
//!
//! For the live session: what it accepts is bounded, and what it refuses carries the NOTIFICATION that
//! RFC 4271 §6 asks for, or the milder treatment of RFC 7606. It holds no session state and no routes.
//!
//! RFC 4271 (BGP-4), 4760 (multiprotocol), 5492 (capabilities), 6793 (four-octet AS numbers),
//! 1997 (communities), 2918 (route refresh), 4724 §2 (End-of-RIB), 7606 (revised error handling).
//! IPv4 and IPv6 unicast; other families pass through unread. Requirement A1.

mod attribute;
mod bulk;
mod error;
mod framer;
mod message;
mod nlri;
mod notification;
mod open;
mod pack;
mod reader;
mod types;
mod update;

pub use attribute::{AsPath, Attributes, Origin, RawAttribute, Segment};
pub use bulk::{Bulk, push_prefix};
pub use error::{AttributeError, AttributeFault, DecodeError, Disposition, EncodeError};
pub use framer::Framer;
pub use message::{Context, HEADER_LENGTH, MAX_LENGTH, Message, RouteRefresh};
pub use notification::{ErrorCode, Notification};
pub use open::{Capability, Open};
pub use pack::{announce_v4, announce_v6, withdraw_v4, withdraw_v6};
pub use types::{AS_TRANS, Asn, Community, CommunityError, Family, HoldTime, HoldTimeTooShort, RouterId, ZeroRouterId};
pub use update::{MpReach, MpUnreach, Update};
