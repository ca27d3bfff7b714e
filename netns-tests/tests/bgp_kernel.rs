//! Best routes in the kernel: what the speaker puts there and takes away, and that it touches nothing of anybody else.

mod two_hosts;

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::command::eventually;
use netns_tests::health::Health;
use netns_tests::lab::Lab;
use netns_tests::{may_make_namespaces, stories};

const BOUND: Duration = Duration::from_secs(60);
const PRIVATE: &str = "203.0.113.200/32";

const BIRD: &str = r#"
router id 192.0.2.2;
log stderr all;
protocol device { }
protocol static four {
    ipv4;
    route 198.51.100.0/24 unreachable;
    route 198.51.101.0/24 unreachable;
    route 198.18.0.0/24 unreachable { bgp_next_hop = 10.9.9.9; };
    route 198.18.1.0/24 unreachable { bgp_next_hop = 10.8.8.8; };
    route 203.0.113.200/32 unreachable;
}
protocol static six {
    ipv6;
    route 2001:db8:100::/48 unreachable;
}
protocol static more {
    ipv4;
    disabled;
    route 198.51.102.0/24 unreachable;
}
protocol bgp speaker {
    local 192.0.2.2 as 64501;
    neighbor 192.0.2.1 as 64500;
    passive on;
    hold time 9;
    ipv4 { import none; export all; next hop keep ibgp; };
    ipv6 { import none; export all; next hop address 2001:db8::2; };
}
"#;

struct Site {
    lab: Lab,
    _health: Health,
}

impl Site {
    fn up(folder: &std::path::Path) -> Result<Self> {
        let lab = two_hosts::up("bk", folder, BIRD)?;
        let run = lab.run_directory().display().to_string();
        let config = format!(
            "admin-socket = \"{run}/speaker.sock\"\nmetrics-listen = \"192.0.2.1:9644\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.1\"\n\
             [[peers]]\nname = \"bird\"\naddress = \"192.0.2.2\"\nremote-as = 64501\nimport = \"all\"\n\
             [[private-routes]]\nprefix = \"{PRIVATE}\"\nnext-hop = \"192.0.2.1\"\n\
             [health]\nsocket = \"{run}/health.sock\"\n[kernel]\ntable = 100\n"
        );
        fs::write(lab.run_directory().join("speaker.toml"), config)?;
        let health = Health::serve(&lab.run_directory().join("health.sock"), vec![PRIVATE.parse()?])?;
        Ok(Self { lab, _health: health })
    }

    fn start(&self) -> Result<()> {
        let file = self.lab.run_directory().join("speaker.toml").display().to_string();
        self.lab.spawn("speaker", self.lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?)
    }

    fn ip(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        self.lab.must("speaker", &words)
    }

