//! Programs that say what to announce, in ExaBGP's text API: commands on their output, answers on their input.
//!
//! Each has sets of its own. They are emptied when the program starts and when it ends: it alone knows what it
//! wants, and a program that is gone vouches for nothing.

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{FlowChange, FlowRoute, Group, Others, Prefixes, RouteAttributes, SetChange, State, Walk};
use bgp_wire::{Family, FlowRule};
use cloakway_runtime::{Stop, clock};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};

use super::script::Script;
use super::shown::Why;
use super::text::{self, Announcement, Command, Neighbour, Selector};
use super::{Engine, LISTING, lock};
use crate::config::Peer;
use crate::neighbours::Neighbours;

/// The longest line.
const LINE: usize = 1 << 20;
const READ: usize = 64 * 1024;
/// Between the end of a program and its next start.
const RESPAWN: Duration = Duration::from_secs(1);
/// How long a program may leave its answers unread before the rest of them is dropped, as many read none.
const UNREAD: Duration = Duration::from_millis(10);
/// The same for what it asked to be shown.
const SHOWN: Duration = Duration::from_secs(5);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Process {
    /// For logs; its set is called `process NAME`.
    pub name: String,
    /// The program and its arguments.
    pub run: Vec<String>,
    /// Whether it is told `done` or `error` for each line.
    pub acknowledge: bool,
}

/// Behind the name of a program's set, what the names of its sets of flow rules go on with.
const FLOW: &str = "/flow ";
/// What the names of all sets of programs begin with.
pub(super) const SETS: &str = "process ";

impl Process {
    fn set(&self) -> String {
        format!("{SETS}{}", self.name)
    }
}

impl Neighbour {
    fn of(peer: &Peer) -> Self {
        let settings = &peer.settings;
        Self {
            address: peer.address.ip(),
            local_address: peer.local_address,
            local_as: settings.local_as.0,
            remote_as: settings.remote_as.0,
            router_id: settings.router_id.octets().into(),
        }
    }
}

/// Runs the program until the stop, again whenever it ends.
#[tracing::instrument(skip_all, fields(process = %process.name))]
pub(crate) async fn run(process: Process, engine: Arc<Engine>, neighbours: Neighbours, stop: Stop) {
    loop {
        let ear = Ear::new(&process, engine.clone(), neighbours.clone(), stop.clone());
        ear.empty().await;
        if stop.is_told() {
            return;
        }
        tokio::select! {
            () = stop.told() => return,
            ended = once(&process, ear) => tracing::warn!(reason = %ended, "the program ended: its routes are withdrawn"),
        }
        Ear::new(&process, engine.clone(), neighbours.clone(), stop.clone()).empty().await;
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(RESPAWN) => {}
        }
    }
}

/// Runs the program to its end and says why it ended.
async fn once(process: &Process, ear: Ear) -> String {
    let Some((program, arguments)) = process.run.split_first() else { return "no program is given".to_owned() };
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return format!("{program}: {error}"),
    };
    let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
        return "it has no input or output".to_owned();
    };
    let spoken = talk(ear, output, input).await;
    match child.wait().await {
        Ok(status) => format!("{spoken}, {status}"),
        Err(error) => error.to_string(),
    }
}

