//! Payments verified and decided in memory, in batches of 255 and alone, on one core; and what public keys would cost.
//!
//! `cargo bench -p transact-ecash --bench payments`. RUNS=9 repeats it that often, 3 unless given; best and median are shown.
//! A run hands in 40 batches of payments by 11 payers, made beforehand. What is measured is all of `Server::handle`: framing,
//! both parties' seals and authenticators, the decision, the books, receipts, the answer, and the records to be written.
//! Time is that which this process had of a processor.
//!
//! Sketch: a payment takes a dozen HMACs of about half a microsecond, two short seals, and some five hundred bytes to be
//! parsed, hashed and written: below 20 us, so more than 50 k/s. An Ed25519 verification alone takes about twice that.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use cloakway_crypto::sign::SigningKey;
use support::forge::{Item, batch};
use support::{Shop, World, funded, money, policy, shop_of};
use transact_ecash::wire::value::SessionId;
use transact_ecash::{Ticket, Write};

const BATCHES: usize = 40;

/// Seconds that this process has had of a processor: what others take of it is not ours.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Batches of `size` payments of a cent, ready to be handed in.
fn prepare(size: usize) -> (Shop, Vec<Vec<u8>>) {
    let mut world = World::new(policy());
    world.checked = false;
    let mut shop = shop_of(world);
    shop.payer.load(&mut shop.world, 1, money("usd 100.00"));
    let secrets = shop.payee.client.session(shop.to).unwrap().secrets.clone();
    let mut payments = Vec::with_capacity(BATCHES * size);
    // A wallet keeps all that it was offered: one that is young makes payments faster.
    let young = shop.payee.clone();
    for n in 0..BATCHES * size {
        if n.is_multiple_of(1000) {
            shop.payee.clone_from(&young);
            shop.from = fresh_session(&mut shop, n);
        }
        let payment = shop.ca1(&format!("K-{n}"), "usd 0.01");
        payments.push(Item::of(&payment, "usd 0.01"));
    }
    let numbered = (1..).zip(payments.chunks(size));
    let batches = numbered.map(|(index, items)| batch(&secrets, index, items, &mut shop.world.random)).collect();
    (shop, batches)
}

/// Another payer, with a session for a thousand payments.
fn fresh_session(shop: &mut Shop, n: usize) -> SessionId {
    shop.payer = funded(&mut shop.world, &format!("payer{n}"), n as u64 + 10, "usd 10.00");
    shop.payer.open(&mut shop.world, "usd 10.00", 600, 1000)
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let mut per_payment = 0.0;
    for size in [255, 16, 1] {
        let mut rates = Vec::new();
        for _ in 0..runs {
            let (mut shop, batches) = prepare(size);
            let began = processor_time();
            let mut answered = 0;
            for message in &batches {
                let now = shop.world.now;
                let step = shop.world.server.handle(black_box(message), Ticket(0), now, &mut shop.world.random);
                answered += black_box(step).effects.len();
            }
            let took = processor_time() - began;
            assert_eq!((answered, shop.world.server.payments().count()), (BATCHES, BATCHES * size));
            rates.push((BATCHES * size) as f64 / took);
        }
        rates.sort_by(f64::total_cmp);
        let (best, median) = (rates[runs - 1], rates[runs / 2]);
        println!("batches of {size:>3}: {best:>8.0} payments/s best, {median:>8.0} median");
        if size == 255 {
            per_payment = 1e6 / median;
        }
    }

    sizes();
    let time = |label: &str, count: u32, work: &mut dyn FnMut()| {
        let began = processor_time();
        (0..count).for_each(|_| work());
        let each = (processor_time() - began) * 1e6 / f64::from(count);
        println!("{label:<44} {each:>8.1} us, {:>6.2} payments", each / per_payment);
    };
    println!("a payment decided, receipts and all, in a batch  {per_payment:>4.1} us");
    let message = [7; 200];
    let key = SigningKey::from_seed(&[3; 32]).unwrap();
    let signature = key.sign(&message);
    let public = key.verifying_key();
    time("Ed25519: verify one message", 2000, &mut || public.verify_strict(black_box(&message), &signature).unwrap());
    time("Ed25519: sign one message", 2000, &mut || {
        black_box(key.sign(black_box(&message)));
    });
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut signature = vec![0; rsa.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    rsa.sign(&RSA_PKCS1_SHA256, &random, &message, &mut signature).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa.public_key().as_ref().to_vec());
    time("RSA-2048: verify one message", 2000, &mut || public.verify(black_box(&message), &signature).unwrap());
    time("RSA-2048: sign one message", 200, &mut || {
        rsa.sign(&RSA_PKCS1_SHA256, &random, black_box(&message), &mut signature).unwrap();
    });
}

/// What is kept of an open session in memory, and written for a payment in a full batch.
fn sizes() {
    let (mut shop, batches) = prepare(255);
    let now = shop.world.now;
    let step = shop.world.server.handle(&batches[0], Ticket(0), now, &mut shop.world.random);
    let mut written = std::collections::BTreeMap::new();
    for write in &step.writes {
        let Write::Put(record) = write else { continue };
        let kind = format!("{:?}", record.key());
        let kind = kind.split('(').next().unwrap_or_default().to_owned();
        *written.entry(kind).or_insert(0) += serde_json::to_vec(record).unwrap().len();
    }
    println!("an open session in memory: {} bytes and its bitmap", size_of::<transact_ecash::Session>());
    for (kind, bytes) in written {
        println!("written for a payment, as JSON: {:>6.0} bytes of {kind}", f64::from(bytes as u32) / 255.0);
    }
}
