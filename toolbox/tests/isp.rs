//! An ISP in small: Kea leases addresses, ocserv gives others to who comes by a tunnel and is let in by FreeRADIUS, with the
//! toolbox between the two; nftables hides them all behind a few ports, and each of a thousand purchases from behind the NAT
//! is attributed, held against what each client says it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod running;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use access::{Netns, Running, Toolbox, eventually, may_make_namespaces, within};
use cloakway_testing::have;
use running::SECRET;
use running::radius::{FreeRadius, HOME_SECRET, LETS_IN, free_port};

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
        && have("ocserv", "ocserv")
        && have("openconnect", "openconnect")
        && have("freeradius", "freeradius")
}

/// Who comes by a tunnel.
const TUNNELS: [&str; 3] = ["alice@isp.example", "bob@isp.example", "carol@isp.example"];

/// A subscriber: from where, by which address, and who it says it is.
struct Buyer<'n> {
    netns: &'n Netns,
    address: Ipv4Addr,
    own: String,
}

/// Ends whatever runs in a namespace, such as the processes that ocserv has beside its first one.
struct Inhabited<'n>(&'n Netns);

impl Drop for Inhabited<'_> {
    fn drop(&mut self) {
        let Ok(output) = Command::new("ip").args(["netns", "pids", self.0.name()]).output() else { return };
        for pid in String::from_utf8_lossy(&output.stdout).lines() {
            let _ = Command::new("kill").args(["-9", pid]).output();
        }
    }
}

/// ocserv in `edge`, which asks and tells `access` and `accounting`.
fn ocserv(edge: &Netns, folder: &Path, access: SocketAddr, accounting: &str) -> Running {
    let dir = folder.display();
    let file = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    // Processes of ocserv that are nobody in particular look at files here.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let names: Vec<String> = (0..TUNNELS.len()).map(|n| format!("10.79.{n}.1")).collect();
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    file("ocserv.pem", issued.cert.pem());
    file("ocserv.key", issued.signing_key.serialize_pem());
    file("servers", format!("127.0.0.1 {SECRET}\n"));
    file(
        "radcli.conf",
        format!(
            "nas-identifier ocserv\nauthserver {access}\nacctserver {accounting}\nservers {dir}/servers\n\
             dictionary /etc/radcli/dictionary\ndefault_realm\nradius_timeout 20\nradius_retries 3\nbindaddr *\n"
        ),
    );
    file(
        "ocserv.conf",
        format!(
            "auth = \"radius[config={dir}/radcli.conf,groupconfig=false]\"\nacct = \"radius[config={dir}/radcli.conf]\"\n\
             tcp-port = 4443\nrun-as-user = nobody\nrun-as-group = daemon\nsocket-file = {dir}/ocserv.sock\n\
             server-cert = {dir}/ocserv.pem\nserver-key = {dir}/ocserv.key\nisolate-workers = false\nmax-clients = 16\n\
             keepalive = 300\ndevice = vpns\nipv4-network = 100.65.0.0\nipv4-netmask = 255.255.255.0\n\
             stats-report-time = 5\nuse-occtl = false\ncookie-timeout = 300\nauth-timeout = 120\npid-file = {dir}/ocserv.pid\n"
        ),
    );
    let mut command = edge.command("ocserv");
    let nas = Running::start(
        command.args(["-f", "-d", "1", "-c"]).arg(folder.join("ocserv.conf")),
        &folder.join("ocserv.log"),
    );
    eventually("ocserv is there", || {
        let listening = edge.must(&["ss", "-Hltn", "sport = :4443"]);
        if listening.is_empty() {
            Err(std::fs::read_to_string(folder.join("ocserv.log")).unwrap_or_default())
        } else {
            Ok(())
        }
    });
    nas
}

