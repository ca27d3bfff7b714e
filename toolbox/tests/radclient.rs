//! Against radclient of FreeRADIUS, which signs requests and checks answers by its own code.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::io::Write;
use std::process::{Command, Stdio};

use cloakway_testing::have;
use running::{SECRET, Toolbox};
use serde_json::json;

struct Said {
    answered: bool,
    text: String,
}

/// One packet; `command` is `acct` or `status`.
fn radclient(toolbox: &Toolbox, command: &str, secret: &str, attributes: &str) -> Said {
    let file = toolbox.path("client.secret");
    std::fs::write(&file, secret).unwrap();
    let mut child = Command::new("radclient")
        .args(["-x", "-r", "1", "-t", "2", "-S"])
        .arg(file)
        .args([&toolbox.radius.to_string(), command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(attributes.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Said { answered: output.status.success() && text.contains("Received Accounting-Response"), text }
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
