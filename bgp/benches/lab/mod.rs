//! What the benches share: two namespaces with a veth between them, processes in them, BIRD, our speaker, figures.
#![allow(dead_code, unused_imports, reason = "no bench uses all of it")]

mod bird;
mod figures;
pub(crate) mod replay;
mod sink;
mod speaker;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use bird::{Bird, receiver};
pub(crate) use figures::{Figures, percentiles, spread};
pub(crate) use sink::Sink;
pub(crate) use speaker::{Speaker, host, stream};
use tempfile::TempDir;

pub(crate) const MILLION: u32 = 1_000_000;

/// Whether `command`, words with single blanks between them, runs and ends well.
pub(crate) fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    output.is_ok_and(|output| output.status.success())
}

/// How often everything is measured: RUNS, or `otherwise`.
pub(crate) fn runs(otherwise: usize) -> usize {
    std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(otherwise)
}

/// Whether the part called `name` is to be measured: all are, unless ONLY names some, with commas between them.
pub(crate) fn wanted(name: &str) -> bool {
    std::env::var("ONLY").map_or(true, |only| only.split(',').any(|wanted| wanted == name))
}

/// `cargo test` runs benches too, to see that they build; `cargo bench` says so.
pub(crate) fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Two namespaces, 192.0.2.1 in the sender's and 192.0.2.2 in the receiver's, and a folder; gone when dropped.
pub(crate) struct Lab {
    tag: String,
    folder: TempDir,
}

impl Lab {
    /// `None`, said aloud, where this takes more than is there.
    pub(crate) fn new(tag: &str) -> Option<Self> {
        let lab = Self { tag: tag.to_owned(), folder: tempfile::tempdir().unwrap() };
        if !run("ip -V") || !run("bird --version") || !lab.make() {
            println!("skipped: this takes root, iproute2 and BIRD 2");
            return None;
        }
        Some(lab)
    }

    fn make(&self) -> bool {
        let (sender, receiver, tag) = (self.sender(), self.receiver(), &self.tag);
        for name in [&sender, &receiver] {
            run(&format!("ip netns del {name}"));
            if !run(&format!("ip netns add {name}")) {
                return false;
            }
        }
        let made = [
            format!("ip link add {tag}0 netns {sender} type veth peer name {tag}1 netns {receiver}"),
            format!("ip -n {sender} addr add 192.0.2.1/30 dev {tag}0"),
            format!("ip -n {receiver} addr add 192.0.2.2/30 dev {tag}1"),
            format!("ip -n {sender} link set {tag}0 up"),
            format!("ip -n {receiver} link set {tag}1 up"),
            format!("ip -n {sender} link set lo up"),
            format!("ip -n {receiver} link set lo up"),
        ];
        made.iter().all(|command| run(command))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn sender(&self) -> String {
        format!("{}-sender", self.tag)
    }

    pub(crate) fn receiver(&self) -> String {
        format!("{}-receiver", self.tag)
    }

    /// The sender's end of the veth.
    pub(crate) fn sender_link(&self) -> String {
        format!("{}0", self.tag)
    }

    /// The receiver's end of the veth.
    pub(crate) fn receiver_link(&self) -> String {
        format!("{}1", self.tag)
    }

    /// Writes a file and gives back its path.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [self.sender(), self.receiver()] {
            run(&format!("ip netns del {name}"));
        }
    }
}

/// A process in a namespace, killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// `ip netns exec` becomes the program, so the child is it.
    pub(crate) fn spawn(namespace: &str, words: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(words);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Seconds of processor time.
    pub(crate) fn cpu(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of = |thread: std::fs::DirEntry| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        };
        threads.filter_map(|thread| of(thread.ok()?)).sum::<f64>() / 1e9
    }

    /// Resident memory, in MB.
    pub(crate) fn memory_mb(&self) -> f64 {
        memory_mb(&self.0.id().to_string()).unwrap()
    }

    /// Resident memory of the process and its children, in MB.
    pub(crate) fn family_mb(&self) -> f64 {
        let id = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let ids = children.split_whitespace().map(str::to_owned).chain([id.to_string()]);
        ids.filter_map(|id| memory_mb(&id)).sum()
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(run(&format!("kill -{name} {}", self.0.id())), "no process to signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident memory of a process, in MB.
pub(crate) fn memory_mb(pid: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(100), "{what}: not within 100 s");
        std::thread::sleep(Duration::from_micros(500));
    }
}
