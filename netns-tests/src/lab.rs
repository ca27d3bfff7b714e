//! A laboratory: a topology brought up, watched, disturbed and removed.

mod network;
mod process;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::command::{self, Outcome, eventually};
use crate::netns::Netns;
use crate::pki;
use crate::template::Values;
use crate::topology::{Link, Process, Topology};

/// Where the run directories of all laboratories lie.
const RUNS: &str = "/run/cloakway-lab";

/// The bound on a command that nobody gave a bound.
const BOUND: Duration = Duration::from_secs(60);

/// A laboratory that is up. Dropping it removes it, unless [`Lab::keep`] was called.
pub struct Lab {
    prefix: String,
    topology: Topology,
    values: Values,
    run: PathBuf,
    children: Mutex<BTreeMap<String, Child>>,
    keep: bool,
}

impl Lab {
    /// Brings `topology` up; its namespaces are called `prefix` and their names. `told` hears what is being done.
    ///
    /// # Errors
    /// When a laboratory of this prefix is up, or a part of this one does not come up; then all of it is removed.
    pub fn up(topology: Topology, prefix: &str, told: &mut dyn FnMut(&str)) -> Result<Self> {
        let run = run_directory(prefix);
        if run.exists() {
            let owner = fs::read_to_string(run.join("owner")).unwrap_or_default();
            ensure!(
                owner.is_empty() || !Path::new("/proc").join(owner.trim()).exists(),
                "a laboratory `{prefix}` is being used by process {}",
                owner.trim()
            );
            ensure!(!run.join("kept").exists(), "a laboratory `{prefix}` is up: remove it with `cargo lab down`");
            told("removing what a crash left behind");
            down(prefix)?;
        }
        fs::create_dir_all(run.join("logs"))?;
        fs::create_dir_all(run.join("captures"))?;
        fs::write(run.join("owner"), std::process::id().to_string())?;
        let names: Vec<&str> = topology.namespaces.iter().map(|host| host.name.as_str()).collect();
        fs::write(run.join("namespaces"), names.join("\n"))?;
        let lab = Self {
            prefix: prefix.to_owned(),
            values: Values::new(run.clone()),
            topology,
            run,
            children: Mutex::default(),
            keep: false,
        };
        lab.make_network(told)?;
        lab.make_secrets()?;
        for link in &lab.topology.links {
            lab.start_capture(link)?;
        }
        for process in &lab.topology.processes {
            told(&format!("starting {} in {}", process.name, process.namespace));
            lab.start(process)?;
        }
        Ok(lab)
    }

    /// The topology that is up.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The directory with everything that this run made.
    #[must_use]
    pub fn run_directory(&self) -> &Path {
        &self.run
    }

    /// The placeholders of this run.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The namespace of the host `name`.
    #[must_use]
    pub fn netns(&self, name: &str) -> Netns {
        Netns::named(format!("{}{name}", self.prefix))
    }

