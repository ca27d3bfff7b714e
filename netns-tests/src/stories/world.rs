//! What the stories of a purchase do and look at, always from outside the programs.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::capture::{self, Packet};
use crate::command::{Outcome, eventually};
use crate::lab::Lab;

/// The private network addresses of the topology `purchase`.
pub(crate) const PRIVATE: [&str; 2] = ["203.0.113.200", "2001:db8:c10a::200"];

/// The shop as an IPv4 and as an IPv6 client sees it.
pub(crate) const SHOP: [&str; 2] = ["192.0.2.18", "[2001:db8:0:3::18]"];

/// The test cards of the bank.
pub(crate) const APPROVED: &str = "4111111111111111";
pub(crate) const DECLINED: &str = "4000000000000002";
pub(crate) const SILENT: &str = "4000000000000119";

/// The laboratory, with the eyes and hands of the story.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) lab: &'a Lab,
}

/// An order as the shop gives it to a client.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) pay_url: String,
}

/// An order as the shop's own books have it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct InShop {
    pub(crate) state: String,
    pub(crate) result_deliveries: u32,
}

impl fmt::Display for InShop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, told {} times", self.state, self.result_deliveries)
    }
}

/// What the `payer` said.
#[derive(Debug, Clone)]
pub(crate) struct Paid {
    pub(crate) state: String,
    pub(crate) message: String,
    pub(crate) code: Option<i32>,
}

/// A line of the bank's books.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Booked {
    pub(crate) event: String,
    pub(crate) stan: String,
    pub(crate) time: String,
    pub(crate) amount: u64,
    #[serde(rename = "last-four")]
    pub(crate) last_four: String,
    pub(crate) code: String,
}

