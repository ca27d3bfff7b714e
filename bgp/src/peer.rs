//! One task for each peer: its session, its connections, its timers.

mod link;
mod log;
mod outlet;
mod report;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use bgp_core::{Configured, Event, Input, LinkId, Output, Session};
use bgp_wire::Family;
use cloakway_runtime::clock;
use cloakway_types::Instant;
use mrt_wire::writer::Direction;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::config::Peer;
use crate::events::Events;
use crate::health::Announced;
use crate::mrt::Recorder;
use crate::neighbours::Common;
use crate::rib::{Intake, Up};
use crate::telemetry::PeerMetrics;
use link::{Link, connect, ready, style};
use outlet::Outlet;
pub(crate) use report::Report;

/// How long it may take to withdraw what is not to be kept.
const LEAVING: Duration = Duration::from_secs(5);
/// Closing connections at a time; any further one is dropped.
const FAREWELLS: usize = 16;

/// Whether a peer's task outlives its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// The file names it.
    Configured,
    /// It was made for a connection.
    UntilOver,
}

/// What a peer's task is told to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// The configuration says otherwise of it now.
    Change {
        /// What it says.
        peer: Box<Peer>,
        /// Something changed for which the session starts again.
        reset: bool,
        /// Who is told what became of the session.
        done: oneshot::Sender<Configured>,
        /// Who says that the path is lost, if that has changed.
        lost: Option<mpsc::Receiver<String>>,
    },
    /// The configuration no longer has it.
    Remove,
    /// The operator wants everything told again.
    AskAgain(oneshot::Sender<Result<BTreeSet<Family>, &'static str>>),
}

/// What reaches a peer's task.
pub(crate) struct Ways {
    pub(crate) incoming: mpsc::Receiver<TcpStream>,
    pub(crate) questions: mpsc::Receiver<oneshot::Sender<Report>>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) lost: mpsc::Receiver<String>,
}

/// Keeps the session with `peer` until the stop, or until it is no longer wanted. Gives back the connections that came
/// too late.
#[tracing::instrument(name = "peer", skip_all, fields(peer = %peer.name, address = %peer.address, asn = %peer.settings.remote_as))]
pub(crate) async fn run(peer: Peer, lifetime: Lifetime, mut ways: Ways, common: Common) -> Vec<TcpStream> {
    let Common { announced: mut routes, engine, events, rib, restarted, recorder, stop } = common;
    let seed = RandomState::new().build_hasher().finish();
    let session = Session::new(peer.settings.clone(), seed, clock::now());
    let session = if engine.is_some() { session.with_table() } else { session };
    let session = if restarted { session.restarted() } else { session };
    let mut changes = match &engine {
        Some(engine) => engine.changes(),
        // Nothing is ever sent here: there is no table.
        None => watch::channel(0).1,
    };
    let mut told_others = rib.changes();
    let metrics = PeerMetrics::new(&peer.name);
    let intake = rib.intake(&peer);
    let mut task = Task {
        peer,
        session,
        links: BTreeMap::new(),
        connecting: JoinSet::new(),
        attempt: None,
        farewells: JoinSet::new(),
        withdrawing: None,
        last_withdraw: None,
        outlet: engine.map(Outlet::new),
        intake,
        passing: false,
        metrics,
        events,
        recorder,
    };
    routes.mark_changed();
    task.handle(Input::Start);
    loop {
        // The event loop learns of the time when it looks, and that is when nothing else is ready.
        task.tick();
        let hungry = task.hungry();
        // Withdrawals before all else; the keepalive timer before the peer's bytes.
        tokio::select! {
            biased;
            () = stop.told() => break,
            Some(why) = ways.lost.recv() => task.handle(Input::PathLost(&why)),
            Ok(()) = routes.changed() => {
                let announced = routes.borrow_and_update().clone();
                task.announce(announced);
            }
            Some(order) = ways.orders.recv() => match order {
                Order::Change { peer, reset, done, lost } => {
                    // Whoever asked may have gone away.
                    let _ = done.send(task.change(*peer, reset));
                    if let Some(lost) = lost {
                        ways.lost = lost;
                    }
                }
                Order::Remove => {
                    task.handle(Input::Remove);
                    break;
                }
                Order::AskAgain(answer) => {
                    // Who has gone away meanwhile wants no answer.
                    let _ = answer.send(task.session.ask_again());
                    task.carry_out();
                }
            },
            () = clock::until(task.session.poll_timeout()) => task.tick(),
            Ok(()) = changes.changed() => {
                task.feed(true);
                task.breathe().await;
            }
            Ok(()) = told_others.changed() => {
                task.pass_on(true);
                task.breathe().await;
            }
            () = Outlet::look(task.outlet.as_ref()) => task.acknowledged(),
            Some(stream) = ways.incoming.recv() => task.accept(stream),
            Some(Ok((id, connected))) = task.connecting.join_next() => task.connected(id, connected),
            Some(question) = ways.questions.recv() => {
                // An asker that has gone away wants no answer.
                let _ = question.send(task.report());
            }
            (id, readiness) = ready(&task.links, hungry) => {
                task.transfer(id, readiness);
                task.breathe().await;
            }
            Some(_) = task.farewells.join_next() => {}
        }
        if lifetime == Lifetime::UntilOver && task.session.is_over() && ways.incoming.is_empty() {
            break;
        }
    }
    ways.incoming.close();
    let late = std::iter::from_fn(|| ways.incoming.try_recv().ok()).collect();
    task.leave().await;
    task.farewell();
    while task.farewells.join_next().await.is_some() {}
    late
}

