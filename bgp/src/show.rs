//! What `show` tells of the running process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bgp_core::{Down, Injector, Negotiated};
use bgp_wire::{Asn, Families};
use cloakway_runtime::admin::Request;
use cloakway_runtime::{Topic, clock, reload};
use forwarder_wire::prefixes::TOPIC as PREFIXES;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use crate::bmp::{self, Station};
use crate::events::Events;
use crate::flows;
use crate::health::lock;
use crate::inject::Engine;
use crate::kernel::Installer;
use crate::neighbours::{self, Neighbours};
use crate::peer::Report;
use crate::refresh;
use crate::reload::Reloader;
use crate::rib::Table;
use crate::rib::table_dump::DUMP;
use crate::rpki::Rpki;
use crate::{routes, why};

/// What can be shown.
pub(crate) const TOPICS: &[Topic] = &[
    Topic { name: "sessions", about: "Each peer: state, since when, what was agreed, messages, why it last ended" },
    Topic {
        name: "routes",
        about: "Routes: private, injected and of peers; whether each is announced, to whom, and why or why not",
    },
    Topic {
        name: "neighbours",
        about: "Each peer: what it is configured as, timers, what is kept for whom, how many routes it told",
    },
    Topic { name: "leaks", about: "Private prefixes that were seen where they must not be" },
    Topic { name: "bmp", about: "The routers that tell of their tables, and whether the leak watch is blind" },
    Topic { name: "rpki", about: "The caches of the RPKI, and whose payloads count" },
    Topic { name: "flows", about: "Each flow rule: what becomes of its packets, where it comes from, who is told" },
    Topic { name: "health", about: "What the forwarder says, and how fresh it is" },
    Topic { name: "kernel", about: "Each best route, and how it stands in the kernel's table" },
    Topic { name: "rib", about: "What peers have told: routes kept, refused and passed on" },
    Topic {
        name: PREFIXES,
        about: "The prefixes of best routes of peers, as the forwarder asks for those of subscribers",
    },
    Topic { name: "why", about: "Why a prefix is announced, or not: for each peer and each way that it could come" },
    Topic {
        name: "look-up",
        about: "Whose an address is: every route to it, which is best, and why the others are not",
    },
];

/// Topics that want something to look for.
pub(crate) const WANTS: &[(&str, &str)] = &[("look-up", "ADDRESS"), ("why", "PREFIX")];

/// Topics that can be narrowed.
pub(crate) const NARROWED: &[(&str, &str, &str)] = &[
    ("why", "peer", "Of this peer alone"),
    ("routes", "source", "private, injected or received: these alone"),
    ("routes", "inside", "A prefix: what is inside it alone"),
    ("routes", "limit", "So many of each source at most; 1000 unless given"),
    (PREFIXES, "within", "Prefixes, with commas between them: what is inside them alone"),
    (PREFIXES, "community", "Communities, with commas between them: routes with one of them alone"),
    (PREFIXES, "origin-as", "ASes, with commas between them: routes that one of them originates alone"),
    (PREFIXES, "neighbour", "Names of peers, with commas between them: their routes alone"),
];

/// What the admin socket sees.
pub(crate) struct Shared {
    pub(crate) neighbours: Neighbours,
    pub(crate) events: Events,
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) station: Option<Arc<Station>>,
    pub(crate) rpki: Option<Arc<Rpki>>,
    pub(crate) injector: Arc<Mutex<Injector>>,
    pub(crate) health_socket: PathBuf,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) rib: Arc<Table>,
    pub(crate) installer: Option<Arc<Installer>>,
}

#[derive(Serialize)]
struct SessionRow {
    peer: String,
    address: String,
    remote_as: u32,
    kind: &'static str,
    dynamic: bool,
    state: String,
    for_s: u64,
    announced: usize,
    router_id: Option<String>,
    hold_time_s: Option<u16>,
    families: Vec<String>,
    capabilities: Vec<&'static str>,
    messages_received: u64,
    messages_sent: u64,
    prefixes_received: u64,
    flow_announced: usize,
    flow_received: usize,
    private_received: u64,
    refreshes_received: u64,
    flaps: u64,
    last_withdraw_us: Option<u64>,
    last_down: Option<String>,
}

#[derive(Serialize)]
struct HealthView {
    socket: String,
    connected: bool,
    heartbeat_age_ms: Option<u64>,
    prefixes: Vec<PrefixRow>,
}

#[derive(Serialize)]
struct PrefixRow {
    prefix: String,
    healthy: bool,
    reason: String,
}

