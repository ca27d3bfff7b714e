//! RADIUS under TLS (RFC 6614): against radsecproxy and FreeRADIUS as clients, and against clients that mean no good.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::tls::{self, Identity};
use cloakway_testing::have;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use running::radius::{FreeRadius, Program, answers, free_port, radclient};
use running::{PATIENCE, START, Toolbox, eventually, now_s};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use toolbox_wire::radius::{Packet, Request, build_request};

const RADSEC: &[u8] = b"radsec";
const ALICE: &str = "alice@isp.example";
const AT: &str = "198.51.100.70";

/// An authority, and those whom it knows.
struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn new(folder: &Path, file: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // OpenSSL takes a certificate for self-signed whose issuer has the same name.
        params.distinguished_name.push(rcgen::DnType::CommonName, file);
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(folder.join(file), params.self_signed(&key).unwrap().pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    /// Writes `FILE.pem` and `FILE.key`; gives the certificate's SHA-256.
    fn issue(&self, folder: &Path, file: &str, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        // FreeRADIUS reads years of two digits.
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        hex(&sha256(&[certificate.der()]))
    }
}

struct Lab {
    toolbox: Toolbox,
    radsec: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let authority = Authority::new(dir, "ca.pem");
        authority.issue(dir, "server", "127.0.0.1");
        authority.issue(dir, "edge", "edge.isp.example");
        authority.issue(dir, "nobody", "nobody.isp.example");
        let printed = authority.issue(dir, "printed", "printed.isp.example");
        Authority::new(dir, "other-ca.pem").issue(dir, "stranger", "edge.isp.example");
        let radsec = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = dir.display();
        let tables = format!(
            r#"[radius.radsec]
listen = ["{radsec}"]
certificate = "{dir}/server.pem"
key = "{dir}/server.key"
client-ca = "{dir}/ca.pem"
{more}
[[radius.radsec.clients]]
name = "edge-tls"
certificate-names = ["edge.isp.example"]
[[radius.radsec.clients]]
name = "printed"
certificate-sha256 = ["{printed}"]
"#
        );
        let toolbox = Toolbox::start_in(folder, "", "", &tables);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { toolbox, radsec, runtime }
    }

    async fn connect(&self, who: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
        let path = |name: &str| self.toolbox.path(name);
        let identity =
            who.map(|who| Identity { certificate: path(&format!("{who}.pem")), key: path(&format!("{who}.key")) });
        let config = tls::client(&path("ca.pem"), identity.as_ref()).unwrap();
        let stream = TcpStream::connect(self.radsec).await?;
        TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), stream).await
    }

    /// Whether the connection of `who` is closed before anything is answered on it.
    fn refused(&self, who: Option<&str>) -> bool {
        self.runtime.block_on(async {
            let Ok(mut stream) = self.connect(who).await else { return true };
            let _ = stream.write_all(&start("s", AT, 1)).await;
            closed(&mut stream).await
        })
    }

    fn count(&self, client: &str, what: &str) -> u64 {
        let sources = self.toolbox.show("sources").unwrap();
        let clients = sources["clients"].as_array().unwrap().clone();
        clients.iter().find(|of| of["client"] == json!(client)).unwrap()[what].as_u64().unwrap()
    }
}

/// Whether nothing more comes.
async fn closed(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("it is neither closed nor answered");
    !matches!(read, Ok(1..))
}

fn start(session: &str, address: &str, identifier: u8) -> Vec<u8> {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    let (address, at) = (address.octets(), now_s().to_be_bytes());
    let attributes: [(u8, &[u8]); 6] = [
        (40, &[0, 0, 0, START]),
        (44, session.as_bytes()),
        (1, ALICE.as_bytes()),
        (32, b"edge"),
        (8, &address),
        (55, &at),
    ];
    build_request(Request::Accounting, identifier, &attributes, RADSEC, [0; 16], false).unwrap()
}

