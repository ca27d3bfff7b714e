//! The stream of changes, read by curl and by the toolbox's own command, while the process is killed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_store::Journal;
use cloakway_testing::have;
use running::{INTERIM, KEY, Nas, PATIENCE, START, STOP, Toolbox, eventually, now_s};
use serde_json::{Value, json};
use toolbox_core::Row;

const OTHER: &str = "the key of another";

/// The caller that there is may follow; another one may, of one address and without names.
fn toolbox(lines: &str) -> Toolbox {
    let digest = hex(&sha256(&[OTHER.as_bytes()]));
    let toolbox = Toolbox::start_in(
        tempfile::tempdir().unwrap(),
        "max-age-s = 86400\n",
        "",
        &format!(
            "may = [\"verify\", \"changes\", \"names\"]\n[[callers]]\nname = \"other\"\nkey-sha256 = \"{digest}\"\n\
             prefixes = [\"198.51.100.70/32\"]\nmay = [\"changes\"]\n{lines}"
        ),
    );
    std::fs::write(toolbox.path("key"), format!("{KEY}\n")).unwrap();
    toolbox
}

/// A process whose lines are read.
struct Reading {
    child: Child,
    lines: Receiver<String>,
}

impl Reading {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Lines up to one that has `text`.
    fn until(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            let found = line.contains(text);
            lines.push(line);
            if found {
                return lines;
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn curl(toolbox: &Toolbox, key: &str, last: Option<&str>) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sSN", "--cacert"]).arg(toolbox.path("cert.pem"));
    curl.args(["-H", &format!("Authorization: Bearer {key}")]);
    if let Some(last) = last {
        curl.args(["-H", &format!("Last-Event-ID: {last}")]);
    }
    curl.arg(format!("{}/v1/changes", toolbox.url()));
    curl
}

fn follow(toolbox: &Toolbox) -> Reading {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
    command.args(["follow", &toolbox.url(), "--json", "--ca"]).arg(toolbox.path("cert.pem"));
    command.arg("--key-file").arg(toolbox.path("key")).arg("--place").arg(toolbox.path("place"));
    Reading::start(command.stderr(Stdio::null()))
}

/// Sends until it is answered.
fn tell(nas: &Nas, packet: &[u8]) {
    eventually("an answer", || {
        nas.send(packet);
        nas.receive(Duration::from_millis(500))
    });
}

/// The rows of the journal, and which of them are about an address.
fn journal(data: &Path) -> Vec<bool> {
    let mut rows = Vec::new();
    let journal = Journal::open(&data.join("bindings"), |record| {
        rows.push(!Row::decode(record).map_err(|error| error.to_string())?.places().unwrap().is_empty());
        Ok(())
    });
    drop(journal.unwrap());
    rows
}

#[test]
fn a_reader_hears_of_each_change_once_however_often_the_toolbox_is_killed() {
    let mut toolbox = toolbox("[changes]\nheartbeat-s = 1\n");
    let mut nas: Vec<Nas> = (0..10).map(|_| Nas::new("127.0.0.1:0", toolbox.radius)).collect();
    let before = nas[0].accounting(START, "before", "zoe", [198, 51, 100, 126], now_s() - 1000);
    tell(&nas[0], &before);
    let mut reader = follow(&toolbox);
    let first: Vec<Value> = reader.until("\"listed\"").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&first[0]["event"], &first[0]["reason"], &first[0]["id"]),
        (&json!("reset"), &json!("begin"), &json!(""))
    );
    assert_eq!(first[1]["bindings"][0]["subscriber"], json!("zoe"), "{first:?}");
    let listed = first.last().unwrap()["id"].as_str().unwrap().to_owned();
    let mut events: Vec<Value> = Vec::new();
    let hear = |reader: &Reading, events: &mut Vec<Value>| {
        while let Ok(line) = reader.lines.try_recv() {
            events.push(serde_json::from_str(&line).unwrap());
        }
    };
    let mut clock = now_s() - 900;
    for round in 0..6_u8 {
        for step in 0..6_u8 {
            clock += 1;
            // Ten records at once; in the midst of their way to the disk the process may die.
            let packets: Vec<Vec<u8>> = (0..10_u8)
                .map(|slot| {
                    let n = u32::from(round) * 100 + u32::from(slot);
                    let address = [198, 51, 100, 65 + slot * 6 + round % 6];
                    let status = [START, INTERIM, INTERIM, STOP, START, INTERIM][usize::from(step)];
                    let session = format!("s{n}-{}", step / 4);
                    nas[usize::from(slot)].accounting(status, &session, &format!("user{n}"), address, clock)
                })
                .collect();
            packets.iter().zip(&nas).for_each(|(packet, nas)| nas.send(packet));
            if step == round {
                toolbox.kill();
                toolbox.run();
            }
            packets.iter().zip(&nas).for_each(|(packet, nas)| tell(nas, packet));
            nas.iter().for_each(|nas| while nas.poll().is_some() {});
        }
        if round == 2 {
            // The reader goes on where it was, too.
            eventually("it is told all", || {
                hear(&reader, &mut events);
                let last = events.last()?["id"].as_str()?.to_owned();
                let place = std::fs::read_to_string(toolbox.path("place")).ok()?;
                (place == last && last == toolbox.show("followers").ok()?["end"].as_str()?).then_some(())
            });
            reader = follow(&toolbox);
        }
    }
    let end = toolbox.show("followers").unwrap()["end"].as_str().unwrap().to_owned();
    eventually("the reader is told all", || {
        hear(&reader, &mut events);
        (events.last()?["id"].as_str()? == end).then_some(())
    });
    toolbox.kill();
    let number = |id: &str| id.rsplit('-').next().unwrap().parse::<usize>().unwrap();
    let told: Vec<usize> = events
        .iter()
        .map(|event| {
            assert_eq!(event["event"], "changed", "nothing was said anew: {event}");
            number(event["id"].as_str().unwrap())
        })
        .collect();
    let rows = journal(&toolbox.data());
    let expected: Vec<usize> = (number(&listed) + 1..=rows.len()).filter(|n| rows[n - 1]).collect();
    assert_eq!(told, expected, "each row about an address once, in order");
    // What the reader knows is what the table says.
    let mut copy: BTreeMap<String, Value> = BTreeMap::new();
    for known in events.iter().flat_map(|event| event["bindings"].as_array().unwrap()) {
        copy.insert(known["prefix"].as_str().unwrap().to_owned(), known.clone());
    }
    toolbox.run();
    let bindings = toolbox.show("bindings").unwrap();
    for binding in bindings.as_array().unwrap().iter().filter(|binding| binding["subscriber"] != "zoe") {
        let known = &copy[binding["prefix"].as_str().unwrap()];
        assert_eq!((&known["state"], &known["subscriber"]), (&json!("bound"), &binding["subscriber"]));
        assert_eq!(known["proved_at"], binding["proved_at"]);
    }
    let bound = copy.values().filter(|known| known["state"] == "bound").count();
    assert_eq!((bound, bindings.as_array().unwrap().len()), (60, 61));
}

