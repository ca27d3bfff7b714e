//! `forwarder trace`: a live sample of dropped packets, each with its reason.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::{clock, config, role};
use forwarder_core::trace::{Sample, Why};
use forwarder_dataplane::{DataplaneError, Trace, Traced};
use ipnet::IpNet;
use serde::Serialize;

use crate::config::Config;
use crate::dropped::Following;
use crate::live;

/// The command tree.
#[must_use]
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("trace")
        .about("Show a live sample of dropped packets: why, where from, and what their headers say")
        .after_help(
            "Examples:\n  \
             forwarder trace\n  \
             forwarder trace --reason spoofed-source --in edge0 --count 10 --json\n\n\
             The kernel hands over no more than 100 packets of each rule a second, and of each no more than 128 octets; nothing \
             behind the headers is shown. Nothing is changed of what is dropped. Ends with --count, or when it is interrupted.",
        )
        .arg(
            text("config", "FILE", "The configuration")
                .short('c')
                .value_parser(value_parser!(PathBuf))
                .default_value("/etc/cloakway/forwarder.toml"),
        )
        .arg(
            text("reason", "NAME", "Only these, as `show counters` calls them")
                .action(ArgAction::Append)
                .value_parser(PossibleValuesParser::new(Why::all().map(Why::name))),
        )
        .arg(text("in", "INTERFACE", "Only what came in there"))
        .arg(text("source", "PREFIX", "Only from there").value_parser(net))
        .arg(text("destination", "PREFIX", "Only to there").value_parser(net))
        .arg(text("count", "NUMBER", "End after so many").value_parser(value_parser!(u64).range(1..)))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As JSON, an object a line"))
}

/// A prefix, or an address by itself.
fn net(text: &str) -> Result<IpNet, String> {
    let address = |_| text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(address).map_err(|_| "an address or a prefix is needed".to_owned())
}

/// A dropped packet as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    at: String,
    reason: &'static str,
    meaning: &'static str,
    in_interface: Option<String>,
    out_interface: Option<String>,
    length: usize,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: Option<u8>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    hops: Option<u8>,
    fragment: Option<bool>,
    options: Option<bool>,
}

/// Which are wanted.
struct Wanted {
    reasons: Vec<String>,
    from: Option<String>,
    source: Option<IpNet>,
    destination: Option<IpNet>,
}

impl Wanted {
    fn of(matches: &ArgMatches) -> Self {
        Self {
            reasons: matches.get_many("reason").into_iter().flatten().cloned().collect(),
            from: matches.get_one("in").cloned(),
            source: matches.get_one("source").copied(),
            destination: matches.get_one("destination").copied(),
        }
    }

    fn has(&self, shown: &Shown) -> bool {
        let within = |net: Option<IpNet>, address: Option<IpAddr>| {
            net.is_none_or(|net| address.is_some_and(|address| net.contains(&address)))
        };
        (self.reasons.is_empty() || self.reasons.iter().any(|reason| reason == shown.reason))
            && (self.from.is_none() || self.from == shown.in_interface)
            && within(self.source, shown.source)
            && within(self.destination, shown.destination)
    }
}

/// Carries it out.
#[must_use]
pub fn run(matches: &ArgMatches) -> ExitCode {
    let config: Config = match config::load(&role::path(matches, "config")) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("forwarder: {error}");
            return ExitCode::from(2);
        }
    };
    match role::block_on(trace(&config, matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forwarder: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn trace(config: &Config, matches: &ArgMatches) -> Result<(), DataplaneError> {
    let wanted = Wanted::of(matches);
    let mut left = matches.get_one::<u64>("count").copied();
    // Before the copy of the guard, by which others see that the trace runs.
    let mut following = Following::begin(config).await;
    let mut trace = Trace::begin(&live::policy_now(config).await).await?;
    eprintln!("forwarder: tracing");
    loop {
        let past_the_guard = async {
            match &mut following {
                Some(following) => following.next().await,
                None => std::future::pending().await,
            }
        };
        let traced = tokio::select! {
            traced = trace.next() => traced?,
            samples = past_the_guard => Traced::Samples(samples),
        };
        let samples = match traced {
            Traced::Samples(samples) => samples,
            Traced::Lost => {
                eprintln!("forwarder: more were dropped than could be read");
                continue;
            }
        };
        for sample in samples {
            let shown = shown(&mut trace, &sample).await;
            if !wanted.has(&shown) {
                continue;
            }
            let line =
                if matches.get_flag("json") { serde_json::to_string(&shown).unwrap_or_default() } else { shown.line() };
            // Nobody reads on.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(());
            }
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return Ok(());
            }
        }
    }
}

