//! What goes out behind what the session says by itself: injected routes, and other peers'.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{FenceId, Flows, Input, LinkId};
use cloakway_runtime::clock;
use mrt_wire::writer::Direction;

use super::Task;
use super::link::{Link, style};
use crate::inject::{self, Engine};

/// How long a session makes UPDATEs in a row: timers, and the other sessions of the thread, wait no longer.
const TURN: Duration = Duration::from_millis(2);
/// How often the peer's acknowledgements are looked at while somebody waits for them.
const ACKNOWLEDGED: Duration = Duration::from_millis(1);

/// The session's way to the table.
pub(super) struct Outlet {
    pub(super) engine: Arc<Engine>,
    /// There may be something to send.
    pub(super) hungry: bool,
    /// The injected flow rules that the session knows.
    pub(super) flows: Option<Arc<Flows>>,
    /// Who waits for an acknowledgement, and of how many octets of which connection.
    pub(super) fences: VecDeque<(LinkId, FenceId, u64)>,
    /// Prefixes that were announced or withdrawn.
    pub(super) sent: u64,
}

impl Outlet {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, hungry: true, flows: None, fences: VecDeque::new(), sent: 0 }
    }

    /// Returns when it is time to look whether the peer has acknowledged.
    pub(super) async fn look(outlet: Option<&Self>) {
        match outlet {
            Some(outlet) if !outlet.fences.is_empty() => tokio::time::sleep(ACKNOWLEDGED).await,
            _ => std::future::pending().await,
        }
    }
}

impl Task {
    /// Tells of the injected flow rules, when they are other than what the session knows.
    pub(super) fn tell_flows(&mut self) {
        let Some(outlet) = &mut self.outlet else { return };
        let flows = outlet.engine.flows();
        if !outlet.flows.as_ref().is_some_and(|known| Arc::ptr_eq(known, &flows)) {
            outlet.flows = Some(flows.clone());
            self.session.handle(Input::Flows(flows), clock::now());
            self.deliver();
            self.flush();
        }
    }

    /// Ours, as the peer reaches us.
    pub(super) fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let established = self.session.established_link();
        let link = established.and_then(|id| self.links.get(&id));
        let local = link.and_then(|link| link.stream.local_addr().ok());
        local.map(|local| local.ip().to_canonical()).into_iter()
    }

    /// Sends of others' routes what the socket takes, behind everything else. `fresh`: there may be something new.
    pub(super) fn pass_on(&mut self, fresh: bool) {
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

    /// The connection for which there may be something, when it takes more.
    pub(super) fn hungry(&self) -> Option<LinkId> {
        let hungry = self.passing || self.outlet.as_ref().is_some_and(|outlet| outlet.hungry);
        self.session.established_link().filter(|_| hungry)
    }

    /// Sends of the table what the socket takes, up to a bound, so that timers and other peers get their turn.
    /// `fresh`: there may be something new.
    pub(super) fn feed(&mut self, fresh: bool) {
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
    pub(super) fn acknowledged(&mut self) {
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
}
