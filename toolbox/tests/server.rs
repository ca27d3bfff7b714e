//! The running toolbox, spoken to over its real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::time::Duration;

use axum::http::{Method, StatusCode};
use running::{INTERIM, KEY, Nas, START, STOP, Toolbox, eventually, now_s};
use serde_json::json;
use toolbox_wire::radius::{Request, build_request};

const A: [u8; 4] = [198, 51, 100, 70];
const SOON: Duration = Duration::from_millis(300);

#[test]
fn a_subscriber_is_live_from_start_to_stop_and_the_answers_disclose_nobody_else() {
    let toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let now = now_s();
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "no-session");
    let start = nas.accounting(START, "s1", "alice@isp.example", A, now - 5);
    let answer = nas.tell(&start);
    assert_eq!((answer[0], answer[1]), (5, start[1]));
    let verdict = toolbox.verify("alice@isp.example", "198.51.100.70");
    assert_eq!(verdict["live"], json!(true));
    assert_eq!(verdict["source"], json!("radius"));
    assert_eq!(verdict["since"], verdict["proved_at"]);
    assert_eq!(toolbox.verify("bob@isp.example", "198.51.100.70"), json!({"live": false, "reason": "no-session"}));
    assert_eq!(toolbox.reason("alice@isp.example", "203.0.113.10"), "not-ours");
    assert_eq!(nas.tell(&start), answer, "a copy gets the same answer");
    let interim = nas.accounting(INTERIM, "s1", "alice@isp.example", A, now - 3);
    nas.tell(&interim);
    assert_ne!(toolbox.verify("alice@isp.example", "198.51.100.70")["proved_at"], verdict["proved_at"]);

    let sources = toolbox.show("sources").unwrap();
    let edge = &sources["clients"][0];
    assert_eq!((&edge["client"], &edge["acknowledged"], &edge["copies"]), (&json!("edge"), &json!(2), &json!(1)));
    let bindings = toolbox.show("bindings").unwrap();
    assert_eq!(bindings[0]["prefix"], json!("198.51.100.70/32"));
    assert_eq!(bindings[0]["subscriber"], json!("alice@isp.example"));
    assert_eq!(bindings[0]["state"], json!("bound"));

    let stop = nas.accounting(STOP, "s1", "alice@isp.example", A, now - 1);
    nas.tell(&stop);
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "ended");
    assert_eq!(toolbox.show("bindings").unwrap(), json!([]));
    let callers = toolbox.show("callers").unwrap();
    assert_eq!((&callers[0]["lookups"], &callers[0]["live"]), (&json!(6), &json!(2)));
    assert!(!toolbox.log().contains("alice"), "no subscriber in the log");
}

#[test]
fn what_makes_somebody_unknown_is_an_alarm_that_names_the_session() {
    let toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let now = now_s();
    assert_eq!(toolbox.show("alarms").unwrap(), json!([]));
    for (session, user) in [("s1", "alice@isp.example"), ("s2", "bob@isp.example")] {
        let start = nas.accounting(START, session, user, A, now - 5);
        nas.tell(&start);
    }
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "ambiguous");
    let alarms = toolbox.show("alarms").unwrap();
    assert_eq!(alarms.as_array().unwrap().len(), 1);
    let (of, at) = (&alarms[0], json!(["198.51.100.70/32"]));
    assert_eq!((&of["reason"], &of["client"], &of["times"]), (&json!("overlap"), &json!("edge"), &json!(1)));
    assert_eq!((&of["session"], &of["addresses"]), (&json!("s2"), &at));
    // A Stop from before its Start.
    for (status, at) in [(START, now - 5), (STOP, now - 600)] {
        let packet = nas.accounting(status, "s3", "carol@isp.example", [198, 51, 100, 80], at);
        nas.tell(&packet);
    }
    let alarms = toolbox.show("alarms").unwrap();
    assert_eq!((&alarms[0]["reason"], &alarms[0]["session"]), (&json!("contradiction"), &json!("s3")), "{alarms}");
    assert!(!toolbox.log().contains("alice") && !alarms.to_string().contains("isp.example"));
}

