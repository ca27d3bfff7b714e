//! The private link as frames: a raw socket on an interface that has no kernel address.
//!
//! Whatever happens to the interface (down, gone, back with another index) is lived through: the
//! socket is opened again until the stop.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use cloakway_runtime::Stop;
use pnet::datalink::{self, Channel, NetworkInterface};
use tokio::sync::mpsc;

/// Frames on their way in; more are dropped and counted.
const QUEUE: usize = 1024;
/// A virtual link can carry segments that no network card has cut yet.
const LARGEST_FRAME: usize = 65_550;
const RETRY: Duration = Duration::from_millis(100);
const READ_PATIENCE: Duration = Duration::from_millis(200);

/// Why the link cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}: no such interface")]
    Missing(String),
    #[error("{0}: not an Ethernet interface")]
    NoHardwareAddress(String),
    #[error(
        "{interface}: the private link must have no address in the kernel, and it has {address}: remove it, and turn IPv6 off there"
    )]
    HasAddress { interface: String, address: String },
    #[error("{interface}: {source}")]
    Open { interface: String, source: std::io::Error },
}

/// An open private link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) hardware_address: [u8; 6],
    pub(crate) received: mpsc::Receiver<Vec<u8>>,
    send: SyncSender<Vec<u8>>,
}

fn find(name: &str) -> Result<NetworkInterface, LinkError> {
    datalink::interfaces()
        .into_iter()
        .find(|interface| interface.name == name)
        .ok_or_else(|| LinkError::Missing(name.to_owned()))
}

fn open(
    interface: &NetworkInterface,
) -> std::io::Result<(Box<dyn datalink::DataLinkSender>, Box<dyn datalink::DataLinkReceiver>)> {
    let config = datalink::Config {
        read_timeout: Some(READ_PATIENCE),
        read_buffer_size: LARGEST_FRAME,
        ..datalink::Config::default()
    };
    match datalink::channel(interface, config)? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => Err(std::io::Error::other("not an Ethernet interface")),
    }
}

impl Link {
    /// Opens the interface, which must have no address of its own (A4).
    pub(crate) fn open(name: &str, stop: &Stop) -> Result<Self, LinkError> {
        let interface = find(name)?;
        if let Some(address) = interface.ips.first() {
            return Err(LinkError::HasAddress { interface: name.to_owned(), address: address.to_string() });
        }
        let hardware_address =
            interface.mac.map(|mac| mac.octets()).ok_or_else(|| LinkError::NoHardwareAddress(name.to_owned()))?;
        let failed = |source| LinkError::Open { interface: name.to_owned(), source };
        let (sender, receiver) = open(&interface).map_err(failed)?;
        let (give, received) = mpsc::channel(QUEUE);
        let (send, take) = sync_channel(QUEUE);
        let (name, stop) = (name.to_owned(), stop.clone());
        std::thread::Builder::new()
            .name("link-out".to_owned())
            .spawn({
                let name = name.clone();
                move || send_all(&name, sender, &take)
            })
            .map_err(failed_named(&name))?;
        std::thread::Builder::new()
            .name("link-in".to_owned())
            .spawn({
                let name = name.clone();
                move || receive_all(&name, receiver, &give, &stop)
            })
            .map_err(failed_named(&name))?;
        Ok(Self { hardware_address, received, send })
    }

    /// Sends a frame; one that finds the queue full is lost, as on a wire.
    pub(crate) fn send(&self, frame: Vec<u8>) {
        if self.send.try_send(frame).is_err() {
            metrics::counter!("cloakway_link_frames_lost_total", "direction" => "out").increment(1);
        }
    }
}

fn failed_named(name: &str) -> impl Fn(std::io::Error) -> LinkError {
    let interface = name.to_owned();
    move |source| LinkError::Open { interface: interface.clone(), source }
}

fn receive_all(
    name: &str,
    mut receiver: Box<dyn datalink::DataLinkReceiver>,
    give: &mpsc::Sender<Vec<u8>>,
    stop: &Stop,
) {
    let mut was_up = true;
    while !stop.is_told() && !give.is_closed() {
        match receiver.next() {
            Ok(frame) => {
                was_up = true;
                if give.try_send(frame.to_vec()).is_err() {
                    metrics::counter!("cloakway_link_frames_lost_total", "direction" => "in").increment(1);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
            Err(error) => {
                if was_up {
                    tracing::warn!(%error, interface = name, "private link down");
                    was_up = false;
                }
                std::thread::sleep(RETRY);
                // The interface may be another one by now.
                if let Ok((_, again)) = find(name).map_err(std::io::Error::other).and_then(|interface| open(&interface))
                {
                    receiver = again;
                }
            }
        }
    }
}

fn send_all(name: &str, mut sender: Box<dyn datalink::DataLinkSender>, take: &Receiver<Vec<u8>>) {
    while let Ok(frame) = take.recv() {
        if matches!(sender.send_to(&frame, None), Some(Ok(()))) {
            continue;
        }
        metrics::counter!("cloakway_link_frames_lost_total", "direction" => "out").increment(1);
        if let Ok((again, _)) = find(name).map_err(std::io::Error::other).and_then(|interface| open(&interface)) {
            sender = again;
        }
    }
}
