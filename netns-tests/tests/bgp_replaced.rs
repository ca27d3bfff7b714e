//! A router that dies without a word, as a host does that loses power, and is back before anybody's hold time is over: its
//! new connection takes the place of the one that we still hold, and its routes stay (RFC 4724 §5).

#[allow(dead_code, reason = "no question to BIRD is needed here")]
mod two_hosts;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::{may_make_namespaces, stories};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(60);
const ROUTE: &str = "198.51.100.0/24";

const BIRD: &str = r#"
router id 192.0.2.2;
log stderr all;
graceful restart wait 10;
protocol device { }
protocol static four { ipv4; route 198.51.100.0/24 unreachable; }
protocol bgp speaker {
    local 192.0.2.2 as 64501;
    neighbor 192.0.2.1 as 64500;
    hold time 90;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 2;
    graceful restart on;
    graceful restart time 60;
    ipv4 { import all; export all; next hop self; };
}
"#;

struct Site {
    lab: Lab,
    socket: String,
}

impl Site {
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let words = [&["bgp-speaker"], words, &["--json", "--socket", &self.socket]].concat();
        Ok(serde_json::from_str(&self.lab.must("speaker", &words)?)?)
    }

    fn session(&self) -> Result<Value> {
        self.ask(&["show", "sessions"])?.get(0).cloned().context("no session")
    }

    /// The events of this name.
    fn events(&self, name: &str) -> Result<Vec<Value>> {
        let said = self.lab.must("speaker", &["bgp-speaker", "events", "--json", "--socket", &self.socket])?;
        let events = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        Ok(events.into_iter().filter(|event| event.get("event").is_some_and(|is| is == name)).collect())
    }

    /// The route, if it is used.
    fn route(&self) -> Result<Value> {
        let shown = self.ask(&["show", "look-up", "198.51.100.1"])?;
        let route = shown.pointer("/routes/0").cloned().with_context(|| shown.to_string())?;
        ensure!(route.get("best") == Some(&true.into()), "{route}");
        Ok(route)
    }
}

#[test]
fn a_router_that_died_without_a_word_is_taken_back_when_it_connects_anew() -> Result<()> {
    if !may_make_namespaces("a_router_that_died_without_a_word_is_taken_back_when_it_connects_anew") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let lab = two_hosts::up("bx", folder.path(), BIRD)?;
    let (socket, file) = (lab.run_directory().join("speaker.sock"), lab.run_directory().join("speaker.toml"));
    let text = format!(
        "admin-socket = {socket:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\nlisten = [\"192.0.2.1:179\"]\n\
         [rib]\n[[peers]]\nname = \"bird\"\naddress = \"192.0.2.2\"\nremote-as = 64501\npassive = true\nhold-time-s = 90\n\
         import = \"all\"\ngraceful-restart = {{ restart-s = 60 }}\n"
    );
    fs::write(&file, text)?;
    let file = file.display().to_string();
    lab.spawn("speaker", lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?)?;
    let site = Site { lab, socket: socket.display().to_string() };
    eventually(BOUND, "the route is here", || site.route().map(drop))?;

    // Its last words get lost.
    let deaf = "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; \
                add rule inet deaf in ip saddr 192.0.2.2 tcp flags & (fin | rst) != 0 drop";
    site.lab.must("speaker", &["nft", deaf])?;
    site.lab.kill9("bird")?;
    ensure!(site.session()?.get("state") == Some(&"Established".into()), "nobody has told us");
    let began = Instant::now();
    let words = ["/usr/sbin/bird", "-R", "-f", "-c", "{{run}}/bird/bird.conf", "-s", "{{run}}/bird/bird.ctl"];
    site.lab.spawn("bird", site.lab.command("router", &words)?)?;
    let down = eventually(BOUND, "the session is another", || {
        let session = site.session()?;
        ensure!(
            session.get("state") == Some(&"Established".into()) && session.get("flaps") == Some(&1.into()),
            "{session}"
        );
        site.events("session-down")?.pop().context("it never went down")
    })?;
    ensure!(began.elapsed() < BOUND, "no hold time was waited for");
    ensure!(down.to_string().contains("the peer has restarted: it connects anew"), "{down}");
    // It stayed while the peer was gone, and is the peer's again when it has told all.
    let names = ["restart-began", "restart-ended"];
    eventually(BOUND, "all is told again", || {
        for name in names {
            ensure!(site.events(name)?.len() == 1, "{name}: {:?}", site.events(name)?);
        }
        let route = site.route()?;
        ensure!(route.get("outdated") == Some(&false.into()) && route.get("prefix") == Some(&ROUTE.into()), "{route}");
        // Gone and told anew it would be younger.
        let age = route.get("for_s").and_then(Value::as_u64);
        ensure!(age.is_some_and(|age| age >= began.elapsed().as_secs()), "{route}");
        Ok(())
    })?;
    site.lab.terminate("speaker")
}
