//! The command line.

use std::cmp::Ordering;
use std::path::Path;
use std::process::ExitCode;

use bgp_core::{Export, Keep, PrivateRoute};
use clap::{ArgMatches, Command};
use cloakway_runtime::{Context, Outcome, Role, Topic};

use crate::config::{Config, Peer};
use crate::inject::cli;
use crate::{bmp, events, refresh, rib, show, speaker};

/// The speaker as a server binary.
#[derive(Debug)]
pub struct BgpSpeaker;

impl Role for BgpSpeaker {
    const NAME: &'static str = "bgp-speaker";
    const ABOUT: &'static str = "Announces private network addresses to the ISP's edge router while they are \
                                 healthy, never to be exported";
    const EXAMPLES: &'static str = "  bgp-speaker check configs/bgp-speaker.toml\n  \
                                    bgp-speaker run --config /etc/cloakway/bgp-speaker.toml\n  \
                                    bgp-speaker show sessions\n  \
                                    bgp-speaker show routes --json\n  \
                                    bgp-speaker show health\n  \
                                    bgp-speaker show look-up 192.0.2.1\n  \
                                    bgp-speaker reload\n  \
                                    bgp-speaker refresh edge\n  \
                                    bgp-speaker show why 203.0.113.200/32 --peer edge --json\n  \
                                    bgp-speaker dump --rib /var/lib/cloakway/rib.mrt.gz\n  \
                                    bgp-speaker show leaks\n  \
                                    bgp-speaker leak clear 203.0.113.200/32\n  \
                                    bgp-speaker events --follow --json\n  \
                                    bgp-speaker route add 10.0.0.0/24 --next-hop 192.0.2.1 --community 64500:1\n  \
                                    bgp-speaker route wait --prefix 10.0.0.0/24\n";
    const TOPICS: &'static [Topic] = show::TOPICS;
    const WANTS: &'static [(&'static str, &'static str)] = show::WANTS;
    const NARROWED: &'static [(&'static str, &'static str, &'static str)] = show::NARROWED;
    const RELOADS: bool = true;
    type Config = Config;

    fn admin_socket(config: &Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Config) -> Vec<String> {
        let route = |route: &PrivateRoute| match route.is_by_rules_alone() {
            false => format!("{} via {}, guarded by {}", route.prefix(), route.next_hop(), route.keep()),
            true => format!("{} by flow rules alone, guarded by {}", route.prefix(), route.keep()),
        };
        let mut lines: Vec<String> = config.routes.iter().map(route).collect();
        let restricted: Vec<&PrivateRoute> = config.routes.iter().filter(|route| route.is_restricted()).collect();
        for (rule, route) in restricted.iter().flat_map(|route| route.flow_routes()) {
            lines.push(format!("rule {rule}: {}", route.actions));
        }
        let unguarded = config.routes.iter().filter(|route| matches!(route.keep(), Keep::Nothing(_)));
        let warn = |route: &PrivateRoute| {
            format!("warning: {} goes out without a guard: any AS may come to know of it", route.prefix())
        };
        let warnings: Vec<String> = unguarded.map(warn).collect();
        if config.unguarded && warnings.is_empty() {
            let idle = "speaker.allow-unguarded-private-routes is set, and no private route makes use of it";
            lines.push(format!("warning: {idle}: leave it out"));
        }
        lines.extend(warnings);
        for peer in &config.peers {
            let (name, address, remote_as) = (&peer.name, peer.address, peer.settings.remote_as);
            let kind = if peer.is_internal() { "internal" } else { "external" };
            lines.push(format!("to {name} at {address}, AS {remote_as}, {kind}"));
            match (peer.is_internal(), peer.settings.export) {
                (_, Export::Nothing) => lines.push(format!(
                    "warning: {name} is told nothing: an external peer takes export = \"private\" (RFC 8212)"
                )),
                (false, Export::Private | Export::All) => lines.push(format!(
                    "warning: {name} is external: make sure that AS {remote_as} obeys the guard communities"
                )),
                (_, Export::Injected) | (true, Export::Private | Export::All) => {}
            }
            if matches!(peer.settings.export, Export::Private | Export::All) && !peer.settings.options.flow {
                for route in &restricted {
                    let prefix = route.prefix();
                    lines.push(format!("warning: {name} is not told of {prefix}: its flow rules take flowspec = true"));
                }
            }
        }
        let kept = config.inject.iter().flat_map(|inject| &inject.kept);
        for (peer, keep_s) in config.peers.iter().filter_map(|peer| Some((peer, peer.settings.options.keep?))) {
            let (name, told) = (&peer.name, &peer.settings.options.sets);
            for (set, asked) in kept.clone().filter(|(set, _)| told.as_ref().is_none_or(|told| told.has(set))) {
                lines.push(match asked.cmp(&keep_s) {
                    Ordering::Equal => {
                        format!("{name} keeps set {set} for {keep_s} s while we are down, if it follows RFC 9494")
                    }
                    Ordering::Greater => format!(
                        "warning: {name} keeps set {set} for {keep_s} s, and not for the {asked} s of its keep-s: a session \
                         has one time for all; give it a session of its own, by sets"
                    ),
                    Ordering::Less => format!(
                        "warning: {name} drops set {set} as soon as we are gone, and does not keep it for {asked} s: the \
                         session keeps for {keep_s} s; give it a session of its own, by sets"
                    ),
                });
            }
        }
        for peer in config.peers.iter().filter(|peer| !peer.is_internal() && peer.settings.options.keep.is_some()) {
            let name = &peer.name;
            lines.push(format!("warning: {name} is external and keeps routes that nobody here can withdraw meanwhile"));
        }
        let both = |peer: &&Peer| peer.settings.options.keep.is_some() && peer.settings.export == Export::All;
        lines.extend(config.peers.iter().filter(both).map(|peer| {
            let name = &peer.name;
            format!("warning: {name} keeps sets and is told private routes: it has to drop what is marked NO_LLGR, a second after we are gone; a session of its own with export = \"injected\" does not depend on that")
        }));
        let checks = config.inject.iter().flat_map(|inject| inject.checks.iter().map(|check| (check, &inject.kept)));
        lines.extend(checks.filter(|(check, kept)| kept.contains_key(&check.set)).map(|(check, _)| {
            let set = &check.set;
            format!("warning: set {set} is kept and checked: nobody checks it while we are down, and after a start it goes until its first good looks")
        }));
        for dynamic in &config.dynamic {
            let (prefix, limit, like) = (dynamic.prefix, dynamic.limit, &dynamic.template);
            let kind = if like.is_internal() { "internal" } else { "external" };
            lines.push(format!("up to {limit} neighbours from {prefix}, {kind}"));
            if !like.protection.is_signed() && like.protection.ttl_security_hops.is_none() {
                lines.push(format!(
                    "warning: whoever can send from {prefix} is a neighbour: give its group md5-password-file or \
                     ttl-security-hops"
                ));
            }
        }
        lines.extend(
            config
                .unused_groups
                .iter()
                .map(|group| format!("warning: no peer is of group {group}: its settings are not looked at")),
        );
        lines.extend(config.bmp.iter().flat_map(bmp::settings::warnings));
        lines
    }

    fn commands() -> Vec<Command> {
        vec![cli::command(), events::cli::command(), bmp::cli::command(), refresh::command(), rib::cli::command()]
    }

    fn command(name: &str, matches: &ArgMatches) -> ExitCode {
        match name {
            "events" => events::cli::run(matches),
            "leak" => bmp::cli::run(matches),
            refresh::TOPIC => refresh::run(matches),
            "dump" => rib::cli::run(matches),
            _ => cli::run(matches),
        }
    }

    fn run(config: Config, context: Context) -> impl Future<Output = Outcome> + Send {
        speaker::run(config, context)
    }
}
