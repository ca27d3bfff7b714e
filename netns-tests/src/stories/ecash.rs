//! Electronic cash over the private network: two payers buy a thousand items of a few cents from three shops; one replays,
//! one session ends while a payment is on its way, one payer spends what is not there. Then everybody's books are held
//! against each other, from outside.

mod hands;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

use self::hands::{Hands, SHOPS, cents};
use super::world::World;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;

/// Bought in the third point, by both payers together.
const ITEMS: u32 = 1000;

/// Tells the story; gives the links that payments took.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let hands = Hands { world: World::new(lab) };
    wallets(&hands, evidence)?;
    let alice = sessions(&hands, evidence, "alice", "eur 15.00", 60)?;
    let bob = sessions(&hands, evidence, "bob", "eur 15.00", 60)?;
    thousand(&hands, evidence)?;
    replay(&hands, evidence);
    expiry(&hands, evidence);
    overspending(&hands, evidence);
    books(&hands, evidence, [&alice, &bob]);
    Ok(["alice", "shops", "private"].map(str::to_owned).to_vec())
}

fn wallets(hands: &Hands<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("1", "Two wallets: a persona, a card, money");
    evidence.require(
        "the server's public keys are at the private address, and without the private link they are not",
        || {
            let url = "https://203.0.113.200/v1/ecash/keys";
            let (status, body) = hands.world.curl("alice", &[url])?;
            ensure!(status == 200 && body.contains("modern-1"), "{status} {body}");
            let outside = hands.world.try_curl("bank", &["-m", "2", url])?;
            ensure!(!outside.ok(), "the bank's host was answered");
            Ok((body, ()))
        },
    )?;
    for who in ["alice", "bob"] {
        evidence.require(
            &format!("{who} gets a persona, binds a card that the bank has proven, and loads 20.00"),
            || {
                hands.wallet(who, &["new", "--server", "https://203.0.113.200", "--ca", "{{pki}}/ca.pem"])?;
                let email = format!("{who}@example.org");
                let persona = hands.wallet(who, &["register", "--id", who, "--email", &email])?;
                let card = hands.card("4111111111111111")?;
                let bound = hands.wallet(who, &["bind", "--card-file", &card, "--name", who, "--country", "de"])?;
                let before = hands.world.books()?.len();
                let loaded = hands.wallet(who, &["load", "--instrument", "1", "--amount", "eur 20.00"])?;
                let booked = hands.world.books()?.split_off(before);
                let load = booked.iter().find(|line| line.event == "authorised" && line.amount == 2000);
                ensure!(load.is_some(), "the bank's books: {booked:?}");
                Ok((format!("{persona} {bound} {loaded}\nbank: {:?}", load.map(|line| (&line.stan, line.amount))), ()))
            },
        )?;
    }
    evidence.check(
        "a card that the bank does not know is not bound, and the trial of the good ones holds nothing",
        || {
            let card = hands.card("4000000000000002")?;
            let words = ["bind", "--card-file", &card, "--name", "x", "--country", "de"];
            let (code, said) = hands.try_wallet("bob", &words, 60)?;
            ensure!(code == Some(1) && said.contains("instrument-refused"), "{code:?} {said}");
            let standing = eventually(Duration::from_secs(60), "trials are taken back", || {
                let standing = hands.held_by_bank()?;
                ensure!(standing == 4000, "{standing} cents are held");
                Ok(standing)
            })?;
            Ok(format!("refused: {said}the bank holds {standing} cents of two loads"))
        },
    );
    Ok(())
}

/// Opens a session; its id.
fn sessions(
    hands: &Hands<'_>,
    evidence: &mut Evidence,
    who: &str,
    amount: &str,
    minutes: u32,
) -> Result<String, Stopped> {
    if who == "alice" {
        evidence.point("2", "Sessions");
    }
    evidence.require(&format!("{who} opens a session with {amount}"), || {
        let minutes = minutes.to_string();
        let opened = hands.wallet(who, &["open", "--amount", amount, "--minutes", &minutes, "--uses", "1000"])?;
        let session = hands.last(&opened, "session")?;
        Ok((opened, session))
    })
}

