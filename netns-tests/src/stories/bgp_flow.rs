//! Flow specifications beside BIRD, FRR and GoBGP: what each holds of our rules is asked of the router itself.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bgp_capture;
use crate::command::{self, eventually};
use crate::evidence::{Evidence, Stopped};
use crate::health::Health;
use crate::lab::Lab;
use crate::stories::shown;

const BOUND: Duration = Duration::from_secs(60);
const PREFIXES: [&str; 2] = ["203.0.113.200/32", "2001:db8:c10a::200/128"];

/// A router that takes flow rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    Bird,
    Frr,
    GoBgp,
}

impl Router {
    const ALL: [Self; 3] = [Self::Bird, Self::Frr, Self::GoBgp];

    const fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::GoBgp => "gobgp",
        }
    }

    /// Our address and its own.
    const fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::Bird => ["192.0.2.17", "192.0.2.30"],
            Self::Frr => ["192.0.2.33", "192.0.2.46"],
            Self::GoBgp => ["192.0.2.49", "192.0.2.62"],
        }
    }

    /// Its rules of IPv4 and of IPv6, in its own words.
    fn rules(self, lab: &Lab) -> Result<[String; 2]> {
        Ok(match self {
            Self::Bird => ["flowtab4", "flowtab6"].map(|table| {
                let words = format!("show route table {table} protocol speaker all");
                birdc(lab, &words).unwrap_or_else(|error| error.to_string())
            }),
            Self::Frr => [vtysh(lab, "show bgp ipv4 flowspec detail")?, vtysh(lab, "show bgp ipv6 flowspec detail")?],
            Self::GoBgp => {
                let rib = |family| lab.must("gobgp", &["gobgp", "global", "rib", "-a", family]);
                [rib("ipv4-flowspec")?, rib("ipv6-flowspec")?]
            }
        })
    }

    /// How it counts rules in the answer: each begins so.
    fn count(self, said: &str) -> usize {
        let begins = match self {
            Self::Bird => "flow",
            Self::Frr => "BGP flowspec entry",
            Self::GoBgp => "*>",
        };
        said.lines().filter(|line| line.trim_start().starts_with(begins)).count()
    }

    /// What it must say of the permitted packets, of the discard, and of the injected rule, which is of IPv4 alone.
    const fn says(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Bird => [
                &[
                    "flow4 { dst 203.0.113.200/32; proto 6; dport 443,8000..8010; }",
                    "flow4 { dst 203.0.113.200/32; proto 1; }",
                    "flow4 { dst 203.0.113.200/32; }",
                    "(generic, 0x80060000, 0x0)",
                    "(65535,65281)",
                ],
                &[
                    "flow6 { dst 2001:db8:c10a::200/128; next header 6; dport 443; }",
                    "flow6 { dst 2001:db8:c10a::200/128; }",
                ],
            ],
            Self::Frr => {
                [&["203.0.113.200/32", "IP Protocol", "= 443", "FS:rate 0"], &["2001:db8:c10a::200/128", "= 443"]]
            }
            Self::GoBgp => [
                &[
                    "[destination: 203.0.113.200/32][protocol: ==tcp][destination-port: ==443 >=8000&<=8010]",
                    "[destination: 203.0.113.200/32][protocol: ==icmp]",
                    "[discard]",
                    "no-export",
                ],
                &["[destination: 2001:db8:c10a::200/128", "[protocol: ==tcp][destination-port: ==443]", "[discard]"],
            ],
        }
    }

    /// What it holds of the private route itself.
    fn route(self, lab: &Lab) -> Result<String> {
        let prefix = "203.0.113.200/32";
        match self {
            Self::Bird => birdc(lab, &format!("show route {prefix}")),
            Self::Frr => vtysh(lab, &format!("show bgp ipv4 unicast {prefix}")),
            Self::GoBgp => Ok(lab.exec("gobgp", &["gobgp", "global", "rib", prefix])?.stdout),
        }
    }
}

fn birdc(lab: &Lab, words: &str) -> Result<String> {
    let mut arguments = vec!["birdc", "-s", "{{run}}/bird/bird.ctl"];
    arguments.extend(words.split(' '));
    Ok(lab.exec("bird", &arguments)?.stdout)
}

fn vtysh(lab: &Lab, words: &str) -> Result<String> {
    lab.must("frr", &["vtysh", "--vty_socket", "{{run}}/frr-zebra", "-c", words])
}

/// Tells the story; there is no purchase, and so no path of one.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let mut health = None;
    evidence.require("the speaker starts", || {
        let speaker = Speaker(lab);
        speaker.start()?;
        health = Some(speaker.health()?);
        Ok(("with three peers and two restricted routes".to_owned(), ()))
    })?;
    let speaker = Speaker(lab);
    evidence.point("1", "Each router holds exactly our rules, with their actions and the guard");
    for router in Router::ALL {
        evidence.check(&format!("{}: the session carries flow rules of both families", router.name()), || {
            eventually(BOUND, "the session is up", || {
                let row = speaker.session(router)?;
                let field = |name| row.get(name).cloned().unwrap_or_default();
                ensure!(field("state") == "Established", "{row}");
                let capabilities = field("capabilities").to_string();
                ensure!(capabilities.contains("ipv4-flow") && capabilities.contains("ipv6-flow"), "{capabilities}");
                Ok(capabilities)
            })
        });
        holds(lab, router, evidence, &format!("{}: our rules and no others", router.name()), [3, 2]);
        evidence.check(&format!("{}: the route stands beside them", router.name()), || {
            eventually(BOUND, "the route is there", || {
                let said = router.route(lab)?;
                ensure!(said.contains("203.0.113.200/32"), "{said}");
                Ok(said)
            })
        });
    }
    theirs(&speaker, evidence);
    withdrawal(lab, &speaker, &mut health, evidence);
    clean(lab, evidence);
    Ok(Vec::new())
}

