//! Against Kea and its lease files, with perfdhcp and dhclient as clients.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use std::collections::BTreeMap;
use std::path::Path;

use access::{Netns, Running, Toolbox, eventually, may_make_namespaces};
use cloakway_testing::have;
use tempfile::TempDir;

struct Isp {
    folder: TempDir,
    server: Netns,
    client: Netns,
    kea: Vec<Running>,
}

impl Isp {
    /// Kea for both families; the lease files are cleaned up every second.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, client) = (Netns::new("kea"), Netns::new("home"));
        server.join("k0", &client, "c0");
        server.ip("addr add 10.77.0.1/16 dev k0");
        server.ip("addr add 2001:db8:77::1/64 dev k0 nodad");
        client.ip("addr add 10.77.255.2/16 dev c0");
        client.ip("addr add 2001:db8:77::99/64 dev c0 nodad");
        let mut isp = Self { folder, server, client, kea: Vec::new() };
        isp.start();
        isp
    }

    fn start(&mut self) {
        let dir = self.folder.path().display();
        let common = |file: &str| {
            format!(
                r#""interfaces-config":{{"interfaces":["k0"]}},"lease-database":{{"type":"memfile","persist":true,
                "name":"{dir}/{file}","lfc-interval":1}},"valid-lifetime":600,
                "loggers":[{{"name":"*","output_options":[{{"output":"stdout"}}],"severity":"INFO"}}]"#
            )
        };
        let v4 = format!(
            r#"{{"Dhcp4":{{{},"control-socket":{{"socket-type":"unix","socket-name":"{dir}/k4.sock"}},
            "hooks-libraries":[{{"library":"{}"}}],"subnet4":[{{"id":1,"subnet":"10.77.0.0/16","pools":[{{"pool":"10.77.1.0-10.77.20.255"}}]}}]}}}}"#,
            common("leases4.csv"),
            lease_commands()
        );
        let v6 = format!(
            r#"{{"Dhcp6":{{{},"data-directory":"{dir}","preferred-lifetime":400,"subnet6":[{{"id":1,
            "subnet":"2001:db8:77::/64","interface":"k0","pools":[{{"pool":"2001:db8:77::1000-2001:db8:77::ffff"}}],
            "pd-pools":[{{"prefix":"2001:db8:8000::","prefix-len":40,"delegated-len":56}}]}}]}}}}"#,
            common("leases6.csv")
        );
        for (program, config, file) in [("kea-dhcp4", v4, "leases4.csv"), ("kea-dhcp6", v6, "leases6.csv")] {
            let path = self.folder.path().join(format!("{program}.json"));
            std::fs::write(&path, config).unwrap();
            let mut command = self.server.command(program);
            command.arg("-c").arg(path).env("KEA_PIDFILE_DIR", self.folder.path()).env("KEA_LOCKFILE_DIR", "none");
            let log = self.folder.path().join(format!("{program}.log"));
            let _ = std::fs::remove_file(&log);
            self.kea.push(Running::start(&mut command, &log));
            eventually(program, || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let there = self.folder.path().join(file).exists() && text.contains("_STARTED");
                if there { Ok(()) } else { Err(text) }
            });
        }
    }

    /// `kill -9`, so that Kea cannot tidy up.
    fn kill(&mut self) {
        self.kea.clear();
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// perfdhcp: `count` exchanges at `rate` a second by `clients` clients.
    fn perfdhcp(&self, more: &[&str], rate: u32, count: u32, clients: u32) {
        let (rate, count, clients) = (rate.to_string(), count.to_string(), clients.to_string());
        let mut command = self.client.command("perfdhcp");
        command.args(more).args(["-l", "c0", "-r", &rate, "-n", &count, "-R", &clients, "-W", "500000"]);
        // It ends with 3 when an exchange was not finished: the file says what was leased.
        drop(command.output().unwrap());
    }

    fn dhclient(&self, words: &[&str]) {
        for file in ["dc.leases", "dc.conf"] {
            let path = self.folder.path().join(file);
            if !path.exists() {
                std::fs::write(path, "").unwrap();
            }
        }
        let (leases, pid, config) = (self.file("dc.leases"), self.file("dc.pid"), self.file("dc.conf"));
        let common = ["-4", "-sf", "/bin/true", "-cf", &config, "-lf", &leases, "-pf", &pid, "c0"];
        access::must(self.client.command("dhclient").args(words).args(common));
    }
}

impl Drop for Isp {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.folder.path().join("dc.pid")) {
            let _ = std::process::Command::new("kill").arg(pid.trim()).output();
        }
    }
}

/// Kea's hooks library for commands about leases, wherever this machine's architecture has it.
fn lease_commands() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = |folder: std::path::PathBuf| folder.join("kea/hooks/libdhcp_lease_cmds.so");
    let found = folders.map(library).find(|path| path.is_file());
    found.expect("the package kea-dhcp4-server has it").display().to_string()
}

