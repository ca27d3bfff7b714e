//! Links that the forwarder makes: made where they are missing, adopted where they are as described, and kept as they
//! should be. They outlive the process like the guard.

use std::net::IpAddr;

use forwarder_core::{MadeKind, MadeLink};
use netlink_packet_route::link::{GreIOFlags, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkGre, LinkGre6, LinkMessageBuilder, LinkUnspec, LinkVlan, LinkVxlan, LinkWireguard};

use crate::netlink::{self, failed, is_errno};
use crate::{DataplaneError, LinkProblem, wireguard};

/// Marks an interface as made by us (`ip link` shows it as its alias).
const ALIAS: &str = "made by the forwarder of cloakway";

const EOPNOTSUPP: i32 = 95;

/// Brings `link` to what it should be; says whether it had to be made.
pub(crate) async fn make(handle: &Handle, link: &MadeLink) -> Result<bool, LinkProblem> {
    let missing = || LinkProblem::NoUnderlay { underlay: link.underlay.clone() };
    let underlay = netlink::link(handle, &link.underlay).await?.ok_or_else(missing)?;
    let wanted = request(link, underlay.header.index);
    let mut made = false;
    let found = match netlink::link(handle, &link.interface).await? {
        Some(found) if described(&found, &wanted) => found,
        Some(found) if alias(&found) == Some(ALIAS) => {
            remove(handle, &found).await?;
            made = true;
            add(handle, link, &wanted).await?
        }
        Some(_) => {
            let (interface, kind) = (link.interface.clone(), link.kind.name());
            return Err(LinkProblem::Another { interface, kind });
        }
        None => {
            made = true;
            add(handle, link, &wanted).await?
        }
    };
    if let Some(tunnel) = link.wireguard()
        && wireguard::configure(&link.interface, tunnel).await?
    {
        tracing::info!(interface = %link.interface, "WireGuard configured");
    }
    keep(handle, link, &found, mtu(&underlay).unwrap_or(1500), made).await?;
    Ok(made)
}

/// Removes interfaces of ours that are none of `links`.
pub(crate) async fn remove_others(handle: &Handle, links: &[MadeLink]) -> Result<(), DataplaneError> {
    let all = netlink::links(handle).await?;
    for found in all.iter().filter(|found| alias(found) == Some(ALIAS)) {
        let name = netlink::link_name(found).unwrap_or_default();
        if !links.iter().any(|link| link.interface == name) {
            remove(handle, found).await?;
            tracing::info!(interface = name, "link of an older configuration removed");
        }
    }
    Ok(())
}

async fn add(handle: &Handle, link: &MadeLink, wanted: &LinkMessage) -> Result<LinkMessage, LinkProblem> {
    let what = format!("make {} {}", link.kind.name(), link.interface);
    match handle.link().add(wanted.clone()).execute().await {
        Ok(()) => {}
        Err(error) if is_errno(&error, &[EOPNOTSUPP]) => {
            let (kind, option) = (link.kind.name(), link.kind.kernel_option());
            return Err(LinkProblem::NotInKernel { kind, option });
        }
        Err(error) => return Err(failed(&what, &error).into()),
    }
    tracing::info!(interface = %link.interface, kind = link.kind.name(), "link made");
    let gone = || DataplaneError::Netlink { what, why: "not there when read back".into() };
    Ok(netlink::link(handle, &link.interface).await?.ok_or_else(gone)?)
}

/// MTU, mark, addresses, and that it is up. What somebody set down that was there stays down.
async fn keep(
    handle: &Handle,
    link: &MadeLink,
    found: &LinkMessage,
    underlay: u32,
    made: bool,
) -> Result<(), DataplaneError> {
    let index = found.header.index;
    let wanted = link.mtu_on(underlay);
    if made || mtu(found) != Some(wanted) {
        let mut change = LinkUnspec::new_with_index(index).mtu(wanted);
        if made {
            change = change.alias(ALIAS).up();
        }
        let what = format!("set the MTU of {} to {wanted}", link.interface);
        handle.link().set(change.build()).execute().await.map_err(|error| failed(&what, &error))?;
    }
    let there = netlink::addresses_by_interface(handle).await?;
    for address in link.addresses.iter().filter(|address| !there.contains(&(index, **address))) {
        let what = format!("give {} the address {address}", link.interface);
        let request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
        request.execute().await.map_err(|error| failed(&what, &error))?;
    }
    Ok(())
}