async fn shown(trace: &mut Trace, sample: &Sample) -> Shown {
    let mut names = [None, None];
    for (name, index) in names.iter_mut().zip([sample.from, sample.to]) {
        if let Some(index) = index {
            *name = Some(trace.name(index).await);
        }
    }
    let [in_interface, out_interface] = names;
    let packet = sample.packet;
    Shown {
        at: clock::wall().to_string(),
        reason: sample.why.name(),
        meaning: sample.why.meaning(),
        in_interface,
        out_interface,
        length: sample.length,
        source: packet.map(|packet| packet.source),
        destination: packet.map(|packet| packet.destination),
        protocol: packet.map(|packet| packet.protocol),
        source_port: packet.and_then(|packet| packet.ports).map(|(port, _)| port),
        destination_port: packet.and_then(|packet| packet.ports).map(|(_, port)| port),
        hops: packet.map(|packet| packet.hops),
        fragment: packet.map(|packet| packet.is_fragment),
        options: packet.map(|packet| packet.has_options),
    }
}

impl Shown {
    fn line(&self) -> String {
        let way = match (&self.in_interface, &self.out_interface) {
            (Some(from), Some(to)) => format!("in {from} out {to}"),
            (Some(from), None) => format!("in {from}"),
            (None, Some(to)) => format!("out {to}"),
            (None, None) => String::new(),
        };
        let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
            (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
            (Some(address), Some(port)) => format!("{address}:{port}"),
            (Some(address), None) => address.to_string(),
            (None, _) => "?".to_owned(),
        };
        let (source, destination) = (end(self.source, self.source_port), end(self.destination, self.destination_port));
        let protocol = self.protocol.map_or_else(|| "not understood".to_owned(), |number| format!("protocol {number}"));
        let hops = self.hops.map(|hops| format!(", {hops} hops left")).unwrap_or_default();
        let flag = |flag: Option<bool>, word: &'static str| if flag == Some(true) { word } else { "" };
        format!(
            "{} {} {way}: {source} > {destination}, {protocol}, {} octets{hops}{}{}",
            self.at,
            self.reason,
            self.length,
            flag(self.fragment, ", a fragment"),
            flag(self.options, ", with options")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Shown {
        Shown {
            at: "2026-01-02T03:04:05.678Z".into(),
            reason: "spoofed-source",
            meaning: "",
            in_interface: Some("edge0".into()),
            out_interface: None,
            length: 44,
            source: Some("203.0.113.10".parse().unwrap()),
            destination: Some("203.0.113.200".parse().unwrap()),
            protocol: Some(17),
            source_port: Some(4000),
            destination_port: Some(443),
            hops: Some(64),
            fragment: Some(false),
            options: Some(false),
        }
    }

    #[test]
    fn a_line_says_why_which_way_and_what() {
        assert_eq!(
            shown().line(),
            "2026-01-02T03:04:05.678Z spoofed-source in edge0: 203.0.113.10:4000 > 203.0.113.200:443, \
             protocol 17, 44 octets, 64 hops left"
        );
    }

    #[test]
    fn a_filter_lets_through_what_it_names() {
        let wanted = |arguments: &[&str]| {
            let matches = command().try_get_matches_from([&["trace"], arguments].concat()).unwrap();
            Wanted::of(&matches).has(&shown())
        };
        assert!(wanted(&[]));
        assert!(wanted(&["--reason", "hairpin", "--reason", "spoofed-source", "--in", "edge0"]));
        assert!(wanted(&["--source", "203.0.113.0/24", "--destination", "203.0.113.200"]));
        assert!(!wanted(&["--reason", "hairpin"]));
        assert!(!wanted(&["--in", "up0"]));
        assert!(!wanted(&["--destination", "203.0.113.201"]));
        let strange = command().try_get_matches_from(["trace", "--reason", "bad-mood"]).unwrap_err().to_string();
        assert!(strange.contains("spoofed-source"), "{strange}");
    }
}
