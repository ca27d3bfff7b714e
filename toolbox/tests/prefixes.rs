//! What the forwarder is told: which addresses have a subscriber now.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use cloakway_runtime::admin::{self, Request};
use running::{Nas, START, STOP, Toolbox, now_s};
use serde_json::{Value, json};

fn ask(toolbox: &Toolbox, arguments: &[(&str, &str)]) -> Result<Value, String> {
    let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request { topic: "prefixes".to_owned(), arguments };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin::ask_for(&toolbox.path("admin.sock"), &request))
}

#[test]
fn the_forwarder_is_told_which_addresses_have_a_subscriber_and_no_names() {
    let toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let prefixes = |arguments: &[(&str, &str)]| ask(&toolbox, arguments).unwrap()["prefixes"].clone();
    assert_eq!(prefixes(&[]), json!([]), "ready, and nobody is there");
    let now = now_s();
    for (session, user, host) in [("1", "alice", 70), ("2", "bob", 71), ("3", "carol", 90)] {
        let start = nas.accounting(START, session, user, [198, 51, 100, host], now - 5);
        nas.tell(&start);
    }
    assert_eq!(prefixes(&[]), json!(["198.51.100.70/31", "198.51.100.90/32"]));
    assert_eq!(prefixes(&[("within", "198.51.100.64/28")]), json!(["198.51.100.70/31"]));
    let text = ask(&toolbox, &[]).unwrap().to_string();
    assert!(!text.contains("alice"), "{text}");
    // Two claim it: nobody knows whose it is.
    let claim = nas.accounting(START, "4", "mallory", [198, 51, 100, 90], now - 5);
    nas.tell(&claim);
    let stop = nas.accounting(STOP, "2", "bob", [198, 51, 100, 71], now - 1);
    nas.tell(&stop);
    assert_eq!(prefixes(&[]), json!(["198.51.100.70/32"]));
    assert!(ask(&toolbox, &[("community", "64500:1")]).unwrap_err().contains("the toolbox has no routes"));
    assert_eq!(toolbox.show("prefixes").unwrap()["prefixes"], json!(["198.51.100.70/32"]));
}
