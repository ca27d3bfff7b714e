//! The leak watch beside GoBGP and FRR: a router that loses its policy leaks, its neighbour tells us so by BMP, and the
//! private route goes until the operator is content. FRR 8.4 and GoBGP 3.10 tell nothing of Adj-RIB-Out (RFC 8671): a
//! simulated router does.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bgp_bmp::{Message, PeerHeader, PeerKey, PeerKind, PeerUp, View};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context as Session, Family, HoldTime, Message as Bgp, Open, Origin, RouterId,
    announce_v4, withdraw_v4,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::Value;
use std::os::fd::AsRawFd as _;

use crate::bgp_capture;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::health::Health;
use crate::lab::Lab;
use crate::stories::shown;

const BOUND: Duration = Duration::from_secs(60);
const PRIVATE: &str = "203.0.113.200/32";
const OWN: &str = "198.51.100.48/28";

/// Tells the story; there is no purchase, and so no path of one.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let health = evidence.require("the speaker and a forwarder are started", || {
        let health = Health::serve(&lab.run_directory().join("health.sock"), vec![PRIVATE.parse()?])?;
        let file = lab.run_directory().join("speaker.toml");
        fs::write(&file, config(lab))?;
        let file = file.display().to_string();
        lab.spawn("speaker", lab.command("speaker", &["bgp-speaker", "run", "--config", &file])?)?;
        Ok(("running".to_owned(), health))
    })?;
    quiet(lab, evidence);
    leak(lab, evidence);
    on_the_way_out(lab, evidence);
    blind(lab, evidence);
    told(lab, evidence);
    clean(lab, evidence);
    drop(health);
    Ok(Vec::new())
}

fn clean(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("6", "Everything that was sent is clean in another reader");
    evidence.check("the captures end", || lab.end_captures().map(|()| "whole".to_owned()));
    evidence.check("tshark, tcpdump and bgpkit-parser find nothing wrong on the link to the ISP's router", || {
        let found = bgp_capture::audit(&lab.capture("edge"))?;
        ensure!(found.opens >= 2 && found.prefixes > 0, "{found:?}");
        Ok(format!("{found:?}"))
    });
}

fn config(lab: &Lab) -> String {
    let run = lab.run_directory().display();
    format!(
        "admin-socket = \"{run}/speaker.sock\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n\
         [[peers]]\nname = \"edge\"\naddress = \"192.0.2.2\"\nremote-as = 64500\nlocal-address = \"192.0.2.1\"\n\
         [[private-routes]]\nprefix = \"{PRIVATE}\"\nnext-hop = \"192.0.2.1\"\n[health]\nsocket = \"{run}/health.sock\"\n\
         [bmp]\nlisten = [\"192.0.2.1:11019\", \"192.0.2.17:11019\"]\non-leak = \"withdraw\"\non-heard = \"withdraw\"\n\
         release = \"acknowledge\"\nblind-after-s = 1\n\
         [[bmp.routers]]\nname = \"edge\"\naddress = \"192.0.2.2\"\n\
         [[bmp.routers]]\nname = \"outside\"\naddress = \"192.0.2.18\"\n\
         [[bmp.routers]]\nname = \"simulator\"\naddress = \"192.0.2.3\"\n"
    )
}

fn show(lab: &Lab, topic: &str) -> Result<Vec<Value>> {
    shown::rows(lab, "speaker", "{{run}}/speaker.sock", &[topic])
}

fn row(lab: &Lab, topic: &str, key: &str, name: &str) -> Result<Value> {
    shown::row(&show(lab, topic)?, key, name)
}

fn is(row: &Value, field: &str, wanted: &str) -> Result<()> {
    let found = row.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    ensure!(found.as_deref() == Some(wanted), "{field} is not {wanted}: {row}");
    Ok(())
}

/// What the router of the ISP holds of `prefix`.
fn at_edge(lab: &Lab, prefix: &str) -> Result<String> {
    let outcome = lab.exec("edge", &["gobgp", "global", "rib", prefix])?;
    Ok(outcome.stdout)
}

/// What the neighbour's router holds of `prefix`.
fn at_outside(lab: &Lab, prefix: &str) -> Result<String> {
    let asked = format!("show bgp ipv4 unicast {prefix}");
    lab.must("outside", &["vtysh", "--vty_socket", "{{run}}/frr-zebra", "-d", "bgpd", "-c", &asked])
}

fn clear(lab: &Lab) -> Result<String> {
    lab.must("speaker", &["bgp-speaker", "leak", "clear", "--socket", "{{run}}/speaker.sock"])
}

/// Takes the policy that keeps private routes inside away from the ISP's router, or gives it back.
fn policy(lab: &Lab, given: bool) -> Result<()> {
    let verb = if given { "add" } else { "del" };
    lab.must("edge", &["gobgp", "global", "policy", "export", verb, "keep-inside"])?;
    lab.must("edge", &["gobgp", "neighbor", "192.0.2.34", "softresetout"])?;
    Ok(())
}

