//! Injected flow rules, through the real binary and its command line.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bgp_wire::{
    Actions, AsPath, Asn, Attributes, Capability, Context, Families, Family, FlowRule, Framer, HoldTime, Message, Open,
    Origin, RouterId, Update, announce_flow, announce_v4,
};
use support::{free_port, metric, until};
use tempfile::TempDir;

const FLOW: Context = Context { four_octet_as: true, flow: Families { ipv4: true, ipv6: true }, ..Context::LEAST };

struct Speaker {
    folder: TempDir,
    child: Option<Child>,
    metrics: SocketAddr,
}

impl Speaker {
    fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let text = format!(
            "metrics-listen = \"{metrics}\"\nadmin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
             [[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"127.0.0.1\"\nport = {port}\nflowspec = true\nimport = \"all\"\n\
             [inject]\napi-socket = {:?}\njournal = {:?}\nallow = [\"10.0.0.0/8\"]\nmax-flow-rules = 3\n",
            path("admin"),
            path("api"),
            path("journal"),
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let mut speaker = Self { folder, child: None, metrics };
        speaker.start();
        speaker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.arg("run").arg("--config").arg(self.path("speaker.toml")).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn run(&self, words: &[&str], socket: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.args(words).arg("--socket").arg(self.path(socket)).output().unwrap()
    }

    /// `bgp-speaker route flow …`, which must be taken.
    fn flow(&self, words: &[&str]) -> String {
        let output = self.run(&[&["route", "flow"], words].concat(), "api");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The reason for which it is refused.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(&[&["route", "flow"], words].concat(), "api");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A router that takes flow rules.
struct Router {
    stream: TcpStream,
    framer: Framer,
    held: BTreeMap<String, String>,
    ends: usize,
}

impl Router {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut router = Self { stream, framer: Framer::default(), held: BTreeMap::new(), ends: 0 };
        let id = RouterId::new([198, 51, 100, 1].into()).unwrap();
        let mut open = Open::new(Asn(64500), HoldTime::from_secs(90).unwrap(), id, Family::ALL);
        open.capabilities.extend(Family::ALL.map(Capability::Flow));
        for message in [Message::Open(open), Message::KeepAlive] {
            router.stream.write_all(&message.encode(Context::default()).unwrap()).unwrap();
        }
        until("both ends of the rules", || {
            router.read();
            (router.ends == 2).then_some(())
        });
        router
    }

    /// Says something as an internal router, or as one that passes on what came from AS 64510.
    fn tell(&mut self, path: &[u32], then: impl FnOnce(&Attributes) -> Vec<Update>) {
        let attributes = Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(AsPath::sequence(path.iter().copied().map(Asn).collect::<Vec<_>>())),
            local_pref: Some(100),
            ..Attributes::default()
        };
        for update in then(&attributes) {
            self.stream.write_all(&Message::Update(update).encode(FLOW).unwrap()).unwrap();
        }
    }

    fn read(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let Ok(count) = self.stream.read(&mut bytes) else { return };
        self.framer.push(&bytes[..count]);
        while let Some(frame) = self.framer.next_frame().unwrap() {
            let Message::Update(update) = Message::decode(frame, FLOW).unwrap() else { continue };
            assert_eq!(update.flaws, []);
            self.ends += usize::from(update.ends_flow_of().is_some());
            for rule in update.flow_unreachable() {
                self.held.remove(&rule.to_string());
            }
            let actions = Actions::of(&update.attributes).to_string();
            let rules = update.flow_reachable().iter().map(|rule| (rule.to_string(), actions.clone()));
            self.held.extend(rules);
        }
    }

    fn holds(&mut self, rules: &[(&str, &str)]) {
        let expected: BTreeMap<String, String> =
            rules.iter().map(|(rule, then)| ((*rule).to_owned(), (*then).to_owned())).collect();
        until(&format!("{expected:?}"), || {
            self.read();
            (self.held == expected).then_some(())
        });
    }
}

const UDP: &str = "destination 10.1.0.0/16 protocol =17";
const NTP: &str = "destination 10.1.0.0/16 protocol =17 source-port =123";

#[test]
fn rules_are_injected_shown_kept_through_kill_9_and_taken_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut speaker = Speaker::new(listener.local_addr().unwrap().port());
    let mut router = Router::accept(&listener);
    let add = ["add", "destination 10.1.0.0/16 protocol udp", "--then", "rate-bytes 125000", "--id", "one"];
    assert!(speaker.flow(&add).contains("\"added\":1"));
    speaker.flow(&["add", NTP, "--then", "discard", "--set", "ddos"]);
    router.holds(&[(UDP, "rate-bytes 125000"), (NTP, "discard")]);

    let shown = speaker.run(&["show", "flows", "--json"], "admin");
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\"from\":\"set ddos\"") && shown.contains("\"announced_to\":[\"edge\"]"), "{shown}");
    assert!(speaker.flow(&["list", "--set", "ddos"]).contains(NTP));
    for (rule, named) in [
        ("destination 11.0.0.0/8", "rules[0]: 11.0.0.0/8 is outside inject.allow"),
        ("protocol udp", "names no destination prefix"),
        ("destination 10.0.0.0/8 colour red", "colour: not understood"),
    ] {
        let said = speaker.refused(&["add", rule, "--then", "discard"]);
        assert!(said.contains(named), "{said}");
    }
    let many = ["destination 10.2.0.0/16", "destination 10.3.0.0/16"];
    let said = speaker.refused(&["add", many[0], many[1], "--then", "discard"]);
    assert!(said.contains("4 flow rules in all: at most 3"), "{said}");

