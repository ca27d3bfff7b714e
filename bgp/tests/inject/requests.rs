//! Requests: accepted, refused, awaited, and what is left of them after kill -9.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Api, Router, Speaker, listener, until};

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
