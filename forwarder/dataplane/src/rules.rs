//! Routing rules of ours, which lead to a table of our own.

use forwarder_core::{ROUTE_PROTOCOL, Rule};
use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use crate::DataplaneError;
use crate::netlink::{ENOENT, answered, failed, is_errno, unbroken};

const EEXIST: i32 = 17;

/// A rule that carries our protocol number.
#[derive(Debug)]
pub(crate) struct OwnRule {
    /// What it says; `None` when it says something that we never do.
    pub(crate) rule: Option<Rule>,
    message: RuleMessage,
}

/// Our rules of both families.
pub(crate) async fn own(handle: &Handle) -> Result<Vec<OwnRule>, DataplaneError> {
    let mut rules = Vec::new();
    for family in [IpVersion::V4, IpVersion::V6] {
        let found: Vec<RuleMessage> =
            unbroken("list rules", || handle.rule().get(family.clone()).execute().try_collect()).await?;
        let ours = |message: &RuleMessage| {
            message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)))
        };
        rules.extend(found.into_iter().filter(ours).map(|message| OwnRule { rule: said(&message), message }));
    }
    Ok(rules)
}

fn said(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let (mut table, mut priority) = (u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(found) => table = *found,
            RuleAttribute::Priority(found) => priority = *found,
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            // It takes some packets alone.
            _ => return None,
        }
    }
    let plain = header.action == RuleAction::ToTable && header.dst_len == 0 && header.src_len == 0 && header.tos == 0;
    plain.then_some(Rule { v4: header.family == AddressFamily::Inet, priority, table })
}

/// Adds `rule`; one that is there already is no error.
pub(crate) async fn put(handle: &Handle, rule: &Rule) -> Result<(), DataplaneError> {
    let what = format!("add {}", describe(rule));
    let mut request = handle.rule().add().table_id(rule.table).priority(rule.priority).action(RuleAction::ToTable);
    let message = request.message_mut();
    message.header.family = if rule.v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    match answered(&what, request.execute()).await? {
        Err(error) if !is_errno(&error, &[EEXIST]) => Err(failed(&what, &error)),
        _ => Ok(()),
    }
}

/// Removes a rule of ours; one that is gone already is no error.
pub(crate) async fn remove(handle: &Handle, rule: &OwnRule) -> Result<(), DataplaneError> {
    let what = "remove a rule";
    match answered(what, handle.rule().del(rule.message.clone()).execute()).await? {
        Err(error) if !is_errno(&error, &[ENOENT]) => Err(failed(what, &error)),
        _ => Ok(()),
    }
}

/// For people.
pub(crate) fn describe(rule: &Rule) -> String {
    let Rule { v4, priority, table } = rule;
    format!("rule {priority} of IPv{}: look up table {table}", if *v4 { 4 } else { 6 })
}
