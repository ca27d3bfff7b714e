//! Who may ask about what, and how often, at the running toolbox.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use axum::http::{HeaderMap, Method, StatusCode};
use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use running::{KEY, Toolbox};
use serde_json::{Value, json};

/// With more lines for the caller that there is, and further ones.
fn toolbox(lines: &str) -> Toolbox {
    Toolbox::start_in(tempfile::tempdir().unwrap(), "", "", lines)
}

fn ask(toolbox: &Toolbox, key: &str, address: &str) -> (StatusCode, Value, HeaderMap) {
    let body = json!({"address": address, "subscriber": "alice"}).to_string();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    toolbox.ask_whole(Method::POST, "/v1/verify", &headers, body.as_bytes())
}

#[test]
fn a_caller_may_ask_about_its_prefixes_and_only_what_it_may() {
    let other = "the key of another";
    let digest = hex(&sha256(&[other.as_bytes()]));
    let toolbox = toolbox(&format!(
        "prefixes = [\"198.51.100.70/32\"]\n[[callers]]\nname = \"prober\"\nkey-sha256 = \"{digest}\"\nmay = [\"probe\"]\n"
    ));
    let code = |key: &str, address: &str| {
        let (status, answer, _) = ask(&toolbox, key, address);
        (status, answer["error"]["code"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(code(KEY, "198.51.100.70").0, StatusCode::OK);
    assert_eq!(code(KEY, "::ffff:198.51.100.70").0, StatusCode::OK);
    let forbidden = (StatusCode::FORBIDDEN, "forbidden".to_owned());
    assert_eq!(code(KEY, "198.51.100.71"), forbidden);
    assert_eq!(code(KEY, "2001:db8:5100::1"), forbidden);
    assert_eq!(code(KEY, "192.0.2.1"), forbidden, "not even that it is not ours");
    assert_eq!(code(other, "198.51.100.70"), forbidden);
    assert_eq!(code("no key", "198.51.100.70").0, StatusCode::UNAUTHORIZED);
    let callers = toolbox.show("callers").unwrap();
    let of = |name: &str| callers.as_array().unwrap().iter().find(|of| of["caller"] == json!(name)).unwrap().clone();
    assert_eq!((&of("shop")["lookups"], &of("shop")["refused"]), (&json!(2), &json!(3)));
    assert_eq!((&of("prober")["lookups"], &of("prober")["refused"]), (&json!(0), &json!(1)));
    assert_eq!(toolbox.show("status").unwrap()["audit"]["entries"], json!(2));
}

#[test]
fn who_asks_too_often_is_told_when_to_come_again_and_others_are_not_the_worse_for_it() {
    let other = "the key of another";
    let digest = hex(&sha256(&[other.as_bytes()]));
    let toolbox =
        toolbox(&format!("rate-per-s = 1\nburst = 3\n[[callers]]\nname = \"other\"\nkey-sha256 = \"{digest}\"\n"));
    // However slow this machine is, some come within the second.
    let mut answered = 0_u64;
    let (answer, headers) = loop {
        let (status, answer, headers) = ask(&toolbox, KEY, "198.51.100.70");
        if status == StatusCode::TOO_MANY_REQUESTS {
            break (answer, headers);
        }
        assert_eq!(status, StatusCode::OK, "{answer}");
        answered += 1;
        assert!(answered < 1000, "never too many");
    };
    assert!(answered >= 3, "a burst of three is allowed");
    assert_eq!(answer["error"]["code"], json!("too_many_requests"));
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(ask(&toolbox, other, "198.51.100.70").0, StatusCode::OK);
    running::eventually("one more is allowed", || {
        let (status, ..) = ask(&toolbox, KEY, "198.51.100.70");
        (status == StatusCode::OK).then_some(())
    });
    let callers = toolbox.show("callers").unwrap();
    let shop = callers.as_array().unwrap().iter().find(|of| of["caller"] == json!("shop")).unwrap();
    assert_eq!(shop["lookups"], json!(answered + 1));
    assert!(shop["limited"].as_u64().unwrap() >= 1);
}
