//! The leak watch, the RPKI and the events of a speaker on loopback: routers, the forwarder and a cache are played by
//! the test, or are real where they can be had.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bgp::config::Config;
use bgp_bmp::{Message, PeerHeader, PeerKey, PeerKind, PeerUp, View};
use bgp_wire::{
    AsPath, Asn, Attributes, Community, Context, Family, HoldTime, Message as Bgp, Open, Origin, RouterId, announce_v4,
    withdraw_v4,
};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::{Stop, config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

const PRIVATE: &str = "203.0.113.200/32";
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running speaker with a healthy private route, whose only peer never answers.
struct Site {
    folder: TempDir,
    stop: Stop,
    task: JoinHandle<cloakway_runtime::Outcome>,
    beat: JoinHandle<()>,
}

impl Site {
    fn start(more: &str) -> Self {
        Self::start_beside(1, more)
    }

    /// With a peer at this port of 127.0.0.9.
    fn start_beside(peer: u16, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n\
             [[peers]]\nname = \"edge\"\naddress = \"127.0.0.9\"\nport = {peer}\nremote-as = 64500\n\
             [[private-routes]]\nprefix = \"{PRIVATE}\"\nnext-hop = \"198.51.100.2\"\n[health]\nsocket = {:?}\n{more}",
            path("admin"),
            path("health")
        );
        let config: Config = config::parse("test.toml", &text).unwrap();
        let listener = UnixListener::bind(path("health")).unwrap();
        let beat = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let word =
                format!("{{\"type\":\"prefix\",\"prefix\":\"{PRIVATE}\",\"healthy\":true,\"reason\":\"link\"}}\n");
            beat(&mut stream, &word).await;
        });
        let stop = Stop::new();
        let task = tokio::spawn(bgp::speaker::run(config, stop.clone()));
        Self { folder, stop, task, beat }
    }

    fn admin(&self) -> PathBuf {
        self.folder.path().join("admin")
    }

    async fn ask(&self, topic: &str, arguments: &[(&str, &str)]) -> Result<Value, String> {
        let arguments: BTreeMap<String, String> =
            arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        admin::ask_for(&self.admin(), &Request { topic: topic.to_owned(), arguments }).await
    }

    async fn until(&self, topic: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                if let Ok(value) = self.ask(topic, &[]).await
                    && fits(&value)
                {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// The events of these names, in order.
    async fn events(&self, names: &[&str]) -> Vec<Value> {
        let answer = self.ask("events", &[]).await.unwrap();
        let events = answer["events"].as_array().unwrap().iter();
        events.filter(|event| names.contains(&event["event"].as_str().unwrap())).cloned().collect()
    }

    async fn end(self) {
        self.stop.tell();
        soon("the end", self.task).await.unwrap().unwrap();
        self.beat.abort();
    }
}

async fn beat(stream: &mut UnixStream, word: &str) {
    let mut sequence = 0_u64;
    stream.write_all(word.as_bytes()).await.unwrap();
    loop {
        sequence += 1;
        let heartbeat = format!("{{\"type\":\"heartbeat\",\"sequence\":{sequence}}}\n");
        if stream.write_all(heartbeat.as_bytes()).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn header(view: View) -> PeerHeader {
    let address = "192.0.2.142".parse().unwrap();
    let key = PeerKey { kind: PeerKind::Global, distinguisher: [0; 8], address };
    PeerHeader { key, view, two_octet_as: false, asn: Asn(64510), router_id: [192, 0, 2, 9].into(), time: (0, 0) }
}

/// A router with a session to AS 64510, as RFC 7854 and RFC 8671 have it tell of itself.
async fn simulated_router(to: SocketAddr) -> TcpStream {
    let mut stream = soon("BMP", async {
        loop {
            match TcpStream::connect(to).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    let open = |asn| {
        let router_id = RouterId::new([192, 0, 2, 1].into()).unwrap();
        let open = Open::new(Asn(asn), HoldTime::from_secs(90).unwrap(), router_id, Family::ALL);
        Bgp::Open(open).encode(Context::default()).unwrap()
    };
    let (sent, received) = (open(64500), open(64510));
    let local_address = "192.0.2.1".parse().unwrap();
    let up = PeerUp { local_address, local_port: 179, remote_port: 1, sent: &sent, received: &received, table: None };
    let initiation = Message::Initiation { name: Some("edge-1".to_owned()), description: None };
    stream.write_all(&initiation.encode()).await.unwrap();
    stream.write_all(&Message::PeerUp { peer: header(View::AdjRibInPre), up }.encode()).await.unwrap();
    stream
}

async fn leak(stream: &mut TcpStream, leaks: bool) {
    let prefix = vec![PRIVATE.parse().unwrap()];
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64500)])),
        communities: vec![Community::NO_EXPORT],
        ..Attributes::default()
    };
    let context = Context::default();
    let updates = if leaks {
        announce_v4(&attributes, "192.0.2.7".parse().unwrap(), prefix, context).unwrap()
    } else {
        withdraw_v4(prefix, context)
    };
    for update in updates {
        let update = Bgp::Update(update).encode(context).unwrap();
        let message = Message::RouteMonitoring { peer: header(View::AdjRibOutPost), update: &update };
        stream.write_all(&message.encode()).await.unwrap();
    }
}

#[tokio::test]
async fn a_leak_is_told_withheld_and_released_by_the_operator() {
    let port = free_port();
    let site = Site::start(&format!(
        "[bmp]\nlisten = [\"127.0.0.1:{port}\"]\non-leak = \"withdraw\"\nrelease = \"acknowledge\"\nblind-after-s = 1\n\
         [[bmp.routers]]\nname = \"edge\"\naddress = \"127.0.0.1\"\n"
    ));
    site.until("routes", "the route is healthy", |rows| rows[0]["healthy"] == true).await;
    site.until("bmp", "the watch is blind", |rows| rows[0]["blind"] == "it has not connected yet").await;
    let mut router = simulated_router(([127, 0, 0, 1], port).into()).await;
    site.until("bmp", "the router has said its name", |rows| rows[0]["name"] == "edge-1").await;
    assert_eq!(site.ask("leaks", &[]).await.unwrap(), serde_json::json!([]));
    leak(&mut router, true).await;
    let rows = site.until("leaks", "the leak is seen", |rows| rows[0]["state"] == "present").await;
    assert_eq!((&rows[0]["finding"], &rows[0]["peer_as"]), (&"to-external".into(), &64510.into()));
    let rows = site.until("routes", "the route is kept back", |rows| rows[0]["reason"] != "link").await;
    assert_eq!(rows[0]["reason"], "leak: to-external at edge, peer 192.0.2.142 of AS 64510");
    assert!(site.ask("leak-clear", &[]).await.unwrap_err().contains("still there"));
    leak(&mut router, false).await;
    site.until("leaks", "the leak is over", |rows| rows[0]["state"] == "over").await;
    assert!(site.ask("leak-clear", &[("prefix", "x")]).await.unwrap_err().contains("no prefix"));
    assert_eq!(site.ask("leak-clear", &[("prefix", PRIVATE)]).await.unwrap()["cleared"], 1);
    let told = [
        "watch-blind",
        "watch-sighted",
        "leak-raised",
        "leak-withheld",
        "route-withdrawn",
        "leak-ended",
        "leak-released",
        "route-announced",
    ];
    let told: Vec<Value> = site.events(&told).await.into_iter().map(|event| event["event"].clone()).collect();
    let expected = [
        "route-announced",
        "watch-blind",
        "watch-sighted",
        "leak-raised",
        "leak-withheld",
        "route-withdrawn",
        "leak-ended",
        "leak-released",
        "route-announced",
    ];
    assert_eq!(told, expected);
    site.end().await;
}

#[tokio::test]
async fn strangers_and_nonsense_are_shut_out() {
    let port = free_port();
    let site = Site::start(&format!(
        "[bmp]\nlisten = [\"127.0.0.1:{port}\"]\nallow = [\"192.0.2.0/24\"]\n[[bmp.routers]]\nname = \"edge\"\naddress = \"127.0.0.2\"\n"
    ));
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut stranger = simulated_router(to).await;
    let mut rest = Vec::new();
    // Closed without a word, or reset over what was unread.
    let _ = soon("hung up on", tokio::io::AsyncReadExt::read_to_end(&mut stranger, &mut rest)).await;
    assert!(rest.is_empty());
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut edge = socket.connect(to).await.unwrap();
    edge.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = soon("hung up on", tokio::io::AsyncReadExt::read_to_end(&mut edge, &mut rest)).await;
    let down = soon("the event", async {
        loop {
            let events = site.events(&["bmp-down"]).await;
            if let Some(event) = events.first() {
                return event.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(down["reason"], "version 71 is not spoken here: 3 is");
    site.end().await;
}

/// A cache that can be installed: the process, gone with the test.
struct Cache(Child);

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn roas(list: &[(&str, u8, u32)]) -> String {
    let roa = |(prefix, max, asn): &(&str, u8, u32)| serde_json::json!({ "prefix": prefix, "maxLength": max, "asn": asn, "ta": "test", "expires": 4_102_444_800_u64 });
    serde_json::json!({ "metadata": {}, "roas": list.iter().map(roa).collect::<Vec<_>>() }).to_string()
}

#[tokio::test]
async fn a_stayrtr_cache_is_followed_and_lost() {
    if Command::new("stayrtr").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        cloakway_testing::skip("there is no stayrtr here (Debian: apt install stayrtr)");
        return;
    }
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roas.json");
    std::fs::write(&file, roas(&[("10.0.0.0/8", 24, 64501), ("2001:db8::/32", 48, 64502)])).unwrap();
    let site = Site::start(&format!(
        "[rpki]\n[[rpki.caches]]\nname = \"stayrtr\"\nhost = \"localhost\"\nport = {port}\n\
         [[rpki.caches]]\nname = \"none\"\nhost = \"127.0.0.9\"\nport = 1\npreference = 1\n"
    ));
    site.until("rpki", "it is refused", |rows| rows[0]["last_down"].is_string()).await;
    let stayrtr = Command::new("stayrtr")
        .args(["-cache", file.to_str().unwrap(), "-bind", &format!("127.0.0.1:{port}"), "-metrics.addr", ""])
        .args(["-refresh", "1", "-checktime=false", "-rtr.refresh", "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let stayrtr = Cache(stayrtr.unwrap());
    let rows = site.until("rpki", "its data are here", |rows| rows[0]["payloads"] == 2).await;
    assert_eq!(
        (&rows[0]["state"], &rows[0]["version"], &rows[0]["counts"]),
        (&"synchronised".into(), &1.into(), &true.into())
    );
    let validity = async |prefix: &str, asn: &str| {
        site.ask("validity", &[("prefix", prefix), ("as", asn)]).await.unwrap()["validity"].clone()
    };
    assert_eq!(validity("10.1.0.0/16", "64501").await, "valid");
    assert_eq!(validity("10.1.0.0/25", "64501").await, "invalid");
    assert_eq!(validity("10.1.0.0/16", "64502").await, "invalid");
    assert_eq!(validity("2001:db8:1::/48", "64502").await, "valid");
    assert_eq!(validity("192.0.2.0/24", "64501").await, "not-found");
    // What is new comes by Serial Notify and a Serial Query.
    std::fs::write(&file, roas(&[("10.0.0.0/8", 24, 64502)])).unwrap();
    site.until("rpki", "the change is here", |rows| rows[0]["payloads"] == 1).await;
    assert_eq!(validity("10.1.0.0/16", "64502").await, "valid");
    let updates = site.events(&["rpki-updated"]).await;
    assert_eq!(updates.last().unwrap()["removed"], 2, "a difference, not all anew: {updates:?}");
    drop(stayrtr);
    site.until("rpki", "it is lost", |rows| rows[0]["state"] == "waiting").await;
    assert_eq!(validity("10.1.0.0/16", "64502").await, "valid", "what it said counts until it expires");
    site.end().await;
}

/// A router that takes IPv4 and nothing else, and stays.
async fn plain_router(listener: tokio::net::TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let router_id = RouterId::new([198, 51, 100, 1].into()).unwrap();
    let open = Open::new(Asn(64500), HoldTime::from_secs(90).unwrap(), router_id, [Family::Ipv4]);
    stream.write_all(&Bgp::Open(open).encode(Context::default()).unwrap()).await.unwrap();
    stream.write_all(&Bgp::KeepAlive.encode(Context::default()).unwrap()).await.unwrap();
    let mut unread = [0; 4096];
    while tokio::io::AsyncReadExt::read(&mut stream, &mut unread).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test]
async fn why_says_what_stands_in_the_way() {
    let listener = tokio::net::TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let (api, journal) = (folder.path().join("api"), folder.path().join("journal"));
    let site = Site::start_beside(
        port,
        &format!(
            "[[private-routes]]\nprefix = \"2001:db8::1/128\"\nnext-hop = \"2001:db8:1::1\"\n[inject]\napi-socket = {api:?}\n\
             journal = {journal:?}\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n[[inject.checks]]\nset = \"sick\"\n\
             command = [\"false\"]\n[[peers]]\nname = \"absent\"\naddress = \"127.0.0.10\"\nport = 1\nremote-as = 64500\n\
             [[peers]]\nname = \"untold\"\naddress = \"127.0.0.11\"\nport = 1\nremote-as = 64501\n"
        ),
    );
    let router = tokio::spawn(plain_router(listener));
    let put = async |line: &str| {
        let mut stream = UnixStream::connect(&api).await.unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = [0; 256];
        let read = soon("an answer", tokio::io::AsyncReadExt::read(&mut stream, &mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]);
        assert!(answer.contains("\"ok\""), "{answer}");
    };
    site.until("routes", "the route is announced", |rows| rows[0]["announced_to"][0] == "edge").await;
    put(r#"{"put":{"set":"a","routes":[{"next-hop":"192.0.2.1","prefixes":["10.1.0.0/16"]}]}}"#).await;
    put(r#"{"put":{"set":"b","routes":[{"next-hop":"192.0.2.2","prefixes":["10.1.0.0/16"]}]}}"#).await;
    put(r#"{"put":{"set":"sick","routes":[{"next-hop":"192.0.2.1","prefixes":["10.2.0.0/16"]}]}}"#).await;
    put(r#"{"put":{"set":"a6","routes":[{"next-hop":"2001:db8:9::1","prefixes":["2001:db8:2::/48"]}]}}"#).await;
    let cases = [
        (PRIVATE, "edge", true, "announced: kept in by no-export; health: link"),
        (PRIVATE, "absent", false, "the session is "),
        (PRIVATE, "untold", false, "export is \"nothing\""),
        ("2001:db8::1/128", "edge", false, "unhealthy: the forwarder has not spoken of this prefix"),
        ("10.1.0.0/16", "edge", true, "announced: from set a; in its shadow: b"),
        ("10.1.0.0/16", "untold", false, "export is \"nothing\""),
        ("10.2.0.0/16", "edge", false, "set sick: its check fails"),
        ("2001:db8:2::/48", "edge", false, "the session does not carry ipv6-unicast"),
        ("192.0.2.0/24", "edge", false, "no private route and no injected set has this prefix"),
    ];
    for (prefix, peer, announced, reason) in cases {
        let rows = site.ask("why", &[("prefix", prefix), ("peer", peer)]).await.unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
        assert_eq!(rows[0]["announced"], announced, "{prefix} {peer}: {rows}");
        assert!(rows[0]["reason"].as_str().unwrap().starts_with(reason), "{prefix} {peer}: {rows}");
    }
    assert_eq!(site.ask("why", &[("prefix", PRIVATE)]).await.unwrap().as_array().unwrap().len(), 3);
    assert!(site.ask("why", &[("prefix", "x")]).await.unwrap_err().contains("\"x\" is no prefix"));
    assert!(site.ask("why", &[("prefix", PRIVATE), ("peer", "x")]).await.unwrap_err().contains("no peer is called"));
    site.end().await;
    router.abort();
}

#[tokio::test]
async fn messages_are_written_down_and_read_by_others() {
    let listener = tokio::net::TcpListener::bind("127.0.0.9:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("updates.mrt");
    std::fs::write(&file, b"of a process that died").unwrap();
    let site = Site::start_beside(port, &format!("[mrt]\nupdates = {file:?}\nsent = true\n"));
    let router = tokio::spawn(plain_router(listener));
    site.until("routes", "the route is announced", |rows| rows[0]["announced_to"][0] == "edge").await;
    site.end().await;
    router.abort();
    let mut framer = mrt_wire::Framer::default();
    framer.push(&std::fs::read(&file).unwrap());
    let (mut opens, mut routes, mut farewells) = (0, Vec::new(), 0);
    while let Some(record) = framer.next_record().unwrap() {
        let mrt_wire::Record::Message(message) = mrt_wire::Record::decode(record).unwrap() else { panic!("a message") };
        assert_eq!((message.peer, message.peer_asn), ("127.0.0.9".parse().unwrap(), Asn(64500)));
        match Bgp::decode(message.bytes, message.context).unwrap() {
            Bgp::Open(_) => opens += 1,
            Bgp::Update(update) => routes.extend(update.reachable()),
            Bgp::Notification(_) => farewells += 1,
            Bgp::KeepAlive | Bgp::RouteRefresh(_) => {}
        }
    }
    framer.finish().unwrap();
    assert_eq!((opens, farewells), (2, 1), "ours and theirs; and our last word");
    assert_eq!(routes, [PRIVATE.parse::<ipnet::IpNet>().unwrap()]);
    let kept = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| *path != file);
    assert_eq!(std::fs::read(kept.unwrap()).unwrap(), b"of a process that died");
}

#[test]
fn what_cannot_be_is_refused_by_its_path() {
    let base = "[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n[[peers]]\nname = \"edge\"\n\
                address = \"198.51.100.1\"\nremote-as = 64500\n[[private-routes]]\nprefix = \"203.0.113.200/32\"\n\
                next-hop = \"198.51.100.2\"\n[health]\nsocket = \"/run/h\"\n";
    let bmp = "[bmp]\nlisten = [\"127.0.0.1:1\"]\n";
    let router = "[[bmp.routers]]\nname = \"a\"\naddress = \"192.0.2.1\"\n";
    let cache = "[rpki]\n[[rpki.caches]]\nname = \"a\"\n";
    let cases = [
        ("[bmp]\n".to_owned(), "bmp.listen: nobody could be monitored"),
        (format!("[bmp]\n{router}"), "bmp.routers[0].port: the router has nowhere to connect"),
        (format!("{bmp}{router}{router}"), "bmp.routers[1].name: \"a\" is empty, taken"),
        (
            format!("{bmp}{router}{}", router.replace("\"a\"", "\"b\"")),
            "bmp.routers[1].address: 192.0.2.1 is given twice",
        ),
        (format!("{bmp}{router}port = 0\n"), "bmp.routers[0].port: 0 is no port"),
        (format!("{bmp}{}", router.replace("192.0.2.1", "0.0.0.0")), "bmp.routers[0].address: 0.0.0.0 is no router"),
        (format!("{bmp}allow = [\"192.0.2.1/24\"]\n"), "bmp.allow[0]: the prefix has host bits set"),
        (format!("{bmp}max-routers = 0\n"), "bmp.max-routers: 0 is less than"),
        (format!("{bmp}max-peers = 0\n"), "bmp.max-peers: 0 is not allowed"),
        (format!("{bmp}on-leak = \"shout\"\n"), "withdraw"),
        (format!("{bmp}stray = 1\n"), "unknown field `stray`"),
        (format!("{bmp}{router}stray = 1\n"), "unknown field `stray`"),
        ("[rpki]\ncaches = []\n".to_owned(), "rpki.caches: there is none"),
        (format!("{cache}host = \"a b\"\n"), "rpki.caches[0].host: \"a b\" is neither an address nor a name"),
        (format!("{cache}host = \"a\"\nport = 0\n"), "rpki.caches[0].port: 0 is no port"),
        (format!("{cache}host = \"a\"\nstray = 0\n"), "unknown field `stray`"),
        (
            "[rpki]\nexpire-s = 599\n[[rpki.caches]]\nname = \"a\"\nhost = \"a\"\n".to_owned(),
            "rpki.expire-s: 599 s is not allowed: ",
        ),
        (
            "[rpki]\nmax-payloads = 0\n[[rpki.caches]]\nname = \"a\"\nhost = \"a\"\n".to_owned(),
            "rpki.max-payloads: 0 is not",
        ),
        ("[mrt]\nupdates = \"/\"\n".to_owned(), "mrt.updates: that is no file"),
        ("[mrt]\nupdates = \"/f\"\nrotate-s = 0\n".to_owned(), "mrt.rotate-s: 0 is not allowed"),
        ("[mrt]\nupdates = \"/f\"\nstray = 0\n".to_owned(), "unknown field `stray`"),
    ];
    for (more, expected) in cases {
        let error = config::parse::<Config>("test.toml", &format!("{base}{more}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
    let nothing = base.replace("[[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n", "");
    let nothing = format!("{nothing}[inject]\njournal = \"/j\"\nallow = [\"10.0.0.0/8\"]\n{bmp}");
    let error = config::parse::<Config>("test.toml", &nothing).unwrap_err().to_string();
    assert!(error.contains("bmp: there is nothing to watch"), "{error}");
}
