//! The user data plane: [`forwarder_core::user`] on raw sockets. For labs, and the oracle of the other data planes.
//!
//! A raw socket gets a copy: the guard of this mode drops the kernel's own, or every packet would arrive twice. One thread
//! reads at each interface; ways and neighbours are the kernel's.

mod asker;
mod reader;
mod socket;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use forwarder_core::Policy;
use forwarder_core::meter::Use;
use forwarder_core::trace::{Dropped, Recent, Why};
use forwarder_core::user::{Host, Ration, User};

use asker::Asker;
pub(crate) use asker::Neighbour;
use reader::Reader;
use socket::Sender;

use crate::{Counter, Counters, DataplaneError};

/// The user data plane of this network namespace.
#[derive(Debug)]
pub struct UserPlane {
    shared: Arc<Shared>,
    readers: BTreeMap<u32, Running>,
}

/// A thread that reads at an interface.
#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What the threads share.
struct Shared {
    /// Another one for another policy or host; each step is by one of them.
    user: Mutex<Arc<User>>,
    asker: Asker,
    senders: Mutex<BTreeMap<u32, Arc<Mutex<Sender>>>>,
    counted: Mutex<Counters>,
    dropped: Mutex<Recent>,
    started: std::time::Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How often sources are told of errors, by IP version, as the kernel's settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rations(Duration, Duration);

impl Rations {
    /// Those of this network namespace; the kernel's own where they cannot be read.
    #[must_use]
    pub fn read() -> Self {
        let of = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap_or_default();
            Duration::from_millis(text.trim().parse().unwrap_or(1000))
        };
        Self(of("ipv4/icmp_ratelimit"), of("ipv6/icmp/ratelimit"))
    }
}

impl UserPlane {
    /// One for `policy` in this network namespace, that reads at no interface yet.
    ///
    /// # Errors
    /// When the kernel cannot be asked for ways and neighbours.
    pub fn new(policy: Arc<Policy>) -> Result<Self, DataplaneError> {
        let Rations(v4, v6) = Rations::read();
        let shared = Shared {
            user: Mutex::new(Arc::new(User::new(policy, Host::default(), Ration::new(v4, v6)))),
            asker: Asker::open()?,
            senders: Mutex::default(),
            counted: Mutex::default(),
            dropped: Mutex::default(),
            started: std::time::Instant::now(),
        };
        Ok(Self { shared: Arc::new(shared), readers: BTreeMap::new() })
    }

    /// Does what `policy` says from now on, and reads at the interfaces of `host`, and at no other.
    ///
    /// # Errors
    /// When there is no raw socket to be had; the others go on.
    pub fn apply(&mut self, policy: &Arc<Policy>, host: Host, rations: Rations) -> std::io::Result<()> {
        let gone: Vec<u32> = self.readers.keys().filter(|index| !host.ports.contains_key(index)).copied().collect();
        for index in gone {
            self.leave(index);
        }
        let indexes: Vec<u32> = host.ports.keys().copied().collect();
        let user = self.shared.user();
        user.ration(rations.0, rations.1);
        *lock(&self.shared.user) = Arc::new(user.follow(policy, host));
        for index in indexes {
            if !self.readers.contains_key(&index) {
                self.join(index)?;
            }
        }
        Ok(())
    }

    /// What was forwarded and dropped here, by counter.
    #[must_use]
    pub fn counters(&self) -> Counters {
        lock(&self.shared.counted).clone()
    }

    /// What each source and private prefix has used, and has left.
    #[must_use]
    pub fn uses(&self) -> Vec<Use> {
        self.shared.user().uses(self.shared.now())
    }

    /// What was dropped here since that number, of what was wanted, and the number to ask with next.
    #[must_use]
    pub fn dropped(&self, since: Option<u64>) -> (u64, Vec<Dropped>) {
        lock(&self.shared.dropped).since(since)
    }

    fn join(&mut self, index: u32) -> std::io::Result<()> {
        let (sender, receiver) = socket::open(index)?;
        lock(&self.shared.senders).insert(index, Arc::new(Mutex::new(sender)));
        let stop = Arc::<AtomicBool>::default();
        let reader = Reader::new(index, self.shared.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(format!("port-{index}")).spawn(move || reader.run(receiver))?;
        self.readers.insert(index, Running { stop, thread });
        Ok(())
    }

    fn leave(&mut self, index: u32) {
        lock(&self.shared.senders).remove(&index);
        if let Some(Running { stop, thread }) = self.readers.remove(&index) {
            stop.store(true, Ordering::Relaxed);
            let _ = thread.join();
        }
    }
}

impl Drop for UserPlane {
    fn drop(&mut self) {
        let all: Vec<u32> = self.readers.keys().copied().collect();
        all.into_iter().for_each(|index| self.leave(index));
    }
}

impl Shared {
    fn now(&self) -> cloakway_types::Instant {
        cloakway_types::Instant::after_origin(self.started.elapsed())
    }

    /// By what this moment's packet is decided.
    fn user(&self) -> Arc<User> {
        lock(&self.user).clone()
    }

    /// Keeps a dropped packet for whoever looks on.
    fn tell(&self, why: Why, port: u32, frame: &[u8]) {
        let mut dropped = lock(&self.dropped);
        if dropped.wants(why) {
            dropped.push(Dropped::new(why, port, frame.get(14..).unwrap_or_default()));
        }
    }

    fn count(&self, counter: &'static str, packets: u64, bytes: u64) {
        let mut counted = lock(&self.counted);
        if !counted.contains_key(counter) {
            counted.insert(counter.to_owned(), Counter::default());
        }
        if let Some(all) = counted.get_mut(counter) {
            all.packets += packets;
            all.bytes += bytes;
        }
    }
}

/// A poisoned lock still holds the state of the moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
