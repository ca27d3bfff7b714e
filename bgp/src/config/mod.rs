//! The configuration file.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use bgp_core::{Export, Filter, PrivateRoute};
use bgp_wire::{AS_TRANS, Asn, LONGEST_COMMUNICATION, RouterId};
use cloakway_runtime::config::{self, Invalid};
use ipnet::IpNet;
use serde::Deserialize;

use crate::rib::{self, settings::RawRib};
use crate::{bmp, inject, kernel, mrt, rpki};

mod dynamic;
mod peer;
mod permit;
mod prefix_list;
mod route;

pub use dynamic::DynamicPeers;
use dynamic::RawDynamic;
pub use peer::{Bfd, Peer};
use peer::{Own, RawGroup, RawPeer};
use prefix_list::RawPrefixList;
use route::RawRoute;

/// A usable configuration.
#[derive(Debug)]
pub struct Config {
    /// Where `show` asks.
    pub admin_socket: PathBuf,
    /// Where Prometheus reads.
    pub metrics_listen: Option<SocketAddr>,
    /// Where peers may connect.
    pub listen: Vec<SocketAddr>,
    /// Who hears the routes.
    pub peers: Vec<Peer>,
    /// Who may come beside them.
    pub dynamic: Vec<DynamicPeers>,
    /// Groups that nobody is of.
    pub unused_groups: Vec<String>,
    /// What they hear.
    pub routes: Vec<PrivateRoute>,
    /// Some of them may go out without a guard, where they say so themselves.
    pub unguarded: bool,
    /// Where the forwarder's health is read; there is none without private routes.
    pub health_socket: Option<PathBuf>,
    /// Routes beside the private ones, by request.
    pub inject: Option<inject::Settings>,
    /// Where best routes of peers are installed.
    pub kernel: Option<kernel::Settings>,
    /// What routers tell of their tables, and the leak watch.
    pub bmp: Option<bmp::Settings>,
    /// What the origin of received routes is held against.
    pub rpki: Option<rpki::Settings>,
    /// What is kept of peers' routes.
    pub rib: rib::Settings,
    /// Where messages are written down.
    pub mrt: Option<mrt::Settings>,
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Raw {
    admin_socket: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    speaker: RawSpeaker,
    #[serde(default)]
    peers: Vec<RawPeer>,
    #[serde(default)]
    peer_groups: Vec<RawGroup>,
    #[serde(default)]
    dynamic_peers: Vec<RawDynamic>,
    #[serde(default)]
    prefix_lists: Vec<RawPrefixList>,
    #[serde(default)]
    private_routes: Vec<RawRoute>,
    health: Option<RawHealth>,
    inject: Option<inject::settings::RawInject>,
    kernel: Option<kernel::settings::RawKernel>,
    bmp: Option<bmp::settings::RawBmp>,
    rpki: Option<rpki::settings::RawRpki>,
    rib: Option<RawRib>,
    mrt: Option<mrt::RawMrt>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSpeaker {
    local_as: u32,
    router_id: Ipv4Addr,
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    shutdown_communication: String,
    #[serde(default)]
    allow_unguarded_private_routes: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHealth {
    socket: PathBuf,
}

impl config::Config for Config {
    type Raw = Raw;

    fn validate(raw: Raw) -> Result<Self, Invalid> {
        let local_as = asn(raw.speaker.local_as).map_err(|reason| Invalid::at("speaker.local-as", reason))?;
        let router_id =
            RouterId::new(raw.speaker.router_id).map_err(|error| Invalid::at("speaker.router-id", error))?;
        if raw.private_routes.is_empty() && raw.inject.is_none() && raw.rib.is_none() {
            let reason = "there is none: give at least one, or an [inject] or a [rib] table";
            return Err(Invalid::at("private-routes", reason));
        }
        let routes = route::routes(raw.private_routes, raw.speaker.allow_unguarded_private_routes)?;
        let private: BTreeSet<IpNet> = routes.iter().map(PrivateRoute::prefix).collect();
        let shutdown_communication = raw.speaker.shutdown_communication;
        if shutdown_communication.len() > LONGEST_COMMUNICATION {
            let reason = format!("longer than {LONGEST_COMMUNICATION} octets: RFC 9003 §2 takes no more");
            return Err(Invalid::at("speaker.shutdown-communication", reason));
        }
        let admin_socket = raw.admin_socket.unwrap_or_else(|| config::default_socket("bgp-speaker"));
        let health_socket = raw.health.map(|health| health.socket);
        if health_socket.is_none() && !routes.is_empty() {
            return Err(Invalid::at("health", "private routes follow the forwarder's health: give its socket"));
        }
        if health_socket.as_ref() == Some(&admin_socket) {
            let reason = "the same path as admin-socket: give the forwarder's health-socket";
            return Err(Invalid::at("health.socket", reason));
        }
        let taken = [Some(&admin_socket), health_socket.as_ref()];
        let own_prefixes = raw.inject.as_ref().map(|raw| raw.allow().to_vec()).unwrap_or_default();
        let inject = raw.inject.map(|raw| inject::settings::settings(raw, &routes, &taken)).transpose()?;
        let kept = inject.as_ref().map(|inject| inject.kept.clone()).unwrap_or_default();
        let lists = prefix_list::lists(raw.prefix_lists)?;
        let listens = !raw.speaker.listen.is_empty();
        let own = Own { local_as, router_id, private, listens, shutdown_communication, lists, kept };
        let groups = peer::groups(raw.peer_groups)?;
        if raw.peers.is_empty() && raw.dynamic_peers.is_empty() {
            return Err(Invalid::at("peers", "there is none: give at least the edge router"));
        }
        let peers = peer::peers(raw.peers, &groups, &own)?;
        let dynamic = dynamic::dynamic(raw.dynamic_peers, &groups, &peers, &own)?;
        let told = peers.iter().filter(|peer| matches!(peer.settings.export, Export::Private | Export::All));
        let told = told.map(|peer| peer.settings.remote_as).collect();
        let own = bmp::settings::Own { local_as, told, routes: &routes };
        let bmp = raw.bmp.map(|raw| bmp::settings::settings(raw, &own)).transpose()?;
        let rpki = raw.rpki.map(rpki::settings::settings).transpose()?;
        let mut raw_rib = raw.rib.unwrap_or_default();
        let api_socket = inject.as_ref().map(|inject| &inject.api_socket);
        let taken = [Some(&admin_socket), health_socket.as_ref(), api_socket];
        if raw_rib.look_up_socket.is_some() && taken.contains(&raw_rib.look_up_socket.as_ref()) {
            let reason = "the path of another socket: give it one of its own";
            return Err(Invalid::at("rib.look-up-socket", reason));
        }
        let ((mrt_file, dump), look_up_tcp) = (raw_rib.dumps()?, raw_rib.look_up_tcp()?);
        let rib = rib::Settings {
            local_as,
            router_id,
            private: routes.iter().map(PrivateRoute::prefix).collect(),
            own: own_prefixes,
            always_compare_med: raw_rib.always_compare_med,
            look_up_socket: raw_rib.look_up_socket,
            look_up_tcp,
            mrt: mrt_file,
            dump,
        };
        if rpki.is_none() && peers.iter().any(|peer| peer.exchange.reject_invalid) {
            let reason = "a peer has rpki = \"reject-invalid\", and there is no cache: give [[rpki.caches]]";
            return Err(Invalid::at("rpki", reason));
        }
        let mrt = raw.mrt.map(mrt::settings).transpose()?;
        let kernel = raw.kernel.as_ref().map(kernel::settings::settings).transpose()?;
        if kernel.is_some() && !peers.iter().any(|peer| peer.exchange.import != Filter::Nothing) && dynamic.is_empty() {
            let reason = "no peer's routes are imported: give import = \"all\" to a peer";
            return Err(Invalid::at("kernel.table", reason));
        }
        Ok(Self {
            admin_socket,
            metrics_listen: raw.metrics_listen,
            listen: raw.speaker.listen,
            unused_groups: groups.unused(&peers, &dynamic),
            peers,
            dynamic,
            routes,
            unguarded: raw.speaker.allow_unguarded_private_routes,
            health_socket,
            inject,
            kernel,
            bmp,
            rpki,
            rib,
            mrt,
        })
    }
}

fn asn(number: u32) -> Result<Asn, String> {
    if number == 0 || number == u32::from(AS_TRANS) || number == u32::from(u16::MAX) || number == u32::MAX {
        return Err(format!("AS {number} is reserved: give the AS number that the registry assigned"));
    }
    Ok(Asn(number))
}

#[cfg(test)]
mod tests;
