//! The command line.

use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use cloakway_runtime::{Context, Outcome, Role, Topic};

use crate::config::Config;
use crate::{engine, explain, guard, limits, live, show, trace};

/// The forwarder as a server binary.
#[derive(Debug)]
pub struct Forwarder;

impl Role for Forwarder {
    const NAME: &'static str = "forwarder";
    const ABOUT: &'static str = "Sends subscribers' packets for private network addresses out by the private link, \
                                 and by nothing else";
    const EXAMPLES: &'static str = "  forwarder check configs/forwarder.toml\n  \
                                    forwarder run --config /etc/cloakway/forwarder.toml\n  \
                                    forwarder show health\n  \
                                    forwarder show counters --json\n  \
                                    forwarder explain --in edge0 --source 198.51.100.70 --destination 203.0.113.200\n  \
                                    forwarder reload\n  \
                                    forwarder trace --reason spoofed-source --count 10\n  \
                                    forwarder guard show\n";
    const TOPICS: &'static [Topic] = show::TOPICS;
    const RELOADS: bool = true;
    const EXIT_3: Option<&'static str> = Some("explain: dropped; guard show: not whole");
    type Config = Config;

    fn admin_socket(config: &Config) -> &Path {
        &config.fixed.admin_socket
    }

    fn summary(config: &Config) -> Vec<String> {
        let policy = &config.policy;
        let prefix = |entry: &forwarder_core::PrivatePrefix| {
            let services: Vec<String> = entry.services.iter().map(ToString::to_string).collect();
            let only = if services.is_empty() { String::new() } else { format!(", only {}", services.join(", ")) };
            let way = |way: &forwarder_core::Way| {
                let hop = way.next_hop.map(|address| format!(" via {address}")).unwrap_or_default();
                format!("{}{hop}, heartbeat of {}", policy.interface(way.link), way.probe)
            };
            let ways: Vec<String> = entry.ways.iter().map(way).collect();
            let ways = ways.join(if entry.spread { "; and by " } else { "; else by " });
            format!("{} leaves by {ways}{only}", entry.prefix)
        };
        let mut lines: Vec<String> = policy.prefixes().iter().map(prefix).collect();
        let subscribers: Vec<_> = policy.subscriber_prefixes().iter().map(ToString::to_string).collect();
        let interfaces = policy.subscriber_interfaces().join(", ");
        lines.push(format!("subscribers {} come in by {interfaces}", subscribers.join(", ")));
        lines.extend(live::summary(&config.feeds));
        lines.extend(limits::summary(policy));
        lines
    }

    fn run(config: Config, context: Context) -> impl Future<Output = Outcome> + Send {
        engine::run(config, context)
    }

    fn commands() -> Vec<Command> {
        vec![guard::command(), explain::command(), trace::command()]
    }

    fn command(name: &str, matches: &ArgMatches) -> ExitCode {
        match name {
            "explain" => explain::run(matches),
            "trace" => trace::run(matches),
            _ => guard::run(matches),
        }
    }
}
