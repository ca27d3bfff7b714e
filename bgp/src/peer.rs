//! One task for each peer: its session, its connections, its timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bgp_core::{
    Configured, Ends, Event, FenceId, FlowHeard, FlowRoutes, Flows, Input, LinkId, Output, Session, Status,
};
use bgp_wire::{Families, Family, FlowRule};
use cloakway_runtime::clock;
use cloakway_types::Instant;
use mrt_wire::writer::{Direction, Style};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::config::Peer;
use crate::events::Events;
use crate::health::Announced;
use crate::inject::{self, Engine};
use crate::mrt::{Recorder, Tape};
use crate::neighbours::Common;
use crate::rib::{Intake, Up};
use crate::telemetry::PeerMetrics;

/// What one read takes at most, so that timers and routes get their turn.
const READ: usize = 64 * 1024;
/// What of it goes into the table at a time: decoded UPDATEs are used while the processor still has them at hand, and the
/// allocator has their memory back for the next.
const BITE: usize = 4 * 1024;
/// A peer that leaves this much unread is given up.
const BACKLOG_LIMIT: usize = 1 << 20;
/// How long a session makes UPDATEs in a row: timers, and the other sessions of the thread, wait no longer.
const TURN: Duration = Duration::from_millis(2);
/// Octets that the kernel holds and has not sent: what is urgent waits behind no more of a bulk.
const UNSENT: u32 = 256 * 1024;
/// How often the peer's acknowledgements are looked at while somebody waits for them.
const ACKNOWLEDGED: Duration = Duration::from_millis(1);
/// How long it may take to withdraw what is not to be kept.
const LEAVING: Duration = Duration::from_secs(5);
/// How long a closing connection may take to hear our last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// Closing connections at a time; any further one is dropped.
const FAREWELLS: usize = 16;

/// What `show` is told of a peer.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) status: Status,
    /// Flow rules that the peer was told.
    pub(crate) flow_advertised: FlowRoutes,
    /// Flow rules that the peer told us.
    pub(crate) flow_heard: BTreeMap<FlowRule, FlowHeard>,
    /// From the word that took a route away to the last byte of its withdrawal in the socket.
    pub(crate) last_withdraw: Option<Duration>,
    /// Routes of each family that the peer told and that are kept.
    pub(crate) held: [(Family, usize); 2],
    pub(crate) restart: Restart,
    pub(crate) queue: Queue,
}

/// How far the peer is behind what it is to be told.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Octets that the socket has not taken.
    pub(crate) unsent: usize,
    /// Octets that the peer's TCP has not acknowledged, those unsent included.
    pub(crate) unacknowledged: u64,
    /// There is more in the table of injected routes.
    pub(crate) behind: bool,
    /// Injected prefixes that were announced or withdrawn.
    pub(crate) sent: u64,
}

/// What stays of whom, and until when.
#[derive(Debug)]
pub(crate) struct Restart {
    /// The peer is offered nothing because it does not know what to drop.
    pub(crate) withheld: bool,
    /// Of the peer's: the family, whether as the least preferred, until when.
    pub(crate) stale: Vec<(Family, bool, Instant)>,
    /// When the session does something by itself.
    pub(crate) next_timer: Option<Instant>,
}

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
        let hungry = task.is_hungry();
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

/// The session's way to the table.
struct Outlet {
    engine: Arc<Engine>,
    /// There may be something to send.
    hungry: bool,
    /// The injected flow rules that the session knows.
    flows: Option<Arc<Flows>>,
    /// Who waits for an acknowledgement, and of how many octets of which connection.
    fences: VecDeque<(LinkId, FenceId, u64)>,
    /// Prefixes that were announced or withdrawn.
    sent: u64,
}

impl Outlet {
    fn new(engine: Arc<Engine>) -> Self {
        Self { engine, hungry: true, flows: None, fences: VecDeque::new(), sent: 0 }
    }

    /// Returns when it is time to look whether the peer has acknowledged.
    async fn look(outlet: Option<&Self>) {
        match outlet {
            Some(outlet) if !outlet.fences.is_empty() => tokio::time::sleep(ACKNOWLEDGED).await,
            _ => std::future::pending().await,
        }
    }
}

struct Link {
    stream: TcpStream,
    /// Sent by the session and not yet taken by the socket.
    backlog: Vec<u8>,
    /// Octets that the socket has taken.
    taken: u64,
    /// What the peer had acknowledged before any of them.
    base: u64,
    tape: Option<Tape>,
}

