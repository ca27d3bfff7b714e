//! A network namespace: made, entered, emptied and removed.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{eventually, must};

const BOUND: Duration = Duration::from_secs(60);

/// A named namespace under `/run/netns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns(String);

impl Netns {
    /// The namespace of this full name, there or not.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Makes it.
    ///
    /// # Errors
    /// Without privilege, or when it is there already.
    pub fn create(&self) -> Result<()> {
        must(Command::new("ip").args(["netns", "add", &self.0]), BOUND).map(drop)
    }

    /// Whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that will run inside it, with its own `/sys`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Runs lines of `ip` inside it, in one go.
    ///
    /// # Errors
    /// What `ip` says of the first line that fails.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        for line in lines {
            let words = line.split_whitespace();
            must(Command::new("ip").args(["-n", &self.0]).args(words), BOUND)?;
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own that has entered the namespace: its sockets are born there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails or panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = File::open(self.path()).with_context(|| format!("namespace {}", self.0))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&handle, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the work in namespace {} panicked", self.0))?
        })
    }

    /// The processes in it.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let text = must(Command::new("ip").args(["netns", "pids", &self.0]), BOUND)?;
        Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
    }

    /// Kills every process in it and removes it. One that is not there is no error.
    ///
    /// # Errors
    /// When something in it does not die, or it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        eventually(BOUND, "every process in the namespace dies", || {
            let pids = self.pids()?;
            for pid in &pids {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            if pids.is_empty() { Ok(()) } else { Err(anyhow!("{}: alive: {pids:?}", self.0)) }
        })?;
        must(Command::new("ip").args(["netns", "delete", &self.0]), BOUND).map(drop)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }
}
