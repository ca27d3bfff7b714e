//! Card numbers, PINs and passwords never reach a disk, a log or anybody, and nothing is left of them in memory: a server in a
//! process of its own is looked through after many purchases: its folder with its log, all its memory (which is what a core dump would hold), and
//! what it said to vendor and facilitation.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use cloakway_sim::Rng;
use serde_json::{Value, json};

use crate::exactly_once::bank::Bank;
use crate::exactly_once::http;
use crate::exactly_once::server::Server;

const PURCHASES: u64 = 60;

/// Octets that must not be found, and what they are.
type Secrets = BTreeMap<Vec<u8>, String>;

/// A number that passes the check digit and stands in no program.
fn card(rng: &mut Rng) -> String {
    let digits: String =
        std::iter::once('4').chain((0..14).map(|_| char::from(b'0' + rng.between(0, 9) as u8))).collect();
    let sum: u64 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = u64::from(digit - b'0') * if at % 2 == 0 { 2 } else { 1 };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

/// The number as text, and packed as a bank may want it.
fn forbid(secrets: &mut Secrets, what: &str, text: &str) {
    secrets.insert(text.as_bytes().to_vec(), what.to_owned());
    if text.bytes().all(|digit| digit.is_ascii_digit()) {
        secrets.insert(cloakway_crypto::encode::unhex(text).unwrap(), format!("{what}, packed"));
    }
}

/// Finds all secrets in one pass; the memory of a process is hundreds of megabytes.
struct Scanner {
    automaton: AhoCorasick,
    what: Vec<String>,
}

impl Scanner {
    fn of(secrets: &Secrets) -> Self {
        Self { automaton: AhoCorasick::new(secrets.keys()).unwrap(), what: secrets.values().cloned().collect() }
    }

    /// Every place in `bytes` where a secret begins.
    fn search(&self, bytes: &[u8]) -> Vec<(usize, &str)> {
        let found = self.automaton.find_overlapping_iter(bytes);
        found.map(|hit| (hit.start(), self.what[hit.pattern().as_usize()].as_str())).collect()
    }
}

fn search_folder(scanner: &Scanner, folder: &Path, files: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(search_folder(scanner, &path, files));
        } else {
            *files += 1;
            let hits = scanner.search(&fs::read(&path).unwrap());
            found.extend(hits.into_iter().map(|(at, what)| format!("{}: {what} at octet {at}", path.display())));
        }
    }
    found
}

/// Looks through all writable memory of a process; gives what was found and how much was looked at.
fn search_memory(scanner: &Scanner, process: u32) -> std::io::Result<(Vec<String>, u64)> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let (mut found, mut looked) = (Vec::new(), 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let name = words.nth(3).unwrap_or("memory");
        if !rights.starts_with("rw") {
            continue;
        }
        let (low, high) = range.split_once('-').unwrap();
        let (low, high) = (u64::from_str_radix(low, 16).unwrap(), u64::from_str_radix(high, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(high - low).unwrap()];
        memory.seek(SeekFrom::Start(low))?;
        // A mapping that went away in the meantime holds nothing any more.
        if memory.read_exact(&mut bytes).is_ok() {
            looked += high - low;
            let hits = scanner.search(&bytes);
            found.extend(hits.into_iter().map(|(at, what)| format!("{name} ({range}) at {at:#x}: {what}")));
        }
    }
    Ok((found, looked))
}

/// Asks until the server can: a link to the bank may not be up yet.
async fn ask(server: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if let Some((200 | 204, answer)) = http::send(server, method, path, body).await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} is not answered");
}

async fn shop(server: SocketAddr, secrets: &mut Secrets) -> String {
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut said = String::new();
    for number in 0..PURCHASES {
        let id = format!("n-{number}");
        let order = json!({"vendor": "shop", "isp": "isp", "order": {
            "reference": {"transaction_id": id}, "amount": {"minor": 1000 + number, "currency": "EUR"},
            "client_ip": "198.51.100.70", "description": "A book"}});
        let issued = ask(server, "POST", "/m/v1/orders", &order).await;
        let (card, password) = (card(&mut rng), issued["password"].as_str().unwrap().to_owned());
        forbid(secrets, &format!("card number {number}"), &card);
        forbid(secrets, &format!("password {number}"), &password);
        let claim = json!({"vendor": "shop", "transaction_id": id, "password": password});
        // What is refused is not kept either: a mistyped number, a wrong password, a body that is none.
        let wrong = json!({"transaction": {"vendor": "shop", "transaction_id": id, "password": "guess"},
            "card_number": card, "expiry": "12/49"});
        for bad in [wrong, json!({"card_number": card}), json!([card, password])] {
            let (status, answer) = http::send(server, "POST", "/p/v1/payments", &bad).await.unwrap();
            assert!((400..500).contains(&status), "{status}");
            said.push_str(&answer.to_string());
        }
        let pin: String = (0..12).map(|_| char::from(b'0' + rng.between(0, 9) as u8)).collect();
        forbid(secrets, &format!("PIN {number}"), &pin);
        let payment = json!({"transaction": claim, "card_number": card, "expiry": "12/49", "pin": pin});
        said.push_str(&ask(server, "POST", "/p/v1/payments", &payment).await.to_string());
        let name = json!({"vendor": "shop", "transaction_id": id});
        said.push_str(&ask(server, "POST", "/m/v1/orders/status", &name).await.to_string());
    }
    said.push_str(&ask(server, "GET", "/m/v1/results?after=0&wait_ms=0", &Value::Null).await.to_string());
    said
}

#[test]
fn no_card_number_no_pin_and_no_password_is_left_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut secrets = Secrets::new();
    let (server, said) = runtime.block_on(async {
        let bank = Bank::start(Arc::new(AtomicBool::new(true))).await;
        let server = Server::start(folder.path(), bank.address).await;
        let said = shop(server.address, &mut secrets).await;
        (server, said)
    });
    let scanner = Scanner::of(&secrets);
    assert_eq!(scanner.search(said.as_bytes()), [], "what vendor, facilitation and payer are told");
    let mut files = 0;
    assert_eq!(search_folder(&scanner, folder.path(), &mut files), [""; 0]);
    assert!(files >= 2, "the store and the log are there");

    // The scanner finds what is there: its own memory holds all of them.
    let (found, _) = search_memory(&scanner, std::process::id()).unwrap();
    assert!(found.len() >= secrets.len(), "{} of {} found", found.len(), secrets.len());
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.process.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "no core dumps");
    match fs::File::open(format!("/proc/{}/mem", server.process.id())) {
        Ok(_) => {}
        // Who is not root may not look: the process is not to be traced, nor dumped.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            cloakway_testing::skip("the memory of the server, which lets nobody look but root");
            return;
        }
        Err(error) => panic!("the memory of the server: {error}"),
    }
    // Connections end, and with them their buffers, some time after the last answer.
    let began = Instant::now();
    loop {
        let (found, looked) = search_memory(&scanner, server.process.id()).unwrap();
        if found.is_empty() {
            assert!(looked > 1 << 20, "{looked} octets of memory were looked at");
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} in memory: {:#?}",
            found.len(),
            &found[..found.len().min(20)]
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
