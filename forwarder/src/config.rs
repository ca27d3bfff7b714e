//! The configuration file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cloakway_runtime::config::{self, Invalid};
use forwarder_core::{MadeLink, Policy, Spec, SpecLink, SpecPrefix, Timing};
use ipnet::IpNet;
use serde::Deserialize;

use crate::made::RawLink;
use crate::{data_plane, limits, live, routing};

/// A usable configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// What may be forwarded, without live subscriber prefixes.
    pub policy: Policy,
    /// Who tells of live subscriber prefixes.
    pub feeds: Vec<live::Settings>,
    /// The links that are to be made.
    pub made: Vec<MadeLink>,
    /// How health falls and rises.
    pub timing: Timing,
    /// How often each neighbour is asked.
    pub probe_interval: Duration,
    /// What forwards.
    pub data_plane: data_plane::Settings,
    /// What a reload cannot change.
    pub fixed: Fixed,
}

/// What takes a restart to change: where others find the running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Where `show` asks.
    pub admin_socket: PathBuf,
    /// Where health is read.
    pub health_socket: PathBuf,
    /// Where Prometheus reads.
    pub metrics_listen: Option<SocketAddr>,
}

impl Fixed {
    /// The settings that are not as they were `before`.
    #[must_use]
    pub fn changes(&self, before: &Self) -> Vec<&'static str> {
        let all = [
            ("admin-socket", self.admin_socket != before.admin_socket),
            ("health-socket", self.health_socket != before.health_socket),
            ("metrics-listen", self.metrics_listen != before.metrics_listen),
        ];
        all.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    admin_socket: Option<PathBuf>,
    health_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    subscribers: RawSubscribers,
    links: Vec<RawLink>,
    private_prefixes: Vec<RawPrefix>,
    #[serde(default)]
    health: RawHealth,
    #[serde(default)]
    data_plane: data_plane::Raw,
    limits: Option<limits::Raw>,
    #[serde(default)]
    routing: routing::Raw,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSubscribers {
    interfaces: Vec<String>,
    prefixes: Vec<IpNet>,
    #[serde(default)]
    live: Vec<live::Raw>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPrefix {
    prefix: IpNet,
    link: Option<String>,
    links: Option<Vec<String>>,
    spread: Option<String>,
    next_hop: Option<IpAddr>,
    #[serde(default)]
    next_hops: BTreeMap<String, IpAddr>,
    probe: Option<IpAddr>,
    #[serde(default)]
    services: Vec<String>,
    dscp: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawHealth {
    hold_down_ms: u64,
    probe_interval_ms: u64,
    rise: u32,
    fall: u32,
}

impl Default for RawHealth {
    fn default() -> Self {
        Self { hold_down_ms: 1000, probe_interval_ms: 500, rise: 2, fall: 2 }
    }
}

/// Without a read-back of guard and routes for this long nothing is healthy.
const CHECK_LIMIT: Duration = Duration::from_secs(3);

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let (timing, probe_interval) = timing(&raw.health)?;
        let data_plane = data_plane::Settings::new(raw.data_plane)?;
        let made = raw.links.iter().enumerate().map(|(index, link)| link.made(index)).collect::<Result<Vec<_>, _>>()?;
        let made: Vec<MadeLink> = made.into_iter().flatten().collect();
        let link = |link: RawLink| SpecLink { name: link.name, interface: link.interface };
        let prefixes = raw.private_prefixes.into_iter().enumerate().map(|(index, entry)| prefix(index, entry));
        let feeds = live::settings(raw.subscribers.live)?;
        let spec = Spec {
            live: feeds.iter().map(|feed| feed.within.clone()).collect(),
            links: raw.links.into_iter().map(link).collect(),
            prefixes: prefixes.collect::<Result<_, _>>()?,
            subscriber_prefixes: raw.subscribers.prefixes,
            subscriber_interfaces: raw.subscribers.interfaces,
        };
        let policy = Policy::new(spec).map_err(|error| Invalid::at(error.place.to_string(), &error))?;
        let policy = policy.by_tunnels(made.iter().filter_map(MadeLink::tunnel).collect());
        let policy = if data_plane.clamp_mss { policy.clamping_mss() } else { policy };
        let in_user_space = data_plane.mode == data_plane::Mode::User;
        let only_attended = data_plane.on_crash == data_plane::OnCrash::Drop && !in_user_space;
        let policy = if only_attended { policy.only_attended() } else { policy };
        let policy = if in_user_space { policy.in_user_space() } else { policy };
        let policy = routing::routed(policy, &raw.routing)?;
        let policy = limits::limited(policy, raw.limits.as_ref(), data_plane.mode)?;
        let admin_socket = raw.admin_socket.unwrap_or_else(|| config::default_socket("forwarder"));
        let health_socket = raw.health_socket.unwrap_or_else(|| config::default_socket("forwarder-health"));
        if admin_socket == health_socket {
            return Err(Invalid::at("health-socket", "the same path as admin-socket: give each its own"));
        }
        let made = made.into_iter().map(|link| link.serving(&policy)).collect();
        let fixed = Fixed { admin_socket, health_socket, metrics_listen: raw.metrics_listen };
        Ok(Self { policy, feeds, made, timing, probe_interval, data_plane, fixed })
    }
}

fn prefix(index: usize, entry: RawPrefix) -> Result<SpecPrefix, Invalid> {
    let at = |field: &str, why: String| Invalid::at(format!("private-prefixes[{index}].{field}"), why);
    let links = match (entry.link, entry.links) {
        (Some(link), None) => vec![link],
        (None, Some(links)) => links,
        (Some(_), Some(_)) => return Err(at("links", "beside link: give one link, or a list of links".into())),
        (None, None) => return Err(at("link", "missing field `link`: name the link, or several in `links`".into())),
    };
    let spread = match entry.spread.as_deref() {
        None => false,
        Some("hash") => true,
        Some(other) => {
            return Err(at("spread", format!("{other:?} is no way to spread: give \"hash\", or leave it out")));
        }
    };
    let RawPrefix { prefix, next_hop, next_hops, probe, services, dscp, .. } = entry;
    Ok(SpecPrefix { prefix, links, spread, next_hop, next_hops, probe, services, dscp })
}

fn timing(raw: &RawHealth) -> Result<(Timing, Duration), Invalid> {
    let RawHealth { hold_down_ms, probe_interval_ms, rise, fall } = *raw;
    let within = |field: &str, value: u64, low: u64, high: u64| {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Invalid::at(format!("health.{field}"), format!("{value} is not allowed: {low} to {high}")))
    };
    within("hold-down-ms", hold_down_ms, 100, 600_000)?;
    within("probe-interval-ms", probe_interval_ms, 100, 10_000)?;
    within("rise", rise.into(), 1, 100)?;
    within("fall", fall.into(), 1, 10)?;
    let probe_interval = Duration::from_millis(probe_interval_ms);
    let timing = Timing {
        hold_down: Duration::from_millis(hold_down_ms),
        rise,
        fall,
        silence_limit: probe_interval * (fall + 2),
        check_limit: CHECK_LIMIT,
    };
    Ok((timing, probe_interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/forwarder.toml");

    fn error(text: &str) -> String {
        config::parse::<Config>("forwarder.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let config: Config = config::parse("forwarder.toml", EXAMPLE).unwrap();
        assert_eq!(config.timing.hold_down, Duration::from_secs(1));
        assert_eq!(config.timing.silence_limit, Duration::from_secs(2));
        let (without, _) = EXAMPLE.split_once("[health]").unwrap();
        let defaults: Config = config::parse("forwarder.toml", without).unwrap();
        assert_eq!(defaults.timing, config.timing);
        assert_eq!(defaults.fixed, config.fixed);
        assert_eq!(defaults.data_plane.mode, config.data_plane.mode);
        assert_eq!(defaults.data_plane.hook, config.data_plane.hook);
        assert_eq!(defaults.data_plane.pin_directory, config.data_plane.pin_directory);
        assert_eq!(defaults.data_plane.on_crash, config.data_plane.on_crash);
    }

    #[test]
    fn a_stray_key_in_any_table_is_refused_with_its_line() {
        let tables = ["[subscribers]", "[[links]]", "[[private-prefixes]]", "[health]", "[data-plane]"];
        for table in tables {
            let stray = EXAMPLE.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
            let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
            let message = error(&stray);
            assert!(message.starts_with(&format!("forwarder.toml:{line}: ")), "{message}");
            assert!(message.contains("unknown field `stray`"), "{message}");
        }
        assert!(error(&format!("stray = 1\n{EXAMPLE}")).contains("stray"));
    }

    #[test]
    fn a_missing_table_or_field_is_named() {
        for field in ["interfaces", "prefixes", "name", "interface", "prefix", "link"] {
            let mut dropped = false;
            let text: Vec<_> = EXAMPLE
                .lines()
                .filter(|line| {
                    let drop = !dropped && line.starts_with(&format!("{field} = "));
                    dropped |= drop;
                    !drop
                })
                .collect();
            let message = error(&text.join("\n"));
            assert!(message.contains(&format!("missing field `{field}`")), "{message}");
        }
        assert!(error("").contains("missing field `subscribers`"));
    }

    #[test]
    fn a_contradiction_names_line_field_and_what_would_be_right() {
        let overlap = EXAMPLE.replace("203.0.113.200/32", "198.51.100.70/32");
        let line = overlap.lines().position(|line| line.contains("198.51.100.70/32")).unwrap() + 1;
        assert_eq!(
            error(&overlap),
            format!(
                "forwarder.toml:{line}: private-prefixes[0].prefix: \
                 198.51.100.70/32 overlaps subscriber prefix 198.51.100.64/26"
            )
        );
        let unknown = error(&EXAMPLE.replacen("link = \"main\"", "link = \"mian\"", 1));
        assert!(unknown.contains("private-prefixes[0].link: no link is called \"mian\": there is main"), "{unknown}");
        let service =
            EXAMPLE.replacen("link = \"main\"\n", "link = \"main\"\nservices = [\"tcp/443\", \"icmp/8\"]\n", 1);
        assert!(error(&service).contains("private-prefixes[0].services[1]: icmp has no ports"), "{}", error(&service));
        let with = |line: &str| error(&EXAMPLE.replacen("link = \"main\"\n", line, 1));
        assert!(with("link = \"main\"\nlinks = [\"main\"]\n").contains("private-prefixes[0].links: beside link"));
        assert!(
            with("links = [\"main\", \"main\"]\n").contains("private-prefixes[0].links[1]: link main is listed twice")
        );
        let spread = with("link = \"main\"\nspread = \"random\"\n");
        assert!(
            spread.contains("private-prefixes[0].spread: \"random\" is no way to spread: give \"hash\""),
            "{spread}"
        );
        assert!(with("link = \"main\"\nspread = \"hash\"\n").contains("private-prefixes[0].spread: one link alone"));
        let hops = with("link = \"main\"\nnext-hops = { other = \"192.0.2.250\" }\n");
        assert!(hops.contains("private-prefixes[0].next-hop: a next hop on link \"other\""), "{hops}");
        let low = error(&EXAMPLE.replace("hold-down-ms = 1000", "hold-down-ms = 99"));
        assert!(low.contains("health.hold-down-ms: 99 is not allowed: 100 to 600000"), "{low}");
        assert!(error(&EXAMPLE.replace("fall = 2", "fall = 0")).contains("health.fall: 0 is not allowed: 1 to 10"));
        let plane = |from: &str, to: &str| error(&EXAMPLE.replacen(from, to, 1));
        let mode = plane("mode = \"kernel\"", "mode = \"dpdk\"");
        assert!(
            mode.contains("data-plane.mode: \"dpdk\" is no data plane: give \"kernel\", \"bpf\", \"auto\" or \"user\""),
            "{mode}"
        );
        let hook = plane("hook = \"auto\"", "hook = \"tc\"");
        assert!(hook.contains("data-plane.hook: \"tc\" is no hook: give \"xdp\", \"tcx\" or \"auto\""), "{hook}");
        assert!(with("link = \"main\"\ndscp = 64\n").contains("private-prefixes[0].dscp: 64 is no DSCP: 0 to 63"));
        let crash = plane("# on-crash = \"keep\"", "on-crash = \"halt\"");
        assert!(crash.contains("data-plane.on-crash: \"halt\" is not known: give \"keep\" or \"drop\""), "{crash}");
        let user = EXAMPLE.replacen("mode = \"kernel\"", "mode = \"user\"", 1);
        let user = error(&user.replacen("# on-crash", "on-crash", 1));
        assert!(
            user.contains("data-plane.on-crash: the user data plane forwards nothing without its process"),
            "{user}"
        );
        let pins = plane("pin-directory = \"/sys", "pin-directory = \"sys");
        assert!(pins.contains("data-plane.pin-directory: an absolute path is needed"), "{pins}");
        let same = EXAMPLE.replace("forwarder-health.sock", "forwarder.sock");
        assert!(error(&same).contains("health-socket: the same path as admin-socket"));
    }
}
