//! Two speakers, the program as it is, in every kind of session with each other: what both settle, what each holds of
//! the other, and what is gone when one is.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a pair of speakers is to settle.
struct Case {
    name: &'static str,
    /// The AS of each.
    asn: [u32; 2],
    /// What each says of the other, beside its address.
    settings: [&'static str; 2],
    /// What `show sessions` must name at both.
    settled: &'static [&'static str],
}

const CASES: [Case; 6] = [
    Case {
        name: "internal, one connects",
        asn: [64500; 2],
        settings: ["passive = true", ""],
        settled: &["route-refresh", "enhanced-refresh", "four-octet-as", "extended-messages", "ipv4-by-ipv6"],
    },
    Case { name: "internal, both connect", asn: [64500; 2], settings: ["", ""], settled: &["four-octet-as"] },
    Case {
        name: "internal, signed, with path identifiers",
        asn: [64500; 2],
        settings: ["add-path = true\nmd5-password-file = \"MD5\"", "add-path = true\nmd5-password-file = \"MD5\""],
        settled: &["add-path-send", "add-path-receive"],
    },
    Case {
        name: "external, four octets, TTL security and roles",
        asn: [4_200_000_001, 64501],
        settings: [
            "export = \"all\"\nttl-security-hops = 1\nrole = \"provider\"\nstrict-role = true",
            "export = \"all\"\nttl-security-hops = 1\nrole = \"customer\"\nstrict-role = true",
        ],
        settled: &["four-octet-as"],
    },
    Case {
        name: "external, delayed open, both connect",
        asn: [64501, 64502],
        settings: ["export = \"all\"\ndelay-open-s = 1", "export = \"all\""],
        settled: &["route-refresh"],
    },
    Case {
        name: "internal, watched by BFD",
        asn: [64500; 2],
        settings: ["bfd = { interval-ms = 50 }", "bfd = { interval-ms = 50 }"],
        settled: &["route-refresh"],
    },
];

/// A running speaker, killed when dropped.
struct Speaker {
    child: Child,
    folder: TempDir,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Speaker {
    /// One of the two in the `index`th case, with a route of its own to tell.
    fn start(case: &Case, index: usize, port: u16, end: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("md5"), "between ourselves").unwrap();
        let settings = case.settings[end].replace("MD5", path("md5").to_str().unwrap());
        let (ours, theirs) = (address(index, end), address(index, 1 - end));
        let config = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = {}\nrouter-id = \"{ours}\"\nlisten = [\"{ours}:{port}\"]\n\
             [[peers]]\nname = \"other\"\naddress = \"{theirs}\"\nport = {port}\nlocal-address = \"{ours}\"\n\
             remote-as = {}\nhold-time-s = 3\nimport = \"all\"\n{settings}\n\
             [rib]\nlook-up-socket = {:?}\n\
             [inject]\njournal = {:?}\napi-socket = {:?}\nallow = [\"10.0.0.0/8\"]\n",
            path("admin"),
            case.asn[end],
            case.asn[1 - end],
            path("look-up"),
            path("journal"),
            path("api"),
        );
        std::fs::write(path("speaker.toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"))
            .args(["run", "--config"])
            .arg(path("speaker.toml"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut speaker = Self { child, folder };
        eventually(case.name, || {
            let ended = speaker.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}: {}", case.name, std::fs::read_to_string(speaker.path("log")).unwrap());
            speaker.path("admin").exists() && speaker.path("api").exists()
        });
        speaker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&self, socket: &str, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.path(socket)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }

    fn session(&self) -> Value {
        self.ask("admin", r#"{"topic":"sessions"}"#)["ok"][0].clone()
    }

    /// What it says of the other's route, as text.
    fn look_up(&self, address: Ipv4Addr) -> String {
        let line = format!(r#"{{"topic":"look-up","arguments":{{"address":"{address}"}}}}"#);
        self.ask("admin", &line).to_string()
    }
}

/// Each pair has addresses of its own.
fn address(index: usize, end: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 10 + u8::try_from(index).unwrap(), 1 + u8::try_from(end).unwrap())
}

/// What the speaker at this end announces.
fn prefix(index: usize, end: usize) -> String {
    format!("10.{index}.{end}.0/24")
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tells_and_hears(index: usize) {
    let case = &CASES[index];
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut pair = [0, 1].map(|end| Speaker::start(case, index, port, end));
    for (end, speaker) in pair.iter().enumerate() {
        let prefix = prefix(index, end);
        let put = format!(
            r#"{{"put":{{"set":"a","routes":[{{"next-hop":"192.0.2.1","communities":["64500:7"],"prefixes":["{prefix}"]}}]}}}}"#
        );
        let answer = speaker.ask("api", &put);
        assert!(answer.get("ok").is_some(), "{}: {answer}", case.name);
    }
    for speaker in &pair {
        eventually(&format!("{}: Established", case.name), || speaker.session()["state"] == "Established");
        let row = speaker.session();
        let capabilities = row["capabilities"].to_string();
        for wanted in case.settled {
            assert!(capabilities.contains(&format!("\"{wanted}\"")), "{}: no {wanted} in {row}", case.name);
        }
    }
    for (end, speaker) in pair.iter().enumerate() {
        let theirs = Ipv4Addr::new(10, u8::try_from(index).unwrap(), u8::try_from(1 - end).unwrap(), 7);
        eventually(&format!("{}: {end} holds the other's route", case.name), || {
            let said = speaker.look_up(theirs);
            said.contains(&prefix(index, 1 - end)) && said.contains("64500:7")
        });
    }
    // A session that both ends opened at once is one session, and stays.
    assert_eq!(pair.each_ref().map(|speaker| speaker.session()["flaps"].clone()), [Value::from(0), Value::from(0)]);
    pair[1].child.kill().unwrap();
    let theirs = Ipv4Addr::new(10, u8::try_from(index).unwrap(), 1, 7);
    eventually(&format!("{}: the other dies and its route goes", case.name), || {
        !pair[0].look_up(theirs).contains(&prefix(index, 1))
    });
}

#[test]
fn two_speakers_settle_every_kind_of_session_and_hold_what_the_other_tells() {
    std::thread::scope(|scope| {
        let cases: Vec<_> = (0..CASES.len()).map(|index| scope.spawn(move || tells_and_hears(index))).collect();
        for case in cases {
            case.join().unwrap();
        }
    });
}
