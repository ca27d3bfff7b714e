//! The speaker inside the test, and routers played by it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bgp::config::Config;
use bgp_wire::{
    AsPath, Asn, Attributes, Capability, Community, Context, Family, Framer, HoldTime, Message, Open, Origin, RouterId,
    Update, announce_v4, withdraw_v4,
};
use cloakway_runtime::admin::Request;
use cloakway_runtime::{Context as RunContext, Stop, admin, config};
use look_up_wire::{Answer, Question, Verdict};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::shared::PATIENCE;
pub(crate) use crate::shared::soon;

/// A router in AS `asn` at 127.0.0.`host`.
pub(crate) struct Router {
    asn: u32,
    host: u8,
    listener: TcpListener,
    pub(crate) stream: Option<TcpStream>,
    framer: Framer,
}

impl Router {
    pub(crate) async fn new(asn: u32, host: u8) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0)).await.unwrap();
        Self { asn, host, listener, stream: None, framer: Framer::default() }
    }

    pub(crate) fn table(&self, settings: &str) -> String {
        let address = self.listener.local_addr().unwrap();
        format!(
            "[[peers]]\nname = \"as{}\"\naddress = \"{}\"\nport = {}\nremote-as = {}\nhold-time-s = 90\n{settings}\n",
            self.asn,
            address.ip(),
            address.port(),
            self.asn
        )
    }

    pub(crate) fn context(&self) -> Context {
        Context { external: self.asn != 64500, ..Context::default() }
    }

    pub(crate) async fn establish(&mut self) {
        self.establish_with(Vec::new()).await;
    }

    pub(crate) async fn establish_with(&mut self, capabilities: Vec<Capability>) {
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

    pub(crate) async fn send(&mut self, message: &Message) {
        let bytes = message.encode(self.context()).unwrap();
        self.stream.as_mut().unwrap().write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn tell(&mut self, update: Update) {
        self.send(&Message::Update(update)).await;
    }

    pub(crate) async fn next(&mut self) -> Option<Message> {
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
    pub(crate) async fn communities(&mut self) -> Vec<Community> {
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
    pub(crate) async fn update(&mut self) -> String {
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

    pub(crate) async fn ends(&mut self) {
        assert_eq!([self.update().await, self.update().await], ["end of ipv4-unicast", "end of ipv6-unicast"]);
    }
}

pub(crate) struct Speaker {
    pub(crate) folder: TempDir,
    stop: Stop,
    task: JoinHandle<cloakway_runtime::Outcome>,
}

impl Speaker {
    pub(crate) fn start(peers: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), peers, "")
    }

    /// `rib` is more of the table `rib`.
    pub(crate) fn start_in(folder: TempDir, peers: &str, rib: &str) -> Self {
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let text = text(&folder, peers, rib);
        let file = path("speaker.toml");
        std::fs::write(&file, &text).unwrap();
        let config: Config = config::parse("speaker.toml", &text).unwrap();
        let stop = Stop::new();
        let context = RunContext { stop: stop.clone(), config_path: file, config_text: text };
        let task = tokio::spawn(bgp::speaker::run(config, context));
        Self { folder, stop, task }
    }

    /// Another configuration; gives what it did to peers.
    pub(crate) async fn reload(&self, peers: &str) -> Value {
        std::fs::write(self.folder.path().join("speaker.toml"), text(&self.folder, peers, "")).unwrap();
        self.ask("reload", &[]).await.unwrap()["peers"].clone()
    }

    pub(crate) async fn show_until(&self, topic: &str, fits: impl Fn(&Value) -> bool) -> Value {
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

    pub(crate) async fn ask(&self, topic: &str, arguments: &[(&str, &str)]) -> Result<Value, String> {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { topic: topic.to_owned(), arguments };
        admin::ask_for(&self.folder.path().join("admin"), &request).await
    }

    pub(crate) async fn whose(&self, address: &str) -> Verdict {
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

    pub(crate) async fn end(self) {
        self.stop.tell();
        soon("the end", self.task).await.unwrap().unwrap();
    }
}

/// The configuration of a speaker that lives in `folder`; `rib` is more of the table `rib`.
fn text(folder: &TempDir, peers: &str, rib: &str) -> String {
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    format!(
        "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.99\"\n{peers}\n\
         [[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"198.51.100.2\"\n\
         [health]\nsocket = {:?}\n[rib]\nlook-up-socket = {:?}\n{rib}\n",
        path("admin"),
        path("health"),
        path("look-up")
    )
}

pub(crate) fn route(prefixes: &[&str], path: &[u32], communities: &[Community]) -> Update {
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(path.iter().copied().map(Asn).collect::<Vec<_>>())),
        communities: communities.to_vec(),
        ..Attributes::default()
    };
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    announce_v4(&attributes, [192, 0, 2, 7].into(), prefixes, Context::default()).unwrap().remove(0)
}

pub(crate) fn gone(prefix: &str) -> Update {
    withdraw_v4([prefix.parse().unwrap()], Context::default()).remove(0)
}
