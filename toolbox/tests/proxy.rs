//! Between a NAS and the ISP's own server: radclient speaks to the toolbox, the toolbox to FreeRADIUS.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::net::{SocketAddr, UdpSocket};

use cloakway_testing::have;
use running::radius::{FreeRadius, HOME_SECRET, LETS_IN, Said, free_port, radclient};
use running::{Nas, PATIENCE, SECRET, START, Toolbox, eventually, now_s};
use serde_json::json;
use toolbox_wire::radius::Packet;
use toolbox_wire::radius::relay::{self, Side};

const ALICE: &str = "alice@isp.example";
const AT: &str = "198.51.100.70";

struct Lab {
    toolbox: Toolbox,
    access: SocketAddr,
}

impl Lab {
    /// `homes` are pairs of addresses for accounting and authentication.
    fn start(homes: &[(SocketAddr, SocketAddr)], more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("home.secret"), HOME_SECRET).unwrap();
        let dir = folder.path().display().to_string();
        let access: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut tables = format!("[radius.proxy]\nlisten-authentication = [\"{access}\"]\n{more}\n");
        for (n, (accounting, authentication)) in homes.iter().enumerate() {
            tables += &format!(
                "[[radius.proxy.homes]]\nname = \"home{n}\"\naccounting = \"{accounting}\"\n\
                 authentication = \"{authentication}\"\nsecret-file = \"{dir}/home.secret\"\n"
            );
        }
        Self { toolbox: Toolbox::start_in(folder, "", "", &tables), access }
    }

    fn say(&self, server: SocketAddr, command: &str, attributes: &str) -> Said {
        radclient(&self.toolbox.path(""), server, command, SECRET, attributes, 3)
    }
}

fn record(status: &str, more: &str) -> String {
    format!(
        "Acct-Status-Type = {status}, Acct-Session-Id = \"1\", User-Name = \"{ALICE}\", NAS-Identifier = \"edge\", \
         Framed-IP-Address = {AT}{more}\n"
    )
}

#[test]
fn accounting_is_answered_when_it_is_durable_here_and_answered_there() {
    if !have("freeradius", "freeradius") || !have("radclient", "freeradius-utils") {
        return;
    }
    let home = FreeRadius::start("", LETS_IN);
    let lab = Lab::start(&[(home.accounting, home.authentication)], "");
    let start = record("Start", ", Proxy-State = 0x0102, Message-Authenticator = 0x00");
    let said = lab.say(lab.toolbox.radius, "acct", &start);
    assert!(said.answered && said.text.matches("Proxy-State = 0x0102").count() == 2, "{}", said.text);
    assert!(lab.toolbox.live(ALICE, AT));
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Stop", "")).answered);
    assert!(!lab.toolbox.live(ALICE, AT));
    let heard = home.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].starts_with(&format!("{ALICE} Start 1")) && heard[1].contains("Stop"), "{heard:?}");
    let homes = lab.toolbox.show("homes").unwrap();
    assert_eq!((&homes[0]["answered"], &homes[0]["silent"]), (&json!(2), &json!(0)));
}

