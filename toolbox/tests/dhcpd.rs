//! Against ISC DHCP: its lease files, and what passes on the wire, held against each other.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use std::collections::BTreeMap;

use access::{Netns, Running, Toolbox, eventually, may_make_namespaces, must};
use cloakway_testing::have;
use tempfile::TempDir;

struct Isp {
    folder: TempDir,
    server: Netns,
    client: Netns,
    dhcpd: Vec<Running>,
}

const V4: &str = "default-lease-time 600; max-lease-time 600; authoritative; ping-check false;\n\
                  subnet 10.77.0.0 netmask 255.255.0.0 { range 10.77.1.0 10.77.4.255; }\n";
const V6: &str = "default-lease-time 600; preferred-lifetime 400; authoritative;\n\
                  subnet6 2001:db8:77::/64 { range6 2001:db8:77::1000 2001:db8:77::ffff; \
                  prefix6 2001:db8:8000:: 2001:db8:80ff:ff00:: /56; }\n";

impl Isp {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, client) = (Netns::new("dhcpd"), Netns::new("home"));
        server.join("k0", &client, "c0");
        server.ip("addr add 10.77.0.1/16 dev k0");
        server.ip("addr add 2001:db8:77::1/64 dev k0 nodad");
        client.ip("addr add 10.77.255.2/16 dev c0");
        client.ip("addr add 2001:db8:77::99/64 dev c0 nodad");
        for (name, text) in [("4.conf", V4), ("6.conf", V6), ("4.leases", ""), ("6.leases", "")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut isp = Self { folder, server, client, dhcpd: Vec::new() };
        // An address that is being checked cannot be answered from.
        eventually("the link-local addresses", || {
            let tentative = |netns: &Netns| netns.must(&["ip", "-6", "addr", "show", "tentative"]);
            let (one, two) = (tentative(&isp.server), tentative(&isp.client));
            if one.is_empty() && two.is_empty() { Ok(()) } else { Err(one + &two) }
        });
        isp.start();
        isp
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn start(&mut self) {
        for family in ["4", "6"] {
            let mut command = self.server.command("dhcpd");
            command.args(["-f", "-d", &format!("-{family}"), "-cf", &self.file(&format!("{family}.conf"))]);
            command.args(["-lf", &self.file(&format!("{family}.leases")), "-pf", &self.file(&format!("{family}.pid"))]);
            let log = self.folder.path().join(format!("{family}.log"));
            let _ = std::fs::remove_file(&log);
            self.dhcpd.push(Running::start(command.arg("k0"), &log));
            eventually("dhcpd", || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                if text.contains("Server starting service") { Ok(()) } else { Err(text) }
            });
        }
    }

    fn stop(&mut self) {
        self.dhcpd.clear();
    }

    fn perfdhcp(&self, more: &[&str], rate: u32, count: u32, clients: u32) {
        let (rate, count, clients) = (rate.to_string(), count.to_string(), clients.to_string());
        let mut command = self.client.command("perfdhcp");
        command.args(more).args(["-l", "c0", "-r", &rate, "-n", &count, "-R", &clients, "-W", "500000"]);
        // It ends with 3 when an exchange was not finished: the file says what was leased.
        drop(command.output().unwrap());
    }

    fn follower(&self) -> Toolbox {
        let source = |family: &str, identity: &str| {
            let file = self.file(&format!("{family}.leases"));
            format!("[[sources.isc]]\nname = \"isc{family}\"\nlease-file = \"{file}\"\nsubscriber = [\"{identity}\"]\n")
        };
        Toolbox::start(None, PREFIXES, &(source("4", "hw-address") + &source("6", "duid")))
    }

    fn tap(&self) -> Toolbox {
        let own = self.server.must(&["ip", "-6", "-o", "addr", "show", "dev", "k0", "scope", "link"]);
        let own = own.split_whitespace().find(|word| word.starts_with("fe80")).unwrap().split('/').next().unwrap();
        let source = format!(
            "[[sources.dhcp-tap]]\nname = \"tap\"\ninterface = \"k0\"\nservers = [\"10.77.0.1\", \"2001:db8:77::1\", \"{own}\"]\n\
             subscriber = [\"duid\", \"hw-address\"]\n"
        );
        Toolbox::start(Some(&self.server), PREFIXES, &source)
    }

    /// What a plain look at the lease files makes of them; the last declaration counts. Independent of our reader.
    fn plain(&self) -> BTreeMap<String, String> {
        let mut leases = BTreeMap::new();
        let mut held = |prefix: String, who: Option<String>| match who {
            Some(who) => drop(leases.insert(prefix, who)),
            None => drop(leases.remove(&prefix)),
        };
        let v4 = std::fs::read_to_string(self.file("4.leases")).unwrap();
        for lease in v4.split("\nlease ").skip(1) {
            let after = |words: &str| lease.split(words).nth(1).and_then(|rest| rest.split(';').next()).unwrap_or("");
            let who = (after("\n  binding state ") == "active").then(|| after("hardware ethernet ").to_owned());
            held(format!("{}/32", lease.split_whitespace().next().unwrap()), who);
        }
        leases
    }
}

