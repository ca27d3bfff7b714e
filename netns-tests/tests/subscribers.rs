//! Live subscriber prefixes from end to end: routes of a BIRD by the bgp-speaker, and RADIUS accounting by the toolbox, decide
//! whose packets the forwarder lets pass.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::topology::Topology;
use netns_tests::{may_make_namespaces, stories};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);
const PRIVATE: &str = "203.0.113.200";

const TOPOLOGY: &str = r#"
about = "subscribers by routes and by RADIUS"
[[namespaces]]
name = "sub"
role = "three subscribers"
routes = ["default via 198.51.100.65"]
[[namespaces]]
name = "isp"
role = "forwarder, bgp-speaker, toolbox"
[[namespaces]]
name = "far"
role = "the private network"
routes = ["default via 192.0.2.249"]
[[namespaces]]
name = "router"
role = "the edge router, BIRD 2 and radclient"
[[links]]
name = "access"
kind = "member"
a = { namespace = "isp", interface = "edge0", addresses = ["198.51.100.65/26"] }
b = { namespace = "sub", interface = "eth0", addresses = ["198.51.100.70/26", "198.51.100.71/26", "198.51.100.72/26"] }
[[links]]
name = "private"
kind = "private"
a = { namespace = "isp", interface = "priv0", addresses = ["192.0.2.249/30"] }
b = { namespace = "far", interface = "priv0", addresses = ["192.0.2.250/30", "203.0.113.200/32"] }
[[links]]
name = "core"
kind = "member"
a = { namespace = "isp", interface = "core0", addresses = ["192.0.2.1/28"] }
b = { namespace = "router", interface = "eth0", addresses = ["192.0.2.2/28"] }
[pki]
authority = "test"
[[pki.certificates]]
name = "toolbox"
subjects = ["192.0.2.1"]
[[processes]]
name = "bird"
namespace = "router"
program = "/usr/sbin/bird"
arguments = ["-f", "-c", "{{dir}}/bird.conf", "-s", "{{dir}}/bird.ctl"]
templates = ["bird.conf"]
ready = { command = ["birdc", "-s", "{{dir}}/bird.ctl", "show", "status"], contains = "Daemon is up" }
"#;

/// Two routes with the community of subscribers, one of them not yet, and one without.
const BIRD: &str = r#"
router id 192.0.2.2;
log stderr all;
protocol device { }
protocol static marked {
    ipv4;
    route 198.51.100.70/32 unreachable { bgp_community.add((64500, 100)); };
    route 198.51.100.71/32 unreachable { bgp_community.add((64500, 200)); };
    route 198.51.100.128/25 unreachable { bgp_community.add((64500, 100)); };
}
protocol static later {
    ipv4;
    disabled;
    route 198.51.100.72/32 unreachable { bgp_community.add((64500, 100)); };
}
protocol bgp speaker {
    local 192.0.2.2 as 64500;
    neighbor 192.0.2.1 as 64500;
    passive on;
    hold time 9;
    ipv4 { import none; export all; next hop self; };
}
"#;

struct Site(Lab);

