//! Puts the tasks together and ends them together.

use std::sync::{Arc, Mutex};

use bgp_core::Injector;
use cloakway_runtime::{Outcome, Stop, admin, metrics};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::bfd::{self, Path, Receivers};
use crate::config::{Config, Peer};
use crate::health::{self, Announced};
use crate::inject::{self, Engine, api};
use crate::listener::{self, Door};
use crate::peer;
use crate::show::{self, Asked, Shared};

/// Connections of one peer that wait to be looked at.
const INCOMING: usize = 4;
/// Questions to one peer's task that wait for an answer.
const QUESTIONS: usize = 16;

/// Runs until the stop.
///
/// # Errors
/// When a socket cannot be opened, or a task ends that should not.
pub async fn run(config: Config, stop: Stop) -> Outcome {
    let injector = Arc::new(Mutex::new(Injector::new(config.routes)));
    let (announce, announced) = watch::channel(Announced::default());
    let engine = config.inject.map(Engine::open).transpose()?;
    let mut tasks = JoinSet::new();
    let (mut doors, mut asked) = (Vec::new(), Vec::new());
    let mut receivers = Receivers::default();
    for (index, peer) in config.peers.into_iter().enumerate() {
        let lost = watch_path(&peer, index, &mut receivers, &mut tasks);
        let (door, incoming) = mpsc::channel(INCOMING);
        let (ask, questions) = mpsc::channel(QUESTIONS);
        doors.push(Door { peer: peer.address.ip(), protection: peer.protection.clone(), door });
        asked.push(Asked { peer: peer.clone(), ask });
        tasks.spawn(peer::run(peer, announced.clone(), incoming, questions, lost, engine.clone(), stop.clone()));
    }
    for receiver in receivers.open()? {
        tasks.spawn(receiver.run());
    }
    for address in config.listen {
        tasks.spawn(listener::run(listener::bind(address, &doors)?, doors.clone(), stop.clone()));
    }
    if let Some(engine) = engine {
        api::serve(engine.clone(), stop.clone())?;
        inject::start(&engine, &mut tasks, &stop);
    }
    let shared = Arc::new(Shared {
        peers: asked,
        injector: injector.clone(),
        health_socket: config.health_socket.clone().unwrap_or_default(),
    });
    admin::serve(&config.admin_socket, stop.clone(), move |request| show::answer(shared.clone(), request))?;
    if let Some(listen) = config.metrics_listen {
        metrics::serve(listen, stop.clone()).await?;
    }
    if let Some(socket) = config.health_socket {
        tasks.spawn(health::run(socket, injector, announce, stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if !stop.is_told() || ended.is_err() {
            stop.tell();
            return Err("a task ended that must not end: see the log".into());
        }
    }
    Ok(())
}

/// Watches the path to `peer`, if it is to be watched; gives the words that say that it is lost.
fn watch_path(peer: &Peer, index: usize, receivers: &mut Receivers, tasks: &mut JoinSet<()>) -> mpsc::Receiver<String> {
    let (lost, words) = mpsc::channel(1);
    if let Some(wanted) = peer.bfd {
        let discriminator = bfd::discriminator(index);
        let settings = bfd_core::Settings { interval: wanted.interval, multiplier: wanted.multiplier, discriminator };
        let path = Path { peer: peer.address.ip(), local: peer.local_address, settings };
        let packets = receivers.expect(&path);
        tasks.spawn(bfd::run(path, packets, lost));
    }
    words
}
