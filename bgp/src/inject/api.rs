//! The API: JSON lines on a Unix socket, as many requests one after the other as a client likes.
//!
//! ```text
//! {"id":"r1","put":{"set":"customers","routes":[{"next-hop":"192.0.2.1","prefixes":["10.0.0.0/24"]}]}}
//! {"id":"r2","stream":{"set":"customers","replace":true}}
//! {"next-hop":"192.0.2.1","communities":["64500:1"]}
//! 10.0.0.0/32
//! .
//! {"wait":{"request":"r2"}}
//! ```
//! Each is answered by a line, `{"ok":…}` or `{"error":"…"}`; before the answer to `get` come lines of routes.

use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Checked, Others, Outcome, SetChange, Walk};
use cloakway_runtime::{Stop, admin};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::lines::Lines;
use super::request::{RawGroup, Request, Wait};
use super::{Engine, lock, process};
use crate::neighbours::Neighbours;

/// Clients at a time.
const CLIENTS: usize = 64;
/// The longest line: a bulk that needs more is streamed.
const LINE: usize = 16 << 20;
/// What one read takes at most: the lines in it are looked at in one go, and everybody else waits so long.
const READ: usize = 64 * 1024;
/// Routes in one line of a listing: made in one go, too.
const LISTING: u32 = 1024;
/// How long a client that does not read its answer is borne with.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves clients until the stop.
///
/// # Errors
/// When the socket can't be opened.
pub(crate) fn serve(engine: Arc<Engine>, neighbours: Neighbours, stop: Stop) -> std::io::Result<()> {
    let listener = admin::bind(&engine.settings.api_socket)?;
    let places = Arc::new(tokio::sync::Semaphore::new(CLIENTS));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let Ok(place) = places.clone().try_acquire_owned() else {
                let busy = json!({ "error": format!("{CLIENTS} clients are connected: come again when one has left") });
                // What does not fit an empty socket is not told.
                let _ = stream.try_write(format!("{busy}\n").as_bytes());
                continue;
            };
            let (engine, neighbours, stop) = (engine.clone(), neighbours.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.told() => {}
                    _ = Client::new(stream, engine, neighbours).run() => {}
                }
                drop(place);
            });
        }
    });
    Ok(())
}

/// A line of a listing.
#[derive(Serialize)]
struct Listed<'a> {
    routes: &'a [RawGroup],
}

struct Client {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    engine: Arc<Engine>,
    neighbours: Neighbours,
    buffer: Vec<u8>,
    /// Octets of the buffer that were looked at.
    taken: usize,
}