enum Readiness {
    Read,
    Write,
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
                            self.farewells.spawn(farewell(link));
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
                    log(&event);
                    self.events.session(&self.peer.name, &event);
                    self.note(&event);
                }
            }
        }
    }

    /// Tells of the injected flow rules, when they are other than what the session knows.
    fn tell_flows(&mut self) {
        let Some(outlet) = &mut self.outlet else { return };
        let flows = outlet.engine.flows();
        if !outlet.flows.as_ref().is_some_and(|known| Arc::ptr_eq(known, &flows)) {
            outlet.flows = Some(flows.clone());
            self.session.handle(Input::Flows(flows), clock::now());
            self.deliver();
            self.flush();
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

    /// Ours, as the peer reaches us.
    fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let established = self.session.established_link();
        let link = established.and_then(|id| self.links.get(&id));
        let local = link.and_then(|link| link.stream.local_addr().ok());
        local.map(|local| local.ip().to_canonical()).into_iter()
    }

    /// Sends of others' routes what the socket takes, behind everything else. `fresh`: there may be something new.
    fn pass_on(&mut self, fresh: bool) {
        self.passing |= fresh;
        let end = clock::now() + TURN;
        while clock::now() < end {
            let behind = self.links.values().any(|link| !link.backlog.is_empty());
            if !self.passing || behind || self.outlet.as_ref().is_some_and(|outlet| outlet.hungry) {
                return;
            }
            let locals: Vec<IpAddr> = self.local_addresses().collect();
            let Some((id, batch)) = self.intake.pull(&mut self.session, &locals) else {
                self.passing = false;
                return;
            };
            self.passing = batch.more;
            let style = style(&self.session, id, Direction::Sent);
            let Some(link) = self.links.get_mut(&id) else { return };
            link.send(&batch.bytes, style);
            self.flush();
        }
    }

    fn is_hungry(&self) -> bool {
        self.passing || self.outlet.as_ref().is_some_and(|outlet| outlet.hungry)
    }

    /// Sends of the table what the socket takes, up to a bound, so that timers and other peers get their turn.
    /// `fresh`: there may be something new.
    fn feed(&mut self, fresh: bool) {
        self.tell_flows();
        let end = clock::now() + TURN;
        while clock::now() < end {
            let Some(outlet) = &mut self.outlet else { return };
            outlet.hungry |= fresh;
            // What is unsent goes first, and a peer that does not read is asked to before anything is made for it.
            if !outlet.hungry || self.links.values().any(|link| !link.backlog.is_empty()) {
                return;
            }
            let ends = |id| self.links.get(&id).and_then(Link::ends);
            let Some((id, batch)) = outlet.engine.pull(&self.peer.name, &mut self.session, ends) else {
                outlet.hungry = false;
                outlet.fences.clear();
                return;
            };
            outlet.hungry = batch.more;
            outlet.sent += batch.prefixes;
            // Who waits for rules waits at a fence behind them.
            self.tell_flows();
            let Some(outlet) = &mut self.outlet else { return };
            let style = style(&self.session, id, Direction::Sent);
            let Some(link) = self.links.get_mut(&id) else { return };
            link.send(&batch.bytes, style);
            let until = link.taken + link.backlog.len() as u64;
            outlet.fences.extend(batch.fences.into_iter().map(|fence| (id, fence, until)));
            self.flush();
        }
    }

    /// Tells who waits for it what the peer's TCP has acknowledged.
    fn acknowledged(&mut self) {
        let Some(outlet) = &mut self.outlet else { return };
        while let Some((id, fence, until)) = outlet.fences.front().copied() {
            // When the connection is gone, whoever waits is told as the session leaves the table.
            if let Some(link) = self.links.get(&id) {
                let acknowledged = inject::acknowledged(&link.stream).map(|octets| octets.saturating_sub(link.base));
                if acknowledged.is_ok_and(|octets| octets < until) {
                    return;
                }
                outlet.engine.passed(&self.peer.name, fence);
            }
            outlet.fences.pop_front();
        }
    }

    fn report(&self) -> Report {
        Report {
            status: self.session.status(),
            flow_advertised: self.session.flow_advertised().clone(),
            flow_heard: self.session.flow_heard().clone(),
            last_withdraw: self.last_withdraw,
            held: self.intake.held(),
            restart: Restart {
                withheld: self.session.withheld_keep(),
                stale: self.session.stale().collect(),
                next_timer: self.session.poll_timeout(),
            },
            queue: self.queue(),
        }
    }

    fn queue(&self) -> Queue {
        let link = self.session.established_link().and_then(|id| self.links.get(&id));
        let unsent = link.map_or(0, |link| link.backlog.len());
        let unacknowledged = link.map_or(0, |link| {
            let acknowledged = inject::acknowledged(&link.stream).unwrap_or_default().saturating_sub(link.base);
            (link.taken + unsent as u64).saturating_sub(acknowledged)
        });
        let outlet = self.outlet.as_ref();
        let behind = link.is_some() && outlet.is_some_and(|outlet| outlet.hungry);
        Queue { unsent, unacknowledged, behind, sent: outlet.map_or(0, |outlet| outlet.sent) }
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
            let hungry = self.is_hungry();
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

    fn accept(&mut self, stream: TcpStream) {
        let on_ipv6 = stream.local_addr().is_ok_and(|address| address.is_ipv6());
        if let Err(error) = self.peer.protection.on_accepted(&stream, on_ipv6) {
            tracing::warn!(%error, "cannot protect a connection: it is dropped");
            return;
        }
        let id = self.session.new_link();
        self.add(id, stream);
        self.handle(Input::Accepted(id));
    }

    fn connected(&mut self, id: LinkId, connected: std::io::Result<TcpStream>) {
        if self.attempt.take_if(|attempt| *attempt == id).is_none() {
            return;
        }
        match connected {
            Ok(stream) => {
                self.add(id, stream);
                self.handle(Input::Connected(id));
            }
            Err(error) => {
                self.handle(Input::ConnectFailed(id, &error.to_string()));
            }
        }
    }

    fn add(&mut self, id: LinkId, stream: TcpStream) {
        // A withdrawal must not wait for the acknowledgement of what went before it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // Nor must a KEEPALIVE wait for megabytes of a bulk.
        if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "cannot set TCP_NOTSENT_LOWAT");
        }
        let base = inject::acknowledged(&stream).unwrap_or_default();
        let mut link = Link { stream, backlog: Vec::new(), taken: 0, base, tape: None };
        let settings = &self.peer.settings;
        link.tape = self.recorder.as_ref().zip(link.ends()).map(|(recorder, ends)| {
            Tape::new(recorder, (ends.remote, settings.remote_as), (ends.local, settings.local_as))
        });
        self.links.insert(id, link);
    }

    fn transfer(&mut self, id: LinkId, readiness: Readiness) {
        match readiness {
            Readiness::Write => {
                self.flush();
                self.feed(false);
                self.pass_on(false);
            }
            Readiness::Read => self.read(id),
        }
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

    /// Takes what has come on any connection, a buffer of each.
    fn read_all(&mut self) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.read(id));
    }

    fn read(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let mut buffer = Vec::with_capacity(READ);
        match link.stream.try_read_buf(&mut buffer) {
            Ok(0) => self.lost(id),
            Ok(_) => {
                let style = style(&self.session, id, Direction::Received);
                if let Some(tape) = self.links.get_mut(&id).and_then(|link| link.tape.as_mut()) {
                    tape.pass(Direction::Received, &buffer, style);
                }
                for bite in buffer.chunks(BITE) {
                    self.session.handle(Input::Received(id, bite), clock::now());
                    self.deliver();
                    self.intake.settle();
                }
                self.carry_out();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "cannot read");
                self.lost(id);
            }
        }
    }

    fn lost(&mut self, id: LinkId) {
        self.links.remove(&id);
        self.withdrawing = None;
        self.handle(Input::Closed(id));
    }

    /// Gives the sockets what they take.
    fn flush(&mut self) {
        let mut lost = Vec::new();
        let now = clock::now();
        for (id, link) in &mut self.links {
            let before = link.backlog.len();
            if let Err(error) = link.flush() {
                tracing::debug!(%error, "cannot write");
                lost.push(*id);
            }
            let left = link.backlog.len();
            if left < before {
                self.session.handle(Input::Took { link: *id, all: left == 0 }, now);
            } else if left > 0 {
                self.session.handle(Input::Stalled(*id), now);
            }
        }
        if self.links.values().all(|link| link.backlog.is_empty())
            && let Some(since) = self.withdrawing.take()
        {
            let took = clock::now() - since;
            self.last_withdraw = Some(took);
            self.metrics.withdrew(took);
        }
        for id in lost {
            self.lost(id);
        }
    }
}

