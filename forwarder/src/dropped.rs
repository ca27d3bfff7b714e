//! What a data plane drops by itself, past the guard: told by the running process to `forwarder trace`.

use std::path::PathBuf;
use std::time::Duration;

use cloakway_crypto::encode;
use cloakway_runtime::admin::{self, Request};
use forwarder_core::meter::Metering;
use forwarder_core::trace::{Dropped, Sample, Why};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::Config;
use crate::show::Shared;

/// What the admin socket is asked for.
pub(crate) const TOPIC: &str = "dropped";

/// The argument: the number of the first that is wanted.
const SINCE: &str = "since";

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    next: u64,
    packets: Vec<Packet>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Packet {
    why: String,
    from: u32,
    /// In hexadecimal digits.
    beginning: String,
}

impl Packet {
    fn dropped(&self) -> Option<Dropped> {
        let Self { why, from, beginning } = self;
        Some(Dropped::new(Why::called(why)?, *from, &encode::unhex(beginning)?))
    }
}

impl From<&Dropped> for Packet {
    fn from(dropped: &Dropped) -> Self {
        let Dropped { why, from, beginning } = dropped;
        Self { why: why.name().to_owned(), from: *from, beginning: encode::hex(beginning) }
    }
}

/// Answers the question.
pub(crate) async fn answer(shared: &Shared, request: &Request) -> Result<Value, String> {
    let since = request.argument(SINCE).map(|text| text.parse().map_err(|_| format!("{SINCE}: a number is needed")));
    let (next, dropped) = shared.data_plane.dropped(since.transpose()?).await;
    let told = Told { next, packets: dropped.iter().map(Packet::from).collect() };
    serde_json::to_value(told).map_err(|error| error.to_string())
}

/// The same question, again and again.
#[derive(Debug)]
pub(crate) struct Following {
    socket: PathBuf,
    ticks: Interval,
    next: Option<u64>,
    is_silent: bool,
}

impl Following {
    /// From now on; `None` where the guard and what is behind it drop all that is dropped.
    pub(crate) async fn begin(config: &Config) -> Option<Self> {
        if !config.policy.is_in_user_space() && config.policy.metering() != Metering::Mark {
            return None;
        }
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let socket = config.fixed.admin_socket.clone();
        let mut following = Self { socket, ticks, next: None, is_silent: false };
        following.ask().await;
        Some(following)
    }

    /// The next ones.
    pub(crate) async fn next(&mut self) -> Vec<Sample> {
        loop {
            self.ticks.tick().await;
            let samples = self.ask().await;
            if !samples.is_empty() {
                return samples;
            }
        }
    }

    async fn ask(&mut self) -> Vec<Sample> {
        let arguments = self.next.map(|next| (SINCE.to_owned(), next.to_string())).into_iter().collect();
        let request = Request { topic: TOPIC.to_owned(), arguments };
        let told = admin::ask_for(&self.socket, &request).await;
        let told: Result<Told, String> =
            told.and_then(|told| serde_json::from_value(told).map_err(|error| error.to_string()));
        match told {
            Ok(Told { next, packets }) => {
                (self.next, self.is_silent) = (Some(next), false);
                packets.iter().filter_map(Packet::dropped).map(|dropped| dropped.sample()).collect()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_silent, true) {
                    eprintln!("forwarder: {error}: what is dropped by limits is not seen");
                }
                self.next = None;
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forwarder_core::meter::Over;

    #[test]
    fn what_is_told_is_read_again() {
        let dropped = Dropped::new(Why::Limit(Over::SourcesFull), 5, &[0x45, 0, 0xff]);
        let packet = Packet::from(&dropped);
        assert_eq!((packet.why.as_str(), packet.beginning.as_str()), ("sources-full", "4500ff"));
        assert_eq!(packet.dropped(), Some(dropped));
        assert_eq!(
            Packet { why: "x".into(), ..Packet { from: 0, beginning: String::new(), why: String::new() } }.dropped(),
            None
        );
    }
}