fn quiet(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("1", "Both routers tell the station of their tables, and all is well");
    for (router, views) in [("edge", ["adj-rib-in-pre", "loc-rib"]), ("outside", ["adj-rib-in-pre", "adj-rib-in-post"])]
    {
        evidence.check(&format!("{router} tells of {}", views.join(" and ")), || {
            eventually(BOUND, "the tables are told", || {
                let row = row(lab, "bmp", "router", router)?;
                let peers = row.get("peers").map(ToString::to_string).unwrap_or_default();
                for view in views {
                    ensure!(peers.contains(view), "{row}");
                }
                is(&row, "unreadable", "0")?;
                Ok(row.to_string())
            })
        });
    }
    evidence.check("the ISP's router holds the private route, its neighbour does not, and nothing is wrong", || {
        eventually(BOUND, "the route is there", || {
            let held = at_edge(lab, PRIVATE)?;
            ensure!(held.contains("no-export"), "{held}");
            ensure!(at_outside(lab, OWN)?.contains("64500"), "the neighbour hears nothing at all");
            ensure!(at_outside(lab, PRIVATE)?.contains("not in table"), "{}", at_outside(lab, PRIVATE)?);
            Ok(())
        })?;
        ensure!(show(lab, "leaks")?.is_empty(), "{:?}", show(lab, "leaks")?);
        Ok("show leaks: none".to_owned())
    });
}

fn leak(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("2", "The router loses its policy: its neighbour's router tells us, and the private route goes");
    let began = Instant::now();
    let gone = evidence.require("the leak is seen, the route withdrawn, and the neighbour has it no more", || {
        policy(lab, false)?;
        let seen = eventually(BOUND, "the leak is seen", || {
            let row = row(lab, "leaks", "router", "outside")?;
            is(&row, "finding", "from-external")?;
            is(&row, "peer_as", "64500")?;
            Ok(row.to_string())
        })?;
        eventually(BOUND, "the route is withdrawn", || {
            ensure!(!at_edge(lab, PRIVATE)?.contains("no-export"), "the router has it still");
            ensure!(at_outside(lab, PRIVATE)?.contains("not in table"), "the neighbour has it still");
            is(&row(lab, "leaks", "router", "outside")?, "state", "over")
        })?;
        Ok((seen, began.elapsed()))
    });
    if let Ok(gone) = gone {
        evidence.measure("leak-to-withdrawn-everywhere-ms", gone.as_secs_f64() * 1000.0);
    }
    evidence.check("`show routes` says why it is not announced", || {
        let row = row(lab, "routes", "prefix", PRIVATE)?;
        let reason = row.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        ensure!(reason.contains("leak at outside") && reason.contains("leak clear"), "{reason}");
        Ok(reason)
    });
    evidence.check("`show why` says so for the peer that was asked for", || {
        let socket = "{{run}}/speaker.sock";
        let words = ["bgp-speaker", "show", "why", PRIVATE, "--peer", "edge", "--socket", socket, "--json"];
        let said = lab.must("speaker", &words)?;
        ensure!(said.contains("kept back: leak at outside") && said.contains("\"announced\":false"), "{said}");
        Ok(said.trim().to_owned())
    });
    evidence.check("cleared too early, it leaks again and goes again", || {
        clear(lab)?;
        eventually(BOUND, "it has come and gone again", || {
            let row = row(lab, "leaks", "router", "outside")?;
            is(&row, "times", "2")?;
            is(&row, "state", "over")?;
            Ok(row.to_string())
        })
    });
    evidence.check("the policy is back and the leak cleared: the route is announced, and stays inside", || {
        policy(lab, true)?;
        let cleared = clear(lab)?;
        eventually(BOUND, "the route is back", || {
            ensure!(at_edge(lab, PRIVATE)?.contains("no-export"), "not yet");
            Ok(())
        })?;
        ensure!(at_outside(lab, PRIVATE)?.contains("not in table"), "it leaks");
        is(&row(lab, "leaks", "router", "outside")?, "state", "cleared")?;
        Ok(cleared.trim().to_owned())
    });
}

/// A router that tells of Adj-RIB-Out, as RFC 8671 has it: bytes by the RFC, from an address of the ISP's router.
struct Simulator(TcpStream);