    /// Runs a command in the namespace `host` to its end; `{{placeholders}}` are filled in.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn exec(&self, host: &str, words: &[&str]) -> Result<Outcome> {
        command::run(&mut self.command(host, words)?, BOUND)
    }

    /// As [`Lab::exec`], but it must end with 0; gives its standard output.
    ///
    /// # Errors
    /// As [`Lab::exec`], and when it ends otherwise.
    pub fn must(&self, host: &str, words: &[&str]) -> Result<String> {
        command::must(&mut self.command(host, words)?, BOUND)
    }

    /// A command for the namespace `host`, to be started by the caller; `{{placeholders}}` are filled in.
    ///
    /// # Errors
    /// An unknown placeholder.
    pub fn command(&self, host: &str, words: &[&str]) -> Result<Command> {
        let (program, arguments) = words.split_first().context("a command without words")?;
        let mut command = self.netns(host).command(&program_path(program));
        for word in arguments {
            command.arg(self.values.fill(word)?);
        }
        Ok(command)
    }

    /// Starts `process` and waits for what its topology entry wants.
    ///
    /// # Errors
    /// A template, a start or a probe that fails; then with the end of its log.
    pub fn start(&self, process: &Process) -> Result<()> {
        self.start_inner(process).with_context(|| format!("process {} in {}", process.name, process.namespace))
    }

    /// Kills the process `name` with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When no such process was started here.
    pub fn kill9(&self, name: &str) -> Result<()> {
        let mut child = self.children().remove(name).with_context(|| format!("`{name}` is not running"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends the process `name` with SIGTERM and waits until it is gone.
    ///
    /// # Errors
    /// When no such process was started here, or it does not end.
    pub fn terminate(&self, name: &str) -> Result<()> {
        let mut child = self.children().remove(name).with_context(|| format!("`{name}` is not running"))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        signal::kill(pid, Signal::SIGTERM)?;
        eventually(BOUND, "the process ends", || child.try_wait()?.context("it runs")).map(drop)
    }

    /// Stops the process `name` where it is, or lets it go on.
    ///
    /// # Errors
    /// When no such process was started here.
    pub fn freeze(&self, name: &str, frozen: bool) -> Result<()> {
        self.signal(name, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Has a process read its configuration again, as `kill -HUP` does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hang_up(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::SIGHUP)
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        Ok(signal::kill(Pid::from_raw(i32::try_from(self.process_id(name)?)?), signal)?)
    }

    /// The id of the process `name`.
    ///
    /// # Errors
    /// When no such process was started here.
    pub fn process_id(&self, name: &str) -> Result<u32> {
        Ok(self.children().get(name).with_context(|| format!("`{name}` is not running"))?.id())
    }

    /// Starts the process `name` of the topology again, after [`Lab::kill9`].
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn restart(&self, name: &str) -> Result<()> {
        let process = self.topology.processes.iter().find(|process| process.name == name);
        self.start(process.with_context(|| format!("no process `{name}` in the topology"))?)
    }

    /// Starts something that the topology does not name; it is killed with the laboratory or by [`Lab::kill9`].
    ///
    /// # Errors
    /// When it cannot be started, or something of that name runs.
    pub fn spawn(&self, name: &str, mut command: Command) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(name))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut children = self.children();
        if let Some(child) = children.get_mut(name)
            && child.try_wait()?.is_none()
        {
            bail!("`{name}` is running");
        }
        children.insert(name.to_owned(), command.spawn().with_context(|| format!("cannot start {name}"))?);
        Ok(())
    }

    /// Whether the process `name` was started and lives.
    #[must_use]
    pub fn alive(&self, name: &str) -> bool {
        self.children().get_mut(name).is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What the process `name` has written.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read(self.log_path(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Takes one end of a link down, as if the cable were pulled, or plugs it in again.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn plug(&self, link: &str, inserted: bool) -> Result<()> {
        let link = self.topology.link(link).with_context(|| format!("no link `{link}`"))?;
        let state = if inserted { "up" } else { "down" };
        self.netns(&link.b.namespace).ip(&[format!("link set {} {state}", link.b.interface)])
    }

    /// The capture of the link `name`: a pcap file that grows while the laboratory is up.
    #[must_use]
    pub fn capture(&self, name: &str) -> PathBuf {
        self.run.join("captures").join(format!("{name}.pcap"))
    }

    /// Ends all captures so that their files are whole.
    ///
    /// # Errors
    /// When one does not end.
    pub fn end_captures(&self) -> Result<()> {
        for link in &self.topology.links {
            let Some(mut child) = self.children().remove(&capture_name(link)) else { continue };
            let pid = Pid::from_raw(i32::try_from(child.id())?);
            signal::kill(pid, Signal::SIGINT)?;
            eventually(BOUND, "the capture ends", || child.try_wait()?.context("it runs"))?;
        }
        Ok(())
    }

    /// Packets and bytes that left and arrived at the first end of a link, as the kernel counts them.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn counters(&self, link: &Link) -> Result<Counters> {
        let netns = self.netns(&link.a.namespace);
        let mut ip = Command::new("ip");
        ip.args(["-n", netns.name(), "-s", "-j", "link", "show", "dev", &link.a.interface]);
        let shown: serde_json::Value = serde_json::from_str(&command::must(&mut ip, BOUND)?)?;
        let count = |way: &str, what: &str| {
            shown.pointer(&format!("/0/stats64/{way}/{what}")).and_then(serde_json::Value::as_u64).unwrap_or(0)
        };
        Ok(Counters {
            sent: count("tx", "packets"),
            sent_bytes: count("tx", "bytes"),
            received: count("rx", "packets"),
            received_bytes: count("rx", "bytes"),
        })
    }

    /// Leaves the laboratory up when this value goes.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(mut self) -> Result<()> {
        fs::write(self.run.join("kept"), "")?;
        fs::remove_file(self.run.join("owner"))?;
        self.keep = true;
        Ok(())
    }

    fn make_secrets(&self) -> Result<()> {
        if let Some(pki) = &self.topology.pki {
            pki::issue(pki, &self.run.join("pki"))?;
        }
        pki::make_secrets(&self.topology.secrets, &self.run.join("secrets"))
    }

    fn start_capture(&self, link: &Link) -> Result<()> {
        let name = capture_name(link);
        let mut command = self.netns(&link.a.namespace).command("tcpdump");
        command.args(["-i", &link.a.interface, "-s", "0", "-U", "--immediate-mode", "-Z", "root"]);
        // In KiB: a busy machine must not lose packets.
        command.args(["-B", "16384"]);
        command.args(["--time-stamp-precision=nano", "-w"]).arg(self.capture(&link.name));
        self.spawn(&name, command)?;
        eventually(BOUND, &format!("tcpdump listens on {}", link.name), || {
            ensure!(self.log(&name).contains("listening on"), "{}", self.log(&name));
            Ok(())
        })
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    fn children(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for child in self.children().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = down(&self.prefix) {
            crate::say(&format!("the laboratory `{}` could not be removed whole: {error:#}", self.prefix));
        }
    }
}

/// Packets at the first end of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Packets from the first end to the second.
    pub sent: u64,
    /// Bytes from the first end to the second.
    pub sent_bytes: u64,
    /// Packets from the second end to the first.
    pub received: u64,
    /// Bytes from the second end to the first.
    pub received_bytes: u64,
}

/// Removes the laboratory of this prefix: processes, namespaces, run directory; also after a crash. Says whether there
/// was one.
///
/// # Errors
/// When something of it cannot be removed.
pub fn down(prefix: &str) -> Result<bool> {
    let run = run_directory(prefix);
    if !run.exists() {
        return Ok(false);
    }
    let names = fs::read_to_string(run.join("namespaces")).unwrap_or_default();
    for name in names.lines() {
        Netns::named(format!("{prefix}{name}")).remove()?;
    }
    fs::remove_dir_all(&run).or_else(|error| if run.exists() { Err(error) } else { Ok(()) })?;
    Ok(true)
}

/// The run directory of the laboratory of this prefix.
#[must_use]
pub fn run_directory(prefix: &str) -> PathBuf {
    Path::new(RUNS).join(prefix.trim_end_matches('-'))
}

/// The folder with the binaries of this workspace: the one that the running program came from.
///
/// # Errors
/// When the system does not tell.
pub fn binaries() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("a program lies in a folder")?;
    // Test programs lie one folder deeper.
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_owned())
}

/// A bare name is a binary of this workspace when there is one, else the system's.
fn program_path(program: &str) -> String {
    let ours = binaries().map(|folder| folder.join(program)).ok();
    match ours {
        Some(path) if !program.contains('/') && path.is_file() => path.display().to_string(),
        _ => program.to_owned(),
    }
}

fn capture_name(link: &Link) -> String {
    format!("capture-{}", link.name)
}
