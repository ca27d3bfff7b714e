//! Looks again and again whether what a set of routes leads to works, and shows or hides the set.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Patience, Probe};
use cloakway_runtime::{Stop, clock};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::Engine;
use super::ping::ping;
use super::shown::{Draining, Why};
use crate::bfd::Path;
use crate::bfd::Standing;
use crate::events::Event;
use crate::health::Announced;
use crate::neighbours::Neighbours;

/// What is looked at.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A program that ends with 0.
    Command(Vec<String>),
    /// A port that takes connections.
    Tcp(SocketAddr),
    /// An HTTP server that answers GET on the path with 2xx.
    Http(SocketAddr, String),
    /// A host that answers echo requests.
    Icmp(IpAddr),
    /// A path that BFD watches.
    Bfd(Path),
    /// A private prefix that the forwarder calls healthy.
    Forwarder(IpNet),
}

impl Target {
    /// As the configuration calls it.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Tcp(_) => "tcp",
            Self::Http(..) => "http",
            Self::Icmp(_) => "icmp",
            Self::Bfd(_) => "bfd",
            Self::Forwarder(_) => "forwarder",
        }
    }
}

/// A check of one set.
#[derive(Debug, Clone)]
pub struct Check {
    /// The set that is hidden while the check fails.
    pub set: String,
    /// What is looked at.
    pub(crate) target: Target,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How much it takes to change our mind.
    pub patience: Patience,
    /// How the set is told before it is taken back, if it is.
    pub(crate) draining: Option<Draining>,
}

/// What tells by itself how it is.
enum Source {
    Announced(watch::Receiver<Announced>, IpNet),
    /// With what keeps the path watched.
    Path(watch::Receiver<Standing>, mpsc::Receiver<String>),
}

impl Source {
    fn is_good(&self) -> bool {
        match self {
            Self::Announced(announced, prefix) => announced.borrow().routes.contains_key(prefix),
            Self::Path(path, _) => path.borrow().is_up(),
        }
    }

    async fn changed(&mut self) {
        let told = match self {
            Self::Announced(announced, _) => announced.changed().await,
            Self::Path(path, lost) => loop {
                tokio::select! {
                    told = path.changed() => break told,
                    Some(_) = lost.recv() => {}
                }
            },
        };
        if told.is_err() {
            // Whoever told has ended, as the process is about to.
            std::future::pending().await
        }
    }
}

/// Looks until the stop.
#[tracing::instrument(skip_all, fields(set = %check.set))]
pub(crate) async fn run(
    check: Check,
    engine: Arc<Engine>,
    announced: watch::Receiver<Announced>,
    neighbours: Neighbours,
    stop: Stop,
) {
    let mut source = match &check.target {
        Target::Forwarder(prefix) => Some(Source::Announced(announced, *prefix)),
        Target::Bfd(path) => match neighbours.watch(path.clone()).await {
            Ok((path, lost)) => Some(Source::Path(path, lost)),
            Err(error) => {
                tracing::error!(%error, "the path is not watched: the set stays untold");
                return stop.told().await;
            }
        },
        Target::Command(_) | Target::Tcp(_) | Target::Http(..) | Target::Icmp(_) => None,
    };
    let kind = check.target.kind();
    let healthy_gauge = metrics::gauge!("bgp_speaker_inject_set_healthy", "set" => check.set.clone(), "kind" => kind);
    let [good, bad] = ["good", "bad"].map(|found| {
        metrics::counter!("bgp_speaker_inject_looks_total", "set" => check.set.clone(), "kind" => kind, "found" => found)
    });
    healthy_gauge.set(0.0);
    let mut probe = Probe::new(check.patience);
    let mut ticks = tokio::time::interval(check.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let changed = async {
            match &mut source {
                Some(source) => source.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.told() => return,
            () = changed => {}
            _ = ticks.tick() => {}
        }
        let looked = match &source {
            Some(source) if source.is_good() => Ok(()),
            Some(_) => Err("said to be down".to_owned()),
            None => {
                let looked = tokio::time::timeout(check.timeout, look(&check.target)).await;
                looked.unwrap_or_else(|_| Err("no answer in time".to_owned()))
            }
        };
        if looked.is_ok() { &good } else { &bad }.increment(1);
        if probe.look(looked.is_ok(), clock::now()) {
            let healthy = probe.is_healthy();
            let reason = looked.err().unwrap_or_default();
            tracing::info!(healthy, reason, "the health of the set changed");
            let set = check.set.clone();
            healthy_gauge.set(f64::from(u8::from(healthy)));
            engine.events.tell(if healthy { Event::CheckRose { set } } else { Event::CheckFell { set, reason } });
            engine.show(&check.set, Why::Check, healthy, check.draining).await;
        }
    }
}

async fn look(target: &Target) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    match target {
        Target::Command(run) => {
            let (program, arguments) = run.split_first().ok_or("no program")?;
            let mut command = tokio::process::Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.kill_on_drop(true).status().await.map_err(text)?;
            if status.success() { Ok(()) } else { Err(status.to_string()) }
        }
        Target::Tcp(address) => TcpStream::connect(address).await.map(drop).map_err(text),
        Target::Http(address, path) => {
            let mut stream = TcpStream::connect(address).await.map_err(text)?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.map_err(text)?;
            // "HTTP/1.1 200"
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.map_err(text)?;
            match &status {
                [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', _, _] => Ok(()),
                other => Err(format!("answered {:?}", String::from_utf8_lossy(other))),
            }
        }
        Target::Icmp(address) => ping(*address).await.map_err(text),
        Target::Bfd(_) | Target::Forwarder(_) => Err("it tells by itself".to_owned()),
    }
}