#[test]
fn access_by_pap_and_chap_is_what_the_home_server_says_although_the_secrets_differ() {
    if !have("freeradius", "freeradius") || !have("radclient", "freeradius-utils") {
        return;
    }
    let home = FreeRadius::start("", LETS_IN);
    let lab = Lab::start(&[(home.accounting, home.authentication)], "");
    for kind in ["User-Password", "CHAP-Password"] {
        for more in ["", ", Message-Authenticator = 0x00", ", Proxy-State = 0x09"] {
            let asked = format!("User-Name = \"{ALICE}\", {kind} = \"hello\", NAS-Identifier = \"edge\"{more}\n");
            let said = lab.say(lab.access, "auth", &asked);
            assert!(said.answered && said.text.contains("Received Access-Accept"), "{kind}{more}: {}", said.text);
            assert!(said.text.contains("Delegated-IPv6-Prefix = 2001:db8:5100:6400::/56"), "{}", said.text);
            assert!(said.text.contains("of the tunnel"), "hidden anew for the NAS: {}", said.text);
        }
        let asked = format!("User-Name = \"{ALICE}\", {kind} = \"hullo\", NAS-Identifier = \"edge\"\n");
        let said = lab.say(lab.access, "auth", &asked);
        assert!(said.text.contains("Received Access-Reject"), "{kind}: {}", said.text);
    }
    // A long password is several blocks.
    let long = "x".repeat(100);
    let asked = format!("User-Name = \"{ALICE}\", User-Password = \"{long}\"\n");
    assert!(lab.say(lab.access, "auth", &asked).text.contains("Received Access-Reject"));
    let store: Vec<u8> = std::fs::read_dir(lab.toolbox.data())
        .unwrap()
        .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap_or_default())
        .collect();
    assert!(!store.windows(5).any(|part| part == b"hello") && !lab.toolbox.log().contains("hello"));
    assert_eq!(lab.toolbox.show("sources").unwrap()["clients"][0]["relayed"], json!(9));
}

#[test]
fn a_prefix_that_only_the_accept_delegates_is_the_subscribers_from_start_to_stop_and_over_kill_9() {
    if !have("freeradius", "freeradius") || !have("radclient", "freeradius-utils") {
        return;
    }
    let home = FreeRadius::start("", LETS_IN);
    let mut lab = Lab::start(&[(home.accounting, home.authentication)], "");
    let delegated = "2001:db8:5100:6412::1";
    let asked =
        format!("User-Name = \"{ALICE}\", User-Password = \"hello\", NAS-Identifier = \"edge\", NAS-Port = 7\n");
    assert!(lab.say(lab.access, "auth", &asked).answered);
    assert_eq!(lab.toolbox.reason(ALICE, delegated), "no-session", "let in, and not there yet");
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Start", ", NAS-Port = 8")).answered);
    assert_eq!(lab.toolbox.reason(ALICE, delegated), "no-session", "by another line");
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Stop", ", NAS-Port = 8")).answered);
    let record = |status: &str| record(status, ", NAS-Port = 7").replace("\"1\"", "\"2\"");
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Start")).answered);
    assert!(lab.toolbox.live(ALICE, delegated) && lab.toolbox.live(ALICE, AT));
    let proved = lab.toolbox.verify(ALICE, delegated)["proved_at"].clone();
    lab.toolbox.kill();
    lab.toolbox.run();
    assert!(lab.toolbox.live(ALICE, delegated));
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Interim-Update")).answered);
    assert_ne!(lab.toolbox.verify(ALICE, delegated)["proved_at"], proved, "it goes on with its session");
    assert!(lab.say(lab.toolbox.radius, "acct", &record("Stop")).answered);
    assert_eq!(lab.toolbox.reason(ALICE, delegated), "ended");
}

