//! Payments made durable by the real path: engine, store, group commit; many payees at once. Small as a test; large as a
//! measurement:
//!
//! `ECASH_PAYEES=64 ECASH_BATCHES=8 ECASH_PGBENCH=10 cargo test --release -p transact ecash::durable -- --nocapture`
//!
//! hands in 64 × 8 batches of 255 payments of a cent, each payee one after the other, and runs `pgbench` (TPC-B, scale 10,
//! 16 clients) for 10 seconds on a PostgreSQL server on the same disk in the same run. `TMPDIR` names the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use cloakway_crypto::System;
use cloakway_runtime::{Stop, clock};
use tokio::net::TcpListener;
use transact_ecash::wire::client::{Client, Event};
use transact_ecash::wire::value::{Minutes, OrderId, SessionId, Value};

use super::killed::server::{config, router};
use super::killed::wallets::{Wallet, World, money};
use crate::bank::BankState;
use crate::ecash;
use crate::exactly_once::bank::Bank;

const BATCH: u64 = 255;
/// Uses of one payer's session.
const USES: u64 = 1000;

fn wanted(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap())
}

/// Octets of memory that this process has.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Payers with a session each, made as they are needed.
struct Payers {
    world: World,
    made: u64,
    wallet: Option<(Wallet, SessionId)>,
}

impl Payers {
    /// CA1 for an offer.
    async fn pay(&mut self, offer: &[u8], number: u64) -> Vec<u8> {
        if number.is_multiple_of(USES) {
            self.wallet = Some(Wallet::funded(&self.world, &format!("payer{}", self.made), "eur 10.00", 1000).await);
            self.made += 1;
        }
        let (wallet, session) = self.wallet.as_mut().unwrap();
        let events = wallet.client.receive(offer, clock::wall(), &mut System).events;
        let [Event::Offered(key)] = &events[..] else { panic!("{events:?}") };
        let step = wallet.client.pay(key, *session, None, clock::wall(), &mut System).unwrap();
        step.send.into_iter().next().unwrap().1
    }
}

/// Batches of a payee, ready to be handed in, and the wallet that made them.
async fn prepare(world: &World, payers: &mut Payers, payee: u64, batches: u64) -> (Client, Vec<Vec<u8>>) {
    let mut wallet = Wallet::registered(world, &format!("payee{payee}")).await;
    let open = wallet.client.open(money("eur 0.00"), Minutes(600), 60_000, None, clock::wall(), &mut System).unwrap();
    wallet.settle(open).await;
    // What was offered is forgotten: a wallet that is young makes payments faster.
    let (mut client, mut made) = (wallet.client, Vec::new());
    for batch in 0..batches {
        for n in 0..BATCH {
            let number = (payee * batches + batch) * BATCH + n;
            let order = OrderId::read(&format!("K-{number}")).unwrap();
            let offer = client.make_offer(order, money("eur 0.01"), "a page", "till", None, clock::wall()).unwrap().1;
            let payment = payers.pay(&offer, number).await;
            client.receive(&payment, clock::wall(), &mut System);
        }
        made.push(client.collect(clock::wall(), &mut System).send.remove(0).1);
    }
    (client, made)
}

fn size_of(folder: &Path) -> u64 {
    std::fs::metadata(folder.join(super::FILE)).unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_of_many_payees_are_durable_when_they_are_answered() {
    let (payees, batches) = (wanted("ECASH_PAYEES", 3), wanted("ECASH_BATCHES", 2));
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::start(Arc::new(AtomicBool::new(true))).await;
    let stop = Stop::new();
    let engine = ecash::start(config(bank.address), folder.path(), BankState::default(), &stop).unwrap();
    let world = World::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    *world.server.lock().unwrap() = Some(listener.local_addr().unwrap());
    let serving = tokio::spawn({
        let router = router(engine.clone());
        async move { axum::serve(listener, router).await.unwrap() }
    });

    let mut payers = Payers { world: world.clone(), made: 0, wallet: None };
    let mut prepared = Vec::new();
    for payee in 0..payees {
        prepared.push(prepare(&world, &mut payers, payee, batches).await);
    }
    let (memory_before, disk_before) = (memory(), size_of(folder.path()));
    let began = Instant::now();
    let handing: Vec<_> = prepared
        .into_iter()
        .map(|(client, made)| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut replies = Vec::new();
                for batch in made {
                    replies.push(engine.message(batch).await.unwrap().bytes);
                }
                (client, replies)
            })
        })
        .collect();
    let mut answered = Vec::new();
    for handed in handing {
        answered.push(handed.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    let count = payees * batches * BATCH;
    let speed = count as f64 / took;
    let grown = memory().saturating_sub(memory_before);
    println!("{count} payments of {payees} payees durable in {took:.2} s: {speed:.0} a second");
    println!(
        "on disk {} octets a payment, in memory {}",
        size_of(folder.path()).saturating_sub(disk_before) / count,
        grown / count
    );
    for (client, replies) in &mut answered {
        for reply in replies {
            let events = client.receive(reply, clock::wall(), &mut System).events;
            assert_eq!(events.len() as u64, BATCH);
            assert!(events.iter().all(|event| matches!(event, Event::Collected(..))), "{events:?}");
        }
    }

    // Whoever comes after finds all of it.
    stop.tell();
    serving.abort();
    let _ = serving.await;
    drop(engine);
    let began = Instant::now();
    let audit = loop {
        match config(bank.address).open(folder.path()) {
            Ok(store) => break ecash::audit::of_the_store(&store).unwrap(),
            // The thread of the engine lets go of the store in its own time.
            Err(error) => assert!(began.elapsed().as_secs() < 60, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(audit["proven"], true, "{audit}");
    let began = Instant::now();
    let stop = Stop::new();
    let again = ecash::start(config(bank.address), folder.path(), BankState::default(), &stop).unwrap();
    println!("a start takes {:.2} s", began.elapsed().as_secs_f64());
    let summary = again.show(ecash::engine::Shown::Summary).await.unwrap();
    assert_eq!(summary["payments_collected"], count, "{summary}");
    assert_eq!(summary["money_minor"]["eur"]["in_sessions"], payers.made * 1000, "{summary}");
    stop.tell();
    pgbench(speed);
}

/// TPC-B on the same disk, if it is asked for.
fn pgbench(speed: f64) {
    let seconds = wanted("ECASH_PGBENCH", 0);
    if seconds == 0 {
        return;
    }
    let Some(server) = cloakway_testing::postgresql::Postgresql::start() else { return };
    let run = |words: &[&str]| {
        let output = std::process::Command::new("pgbench").args(words).arg(server.connection()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    run(&["-i", "-q", "-s", "10"]);
    let text = run(&["-c", "16", "-j", "2", "-T", &seconds.to_string()]);
    let line = text.lines().find(|line| line.starts_with("tps")).unwrap();
    let tps: f64 = line.split(' ').nth(2).unwrap().parse().unwrap();
    println!("pgbench TPC-B: {tps:.0} a second; payments: {:.1} times as many", speed / tps);
}
