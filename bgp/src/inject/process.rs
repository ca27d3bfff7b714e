//! Programs that say what to announce, in ExaBGP's text API: commands on their output, answers on their input.
//!
//! Each has a set of its own. The set is emptied when the program starts and when it ends: it alone knows what it
//! wants, and a program that is gone vouches for nothing.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Group, Others, Outcome, Prefixes, RouteAttributes, SetChange};
use cloakway_runtime::Stop;
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};

use super::Engine;
use super::text::{self, Command};

/// The longest line.
const LINE: usize = 1 << 20;
const READ: usize = 64 * 1024;
/// Between the end of a program and its next start.
const RESPAWN: Duration = Duration::from_secs(1);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Process {
    /// For logs; its set is called `process NAME`.
    pub name: String,
    /// The program and its arguments.
    pub run: Vec<String>,
}

impl Process {
    fn set(&self) -> String {
        format!("process {}", self.name)
    }
}

/// Runs the program until the stop, again whenever it ends.
#[tracing::instrument(skip_all, fields(process = %process.name))]
pub(crate) async fn run(process: Process, engine: Arc<Engine>, stop: Stop) {
    loop {
        let empty = SetChange { set: process.set(), others: Others::Go, remove: Prefixes::default(), add: Vec::new() };
        if let Err(error) = submit(&engine, empty).await {
            tracing::error!(%error, "cannot empty the program's set");
        }
        if stop.is_told() {
            return;
        }
        tokio::select! {
            () = stop.told() => return,
            ended = once(&process, &engine, &stop) => tracing::warn!(reason = %ended, "the program ended: its routes are withdrawn"),
        }
        let empty = SetChange { set: process.set(), others: Others::Go, remove: Prefixes::default(), add: Vec::new() };
        // What goes wrong here goes wrong again, and is told, at the start of the next round.
        let _ = submit(&engine, empty).await;
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(RESPAWN) => {}
        }
    }
}

/// Runs the program to its end and says why it ended.
async fn once(process: &Process, engine: &Arc<Engine>, stop: &Stop) -> String {
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
    let spoken = talk(process, engine, stop, output, input).await;
    match child.wait().await {
        Ok(status) => format!("{spoken}, {status}"),
        Err(error) => error.to_string(),
    }
}

async fn talk(
    process: &Process,
    engine: &Arc<Engine>,
    stop: &Stop,
    mut output: ChildStdout,
    mut input: ChildStdin,
) -> String {
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
        let answers = obey(process, engine, stop, &String::from_utf8_lossy(&lines)).await;
        // A script that reads no answers, as many do, fills its pipe at most: the rest is dropped.
        let _ = tokio::time::timeout(Duration::from_millis(10), input.write_all(answers.as_bytes())).await;
    }
}

/// Carries out all lines that have come together as one change, and answers each.
async fn obey(process: &Process, engine: &Arc<Engine>, stop: &Stop, lines: &str) -> String {
    let mut wanted: BTreeMap<IpNet, Option<RouteAttributes>> = BTreeMap::new();
    let mut answers = Vec::new();
    for line in lines.lines() {
        let command = text::parse(line).and_then(|command| match &command {
            // Held to the policy line by line, so that one bad line spoils no other.
            Command::Announce(route, prefixes) => {
                let group = Group { attributes: route.clone(), prefixes: prefixes.iter().copied().collect() };
                let change = change(process, Prefixes::default(), vec![group]);
                change.check(engine.policy()).map_err(|error| error.to_string()).map(|_| command)
            }
            _ => Ok(command),
        });
        match command {
            Ok(Command::Nothing) => continue,
            Ok(Command::Announce(route, prefixes)) => {
                wanted.extend(prefixes.into_iter().map(|prefix| (prefix, Some(route.clone()))));
                answers.push(true);
            }
            Ok(Command::Withdraw(prefixes)) => {
                wanted.extend(prefixes.into_iter().map(|prefix| (prefix, None)));
                answers.push(true);
            }
            Ok(Command::Shutdown) => {
                tracing::warn!("the program asked the speaker to stop");
                stop.tell();
                answers.push(true);
            }
            Err(error) => {
                tracing::warn!(%error, line, "refused");
                answers.push(false);
            }
        }
    }
    let (mut remove, mut groups) = (Prefixes::default(), BTreeMap::<RouteAttributes, Prefixes>::new());
    for (prefix, route) in wanted {
        match route {
            Some(route) => groups.entry(route).or_default().push(prefix),
            None => remove.push(prefix),
        }
    }
    if !remove.is_empty() || !groups.is_empty() {
        let add = groups.into_iter().map(|(attributes, prefixes)| Group { attributes, prefixes }).collect();
        if let Err(error) = submit(engine, change(process, remove, add)).await {
            tracing::warn!(%error, "refused");
            answers.fill(false);
        }
    }
    answers.into_iter().map(|done| if done { "done\n" } else { "error\n" }).collect()
}

fn change(process: &Process, remove: Prefixes, add: Vec<Group>) -> SetChange {
    SetChange { set: process.set(), others: Others::Stay, remove, add }
}

async fn submit(engine: &Arc<Engine>, change: SetChange) -> Result<Outcome, String> {
    let checked = change.check(engine.policy()).map_err(|error| error.to_string())?;
    engine.submit(None, checked).await
}
