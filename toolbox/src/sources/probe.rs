//! Asking now: is the host with this hardware address still at that address? (F2)
//!
//! The kernel asks, by ARP or Neighbour Solicitation to the hardware address itself: an entry of its neighbour table is
//! put into the state in which it has to be confirmed (RFC 4861 §7.3.2), and what becomes of it is the answer.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use cloakway_types::SubscriberId;
use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::Handle;
use toolbox_core::SessionKey;
use toolbox_leases::Identities;
use toolbox_wire::probe::Probed as Answer;

use super::settings::{Kind, Settings};

/// How often the kernel's entry is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What asking came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It answered.
    There,
    /// It did not answer any of the kernel's tries.
    Gone,
    /// The time was over before the kernel had tried often enough.
    Undecided,
}

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refuses.
    #[error("the neighbour table: {0}: that needs CAP_NET_ADMIN")]
    Kernel(#[from] rtnetlink::Error),
    /// No netlink socket.
    #[error("netlink: {0}")]
    Socket(#[from] std::io::Error),
    /// No interface of this name.
    #[error("no interface {0}")]
    Interface(String),
    /// An entry that was made by hand is not to be asked about.
    #[error("the entry of this address is permanent: nobody is asked")]
    Permanent,
}

/// Asks at `interface` whether `mac` is at `address`; takes `limit` at most.
///
/// # Errors
/// [`ProbeError`].
pub async fn neighbour(interface: &str, address: IpAddr, mac: [u8; 6], limit: Duration) -> Result<Probed, ProbeError> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(|_| ProbeError::Interface(interface.to_owned()))?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let asked = tokio::time::timeout(limit, ask(&handle, index, address, mac)).await;
    connection.abort();
    asked.unwrap_or(Ok(Probed::Undecided))
}

/// Which sources have neighbours that may be asked, by name.
#[derive(Debug, Clone, Default)]
pub struct Lans(BTreeMap<String, Lan>);

#[derive(Debug, Clone)]
struct Lan {
    interfaces: Vec<String>,
    subscribers: std::sync::Arc<Identities>,
    wait: Duration,
}

impl Lans {
    /// Those that `settings` allow it for.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let lan = |source: &super::settings::SourceSettings| match &source.kind {
            Kind::Neighbours(of) => of.probe_wait.map(|wait| {
                let lan = Lan { interfaces: of.interfaces.clone(), subscribers: of.subscribers.clone(), wait };
                (source.name.clone(), lan)
            }),
            _ => None,
        };
        Self(settings.sources.iter().filter_map(lan).collect())
    }

    /// Whether the session is that of a neighbour who may be asked.
    #[must_use]
    pub fn has(&self, session: &SessionKey) -> bool {
        self.0.contains_key(&session.client)
    }

    /// Asks whether the host of `user` is still where `session` says; takes no longer than was configured.
    pub async fn ask(&self, session: &SessionKey, user: &SubscriberId) -> Answer {
        let place = self.0.get(&session.client).zip(session.session.parse().ok());
        let Some((lan, address)) = place else { return Answer::NotOffered };
        match tokio::time::timeout(lan.wait, lan.ask(address, user)).await {
            Ok(Ok(Probed::There)) => Answer::There,
            Ok(Ok(Probed::Gone)) => Answer::Gone,
            Ok(Ok(Probed::Undecided)) | Err(_) => Answer::Silent,
            Ok(Err(ProbeError::Permanent)) => Answer::NotOffered,
            Ok(Err(error)) => {
                tracing::warn!(source = session.client, %error, "a neighbour cannot be asked");
                Answer::Refused
            }
        }
    }
}

impl Lan {
    /// Only a hardware address of the subscriber is asked, at the interface that it was heard at.
    async fn ask(&self, address: IpAddr, user: &SubscriberId) -> Result<Probed, ProbeError> {
        for interface in &self.interfaces {
            let Ok(index) = nix::net::if_::if_nametoindex(interface.as_str()) else { continue };
            let Some(mac) = heard(index, address).await? else { continue };
            let [a, b, c, d, e, f] = mac;
            let text = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            if self.subscribers.get(&text) != Some(user) {
                return Ok(Probed::Gone);
            }
            return neighbour(interface, address, mac, self.wait).await;
        }
        Ok(Probed::Undecided)
    }
}