/// How the session's messages in one direction are written, as far as it is settled.
fn style(session: &Session, id: LinkId, direction: Direction) -> Style {
    let context = session.negotiated(id).map(|agreed| match direction {
        Direction::Received => agreed.incoming,
        Direction::Sent => agreed.context,
    });
    context.map_or(Style { four_octet_as: true, path_ids: false }, |context| Style {
        four_octet_as: context.four_octet_as,
        path_ids: context.path_ids != Families::NONE,
    })
}

impl Link {
    fn send(&mut self, bytes: &[u8], style: Style) {
        self.backlog.extend_from_slice(bytes);
        if let Some(tape) = &mut self.tape {
            tape.pass(Direction::Sent, bytes, style);
        }
    }

    fn ends(&self) -> Option<Ends> {
        let (local, remote) = (self.stream.local_addr().ok()?, self.stream.peer_addr().ok()?);
        Some(Ends { local: local.ip().to_canonical(), remote: remote.ip().to_canonical() })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.try_write(&self.backlog) {
                Ok(written) => {
                    self.backlog.drain(..written);
                    self.taken += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.backlog.len() > BACKLOG_LIMIT {
            return Err(std::io::Error::new(ErrorKind::TimedOut, "the peer does not read what we send"));
        }
        Ok(())
    }
}

/// Waits until a connection has something to read, or takes what waits to be written.
async fn ready(links: &BTreeMap<LinkId, Link>, hungry: bool) -> (LinkId, Readiness) {
    poll_fn(|cx| {
        for (id, link) in links {
            if (hungry || !link.backlog.is_empty()) && link.stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready((*id, Readiness::Write));
            }
            if link.stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready((*id, Readiness::Read));
            }
        }
        Poll::Pending
    })
    .await
}

