//! Two hosts on a cable: `speaker`, 192.0.2.1 and 2001:db8::1, and `router`, 192.0.2.2 and 2001:db8::2, with a BIRD.

use std::fs;
use std::path::Path;

use anyhow::Result;
use netns_tests::lab::Lab;
use netns_tests::topology::Topology;

const TOPOLOGY: &str = r#"
about = "a speaker, or what stands in its place, and a BIRD"
[[namespaces]]
name = "speaker"
role = "bgp-speaker, or another program that speaks BGP"
[[namespaces]]
name = "router"
role = "BIRD 2"
[[links]]
name = "cable"
kind = "member"
offloads = false
a = { namespace = "speaker", interface = "eth0", addresses = ["192.0.2.1/24", "2001:db8::1/64"] }
b = { namespace = "router", interface = "eth0", addresses = ["192.0.2.2/24", "2001:db8::2/64"] }
[[processes]]
name = "bird"
namespace = "router"
program = "/usr/sbin/bird"
arguments = ["-f", "-c", "{{dir}}/bird.conf", "-s", "{{dir}}/bird.ctl"]
templates = ["bird.conf"]
ready = { command = ["birdc", "-s", "{{dir}}/bird.ctl", "show", "status"], contains = "Daemon is up" }
"#;

/// Brings them up, BIRD with the configuration `bird`. `short` begins the names of the namespaces.
pub(crate) fn up(short: &str, folder: &Path, bird: &str) -> Result<Lab> {
    fs::write(folder.join("topology.toml"), TOPOLOGY)?;
    fs::write(folder.join("bird.conf"), bird)?;
    let prefix = format!("{short}{}-", std::process::id());
    Lab::up(Topology::load(&folder.join("topology.toml"))?, &prefix, &mut |_| ())
}

/// What BIRD answers.
pub(crate) fn birdc(lab: &Lab, words: &str) -> Result<String> {
    let mut arguments = vec!["birdc", "-s", "{{run}}/bird/bird.ctl"];
    arguments.extend(words.split(' '));
    lab.must("router", &arguments)
}
