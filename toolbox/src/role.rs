//! The command line, and how the parts are put together.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_runtime::admin::Request;
use cloakway_runtime::http::Limits;
use cloakway_runtime::{Context, Outcome, Role, Topic, admin, clock, config, http, metrics, role, tls};
use forwarder_wire::prefixes::TOPIC;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::{self, Api};
use crate::audit::{self, Audit, AuditError};
use crate::bindings::Bindings;
use crate::config::Config;
use crate::follow::{self, Follow};
use crate::loading;
use crate::prefixes;
use crate::radius::Radius;
use crate::radius::annex::Annex;
use crate::sources::{self, Sources};
use crate::whois::{self, Said};

/// The toolbox as a server binary.
#[derive(Debug)]
pub struct Toolbox;

impl Role for Toolbox {
    const NAME: &'static str = "toolbox";
    const ABOUT: &'static str = "Knows from RADIUS accounting which subscriber is live at which address, and says so \
                                 to those who may ask";
    const EXAMPLES: &'static str = "  toolbox check configs/toolbox.toml\n  \
                                    toolbox run --config /etc/cloakway/toolbox.toml\n  \
                                    toolbox show bindings --json\n  \
                                    toolbox show sources\n  \
                                    toolbox whois 198.51.100.70:40000 --at 2026-11-22T08:00:00Z\n  \
                                    toolbox follow https://198.51.100.2:8444 --ca toolbox.pem --key-file shop.key --json\n  \
                                    toolbox audit verify --config /etc/cloakway/toolbox.toml\n";
    const EXIT_3: Option<&'static str> =
        Some("there is no audit log yet, whois knows of nobody, or the host that was asked is gone");
    const TOPICS: &'static [Topic] = &[
        Topic { name: "bindings", about: "Addresses with their subscribers, and why some are unknown" },
        Topic { name: "access", about: "Leases, translations, neighbours and files: what is followed, and alarms" },
        Topic { name: "alarms", about: "Records that contradict others, so that somebody is unknown: the last 256" },
        Topic { name: "sources", about: "RADIUS clients, what they sent, what was dropped" },
        Topic { name: "homes", about: "The RADIUS servers that packets are passed on to" },
        Topic { name: "callers", about: "Who may ask, and how much they did" },
        Topic { name: "followers", about: "Streams of changes that are open, and how far each has come" },
        Topic {
            name: TOPIC,
            about: "Addresses that have a subscriber now, without names, as the forwarder asks for them",
        },
        Topic { name: "status", about: "Open sessions, and where the audit log ends" },
    ];
    type Config = Config;

    fn admin_socket(config: &Config) -> &Path {
        &config.admin_socket
    }

    fn summary(config: &Config) -> Vec<String> {
        let list = |addresses: &[std::net::SocketAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let mut lines = vec![
            format!("RADIUS accounting on {}", list(&config.radius.listen)),
            format!("verification on {}", list(&config.https_listen)),
        ];
        lines.extend(config.radius.summary());
        for client in &config.radius.clients {
            lines.push(format!("client {} at {}", client.name, client.prefix));
            if client.secret.expose().len() < 16 {
                lines.push(format!(
                    "warning: the secret of {} is shorter than 16 characters (RFC 2865 §3)",
                    client.name
                ));
            }
        }
        for address in config.radius.listen.iter().filter(|address| address.ip().is_unspecified()) {
            lines.push(format!(
                "warning: {address}: an answer may leave from another address than the NAS asked: name one"
            ));
        }
        for source in &config.sources.sources {
            lines.push(format!("source {}: {} of {}", source.name, source.kind.word(), source.kind.of()));
        }
        if config.history.postgresql.is_some() {
            lines.push("history in PostgreSQL".to_owned());
        }
        lines.extend(config.history.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.extend(config.sources.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.extend(config.callers.iter().map(|caller| format!("caller {}", caller.name)));
        lines
    }

    async fn run(config: Config, context: Context) -> Outcome {
        std::fs::create_dir_all(&config.data).map_err(|error| format!("{}: {error}", config.data.display()))?;
        let identity = tls::server(&config.identity, None)?;
        let limits = Limits { body: api::BODY_LIMIT, streams: api::STREAMS, ..Limits::default() };
        let ready = Arc::new(OnceLock::new());
        for listen in &config.https_listen {
            let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
            let router = loading::router(ready.clone());
            http::serve(listener, identity.clone(), router, limits.clone(), context.stop.clone());
        }
        let (data, settings, history) = (config.data.clone(), config.settings.clone(), config.history.clone());
        let open = tokio::task::spawn_blocking(move || Bindings::open_with(&data, settings, &history));
        let bindings = open.await??;
        let audit = Audit::open(&config.data)?;
        tracing::info!(open_sessions = bindings.open_sessions(), audit_entries = audit.head().entries, "state is back");
        if let Some(listen) = config.metrics_listen {
            metrics::serve(listen, context.stop.clone()).await.map_err(|error| format!("{listen}: {error}"))?;
        }
        let (failed, mut failure) = mpsc::channel(1);
        // What was true when the process ended is nobody's answer: sources first, questions afterwards.
        let followed = Sources::start(&config.sources, &config.data, &bindings, &context.stop, &failed).await?;
        let prober = Radius::prober(&config.radius, sources::probe::Lans::of(&config.sources));
        let follow = Follow::open(bindings.clone(), &config.data, config.changes, context.stop.clone())?;
        let api = Api::new(bindings.clone(), prober, audit.clone(), follow.clone(), config.callers.clone());
        // Nobody else has put a router there.
        let _ = ready.set(api.clone().router());
        let annex = Annex::open(&config.data.join("radius.redb"))?;
        let state = (bindings.clone(), annex);
        let radius = Radius::start(&config.radius, state, config.settings.max_age, failed, &context.stop).await?;
        let shown = Shown { bindings: bindings.clone(), radius, sources: followed, api, follow, audit };
        admin::serve(&config.admin_socket, context.stop.clone(), move |request| {
            let shown = shown.clone();
            async move {
                match request.topic.as_str() {
                    whois::TOPIC => shown.whois(whois::Asked::of(&request)?).await,
                    _ => shown.topic(&request),
                }
            }
        })?;
        tracing::info!("ready");
        tokio::select! {
            // What cannot be kept may not be acknowledged: better no toolbox than a forgetful one.
            Some(error) = failure.recv() => Err(error.into()),
            ended = bindings.keep_house(&context.stop) => Ok(ended?),
        }
    }

    fn commands() -> Vec<Command> {
        let config = Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .default_value("/etc/cloakway/toolbox.toml")
            .help("The configuration, which names the data folder");
        let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value");
        let verify = Command::new("verify").about("Check the hash chain from the first line to the last");
        vec![
            sources::probe::command(),
            Command::new("audit")
                .about("The log of every look-up")
                .subcommand_required(true)
                .subcommand(verify.arg(config).arg(json)),
            whois::command(),
            follow::command::command(),
        ]
    }

    fn command(name: &str, matches: &ArgMatches) -> ExitCode {
        if name == "whois" {
            return whois::run(matches);
        }
        if name == "follow" {
            return follow::command::run(matches);
        }
        if name == "probe" {
            return sources::probe::run(matches);
        }
        match matches.subcommand() {
            Some(("verify", matches)) => verify_audit(&role::path(matches, "config"), matches.get_flag("json")),
            _ => ExitCode::from(2),
        }
    }
}

#[derive(Clone)]
struct Shown {
    bindings: Bindings,
    radius: Radius,
    sources: Sources,
    api: Api,
    follow: Follow,
    audit: Audit,
}

impl Shown {
    /// Answered once it is in the audit log.
    async fn whois(&self, asked: whois::Asked) -> Result<Value, String> {
        let whois::Asked { question, at } = asked;
        let now = clock::wall();
        let answer = self.bindings.lookup(question, at).map_err(|error| error.to_string())?;
        let said = Said::new(question, at.unwrap_or(now), answer, self.bindings.claims(question));
        let audited = self.audit.record_question("operator", question, at, None, said.word(), now).await;
        audited.map_err(|error| error.to_string())?;
        serde_json::to_value(said).map_err(|error| error.to_string())
    }

    fn topic(&self, request: &Request) -> Result<Value, String> {
        let value = match request.topic.as_str() {
            TOPIC => return prefixes::answer(&self.bindings, request),
            "bindings" => serde_json::to_value(self.bindings.list()),
            "alarms" => serde_json::to_value(self.bindings.alarms()),
            "access" => serde_json::to_value(self.sources.list()),
            "sources" => serde_json::to_value(self.radius.sources()),
            "homes" => serde_json::to_value(self.radius.homes()),
            "callers" => serde_json::to_value(self.api.callers()),
            "followers" => serde_json::to_value(self.follow.shown()),
            "status" => Ok(json!({"open_sessions": self.bindings.open_sessions(), "audit": self.audit.head()})),
            other => return Err(format!("there is no topic {other}")),
        };
        value.map_err(|error| error.to_string())
    }
}

fn verify_audit(config: &Path, json: bool) -> ExitCode {
    let config = match config::load::<Config>(config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("toolbox: {error}");
            return ExitCode::from(2);
        }
    };
    match audit::verify(&config.data) {
        Ok(head) => {
            let line = match serde_json::to_string(&head) {
                Ok(text) if json => text,
                _ => format!("{} entries, the chain is whole, head {}", head.entries, head.head),
            };
            // A reader that has gone away is no error.
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("toolbox: {error}");
            ExitCode::from(if matches!(error, AuditError::Missing { .. }) { 3 } else { 1 })
        }
    }
}
