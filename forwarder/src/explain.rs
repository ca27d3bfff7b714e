//! `forwarder explain`: what the policy of a configuration does with a packet, and why.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use cloakway_runtime::{config, role};
use forwarder_core::{Egress, Ingress, Kind, Parsed, Policy, Service, Verdict, parse};
use serde::Serialize;

use crate::config::Config;
use crate::limits::{self, Charged};
use crate::live;

/// Where the default route leads, as far as the policy knows: not to a private link.
const ELSEWHERE: &str = "(default route)";

/// The command tree.
#[must_use]
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("explain")
        .about("Say what would happen to a packet, and why, by the configuration and with every link up")
        .after_help(
            "Examples:\n  \
             forwarder explain --in edge0 --source 198.51.100.70 --destination 203.0.113.200 --service tcp/443\n  \
             forwarder explain --in edge0 --packet \"$HEX\" --json\n\n\
             Exit: 0 it passes, 3 it is dropped, 2 the packet or the configuration is wrong.",
        )
        .arg(
            text("config", "FILE", "The configuration")
                .short('c')
                .value_parser(value_parser!(PathBuf))
                .default_value("/etc/cloakway/forwarder.toml"),
        )
        .arg(text("in", "INTERFACE", "Where it comes in; left out, this host sends it"))
        .arg(text("out", "INTERFACE", "Where routing sends it; left out, where the policy's routes do"))
        .arg(text("packet", "HEX", "The whole IP packet, as tcpdump -x prints it without the offsets").num_args(1))
        .arg(text("source", "ADDRESS", "Its source").value_parser(value_parser!(IpAddr)).requires("destination"))
        .arg(text("destination", "ADDRESS", "Its destination").value_parser(value_parser!(IpAddr)).requires("source"))
        .arg(
            text("service", "PROTOCOL[/PORT]", "What it is for, at the private end, such as tcp/443")
                .requires("source"),
        )
        .arg(Arg::new("fragment").long("fragment").action(ArgAction::SetTrue).help("It is a fragment"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As JSON"))
        .group(ArgGroup::new("what").args(["packet", "source"]).required(true))
}

#[derive(Serialize)]
struct Explained {
    verdict: &'static str,
    reason: Option<&'static str>,
    why: String,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    fragment: bool,
    in_interface: Option<String>,
    out_interface: String,
    link: Option<String>,
    charged: Vec<Charged>,
}

/// Carries it out.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let explained =
        config::load::<Config>(&role::path(matches, "config")).map_err(|error| error.to_string()).and_then(|config| {
            let policy = role::block_on(async { Ok::<_, std::io::Error>(live::policy_now(&config).await) });
            let policy = policy.map_err(|error| error.to_string())?;
            Ok(explain(&policy, &parsed(matches, &policy)?, matches))
        });
    match explained {
        Ok(explained) => {
            let text = if matches.get_flag("json") {
                serde_json::to_string_pretty(&explained).unwrap_or_default()
            } else {
                explained.line()
            };
            // A reader that has gone away is no error.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::from(if explained.reason.is_some() { 3 } else { 0 })
        }
        Err(error) => {
            eprintln!("forwarder: {error}");
            ExitCode::from(2)
        }
    }
}

fn parsed(matches: &ArgMatches, policy: &Policy) -> Result<Parsed, String> {
    if let Some(text) = matches.get_one::<String>("packet") {
        let bytes =
            octets(text).ok_or("--packet: give pairs of hexadecimal digits, white space between them or not")?;
        return parse(&bytes).map_err(|error| format!("--packet: {error}"));
    }
    let address = |name: &str| matches.get_one::<IpAddr>(name).copied().ok_or(format!("--{name} is missing"));
    let (source, destination) = (address("source")?.to_canonical(), address("destination")?.to_canonical());
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("--destination: {destination} and {source} are of different IP versions"));
    }
    let service = matches.get_one::<String>("service").map_or("tcp", String::as_str);
    let service = service.parse::<Service>().map_err(|error| format!("--service: {error}"))?.of(destination.into());
    let port = match service.ports {
        Some(range) if range.start() != range.end() => return Err("--service: give one port, not a range".to_owned()),
        Some(range) => Some(*range.start()),
        None => None,
    };
    // The port is that of the private end; the other is one that any subscriber might have.
    let ports = |port| if policy.private_prefix(source).is_some() { (port, 50_000) } else { (50_000, port) };
    Ok(Parsed {
        source,
        destination,
        hops: 64,
        protocol: service.protocol,
        ports: port.map(ports),
        is_fragment: matches.get_flag("fragment"),
        has_options: false,
        kind: Kind::Other,
        transport: None,
    })
}

