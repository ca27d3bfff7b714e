//! Connections of a peer's task: they come, are read and written, and go.

use std::io::ErrorKind;

use bgp_core::{Input, LinkId};
use cloakway_runtime::clock;
use mrt_wire::writer::Direction;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Task;
use super::link::{Link, Readiness, style};
use crate::inject;
use crate::mrt::Tape;

/// What one read takes at most, so that timers and routes get their turn.
const READ: usize = 64 * 1024;
/// What of it goes into the table at a time: decoded UPDATEs are used while the processor still has them at hand, and the
/// allocator has their memory back for the next.
const BITE: usize = 4 * 1024;
/// Octets that the kernel holds and has not sent: what is urgent waits behind no more of a bulk.
const UNSENT: u32 = 256 * 1024;

impl Task {
    pub(super) fn accept(&mut self, stream: TcpStream) {
        let on_ipv6 = stream.local_addr().is_ok_and(|address| address.is_ipv6());
        if let Err(error) = self.peer.protection.on_accepted(&stream, on_ipv6) {
            tracing::warn!(%error, "cannot protect a connection: it is dropped");
            return;
        }
        let id = self.session.new_link();
        self.add(id, stream);
        self.handle(Input::Accepted(id));
    }

    pub(super) fn connected(&mut self, id: LinkId, connected: std::io::Result<TcpStream>) {
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

    pub(super) fn add(&mut self, id: LinkId, stream: TcpStream) {
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

    pub(super) fn transfer(&mut self, id: LinkId, readiness: Readiness) {
        match readiness {
            Readiness::Write => {
                self.flush();
                self.feed(false);
                self.pass_on(false);
            }
            Readiness::Read => self.read(id),
        }
    }

    /// Takes what has come on any connection, a buffer of each.
    pub(super) fn read_all(&mut self) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        ids.into_iter().for_each(|id| self.read(id));
    }

    pub(super) fn read(&mut self, id: LinkId) {
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

    pub(super) fn lost(&mut self, id: LinkId) {
        self.links.remove(&id);
        self.withdrawing = None;
        self.handle(Input::Closed(id));
    }

    /// Gives the sockets what they take.
    pub(super) fn flush(&mut self) {
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
