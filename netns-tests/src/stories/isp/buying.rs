//! Purchases of several subscribers at once.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cloakway_runtime::http::Client;
use cloakway_runtime::{clock, tls};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};
use serde::Deserialize;

use super::asking;
use super::people::Person;
use crate::stories::world::{APPROVED, World};

const LIMIT: Duration = Duration::from_secs(60);
/// How often a client connects anew because nobody could say whose its connection was.
const AGAIN: usize = 50;

/// A purchase that is paid and attributed.
#[derive(Debug, Clone)]
pub(super) struct Purchase {
    pub(super) order: String,
    /// Who the client says it is.
    pub(super) own: String,
    /// Its own address.
    pub(super) inside: Ipv4Addr,
    /// Whence the shop saw it.
    pub(super) seen: SocketAddr,
    /// A moment at which its connection to the shop was open, RFC 3339.
    pub(super) moment: String,
    /// Connections before this one that could not be attributed.
    pub(super) again: usize,
}

/// What the shop says to a client.
#[derive(Deserialize)]
struct Ordered {
    order: String,
    pay_url: String,
    client: SocketAddr,
}

/// `number` purchases, of all `people` at once; with `upset` the toolbox is killed when half of them are made.
pub(super) fn buy(
    world: &World<'_>,
    people: &[Person],
    names: &BTreeSet<String>,
    number: usize,
    upset: bool,
) -> Result<Vec<Purchase>> {
    let (left, done) = (AtomicUsize::new(number), AtomicUsize::new(0));
    let one = |person: &Person| {
        let mut purchases = Vec::new();
        while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let purchase = purchase(world, person, names);
            if purchase.is_err() {
                left.store(0, Ordering::SeqCst);
            }
            purchases.push(purchase.with_context(|| format!("{} at {}", person.own, person.address))?);
            if done.fetch_add(1, Ordering::SeqCst) + 1 == number.div_ceil(2) && upset {
                world.lab.kill9("toolbox")?;
                world.lab.restart("toolbox")?;
            }
        }
        Ok::<_, anyhow::Error>(purchases)
    };
    let rounds: Vec<Result<Vec<Purchase>>> = thread::scope(|scope| {
        let workers: Vec<_> = people.iter().map(|person| scope.spawn(|| one(person))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow!("a client panicked")))).collect()
    });
    let purchases = rounds.into_iter().collect::<Result<Vec<_>>>()?.concat();
    ensure!(purchases.len() == number, "{} purchases instead of {number}", purchases.len());
    Ok(purchases)
}

/// How many each made.
pub(super) fn told(purchases: &[Purchase]) -> String {
    let buyers: BTreeSet<&str> = purchases.iter().map(|purchase| purchase.own.as_str()).collect();
    let of = |own: &str| purchases.iter().filter(|purchase| purchase.own == own).count();
    let again: usize = purchases.iter().map(|purchase| purchase.again).sum();
    let counts = buyers.into_iter().map(|own| format!("{own} {}", of(own))).collect::<Vec<_>>().join(", ");
    format!("{counts}\nconnections beside them that two shared a port with, so that nobody was named: {again}")
}

fn purchase(world: &World<'_>, person: &Person, names: &BTreeSet<String>) -> Result<Purchase> {
    for again in 0..AGAIN {
        let Some((ordered, moment)) = order(world, person, names)? else { continue };
        pay(world, person, &ordered.pay_url)?;
        return Ok(Purchase {
            order: ordered.order,
            own: person.own.clone(),
            inside: person.address,
            seen: ordered.client,
            moment,
            again,
        });
    }
    bail!("{AGAIN} connections could not be attributed")
}

/// Orders at the shop; while the connection is open the toolbox is asked whose it is. Nothing where it cannot say.
fn order(world: &World<'_>, person: &Person, names: &BTreeSet<String>) -> Result<Option<(Ordered, String)>> {
    world.lab.netns(&person.host).enter(|| {
        let client = Client::new(tls::client(&world.lab.run_directory().join("pki/ca.pem"), None)?, None)?;
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = b"item=book".to_vec();
        let sent = client.send(Method::POST, "https://192.0.2.18/buy", headers, body, LIMIT);
        let answer = runtime.block_on(sent)?;
        let text = String::from_utf8_lossy(answer.body());
        ensure!(answer.status().is_success(), "the shop answered {}: {text}", answer.status());
        let ordered: Ordered = serde_json::from_str(&text).with_context(|| text.clone().into_owned())?;
        ensure!(ordered.client.ip() != person.address, "not translated");
        let attributed = asking::is_attributed(world, ordered.client, person, names)?;
        let moment = clock::wall().to_string();
        // Until here the connection was open.
        drop((client, runtime));
        Ok(attributed.then_some((ordered, moment)))
    })
}

fn pay(world: &World<'_>, person: &Person, url: &str) -> Result<()> {
    let card = world.lab.run_directory().join("card");
    if !card.exists() {
        let own = world.lab.run_directory().join(format!("card-{}", person.host));
        fs::write(&own, format!("number={APPROVED}\nexpiry=12/30\n"))?;
        fs::rename(&own, &card)?;
    }
    let card = card.display().to_string();
    let words = ["payer", "pay", "--url", url, "--ca", "{{pki}}/ca.pem", "--card-file", &card, "--json"];
    let outcome = crate::command::run(&mut world.lab.command(&person.host, &words)?, Duration::from_secs(180))?;
    ensure!(outcome.ok() && outcome.stdout.contains("approved"), "payer: {}{}", outcome.stdout, outcome.stderr);
    Ok(())
}
