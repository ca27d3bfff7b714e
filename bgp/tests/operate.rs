//! What is shown, told and counted is what docs/bgp-operate.md says.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PAGE: &str = include_str!("../../docs/bgp-operate.md");

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let found = text.match_indices(prefix).map(|(at, _)| &text[at..]);
    found.map(|text| text[..text.find(|c| !is_word(c)).unwrap_or(text.len())].to_owned()).collect()
}

#[test]
fn every_metric_is_documented_and_no_other_is() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(words(&text, "bgp_speaker_"), words(PAGE, "bgp_speaker_"));
}

#[test]
fn every_event_is_documented() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/events/mod.rs")).unwrap();
    let body = text.split("pub(crate) enum Event {").nth(1).unwrap().split("\n}").next().unwrap();
    let names =
        body.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(char::is_uppercase));
    let names: Vec<String> = names
        .map(|line| {
            let name = line.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let kebab: String = name
                .chars()
                .flat_map(|c| [c.is_uppercase().then_some('-'), Some(c.to_ascii_lowercase())])
                .flatten()
                .collect();
            kebab.trim_start_matches('-').to_owned()
        })
        .collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(PAGE.contains(&format!("`{name}`")), "{name} is not in docs/bgp-operate.md");
    }
}

struct Speaker(Child);

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn run(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_bgp-speaker")).args(arguments).output().unwrap()
}

#[test]
fn what_is_shown_has_the_documented_fields_and_the_exit_code_says_how_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
         [[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"127.0.0.1\"\nport = 1\n\
         [[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n\
         [health]\nsocket = {:?}\n[inject]\napi-socket = {:?}\njournal = {:?}\nallow = [\"10.0.0.0/8\"]\n",
        path("admin"),
        path("health"),
        path("api"),
        path("journal")
    );
    std::fs::write(path("speaker.toml"), text).unwrap();
    let (config, admin) = (path("speaker.toml"), path("admin"));
    assert_eq!(run(&["show", "sessions", "--socket", &admin]).status.code(), Some(1), "nobody listens");
    assert_eq!(run(&["show", "nonsense", "--socket", &admin]).status.code(), Some(2));
    assert_eq!(run(&["check", &path("none")]).status.code(), Some(2));
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let codes = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration\n";
    assert!(help.contains(codes), "no other code is ever given: {help}");
    assert_eq!(run(&["check", &config]).status.code(), Some(0));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
    let _speaker = Speaker(command.args(["run", "--config", &config]).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while run(&["show", "sessions", "--socket", &admin]).status.code() != Some(0) {
        assert!(Instant::now() < deadline, "it does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(run(&["show", "kernel", "--socket", &admin]).status.code(), Some(1), "there is none");
    assert_eq!(run(&["show", "why", "--socket", &admin]).status.code(), Some(2), "why what?");
    let api = path("api");
    assert_eq!(run(&["route", "why", "10.0.0.0/24", "--socket", &api]).status.code(), Some(0));
    assert_eq!(
        run(&["route", "add", "11.0.0.0/24", "--next-hop", "192.0.2.1", "--socket", &api]).status.code(),
        Some(1)
    );
    for topic in ["sessions", "neighbours", "routes", "health", "why 203.0.113.200/32"] {
        let mut arguments = vec!["show"];
        arguments.extend(topic.split(' '));
        arguments.extend(["--json", "--socket", &admin]);
        let shown = run(&arguments);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let row = shown.as_array().map_or(&shown, |rows| &rows[0]);
        let name = topic.split(' ').next().unwrap();
        let line = PAGE.lines().find(|line| line.starts_with(&format!("| `{name}"))).unwrap();
        let fields = row.as_object().unwrap();
        assert!(!fields.is_empty());
        for field in fields.keys() {
            assert!(line.contains(&format!("`{field}`")), "show {topic}: {field} is not in {line}");
        }
    }
}

#[test]
fn manual_page_and_completions_know_every_subcommand() {
    let page = String::from_utf8(run(&["man"]).stdout).unwrap().replace("\\-", "-");
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        for word in ["route", "drain", "resume", "flow", "events", "leak", "reload", "why", "completions"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    for word in [
        "bgp-speaker-route-drain",
        "bgp-speaker-route-flow-add",
        "bgp-speaker-events",
        "--extended-community",
        "--follow",
    ] {
        assert!(page.contains(word), "{word} is not in the manual page");
    }
    for subcommand in [&["route"][..], &["route", "add"], &["route", "flow", "add"], &["events"], &["leak", "clear"]] {
        let help = run(&[subcommand, &["--help"]].concat());
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Example"), "{subcommand:?} has no example:\n{help}");
    }
}
