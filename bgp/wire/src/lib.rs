//! BGP-4 messages: bytes to values and back.
//!
//! For the live session: what it accepts is bounded, and what it refuses carries the NOTIFICATION that
//! RFC 4271 §6 asks for, or the milder treatment of RFC 7606. It holds no session state and no routes.
//!
//! IPv4 and IPv6 unicast and flow specifications; other families pass through unread. `docs/bgp.md` lists the RFCs. Requirement A1.

mod as_path;
mod attribute;
mod bulk;
mod capability;
mod community;
mod error;
mod flow;
mod framer;
mod message;
mod multiprotocol;
mod nlri;
mod notification;
mod open;
mod pack;
mod reader;
mod rules;
mod types;
mod update;

pub use as_path::{AsPath, Segment};
pub use attribute::{Aggregator, Attributes, Origin, RawAttribute};
pub use bulk::Bulk;
pub use capability::{AddPath, Capability, GracefulRestart, LongLived, Role};
pub use community::{Community, CommunityError, ExtendedCommunity, LargeCommunity, LargeCommunityError};
pub use error::{AttributeError, AttributeFault, DecodeError, Disposition, EncodeError};
pub use flow::{
    Action, ActionTextError, Actions, BitField, BitTerm, Comparison, Component, FlowError, FlowRule, FlowTextError,
    LONGEST_RULE, NumberField, NumberTerm, Operand, Pattern, Rate, announce_flow, protocol_number, withdraw_flow,
};
pub use framer::{Framer, Pending};
pub use message::{Context, HEADER_LENGTH, MAX_EXTENDED_LENGTH, MAX_LENGTH, Message, RouteRefresh};
pub use multiprotocol::{MpReach, MpUnreach};
pub use notification::{ErrorCode, LONGEST_COMMUNICATION, Notification};
pub use open::Open;
pub use pack::{announce_v4, announce_v4_by_v6, announce_v6, withdraw_v4, withdraw_v6};
pub use reader::Reader;
pub use types::{AS_TRANS, Asn, FLOW_SAFI, Families, Family, HoldTime, HoldTimeTooShort, RouterId, ZeroRouterId};
pub use update::{PathIds, Paths, Update};