/// Answers one question of the admin socket.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request) -> Result<Value, String> {
    let json = match request.topic.as_str() {
        reload::TOPIC => return shared.reloader.reload().await,
        refresh::TOPIC => return refresh::answer(&shared.neighbours, &request).await,
        "sessions" => serde_json::to_value(sessions(&shared).await),
        "neighbours" => serde_json::to_value(neighbours::shown::rows(&shared.neighbours).await),
        "routes" => serde_json::to_value(routes::rows(&shared, &request).await?),
        "flows" => serde_json::to_value(flows::rows(&shared).await),
        "health" => serde_json::to_value(health(&shared)),
        "kernel" => {
            let installer = shared.installer.as_ref().ok_or("no route is installed: there is no [kernel] table")?;
            serde_json::to_value(installer.rows())
        }
        "leaks" => serde_json::to_value(shared.station()?.leak_rows()),
        "bmp" => serde_json::to_value(shared.station()?.router_rows()),
        "rpki" => serde_json::to_value(shared.rpki()?.rows()),
        "why" => serde_json::to_value(why::answer(&shared, &request).await?),
        "validity" => return shared.validity(&request),
        "events" => return shared.events.answer(&request).await,
        bmp::cli::CLEAR => {
            let prefix =
                request.argument("prefix").map(|text| text.parse().map_err(|_| format!("{text:?} is no prefix")));
            let cleared = shared.station()?.clear(prefix.transpose()?)?;
            return Ok(serde_json::json!({ "cleared": cleared }));
        }
        DUMP => return shared.rib.dump(&request).await,
        PREFIXES => serde_json::to_value(shared.rib.prefixes(&request).await?),
        "rib" => serde_json::to_value(shared.rib.shown()),
        "look-up" => return shared.rib.look_up(request.argument("address").ok_or("look-up takes an address")?),
        other => {
            let names: Vec<&str> = TOPICS.iter().map(|topic| topic.name).collect();
            return Err(format!("no topic is called {other:?}: there is {}", names.join(", ")));
        }
    };
    json.map_err(|error| error.to_string())
}

impl Shared {
    fn rpki(&self) -> Result<&Rpki, String> {
        self.rpki.as_deref().ok_or_else(|| "there is no [rpki] in the configuration".to_owned())
    }

    /// What the RPKI says of a prefix from an AS.
    fn validity(&self, request: &Request) -> Result<Value, String> {
        let prefix = request.argument("prefix").ok_or("prefix is missing: which one?")?;
        let prefix: IpNet = prefix.parse().map_err(|_| format!("{prefix:?} is no prefix"))?;
        let asn = request.argument("as").map(|text| text.parse().map(Asn).map_err(|_| format!("{text:?} is no AS")));
        let asn = asn.transpose()?;
        let validity = self.rpki()?.validate(prefix, asn);
        Ok(serde_json::json!({ "prefix": prefix, "as": asn.map(|asn| asn.0), "validity": validity.to_string() }))
    }

    fn station(&self) -> Result<&Station, String> {
        self.station.as_deref().ok_or_else(|| "there is no [bmp] in the configuration".to_owned())
    }
}

async fn sessions(shared: &Shared) -> Vec<SessionRow> {
    let mut rows = Vec::new();
    for asked in shared.neighbours.list().await {
        let Some(Report { status, last_withdraw, .. }) = asked.report().await else { continue };
        let counters = status.counters;
        let agreed = status.negotiated.as_ref();
        rows.push(SessionRow {
            peer: asked.peer.name.clone(),
            address: asked.peer.address.to_string(),
            remote_as: agreed.map_or(asked.peer.settings.remote_as, |agreed| agreed.asn).0,
            kind: if asked.peer.is_internal() { "internal" } else { "external" },
            dynamic: asked.dynamic,
            state: status.state.to_string(),
            for_s: (clock::now() - status.since).as_secs(),
            announced: status.advertised.len(),
            router_id: agreed.map(|agreed| agreed.router_id.to_string()),
            hold_time_s: agreed.map(|agreed| agreed.hold_time.as_secs()),
            families: agreed.map(|a| a.families.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            capabilities: agreed.map(capabilities).unwrap_or_default(),
            messages_received: counters.received.total(),
            messages_sent: counters.sent.total(),
            prefixes_received: counters.prefixes_announced,
            flow_announced: status.flow_advertised,
            flow_received: status.flow_heard,
            private_received: counters.private_received,
            refreshes_received: counters.received.route_refresh,
            flaps: counters.flaps,
            last_withdraw_us: last_withdraw.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            last_down: status.last_down.as_ref().map(Down::to_string),
        });
    }
    rows
}

/// What the session uses beyond RFC 4271, by the names of `docs/bgp.md`.
fn capabilities(agreed: &Negotiated) -> Vec<&'static str> {
    let (sent, read) = (&agreed.context, &agreed.incoming);
    let all = [
        ("four-octet-as", sent.four_octet_as),
        ("route-refresh", agreed.route_refresh),
        ("enhanced-refresh", sent.enhanced_refresh),
        ("extended-messages", sent.extended_messages),
        ("ipv4-by-ipv6", sent.ipv4_by_ipv6),
        ("add-path-send", sent.path_ids != Families::NONE),
        ("add-path-receive", read.path_ids != Families::NONE),
        ("ipv4-flow", sent.flow.ipv4),
        ("ipv6-flow", sent.flow.ipv6),
        ("long-lived-restart", agreed.long_lived),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

fn health(shared: &Shared) -> HealthView {
    let now = clock::now();
    let injector = lock(&shared.injector);
    let age = injector.health().heartbeat_age(now);
    HealthView {
        socket: shared.health_socket.display().to_string(),
        connected: injector.health().is_connected(),
        heartbeat_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        prefixes: injector
            .routes(now)
            .map(|(route, health)| PrefixRow {
                prefix: route.prefix().to_string(),
                healthy: health.is_healthy(),
                reason: health.to_string(),
            })
            .collect(),
    }
}
