//! One speaker for each session, its configuration, and what it shows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::routers::Router;
use crate::command::eventually;
use crate::health::Health;
use crate::lab::Lab;

/// What the routers' operators are to read when a speaker stops.
pub(super) const LAST_WORD: &str = "moved to the new rack";

/// A kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// iBGP over IPv4; we connect.
    Plain,
    /// iBGP over IPv6; the router connects, both ends sign, paths have identifiers, IPv4 goes by IPv6.
    Guarded,
    /// eBGP over IPv4 from a four-octet AS, with TTL security and a role.
    External,
}

impl Case {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::Guarded, Self::External];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Guarded => "guarded",
            Self::External => "external",
        }
    }

    pub(super) fn about(self, router: Router) -> String {
        let (transport, settled) = match self {
            Self::Plain => ("iBGP, IPv4, we connect", ""),
            Self::Guarded => ("iBGP, IPv6, it connects, MD5", ""),
            Self::External => ("eBGP, GTSM", if router.has_roles() { ", roles" } else { "" }),
        };
        format!("{transport}{settled}, AS {}: {}", self.local_as(router), self.wants(router).join(", "))
    }

    /// What the session must settle.
    pub(super) fn wants(self, router: Router) -> Vec<&'static str> {
        let mut wants = vec!["route-refresh"];
        if router.has_enhanced_refresh() {
            wants.push("enhanced-refresh");
        }
        if !(self == Self::External && router == Router::Bird) {
            wants.push("four-octet-as");
        }
        if self == Self::Guarded {
            wants.push("add-path-send");
            if router.has_ipv4_by_ipv6() {
                wants.push("ipv4-by-ipv6");
            }
        }
        if self == Self::Plain && router == Router::Bird {
            wants.push("extended-messages");
        }
        wants
    }

    /// Where a router is to be a two-octet speaker, our number has two octets: BIRD takes no other neighbour then.
    const fn local_as(self, router: Router) -> u32 {
        match (self, router) {
            (Self::External, Router::Bird) => 64501,
            (Self::External, _) => 4_200_000_001,
            (Self::Plain | Self::Guarded, _) => 64500,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Plain => 'a',
            Self::Guarded => 'b',
            Self::External => 'c',
        }
    }

    const fn index(self) -> u8 {
        self as u8 + 1
    }

    /// Our address in the session.
    pub(super) fn local(self, router: Router) -> String {
        if self == Self::Guarded { self.local_v6(router) } else { router.v4(self.index()) }
    }

    fn local_v6(self, router: Router) -> String {
        router.v6(self.letter())
    }

    /// The IPv4 and the IPv6 private prefix that the session is to carry.
    pub(super) fn prefixes(self, router: Router) -> Vec<String> {
        let (r, i) = (router.number(), self.index());
        let v4 = (self != Self::Guarded || router.has_ipv4_by_ipv6()).then(|| format!("203.0.113.{}/32", 10 * r + i));
        v4.into_iter().chain([format!("2001:db8:c10a:{r}::{i}/128")]).collect()
    }

    pub(super) fn next_hop(self, router: Router, prefix: &str) -> String {
        if prefix.contains(':') || self == Self::Guarded { self.local_v6(router) } else { router.v4(self.index()) }
    }

    /// The process in the laboratory.
    pub(super) fn process(self, router: Router) -> String {
        format!("speaker-{}-{}", router.name(), self.name())
    }

    fn config(self, router: Router, lab: &Lab) -> Result<String> {
        let run = lab.run_directory().display();
        let process = self.process(router);
        let (local, remote) = (self.local(router), router.address(self));
        let local_as = self.local_as(router);
        let listen = if self == Self::Guarded { format!("listen = [\"[{local}]:179\"]\n") } else { String::new() };
        let session = match self {
            Self::Plain if router.bfd_process().is_some() => "bfd = { interval-ms = 50 }\n".to_owned(),
            Self::Plain => String::new(),
            Self::Guarded => "passive = true\nmd5-password-file = \"{{secrets}}/md5\"\nadd-path = true\n".to_owned(),
            Self::External => {
                let strict = if router.has_roles() { "strict-role = true\n" } else { "" };
                format!("export = \"private\"\nttl-security-hops = 1\nrole = \"provider\"\n{strict}")
            }
        };
        let route = |prefix: String| {
            format!("[[private-routes]]\nprefix = \"{prefix}\"\nnext-hop = \"{}\"\n", self.next_hop(router, &prefix))
        };
        let routes: String = self.prefixes(router).into_iter().map(route).collect();
        let id = format!("10.{}.{}.1", router.number(), self.index());
        let text = format!(
            "admin-socket = \"{run}/{process}.sock\"\n[speaker]\nlocal-as = {local_as}\nrouter-id = \"{id}\"\n{listen}\
             shutdown-communication = \"{LAST_WORD}\"\n[[peers]]\nname = \"{}\"\naddress = \"{remote}\"\n\
             remote-as = 64500\nlocal-address = \"{local}\"\n{session}{routes}[health]\nsocket = \"{run}/health.sock\"\n",
            router.name(),
        );
        Ok(lab.values().fill(&text)?)
    }
}

