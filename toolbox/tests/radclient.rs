//! Against radclient of FreeRADIUS, which signs requests and checks answers by its own code.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use cloakway_testing::have;
use running::radius::Said;
use running::{SECRET, Toolbox};
use serde_json::json;

/// One packet; `command` is `acct` or `status`.
fn radclient(toolbox: &Toolbox, command: &str, secret: &str, attributes: &str) -> Said {
    running::radius::radclient(&toolbox.path(""), toolbox.radius, command, secret, attributes, 1)
}

#[test]
fn radclient_opens_confirms_and_closes_the_session_of_the_story() {
    if !have("radclient", "freeradius-utils") {
        return;
    }
    let toolbox = Toolbox::start();
    let send = |status: &str, more: &str| {
        let attributes = format!(
            "Acct-Status-Type = {status}, Acct-Session-Id = \"0000A001\", User-Name = \"alice@isp.example\", \
             NAS-Identifier = \"edge\", NAS-IP-Address = 198.51.100.1{more}\n"
        );
        let said = radclient(&toolbox, "acct", SECRET, &attributes);
        assert!(said.answered, "{}", said.text);
        said.text
    };
    // As ocserv does: the address comes in the first Interim-Update.
    send("Start", "");
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "no-session");
    send("Interim-Update", ", Framed-IP-Address = 198.51.100.70, Framed-IPv6-Prefix = 2001:db8:5100:64::/64");
    assert!(toolbox.live("alice@isp.example", "198.51.100.70"));
    assert!(toolbox.live("alice@isp.example", "2001:db8:5100:64::70"));
    assert_eq!(toolbox.reason("bob@isp.example", "198.51.100.70"), "no-session");
    // radclient checks the Message-Authenticator of the answer, and that Proxy-State comes back.
    let text = send(
        "Interim-Update",
        ", Framed-IP-Address = 198.51.100.70, Delegated-IPv6-Prefix = 2001:db8:5100:6400::/56, \
         Proxy-State = 0x0102, Message-Authenticator = 0x00",
    );
    let answer = text.split("Received").nth(1).unwrap();
    assert!(answer.contains("Message-Authenticator") && answer.contains("Proxy-State = 0x0102"), "{text}");
    assert!(toolbox.live("alice@isp.example", "2001:db8:5100:64ff::1"));
    send("Stop", ", Framed-IP-Address = 198.51.100.70");
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "ended");
    assert_eq!(toolbox.reason("alice@isp.example", "2001:db8:5100:64::70"), "ended");
}

#[test]
fn radclient_with_another_secret_gets_no_answer() {
    if !have("radclient", "freeradius-utils") {
        return;
    }
    let toolbox = Toolbox::start();
    let start = "Acct-Status-Type = Start, Acct-Session-Id = \"1\", User-Name = \"alice@isp.example\", \
                 NAS-Identifier = \"edge\", Framed-IP-Address = 198.51.100.70\n";
    let said = radclient(&toolbox, "acct", "another secret of that length", start);
    assert!(!said.answered && said.text.contains("No reply"), "{}", said.text);
    assert_eq!(toolbox.reason("alice@isp.example", "198.51.100.70"), "no-session");
    assert_eq!(toolbox.show("sources").unwrap()["dropped"]["bad-authenticator"], json!(1));
}

#[test]
fn radclient_learns_by_status_server_that_the_toolbox_is_there() {
    if !have("radclient", "freeradius-utils") {
        return;
    }
    let toolbox = Toolbox::start();
    assert!(radclient(&toolbox, "status", SECRET, "Message-Authenticator = 0x00\n").answered);
    assert!(!radclient(&toolbox, "status", "another secret of that length", "Message-Authenticator = 0x00\n").answered);
}

#[test]
fn port_blocks_are_given_and_taken_away_as_freeradius_writes_them() {
    if !have("radclient", "freeradius-utils") {
        return;
    }
    let toolbox = Toolbox::start();
    let shared = "198.51.100.100";
    let block = |allocation: u8, first: u32| {
        format!(
            ", IP-Port-Range-Type = 1, IP-Port-Range-Alloc = {allocation}, IP-Port-Range-Ext-IPv4-Addr = {shared}, \
             IP-Port-Range-Range-Start = {first}, IP-Port-Range-Range-End = {}",
            first + 511
        )
    };
    let send = |status: &str, user: &str, more: &str| {
        let attributes = format!(
            "Acct-Status-Type = {status}, Acct-Session-Id = \"of {user}\", User-Name = \"{user}\", \
             NAS-Identifier = \"edge\"{more}\n"
        );
        let said = radclient(&toolbox, "acct", SECRET, &attributes);
        assert!(said.answered, "{}", said.text);
    };
    let live = |user: &str, port: u16| {
        let body = json!({"address": shared, "port": port, "subscriber": user}).to_string();
        let key = format!("Bearer {}", running::KEY);
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let (_, answer) = toolbox.ask(axum::http::Method::POST, "/v1/verify", &headers, body.as_bytes());
        answer["live"].as_bool().unwrap()
    };
    send("Start", "alice", &block(1, 1024));
    send("Start", "bob", &block(1, 1536));
    assert!(live("alice", 1024) && live("alice", 1535) && live("bob", 1536));
    assert!(!live("alice", 1536) && !live("bob", 1535) && !live("alice", 5000));
    assert_eq!(toolbox.reason("alice", shared), "port-needed");
    send("Interim-Update", "alice", &block(1, 4096));
    assert!(live("alice", 4100) && live("alice", 1024));
    send("Interim-Update", "alice", &block(2, 1024));
    assert!(live("alice", 4100) && !live("alice", 1024));
    send("Stop", "alice", "");
    assert!(!live("alice", 4100) && live("bob", 1536));
}
