//! What is asked of nftables by netlink, because it is asked often: the generation of the ruleset, and counters. And what
//! it says of changes by itself.

use std::io;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use forwarder_core::netfilter::{Answer, Counting, Watch, generation, generation_request};
use forwarder_core::{meter, ruleset};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;

use crate::DataplaneError;
use crate::netlink::{ENOBUFS, roomy};
use crate::nft::{Counter, Counters};

/// The multicast group of nftables (`linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;

const PATIENCE: Duration = Duration::from_secs(2);

/// How often a list is asked for that changes while it is read.
const ATTEMPTS: usize = 10;

/// Between two tries to listen.
const PAUSE: Duration = Duration::from_millis(100);

/// The nftables of this network namespace.
#[derive(Debug)]
pub(crate) struct Nftables {
    asker: Mutex<Asker>,
    heard: Arc<Heard>,
    listener: AbortHandle,
}

/// The socket for questions; opened anew after anything went wrong with it.
#[derive(Default)]
struct Asker {
    socket: Option<TokioSocket>,
    sequence: u32,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Heard {
    watch: StdMutex<Watch>,
    touched: Notify,
}

impl Heard {
    fn watch<T>(&self, with: impl FnOnce(&mut Watch) -> T) -> T {
        with(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Nftables {
    /// Listens from now on.
    pub(crate) fn open() -> Result<Self, DataplaneError> {
        let watch = StdMutex::new(Watch::new(&[ruleset::TABLE, meter::ruleset::TABLE]));
        let heard = Arc::new(Heard { watch, touched: Notify::new() });
        let listener = tokio::spawn(listen(listening()?, heard.clone())).abort_handle();
        Ok(Self { asker: Mutex::default(), heard, listener })
    }

    /// Waits until guard or meter were changed by somebody, maybe by us, or may have been.
    pub(crate) async fn touched(&self) {
        self.heard.touched.notified().await;
    }

    /// Whether it is known that nobody changed guard or meter between two generations.
    pub(crate) fn is_untouched(&self, since: u32, now: u32) -> bool {
        since == now || self.heard.watch(|watch| watch.is_untouched(since, now))
    }

    /// The generation of the whole ruleset.
    pub(crate) async fn generation(&self) -> Result<u32, DataplaneError> {
        let what = "the generation of nftables";
        let request = |sequence| (sequence, generation_request(sequence));
        self.ask(what, request, |sequence, octets| generation(octets, *sequence)).await
    }

    /// The counters of a table; none when it is not there.
    pub(crate) async fn counters(&self, table: &str) -> Result<Counters, DataplaneError> {
        let what = "the counters of nftables";
        let counted = self.ask(what, |sequence| Counting::of(table, sequence), Counting::take).await?;
        let counter = |(name, (packets, bytes))| (name, Counter { packets, bytes });
        Ok(counted.into_iter().map(counter).collect())
    }

    async fn ask<S, T>(
        &self,
        what: &str,
        request: impl Fn(u32) -> (S, Vec<u8>),
        take: impl Fn(&mut S, &[u8]) -> Answer<T>,
    ) -> Result<T, DataplaneError> {
        let mut asker = self.asker.lock().await;
        let failed = |why: String| DataplaneError::Netlink { what: what.to_owned(), why };
        for _ in 0..ATTEMPTS {
            let sequence = asker.sequence.wrapping_add(1);
            asker.sequence = sequence;
            // Taken out: what is broken off is not used again.
            let socket = match asker.socket.take() {
                Some(socket) => socket,
                None => netfilter()?,
            };
            let (mut state, request) = request(sequence);
            let talk = async {
                socket.send_to(&request, &SocketAddr::new(0, 0)).await?;
                loop {
                    let (octets, _) = socket.recv_from_full().await?;
                    match take(&mut state, &octets) {
                        Answer::More => {}
                        answer => return Ok::<_, io::Error>(answer),
                    }
                }
            };
            match tokio::time::timeout(PATIENCE, talk).await {
                Ok(Ok(Answer::Whole(answer))) => {
                    asker.socket = Some(socket);
                    return Ok(answer);
                }
                Ok(Ok(Answer::Again | Answer::More)) => asker.socket = Some(socket),
                Ok(Ok(Answer::Refused(number))) => {
                    return Err(failed(io::Error::from_raw_os_error(number).to_string()));
                }
                // Something was lost: a new socket asks again.
                Ok(Err(error)) if error.raw_os_error() == Some(ENOBUFS) => {}
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) => return Err(failed(format!("no answer within {PATIENCE:?}"))),
            }
        }
        Err(failed(format!("it changed {ATTEMPTS} times while it was read")))
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn netfilter() -> Result<TokioSocket, DataplaneError> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    roomy(socket.socket_ref());
    Ok(socket)
}

fn listening() -> Result<TokioSocket, DataplaneError> {
    let mut socket = netfilter()?;
    socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
    Ok(socket)
}

/// Says when anything in our tables was changed. What was not heard, since there was too much of it, may have been ours.
async fn listen(mut socket: TokioSocket, heard: Arc<Heard>) {
    loop {
        match socket.recv_from_full().await {
            Ok((octets, _)) => {
                if heard.watch(|watch| watch.heard(&octets)) {
                    heard.touched.notify_one();
                }
                continue;
            }
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                tracing::debug!("some changes of nftables were not heard: reading it again");
            }
            Err(error) => {
                tracing::warn!(%error, "the guard is read whole until its changes are heard again");
                heard.watch(Watch::lost);
                loop {
                    tokio::time::sleep(PAUSE).await;
                    if let Ok(anew) = listening() {
                        socket = anew;
                        break;
                    }
                }
            }
        }
        heard.watch(Watch::lost);
        heard.touched.notify_one();
    }
}
