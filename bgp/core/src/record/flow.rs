//! Changes of flow rules as bytes. Rules stand as on the wire, actions in their words.

use bgp_wire::{Community, Family, FlowRule};

use super::{FLOW, FLOW_2, Reader, Writer};
use crate::desired::Others;
use crate::flow::{FlowChange, FlowRoute};
use crate::guard::Guard;

/// Writes an accepted change.
#[must_use]
pub fn encode_flow(id: Option<&str>, change: &FlowChange) -> Vec<u8> {
    let version = if change.add.iter().any(|(_, route)| !route.audience.is_empty()) { FLOW_2 } else { FLOW };
    let mut out = Writer(vec![version]);
    out.option(id, |out, id| out.text(id));
    out.text(&change.set);
    out.0.push(u8::from(change.others == Others::Go));
    out.length(change.remove.len());
    change.remove.iter().for_each(|rule| write_rule(rule, &mut out));
    out.length(change.add.len());
    for (rule, route) in &change.add {
        write_rule(rule, &mut out);
        out.text(&route.actions.to_string());
        out.length(route.communities.len());
        route.communities.iter().for_each(|community| out.number(community.0));
        out.0.push(match route.guard {
            None => 0,
            Some(Guard::NoExport) => 1,
            Some(Guard::NoAdvertise) => 2,
        });
        if version == FLOW_2 {
            out.length(route.audience.len());
            route.audience.iter().for_each(|address| out.address(*address));
        }
    }
    out.0
}

fn write_rule(rule: &FlowRule, out: &mut Writer) {
    out.0.push(match rule.family() {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    });
    let value = rule.encode();
    out.length(value.len());
    out.0.extend_from_slice(&value);
}

pub(super) fn read(reader: &mut Reader<'_>, version: u8) -> Option<FlowChange> {
    let set = reader.text()?;
    let others = match reader.octet()? {
        0 => Others::Stay,
        1 => Others::Go,
        _ => return None,
    };
    let remove = reader.list(5, read_rule)?;
    let add = reader.list(14, |reader| {
        let rule = read_rule(reader)?;
        let actions = reader.text()?.parse().ok()?;
        let communities = reader.list(4, |reader| reader.number().map(Community))?;
        let guard = match reader.octet()? {
            0 => None,
            1 => Some(Guard::NoExport),
            2 => Some(Guard::NoAdvertise),
            _ => return None,
        };
        let mut route = FlowRoute { communities, guard, ..FlowRoute::new(actions) };
        if version == FLOW_2 {
            route.audience = reader.list(5, |reader| {
                let kind = reader.octet()?;
                reader.address(kind)
            })?;
        }
        Some((rule, route))
    })?;
    Some(FlowChange { set, others, remove, add })
}

fn read_rule(reader: &mut Reader<'_>) -> Option<FlowRule> {
    let family = match reader.octet()? {
        4 => Family::Ipv4,
        6 => Family::Ipv6,
        _ => return None,
    };
    let length = reader.count(1)?;
    let value = reader.bytes.get(reader.at..reader.at + length)?;
    reader.at += length;
    FlowRule::decode(family, value).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Record, body_of, decode};
    use super::*;
    use proptest::prelude::*;

    fn change() -> impl Strategy<Value = FlowChange> {
        let rule = (0..4_u8, 0..60_000_u16, any::<bool>()).prop_map(|(net, port, v4)| {
            let net = if v4 { format!("10.{net}.0.0/16") } else { format!("2001:db8:{net}::/48") };
            format!("destination {net} protocol =6 port >={port}").parse::<FlowRule>().unwrap()
        });
        let actions = prop_oneof![Just("discard"), Just("accept"), Just("rate-bytes 7:1.5, mark 46, redirect 1:2")];
        let audience = proptest::collection::vec(any::<std::net::IpAddr>(), 0..3);
        let route =
            (actions, any::<Vec<u32>>(), 0..3_usize, audience).prop_map(|(actions, communities, guard, audience)| {
                FlowRoute {
                    actions: actions.parse().unwrap(),
                    communities: communities.into_iter().map(Community).collect(),
                    guard: [None, Some(Guard::NoExport), Some(Guard::NoAdvertise)][guard],
                    audience,
                }
            });
        let rules = proptest::collection::vec(rule.clone(), 0..4);
        (".{0,8}", any::<bool>(), rules, proptest::collection::vec((rule, route), 0..4)).prop_map(
            |(set, go, remove, add)| FlowChange {
                set,
                others: if go { Others::Go } else { Others::Stay },
                remove,
                add,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_the_body_does_not_depend_on_the_request(
            change in change(), id in proptest::option::of(".{0,8}"), cut: prop::sample::Index,
        ) {
            let bytes = encode_flow(id.as_deref(), &change);
            prop_assert_eq!(decode(&bytes), Ok(Record::Flow { id: id.clone(), change: change.clone() }));
            let nameless = encode_flow(None, &change);
            prop_assert_eq!(body_of(&bytes, id.as_deref()), body_of(&nameless, None));
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