/// The hardware address that the kernel has for an address.
async fn heard(index: u32, address: IpAddr) -> Result<Option<[u8; 6]>, ProbeError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let found = entry(&handle, index, address).await;
    connection.abort();
    Ok(found?.and_then(|(_, mac)| mac.try_into().ok()))
}

async fn ask(handle: &Handle, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<Probed, ProbeError> {
    match entry(handle, index, address).await? {
        Some((NeighbourState::Permanent | NeighbourState::Noarp, _)) => return Err(ProbeError::Permanent),
        // Somebody else answered last: the kernel sends there, and our question must not change that.
        Some((_, of)) if !of.is_empty() && of != mac => return Ok(Probed::Gone),
        _ => {}
    }
    let request = handle.neighbours().add(index, address);
    request.link_layer_address(&mac).state(NeighbourState::Probe).replace().execute().await?;
    loop {
        match entry(handle, index, address).await? {
            Some((NeighbourState::Reachable, of)) if of == mac => return Ok(Probed::There),
            // Somebody else answers for it.
            Some((NeighbourState::Reachable, _)) | None => return Ok(Probed::Gone),
            Some((NeighbourState::Failed | NeighbourState::Incomplete, _)) => return Ok(Probed::Gone),
            Some(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn entry(handle: &Handle, index: u32, address: IpAddr) -> Result<Option<(NeighbourState, Vec<u8>)>, ProbeError> {
    let wanted = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(message) = neighbours.try_next().await? {
        let here = message.header.ifindex == index && message.header.family == family;
        let is = |attribute: &NeighbourAttribute| *attribute == NeighbourAttribute::Destination(wanted.clone());
        if here && message.attributes.iter().any(is) {
            let mac = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => Some(octets.clone()),
                _ => None,
            });
            return Ok(Some((message.header.state, mac.unwrap_or_default())));
        }
    }
    Ok(None)
}

/// The subcommand `probe`.
#[must_use]
pub fn command() -> Command {
    let limit =
        Arg::new("limit-ms").long("limit-ms").value_name("MS").value_parser(value_parser!(u64).range(1..=60_000));
    Command::new("probe")
        .about("Ask by ARP or ND whether the host with this hardware address is still at this address")
        .arg(Arg::new("interface").value_name("INTERFACE").required(true).help("The interface that it is at"))
        .arg(Arg::new("address").value_name("ADDRESS").required(true).value_parser(value_parser!(IpAddr)).help("Where"))
        .arg(
            Arg::new("hardware").value_name("HARDWARE").required(true).value_parser(mac).help("Who: 02:00:00:00:00:01"),
        )
        .arg(limit.default_value("5000").help("How long it may take"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value"))
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    let mac = octets.and_then(|octets| octets.try_into().ok());
    mac.ok_or_else(|| format!("{text:?} is no hardware address: 02:00:00:00:00:01 would be one"))
}

/// Carries out `probe`: 0 when the host answered, 3 when it is gone, 1 when that cannot be told.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let words = (
        matches.get_one::<String>("interface"),
        matches.get_one::<IpAddr>("address"),
        matches.get_one::<[u8; 6]>("hardware"),
        matches.get_one::<u64>("limit-ms"),
    );
    let (Some(interface), Some(address), Some(mac), Some(limit)) = words else { return ExitCode::from(2) };
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProbeError::Socket);
    let asked =
        asked.and_then(|runtime| runtime.block_on(neighbour(interface, *address, *mac, Duration::from_millis(*limit))));
    let probed = match asked {
        Ok(probed) => probed,
        Err(error) => {
            eprintln!("toolbox: {error}");
            return ExitCode::from(1);
        }
    };
    let (word, code) = match probed {
        Probed::There => ("there", 0),
        Probed::Gone => ("gone", 3),
        Probed::Undecided => ("undecided", 1),
    };
    let line = if matches.get_flag("json") { format!("{{\"probe\":\"{word}\"}}") } else { word.to_owned() };
    // A reader that has gone away is no error.
    let _ = writeln!(std::io::stdout(), "{line}");
    ExitCode::from(code)
}