impl Simulator {
    fn connect(lab: &Lab) -> Result<Self> {
        let stream = lab.netns("edge").enter(|| {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 3, 0))?;
            connect(socket.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 1, 11019))?;
            Ok(TcpStream::from(socket))
        })?;
        let mut simulator = Self(stream);
        let open = |asn: u32| -> Result<Vec<u8>> {
            let open =
                Open::new(Asn(asn), HoldTime::from_secs(90)?, RouterId::new([192, 0, 2, 3].into())?, Family::ALL);
            Ok(Bgp::Open(open).encode(Session::default())?)
        };
        let (sent, received) = (open(64500)?, open(64511)?);
        let local_address = [192, 0, 2, 3].into();
        let (sent, received) = (sent.as_slice(), received.as_slice());
        let up = PeerUp { local_address, local_port: 179, remote_port: 40000, sent, received, table: None };
        let name = Some("a simulated router".to_owned());
        simulator.0.write_all(&Message::Initiation { name, description: None }.encode())?;
        simulator.0.write_all(&Message::PeerUp { peer: Self::header(View::AdjRibInPre), up }.encode())?;
        Ok(simulator)
    }

    fn header(view: View) -> PeerHeader {
        let address = [192, 0, 2, 99].into();
        let key = PeerKey { kind: PeerKind::Global, distinguisher: [0; 8], address };
        PeerHeader { key, view, two_octet_as: false, asn: Asn(64511), router_id: [192, 0, 2, 99].into(), time: (0, 0) }
    }

    fn tell(&mut self, view: View, announced: bool) -> Result<()> {
        let prefix = vec![PRIVATE.parse()?];
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence([Asn(64500)])),
            communities: vec![Community::NO_EXPORT],
            ..Attributes::default()
        };
        let context = Session::default();
        let updates = if announced {
            announce_v4(&attributes, [192, 0, 2, 3].into(), prefix, context)?
        } else {
            withdraw_v4(prefix, context)
        };
        for update in updates {
            let update = Bgp::Update(update).encode(context)?;
            self.0.write_all(&Message::RouteMonitoring { peer: Self::header(view), update: &update }.encode())?;
        }
        Ok(())
    }
}

fn on_the_way_out(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("3", "Adj-RIB-Out of a simulated router: seen on its way out, before anybody has heard it");
    let simulator = evidence.require("before its policy is enough where it shows nothing else", || {
        let mut simulator = Simulator::connect(lab)?;
        simulator.tell(View::AdjRibOutPre, true)?;
        let seen = eventually(BOUND, "the leak is seen", || {
            let row = row(lab, "leaks", "router", "simulator")?;
            is(&row, "finding", "to-external")?;
            is(&row, "view", "adj-rib-out-pre")?;
            Ok(row.to_string())
        })?;
        Ok((seen, simulator))
    });
    let Ok(mut simulator) = simulator else { return };
    evidence.check("the private route goes; it is back when the leak is over and cleared", || {
        eventually(BOUND, "the route is withdrawn", || {
            ensure!(!at_edge(lab, PRIVATE)?.contains("no-export"), "the router has it still");
            Ok(())
        })?;
        simulator.tell(View::AdjRibOutPre, false)?;
        eventually(BOUND, "the leak is over", || is(&row(lab, "leaks", "router", "simulator")?, "state", "over"))?;
        clear(lab)?;
        eventually(BOUND, "the route is back", || {
            ensure!(at_edge(lab, PRIVATE)?.contains("no-export"), "not yet");
            Ok("back".to_owned())
        })
    });
}

fn blind(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("4", "A router's BMP is lost: the watch says that it is blind, and when it sees again");
    evidence.check("FRR is killed: blind, and nothing is withdrawn for it", || {
        lab.kill9("frr-bgpd")?;
        let said = eventually(BOUND, "the watch is blind", || {
            let row = row(lab, "bmp", "router", "outside")?;
            ensure!(row.get("blind").is_some_and(Value::is_string), "{row}");
            Ok(row.to_string())
        })?;
        ensure!(at_edge(lab, PRIVATE)?.contains("no-export"), "the route is gone");
        Ok(said)
    });
    evidence.check("FRR is back: it sees again", || {
        lab.restart("frr-bgpd")?;
        eventually(BOUND, "the watch sees", || {
            let row = row(lab, "bmp", "router", "outside")?;
            is(&row, "connected", "true")?;
            is(&row, "blind", "null")?;
            Ok(row.to_string())
        })
    });
}

fn told(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("5", "The event stream has it all, in order");
    evidence.check("leak, withholding, withdrawal, end, release, announcement; blind and sighted", || {
        let said = lab.must("speaker", &["bgp-speaker", "events", "--json", "--socket", "{{run}}/speaker.sock"])?;
        let events = said.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = events.iter().filter_map(|event| event.get("event")?.as_str()).collect();
        let mut rest = names.iter();
        let order = [
            "session-up",
            "leak-raised",
            "leak-withheld",
            "route-withdrawn",
            "leak-ended",
            "leak-released",
            "route-announced",
            "leak-raised",
            "leak-raised",
            "watch-blind",
            "watch-sighted",
        ];
        for wanted in order {
            ensure!(rest.any(|name| *name == wanted), "no {wanted} in its place in {names:?}");
        }
        let numbers = events.iter().filter_map(|event| event.get("seq")?.as_u64());
        ensure!(numbers.eq(1..=events.len() as u64), "a hole in the numbers");
        Ok(format!("{} events", events.len()))
    });
}
