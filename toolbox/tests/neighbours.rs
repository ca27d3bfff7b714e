//! Against the kernel's neighbour table and hosts that answer ARP and ND, or do not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use access::{Netns, Toolbox, eventually, may_make_namespaces};
use cloakway_testing::have;

const ALICE: &str = "02:00:00:00:aa:01";
const BOB: &str = "02:00:00:00:aa:02";

struct Lan {
    router: Netns,
    home: Netns,
    _folder: tempfile::TempDir,
    toolbox: Toolbox,
}

impl Lan {
    fn new() -> Self {
        let (router, home) = (Netns::new("router"), Netns::new("home"));
        router.join("r0", &home, "h0");
        home.ip("link set h0 down");
        home.ip(&format!("link set h0 address {ALICE}"));
        home.ip("link set h0 up");
        router.ip("addr add 198.51.100.65/26 dev r0");
        router.ip("addr add 2001:db8:5100::1/64 dev r0 nodad");
        home.ip("addr add 198.51.100.70/26 dev h0");
        home.ip("addr add 2001:db8:5100::70/64 dev h0 nodad");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identities.toml");
        std::fs::write(&file, format!("[identities]\n\"{ALICE}\" = \"alice\"\n\"{BOB}\" = \"bob\"\n")).unwrap();
        let source = format!(
            "[[sources.neighbours]]\nname = \"lan\"\ninterfaces = [\"r0\"]\nidentities = \"{}\"\nprobe-wait-ms = 10000\n",
            file.display()
        );
        let toolbox = Toolbox::start(Some(&router), "\"198.51.100.64/26\", \"2001:db8:5100::/64\"", &source);
        Self { router, home, _folder: folder, toolbox }
    }

    /// Traffic, so that the kernel asks who is there.
    fn ping(&self, address: &str) {
        drop(self.router.command("ping").args(["-c", "1", "-W", "2", address]).output());
    }

    fn holds(&self, subscriber: &str, address: &str, live: bool) {
        eventually(&format!("{subscriber} at {address}: {live}"), || {
            self.ping(address);
            let answer = self.toolbox.verify(subscriber, address, None);
            if answer["live"] == live { Ok(()) } else { Err(format!("{answer} {}", self.toolbox.show("access"))) }
        });
    }

    fn probe(&self, address: &str, mac: &str) -> (i32, String) {
        let mut command = self.router.command(env!("CARGO_BIN_EXE_toolbox"));
        let output = command.args(["probe", "r0", address, mac, "--limit-ms", "60000"]).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        (output.status.code().unwrap(), text)
    }
}

fn peers() -> bool {
    may_make_namespaces() && have("ping", "iputils-ping") && have("curl", "curl")
}

const V4: &str = "198.51.100.70";
const V6: &str = "2001:db8:5100::70";

#[test]
fn who_answers_is_there_and_who_answers_no_more_is_not() {
    if !peers() {
        return;
    }
    let lan = Lan::new();
    for address in [V4, V6] {
        lan.holds("alice", address, true);
        assert_eq!(lan.probe(address, ALICE), (0, "there".into()));
        assert_eq!(lan.probe(address, BOB), (3, "gone".into()), "somebody else answers");
        let answer = lan.toolbox.verify_now("alice", address);
        assert_eq!((&answer["live"], &answer["probe"]), (&true.into(), &"there".into()), "{answer}");
    }
    // Another box at the same line.
    lan.home.ip("link set h0 down");
    lan.home.ip(&format!("link set h0 address {BOB}"));
    lan.home.ip("link set h0 up");
    lan.router.ip("neigh flush dev r0");
    lan.holds("bob", V4, true);
    assert!(!lan.toolbox.live("alice", V4, None));
    assert_eq!(lan.probe(V4, BOB), (0, "there".into()));
    // Nobody has the address any more: the kernel asks in vain, for a caller too, before it would have found out itself.
    lan.home.ip(&format!("addr del {V4}/26 dev h0"));
    let answer = lan.toolbox.verify_now("bob", V4);
    assert_eq!((&answer["live"], &answer["reason"]), (&false.into(), &"ended".into()), "{answer}");
    assert!(answer["probe"] == "gone" || answer["probe"].is_null(), "{answer}");
    assert_eq!(lan.probe(V4, BOB), (3, "gone".into()));
    lan.holds("bob", V4, false);
}

#[test]
fn what_nobody_can_be_asked_about_is_an_error_and_not_an_answer() {
    if !peers() {
        return;
    }
    let lan = Lan::new();
    lan.router.ip(&format!("neigh replace {V4} lladdr {ALICE} dev r0 nud permanent"));
    let (code, text) = lan.probe(V4, ALICE);
    assert!(code == 1 && text.contains("permanent"), "{code} {text}");
    let output = lan.router.command(env!("CARGO_BIN_EXE_toolbox")).args(["probe", "x9", V4, ALICE]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no interface x9"));
}
