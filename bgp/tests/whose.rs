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
use cloakway_runtime::tls::{self, Identity};
use facilitation::config::Isp;
use facilitation::isp::{Directory, Finder, read_rib};
use facilitation::live::{Live, Place};
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

/// An authority that the test makes, and what it issues.
struct Authority {
    folder: std::path::PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: rcgen::Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.folder.join(format!("{name}.{end}"));
        std::fs::write(at("pem"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        Identity { certificate: at("pem"), key: at("key") }
    }
}

#[tokio::test]
async fn another_host_asks_under_tls_with_its_certificate_and_nobody_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (ours, strangers) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "strangers"));
    let server = ours.issue("bgp-speaker.example");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = format!(
        "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"10.0.0.99\"\n\
         [[peers]]\nname = \"upstream\"\naddress = \"127.0.0.1\"\nport = {}\nremote-as = 64501\nhold-time-s = 90\n\
         import = \"all\"\n[rib]\n[rib.look-up-tcp]\nlisten = [\"{address}\"]\ncertificate = {:?}\nkey = {:?}\n\
         client-ca = {:?}\n",
        path("admin"),
        listener.local_addr().unwrap().port(),
        server.certificate,
        server.key,
        ours.folder.join("ca.pem"),
    );
    std::fs::write(path("speaker.toml"), text).unwrap();
    let live = |name: &str, ca: &Authority, identity: Option<&Identity>| {
        let config = tls::client(&ca.folder.join("ca.pem"), identity).unwrap();
        Arc::new(Live::at(Place::Tcp(address, Some((name.to_owned(), Arc::new(config))))))
    };
    let us = ours.issue("facilitation.example");
    let asking = live("bgp-speaker.example", &ours, Some(&us));
    let isp = |id: &str, asn: u32| {
        let (asns, prefixes, host_suffixes) = (vec![asn], Vec::new(), Vec::new());
        Isp { id: id.parse().unwrap(), asns, prefixes, host_suffixes }
    };
    let mut directory = Directory::new(vec![isp("live", 64510), isp("dumped", 64511)]);
    directory.set_rib(read_rib(std::io::Cursor::new(dump())).unwrap());
    let finder = Finder { directory: Arc::new(RwLock::new(directory)), live: Some(asking.clone()), reverse: None };

    until(&finder, "10.0.0.1", "dumped").await;
    assert!(asking.stale_for().is_some());
    let mut speaker = Speaker::start(&path("speaker.toml"));
    let session = router(&listener).await;
    until(&finder, "10.0.0.1", "live").await;
    assert_eq!((asking.problem(), asking.stale_for()), (None, None));

    let stranger = strangers.issue("facilitation.example");
    for (what, refused) in [
        ("no certificate", live("bgp-speaker.example", &ours, None)),
        ("a stranger's", live("bgp-speaker.example", &ours, Some(&stranger))),
        ("another name", live("other.example", &ours, Some(&us))),
        ("another authority", live("bgp-speaker.example", &strangers, Some(&us))),
        ("no TLS", Arc::new(Live::at(Place::Tcp(address, None)))),
    ] {
        assert_eq!(refused.ask("10.0.0.1".parse().unwrap()).await, None, "{what}");
        assert!(refused.problem().is_some(), "{what}");
    }
    // Somebody who connects and says nothing keeps nobody else out.
    let _silent = TcpStream::connect(address).await.unwrap();
    until(&finder, "10.0.0.1", "live").await;

    speaker.0.kill().unwrap();
    until(&finder, "10.0.0.1", "dumped").await;
    drop((speaker, session));
    assert!(asking.stale_for().is_some());
    let _speaker = Speaker::start(&path("speaker.toml"));
    let _session = router(&listener).await;
    until(&finder, "10.0.0.1", "live").await;
    assert_eq!(asking.stale_for(), None);
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
    let isp = |id: &str, asn: u32| Isp {
        id: id.parse().unwrap(),
        asns: vec![asn],
        prefixes: Vec::new(),
        host_suffixes: Vec::new(),
    };
    let mut directory = Directory::new(vec![isp("live", 64510), isp("dumped", 64511)]);
    directory.set_rib(read_rib(std::io::Cursor::new(dump())).unwrap());
    let live = Arc::new(Live::new(&path("look-up")));
    let finder = Finder { directory: Arc::new(RwLock::new(directory)), live: Some(live.clone()), reverse: None };

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
