//! BGP messages as a router hands them on, read as leniently as can be.

use bgp_wire::{AddPath, Capability, Context, Families, Family, Message as Bgp, MpReach, MpUnreach, Open, Update};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::peer::PeerKind;

/// All prefixes that go, with their path identifiers.
pub(crate) fn withdrawn(update: &Update) -> impl Iterator<Item = (IpNet, u32)> {
    let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &update.mp_unreach {
        Some(MpUnreach::Ipv4(prefixes)) => (prefixes, &[]),
        Some(MpUnreach::Ipv6(prefixes)) => (&[], prefixes),
        Some(MpUnreach::Flow { .. } | MpUnreach::Other { .. }) | None => (&[], &[]),
    };
    let ids = &update.path_ids;
    numbered(&update.withdrawn, &ids.withdrawn)
        .chain(numbered(v4, &ids.mp_unreach))
        .chain(numbered(v6, &ids.mp_unreach))
}

/// All prefixes that come, with their path identifiers, whatever else is wrong with the UPDATE.
pub(crate) fn announced(update: &Update) -> impl Iterator<Item = (IpNet, u32)> {
    let (v4, v6): (&[Ipv4Net], &[Ipv6Net]) = match &update.mp_reach {
        Some(MpReach::Ipv4 { prefixes, .. } | MpReach::Ipv4ByIpv6 { prefixes, .. }) => (prefixes, &[]),
        Some(MpReach::Ipv6 { prefixes, .. }) => (&[], prefixes),
        Some(MpReach::Flow { .. } | MpReach::Other { .. }) | None => (&[], &[]),
    };
    let ids = &update.path_ids;
    numbered(&update.announced, &ids.announced).chain(numbered(v4, &ids.mp_reach)).chain(numbered(v6, &ids.mp_reach))
}

fn numbered<P: Copy + Into<IpNet>>(prefixes: &[P], ids: &[u32]) -> impl Iterator<Item = (IpNet, u32)> {
    let ids = ids.iter().copied().chain(std::iter::repeat(0));
    prefixes.iter().map(|prefix| (*prefix).into()).zip(ids)
}

pub(crate) fn open(bytes: &[u8]) -> Option<Open> {
    match Bgp::decode(bytes, Context::default()) {
        Ok(Bgp::Open(open)) => Some(open),
        _ => None,
    }
}

/// The families whose routes carry path identifiers, in and out (RFC 7911 §4).
pub(crate) fn path_ids(sent: Option<&Open>, received: Option<&Open>, kind: PeerKind) -> [Families; 2] {
    let offers = |open: Option<&Open>, way: fn(&AddPath) -> bool| -> Vec<Family> {
        let capabilities = open.map(|open| open.capabilities.as_slice()).unwrap_or_default();
        let lists = capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(families) => Some(families),
            _ => None,
        });
        lists.flatten().filter(|offer| way(offer)).map(|offer| offer.family).collect()
    };
    if kind == PeerKind::LocRib {
        // RFC 9069 §4.1: the OPEN is made up, to say how the messages read.
        let all: Families = offers(sent, |offer| offer.send || offer.receive).into_iter().collect();
        return [all, all];
    }
    let both = |from: Option<&Open>, to: Option<&Open>| -> Families {
        let takes = offers(to, |offer| offer.receive);
        offers(from, |offer| offer.send).into_iter().filter(|family| takes.contains(family)).collect()
    };
    [both(received, sent), both(sent, received)]
}

/// As leniently as can be: this is no session of ours.
pub(crate) const fn reading(two_octet_as: bool, path_ids: Families) -> Context {
    Context {
        four_octet_as: !two_octet_as,
        external: false,
        extended_messages: true,
        enhanced_refresh: false,
        ipv4_by_ipv6: true,
        path_ids,
        flow: Families::NONE,
    }
}

pub(crate) fn read(bytes: &[u8], two_octet_as: bool, path_ids: Families) -> Result<Update, String> {
    match Bgp::decode(bytes, reading(two_octet_as, path_ids)) {
        Ok(Bgp::Update(update)) => Ok(update),
        Ok(_) => Err("it is another message".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
