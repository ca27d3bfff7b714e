//! What of `[[links]]` is for links that the forwarder makes itself.

use std::net::IpAddr;

use cloakway_runtime::config::Invalid;
use forwarder_core::{MadeKind, MadeLink};
use ipnet::IpNet;
use serde::Deserialize;

/// One of `[[links]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawLink {
    pub(crate) name: String,
    pub(crate) interface: String,
    kind: Option<String>,
    underlay: Option<String>,
    id: Option<u16>,
    vni: Option<u32>,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    port: Option<u16>,
    key: Option<u32>,
    addresses: Option<Vec<IpNet>>,
    mtu: Option<u32>,
}

impl RawLink {
    /// The link that is to be made, if it is one.
    pub(crate) fn made(&self, index: usize) -> Result<Option<MadeLink>, Invalid> {
        let at = |field: &str, why: &str| Invalid::at(format!("links[{index}].{field}"), why);
        let kind = self.kind.as_deref().unwrap_or("ethernet");
        let allowed: &[&str] = match kind {
            "ethernet" => &[],
            "vlan" => &["underlay", "id", "addresses", "mtu"],
            "vxlan" => &["underlay", "vni", "local", "remote", "port", "addresses", "mtu"],
            "gre" => &["underlay", "local", "remote", "key", "addresses", "mtu"],
            other => {
                let why = format!("{other:?} is no kind of link: give \"ethernet\", \"vlan\", \"vxlan\" or \"gre\"");
                return Err(at("kind", &why));
            }
        };
        let written = [
            ("underlay", self.underlay.is_some()),
            ("id", self.id.is_some()),
            ("vni", self.vni.is_some()),
            ("local", self.local.is_some()),
            ("remote", self.remote.is_some()),
            ("port", self.port.is_some()),
            ("key", self.key.is_some()),
            ("addresses", self.addresses.is_some()),
            ("mtu", self.mtu.is_some()),
        ];
        if let Some((field, _)) = written.iter().find(|(field, written)| *written && !allowed.contains(field)) {
            return Err(at(field, &format!("a link of kind {kind:?} has none: leave it out, or give another kind")));
        }
        let missing = |field: &str| at(field, &format!("missing: a link of kind {kind:?} needs it"));
        let kind = match kind {
            "vlan" => {
                let id = self.id.ok_or_else(|| missing("id"))?;
                if !(1..=4094).contains(&id) {
                    return Err(at("id", &format!("{id} is no VLAN: 1 to 4094")));
                }
                MadeKind::Vlan { id }
            }
            "vxlan" => {
                let vni = self.vni.ok_or_else(|| missing("vni"))?;
                if !(1..1 << 24).contains(&vni) {
                    return Err(at("vni", &format!("{vni} is no VXLAN network: 1 to 16777215")));
                }
                let (local, remote) = self.ends(index)?;
                MadeKind::Vxlan { vni, local, remote, port: self.port.unwrap_or(4789) }
            }
            "gre" => {
                let (local, remote) = self.ends(index)?;
                MadeKind::Gre { local, remote, key: self.key }
            }
            _ => return Ok(None),
        };
        let underlay = self.underlay.clone().ok_or_else(|| missing("underlay"))?;
        if underlay == self.interface {
            return Err(at("underlay", "the link itself: give the interface that carries it"));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(1280..=65_535).contains(mtu)) {
            return Err(at("mtu", &format!("{mtu} is not allowed: 1280 to 65535")));
        }
        let addresses = self.addresses.clone().unwrap_or_default();
        Ok(Some(MadeLink { interface: self.interface.clone(), underlay, kind, addresses, mtu: self.mtu }))
    }

    fn ends(&self, index: usize) -> Result<(IpAddr, IpAddr), Invalid> {
        let at = |field: &str, why: &str| Invalid::at(format!("links[{index}].{field}"), why);
        let local = self.local.ok_or_else(|| at("local", "missing: a tunnel needs both its ends"))?;
        let remote = self.remote.ok_or_else(|| at("remote", "missing: a tunnel needs both its ends"))?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(at("remote", &format!("{remote} and {local} are of different IP versions")));
        }
        for (field, end) in [("local", local), ("remote", remote)] {
            if end.is_multicast() || end.is_unspecified() || end.is_loopback() {
                return Err(at(field, &format!("{end} is no end of a tunnel: a unicast address is needed")));
            }
        }
        if local == remote {
            return Err(at("remote", "the same as local: it is the other end"));
        }
        Ok((local, remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use cloakway_runtime::config;

    fn parsed(lines: &str) -> Result<Config, String> {
        let example = include_str!("../../configs/forwarder.toml");
        let text = example.replacen("interface = \"priv0\"\n", &format!("interface = \"priv0\"\n{lines}"), 1);
        config::parse("forwarder.toml", &text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_takes_what_it_needs() {
        assert!(parsed("").unwrap().made.is_empty());
        assert!(parsed("kind = \"ethernet\"\n").unwrap().made.is_empty());
        let vlan = parsed("kind = \"vlan\"\nunderlay = \"eth1\"\nid = 100\n").unwrap();
        assert_eq!(vlan.made[0].kind, MadeKind::Vlan { id: 100 });
        let ends = "underlay = \"eth1\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.9\"\n";
        let vxlan = parsed(&format!("kind = \"vxlan\"\nvni = 42\n{ends}addresses = [\"192.0.2.249/30\"]\n")).unwrap();
        assert!(matches!(vxlan.made[0].kind, MadeKind::Vxlan { vni: 42, port: 4789, .. }));
        assert_eq!(vxlan.made[0].mtu_on(1500), 1450);
        assert!(matches!(
            parsed(&format!("kind = \"gre\"\nkey = 7\n{ends}")).unwrap().made[0].kind,
            MadeKind::Gre { .. }
        ));
    }

    #[test]
    fn what_is_missing_too_much_or_wrong_is_named() {
        for (lines, refusal) in [
            ("kind = \"ppp\"\n", "links[0].kind: \"ppp\" is no kind of link"),
            ("vni = 1\n", "links[0].vni: a link of kind \"ethernet\" has none"),
            ("kind = \"vlan\"\nid = 1\n", "links[0].underlay: missing"),
            ("kind = \"vlan\"\nunderlay = \"eth1\"\n", "links[0].id: missing"),
            ("kind = \"vlan\"\nunderlay = \"eth1\"\nid = 4095\n", "links[0].id: 4095 is no VLAN: 1 to 4094"),
            ("kind = \"vlan\"\nunderlay = \"priv0\"\nid = 1\n", "links[0].underlay: the link itself"),
            ("kind = \"vlan\"\nunderlay = \"eth1\"\nid = 1\nmtu = 576\n", "links[0].mtu: 576 is not allowed"),
            ("kind = \"vxlan\"\nvni = 0\n", "links[0].vni: 0 is no VXLAN network"),
            ("kind = \"vxlan\"\nvni = 1\nlocal = \"192.0.2.1\"\n", "links[0].remote: missing"),
            ("kind = \"gre\"\nlocal = \"192.0.2.1\"\nremote = \"2001:db8::1\"\n", "different IP versions"),
            ("kind = \"gre\"\nlocal = \"192.0.2.1\"\nremote = \"224.0.0.1\"\n", "224.0.0.1 is no end of a tunnel"),
            ("kind = \"gre\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.1\"\n", "the same as local"),
        ] {
            let error = parsed(lines).unwrap_err();
            assert!(error.contains(refusal), "{lines}: {error}");
        }
    }
}
