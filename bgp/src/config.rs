//! The configuration file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgp_core::{Export, Guard, Options, PrivateRoute, RoleSetting, RouteError, Settings};
use bgp_wire::{AS_TRANS, Asn, Community, HoldTime, LONGEST_COMMUNICATION, Role, RouterId};
use cloakway_crypto::Secret;
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use crate::inject;

use crate::tcp::{LONGEST_PASSWORD, Protection};

const BGP_PORT: u16 = 179;

/// A usable configuration.
#[derive(Debug)]
pub struct Config {
    /// Where `show` asks.
    pub admin_socket: PathBuf,
    /// Where Prometheus reads.
    pub metrics_listen: Option<SocketAddr>,
    /// Where peers may connect.
    pub listen: Vec<SocketAddr>,
    /// Who hears the routes.
    pub peers: Vec<Peer>,
    /// What they hear.
    pub routes: Vec<PrivateRoute>,
    /// Where the forwarder's health is read; there is none without private routes.
    pub health_socket: Option<PathBuf>,
    /// Routes beside the private ones, by request.
    pub inject: Option<inject::Settings>,
}

/// A router that hears the routes.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For logs, metrics and `show`.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Where we connect from.
    pub local_address: Option<IpAddr>,
    /// What its operator is told when we stop (RFC 9003); may be empty.
    pub shutdown_communication: String,
    /// What protects its TCP.
    pub protection: Protection,
    /// How the path to it is watched, if it is.
    pub bfd: Option<Bfd>,
    /// What its session is like.
    pub settings: Settings,
}

/// How a path is watched (RFC 5880).
#[derive(Debug, Clone, Copy)]
pub struct Bfd {
    /// Between packets.
    pub interval: Duration,
    /// So many missed mean that the path is lost.
    pub multiplier: NonZeroU8,
}

