//! Injected routes, through the real binary: what was accepted is what the peer has, come kill -9 or not.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Context, Family, Framer, HoldTime, Message, Open, RouterId};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Calls until `done`, at most for the patience.
fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The binary with its folder; killed at the latest when the test ends.
struct Speaker {
    folder: TempDir,
    child: Option<Child>,
}

impl Speaker {
    fn new(port: u16, allow: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
             [[peers]]\nname = \"edge\"\nremote-as = 64500\naddress = \"127.0.0.1\"\nport = {port}\nhold-time-s = 90\n\
             [inject]\napi-socket = {:?}\njournal = {:?}\nallow = [{allow}]\n",
            path("admin"),
            path("api"),
            path("journal"),
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let mut speaker = Self { folder, child: None };
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

    fn api(&self) -> Api {
        let stream = until("the API", || UnixStream::connect(self.path("api")).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Api { lines: BufReader::new(stream.try_clone().unwrap()), stream }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

struct Api {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Api {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.send(&format!("{request}\n"));
        self.answer()
    }
}

/// A router that takes what it is told.
struct Router {
    stream: TcpStream,
    framer: Framer,
    held: BTreeSet<String>,
    ends: usize,
    updates: usize,
}

impl Router {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut router = Self { stream, framer: Framer::default(), held: BTreeSet::new(), ends: 0, updates: 0 };
        let id = RouterId::new([198, 51, 100, 1].into()).unwrap();
        let open = Open::new(Asn(64500), HoldTime::from_secs(90).unwrap(), id, Family::ALL);
        for message in [Message::Open(open), Message::KeepAlive] {
            router.stream.write_all(&message.encode(Context::default()).unwrap()).unwrap();
        }
        router
    }

    /// Takes what has come.
    fn read(&mut self) {
        let mut bytes = vec![0; 1 << 16];
        let Ok(count) = self.stream.read(&mut bytes) else { return };
        self.framer.push(&bytes[..count]);
        while let Some(frame) = self.framer.next_frame().unwrap() {
            let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() else { continue };
            assert_eq!(update.flaws, []);
            if update.ends_rib_of().is_some() {
                self.ends += 1;
                continue;
            }
            self.updates += 1;
            for prefix in update.unreachable() {
                self.held.remove(&prefix.to_string());
            }
            for prefix in update.reachable() {
                self.held.insert(prefix.to_string());
            }
        }
    }

    fn synchronised(&mut self) {
        until("both End-of-RIB", || {
            self.read();
            (self.ends == 2).then_some(())
        });
    }

    fn holds(&mut self, count: usize) {
        until(&format!("{count} routes"), || {
            self.read();
            (self.held.len() == count).then_some(())
        });
    }
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn after_kill_9_the_peer_has_what_was_accepted() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\", \"2001:db8::/32\"");
    let mut router = Router::accept(&listener);
    let mut api = speaker.api();
    router.synchronised();

    let mut bulk =
        String::from("{\"id\":\"bulk\",\"stream\":{\"set\":\"a\",\"replace\":true}}\n{\"next-hop\":\"192.0.2.1\"}\n");
    for n in 0..20_000_u32 {
        bulk.push_str(&format!("10.{}.{}.{}/32\n", n >> 16, n >> 8 & 0xff, n & 0xff));
    }
    bulk.push_str(".\n");
    api.send(&bulk);
    assert_eq!(api.answer()["ok"]["added"], 20_000);
    router.holds(20_000);
    assert!(router.updates <= 20_000 / 800 + 1, "{} messages", router.updates);
    let patch = json!({"id": "p", "patch": {"set": "a", "remove": ["10.0.0.7/32"],
        "routes": [{"next-hop": "2001:db8::1", "prefixes": ["2001:db8:1::/48"], "communities": ["64500:7"]}]}});
    assert_eq!(api.ask(&patch)["ok"]["removed"], 1);
    assert_eq!(
        api.ask(&json!({"put": {"set": "b", "routes": [{"next-hop": "192.0.2.9", "prefixes": ["10.9.0.0/16"]}]}}))["ok"]
            ["added"],
        1
    );
    speaker.kill();
    drop(router);

    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    assert_eq!(router.held.len(), 20_001);
    assert!(
        !router.held.contains("10.0.0.7/32")
            && router.held.contains("2001:db8:1::/48")
            && router.held.contains("10.9.0.0/16")
    );

    // The same request again changes nothing and is answered as before; another body under its id is refused.
    let mut api = speaker.api();
    assert_eq!(api.ask(&patch)["ok"]["removed"], 1);
    let other = json!({"id": "p", "delete": {"set": "a"}});
    assert!(api.ask(&other)["error"].as_str().unwrap().contains("made before with another body"));
    assert_eq!(api.ask(&json!({"delete": {"set": "a"}}))["ok"]["removed"], 20_000);
    router.holds(1);
}

#[test]
fn waiting_ends_when_the_peer_has_acknowledged() {
    let (listener, port) = listener();
    let speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut api = speaker.api();
    assert!(api.ask(&json!({"wait": {}}))["error"].as_str().unwrap().contains("no peer"));
    let mut router = Router::accept(&listener);
    router.synchronised();
    let put =
        json!({"id": "1", "put": {"set": "a", "routes": [{"next-hop": "192.0.2.1", "prefixes": ["10.0.0.0/24"]}]}});
    assert_eq!(api.ask(&put)["ok"]["added"], 1);
    let wait = json!({"wait": {"request": "1", "prefix": "10.0.0.0/24"}});
    assert_eq!(api.ask(&wait)["ok"]["acknowledged-by"], json!(["edge"]));
    // Acknowledged means that it has arrived: nothing has to be waited for.
    router.read();
    assert!(router.held.contains("10.0.0.0/24"));
    assert!(api.ask(&json!({"wait": {"request": "2"}}))["error"].as_str().unwrap().contains("no request 2"));
    assert!(api.ask(&json!({"wait": {"prefix": "10.0.1.0/24"}}))["error"].as_str().unwrap().contains("not announced"));
    let look_up = api.ask(&json!({"look-up": {"prefix": "10.0.0.0/24"}}));
    assert_eq!((&look_up["ok"]["set"], &look_up["ok"]["told-to"]), (&json!("a"), &json!(["edge"])));
}

#[test]
fn a_peer_that_does_not_read_delays_nobody_and_waiting_for_it_ends() {
    const COUNT: u32 = 170_000;
    let (listener, port) = listener();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let speaker = Speaker::new(port, "\"2001:db8::/32\"");
    let router = Router::accept(&listener);
    let mut api = speaker.api();
    until("the session", || {
        let answer = api.ask(&json!({"wait": {"timeout-ms": 1}}));
        (!answer["error"].as_str().unwrap_or_default().contains("no peer")).then_some(())
    });
    // More than the sockets between us hold; the answer does not wait for the peer.
    for set in 0..2 {
        let mut bulk = format!("{{\"stream\":{{\"set\":\"{set}\"}}}}\n{{\"next-hop\":\"2001:db8::1\"}}\n");
        for n in 0..COUNT {
            bulk.push_str(&format!("2001:db8:{set}::{:x}:{:x}/128\n", n >> 16, n & 0xffff));
        }
        bulk.push_str(".\n");
        api.send(&bulk);
        assert_eq!(api.answer()["ok"]["added"], COUNT);
    }
    assert!(api.ask(&json!({"wait": {"timeout-ms": 50}}))["error"].as_str().unwrap().contains("not on the wire"));
    drop(router);
    assert_eq!(api.ask(&json!({"delete": {"set": "0"}}))["ok"]["removed"], COUNT);
}

#[test]
fn what_is_not_allowed_is_refused_and_changes_nothing() {
    let (listener, port) = listener();
    let speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    let refused = |api: &mut Api, request: &Value| api.ask(request)["error"].as_str().unwrap().to_owned();
    let put =
        json!({"put": {"set": "a", "routes": [{"next-hop": "192.0.2.1", "prefixes": ["10.0.0.0/24", "11.0.0.0/24"]}]}});
    assert!(refused(&mut api, &put).contains("routes[0]: 11.0.0.0/24 is outside inject.allow"));
    api.send("{\"stream\":{\"set\":\"a\"}}\n{\"next-hop\":\"192.0.2.1\"}\n10.0.0.0/24\n10.0.0/24\n.\n");
    assert!(api.answer()["error"].as_str().unwrap().contains("line 3: \"10.0.0/24\" is no prefix"));
    assert!(refused(&mut api, &json!({"put": {"set": "a", "stray": 1}})).contains("unknown field `stray`"));
    assert!(refused(&mut api, &json!({})).contains("give one of put"));
    assert_eq!(api.ask(&json!({"sets": {}}))["ok"], json!([]));
    router.read();
    assert!(router.held.is_empty());
}

#[test]
fn the_command_line_announces_lists_and_withdraws() {
    let (listener, port) = listener();
    let speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut router = Router::accept(&listener);
    router.synchronised();
    speaker.api();
    let route = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        let output = command.arg("route").args(args).arg("--socket").arg(speaker.path("api")).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, text) =
        route(&["add", "10.0.0.0/24", "10.0.1.0/24", "--next-hop", "192.0.2.1", "--community", "64500:1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"added\":2"), "{text}");
    router.holds(2);
    let (_, text) = route(&["list"]);
    assert!(text.contains("64500:1") && text.contains("10.0.1.0/24"), "{text}");
    assert!(route(&["why", "10.0.0.0/24"]).1.contains("\"set\":\"cli\""));
    assert_eq!(route(&["del", "10.0.0.0/24"]).0, Some(0));
    router.holds(1);
    let (code, text) = route(&["add", "11.0.0.0/24", "--next-hop", "192.0.2.1"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("outside inject.allow"), "{text}");
}

#[test]
fn a_script_for_exabgp_is_obeyed_and_its_end_withdraws() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    let script = "echo 'announce route 10.0.0.0/24 next-hop 192.0.2.1 community [64500:1]'\n\
                  echo 'announce attributes next-hop 192.0.2.1 nlri 10.0.1.0/24 10.0.2.0/24'\n\
                  echo 'announce route 11.0.0.0/24 next-hop 192.0.2.1'\n\
                  echo 'withdraw route 10.0.1.0/24'\n\
                  read a; read b; read c; read d; echo $a $b $c $d > \"$1\"\n\
                  while [ ! -e \"$2\" ]; do sleep 0.01; done\n";
    std::fs::write(speaker.path("script.sh"), script).unwrap();
    let run = ["script.sh", "answers", "go"].map(|name| format!("{:?}", speaker.path(name))).join(", ");
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text.push_str(&format!("[[inject.processes]]\nname = \"s\"\nrun = [\"/bin/sh\", {run}]\n"));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    until("the script's routes", || {
        router.read();
        let wanted: BTreeSet<String> = ["10.0.0.0/24", "10.0.2.0/24"].map(str::to_owned).into();
        (router.held == wanted).then_some(())
    });
    let answers =
        until("answers", || std::fs::read_to_string(speaker.path("answers")).ok().filter(|text| text.ends_with('\n')));
    assert_eq!(answers, "done done error done\n");
    std::fs::write(speaker.path("go"), "").unwrap();
    router.holds(0);
}

#[test]
fn a_checked_set_is_announced_while_its_port_answers() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    let (service, service_port) = self::listener();
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text.push_str(&format!("[[inject.checks]]\nset = \"a\"\ntcp = \"127.0.0.1:{service_port}\"\nevery-ms = 20\n"));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    let put = json!({"put": {"set": "a", "routes": [{"next-hop": "192.0.2.1", "prefixes": ["10.0.0.0/24"]}]}});
    assert_eq!(api.ask(&put)["ok"]["added"], 1);
    router.holds(1);
    drop(service);
    router.holds(0);
    assert_eq!(api.ask(&json!({"look-up": {"prefix": "10.0.0.0/24"}}))["ok"]["announced"], false);
    let _service = TcpListener::bind(("127.0.0.1", service_port)).unwrap();
    router.holds(1);
}
