//! The subscribers: how they come on line, and who they say they are.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::BOUND;
use crate::command::eventually;
use crate::lab::Lab;

/// Users of tunnels.
pub(super) const USERS: [&str; 4] = ["alice@isp.example", "bob@isp.example", "carol@isp.example", "dave@isp.example"];

/// A subscriber on line.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) host: String,
    /// Who it says it is: the hardware address that it has, or the name by which it came in.
    pub(super) own: String,
    /// The address that it was given.
    pub(super) address: Ipv4Addr,
}

/// The name of what brings a host on line.
pub(super) fn process(host: &str) -> String {
    format!("line-{host}")
}

/// Makes a switch of the access network.
pub(super) fn wire(lab: &Lab) -> Result<()> {
    let ports = lab.topology().links.iter().flat_map(|link| [&link.a, &link.b]);
    let ports = ports.filter(|end| end.namespace == "access").map(|end| &end.interface);
    let mut lines = vec!["link add switch type bridge".to_owned(), "link set switch up".to_owned()];
    lines.extend(ports.map(|port| format!("link set {port} master switch")));
    lab.netns("access").ip(&lines)
}

/// The hardware address of a home, from itself.
pub(super) fn hardware_address(lab: &Lab, host: &str) -> Result<String> {
    Ok(lab.must(host, &["cat", "/sys/class/net/eth0/address"])?.trim().to_owned())
}

fn file(lab: &Lab, host: &str, what: &str) -> PathBuf {
    lab.run_directory().join(format!("{host}.{what}"))
}

fn script(lab: &Lab, host: &str, lines: &str) -> Result<PathBuf> {
    let path = file(lab, host, "sh");
    fs::write(&path, format!("#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{lines}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Waits until the host has written down its address.
fn given(lab: &Lab, host: &str) -> Result<Ipv4Addr> {
    eventually(BOUND, &format!("{host} has an address"), || {
        let text = fs::read_to_string(file(lab, host, "address")).with_context(|| lab.log(&process(host)))?;
        Ok(text.trim().parse()?)
    })
}

/// dhclient with its files in the laboratory.
fn dhclient(lab: &Lab, host: &str, words: &[&str]) -> Result<std::process::Command> {
    let name = |what: &str| file(lab, host, what).display().to_string();
    let config = file(lab, host, "conf");
    fs::write(&config, "timeout 120;\nretry 2;\ninitial-interval 1;\nbackoff-cutoff 2;\nselect-timeout 0;\n")?;
    let (config, leases, pid, script) = (name("conf"), name("leases"), name("pid"), name("sh"));
    let common = ["-4", "-d", "-sf", &script, "-cf", &config, "-lf", &leases, "-pf", &pid, "eth0"];
    lab.command(host, &[&["dhclient"], words, &common].concat())
}

/// A home leases an address.
pub(super) fn lease(lab: &Lab, host: &str) -> Result<Person> {
    let at = file(lab, host, "address").display().to_string();
    fs::write(file(lab, host, "leases"), "")?;
    script(
        lab,
        host,
        &format!(
            "case \"$reason\" in\nPREINIT) ip link set \"$interface\" up ;;\n\
             BOUND | RENEW | REBIND | REBOOT)\n\
             ip addr replace \"$new_ip_address/24\" dev \"$interface\"\n\
             ip route replace default via 100.64.0.1\n\
             echo \"$new_ip_address\" > {at}.new && mv {at}.new {at} ;;\n\
             RELEASE | EXPIRE) ip addr flush dev \"$interface\" ;;\nesac\n"
        ),
    )?;
    lab.spawn(&process(host), dhclient(lab, host, &[])?)?;
    let address = given(lab, host)?;
    Ok(Person { host: host.to_owned(), own: hardware_address(lab, host)?, address })
}

/// A home gives its address back.
pub(super) fn release(lab: &Lab, person: &Person) -> Result<()> {
    lab.kill9(&process(&person.host))?;
    crate::command::must(&mut dhclient(lab, &person.host, &["-r"])?, BOUND).map(drop)
}

/// A user comes by a tunnel.
pub(super) fn tunnel(lab: &Lab, host: &str, user: &str) -> Result<Person> {
    let link = lab.topology().link(host).context("a link")?;
    let (gateway, own) = (link.a.addresses.first().context("an address")?.addr(), file(lab, host, "address"));
    if own.exists() {
        fs::remove_file(&own)?;
    }
    let at = own.display();
    let script = script(
        lab,
        host,
        &format!(
            "[ \"$reason\" = connect ] || exit 0\nip addr add \"$INTERNAL_IP4_ADDRESS/32\" dev \"$TUNDEV\"\n\
             ip link set \"$TUNDEV\" mtu 1300 up\n\
             ip route replace default dev \"$TUNDEV\" src \"$INTERNAL_IP4_ADDRESS\"\n\
             echo \"$INTERNAL_IP4_ADDRESS\" > {at}.new && mv {at}.new {at}\n"
        ),
    )?;
    let password = file(lab, host, "password");
    fs::write(&password, "hello\n")?;
    let line = format!(
        "exec openconnect --protocol=anyconnect --user={user} --passwd-on-stdin --no-dtls --no-system-trust \
         --cafile={{{{pki}}}}/ca.pem --script={} https://{gateway}:4443 < {}",
        script.display(),
        password.display()
    );
    lab.spawn(&process(host), lab.command(host, &["sh", "-c", &line])?)?;
    Ok(Person { host: host.to_owned(), own: user.to_owned(), address: given(lab, host)? })
}
