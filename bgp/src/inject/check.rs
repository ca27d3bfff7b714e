//! Looks again and again whether what a set of routes leads to works, and shows or hides the set.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Patience, Probe, Walk};
use cloakway_runtime::{Stop, clock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::events::Event;

use super::{Engine, lock};

/// Places that are settled while the table is held.
const SLOTS: u32 = 4096;

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Target {
    /// A program that ends with 0.
    Command(Vec<String>),
    /// A port that takes connections.
    Tcp(SocketAddr),
    /// An HTTP server that answers GET on the path with 2xx.
    Http(SocketAddr, String),
}

/// A check of one set.
#[derive(Debug, Clone)]
pub struct Check {
    /// The set that is hidden while the check fails.
    pub set: String,
    /// What is looked at.
    pub target: Target,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How much it takes to change our mind.
    pub patience: Patience,
}

/// Looks until the stop.
#[tracing::instrument(skip_all, fields(set = %check.set))]
pub(crate) async fn run(check: Check, engine: Arc<Engine>, stop: Stop) {
    let mut probe = Probe::new(check.patience);
    let mut ticks = tokio::time::interval(check.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.told() => return,
            _ = ticks.tick() => {}
        }
        let looked = tokio::time::timeout(check.timeout, look(&check.target)).await;
        let looked = looked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if probe.look(looked.is_ok(), clock::now()) {
            let healthy = probe.is_healthy();
            let reason = looked.err().unwrap_or_default();
            tracing::info!(healthy, reason, "the health of the set changed");
            let set = check.set.clone();
            engine.events.tell(if healthy { Event::CheckRose { set } } else { Event::CheckFell { set, reason } });
            engine.show(&check.set, healthy).await;
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
    }
}

impl Engine {
    /// Tells peers of the routes of `set`, or takes them back.
    pub(super) async fn show(&self, set: &str, shown: bool) {
        let id = {
            let mut table = lock(&self.table);
            let id = table.rib.set(set);
            table.rib.show(id, shown);
            id
        };
        let mut walk = Walk::default();
        while lock(&self.table).rib.settle_set(id, &mut walk, SLOTS).is_continue() {
            tokio::task::yield_now().await;
        }
        self.wake();
    }
}
