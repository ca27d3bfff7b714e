//! One speaker for each session, its configuration, and what it shows.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::cases::{Case, cells};
use super::matrix::Feature;
use super::routers::{Router, TWO_WAYS};
use crate::command::eventually;
use crate::health::Health;
use crate::lab::Lab;
use crate::stories::shown;

/// What the routers' operators are to read when a speaker stops.
pub(super) const LAST_WORD: &str = "moved to the new rack";
/// What injected routes carry: a community, a large one and an extended one.
pub(super) const MARKS: [&str; 3] = ["64500:7", "64500:7:1", "rt:64500:7"];
/// So long a restarting end's routes may stay.
const KEEP_S: u32 = 3600;

fn config(case: Case, router: Router, lab: &Lab) -> Result<String> {
    let run = lab.run_directory().display();
    let process = case.process(router);
    let (local, remote) = (case.local(router), router.address(case));
    let local_as = case.local_as(router);
    let listens = match case {
        Case::Guarded => format!("listen = [\"[{local}]:179\"]\n"),
        Case::Higher | Case::Lower => format!("listen = [\"{local}:179\"]\n"),
        Case::Plain | Case::External | Case::Restarting => String::new(),
    };
    let session = match case {
        Case::Plain => {
            let has_bfd = Feature::Bfd.lacking(router).is_none();
            let bfd = if has_bfd { "bfd = { interval-ms = 100, multiplier = 5 }\n" } else { "" };
            // Without it FRR and OpenBGPD send no End-of-RIB, and no marks when they are asked again.
            format!("import-prefixes = \"not-two-ways\"\ngraceful-restart = {{ restart-s = 60 }}\n{bfd}")
        }
        Case::Guarded => "passive = true\nmd5-password-file = \"{{secrets}}/md5\"\nadd-path = true\n".to_owned(),
        Case::External => {
            let strict = if Feature::Role.lacking(router).is_none() { "strict-role = true\n" } else { "" };
            format!("export = \"all\"\nttl-security-hops = 1\nrole = \"provider\"\n{strict}")
        }
        Case::Higher | Case::Lower => "export = \"private\"\n".to_owned(),
        Case::Restarting => {
            format!("export = \"injected\"\ngraceful-restart = {{ restart-s = 60, long-lived-s = {KEEP_S} }}\n")
        }
    };
    let guard = if case.is_advertised_to_nobody() { "no-advertise" } else { "no-export" };
    let route = |prefix: String| {
        let hop = case.next_hop(router, &prefix);
        format!("[[private-routes]]\nprefix = \"{prefix}\"\nnext-hop = \"{hop}\"\nguard = \"{guard}\"\n")
    };
    let private: String = case.private(router).into_iter().map(route).collect();
    let health = if private.is_empty() { String::new() } else { format!("[health]\nsocket = \"{run}/health.sock\"\n") };
    // Of two octets of a kind, the first decides which end's connection stays.
    let id = if case == Case::Higher { 223 } else { 10 };
    let text = format!(
        "admin-socket = \"{run}/{process}.sock\"\n[speaker]\nlocal-as = {local_as}\n\
         router-id = \"{id}.{}.{}.1\"\n{listens}shutdown-communication = \"{LAST_WORD}\"\n\
         [[prefix-lists]]\nname = \"not-two-ways\"\nrules = [{{ prefix = \"{TWO_WAYS}\", action = \"deny\" }}, \
         {{ prefix = \"0.0.0.0/0\", le = 32, action = \"permit\" }}, \
         {{ prefix = \"::/0\", le = 128, action = \"permit\" }}]\n\
         [rib]\n[inject]\napi-socket = \"{run}/{process}.api\"\njournal = \"{run}/{process}.journal\"\n\
         allow = [\"198.18.0.0/15\", \"2001:db8:b000::/36\"]\n[[inject.sets]]\nname = \"kept\"\nkeep-s = {KEEP_S}\n\
         [[peers]]\nname = \"{}\"\naddress = \"{remote}\"\nremote-as = 64500\nlocal-address = \"{local}\"\n\
         import = \"all\"\n{session}{private}{health}",
        router.number(),
        case.index(),
        router.name(),
    );
    Ok(lab.values().fill(&text)?)
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

/// A route of the router's, as `show look-up` has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PathRow {
    pub(super) prefix: String,
    pub(super) best: bool,
    pub(super) reason: String,
    pub(super) next_hop: String,
    pub(super) as_path: String,
    pub(super) communities: Vec<String>,
    pub(super) large_communities: Vec<String>,
    pub(super) path_id: u32,
    pub(super) outdated: bool,
}

/// All speakers, and the forwarder that they listen to.
pub(super) struct Speakers<'a> {
    lab: &'a Lab,
    health: Option<Health>,
}

