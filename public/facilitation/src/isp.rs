//! Which member ISP is this client on? (A7)
//!
//! Configured prefixes first; then the longest prefix of the RIB, whose origin AS has to be a
//! member's. The longest prefix decides: a hole that another network announces is not the member's.
//! A prefix with several origins of different ISPs is nobody's: a wrong ISP is worse than none.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bgpkit_parser::{BgpElem, BgpkitParser};
use cloakway_runtime::Stop;
use cloakway_types::{IspId, PrefixMap};
use ipnet::IpNet;

use crate::config::{Config, Isp};

/// How often the dump's file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// From addresses to member ISPs.
#[derive(Debug)]
pub struct Directory {
    configured: PrefixMap<IspId>,
    by_asn: BTreeMap<u32, IspId>,
    rib: Rib,
}

/// Origin AS by prefix; `None` where origins differ.
pub type Rib = PrefixMap<Option<u32>>;

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

    /// The member ISP that `client` is on, if it is on one.
    #[must_use]
    pub fn find(&self, client: IpAddr) -> Option<&IspId> {
        if let Some((_, isp)) = self.configured.lookup(client) {
            return Some(isp);
        }
        let (_, origin) = self.rib.lookup(client)?;
        self.by_asn.get(origin.as_ref()?)
    }
}

/// Reads an MRT dump (RFC 6396, TABLE_DUMP_V2): every prefix with its origin AS.
///
/// # Errors
/// A text that says why nothing could be read.
pub fn read_rib(reader: impl Read + Send + 'static) -> Result<Rib, String> {
    let mut rib = Rib::default();
    for elem in BgpkitParser::from_reader(reader).into_elem_iter() {
        let Some((prefix, origin)) = origin_of(&elem) else { continue };
        match rib.get(prefix) {
            Some(known) if *known != Some(origin) => drop(rib.insert(prefix, None)),
            Some(_) => {}
            None => drop(rib.insert(prefix, Some(origin))),
        }
    }
    if rib.is_empty() { Err("no route in it: is it an MRT RIB dump?".to_owned()) } else { Ok(rib) }
}

fn origin_of(elem: &BgpElem) -> Option<(IpNet, u32)> {
    // The last AS of the path; a route without one is the dumping router's own.
    let origins = elem.origin_asns.as_deref()?;
    match origins {
        [origin] => Some((elem.prefix.prefix, origin.to_u32())),
        _ => None,
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
            let mut seen = watch.clone().look(&path, None, &directory).await;
            let inner = watch.clone();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.told() => return,
                        () = tokio::time::sleep(LOOK) => {}
                    }
                    seen = inner.clone().look(&path, seen, &directory).await;
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

    async fn look(
        self: Arc<Self>,
        path: &Path,
        seen: Option<SystemTime>,
        directory: &Arc<RwLock<Directory>>,
    ) -> Option<SystemTime> {
        let changed = std::fs::metadata(path).and_then(|meta| meta.modified());
        let problem = |reason: String| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.1.as_ref() != Some(&reason) {
                tracing::warn!(file = %path.display(), %reason, "RIB dump not read");
                state.1 = Some(reason);
            }
        };
        let changed = match changed {
            Ok(changed) if Some(changed) == seen => return seen,
            Ok(changed) => changed,
            Err(error) => {
                problem(error.to_string());
                return seen;
            }
        };
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(&file).map_err(|e| e.to_string())?;
            read_rib(std::io::BufReader::with_capacity(1 << 20, file))
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
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(rib: &[(&str, Option<u32>)]) -> Directory {
        let isp = |id: &str, asns: &[u32], prefixes: &[&str]| Isp {
            id: id.parse().unwrap(),
            asns: asns.to_vec(),
            prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        };
        let mut directory = Directory::new(vec![isp("a", &[64500], &["192.0.2.128/25"]), isp("b", &[64501], &[])]);
        directory.set_rib(rib.iter().map(|(prefix, origin)| (prefix.parse().unwrap(), *origin)).collect());
        directory
    }

    fn find(directory: &Directory, client: &str) -> Option<String> {
        directory.find(client.parse().unwrap()).map(ToString::to_string)
    }

    #[test]
    fn the_longest_prefix_decides_also_when_it_is_not_a_members() {
        let directory = directory(&[
            ("198.51.100.0/24", Some(64500)),
            ("198.51.100.128/25", Some(64999)),
            ("2001:db8::/32", Some(64501)),
        ]);
        assert_eq!(find(&directory, "198.51.100.1").as_deref(), Some("a"));
        assert_eq!(find(&directory, "::ffff:198.51.100.1").as_deref(), Some("a"));
        assert_eq!(find(&directory, "198.51.100.129"), None);
        assert_eq!(find(&directory, "2001:db8::9").as_deref(), Some("b"));
        assert_eq!(find(&directory, "203.0.113.1"), None);
    }

    #[test]
    fn configured_prefixes_come_first_and_disputed_origins_are_nobodys() {
        let directory = directory(&[("192.0.2.0/24", Some(64501)), ("198.51.100.0/24", None)]);
        assert_eq!(find(&directory, "192.0.2.1").as_deref(), Some("b"));
        assert_eq!(find(&directory, "192.0.2.200").as_deref(), Some("a"));
        assert_eq!(find(&directory, "198.51.100.1"), None);
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        assert!(read_rib(std::io::Cursor::new(b"not a dump".to_vec())).is_err());
        assert!(read_rib(std::io::empty()).is_err());
    }
}