impl Peer {
    /// Whether it is in our own AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.settings.is_internal()
    }
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    speaker: RawSpeaker,
    peers: Vec<RawPeer>,
    #[serde(default)]
    private_routes: Vec<RawRoute>,
    health: Option<RawHealth>,
    inject: Option<inject::settings::RawInject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSpeaker {
    local_as: u32,
    router_id: Ipv4Addr,
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    shutdown_communication: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPeer {
    name: String,
    address: IpAddr,
    #[serde(default = "bgp_port")]
    port: u16,
    remote_as: u32,
    local_address: Option<IpAddr>,
    #[serde(default = "nine")]
    hold_time_s: u16,
    #[serde(default)]
    passive: bool,
    export: Option<RawExport>,
    delay_open_s: Option<u16>,
    #[serde(default)]
    add_path: bool,
    role: Option<RawRole>,
    #[serde(default)]
    strict_role: bool,
    md5_password_file: Option<PathBuf>,
    ttl_security_hops: Option<NonZeroU8>,
    bfd: Option<RawBfd>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawBfd {
    interval_ms: u32,
    #[serde(default = "three")]
    multiplier: NonZeroU8,
}

const fn three() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(2)
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawExport {
    All,
    Private,
    Nothing,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawRole {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

const fn bgp_port() -> u16 {
    BGP_PORT
}

const fn nine() -> u16 {
    9
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRoute {
    prefix: IpNet,
    next_hop: IpAddr,
    #[serde(default)]
    guard: RawGuard,
    #[serde(default)]
    communities: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    #[default]
    NoExport,
    NoAdvertise,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHealth {
    socket: PathBuf,
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let local_as = asn(raw.speaker.local_as).map_err(|reason| Invalid::at("speaker.local-as", reason))?;
        let router_id =
            RouterId::new(raw.speaker.router_id).map_err(|error| Invalid::at("speaker.router-id", error))?;
        if raw.private_routes.is_empty() && raw.inject.is_none() {
            return Err(Invalid::at("private-routes", "there is none: give at least one, or an [inject] table"));
        }
        let routes = routes(raw.private_routes)?;
        let private: BTreeSet<IpNet> = routes.iter().map(PrivateRoute::prefix).collect();
        let shutdown_communication = raw.speaker.shutdown_communication;
        if shutdown_communication.len() > LONGEST_COMMUNICATION {
            let reason = format!("longer than {LONGEST_COMMUNICATION} octets: RFC 9003 §2 takes no more");
            return Err(Invalid::at("speaker.shutdown-communication", reason));
        }
        let own = Own { local_as, router_id, private, listens: !raw.speaker.listen.is_empty(), shutdown_communication };
        let peers = peers(raw.peers, &own)?;
        let admin_socket = raw.admin_socket.unwrap_or_else(|| config::default_socket("bgp-speaker"));
        let health_socket = raw.health.map(|health| health.socket);
        if health_socket.is_none() && !routes.is_empty() {
            return Err(Invalid::at("health", "private routes follow the forwarder's health: give its socket"));
        }
        if health_socket.as_ref() == Some(&admin_socket) {
            let reason = "the same path as admin-socket: give the forwarder's health-socket";
            return Err(Invalid::at("health.socket", reason));
        }
        let taken = [Some(&admin_socket), health_socket.as_ref()];
        let inject = raw.inject.map(|raw| inject::settings::settings(raw, &routes, &taken)).transpose()?;
        Ok(Self {
            admin_socket,
            metrics_listen: raw.metrics_listen,
            listen: raw.speaker.listen,
            peers,
            routes,
            health_socket,
            inject,
        })
    }
}

struct Own {
    local_as: Asn,
    router_id: RouterId,
    private: BTreeSet<IpNet>,
    listens: bool,
    shutdown_communication: String,
}

fn asn(number: u32) -> Result<Asn, String> {
    if number == 0 || number == u32::from(AS_TRANS) || number == u32::from(u16::MAX) || number == u32::MAX {
        return Err(format!("AS {number} is reserved: give the AS number that the registry assigned"));
    }
    Ok(Asn(number))
}

fn routes(raw: Vec<RawRoute>) -> Result<Vec<PrivateRoute>, Invalid> {
    let mut seen = BTreeSet::new();
    let mut routes = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("private-routes[{index}].{field}");
        let guard = match raw.guard {
            RawGuard::NoExport => Guard::NoExport,
            RawGuard::NoAdvertise => Guard::NoAdvertise,
        };
        let communities = raw.communities.iter().map(|text| text.parse::<Community>()).collect::<Result<_, _>>();
        let communities = communities.map_err(|error| Invalid::at(at("communities"), error))?;
        let route = PrivateRoute::new(raw.prefix, raw.next_hop, guard, communities).map_err(|error| {
            let field = match error {
                RouteError::Family { .. } | RouteError::NextHop(_) => "next-hop",
                RouteError::HostBits(_) | RouteError::TooShort(_) => "prefix",
                RouteError::Communities(_) => "communities",
            };
            Invalid::at(at(field), error)
        })?;
        if !seen.insert(route.prefix()) {
            return Err(Invalid::at(at("prefix"), format!("{} is given twice: once is enough", route.prefix())));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn peers(raw: Vec<RawPeer>, own: &Own) -> Result<Vec<Peer>, Invalid> {
    if raw.is_empty() {
        return Err(Invalid::at("peers", "there is none: give at least the edge router"));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut peers = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("peers[{index}].{field}");
        let address = raw.address.to_canonical();
        if raw.name.is_empty() || !names.insert(raw.name.clone()) {
            return Err(Invalid::at(at("name"), format!("{:?} is empty or taken: each peer has its own", raw.name)));
        }
        if address.is_unspecified() || address.is_multicast() {
            return Err(Invalid::at(at("address"), format!("{address} is no router: give its address")));
        }
        if !addresses.insert(address) {
            return Err(Invalid::at(
                at("address"),
                format!("{address} is given twice: one session carries both families"),
            ));
        }
        if raw.port == 0 {
            return Err(Invalid::at(at("port"), "0 is no port: 179 is the usual one"));
        }
        let remote_as = asn(raw.remote_as).map_err(|reason| Invalid::at(at("remote-as"), reason))?;
        if let Some(local) = raw.local_address
            && local.to_canonical().is_ipv4() != address.is_ipv4()
        {
            let reason = format!("{local} is not of the family of {address}: give an address of the same family");
            return Err(Invalid::at(at("local-address"), reason));
        }
        // Zero is legal BGP, but would leave our routes with the router for ever if this host died.
        let hold_time = HoldTime::from_secs(raw.hold_time_s).ok().filter(|hold_time| hold_time.duration().is_some());
        let hold_time = hold_time.ok_or_else(|| {
            Invalid::at(at("hold-time-s"), format!("{} s is not allowed: 3 to 65535", raw.hold_time_s))
        })?;
        if raw.passive && !own.listens {
            let reason = "true takes an address to listen on: give speaker.listen, or leave passive out";
            return Err(Invalid::at(at("passive"), reason));
        }
        let internal = remote_as == own.local_as;
        let export = match raw.export {
            Some(RawExport::All) => Export::All,
            Some(RawExport::Private) => Export::Private,
            Some(RawExport::Nothing) => Export::Nothing,
            None if internal => Export::All,
            None => Export::Nothing,
        };
        let md5_password = raw.md5_password_file.as_deref().map(md5_password).transpose();
        let md5_password = md5_password.map_err(|reason| Invalid::at(at("md5-password-file"), reason))?;
        let protection = Protection { md5_password, ttl_security_hops: raw.ttl_security_hops };
        let bfd = raw.bfd.map(bfd).transpose().map_err(|reason| Invalid::at(at("bfd.interval-ms"), reason))?;
        let role =
            role(raw.role, raw.strict_role, internal).map_err(|(field, reason)| Invalid::at(at(field), reason))?;
        peers.push(Peer {
            name: raw.name,
            address: SocketAddr::new(address, raw.port),
            local_address: raw.local_address.map(|local| local.to_canonical()),
            shutdown_communication: own.shutdown_communication.clone(),
            protection,
            bfd,
            settings: Settings {
                local_as: own.local_as,
                router_id: own.router_id,
                remote_as,
                hold_time,
                passive: raw.passive,
                private: own.private.clone(),
                export,
                options: Options {
                    delay_open: raw.delay_open_s.filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s))),
                    add_path: raw.add_path,
                    role,
                },
            },
        });
    }
    Ok(peers)
}

fn bfd(raw: RawBfd) -> Result<Bfd, String> {
    match raw.interval_ms {
        10..=60_000 => {
            Ok(Bfd { interval: Duration::from_millis(u64::from(raw.interval_ms)), multiplier: raw.multiplier })
        }
        other => Err(format!("{other} ms is not allowed: 10 to 60000")),
    }
}

fn md5_password(path: &Path) -> Result<Secret<String>, String> {
    let password = config::read_secret(path)?;
    match password.expose().len() {
        0..=LONGEST_PASSWORD => Ok(password),
        length => Err(format!("{length} octets: TCP-MD5 takes up to {LONGEST_PASSWORD}")),
    }
}

/// RFC 9234 §4: roles are for external sessions.
fn role(
    raw: Option<RawRole>,
    strict: bool,
    internal: bool,
) -> Result<Option<RoleSetting>, (&'static str, &'static str)> {
    let Some(raw) = raw else {
        return if strict { Err(("strict-role", "true takes a role: give one")) } else { Ok(None) };
    };
    if internal {
        return Err(("role", "roles are for external peers, and this one is in our own AS: leave it out"));
    }
    let role = match raw {
        RawRole::Provider => Role::Provider,
        RawRole::RouteServer => Role::RouteServer,
        RawRole::RouteServerClient => Role::RouteServerClient,
        RawRole::Customer => Role::Customer,
        RawRole::Peer => Role::Peer,
    };
    Ok(Some(RoleSetting { role, strict }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/bgp-speaker.toml");

    fn error(text: &str) -> String {
        config::parse::<Config>("bgp-speaker.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_is_valid_and_its_values_arrive() {
        let config: Config = config::parse("bgp-speaker.toml", EXAMPLE).unwrap();
        assert_eq!(config.peers[0].address, "198.51.100.1:179".parse().unwrap());
        assert!(config.peers[0].is_internal());
        assert_eq!(config.peers[0].settings.hold_time.as_secs(), 9);
        assert_eq!(config.routes.iter().map(PrivateRoute::guard).collect::<Vec<_>>(), [Guard::NoExport; 2]);
        assert_eq!(config.admin_socket, config::default_socket("bgp-speaker"));
        assert!(config.listen.is_empty());
    }

    #[test]
    fn what_is_commented_out_in_the_example_is_valid_too() {
        let text = EXAMPLE.replace("# shutdown-communication", "shutdown-communication");
        let text = text.replace("# listen = ", "listen = ").replace("# metrics-listen = ", "metrics-listen = ");
        let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
        assert_eq!((config.listen.len(), config.metrics_listen.is_some()), (2, true));
    }

    #[test]
    fn the_inject_table_in_the_example_is_valid_and_strict() {
        let text = [
            "[inject]",
            "journal = ",
            "allow = [",
            "[[inject.processes]]",
            "name = \"anycast",
            "run = [",
            "[[inject.checks]]",
            "set = \"anycast",
            "tcp = \"198",
        ]
        .iter()
        .fold(EXAMPLE.to_owned(), |text, start| text.replace(&format!("# {start}"), start));
        let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
        let inject = config.inject.unwrap();
        assert_eq!((inject.max_routes, inject.processes.len(), inject.checks.len()), (2_000_000, 1, 1));
        let private = "203.0.113.200/32".parse().unwrap();
        assert!(inject.policy.check(private, Some(Guard::NoExport)).is_err(), "the allow-list holds for all");
        for (from, to, expected) in [
            ("allow = [", "stray = 1\nallow = [", "unknown field `stray`"),
            (
                "allow = [\"198.51.100.0/24\"",
                "allow = [\"198.51.100.1/24\"",
                "inject.allow[0]: the prefix has host bits",
            ),
            ("allow = [\"198.51.100.0/24\", \"2001:db8:5100::/48\"]", "allow = []", "inject.allow: nothing could be"),
            ("name = \"anycast\"", "name = \"\"", "inject.processes[0].name"),
            ("tcp = \"198.51.100.10:53\"", "http = \"https://x\"", "inject.checks[0].http: \"https://x\" is not"),
            ("tcp = \"198.51.100.10:53\"", "rise = 0", "inject.checks[0].rise: 0 is not allowed"),
        ] {
            let message = error(&text.replacen(from, to, 1));
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn an_external_peer_is_told_nothing_unless_the_file_says_so() {
        let external = EXAMPLE.replace("remote-as = 64500", "remote-as = 64501");
        let export = |text: &str| {
            let config: Config = config::parse("bgp-speaker.toml", text).unwrap();
            config.peers[0].settings.export
        };
        assert_eq!(export(EXAMPLE), Export::All);
        assert_eq!(export(&external), Export::Nothing);
        let private = "hold-time-s = 9\nexport = \"private\"\n";
        assert_eq!(export(&external.replace("hold-time-s = 9\n", private)), Export::Private);
        assert_eq!(export(&EXAMPLE.replace("hold-time-s = 9\n", "export = \"nothing\"\n")), Export::Nothing);
    }

    #[test]
    fn a_password_is_read_from_its_file_and_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let text = EXAMPLE.replace(
            "hold-time-s = 9\n",
            &format!("md5-password-file = {:?}\nttl-security-hops = 1\n", file.display().to_string()),
        );
        assert!(error(&text).contains("peers[0].md5-password-file: "), "{}", error(&text));
        std::fs::write(&file, "x".repeat(81)).unwrap();
        assert!(error(&text).contains("81 octets: TCP-MD5 takes up to 80"), "{}", error(&text));
        std::fs::write(&file, "x".repeat(80) + "\n").unwrap();
        let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
        assert!(!format!("{config:?}").contains("xxx"));
        assert_eq!(config.peers[0].protection.ttl_security_hops, NonZeroU8::new(1));
        assert!(error(&text.replace("hops = 1", "hops = 0")).contains("ttl-security-hops"));
    }

    #[test]
    fn a_watched_path_has_three_packets_to_miss_unless_told_otherwise() {
        let with = |bfd: &str| EXAMPLE.replace("hold-time-s = 9\n", &format!("bfd = {bfd}\n"));
        let bfd = |text: &str| config::parse::<Config>("f.toml", &with(text)).unwrap().peers[0].bfd.unwrap();
        assert_eq!(bfd("{ interval-ms = 50 }").multiplier.get(), 3);
        assert_eq!(bfd("{ interval-ms = 10, multiplier = 5 }").interval, Duration::from_millis(10));
        for wrong in [9, 60_001] {
            let message = error(&with(&format!("{{ interval-ms = {wrong} }}")));
            assert!(message.contains("peers[0].bfd.interval-ms: "), "{message}");
        }
        assert!(error(&with("{ interval-ms = 50, multiplier = 0 }")).contains("multiplier"));
        assert!(error(&with("{ interval-ms = 50, stray = 1 }")).contains("unknown field `stray`"));
    }

    #[test]
    fn options_of_a_session_arrive() {
        let options = "delay-open-s = 5\nadd-path = true\nrole = \"provider\"\nstrict-role = true\n";
        let text = EXAMPLE.replace("remote-as = 64500", "remote-as = 64501").replace("hold-time-s = 9\n", options);
        let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
        let options = &config.peers[0].settings.options;
        assert_eq!((options.delay_open, options.add_path), (Some(Duration::from_secs(5)), true));
        assert_eq!(options.role, Some(RoleSetting { role: Role::Provider, strict: true }));
    }

    #[test]
    fn the_guard_is_no_export_unless_asked_otherwise() {
        let text = EXAMPLE.replacen("guard = \"no-export\"\n", "", 1).replacen(
            "\"no-export\"\n\n#",
            "\"no-advertise\"\n\n#",
            1,
        );
        let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
        assert_eq!(config.routes[0].guard(), Guard::NoExport);
        assert_eq!(config.routes[1].guard(), Guard::NoAdvertise);
        assert!(error(&EXAMPLE.replacen("\"no-export\"\n\n[", "\"none\"\n\n[", 1)).contains("no-advertise"));
    }

    #[test]
    fn a_stray_key_in_any_table_is_refused_with_its_line() {
        for table in ["[speaker]", "[[peers]]", "[[private-routes]]", "[health]"] {
            let stray = EXAMPLE.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
            let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
            let message = error(&stray);
            assert!(message.starts_with(&format!("bgp-speaker.toml:{line}: ")), "{message}");
            assert!(message.contains("unknown field `stray`"), "{message}");
        }
        assert!(error(&format!("stray = 1\n{EXAMPLE}")).contains("bgp-speaker.toml:1: stray: unknown field"));
    }

    #[test]
    fn a_value_that_cannot_be_names_line_field_and_what_would_be_right() {
        let cases = [
            ("local-as = 64500", "local-as = 0", "speaker.local-as: AS 0 is reserved"),
            ("router-id = \"198.51.100.2\"", "router-id = \"0.0.0.0\"", "speaker.router-id: router id 0.0.0.0"),
            ("hold-time-s = 9", "hold-time-s = 2", "peers[0].hold-time-s: 2 s is not allowed: 3 to 65535"),
            ("hold-time-s = 9", "hold-time-s = 0", "peers[0].hold-time-s: 0 s is not allowed: 3 to 65535"),
            ("hold-time-s = 9", "passive = true", "peers[0].passive: true takes an address to listen on"),
            ("hold-time-s = 9", "role = \"peer\"", "peers[0].role: roles are for external peers"),
            ("hold-time-s = 9", "strict-role = true", "peers[0].strict-role: true takes a role"),
            ("hold-time-s = 9", "port = 0", "peers[0].port: 0 is no port"),
            ("remote-as = 64500", "remote-as = 23456", "peers[0].remote-as: AS 23456 is reserved"),
            ("address = \"198.51.100.1\"", "address = \"0.0.0.0\"", "peers[0].address: 0.0.0.0 is no router"),
            ("local-address = \"198.51.100.2\"", "local-address = \"::1\"", "peers[0].local-address: ::1 is not of"),
            ("prefix = \"203.0.113.200/32\"", "prefix = \"203.0.113.200/24\"", "private-routes[0].prefix: prefix 203"),
            ("prefix = \"203.0.113.200/32\"", "prefix = \"0.0.0.0/0\"", "private-routes[0].prefix: prefix 0.0.0.0/0"),
            ("next-hop = \"2001:db8:5100:1::2\"", "next-hop = \"192.0.2.1\"", "private-routes[1].next-hop: next hop"),
            ("guard = \"no-export\"", "communities = [\"x\"]", "private-routes[0].communities: community \"x\""),
        ];
        for (from, to, expected) in cases {
            let text = EXAMPLE.replacen(&format!("\n{from}\n"), &format!("\n{to}\n"), 1);
            assert_ne!(text, EXAMPLE, "{from}");
            let message = error(&text);
            let line = text.lines().position(|line| line == to).unwrap() + 1;
            assert!(message.starts_with(&format!("bgp-speaker.toml:{line}: {expected}")), "{message}");
        }
        let twice = EXAMPLE.replace("2001:db8:c10a::200/128", "203.0.113.200/32");
        let twice = twice.replace("next-hop = \"2001:db8:5100:1::2\"", "next-hop = \"198.51.100.2\"");
        assert!(error(&twice).contains("private-routes[1].prefix: 203.0.113.200/32 is given twice"));
        let same = EXAMPLE.replace("forwarder-health.sock", "bgp-speaker.sock");
        assert!(error(&same).contains("health.socket: the same path as admin-socket"));
    }
}
