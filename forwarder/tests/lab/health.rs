//! The health stream.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use forwarder_wire::Message;

use super::PATIENCE;

/// The health stream as a client reads it, each line with the time of its arrival.
pub(crate) struct Health {
    pub(super) lines: Receiver<(Instant, Message)>,
}

impl Health {
    pub(super) fn read(stream: UnixStream) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let message = forwarder_wire::decode(line).unwrap();
                if sender.send((Instant::now(), message)).is_err() {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// Waits for the word that `prefix` is healthy or not; gives when it came and its reason.
    pub(crate) fn wait(&self, prefix: &str, healthy: bool) -> (Instant, String) {
        self.wait_within(PATIENCE, prefix, healthy)
    }

    /// The same, where it may take longer.
    pub(crate) fn wait_within(&self, patience: Duration, prefix: &str, healthy: bool) -> (Instant, String) {
        let deadline = Instant::now() + patience;
        let mut last_words = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok((at, Message::Prefix { prefix: found, healthy: word, reason })) => {
                    if found.to_string().starts_with(prefix) && word == healthy {
                        return (at, reason);
                    }
                    last_words.push(format!("{found} {word} {reason}"));
                    last_words.drain(..last_words.len().saturating_sub(50));
                }
                Ok((_, Message::Heartbeat { .. })) => {}
                Err(_) => panic!("{prefix} never became healthy={healthy}; heard {last_words:#?}"),
            }
        }
    }

    /// The words that have come by now: prefix, healthy, reason.
    pub(crate) fn words(&self) -> Vec<(String, bool, String)> {
        let word = |(_, message)| match message {
            Message::Prefix { prefix, healthy, reason } => Some((prefix.to_string(), healthy, reason)),
            Message::Heartbeat { .. } => None,
        };
        self.lines.try_iter().filter_map(word).collect()
    }

    /// Waits for the word that any prefix is healthy or not; gives the prefix and the reason.
    pub(crate) fn wait_any(&self, healthy: bool) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((_, Message::Prefix { prefix, healthy: word, reason })) if word == healthy => {
                    return (prefix.to_string(), reason);
                }
                Ok(_) => {}
                Err(_) => panic!("no prefix became healthy={healthy}"),
            }
        }
    }

    /// The longest time between two lines until `count` heartbeats have come.
    pub(crate) fn longest_silence(&self, count: usize) -> Duration {
        let mut beats = 0;
        let mut before: Option<Instant> = None;
        let mut longest = Duration::ZERO;
        while beats < count {
            let (at, message) = self.lines.recv_timeout(PATIENCE).unwrap();
            longest = longest.max(before.map_or(Duration::ZERO, |before| at - before));
            before = Some(at);
            beats += usize::from(matches!(message, Message::Heartbeat { .. }));
        }
        longest
    }

    /// Waits for the end of the stream.
    pub(crate) fn wait_end(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the health stream does not end"),
            }
        }
    }
}
