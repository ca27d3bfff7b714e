//! Which member ISP is this client on? (A7)
//!
//! Configured prefixes first; then the longest prefix of the routes, whose origin AS has to be a
//! member's: the live ones of the BGP speaker, and where those say nothing, a dump's; where nothing knows the
//! address, its name, if that leads back to it. The longest prefix
//! decides: a hole that another network announces is not the member's. A prefix with several origins is
//! nobody's: a wrong ISP is worse than none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cloakway_runtime::Stop;
use cloakway_runtime::file::Watched;
use cloakway_types::{IspId, PrefixMap};
use look_up_wire::Verdict;
use metrics::counter;
use mrt_wire::Whose;

use crate::config::{Config, Isp};
pub use crate::dump::{Rib, read_rib};
use crate::live::Live;
use crate::reverse::Reverse;

/// How often the dump's file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// From addresses to member ISPs.
#[derive(Debug)]
pub struct Directory {
    configured: PrefixMap<IspId>,
    by_asn: BTreeMap<u32, IspId>,
    rib: Rib,
}

/// What a part of the directory says of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    /// It knows: the client is on this member ISP, or on none.
    Decided(Option<IspId>),
    /// It knows nothing of the address.
    Nothing,
}

impl Directory {
    /// Knows the configured prefixes and no RIB yet.
    #[must_use]
    pub fn new(isps: Vec<Isp>) -> Self {
        let mut configured = PrefixMap::default();
        let mut by_asn = BTreeMap::new();
        for isp in isps {
            for prefix in isp.prefixes {
                configured.insert(prefix, isp.id.clone());
            }
            by_asn.extend(isp.asns.into_iter().map(|asn| (asn, isp.id.clone())));
        }
        Self { configured, by_asn, rib: Rib::default() }
    }

    /// Replaces the RIB.
    pub fn set_rib(&mut self, rib: Rib) {
        self.rib = rib;
    }

    /// What the configured prefixes say.
    fn by_prefix(&self, client: IpAddr) -> Said {
        self.configured.lookup(client).map_or(Said::Nothing, |(_, isp)| Said::Decided(Some(isp.clone())))
    }

    /// What the origin of the longest prefix says, if it is known at all.
    fn by_origin(&self, origin: Option<u32>) -> Said {
        Said::Decided(origin.and_then(|asn| self.by_asn.get(&asn)).cloned())
    }

    /// What the speaker's word says.
    fn by_verdict(&self, verdict: Option<Verdict>) -> Said {
        match verdict {
            Some(Verdict::Origin { asn, .. }) => self.by_origin(Some(asn)),
            Some(Verdict::Disputed { .. }) => self.by_origin(None),
            Some(Verdict::NoRoute | Verdict::NotReady) | None => Said::Nothing,
        }
    }

    /// What the dump says.
    fn by_dump(&self, client: IpAddr) -> Said {
        match self.rib.find(client) {
            Some(Whose::Origin(asn)) => self.by_origin(Some(asn.0)),
            Some(Whose::Disputed) => self.by_origin(None),
            None => Said::Nothing,
        }
    }
}

/// The directory, with the speaker's routes if there is a speaker.
#[derive(Debug, Clone)]
pub struct Finder {
    /// What is known here.
    pub directory: Arc<RwLock<Directory>>,
    /// Who knows routes as they are now.
    pub live: Option<Arc<Live>>,
    /// Who is asked for names, where nothing else knows.
    pub reverse: Option<Arc<Reverse>>,
}

impl Finder {
    /// The member ISP that `client` is on, if it is on one.
    pub async fn find(&self, client: IpAddr) -> Option<IspId> {
        let ask =
            |say: &dyn Fn(&Directory) -> Said| say(&self.directory.read().unwrap_or_else(PoisonError::into_inner));
        let mut source = "prefixes";
        let mut said = ask(&|directory| directory.by_prefix(client));
        if said == Said::Nothing
            && let Some(live) = &self.live
        {
            source = "live";
            let verdict = live.ask(client).await;
            said = ask(&|directory| directory.by_verdict(verdict));
        }
        if said == Said::Nothing {
            source = "dump";
            said = ask(&|directory| directory.by_dump(client));
        }
        if said == Said::Nothing
            && let Some(reverse) = &self.reverse
            && let Some(isp) = reverse.find(client).await
        {
            source = "reverse-dns";
            said = Said::Decided(Some(isp));
        }
        let Said::Decided(isp) = said else {
            counter!("cloakway_isp_look_ups_total", "source" => "none").increment(1);
            return None;
        };
        counter!("cloakway_isp_look_ups_total", "source" => source).increment(1);
        isp
    }
}

/// Keeps the directory's RIB as the dump's file has it.
#[derive(Debug, Default)]
pub struct RibWatch {
    state: Mutex<(usize, Option<String>)>,
}

