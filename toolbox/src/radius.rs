//! RADIUS: what NASes say becomes events, and is acknowledged once durable.
//!
//! Packets come by UDP ([`udp`]) or under TLS ([`radsec`]); [`service`] checks them, tells copies and has them
//! learnt; [`home`] passes them on to the ISP's own server, where there is one; [`tap`] listens beside it, and [`probe`] asks NASes
//! about sessions. A packet from a stranger, or with a wrong
//! authenticator, gets no answer. It is counted, and the log has a line about it now and then, without what it said.

pub mod annex;
mod copies;
pub mod home;
pub mod probe;
pub mod radsec;
pub mod service;
pub mod settings;
pub mod socket;
pub mod tally;
pub mod tap;
pub mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{Stop, tls};
use cloakway_store::StoreError;
use cloakway_types::PrefixMap;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use toolbox_wire::http::Source;

use crate::bindings::Bindings;
use crate::sources::probe::Lans;
use annex::Annex;
use home::Homes;
use probe::Prober;
use service::{Service, Takes};
use settings::Settings;
use tally::{Heard, Sources, Tally};

/// Why RADIUS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not ours.
    #[error("{listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing can be heard at an interface.
    #[error("{interface}: {source}")]
    Tap {
        /// The interface.
        interface: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// Everything that is heard by RADIUS. Clones share it.
#[derive(Debug, Clone)]
pub struct Radius {
    tally: Tally,
    homes: Option<Homes>,
}

impl Radius {
    /// Opens all sockets and serves them until the stop. An error of the disk is told to `failed`.
    ///
    /// # Errors
    /// An address that cannot be had, or a certificate that cannot be used.
    pub async fn start(
        settings: &Settings,
        (bindings, annex): (Bindings, Annex),
        max_age: Duration,
        failed: mpsc::Sender<StoreError>,
        stop: &Stop,
    ) -> Result<Self, StartError> {
        let by_udp = settings.clients.iter().map(|client| (client.name.as_str(), client.prefix.to_string()));
        let by_tls = settings.radsec.iter().flat_map(|radsec| &radsec.clients);
        let by_tls = by_tls.map(|client| (client.name.as_str(), "a certificate".to_owned()));
        let tally = Tally::new(by_udp.chain(by_tls).map(|(name, from)| Heard::new(Source::Radius, name, from)));
        let homes = settings.proxy.as_ref().map(|proxy| Homes::new(&proxy.homes, proxy.patience));
        let (purged, ended, told) = (annex.clone(), stop.clone(), failed.clone());
        tokio::spawn(async move {
            // By then the table has forgotten the sessions, too.
            if let Err(error) = purged.purge(max_age * 2, &ended).await {
                let _ = told.try_send(error);
            }
        });
        let service = Service::new(bindings, annex, homes.clone(), tally.clone(), failed);
        let clients = settings.clients.iter().map(|client| {
            let known = service::Client {
                name: client.name.clone(),
                secret: client.secret.clone(),
                require_message_authenticator: client.require_message_authenticator,
                naming: client.naming,
            };
            (client.prefix, Arc::new(known))
        });
        let clients: Arc<PrefixMap<Arc<service::Client>>> = Arc::new(clients.collect());
        for tap in &settings.taps {
            let listener = tap::Tap::new(tap.clone(), clients.clone(), service.clone());
            listener
                .start(stop.clone())
                .map_err(|source| StartError::Tap { interface: tap.interface.clone(), source })?;
        }
        let server = udp::Server::new(service.clone(), clients);
        let access = settings.proxy.iter().flat_map(|proxy| &proxy.listen_authentication);
        let ports = settings.listen.iter().map(|listen| (listen, Takes::Accounting));
        for (listen, takes) in ports.chain(access.map(|listen| (listen, Takes::Access))) {
            let sockets = socket::open(*listen, settings.workers, settings.buffer)
                .map_err(|source| StartError::Listen { listen: *listen, source })?;
            for socket in sockets {
                tokio::spawn(server.clone().serve(socket, takes, stop.clone()));
            }
        }
        if let Some(radsec) = &settings.radsec {
            let config = tls::radius_server(&radsec.identity, &radsec.client_ca, radsec.tls12)?;
            let server = radsec::Server::new(service, config, radsec.clients.clone(), radsec.limits);
            for listen in &radsec.listen {
                let listener =
                    TcpListener::bind(listen).await.map_err(|source| StartError::Listen { listen: *listen, source })?;
                tokio::spawn(server.clone().serve(listener, stop.clone()));
            }
        }
        Ok(Self { tally, homes })
    }

    /// What was heard so far.
    #[must_use]
    pub fn sources(&self) -> Sources {
        self.tally.sources()
    }

    /// Asks NASes, as `settings` allow it, and neighbours.
    #[must_use]
    pub fn prober(settings: &Settings, lans: Lans) -> Prober {
        Prober::new(settings.clients.iter().filter_map(|client| client.coa.clone()).collect(), lans)
    }

    /// The servers that are passed on to.
    #[must_use]
    pub fn homes(&self) -> Vec<home::Shown> {
        self.homes.as_ref().map(Homes::shown).unwrap_or_default()
    }
}
