//! Starting a process of a laboratory, and waiting until it is ready.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{BOUND, Lab, program_path};
use crate::command::{self, eventually};
use crate::template::Values;
use crate::topology::{Probe, Process};

impl Lab {
    pub(super) fn start_inner(&self, process: &Process) -> Result<()> {
        let folder = self.run.join(process.directory.as_ref().unwrap_or(&process.name));
        let values = self.values.with("dir", folder.display().to_string());
        fs::create_dir_all(&folder)?;
        for template in &process.templates {
            let source = self.topology.folder.join(template);
            let text = fs::read_to_string(&source).with_context(|| format!("template {}", source.display()))?;
            let text = values.fill(&text).with_context(|| format!("template {}", source.display()))?;
            fs::write(folder.join(Path::new(template).file_name().context("a template is a file")?), text)?;
        }
        if let Some(owner) = &process.owner {
            give(&folder, owner)?;
        }
        if let Some(probe) = &process.after {
            self.wait_for(process, probe, &values)?;
        }
        let mut command = self.netns(&process.namespace).command(&program_path(&process.program));
        for argument in &process.arguments {
            command.arg(values.fill(argument)?);
        }
        if process.once {
            command::must(&mut command, BOUND)?;
        } else {
            self.spawn(&process.name, command)?;
        }
        match &process.ready {
            Some(probe) => self.wait_for(process, probe, &values),
            None => Ok(()),
        }
    }

    fn wait_for(&self, process: &Process, probe: &Probe, values: &Values) -> Result<()> {
        let bound = Duration::from_secs(probe.within_s);
        let held = eventually(bound, "its probe holds", || {
            let started = self.children().contains_key(&process.name);
            if started && !self.alive(&process.name) {
                return Ok(Err(anyhow!("it ended")));
            }
            self.probe(process, probe, values).map(Ok)
        });
        held.and_then(|inner| inner).map_err(|error| {
            let log = self.log(&process.name);
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n  ");
            anyhow!("{error:#}; the end of its log:\n  {last}")
        })
    }

    fn probe(&self, process: &Process, probe: &Probe, values: &Values) -> Result<()> {
        let netns = self.netns(&process.namespace);
        if let Some(path) = &probe.path {
            let path = values.fill(path)?;
            ensure!(Path::new(&path).exists(), "{path} is not there");
        }
        if let Some(address) = &probe.tcp {
            let address: SocketAddr = address.parse().with_context(|| format!("`{address}`"))?;
            netns.enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?))?;
        }
        if let Some((program, arguments)) = probe.command.as_ref().and_then(|words| words.split_first()) {
            let mut command = netns.command(&program_path(program));
            for argument in arguments {
                command.arg(values.fill(argument)?);
            }
            let said = command::must(&mut command, BOUND)?;
            let text = probe.contains.as_deref().unwrap_or_default();
            ensure!(said.contains(text), "`{text}` is not in: {said}");
        }
        if let Some(text) = &probe.log {
            ensure!(self.log(&process.name).contains(text), "`{text}` is not in its log");
        }
        Ok(())
    }
}

/// Gives a folder and the files in it to the system user `owner`.
fn give(folder: &Path, owner: &str) -> Result<()> {
    let user = nix::unistd::User::from_name(owner)?.with_context(|| format!("no system user `{owner}`"))?;
    let chown = |path: &Path| nix::unistd::chown(path, Some(user.uid), Some(user.gid));
    chown(folder)?;
    for entry in fs::read_dir(folder)? {
        chown(&entry?.path())?;
    }
    Ok(())
}