#[test]
fn strangers_bad_authenticators_and_broken_packets_get_no_answer_and_change_nothing() {
    let toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let stranger = Nas::new("127.0.0.3:0", toolbox.radius);
    let good = nas.accounting(START, "s1", "alice@isp.example", A, now_s());
    let mut changed = good.clone();
    changed[30] ^= 1;
    stranger.send(&good);
    nas.send(&changed);
    nas.send(&good[..40]);
    nas.send(b"GET / HTTP/1.1\r\n\r\n      ");
    let attributes: [(u8, &[u8]); 1] = [(40, &[0, 0, 0, 1])];
    nas.send(&build_request(Request::Accounting, 9, &attributes, running::SECRET.as_bytes(), [0; 16], false).unwrap());
    let dropped = eventually("all are counted", || {
        let dropped = toolbox.show("sources").ok()?["dropped"].clone();
        (dropped.as_object()?.values().filter_map(serde_json::Value::as_u64).sum::<u64>() == 5).then_some(dropped)
    });
    assert_eq!(dropped, json!({"bad-authenticator": 1, "malformed": 2, "unknown-client": 1, "unusable-record": 1}));
    assert_eq!((nas.receive(SOON), stranger.receive(SOON)), (None, None));
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "no-session");
    nas.tell(&good);
    assert!(toolbox.live("alice@isp.example", "198.51.100.70"), "and the genuine packet is taken");
}

#[test]
fn status_server_and_a_strict_client_need_a_message_authenticator() {
    let toolbox = Toolbox::start();
    let nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let probe =
        |signed| build_request(Request::StatusServer, 7, &[], running::SECRET.as_bytes(), [9; 16], signed).unwrap();
    nas.send(&probe(false));
    assert_eq!(nas.receive(SOON), None);
    let answer = nas.tell(&probe(true));
    assert_eq!((answer[0], answer[1], answer[20]), (5, 7, 80));
    let mut strict = Nas::new("127.0.0.2:0", toolbox.radius);
    let plain = strict.accounting(START, "s1", "alice@isp.example", A, now_s());
    strict.send(&plain);
    assert_eq!(strict.receive(SOON), None);
    let attributes: [(u8, &[u8]); 3] = [(40, &[0, 0, 0, 1]), (44, b"s1"), (33, b"proxy")];
    let signed = build_request(Request::Accounting, 8, &attributes, running::SECRET.as_bytes(), [0; 16], true).unwrap();
    let answer = strict.tell(&signed);
    assert_eq!((answer[20], answer[38], &answer[40..]), (80, 33, &b"proxy"[..]));
}

