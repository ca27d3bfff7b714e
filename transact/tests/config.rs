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
    std::fs::write(folder.path().join("shop.whsec"), format!("whsec_{}", base64(&[6; 32]))).unwrap();
    let secrets = |keys: &str| text.replacen("\n[orders]\n", &format!("\n[[result-secrets]]\n{keys}\n[orders]\n"), 1);
    let files = format!("secret-files = [\"{}/shop.whsec\"]", folder.path().display());
    assert!(config::parse::<Config>("t.toml", &secrets(&format!("vendor = \"shop\"\n{files}"))).is_ok());
    assert!(error(&secrets(&format!("vendor = \"shop\"\n{files}\nstray = 1"))).contains("unknown field `stray`"));
    assert!(error(&secrets(&format!("vendor = \"a b\"\n{files}"))).contains("result-secrets[0].vendor"));
    for table in ["[orders]", "[private]", "[private.limits]", "[[isps]]", "[management]", "[bank]"] {
        let stray = text.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
        let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
        let error = error(&stray);
        assert!(error.starts_with(&format!("t.toml:{line}: ")) && error.contains("unknown field `stray`"), "{error}");
    }
}

/// The example with institutions in the place of `[bank]`.
fn with_institutions(text: &str, rows: &[(&str, &str)]) -> String {
    let bank = text.find("\n[bank]\n").unwrap();
    let tables = rows.iter().map(|(id, cards)| {
        format!(
            "[[institutions]]\nid = \"{id}\"\ncards = {cards}\naddresses = [\"192.0.2.82:8583\", \"192.0.2.83:8583\"]\n\
             terminal = \"T\"\nacceptor = \"A\"\nacquirer = \"1\"\nmerchant-type = \"5999\"\nprofile = \"binary\"\n"
        )
    });
    format!("{}\n{}", &text[..bank], tables.collect::<String>())
}

#[test]
fn several_institutions_have_names_cards_and_connections_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let two = with_institutions(&text, &[("blue", "[\"4\"]"), ("red", "[\"51-55\", \"2221-2720\"]")]);
    let config = config::parse::<Config>("t.toml", &two).unwrap();
    let shown: Vec<_> = config.institutions.iter().map(|i| (i.id.as_str(), i.link.lines)).collect();
    assert_eq!(shown, [("blue", 2), ("red", 2)]);
    for (rows, says) in [
        (&[("blue", "[\"4\"]"), ("red", "[\"4\"]")][..], "institutions[1].cards[0]: cards 4 belong to blue and to red"),
        (&[("blue", "[]"), ("red", "[]")], "institutions[1].cards[0]: cards * belong to blue and to red"),
        (&[("blue", "[\"4\"]"), ("blue", "[\"5\"]")], "institutions[1].id: blue is there twice"),
        (&[("no name", "[\"4\"]")], "institutions[0].id: give a name"),
        (&[("blue", "[\"4x\"]")], "institutions[0].cards[0]: \"4x\" is no card range"),
    ] {
        let error = error(&with_institutions(&text, rows));
        assert!(error.contains(says), "{error}");
    }
    assert!(error(&with_institutions(&text, &[])).contains("institutions: no financial institution"));
    let both = format!(
        "{text}\n[[institutions]]\nid = \"x\"\nterminal = \"T\"\nacceptor = \"A\"\nacquirer = \"1\"\nmerchant-type = \"5999\"\n"
    );
    assert!(error(&both).contains("bank: there are [[institutions]] as well"));
}

#[test]
fn a_key_for_messages_to_the_bank_is_read_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let key = folder.path().join("bank-mac.key");
    std::fs::write(&key, "0123456789abcdeffedcba9876543210\n").unwrap();
    let with = |mac: &str| {
        text.replacen("mac = \"none\"", &format!("mac = \"{mac}\""), 1).replacen("# mac-key-file", "mac-key-file", 1)
    };
    for mac in ["x9.19", "aes-cmac"] {
        let config = config::parse::<Config>("t.toml", &with(mac)).unwrap();
        assert!(config.institutions[0].link.codec.mac.is_some());
        assert!(!format!("{config:?}").contains("0123456789abcdef") && !format!("{config:?}").contains("[1, 35"));
    }
    let pin = text.replacen("# pin-key-file", "pin-key-file", 1);
    assert!(error(&pin).contains("bank-pin.key: No such file"));
    std::fs::write(folder.path().join("bank-pin.key"), "0123456789abcdeffedcba9876543210").unwrap();
    let config = config::parse::<Config>("t.toml", &pin).unwrap();
    assert!(config.institutions[0].link.pin_key.is_some() && config.policy.institutions.pins.contains("bank"));
    std::fs::write(folder.path().join("bank-pin.key"), "01234").unwrap();
    assert!(error(&pin).contains("bank.pin-key-file: the file has to hold hexadecimal digits"));
    assert!(error(&with("none")).contains("bank.mac-key-file: there is a key and mac = \"none\""));
    assert!(error(&text.replacen("mac = \"none\"", "mac = \"x9.19\"", 1)).contains("bank.mac-key-file: no key"));
    std::fs::write(&key, "0123").unwrap();
    assert!(error(&with("x9.19")).contains("bank.mac-key-file: the key has 2 octets, 16 are needed"));
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
        ("profile = \"ascii\"", "profile = \"ebcdic\"", "bank.profile: \"ebcdic\" is not known: give one of \"ascii\""),
        ("header = \"\"", "header = \"6\"", "bank.header: \"6\" is no header"),
        ("address = \"192.0.2.82:8583\"\n", "", "bank.addresses: 0 addresses"),
        ("answer-timeout-ms = 15000", "answer-timeout-ms = 0", "bank.answer-timeout-ms: 0 is not allowed"),
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
