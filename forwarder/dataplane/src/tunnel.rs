//! What the kernel says of a VXLAN device, when that is all that there is to know of its frames.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use forwarder_core::fast::{Tunnel, Underlay, Whole};
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VxlanDf};
use rtnetlink::Handle;

use crate::DataplaneError;
use crate::netlink::{self, link_at, mac_and_kind};

/// What the kernel takes where the device says nothing (`net.ipv4.ip_local_port_range`, `ip_default_ttl`).
const PORTS: Range<u16> = 32768..60999;
const HOPS: u8 = 64;

/// The tunnel that an interface is, if its frames are those of [`Tunnel`]: one other end, no extension, an underlay that it is
/// bound to.
pub(crate) async fn of(handle: &Handle, message: &LinkMessage) -> Result<Option<Tunnel>, DataplaneError> {
    let Some(attributes) = attributes(message) else { return Ok(None) };
    let Some(index) = find(attributes, |attribute| match attribute {
        InfoVxlan::Link(index) => Some(*index),
        _ => None,
    }) else {
        return Ok(None);
    };
    let Some(carrier) = link_at(handle, index).await? else { return Ok(None) };
    let ((Some(mac), kind), Some(name)) = (mac_and_kind(&carrier), netlink::link_name(&carrier)) else {
        return Ok(None);
    };
    let underlay = Underlay { index, name: name.to_owned(), mac, kind };
    Ok(described(attributes, underlay, message.header.flags.contains(LinkFlags::Up)))
}

fn attributes(message: &LinkMessage) -> Option<&[InfoVxlan]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(attributes)) => Some(attributes.as_slice()),
            _ => None,
        }),
        _ => None,
    })
}

fn find<T>(attributes: &[InfoVxlan], wanted: impl Fn(&InfoVxlan) -> Option<T>) -> Option<T> {
    attributes.iter().find_map(wanted)
}

fn described(attributes: &[InfoVxlan], underlay: Underlay, is_up: bool) -> Option<Tunnel> {
    use InfoVxlan as V;
    let has_extension = attributes.iter().any(|attribute| match attribute {
        V::CollectMetadata(on) | V::RemCsumTX(on) | V::RemCsumRX(on) | V::Vnifilter(on) | V::Rsc(on) | V::Proxy(on) => {
            *on
        }
        V::Gbp | V::Gpe | V::RemCsumNoPartial | V::TtlInheritFlag => true,
        V::TtlInherit(on) => *on != 0,
        V::Label(label) | V::LabelPolicy(label) => *label != 0,
        _ => false,
    });
    let remote = find(attributes, |attribute| match attribute {
        V::Group(v4) => Some(IpAddr::from(*v4)),
        V::Group6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    })?;
    let local = find(attributes, |attribute| match attribute {
        V::Local(v4) => Some(IpAddr::from(*v4)),
        V::Local6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    })?;
    let unusable = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    if has_extension || unusable(remote) || unusable(local) || remote.is_ipv4() != local.is_ipv4() {
        return None;
    }
    let number = |wanted: fn(&InfoVxlan) -> Option<u8>| find(attributes, wanted).unwrap_or_default();
    let flag = |wanted: fn(&InfoVxlan) -> Option<bool>| find(attributes, wanted);
    let ttl = number(|attribute| if let V::Ttl(ttl) = attribute { Some(*ttl) } else { None });
    let sums4 = flag(|attribute| if let V::UDPCsum(on) = attribute { Some(*on) } else { None });
    let unsummed6 = flag(|attribute| if let V::UDPZeroCsumTX(on) = attribute { Some(*on) } else { None });
    let takes6 = flag(|attribute| if let V::UDPZeroCsumRX(on) = attribute { Some(*on) } else { None });
    let sources = find(attributes, |attribute| match attribute {
        V::PortRange((low, high)) if low < high => Some(*low..*high),
        _ => None,
    });
    let hops = if ttl == 0 { default_hops(remote, &underlay.name) } else { ttl };
    Some(Tunnel {
        hops,
        underlay,
        local,
        remote,
        vni: find(attributes, |attribute| if let V::Id(vni) = attribute { Some(*vni) } else { None })?,
        port: find(attributes, |attribute| if let V::Port(port) = attribute { Some(*port) } else { None })?,
        sources: sources.unwrap_or_else(local_ports),
        tos: number(|attribute| if let V::Tos(tos) = attribute { Some(*tos) } else { None }),
        whole: match find(attributes, |attribute| if let V::Df(df) = attribute { Some(*df) } else { None }) {
            None | Some(VxlanDf::Unset) => Whole::No,
            Some(VxlanDf::Set) => Whole::Yes,
            Some(VxlanDf::Inherit) => Whole::Inherited,
            Some(_) => return None,
        },
        checksum: if remote.is_ipv4() { sums4.unwrap_or(true) } else { !unsummed6.unwrap_or(false) },
        takes_unsummed: remote.is_ipv4() || takes6.unwrap_or(false),
        is_up,
    })
}

fn setting(file: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/proc/sys/net").join(file)).ok()
}

fn default_hops(remote: IpAddr, underlay: &str) -> u8 {
    let file =
        if remote.is_ipv4() { "ipv4/ip_default_ttl".to_owned() } else { format!("ipv6/conf/{underlay}/hop_limit") };
    setting(&file).and_then(|text| text.trim().parse().ok()).unwrap_or(HOPS)
}

fn local_ports() -> Range<u16> {
    let text = setting("ipv4/ip_local_port_range");
    let mut numbers = text.iter().flat_map(|text| text.split_whitespace()).filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(low), Some(high)) if low < high => low..high,
        _ => PORTS,
    }
}
