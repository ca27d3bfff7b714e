//! Point 8: the private link is cut, and mended.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::evidence::{Evidence, Stopped};
use crate::stories::world::{APPROVED, PRIVATE, SHOP, World, host_prefix, now_ns};

pub(super) fn cut_and_mend(world: &World<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("8", "The private link is cut, and nothing leaks");
    for address in PRIVATE {
        let words = ["ping", "-n", "-q", "-i", "0.005", address];
        let started = world
            .lab
            .command("subscriber", &words)
            .and_then(|ping| world.lab.spawn(&format!("ping-{}", address.len()), ping));
        evidence.check(&format!("the subscriber sends a packet to {address} every 5 ms from here on"), || {
            started.map(|()| words.join(" "))
        });
    }
    let before = now_ns();
    evidence
        .require("cut: the route is withdrawn, and the edge drops", || {
            world.lab.plug("private", false)?;
            let mut lines = Vec::new();
            for address in PRIVATE {
                let withdrawn = world.bgp_message_after(host_prefix(address)?, before)?;
                lines.push((format!("cut to WITHDRAW on the wire, {address}"), withdrawn));
            }
            let routes = world.await_routes(false, Duration::from_secs(10))?;
            ensure!(routes.matches("blackhole").count() == 2, "the edge has no discard route: {routes}");
            let text = lines.iter().map(|(what, time)| format!("{what}: {:.1} ms", time.as_secs_f64() * 1000.0));
            Ok((text.chain([routes]).collect::<Vec<_>>().join("\n"), lines))
        })
        .map(|lines| measure(evidence, "cut-to-withdrawal-ms", &lines))?;
    evidence.check(
        "while it is cut the payer is told that the private path is dead, and the bank is not asked",
        || {
            let order = world.buy("subscriber", SHOP[0], "book")?;
            let before = world.books()?.len();
            let paid = world.pay(&order.pay_url, APPROVED)?;
            ensure!(paid.code == Some(1) && world.books()?.len() == before, "{paid:?}");
            Ok(format!("payer: {} ({})", paid.state, paid.message))
        },
    );
    let before = now_ns();
    evidence
        .require("mended: the route is announced again", || {
            world.lab.plug("private", true)?;
            let mut lines = Vec::new();
            for address in PRIVATE {
                let announced = world.bgp_message_after(host_prefix(address)?, before)?;
                lines.push((format!("mend to announcement on the wire, {address}"), announced));
            }
            let routes = world.await_routes(true, Duration::from_secs(20))?;
            let text = lines.iter().map(|(what, time)| format!("{what}: {:.1} ms", time.as_secs_f64() * 1000.0));
            Ok((text.chain([routes]).collect::<Vec<_>>().join("\n"), lines))
        })
        .map(|lines| measure(evidence, "mend-to-announcement-ms", &lines))?;
    evidence.check("a new purchase succeeds", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, APPROVED)?;
        ensure!(paid.state == "approved", "{paid:?}");
        Ok(format!("payer: {}; shop: {}", paid.state, world.await_result(&order.order, "paid")?))
    });
    Ok(())
}

fn measure(evidence: &mut Evidence, name: &str, lines: &[(String, Duration)]) {
    let longest = lines.iter().map(|(_, time)| time.as_secs_f64() * 1000.0).fold(0.0, f64::max);
    evidence.measure(name, longest);
}
