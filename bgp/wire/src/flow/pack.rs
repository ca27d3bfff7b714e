//! Rules of one family and one attribute set, in as few UPDATEs as hold them.

use crate::attribute::Attributes;
use crate::error::EncodeError;
use crate::flow::FlowRule;
use crate::message::{Context, Message};
use crate::multiprotocol::{MpReach, MpUnreach};
use crate::types::Family;
use crate::update::Update;

/// UPDATEs that announce `rules` in their order; those of another family than `family` are left out.
///
/// # Errors
/// [`EncodeError`] when the attributes leave no room for one of the rules.
pub fn announce_flow<'a>(
    attributes: &Attributes,
    family: Family,
    rules: impl IntoIterator<Item = &'a FlowRule>,
    context: Context,
) -> Result<Vec<Update>, EncodeError> {
    let attributes = Attributes { next_hop: None, ..attributes.clone() };
    let empty = Update { mp_reach: Some(MpReach::Flow { family, rules: Vec::new() }), attributes, ..Update::default() };
    pack(&empty, family, rules, context, |update, rules| update.mp_reach = Some(MpReach::Flow { family, rules }))
}

/// UPDATEs that withdraw `rules` in their order; those of another family than `family` are left out.
///
/// # Errors
/// [`EncodeError`] when a rule is longer than a message.
pub fn withdraw_flow<'a>(
    family: Family,
    rules: impl IntoIterator<Item = &'a FlowRule>,
    context: Context,
) -> Result<Vec<Update>, EncodeError> {
    let empty = Update { mp_unreach: Some(MpUnreach::Flow { family, rules: Vec::new() }), ..Update::default() };
    pack(&empty, family, rules, context, |update, rules| update.mp_unreach = Some(MpUnreach::Flow { family, rules }))
}

fn pack<'a>(
    empty: &Update,
    family: Family,
    rules: impl IntoIterator<Item = &'a FlowRule>,
    context: Context,
    place: impl Fn(&mut Update, Vec<FlowRule>),
) -> Result<Vec<Update>, EncodeError> {
    let used = Message::Update(empty.clone()).encode(context)?.len();
    // One octet more than now once the attribute's length needs two.
    let limit = context.max_length().saturating_sub(used + 1);
    let (mut updates, mut batch, mut filled) = (Vec::new(), Vec::new(), 0);
    let mut flush = |batch: &mut Vec<FlowRule>| {
        if !batch.is_empty() {
            let mut update = empty.clone();
            place(&mut update, std::mem::take(batch));
            updates.push(update);
        }
    };
    for rule in rules.into_iter().filter(|rule| rule.family() == family) {
        let length = rule.encoded_length();
        if length > limit {
            return Err(EncodeError { what: "flow rule beside its path attributes", length, limit });
        }
        if filled + length > limit {
            flush(&mut batch);
            filled = 0;
        }
        filled += length;
        batch.push(rule.clone());
    }
    flush(&mut batch);
    Ok(updates)
}
