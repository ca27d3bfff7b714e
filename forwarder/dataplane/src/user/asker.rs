//! What the kernel knows of ways and neighbours, asked by threads that may wait for the answer.
//!
//! They ask by a socket and a runtime of their own. On those of the rest of the process a flood of packets would stand before
//! every other question, and who waits there for a lock would keep the answer from whoever holds it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use forwarder_core::user::Way;
use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};

use crate::{DataplaneError, netlink};

/// How long an answer is used.
const LIFE: Duration = Duration::from_millis(10);

/// How many answers are kept.
const KEPT: usize = 8192;

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// Its link-layer address.
    Known([u8; 6]),
    /// As known, but nobody has asked for a while.
    Stale([u8; 6]),
    /// It is being asked.
    Asked,
    /// It did not answer.
    Silent,
    /// Nobody has asked.
    Unknown,
}

/// The kernel, for threads.
#[derive(Debug)]
pub(super) struct Asker {
    handle: Handle,
    /// Until the end.
    runtime: Option<Runtime>,
    hops: Answers<IpAddr, Option<(u32, IpAddr)>>,
    neighbours: Answers<(u32, IpAddr), [u8; 6]>,
}

/// Answers, each with the end of its life.
type Answers<K, V> = Mutex<BTreeMap<K, (Instant, V)>>;

impl Asker {
    /// One for this network namespace.
    pub(super) fn open() -> Result<Self, DataplaneError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("ways").enable_all().build()?;
        let handle = {
            let _within = runtime.enter();
            netlink::requests()?
        };
        Ok(Self { handle, runtime: Some(runtime), hops: Mutex::default(), neighbours: Mutex::default() })
    }

    /// Where `address` goes; without an answer, nowhere. Of the MTU no answer is kept: a packet that is larger by the time
    /// that it is sent would be lost without a word.
    pub(super) fn way(&self, address: IpAddr, is_port: impl Fn(u32) -> bool) -> Way {
        let hop = kept(&self.hops, address, || self.answer(netlink::next_hop(&self.handle, address)));
        match hop.flatten() {
            Some((index, neighbour)) if is_port(index) => {
                let mtu = self.answer(netlink::mtu(&self.handle, index)).flatten();
                mtu.map_or(Way::Nowhere, |mtu| Way::Out { index, neighbour, mtu })
            }
            Some(_) => Way::Elsewhere,
            None => Way::Nowhere,
        }
    }

    /// Waits for an answer; a kernel that gives none is logged.
    fn answer<T>(&self, asking: impl Future<Output = Result<T, DataplaneError>>) -> Option<T> {
        let answer = self.runtime.as_ref()?.block_on(asking);
        answer.inspect_err(|error| tracing::debug!(%error, "ways and neighbours")).ok()
    }

    /// The link-layer address of a neighbour, when it is known.
    pub(super) fn mac(&self, index: u32, address: IpAddr) -> Option<[u8; 6]> {
        kept(&self.neighbours, (index, address), || match self.neighbour(index, address) {
            Neighbour::Known(mac) => Some(mac),
            Neighbour::Stale(mac) => {
                self.ask(index, address);
                Some(mac)
            }
            Neighbour::Asked | Neighbour::Silent | Neighbour::Unknown => None,
        })
    }

    /// What the kernel knows of a neighbour now.
    pub(super) fn neighbour(&self, index: u32, address: IpAddr) -> Neighbour {
        self.answer(netlink::neighbour(&self.handle, index, address)).unwrap_or(Neighbour::Unknown)
    }

    /// Makes the kernel ask a neighbour.
    pub(super) fn ask(&self, index: u32, address: IpAddr) {
        let _ = self.answer(netlink::ask(&self.handle, index, address));
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // Whoever drops it may be where nothing may wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The answer that is kept, or a new one.
fn kept<K: Ord + Copy, V: Copy>(answers: &Answers<K, V>, key: K, ask: impl FnOnce() -> Option<V>) -> Option<V> {
    let now = Instant::now();
    let lock = || answers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((until, value)) = lock().get(&key)
        && *until > now
    {
        return Some(*value);
    }
    let value = ask()?;
    let mut answers = lock();
    if answers.len() >= KEPT {
        answers.clear();
    }
    answers.insert(key, (now + LIFE, value));
    Some(value)
}
