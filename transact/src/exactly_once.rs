//! Exactly once, with everything against it: a server in a process of its own that is killed (SIGKILL) again and again,
//! a proxy before the bank that drops, repeats and cuts, and a bank that is silent or late. Then the bank's own books
//! are held against what payers and vendors were told.
//!
//! `EXACTLY_ONCE=100000` makes so many purchases in the place of a few hundred, `EXACTLY_ONCE_KILLS=200` so many kills.

pub(crate) mod bank;
pub(crate) mod http;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakway_sim::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;

use bank::{Bank, Proxy, Standing};
use server::Server;

/// Buyers at one time.
const BUYERS: u64 = 16;

fn wanted(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

/// For all purchases: many times what they take on a machine that does much else.
fn patience(purchases: u64) -> Duration {
    Duration::from_secs(600) + Duration::from_millis(250).saturating_mul(u32::try_from(purchases).unwrap_or(u32::MAX))
}

/// What the vendors know, by transaction.
type Told = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

#[derive(Clone)]
struct World {
    /// Where the server of the moment listens.
    server: Arc<Mutex<Option<SocketAddr>>>,
    told: Told,
    refunded: Arc<Mutex<BTreeMap<String, u64>>>,
    done: Arc<AtomicU64>,
}

impl World {
    /// Asks until there is an answer with one of these statuses.
    async fn ask(&self, method: &str, path: &str, body: &Value, good: &[u16]) -> (u16, Value) {
        loop {
            let address = *self.server.lock().unwrap();
            if let Some(address) = address
                && let Some((status, answer)) = http::send(address, method, path, body).await
                && good.contains(&status)
            {
                return (status, answer);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// One purchase, from the order to the end that its payer is told.
    async fn buy(&self, number: u64) {
        let id = format!("o-{number}");
        let order = json!({"vendor": "shop", "isp": "isp", "order": {
            "reference": {"transaction_id": id}, "amount": {"minor": 1000 + number, "currency": "EUR"},
            "client_ip": "198.51.100.70", "description": "A book"}});
        let (_, issued) = self.ask("POST", "/m/v1/orders", &order, &[200]).await;
        let claim = json!({"vendor": "shop", "transaction_id": id, "password": issued["password"]});
        let payment = json!({"transaction": claim, "card_number": "4111111111111111", "expiry": "12/49"});
        let mut paying = true;
        loop {
            // A payer who was not told the end looks first, and pays again only where nothing was paid.
            let (path, body) = if paying { ("/p/v1/payments", &payment) } else { ("/p/v1/outcome", &claim) };
            let (_, answer) = self.ask("POST", path, body, &[200, 503]).await;
            match answer["state"].as_str() {
                Some("approved" | "declined" | "reversed") => break,
                Some("open") | None => paying = true,
                Some("authorising" | "reversing") => paying = false,
                other => panic!("{id}: {other:?}"),
            }
            sleep(Duration::from_millis(30)).await;
        }
        if number.is_multiple_of(3) {
            self.refund(&id, number).await;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives 119 minor units back, under the same id until that is decided.
    async fn refund(&self, id: &str, number: u64) {
        let refund = json!({"order": {"vendor": "shop", "transaction_id": id},
            "refund": {"refund_id": format!("r-{number}"), "amount": {"minor": 119, "currency": "EUR"}}});
        loop {
            match self.ask("POST", "/m/v1/orders/refund", &refund, &[200, 409, 503]).await {
                (200, answer) if answer["state"] == "given" => {
                    self.refunded.lock().unwrap().insert(id.to_owned(), 119);
                    return;
                }
                (200, answer) if answer["state"] == "refused" || answer["state"] == "undone" => return,
                (409, answer) => {
                    assert_eq!(answer["error"]["code"], "not_paid", "{id}: {answer}");
                    return;
                }
                _ => sleep(Duration::from_millis(30)).await,
            }
        }
    }

    /// The vendor: takes every result, and says so.
    async fn receive(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let (_, pending) = self.ask("GET", "/m/v1/results?after=0&wait_ms=0", &Value::Null, &[200]).await;
            let mut ids = Vec::new();
            for result in pending["results"].as_array().unwrap() {
                let body: Value = serde_json::from_str(result["body"].as_str().unwrap()).unwrap();
                let (id, verdict) = (body["transaction_id"].as_str().unwrap(), body["verdict"].as_str().unwrap());
                let mut told = self.told.lock().unwrap();
                let known = told.entry(id.to_owned()).or_default();
                // The same result may come again; another one about the same may not.
                if known.last().is_none_or(|last| last != verdict) {
                    known.push(verdict.to_owned());
                }
                ids.push(result["id"].clone());
            }
            if ids.is_empty() {
                sleep(Duration::from_millis(50)).await;
            } else {
                self.ask("POST", "/m/v1/results/ack", &json!({"ids": ids}), &[204]).await;
            }
        }
    }
}

/// Kills the server again and again, and starts it again; gives it back at the end.
async fn kill(world: World, folder: std::path::PathBuf, bank: SocketAddr, kills: u64, purchases: u64) -> (Server, u64) {
    let mut server = Server::start(&folder, bank).await;
    *world.server.lock().unwrap() = Some(server.address);
    let mut rng = Rng::new(7);
    let mut killed = 0;
    while killed < kills {
        // Spread over all purchases, each at a moment of its own.
        let next = purchases * (killed + 1) / (kills + 1);
        while world.done.load(Ordering::Relaxed) < next.min(purchases.saturating_sub(1)) {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(rng.between(0, 40))).await;
        *world.server.lock().unwrap() = None;
        server.kill9();
        server = Server::start(&folder, bank).await;
        *world.server.lock().unwrap() = Some(server.address);
        killed += 1;
    }
    (server, killed)
}

#[test]
fn every_purchase_is_charged_once_or_taken_back_whatever_is_killed_dropped_repeated_or_cut() {
    if let Ok(child) = std::env::var(server::CHILD) {
        return server::run(&child);
    }
    let (purchases, kills) = (wanted("EXACTLY_ONCE", 240), wanted("EXACTLY_ONCE_KILLS", 24));
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(folder.path(), purchases, kills));
}

async fn story(folder: &Path, purchases: u64, kills: u64) {
    let calm = Arc::new(AtomicBool::new(false));
    let bank = Bank::start(calm.clone()).await;
    let proxy = Proxy::start(bank.address, calm.clone()).await;
    let world = World { server: Arc::default(), told: Told::default(), refunded: Arc::default(), done: Arc::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let vendor = tokio::spawn({
        let (world, stop) = (world.clone(), stop.clone());
        async move { world.receive(&stop).await }
    });
    let killer = tokio::spawn(kill(world.clone(), folder.to_owned(), proxy.address, kills, purchases));
    let next = Arc::new(AtomicU64::new(0));
    let buyers: Vec<_> = (0..BUYERS)
        .map(|_| {
            let (world, next) = (world.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= purchases {
                        return;
                    }
                    world.buy(number).await;
                }
            })
        })
        .collect();
    let limit = patience(purchases);
    let bought = tokio::time::timeout(limit, async {
        for buyer in buyers {
            buyer.await.unwrap();
        }
    });
    let bought = bought.await;
    assert!(bought.is_ok(), "{} of {purchases} bought within {limit:?}", world.done.load(Ordering::Relaxed));
    let (server, killed) = killer.await.unwrap();
    assert_eq!(killed, kills);
    calm.store(true, Ordering::Relaxed);
    // What the vendor was told last has to have come, and what is owed to be taken back.
    let settled = || {
        let told = world.told.lock().unwrap();
        let refunded = world.refunded.lock().unwrap();
        told.len() as u64 == purchases
            && refunded.keys().all(|id| told[id].iter().any(|verdict| verdict == "partly_refunded"))
    };
    let began = std::time::Instant::now();
    while !settled() {
        assert!(began.elapsed() < Duration::from_secs(120), "{} of {purchases} told", world.told.lock().unwrap().len());
        sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    vendor.await.unwrap();
    drop(server);
    check(&world, &bank, purchases);
}

/// The bank's own books against what the vendor was told.
fn check(world: &World, bank: &Bank, purchases: u64) {
    let told = world.told.lock().unwrap();
    let refunded = world.refunded.lock().unwrap();
    let books = bank.books();
    let payments = books.payments();
    let (mut approved, mut back, mut declined) = (0, 0, 0);
    for number in 0..purchases {
        let id = format!("o-{number}");
        let verdicts = &told[&id];
        let Standing { held, given_back } = payments.get(&(1000 + number)).copied().unwrap_or_default();
        match verdicts[0].as_str() {
            "approved" => {
                approved += 1;
                assert_eq!(held, 1, "{id} was sold and is held {held} times");
            }
            "reversed" | "declined" => {
                back += u64::from(verdicts[0] == "reversed");
                declined += u64::from(verdicts[0] == "declined");
                assert_eq!(held, 0, "{id} was {} and is held {held} times", verdicts[0]);
            }
            other => panic!("{id}: {other}"),
        }
        let firsts = verdicts.iter().filter(|verdict| ["approved", "reversed", "declined"].contains(&verdict.as_str()));
        assert_eq!(firsts.count(), 1, "{id}: {verdicts:?}");
        let given = refunded.get(&id).copied().unwrap_or(0);
        assert_eq!(given_back, given, "{id}: {verdicts:?}");
    }
    let held: u64 = payments.values().map(|payment| payment.held).sum();
    assert_eq!(held, approved, "nothing else is held");
    println!(
        "{purchases} purchases: {approved} sold, {back} taken back, {declined} declined, {} refunds; the bank heard {} requests",
        refunded.len(),
        books.requests()
    );
    assert!(approved > 0 && back > 0, "{approved} {back}");
}
