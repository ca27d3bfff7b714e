//! The table written down as MRT (TABLE_DUMP_V2, RFC 6396), by command and now and then.
//!
//! Every route that can be used is in it, as it was told, with the time when it came.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bgp_rib::{Match, PathView, PeerId, Standing};
use bgp_wire::{Context, Family, RouterId};
use cloakway_runtime::admin::Request;
use cloakway_runtime::{Stop, file};
use mrt_wire::PeerEntry;
use mrt_wire::writer::{self, RouteEntry};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::settings::DumpTo;
use super::{Table, seconds};

/// What the admin socket is asked by `dump`.
pub(crate) const DUMP: &str = "dump";
/// Prefixes that are looked at while the table is held.
const SLICE: u32 = 1024;
/// How long one question waits for the end of a dump.
const WAIT: Duration = Duration::from_secs(5);
/// The attribute that holds the next hop where NEXT_HOP can't.
const MP_REACH: [u8; 2] = [0x80, 14];

/// What a dump brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Written {
    prefixes: u64,
    routes: u64,
    peers: u64,
}

type Outcome = Option<Result<Written, String>>;

/// The dump that was asked for last.
#[derive(Debug)]
pub(super) struct Writer {
    router_id: RouterId,
    last: Mutex<Option<(u64, watch::Receiver<Outcome>)>>,
}

impl Writer {
    pub(super) fn new(router_id: RouterId) -> Self {
        Self { router_id, last: Mutex::default() }
    }
}

impl Table {
    /// Answers `{"topic":"dump"}`: with a `file` it begins one, with a `number` it says what became of it.
    pub(crate) async fn dump(self: &Arc<Self>, request: &Request) -> Result<Value, String> {
        if let Some(path) = request.argument("file") {
            return self.begin_dump(Path::new(path)).map(|number| json!({ "number": number }));
        }
        let number = request.argument("number").and_then(|text| text.parse::<u64>().ok()).ok_or("dump takes a file")?;
        let last = self.writer.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (_, mut outcome) = last.filter(|(last, _)| *last == number).ok_or("another dump has begun since")?;
        let ended = tokio::time::timeout(WAIT, outcome.wait_for(Option::is_some)).await;
        match ended {
            Err(_) => Ok(json!({ "number": number })),
            Ok(Err(_)) => Err("the dump was broken off".to_owned()),
            Ok(Ok(outcome)) => match &*outcome {
                Some(Ok(written)) => Ok(json!({ "number": number, "written": written })),
                Some(Err(reason)) => Err(reason.clone()),
                None => Ok(json!({ "number": number })),
            },
        }
    }

    fn begin_dump(self: &Arc<Self>, path: &Path) -> Result<u64, String> {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(format!("{}: give the whole path of a file", path.display()));
        }
        let mut last = self.writer.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(_, outcome)| outcome.borrow().is_none() && outcome.has_changed().is_ok()) {
            return Err("a dump is under way: wait for its end".to_owned());
        }
        let number = last.as_ref().map_or(1, |(number, _)| number + 1);
        let (ended, outcome) = watch::channel(None);
        *last = Some((number, outcome));
        let (table, path) = (self.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || {
            // Whoever asked may have gone away.
            let _ = ended.send(Some(table.dump_to(&path)));
        });
        Ok(number)
    }

    /// Writes the table to `path` now and every so often, until the stop.
    pub(crate) async fn keep_dumping(self: Arc<Self>, to: DumpTo, stop: Stop) {
        loop {
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(to.every) => {}
            }
            // An empty table in place of a full one would say that nobody is anybody's.
            if self.readiness().is_err() {
                tracing::info!("the table is not dumped: no peer has told all of its routes");
                continue;
            }
            let (table, path) = (self.clone(), to.file.clone());
            // What failed is told there.
            let _ = tokio::task::spawn_blocking(move || table.dump_to(&path)).await;
        }
    }

    fn dump_to(&self, path: &Path) -> Result<Written, String> {
        let written = file::replace(path, |out| self.write_table(out));
        match written {
            Ok(written) => {
                metrics::counter!("bgp_speaker_table_dumps_total").increment(1);
                tracing::info!(file = %path.display(), prefixes = written.prefixes, routes = written.routes, "table dumped");
                Ok(written)
            }
            Err(error) => {
                metrics::counter!("bgp_speaker_table_dump_errors_total").increment(1);
                tracing::error!(%error, "the table is not dumped");
                Err(error.to_string())
            }
        }
    }

    fn write_table(&self, out: &mut dyn Write) -> std::io::Result<Written> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let mut peers: BTreeMap<PeerId, u16> = BTreeMap::new();
        let mut index = Vec::new();
        for (id, peer, router_id) in self.lock().rib.peers() {
            let Ok(place) = u16::try_from(index.len()) else { break };
            index.push(PeerEntry { router_id, address: peer.address, asn: peer.asn });
            peers.insert(id, place);
        }
        out.write_all(&writer::peer_index(now, self.writer.router_id.octets().into(), "", &index))?;
        let mut written = Written { prefixes: 0, routes: 0, peers: index.len() as u64 };
        let mut sequence = 0_u32;
        for family in Family::ALL {
            let mut from = 0;
            loop {
                let mut records = Vec::new();
                let places = {
                    let inner = self.lock();
                    for found in inner.rib.list(family, from, SLICE) {
                        let entries = entries(&found, &peers, now);
                        if entries.is_empty() {
                            continue;
                        }
                        records.extend(writer::rib(now, sequence, found.prefix, &entries));
                        sequence = sequence.wrapping_add(1);
                        written.prefixes += 1;
                        written.routes += entries.len() as u64;
                    }
                    inner.rib.places(family)
                };
                out.write_all(&records)?;
                from = from.saturating_add(SLICE);
                if from >= places {
                    break;
                }
            }
        }
        Ok(written)
    }
}

/// The routes of a prefix, the best first. A peer that came while the dump was written is in none of its lists.
fn entries(found: &Match<'_>, peers: &BTreeMap<PeerId, u16>, now: u32) -> Vec<RouteEntry> {
    let mut usable: Vec<&PathView<'_>> =
        found.paths.iter().filter(|path| !matches!(path.standing, Standing::Rejected(_))).collect();
    usable.sort_by_key(|path| path.standing != Standing::Best);
    let entry = |path: &PathView<'_>| {
        let peer_index = *peers.get(&path.peer)?;
        let originated = now.saturating_sub(seconds().saturating_sub(path.since));
        Some(RouteEntry { peer_index, originated, path_id: path.path_id, attributes: attributes(path)? })
    };
    usable.into_iter().filter_map(entry).collect()
}

fn attributes(path: &PathView<'_>) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    match path.next_hop {
        IpAddr::V4(next_hop) => path.attributes.encode(Some(next_hop), Context::default(), &mut list).ok()?,
        IpAddr::V6(next_hop) => {
            // RFC 6396 §4.3.4: the next hop is all that is left of it.
            list.extend_from_slice(&MP_REACH);
            list.extend_from_slice(&[17, 16]);
            list.extend_from_slice(&next_hop.octets());
            path.attributes.encode(None, Context::default(), &mut list).ok()?;
        }
    }
    Some(list)
}
