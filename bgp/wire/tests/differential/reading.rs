//! What a decoder says of a message, in words that can be compared.

use std::collections::BTreeMap;
use std::fmt::Display;

use bgp_wire::{Context, DecodeError, Message, MpReach, MpUnreach, Open, Segment, Update};
use bgpkit_parser::models::{
    AsPathSegment, AsnLength, AttributeValue, BgpMessage, CapabilityValue, NetworkPrefix, NextHopAddress, Nlri,
    OptParam, ParamValue,
};
use bgpkit_parser::parser::bgp::parse_bgp_message;
use netgauze_bgp_pkt::capabilities::BgpCapability;
use netgauze_bgp_pkt::nlri::{Ipv4UnicastAddress, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute as ng;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

/// Each field that is there, as text. What none of the three reads the same way by design is left out.
pub(crate) type Reading = BTreeMap<&'static str, String>;

/// What is wrong in our eyes: one thing that ends the session, or flaws that are borne.
pub(crate) fn ours(bytes: &[u8], context: Context) -> (Option<Reading>, Vec<DecodeError>) {
    match Message::decode(bytes, context) {
        Err(error) => (None, vec![error]),
        Ok(Message::Open(open)) => (Some(of_open(&open)), Vec::new()),
        Ok(Message::Update(update)) => {
            (Some(of_update(&update)), update.flaws.into_iter().map(DecodeError::Attribute).collect())
        }
        Ok(Message::Notification(_)) => (Some(kind("notification")), Vec::new()),
        Ok(Message::KeepAlive) => (Some(kind("keepalive")), Vec::new()),
        Ok(Message::RouteRefresh(_)) => (Some(kind("refresh")), Vec::new()),
    }
}

fn kind(name: &str) -> Reading {
    Reading::from([("kind", name.to_owned())])
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// Adds a field, unless it is empty: an empty list and no list say the same.
fn add(reading: &mut Reading, name: &'static str, value: String) {
    if !value.is_empty() {
        reading.insert(name, value);
    }
}

/// How many; the other two take extended communities apart by type, and give no octets back.
fn count(length: usize) -> String {
    if length == 0 { String::new() } else { length.to_string() }
}

fn of_open(open: &Open) -> Reading {
    let mut reading = kind("open");
    add(&mut reading, "my-as", open.my_as.to_string());
    add(&mut reading, "hold-time", open.hold_time.as_secs().to_string());
    add(&mut reading, "router-id", open.router_id.to_string());
    let codes = open.capabilities.iter().map(|capability| capability.encode().unwrap()[0]);
    add(&mut reading, "capabilities", list(codes));
    add(&mut reading, "four-octet-as", open.four_octet_as().map(|asn| asn.0.to_string()).unwrap_or_default());
    reading
}

fn with_ids<T: Display>(prefixes: &[T], ids: &[u32]) -> String {
    if ids.is_empty() {
        return list(prefixes);
    }
    list(prefixes.iter().zip(ids).map(|(prefix, id)| format!("{id}:{prefix}")))
}

fn of_update(update: &Update) -> Reading {
    let mut reading = kind("update");
    let (attributes, ids) = (&update.attributes, &update.path_ids);
    add(&mut reading, "withdrawn", with_ids(&update.withdrawn, &ids.withdrawn));
    add(&mut reading, "announced", with_ids(&update.announced, &ids.announced));
    match &update.mp_reach {
        Some(MpReach::Ipv4 { next_hop, prefixes }) => {
            reading.insert("reach", format!("1/1 via {next_hop} {}", with_ids(prefixes, &ids.mp_reach)));
        }
        Some(MpReach::Ipv4ByIpv6 { next_hop, link_local, prefixes }) => {
            let via = list([Some(*next_hop), *link_local].into_iter().flatten());
            reading.insert("reach", format!("1/1 via {via} {}", with_ids(prefixes, &ids.mp_reach)));
        }
        Some(MpReach::Ipv6 { next_hop, link_local, prefixes }) => {
            let via = list([Some(*next_hop), *link_local].into_iter().flatten());
            reading.insert("reach", format!("2/1 via {via} {}", with_ids(prefixes, &ids.mp_reach)));
        }
        _ => {}
    }
    match &update.mp_unreach {
        Some(MpUnreach::Ipv4(gone)) => {
            reading.insert("unreach", format!("1/1 {}", with_ids(gone, &ids.mp_unreach)));
        }
        Some(MpUnreach::Ipv6(gone)) => {
            reading.insert("unreach", format!("2/1 {}", with_ids(gone, &ids.mp_unreach)));
        }
        _ => {}
    }
    let text = |value: Option<String>| value.unwrap_or_default();
    add(&mut reading, "origin", text(attributes.origin.map(|origin| (origin as u8).to_string())));
    let segment = |segment: &Segment| {
        let name = match segment {
            Segment::Set(_) => "set",
            Segment::Sequence(_) => "sequence",
            Segment::ConfederationSequence(_) => "confederation-sequence",
            Segment::ConfederationSet(_) => "confederation-set",
        };
        format!("{name}({})", list(segment.numbers().iter().map(|asn| asn.0)))
    };
    add(&mut reading, "as-path", text(attributes.as_path.as_ref().map(|path| list(path.0.iter().map(segment)))));
    add(&mut reading, "next-hop", text(attributes.next_hop.map(|hop| hop.to_string())));
    add(&mut reading, "med", text(attributes.multi_exit_disc.map(|med| med.to_string())));
    add(&mut reading, "local-pref", text(attributes.local_pref.map(|pref| pref.to_string())));
    add(&mut reading, "atomic", if attributes.atomic_aggregate { "yes".to_owned() } else { String::new() });
    add(&mut reading, "aggregator", text(attributes.aggregator.map(|by| format!("{} {}", by.asn.0, by.address))));
    add(&mut reading, "communities", list(attributes.communities.iter().map(|community| community.0)));
    add(&mut reading, "originator", text(attributes.originator_id.map(|id| id.to_string())));
    add(&mut reading, "clusters", list(&attributes.cluster_list));
    let large = attributes.large_communities.iter().map(|large| format!("{}:{}:{}", large.0, large.1, large.2));
    add(&mut reading, "large", list(large));
    add(&mut reading, "extended", count(attributes.extended_communities.len()));
    add(&mut reading, "only-to-customer", text(attributes.only_to_customer.map(|asn| asn.0.to_string())));
    reading
}

/// What bgpkit-parser says: a reading or an error, and its warnings.
pub(crate) fn bgpkit(bytes: &[u8], context: Context) -> (Option<Reading>, Option<String>) {
    let length = if context.four_octet_as { AsnLength::Bits32 } else { AsnLength::Bits16 };
    match parse_bgp_message(&mut bytes.to_vec().into(), context.path_ids.ipv4, &length) {
        Err(error) => (None, Some(error.to_string())),
        Ok(BgpMessage::Notification(_)) => (Some(kind("notification")), None),
        Ok(BgpMessage::KeepAlive) => (Some(kind("keepalive")), None),
        Ok(BgpMessage::RouteRefresh(_)) => (Some(kind("refresh")), None),
        Ok(BgpMessage::Open(open)) => {
            let mut reading = kind("open");
            add(&mut reading, "my-as", u32::from(open.asn).to_string());
            add(&mut reading, "hold-time", open.hold_time.to_string());
            add(&mut reading, "router-id", open.bgp_identifier.to_string());
            let capabilities = || {
                open.opt_params.iter().filter_map(|OptParam { param_value, .. }| match param_value {
                    ParamValue::Capacities(capabilities) => Some(capabilities),
                    ParamValue::Raw(_) => None,
                })
            };
            add(&mut reading, "capabilities", list(capabilities().flatten().map(|one| u8::from(one.ty))));
            let four = capabilities().flatten().find_map(|one| match &one.value {
                CapabilityValue::FourOctetAs(four) => Some(four.asn.to_string()),
                _ => None,
            });
            add(&mut reading, "four-octet-as", four.unwrap_or_default());
            (Some(reading), None)
        }
        Ok(BgpMessage::Update(update)) => {
            let mut reading = kind("update");
            add(&mut reading, "withdrawn", bgpkit_prefixes(&update.withdrawn_prefixes));
            add(&mut reading, "announced", bgpkit_prefixes(&update.announced_prefixes));
            for value in &update.attributes {
                bgpkit_attribute(value, &mut reading);
            }
            let warnings = update.attributes.validation_warnings();
            (Some(reading), (!warnings.is_empty()).then(|| format!("{warnings:?}")))
        }
    }
}

fn bgpkit_prefixes(prefixes: &[NetworkPrefix]) -> String {
    list(prefixes.iter().map(|one| match one.path_id {
        Some(id) => format!("{id}:{}", one.prefix.trunc()),
        None => one.prefix.trunc().to_string(),
    }))
}

fn bgpkit_family(nlri: &Nlri) -> Option<String> {
    let (afi, safi) = (nlri.afi as u16, nlri.safi as u8);
    matches!((afi, safi), (1 | 2, 1)).then(|| format!("{afi}/{safi}"))
}

fn bgpkit_attribute(value: &AttributeValue, reading: &mut Reading) {
    let segment = |segment: &AsPathSegment| {
        let (name, numbers) = match segment {
            AsPathSegment::AsSequence(numbers) => ("sequence", numbers),
            AsPathSegment::AsSet(numbers) => ("set", numbers),
            AsPathSegment::ConfedSequence(numbers) => ("confederation-sequence", numbers),
            AsPathSegment::ConfedSet(numbers) => ("confederation-set", numbers),
        };
        format!("{name}({})", list(numbers.iter().map(|asn| u32::from(*asn))))
    };
    match value {
        AttributeValue::Origin(origin) => add(reading, "origin", (*origin as u8).to_string()),
        AttributeValue::AsPath(path) => add(reading, "as-path", list(path.iter_segments().map(segment))),
        AttributeValue::NextHop(hop) => add(reading, "next-hop", hop.to_string()),
        AttributeValue::MultiExitDiscriminator(med) => add(reading, "med", med.to_string()),
        AttributeValue::LocalPreference(pref) => add(reading, "local-pref", pref.to_string()),
        AttributeValue::AtomicAggregate => add(reading, "atomic", "yes".to_owned()),
        AttributeValue::Aggregator { asn, id } => add(reading, "aggregator", format!("{} {id}", u32::from(*asn))),
        AttributeValue::Communities(communities) => {
            use bgpkit_parser::models::Community;
            let number = |community: &Community| match community {
                Community::NoExport => 0xffff_ff01,
                Community::NoAdvertise => 0xffff_ff02,
                Community::NoExportSubConfed => 0xffff_ff03,
                Community::Custom(asn, value) => u32::from(*asn) << 16 | u32::from(*value),
            };
            add(reading, "communities", list(communities.iter().map(number)));
        }
        AttributeValue::ExtendedCommunities(communities) => add(reading, "extended", count(communities.len())),
        AttributeValue::LargeCommunities(communities) => {
            let text = communities.iter().map(|one| {
                let [first, second] = one.local_data;
                format!("{}:{first}:{second}", one.global_admin)
            });
            add(reading, "large", list(text));
        }
        AttributeValue::OriginatorId(id) => add(reading, "originator", id.to_string()),
        AttributeValue::Clusters(clusters) => {
            add(reading, "clusters", list(clusters.iter().map(|id| std::net::Ipv4Addr::from(*id))));
        }
        AttributeValue::OnlyToCustomer(asn) => add(reading, "only-to-customer", u32::from(*asn).to_string()),
        AttributeValue::MpReachNlri(nlri) => {
            if let (Some(family), Some(next_hop)) = (bgpkit_family(nlri), &nlri.next_hop) {
                let via = match next_hop {
                    NextHopAddress::Ipv4(hop) => hop.to_string(),
                    NextHopAddress::Ipv6(hop) => hop.to_string(),
                    NextHopAddress::Ipv6LinkLocal(hop, local) => format!("{hop} {local}"),
                    other => format!("{other:?}"),
                };
                reading.insert("reach", format!("{family} via {via} {}", bgpkit_prefixes(&nlri.prefixes)));
            }
        }
        AttributeValue::MpUnreachNlri(nlri) => {
            if let Some(family) = bgpkit_family(nlri) {
                reading.insert("unreach", format!("{family} {}", bgpkit_prefixes(&nlri.prefixes)));
            }
        }
        _ => {}
    }
}

/// What netgauze-bgp-pkt says, as strict as it can be.
pub(crate) fn netgauze(bytes: &[u8], context: Context) -> (Option<Reading>, Option<String>) {
    use netgauze_bgp_pkt::BgpMessage;
    let mut parsing =
        if context.four_octet_as { BgpParsingContext::default() } else { BgpParsingContext::asn2_default() };
    if context.path_ids.ipv4 {
        use netgauze_iana::address_family::AddressType;
        parsing.add_path_mut().extend([(AddressType::Ipv4Unicast, true), (AddressType::Ipv6Unicast, true)]);
    }
    match BgpMessage::parse(&mut SliceReader::new(bytes), &mut parsing) {
        Err(error) => (None, Some(error.to_string())),
        Ok(BgpMessage::Notification(_)) => (Some(kind("notification")), None),
        Ok(BgpMessage::KeepAlive) => (Some(kind("keepalive")), None),
        Ok(BgpMessage::RouteRefresh(_)) => (Some(kind("refresh")), None),
        Ok(BgpMessage::Open(open)) => {
            let mut reading = kind("open");
            add(&mut reading, "my-as", open.my_as().to_string());
            add(&mut reading, "hold-time", open.hold_time().to_string());
            add(&mut reading, "router-id", open.bgp_id().to_string());
            let codes = open.capabilities().into_iter().map(|one| match one.code() {
                Ok(code) => u8::from(code),
                Err(code) => code,
            });
            add(&mut reading, "capabilities", list(codes));
            let four = open.capabilities().into_iter().find_map(|one| match one {
                BgpCapability::FourOctetAs(four) => Some(four.asn4().to_string()),
                _ => None,
            });
            add(&mut reading, "four-octet-as", four.unwrap_or_default());
            (Some(reading), None)
        }
        Ok(BgpMessage::Update(update)) => {
            let mut reading = kind("update");
            add(&mut reading, "withdrawn", netgauze_v4(update.withdraw_routes()));
            add(&mut reading, "announced", netgauze_v4(update.nlri()));
            for attribute in update.path_attributes() {
                netgauze_attribute(attribute.value(), &mut reading);
            }
            (Some(reading), None)
        }
    }
}

fn netgauze_v4(prefixes: &[Ipv4UnicastAddress]) -> String {
    list(prefixes.iter().map(|one| match one.path_id() {
        Some(id) => format!("{id}:{}", one.network().address().trunc()),
        None => one.network().address().trunc().to_string(),
    }))
}

fn netgauze_v6(prefixes: &[Ipv6UnicastAddress]) -> String {
    list(prefixes.iter().map(|one| match one.path_id() {
        Some(id) => format!("{id}:{}", one.network().address().trunc()),
        None => one.network().address().trunc().to_string(),
    }))
}

fn netgauze_attribute(value: &ng::PathAttributeValue, reading: &mut Reading) {
    use ng::PathAttributeValue as Value;
    let name = |kind| match kind {
        ng::AsPathSegmentType::AsSet => "set",
        ng::AsPathSegmentType::AsSequence => "sequence",
    };
    match value {
        Value::Origin(origin) => add(reading, "origin", u8::from(*origin).to_string()),
        Value::AsPath(ng::AsPath::As2PathSegments(segments)) => {
            let segment =
                |one: &ng::As2PathSegment| format!("{}({})", name(one.segment_type()), list(one.as_numbers()));
            add(reading, "as-path", list(segments.iter().map(segment)));
        }
        Value::AsPath(ng::AsPath::As4PathSegments(segments)) => {
            let segment =
                |one: &ng::As4PathSegment| format!("{}({})", name(one.segment_type()), list(one.as_numbers()));
            add(reading, "as-path", list(segments.iter().map(segment)));
        }
        Value::NextHop(hop) => add(reading, "next-hop", hop.next_hop().to_string()),
        Value::MultiExitDiscriminator(med) => add(reading, "med", med.metric().to_string()),
        Value::LocalPreference(pref) => add(reading, "local-pref", pref.metric().to_string()),
        Value::AtomicAggregate(_) => add(reading, "atomic", "yes".to_owned()),
        Value::Aggregator(ng::Aggregator::As2Aggregator(by)) => {
            add(reading, "aggregator", format!("{} {}", by.asn(), by.origin()));
        }
        Value::Aggregator(ng::Aggregator::As4Aggregator(by)) => {
            add(reading, "aggregator", format!("{} {}", by.asn(), by.origin()));
        }
        Value::Communities(list_of) => {
            add(reading, "communities", list(list_of.communities().iter().map(|one| one.value())));
        }
        Value::ExtendedCommunities(list_of) => add(reading, "extended", count(list_of.communities().len())),
        Value::LargeCommunities(list_of) => {
            let text = list_of
                .communities()
                .iter()
                .map(|one| format!("{}:{}:{}", one.global_admin(), one.local_data1(), one.local_data2()));
            add(reading, "large", list(text));
        }
        Value::Originator(id) => add(reading, "originator", id.id().to_string()),
        Value::ClusterList(clusters) => {
            add(reading, "clusters", list(clusters.cluster_list().iter().map(|one| one.id())))
        }
        Value::OnlyToCustomer(asn) => add(reading, "only-to-customer", asn.asn().to_string()),
        Value::MpReach(ng::MpReach::Ipv4Unicast { next_hop, next_hop_local, nlri }) => {
            let local = next_hop_local.map(|local| format!(" {local}")).unwrap_or_default();
            reading.insert("reach", format!("1/1 via {next_hop}{local} {}", netgauze_v4(nlri)));
        }
        Value::MpReach(ng::MpReach::Ipv6Unicast { next_hop_global, next_hop_local, nlri }) => {
            let local = next_hop_local.map(|local| format!(" {local}")).unwrap_or_default();
            reading.insert("reach", format!("2/1 via {next_hop_global}{local} {}", netgauze_v6(nlri)));
        }
        Value::MpUnreach(ng::MpUnreach::Ipv4Unicast { nlri }) => {
            reading.insert("unreach", format!("1/1 {}", netgauze_v4(nlri)));
        }
        Value::MpUnreach(ng::MpUnreach::Ipv6Unicast { nlri }) => {
            reading.insert("unreach", format!("2/1 {}", netgauze_v6(nlri)));
        }
        _ => {}
    }
}
