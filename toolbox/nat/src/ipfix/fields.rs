//! The information elements that are about translations (IANA, "IPFIX Information Elements").

pub(super) const PROTOCOL: u16 = 4;
pub(super) const SOURCE_PORT: u16 = 7;
pub(super) const SOURCE_V4: u16 = 8;
pub(super) const DESTINATION_PORT: u16 = 11;
pub(super) const DESTINATION_V4: u16 = 12;
pub(super) const SOURCE_V6: u16 = 27;
pub(super) const DESTINATION_V6: u16 = 28;
pub(super) const POST_NAT_SOURCE_V4: u16 = 225;
pub(super) const POST_NAT_SOURCE_PORT: u16 = 227;
pub(super) const NAT_EVENT: u16 = 230;
pub(super) const POST_NAT_SOURCE_V6: u16 = 281;
pub(super) const OBSERVED_MS: u16 = 323;
pub(super) const RANGE_FIRST: u16 = 361;
pub(super) const RANGE_LAST: u16 = 362;
pub(super) const RANGE_STEP: u16 = 363;
pub(super) const RANGE_SIZE: u16 = 364;