fn peers() -> bool {
    may_make_namespaces()
        && have("kea-dhcp4", "kea-dhcp4-server")
        && have("kea-dhcp6", "kea-dhcp6-server")
        && have("perfdhcp", "kea-admin")
        && have("dhclient", "isc-dhcp-client")
        && have("curl", "curl")
}

/// What a plain reading of Kea's files makes of them: the last line of an address counts. Independent of our reader.
fn plain(folder: &Path, file: &str, v6: bool) -> BTreeMap<String, String> {
    let mut leases = BTreeMap::new();
    for suffix in [".2", ".1", ""] {
        let text = std::fs::read_to_string(folder.join(format!("{file}{suffix}"))).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            if fields.len() < if v6 { 17 } else { 11 } {
                continue;
            }
            let (prefix, who, state) = if v6 {
                (format!("{}/{}", fields[0], fields[8]), fields[1], fields[13])
            } else {
                (format!("{}/32", fields[0]), fields[1], fields[9])
            };
            if fields[2 + usize::from(!v6)] == "0" || state != "0" {
                leases.remove(&prefix);
            } else {
                leases.insert(prefix, who.to_owned());
            }
        }
    }
    leases
}

fn agree(toolbox: &Toolbox, isp: &Isp, at_least: usize) {
    eventually("the toolbox knows what is in Kea's files", || {
        let mut expected = plain(isp.folder.path(), "leases4.csv", false);
        expected.extend(plain(isp.folder.path(), "leases6.csv", true));
        let bound = toolbox.bound();
        if expected.len() >= at_least && bound == expected {
            return Ok(());
        }
        let differ = expected.iter().filter(|(prefix, who)| bound.get(*prefix) != Some(*who)).count();
        Err(format!(
            "{} in the files, {} bound, {differ} differ\n{}",
            expected.len(),
            bound.len(),
            toolbox.show("access")
        ))
    });
}

fn sources(isp: &Isp) -> String {
    let (v4, v6) = (isp.file("leases4.csv"), isp.file("leases6.csv"));
    format!(
        "[[sources.kea]]\nname = \"kea4\"\nlease-file = \"{v4}\"\nsubscriber = [\"hw-address\"]\n\
         [[sources.kea]]\nname = \"kea6\"\nlease-file = \"{v6}\"\nsubscriber = [\"duid\"]\n"
    )
}

const PREFIXES: &str = "\"10.77.0.0/16\", \"2001:db8::/32\"";

#[test]
fn leases_of_both_families_are_followed_over_cleanups_and_restarts() {
    if !peers() {
        return;
    }
    let mut isp = Isp::new();
    isp.perfdhcp(&["-4", "10.77.0.1"], 100, 100, 60);
    let mut toolbox = Toolbox::start(None, PREFIXES, &sources(&isp));
    agree(&toolbox, &isp, 30);
    // More clients, renewals, addresses and prefixes, while the files are cleaned up each second.
    isp.perfdhcp(&["-4", "10.77.0.1"], 100, 300, 200);
    isp.perfdhcp(&["-6", "-e", "address-and-prefix"], 50, 100, 40);
    agree(&toolbox, &isp, 150);
    eventually("a cleanup has been", || {
        let there = isp.folder.path().join("leases4.csv.2").exists();
        if there { Ok(()) } else { Err("no leases4.csv.2".into()) }
    });
    assert_eq!(toolbox.source("kea4")["damaged"], 0, "{}", toolbox.log());
    // Kea changes its mind while nobody looks.
    toolbox.kill();
    isp.perfdhcp(&["-4", "10.77.0.1"], 100, 200, 300);
    isp.kill();
    isp.start();
    toolbox.run();
    agree(&toolbox, &isp, 200);
}

#[test]
fn an_address_that_was_released_is_nobodys_and_its_next_holder_is_known_at_once() {
    if !peers() {
        return;
    }
    let isp = Isp::new();
    let toolbox = Toolbox::start(None, PREFIXES, &sources(&isp));
    isp.dhclient(&["-1"]);
    let (address, who) = eventually("a lease", || {
        let mut bound = toolbox.bound().into_iter();
        bound.next().ok_or_else(|| toolbox.show("access").to_string())
    });
    let address = address.strip_suffix("/32").unwrap().to_owned();
    assert!(toolbox.live(&who, &address, None));
    assert!(!toolbox.live("00:00:00:00:00:01", &address, None));
    isp.dhclient(&["-r"]);
    eventually("nobody has it", || {
        let answer = toolbox.verify(&who, &address, None);
        if answer["live"] == false { Ok(()) } else { Err(answer.to_string()) }
    });
    // The client comes back as another one: Kea may give it the same address.
    isp.client.ip("link set c0 down");
    isp.client.ip("link set c0 address 02:00:00:00:77:01");
    isp.client.ip("link set c0 up");
    std::fs::write(isp.file("dc.leases"), "").unwrap();
    isp.dhclient(&["-1"]);
    let address = eventually("the other one has a lease", || {
        let bound = toolbox.bound();
        let own = bound.iter().find(|(_, who)| *who == "02:00:00:00:77:01");
        own.map(|(address, _)| address.strip_suffix("/32").unwrap().to_owned()).ok_or_else(|| format!("{bound:?}"))
    });
    assert!(toolbox.live("02:00:00:00:77:01", &address, None));
    assert!(!toolbox.live(&who, &address, None));
}

