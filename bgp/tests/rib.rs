//! Routes of peers on loopback: kept, looked up and passed on, between scripted routers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bgp::config::Config;
use bgp_wire::{
    AsPath, Asn, Attributes, Capability, Community, Context, Family, Framer, GracefulRestart, HoldTime, LongLived,
    Message, Open, Origin, RouteRefresh, RouterId, Update, announce_v4, withdraw_v4,
};
use cloakway_runtime::admin::Request;
use cloakway_runtime::{Stop, admin, config};
use look_up_wire::{Answer, Question, Verdict};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A router in AS `asn` at 127.0.0.`host`.
struct Router {
    asn: u32,
    host: u8,
    listener: TcpListener,
    stream: Option<TcpStream>,
    framer: Framer,
}

impl Router {
    async fn new(asn: u32, host: u8) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0)).await.unwrap();
        Self { asn, host, listener, stream: None, framer: Framer::default() }
    }

    fn table(&self, settings: &str) -> String {
        let address = self.listener.local_addr().unwrap();
        format!(
            "[[peers]]\nname = \"as{}\"\naddress = \"{}\"\nport = {}\nremote-as = {}\nhold-time-s = 90\n{settings}\n",
            self.asn,
            address.ip(),
            address.port(),
            self.asn
        )
    }

    fn context(&self) -> Context {
        Context { external: self.asn != 64500, ..Context::default() }
    }

    async fn establish(&mut self) {
        self.establish_with(Vec::new()).await;
    }

    async fn establish_with(&mut self, capabilities: Vec<Capability>) {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        (self.stream, self.framer) = (Some(stream), Framer::default());
        assert!(matches!(self.next().await, Some(Message::Open(_))));
        let router_id = RouterId::new([10, 0, 0, self.host].into()).unwrap();
        let mut open = Open::new(Asn(self.asn), HoldTime::from_secs(90).unwrap(), router_id, Family::ALL);
        open.capabilities.push(Capability::RouteRefresh);
        open.capabilities.extend(capabilities);
        self.send(&Message::Open(open)).await;
        self.send(&Message::KeepAlive).await;
        assert_eq!(self.next().await, Some(Message::KeepAlive));
    }

    async fn send(&mut self, message: &Message) {
        let bytes = message.encode(self.context()).unwrap();
        self.stream.as_mut().unwrap().write_all(&bytes).await.unwrap();
    }

    async fn tell(&mut self, update: Update) {
        self.send(&Message::Update(update)).await;
    }

    async fn next(&mut self) -> Option<Message> {
        let (context, stream, framer) = (self.context(), self.stream.as_mut().unwrap(), &mut self.framer);
        soon("a message", async {
            loop {
                if let Some(frame) = framer.next_frame().unwrap() {
                    return Some(Message::decode(frame, context).unwrap());
                }
                let mut bytes = Vec::new();
                if stream.read_buf(&mut bytes).await.unwrap() == 0 {
                    return None;
                }
                framer.push(&bytes);
            }
        })
        .await
    }

    /// The communities of the next routes.
    async fn communities(&mut self) -> Vec<Community> {
        loop {
            match self.next().await {
                Some(Message::KeepAlive) => {}
                Some(Message::Update(update)) if update.reachable().next().is_some() => {
                    return update.attributes.communities;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next UPDATE as text, with its path.
    async fn update(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Message::KeepAlive) => {}
                Some(Message::Update(update)) => {
                    if let Some(family) = update.ends_rib_of() {
                        return format!("end of {family}");
                    }
                    assert!(update.flaws.is_empty(), "{:?}", update.flaws);
                    let attributes = &update.attributes;
                    let path = attributes.as_path.as_ref().map(ToString::to_string).unwrap_or_default();
                    let next_hop = attributes.next_hop.map(|hop| hop.to_string()).unwrap_or_default();
                    let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
                    let come = update.reachable().map(|prefix| format!("+{prefix} by {path} via {next_hop}"));
                    return gone.chain(come).collect::<Vec<_>>().join(", ");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn ends(&mut self) {
        assert_eq!([self.update().await, self.update().await], ["end of ipv4-unicast", "end of ipv6-unicast"]);
    }
}

struct Speaker {
    folder: TempDir,
    stop: Stop,
    task: JoinHandle<cloakway_runtime::Outcome>,
}

impl Speaker {
    fn start(peers: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), peers, "")
    }

    /// `rib` is more of the table `rib`.
    fn start_in(folder: TempDir, peers: &str, rib: &str) -> Self {
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.99\"\n{peers}\n\
             [[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n\
             [health]\nsocket = {:?}\n[rib]\nlook-up-socket = {:?}\n{rib}\n",
            path("admin"),
            path("health"),
            path("look-up")
        );
        let config: Config = config::parse("test.toml", &text).unwrap();
        let stop = Stop::new();
        let task = tokio::spawn(bgp::speaker::run(config, stop.clone()));
        Self { folder, stop, task }
    }

    async fn show_until(&self, topic: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let socket = self.folder.path().join("admin");
        let (topic, address) = topic.split_once(' ').unwrap_or((topic, ""));
        let arguments = (!address.is_empty()).then(|| ("address".to_owned(), address.to_owned())).into_iter().collect();
        let request = Request { topic: topic.to_owned(), arguments };
        let mut last = Value::Null;
        let shown = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Ok(value) = admin::ask_for(&socket, &request).await {
                    last = value;
                    if fits(&last) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        shown.await.unwrap_or_else(|_| panic!("{topic}: {last}"));
        last
    }

    async fn ask(&self, topic: &str, arguments: &[(&str, &str)]) -> Result<Value, String> {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { topic: topic.to_owned(), arguments };
        admin::ask_for(&self.folder.path().join("admin"), &request).await
    }

    async fn whose(&self, address: &str) -> Verdict {
        let mut stream = UnixStream::connect(self.folder.path().join("look-up")).await.unwrap();
        let mut question = Vec::new();
        Question { id: 9, address: address.parse().unwrap() }.encode(&mut question);
        stream.write_all(&question).await.unwrap();
        let mut answer = [0; look_up_wire::ANSWER];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
        let answer = Answer::decode(&answer).unwrap();
        assert_eq!(answer.id, 9);
        answer.verdict
    }

    async fn end(self) {
        self.stop.tell();
        soon("the end", self.task).await.unwrap().unwrap();
    }
}

fn route(prefixes: &[&str], path: &[u32], communities: &[Community]) -> Update {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(path.iter().copied().map(Asn).collect::<Vec<_>>())),
        communities: communities.to_vec(),
        ..Attributes::default()
    };
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    announce_v4(&attributes, [192, 0, 2, 7].into(), prefixes, Context::default()).unwrap().remove(0)
}

