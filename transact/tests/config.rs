//! The example configuration, and what is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use cloakway_crypto::encode::base64;
use cloakway_runtime::config;
use transact::config::Config;

fn example(folder: &Path) -> String {
    for name in ["order.key", "result.key"] {
        std::fs::write(folder.join(name), base64(&[5; 32])).unwrap();
    }
    std::fs::write(folder.join("short.key"), base64(&[5; 31])).unwrap();
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/transaction-server.toml")).unwrap();
    text.replace("/etc/cloakway/", &format!("{}/", folder.display()))
}

fn error(text: &str) -> String {
    config::parse::<Config>("t.toml", text).unwrap_err().to_string()
}

#[test]
fn the_example_is_valid_and_a_stray_key_in_any_table_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let config = config::parse::<Config>("t.toml", &text).unwrap();
    assert!(!format!("{config:?}").contains(&base64(&[5; 32])), "keys are not printed");
    for table in ["[orders]", "[private]", "[private.limits]", "[[isps]]", "[management]", "[bank]"] {
        let stray = text.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
        let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
        let error = error(&stray);
        assert!(error.starts_with(&format!("t.toml:{line}: ")) && error.contains("unknown field `stray`"), "{error}");
    }
}

#[test]
fn each_wrong_value_names_its_line_its_field_and_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    for (from, to, says) in [
        (
            "gateway-v4 = \"192.0.2.249\"\n",
            "",
            "private.gateway-v4: private network address 203.0.113.200 has no gateway",
        ),
        ("mtu = 1500", "mtu = 500", "private.mtu: MTU 500 is too small: at least 1280"),
        ("session-s = 20 ", "session-s = 0 ", "private.limits.session-s: 0 is not allowed"),
        ("\"198.51.100.64/26\"", "\"0.0.0.0/0\"", "isps: member prefix 0.0.0.0/0 lets everybody in"),
        (
            "addresses = [\"203.0.113.200\", \"2001:db8:c10a::200\"]",
            "addresses = []",
            "isps[0].addresses: no private network address",
        ),
        ("client-names = [\"facilitation.cloakway.example\"]", "client-names = []", "management.client-names: no name"),
        ("acquirer = \"424242\"", "acquirer = \"42x\"", "bank.acquirer: "),
        (
            "page-origins = [\"https://192.0.2.34\"]",
            "page-origins = [\"http://192.0.2.34\"]",
            "private.page-origins[0]: ",
        ),
        ("order.key\"", "short.key\"", "order-key-file: the file has to hold 32 random bytes"),
        ("order.key\"", "missing.key\"", "missing.key: No such file"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = error(&text.replacen(from, to, 1));
        assert!(error.starts_with("t.toml:") && error.contains(says), "{error}");
    }
}
