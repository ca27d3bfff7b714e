//! A NAS is asked whether a session is still there: one of our own make, and FreeRADIUS in the place of one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::net::UdpSocket;
use std::sync::mpsc;

use axum::http::{Method, StatusCode};
use cloakway_testing::have;
use running::radius::{FreeRadius, HOME_SECRET, free_port};
use running::{KEY, Nas, START, Toolbox, now_s};
use serde_json::{Value, json};
use toolbox_wire::radius::Packet;
use toolbox_wire::radius::relay::{self, Side};

const ALICE: &str = "alice@isp.example";
const AT: &str = "198.51.100.70";

/// A toolbox that asks its client at `port`, and knows a session of alice's.
fn toolbox(port: u16, session: &str) -> Toolbox {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("coa.secret"), HOME_SECRET).unwrap();
    std::fs::write(folder.path().join("radius.secret"), running::SECRET).unwrap();
    let dir = folder.path().display().to_string();
    let tables = format!(
        "may = [\"verify\", \"probe\"]\n[[radius.clients]]\nname = \"asked\"\nprefix = \"127.0.0.5/32\"\n\
         secret-file = \"{dir}/radius.secret\"\ncoa-port = {port}\ncoa-secret-file = \"{dir}/coa.secret\"\ncoa-wait-ms = 10000\n"
    );
    let toolbox = Toolbox::start_in(folder, "", "", &tables);
    for (from, session, address) in
        [("127.0.0.5:0", session, [198, 51, 100, 70]), ("127.0.0.1:0", "other", [198, 51, 100, 71])]
    {
        let mut nas = Nas::new(from, toolbox.radius);
        let start = nas.accounting(START, session, ALICE, address, now_s());
        nas.tell(&start);
    }
    toolbox
}

fn probe(toolbox: &Toolbox, address: &str) -> Value {
    let body = json!({"address": address, "subscriber": ALICE}).to_string();
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let (status, answer) = toolbox.ask(Method::POST, "/v1/verify?probe=true", &headers, body.as_bytes());
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// Packets to answer with: code, Error-Cause, and the secret that they are signed with.
type Answers = Vec<(u8, Option<u32>, &'static str)>;

/// Answers questions one after the other as it is told: packets made of the request, in order.
fn nas(at: &str) -> (u16, mpsc::Sender<Answers>) {
    let socket = UdpSocket::bind(at).unwrap();
    let port = socket.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel::<Answers>();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(answers) = told.recv() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
            let asked = Packet::parse(&buffer[..length]).unwrap();
            for (code, cause, secret) in answers {
                socket.send_to(&answer(asked, code, cause, secret), from).unwrap();
            }
        }
    });
    (port, tell)
}

fn answer(asked: Packet<'_>, code: u8, cause: Option<u32>, secret: &str) -> Vec<u8> {
    let mut made = vec![code, asked.identifier(), 0, 20];
    made.resize(20, 0);
    if let Some(cause) = cause {
        made[3] = 26;
        made.extend([101, 6]);
        made.extend(cause.to_be_bytes());
    }
    let side = Side { secret: secret.as_bytes(), authenticator: asked.authenticator() };
    relay::answer(Packet::parse(&made).unwrap(), asked.identifier(), side, side).unwrap()
}

#[test]
fn what_the_nas_says_takes_a_yes_back_or_leaves_it() {
    let (port, tell) = nas("127.0.0.5:0");
    let toolbox = toolbox(port, "known");
    tell.send(vec![(44, None, HOME_SECRET)]).unwrap();
    let there = probe(&toolbox, AT);
    assert_eq!((&there["live"], &there["probe"], &there["source"]), (&json!(true), &json!("there"), &json!("radius")));
    // Forgeries first; the truth counts.
    tell.send(vec![(44, None, "another secret"), (2, None, HOME_SECRET), (45, Some(503), HOME_SECRET)]).unwrap();
    assert_eq!(probe(&toolbox, AT), json!({"live": false, "reason": "ended", "probe": "gone"}));
    assert!(toolbox.live(ALICE, AT), "only a Stop ends a session");
    tell.send(vec![(45, Some(401), HOME_SECRET)]).unwrap();
    let refused = probe(&toolbox, AT);
    assert_eq!((&refused["live"], &refused["probe"]), (&json!(true), &json!("refused")));
    let other = probe(&toolbox, "198.51.100.71");
    assert_eq!((&other["live"], &other["probe"]), (&json!(true), &json!("not-offered")), "its NAS may not be asked");
    assert_eq!(probe(&toolbox, "198.51.100.72"), json!({"live": false, "reason": "no-session"}), "nobody is asked");
    drop(tell);
    let silent = probe(&toolbox, AT);
    assert_eq!((&silent["live"], &silent["probe"]), (&json!(true), &json!("silent")));
    let (status, answer) = toolbox.ask(Method::POST, "/v1/verify?prob=true", &[], b"");
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("malformed")));
}

#[test]
fn freeradius_knows_one_session_and_not_another() {
    if !have("freeradius", "freeradius") {
        return;
    }
    let port = free_port();
    let more = format!(
        r#"
client asks {{
    ipaddr = 127.0.0.0/8
    secret = "{HOME_SECRET}"
}}
server coa {{
    listen {{
        type = coa
        ipaddr = 127.0.0.5
        port = {port}
        virtual_server = coa
    }}
    recv-coa {{
        if (&Acct-Session-Id == "known" && &User-Name == "{ALICE}" && &Framed-IP-Address == {AT}) {{
            ok
        }}
        else {{
            update reply {{
                Error-Cause := 503
            }}
            reject
        }}
    }}
    send-coa {{
        ok
    }}
}}
"#
    );
    let free = FreeRadius::start(&more, "");
    let known = probe(&toolbox(port, "known"), AT);
    assert_eq!(known["probe"], json!("there"), "{}", free.log());
    assert_eq!(probe(&toolbox(port, "unknown"), AT)["probe"], json!("gone"), "{}", free.log());
}
