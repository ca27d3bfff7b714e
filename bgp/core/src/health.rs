//! Which private prefixes the forwarder vouches for right now.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cloakway_types::Instant;
use ipnet::IpNet;

/// Silence after which nothing said before counts any more.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// What the shell hears from the forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthInput<'a> {
    /// The stream is open; nothing was said on it yet.
    Connected,
    /// The stream ended or was broken off, for the reason given.
    Disconnected(&'a str),
    /// A word on one prefix.
    Word {
        /// Which prefix.
        prefix: IpNet,
        /// Whether its packets arrive.
        healthy: bool,
        /// Why, for people.
        reason: &'a str,
    },
    /// The forwarder lives. Counts up within a connection.
    Heartbeat {
        /// The count.
        sequence: u64,
    },
    /// Time has passed.
    Tick,
}

/// The health of one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Said to be good, on a live stream.
    Healthy(String),
    /// Said to be bad.
    Unhealthy(String),
    /// No word on it in this connection.
    Unsaid,
    /// No heartbeat for too long, or none yet.
    Silent,
    /// No stream, for the reason given.
    Disconnected(String),
}

impl Health {
    /// Whether a route may be announced on it.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy(_))
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy(reason) | Self::Unhealthy(reason) => f.write_str(reason),
            Self::Unsaid => f.write_str("the forwarder has not spoken of this prefix"),
            Self::Silent => write!(f, "no heartbeat from the forwarder for {} s", SILENCE.as_secs()),
            Self::Disconnected(reason) => write!(f, "no connection to the forwarder: {reason}"),
        }
    }
}

/// The forwarder's words and how fresh they are.
#[derive(Debug, Clone)]
pub struct HealthTable {
    stream: Result<Stream, String>,
}

#[derive(Debug, Clone, Default)]
struct Stream {
    heartbeat: Option<(u64, Instant)>,
    words: BTreeMap<IpNet, (bool, String)>,
}

impl Default for HealthTable {
    fn default() -> Self {
        Self { stream: Err("not tried yet".to_owned()) }
    }
}

impl HealthTable {
    /// Takes note of `input`; words on prefixes that are not among `known` are left out.
    pub fn handle(&mut self, input: &HealthInput<'_>, known: impl Fn(&IpNet) -> bool, now: Instant) {
        match (input, &mut self.stream) {
            (HealthInput::Connected, stream) => *stream = Ok(Stream::default()),
            (HealthInput::Disconnected(reason), stream) => *stream = Err((*reason).to_owned()),
            (HealthInput::Word { prefix, healthy, reason }, Ok(stream)) if known(prefix) => {
                stream.words.insert(*prefix, (*healthy, (*reason).to_owned()));
            }
            // A count that stands still is a replay, not a sign of life.
            (HealthInput::Heartbeat { sequence }, Ok(stream))
                if stream.heartbeat.is_none_or(|(last, _)| *sequence > last) =>
            {
                stream.heartbeat = Some((*sequence, now));
            }
            (HealthInput::Word { .. } | HealthInput::Heartbeat { .. } | HealthInput::Tick, _) => {}
        }
    }

    /// The health of `prefix` now.
    #[must_use]
    pub fn of(&self, prefix: &IpNet, now: Instant) -> Health {
        let stream = match &self.stream {
            Ok(stream) => stream,
            Err(reason) => return Health::Disconnected(reason.clone()),
        };
        if stream.heartbeat.is_none_or(|(_, at)| now.since(at) >= SILENCE) {
            return Health::Silent;
        }
        match stream.words.get(prefix) {
            None => Health::Unsaid,
            Some((true, reason)) => Health::Healthy(reason.clone()),
            Some((false, reason)) => Health::Unhealthy(reason.clone()),
        }
    }

    /// How many prefixes the stream has spoken of.
    #[must_use]
    pub fn said(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.words.len())
    }

    /// Whether the stream is open.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.stream.is_ok()
    }

    /// The age of the last heartbeat.
    #[must_use]
    pub fn heartbeat_age(&self, now: Instant) -> Option<Duration> {
        let (_, at) = self.stream.as_ref().ok()?.heartbeat?;
        Some(now.since(at))
    }

    /// When silence will have lasted too long, unless a heartbeat comes.
    pub(crate) fn silence_at(&self) -> Option<Instant> {
        let (_, at) = self.stream.as_ref().ok()?.heartbeat?;
        Some(at + SILENCE)
    }
}
