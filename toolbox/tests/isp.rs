//! An ISP in small: Kea leases addresses, nftables hides them behind a few ports, and each of a thousand purchases from
//! behind the NAT is attributed, held against what each client says it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use access::{Netns, Running, Toolbox, eventually, may_make_namespaces, within};
use cloakway_testing::have;

/// How many purchases there are, unless `TOOLBOX_PURCHASES` says otherwise.
const PURCHASES: usize = 1000;
/// Purchases under way at once; each is a connection on both sides.
const AT_ONCE: usize = 100;

fn peers() -> bool {
    may_make_namespaces()
        && have("kea-dhcp4", "kea-dhcp4-server")
        && have("perfdhcp", "kea-admin")
        && have("nft", "nftables")
        && have("curl", "curl")
}

/// Leases of Kea's files, by a reader of the test's own.
fn leased(folder: &std::path::Path) -> BTreeMap<Ipv4Addr, String> {
    let mut leases = BTreeMap::new();
    for suffix in [".2", ".1", ""] {
        let text = std::fs::read_to_string(folder.join(format!("leases4.csv{suffix}"))).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            if fields.len() < 11 {
                continue;
            }
            leases.insert(fields[0].parse().unwrap(), fields[1].to_owned());
        }
    }
    leases
}

#[test]
fn a_thousand_purchases_from_behind_the_nat_are_each_attributed_rightly() {
    if !peers() {
        return;
    }
    let purchases = std::env::var("TOOLBOX_PURCHASES").ok().and_then(|n| n.parse().ok()).unwrap_or(PURCHASES);
    let folder = tempfile::tempdir().unwrap();
    let (home, edge, world) = (Netns::new("homes"), Netns::new("edge"), Netns::new("shop"));
    home.join("h0", &edge, "e0");
    edge.join("e1", &world, "w0");
    edge.ip("addr add 100.64.0.1/16 dev e0");
    edge.ip("addr add 203.0.113.1/24 dev e1");
    home.ip("addr add 100.64.255.1/16 dev h0");
    world.ip("addr add 203.0.113.9/24 dev w0");
    home.ip("route add default via 100.64.0.1");
    edge.must(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    edge.must(&[
        "nft",
        "table ip nat { chain out { type nat hook postrouting priority srcnat; oifname \"e1\" meta l4proto { tcp, udp } masquerade to :2048-9999 random; }; }",
    ]);

    let config = format!(
        r#"{{"Dhcp4":{{"interfaces-config":{{"interfaces":["e0"]}},"lease-database":{{"type":"memfile","persist":true,
        "name":"{dir}/leases4.csv","lfc-interval":2}},"valid-lifetime":3600,
        "subnet4":[{{"id":1,"subnet":"100.64.0.0/16","pools":[{{"pool":"100.64.1.0-100.64.4.255"}}]}}],
        "loggers":[{{"name":"*","output_options":[{{"output":"stdout"}}],"severity":"INFO"}}]}}}}"#,
        dir = folder.path().display()
    );
    let path = folder.path().join("kea.json");
    std::fs::write(&path, config).unwrap();
    let mut command = edge.command("kea-dhcp4");
    command.arg("-c").arg(path).env("KEA_PIDFILE_DIR", folder.path()).env("KEA_LOCKFILE_DIR", "none");
    let log = folder.path().join("kea.log");
    let _kea = Running::start(&mut command, &log);
    eventually("Kea", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("DHCP4_STARTED") { Ok(()) } else { Err(text) }
    });

    let sources = format!(
        "[[sources.kea]]\nname = \"kea\"\nlease-file = \"{}/leases4.csv\"\nsubscriber = [\"hw-address\"]\n\
         [[sources.conntrack]]\nname = \"nat\"\n",
        folder.path().display()
    );
    let toolbox = Toolbox::start(Some(&edge), "\"100.64.0.0/16\", \"203.0.113.0/24\"", &sources);
    let mut perfdhcp = home.command("perfdhcp");
    drop(perfdhcp.args(["-4", "100.64.0.1", "-l", "h0", "-r", "50", "-n", "100", "-R", "60", "-W", "500000"]).output());
    let subscribers: Vec<(Ipv4Addr, String)> = eventually("leases", || {
        let leases = leased(folder.path());
        let known = toolbox.source("kea")["known"].as_u64().unwrap();
        let enough = leases.len() >= 20 && known == leases.len() as u64;
        if enough { Ok(leases.into_iter().collect()) } else { Err(format!("{} leased, {known} known", leases.len())) }
    });
    for (address, _) in &subscribers {
        home.ip(&format!("addr add {address}/32 dev h0"));
    }

    let shop = within(&world, || TcpListener::bind(SocketAddr::from(([203, 0, 113, 9], 443))).unwrap());
    let mut done = 0;
    while done < purchases {
        let now = AT_ONCE.min(purchases - done);
        let buyers: Vec<&(Ipv4Addr, String)> =
            (done..done + now).map(|n| &subscribers[n * 7 % subscribers.len()]).collect();
        let mut open = Vec::new();
        let mut questions = Vec::new();
        for (address, own) in buyers {
            let mut buyer = within(&home, || {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::from((*address, 0)).into()).unwrap();
                socket.connect(&SocketAddr::from(([203, 0, 113, 9], 443)).into()).unwrap();
                TcpStream::from(socket)
            });
            let (mut seen_by_shop, seen) = shop.accept().unwrap();
            buyer.write_all(own.as_bytes()).unwrap();
            seen_by_shop.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut said = [0; 17];
            seen_by_shop.read_exact(&mut said).unwrap();
            let says = String::from_utf8(said.to_vec()).unwrap();
            assert_ne!(seen.ip(), *address, "translated");
            questions.push((says, seen.ip().to_string(), seen.port()));
            open.push((buyer, seen_by_shop));
        }
        eventually("each is who it says", || {
            let answers = toolbox.verify_all(&questions);
            let wrong = answers.iter().zip(&questions).find(|(answer, _)| answer["live"] != true);
            match wrong {
                None if answers.len() == questions.len() => Ok(()),
                other => Err(format!("{other:?} of {} {}", answers.len(), toolbox.show("access"))),
            }
        });
        // The same address and port with somebody else's name.
        let strangers: Vec<_> = questions
            .iter()
            .zip(questions.iter().cycle().skip(1))
            .filter(|((own, ..), (other, ..))| own != other)
            .map(|((_, address, port), (other, ..))| (other.clone(), address.clone(), *port))
            .collect();
        for (answer, question) in toolbox.verify_all(&strangers).iter().zip(&strangers) {
            assert_eq!(answer["live"], false, "{question:?}");
        }
        done += now;
    }
    assert_eq!(done, purchases);
}