fn gone(prefix: &str) -> Update {
    withdraw_v4([prefix.parse().unwrap()], Context::default()).remove(0)
}

/// An MRT dump: 10.0.0.0/8 of AS `asn` (TABLE_DUMP_V2), and 11.0.0.0/8 of two ASes (messages of BGP4MP).
fn dump(asn: u32) -> Vec<u8> {
    use mrt_wire::writer::{self, Direction, Ends, RouteEntry, Style, Time};
    let mut attributes = Vec::new();
    route(&["10.0.0.0/8"], &[64501, asn], &[]).attributes.encode(None, Context::default(), &mut attributes).unwrap();
    let entry = RouteEntry { peer_index: 0, originated: 0, path_id: 0, attributes };
    let mut dump = writer::peer_index(0, Ipv4Addr::LOCALHOST, "", &[]);
    dump.extend(writer::rib(0, 0, "10.0.0.0/8".parse().unwrap(), &[entry]));
    for n in [1, 2] {
        let peer = Ipv4Addr::new(127, 0, 0, n).into();
        let ends = Ends { peer_asn: Asn(64501), local_asn: Asn(64502), peer, local: peer };
        let update = Message::Update(route(&["11.0.0.0/8"], &[64501, asn + u32::from(n)], &[]));
        let update = update.encode(Context::default()).unwrap();
        let style = Style { four_octet_as: true, path_ids: false };
        let time = Time { seconds: 0, microseconds: 0 };
        dump.extend(writer::message(time, &ends, Direction::Received, style, &update));
    }
    dump
}

