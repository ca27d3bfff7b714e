//! The same work done by OpenBGPD, as its operators do it: live, into an established session.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::{MILLION, Process, SENDER, host, receiver, run, until};

/// What one run of a sender gave: so many routes, seconds until the last was there, seconds until the last was gone,
/// and MB.
pub(crate) struct Figures {
    pub(crate) routes: u32,
    pub(crate) announce: f64,
    pub(crate) withdraw: f64,
    pub(crate) memory: f64,
}

fn in_sender(command: &[&str]) -> Command {
    let mut all = Command::new("ip");
    all.args(["netns", "exec", SENDER]).args(command).stdout(Stdio::null()).stderr(Stdio::null());
    all
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// How a sender is measured; `None`, where it is not installed.
pub(crate) type Measure = fn(&Path) -> Option<Figures>;

/// OpenBGPD, by `bgpctl network bulk`.
pub(crate) fn openbgpd(folder: &Path) -> Option<Figures> {
    if !run("bgpctl -V") && !Path::new("/usr/sbin/bgpctl").exists() {
        return None;
    }
    let (config, socket) = (folder.join("bgpd.conf"), folder.join("bgpd.sock"));
    let text = format!(
        "AS 64500\nrouter-id 192.0.2.1\nfib-update no\nsocket \"{}\"\nneighbor 192.0.2.2 {{\n remote-as 64500\n announce IPv4 unicast\n}}\nallow to any\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    run(&format!("chmod 600 {}", config.display()));
    let mut receiver = receiver(folder);
    let path = config.to_str().unwrap();
    let sender = Process::spawn(SENDER, &mut strings(&["/usr/sbin/bgpd", "-d", "-f", path]));
    until("OpenBGPD's session", || receiver.has_session().then_some(()));
    let routes = MILLION;
    let mut text = String::new();
    (0..routes).for_each(|n| text.push_str(&format!("{}/32\n", host(n))));
    let bulk = |verb: &str| {
        let mut command = in_sender(&["bgpctl", "-s", socket.to_str().unwrap(), "network", "bulk", verb]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child
    };
    let start = Instant::now();
    let mut child = bulk("add");
    let (announce, _) = receiver.seconds_until(start, routes, 0);
    let _ = child.wait();
    let memory = family_mb(&sender);
    let start = Instant::now();
    let mut child = bulk("delete");
    let (withdraw, _) = receiver.seconds_until(start, 0, routes);
    let _ = child.wait();
    Some(Figures { routes, announce, withdraw, memory })
}

/// Memory of a process and its children.
fn family_mb(process: &Process) -> f64 {
    let id = process.0.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let ids = children.split_whitespace().map(str::to_owned).chain([id.to_string()]);
    let of = |id: String| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?.to_owned();
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    ids.filter_map(of).sum::<f64>() / 1024.0
}