impl<'a> Speakers<'a> {
    /// The forwarder is there, and no speaker yet.
    pub(super) fn new(lab: &'a Lab) -> Result<Self> {
        let mut speakers = Self { lab, health: None };
        speakers.forwarder_returns()?;
        Ok(speakers)
    }

    /// Starts the speakers of `which` sessions, and injects what they are to tell.
    pub(super) fn start(&self, which: impl Fn(Case) -> bool) -> Result<usize> {
        let cells: Vec<_> = cells().filter(|(_, case)| which(*case)).collect();
        for (router, case) in &cells {
            self.spawn(*router, *case)?;
        }
        for (router, case) in &cells {
            self.ready(*router, *case)?;
            for prefix in case.public(*router) {
                self.inject(*router, *case, "kept", &prefix)?;
            }
            if let Some(prefix) = case.passing(*router) {
                self.inject(*router, *case, "passing", &prefix)?;
            }
        }
        Ok(cells.len())
    }

    /// Starts one again, after a crash: its journal has what was injected.
    pub(super) fn restart(&self, router: Router, case: Case) -> Result<()> {
        self.spawn(router, case)?;
        self.ready(router, case)
    }

    fn spawn(&self, router: Router, case: Case) -> Result<()> {
        let file = self.lab.run_directory().join(format!("{}.toml", case.process(router)));
        fs::write(&file, config(case, router, self.lab)?)?;
        let file = file.display().to_string();
        let command = self.lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?;
        self.lab.spawn(&case.process(router), command)
    }

    fn ready(&self, router: Router, case: Case) -> Result<()> {
        let process = case.process(router);
        eventually(Duration::from_secs(15), "it answers", || {
            ensure!(self.lab.alive(&process), "{process} ended: {}", self.lab.log(&process));
            self.session(router, case).map(drop)
        })
    }

    fn inject(&self, router: Router, case: Case, set: &str, prefix: &str) -> Result<()> {
        let socket = self.path(router, case, "api").display().to_string();
        let by_self = prefix == case.by_self(router);
        let hop = if by_self { "self".to_owned() } else { case.next_hop(router, prefix) };
        let [community, large, extended] = MARKS;
        let words = [
            "bgp-speaker",
            "route",
            "add",
            prefix,
            "--set",
            set,
            "--next-hop",
            &hop,
            "--community",
            community,
            "--large-community",
            large,
            "--extended-community",
            extended,
            "--socket",
            &socket,
        ];
        self.lab.must("speaker", &words).map(drop)
    }

    pub(super) fn forwarder_dies(&mut self) {
        self.health = None;
    }

    pub(super) fn forwarder_returns(&mut self) -> Result<()> {
        let prefixes = cells().flat_map(|(router, case)| case.private(router));
        let prefixes = prefixes.map(|prefix| Ok(prefix.parse()?)).collect::<Result<Vec<_>>>()?;
        self.health = Some(Health::serve(&self.lab.run_directory().join("health.sock"), prefixes)?);
        Ok(())
    }

    fn path(&self, router: Router, case: Case, what: &str) -> PathBuf {
        self.lab.run_directory().join(format!("{}.{what}", case.process(router)))
    }

    fn show(&self, router: Router, case: Case, words: &[&str]) -> Result<Vec<Value>> {
        shown::rows(self.lab, "speaker", &self.path(router, case, "sock").display().to_string(), words)
    }

    pub(super) fn session(&self, router: Router, case: Case) -> Result<SessionRow> {
        let row = self.show(router, case, &["sessions"])?.into_iter().next().context("no session")?;
        Ok(serde_json::from_value(row)?)
    }

    /// What the router has told of exactly this prefix.
    pub(super) fn heard(&self, router: Router, case: Case, prefix: &str) -> Result<Vec<PathRow>> {
        let address = prefix.split('/').next().unwrap_or(prefix);
        let answer = self.show(router, case, &["look-up", address])?.into_iter().next().context("no answer")?;
        let rows = answer.get("routes").cloned().with_context(|| answer.to_string())?;
        let rows: Vec<PathRow> = serde_json::from_value(rows)?;
        Ok(rows.into_iter().filter(|row| row.prefix == prefix).collect())
    }

    /// What `show rib` says of the router.
    pub(super) fn rib(&self, router: Router, case: Case) -> Result<Value> {
        let answer = self.show(router, case, &["rib"])?.into_iter().next().context("no answer")?;
        let peers = answer.get("peers").and_then(Value::as_array).cloned().unwrap_or_default();
        shown::row(&peers, "peer", router.name())
    }

    /// Has the speaker ask for all routes of the session again.
    pub(super) fn ask_again(&self, router: Router, case: Case) -> Result<String> {
        let socket = self.path(router, case, "sock").display().to_string();
        self.lab.must("speaker", &["bgp-speaker", "refresh", router.name(), "--socket", &socket])
    }
}
