//! Each process is killed (SIGKILL) during a purchase and started again: the order ends paid once or refused, never lost
//! and never doubled, and without the speaker or the forwarder there is no private route.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::world::{APPROVED, Booked, InShop, Paid, SHOP, SILENT, World};
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;

/// The processes of a purchase.
const PROCESSES: &[&str] = &[
    "bgp-speaker",
    "forwarder",
    "toolbox",
    "transaction-server",
    "bank-simulator",
    "facilitation-server",
    "example-shop",
];

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The order is placed, and nobody has paid yet.
    BeforePaying,
    /// The bank has said yes, and its answer is on the way.
    BankSaysYes,
    /// The bank has written its yes down and says nothing.
    BankIsSilent,
}

/// Tells the story; gives the links that the purchases took.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let world = World::new(lab);
    evidence.require("the private route is there", || Ok((world.await_routes(true, Duration::from_secs(30))?, ())))?;
    for (index, process) in PROCESSES.iter().enumerate() {
        evidence.point(&(index + 1).to_string(), &format!("{process} is killed and started again"));
        for (moment, when) in [
            (Moment::BeforePaying, "between order and payment"),
            (Moment::BankSaysYes, "when the bank has said yes and its answer is on the way"),
            (Moment::BankIsSilent, "while the bank is silent"),
        ] {
            evidence
                .check(&format!("{process} dies {when}: the order ends once"), || purchase(&world, process, moment));
        }
    }
    evidence.point("8", "The books at the end");
    evidence.check("nothing is under way, and the bank holds one amount for each order paid", || {
        eventually(Duration::from_secs(60), "nothing is under way", || {
            let orders = world.show("transaction-server", "orders")?;
            let states = states(&orders);
            ensure!(!states.iter().any(|state| matches!(state.as_str(), "authorising" | "reversing")), "{states:?}");
            Ok(())
        })?;
        let orders = world.show("example-shop", "orders")?;
        let paid = states(&orders).iter().filter(|state| *state == "paid").count();
        let (held, doubled) = held(&world.books()?);
        ensure!(held == paid && doubled == 0, "the shop was paid {paid} times, the bank holds {held}");
        Ok(format!("the shop has {paid} orders paid, the bank holds {held} amounts"))
    });
    Ok(["access", "core", "private"].map(str::to_owned).to_vec())
}

fn purchase(world: &World<'_>, process: &str, moment: Moment) -> Result<String> {
    await_bank(world)?;
    let (before, _) = held(&world.books()?);
    let order = world.buy("subscriber", SHOP[0], "book")?;
    let card = if moment == Moment::BankIsSilent { SILENT } else { APPROVED };
    let lines = world.books()?.len();
    let mut told = Vec::new();
    let first = thread::scope(|scope| {
        let pay = || scope.spawn(|| world.pay(&order.pay_url, card));
        let paying = if moment == Moment::BeforePaying {
            world.lab.kill9(process)?;
            None
        } else {
            hold_answers(world, true)?;
            let paying = pay();
            let booked = eventually(Duration::from_secs(20), "the bank is asked", || {
                ensure!(world.books()?.len() > lines, "not yet");
                Ok(())
            });
            let killed = booked.and_then(|()| world.lab.kill9(process));
            hold_answers(world, false)?;
            killed?;
            Some(paying)
        };
        if matches!(process, "bgp-speaker" | "forwarder") {
            let began = Instant::now();
            world.await_routes(false, Duration::from_secs(30))?;
            told.push(format!("the route was gone after {} ms", began.elapsed().as_millis()));
        }
        let paying = paying.map_or_else(|| early(process).then(pay), Some);
        world.lab.restart(process)?;
        paying.map(|paying| paying.join().map_err(|_| anyhow!("the payer panicked"))?).transpose()
    })?;
    world.await_routes(true, Duration::from_secs(30))?;
    told.extend(first.map(|first| format!("payer: {} ({})", first.state, first.message)));
    let ended = settle(world, &order.order, &order.pay_url, card, &mut told)?;
    let wanted = before + usize::from(ended.state == "paid");
    eventually(Duration::from_secs(30), "the bank's books agree", || {
        let (held, doubled) = held(&world.books()?);
        ensure!(held == wanted && doubled == 0, "order {}, {before} held before, {held} now", ended.state);
        Ok(())
    })?;
    told.push(format!(
        "shop: {}, told {} times; bank: {before} held before, {wanted} now",
        ended.state, ended.result_deliveries
    ));
    Ok(told.join("\n"))
}

