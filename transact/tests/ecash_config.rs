//! `[ecash]` of the example configuration, and what is refused of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use cloakway_crypto::encode::base64;
use cloakway_runtime::config;
use transact::config::Config;

/// The example, with electronic cash switched on.
fn example(folder: &Path) -> String {
    for name in ["order.key", "result.key", "ecash.key"] {
        std::fs::write(folder.join(name), base64(&[5; 32])).unwrap();
    }
    let public = cloakway_crypto::hpke::PrivateKey::from_seed(cloakway_crypto::hpke::Kem::X25519, [7; 32]).unwrap();
    std::fs::write(folder.join("ecash-operator.pub"), base64(public.public().as_bytes())).unwrap();
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/transaction-server.toml")).unwrap();
    let (before, ecash) = text.split_at(text.find("# [ecash]").unwrap());
    let ecash: String = ecash.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
    format!("{before}{ecash}").replace("/etc/cloakway/", &format!("{}/", folder.display()))
}

fn error(text: &str) -> String {
    config::parse::<Config>("t.toml", text).unwrap_err().to_string()
}

fn summary(text: &str) -> Vec<String> {
    use cloakway_runtime::Role;
    transact::TransactionServer::summary(&config::parse::<Config>("t.toml", text).unwrap())
}

#[test]
fn the_example_is_valid_off_until_it_is_switched_on_and_strict() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let config = config::parse::<Config>("t.toml", &text).unwrap();
    assert!(config.ecash.is_some());
    assert!(config.private.bounds.connection_bytes >= 2 << 20, "a batch fits");
    assert!(!format!("{config:?}").contains(&base64(&[5; 32])), "keys are not printed");
    let off = &text[..text.find("\n[ecash]\n").unwrap() + 1];
    let config = config::parse::<Config>("t.toml", off).unwrap();
    assert!(config.ecash.is_none() && config.private.bounds.connection_bytes == 32_768);
    for table in [
        "[ecash]",
        "[ecash.keys]",
        "[ecash.sessions]",
        "[ecash.loads]",
        "[ecash.instruments]",
        "[ecash.fees]",
        "[ecash.postgresql]",
    ] {
        let at = text.find(&format!("\n{table}\n")).unwrap() + table.len() + 2;
        let stray = format!("{}stray = 1\n{}", &text[..at], &text[at..]);
        let error = error(&stray);
        assert!(error.contains("unknown field `stray`"), "{table}: {error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short.key"), base64(&[5; 31])).unwrap();
    let text = example(folder.path());
    for (from, to, says) in [
        ("ecash.key\"", "short.key\"", "ecash.secret-file: the file has to hold 32 random bytes in base64"),
        ("suites = [\"modern-1\"]", "suites = []", "ecash.suites: no suite: give at least one"),
        (
            "suites = [\"modern-1\"]",
            "suites = [\"modern\"]",
            "ecash.suites[0]: \"modern\" is not a suite: give of modern-1",
        ),
        (
            "suites = [\"modern-1\"]",
            "suites = [\"modern-1\", \"modern-1\"]",
            "ecash.suites[1]: modern-1 is there twice",
        ),
        (
            "classic-real-money = false",
            "classic-real-money = true",
            "ecash.classic-real-money: classic-1995 is not among",
        ),
        ("currencies = [\"eur\"]", "currencies = [\"EUR\"]", "ecash.currencies[0]: \"EUR\""),
        (
            "retention-days = 30                         #",
            "retention-days = 0 #",
            "ecash.retention-days: 0 is not allowed",
        ),
        ("ecash-operator.pub", "short.key", "ecash.operator-key-file: the file has to hold an X25519 public key"),
        (
            "days = 30                                   #",
            "days = 91 #",
            "ecash.keys.days: 91 is not allowed: give 1 to 90",
        ),
        ("renew-days = 7", "renew-days = 30", "ecash.keys.renew-days: 30 is not allowed"),
        (
            "payer-minutes = 1440",
            "payer-minutes = 10000",
            "ecash.sessions.payer-minutes: 10000: give 1 to 9999 minutes",
        ),
        ("payee-uses = 65535", "payee-uses = 0", "ecash.sessions.payee-uses: 0 is not allowed"),
        ("trial = \"eur 0.01\"", "trial = \"eur 0\"", "ecash.instruments.trial: \"eur 0\""),
        ("trial = \"eur 0.01\"", "trial = \"xts 0.01\"", "ecash.instruments.trial: the bank cannot be asked"),
        ("ask-pin = false", "ask-pin = true", "ecash.instruments.ask-pin: a PIN is proven by a trial"),
        ("functions = [\"load\", \"unload\"]", "functions = [\"fly\"]", "ecash.instruments.functions: \"fly\""),
        ("load-limit = 10000", "load-limit = 0", "ecash.instruments.load-limit: give at least 1 minor unit"),
        ("load = [\"eur 0.10\"]", "load = [\"0.10\"]", "ecash.fees.load[0]: \"0.10\""),
        ("to = \"eur\"", "to = \"usd\"", "ecash.exchange[0].to: the same currency"),
        ("rate = 9200", "rate = 0", "ecash.exchange[0].rate: 0 is not allowed"),
        ("schema = \"ecash\"", "schema = \"E Cash\"", "ecash.postgresql.schema: \"E Cash\""),
        ("user=ecash\"", "user=ecash password=x\"", "ecash.postgresql.connection: a password does not belong here"),
        ("terminal = \"CASH0001\"", "terminal = \"CASH00001\"", "ecash.bank.terminal: "),
        ("terminal = \"CASH0001\"", "id = \"x\"\nterminal = \"CASH0001\"", "ecash.bank: there is one institution here"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = error(&text.replacen(from, to, 1));
        assert!(error.contains(says), "{from}: {error}");
    }
}

#[test]
fn check_warns_of_what_is_risky() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let lines = summary(&text);
    assert!(lines.iter().any(|line| line == "electronic cash is served: modern-1"), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("warning: messages of ecash.bank are not authenticated")));
    assert!(!lines.iter().any(|line| line.contains("without asking the bank")));
    let unproven = text.replacen("trial = ", "# trial = ", 1);
    assert!(summary(&unproven).iter().any(|line| line.starts_with("warning: cards are bound without asking the bank")));
}

#[cfg(not(feature = "classic-1995"))]
#[test]
fn t63_the_suite_of_1995_is_refused_where_it_is_not_built_in() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let error = error(&text.replacen("suites = [\"modern-1\"]", "suites = [\"classic-1995\"]", 1));
    assert!(error.contains("ecash.suites[0]: this program is built without it: build with --features classic-1995"));
}

#[cfg(feature = "classic-1995")]
#[test]
fn t63_the_suite_of_1995_is_warned_of_and_twice_so_for_real_money() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let classic = text.replacen("suites = [\"modern-1\"]", "suites = [\"classic-1995\"]", 1);
    let warned =
        |text: &str, word: &str| summary(text).iter().any(|line| line.starts_with("warning: ") && line.contains(word));
    assert!(warned(&classic, "classic-1995") && !warned(&classic, "REAL MONEY"));
    assert!(warned(&classic.replacen("classic-real-money = false", "classic-real-money = true", 1), "REAL MONEY"));
}