async fn remove(handle: &Handle, found: &LinkMessage) -> Result<(), DataplaneError> {
    let name = netlink::link_name(found).unwrap_or_default().to_owned();
    handle.link().del(found.header.index).execute().await.map_err(|error| failed(&format!("remove {name}"), &error))
}

/// What makes it, on the underlay with this index.
fn request(link: &MadeLink, underlay: u32) -> LinkMessage {
    let name = link.interface.as_str();
    match &link.kind {
        MadeKind::Vlan { id } => LinkVlan::new(name, underlay, *id).build(),
        MadeKind::Vxlan { vni, local, remote, port } => {
            let made = LinkVxlan::new(name, *vni).address(mac(link)).dev(underlay).port(*port).learning(false);
            let made = match local {
                IpAddr::V4(local) => made.local(*local),
                IpAddr::V6(local) => made.local6(*local),
            };
            match remote {
                IpAddr::V4(remote) => made.remote(*remote),
                IpAddr::V6(remote) => made.remote6(*remote),
            }
            .build()
        }
        MadeKind::Gre { local: IpAddr::V6(local), remote: IpAddr::V6(remote), key } => {
            let mut made = LinkMessageBuilder::<LinkGre6>::new_gretap6(name)
                .address(mac(link))
                .dev(underlay)
                .local(*local)
                .remote(*remote);
            if let Some(key) = key {
                made = made.iflags(GreIOFlags::Key).oflags(GreIOFlags::Key).ikey(*key).okey(*key);
            }
            made.ttl(64).build()
        }
        MadeKind::Gre { local, remote, key } => {
            let mut made = LinkMessageBuilder::<LinkGre>::new_gretap(name).address(mac(link)).dev(underlay).ttl(64);
            if let (IpAddr::V4(local), IpAddr::V4(remote)) = (local, remote) {
                made = made.local(*local).remote(*remote);
            }
            if let Some(key) = key {
                made = made.iflags(GreIOFlags::Key).oflags(GreIOFlags::Key).ikey(*key).okey(*key);
            }
            made.build()
        }
        MadeKind::WireGuard(_) => LinkMessageBuilder::<LinkWireguard>::new(name).build(),
    }
}

/// A link-layer address of our own choice that comes out the same each time, so that the far end finds a link that was made
/// anew where it knew it. FNV-1a of what tells this end of the tunnel from every other.
fn mac(link: &MadeLink) -> Vec<u8> {
    let said = format!("{} {:?}", link.interface, link.kind);
    let hash = said
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3));
    // Unicast, administered locally (IEEE 802).
    [0x02].into_iter().chain(hash.to_be_bytes().into_iter().take(5)).collect()
}

/// Whether the interface that was found is what `wanted` asks for, whatever else the kernel says of it.
fn described(found: &LinkMessage, wanted: &LinkMessage) -> bool {
    let (there, asked) = (infos(found), infos(wanted));
    let kind = |infos: &[&LinkInfo]| {
        infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.clone()) } else { None })
    };
    let data = |infos: &[&LinkInfo]| {
        infos.iter().find_map(|info| if let LinkInfo::Data(data) = info { Some(data.clone()) } else { None })
    };
    let parent = |message: &LinkMessage| {
        message.attributes.iter().find_map(|of| if let LinkAttribute::Link(index) = of { Some(*index) } else { None })
    };
    let on_it = parent(wanted).is_none_or(|index| parent(found) == Some(index));
    kind(&there) == kind(&asked)
        && on_it
        && match (data(&there), data(&asked)) {
            (Some(InfoData::Vlan(there)), Some(InfoData::Vlan(asked))) => asked.iter().all(|info| there.contains(info)),
            (Some(InfoData::Vxlan(there)), Some(InfoData::Vxlan(asked))) => {
                asked.iter().all(|info| there.contains(info))
            }
            (Some(InfoData::GreTap(there)), Some(InfoData::GreTap(asked))) => {
                asked.iter().all(|info| there.contains(info))
            }
            (Some(InfoData::GreTap6(there)), Some(InfoData::GreTap6(asked))) => {
                asked.iter().all(|info| there.contains(info))
            }
            // What it is beside its kind is told by another family.
            (_, None) => matches!(kind(&asked), Some(InfoKind::Wireguard)),
            _ => false,
        }
}

