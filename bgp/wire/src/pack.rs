//! Many prefixes of one attribute set, in as few UPDATEs as hold them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::attribute::Attributes;
use crate::error::EncodeError;
use crate::message::{Context, HEADER_LENGTH, Message};
use crate::multiprotocol::{MpReach, MpUnreach};
use crate::nlri::{PATH_ID_LENGTH, Prefix, encoded_length};
use crate::update::Update;

/// UPDATEs that announce `prefixes`, in the fields of RFC 4271; `attributes.next_hop` becomes `next_hop`.
///
/// # Errors
/// [`EncodeError`] when the attributes leave no room.
pub fn announce_v4(
    attributes: &Attributes,
    next_hop: Ipv4Addr,
    prefixes: impl IntoIterator<Item = Ipv4Net>,
    context: Context,
) -> Result<Vec<Update>, EncodeError> {
    let attributes = Attributes { next_hop: Some(next_hop), ..attributes.clone() };
    let empty = Update { attributes, ..Update::default() };
    pack(&empty, prefixes, Ipv4Net::prefix_len, context, |update, prefixes| update.announced = prefixes)
}

/// UPDATEs that announce `prefixes` by way of an IPv6 next hop (RFC 8950), to a peer that has the capability.
///
/// # Errors
/// [`EncodeError`] when the attributes leave no room.
pub fn announce_v4_by_v6(
    attributes: &Attributes,
    next_hop: Ipv6Addr,
    prefixes: impl IntoIterator<Item = Ipv4Net>,
    context: Context,
) -> Result<Vec<Update>, EncodeError> {
    let reach = |prefixes| Some(MpReach::Ipv4ByIpv6 { next_hop, link_local: None, prefixes });
    let attributes = Attributes { next_hop: None, ..attributes.clone() };
    let empty = Update { mp_reach: reach(Vec::new()), attributes, ..Update::default() };
    pack(&empty, prefixes, Ipv4Net::prefix_len, context, |update, prefixes| update.mp_reach = reach(prefixes))
}

/// UPDATEs that announce `prefixes` by MP_REACH_NLRI (RFC 4760).
///
/// # Errors
/// [`EncodeError`] when the attributes leave no room.
pub fn announce_v6(
    attributes: &Attributes,
    next_hop: Ipv6Addr,
    prefixes: impl IntoIterator<Item = Ipv6Net>,
    context: Context,
) -> Result<Vec<Update>, EncodeError> {
    let reach = |prefixes| Some(MpReach::Ipv6 { next_hop, link_local: None, prefixes });
    let attributes = Attributes { next_hop: None, ..attributes.clone() };
    let empty = Update { mp_reach: reach(Vec::new()), attributes, ..Update::default() };
    pack(&empty, prefixes, Ipv6Net::prefix_len, context, |update, prefixes| update.mp_reach = reach(prefixes))
}

/// UPDATEs that withdraw `prefixes`.
#[must_use]
pub fn withdraw_v4(prefixes: impl IntoIterator<Item = Ipv4Net>, context: Context) -> Vec<Update> {
    pack(&Update::default(), prefixes, Ipv4Net::prefix_len, context, |update, prefixes| {
        update.withdrawn = prefixes;
    })
    .expect("a withdrawal carries no attribute that could fill it")
}

/// UPDATEs that withdraw `prefixes` by MP_UNREACH_NLRI (RFC 4760).
#[must_use]
pub fn withdraw_v6(prefixes: impl IntoIterator<Item = Ipv6Net>, context: Context) -> Vec<Update> {
    let empty = Update { mp_unreach: Some(MpUnreach::Ipv6(Vec::new())), ..Update::default() };
    pack(&empty, prefixes, Ipv6Net::prefix_len, context, |update, prefixes| {
        update.mp_unreach = Some(MpUnreach::Ipv6(prefixes));
    })
    .expect("a withdrawal carries no attribute that could fill it")
}

fn pack<P: Prefix>(
    empty: &Update,
    prefixes: impl IntoIterator<Item = P>,
    bits: impl Fn(&P) -> u8,
    context: Context,
    place: impl Fn(&mut Update, Vec<P>),
) -> Result<Vec<Update>, EncodeError> {
    let id = if context.path_ids.has(P::FAMILY) { PATH_ID_LENGTH } else { 0 };
    let largest_prefix = 17 + id;
    let limit = context.max_length();
    let used = Message::Update(empty.clone()).encode(context)?.len();
    // One octet more than now once the multiprotocol attribute's length needs two.
    let room = limit.saturating_sub(used + 1);
    if room < largest_prefix {
        let what = "path attributes with room for one prefix";
        return Err(EncodeError { what, length: used - HEADER_LENGTH, limit: limit - HEADER_LENGTH - largest_prefix });
    }
    let mut updates = Vec::new();
    let mut batch = Vec::new();
    let mut filled = 0;
    let mut flush = |batch: &mut Vec<P>| {
        if !batch.is_empty() {
            let mut update = empty.clone();
            place(&mut update, std::mem::take(batch));
            updates.push(update);
        }
    };
    for prefix in prefixes {
        let length = id + encoded_length(bits(&prefix));
        if filled + length > room {
            flush(&mut batch);
            filled = 0;
        }
        filled += length;
        batch.push(prefix);
    }
    flush(&mut batch);
    Ok(updates)
}