#[test]
fn where_no_home_server_answers_nobody_is_told_that_all_is_well_and_the_next_takes_over() {
    if !have("freeradius", "freeradius") || !have("radclient", "freeradius-utils") {
        return;
    }
    // Somebody is there, and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let alone = Lab::start(&[(at, at)], "wait-ms = 3000\ntries = 2");
    let mut nas = Nas::new("127.0.0.1:0", alone.toolbox.radius);
    let start = nas.accounting(START, "s", ALICE, [198, 51, 100, 70], now_s());
    nas.send(&start);
    eventually("it is given up", || {
        (alone.toolbox.show("sources").unwrap()["dropped"]["no-home-server"] == json!(1)).then_some(())
    });
    assert_eq!(nas.receive(std::time::Duration::from_millis(10)), None);
    assert!(alone.toolbox.live(ALICE, AT), "what was heard is known nevertheless");
    let mut buffer = [0; 4096];
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = || {
        let (length, from) = silent.recv_from(&mut buffer).unwrap();
        (buffer[..length].to_vec(), from)
    };
    let (first, second) = (sent(), sent());
    assert_eq!(first, second, "sent again as it was (RFC 2865 §2.5)");
    // The NAS sends again, and now there is an answer.
    nas.send(&start);
    let (asked, from) = sent();
    let packet = Packet::parse(&asked).unwrap();
    packet.verify(HOME_SECRET.as_bytes(), false).unwrap();
    let side = Side { secret: HOME_SECRET.as_bytes(), authenticator: packet.authenticator() };
    let answer = |code: u8, identifier: u8, side: Side<'_>| {
        let mut made = vec![code, identifier, 0, 20];
        made.resize(20, 0);
        relay::answer(Packet::parse(&made).unwrap(), identifier, side, side).unwrap()
    };
    // Answers that are none, before the one that is.
    let another = Side { authenticator: [1; 16], ..side };
    for wrong in [
        answer(5, asked[1], another),
        answer(5, asked[1], Side { secret: b"another secret", ..side }),
        answer(5, asked[1].wrapping_add(1), side),
        answer(2, asked[1], side),
        b"no packet".to_vec(),
    ] {
        silent.send_to(&wrong, from).unwrap();
    }
    silent.send_to(&answer(5, asked[1], side), from).unwrap();
    let told = nas.receive(PATIENCE).expect("an answer");
    let asked = Packet::parse(&start).unwrap().authenticator();
    Packet::parse(&told).unwrap().verify_response(&asked, SECRET.as_bytes(), false).unwrap();
    assert_eq!(told[1], start[1]);
    eventually("what is no answer is counted", || {
        (alone.toolbox.show("homes").unwrap()[0]["false_answers"] == json!(5)).then_some(())
    });

    let home = FreeRadius::start("", LETS_IN);
    let both = Lab::start(&[(at, at), (home.accounting, home.authentication)], "wait-ms = 4000\ntries = 1");
    assert!(both.say(both.toolbox.radius, "acct", &record("Start", "")).answered);
    assert_eq!(home.heard().len(), 1);
    let asked = format!("User-Name = \"{ALICE}\", User-Password = \"hello\"\n");
    assert!(both.say(both.access, "auth", &asked).text.contains("Received Access-Accept"));
    let homes = both.toolbox.show("homes").unwrap();
    assert_eq!((&homes[0]["answers"], &homes[1]["answers"]), (&json!(false), &json!(true)));
}

#[test]
fn more_requests_than_identifiers_are_on_their_way_at_once() {
    // A home server that answers only when all have come.
    const ALL: usize = 600;
    let home = UdpSocket::bind("127.0.0.1:0").unwrap();
    home.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = home.local_addr().unwrap();
    let lab = Lab::start(&[(at, at)], "wait-ms = 30000\ntries = 1");
    let mut nases: Vec<Nas> = (0..3).map(|_| Nas::new("127.0.0.1:0", lab.toolbox.radius)).collect();
    let mut buffer = [0; 4096];
    let mut asked = Vec::new();
    for n in 0..ALL {
        let nas = &mut nases[n % 3];
        let record = nas.accounting(START, &format!("s{n}"), ALICE, [198, 51, 100, 70], now_s());
        nas.send(&record);
        let (length, from) = home.recv_from(&mut buffer).unwrap();
        asked.push((buffer[..length].to_vec(), from));
    }
    let places: std::collections::BTreeSet<_> = asked.iter().map(|(packet, from)| (packet[1], *from)).collect();
    assert_eq!(places.len(), ALL, "no identifier is used twice at once");
    for (packet, from) in asked.iter().rev() {
        let side =
            Side { secret: HOME_SECRET.as_bytes(), authenticator: Packet::parse(packet).unwrap().authenticator() };
        let mut made = vec![5, packet[1], 0, 20];
        made.resize(20, 0);
        home.send_to(&relay::answer(Packet::parse(&made).unwrap(), packet[1], side, side).unwrap(), from).unwrap();
    }
    for nas in &nases {
        let mut answered = std::collections::BTreeSet::new();
        for _ in 0..ALL / 3 {
            answered.insert(nas.receive(PATIENCE).expect("an answer")[1]);
        }
        assert_eq!(answered.len(), ALL / 3);
    }
}
