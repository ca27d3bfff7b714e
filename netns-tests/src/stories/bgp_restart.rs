//! The speaker dies, comes back, and leaves in good order; BIRD and FRR keep what is to be kept and nothing else.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bgp_capture;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::health::Health;
use crate::lab::Lab;

const BOUND: Duration = Duration::from_secs(60);
const PRIVATE: &str = "203.0.113.200/32";
const KEPT: &str = "198.51.100.0/28";
const UNKEPT: &str = "198.51.100.16/28";
const SPEAKER: &str = "bgp-speaker";

/// The sessions: their names, our host numbers, what they are told, and whether they keep.
const SESSIONS: [(&str, u8, &str, bool); 3] =
    [("private", 1, "private", false), ("sets", 2, "injected", true), ("both", 3, "all", true)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    Bird,
    Frr,
}

impl Router {
    const ALL: [Self; 2] = [Self::Bird, Self::Frr];

    const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
        }
    }

    fn address(self, host: u8) -> String {
        format!("192.0.2.{}", 16 * (self as u8 + 1) + host)
    }

    /// Of our three, those that it holds from a session, and whether each is stale.
    fn holds(self, lab: &Lab, session: (&str, u8, &str, bool)) -> Result<Vec<(&'static str, bool)>> {
        let mut held = Vec::new();
        for prefix in [PRIVATE, KEPT, UNKEPT] {
            let stale = match self {
                Self::Bird => {
                    let protocol = format!("to_{}", session.0);
                    let show = ["birdc", "-s", "{{run}}/bird/bird.ctl", "show", "route", prefix, "protocol", &protocol];
                    let said = lab.exec("bird", &show)?.stdout;
                    // It marks the preference of a stale route.
                    said.contains(prefix).then(|| said.contains("(100s)"))
                }
                Self::Frr => {
                    let show = format!("show bgp ipv4 unicast {prefix} json");
                    let said =
                        lab.must("frr", &["vtysh", "--vty_socket", "{{run}}/frr-zebra", "-d", "bgpd", "-c", &show])?;
                    let said: serde_json::Value = serde_json::from_str(&said).context(said)?;
                    let paths = said.get("paths").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
                    let peer = self.address(session.1);
                    let path = paths.iter().find(|path| path.pointer("/peer/peerId").is_some_and(|id| *id == peer));
                    path.map(|path| path.get("stale").is_some_and(|stale| *stale == true))
                }
            };
            held.extend(stale.map(|stale| (prefix, stale)));
        }
        Ok(held)
    }
}

/// What a session is to leave at a router that holds it.
fn told(session: (&str, u8, &str, bool)) -> Vec<&'static str> {
    match session.2 {
        "private" => vec![PRIVATE],
        "injected" => vec![KEPT, UNKEPT],
        _ => vec![PRIVATE, KEPT, UNKEPT],
    }
}

fn cells() -> impl Iterator<Item = (Router, (&'static str, u8, &'static str, bool))> {
    Router::ALL.into_iter().flat_map(|router| SESSIONS.map(|session| (router, session)))
}

/// Tells the story; there is no purchase, and so no path of one.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let _health = evidence.require("a forwarder says that the private route is well", || {
        let health = Health::serve(&lab.run_directory().join("health.sock"), vec![PRIVATE.parse()?])?;
        Ok((PRIVATE.to_owned(), health))
    })?;
    evidence.require("the speaker starts and takes two sets, one to be kept", || {
        fs::write(lab.run_directory().join("speaker.toml"), config(lab))?;
        start(lab)?;
        for (set, prefix, hop) in [("kept", KEPT, "192.0.2.17"), ("unkept", UNKEPT, "192.0.2.17")] {
            let socket = lab.run_directory().join("api").display().to_string();
            lab.must(
                "speaker",
                &[SPEAKER, "route", "add", prefix, "--set", set, "--next-hop", hop, "--socket", &socket],
            )?;
        }
        Ok((format!("{KEPT} to be kept, {UNKEPT} not"), ()))
    })?;
    evidence.point("1", "Each session carries what it is to carry");
    everything(lab, evidence);

    evidence.point("2", "kill -9: what is private goes at once, what is to be kept stays, stale");
    for round in 1..=2 {
        dies(lab, evidence, round);
        evidence.check("the speaker is back, and the sets with it: nothing is stale, nothing is missing", || {
            start(lab)?;
            all_there(lab)
        });
    }

    evidence.point("3", "A planned end: everything else is withdrawn before, what is to be kept stays");
    evidence.check("SIGTERM", || {
        lab.terminate(SPEAKER)?;
        kept_alone(lab)
    });

    evidence.point("4", "What was removed while the speaker was down goes when it is back");
    evidence.check(
        "without its journal it comes back with no sets, and the routers hold the private route alone",
        || {
            fs::remove_file(lab.run_directory().join("journal"))?;
            start(lab)?;
            eventually(BOUND, "the kept route goes", || {
                for (router, session) in cells() {
                    let held = router.holds(lab, session)?;
                    let wanted: Vec<_> =
                        told(session).into_iter().filter(|p| *p == PRIVATE).map(|p| (p, false)).collect();
                    ensure!(held == wanted, "{} by {}: {held:?}", router.name(), session.0);
                }
                Ok(format!("{KEPT} is gone everywhere"))
            })
        },
    );
    clean(lab, evidence);
    Ok(Vec::new())
}