async fn connect(peer: &Peer) -> std::io::Result<TcpStream> {
    let to = peer.address;
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = peer.local_address {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    peer.protection.before_connecting(&socket, to.ip())?;
    socket.connect(to).await
}

/// Says the last words and waits until the peer has heard them: closing a socket with something unread in it
/// would reset the connection and take the NOTIFICATION with it.
async fn farewell(mut link: Link) {
    let words = async {
        link.stream.write_all(&link.backlog).await?;
        link.stream.shutdown().await?;
        let mut unread = [0; 1024];
        while link.stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends, the connection is closed.
    let _ = tokio::time::timeout(FAREWELL, words).await;
}

fn log(event: &Event) {
    match event {
        Event::Up(negotiated) => {
            let families: Vec<String> = negotiated.families.iter().map(ToString::to_string).collect();
            tracing::info!(
                router_id = %negotiated.router_id,
                hold_time_s = negotiated.hold_time.as_secs(),
                families = families.join(","),
                "session established"
            );
        }
        Event::Down(reason) => tracing::warn!(%reason, "session closed"),
        Event::Failed(reason) => tracing::info!(%reason, "connection ended before the session was established"),
        Event::Flaw(flaw) => {
            tracing::warn!(%flaw, "damaged UPDATE: its routes count as withdrawn or it loses an attribute")
        }
        Event::FamilyDisabled(family) => {
            tracing::warn!(%family, "damaged UPDATE: the family is no longer listened to in this session (RFC 7606)");
        }
        Event::MulticastPrefix(prefix) => {
            tracing::warn!(%prefix, "the peer announces a prefix of multicast groups among unicast: it is left out");
        }
        Event::FlowDisabled(family) => {
            tracing::warn!(%family, "damaged flow rules: they are no longer listened to in this session (RFC 7606)");
        }
        Event::ManyPrefixes { family, held, limit } => {
            tracing::warn!(%family, held, limit, "the peer tells nearly as many routes as it may, or more");
        }
        Event::RouteLeak(prefix) => {
            tracing::warn!(%prefix, "the peer passes on a route that it must keep (RFC 9234)");
        }
        Event::PrivatePrefixReceived { received, ours } => {
            tracing::warn!(%received, %ours, "the peer announces a private prefix of ours");
        }
    }
}
