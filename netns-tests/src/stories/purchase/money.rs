//! Point 7: id and password, bounds, the bank, the vendor.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cloakway_crypto::encode::base64;
use serde_json::json;

use crate::evidence::Evidence;
use crate::stories::world::{APPROVED, DECLINED, Order, PRIVATE, SHOP, SILENT, World, host_prefix, now_ns};

pub(super) fn money(world: &World<'_>, evidence: &mut Evidence, paid: &Order) {
    evidence.point("7", "Id and password, bounds, the bank, the vendor");
    evidence.check("a wrong password is refused as an unknown order is, and the bank is not asked", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let before = world.books()?.len();
        let claim = |id: &str| {
            json!({"transaction": {"vendor": "shop", "transaction_id": id, "password": "AAAAAAAAAAAAAAAAAAAAAA"},
                   "card_number": APPROVED, "expiry": "12/30"})
            .to_string()
        };
        let post = |body: &str| {
            world.curl(
                "subscriber",
                &["-H", "Content-Type: application/json", "-d", body, "https://203.0.113.200/v1/payments"],
            )
        };
        let (wrong, unknown) = (post(&claim(&order.order))?, post(&claim("o-nobody"))?);
        ensure!(wrong.0 == 403 && wrong == unknown, "{wrong:?} {unknown:?}");
        ensure!(world.books()?.len() == before);
        Ok(format!("both: {} {}", wrong.0, wrong.1))
    });
    evidence.check(
        "the byte counter is in force: a connection without a right password is dropped at its bound",
        || {
            let noise = world.lab.run_directory().join("noise");
            fs::write(&noise, vec![b'a'; 3000])?;
            let (data, url) = (format!("@{}", noise.display()), "https://203.0.113.200/v1/outcome?n=[1-30]");
            let began = now_ns();
            let said = world.try_curl(
                "subscriber",
                &["-m", "3", "-H", "Expect:", "-o", "/dev/null", "--data-binary", &data, url],
            )?;
            // A connection that is dropped says nothing more: that request times out.
            let largest = largest_connection(world, began)?;
            // The bound is 32768 bytes of the payer's. When it is reached a last window of 16384 may be on its way, and is
            // sent again into the silence; without a bound it would be all 30 requests, some 96000 bytes.
            ensure!((16_384..65_536).contains(&largest), "{largest} bytes on one connection; curl: {}", said.stderr);
            Ok(format!("30 requests of 3000 bytes: no connection carried more than {largest} bytes"))
        },
    );
    evidence.check("the session timer is in force: a connection that says nothing is dropped", || {
        let (held, refused) = world.lab.netns("subscriber").enter(|| {
            let mut stream = TcpStream::connect((PRIVATE[0], 443))?;
            stream.set_read_timeout(Some(Duration::from_secs(90)))?;
            let began = Instant::now();
            let ended = stream.read(&mut [0; 1]);
            Ok((began.elapsed(), ended.map(|read| read == 0)))
        })?;
        ensure!(!matches!(refused, Ok(false)), "it was spoken to");
        ensure!(held < Duration::from_secs(80), "held for {held:?}");
        Ok(format!("dropped after {:.1} s", held.as_secs_f64()))
    });
    evidence.check("approved: 0100/0110, one authorisation in the bank's books for one order paid", || {
        let seen = world.in_shop(&paid.order)?;
        ensure!(seen.state == "paid" && seen.result_deliveries == 1, "{seen:?}");
        let held = world.books()?.into_iter().filter(|line| line.event == "authorised" && line.last_four == "1111");
        let held: Vec<_> = held.collect();
        ensure!(held.len() == 4, "four purchases were approved, and the bank has {held:?}");
        Ok(format!(
            "shop: {seen}\nbank: {}",
            held.iter()
                .map(|line| format!("{} {} {}", line.stan, line.event, line.amount))
                .collect::<Vec<_>>()
                .join(", ")
        ))
    });
    evidence.check("declined: the payer is told, the shop gets a refusal", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, DECLINED)?;
        ensure!(paid.state == "declined" && paid.code == Some(1), "{paid:?}");
        let seen = world.await_result(&order.order, "refused")?;
        let last = world.books()?.pop().context("the books are empty")?;
        ensure!(last.event == "refused" && last.last_four == "0002", "{last:?}");
        Ok(format!("payer: {}; shop: {seen}; bank: {} code {}", paid.state, last.event, last.code))
    });
    evidence.check("silent: the authorisation is reversed (0400/0410), nothing stays held", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, SILENT)?;
        ensure!(paid.state == "reversed" && paid.code == Some(1), "{paid:?}");
        let seen = world.await_result(&order.order, "refused")?;
        let mine: Vec<_> = world.books()?.into_iter().filter(|line| line.last_four == "0119").collect();
        let events: Vec<_> = mine.iter().map(|line| line.event.as_str()).collect();
        ensure!(
            events == ["authorised", "reversed"]
                && mine.windows(2).all(|pair| matches!(pair, [a, b] if a.stan == b.stan)),
            "{mine:?}"
        );
        Ok(format!("payer: {}; shop: {seen}; bank: {}", paid.state, events.join(", then ")))
    });
    evidence.check("a result with a signature that is not the transaction server's is not believed", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let body = json!({"transaction_id": order.order, "verdict": "approved"}).to_string();
        let time = format!("webhook-timestamp: {}", now_ns() / 1_000_000_000);
        let signature = format!("webhook-signature: v1a,{}", base64(&[7; 64]));
        let words = ["-H", "webhook-id: res_forged", "-H", &time, "-H", &signature, "-d", &body];
        let url = "https://192.0.2.18/cloakway/results";
        let (status, said) = world.curl("facilitation", &[&words[..], &[url]].concat())?;
        ensure!((400..500).contains(&status) && world.in_shop(&order.order)?.state == "waiting", "{status} {said}");
        Ok(format!("{status} {said}"))
    });
}

/// The most bytes that one connection from the subscriber, opened since then, sent over the private link, headers
/// left out.
fn largest_connection(world: &World<'_>, since_ns: u64) -> Result<usize> {
    let packets = world.packets("private")?;
    let subscriber = host_prefix("198.51.100.70")?;
    let mut sent = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.at_ns > since_ns) {
        let Some(flow) = packet.flow().filter(|flow| subscriber.contains(&flow.source)) else { continue };
        *sent.entry(flow.ports).or_insert(0) += packet.tcp_payload_v4();
    }
    sent.into_values().max().context("no connection")
}