const PREFIXES: &str = "\"10.77.0.0/16\", \"2001:db8::/32\"";

fn peers() -> bool {
    may_make_namespaces()
        && have("dhcpd", "isc-dhcp-server")
        && have("dhclient", "isc-dhcp-client")
        && have("perfdhcp", "kea-admin")
        && have("curl", "curl")
}

#[test]
fn a_lease_file_is_followed_over_its_rewriting() {
    if !peers() {
        return;
    }
    let mut isp = Isp::new();
    let mut toolbox = isp.follower();
    let agree = |toolbox: &Toolbox, isp: &Isp, at_least: usize| {
        eventually("the toolbox knows what is in the file", || {
            let (expected, mut bound) = (isp.plain(), toolbox.bound());
            bound.retain(|prefix, _| prefix.ends_with("/32"));
            if expected.len() >= at_least && expected == bound {
                return Ok(());
            }
            Err(format!("{} in the file, {} bound, {}", expected.len(), bound.len(), toolbox.show("access")))
        });
    };
    isp.perfdhcp(&["-4", "10.77.0.1"], 50, 60, 40);
    agree(&toolbox, &isp, 20);
    // dhcpd writes its file anew when it starts.
    isp.stop();
    isp.start();
    isp.perfdhcp(&["-4", "10.77.0.1"], 50, 100, 80);
    agree(&toolbox, &isp, 40);
    toolbox.kill();
    isp.perfdhcp(&["-4", "10.77.0.1"], 50, 100, 120);
    isp.stop();
    isp.start();
    toolbox.run();
    agree(&toolbox, &isp, 60);
    assert_eq!(toolbox.source("isc4")["damaged"], 0, "{}", toolbox.log());
}

#[test]
fn a_tap_and_the_file_tell_the_same_of_addresses_and_prefixes() {
    if !peers() {
        return;
    }
    let isp = Isp::new();
    let (tap, file) = (isp.tap(), isp.follower());
    let agree = |at_least: usize, prefixes: bool| {
        eventually("tap and file agree", || {
            let (heard, written) = (tap.bound(), file.bound());
            let has_prefix = written.keys().any(|prefix| prefix.ends_with("/56"));
            if heard == written && heard.len() >= at_least && has_prefix == prefixes {
                return Ok(heard);
            }
            Err(format!("heard {heard:?}\nwritten {written:?}\n{}\n{}", tap.show("access"), file.show("access")))
        })
    };
    isp.perfdhcp(&["-4", "10.77.0.1"], 50, 40, 20);
    agree(10, false);
    isp.perfdhcp(&["-6", "-e", "address-and-prefix"], 20, 20, 10);
    agree(20, true);
    // One client gives back what it has.
    for name in ["dc.leases", "dc.conf"] {
        std::fs::write(isp.file(name), "").unwrap();
    }
    let dhclient = |words: &[&str]| {
        let (leases, pid, config) = (isp.file("dc.leases"), isp.file("dc.pid"), isp.file("dc.conf"));
        let common = ["-4", "-sf", "/bin/true", "-cf", &config, "-lf", &leases, "-pf", &pid, "c0"];
        must(isp.client.command("dhclient").args(words).args(common));
    };
    let before = tap.bound().len();
    dhclient(&["-1"]);
    let with = agree(before + 1, true);
    dhclient(&["-r"]);
    eventually("it is over for both", || {
        let (heard, written) = (tap.bound(), file.bound());
        if heard == written && heard.len() == with.len() - 1 { Ok(()) } else { Err(format!("{heard:?} {written:?}")) }
    });
    assert_eq!(tap.source("tap")["damaged"], 0, "{}", tap.log());
}
