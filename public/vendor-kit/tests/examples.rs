//! The examples of checking a delivery in other languages, each run by its own interpreter against the same vectors as the
//! kit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cloakway_crypto::Secret;
use cloakway_crypto::encode::base64;
use cloakway_crypto::sign::SigningKey;
use transact_wire::hmac_secret::HmacSecret;
use transact_wire::result::SignedResult;
use vendor_kit::{Money, PurchaseResult, Receiver, Timestamp, Verdict};

const NOW: u64 = 1_795_000_000;

struct Trust {
    key: SigningKey,
    secret: HmacSecret,
}

fn trust() -> Trust {
    Trust { key: SigningKey::from_seed(&[7; 32]).unwrap(), secret: HmacSecret::from_bytes(&[8; 32]) }
}

fn signed(vendor: &str, key: &SigningKey) -> SignedResult {
    let result = PurchaseResult {
        vendor: vendor.parse().unwrap(),
        transaction_id: "o-1".parse().unwrap(),
        temporary_id: Some("basket-1".parse().unwrap()),
        amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
        verdict: Verdict::Approved,
        decided_at: Timestamp::from_secs(NOW),
        refund: None,
    };
    SignedResult::sign("res_1", &result, key, Timestamp::from_secs(NOW)).unwrap()
}

/// Deliveries, and whether each is to be believed.
fn vectors() -> Vec<(&'static str, SignedResult, u64, bool)> {
    let Trust { key, secret } = trust();
    let good = signed("shop", &key).and_by(&secret);
    let with = |change: &dyn Fn(&mut SignedResult)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let other = SigningKey::from_seed(&[9; 32]).unwrap();
    let others = signed("shop", &other).and_by(&HmacSecret::from_bytes(&[9; 32]));
    vec![
        ("as it came", good.clone(), NOW, true),
        ("at the end of its time", good.clone(), NOW + 300, true),
        ("played again later", good.clone(), NOW + 301, false),
        ("from the future", good.clone(), NOW - 301, false),
        ("another amount", with(&|d| d.body = d.body.replace("1250", "1251")), NOW, false),
        ("another id", with(&|d| d.id = "res_2".to_owned()), NOW, false),
        ("another time", with(&|d| d.timestamp_s += 1), NOW, false),
        ("white space in the body", with(&|d| d.body.push(' ')), NOW, false),
        ("signed by somebody else", others.clone(), NOW, false),
        (
            "an older key's signatures first",
            with(&|d| d.signature = format!("{} {}", others.signature, d.signature)),
            NOW,
            true,
        ),
        ("nothing signed", with(&|d| d.signature.clear()), NOW, false),
        ("no base64", with(&|d| d.signature = "v1,*** v1a,***".to_owned()), NOW, false),
        ("short signatures", with(&|d| d.signature = "v1,AAAA v1a,AAAA v2,AAAA v1".to_owned()), NOW, false),
        ("of another vendor", signed("other", &key).and_by(&secret), NOW, false),
    ]
}

fn run(program: &[&str], trusted: (&str, &str), delivery: &SignedResult, now: u64) -> (bool, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify");
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(folder);
    command.args([&delivery.id, &delivery.timestamp_s.to_string(), &delivery.signature]);
    command.env("VENDOR", "shop").env("NOW", now.to_string()).env(trusted.0, trusted.1);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses by its headers alone may not read the body.
    let _ = child.stdin.take().unwrap().write_all(delivery.body.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_kit_itself_believes_what_the_vectors_say() {
    let Trust { key, secret } = trust();
    let shop = || "shop".parse().unwrap();
    let by_key = Receiver::new(shop(), &key.verifying_key().to_base64()).unwrap();
    let by_secret = Receiver::with_secret(shop(), &secret.reveal()).unwrap();
    for (name, delivery, now, good) in vectors() {
        for receiver in [&by_key, &by_secret] {
            assert_eq!(receiver.believe(&delivery, Timestamp::from_secs(now)).is_ok(), good, "{name}");
        }
    }
}

fn holds(program: &[&str], package: &str, by: &str) {
    if !cloakway_testing::have(program[0], package) {
        return;
    }
    let Trust { key, secret } = trust();
    let value: Secret<String> = match by {
        "RESULT_KEY" => Secret::new(key.verifying_key().to_base64()),
        _ => secret.reveal(),
    };
    for (name, delivery, now, good) in vectors() {
        let (believed, said) = run(program, (by, value.expose()), &delivery, now);
        assert_eq!(believed, good, "{program:?} by {by}, {name}: {said}");
        assert!(!good || said.contains("o-1") && said.contains("approved"), "{said}");
    }
    let short = base64(&[1; 8]);
    let (believed, _) = run(program, (by, &short), &vectors()[0].1, NOW);
    assert!(!believed, "a key that is none");
}

#[test]
fn python_believes_what_the_kit_believes() {
    holds(&["python3", "verify.py"], "python3", "WEBHOOK_SECRET");
}

#[test]
fn node_believes_what_the_kit_believes() {
    for by in ["RESULT_KEY", "WEBHOOK_SECRET"] {
        holds(&["node", "verify.mjs"], "nodejs", by);
    }
}

#[test]
fn php_believes_what_the_kit_believes() {
    for by in ["RESULT_KEY", "WEBHOOK_SECRET"] {
        holds(&["php", "verify.php"], "php-cli", by);
    }
}

#[test]
fn a_shell_with_openssl_believes_what_the_kit_believes() {
    if cloakway_testing::have("openssl", "openssl") {
        holds(&["sh", "verify.sh"], "dash", "RESULT_KEY");
    }
}
