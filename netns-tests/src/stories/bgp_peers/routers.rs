//! The routers, asked in their own words.

use anyhow::{Result, bail};

use super::speakers::Case;
use crate::lab::Lab;

/// A router beside the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Router {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
}

impl Router {
    pub(super) const ALL: [Self; 4] = [Self::Bird, Self::Frr, Self::GoBgp, Self::OpenBgpd];

    /// Its namespace and its link.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::GoBgp => "gobgp",
            Self::OpenBgpd => "openbgpd",
        }
    }

    pub(super) const fn number(self) -> u8 {
        self as u8 + 1
    }

    pub(super) const fn has_roles(self) -> bool {
        !matches!(self, Self::GoBgp)
    }

    pub(super) const fn has_enhanced_refresh(self) -> bool {
        !matches!(self, Self::GoBgp)
    }

    pub(super) const fn has_ipv4_by_ipv6(self) -> bool {
        !matches!(self, Self::OpenBgpd)
    }

    /// An address of the link to it.
    pub(super) fn v4(self, host: u8) -> String {
        format!("192.0.2.{}", 16 * self.number() + host)
    }

    /// An address of the link to it.
    pub(super) fn v6(self, host: char) -> String {
        format!("2001:db8:0:{}::{host}", self.number())
    }

    /// Its own address in a session.
    pub(super) fn address(self, case: Case) -> String {
        if case == Case::Guarded { self.v6('e') } else { self.v4(14) }
    }

    /// What it tells its neighbour of itself.
    pub(super) fn own_prefix(self) -> String {
        format!("198.51.100.{}/28", 16 * self.number())
    }

    /// How it writes the community in the answer to [`Router::route`].
    pub(super) const fn no_export(self) -> &'static str {
        match self {
            Self::Bird => "(65535,65281)",
            Self::Frr | Self::GoBgp => "no-export",
            Self::OpenBgpd => "NO_EXPORT",
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
        }
    }

    /// What the answer to [`Router::session`] must say.
    pub(super) fn session_says(self, case: Case) -> Vec<&'static str> {
        match (self, case) {
            (Self::Bird, Case::Plain) => vec!["Established", "Enhanced refresh", "Extended message"],
            (Self::Bird, Case::Guarded) => vec!["Established", "Extended next hop", "ADD-PATH"],
            (Self::Bird, Case::External) => vec!["Established", "Role: provider"],
            (Self::Frr, Case::Plain) => vec!["Established", "Enhanced Route Refresh"],
            (Self::Frr, Case::Guarded) => vec!["Established", "Extended nexthop", "Peer Authentication Enabled"],
            (Self::Frr, Case::External) => vec!["Established", "Remote Role: provider"],
            (Self::GoBgp, Case::Plain) => vec!["ESTABLISHED", "route-refresh"],
            (Self::GoBgp, Case::Guarded) => vec!["ESTABLISHED", "add-path"],
            (Self::GoBgp, Case::External) => vec!["ESTABLISHED", "4200000001"],
            (Self::OpenBgpd, Case::Plain) => vec!["Established", "Enhanced Route Refresh"],
            (Self::OpenBgpd, Case::Guarded) => vec!["Established", "Add-path: IPv4 unicast recv"],
            (Self::OpenBgpd, Case::External) => vec!["Established", "role provider"],
        }
    }

    /// What it holds of `prefix` from the session.
    pub(super) fn route(self, lab: &Lab, case: Case, prefix: &str) -> Result<String> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        match self {
            Self::Bird => birdc(lab, "bird", &format!("show route {prefix} all protocol {}", bird_name(case))),
            Self::Frr => vtysh(lab, &format!("show bgp {family} unicast {prefix}")),
            Self::GoBgp => lab.must("gobgp", &["gobgp", "neighbor", &case.local(self), "adj-in", prefix, "-a", family]),
            Self::OpenBgpd => bgpctl(lab, &["show", "rib", "detail", prefix]),
        }
    }

    /// Whether its operator can make it ask for routes again; GoBGP keeps a copy of its own to look at.
    pub(super) const fn can_ask_again(self) -> bool {
        !matches!(self, Self::GoBgp)
    }

    /// Lets it ask the plain session for all routes again.
    pub(super) fn ask_again(self, lab: &Lab) -> Result<String> {
        let ours = Case::Plain.local(self);
        match self {
            Self::Bird => birdc(lab, "bird", "reload in plain"),
            Self::Frr => vtysh(lab, &format!("clear bgp ipv4 unicast {ours} soft in")),
            Self::GoBgp => bail!("GoBGP asks for nothing again"),
            Self::OpenBgpd => bgpctl(lab, &["neighbor", &ours, "refresh"]),
        }
    }

    /// The process that answers for the path, where the plain session is watched by BFD.
    pub(super) const fn bfd_process(self) -> Option<&'static str> {
        match self {
            Self::Bird => Some("bird"),
            Self::Frr => Some("frr-bfdd"),
            Self::GoBgp | Self::OpenBgpd => None,
        }
    }

    /// What it knows of the path to the plain session.
    pub(super) fn bfd(self, lab: &Lab) -> Result<String> {
        match self {
            Self::Bird => birdc(lab, "bird", "show bfd sessions"),
            Self::Frr => vtysh(lab, "show bfd peers"),
            Self::GoBgp | Self::OpenBgpd => bail!("{} has no BFD", self.name()),
        }
    }

    /// How it says that the path works.
    pub(super) const fn bfd_up(self) -> &'static str {
        if matches!(self, Self::Bird) { " Up " } else { "Status: up" }
    }

    /// What its daemon has written.
    pub(super) fn log(self, lab: &Lab) -> String {
        lab.log(match self {
            Self::Bird => "bird",
            Self::Frr => "frr-bgpd",
            Self::GoBgp => "gobgpd",
            Self::OpenBgpd => "openbgpd",
        })
    }
}

/// `external` is a word of BIRD's.
const fn bird_name(case: Case) -> &'static str {
    match case {
        Case::Plain => "plain",
        Case::Guarded => "guarded",
        Case::External => "outside",
    }
}

pub(super) fn birdc(lab: &Lab, host: &str, words: &str) -> Result<String> {
    let directory = if host == "beyond" { "beyond-bird" } else { host };
    let socket = format!("{{{{run}}}}/{directory}/bird.ctl");
    // A route that is not there is an error to birdc, and an answer to us.
    let mut arguments = vec!["birdc", "-s", &socket];
    arguments.extend(words.split(' '));
    Ok(lab.exec(host, &arguments)?.stdout)
}

fn vtysh(lab: &Lab, words: &str) -> Result<String> {
    lab.must("frr", &["vtysh", "--vty_socket", "{{run}}/frr-zebra", "-c", words])
}

fn bgpctl(lab: &Lab, words: &[&str]) -> Result<String> {
    let head = ["bgpctl", "-s", "{{run}}/openbgpd/bgpd.sock"];
    lab.must("openbgpd", &[&head[..], words].concat())
}
