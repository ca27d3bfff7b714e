//! The routers: their addresses, and what their operators do to them.

use anyhow::{Context, Result, bail, ensure};

use super::cases::Case;
use crate::command::eventually;
use crate::lab::Lab;

/// What every router has of its own, and its neighbour tells it of, too.
pub(super) const TWO_WAYS: &str = "198.51.100.240/28";
/// The same of OpenBGPD, whose guarded session carries IPv6 alone.
pub(super) const TWO_WAYS_V6: &str = "2001:db8:af::/48";

/// A router beside the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Router {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    Ourselves,
}

impl Router {
    pub(super) const ALL: [Self; 5] = [Self::Bird, Self::Frr, Self::GoBgp, Self::OpenBgpd, Self::Ourselves];

    /// Its namespace and its link.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::GoBgp => "gobgp",
            Self::OpenBgpd => "openbgpd",
            Self::Ourselves => "ourselves",
        }
    }

    /// Its name and release, for people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Bird => "BIRD 2.0",
            Self::Frr => "FRR 8.4",
            Self::GoBgp => "GoBGP 3.10",
            Self::OpenBgpd => "OpenBGPD 7.7",
            Self::Ourselves => "ourselves",
        }
    }

    pub(super) const fn number(self) -> u8 {
        self as u8 + 1
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

    /// What it tells everybody of itself.
    pub(super) fn own_prefix(self) -> String {
        format!("198.51.100.{}/28", 16 * self.number())
    }

    /// The same for IPv6.
    pub(super) fn own_prefix_v6(self) -> String {
        format!("2001:db8:a{}::/48", self.number())
    }

    /// The community and the large community that its own prefixes carry.
    pub(super) fn own_marks(self) -> [String; 2] {
        [format!("64500:70{}", self.number()), format!("64500:70:{}", self.number())]
    }

    /// The process that speaks BGP.
    pub(super) const fn daemon(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr-bgpd",
            Self::GoBgp => "gobgpd",
            Self::OpenBgpd => "openbgpd",
            Self::Ourselves => "ourselves",
        }
    }

    /// The process that answers for the path, where the plain session is watched by BFD.
    pub(super) const fn bfd_process(self) -> Option<&'static str> {
        match self {
            Self::Bird => Some("bird"),
            Self::Frr => Some("frr-bfdd"),
            Self::Ourselves => Some("ourselves"),
            Self::GoBgp | Self::OpenBgpd => None,
        }
    }

    /// Lets it ask the plain session for all routes again.
    pub(super) fn ask_again(self, lab: &Lab) -> Result<String> {
        let ours = Case::Plain.local(self);
        match self {
            Self::Bird => birdc(lab, "bird", "reload in plain"),
            Self::Frr => vtysh(lab, &format!("clear bgp ipv4 unicast {ours} soft in")),
            Self::GoBgp => bail!("GoBGP asks for nothing again"),
            Self::OpenBgpd => bgpctl(lab, &["neighbor", &ours, "refresh"]),
            Self::Ourselves => {
                lab.must("ourselves", &["bgp-speaker", "refresh", "plain", "--socket", OUR_ADMIN_SOCKET])
            }
        }
    }

    /// Kills it as a crash would.
    pub(super) fn dies(self, lab: &Lab) -> Result<()> {
        lab.kill9(self.daemon())?;
        // Its parts notice, and go by themselves.
        eventually(super::BOUND, "no part of it is left", || {
            let pids = lab.netns(self.name()).pids()?;
            let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let left: Vec<_> = pids.iter().map(name).filter(|name| name.trim() == "bgpd").collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    }

    /// Starts it again, as its operator does who has it restart gracefully.
    pub(super) fn returns(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Bird => {
                let file = ["-c", "{{run}}/bird/bird.conf", "-s", "{{run}}/bird/bird.ctl"];
                let words = [&["/usr/sbin/bird", "-R", "-f"], &file[..]].concat();
                lab.spawn("bird", lab.command("bird", &words)?)
            }
            Self::GoBgp => {
                let words =
                    ["/usr/bin/gobgpd", "-r", "-f", "{{run}}/gobgpd/gobgpd.toml", "--api-hosts", "127.0.0.1:50051"];
                lab.spawn("gobgpd", lab.command("gobgp", &words)?)?;
                let processes = lab.topology().processes.iter();
                // What its file cannot say its operator says again.
                for process in processes.filter(|process| process.name.starts_with("gobgp-prefix")) {
                    eventually(super::BOUND, "it answers", || lab.start(process))?;
                }
                Ok(())
            }
            Self::Frr | Self::OpenBgpd | Self::Ourselves => lab.restart(self.daemon()),
        }
        .with_context(|| self.name())
    }
}

/// Where the fifth router is asked.
pub(super) const OUR_ADMIN_SOCKET: &str = "{{run}}/ourselves/admin";

/// Asks a BIRD. A route that is not there is an error to birdc, and an answer to us.
pub(super) fn birdc(lab: &Lab, host: &str, words: &str) -> Result<String> {
    let directory = if host == "beyond" { "beyond-bird" } else { host };
    let socket = format!("{{{{run}}}}/{directory}/bird.ctl");
    let mut arguments = vec!["birdc", "-s", &socket];
    arguments.extend(words.split(' '));
    Ok(lab.exec(host, &arguments)?.stdout)
}

pub(super) fn vtysh(lab: &Lab, words: &str) -> Result<String> {
    lab.must("frr", &["vtysh", "--vty_socket", "{{run}}/frr-zebra", "-c", words])
}

pub(super) fn bgpctl(lab: &Lab, words: &[&str]) -> Result<String> {
    let head = ["bgpctl", "-s", "{{run}}/openbgpd/bgpd.sock"];
    lab.must("openbgpd", &[&head[..], words].concat())
}