fn infos(message: &LinkMessage) -> Vec<&LinkInfo> {
    let of = |attribute: &'_ LinkAttribute| matches!(attribute, LinkAttribute::LinkInfo(_));
    let lists = message.attributes.iter().filter(|attribute| of(attribute));
    lists.flat_map(|list| if let LinkAttribute::LinkInfo(infos) = list { infos.iter() } else { [].iter() }).collect()
}

fn mtu(message: &LinkMessage) -> Option<u32> {
    message.attributes.iter().find_map(|of| if let LinkAttribute::Mtu(mtu) = of { Some(*mtu) } else { None })
}

fn alias(message: &LinkMessage) -> Option<&str> {
    message
        .attributes
        .iter()
        .find_map(|of| if let LinkAttribute::IfAlias(alias) = of { Some(alias.as_str()) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: MadeKind) -> MadeLink {
        MadeLink { interface: "tun0".into(), underlay: "eth1".into(), kind, addresses: Vec::new(), mtu: None }
    }

    #[test]
    fn the_two_ends_have_addresses_of_their_own_and_keep_them() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
        let end = |local, remote| mac(&link(MadeKind::Vxlan { vni: 42, local, remote, port: 4789 }));
        assert_ne!(end(a, b), end(b, a));
        assert_eq!(end(a, b), end(a, b));
        assert_eq!((end(a, b).len(), end(a, b)[0]), (6, 2));
    }

    /// Attributes as `linux/netlink.h` has them: type, value, and those that a value is made of.
    enum Of {
        Octets(u16, Vec<u8>),
        Nested(u16, Vec<Of>),
    }

    fn octets(all: &[Of]) -> Vec<u8> {
        let one = |of: &Of| {
            let (kind, value) = match of {
                Of::Octets(kind, value) => (*kind, value.clone()),
                Of::Nested(kind, inner) => (*kind, octets(inner)),
            };
            let length = u16::try_from(value.len() + 4).unwrap();
            let mut octets = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
            octets.resize(octets.len().next_multiple_of(4), 0);
            octets
        };
        all.iter().flat_map(one).collect()
    }

    /// Attributes by their types, whatever their order and the bit that says that there are others inside.
    fn sorted(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        while let [l0, l1, t0, t1, ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            let kind = u16::from_ne_bytes([*t0, *t1]) & 0x3fff;
            all.push((kind, rest[4..length].to_vec()));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        all.sort();
        all
    }

    #[test]
    fn requests_are_the_octets_of_the_kernels_headers() {
        use rtnetlink::packet_core::Emitable as _;

        // linux/if_link.h, linux/if_tunnel.h
        const ADDRESS: u16 = 1;
        const NAME: u16 = 3;
        const LINK: u16 = 5;
        const LINK_INFO: u16 = 18;
        const INFO_KIND: u16 = 1;
        const INFO_DATA: u16 = 2;
        let [key, flag] = [7_u32.to_be_bytes().to_vec(), vec![0x20, 0]];
        let on = 3_u32.to_ne_bytes().to_vec();
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
        let (c, d): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let number = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // IFLA_GRE_LINK, IFLAGS, OFLAGS, IKEY, OKEY, LOCAL, REMOTE, TTL; flags and keys as they are on the wire.
        let gre = |local, remote, keyed: bool| {
            let keys = [(2, flag.clone()), (3, flag.clone()), (4, key.clone()), (5, key.clone())];
            let keys = keys.into_iter().filter(|_| keyed);
            let rest = [(1, on.clone()), (6, number(local)), (7, number(remote)), (8, vec![64])];
            keys.chain(rest).map(|(kind, value)| Of::Octets(kind, value)).collect::<Vec<_>>()
        };
        for (kind, words, data, is_on_it, has_mac) in [
            // IFLA_VLAN_ID.
            (MadeKind::Vlan { id: 7 }, "vlan", vec![Of::Octets(1, 7_u16.to_ne_bytes().to_vec())], true, false),
            (MadeKind::Gre { local: a, remote: b, key: None }, "gretap", gre(a, b, false), false, true),
            (MadeKind::Gre { local: a, remote: b, key: Some(7) }, "gretap", gre(a, b, true), false, true),
            (MadeKind::Gre { local: c, remote: d, key: None }, "ip6gretap", gre(c, d, false), false, true),
            (MadeKind::Gre { local: c, remote: d, key: Some(7) }, "ip6gretap", gre(c, d, true), false, true),
        ] {
            let link = link(kind);
            let message = request(&link, 3);
            let mut sent = vec![0; message.buffer_len()];
            message.emit(&mut sent);
            // Behind `struct ifinfomsg`, of which nothing is asked.
            let sent = sorted(&sent[16..]);
            let mut wanted = vec![Of::Octets(NAME, b"tun0\0".to_vec())];
            wanted.extend(is_on_it.then(|| Of::Octets(LINK, on.clone())));
            wanted.extend(has_mac.then(|| Of::Octets(ADDRESS, mac(&link))));
            let wanted = sorted(&octets(&wanted));
            let (infos, others): (Vec<_>, Vec<_>) = sent.into_iter().partition(|(kind, _)| *kind == LINK_INFO);
            assert_eq!(others, wanted, "{link:?}");
            let [(_, info)] = &infos[..] else { panic!("{infos:?}") };
            let info = sorted(info);
            assert_eq!(info[0].0, INFO_KIND);
            assert_eq!(info[0].1.strip_suffix(&[0]).unwrap_or(&info[0].1), words.as_bytes(), "{link:?}");
            assert_eq!((info[1].0, sorted(&info[1].1)), (INFO_DATA, sorted(&octets(&data))), "{link:?}");
        }
        let nested = [Of::Nested(LINK_INFO, vec![Of::Octets(INFO_KIND, b"x\0".to_vec())])];
        assert_eq!(sorted(&octets(&nested))[0].1, octets(&[Of::Octets(INFO_KIND, b"x\0".to_vec())]));
    }

    #[test]
    fn each_kind_is_asked_for_in_full_and_told_from_one_that_differs() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
        let (c, d): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let vxlan = |vni, local, remote| link(MadeKind::Vxlan { vni, local, remote, port: 4789 });
        let gre = |local, remote, key| link(MadeKind::Gre { local, remote, key });
        let all = [
            link(MadeKind::Vlan { id: 7 }),
            link(MadeKind::Vlan { id: 8 }),
            vxlan(42, a, b),
            vxlan(43, a, b),
            vxlan(42, b, a),
            vxlan(42, c, d),
            gre(a, b, None),
            gre(b, a, None),
            gre(a, b, Some(7)),
            gre(c, d, None),
            gre(c, d, Some(7)),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                // The kernel says of one without a key that its key is 0; a request says nothing.
                let same = described(&request(one, 3), &request(other, 3));
                let more = matches!((&one.kind, &other.kind), (MadeKind::Gre { local, key: Some(_), .. },
                    MadeKind::Gre { local: other, key: None, .. }) if local == other);
                assert_eq!(same, at == other_at || more, "{one:?} {other:?}");
            }
            assert!(!described(&request(one, 4), &request(one, 3)), "on another underlay: {one:?}");
        }
    }
}