async fn talk(mut ear: Ear, mut output: ChildStdout, mut input: ChildStdin) -> String {
    let mut buffer = Vec::new();
    loop {
        buffer.reserve(READ);
        match output.read_buf(&mut buffer).await {
            Ok(0) => return "end of its output".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else {
            if buffer.len() > LINE {
                return format!("a line exceeds {LINE} octets");
            }
            continue;
        };
        let lines: Vec<u8> = buffer.drain(..=end).collect();
        let said = ear.obey(&String::from_utf8_lossy(&lines)).await;
        let patience = if said.shows { SHOWN } else { UNREAD };
        let _ = tokio::time::timeout(patience, input.write_all(said.text.as_bytes())).await;
    }
}

/// What is said to the program.
#[derive(Debug, Default)]
struct Said {
    text: String,
    /// There is more in it than acknowledgements.
    shows: bool,
}

/// Understands one run of a program.
struct Ear {
    script: Script,
    set: String,
    acknowledge: bool,
    engine: Arc<Engine>,
    neighbours: Neighbours,
    stop: Stop,
}

impl Ear {
    fn new(process: &Process, engine: Arc<Engine>, neighbours: Neighbours, stop: Stop) -> Self {
        let (set, acknowledge) = (process.set(), process.acknowledge);
        Self { script: Script::new(set.clone()), set, acknowledge, engine, neighbours, stop }
    }

    /// Carries out all lines that have come together, routes as one change, and answers each.
    async fn obey(&mut self, lines: &str) -> Said {
        let mut said = Said::default();
        self.script.meet(self.neighbours.list().await.iter().map(|asked| Neighbour::of(&asked.peer)).collect());
        // Lines whose routes are not submitted yet.
        let mut waiting = 0;
        for line in lines.lines() {
            let command = text::parse(line).and_then(|command| self.check(&command).map(|()| command));
            let routes = matches!(command, Ok(Command::Announce(_) | Command::Withdraw(..)));
            if !routes {
                self.submit(&mut waiting, &mut said).await;
            }
            let done = match command {
                Ok(Command::Nothing) => continue,
                Ok(command) => self.carry_out(command, &mut said).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) if routes => waiting += 1,
                done => {
                    self.submit(&mut waiting, &mut said).await;
                    if let Err(error) = &done {
                        tracing::warn!(%error, line, "refused");
                    }
                    self.acknowledge(done.is_ok(), &mut said);
                }
            }
        }
        self.submit(&mut waiting, &mut said).await;
        said
    }

    fn acknowledge(&self, done: bool, said: &mut Said) {
        if self.acknowledge {
            said.text.push_str(if done { "done\n" } else { "error\n" });
        }
    }

    /// Held to the policy line by line, so that one bad line spoils no other.
    fn check(&self, command: &Command) -> Result<(), String> {
        let Command::Announce(Announcement { route, prefixes, .. }) = command else { return Ok(()) };
        let group = Group { attributes: route.clone(), prefixes: prefixes.iter().copied().collect() };
        let change =
            SetChange { set: self.set.clone(), others: Others::Stay, remove: Prefixes::default(), add: vec![group] };
        change.check(self.engine.policy()).map(drop).map_err(|error| error.to_string())
    }

    async fn submit(&mut self, waiting: &mut usize, said: &mut Said) {
        let mut done = true;
        for change in self.script.take() {
            if let Err(error) = self.accept(change).await {
                tracing::warn!(%error, "refused");
                done = false;
            }
        }
        (0..std::mem::take(waiting)).for_each(|_| self.acknowledge(done, said));
    }

    /// A rule is to be told, or, without `route`, to be taken back. What some peers are told is in a set for each, before
    /// that of all by name.
    async fn flow(&self, to: &Selector, rule: FlowRule, route: Option<FlowRoute>) -> Result<(), String> {
        let (common, flows) = (format!("{}{FLOW}to all", self.set), &self.engine.flows);
        let own = |peer: IpAddr| format!("{}{FLOW}{peer}", self.set);
        let of_one = |peer| route.clone().map(|route| FlowRoute { audience: vec![peer], ..route });
        let mut changes: Vec<(String, Option<FlowRoute>)> = Vec::new();
        match self.script.fitting(to)? {
            None => {
                let others = flows.names().into_iter().filter(|set| set.starts_with(&format!("{}{FLOW}", self.set)));
                changes.push((common.clone(), route));
                changes.extend(others.filter(|set| *set != common).map(|set| (set, None)));
            }
            Some(peers) => {
                if let Some(common_route) = flows.wanted_by(&common, &rule).filter(|_| route.is_none()) {
                    for peer in self.script.peers().filter(|peer| !peers.contains(peer)) {
                        let known = flows.wanted_by(&own(peer), &rule);
                        let of_peer = FlowRoute { audience: vec![peer], ..common_route.clone() };
                        changes.push((own(peer), Some(known.unwrap_or(of_peer))));
                    }
                    changes.push((common, None));
                }
                changes.extend(peers.into_iter().map(|peer| (own(peer), of_one(peer))));
            }
        }
        for (set, route) in changes {
            let known = flows.wanted_by(&set, &rule);
            if known == route {
                continue;
            }
            let (add, remove) = match route {
                Some(route) => (vec![(rule.clone(), route)], Vec::new()),
                None => (Vec::new(), vec![rule.clone()]),
            };
            let change = FlowChange { set, others: Others::Stay, remove, add }.check(&self.engine.policy());
            self.engine.accept_flow(None, change.map_err(|error| error.to_string())?).await?;
        }
        Ok(())
    }

    async fn accept(&self, change: SetChange) -> Result<(), String> {
        let checked = change.check(self.engine.policy()).map_err(|error| error.to_string())?;
        self.engine.submit(None, checked).await.map(drop)
    }

    async fn carry_out(&mut self, command: Command, said: &mut Said) -> Result<(), String> {
        let engine = self.engine.clone();
        let told = |set: &str, prefix: IpNet| {
            let table = lock(&engine.table);
            table.rib.find_set(set).and_then(|set| table.rib.wanted_by(set, &prefix).cloned())
        };
        match command {
            Command::Announce(announcement) => {
                if let Some(name) = announcement.watchdog.as_ref().filter(|_| announcement.held) {
                    engine.show(&self.script.watchdog(name), Why::Watchdog, false, None).await;
                }
                self.script.announce(&announcement, told)?;
            }
            Command::Withdraw(to, prefixes) => self.script.withdraw(&to, &prefixes, told)?,
            Command::AnnounceFlow(to, rule, route) => self.flow(&to, rule, Some(route)).await?,
            Command::WithdrawFlow(to, rule) => self.flow(&to, rule, None).await?,
            Command::Watchdog(name, shown) => {
                let own = self.set.strip_prefix(SETS).unwrap_or_default();
                let set = self.script.watchdog(name.as_deref().unwrap_or(own));
                engine.show(&set, Why::Watchdog, shown, None).await;
            }
            Command::Flush => {
                lock(&engine.table).rib.refresh_all();
                engine.wake();
            }
            Command::Clear => self.empty().await,
            Command::Neighbours => self.neighbours(said).await,
            Command::HowToAsk => self.show(said, &["please specify summary"]),
            Command::Routes { extensive, of } => self.routes(extensive, of, said),
            Command::Version => {
                let own = concat!("exabgp 4.2 text API, by bgp-speaker ", env!("CARGO_PKG_VERSION"));
                self.show(said, &[own]);
            }
            Command::Help => self.show(said, text::HELP),
            Command::Shutdown => {
                tracing::warn!("the program asked the speaker to stop");
                self.show(said, &["shutdown in progress"]);
                self.stop.tell();
            }
            Command::Comment | Command::Nothing => {}
        }
        Ok(())
    }

    fn show(&self, said: &mut Said, lines: &[&str]) {
        said.shows = true;
        for line in lines {
            said.text.push_str(line);
            said.text.push('\n');
        }
    }

    /// Nothing of the program's is wanted any more; its watchdogs are as they were at first.
    async fn empty(&self) {
        let sets: Vec<String> = {
            let table = lock(&self.engine.table);
            let own =
                |set: &str| set.strip_prefix(&*self.set).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            table.rib.sets().filter(|(set, _)| own(set)).map(|(set, _)| set.to_owned()).collect()
        };
        for set in sets {
            let change =
                SetChange { set: set.clone(), others: Others::Go, remove: Prefixes::default(), add: Vec::new() };
            // What goes wrong here goes wrong again, and is told, at the next line.
            if let Err(error) = self.accept(change).await {
                tracing::error!(%error, "cannot empty the program's set");
            }
            if set != self.set {
                self.engine.show(&set, Why::Watchdog, true, None).await;
            }
        }
        for set in self.engine.flows.names().into_iter().filter(|set| set.starts_with(&format!("{}{FLOW}", self.set))) {
            let change = FlowChange { set, others: Others::Go, remove: Vec::new(), add: Vec::new() };
            if let Err(error) = self.engine.accept_flow(None, change).await {
                tracing::error!(%error, "cannot empty the program's set of flow rules");
            }
        }
    }

    /// The table that ExaBGP prints.
    async fn neighbours(&self, said: &mut Said) {
        self.show(said, &["Peer            AS        up/down state       |     #sent     #recvd"]);
        for asked in self.neighbours.list().await {
            let Some(report) = asked.report().await else { continue };
            let status = report.status;
            let counters = &status.counters;
            let up = match status.state {
                State::Established => {
                    let seconds = (clock::now() - status.since).as_secs();
                    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
                }
                _ => "down".to_owned(),
            };
            let line = format!(
                "{:<15} {:<7} {up:>9} {:<12} {:>10} {:>10}",
                asked.peer.address.ip().to_string(),
                asked.peer.settings.remote_as.0,
                status.state.to_string().to_lowercase(),
                counters.sent.update,
                counters.received.update,
            );
            self.show(said, &[&line]);
        }
    }

    /// A line for each route and each peer that it is for.
    fn routes(&self, extensive: bool, of: Option<IpAddr>, said: &mut Said) {
        said.shows = true;
        let mut walk = Walk::default();
        loop {
            let flow = lock(&self.engine.table).rib.visit(&mut walk, LISTING, |route| {
                for address in self.script.peers().filter(|_| route.shown) {
                    if of.is_some_and(|of| of != address) || !route.attributes.is_for(address) {
                        continue;
                    }
                    let family = if Family::of(&route.prefix) == Family::Ipv4 { "ipv4" } else { "ipv6" };
                    let more = if extensive { extensive_of(route.attributes) } else { String::new() };
                    let next_hop = route.attributes.next_hop;
                    said.text.push_str(&format!(
                        "neighbor {address} {family} unicast {} next-hop {next_hop}{more}\n",
                        route.prefix
                    ));
                }
            });
            if flow.is_break() {
                return;
            }
        }
    }
}

fn extensive_of(route: &RouteAttributes) -> String {
    let list = |word: &str, values: Vec<String>| match values.as_slice() {
        [] => String::new(),
        [one] => format!(" {word} {one}"),
        many => format!(" {word} [ {} ]", many.join(" ")),
    };
    let number = |word: &str, value: Option<u32>| value.map_or_else(String::new, |value| format!(" {word} {value}"));
    let texts = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>();
    [
        format!(" origin {}", format!("{:?}", route.origin).to_lowercase()),
        list("as-path", texts(&mut route.as_path.iter().map(|asn| asn.0.to_string()))),
        number("med", route.med),
        number("local-preference", route.local_pref),
        list("community", texts(&mut route.communities.iter().map(ToString::to_string))),
        list("large-community", texts(&mut route.large_communities.iter().map(ToString::to_string))),
        list("extended-community", texts(&mut route.extended_communities.iter().map(ToString::to_string))),
    ]
    .concat()
}
