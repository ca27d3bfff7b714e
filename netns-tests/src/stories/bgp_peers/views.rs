//! What each router holds of a session, in its own words.

use anyhow::{Result, bail};
use serde_json::Value;

use super::cases::Case;
use super::routers::{OUR_ADMIN_SOCKET, Router, bgpctl, birdc, vtysh};
use crate::lab::Lab;
use crate::stories::shown;

impl Router {
    /// How it writes the guard of a private route in the answer to [`Router::route`].
    pub(super) const fn guard(self, case: Case) -> &'static str {
        match (self, case.is_advertised_to_nobody()) {
            (Self::Bird, false) => "(65535,65281)",
            (Self::Bird, true) => "(65535,65282)",
            (Self::Frr | Self::GoBgp | Self::Ourselves, false) => "no-export",
            (Self::Frr | Self::GoBgp | Self::Ourselves, true) => "no-advertise",
            (Self::OpenBgpd, false) => "NO_EXPORT",
            (Self::OpenBgpd, true) => "NO_ADVERTISE",
        }
    }

    /// How it writes what injected routes carry: a community, a large one and an extended one.
    pub(super) const fn marks(self) -> [&'static str; 3] {
        match self {
            Self::Bird => ["(64500,7)", "(64500, 7, 1)", "(rt, 64500, 7)"],
            Self::Frr => ["Community: 64500:7", "Large Community: 64500:7:1", "RT:64500:7"],
            Self::GoBgp => ["{Communities: 64500:7", "64500:7:1", "{Extcomms: [64500:7]}"],
            Self::OpenBgpd => ["Communities: 64500:7", "Large Communities: 64500:7:1", "rt 64500:7"],
            Self::Ourselves => ["\"64500:7\"", "\"64500:7:1\"", "\"rt:64500:7\""],
        }
    }

    /// How it says that a route is kept from a session that is gone.
    pub(super) const fn stale(self) -> &'static str {
        match self {
            Self::Bird => "(100s)",
            Self::Frr => "stale",
            Self::GoBgp => "S  0",
            Self::OpenBgpd => "stale",
            Self::Ourselves => "\"outdated\":true",
        }
    }

    /// What it knows of the session.
    pub(super) fn session(self, lab: &Lab, case: Case) -> Result<String> {
        let ours = case.local(self);
        match self {
            Self::Bird => birdc(lab, "bird", &format!("show protocols all {}", bird_name(case))),
            Self::Frr => vtysh(lab, &format!("show bgp neighbors {ours}")),
            Self::GoBgp => lab.must("gobgp", &["gobgp", "neighbor", &ours]),
            Self::OpenBgpd => bgpctl(lab, &["show", "neighbor", &ours]),
            Self::Ourselves => {
                let rows = shown::rows(lab, "ourselves", OUR_ADMIN_SOCKET, &["sessions"])?;
                Ok(shown::row(&rows, "peer", case.name())?.to_string())
            }
        }
    }

    /// What the answer to [`Router::session`] must say.
    pub(super) fn session_says(self, case: Case) -> Vec<&'static str> {
        let established = match self {
            Self::GoBgp => "ESTABLISHED",
            Self::Ourselves => "\"state\":\"Established\"",
            Self::Bird | Self::Frr | Self::OpenBgpd => "Established",
        };
        let more: &[&str] = match (self, case) {
            (Self::Bird, Case::Plain) => &["Enhanced refresh", "Extended message"],
            (Self::Bird, Case::Guarded) => &["Extended next hop", "ADD-PATH"],
            (Self::Bird, Case::External) => &["Role: provider"],
            (Self::Frr, Case::Plain) => &["Enhanced Route Refresh"],
            (Self::Frr, Case::Guarded) => &["Extended nexthop", "Peer Authentication Enabled"],
            (Self::Frr, Case::External) => &["Remote Role: provider"],
            (Self::GoBgp, Case::Plain) => &["route-refresh"],
            (Self::GoBgp, Case::Guarded) => &["add-path"],
            (Self::GoBgp, Case::External) => &["4200000001"],
            (Self::OpenBgpd, Case::Plain) => &["Enhanced Route Refresh"],
            (Self::OpenBgpd, Case::Guarded) => &["Add-path: IPv4 unicast bidir"],
            (Self::OpenBgpd, Case::External) => &["role provider"],
            (Self::Ourselves, Case::Plain) => &["\"extended-messages\"", "\"enhanced-refresh\""],
            (Self::Ourselves, Case::Guarded) => &["\"ipv4-by-ipv6\"", "\"add-path-receive\"", "\"add-path-send\""],
            (Self::Ourselves, Case::External) => &["\"kind\":\"external\"", "4200000001"],
            (_, Case::Higher | Case::Lower | Case::Restarting) => &[],
        };
        [&[established], more].concat()
    }

    /// What it holds of `prefix` from the session.
    pub(super) fn route(self, lab: &Lab, case: Case, prefix: &str) -> Result<String> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        match self {
            Self::Bird => birdc(lab, "bird", &format!("show route {prefix} all protocol {}", bird_name(case))),
            Self::Frr => vtysh(lab, &format!("show bgp {family} unicast {prefix}")),
            Self::GoBgp => lab.must("gobgp", &["gobgp", "neighbor", &case.local(self), "adj-in", prefix, "-a", family]),
            Self::OpenBgpd => bgpctl(lab, &["show", "rib", "detail", prefix]),
            Self::Ourselves => {
                let address = prefix.split('/').next().unwrap_or(prefix);
                let rows = shown::rows(lab, "ourselves", OUR_ADMIN_SOCKET, &["look-up", address])?;
                let paths = rows.iter().filter_map(|row| row.get("routes")?.as_array()).flatten();
                let is = |path: &&Value, key: &str, value: &str| path.get(key).is_some_and(|found| *found == value);
                let ours = paths.filter(|path| is(path, "prefix", prefix) && is(path, "peer", case.name()));
                Ok(ours.map(Value::to_string).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// What it knows of the path to the plain session.
    pub(super) fn bfd(self, lab: &Lab) -> Result<String> {
        match self {
            Self::Bird => birdc(lab, "bird", "show bfd sessions"),
            Self::Frr => vtysh(lab, "show bfd peers"),
            Self::Ourselves => Ok(self.log(lab)),
            Self::GoBgp | Self::OpenBgpd => bail!("{} has no BFD", self.name()),
        }
    }

    /// How it says that the path works.
    pub(super) const fn bfd_up(self) -> &'static str {
        match self {
            Self::Bird => " Up ",
            Self::Frr => "Status: up",
            Self::GoBgp | Self::OpenBgpd | Self::Ourselves => "the path works",
        }
    }

    /// What its daemon has written.
    pub(super) fn log(self, lab: &Lab) -> String {
        lab.log(self.daemon())
    }
}

/// `external` is a word of BIRD's.
const fn bird_name(case: Case) -> &'static str {
    if matches!(case, Case::External) { "outside" } else { case.name() }
}