#[test]
fn wrong_requests_get_a_precise_refusal() {
    let toolbox = Toolbox::start();
    let bearer = format!("Bearer {KEY}");
    let good = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = br#"{"address":"198.51.100.70","subscriber":"alice"}"#;
    let ask = |method, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let (status, answer) = toolbox.ask(method, path, headers, body);
        (status, answer["error"]["code"].as_str().unwrap_or("").to_owned(), answer["error"]["field"].clone())
    };
    let none = serde_json::Value::Null;
    let verify = |headers: &[(&str, &str)], body: &[u8]| ask(Method::POST, "/v1/verify", headers, body);
    let unauthorized = (StatusCode::UNAUTHORIZED, "unauthorized".to_owned(), none.clone());
    assert_eq!(verify(&good[1..], body), unauthorized);
    assert_eq!(verify(&[("authorization", "Bearer x"), good[1]], body), unauthorized);
    assert_eq!(verify(&[("authorization", &format!("{bearer} ")[7..]), good[1]], body), unauthorized);
    assert_eq!(verify(&good[..1], body).0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let bad = |code: &str, field: serde_json::Value| (StatusCode::BAD_REQUEST, code.to_owned(), field);
    assert_eq!(verify(&good, b"{"), bad("malformed", none.clone()));
    assert_eq!(verify(&good, br#"{"address":"198.51.100","subscriber":"a"}"#), bad("invalid", json!("address")));
    assert_eq!(verify(&good, br#"{"address":"198.51.100.70"}"#), bad("invalid", json!("subscriber")));
    assert_eq!(verify(&good, br#"{"address":"::1","subscriber":"a","at":1}"#), bad("invalid", json!("at")));
    assert_eq!(verify(&good, &[b' '; 5000]).0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ask(Method::GET, "/v1/verify", &good, b"").0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Method::GET, "/v2", &good, b"").1, "not_found");
    assert_eq!(toolbox.ask(Method::GET, "/healthz", &[], b"").0, StatusCode::OK);
    for route in toolbox::api::ROUTES {
        let method: Method = route.method.to_uppercase().parse().unwrap();
        let list = [br#"{"questions":["#, body.as_slice(), b"]}"].concat();
        let body = if route.path == "/v1/verify-list" { &list } else { body.as_slice() };
        let (status, _) = toolbox.ask(method, route.path, &good, body);
        // The caller of this test may verify, and not follow.
        let right = if route.path == "/v1/changes" { StatusCode::FORBIDDEN } else { StatusCode::OK };
        assert_eq!(status, right, "{}", route.path);
    }
    let callers = toolbox.show("callers").unwrap();
    assert_eq!((&callers[0]["lookups"], &callers[0]["refused"]), (&json!(2), &json!(6)));
}

#[test]
fn a_list_is_answered_in_its_order_or_not_at_all() {
    let toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let start = nas.accounting(START, "s1", "alice@isp.example", A, now_s());
    nas.tell(&start);
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let ask = |questions: serde_json::Value| {
        let body = json!({ "questions": questions }).to_string();
        toolbox.ask(Method::POST, "/v1/verify-list", &headers, body.as_bytes())
    };
    let question = |name: &str, last: u8| json!({"address": format!("198.51.100.{last}"), "subscriber": name});
    let several = json!([question("bob@isp.example", 70), question("alice@isp.example", 70), question("alice", 71)]);
    let (status, answer) = ask(several);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let live: Vec<_> = answer["answers"].as_array().unwrap().iter().map(|answer| answer["live"].clone()).collect();
    assert_eq!(live, [json!(false), json!(true), json!(false)]);
    assert_eq!(answer["answers"][1]["source"], json!("radius"));
    assert_eq!(toolbox.show("status").unwrap()["audit"]["entries"], json!(3));
    let future = json!({"address": "198.51.100.70", "subscriber": "alice", "at": "2999-01-01T00:00:00Z"});
    let (status, answer) = ask(json!([question("alice", 70), future]));
    assert_eq!((status, &answer["error"]["field"]), (StatusCode::BAD_REQUEST, &json!("questions[1].at")));
    let (status, answer) = ask(json!(vec![question("alice", 70); 257]));
    assert_eq!((status, &answer["error"]["field"]), (StatusCode::BAD_REQUEST, &json!("questions")));
    assert_eq!(ask(json!(vec![question("alice", 70); 256])).0, StatusCode::OK, "longer than a single one may be");
    assert_eq!(toolbox.show("status").unwrap()["audit"]["entries"], json!(259), "what is refused is not looked up");
    let callers = toolbox.show("callers").unwrap();
    let counted = ["lookups", "live", "refused"].map(|of| callers[0][of].clone());
    assert_eq!(counted, [json!(259), json!(1), json!(2)]);
}

#[test]
fn every_look_up_is_in_the_audit_log_and_a_change_of_it_is_found() {
    let toolbox = Toolbox::start();
    assert_eq!(toolbox.command(&["audit", "verify"]).status.code(), Some(0), "an empty log is whole");
    for _ in 0..3 {
        toolbox.verify("alice@isp.example", "198.51.100.70");
    }
    let output = toolbox.command(&["audit", "verify", "--json"]);
    let head: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(head["entries"], json!(3));
    assert_eq!(head, toolbox.show("status").unwrap()["audit"]);
    let log = toolbox.data().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("\"caller\":\"shop\"") && !text.contains("alice") && !text.contains("198.51.100.70"));
    std::fs::write(&log, text.replacen("no-session", "live", 1)).unwrap();
    let output = toolbox.command(&["audit", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("audit.jsonl:1: the hash does not fit"));
    std::fs::remove_file(&log).unwrap();
    assert_eq!(toolbox.command(&["audit", "verify"]).status.code(), Some(3));
}

#[test]
fn whois_says_who_is_and_who_was_there_and_is_in_the_audit_log() {
    let mut toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let now = now_s();
    let when = |ago: u32| cloakway_types::Timestamp::from_secs(u64::from(now - ago)).to_string();
    // Their packets come late, as the delay that they state says: what they tell of is minutes ago.
    for (status, user, ago) in [(START, "alice", 900), (STOP, "alice", 600), (START, "bob", 300)] {
        let packet = nas.accounting_of(status, &format!("of-{user}"), user, A, now - ago, ago);
        nas.tell(&packet);
    }
    let whois = |toolbox: &Toolbox, arguments: &[&str]| {
        let output = toolbox.command(&[&["whois"], arguments, &["--json"]].concat());
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said)
    };
    for _ in 0..2 {
        let (code, said) = whois(&toolbox, &["198.51.100.70"]);
        assert_eq!((code, &said["answer"], &said["subscriber"]), (0, &json!("bound"), &json!("bob")));
        assert_eq!((&said["session"], &said["source"]), (&json!("of-bob"), &json!("radius")));
        assert_eq!(said["claims"].as_array().unwrap().len(), 1);
        let (code, said) = whois(&toolbox, &["198.51.100.70:40000", "--at", &when(750)]);
        assert_eq!((code, &said["subscriber"], &said["port"]), (0, &json!("alice"), &json!(40_000)));
        let (code, said) = whois(&toolbox, &["198.51.100.70", "--at", &when(450)]);
        assert_eq!((code, &said["answer"], &said["reason"]), (3, &json!("unknown"), &json!("no-session")));
        let (code, said) = whois(&toolbox, &["198.51.100.70", "--at", "2020-01-01T00:00:00Z"]);
        assert_eq!((code, &said["reason"]), (3, &json!("forgotten")));
        let (code, said) = whois(&toolbox, &["203.0.113.1"]);
        assert_eq!((code, &said["answer"]), (3, &json!("not-ours")));
        assert_eq!(toolbox.verify_at("alice", "198.51.100.70", &when(750))["live"], json!(true));
        assert_eq!(toolbox.verify_at("bob", "198.51.100.70", &when(750))["reason"], json!("no-session"));
        assert_eq!(toolbox.verify_at("bob", "198.51.100.70", &when(100))["live"], json!(true));
        // And again from the disk.
        toolbox.kill();
        toolbox.run();
    }
    let output = toolbox.command(&["whois", "198.51.100"]);
    assert_eq!(output.status.code(), Some(2));
    let log = std::fs::read_to_string(toolbox.data().join("audit.jsonl")).unwrap();
    assert_eq!(log.matches("\"caller\":\"operator\"").count(), 10);
    assert!(!log.contains("alice"));
    assert_eq!(toolbox.command(&["audit", "verify"]).status.code(), Some(0));
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut toolbox = Toolbox::start();
    let mut first = None;
    for round in 0..4_u8 {
        let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
        let base = round * 12;
        let at = now_s();
        // As many as there are sent at once; the kill falls among them.
        for n in 0..12 {
            let (session, user) = (format!("r{round}s{n}"), format!("user{}", base + n));
            let packet = nas.accounting(START, &session, &user, [198, 51, 100, 65 + base + n], at);
            nas.send(&packet);
        }
        let mut acknowledged = Vec::new();
        for _ in 0..=2 * round {
            let answer = nas.receive(running::PATIENCE).expect("an answer");
            acknowledged.push(answer[1] - 1);
        }
        toolbox.kill();
        // Answers that were on their way count as well.
        while let Some(answer) = nas.receive(SOON) {
            acknowledged.push(answer[1] - 1);
        }
        toolbox.run();
        for n in acknowledged {
            let (user, address) = (format!("user{}", base + n), format!("198.51.100.{}", 65 + base + n));
            assert!(toolbox.live(&user, &address), "round {round}: {user} at {address} was acknowledged");
        }
        let since = toolbox.verify("user0", "198.51.100.65")["since"].clone();
        assert_eq!(*first.get_or_insert(since.clone()), since);
        assert_eq!(toolbox.command(&["audit", "verify"]).status.code(), Some(0));
        // What was not acknowledged is sent again, as a NAS does.
        for n in 0..12 {
            let (session, user) = (format!("r{round}s{n}"), format!("user{}", base + n));
            let packet = nas.accounting(START, &session, &user, [198, 51, 100, 65 + base + n], at);
            nas.tell(&packet);
        }
    }
    let bindings = toolbox.show("bindings").unwrap();
    assert_eq!(bindings.as_array().unwrap().len(), 48);
    assert!(bindings.as_array().unwrap().iter().all(|binding| binding["state"] == json!("bound")));
}

#[test]
fn bindings_of_an_earlier_version_are_taken_over() {
    let mut toolbox = Toolbox::start();
    toolbox.kill();
    // As it wrote them: a session of alice, and the restart of another NAS.
    let at = u64::from(now_s()) * 1000;
    let mark = json!({"at": at, "basis": "stated"});
    let nas = json!({"identifier": "edge", "v4": null, "v6": null});
    let key = json!({"source": "radius", "client": "edge", "session": "s1", "nas": nas});
    let claim = json!({"net": "198.51.100.70/32", "span": {"since": at, "proof": at}, "named": mark});
    let record = json!({
        "change": "start", "session": "s1", "user": {"named": "alice"}, "nas": nas,
        "addresses": [["framed-v4", "198.51.100.70/32"]], "time": {"at": at, "basis": "stated", "proof": at},
    });
    let session = json!({
        "user": {"named": "alice"}, "opened": mark, "last": mark, "heard": at, "ended": null, "doubt": null, "whole": true,
        "said": {"framed-v4": {"last": mark, "claims": [claim]}}, "moment": [record],
    });
    let other = json!({"identifier": "other", "v4": null, "v6": null});
    let reset_key = json!({"source": "radius", "client": "edge", "nas": other, "basis": "stated"});
    let reset = json!({"time": {"at": at, "basis": "stated", "proof": at}, "heard": at});
    {
        let store = cloakway_store::Store::open(&toolbox.data().join("bindings.redb")).unwrap();
        let mut batch = cloakway_store::Batch::new();
        batch.put("sessions", key.to_string(), session.to_string());
        batch.put("resets", reset_key.to_string(), reset.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.commit(batch)).unwrap();
    }
    for _ in 0..2 {
        toolbox.run();
        let verdict = toolbox.verify("alice", "198.51.100.70");
        assert_eq!(verdict["since"], json!(cloakway_types::Timestamp::from_millis(at).to_string()), "{verdict}");
        assert!(!toolbox.data().join("bindings.redb").exists());
        toolbox.kill();
    }
    toolbox.run();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let stop = nas.accounting(STOP, "s1", "alice", A, now_s() + 1);
    nas.tell(&stop);
    assert_eq!(toolbox.reason("alice", "198.51.100.70"), "ended");
}