#[test]
fn a_caller_is_told_of_its_addresses_without_names_and_of_a_place_that_is_gone() {
    if !have("curl", "curl") {
        return;
    }
    let toolbox = toolbox(
        "[[callers]]\nname = \"third\"\nkey-sha256 = \"KEY\"\n[changes]\nstreams-per-caller = 1\n"
            .replace("KEY", &hex(&sha256(&[b"the third key"])))
            .as_str(),
    );
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let at = now_s() - 100;
    let mut start = |user: &str, last: u8, s: u32| {
        let packet = nas.accounting(START, user, user, [198, 51, 100, last], at + s);
        nas.tell(&packet);
    };
    start("alice", 70, 0);
    start("bob", 71, 0);
    let reader = Reading::start(&mut curl(&toolbox, OTHER, None));
    let list = reader.until("event: listed").join("\n");
    assert!(list.starts_with("event: reset\nid: \ndata: {\"reason\":\"begin\"}"), "{list}");
    assert!(list.contains("198.51.100.70/32") && !list.contains("198.51.100.71"), "{list}");
    start("carol", 71, 10);
    start("dave", 70, 20);
    let changes = reader.until("overlap").join("\n");
    for text in ["198.51.100.71", "alice", "bob", "carol", "dave"] {
        assert!(!list.contains(text) && !changes.contains(text), "{text}: {list} {changes}");
    }
    let id = changes.lines().rfind(|line| line.starts_with("id: ")).unwrap().trim_start_matches("id: ").to_owned();
    // One more than it may have.
    let bearer = format!("Bearer {OTHER}");
    let ask = |bearer: &str| toolbox.ask_whole(Method::GET, "/v1/changes", &[("authorization", bearer)], b"");
    let (status, answer, headers) = ask(&bearer);
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("too_many_streams")));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(ask("Bearer the third key").0, StatusCode::FORBIDDEN);
    assert_eq!(ask("Bearer none").0, StatusCode::UNAUTHORIZED);
    let followers = toolbox.show("followers").unwrap();
    assert_eq!((&followers["streams"][0]["caller"], &followers["streams"][0]["events"]), (&json!("other"), &json!(1)));
    let entries = || toolbox.show("status").unwrap()["audit"]["entries"].as_u64().unwrap();
    let before = entries();
    drop(reader);
    let free = || {
        eventually("its place is free", || {
            toolbox.show("followers").ok()?["streams"].as_array()?.is_empty().then_some(())
        })
    };
    free();
    // From a place that is there it goes on.
    start("erin", 70, 30);
    let reader = Reading::start(&mut curl(&toolbox, OTHER, Some(&id)));
    let again = reader.until("data: ").join("\n");
    assert!(again.contains("event: changed") && again.contains("198.51.100.70/32"), "{again}");
    assert_eq!(entries(), before + 1, "each is in the audit log");
    drop(reader);
    let ahead = format!("{}-0-999999", id.split('-').next().unwrap());
    for gone in ["0123456789abcdef-0-1", ahead.as_str(), "nonsense", "-"] {
        free();
        let reader = Reading::start(&mut curl(&toolbox, OTHER, Some(gone)));
        let list = reader.until("event: listed").join("\n");
        assert!(list.starts_with("event: reset\nid: \ndata: {\"reason\":\"gone\"}"), "{gone}: {list}");
        assert!(list.contains("198.51.100.70/32"), "{list}");
    }
}