fn holds(lab: &Lab, router: Router, evidence: &mut Evidence, what: &str, counts: [usize; 2]) {
    evidence.check(what, || {
        eventually(BOUND, "the rules are there", || {
            let said = router.rules(lab)?;
            for ((said, wanted), count) in said.iter().zip(router.says()).zip(counts) {
                ensure!(router.count(said) == count, "{} rules, not {count}: {said}", router.count(said));
                for text in wanted {
                    ensure!(said.contains(text), "`{text}` is not in: {said}");
                }
            }
            Ok(said.join("\n"))
        })
    });
}

fn theirs(speaker: &Speaker<'_>, evidence: &mut Evidence) {
    evidence.point("2", "What a router announces is counted and shown, and nothing is done with it");
    evidence.check("BIRD's own rule is in `show flows`", || {
        eventually(BOUND, "the rule is there", || {
            let rows = speaker.show("flows")?;
            let row = rows.iter().find(|row| row["from"].as_str().is_some_and(|from| from.starts_with("peer bird")));
            let row = row.context("no rule of BIRD's")?;
            ensure!(row["rule"] == "destination 198.51.100.16/28 protocol =17" && row["then"] == "discard", "{row}");
            Ok(row.to_string())
        })
    });
}

fn withdrawal(lab: &Lab, speaker: &Speaker<'_>, health: &mut Option<Health>, evidence: &mut Evidence) {
    evidence.point("3", "The forwarder dies: routes and rules go; it returns: they are back");
    *health = None;
    for router in Router::ALL {
        evidence.check(&format!("{}: no rule and no route is left", router.name()), || {
            eventually(BOUND, "all is gone", || {
                let said = router.rules(lab)?;
                let left: usize = said.iter().map(|said| router.count(said)).sum();
                ensure!(left == 0, "{said:?}");
                let route = router.route(lab).unwrap_or_default();
                ensure!(!route.contains("no-export") && !route.contains("192.0.2."), "{route}");
                Ok("gone".to_owned())
            })
        });
    }
    let returned = evidence.require("the forwarder returns", || {
        *health = Some(speaker.health()?);
        Ok(("it speaks".to_owned(), ()))
    });
    if returned.is_ok() {
        for router in Router::ALL {
            holds(lab, router, evidence, &format!("{}: the rules are back", router.name()), [3, 2]);
        }
    }
}

fn clean(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("4", "Everything that was sent is clean in another reader");
    evidence.check("the captures end", || lab.end_captures().map(|()| "whole".to_owned()));
    for router in Router::ALL {
        evidence.check(
            &format!("tshark, tcpdump and bgpkit-parser find nothing wrong on the link to {}", router.name()),
            || {
                let capture = lab.capture(router.name());
                let count = |filter: &str| -> Result<usize> {
                    let mut tshark = Command::new("tshark");
                    tshark.arg("-r").arg(&capture).args(["-Y", filter]);
                    Ok(command::must(&mut tshark, BOUND).context("tshark")?.lines().count())
                };
                let rules = count("bgp.update.path_attribute.mp_reach_nlri.safi == 133")?;
                ensure!(rules > 0, "no flow rules were captured");
                let found = bgp_capture::audit(&capture)?;
                Ok(format!("{rules} frames with flow rules, {found:?}"))
            },
        );
    }
}

/// Our speaker, with one session for each router.
struct Speaker<'a>(&'a Lab);

impl Speaker<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.run_directory().join(name)
    }

    fn config(&self) -> String {
        let run = self.0.run_directory().display();
        let peer = |router: Router| {
            let [local, remote] = router.addresses();
            format!(
                "[[peers]]\nname = \"{}\"\naddress = \"{remote}\"\nlocal-address = \"{local}\"\nremote-as = 64500\n\
                 flowspec = true\n",
                router.name()
            )
        };
        let peers: String = Router::ALL.map(peer).concat();
        let [v4, v6] = PREFIXES;
        format!(
            "admin-socket = \"{run}/speaker.sock\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.1\"\n{peers}\
             [[private-routes]]\nprefix = \"{v4}\"\nnext-hop = \"192.0.2.17\"\nflow = [{{ protocol = \"tcp\", \
             ports = [443, \"8000-8010\"] }}, {{ protocol = \"icmp\", then = \"rate-bytes 1000\" }}]\n\
             [[private-routes]]\nprefix = \"{v6}\"\nnext-hop = \"2001:db8::17\"\nflow = [{{ protocol = \"tcp\", \
             ports = [443] }}]\n[health]\nsocket = \"{run}/health.sock\"\n"
        )
    }

    fn start(&self) -> Result<()> {
        let file = self.path("speaker.toml");
        fs::write(&file, self.config())?;
        let file = file.display().to_string();
        self.0.spawn("speaker", self.0.command("speaker", &["bgp-speaker", "run", "--config", &file])?)?;
        eventually(BOUND, "its admin socket is there", || {
            ensure!(self.0.alive("speaker"), "it ended: {}", self.0.log("speaker"));
            ensure!(self.path("speaker.sock").exists());
            Ok(())
        })
    }

    fn health(&self) -> Result<Health> {
        let prefixes = PREFIXES.map(str::parse).into_iter().collect::<Result<Vec<_>, _>>()?;
        Health::serve(&self.path("health.sock"), prefixes)
    }

    fn show(&self, topic: &str) -> Result<Vec<Value>> {
        shown::rows(self.0, "speaker", "{{run}}/speaker.sock", &[topic])
    }

    fn session(&self, router: Router) -> Result<Value> {
        shown::row(&self.show("sessions")?, "peer", router.name())
    }
}