    /// The table as `ip` shows it, a route a line, its addresses' family told by themselves.
    fn table(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for family in ["-4", "-6"] {
            let said = self.lab.exec("speaker", &["ip", family, "route", "show", "table", "100"])?.stdout;
            lines.extend(said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        lines.sort();
        Ok(lines)
    }

    fn holds(&self, what: &str, expected: &[&str]) -> Result<()> {
        let mut expected: Vec<&str> = expected.to_vec();
        expected.sort_unstable();
        eventually(BOUND, what, || {
            let table = self.table()?;
            let told: Vec<&str> = table.iter().map(|line| line.trim_end()).collect();
            ensure!(told == expected, "{table:#?}\nshow kernel: {}", self.show().unwrap_or_default());
            Ok(())
        })
    }

    fn show(&self) -> Result<String> {
        let socket = self.lab.run_directory().join("speaker.sock").display().to_string();
        self.lab.must("speaker", &["bgp-speaker", "show", "kernel", "--socket", &socket, "--json"])
    }

    fn birdc(&self, words: &str) -> Result<()> {
        two_hosts::birdc(&self.lab, words).map(drop)
    }
}

/// Somebody else's, in our table and with our metric, and for a prefix that BIRD announces.
const TAKEN: &str = "198.51.101.0/24 via 192.0.2.9 dev eth0 proto static metric 20";
const OTHERS: [&str; 3] = [
    TAKEN,
    "198.51.99.0/24 via 192.0.2.9 dev eth0 proto bird metric 20",
    "2001:db8:99::/48 via 2001:db8::9 dev eth0 proto static metric 20 pref medium",
];
const OURS: [&str; 3] = [
    "198.51.100.0/24 via 192.0.2.2 dev eth0 proto 203 metric 20",
    "198.18.0.0/24 via 192.0.2.7 dev eth0 proto 203 metric 20",
    "2001:db8:100::/48 via 2001:db8::2 dev eth0 proto 203 metric 20 pref medium",
];

#[test]
fn best_routes_are_in_the_kernel_and_nothing_else_is_touched() -> Result<()> {
    if !may_make_namespaces("best_routes_are_in_the_kernel_and_nothing_else_is_touched") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let site = Site::up(folder.path())?;
    for route in OTHERS {
        let family = if route.contains("::") { "-6" } else { "-4" };
        let route = route.replace(" pref medium", "");
        site.ip(&format!("{family} route add {route} table 100"))?;
    }
    // What a previous life left: one that is still right, one that is not wanted any more, one of another metric.
    site.ip("route add 198.51.100.0/24 via 192.0.2.2 proto 203 metric 20 table 100")?;
    site.ip("route add 198.51.200.0/24 via 192.0.2.2 proto 203 metric 20 table 100")?;
    site.ip("route add 198.51.100.0/24 via 192.0.2.2 proto 203 metric 7 table 100")?;
    // The way to a next hop that is not on the link.
    site.ip("route add 10.9.0.0/16 via 192.0.2.7")?;
    site.start()?;

    let all = [&OTHERS[..], &OURS[..]].concat();
    site.holds("ours beside those of others, and no leftovers", &all)?;
    let shown = eventually(BOUND, "the reasons are shown", || {
        let shown = site.show()?;
        ensure!(shown.contains("a route of the same metric 20 is there already"), "{shown}");
        ensure!(shown.contains("no route leads to the next hop 10.8.8.8"), "{shown}");
        Ok(shown)
    })?;
    ensure!(!shown.contains(PRIVATE), "a private prefix is never installed unless asked: {shown}");

    // What comes and goes with BGP, with the way to the next hop, and by somebody's hand.
    site.birdc("enable more")?;
    let more = "198.51.102.0/24 via 192.0.2.2 dev eth0 proto 203 metric 20";
    site.holds("a new route", &[&all[..], &[more]].concat())?;
    site.birdc("disable more")?;
    site.holds("it goes again", &all)?;
    site.ip("route add 10.8.0.0/16 via 192.0.2.8")?;
    let far = "198.18.1.0/24 via 192.0.2.8 dev eth0 proto 203 metric 20";
    site.holds("a next hop that is reached now", &[&all[..], &[far]].concat())?;
    site.ip("route replace 10.8.0.0/16 via 192.0.2.6")?;
    site.holds("by another way", &[&all[..], &[&far.replace("192.0.2.8", "192.0.2.6")]].concat())?;
    site.ip("route del 10.8.0.0/16")?;
    site.holds("and no longer", &all)?;
    site.ip("route replace 10.9.0.0/16 nexthop via 192.0.2.7 nexthop via 192.0.2.8")?;
    let spread = [
        "198.18.0.0/24 proto 203 metric 20",
        "nexthop via 192.0.2.7 dev eth0 weight 1",
        "nexthop via 192.0.2.8 dev eth0 weight 1",
    ];
    let [first, _, six] = OURS;
    site.holds("by all ways to the next hop", &[&OTHERS[..], &[first, six], &spread].concat())?;
    site.ip("route replace 10.9.0.0/16 via 192.0.2.7")?;
    site.holds("and by one again", &all)?;
    site.ip("route del 198.51.100.0/24 table 100 proto 203")?;
    site.holds("what somebody deleted is back", &all)?;

    // While the speaker can't listen, more is said than its socket holds.
    site.lab.freeze("speaker", true)?;
    let flood: String =
        (0..8000).map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.5\n", 100 + n / 250, n % 250)).collect();
    let file = site.lab.run_directory().join("flood");
    fs::write(&file, flood)?;
    let file = file.display().to_string();
    site.lab.must("speaker", &["ip", "-batch", &file])?;
    site.ip("route del 198.51.100.0/24 table 100 proto 203")?;
    site.lab.freeze("speaker", false)?;
    site.holds("all is read again", &all)?;
    let metrics = site.lab.must("speaker", &["curl", "-s", "http://192.0.2.1:9644/metrics"])?;
    let overruns = metrics.lines().find_map(|line| line.strip_prefix("bgp_speaker_kernel_overruns_total "));
    ensure!(overruns.is_some_and(|count| count != "0"), "the socket was not overrun: {metrics}");

    // Killed, it leaves what it had; what changed meanwhile is set right by the next life.
    site.lab.kill9("speaker")?;
    ensure!(site.table()?.len() == all.len(), "routes outlive the kill");
    site.birdc("enable more")?;
    site.ip("route del 198.18.0.0/24 table 100 proto 203")?;
    site.start()?;
    site.holds("the next life converges", &[&all[..], &[more]].concat())?;

    // The session is lost: so are the routes. Then the stop leaves nothing of ours.
    site.birdc("disable speaker")?;
    site.holds("no session, no routes", &OTHERS)?;
    site.birdc("enable speaker")?;
    site.holds("they are back", &[&all[..], &[more]].concat())?;
    site.lab.terminate("speaker")?;
    site.holds("nothing of ours is left, and all of theirs", &OTHERS)?;
    Ok(())
}