/// One answer.
async fn answer(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let read = async {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.unwrap();
        let mut packet = head.to_vec();
        packet.resize(usize::from(u16::from_be_bytes([head[2], head[3]])), 0);
        stream.read_exact(&mut packet[4..]).await.unwrap();
        packet
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer")
}

#[test]
fn a_client_is_who_its_certificate_says() {
    let lab = Lab::start("");
    for (who, name) in [("edge", "edge-tls"), ("printed", "printed")] {
        lab.runtime.block_on(async {
            let mut stream = lab.connect(Some(who)).await.unwrap();
            let sent = start(who, AT, 7);
            stream.write_all(&sent).await.unwrap();
            let answer = answer(&mut stream).await;
            let packet = Packet::parse(&answer).unwrap();
            let asked = Packet::parse(&sent).unwrap().authenticator();
            packet.verify_response(&asked, RADSEC, false).unwrap();
            assert_eq!((packet.code(), packet.identifier()), (5, 7));
        });
        assert_eq!(lab.count(name, "acknowledged"), 1);
    }
    assert!(lab.toolbox.live(ALICE, AT));
    let bindings = lab.toolbox.show("bindings").unwrap();
    assert_eq!(bindings[0]["client"], json!("edge-tls"));
    assert!(lab.refused(Some("nobody")), "of our authority, and not known");
    assert!(lab.refused(Some("stranger")), "of another authority, with a name that is known");
    assert!(lab.refused(None), "without a certificate");
    assert_eq!(lab.toolbox.show("sources").unwrap()["dropped"]["unknown-client"], json!(1));
}

#[test]
fn many_packets_in_one_piece_and_one_in_many_pieces_are_told_apart() {
    let lab = Lab::start("");
    lab.runtime.block_on(async {
        let mut stream = lab.connect(Some("edge")).await.unwrap();
        let mut all = Vec::new();
        for n in 0..50_u8 {
            all.extend(start(&format!("s{n}"), &format!("198.51.100.{}", 65 + n % 60), n));
        }
        stream.write_all(&all).await.unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            seen.insert(answer(&mut stream).await[1]);
        }
        assert_eq!(seen, (0..50).collect());
        // As long as a packet may be, octet by octet over the places that matter.
        let text = [b'x'; 253];
        let attributes: Vec<(u8, &[u8])> =
            [(40, &[0, 0, 0, 9][..])].into_iter().chain(std::iter::repeat_n((18, &text[..]), 15)).collect();
        let mut long = build_request(Request::Accounting, 60, &attributes, RADSEC, [0; 16], false).unwrap();
        assert!(long.len() > 3800);
        let rest = long.split_off(30);
        for byte in long {
            stream.write_all(&[byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
        stream.write_all(&rest).await.unwrap();
        assert_eq!(answer(&mut stream).await[1], 60);
        // The watchdog of radsecproxy and others (RFC 5997).
        let probe = build_request(Request::StatusServer, 61, &[], RADSEC, [9; 16], true).unwrap();
        stream.write_all(&probe).await.unwrap();
        let here = answer(&mut stream).await;
        Packet::parse(&here).unwrap().verify_response(&[9; 16], RADSEC, true).unwrap();
        assert_eq!((here[0], here[1]), (2, 61));
    });
}

#[test]
fn a_client_that_loses_its_place_speaks_nonsense_or_nothing_is_let_go() {
    let lab = Lab::start("idle-s = 10\nconnections = 40\nconnections-per-client = 3");
    lab.runtime.block_on(async {
        for nonsense in [&[4, 1, 0, 19][..], &[4, 1, 0x10, 1], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = lab.connect(Some("edge")).await.unwrap();
            stream.write_all(nonsense).await.unwrap();
            assert!(closed(&mut stream).await);
        }
        // Begun, and not ended; and never begun.
        let mut slow = lab.connect(Some("edge")).await.unwrap();
        slow.write_all(&start("s", AT, 1)[..30]).await.unwrap();
        let mut idle = lab.connect(Some("edge")).await.unwrap();
        let third = lab.connect(Some("edge")).await.unwrap();
        let mut fourth = lab.connect(Some("edge")).await.unwrap();
        assert!(closed(&mut fourth).await, "more than this client may have");
        let mut other = lab.connect(Some("printed")).await.unwrap();
        other.write_all(&start("p", AT, 1)).await.unwrap();
        assert_eq!(answer(&mut other).await[1], 1, "others are not the worse for it");
        assert!(closed(&mut slow).await && closed(&mut idle).await);
        drop(third);
        // A wrong authenticator is no answer and no end.
        let mut again = connect_when_there_is_room(&lab).await;
        let mut wrong = start("w", AT, 1);
        wrong[6] ^= 1;
        again.write_all(&wrong).await.unwrap();
        again.write_all(&start("r", AT, 2)).await.unwrap();
        assert_eq!(answer(&mut again).await[1], 2);
    });
    // Clients that say nothing in TLS either.
    let held: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(lab.radsec).unwrap()).collect();
    lab.runtime.block_on(async {
        let mut stream = connect_when_there_is_room(&lab).await;
        stream.write_all(&start("h", AT, 9)).await.unwrap();
        assert_eq!(answer(&mut stream).await[1], 9);
    });
    drop(held);
}

/// The toolbox may still count a connection that was closed a moment ago.
async fn connect_when_there_is_room(lab: &Lab) -> TlsStream<TcpStream> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = lab.connect(Some("edge")).await.unwrap();
        let probe = build_request(Request::StatusServer, 1, &[], RADSEC, [9; 16], true).unwrap();
        let mut byte = [0; 64];
        if stream.write_all(&probe).await.is_ok() && matches!(stream.read(&mut byte).await, Ok(20..)) {
            return stream;
        }
        assert!(std::time::Instant::now() < end, "there is never room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn radsecproxy_brings_what_a_nas_says_by_udp() {
    if !have("radsecproxy", "radsecproxy") || !have("radclient", "freeradius-utils") {
        return;
    }
    let lab = Lab::start("");
    let dir = lab.toolbox.path("");
    let port = free_port();
    let path = dir.display();
    let config = format!(
        "ListenUDP 127.0.0.1:{port}\nLogLevel 3\nLogDestination file://{path}/radsecproxy.log\n\
         tls default {{\n    CACertificateFile {path}/ca.pem\n    CertificateFile {path}/edge.pem\n    \
         CertificateKeyFile {path}/edge.key\n}}\n\
         client nas {{\n    host 127.0.0.1\n    type udp\n    secret of-the-nas\n}}\n\
         server toolbox {{\n    host 127.0.0.1\n    port {}\n    type tls\n    tls default\n    secret radsec\n    \
         statusServer on\n}}\nrealm * {{\n    server toolbox\n    accountingServer toolbox\n}}\n",
        lab.radsec.port()
    );
    std::fs::write(dir.join("radsecproxy.conf"), config).unwrap();
    let mut command = Command::new("radsecproxy");
    command.args(["-f", "-c"]).arg(dir.join("radsecproxy.conf")).arg("-i").arg(dir.join("radsecproxy.pid"));
    let _proxy = Program::start(&mut command);
    let proxy: SocketAddr = ([127, 0, 0, 1], port).into();
    let log = || std::fs::read_to_string(dir.join("radsecproxy.log")).unwrap_or_default();
    let record = |status: &str| {
        format!(
            "Acct-Status-Type = {status}, Acct-Session-Id = \"1\", User-Name = \"{ALICE}\", NAS-Identifier = \"edge\", \
             Framed-IP-Address = {AT}, Proxy-State = 0x0102\n"
        )
    };
    eventually("radsecproxy brings a Start", || {
        radclient(&dir, proxy, "acct", "of-the-nas", &record("Start"), 1).answered.then_some(())
    });
    assert!(lab.toolbox.live(ALICE, AT), "{}", log());
    assert!(radclient(&dir, proxy, "acct", "of-the-nas", &record("Stop"), 4).answered, "{}", log());
    assert!(!lab.toolbox.live(ALICE, AT), "{}", log());
    // Its watchdog finds us in order.
    assert!(lab.count("edge-tls", "acknowledged") >= 2);
}

#[test]
fn freeradius_passes_accounting_on_under_tls() {
    if !have("freeradius", "freeradius") || !have("radclient", "freeradius-utils") {
        return;
    }
    let lab = Lab::start("");
    let dir = lab.toolbox.path("");
    let path = dir.display();
    let more = format!(
        r#"
home_server toolbox {{
    type = acct
    ipaddr = 127.0.0.1
    port = {}
    proto = tcp
    secret = radsec
    status_check = none
    response_window = 10
    tls {{
        certificate_file = {path}/edge.pem
        private_key_file = {path}/edge.key
        ca_file = {path}/ca.pem
        tls_min_version = "1.2"
        tls_max_version = "1.3"
        fragment_size = 8192
        include_length = yes
    }}
}}
home_server_pool toolbox {{
    type = fail-over
    home_server = toolbox
}}
realm isp.example {{
    acct_pool = toolbox
    nostrip
}}
"#,
        lab.radsec.port()
    );
    let sections = r#"
    preacct {
        update control {
            Proxy-To-Realm := "isp.example"
        }
    }
    accounting {
        ok
    }
"#;
    let free = FreeRadius::start(&more, sections);
    let record = format!(
        "Acct-Status-Type = Start, Acct-Session-Id = \"1\", User-Name = \"{ALICE}\", NAS-Identifier = \"edge\", \
         Framed-IP-Address = {AT}\n"
    );
    let secret = running::radius::HOME_SECRET;
    let said = radclient(&dir, free.accounting, "acct", secret, &record, 6);
    assert!(said.answered, "{} acknowledged: {}", lab.count("edge-tls", "acknowledged"), free.log());
    assert!(lab.toolbox.live(ALICE, AT), "{}", free.log());
    answers(&dir, free.accounting, secret);
}
