//! Reverse DNS against a real resolver (unbound), on loopback.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use facilitation::config::{Isp, ReverseConfig};
use facilitation::isp::{Directory, Finder};
use facilitation::reverse::Reverse;

const ZONES: &str = r#"
local-zone: "10.in-addr.arpa." static
local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." static
local-zone: "isp-a.example." static
local-zone: "isp-b.example." static
local-zone: "evil-isp-a.example." static
local-data: "1.0.0.10.in-addr.arpa. PTR dsl-1.isp-a.example."
local-data: "dsl-1.isp-a.example. A 10.0.0.1"
local-data: "dsl-1.isp-a.example. AAAA 2001:db8::1"
local-data: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR DSL-1.ISP-A.example."
local-data: "2.0.0.10.in-addr.arpa. PTR dsl-1.isp-a.example."
local-data: "3.0.0.10.in-addr.arpa. PTR nowhere.isp-a.example."
local-data: "4.0.0.10.in-addr.arpa. PTR dsl-4.evil-isp-a.example."
local-data: "dsl-4.evil-isp-a.example. A 10.0.0.4"
local-data: "5.0.0.10.in-addr.arpa. PTR five.isp-a.example."
local-data: "5.0.0.10.in-addr.arpa. PTR five.isp-b.example."
local-data: "five.isp-a.example. A 10.0.0.5"
local-data: "five.isp-b.example. A 10.0.0.5"
local-data: "6.0.0.10.in-addr.arpa. PTR www.shop.example."
local-data: "6.0.0.10.in-addr.arpa. PTR six.isp-b.example."
local-data: "six.isp-b.example. A 10.9.9.9"
local-data: "six.isp-b.example. A 10.0.0.6"
local-data: "8.0.0.10.in-addr.arpa. PTR isp-b.example.stranger.test."
"#;

/// A resolver that does not outlive its test.
struct Unbound {
    process: Child,
    address: SocketAddr,
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Unbound {
    /// `None` where there is none, and that is no failure.
    fn start(folder: &Path) -> Option<Self> {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        // More names than an address of one client should have.
        let many: String =
            (0..9).map(|n| format!("local-data: \"7.0.0.10.in-addr.arpa. PTR n{n}.isp-a.example.\"\n")).collect();
        let text = format!(
            "server:\ninterface: 127.0.0.1\nport: {}\ndo-daemonize: no\nusername: \"\"\nchroot: \"\"\ndirectory: {folder:?}\n\
             pidfile: \"\"\nuse-syslog: no\nlogfile: \"\"\nmodule-config: \"iterator\"\nnum-threads: 1\n\
             {ZONES}{many}remote-control:\ncontrol-enable: no\n",
            address.port()
        );
        let file = folder.join("unbound.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("unbound");
        command.arg("-d").arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(process) => Some(Self { process, address }),
            Err(error) => {
                cloakway_testing::skip(format_args!("there is no unbound here ({error}; Debian: apt install unbound)"));
                None
            }
        }
    }
}

fn isps() -> Vec<Isp> {
    let isp = |id: &str, suffix: &str, prefixes: Vec<ipnet::IpNet>| Isp {
        id: id.parse().unwrap(),
        asns: Vec::new(),
        prefixes,
        host_suffixes: vec![suffix.to_owned()],
    };
    vec![isp("isp-a", "isp-a.example", Vec::new()), isp("isp-b", "isp-b.example", vec!["10.1.0.0/16".parse().unwrap()])]
}

fn finder(resolvers: Vec<SocketAddr>, limit: Duration) -> Finder {
    let config = ReverseConfig { resolvers, limit, cache: 100 };
    let reverse = Reverse::new(&config, &isps()).unwrap();
    let directory = Arc::new(RwLock::new(Directory::new(isps())));
    Finder { directory, live: None, reverse: Some(Arc::new(reverse)) }
}

async fn found(finder: &Finder, client: &str) -> Option<String> {
    finder.find(client.parse().unwrap()).await.map(|isp| isp.to_string())
}

#[tokio::test]
async fn a_registered_name_that_leads_back_decides_and_any_doubt_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let Some(unbound) = Unbound::start(folder.path()) else { return };
    let by_name = finder(vec![unbound.address], Duration::from_secs(2));
    let up = tokio::time::timeout(Duration::from_secs(20), async {
        while found(&by_name, "10.0.0.1").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    up.await.expect("unbound answers");
    for (client, expected, why) in [
        ("10.0.0.1", Some("isp-a"), "its name leads back"),
        ("::ffff:10.0.0.1", Some("isp-a"), "the same, mapped"),
        ("2001:db8::1", Some("isp-a"), "IPv6, and letters of another case"),
        ("10.0.0.2", None, "the name leads to another address"),
        ("10.0.0.3", None, "the name leads nowhere"),
        ("10.0.0.4", None, "the name only ends in the same letters"),
        ("10.0.0.5", None, "two members"),
        ("10.0.0.6", Some("isp-b"), "one member's name beside a stranger's"),
        ("10.0.0.7", None, "too many names"),
        ("10.0.0.8", None, "the member's name is in the middle"),
        ("10.0.0.9", None, "no name"),
        ("10.1.0.9", Some("isp-b"), "a configured prefix comes first"),
    ] {
        assert_eq!(found(&by_name, client).await.as_deref(), expected, "{client}: {why}");
    }
    // What was answered is kept: the resolver may go.
    let address = unbound.address;
    drop(unbound);
    assert_eq!(found(&by_name, "10.0.0.1").await.as_deref(), Some("isp-a"));
    // Another resolver does the work where the first is dead.
    let folder = tempfile::tempdir().unwrap();
    let Some(second) = Unbound::start(folder.path()) else { return };
    let both = finder(vec![address, second.address], Duration::from_secs(4));
    let up = tokio::time::timeout(Duration::from_secs(20), async {
        while found(&both, "10.0.0.1").await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    up.await.expect("the second resolver is asked");
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_delays_nobody_beyond_the_limit() {
    // Bound, and never read.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let by_name = finder(vec![silent.local_addr().unwrap()], Duration::from_millis(200));
    let begun = Instant::now();
    assert_eq!(found(&by_name, "10.0.0.1").await, None);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // Many at once: beyond what is asked at a time, nobody waits at all.
    let begun = Instant::now();
    let all: Vec<_> = (0..500_u16)
        .map(|n| {
            let by_name = by_name.clone();
            tokio::spawn(async move { by_name.find(Ipv4Addr::from(0x0a00_0000 + u32::from(n)).into()).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), None);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
