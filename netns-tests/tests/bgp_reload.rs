//! SIGHUP under sessions with a BIRD: who is not concerned hears nothing of it, by BIRD's own account; a changed import asks
//! again where it has to, and what resets a session resets that one alone.

mod two_hosts;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::{may_make_namespaces, stories};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);

const BIRD: &str = r#"
router id 192.0.2.2;
log stderr all;
timeformat protocol iso long ms;
protocol device { }
protocol static four { ipv4; route 198.51.100.0/24 unreachable; route 198.51.101.0/24 unreachable; }
protocol static six { ipv6; route 2001:db8:100::/48 unreachable; }
template bgp speaker {
    local as 64501;
    passive on;
    hold time 9;
    error wait time 1, 2;
}
protocol bgp by_v4 from speaker {
    neighbor 192.0.2.1 as 64500;
    ipv4 { import all; export all; next hop self; };
}
protocol bgp by_v6 from speaker {
    neighbor 2001:db8::1 as 64500;
    ipv6 { import all; export all; next hop self; };
}
"#;

struct Site {
    lab: Lab,
}

/// What BIRD says of a session: since when it stands, and how often it told a route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    since: String,
    updates: u64,
}

impl Site {
    fn socket(&self) -> String {
        self.lab.run_directory().join("speaker.sock").display().to_string()
    }

    fn file(&self) -> std::path::PathBuf {
        self.lab.run_directory().join("speaker.toml")
    }

    /// Writes the configuration: what it says of the one peer, and of the other, if there is one.
    fn configure(&self, four: &str, six: Option<&str>) -> Result<()> {
        let run = self.lab.run_directory().display().to_string();
        let six = six
            .map(|more| format!("[[peers]]\nname = \"six\"\naddress = \"2001:db8::2\"\nremote-as = 64501\n{more}\n"));
        let text = format!(
            "admin-socket = \"{run}/speaker.sock\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n[rib]\n\
             [[prefix-lists]]\nname = \"one\"\nrules = [{{ prefix = \"198.51.100.0/24\", action = \"permit\" }}]\n\
             [[peers]]\nname = \"four\"\naddress = \"192.0.2.2\"\nremote-as = 64501\n{four}\n{}",
            six.unwrap_or_default()
        );
        Ok(fs::write(self.file(), text)?)
    }

    /// Has it read again; gives the event that says what became of it.
    fn reload(&self, event: &str) -> Result<Value> {
        let before = self.events(event)?.len();
        self.lab.hang_up("speaker")?;
        eventually(BOUND, event, || self.events(event)?.get(before).cloned().context("not yet"))
    }

    fn events(&self, name: &str) -> Result<Vec<Value>> {
        let said = self.lab.must("speaker", &["bgp-speaker", "events", "--json", "--socket", &self.socket()])?;
        let events = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        Ok(events.into_iter().filter(|event| event.get("event").is_some_and(|is| is == name)).collect())
    }

    fn told(&self, protocol: &str) -> Result<Told> {
        let said = two_hosts::birdc(&self.lab, &format!("show protocols all {protocol}"))?;
        let head = said.lines().find(|line| line.starts_with(protocol)).context("no such protocol")?;
        ensure!(head.contains("Established"), "{head}");
        let since = head.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" ");
        // Export updates: received, rejected, filtered, ignored, accepted.
        let exported = said.lines().find_map(|line| line.trim().strip_prefix("Export updates:")).context("no count")?;
        let updates = exported.split_whitespace().last().context("no count")?.parse()?;
        Ok(Told { since, updates })
    }

    /// Waits until of BIRD's prefixes these are used.
    fn uses(&self, wanted: &[&str]) -> Result<()> {
        eventually(BOUND, "the routes are used", || {
            let words = ["bgp-speaker", "show", "routes", "--source", "received", "--json", "--socket", &self.socket()];
            let rows: Vec<Value> = serde_json::from_str(&self.lab.must("speaker", &words)?)?;
            let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let best = rows.iter().filter(|row| text(row, "reason") == "best").map(|row| text(row, "prefix"));
            let mut best: Vec<String> = best.collect();
            best.sort();
            ensure!(best == wanted, "{rows:#?}");
            Ok(())
        })
    }
}

fn effects(event: &Value) -> Vec<&str> {
    let peers = event.get("peers").and_then(Value::as_array);
    peers.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn beside_bird_a_reload_concerns_whom_it_concerns() -> Result<()> {
    if !may_make_namespaces("beside_bird_a_reload_concerns_whom_it_concerns") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let site = Site { lab: two_hosts::up("br", folder.path(), BIRD)? };
    let all = "import = \"all\"";
    site.configure(all, Some(all))?;
    let file = site.file().display().to_string();
    site.lab.spawn("speaker", site.lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?)?;
    let (one, two, six) = ("198.51.100.0/24", "198.51.101.0/24", "2001:db8:100::/48");
    site.uses(&[one, two, six])?;
    let (four_began, six_began) = (site.told("by_v4")?, site.told("by_v6")?);

    // The same again: nobody hears a word.
    ensure!(effects(&site.reload("reloaded")?).is_empty());
    // Judged again as it was told, without asking.
    site.configure(&format!("{all}\nimport-prefixes = \"one\""), Some(all))?;
    let done = site.reload("reloaded")?;
    ensure!(effects(&done) == ["four: changed, without a reset"], "{done}");
    site.uses(&[one, six])?;
    ensure!(site.told("by_v4")? == four_began, "nothing was asked: {:?}", site.told("by_v4")?);
    // Dropped, and asked for again: BIRD tells its two routes once more, in the same session.
    site.configure("", Some(all))?;
    site.reload("reloaded")?;
    site.uses(&[six])?;
    site.configure(all, Some(all))?;
    let done = site.reload("reloaded")?;
    let asked = "four: changed, without a reset: it is asked for its routes (RFC 2918)";
    ensure!(effects(&done) == [asked], "{done}");
    site.uses(&[one, two, six])?;
    let again = site.told("by_v4")?;
    ensure!(again == Told { updates: four_began.updates + 2, ..four_began.clone() }, "{again:?}, {four_began:?}");
    // A file with an error in it changes nothing.
    site.configure(&format!("{all}\nhold-time-s = 1"), None)?;
    let refused = site.reload("reload-refused")?;
    ensure!(refused.to_string().contains("peers[0].hold-time-s"), "{refused}");
    ensure!(site.told("by_v4")? == again);
    // What the OPEN says starts that session again, and no other.
    site.configure(&format!("{all}\nhold-time-s = 30"), Some(all))?;
    let done = site.reload("reloaded")?;
    ensure!(effects(&done) == ["four: reset: hold-time-s changed"], "{done}");
    eventually(BOUND, "another session", || {
        let now = site.told("by_v4")?;
        ensure!(now.since != four_began.since, "{now:?}");
        Ok(())
    })?;
    site.uses(&[one, two, six])?;
    ensure!(site.told("by_v6")? == six_began, "who was never concerned: {:?}, {six_began:?}", site.told("by_v6")?);
    // Who is taken out hears why.
    site.configure(&format!("{all}\nhold-time-s = 30"), None)?;
    site.reload("reloaded")?;
    site.uses(&[one, two])?;
    eventually(BOUND, "BIRD knows why", || {
        let said = two_hosts::birdc(&site.lab, "show protocols all by_v6")?;
        ensure!(said.contains("Peer de-configured"), "{said}");
        Ok(())
    })?;
    site.lab.terminate("speaker")
}