impl Site {
    fn up(folder: &Path) -> Result<Self> {
        fs::write(folder.join("topology.toml"), TOPOLOGY)?;
        fs::write(folder.join("bird.conf"), BIRD)?;
        let prefix = format!("sp{}-", std::process::id());
        let lab = Lab::up(Topology::load(&folder.join("topology.toml"))?, &prefix, &mut |_| ())?;
        let run = lab.run_directory().display().to_string();
        let forwarder = format!(
            "admin-socket = \"{run}/forwarder.sock\"\nhealth-socket = \"{run}/health.sock\"\n\
             [subscribers]\ninterfaces = [\"edge0\"]\nprefixes = []\n\
             [[subscribers.live]]\nname = \"routes\"\nfrom = \"bgp-speaker\"\nsocket = \"{run}/speaker.sock\"\n\
             within = [\"198.51.100.64/26\"]\ncommunities = [\"64500:100\"]\nneighbours = [\"edge\"]\nevery-ms = 200\nhold-s = 3600\n\
             [[subscribers.live]]\nname = \"radius\"\nfrom = \"toolbox\"\nsocket = \"{run}/toolbox.sock\"\n\
             within = [\"198.51.100.64/26\"]\nevery-ms = 200\nhold-s = 1\n\
             [[links]]\nname = \"main\"\ninterface = \"priv0\"\n\
             [[private-prefixes]]\nprefix = \"{PRIVATE}/32\"\nlink = \"main\"\n"
        );
        let speaker = format!(
            "admin-socket = \"{run}/speaker.sock\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n\
             [[peers]]\nname = \"edge\"\naddress = \"192.0.2.2\"\nremote-as = 64500\nhold-time-s = 9\nimport = \"all\"\n\
             [[private-routes]]\nprefix = \"{PRIVATE}/32\"\nnext-hop = \"192.0.2.1\"\n\
             [health]\nsocket = \"{run}/health.sock\"\n[rib]\n"
        );
        let toolbox = format!(
            "data = \"{run}/toolbox\"\nadmin-socket = \"{run}/toolbox.sock\"\n\
             [subscribers]\nprefixes = [\"198.51.100.64/26\"]\n[radius]\nlisten = [\"192.0.2.1:1813\"]\n\
             [[radius.clients]]\nname = \"edge\"\nprefix = \"192.0.2.2/32\"\nsecret-file = \"{run}/radius.secret\"\n\
             [https]\nlisten = [\"192.0.2.1:8444\"]\ncertificate = \"{run}/pki/toolbox.pem\"\nkey = \"{run}/pki/toolbox.key\"\n\
             [[callers]]\nname = \"nobody\"\nkey-sha256 = \"{}\"\n",
            "5e".repeat(32)
        );
        fs::write(lab.run_directory().join("radius.secret"), "s3cr3t-of-the-edge-router\n")?;
        for (name, text) in [("forwarder", forwarder), ("bgp-speaker", speaker), ("toolbox", toolbox)] {
            fs::write(lab.run_directory().join(format!("{name}.toml")), text)?;
        }
        let site = Self(lab);
        for name in ["forwarder", "bgp-speaker", "toolbox"] {
            site.start(name)?;
        }
        Ok(site)
    }

    fn start(&self, name: &str) -> Result<()> {
        let file = self.0.run_directory().join(format!("{name}.toml")).display().to_string();
        self.0.spawn(name, self.0.command("isp", &[name, "run", "--config", &file])?)
    }

    fn show(&self, topic: &str) -> Result<Value> {
        let socket = self.0.run_directory().join("forwarder.sock").display().to_string();
        let text = self.0.must("isp", &["forwarder", "show", topic, "--socket", &socket, "--json"])?;
        serde_json::from_str(&text).context(text)
    }

    /// Waits until these are the subscribers, each with its feed, and sees to it that nobody else's packets pass.
    fn serves(&self, what: &str, expected: &[(&str, &str)]) -> Result<()> {
        eventually(BOUND, what, || {
            let rows = self.show("subscribers")?;
            let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let rows = rows.as_array().context("a list")?;
            let found: Vec<_> = rows.iter().map(|row| (text(row, "prefix"), text(row, "from"))).collect();
            let wanted: Vec<_> =
                expected.iter().map(|(host, from)| (format!("198.51.100.{host}"), (*from).to_owned())).collect();
            ensure!(found == wanted, "{found:?}, feeds: {}", self.show("feeds")?);
            for address in ["70", "71", "72"].map(|host| format!("198.51.100.{host}")) {
                let host: std::net::IpAddr = address.parse()?;
                let is_served = found
                    .iter()
                    .any(|(prefix, _)| prefix.parse::<ipnet::IpNet>().is_ok_and(|prefix| prefix.contains(&host)));
                let ping = ["ping", "-n", "-c", "1", "-W", "1", "-I", &address, PRIVATE];
                ensure!(self.0.exec("sub", &ping)?.ok() == is_served, "{address} is served: {is_served}");
            }
            Ok(())
        })
    }

