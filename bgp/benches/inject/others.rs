//! The same work done by OpenBGPD, GoBGP and ExaBGP, as their operators do it: live, into an established session.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::{Lab, MILLION, Process, host, receiver, run, until};

/// What one run of a sender gave: so many routes, seconds until the last was there, seconds until the last was gone,
/// and MB.
pub(crate) struct Figures {
    pub(crate) routes: u32,
    pub(crate) announce: f64,
    pub(crate) withdraw: f64,
    pub(crate) memory: f64,
}

fn in_sender(lab: &Lab, command: &[&str]) -> Command {
    let mut all = Command::new("ip");
    all.args(["netns", "exec", &lab.sender()]).args(command).stdout(Stdio::null()).stderr(Stdio::null());
    all
}

/// How a sender is measured; `None`, where it is not installed.
pub(crate) type Measure = fn(&Lab) -> Option<Figures>;

/// OpenBGPD, by `bgpctl network bulk`.
pub(crate) fn openbgpd(lab: &Lab) -> Option<Figures> {
    if !run("bgpctl -V") && !Path::new("/usr/sbin/bgpctl").exists() {
        return None;
    }
    let (config, socket) = (lab.folder().join("bgpd.conf"), lab.folder().join("bgpd.sock"));
    let text = format!(
        "AS 64500\nrouter-id 192.0.2.1\nfib-update no\nsocket \"{}\"\nneighbor 192.0.2.2 {{\n remote-as 64500\n announce IPv4 unicast\n}}\nallow to any\n",
        socket.display()
    );
    std::fs::write(&config, text).unwrap();
    run(&format!("chmod 600 {}", config.display()));
    let mut receiver = receiver(lab);
    let path = config.to_str().unwrap();
    let sender = Process::spawn(&lab.sender(), &["/usr/sbin/bgpd", "-d", "-f", path]);
    until("OpenBGPD's session", || receiver.has_session().then_some(()));
    let routes = MILLION;
    let mut text = String::new();
    (0..routes).for_each(|n| text.push_str(&format!("{}/32\n", host(n))));
    let bulk = |verb: &str| {
        let mut command = in_sender(lab, &["bgpctl", "-s", socket.to_str().unwrap(), "network", "bulk", verb]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child
    };
    let start = Instant::now();
    let mut child = bulk("add");
    let (announce, _) = receiver.seconds_until(start, routes, 0);
    let _ = child.wait();
    let memory = sender.family_mb();
    let start = Instant::now();
    let mut child = bulk("delete");
    let (withdraw, _) = receiver.seconds_until(start, 0, routes);
    let _ = child.wait();
    Some(Figures { routes, announce, withdraw, memory })
}

/// GoBGP, by `gobgp mrt inject`, which streams a dump over its API; all are taken back by `global rib del all`.
pub(crate) fn gobgp(lab: &Lab) -> Option<Figures> {
    if !run("gobgp --version") {
        return None;
    }
    let routes = 50_000;
    let config = lab.folder().join("gobgpd.toml");
    let text = "[global.config]\n as = 64500\n router-id = \"192.0.2.1\"\n port = -1\n[[neighbors]]\n[neighbors.config]\n neighbor-address = \"192.0.2.2\"\n peer-as = 64500\n";
    std::fs::write(&config, text).unwrap();
    let dump = lab.folder().join("dump.mrt");
    std::fs::write(&dump, mrt(routes)).unwrap();
    let mut receiver = receiver(lab);
    let sender =
        Process::spawn(&lab.sender(), &["gobgpd", "-f", config.to_str().unwrap(), "--api-hosts", "127.0.0.1:50051"]);
    until("GoBGP's session", || receiver.has_session().then_some(()));
    let start = Instant::now();
    let mut child = in_sender(lab, &["gobgp", "mrt", "inject", "global", dump.to_str().unwrap()]).spawn().unwrap();
    let (announce, _) = receiver.seconds_until(start, routes, 0);
    let _ = child.wait();
    let memory = sender.memory_mb();
    let start = Instant::now();
    let mut child = in_sender(lab, &["gobgp", "global", "rib", "del", "all"]).spawn().unwrap();
    let (withdraw, _) = receiver.seconds_until(start, 0, routes);
    let _ = child.wait();
    Some(Figures { routes, announce, withdraw, memory })
}

/// A TABLE_DUMP_V2 with one peer and one attribute set (RFC 6396 §4.3).
fn mrt(routes: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut record = |subtype: u16, body: &[u8]| {
        out.extend([0, 0, 0, 0, 0, 13]);
        out.extend(subtype.to_be_bytes());
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(body);
    };
    // Collector, no view name, one peer with an IPv4 address and a four-octet AS.
    let peer =
        [&[192, 0, 2, 9, 0, 0, 0, 1, 2][..], &[192, 0, 2, 9], &[192, 0, 2, 9], &64500_u32.to_be_bytes()].concat();
    record(1, &peer);
    // ORIGIN, an empty AS_PATH, NEXT_HOP, LOCAL_PREF, COMMUNITIES.
    let attributes = [
        &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1, 0x40, 5, 4, 0, 0, 0, 100][..],
        &[0xc0, 8, 4, 0xfb, 0xf4, 0, 1],
    ]
    .concat();
    // The first ones again at the end: GoBGP's client goes without waiting for the last batch that it streamed.
    for n in (0..routes).chain(0..2048) {
        let mut body = n.to_be_bytes().to_vec();
        body.push(32);
        body.extend(host(n).octets());
        body.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(&attributes);
        record(2, &body);
    }
    out
}

