//! The main job, end to end: the eight points of the story, each checked from outside the programs.

mod buying;
mod cloak;
mod cut;
mod leaks;
mod money;
mod toolbox;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::world::{PRIVATE, World, host_prefix};
use crate::capture::{Flow, Packet};
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;

/// Tells the story; gives the links that the purchase took, in order.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let world = World::new(lab);
    route(&world, evidence)?;
    forwarding(&world, evidence);
    cloak::cloak(&world, evidence);
    toolbox::toolbox(&world, evidence);
    let order = buying::order(&world, evidence)?;
    let path = buying::buying(&world, evidence, &order)?;
    money::money(&world, evidence, &order);
    cut::cut_and_mend(&world, evidence)?;
    leaks::leaks(&world, evidence);
    cloak::outside(&world, evidence);
    Ok(path)
}

fn route(world: &World<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("1", "The speaker announces, the edge router holds, nobody else hears");
    evidence.check("FRR on edge has an iBGP session with the speaker", || {
        let text = world.vtysh("show bgp neighbors 198.51.100.2 json")?;
        let seen: Value = serde_json::from_str(&text)?;
        let neighbour = seen.get("198.51.100.2").context("no neighbour")?;
        let text = |key: &str| neighbour.get(key).map(ToString::to_string).unwrap_or_default();
        ensure!(text("bgpState") == "\"Established\"" && text("nbrInternalLink") == "true", "{}", text("bgpState"));
        Ok(format!(
            "vtysh: state {}, AS {}, internal, hold time {} ms",
            text("bgpState"),
            text("remoteAs"),
            text("bgpTimerHoldTimeMsecs")
        ))
    });
    evidence.require("edge's kernel sends both private network addresses to the forwarder", || {
        Ok((world.await_routes(true, Duration::from_secs(30))?, ()))
    })?;
    for (address, family, next_hop) in
        [(PRIVATE[0], "ipv4", "198.51.100.2"), (PRIVATE[1], "ipv6", "2001:db8:5100:1::2")]
    {
        evidence.check(&format!("FRR shows {address} with NO_EXPORT, next hop the forwarder"), || {
            let prefix = host_prefix(address)?;
            let text = world.vtysh(&format!("show bgp {family} unicast {prefix}"))?;
            ensure!(text.contains("Community: no-export"), "{text}");
            ensure!(text.contains(&format!("{next_hop} from 198.51.100.2")), "{text}");
            ensure!(text.contains("Not advertised to any peer"), "{text}");
            Ok(text)
        });
    }
    for (host, who) in [("internet", "the router in internet"), ("other-isp", "the ISP that is no member")] {
        evidence.check(&format!("{who} holds neither, and does hold the ISP's own prefixes"), || {
            for own in ["198.51.100.0/24", "2001:db8:5100::/48"] {
                ensure!(world.bird_route(host, own)?.is_some(), "{own} is not there: the router is deaf");
            }
            for address in PRIVATE {
                let held = world.bird_route(host, &host_prefix(address)?.to_string())?;
                ensure!(held.is_none(), "{held:?}");
            }
            Ok(format!("birdc show route {} and {}: Network not found", PRIVATE[0], PRIVATE[1]))
        });
    }
    Ok(())
}

fn forwarding(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("2", "The forwarder sends what matches by the private link, and a blackhole stands under the route");
    for address in PRIVATE {
        evidence.check(&format!("isp's kernel: {address} by priv0, under it a blackhole"), || {
            let routes = world.kernel_routes("isp", address)?;
            ensure!(routes.contains("dev priv0") && routes.contains("blackhole"), "{routes}");
            Ok(routes)
        });
    }
    evidence.check("a subscriber's connection goes through and is answered, over IPv4 and IPv6", || {
        let live: Result<Vec<_>> = PRIVATE
            .iter()
            .map(|address| {
                let url = format!("https://{}/v1/live", in_url(address));
                let (status, body) = world.curl("subscriber", &[&url])?;
                ensure!(status == 200, "{url}: {status} {body}");
                Ok(format!("{url}: {status} {body}"))
            })
            .collect();
        Ok(live?.join("\n"))
    });
    evidence.check("a packet from the edge router itself, which is no subscriber, is dropped and counted", || {
        let before = counted(world, "spoofed-source")?;
        let refused = world.try_curl("edge", &["--connect-timeout", "1", "https://203.0.113.200/v1/live"])?;
        ensure!(!refused.ok(), "it was answered: {}", refused.stdout);
        let after = counted(world, "spoofed-source")?;
        ensure!(after > before, "nft counts {before} before and {after} after");
        let source = host_prefix("198.51.100.1")?;
        let crossed = flows(&world.packets("private")?).any(|flow| flow.touches(source));
        ensure!(!crossed, "a packet of 198.51.100.1 is on the private link");
        Ok(format!("nft counter spoofed-source: {before} before, {after} after; none on the private link"))
    });
}

/// What nftables on `isp` has counted under `name`.
fn counted(world: &World<'_>, name: &str) -> Result<u64> {
    let text = world.lab.must("isp", &["nft", "-j", "list", "counter", "inet", "cloakway", name])?;
    let listed: Value = serde_json::from_str(&text)?;
    let counters = listed.get("nftables").and_then(Value::as_array).context("no list")?;
    let packets = counters.iter().find_map(|entry| entry.pointer("/counter/packets")?.as_u64());
    packets.context("no counter")
}

fn flows(packets: &[Packet]) -> impl Iterator<Item = Flow> {
    packets.iter().filter_map(Packet::flow)
}

fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

fn line_with<'t>(text: &'t str, part: &str) -> &'t str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}