/// What `show sessions` says of the one session.
#[derive(Debug, Deserialize)]
pub(super) struct SessionRow {
    pub(super) state: String,
    pub(super) capabilities: Vec<String>,
    pub(super) refreshes_received: u64,
    pub(super) flaps: u64,
    pub(super) last_down: Option<String>,
}

/// All speakers, and the forwarder that they listen to.
pub(super) struct Speakers<'a> {
    lab: &'a Lab,
    health: Option<Health>,
}

impl<'a> Speakers<'a> {
    pub(super) fn start(lab: &'a Lab) -> Result<Self> {
        let mut speakers = Self { lab, health: None };
        speakers.forwarder_returns()?;
        for (router, case) in super::cells() {
            let file = lab.run_directory().join(format!("{}.toml", case.process(router)));
            fs::write(&file, case.config(router, lab)?)?;
            let file = file.display().to_string();
            lab.spawn(&case.process(router), lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?)?;
        }
        for (router, case) in super::cells() {
            let process = case.process(router);
            eventually(Duration::from_secs(15), "its admin socket is there", || {
                ensure!(lab.alive(&process), "{process} ended: {}", lab.log(&process));
                ensure!(lab.run_directory().join(format!("{process}.sock")).exists(), "{process}");
                Ok(())
            })?;
        }
        Ok(speakers)
    }

    pub(super) fn count(&self) -> usize {
        super::cells().filter(|(router, case)| self.lab.alive(&case.process(*router))).count()
    }

    pub(super) fn forwarder_dies(&mut self) {
        self.health = None;
    }

    pub(super) fn forwarder_returns(&mut self) -> Result<()> {
        let prefixes = super::cells().flat_map(|(router, case)| case.prefixes(router));
        let prefixes = prefixes.map(|prefix| Ok(prefix.parse()?)).collect::<Result<Vec<_>>>()?;
        self.health = Some(Health::serve(&self.socket(), prefixes)?);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.lab.run_directory().join("health.sock")
    }

    pub(super) fn session(&self, router: Router, case: Case) -> Result<SessionRow> {
        let socket = self.lab.run_directory().join(format!("{}.sock", case.process(router))).display().to_string();
        let said = self.lab.must("speaker", &["bgp-speaker", "show", "sessions", "--socket", &socket, "--json"])?;
        serde_json::Deserializer::from_str(&said)
            .into_iter::<serde_json::Value>()
            .next()
            .context("no answer")?
            .map_err(Into::into)
            .and_then(|value| {
                let row = if value.is_array() { value.get(0).cloned().context("no session")? } else { value };
                Ok(serde_json::from_value(row)?)
            })
    }
}