    speaker.kill();
    drop(router);
    speaker.start();
    let mut router = Router::accept(&listener);
    router.holds(&[(UDP, "rate-bytes 125000"), (NTP, "discard")]);
    until("the API", || speaker.path("api").exists().then_some(()));
    assert!(speaker.flow(&add).contains("\"added\":1"), "the same request gets the same answer");
    let other = speaker.refused(&["del", UDP, "--id", "one"]);
    assert!(other.contains("made before with another body"), "{other}");

    // Who waits has waited for rules too.
    speaker.flow(&["del", UDP]);
    speaker.flow(&["clear", "--set", "ddos"]);
    let waited = speaker.run(&["route", "wait"], "api");
    assert!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stderr));
    router.holds(&[]);
}

#[test]
fn received_rules_are_validated_shown_with_the_reason_and_told_to_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let speaker = Speaker::new(listener.local_addr().unwrap().port());
    let mut router = Router::accept(&listener);
    let rules = ["destination 11.0.0.0/8", "destination 12.0.0.0/8", "destination 13.0.0.0/8", "protocol =17"];
    let rules = rules.map(|text| text.parse::<FlowRule>().unwrap());
    router.tell(&[64510], |attributes| {
        let attributes = Actions::discard().attach(attributes.clone());
        announce_flow(&attributes, Family::Ipv4, &rules, FLOW).unwrap()
    });
    let unicast = |prefixes: &[&str]| {
        let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        move |attributes: &Attributes| announce_v4(attributes, [192, 0, 2, 7].into(), prefixes, FLOW).unwrap()
    };
    router.tell(&[64510], unicast(&["11.0.0.0/8", "12.0.0.0/8"]));
    router.tell(&[64511], unicast(&["12.1.0.0/16"]));
    let shown = until("all of them", || {
        let shown = speaker.run(&["show", "flows", "--json"], "admin");
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        let rows = shown.as_array()?.clone();
        let spoilt =
            |row: &serde_json::Value| row["reason"].as_str().is_some_and(|text| text.starts_with("12.1.0.0/16"));
        (rows.len() == 4 && rows.iter().any(spoilt)).then_some(rows)
    });
    let of = |rule: &str| {
        let row = shown.iter().find(|row| row["rule"] == rule).unwrap();
        assert_eq!((&row["from"], &row["announced_to"]), (&"peer edge, not used".into(), &serde_json::json!([])));
        (row["valid"].clone(), row["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(of("destination 11.0.0.0/8"), (true.into(), String::new()));
    let (valid, reason) = of("destination 12.0.0.0/8");
    assert_eq!((valid, reason.contains("comes from another neighbouring AS")), (false.into(), true), "{reason}");
    let (valid, reason) = of("destination 13.0.0.0/8");
    assert_eq!((valid, reason.contains("no unicast route covers")), (false.into(), true), "{reason}");
    let (valid, reason) = of("protocol =17");
    assert_eq!((valid, reason.contains("names no destination")), (false.into(), true), "{reason}");
    let counts = ["bgp_speaker_valid_flow_rules", "bgp_speaker_invalid_flow_rules"];
    until("the metrics say the same", || {
        let [valid, invalid] = counts.map(|name| metric(speaker.metrics, &format!("{name}{{peer=\"edge\"}}")));
        (valid == Some(1.0) && invalid == Some(3.0)).then_some(())
    });
    router.read();
    assert!(router.held.is_empty(), "a router is told none of it: {:?}", router.held);
}
