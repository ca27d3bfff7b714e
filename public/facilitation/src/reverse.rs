//! Reverse DNS, where nothing else says whose an address is (A7).
//!
//! A name counts if it ends in what a member ISP has registered and if it leads back to the address: anybody can call an
//! address of his own by a name of somebody else, and nobody can make that name lead there. On any doubt the address is
//! nobody's: a wrong ISP is worse than none.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cloakway_types::IspId;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use metrics::counter;
use tokio::sync::Semaphore;

use crate::config::{Isp, ReverseConfig};

/// Names of one address that are looked at: an address with more is not looked at.
const NAMES: usize = 4;
/// Addresses that are asked for at a time.
const ASKED: usize = 64;
/// The longest time that an answer is kept, and the longest that there is none.
const KEPT: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));

/// What the names of an ISP's clients end in.
///
/// # Errors
/// Says what is wrong with it.
pub fn suffix(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text.trim_start_matches('.')).map_err(|error| format!("{text:?}: {error}"))?;
    name.set_fqdn(true);
    match name.num_labels() {
        0 | 1 => Err(format!("{text:?} is a whole top-level domain: give a name of the ISP's own")),
        _ => Ok(name.to_lowercase()),
    }
}

/// Whom to ask, and what the answers mean.
pub struct Reverse {
    /// In the operator's order.
    resolvers: Vec<TokioResolver>,
    /// How long each of them has.
    share: Duration,
    places: Semaphore,
    isps: Vec<(Name, IspId)>,
}

impl std::fmt::Debug for Reverse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reverse").field("share", &self.share).field("isps", &self.isps).finish_non_exhaustive()
    }
}

/// Why an address is nobody's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Unknown {
    #[error("it has no name")]
    NoName,
    #[error("it has too many names")]
    ManyNames,
    #[error("no name of it is a member's")]
    Stranger,
    #[error("its names are of several members")]
    Several,
    #[error("its name does not lead back to it")]
    Unconfirmed,
    #[error("too many addresses are asked for")]
    Busy,
    #[error("no answer in time")]
    Late,
    #[error("the resolver fails: {0}")]
    Failed(String),
}

impl Unknown {
    const fn label(&self) -> &'static str {
        match self {
            Self::NoName => "no-name",
            Self::ManyNames => "many-names",
            Self::Stranger => "stranger",
            Self::Several => "several",
            Self::Unconfirmed => "unconfirmed",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Failed(_) => "failed",
        }
    }
}

impl Reverse {
    /// Asks `config`'s resolvers for names that end in what `isps` have registered.
    ///
    /// # Errors
    /// Says what is wrong with the settings.
    pub fn new(config: &ReverseConfig, isps: &[Isp]) -> Result<Self, String> {
        let count = u32::try_from(config.resolvers.len()).unwrap_or(u32::MAX).max(1);
        let share = config.limit / count;
        let mut options = ResolverOpts::default();
        options.attempts = 1;
        options.timeout = share;
        options.use_hosts_file = ResolveHosts::Never;
        options.case_randomization = true;
        options.cache_size = u64::from((config.cache / count).max(1));
        options.positive_max_ttl = Some(KEPT.0);
        options.negative_max_ttl = Some(KEPT.1);
        let resolver = |address: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.into());
            let servers = ResolverConfig::from_name_servers(vec![server]);
            let builder = Resolver::builder_with_config(servers, TokioRuntimeProvider::default());
            builder.with_options(options.clone()).build().map_err(|error| error.to_string())
        };
        let resolvers = config.resolvers.iter().map(resolver).collect::<Result<Vec<_>, String>>()?;
        let mut known = Vec::new();
        for isp in isps {
            for text in &isp.host_suffixes {
                known.push((suffix(text)?, isp.id.clone()));
            }
        }
        Ok(Self { resolvers, share, places: Semaphore::new(ASKED), isps: known })
    }

    /// The member ISP whose name `client` has, if it is sure.
    pub async fn find(&self, client: IpAddr) -> Option<IspId> {
        let found = match self.places.try_acquire() {
            Err(_) => Err(Unknown::Busy),
            Ok(_place) => self.asked(client.to_canonical()).await,
        };
        let label = found.as_ref().map_or_else(Unknown::label, |_| "found");
        counter!("cloakway_reverse_look_ups_total", "outcome" => label).increment(1);
        match found {
            Ok(isp) => Some(isp),
            Err(reason) => {
                tracing::debug!(%reason, "reverse DNS does not say whose an address is");
                None
            }
        }
    }

    /// What the first resolver says that says anything.
    async fn asked(&self, client: IpAddr) -> Result<IspId, Unknown> {
        let mut found = Err(Unknown::Late);
        for resolver in &self.resolvers {
            let confirmed = tokio::time::timeout(self.share, self.confirmed(resolver, client)).await;
            found = confirmed.unwrap_or(Err(Unknown::Late));
            if !matches!(found, Err(Unknown::Late | Unknown::Failed(_))) {
                break;
            }
        }
        found
    }

    async fn confirmed(&self, resolver: &TokioResolver, client: IpAddr) -> Result<IspId, Unknown> {
        let names: BTreeSet<Name> = ask(resolver, Name::from(client), RecordType::PTR)
            .await?
            .into_iter()
            .filter_map(|data| match data {
                RData::PTR(name) => Some(name.0.to_lowercase()),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            return Err(Unknown::NoName);
        }
        if names.len() > NAMES {
            return Err(Unknown::ManyNames);
        }
        let mut members = names
            .iter()
            .filter_map(|name| self.isps.iter().find(|(suffix, _)| suffix.zone_of(name)).map(|(_, isp)| (name, isp)));
        let (name, isp) = members.next().ok_or(Unknown::Stranger)?;
        if members.any(|(_, other)| other != isp) {
            return Err(Unknown::Several);
        }
        // The first of an ISP's names decides: another may lead back and prove no more.
        let kind = if client.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let back = ask(resolver, name.clone(), kind).await?;
        let leads_back = back.into_iter().any(|data| match data {
            RData::A(address) => IpAddr::V4(address.0) == client,
            RData::AAAA(address) => IpAddr::V6(address.0) == client,
            _ => false,
        });
        if leads_back { Ok(isp.clone()) } else { Err(Unknown::Unconfirmed) }
    }
}

/// What there is; nothing, where the resolver says so.
async fn ask(resolver: &TokioResolver, mut name: Name, kind: RecordType) -> Result<Vec<RData>, Unknown> {
    name.set_fqdn(true);
    match resolver.lookup(name, kind).await {
        Ok(answer) => Ok(answer.answers().iter().map(|record| record.data.clone()).collect()),
        Err(error) if is_nothing(&error) => Ok(Vec::new()),
        Err(error) => Err(Unknown::Failed(error.to_string())),
    }
}

fn is_nothing(error: &NetError) -> bool {
    error.is_no_records_found() || error.is_nx_domain()
}
