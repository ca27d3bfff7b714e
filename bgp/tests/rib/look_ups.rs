//! Whose an address is, asked by other roles; and what the table `rib` of the file can not be.

use std::time::{Duration, Instant};

use bgp::config::Config;
use bgp_wire::{Family, Message, Update};
use cloakway_runtime::config;
use look_up_wire::Verdict;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::{Router, Speaker, route, soon};

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

#[tokio::test]
async fn a_router_that_sends_no_end_of_rib_has_told_all_when_it_has_been_quiet() {
    let mut a = Router::new(64501, 32).await;
    let speaker = Speaker::start(&a.table("import = \"all\""));
    a.establish().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 1).await;
    let began = Instant::now();
    while speaker.whose("10.0.0.1").await == Verdict::NotReady {
        a.send(&Message::KeepAlive).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((Duration::from_secs(4)..Duration::from_secs(30)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(speaker.whose("11.0.0.1").await, Verdict::NoRoute);
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