#[test]
fn a_reader_that_takes_nothing_is_cut_and_told_why() {
    if !have("curl", "curl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fixed.toml");
    let line = |n: u32| {
        format!("[[bindings]]\nprefix = \"2001:db8:5100::{:x}:{:x}/128\"\nsubscriber = \"s{n}\"\n", n >> 12, n & 0xfff)
    };
    std::fs::write(&file, (0..40_000).map(line).collect::<String>()).unwrap();
    let toolbox = toolbox(&format!(
        "[changes]\npatience-s = 1\n[[sources.fixed]]\nname = \"many\"\nfile = \"{}\"\n",
        file.display()
    ));
    // Nobody reads what curl prints: it stops reading, too.
    let mut command = curl(&toolbox, KEY, None);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it is cut", || (toolbox.show("followers").ok()?["cut"]["shop"] == json!(1)).then_some(()));
    assert_eq!(toolbox.show("followers").unwrap()["streams"], json!([]), "its place is free");
    let output = BufReader::new(child.stdout.take().unwrap());
    let lines: Vec<String> = output.lines().map(Result::unwrap).filter(|line| !line.is_empty()).collect();
    assert!(child.wait().unwrap().success(), "the stream ends as it should");
    assert_eq!(lines[lines.len() - 2..], ["event: end", "data: {\"reason\":\"slow\"}"]);
    assert!(!lines.iter().any(|line| line == "event: listed"), "a part of the list");
}
