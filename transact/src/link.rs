//! The private link as frames: a raw socket on an interface that has no kernel address.
//!
//! Whatever happens to the interface (down, gone, back with another index) is lived through: the socket is bound again
//! until the stop. It is the same socket for good, as it takes a privilege to make one.

use std::os::fd::IntoRawFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use cloakway_runtime::Stop;
use pnet::datalink::{self, Channel, DataLinkReceiver, DataLinkSender, NetworkInterface};
use socket2::{Domain, Socket, Type};
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

type Ends = (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>);

/// Binds `socket` to the interface; what is given closes no more than its own handle of it.
fn bind(socket: &Socket, interface: &NetworkInterface) -> std::io::Result<Ends> {
    let config = datalink::Config {
        read_timeout: Some(READ_PATIENCE),
        read_buffer_size: LARGEST_FRAME,
        socket_fd: Some(socket.try_clone()?.into_raw_fd()),
        ..datalink::Config::default()
    };
    match datalink::channel(interface, config)? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => Err(std::io::Error::other("not an Ethernet interface")),
    }
}

/// The private link's socket, open; nothing is moved yet.
pub(crate) struct Opened {
    name: String,
    hardware_address: [u8; 6],
    socket: Socket,
    ends: Ends,
}

impl Opened {
    /// Opens the interface, which must have no address of its own (A4).
    pub(crate) fn open(name: &str) -> Result<Self, LinkError> {
        let interface = find(name)?;
        if let Some(address) = interface.ips.first() {
            return Err(LinkError::HasAddress { interface: name.to_owned(), address: address.to_string() });
        }
        let hardware_address =
            interface.mac.map(|mac| mac.octets()).ok_or_else(|| LinkError::NoHardwareAddress(name.to_owned()))?;
        let failed = |source| LinkError::Open { interface: name.to_owned(), source };
        // Of no protocol until it is bound: nothing of other interfaces gets in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(failed)?;
        let ends = bind(&socket, &interface).map_err(failed)?;
        Ok(Self { name: name.to_owned(), hardware_address, socket, ends })
    }

    /// Moves frames until the stop.
    pub(crate) fn start(self, stop: &Stop) -> Result<Link, LinkError> {
        let Self { name, hardware_address, socket, ends: (sender, receiver) } = self;
        let (give, received) = mpsc::channel(QUEUE);
        let (send, take) = sync_channel(QUEUE);
        let (socket, stop) = (Arc::new(socket), stop.clone());
        std::thread::Builder::new()
            .name("link-out".to_owned())
            .spawn({
                let (name, socket) = (name.clone(), socket.clone());
                move || send_all(&name, &socket, sender, &take)
            })
            .map_err(failed_named(&name))?;
        std::thread::Builder::new()
            .name("link-in".to_owned())
            .spawn({
                let name = name.clone();
                move || receive_all(&name, &socket, receiver, &give, &stop)
            })
            .map_err(failed_named(&name))?;
        Ok(Link { hardware_address, received, send })
    }
}

impl Link {
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
    socket: &Socket,
    mut receiver: Box<dyn DataLinkReceiver>,
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
                if let Ok((_, again)) = bind_again(name, socket) {
                    receiver = again;
                }
            }
        }
    }
}

fn bind_again(name: &str, socket: &Socket) -> std::io::Result<Ends> {
    bind(socket, &find(name).map_err(std::io::Error::other)?)
}

fn send_all(name: &str, socket: &Socket, mut sender: Box<dyn DataLinkSender>, take: &Receiver<Vec<u8>>) {
    while let Ok(frame) = take.recv() {
        if matches!(sender.send_to(&frame, None), Some(Ok(()))) {
            continue;
        }
        metrics::counter!("cloakway_link_frames_lost_total", "direction" => "out").increment(1);
        if let Ok((again, _)) = bind_again(name, socket) {
            sender = again;
        }
    }
}
