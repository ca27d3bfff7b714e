//! A7 from end to end: a router tells the speaker, a process, and the facilitation server's own look-up asks it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bgp_wire::{
    AsPath, Asn, Attributes, Context, Family, Framer, HoldTime, Message, Open, Origin, RouterId, Update, announce_v4,
};
use facilitation::config::Isp;
use facilitation::isp::{Directory, Finder, read_rib};
use facilitation::live::Live;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
struct Speaker(Child);

impl Speaker {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgp-speaker"));
        let command = command.arg("run").arg("--config").arg(config);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A router of AS 64501 that tells 10.0.0.0/8 from AS 64510, and that this is all.
async fn router(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let context = Context { external: true, ..Context::default() };
    let router_id = RouterId::new([10, 0, 0, 1].into()).unwrap();
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence(vec![Asn(64501), Asn(64510)])),
        ..Attributes::default()
    };
    let prefixes = ["10.0.0.0/8".parse().unwrap()];
    let mut said = vec![
        Message::Open(Open::new(Asn(64501), HoldTime::from_secs(90).unwrap(), router_id, Family::ALL)),
        Message::KeepAlive,
    ];
    said.extend(
        announce_v4(&attributes, [192, 0, 2, 7].into(), prefixes, context).unwrap().into_iter().map(Message::Update),
    );
    said.push(Message::Update(Update::end_of_rib(Family::Ipv4)));
    // Its OPEN first: an UPDATE before the speaker's KEEPALIVE would be out of turn.
    let mut framer = Framer::default();
    let mut said = said.into_iter();
    for message in said.by_ref().take(2) {
        stream.write_all(&message.encode(context).unwrap()).await.unwrap();
    }
    let mut keepalive = false;
    while !keepalive {
        let mut bytes = Vec::new();
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        framer.push(&bytes);
        while let Some(frame) = framer.next_frame().unwrap() {
            keepalive |= Message::decode(frame, context).unwrap() == Message::KeepAlive;
        }
    }
    for message in said {
        stream.write_all(&message.encode(context).unwrap()).await.unwrap();
    }
    stream
}

/// TABLE_DUMP_V2: 10.0.0.0/8 from AS 64511.
fn dump() -> Vec<u8> {
    let attributes = [0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xff];
    let body = [&[0, 0, 0, 0, 8, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], &attributes].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0; 4][..], &[0, 13, 0, 2], &length, &body].concat()
}

async fn until(finder: &Finder, client: &str, expected: &str) {
    let found = tokio::time::timeout(PATIENCE, async {
        while finder.find(client.parse().unwrap()).await.map(|isp| isp.to_string()).as_deref() != Some(expected) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("{client} is never of {expected}: {:?}", finder.live.as_ref().unwrap().problem()));
}

#[tokio::test]
async fn facilitation_asks_the_speaker_first_and_the_dump_while_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.99\"\n\
         [[peers]]\nname = \"upstream\"\naddress = \"127.0.0.1\"\nport = {}\nremote-as = 64501\nhold-time-s = 90\n\
         import = \"all\"\n[rib]\nlook-up-socket = {:?}\n",
        path("admin"),
        listener.local_addr().unwrap().port(),
        path("look-up")
    );
    std::fs::write(path("speaker.toml"), text).unwrap();
    let isp = |id: &str, asn: u32| Isp { id: id.parse().unwrap(), asns: vec![asn], prefixes: Vec::new() };
    let mut directory = Directory::new(vec![isp("live", 64510), isp("dumped", 64511)]);
    directory.set_rib(read_rib(std::io::Cursor::new(dump())).unwrap());
    let live = Arc::new(Live::new(&path("look-up")));
    let finder = Finder { directory: Arc::new(RwLock::new(directory)), live: Some(live.clone()) };

    until(&finder, "10.0.0.1", "dumped").await;
    assert!(live.problem().is_some());
    let mut speaker = Speaker::start(&path("speaker.toml"));
    let session = router(&listener).await;
    until(&finder, "10.0.0.1", "live").await;
    assert_eq!(live.problem(), None);
    assert_eq!(finder.find("11.0.0.1".parse().unwrap()).await, None, "neither knows it");

    // Killed, not stopped: whoever asks must not wait for it.
    speaker.0.kill().unwrap();
    until(&finder, "10.0.0.1", "dumped").await;
    drop((speaker, session));
    let _speaker = Speaker::start(&path("speaker.toml"));
    let _session = router(&listener).await;
    until(&finder, "10.0.0.1", "live").await;
}