    fn feed(&self, name: &str, state: &str) -> Result<()> {
        eventually(BOUND, &format!("feed {name} is {state}"), || {
            let rows = self.show("feeds")?;
            let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row.get("feed") == Some(&name.into())));
            ensure!(row.and_then(|row| row.get("state")) == Some(&state.into()), "{rows}");
            Ok(())
        })
    }

    fn birdc(&self, words: &str) -> Result<()> {
        let mut arguments = vec!["birdc", "-s", "{{run}}/bird/bird.ctl"];
        arguments.extend(words.split(' '));
        self.0.must("router", &arguments).map(drop)
    }

    fn accounting(&self, status: &str, host: u8) -> Result<()> {
        let file = self.0.run_directory().join("accounting.txt");
        fs::write(
            &file,
            format!(
                "Acct-Status-Type = {status}\nAcct-Session-Id = \"{host}\"\nUser-Name = \"user{host}\"\n\
                 Framed-IP-Address = 198.51.100.{host}\nNAS-IP-Address = 192.0.2.2\nAcct-Session-Time = 1\n"
            ),
        )?;
        let file = file.display().to_string();
        let words = [
            "radclient",
            "-x",
            "-r",
            "10",
            "-t",
            "3",
            "-S",
            "{{run}}/radius.secret",
            "-f",
            &file,
            "192.0.2.1:1813",
            "acct",
        ];
        let said = self.0.exec("router", &words)?;
        ensure!(said.stdout.contains("Received Accounting-Response"), "{}{}", said.stdout, said.stderr);
        Ok(())
    }
}

#[test]
fn routes_and_accounting_decide_whose_packets_pass() -> Result<()> {
    if !may_make_namespaces("routes_and_accounting_decide_whose_packets_pass") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let site = Site::up(folder.path())?;
    site.serves("the marked route alone", &[("70/32", "routes")])?;
    site.feed("radius", "fed")?;

    site.birdc("enable later")?;
    site.serves("another marked route", &[("70/32", "routes"), ("72/32", "routes")])?;
    site.accounting("Start", 71)?;
    site.serves("who has a session", &[("70/32", "routes"), ("72/32", "routes"), ("71/32", "radius")])?;
    // What both tell ends with neither alone.
    site.accounting("Start", 72)?;
    site.birdc("disable later")?;
    let three = [("70/32", "routes"), ("71/32", "radius"), ("72/32", "radius")];
    site.serves("whose route is gone, and not his session", &three)?;
    site.accounting("Stop", 72)?;
    site.serves("whose session has ended", &[("70/32", "routes"), ("71/32", "radius")])?;

    // The router dies: its routes are kept for an hour. The toolbox dies: its bindings are kept for a second.
    site.0.kill9("bird")?;
    site.feed("routes", "held")?;
    site.serves("what is held", &[("70/32", "routes"), ("71/32", "radius")])?;
    site.0.kill9("toolbox")?;
    site.feed("radius", "lost")?;
    site.serves("without those of the toolbox", &[("70/32", "routes")])?;
    site.start("toolbox")?;
    site.serves("its journal brings them back", &[("70/32", "routes"), ("71/32", "radius")])?;
    // The forwarder dies while the routes' feed is silent: it goes on with what its guard has, of whichever feed.
    site.0.kill9("forwarder")?;
    site.start("forwarder")?;
    site.serves("after the forwarder's own death", &[("70/31", "routes"), ("71/32", "radius")])?;
    site.0.restart("bird")?;
    site.feed("routes", "fed")?;
    site.serves("all speak again", &[("70/32", "routes"), ("71/32", "radius")])
}
