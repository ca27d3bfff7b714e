//! Who is asked whose an address is, in which order, and what happens when one of them fails (A7): configured prefixes,
//! the speaker's live routes, the dump, the address's name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use cloakway_types::AddressMapBuilder;
use facilitation::config::{Isp, ReverseConfig};
use facilitation::isp::{Directory, Finder};
use facilitation::live::Live;
use facilitation::reverse::Reverse;
use look_up_wire::{Answer, Question, Verdict};
use mrt_wire::{Asn, Whose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// What the speaker says; `None`: nothing at all.
type Says = Arc<Mutex<Option<Verdict>>>;

struct Sources {
    finder: Finder,
    speaker: Says,
    /// Questions to the speaker and to the resolver.
    asked: Arc<[AtomicUsize; 2]>,
}

/// `10.0.0.0/24` is isp-a's by configuration. By AS, isp-b is the speaker's, isp-c the dump's; the name of every address is
/// isp-d's.
fn isps() -> Vec<Isp> {
    let isp = |id: &str, asn: Option<u32>, prefixes: &[&str], suffixes: &[&str]| Isp {
        id: id.parse().unwrap(),
        asns: asn.into_iter().collect(),
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        host_suffixes: suffixes.iter().map(|suffix| (*suffix).to_owned()).collect(),
    };
    vec![
        isp("isp-a", None, &["10.0.0.0/24"], &[]),
        isp("isp-b", Some(64501), &[], &[]),
        isp("isp-c", Some(64502), &[], &[]),
        isp("isp-d", None, &[], &["isp-d.example"]),
    ]
}

async fn speak(listener: UnixListener, says: Says, asked: Arc<[AtomicUsize; 2]>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (says, asked) = (says.clone(), asked.clone());
        tokio::spawn(async move {
            let mut question = [0; look_up_wire::QUESTION];
            while stream.read_exact(&mut question).await.is_ok() {
                asked[0].fetch_add(1, Ordering::SeqCst);
                let said = *says.lock().unwrap();
                let Some(verdict) = said else { continue };
                let mut answer = Vec::new();
                Answer { id: Question::decode(&question).unwrap().id, verdict }.encode(&mut answer);
                // Who has given up has gone.
                let _ = stream.write_all(&answer).await;
            }
        });
    }
}

/// A resolver by which `10.A.B.C` is called `hA-B-C.isp-d.example`, and that leads back.
fn resolve(socket: &UdpSocket, asked: &[AtomicUsize; 2]) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        asked[1].fetch_add(1, Ordering::SeqCst);
        let (mut labels, mut at) = (Vec::new(), 12);
        while buffer[at] != 0 {
            let end = at + 1 + usize::from(buffer[at]);
            labels.push(String::from_utf8_lossy(&buffer[at + 1..end]).to_lowercase());
            at = end;
        }
        let kind = buffer[at + 2];
        let question_end = (at + 5).min(length);
        let data = match (kind, labels.as_slice()) {
            (12, [d, c, b, a, ..]) if a == "10" => {
                let mut name = Vec::new();
                for label in [format!("h{b}-{c}-{d}").as_str(), "isp-d", "example"] {
                    name.push(u8::try_from(label.len()).unwrap());
                    name.extend_from_slice(label.as_bytes());
                }
                name.push(0);
                Some(name)
            }
            (1, [host, ..]) => {
                let octets: Vec<u8> = host[1..].split('-').map(|octet| octet.parse().unwrap()).collect();
                Some([&[10][..], &octets].concat())
            }
            _ => None,
        };
        let mut answer = buffer[..question_end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
        if let Some(data) = data {
            answer.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(&data);
        }
        socket.send_to(&answer, from).unwrap();
    }
}

fn sources(folder: &Path, dump: &[(&str, Whose)]) -> Sources {
    let asked: Arc<[AtomicUsize; 2]> = Arc::default();
    let speaker = Says::default();
    let path = folder.join("look-up");
    tokio::spawn(speak(UnixListener::bind(&path).unwrap(), speaker.clone(), asked.clone()));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let resolver: SocketAddr = socket.local_addr().unwrap();
    let counted = asked.clone();
    // It ends with the program.
    std::thread::spawn(move || resolve(&socket, &counted));
    let mut directory = Directory::new(isps());
    let mut builder = AddressMapBuilder::default();
    for (prefix, whose) in dump {
        builder.push(prefix.parse().unwrap(), *whose);
    }
    directory.set_rib(builder.build(|_, _| Whose::Disputed));
    let config = ReverseConfig { resolvers: vec![resolver], limit: Duration::from_secs(5), cache: 100 };
    let finder = Finder {
        directory: Arc::new(RwLock::new(directory)),
        live: Some(Arc::new(Live::new(&path))),
        reverse: Some(Arc::new(Reverse::new(&config, &isps()).unwrap())),
    };
    Sources { finder, speaker, asked }
}