/// ExaBGP, by a script that prints `announce attributes … nlri …`, its fastest form, and then withdraws in the same.
pub(crate) fn exabgp(lab: &Lab) -> Option<Figures> {
    if !run("exabgp --version") {
        return None;
    }
    let routes = 20_000;
    let (script, config, go) =
        (lab.folder().join("exabgp.sh"), lab.folder().join("exabgp.conf"), lab.folder().join("go"));
    let _ = std::fs::remove_file(&go);
    let lines = |verb: &str, name: &str| {
        let mut text = String::new();
        for block in 0..routes / 100 {
            let _ = write!(text, "{verb} attributes next-hop 192.0.2.1 community [64500:1] nlri");
            (block * 100..block * 100 + 100).for_each(|n| text.push_str(&format!(" {}/32", host(n))));
            text.push('\n');
        }
        let path = lab.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (add, delete) = (lines("announce", "exabgp.add"), lines("withdraw", "exabgp.delete"));
    let wait = |n: u32| format!("while [ ! -e {}{n} ]; do sleep 0.01; done\n", go.display());
    let text = format!("cat > /dev/null &\n{}cat {add}\n{}cat {delete}\nsleep 600\n", wait(1), wait(2));
    std::fs::write(&script, text).unwrap();
    let text = format!(
        "process s {{ run /bin/sh {}; encoder text; }}\nneighbor 192.0.2.2 {{ router-id 192.0.2.1; local-address 192.0.2.1; local-as 64500; peer-as 64500; group-updates true; family {{ ipv4 unicast; }} api {{ processes [ s ]; }} }}\n",
        script.display()
    );
    std::fs::write(&config, text).unwrap();
    for n in 1..=2 {
        let _ = std::fs::remove_file(format!("{}{n}", go.display()));
    }
    let mut receiver = receiver(lab);
    let environment = ["env", "exabgp.daemon.user=root", "exabgp.api.cli=false", "exabgp.api.ack=false"];
    let command = [&environment[..], &["exabgp", config.to_str().unwrap()]].concat();
    let sender = Process::spawn(&lab.sender(), &command);
    until("ExaBGP's session", || receiver.has_session().then_some(()));
    let start = Instant::now();
    std::fs::write(format!("{}1", go.display()), "").unwrap();
    let (announce, _) = receiver.seconds_until(start, routes, 0);
    let memory = sender.family_mb();
    let start = Instant::now();
    std::fs::write(format!("{}2", go.display()), "").unwrap();
    let (withdraw, _) = receiver.seconds_until(start, 0, routes);
    Some(Figures { routes, announce, withdraw, memory })
}
