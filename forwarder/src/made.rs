//! What of `[[links]]` is for links that the forwarder makes itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use cloakway_crypto::Secret;
use cloakway_crypto::encode::unbase64;
use cloakway_runtime::config::{self, Invalid};
use forwarder_core::wireguard::{KEY, WireGuard};
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
    private_key_file: Option<PathBuf>,
    peer_key: Option<String>,
    endpoint: Option<SocketAddr>,
    listen_port: Option<u16>,
    keepalive_s: Option<u16>,
    addresses: Option<Vec<IpNet>>,
    mtu: Option<u32>,
}

/// What a link of this kind may have.
const WIREGUARD: [&str; 8] =
    ["underlay", "private-key-file", "peer-key", "endpoint", "listen-port", "keepalive-s", "addresses", "mtu"];

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
            "wireguard" => &WIREGUARD,
            other => {
                let why = format!(
                    "{other:?} is no kind of link: give \"ethernet\", \"vlan\", \"vxlan\", \"gre\" or \"wireguard\""
                );
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
            ("private-key-file", self.private_key_file.is_some()),
            ("peer-key", self.peer_key.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("listen-port", self.listen_port.is_some()),
            ("keepalive-s", self.keepalive_s.is_some()),
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
            "wireguard" => MadeKind::WireGuard(self.wireguard(index)?),
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

    fn wireguard(&self, index: usize) -> Result<WireGuard, Invalid> {
        let at = |field: &str, why: String| Invalid::at(format!("links[{index}].{field}"), why);
        let missing = |field: &str| at(field, "missing: a link of kind \"wireguard\" needs it".to_owned());
        let file = self.private_key_file.as_ref().ok_or_else(|| missing("private-key-file"))?;
        let text = config::read_secret(file).map_err(|why| at("private-key-file", why))?;
        let bytes = unbase64(text.expose()).map(Secret::new);
        let private = bytes.as_ref().and_then(|bytes| <[u8; KEY]>::try_from(bytes.expose().as_slice()).ok());
        let private_key = private.map(Secret::new).ok_or_else(|| {
            at(
                "private-key-file",
                format!("{}: no key of WireGuard: 44 characters, as `wg genkey` writes them", file.display()),
            )
        })?;
        let peer = self.peer_key.as_ref().ok_or_else(|| missing("peer-key"))?;
        let peer = unbase64(peer).and_then(|bytes| <[u8; KEY]>::try_from(bytes).ok());
        let peer = peer.ok_or_else(|| {
            at("peer-key", "no public key of WireGuard: 44 characters, as `wg pubkey` writes them".to_owned())
        })?;
        if peer == [0; KEY] {
            return Err(at("peer-key", "all zeros are nobody's key".to_owned()));
        }
        let endpoint = self.endpoint.ok_or_else(|| missing("endpoint"))?;
        let ip = endpoint.ip();
        if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() || endpoint.port() == 0 {
            return Err(at(
                "endpoint",
                format!("{endpoint} is no end of a tunnel: a unicast address and a port are needed"),
            ));
        }
        let keepalive_s = self.keepalive_s.unwrap_or(25);
        if !(1..=120).contains(&keepalive_s) {
            let why = format!("{keepalive_s} is not allowed: 1 to 120, since handshakes are the heartbeat");
            return Err(at("keepalive-s", why));
        }
        let listen_port = self.listen_port.unwrap_or_default();
        Ok(WireGuard { private_key, listen_port, peer, endpoint, keepalive_s, allowed: Vec::new() })
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
    fn a_wireguard_link_has_its_key_from_a_file_and_shows_it_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let (private, public) =
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=");
        std::fs::write(&file, format!("{private}\n")).unwrap();
        let lines = format!(
            "kind = \"wireguard\"\nunderlay = \"eth1\"\nprivate-key-file = {file:?}\npeer-key = \"{public}\"\n\
             endpoint = \"192.0.2.9:51820\"\n"
        );
        let config = parsed(&lines).unwrap();
        let tunnel = config.made[0].wireguard().unwrap();
        assert_eq!((tunnel.keepalive_s, tunnel.listen_port, tunnel.private_key.expose()[0]), (25, 0, 0xc8));
        let allowed: Vec<_> = tunnel.allowed.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["203.0.113.200/32", "2001:db8:c10a::200/128"]);
        assert!(!format!("{config:?}").contains("200, 9, 243"), "the key is shown");
        for (from, to, refusal) in [
            (public, "xTIBA5rb", "links[0].peer-key: no public key of WireGuard"),
            (public, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "links[0].peer-key: all zeros"),
            ("192.0.2.9:51820", "0.0.0.0:51820", "links[0].endpoint: 0.0.0.0:51820 is no end"),
            ("192.0.2.9:51820", "192.0.2.9:0", "links[0].endpoint: 192.0.2.9:0 is no end"),
            ("endpoint =", "keepalive-s = 0\nendpoint =", "links[0].keepalive-s: 0 is not allowed: 1 to 120"),
            ("endpoint =", "vni = 7\nendpoint =", "links[0].vni: a link of kind \"wireguard\" has none"),
            ("/key\"", "/none\"", "links[0].private-key-file: "),
        ] {
            let error = parsed(&lines.replace(from, to)).unwrap_err();
            assert!(error.contains(refusal), "{to}: {error}");
        }
        for field in ["underlay", "private-key-file", "peer-key", "endpoint"] {
            let without: String =
                lines.lines().filter(|line| !line.starts_with(field)).map(|line| format!("{line}\n")).collect();
            assert!(parsed(&without).unwrap_err().contains(&format!("links[0].{field}: missing")), "{field}");
        }
        std::fs::write(&file, "not a key that anybody has").unwrap();
        let error = parsed(&lines).unwrap_err();
        assert!(error.contains("no key of WireGuard") && !error.contains("anybody"), "{error}");
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