#[tokio::test]
async fn a_dump_decides_where_no_peer_has_told_and_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rib.mrt");
    let mut a = Router::new(64501, 41).await;
    let mrt = format!("mrt = {file:?}");
    let speaker = Speaker::start_in(folder, &a.table("import = \"all\""), &mrt);
    let no_file = |rib: &Value| rib["dump"]["problem"].as_str().is_some_and(|text| text.contains("No such file"));
    speaker.show_until("rib", no_file).await;
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::NotReady);
    let read = |asn: u32| move |shown: &Value| shown["answer"] == format!("10.0.0.0/8 is of AS {asn}");
    let pack = |bytes: &[u8], bzip2: bool| {
        use std::io::Write as _;
        if bzip2 {
            let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        } else {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
    };
    let (prefix, eleven) = ("10.0.0.0/8".parse().unwrap(), "11.0.0.0/8".parse().unwrap());
    for (asn, bytes) in [(64510, dump(64510)), (64520, pack(&dump(64520), false)), (64530, pack(&dump(64530), true))] {
        std::fs::write(&file, bytes).unwrap();
        let shown = speaker.show_until("look-up 10.0.0.1", read(asn)).await;
        assert_eq!(shown["source"], "dump");
        assert_eq!(speaker.whose("10.0.0.1").await, Verdict::Origin { prefix, asn });
        assert_eq!(speaker.whose("11.0.0.1").await, Verdict::Disputed { prefix: eleven });
        assert_eq!(speaker.whose("12.0.0.1").await, Verdict::NotReady, "no peer has told, and it is not in the dump");
    }
    // What cannot be read leaves what was read before.
    std::fs::write(&file, b"no dump at all").unwrap();
    let rib = speaker.show_until("rib", |rib| !rib["dump"]["problem"].is_null()).await;
    assert_eq!((&rib["dump"]["prefixes"], &rib["dump"]["routes"]), (&2.into(), &3.into()), "{rib}");
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::Origin { prefix, asn: 64530 });
    // A peer that has told all knows better, where it knows anything.
    a.establish().await;
    a.tell(route(&["10.0.0.0/8"], &[64501, 64540], &[])).await;
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    let shown = speaker.show_until("look-up 10.0.0.1", read(64540)).await;
    assert_eq!(shown["source"], "live");
    assert_eq!(speaker.whose("11.0.0.1").await, Verdict::Disputed { prefix: eleven });
    assert_eq!(speaker.whose("12.0.0.1").await, Verdict::NoRoute);
    speaker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_written_down_and_read_by_others() {
    use bgpkit_parser::BgpkitParser;
    let (mut a, mut b) = (Router::new(64501, 42).await, Router::new(64502, 43).await);
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("now-and-then.mrt");
    let peers = [a.table("import = \"all\""), b.table("import = \"all\"")].concat();
    let speaker = Speaker::start_in(folder, &peers, &format!("dump = {{ file = {kept:?}, every-s = 1 }}"));
    for router in [&mut a, &mut b] {
        router.establish().await;
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8", "203.0.113.200/32"], &[64501, 4_200_000_001], &[Community(0xfbf4_0001)])).await;
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 4_200_000_001], &[])).await;
    let six = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(vec![Asn(64502)])),
        ..Attributes::default()
    };
    let prefixes = ["2001:db8:1::/48".parse().unwrap()];
    let next_hop = "2001:db8::7".parse().unwrap();
    for update in bgp_wire::announce_v6(&six, next_hop, prefixes, Context::default()).unwrap() {
        b.tell(update).await;
    }
    b.tell(Update::end_of_rib(Family::Ipv4)).await;
    speaker.show_until("rib", |rib| rib["ipv6_prefixes"] == 1 && rib["ipv4_prefixes"] == 2).await;

    let expected = [
        "10.0.0.0/8 of 64501 4200000001 from 127.0.0.42 AS 64501 via 192.0.2.7",
        "10.0.0.0/8 of 64502 64502 4200000001 from 127.0.0.43 AS 64502 via 192.0.2.7",
        "2001:db8:1::/48 of 64502 from 127.0.0.43 AS 64502 via 2001:db8::7",
    ];
    for name in ["rib.mrt", "rib.mrt.gz"] {
        let file = speaker.folder.path().join(name);
        let socket = speaker.folder.path().join("admin");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        command.arg("dump").arg("--socket").arg(&socket).arg("--rib").arg(&file).arg("--json");
        let done = tokio::task::block_in_place(|| command.output().unwrap());
        let said = String::from_utf8(done.stdout).unwrap();
        assert_eq!(
            said.trim(),
            "{\"peers\":2,\"prefixes\":2,\"routes\":3}",
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let mut bytes = Vec::new();
        cloakway_runtime::file::unpack(std::fs::File::open(&file).unwrap(), |piece| {
            bytes.extend_from_slice(piece);
            Ok::<(), String>(())
        })
        .unwrap();
        let read: Vec<String> = BgpkitParser::from_reader(std::io::Cursor::new(bytes))
            .into_elem_iter()
            .map(|elem| {
                let path = elem.as_path.unwrap();
                format!(
                    "{} of {path} from {} AS {} via {}",
                    elem.prefix.prefix,
                    elem.peer_ip,
                    elem.peer_asn,
                    elem.next_hop.unwrap()
                )
            })
            .collect();
        assert_eq!(read, expected, "what touches a private prefix is not used, and not in it");
        let whose = facilitation::isp::read_rib(std::fs::File::open(&file).unwrap()).unwrap();
        assert_eq!(whose.find([10, 1, 1, 1].into()), Some(mrt_wire::Whose::Origin(Asn(4_200_000_001))));
        let Ok(read) = std::process::Command::new("bgpdump").arg("-m").arg(&file).output() else {
            assert!(
                std::env::var("NETNS_TESTS").as_deref() != Ok("required"),
                "there is no bgpdump, and nothing may be skipped"
            );
            eprintln!("SKIPPED: there is no bgpdump here (Debian: apt install bgpdump)");
            continue;
        };
        let text = String::from_utf8_lossy(&read.stdout);
        for line in [
            "|127.0.0.42|64501|10.0.0.0/8|64501 4200000001|IGP|192.0.2.7|",
            "|127.0.0.43|64502|10.0.0.0/8|64502 64502 4200000001|IGP|192.0.2.7|",
            "|127.0.0.43|64502|2001:db8:1::/48|64502|IGP|2001:db8::7|",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
    // Now and then it is written by itself.
    soon("a dump", async {
        while !std::fs::File::open(&kept).is_ok_and(|file| facilitation::isp::read_rib(file).is_ok()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let socket = speaker.folder.path().join("admin");
    let ask = |name: &str, value: &str| Request {
        topic: "dump".to_owned(),
        arguments: [(name.to_owned(), value.to_owned())].into(),
    };
    for (name, value, expected) in
        [("file", "rib.mrt", "give the whole path"), ("number", "99", "another dump"), ("number", "x", "takes a file")]
    {
        let error = admin::ask_for(&socket, &ask(name, value)).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    speaker.end().await;
}

#[tokio::test]
async fn best_routes_are_passed_on_where_the_operator_says_so_and_taken_back_with_their_peer() {
    let (mut a, mut b) = (Router::new(64501, 11).await, Router::new(64502, 12).await);
    let (mut told, mut quiet) = (Router::new(64503, 13).await, Router::new(64504, 14).await);
    let peers = [
        a.table("import = \"all\""),
        b.table("import = \"all\""),
        told.table("pass-on = true"),
        quiet.table("export = \"all\""),
    ];
    let speaker = Speaker::start(&peers.concat());
    for router in [&mut a, &mut b, &mut told, &mut quiet] {
        router.establish().await;
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8"], &[64501, 64510], &[])).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64501 64510 via 127.0.0.1");
    // A longer path changes nothing, what is marked stays here, and a private prefix goes nowhere.
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 64510], &[])).await;
    b.tell(route(&["11.0.0.0/8"], &[64502, 64511], &[Community::NO_EXPORT])).await;
    b.tell(route(&["203.0.113.200/32"], &[64502], &[])).await;
    b.tell(route(&["12.0.0.0/8"], &[64502, 64512], &[])).await;
    assert_eq!(told.update().await, "+12.0.0.0/8 by 64500 64502 64512 via 127.0.0.1");
    let shown = speaker.show_until("look-up 10.9.9.9", |shown| shown["routes"].as_array().unwrap().len() == 2).await;
    assert_eq!((&shown["prefix"], &shown["origin_as"]), (&"10.0.0.0/8".into(), &64510.into()));
    assert_eq!((&shown["routes"][0]["peer"], &shown["routes"][0]["reason"]), (&"as64501".into(), &"best".into()));
    assert_eq!(shown["routes"][1]["reason"], "not best: longer AS path");
    // The same, seen from the prefix and from everything that there is.
    let why = speaker.ask("why", &[("prefix", "10.0.0.0/8")]).await.unwrap();
    let row =
        |rows: &Value, peer: &str| rows.as_array().unwrap().iter().find(|row| row["peer"] == peer).unwrap().clone();
    let (to_told, to_a, to_quiet) = (row(&why, "as64503"), row(&why, "as64501"), row(&why, "as64504"));
    assert_eq!((&to_told["source"], &to_told["announced"]), (&"received".into(), &true.into()), "{why}");
    assert_eq!(to_told["reason"], "announced: best of as64501; of as64502, not best: longer AS path");
    assert_eq!((&to_a["announced"], &to_quiet["announced"]), (&false.into(), &false.into()));
    assert!(to_quiet["reason"].as_str().unwrap().starts_with("pass-on is not set"), "{why}");
    let why = speaker.ask("why", &[("prefix", "11.0.0.0/8"), ("peer", "as64503")]).await.unwrap();
    assert_eq!(why[0]["reason"], "marked no-export, and the peer is external; best of as64502");
    let rows = speaker.ask("routes", &[("source", "received"), ("inside", "10.0.0.0/7")]).await.unwrap();
    let brief: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["from"].as_str().unwrap(), &row["reason"], &row["announced_to"]))
        .collect();
    assert_eq!(brief.len(), 3, "{rows}");
    assert!(brief.contains(&("as64501", &"best".into(), &serde_json::json!(["as64503"]))), "{rows}");
    assert!(brief.contains(&("as64502", &"not best: longer AS path".into(), &serde_json::json!([]))), "{rows}");
    let rows = speaker.ask("routes", &[("limit", "1")]).await.unwrap();
    let sources: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["private", "received", "received"], "one, and the word that there are more");
    for (name, value) in [("source", "x"), ("inside", "x"), ("limit", "x")] {
        assert!(speaker.ask("routes", &[(name, value)]).await.unwrap_err().contains("\"x\""));
    }
    let shown = speaker.show_until("look-up 203.0.113.200", |shown| !shown["routes"][0].is_null()).await;
    assert_eq!(shown["routes"][0]["reason"], "rejected: touches a private prefix of ours");
    assert!(shown["origin_as"].is_null());
    // The peer is lost, and the other's route takes its place.
    a.stream = None;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64502 64502 64510 via 127.0.0.1");
    b.tell(gone("12.0.0.0/8")).await;
    assert_eq!(told.update().await, "-12.0.0.0/8");
    told.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64502 64502 64510 via 127.0.0.1");
    b.stream = None;
    assert_eq!(told.update().await, "-10.0.0.0/8");
    let rib = speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 0).await;
    assert_eq!(rib["attribute_sets"], 0);
    // The one that nobody spoke of has heard nothing all the while.
    quiet.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    a.establish().await;
    a.ends().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64501 via 127.0.0.1");
    let stopping = tokio::spawn(speaker.end());
    loop {
        match quiet.next().await {
            Some(Message::KeepAlive) => {}
            Some(Message::Notification(_)) => break,
            other => panic!("a peer without pass-on was told {other:?}"),
        }
    }
    stopping.await.unwrap();
}

