//! Point 3: the transaction server is cloaked, from inside and from outside the member ISP.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::flows;
use crate::command::eventually;
use crate::evidence::Evidence;
use crate::frames::send_syn;
use crate::stories::world::{PRIVATE, World};

pub(super) fn cloak(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("3", "The transaction server is cloaked");
    evidence.check("its interface on the private link has no kernel address", || {
        let shown = world.lab.must("cloaked", &["ip", "address", "show", "dev", "priv0"])?;
        ensure!(!shown.contains("inet"), "{shown}");
        Ok(shown)
    });
    evidence.check("it answers no ping of a subscriber, nor of the edge router", || {
        let said = ["subscriber", "edge"].iter().map(|host| silent_to_ping(world, host));
        Ok(said.collect::<Result<Vec<_>>>()?.join("\n"))
    });
    evidence.check("nmap from a subscriber: one port is open, the others are silent", || {
        let mut seen = Vec::new();
        for (address, family) in [(PRIVATE[0], "-4"), (PRIVATE[1], "-6")] {
            let lines = nmap(world, "subscriber", family, address)?;
            for line in &lines {
                let open = line.starts_with("443/tcp");
                ensure!(line.contains(if open { " open " } else { "filtered" }), "{address}: {line}");
            }
            ensure!(lines.len() == 6, "{lines:?}");
            seen.push(format!("{address}: {}", lines.join("; ")));
        }
        Ok(seen.join("\n"))
    });
    evidence.check(
        "a SYN put on the private link itself: answered for a subscriber's address, not for a stranger's",
        || {
            let private: Ipv4Addr = PRIVATE[0].parse()?;
            let to = hardware_address(world, "cloaked", "priv0")?;
            let (member, stranger) = (Ipv4Addr::new(198, 51, 100, 99), Ipv4Addr::new(203, 0, 113, 10));
            let send = |source| send_syn(&world.lab.netns("isp"), "priv0", &to, (source, 40001), (private, 443));
            let answered = |to: Ipv4Addr| -> Result<bool> {
                Ok(flows(&world.packets("private")?)
                    .any(|flow| flow.destination == to && flow.tcp_flags & 0x12 == 0x12))
            };
            send(stranger)?;
            send(member)?;
            // The frames arrive in order: once the second is answered, the first has been dealt with.
            eventually(Duration::from_secs(30), "the subscriber's SYN is answered", || {
                ensure!(answered(member)?, "no SYN-ACK to {member}");
                Ok(())
            })?;
            ensure!(!answered(stranger)?, "SYN-ACK to {stranger}");
            Ok(format!("capture of the private link: SYN-ACK to {member}, none to {stranger}"))
        },
    );
}

fn silent_to_ping(world: &World<'_>, host: &str) -> Result<String> {
    let mut seen = Vec::new();
    for address in PRIVATE {
        let said = world.lab.exec(host, &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address])?;
        ensure!(!said.ok() && !said.stdout.contains("bytes from"), "{host}: {}", said.stdout);
        let line = said.stdout.lines().find(|line| line.contains("packets transmitted")).unwrap_or("no route");
        seen.push(format!("{host} pings {address}: {line}"));
    }
    Ok(seen.join("\n"))
}

fn nmap(world: &World<'_>, host: &str, family: &str, address: &str) -> Result<Vec<String>> {
    let mut words = vec!["nmap", "-Pn", "-n", "-sS", "--max-retries", "1", "-p", "22,80,443,8080,8443,8583", address];
    if family == "-6" {
        words.insert(1, "-6");
    }
    let said = world.lab.must(host, &words)?;
    let squeezed = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(squeezed.filter(|line| line.contains("/tcp ")).collect())
}

fn hardware_address(world: &World<'_>, host: &str, interface: &str) -> Result<String> {
    let shown: Value = serde_json::from_str(&world.lab.must(host, &["ip", "-j", "link", "show", "dev", interface])?)?;
    shown.pointer("/0/address").and_then(Value::as_str).map(str::to_owned).context("no address")
}

/// What a stranger sees. It comes last, when the captures are closed: they are to hold no packet for a private network
/// address, not even one that this story sent.
pub(super) fn outside(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("3", "The transaction server is cloaked: seen from outside the member ISP");
    evidence.check("pings from the ISP that is no member and from internet get nothing", || {
        let said = ["other-isp", "internet"].iter().map(|host| silent_to_ping(world, host));
        Ok(said.collect::<Result<Vec<_>>>()?.join("\n"))
    });
    evidence.check("nmap from the ISP that is no member and from internet: nothing at all", || {
        let mut seen = Vec::new();
        for host in ["other-isp", "internet"] {
            let lines = nmap(world, host, "-4", PRIVATE[0])?;
            ensure!(lines.iter().all(|line| !line.contains(" open ")), "{host}: {lines:?}");
            seen.push(format!("{host}: {}", lines.join("; ")));
        }
        Ok(seen.join("\n"))
    });
}