impl Client {
    fn new(stream: UnixStream, engine: Arc<Engine>, neighbours: Neighbours) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write, engine, neighbours, buffer: Vec::new(), taken: 0 }
    }

    async fn run(mut self) -> Result<(), String> {
        while let Some(line) = self.line().await? {
            let line = self.buffer.get(line).unwrap_or_default();
            let request =
                serde_json::from_slice(line).map_err(|error| format!("the request is not understood: {error}"));
            let answer = match request {
                Ok(request) => self.answer(request).await,
                Err(error) => Err(error),
            };
            let answer = match answer {
                Ok(value) => json!({ "ok": value }),
                Err(error) => json!({ "error": error }),
            };
            self.say(&answer).await?;
        }
        Ok(())
    }

    /// The place of the next line in the buffer, without its end; `None` when the client is done.
    async fn line(&mut self) -> Result<Option<std::ops::Range<usize>>, String> {
        let mut looked = self.taken;
        loop {
            let fresh = self.buffer.get(looked..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.taken..looked + end;
                self.taken = looked + end + 1;
                return Ok(Some(line));
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            looked = self.buffer.len();
            if looked > LINE {
                return Err(self.too_long().await);
            }
            if !self.more().await {
                return Ok(None);
            }
        }
    }

    /// Reads on; says whether anything came.
    async fn more(&mut self) -> bool {
        self.buffer.reserve(READ);
        matches!(self.read.read_buf(&mut self.buffer).await, Ok(1..))
    }

    async fn too_long(&mut self) -> String {
        let error = format!("a line exceeds {LINE} octets: stream the prefixes instead");
        // The connection ends either way.
        let _ = self.say(&json!({ "error": error })).await;
        error
    }

    async fn say(&mut self, value: &impl Serialize) -> Result<(), String> {
        let mut text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        text.push(b'\n');
        let written = tokio::time::timeout(PATIENCE, self.write.write_all(&text)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn answer(&mut self, request: Request) -> Result<Value, String> {
        let id = request.id;
        match (request.flow, request.flows) {
            (Some(flow), None) => return self.engine.submit_flow(id, flow).await,
            (None, Some(flows)) => return Ok(self.engine.flow_rules(&flows.set)),
            (None, None) => {}
            _ => return Err("one of flow and flows at a time".to_owned()),
        }
        match (request.put, request.patch, request.delete, request.stream) {
            (Some(put), None, None, None) => return self.submit(id, put.change(Others::Go)?).await,
            (None, Some(patch), None, None) => return self.submit(id, patch.change(Others::Stay)?).await,
            (None, None, Some(delete), None) => return self.submit(id, delete.removal()).await,
            (None, None, None, Some(stream)) => {
                let settings = &self.engine.settings;
                let lines = Lines::new(stream, settings.max_routes, self.engine.policy());
                let change = self.stream(lines).await?;
                return self.accept(id, change).await;
            }
            (None, None, None, None) => {}
            _ => return Err("one of put, patch, delete and stream at a time".to_owned()),
        }
        match (request.drain, request.resume) {
            (Some(drain), None) => {
                self.known(&drain.set)?;
                self.engine.drain(&drain.set, drain.draining()).await?;
                return Ok(json!({ "set": drain.set, "held-by": self.engine.shown.why(&drain.set) }));
            }
            (None, Some(resume)) => {
                self.known(&resume.set)?;
                self.engine.resume(&resume.set).await?;
                return Ok(json!({ "set": resume.set, "held-by": self.engine.shown.why(&resume.set) }));
            }
            (None, None) => {}
            (Some(_), Some(_)) => return Err("drain or resume, one at a time".to_owned()),
        }
        match (request.wait, request.get, request.look_up, request.sets) {
            (Some(wait), None, None, None) => self.wait(wait).await,
            (None, Some(get), None, None) => self.get(&get.set).await,
            (None, None, Some(look_up), None) => Ok(self.look_up(look_up.prefix).await),
            (None, None, None, Some(_)) => {
                let table = lock(&self.engine.table);
                let shown = &self.engine.shown;
                let row = |(set, routes)| json!({ "set": set, "routes": routes, "held-by": shown.why(set) });
                Ok(table.rib.sets().map(row).collect())
            }
            _ => Err("give one of put, patch, delete, stream, flow, wait, get, flows, look-up, sets, drain and resume"
                .to_owned()),
        }
    }

    async fn submit(&self, id: Option<String>, change: SetChange) -> Result<Value, String> {
        let policy = self.engine.policy();
        self.accept(id, change.check(policy).map_err(|error| error.to_string())?).await
    }

    async fn accept(&self, id: Option<String>, change: Checked) -> Result<Value, String> {
        let set = &change.change().set;
        if set.starts_with(process::SETS) {
            return Err(format!("the set {set:?} belongs to a program: give another name"));
        }
        let Outcome { added, changed, removed } = self.engine.submit(id.clone(), change).await?;
        Ok(json!({ "id": id, "added": added, "changed": changed, "removed": removed }))
    }

    /// The lines of a bulk, up to a full stop. All are read before an error in them is told.
    async fn stream(&mut self, mut lines: Lines) -> Result<Checked, String> {
        loop {
            let taken = lines.take(self.buffer.get(self.taken..).unwrap_or_default());
            self.taken += taken.octets;
            if taken.ended {
                return lines.finish();
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            if self.buffer.len() > LINE {
                return Err(self.too_long().await);
            }
            // A bulk has time: who asks for one route goes first.
            tokio::task::yield_now().await;
            if !self.more().await {
                return Err("the stream ended without a full stop: nothing of it was taken".to_owned());
            }
        }
    }

    fn known(&self, set: &str) -> Result<(), String> {
        let known = lock(&self.engine.table).rib.find_set(set).is_some();
        if known { Ok(()) } else { Err(format!("no set is called {set:?}: see sets")) }
    }

    async fn wait(&self, wait: Wait) -> Result<Value, String> {
        if let Some(id) = &wait.request
            && !lock(&self.engine.requests).contains(id)
        {
            return Err(format!("no request {id} was accepted"));
        }
        let patience = Duration::from_millis(wait.timeout_ms);
        let Some(prefix) = wait.prefix else {
            let away = self.engine.away(&self.neighbours).await;
            let peers = self.engine.wait(None, patience).await?;
            return Ok(json!({ "acknowledged-by": peers, "not-told": away }));
        };
        // Of this prefix: whoever is not told of it acknowledges nothing of it.
        let audience = self.engine.audience(&self.neighbours, &prefix).await;
        let told = audience.told().cloned().collect();
        if audience.told().next().is_none() {
            return Err(format!("{prefix} is not announced: {}", audience.reasons()));
        }
        let peers = self.engine.wait(Some(told), patience).await?;
        Ok(json!({ "acknowledged-by": peers, "not-told": audience.not_told() }))
    }

    async fn get(&mut self, set: &str) -> Result<Value, String> {
        let (mut walk, mut count) = (Walk::default(), 0);
        loop {
            let mut groups: Vec<RawGroup> = Vec::new();
            let mut last = None;
            let flow = {
                let rib = &lock(&self.engine.table).rib;
                let id = rib.find_set(set).filter(|_| rib.is_contested());
                rib.visit(&mut walk, LISTING, |route| {
                    let attributes = match id {
                        _ if route.set == set => Some(route.attributes),
                        // It may be announced from another set.
                        Some(id) => rib.wanted_by(id, &route.prefix),
                        None => None,
                    };
                    let Some(attributes) = attributes else { return };
                    count += 1;
                    match groups.last_mut() {
                        Some(group) if last.as_ref() == Some(attributes) => group.prefixes.push(route.prefix),
                        _ => {
                            last = Some(attributes.clone());
                            groups.push(RawGroup::new(attributes, vec![route.prefix]));
                        }
                    }
                })
            };
            if !groups.is_empty() {
                self.say(&Listed { routes: &groups }).await?;
            }
            tokio::task::yield_now().await;
            if flow.is_break() {
                return Ok(json!({ "set": set, "routes": count }));
            }
        }
    }

    async fn look_up(&self, prefix: IpNet) -> Value {
        let candidates = self.engine.candidates(&prefix);
        let Some((first, shadowed)) = candidates.split_first() else {
            return json!({ "prefix": prefix, "set": null, "announced": false, "reason": "no set wants it" });
        };
        let audience = self.engine.audience(&self.neighbours, &prefix).await;
        json!({
            "prefix": prefix,
            "set": first.set,
            "route": RawGroup::new(&first.attributes, Vec::new()),
            "announced": audience.told().next().is_some(),
            "held-by": self.engine.shown.why(&first.set),
            "told-to": audience.told().collect::<Vec<_>>(),
            "told-from": audience.sets(),
            "not-told": audience.not_told(),
            "in-its-shadow": shadowed.iter().map(|other| &other.set).collect::<Vec<_>>(),
        })
    }
}