struct Task {
    peer: Peer,
    session: Session,
    links: BTreeMap<LinkId, Link>,
    connecting: JoinSet<(LinkId, std::io::Result<TcpStream>)>,
    /// The attempt to connect that the session still wants.
    attempt: Option<LinkId>,
    farewells: JoinSet<()>,
    /// When the word came whose withdrawal is on its way into the socket.
    withdrawing: Option<Instant>,
    last_withdraw: Option<Duration>,
    /// Where injected routes come from, if there are any.
    outlet: Option<Outlet>,
    /// Where the peer's routes go, and those of others come from.
    intake: Intake,
    /// There may be routes of others to tell.
    passing: bool,
    metrics: PeerMetrics,
    events: Events,
    /// Who writes messages down, if they are to be.
    recorder: Option<Recorder>,
}

impl Task {
    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(input, clock::now());
        self.carry_out();
    }

    /// Takes over what the configuration says now.
    fn change(&mut self, peer: Peer, reset: bool) -> Configured {
        let settings = peer.settings.clone();
        let judges_otherwise = self.peer.exchange.judges_otherwise(&peer.exchange);
        self.peer = peer;
        if judges_otherwise {
            self.intake.configure(&self.peer);
        }
        let configured = if reset {
            self.session.restart(settings, clock::now());
            Configured::Restarted
        } else {
            self.session.configure(settings, clock::now())
        };
        // Others' routes may be told now, or no longer, or otherwise.
        self.passing = true;
        if configured == Configured::Restarted {
            tracing::info!("configured anew: the session starts again");
        }
        self.carry_out();
        configured
    }

    /// Does what the session says.
    fn carry_out(&mut self) {
        self.deliver();
        self.intake.settle();
        if self.peer.settings.options.max_prefix.is_some() {
            for (family, held) in self.intake.held() {
                self.session.handle(Input::Held(family, held), clock::now());
            }
            self.deliver();
        }
        self.flush();
        self.feed(self.session.wants_pull());
        self.pass_on(false);
        self.metrics.set(&self.session.status());
    }

    /// Takes over what the session puts out.
    fn deliver(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(id) => {
                    self.attempt = Some(id);
                    let peer = self.peer.clone();
                    self.connecting.spawn(async move { (id, connect(&peer).await) });
                }
                Output::Send(id, bytes) => {
                    let style = style(&self.session, id, Direction::Sent);
                    if let Some(link) = self.links.get_mut(&id) {
                        link.send(&bytes, style);
                    }
                }
                Output::Close(id) => match self.links.remove(&id) {
                    Some(link) => {
                        if self.farewells.len() < FAREWELLS {
                            self.farewells.spawn(link::farewell(link));
                        }
                    }
                    None => {
                        self.attempt = None;
                        self.connecting.abort_all();
                    }
                },
                Output::Heard(heard) => {
                    self.events.restart(&self.peer.name, &heard);
                    self.intake.hear(heard);
                }
                Output::Event(event) => {
                    log::log(&event);
                    self.events.session(&self.peer.name, &event);
                    self.note(&event);
                }
            }
        }
    }

    /// What an event means for the table of peers' routes.
    fn note(&mut self, event: &Event) {
        self.intake.settle();
        match event {
            Event::Up(negotiated) => {
                let local = self.local_addresses().next();
                self.intake.up(&self.peer, Up { router_id: negotiated.router_id, asn: negotiated.asn, local });
                self.passing = true;
            }
            Event::Down(_) => self.intake.lost(),
            Event::FamilyDisabled(family) => self.intake.family_lost(*family),
            _ => {}
        }
    }

    /// Before a planned end, where something is to be kept: everything else is withdrawn, and the connection ends
    /// without a word that would take the kept along. Not in time: then with that word.
    async fn leave(&mut self) {
        let keeps = self.outlet.as_ref().is_some_and(|outlet| outlet.engine.keeps_anything());
        if !keeps || !self.session.keeps() {
            return;
        }
        self.handle(Input::Leave);
        let patience = tokio::time::sleep(LEAVING);
        tokio::pin!(patience);
        while !self.session.has_left() || self.links.values().any(|link| !link.backlog.is_empty()) {
            if self.links.is_empty() {
                return;
            }
            let hungry = self.hungry();
            tokio::select! {
                () = &mut patience => return,
                () = clock::until(self.session.poll_timeout()) => self.handle(Input::Tick),
                (id, readiness) = ready(&self.links, hungry) => self.transfer(id, readiness),
            }
        }
        self.handle(Input::Left);
    }

    fn farewell(&mut self) {
        let word = self.peer.shutdown_communication.clone();
        self.handle(Input::Stop(&word));
    }

    fn announce(&mut self, announced: Announced) {
        let had_routes = !self.session.advertised().is_empty();
        if announced.withdrew && had_routes {
            self.withdrawing = Some(announced.changed);
        }
        self.handle(Input::Routes(announced.routes));
    }

    /// Does what is due, if anything is. A peer whose word has come in time is not silent, however late we are.
    fn tick(&mut self) {
        if self.session.poll_timeout().is_some_and(|due| due <= clock::now()) {
            self.read_all();
            self.handle(Input::Tick);
        }
    }

    /// Changes may come as fast as they are told, and a socket take as fast as is made for it: the event loop gets a look
    /// at the others all the same, and the peer is heard.
    async fn breathe(&mut self) {
        tokio::task::yield_now().await;
        self.read_all();
    }
}
