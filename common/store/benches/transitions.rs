//! Durable transitions a second beside `pgbench` TPC-B, in turn on this machine with the same number of clients:
//! `cargo bench -p cloakway-store --features postgresql --bench transitions`.
//!
//! A client changes one order after another, four steps each, and takes the next step when the one before it is on disk.
//! `TRANSITIONS_CLIENTS=16,64` and `TRANSITIONS_S=10` choose how many and for how long.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement for a person, which fails by panicking"
)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloakway_store::{Batch, Store};

/// Orders that are there before.
const KEPT: u64 = 20_000;
/// As long as an order is as it is stored.
const ORDER: usize = 700;

fn value(number: u64, step: u8) -> Vec<u8> {
    let mut value = vec![step; ORDER];
    for (place, octet) in value.iter_mut().zip(number.to_be_bytes()) {
        *place = octet;
    }
    value
}

fn key(number: u64) -> Vec<u8> {
    format!("shop-{:04}/order-{number:012}", number % 100).into_bytes()
}

/// Transitions a second.
fn transitions(store: &Store, clients: usize, time: Duration) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for from in (0..KEPT).step_by(1000) {
            let mut batch = Batch::new();
            for number in from..from + 1000 {
                batch.put("orders", key(number), value(number, 0));
            }
            store.commit(batch).await.unwrap();
        }
        let (next, done) = (Arc::new(AtomicU64::new(KEPT)), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                let (store, next, done) = (store.clone(), next.clone(), done.clone());
                tokio::spawn(async move {
                    while began.elapsed() < time {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        for step in 0..4 {
                            let mut batch = Batch::new();
                            batch.put("orders", key(number), value(number, step));
                            store.commit(batch).await.unwrap();
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
    })
}

fn folder() -> tempfile::TempDir {
    // Where cargo builds is a disk; the folder for temporary files may be memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What pgbench reaches, if it is here.
fn pgbench(connection: &str, clients: usize, time: Duration) -> Option<f64> {
    let run = |words: &[&str]| {
        let output = Command::new("pgbench").args(words).arg(connection).output().ok()?;
        assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    run(&["-i", "-q", "-s", "10"])?;
    let (clients, seconds) = (clients.to_string(), time.as_secs().to_string());
    let said = run(&["-c", &clients, "-j", "2", "-T", &seconds])?;
    let line = said.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap();
    line.split(' ').next().unwrap().parse().ok()
}

fn main() {
    // A test run asks for no figures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let clients = std::env::var("TRANSITIONS_CLIENTS").unwrap_or_else(|_| "16,64".to_owned());
    let time = std::env::var("TRANSITIONS_S").map_or(10, |seconds| seconds.parse().unwrap());
    let time = Duration::from_secs(time);
    for clients in clients.split(',').map(|clients| clients.parse().unwrap()) {
        let mut rates = Vec::new();
        let place = folder();
        rates.push((
            "embedded: a tree of pages",
            transitions(&Store::open(&place.path().join("store")).unwrap(), clients, time),
        ));
        let place = folder();
        rates.push((
            "embedded: a journal",
            transitions(&Store::open_journal(&place.path().join("store")).unwrap(), clients, time),
        ));
        #[cfg(feature = "postgresql")]
        if let Some(server) = cloakway_testing::postgresql::Postgresql::start() {
            let settings = cloakway_store::Postgresql {
                connection: server.connection(),
                password: None,
                schema: "orders".to_owned(),
                tls: None,
            };
            let store = Store::open_postgresql(&settings).unwrap();
            rates.push(("PostgreSQL as our store", transitions(&store, clients, time)));
            drop(store);
            if let Some(rate) = pgbench(&server.connection(), clients, time) {
                println!("{clients} clients: pgbench TPC-B: {rate:.0} transactions/s");
                for (name, transitions) in &rates {
                    println!(
                        "{clients} clients: {name}: {transitions:.0} transitions/s, {:.1} x pgbench",
                        transitions / rate
                    );
                }
                continue;
            }
        }
        let _ = pgbench;
        for (name, transitions) in &rates {
            println!("{clients} clients: {name}: {transitions:.0} transitions/s");
        }
    }
}