impl Sources {
    async fn find(&self, client: &str) -> Option<String> {
        self.finder.find(client.parse().unwrap()).await.map(|isp| isp.to_string())
    }

    fn asked(&self) -> [usize; 2] {
        [self.asked[0].swap(0, Ordering::SeqCst), self.asked[1].swap(0, Ordering::SeqCst)]
    }

    /// The speaker is asked again at once, in the place of a second after it failed.
    fn forget_failures(&mut self, folder: &Path) {
        self.finder.live = Some(Arc::new(Live::new(&folder.join("look-up"))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_source_that_knows_decides_and_nobody_after_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let dump = [
        ("10.0.0.0/16", Whose::Origin(Asn(64502))),
        ("10.1.0.0/16", Whose::Origin(Asn(64502))),
        ("10.2.0.0/16", Whose::Origin(Asn(64999))),
        ("10.3.0.0/16", Whose::Disputed),
    ];
    let mut sources = sources(folder.path(), &dump);
    let prefix = "10.0.0.0/8".parse().unwrap();
    let origin = |asn| Some(Verdict::Origin { prefix, asn });
    for (says, client, expected, speaks, why) in [
        (origin(64501), "10.0.0.1", Some("isp-a"), false, "a configured prefix before everything"),
        (origin(64501), "10.1.0.1", Some("isp-b"), true, "live routes before the dump"),
        (origin(64999), "10.1.0.2", None, true, "a live route of somebody else decides, whatever the dump says"),
        (Some(Verdict::Disputed { prefix }), "10.1.0.3", None, true, "so does a disputed one"),
        (Some(Verdict::NoRoute), "10.1.0.4", Some("isp-c"), true, "no live route: the dump"),
        (Some(Verdict::NotReady), "10.1.0.5", Some("isp-c"), true, "a speaker that has not all routes: the dump"),
        (None, "10.1.0.6", Some("isp-c"), true, "a speaker that does not answer: the dump"),
        (Some(Verdict::NoRoute), "10.2.0.1", None, true, "the dump's route of somebody else decides"),
        (Some(Verdict::NoRoute), "10.3.0.1", None, true, "a prefix of several in the dump is nobody's"),
    ] {
        *sources.speaker.lock().unwrap() = says;
        loop {
            let found = sources.find(client).await;
            let asked = sources.asked();
            let decided = says.is_some_and(|verdict| verdict != Verdict::NotReady);
            let must = speaks && decided;
            let slow = decided && sources.finder.live.as_ref().unwrap().problem().is_some();
            sources.forget_failures(folder.path());
            // On a busy machine the speaker may take longer than an order waits for it.
            if !slow {
                assert_eq!(found.as_deref(), expected, "{why}");
                // One that was not waited for may be counted late.
                let [speaker, resolver] = asked;
                assert!(resolver == 0 && (speaker == 0 || speaks), "{why}: {asked:?}");
                assert!(speaker > 0 || !must, "{why}: {asked:?}");
                break;
            }
        }
    }
    for says in [Some(Verdict::NoRoute), Some(Verdict::NotReady), None] {
        *sources.speaker.lock().unwrap() = says;
        let client = format!("10.4.0.{}", says.map_or(1, |verdict| if verdict == Verdict::NoRoute { 2 } else { 3 }));
        assert_eq!(sources.find(&client).await.as_deref(), Some("isp-d"), "nobody knows it: its name, {says:?}");
        let [speaker, resolver] = sources.asked();
        assert!(resolver >= 2, "{speaker} {resolver}");
        sources.forget_failures(folder.path());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_the_speaker_is_left_alone_for_a_while_and_then_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let sources = sources(folder.path(), &[("10.1.0.0/16", Whose::Origin(Asn(64502)))]);
    assert_eq!(sources.find("10.1.0.1").await.as_deref(), Some("isp-c"));
    assert!(sources.finder.live.as_ref().unwrap().problem().is_some(), "and that is told");
    let prefix = "10.0.0.0/8".parse().unwrap();
    *sources.speaker.lock().unwrap() = Some(Verdict::Origin { prefix, asn: 64501 });
    let back = tokio::time::timeout(Duration::from_secs(60), async {
        while sources.find("10.1.0.1").await.as_deref() != Some("isp-b") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    back.await.expect("the speaker decides again");
    assert_eq!(sources.finder.live.as_ref().unwrap().problem(), None);
}
