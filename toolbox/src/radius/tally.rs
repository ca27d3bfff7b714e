//! What was heard and what was dropped: for `show sources`, the metrics and the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloakway_runtime::clock;
use cloakway_types::Timestamp;
use metrics::{Counter, counter};
use serde::{Serialize, Serializer};
use toolbox_wire::accounting::RecordError;
use toolbox_wire::http::Source;
use toolbox_wire::radius::relay::RelayError;
use toolbox_wire::radius::{AuthenticityError, PacketError};

use crate::say::Sparingly;

/// What was heard from one client.
#[derive(Debug, Clone, Serialize)]
pub struct Heard {
    /// The kind of source.
    pub source: Source,
    /// The client's name.
    pub client: String,
    /// Where it sends from.
    pub prefix: String,
    /// Records that were made durable and acknowledged.
    pub acknowledged: u64,
    /// Copies of packets that were answered before.
    pub copies: u64,
    /// Status-Server packets that were answered.
    pub probes: u64,
    /// Access-Requests whose answer was passed back.
    pub relayed: u64,
    /// Packets that got no answer.
    pub dropped: u64,
    /// Arrival of the last genuine packet, RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub last: Option<Timestamp>,
}

fn as_text<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(to)
}

impl Heard {
    /// Nothing yet.
    #[must_use]
    pub fn new(source: Source, client: &str, prefix: String) -> Self {
        let client = client.to_owned();
        Self { source, client, prefix, acknowledged: 0, copies: 0, probes: 0, relayed: 0, dropped: 0, last: None }
    }
}

/// What is known of the sources, for `show sources`.
#[derive(Debug, Serialize)]
pub struct Sources {
    /// Each configured client.
    pub clients: Vec<Heard>,
    /// Packets without an answer, by reason, from anywhere.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Packets that the kernel dropped because we were too slow, by where they were to arrive.
    pub kernel_drops: BTreeMap<String, u64>,
    /// What was heard between others, by listener.
    pub taps: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

/// Why a packet gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Dropped {
    /// The address is nobody's.
    #[error("no client is configured for the address")]
    UnknownClient,
    /// It is no packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// It is not genuine.
    #[error(transparent)]
    Authenticity(#[from] AuthenticityError),
    /// Its record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It cannot be passed on.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The home servers do not answer.
    #[error("no home server answered")]
    NoHome,
    /// There is too much to do.
    #[error("more packets wait for the disk or a home server than are allowed")]
    Busy,
}

impl Dropped {
    const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown-client",
            Self::Packet(_) => "malformed",
            Self::Authenticity(AuthenticityError::Code(_)) => "other-code",
            Self::Authenticity(AuthenticityError::RequestAuthenticator | AuthenticityError::ResponseAuthenticator) => {
                "bad-authenticator"
            }
            Self::Authenticity(
                AuthenticityError::MessageAuthenticator | AuthenticityError::MessageAuthenticatorForm,
            ) => "bad-message-authenticator",
            Self::Authenticity(AuthenticityError::MessageAuthenticatorMissing) => "no-message-authenticator",
            Self::Record(_) => "unusable-record",
            Self::Relay(_) => "unusable-password",
            Self::NoHome => "no-home-server",
            Self::Busy => "busy",
        }
    }
}

/// The counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    say: Sparingly,
}

#[derive(Default)]
struct Counts {
    clients: BTreeMap<String, Heard>,
    /// For each client: to name it anew for every packet costs more than to count it.
    acknowledged: BTreeMap<String, Counter>,
    dropped: BTreeMap<&'static str, u64>,
    kernel_drops: BTreeMap<String, u64>,
    taps: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("clients", &self.clients).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl Tally {
    /// Counts for these clients.
    #[must_use]
    pub fn new(clients: impl IntoIterator<Item = Heard>) -> Self {
        let clients: BTreeMap<_, _> = clients.into_iter().map(|heard| (heard.client.clone(), heard)).collect();
        let counter = |name: &String| counter!("toolbox_radius_acknowledged_total", "client" => name.clone());
        let acknowledged = clients.keys().map(|name| (name.clone(), counter(name))).collect();
        let counts = Mutex::new(Counts { clients, acknowledged, ..Counts::default() });
        Self(Arc::new(Shared { counts, say: Sparingly::default() }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, client: &str, change: impl FnOnce(&mut Heard)) {
        if let Some(heard) = self.counts().clients.get_mut(client) {
            change(heard);
        }
    }

    pub(super) fn heard(&self, client: &str, arrival: Timestamp) {
        self.count(client, |heard| heard.last = Some(arrival));
    }

    pub(super) fn acknowledged(&self, client: &str, records: u64) {
        let mut counts = self.counts();
        if let Some(counter) = counts.acknowledged.get(client) {
            counter.increment(records);
        }
        if let Some(heard) = counts.clients.get_mut(client) {
            heard.acknowledged += records;
        }
    }

    pub(super) fn dropped(&self, client: Option<&str>, why: &Dropped) {
        let reason = why.reason();
        counter!("toolbox_radius_dropped_total", "reason" => reason).increment(1);
        *self.counts().dropped.entry(reason).or_default() += 1;
        if let Some(client) = client {
            self.count(client, |heard| heard.dropped += 1);
        }
        if let Some(held_back) = self.0.say.may(reason, clock::now()) {
            tracing::warn!(client, reason, error = %why, held_back, "RADIUS packet dropped");
        }
    }

    /// Something that was passed on cannot be learnt from.
    pub(super) fn unusable(&self, client: &str, why: &Dropped) {
        counter!("toolbox_radius_unusable_total", "client" => client.to_owned()).increment(1);
        if let Some(held_back) = self.0.say.may("unusable", clock::now()) {
            tracing::warn!(client, error = %why, held_back, "RADIUS packet passed on, and not understood");
        }
    }

    /// `more` packets for `place` were dropped by the kernel.
    pub(super) fn kernel_dropped(&self, place: &str, more: u64) {
        counter!("toolbox_radius_kernel_drops_total", "listen" => place.to_owned()).increment(more);
        *self.counts().kernel_drops.entry(place.to_owned()).or_default() += more;
        if more > 0
            && let Some(held_back) = self.0.say.may("kernel-drops", clock::now())
        {
            tracing::warn!(place, more, held_back, "the kernel dropped packets: more arrive than are taken");
        }
    }

    /// A listener saw something `more` times.
    pub(super) fn tapped(&self, tap: &str, what: &'static str, more: u64) {
        counter!("toolbox_radius_tap_total", "tap" => tap.to_owned(), "what" => what).increment(more);
        *self.counts().taps.entry(tap.to_owned()).or_default().entry(what).or_default() += more;
    }

    /// What was heard so far.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let counts = self.counts();
        Sources {
            clients: counts.clients.values().cloned().collect(),
            dropped: counts.dropped.clone(),
            kernel_drops: counts.kernel_drops.clone(),
            taps: counts.taps.clone(),
        }
    }
}