fn clean(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("5", "Everything that was sent is clean in another reader");
    evidence.check("the captures end", || lab.end_captures().map(|()| "whole".to_owned()));
    for router in Router::ALL {
        evidence.check(
            &format!("tshark, tcpdump and bgpkit-parser find nothing wrong on the link to {}", router.name()),
            || {
                let found = bgp_capture::audit(&lab.capture(router.name()))?;
                // Three sessions, started four times.
                ensure!(found.opens >= 2 * 3 * 4, "{found:?}");
                Ok(format!("{found:?}"))
            },
        );
    }
}

fn config(lab: &Lab) -> String {
    let run = lab.run_directory().display();
    let peer = |(router, (name, host, export, keep)): (Router, (&str, u8, &str, bool))| {
        let keep = if export == "all" { format!("keep = {keep}\n") } else { String::new() };
        format!(
            "[[peers]]\nname = \"{}-{name}\"\naddress = \"{}\"\nlocal-address = \"{}\"\nremote-as = 64500\n\
             export = \"{export}\"\n{keep}",
            router.name(),
            router.address(14),
            router.address(host),
        )
    };
    let peers: String = cells().map(peer).collect();
    format!(
        "admin-socket = \"{run}/admin\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.17\"\n{peers}\
         [[private-routes]]\nprefix = \"{PRIVATE}\"\nnext-hop = \"192.0.2.17\"\n[health]\nsocket = \"{run}/health.sock\"\n\
         [inject]\napi-socket = \"{run}/api\"\njournal = \"{run}/journal\"\nallow = [\"198.51.100.0/24\"]\n\
         [[inject.sets]]\nname = \"kept\"\nkeep-s = 3600\n"
    )
}

fn start(lab: &Lab) -> Result<()> {
    let file = lab.run_directory().join("speaker.toml").display().to_string();
    lab.spawn(SPEAKER, lab.command("speaker", &[SPEAKER, "run", "--config", &file])?)?;
    eventually(BOUND, "the speaker answers", || {
        let socket = lab.run_directory().join("admin").display().to_string();
        lab.must("speaker", &[SPEAKER, "show", "sessions", "--socket", &socket]).map(drop)
    })
}

/// Every router holds what each session is told, fresh.
fn all_there(lab: &Lab) -> Result<String> {
    eventually(BOUND, "the routes are there", || {
        for (router, session) in cells() {
            let held = router.holds(lab, session)?;
            let wanted: Vec<_> = told(session).into_iter().map(|prefix| (prefix, false)).collect();
            ensure!(held == wanted, "{} by {}: {held:?}", router.name(), session.0);
        }
        Ok("all of them, none stale".to_owned())
    })
}

/// The speaker is gone: what it left.
fn kept_alone(lab: &Lab) -> Result<String> {
    eventually(Duration::from_secs(30), "only what is to be kept is left", || {
        for (router, session) in cells() {
            let held = router.holds(lab, session)?;
            let wanted = if session.3 { vec![(KEPT, true)] } else { Vec::new() };
            ensure!(held == wanted, "{} by {}: {held:?}", router.name(), session.0);
        }
        Ok(format!("{KEPT}, stale, by the sessions that keep"))
    })
}

fn everything(lab: &Lab, evidence: &mut Evidence) {
    evidence.check("BIRD and FRR hold the private route and the sets", || all_there(lab));
}

fn dies(lab: &Lab, evidence: &mut Evidence, round: u32) {
    evidence.check(&format!("round {round}: kill -9, and the routers are asked again and again"), || {
        let killed = Instant::now();
        lab.kill9(SPEAKER)?;
        let mut gone: Vec<(String, Duration)> = Vec::new();
        let private: Vec<_> = cells().filter(|(_, session)| told(*session).contains(&PRIVATE)).collect();
        eventually(Duration::from_secs(30), "the private route goes", || {
            for (router, session) in &private {
                let name = format!("{}-{}", router.name(), session.0);
                let held = router.holds(lab, *session)?;
                if !gone.iter().any(|(known, _)| *known == name) && !held.iter().any(|(prefix, _)| *prefix == PRIVATE) {
                    gone.push((name, killed.elapsed()));
                }
            }
            ensure!(gone.len() == private.len(), "gone so far: {gone:?}");
            Ok(())
        })?;
        for (name, after) in &gone {
            // A session that keeps waits for its restart time of one second; another loses everything at once.
            let bound = if name.ends_with("both") { 2500 } else { 1000 };
            ensure!(after.as_millis() < bound, "{name}: {after:?}");
        }
        let left = kept_alone(lab)?;
        let gone: Vec<String> = gone.iter().map(|(name, after)| format!("{name} {} ms", after.as_millis())).collect();
        Ok(format!("{PRIVATE} gone, asking included: {}; left: {left}", gone.join(", ")))
    });
}
