//! A live sample of what the guard drops ([`forwarder_core::trace`]): the copy of its table in the kernel, and the log it writes to.
//!
//! The copy belongs to a process of `nft` that waits for more: it goes with that process, and that one with this, however it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use forwarder_core::Policy;
use forwarder_core::meter::{Metering, ruleset};
use forwarder_core::ruleset::FAMILY;
use forwarder_core::trace::{self, LIMITS_GROUP, Limits, Sample};
use rtnetlink::Handle;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use tokio::process::{Child, ChildStdin};

use crate::{DataplaneError, netlink, nft};

const PATIENCE: Duration = Duration::from_secs(5);

const ENOBUFS: i32 = 105;

/// What came of the log.
#[derive(Debug)]
pub enum Traced {
    /// Dropped packets.
    Samples(Vec<Sample>),
    /// There were more than could be read.
    Lost,
}

/// A trace that runs until it is dropped.
pub struct Trace {
    socket: TokioSocket,
    /// What the kernel says of packets on their way through the meter, where it has one.
    meter: Option<(TokioSocket, Limits)>,
    handle: Handle,
    names: BTreeMap<u32, String>,
    /// The owner of the copy, which ends when its input does.
    _owner: (Child, ChildStdin),
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Trace {
    /// Begins to trace what the guard of `policy` drops from now on.
    ///
    /// # Errors
    /// When the kernel has no log for netfilter (`CONFIG_NETFILTER_NETLINK_LOG`), or refuses the copy.
    pub async fn begin(policy: &Policy) -> Result<Self, DataplaneError> {
        // One for each trace that runs at the same time.
        let number = u16::try_from(std::process::id() % 0x7fff).unwrap_or_default() + 1;
        let socket = listen(number).await?;
        let handle = netlink::requests()?;
        let name = format!("cloakway_trace_{number}");
        let meter = match policy.metering() {
            Metering::Kernel => Some((follow()?, limits().await?)),
            Metering::None | Metering::Mark | Metering::User => None,
        };
        let owner = nft::own(&name, &trace::command(policy, &name, number)).await?;
        Ok(Self { socket, meter, handle, names: BTreeMap::new(), _owner: owner })
    }

    /// What was dropped next.
    ///
    /// # Errors
    /// When the log ends.
    pub async fn next(&mut self) -> Result<Traced, DataplaneError> {
        let Self { socket, meter, .. } = self;
        let of_meter = async {
            match meter {
                Some((socket, limits)) => (socket.recv_from_full().await, limits),
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = socket.recv_from_full() => read.map(|(octets, _)| trace::samples(&octets)),
            (read, limits) = of_meter => match read {
                Ok((octets, _)) => {
                    let samples = limits.samples(&octets);
                    if limits.is_outdated() {
                        *limits = self::limits().await?;
                    }
                    Ok(samples)
                }
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(samples) => Ok(Traced::Samples(samples)),
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(Traced::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// The name of the interface with this index.
    pub async fn name(&mut self, index: u32) -> String {
        if let Some(name) = self.names.get(&index) {
            return name.clone();
        }
        for link in netlink::links(&self.handle).await.unwrap_or_default() {
            if let Some(name) = netlink::link_name(&link) {
                self.names.insert(link.header.index, name.to_owned());
            }
        }
        self.names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
    }
}

/// A socket that hears which rules marked packets meet.
fn follow() -> Result<TokioSocket, DataplaneError> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_mut().add_membership(LIMITS_GROUP)?;
    Ok(socket)
}

/// The meter's rules by the numbers that the kernel gave them.
async fn limits() -> Result<Limits, DataplaneError> {
    let listing = nft::list_with(&["-a", "-t", "list", "table", FAMILY, ruleset::TABLE]).await?;
    Ok(Limits::new(&listing.map(|listing| listing.text).unwrap_or_default()))
}

/// A socket that hears what is logged to `group`.
async fn listen(group: u16) -> Result<TokioSocket, DataplaneError> {
    let refused = |why: String| {
        let what = "the log of netfilter (CONFIG_NETFILTER_NETLINK_LOG, module nfnetlink_log)".to_owned();
        DataplaneError::Netlink { what, why }
    };
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    for request in trace::requests(group) {
        socket.send_to(&request, &SocketAddr::new(0, 0)).await?;
        let answer = tokio::time::timeout(PATIENCE, socket.recv_from_full()).await;
        let (answer, _) = answer.map_err(|_| refused("it does not answer".into()))??;
        match trace::acknowledged(&answer) {
            Some(0) => {}
            Some(number) => return Err(refused(std::io::Error::from_raw_os_error(number).to_string())),
            None => return Err(refused("it answers something else".into())),
        }
    }
    Ok(socket)
}