fn octets(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16))
        .map(|d| d?.try_into().ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn explain(policy: &Policy, parsed: &Parsed, matches: &ArgMatches) -> Explained {
    let name = |of: &str| matches.get_one::<String>(of).cloned();
    let (ingress, egress) = (name("in"), name("out").unwrap_or_else(|| routed(policy, parsed)));
    let from = ingress.as_deref().map_or(Ingress::Host, Ingress::Interface);
    let verdict = policy.decide(&parsed.packet(from, Egress::Interface(&egress), false));
    let link = match verdict {
        Verdict::ToLink(link) => policy.links().iter().find(|known| known.interface == policy.interface(link)),
        _ => None,
    };
    let (word, why) = match verdict {
        Verdict::ToLink(_) => ("forward", "a subscriber's packet to a private prefix".to_owned()),
        Verdict::ToSubscriber => ("forward", "an answer from a private prefix to a subscriber".to_owned()),
        Verdict::LinkUpkeep => ("accept", "keeps the private link working".to_owned()),
        Verdict::Untouched => ("untouched", "nothing to do with a private link or prefix".to_owned()),
        Verdict::Drop(reason) => ("drop", reason.meaning().to_owned()),
    };
    Explained {
        verdict: word,
        reason: if let Verdict::Drop(reason) = verdict { Some(reason.name()) } else { None },
        why,
        source: parsed.source,
        destination: parsed.destination,
        protocol: parsed.protocol,
        source_port: parsed.ports.map(|(port, _)| port),
        destination_port: parsed.ports.map(|(_, port)| port),
        fragment: parsed.is_fragment,
        in_interface: ingress,
        out_interface: egress,
        link: link.map(|link| link.name.clone()),
        charged: limits::charged(policy, parsed, verdict),
    }
}

/// Where the policy's routes, or the subscribers' own, lead.
fn routed(policy: &Policy, parsed: &Parsed) -> String {
    if let Some(way) = policy.private_prefix(parsed.destination).and_then(|entry| entry.ways.first()) {
        return policy.interface(way.link).to_owned();
    }
    let subscribers = policy.subscriber_interfaces().first().filter(|_| policy.is_subscriber(parsed.destination));
    subscribers.map_or(ELSEWHERE, String::as_str).to_owned()
}

impl Explained {
    fn line(&self) -> String {
        let link = self.link.as_ref().map(|link| format!(" by link {link}")).unwrap_or_default();
        let reason = self.reason.map(|reason| format!(" as {reason}")).unwrap_or_default();
        let charged: Vec<String> = self.charged.iter().map(ToString::to_string).collect();
        let charged = if charged.is_empty() { String::new() } else { format!("; {}", charged.join("; ")) };
        let from = self.in_interface.as_deref().unwrap_or("this host");
        format!(
            "{}{link}{reason}: {} ({} to {}, in by {from}, out by {}){charged}",
            self.verdict, self.why, self.source, self.destination, self.out_interface
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(arguments: &[&str]) -> Result<String, String> {
        let example: Config = config::parse("forwarder.toml", include_str!("../../configs/forwarder.toml")).unwrap();
        let matches = command().try_get_matches_from([&["explain"], arguments].concat()).map_err(|e| e.to_string())?;
        Ok(explain(&example.policy, &parsed(&matches, &example.policy)?, &matches).line())
    }

    #[test]
    fn it_says_what_happens_and_why() {
        let there = ["--source", "198.51.100.70", "--destination", "203.0.113.200"];
        assert_eq!(
            explained(&[&["--in", "edge0"], &there[..]].concat()).unwrap(),
            "forward by link main: a subscriber's packet to a private prefix \
             (198.51.100.70 to 203.0.113.200, in by edge0, out by priv0)"
        );
        assert!(
            explained(&[&["--in", "up0"], &there[..]].concat()).unwrap().starts_with("drop as to-private-by-public")
        );
        assert!(explained(&there).unwrap().starts_with("drop as host-output"));
        let back = ["--in", "priv0", "--source", "203.0.113.200", "--destination"];
        assert!(explained(&[&back[..], &["198.51.100.70"]].concat()).unwrap().starts_with("forward: an answer"));
        assert!(explained(&[&back[..], &["192.0.2.18"]].concat()).unwrap().starts_with("drop as from-private-other"));
    }

    #[test]
    fn a_packet_as_tcpdump_prints_it_is_read() {
        let packet = "4500 001c 0001 0000 4011 8d0f c633 6446 cb00 71c8 2328 01bb 0008 0000";
        let refusal = explained(&["--in", "edge0", "--packet", packet]).unwrap_err();
        assert_eq!(refusal, "--packet: octet 10: the header checksum is wrong (RFC 791 §3.1)");
        let sum = 0x4500_u32 + 0x1c + 1 + 0x4011 + 0xc633 + 0x6446 + 0xcb00 + 0x71c8;
        let right = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        let packet = packet.replace("8d0f", &format!("{right:04x}"));
        assert!(explained(&["--in", "edge0", "--packet", &packet]).unwrap().starts_with("forward by link main"));
        assert!(explained(&["--in", "edge0", "--packet", "45 0"]).unwrap_err().contains("pairs of hexadecimal"));
        assert!(explained(&["--in", "edge0"]).is_err(), "nothing to explain");
    }
}