impl<'a> World<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self { lab }
    }

    /// One command of FRR's shell on the edge router.
    pub(crate) fn vtysh(&self, command: &str) -> Result<String> {
        self.lab.must("edge", &["vtysh", "--vty_socket", "{{run}}/edge-zebra", "-c", command])
    }

    /// What BIRD of `host` knows of exactly this prefix; it has a way of its own to say that it knows nothing.
    pub(crate) fn bird_route(&self, host: &str, prefix: &str) -> Result<Option<String>> {
        let socket = format!("{{{{run}}}}/{host}-bird/bird.ctl");
        let said = self.lab.exec(host, &["birdc", "-s", &socket, "show", "route", prefix])?;
        match (said.ok(), said.stdout.contains("Network not found")) {
            (true, false) => Ok(Some(said.stdout)),
            (_, true) => Ok(None),
            _ => bail!("birdc: {}{}", said.stdout, said.stderr),
        }
    }

    /// The routes of `host`'s kernel to exactly this private address.
    pub(crate) fn kernel_routes(&self, host: &str, address: &str) -> Result<String> {
        let family = if address.contains(':') { "-6" } else { "-4" };
        self.lab.must(host, &["ip", family, "route", "show", address])
    }

    /// The routes of `host` that match `address` and drop what they match.
    fn discards(&self, host: &str, address: &str) -> Result<String> {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let routes = self.lab.must(host, &["ip", family, "route", "show", "match", address])?;
        Ok(routes.lines().filter(|route| route.starts_with("blackhole")).map(|route| format!("{route}\n")).collect())
    }

    /// Whether the edge's kernel sends packets to `address` to the forwarder.
    pub(crate) fn edge_uses_forwarder(&self, address: &str) -> Result<String> {
        let routes = self.kernel_routes("edge", address)?;
        ensure!(routes.contains("dev isp0") && routes.contains("proto bgp"), "{}: {}", address, routes.trim());
        Ok(routes)
    }

    /// Waits until both private network addresses are in the edge's table, or neither is.
    pub(crate) fn await_routes(&self, there: bool, bound: Duration) -> Result<String> {
        let what = if there { "the edge has both routes" } else { "the edge has neither route" };
        eventually(bound, what, || {
            let found: Vec<_> = PRIVATE.iter().map(|address| self.edge_uses_forwarder(address)).collect();
            if there {
                return Ok(found.into_iter().collect::<Result<Vec<_>>>()?.concat());
            }
            ensure!(found.iter().all(Result::is_err), "a route is there: {found:?}");
            let routes = PRIVATE.map(|address| self.discards("edge", address));
            Ok(routes.into_iter().collect::<Result<Vec<_>>>()?.concat())
        })
    }

    /// `curl` from `host`, trusting the laboratory's authority; gives status and body.
    pub(crate) fn curl(&self, host: &str, words: &[&str]) -> Result<(u16, String)> {
        let outcome = self.try_curl(host, words)?;
        ensure!(outcome.ok(), "curl ended with {:?}: {}", outcome.code, outcome.stderr.trim());
        let (body, status) = outcome.stdout.rsplit_once('\n').context("curl writes the status last")?;
        Ok((status.trim().parse()?, body.to_owned()))
    }

    /// As [`World::curl`], for what is expected to fail.
    pub(crate) fn try_curl(&self, host: &str, words: &[&str]) -> Result<Outcome> {
        let common = ["curl", "-sS", "-m", "15", "--cacert", "{{pki}}/ca.pem", "-w", "\n%{http_code}"];
        self.lab.exec(host, &[&common, words].concat())
    }

    /// Buys `item` in the shop from `host`, over IPv4 or IPv6.
    pub(crate) fn buy(&self, host: &str, shop: &str, item: &str) -> Result<Order> {
        let (item, url) = (format!("item={item}"), format!("https://{shop}/buy"));
        let (status, body) = self.curl(host, &["-H", "Accept: application/json", "-d", &item, &url])?;
        ensure!(status == 200, "the shop answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| body.clone())
    }

    /// Pays with the `payer` command line on `subscriber`.
    pub(crate) fn pay(&self, url: &str, card: &str) -> Result<Paid> {
        let file = self.lab.run_directory().join(format!("card-{card}"));
        fs::write(&file, format!("number={card}\nexpiry=12/30\n"))?;
        let file = file.display().to_string();
        let words = ["payer", "pay", "--url", url, "--ca", "{{pki}}/ca.pem", "--card-file", &file, "--json"];
        let mut command = self.lab.command("subscriber", &words)?;
        let outcome = crate::command::run(&mut command, Duration::from_secs(90))?;
        let said: Value = serde_json::from_str(outcome.stdout.trim())
            .with_context(|| format!("payer said: {}{}", outcome.stdout, outcome.stderr))?;
        let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Paid { state: text("state"), message: text("message"), code: outcome.code })
    }

    /// The order as the shop has it.
    pub(crate) fn in_shop(&self, order: &str) -> Result<InShop> {
        let (status, body) = self.curl("subscriber", &[&format!("https://192.0.2.18/orders/{order}")])?;
        ensure!(status == 200, "the shop answered {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits until the shop has the result of the order.
    pub(crate) fn await_result(&self, order: &str, state: &str) -> Result<InShop> {
        eventually(Duration::from_secs(30), "the shop has the result", || {
            let seen = self.in_shop(order)?;
            ensure!(seen.state == state, "the shop says {}", seen.state);
            Ok(seen)
        })
    }

    /// The bank's books.
    pub(crate) fn books(&self) -> Result<Vec<Booked>> {
        let text = fs::read_to_string(self.lab.run_directory().join("bank-simulator/books.jsonl"))?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The command of a role that shows its state, as JSON.
    pub(crate) fn show(&self, binary: &str, topic: &str) -> Result<Value> {
        let socket = self.lab.run_directory().join(binary).join("admin.sock");
        let mut command = std::process::Command::new(crate::lab::binaries()?.join(binary));
        command.args(["show", topic, "--json", "--socket"]).arg(socket);
        Ok(serde_json::from_str(&crate::command::must(&mut command, Duration::from_secs(10))?)?)
    }

    /// All packets of a link's capture so far.
    pub(crate) fn packets(&self, link: &str) -> Result<Vec<Packet>> {
        capture::read(&self.lab.capture(link))
    }

    /// Waits for the BGP message of the speaker that names `prefix` after the moment `since_ns`; gives how long after.
    pub(crate) fn bgp_message_after(&self, prefix: IpNet, since_ns: u64) -> Result<Duration> {
        let name = capture::in_bgp(prefix);
        eventually(Duration::from_secs(30), &format!("a BGP message with {prefix}"), || {
            let packets = self.packets("core")?;
            let found = packets.iter().find(|packet| {
                packet.at_ns > since_ns
                    && packet.has(&name)
                    && packet.flow().is_some_and(|flow| flow.ports.is_some_and(|(from, to)| from == 179 || to == 179))
            });
            Ok(Duration::from_nanos(found.context("none yet")?.at_ns - since_ns))
        })
    }

    /// The links that the first TCP connection to `address` since then took, each with the time of its first packet.
    pub(crate) fn path(&self, address: IpAddr, since_ns: u64) -> Result<Vec<(String, u64)>> {
        let mut seen = Vec::new();
        let mut client = None;
        let mut links = self.lab.topology().links.clone();
        links.sort_by_key(|link| link.name != "access");
        for link in &links {
            let first = self.packets(&link.name)?.into_iter().find_map(|packet| {
                let flow = packet.flow().filter(|flow| flow.opens() && flow.destination == address)?;
                if packet.at_ns < since_ns {
                    return None;
                }
                let from = (flow.source, flow.ports?.0);
                let same = client.is_none_or(|client| client == from);
                same.then_some((packet.at_ns, from))
            });
            let Some((at, from)) = first else { continue };
            client = Some(from);
            seen.push((link.name.clone(), at));
        }
        seen.sort_by_key(|(_, at)| *at);
        Ok(seen)
    }
}

/// The prefix that is exactly this address.
pub(crate) fn host_prefix(address: &str) -> Result<IpNet> {
    Ok(IpNet::from(address.parse::<IpAddr>()?))
}

/// The time of day in nanoseconds, as captures have it.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