/// Comes by a tunnel; the address that it is given there.
fn tunnel(home: &Netns, folder: &Path, number: usize) -> (Running, Ipv4Addr) {
    let (name, dir) = (TUNNELS[number], folder.display());
    let address = folder.join(format!("tunnel-{number}"));
    let script = folder.join(format!("up-{number}"));
    let text = format!(
        "#!/bin/sh\n[ \"$reason\" = connect ] || exit 0\nip addr add \"$INTERNAL_IP4_ADDRESS/32\" dev \"$TUNDEV\"\n\
         ip link set \"$TUNDEV\" mtu 1300 up\nip route add 203.0.113.9/32 dev \"$TUNDEV\" src \"$INTERNAL_IP4_ADDRESS\"\n\
         echo \"$INTERNAL_IP4_ADDRESS\" > {at}.new && mv {at}.new {at}\n",
        at = address.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    // The password comes by a file: it is read once.
    let said = folder.join("password");
    std::fs::write(&said, "hello\n").unwrap();
    let connect = format!(
        "exec openconnect --protocol=anyconnect --user={name} --passwd-on-stdin --no-dtls --no-system-trust \
         --cafile={dir}/ocserv.pem --script={} https://10.79.{number}.1:4443 < {}",
        script.display(),
        said.display()
    );
    let log = folder.join(format!("tunnel-{number}.log"));
    let client = Running::start(home.command("sh").args(["-c", &connect]), &log);
    let given = eventually("an address of the tunnel", || {
        let text = std::fs::read_to_string(&address).map_err(|_| std::fs::read_to_string(&log).unwrap_or_default())?;
        text.trim().parse().map_err(|error| format!("{text}: {error}"))
    });
    (client, given)
}

/// Leases of Kea's files, by a reader of the test's own.
fn leased(folder: &Path) -> BTreeMap<Ipv4Addr, String> {
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
    let far: Vec<Netns> = (0..TUNNELS.len()).map(|number| Netns::new(&format!("far{number}"))).collect();
    for (number, far) in far.iter().enumerate() {
        far.join("f0", &edge, &format!("f{number}"));
        far.ip(&format!("addr add 10.79.{number}.2/24 dev f0"));
        edge.ip(&format!("addr add 10.79.{number}.1/24 dev f{number}"));
    }
    let _inhabited: Vec<Inhabited<'_>> = far.iter().chain([&edge]).map(Inhabited).collect();
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

    let home_server = FreeRadius::start_in(Some(edge.name()), [127, 0, 0, 1].into(), "", LETS_IN);
    let access: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let secret = folder.path().join("home.secret");
    std::fs::write(&secret, HOME_SECRET).unwrap();
    let sources = format!(
        "[radius.proxy]\nlisten-authentication = [\"{access}\"]\nwait-ms = 10000\n[[radius.proxy.homes]]\nname = \"home\"\n\
         accounting = \"{}\"\nauthentication = \"{}\"\nsecret-file = \"{}\"\n[[sources.kea]]\nname = \"kea\"\nlease-file = \"{}/leases4.csv\"\nsubscriber = [\"hw-address\"]\n\
         [[sources.conntrack]]\nname = \"nat\"\n",
        home_server.accounting,
        home_server.authentication,
        secret.display(),
        folder.path().display()
    );
    let toolbox = Toolbox::start(Some(&edge), "\"100.64.0.0/16\", \"100.65.0.0/24\", \"203.0.113.0/24\"", &sources);
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
    let tunnelled = tempfile::tempdir().unwrap();
    let _nas = ocserv(&edge, tunnelled.path(), access, toolbox.radius());
    let tunnels: Vec<(Running, Ipv4Addr)> =
        far.iter().enumerate().map(|(number, far)| tunnel(far, tunnelled.path(), number)).collect();
    let mut buyers: Vec<Buyer<'_>> = Vec::new();
    for (place, (address, own)) in subscribers.into_iter().enumerate() {
        buyers.push(Buyer { netns: &home, address, own });
        if place % 3 == 0 {
            let number = place / 3 % TUNNELS.len();
            let (far, (_, address), own) = (&far[number], &tunnels[number], TUNNELS[number]);
            buyers.push(Buyer { netns: far, address: *address, own: own.to_owned() });
        }
    }
    for (_, address) in &tunnels {
        let bound = || toolbox.bound().get(&format!("{address}/32")).cloned();
        eventually("the toolbox knows who is in the tunnel", || {
            bound().ok_or_else(|| toolbox.show("bindings").to_string())
        });
    }

    let shop = within(&world, || TcpListener::bind(SocketAddr::from(([203, 0, 113, 9], 443))).unwrap());
    let mut done = 0;
    while done < purchases {
        let now = AT_ONCE.min(purchases - done);
        let mut open = Vec::new();
        let mut questions = Vec::new();
        for Buyer { netns, address, own } in (done..done + now).map(|n| &buyers[n * 7 % buyers.len()]) {
            let mut buyer = within(netns, || {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::from((*address, 0)).into()).unwrap();
                socket.connect(&SocketAddr::from(([203, 0, 113, 9], 443)).into()).unwrap();
                TcpStream::from(socket)
            });
            let (seen_by_shop, seen) = shop.accept().unwrap();
            buyer.write_all(format!("{own}\n").as_bytes()).unwrap();
            seen_by_shop.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut said = BufReader::new(seen_by_shop);
            let mut says = String::new();
            said.read_line(&mut says).unwrap();
            let says = says.trim().to_owned();
            assert_ne!(seen.ip(), IpAddr::V4(*address), "translated");
            questions.push((says, seen.ip().to_string(), seen.port()));
            open.push((buyer, said));
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