#[test]
fn what_kea_itself_does_not_know_is_unknown_after_an_audit() {
    if !peers() {
        return;
    }
    let isp = Isp::new();
    let (file, socket) = (isp.file("leases4.csv"), isp.file("k4.sock"));
    let source = format!(
        "[[sources.kea]]\nname = \"kea4\"\nlease-file = \"{file}\"\nsubscriber = [\"hw-address\"]\n\
         control-socket = \"{socket}\"\naudit-every-s = 10\n"
    );
    let toolbox = Toolbox::start(None, PREFIXES, &source);
    isp.perfdhcp(&["-4", "10.77.0.1"], 100, 40, 20);
    eventually("two audits without a difference", || {
        let source = toolbox.source("kea4");
        if source["audits"].as_u64().unwrap() >= 2 { Ok(()) } else { Err(source.to_string()) }
    });
    assert_eq!(toolbox.source("kea4")["alarms"], 0, "{}", toolbox.log());
    let (address, who) = toolbox.bound().into_iter().next().unwrap();
    // Somebody else writes into Kea's file.
    let row = "10.77.9.9,02:00:00:00:00:99,,600,4000000000,1,0,0,,0,\n";
    let mut lease_file = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    std::io::Write::write_all(&mut lease_file, row.as_bytes()).unwrap();
    eventually("the alarm", || {
        let source = toolbox.source("kea4");
        let alarmed = source["last_alarm"].as_str().is_some_and(|alarm| alarm.starts_with("audit: "));
        if alarmed { Ok(()) } else { Err(source.to_string()) }
    });
    assert!(!toolbox.live("02:00:00:00:00:99", "10.77.9.9", None));
    assert!(toolbox.live(&who, address.strip_suffix("/32").unwrap(), None), "the others are as before");
}

#[test]
fn without_its_file_a_source_is_down_and_answers_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leases4.csv");
    let source = format!(
        "[[sources.kea]]\nname = \"kea4\"\nlease-file = \"{}\"\nsubscriber = [\"hw-address\"]\n",
        file.display()
    );
    let mut toolbox = Toolbox::start(None, PREFIXES, &source);
    assert_eq!(toolbox.source("kea4")["up"], false);
    let header =
        "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n";
    let row = |last: u8, client: u8| format!("10.77.1.{last},02:00:00:00:00:0{client},,600,4000000000,1,0,0,,0,\n");
    let up = |toolbox: &Toolbox, known: usize| {
        eventually("it is followed", || {
            let source = toolbox.source("kea4");
            if source["up"] == true && source["known"] == known { Ok(()) } else { Err(source.to_string()) }
        });
    };
    let down = |toolbox: &Toolbox| {
        eventually("it answers for nobody", || {
            let (source, bound) = (toolbox.source("kea4"), toolbox.bound());
            if source["up"] == false && bound.is_empty() { Ok(()) } else { Err(format!("{source} {bound:?}")) }
        });
    };
    std::fs::write(&file, format!("{header}{}{}", row(1, 1), row(2, 2))).unwrap();
    up(&toolbox, 2);
    std::fs::remove_file(&file).unwrap();
    down(&toolbox);
    std::fs::write(&file, format!("{header}{}{}", row(1, 3), row(2, 2))).unwrap();
    up(&toolbox, 2);
    assert_eq!(toolbox.bound()["10.77.1.1/32"], "02:00:00:00:00:03");
    // A record that may be about anybody, then a file without it.
    std::fs::write(&file, format!("{header}{}garbage\n{}", row(1, 3), row(2, 2))).unwrap();
    down(&toolbox);
    assert!(toolbox.source("kea4")["damaged"].as_u64().unwrap() >= 1);
    let fresh = folder.path().join("fresh");
    std::fs::write(&fresh, format!("{header}{}", row(2, 2))).unwrap();
    std::fs::rename(&fresh, &file).unwrap();
    up(&toolbox, 1);
    // What the file says no more is over after a restart too.
    toolbox.kill();
    std::fs::write(&file, header).unwrap();
    toolbox.run();
    assert!(toolbox.bound().is_empty());
}
