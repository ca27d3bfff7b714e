//! Many prefixes of one attribute set, in as few UPDATEs as hold them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::attribute::Attributes;
use crate::error::EncodeError;
use crate::message::{Context, HEADER_LENGTH, MAX_LENGTH, Message};
use crate::nlri::encoded_length;
use crate::update::{MpReach, MpUnreach, Update};

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
pub fn withdraw_v4(prefixes: impl IntoIterator<Item = Ipv4Net>) -> Vec<Update> {
    pack(&Update::default(), prefixes, Ipv4Net::prefix_len, Context::default(), |update, prefixes| {
        update.withdrawn = prefixes;
    })
    .expect("a withdrawal carries no attribute that could fill it")
}

/// UPDATEs that withdraw `prefixes` by MP_UNREACH_NLRI (RFC 4760).
#[must_use]
pub fn withdraw_v6(prefixes: impl IntoIterator<Item = Ipv6Net>) -> Vec<Update> {
    let empty = Update { mp_unreach: Some(MpUnreach::Ipv6(Vec::new())), ..Update::default() };
    pack(&empty, prefixes, Ipv6Net::prefix_len, Context::default(), |update, prefixes| {
        update.mp_unreach = Some(MpUnreach::Ipv6(prefixes));
    })
    .expect("a withdrawal carries no attribute that could fill it")
}

fn pack<P>(
    empty: &Update,
    prefixes: impl IntoIterator<Item = P>,
    bits: impl Fn(&P) -> u8,
    context: Context,
    place: impl Fn(&mut Update, Vec<P>),
) -> Result<Vec<Update>, EncodeError> {
    const LARGEST_PREFIX: usize = 17;
    let used = Message::Update(empty.clone()).encode(context)?.len();
    // One octet more than now once the multiprotocol attribute's length needs two.
    let room = MAX_LENGTH.saturating_sub(used + 1);
    if room < LARGEST_PREFIX {
        let what = "path attributes with room for one prefix";
        return Err(EncodeError {
            what,
            length: used - HEADER_LENGTH,
            limit: MAX_LENGTH - HEADER_LENGTH - LARGEST_PREFIX,
        });
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
        let length = encoded_length(bits(&prefix));
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
