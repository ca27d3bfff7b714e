//! The forwarder's health stream without a forwarder: every prefix is well for as long as this value lives.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use forwarder_wire::{HEARTBEAT_INTERVAL, Message, encode};
use ipnet::IpNet;

/// A served health stream. Dropping it closes every connection, as a forwarder that was killed would.
#[derive(Debug)]
pub struct Health {
    path: PathBuf,
    ended: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Health {
    /// Serves `prefixes`, all healthy, at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(path: &Path, prefixes: Vec<IpNet>) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = ended.clone();
        let server = thread::spawn(move || run(&listener, &prefixes, &flag));
        Ok(Self { path: path.to_owned(), ended, server: Some(server) })
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn run(listener: &UnixListener, prefixes: &[IpNet], ended: &AtomicBool) {
    let mut readers: Vec<UnixStream> = Vec::new();
    let mut sequence = 0;
    while !ended.load(Ordering::Relaxed) {
        while let Ok((mut reader, _)) = listener.accept() {
            let words = prefixes.iter().map(|prefix| Message::Prefix {
                prefix: *prefix,
                healthy: true,
                reason: "served by the laboratory".to_owned(),
            });
            let text: String = words.map(|word| encode(&word)).collect();
            if reader.write_all(text.as_bytes()).is_ok() {
                readers.push(reader);
            }
        }
        sequence += 1;
        let beat = encode(&Message::Heartbeat { sequence });
        readers.retain_mut(|reader| reader.write_all(beat.as_bytes()).is_ok());
        thread::sleep(HEARTBEAT_INTERVAL / 5);
    }
}