#[tokio::test]
async fn what_is_not_imported_is_not_kept() {
    let mut a = Router::new(64501, 21).await;
    let speaker = Speaker::start(&a.table(""));
    a.establish().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    let counted = |shown: &Value| shown[0]["prefixes_received"] == 1;
    speaker.show_until("sessions", counted).await;
    let rib = speaker.show_until("rib", |_| true).await;
    assert_eq!((&rib["ipv4_prefixes"], &rib["not_ready"]), (&0.into(), &"no peer's routes are imported".into()));
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::NotReady);
    speaker.end().await;
}

#[tokio::test]
async fn other_roles_are_told_whose_an_address_is_once_a_peer_has_told_all() {
    let mut a = Router::new(64501, 31).await;
    let list = "import = \"all\"\nimport-prefixes = \"long\"";
    let lists = "[[prefix-lists]]\nname = \"long\"\nrules = [{ prefix = \"0.0.0.0/0\", ge = 8, le = 24, action = \"permit\" }]\n";
    let speaker = Speaker::start(&(a.table(list) + lists));
    a.establish().await;
    a.tell(route(&["10.0.0.0/8", "0.0.0.0/0"], &[64501, 64510], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 2).await;
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::NotReady, "more may come");
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    speaker.show_until("rib", |rib| rib["not_ready"].is_null()).await;
    let prefix = "10.0.0.0/8".parse().unwrap();
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::Origin { prefix, asn: 64510 });
    assert_eq!(speaker.whose("::ffff:10.0.0.1").await, Verdict::Origin { prefix, asn: 64510 });
    assert_eq!(speaker.whose("11.0.0.1").await, Verdict::NoRoute, "the default route is not on the list");
    a.stream = None;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 0).await;
    assert_eq!(speaker.whose("10.0.0.1").await, Verdict::NotReady);
    let socket = speaker.folder.path().join("look-up");
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(&[2; look_up_wire::QUESTION]).await.unwrap();
    let mut rest = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "whoever speaks another version is sent away");
    speaker.end().await;
}

