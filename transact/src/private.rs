//! The private side: the cloaked stack on the private link, and each of its connections as a stream.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use cloakway_runtime::{Stop, clock};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use transact_cloak::{Checksum, Cloak, ConnectionId, Peer, Read};

use crate::gate::Gate;
use crate::link::Link;

/// The stack, shared by the driver and the connections.
#[derive(Debug, Clone)]
pub(crate) struct Private(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// A connection has left something to send.
    touched: Notify,
}

#[derive(Debug)]
struct Inner {
    cloak: Cloak,
    wakers: BTreeMap<ConnectionId, Vec<Waker>>,
}

impl Private {
    pub(crate) fn new(cloak: Cloak) -> Self {
        Self(Arc::new(Shared { inner: Mutex::new(Inner { cloak, wakers: BTreeMap::new() }), touched: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far, by reason, and the connections of now.
    pub(crate) fn counters(&self) -> serde_json::Value {
        let inner = self.lock();
        let mut counters: serde_json::Map<String, serde_json::Value> =
            inner.cloak.counters().iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        counters.insert("connections".to_owned(), inner.cloak.connections().into());
        counters.insert("half_open".to_owned(), inner.cloak.half_open().into());
        counters.into()
    }

    /// Moves frames and time until the stop; hands every new connection to `serve`.
    pub(crate) async fn drive(self, mut link: Link, checksum: Checksum, stop: Stop, serve: impl Fn(Socket, Peer)) {
        loop {
            let timeout = {
                let mut inner = self.lock();
                inner.cloak.poll(clock::now());
                while let Some(frame) = inner.cloak.poll_transmit() {
                    link.send(frame);
                }
                while let Some((id, peer)) = inner.cloak.accept() {
                    serve(Socket { private: self.clone(), id, silent: Arc::default() }, peer);
                }
                while let Some(id) = inner.cloak.poll_ready() {
                    inner.wakers.remove(&id).unwrap_or_default().into_iter().for_each(Waker::wake);
                }
                inner.cloak.poll_timeout()
            };
            tokio::select! {
                () = stop.told() => return,
                frame = link.received.recv() => {
                    let Some(frame) = frame else { return };
                    let mut inner = self.lock();
                    inner.cloak.handle_frame(&frame, checksum, clock::now());
                    while let Ok(frame) = link.received.try_recv() {
                        inner.cloak.handle_frame(&frame, checksum, clock::now());
                    }
                }
                () = self.0.touched.notified() => {}
                () = clock::until(timeout) => {}
            }
        }
    }
}

/// One payer's connection.
#[derive(Debug)]
pub(crate) struct Socket {
    private: Private,
    id: ConnectionId,
    silent: Arc<AtomicBool>,
}

impl Socket {
    /// Counts what arrives against `gate`; over a bound the connection goes without a word.
    pub(crate) fn behind(self, gate: Gate) -> Gated {
        Gated { socket: self, gate }
    }

    fn poll<T>(
        &self,
        context: &Context<'_>,
        act: impl FnOnce(&mut Cloak) -> io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        let mut inner = self.private.lock();
        let done = act(&mut inner.cloak);
        let poll = match done {
            Ok(Some(value)) => Poll::Ready(Ok(value)),
            Ok(None) => {
                let wakers = inner.wakers.entry(self.id).or_default();
                if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        };
        drop(inner);
        if poll.is_ready() {
            self.private.0.touched.notify_one();
        }
        poll
    }
}

fn gone(error: transact_cloak::Gone) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut inner = self.private.lock();
        inner.wakers.remove(&self.id);
        if self.silent.load(Ordering::Relaxed) {
            inner.cloak.abort(self.id);
        } else {
            inner.cloak.close(self.id, clock::now());
        }
        drop(inner);
        self.private.0.touched.notify_one();
    }
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Gated {
    socket: Socket,
    gate: Gate,
}

impl Gated {
    /// Told when the connection has to end in silence.
    pub(crate) fn silencer(&self) -> Arc<AtomicBool> {
        self.socket.silent.clone()
    }
}

impl AsyncRead for Gated {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let id = self.socket.id;
        let room = buffer.initialize_unfilled();
        let read = self.socket.poll(context, |cloak| match cloak.read(id, room).map_err(gone)? {
            Read::Data(octets) => Ok(Some(octets)),
            Read::Eof => Ok(Some(0)),
            Read::Pending => Ok(None),
        });
        read.map(|read| {
            let octets = read?;
            if let Err(bound) = self.gate.count(octets) {
                metrics::counter!("cloakway_payers_dropped_total", "bound" => bound.to_string()).increment(1);
                self.socket.silent.store(true, Ordering::Relaxed);
                return Err(io::Error::other(bound));
            }
            buffer.advance(octets);
            Ok(())
        })
    }
}

impl AsyncWrite for Gated {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let id = self.socket.id;
        self.socket.poll(context, |cloak| match cloak.write(id, data).map_err(gone)? {
            0 if !data.is_empty() => Ok(None),
            octets => Ok(Some(octets)),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A connection that is gone has nothing left to end.
        let _ = self.socket.private.lock().cloak.shutdown(self.socket.id);
        self.socket.private.0.touched.notify_one();
        Poll::Ready(Ok(()))
    }
}

/// The peer's address as the HTTP server wants it.
pub(crate) fn address(peer: &Peer) -> SocketAddr {
    SocketAddr::new(peer.address, peer.port)
}
