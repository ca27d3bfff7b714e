//! The running peers: where accepted connections go, who is asked, and what a new configuration means for each.
//!
//! One task owns the list. Peers come from the configuration; those of a `dynamic-peers` table are made when somebody
//! from its prefix connects, and are gone when their session is over.

mod list;
pub(crate) mod metrics;
pub(crate) mod shown;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bgp_core::Configured;
use bgp_wire::Family;
use cloakway_runtime::Stop;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bfd::{Path, Standing};
use crate::config::{DynamicPeers, Peer};
use crate::events::Events;
use crate::health::Announced;
use crate::inject::Engine;
use crate::listener::Expected;
use crate::mrt::Recorder;
use crate::peer::{Order, Report};
use crate::rib::Table;

pub(crate) use list::List;

/// What every peer's task is given.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) announced: watch::Receiver<Announced>,
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) events: Events,
    pub(crate) rib: Arc<Table>,
    /// Routes of before that peers may have kept were restored, and the process has just started.
    pub(crate) restarted: bool,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) stop: Stop,
}

/// Who is wanted, and where connections are taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) dynamic: Vec<DynamicPeers>,
}

impl Wanted {
    fn expected(&self) -> Expected {
        let peers = self.peers.iter().map(|peer| (IpNet::from(peer.address.ip()), peer.protection.clone()));
        let dynamic = self.dynamic.iter().map(|from| (from.prefix, from.template.protection.clone()));
        peers.chain(dynamic).collect()
    }

    /// The prefix that somebody at `address` belongs to.
    fn dynamic_at(&self, address: IpAddr) -> Option<&DynamicPeers> {
        let holding = self.dynamic.iter().filter(|from| from.prefix.contains(&address));
        holding.max_by_key(|from| from.prefix.prefix_len())
    }
}

/// What a new configuration did to a peer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Effect {
    pub(crate) peer: String,
    pub(crate) effect: String,
}

/// [`Effect`], with what the peer's task has yet to say of it.
pub(crate) struct Change {
    effect: Effect,
    done: Option<oneshot::Receiver<Configured>>,
}

impl Change {
    const fn known(peer: String, effect: String) -> Self {
        Self { effect: Effect { peer, effect }, done: None }
    }

    async fn settled(self) -> Effect {
        let mut effect = self.effect;
        let Some(done) = self.done else { return effect };
        match done.await {
            Ok(Configured::Asked) => effect.effect.push_str(": it is asked for its routes (RFC 2918)"),
            Ok(Configured::Restarted) => {
                effect.effect =
                    "reset: import changed, and the peer can't be asked for its routes (RFC 2918)".to_owned();
            }
            // Whose task has just ended is as it will be.
            Ok(Configured::Kept) | Err(_) => {}
        }
        effect
    }
}

/// What the list is asked.
enum Command {
    Accepted(TcpStream, SocketAddr),
    List(oneshot::Sender<Vec<Asked>>),
    Watch(Path, oneshot::Sender<Result<Watched, String>>),
    Want(Box<Wanted>, Box<dyn FnOnce() + Send>, oneshot::Sender<Result<Vec<Change>, String>>),
}

/// Whether a path works, and what keeps it watched for as long as it is held.
pub(crate) type Watched = (watch::Receiver<Standing>, mpsc::Receiver<String>);

/// A way to the list of running peers.
#[derive(Clone)]
pub(crate) struct Neighbours(mpsc::Sender<Command>);

/// A peer whose task can be asked.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) peer: Peer,
    /// Made because somebody connected: the file names only its prefix.
    pub(crate) dynamic: bool,
    /// How the path to it stands, if it is watched.
    pub(crate) path: Option<Standing>,
    ask: mpsc::Sender<oneshot::Sender<Report>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Asked {
    /// Has the peer asked for everything again (RFC 2918); gives the families.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(crate) async fn ask_again(&self) -> Result<BTreeSet<Family>, &'static str> {
        let ended = "its session is ending";
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::AskAgain(answer)).map_err(|_| ended)?;
        answered.await.unwrap_or(Err(ended))
    }

    /// What the peer's task says; `None` when it has just ended.
    pub(crate) async fn report(&self) -> Option<Report> {
        let (answer, answered) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        answered.await.ok()
    }
}

impl Neighbours {
    /// Somebody connected to us.
    pub(crate) async fn accepted(&self, stream: TcpStream, from: SocketAddr) {
        // The list outlives whoever asks it, but for the last moments of the process.
        let _ = self.0.send(Command::Accepted(stream, from)).await;
    }

    /// Has a path watched that is none to a peer.
    ///
    /// # Errors
    /// Its socket can't be had, or a peer's path is the same.
    pub(crate) async fn watch(&self, path: Path) -> Result<Watched, String> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Command::Watch(path, answer)).await;
        answered.await.unwrap_or_else(|_| Err("the speaker is stopping".to_owned()))
    }

    /// All peers, those of the file first, by name.
    pub(crate) async fn list(&self) -> Vec<Asked> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Command::List(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// Makes the running peers those of `wanted`; who is wanted as before is not touched. When nothing can fail any
    /// more, and before any peer changes, `first` is done; what it brings comes back with the effects.
    ///
    /// # Errors
    /// Names the socket that can't be had; nothing has changed then.
    pub(crate) async fn want<T: Send + 'static>(
        &self,
        wanted: Wanted,
        first: Box<dyn FnOnce() -> T + Send>,
    ) -> Result<(T, Vec<Effect>), String> {
        let stopping = "the speaker is stopping";
        let (brought, bring) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let first = Box::new(move || drop(brought.send(first())));
        let _ = self.0.send(Command::Want(Box::new(wanted), first, answer)).await;
        let mut effects = Vec::new();
        for change in answered.await.map_err(|_| stopping.to_owned())?? {
            effects.push(change.settled().await);
        }
        Ok((bring.await.map_err(|_| stopping.to_owned())?, effects))
    }
}