impl RibWatch {
    /// Reads the dump that the configuration names, now and whenever its file changes. A dump that
    /// cannot be read leaves the one before in use.
    pub async fn start(config: &Config, directory: Arc<RwLock<Directory>>, stop: Stop) -> Arc<Self> {
        let watch = Arc::new(Self::default());
        if let Some(path) = config.rib.clone() {
            let mut file = Watched::new(&path);
            watch.look(&mut file, &directory).await;
            let inner = watch.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.told() => return,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                    inner.look(&mut file, &directory).await;
                }
            });
        }
        watch
    }

    /// Prefixes in use.
    #[must_use]
    pub fn prefixes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Why the newest dump is not in use.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    async fn look(&self, file: &mut Watched, directory: &Arc<RwLock<Directory>>) {
        let changed = file.has_changed();
        let problem = |reason: String| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.1.as_ref() != Some(&reason) {
                tracing::warn!(file = %file.path().display(), %reason, "RIB dump not read");
                state.1 = Some(reason);
            }
        };
        match changed {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return problem(error.to_string()),
        }
        let path = file.path().to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
            read_rib(file)
        });
        match read.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(rib) => {
                let prefixes = rib.len();
                directory.write().unwrap_or_else(PoisonError::into_inner).set_rib(rib);
                *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (prefixes, None);
                tracing::info!(prefixes, "RIB dump read");
            }
            Err(reason) => problem(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_types::AddressMapBuilder;
    use mrt_wire::Asn;

    fn finder(rib: &[(&str, Option<u32>)]) -> Finder {
        let isp = |id: &str, asns: &[u32], prefixes: &[&str]| Isp {
            id: id.parse().unwrap(),
            host_suffixes: Vec::new(),
            asns: asns.to_vec(),
            prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        };
        let mut directory = Directory::new(vec![isp("a", &[64500], &["192.0.2.128/25"]), isp("b", &[64501], &[])]);
        let mut builder = AddressMapBuilder::default();
        for (prefix, origin) in rib {
            let whose = origin.map_or(Whose::Disputed, |asn| Whose::Origin(Asn(asn)));
            builder.push(prefix.parse().unwrap(), whose);
        }
        directory.set_rib(builder.build(|_, _| Whose::Disputed));
        Finder { directory: Arc::new(RwLock::new(directory)), live: None, reverse: None }
    }

    async fn find(finder: &Finder, client: &str) -> Option<String> {
        finder.find(client.parse().unwrap()).await.map(|isp| isp.to_string())
    }

    #[tokio::test]
    async fn the_longest_prefix_decides_also_when_it_is_not_a_members() {
        let finder = finder(&[
            ("198.51.100.0/24", Some(64500)),
            ("198.51.100.128/25", Some(64999)),
            ("2001:db8::/32", Some(64501)),
        ]);
        assert_eq!(find(&finder, "198.51.100.1").await.as_deref(), Some("a"));
        assert_eq!(find(&finder, "::ffff:198.51.100.1").await.as_deref(), Some("a"));
        assert_eq!(find(&finder, "198.51.100.129").await, None);
        assert_eq!(find(&finder, "2001:db8::9").await.as_deref(), Some("b"));
        assert_eq!(find(&finder, "203.0.113.1").await, None);
    }

    #[tokio::test]
    async fn configured_prefixes_come_first_and_disputed_origins_are_nobodys() {
        let finder = finder(&[("192.0.2.0/24", Some(64501)), ("198.51.100.0/24", None)]);
        assert_eq!(find(&finder, "192.0.2.1").await.as_deref(), Some("b"));
        assert_eq!(find(&finder, "192.0.2.200").await.as_deref(), Some("a"));
        assert_eq!(find(&finder, "198.51.100.1").await, None);
    }

    #[test]
    fn live_routes_decide_where_they_know_the_address_and_leave_it_to_the_dump_where_they_do_not() {
        let finder = finder(&[]);
        let directory = finder.directory.read().unwrap();
        let prefix = "198.51.100.0/24".parse().unwrap();
        let isp = |id: &str| Said::Decided(Some(id.parse().unwrap()));
        assert_eq!(directory.by_verdict(Some(Verdict::Origin { prefix, asn: 64501 })), isp("b"));
        assert_eq!(directory.by_verdict(Some(Verdict::Origin { prefix, asn: 64999 })), Said::Decided(None));
        assert_eq!(directory.by_verdict(Some(Verdict::Disputed { prefix })), Said::Decided(None));
        for verdict in [Some(Verdict::NoRoute), Some(Verdict::NotReady), None] {
            assert_eq!(directory.by_verdict(verdict), Said::Nothing);
        }
    }
}
