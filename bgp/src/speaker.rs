//! Puts the tasks together and ends them together.

use std::sync::{Arc, Mutex};

use bgp_core::Injector;
use cloakway_runtime::{Context, Outcome, admin, metrics, reload};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bmp::Station;
use crate::config::Config;
use crate::events::Events;
use crate::health::{self, Announced, Gate};
use crate::inject::{self, Engine, api};
use crate::kernel::Installer;
use crate::mrt::Recorder;
use crate::neighbours::{self, Common, List, Wanted};
use crate::reload::Reloader;
use crate::rib::{self, Table};
use crate::rpki::Rpki;
use crate::show::{self, Shared};
use crate::threads::Threads;

/// Runs until the stop.
///
/// # Errors
/// When a socket cannot be opened, or a task ends that should not.
pub async fn run(config: Config, context: impl Into<Context>) -> Outcome {
    let Context { stop, config_path, config_text } = context.into();
    let injector = Arc::new(Mutex::new(Injector::new(config.routes)));
    let (announce, announced) = watch::channel(Announced::default());
    let events = Events::default();
    let gate = Gate { injector: injector.clone(), announce, events: events.clone() };
    let engine = config.inject.map(|inject| Engine::open(inject, events.clone())).transpose()?;
    let mut tasks = JoinSet::new();
    let threads = Threads::start()?;
    let restarted = engine.as_ref().is_some_and(|engine| engine.keeps_anything());
    let (look_up_socket, look_up_tcp) = (config.rib.look_up_socket.clone(), config.rib.look_up_tcp.clone());
    let dump = config.rib.dump.clone();
    let payloads = watch::Sender::default();
    let rib = Table::new(config.rib, payloads.subscribe());
    let (to_table, to_events) = (rib.clone(), events.clone());
    let recorder = config.mrt.map(|mrt| Recorder::start(mrt, &mut tasks, stop.clone())).transpose()?;
    let common = Common {
        announced: announced.clone(),
        engine: engine.clone(),
        events: to_events,
        rib: to_table,
        restarted,
        recorder,
        stop: stop.clone(),
    };
    let (neighbours, mut list) = List::new(common);
    let wanted = Wanted { listen: config.listen, peers: config.peers, dynamic: config.dynamic };
    {
        let _there = threads.handle().enter();
        list.want(wanted, || {})?;
    }
    tasks.spawn_on(list.run(), threads.handle());
    let station =
        config.bmp.map(|bmp| Station::start(bmp, gate.clone(), events.clone(), &mut tasks, &stop)).transpose()?;
    let rpki = config.rpki.map(|rpki| Rpki::start(rpki, payloads, events.clone(), &mut tasks, &stop));
    let reloader = Arc::new(Reloader {
        path: config_path,
        text: tokio::sync::Mutex::new(config_text),
        neighbours: neighbours.clone(),
        gate: gate.clone(),
        engine: engine.clone(),
        station: station.clone(),
        events: events.clone(),
        rib: rib.clone(),
    });
    let by_signal = reloader.clone();
    reload::on_hangup(stop.clone(), move || {
        let reloader = by_signal.clone();
        async move { reloader.reload().await }
    })?;
    if let Some(engine) = &engine {
        api::serve(engine.clone(), neighbours.clone(), stop.clone())?;
        inject::start(engine, &neighbours, &announced, &mut tasks, &stop);
    }
    if let Some(socket) = look_up_socket {
        rib::serve(&socket, rib.clone(), stop.clone())?;
    }
    if let Some(settings) = look_up_tcp {
        rib::serve_tcp(settings, rib.clone(), stop.clone()).await?;
    }
    tasks.spawn(rib.clone().follow_dump(stop.clone()));
    if let Some(dump) = dump {
        tasks.spawn(rib.clone().keep_dumping(dump, stop.clone()));
    }
    if rpki.is_some() {
        tasks.spawn(rib.clone().follow_rpki(stop.clone()));
    }
    rib::metrics::start(rib.clone(), stop.clone());
    let installer = config.kernel.map(Installer::new);
    if let Some(installer) = &installer {
        let opened = installer.open()?;
        tasks.spawn(installer.clone().run(opened, rib.clone(), stop.clone()));
    }
    let to_look_at = (neighbours.clone(), rib.clone());
    let shared = Arc::new(Shared {
        neighbours,
        injector,
        engine,
        reloader,
        events,
        station,
        rpki,
        rib,
        installer,
        health_socket: config.health_socket.clone().unwrap_or_default(),
    });
    admin::serve(&config.admin_socket, stop.clone(), move |request| show::answer(shared.clone(), request))?;
    if let Some(listen) = config.metrics_listen {
        let (neighbours, rib) = to_look_at;
        tokio::spawn(neighbours::metrics::run(neighbours, rib, stop.clone()));
        metrics::serve(listen, stop.clone()).await?;
    }
    if let Some(socket) = config.health_socket {
        tasks.spawn_on(health::run(socket, gate, stop.clone()), threads.handle());
    }
    while let Some(ended) = tasks.join_next().await {
        if !stop.is_told() || ended.is_err() {
            stop.tell();
            return Err("a task ended that must not end: see the log".into());
        }
    }
    Ok(())
}