/// Waits until the transaction server has its connection to the bank.
fn await_bank(world: &World<'_>) -> Result<()> {
    eventually(Duration::from_secs(30), "the bank has a connection", || {
        let sockets = world.lab.must("bank", &["ss", "-Htn", "state", "established", "sport", "=", ":8583"])?;
        ensure!(!sockets.trim().is_empty(), "none");
        Ok(())
    })
}

/// Holds what the bank says back on its way, or lets it go: TCP sends it again.
fn hold_answers(world: &World<'_>, hold: bool) -> Result<()> {
    let held = "add table inet held; \
                add chain inet held output { type filter hook output priority 0; }; \
                add rule inet held output tcp sport 8583 ip length > 60 drop";
    world.lab.must("bank", &["nft", if hold { held } else { "delete table inet held" }]).map(drop)
}

/// Whether a payer tries while the process is dead. Without these there is nothing to wait for: the payer finds the
/// private path dead, or no page, and says so.
fn early(process: &str) -> bool {
    !matches!(process, "bgp-speaker" | "forwarder" | "transaction-server" | "facilitation-server")
}

/// Does what a payer does who was not told the end: looks again, and pays where nothing was paid. Gives the order as the
/// shop has it once it is decided.
fn settle(world: &World<'_>, order: &str, url: &str, card: &str, told: &mut Vec<String>) -> Result<InShop> {
    let began = Instant::now();
    loop {
        let waited = eventually(Duration::from_secs(4), "the shop knows the end", || {
            let seen = world.in_shop(order)?;
            ensure!(seen.state != "waiting", "the shop waits");
            Ok(seen)
        });
        match waited {
            Ok(seen) => return Ok(seen),
            Err(error) if began.elapsed() > Duration::from_secs(90) => return Err(error.context(told.join("; "))),
            Err(_) => {
                let Paid { state, message, .. } = world.pay(url, card)?;
                told.push(format!("payer again: {state} ({message})"));
            }
        }
    }
}

/// How many authorisations stand in the bank's books, and how many were given twice under one key.
fn held(books: &[Booked]) -> (usize, usize) {
    let mut standing = BTreeSet::new();
    let mut doubled = 0;
    for line in books {
        let key = (&line.stan, &line.time);
        match line.event.as_str() {
            "authorised" if !standing.insert(key) => doubled += 1,
            "reversed" => {
                standing.remove(&key);
            }
            _ => {}
        }
    }
    (standing.len(), doubled)
}

/// The `state` of every row that a role shows.
fn states(shown: &Value) -> Vec<String> {
    let rows = shown.as_array().into_iter().flatten();
    rows.filter_map(|row| row.get("state").context("no state").ok()?.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &str, stan: &str) -> Booked {
        let text = |text: &str| text.to_owned();
        Booked {
            event: text(event),
            stan: text(stan),
            time: text("1122060000"),
            amount: 1250,
            last_four: text("1111"),
            code: text("00"),
        }
    }

    #[test]
    fn what_was_reversed_is_not_held_and_what_was_given_twice_is_seen() {
        let books = [line("authorised", "1"), line("authorised", "2"), line("refused", "3"), line("reversed", "2")];
        assert_eq!(held(&books), (1, 0));
        assert_eq!(held(&[line("authorised", "1"), line("authorised", "1")]), (1, 1));
        assert_eq!(held(&[line("buried", "1")]), (0, 0));
    }
}