/// Graceful restart at once over, then long-lived for `seconds`, of IPv4; without routes of its own for zero.
fn long_lived(seconds: u32) -> Vec<Capability> {
    let families = if seconds == 0 { Vec::new() } else { vec![(Family::Ipv4, true)] };
    let graceful = GracefulRestart { restart_time_s: 0, families, ..GracefulRestart::default() };
    let stale = LongLived { family: Family::Ipv4, forwarding: true, stale_time_s: seconds };
    let stale = if seconds == 0 { Vec::new() } else { vec![stale] };
    vec![Capability::GracefulRestart(graceful), Capability::LongLivedGracefulRestart(stale)]
}

#[tokio::test]
async fn long_lived_stale_routes_are_the_last_choice_and_told_to_those_who_know_what_that_means() {
    let (mut a, mut b) = (Router::new(64501, 51).await, Router::new(64502, 52).await);
    let (mut knows, mut ignorant) = (Router::new(64503, 53).await, Router::new(64504, 54).await);
    let helps = "import = \"all\"\ngraceful-restart = { restart-s = 60, long-lived-s = 60 }";
    let peers =
        [a.table(helps), b.table("import = \"all\""), knows.table("pass-on = true"), ignorant.table("pass-on = true")];
    let speaker = Speaker::start(&peers.concat());
    a.establish_with(long_lived(60)).await;
    b.establish().await;
    knows.establish_with(long_lived(0)).await;
    ignorant.establish().await;
    for router in [&mut a, &mut b, &mut knows, &mut ignorant] {
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    let plain = "+10.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);
    a.tell(route(&["11.0.0.0/8"], &[64501], &[Community::NO_LLGR])).await;
    let plain = "+11.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);

    // The router is lost: what may stay is told anew with the mark, and taken back from who does not know it.
    a.stream = None;
    let mut told = [knows.update().await, knows.update().await];
    told.sort();
    assert_eq!(told, ["+10.0.0.0/8 by 64500 64501 via 127.0.0.1", "-11.0.0.0/8"], "NO_LLGR is obeyed");
    let mut told = ignorant.update().await;
    if !told.contains(", ") {
        told = format!("{told}, {}", ignorant.update().await);
    }
    let mut told: Vec<&str> = told.split(", ").collect();
    told.sort_unstable();
    assert_eq!(told, ["-10.0.0.0/8", "-11.0.0.0/8"]);
    let shown = speaker.show_until("look-up 10.0.0.1", |shown| shown["routes"][0]["llgr_stale"] == true).await;
    assert_eq!(shown["routes"][0]["reason"], "best");
    knows.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    assert_eq!(knows.communities().await, [Community::LLGR_STALE]);

    // Any other route is better, however long its path.
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 64502, 64510], &[])).await;
    let other = "+10.0.0.0/8 by 64500 64502 64502 64502 64510 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [other, other]);
    let shown = speaker.show_until("look-up 10.0.0.1", |shown| shown["routes"].as_array().unwrap().len() == 2).await;
    let reasons = [0, 1].map(|n| shown["routes"][n]["reason"].as_str().unwrap().to_owned());
    assert_eq!(reasons, ["best", "not best: long-lived stale"]);
    // The router is back and tells it again: stale no more.
    a.establish_with(long_lived(60)).await;
    a.ends().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    let plain = "+10.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);
    speaker.end().await;
}

