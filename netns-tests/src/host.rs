//! What the machine must have: privilege, and some packages of Debian.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, say};

/// A program that the lab or a test calls, and the Debian package that ships it.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("sysctl", "procps"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("ping", "iputils-ping"),
    ("nmap", "nmap"),
    ("curl", "curl"),
    ("radclient", "freeradius-utils"),
    ("freeradius", "freeradius"),
    ("radsecproxy", "radsecproxy"),
    ("/usr/sbin/ocserv", "ocserv"),
    ("openconnect", "openconnect"),
    ("/usr/lib/frr/zebra", "frr"),
    ("vtysh", "frr"),
    ("bird", "bird2"),
    ("/usr/bin/gobgpd", "gobgpd"),
    ("/usr/sbin/bgpctl", "openbgpd"),
    ("exabgp", "exabgp"),
    ("stayrtr", "stayrtr"),
    ("bgpdump", "bgpdump"),
    ("clang", "clang"),
    ("/usr/include/bpf/bpf_helpers.h", "libbpf-dev"),
    ("tshark", "tshark"),
    ("unbound", "unbound"),
    ("kea-dhcp4", "kea-dhcp4-server"),
    ("kea-dhcp6", "kea-dhcp6-server"),
    ("perfdhcp", "kea-admin"),
    ("dhcpd", "isc-dhcp-server"),
    ("dhclient", "isc-dhcp-client"),
    ("conntrack", "conntrack"),
    ("/usr/lib/postgresql/15/bin/initdb", "postgresql"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("certutil", "libnss3-tools"),
    ("node", "nodejs"),
    ("openssl", "openssl"),
    ("php", "php-cli"),
    ("python3", "python3"),
    ("/usr/share/fonts/truetype/liberation", "fonts-liberation"),
];

/// Services that these packages would start by themselves, on this machine instead of in a namespace.
const SERVICES: &[(&str, &str)] = &[
    ("frr", "frr"),
    ("bird2", "bird"),
    ("gobgpd", "gobgpd"),
    ("openbgpd", "openbgpd"),
    ("exabgp", "exabgp"),
    ("stayrtr", "stayrtr"),
    ("unbound", "unbound"),
    ("freeradius", "freeradius"),
    ("radsecproxy", "radsecproxy"),
    ("postgresql", "postgresql"),
    ("ocserv", "ocserv"),
    ("kea-dhcp4-server", "kea-dhcp4-server"),
    ("kea-dhcp6-server", "kea-dhcp6-server"),
    ("isc-dhcp-server", "isc-dhcp-server"),
];

/// A script that answers "forbidden" to every start that a package asks for while it is being installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The machine lacks something, and the program may not mend it; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unprepared(pub String);

/// Whether the program runs as root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// The packages that are missing.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Sees to it that everything is there: as root it installs what is missing, otherwise it says what to run.
///
/// # Errors
/// [`Unprepared`] without privilege; anything else when an installation fails.
pub fn prepare() -> Result<()> {
    let packages = missing();
    if !is_root() {
        return Err(Unprepared(advice(&packages)).into());
    }
    if packages.is_empty() {
        return Ok(());
    }
    say(&format!("installing Debian packages: {}", packages.join(" ")));
    install(&packages)?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("installed, and yet missing: {}", still.join(" ")),
    }
}

fn advice(packages: &[&str]) -> String {
    if packages.is_empty() {
        return "network namespaces need root; run: sudo env \"PATH=$PATH\" cargo lab".to_owned();
    }
    format!(
        "these Debian packages are missing; run: sudo apt-get install -y --no-install-recommends {}\n\
         then, because network namespaces need root: sudo env \"PATH=$PATH\" cargo lab",
        packages.join(" ")
    )
}

fn install(packages: &[&str]) -> Result<()> {
    // Where a policy is there already it is the owner's, and stays.
    let ours = !Path::new(POLICY).exists();
    if ours {
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
        command::must(Command::new("chmod").args(["755", POLICY]), Duration::from_secs(5))?;
    }
    let installed = apt_install(packages).or_else(|_| {
        say("the package lists are old: apt-get update");
        apt(&["update"])?;
        apt_install(packages)
    });
    if ours {
        std::fs::remove_file(POLICY).context(POLICY)?;
    }
    installed?;
    if Path::new("/run/systemd/system").exists() {
        for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
            command::must(Command::new("systemctl").args(["disable", service]), Duration::from_secs(60))?;
        }
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let words = ["install", "-y", "--no-install-recommends"];
    apt(&words.into_iter().chain(packages.iter().copied()).collect::<Vec<_>>())
}

fn apt(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("-q").args(words).env("DEBIAN_FRONTEND", "noninteractive");
    command::must(&mut command, Duration::from_secs(1200)).map(drop)
}

fn there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_a_fable_is_not() {
        assert!(there("sh") && there("/bin/sh"));
        assert!(!there("basilisk") && !there("/usr/lib/basilisk"));
    }

    #[test]
    fn the_advice_is_one_line_to_run() {
        assert!(advice(&[]).ends_with("sudo env \"PATH=$PATH\" cargo lab"));
        assert!(advice(&["frr", "bird2"]).contains("apt-get install -y --no-install-recommends frr bird2\n"));
    }
}
