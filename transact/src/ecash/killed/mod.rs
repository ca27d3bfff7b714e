//! Exactly once, with the server killed (SIGKILL) again and again while money is loaded and payments are collected, and
//! a bank link that drops, repeats and cuts. Then the books, the bank's and every wallet's are held against each other.
//!
//! `ECASH_KILLS=300` kills so often in the place of a dozen times, `ECASH_PAYMENTS=100000` pays so often.

pub(super) mod server;
pub(super) mod wallets;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakway_sim::Rng;
use tokio::sync::mpsc;

use crate::exactly_once::bank::{Bank, Proxy};
use server::{Scene, Server};
use wallets::{Wallet, World, buy, shop};

const PAYERS: u64 = 6;
const SHOPS: u64 = 3;

fn wanted(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

/// Kills the server again and again, and starts it again; gives it back at the end.
async fn kill(world: World, scene: Scene, bank: std::net::SocketAddr, kills: u64, all: u64) -> Server {
    let mut server = Server::start(&scene, bank).await;
    *world.server.lock().unwrap() = Some(server.address);
    let mut rng = Rng::new(11);
    for killed in 0..kills {
        // A third of the kills comes while wallets are set up, the others spread over the payments.
        let next = (all * killed).saturating_sub(all * kills / 3) / kills;
        while world.done.load(Ordering::Relaxed) < next.min(all.saturating_sub(1)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.between(0, 150))).await;
        *world.server.lock().unwrap() = None;
        server.kill9();
        server = Server::start(&scene, bank).await;
        *world.server.lock().unwrap() = Some(server.address);
    }
    server
}

#[test]
fn money_is_moved_once_and_the_books_are_at_zero_whenever_the_server_is_killed() {
    if let Ok(child) = std::env::var(server::CHILD) {
        return server::run(&child);
    }
    let (payments, kills) = (wanted("ECASH_PAYMENTS", 360), wanted("ECASH_KILLS", 12));
    let folder = tempfile::tempdir().unwrap();
    let test = "ecash::killed::money_is_moved_once_and_the_books_are_at_zero_whenever_the_server_is_killed";
    run(Scene { test, folder: folder.path().to_owned(), postgresql: None }, payments, kills);
}

#[test]
fn the_same_on_postgresql() {
    if let Ok(child) = std::env::var(server::CHILD) {
        return server::run(&child);
    }
    let Some(postgresql) = cloakway_testing::postgresql::Postgresql::start() else { return };
    let (payments, kills) = (wanted("ECASH_PAYMENTS", 120), wanted("ECASH_KILLS", 6));
    let folder = tempfile::tempdir().unwrap();
    let test = "ecash::killed::the_same_on_postgresql";
    let scene = Scene { test, folder: folder.path().to_owned(), postgresql: Some(postgresql.connection()) };
    run(scene, payments, kills);
}

fn run(scene: Scene, payments: u64, kills: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(scene, payments, kills));
}

async fn story(scene: Scene, payments: u64, kills: u64) {
    let calm = Arc::new(AtomicBool::new(false));
    let bank = Bank::start(calm.clone()).await;
    let proxy = Proxy::start(bank.address, calm.clone()).await;
    let world = World::default();
    let killer = tokio::spawn(kill(world.clone(), scene, proxy.address, kills, payments));

    let (mut shops, mut counters) = (Vec::new(), Vec::new());
    for number in 0..SHOPS {
        let (ask, asked) = mpsc::channel(64);
        let wallet = Wallet::registered(&world, &format!("shop{number}")).await;
        counters.push(ask);
        shops.push(tokio::spawn(shop(wallet, asked)));
    }
    let each = payments.div_ceil(PAYERS);
    let payers: Vec<_> = (0..PAYERS)
        .map(|number| {
            let (world, counters) = (world.clone(), counters.clone());
            let sessions = each.div_ceil(1000);
            tokio::spawn(async move {
                let mut wallets = Vec::new();
                for part in 0..sessions {
                    let uses = each.min((part + 1) * 1000) - part * 1000;
                    let name = format!("payer{number}x{part}");
                    let (wallet, session) = Wallet::funded(&world, &name, "eur 100.00", 1000).await;
                    wallets.push(buy(wallet, session, counters.clone(), uses, number * 1000 + part).await);
                }
                wallets
            })
        })
        .collect();
    drop(counters);
    let mut wallets = Vec::new();
    for payer in payers {
        wallets.extend(payer.await.unwrap());
    }
    for shop in shops {
        wallets.push(shop.await.unwrap());
    }
    let _server = killer.await.unwrap();
    calm.store(true, Ordering::Relaxed);
    for wallet in &mut wallets {
        wallet.close_all().await;
    }
    // One takes its money home.
    let eur = wallets::money("eur 1.00").currency();
    let home = wallets[0].client.available(eur);
    let unload = |client: &mut transact_ecash::wire::client::Client| {
        let amount = transact_ecash::wire::value::Money::new(eur, -home.minor()).unwrap();
        client.load_unload(1, amount, cloakway_runtime::clock::wall(), &mut cloakway_crypto::System).unwrap()
    };
    wallets[0].insist(unload).await;
    check(&world, &bank, &wallets, payments.div_ceil(PAYERS) * PAYERS).await;
}

async fn check(world: &World, bank: &Bank, wallets: &[Wallet], payments: u64) {
    // What the bank was asked by a process that died is taken back, and the unload settles.
    let began = std::time::Instant::now();
    let summary = loop {
        let summary = world.json("/show/ecash").await;
        if summary["bank_requests_open"] == 0 && summary["holds_waiting"] == 0 {
            break summary;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{summary}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let audit = world.json("/show/ecash-audit").await;
    assert_eq!(audit["proven"], true, "{audit}");
    assert!(summary["sums_minor"].as_object().unwrap().values().all(|sum| sum == "0"), "{summary}");
    let money = &summary["money_minor"]["eur"];
    assert_eq!((&money["in_sessions"], &money["on_hold"]), (&0.into(), &0.into()), "{summary}");
    assert_eq!(summary["payments_collected"], payments, "{summary}");

    let eur = wallets::money("eur 1.00").currency();
    let held: i64 = wallets.iter().map(|wallet| wallet.client.available(eur).minor()).sum();
    assert_eq!(money["available"], held, "what wallets know is what the books say");
    assert_eq!(money["clearing"], -held, "{summary}");
    assert_eq!(bank.books().net(), held, "the bank's books say the same");

    let paid: Vec<_> = wallets.iter().map(Wallet::paid).collect();
    let spent: i64 = paid.iter().flat_map(|paid| paid.values()).sum();
    assert_eq!(paid.iter().map(|paid| paid.len() as u64).sum::<u64>(), payments);
    let credited = wallets.iter().flat_map(|wallet| wallet.client.rows()).map(|row| row.credited.unwrap().minor());
    assert_eq!(credited.sum::<i64>(), spent, "what payers paid is what payees have");
    println!(
        "{payments} payments of {spent} cents in all, each once; the bank heard {} requests",
        bank.books().requests()
    );
}