#[test]
fn what_the_table_rib_can_not_be_is_refused_by_its_path() {
    let base = "[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.99\"\n[[peers]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
                remote-as = 64500\n[rib]\n";
    let tls = "certificate = \"/c\"\nkey = \"/k\"\nclient-ca = \"/a\"\n";
    let tcp = |listen: &str, more: &str| format!("[rib.look-up-tcp]\nlisten = [{listen}]\n{more}");
    let cases = [
        ("mrt = \"/\"\n".to_owned(), "rib.mrt: that is no file"),
        ("dump = { file = \"/\" }\n".to_owned(), "rib.dump.file: that is no file"),
        ("mrt = \"/f\"\ndump = { file = \"/f\" }\n".to_owned(), "rib.dump.file: the file of rib.mrt"),
        ("dump = { file = \"/f\", every-s = 0 }\n".to_owned(), "rib.dump.every-s: 0 is not allowed"),
        ("dump = { file = \"/f\", stray = 0 }\n".to_owned(), "unknown field `stray`"),
        (tcp("", tls), "rib.look-up-tcp.listen: there is none"),
        (
            tcp("\"192.0.2.1:4179\"", ""),
            "rib.look-up-tcp.listen: 192.0.2.1:4179 is open to other hosts: give certificate",
        ),
        (tcp("\"0.0.0.0:4179\"", ""), "rib.look-up-tcp.listen: 0.0.0.0:4179 is open to other hosts"),
        (tcp("\"[::1]:4179\"", "key = \"/k\"\n"), "rib.look-up-tcp.certificate: TLS takes certificate, key"),
        (tcp("\"[::1]:4179\"", "certificate = \"/c\"\n"), "rib.look-up-tcp.key: TLS takes certificate, key"),
        (
            tcp("\"[::1]:4179\"", "certificate = \"/c\"\nkey = \"/k\"\n"),
            "rib.look-up-tcp.client-ca: anybody would be let in",
        ),
        (tcp("\"[::1]:4179\"", "stray = 0\n"), "unknown field `stray`"),
    ];
    for (more, expected) in cases {
        let error = config::parse::<Config>("test.toml", &format!("{base}{more}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
    for good in [tcp("\"192.0.2.1:4179\"", tls), tcp("\"127.0.0.1:4179\", \"[::1]:4179\"", "")] {
        config::parse::<Config>("test.toml", &format!("{base}{good}")).unwrap();
    }
}