fn thousand(hands: &Hands<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("3", "A thousand items of a few cents");
    let began = Instant::now();
    let cost = |before: &Value, after: &Value, name: &str| -> Option<u64> {
        Some(after.get(name)?.as_u64()? - before.get(name)?.as_u64()?)
    };
    evidence.require(&format!("{ITEMS} items are bought from three shops by two payers at once"), || {
        let before = hands.server("ecash")?;
        let (each, third) = (ITEMS / 2, ITEMS / 6);
        let counts = [third, third, each - 2 * third];
        // Each payer begins at another shop: both are everywhere in the end.
        let [a, b, c] = SHOPS;
        let ways = [("alice", [a, b, c]), ("bob", [b, c, a])];
        thread::scope(|scope| {
            let payers: Vec<_> = ways
                .into_iter()
                .map(|(who, shops)| {
                    scope.spawn(move || -> Result<()> {
                        for ((shop, count), item) in shops.into_iter().zip(counts).zip(["line", "page", "line"]) {
                            hands.buy(who, shop, item, count, None)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            payers.into_iter().try_for_each(|payer| payer.join().map_err(|_| anyhow!("a payer panicked"))?)
        })?;
        let after = hands.server("ecash")?;
        let paid = cost(&before, &after, "payments_collected").unwrap_or_default();
        ensure!(paid == u64::from(ITEMS), "{paid} payments were collected");
        let keys = (cost(&before, &after, "requests_unwrapped"), cost(&before, &after, "signatures_verified"));
        // Three shops opened a session each; payments cost no public-key operation at all.
        ensure!(keys.0.is_some_and(|count| count <= 3) && keys.1.is_some_and(|count| count <= 3), "{keys:?}");
        Ok((
            format!(
                "{paid} payments collected; requests unwrapped meanwhile: {:?}, signatures verified: {:?}",
                keys.0, keys.1
            ),
            (),
        ))
    })?;
    evidence.measure("thousand-items-s", began.elapsed().as_secs_f64());
    evidence.check("nothing of it can be read on the private link, or between payers and shops", || {
        let mut seen = 0;
        for link in ["private", "alice", "bob", "shops"] {
            let packets = hands.world.packets(link)?;
            seen += packets.len();
            let readable = packets.iter().any(|packet| packet.has(b"ECASH-") || packet.has(b"session-id"));
            ensure!(!readable, "a message can be read on {link}");
        }
        Ok(format!("{seen} packets, no message in any"))
    });
    Ok(())
}

fn replay(hands: &Hands<'_>, evidence: &mut Evidence) {
    evidence.point("4", "The same payment again");
    evidence.check(
        "a payment that nobody answered is sent again, byte for byte, by two wallets: it is made once",
        || {
            let before = (hands.spent("alice")?, hands.collected("shop-b")?);
            let offer = hands.folder().join("again").display().to_string();
            // The shop gives an offer and dies before it hears the payment.
            hands.fetch(&offer, "alice", "shop-b", "song")?;
            hands.world.lab.kill9("shop-b")?;
            let (code, said) =
                hands.try_wallet("alice", &["pay", "--offer-file", &offer, "--yes", "--patience", "2"], 60)?;
            ensure!(code == Some(3), "{code:?} {said}");
            hands.copy("alice", "thief")?;
            hands.world.lab.restart("shop-b")?;
            let first = hands.wallet("alice", &["recover"])?;
            let second = hands.wallet_in("alice", "thief", &["recover"])?;
            let after = (hands.spent("alice")?, hands.collected("shop-b")?);
            ensure!(after.0 - before.0 == 5 && after.1 - before.1 == 5, "{before:?} {after:?}");
            Ok(format!(
                "first told: {said}alice: {first}the copy of her wallet: {second}spent and collected: 5 cents, once"
            ))
        },
    );
}

fn expiry(hands: &Hands<'_>, evidence: &mut Evidence) {
    evidence.point("5", "A session ends while a payment is on its way");
    evidence.check("the payment is refused for good, with a receipt; what was left is the payer's again", || {
        let opened = hands.wallet("bob", &["open", "--amount", "eur 1.00", "--minutes", "1", "--uses", "10"])?;
        let session = hands.last(&opened, "session")?;
        hands.buy("bob", "shop-a", "song", 1, Some(&session))?;
        let offer = hands.folder().join("late").display().to_string();
        hands.fetch(&offer, "bob", "shop-c", "song")?;
        hands.world.lab.kill9("shop-c")?;
        let words = ["pay", "--offer-file", &offer, "--session", &session, "--yes", "--patience", "2"];
        let (code, said) = hands.try_wallet("bob", &words, 60)?;
        ensure!(code == Some(3), "{code:?} {said}");
        let ended = eventually(Duration::from_secs(120), "the session's minute is over", || {
            let sessions = hands.server("ecash-sessions")?;
            let mut rows = sessions.as_array().into_iter().flatten();
            let row = rows.find(|row| row.get("id").and_then(Value::as_str) == Some(&session)).cloned();
            let row = row.ok_or_else(|| anyhow!("no such session"))?;
            ensure!(row.get("closed_by").and_then(Value::as_str) == Some("lifetime"), "{row}");
            Ok(row)
        })?;
        hands.world.lab.restart("shop-c")?;
        let recovered = hands.wallet("bob", &["recover"])?;
        ensure!(recovered.contains("session-closed"), "{recovered}");
        let row = hands.payment("bob", &session, 2)?;
        ensure!(row.get("outcome").and_then(Value::as_str) == Some("refused"), "{row}");
        ensure!(row.get("receipt").is_some_and(Value::is_string), "there is a receipt of the refusal: {row}");
        Ok(format!("server: {ended}\nbob: {recovered}"))
    });
}

fn overspending(hands: &Hands<'_>, evidence: &mut Evidence) {
    evidence.point("6", "One payer spends what is not there");
    evidence.check("an honest wallet says no by itself, and the server is not asked", || {
        let opened = hands.wallet("alice", &["open", "--amount", "eur 0.10", "--minutes", "60", "--uses", "20"])?;
        let session = hands.last(&opened, "session")?;
        hands.copy("alice", "cheat")?;
        hands.buy("alice", "shop-a", "song", 2, Some(&session))?;
        let words = ["pay", "--offer-url", "https://198.51.100.82/offers/line", "--session", &session, "--yes"];
        let (code, said) = hands.try_wallet("alice", &words, 60)?;
        ensure!(code == Some(1) && said.contains("there is not so much in the session"), "{code:?} {said}");
        Ok(format!("session {session}: 10 cents spent; {said}"))
    });
    evidence.check("an old copy of the wallet, which knows nothing of that, is told no by the server", || {
        let session = hands.newest_session("cheat")?;
        let before = (hands.server("ecash")?, hands.collected("shop-b")? + hands.collected("shop-c")?);
        // The copy uses the indices again that the wallet has used, in other shops: payments under them are worth nothing.
        let mut reused = Vec::new();
        for _ in 0..2 {
            let words = [
                "pay",
                "--offer-url",
                "https://198.51.100.83/offers/line",
                "--session",
                &session,
                "--yes",
                "--patience",
                "2",
            ];
            let (code, said) = hands.try_wallet_in("alice", "cheat", &words, 60)?;
            ensure!(code == Some(3), "{code:?} {said}");
            reused.push(said);
        }
        // From here on the indices are new, and the money is gone.
        let words = ["pay", "--offer-url", "https://198.51.100.84/offers/song", "--session", &session, "--yes"];
        let (code, said) = hands.try_wallet_in("alice", "cheat", &words, 60)?;
        ensure!(code == Some(1) && said.contains("insufficient-funds"), "{code:?} {said}");
        let after = (hands.server("ecash")?, hands.collected("shop-b")? + hands.collected("shop-c")?);
        let collected = |shown: &Value| shown.get("payments_collected").and_then(Value::as_u64);
        ensure!(collected(&before.0) == collected(&after.0) && before.1 == after.1, "money moved");
        Ok(format!("reused: {}then: {said}", reused.concat()))
    });
}

fn books(hands: &Hands<'_>, evidence: &mut Evidence, sessions: [&String; 2]) {
    evidence.point("7", "The books at the end");
    evidence.check("payers close: what was not spent is theirs again", || {
        let mut told = String::new();
        for (who, session) in ["alice", "bob"].iter().zip(sessions) {
            told += &hands.wallet(who, &["close", "--session", session])?;
            told += &hands.wallet(who, &["close", "--all"])?;
            let (left, spent) = (hands.available(who)?, hands.spent(who)?);
            ensure!(left + spent == 2000, "{who} loaded 2000, spent {spent} and has {left}");
            told += &format!("{who}: {spent} cents spent, {left} left\n");
        }
        Ok(told)
    });
    evidence.check("shops close: what payers spent is theirs, and one takes it home", || {
        let mut collected = 0;
        let mut told = String::new();
        for shop in SHOPS {
            let by_log = hands.collected(shop)?;
            hands.world.lab.terminate(shop)?;
            hands.wallet_in("shops", shop, &["close", "--all"])?;
            let held = hands.available_in("shops", shop)?;
            ensure!(held == by_log, "{shop} collected {by_log} by its log and has {held}");
            collected += held;
            told += &format!("{shop}: {held} cents\n");
        }
        let spent = hands.spent("alice")? + hands.spent("bob")?;
        ensure!(spent == collected, "payers spent {spent}, shops collected {collected}");
        let card = hands.card("5100000000000008")?;
        hands.wallet_in("shops", "shop-a", &["bind", "--card-file", &card, "--name", "Anna", "--country", "de"])?;
        let home = hands.available_in("shops", "shop-a")?;
        let amount = format!("eur {}", cents(home));
        told += &hands.wallet_in("shops", "shop-a", &["unload", "--instrument", "1", "--amount", &amount])?;
        let line = hands.world.books()?.into_iter().rev().find(|line| line.event == "refunded");
        ensure!(line.as_ref().is_some_and(|line| i64::try_from(line.amount) == Ok(home)), "bank: {line:?}");
        Ok(told)
    });
    evidence.check("what went home is on hold until the operator says that it arrived", || {
        let waiting = hands.server("ecash-holds")?;
        let numbers =
            waiting.as_array().into_iter().flatten().filter_map(|row| row.get("hold").and_then(Value::as_u64));
        let numbers: Vec<u64> = numbers.collect();
        ensure!(numbers.len() == 1, "{waiting}");
        let said: Result<Vec<String>> = numbers.into_iter().map(|number| hands.arrived(number)).collect();
        Ok(format!("{waiting}\n{}", said?.concat()))
    });
    evidence.check("the server's books are proven, and say what the bank's say", || {
        let audit = hands.audit()?;
        ensure!(audit.get("proven") == Some(&Value::Bool(true)), "{audit}");
        let (clients, bank) = (hands.clients(&audit)?, hands.held_by_bank()?);
        ensure!(clients == bank, "clients have {clients}, the bank holds {bank}");
        let summary = eventually(Duration::from_secs(60), "nothing is on hold", || {
            let summary = hands.server("ecash")?;
            ensure!(summary.get("holds_waiting") == Some(&0.into()), "{summary}");
            Ok(summary)
        })?;
        Ok(format!("{audit}\nbank: {bank} cents held for cards\n{summary}"))
    });
    evidence.check("and without the server its store proves the same", || {
        hands.world.lab.terminate("transaction-server")?;
        let audit = hands.audit()?;
        ensure!(audit.get("proven") == Some(&Value::Bool(true)), "{audit}");
        ensure!(hands.clients(&audit)? == hands.held_by_bank()?, "{audit}");
        Ok(audit.to_string())
    });
}
