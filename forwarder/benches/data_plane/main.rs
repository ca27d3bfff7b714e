//! The data planes beside bare kernel forwarding, in one run.
//!
//! `cargo bench -p forwarder` (root). `ROUNDS=n` (7): best and median are told; `LAPS=n` (4): how many million frames a
//! round sends. `ONLY` takes parts, with commas between them: planes, scale, cores, vxlan, tcp (takes `iperf3`), down.
//! `ROWS=xdp` leaves the rows out without that word; bare forwarding stays.
//! Generator, forwarder and sink share the core, so that a ratio says less than the forwarder gained.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench tells, and ends when it cannot"
)]

#[path = "../../tests/lab/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod lab;
mod rate;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::large::{FIRST_PRIVATE, FIRST_SUBSCRIBER as FIRST, LIMITS, PRIVATE, SUBSCRIBERS};
use lab::{FAR4, Forwarder, Lab, Plane, eventually, possible};
use rate::{Load, Rate, compiled, measure};

/// Many subscribers' addresses, behind the edge router.
const MANY: &str = "100.64.0.0/12";

/// Subscribers who use a large policy.
const SOURCES: u32 = 200_000;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn wanted(part: &str) -> bool {
    std::env::var("ONLY").map_or(true, |only| only.split(',').any(|word| word == part))
}

/// Whether `ROWS` has a word of it.
fn asked_for((name, plane, _): &Row) -> bool {
    plane.is_none() || std::env::var("ROWS").map_or(true, |rows| rows.split(',').any(|word| name.contains(word)))
}

/// From the subscribers to the one private address.
fn load(sources: u32, cores: usize) -> Load {
    let far: Ipv4Addr = FAR4.parse().unwrap();
    Load { sources, stride: 1, first_source: FIRST + 1, destinations: 1, first_destination: far.into(), cores }
}

/// What stands in a row: what forwards, `None` for bare kernel forwarding, and its limits.
type Row = (&'static str, Option<Plane>, &'static str);

const BARE: Row = ("bare kernel forwarding", None, "");
const ROWS: [Row; 7] = [
    BARE,
    ("kernel", Some(Plane::Kernel), ""),
    ("kernel, metered", Some(Plane::Kernel), LIMITS),
    ("bpf, tcx", Some(Plane::Tcx), ""),
    ("bpf, tcx, metered", Some(Plane::Tcx), LIMITS),
    ("bpf, xdp", Some(Plane::Xdp), ""),
    ("bpf, xdp, metered", Some(Plane::Xdp), LIMITS),
];

/// The metered ones of `planes`, behind bare forwarding.
fn metered(planes: &[Plane]) -> impl Iterator<Item = Row> {
    let rows = ROWS
        .into_iter()
        .filter(|(_, plane, limits)| !limits.is_empty() && plane.is_some_and(|of| planes.contains(&of)))
        .filter(asked_for);
    [BARE].into_iter().chain(rows)
}

/// A lab whose frames come as from a wire, with subscribers behind the edge router.
fn wired(plane: Option<Plane>) -> Lab {
    // The sink is an XDP program in any case.
    let mut lab = Lab::new(Plane::Xdp);
    lab.plane = plane.unwrap_or(Plane::Kernel);
    lab.subscribers = format!("{MANY:?}, ");
    for interface in ["edge0", "priv0"] {
        lab.exec("isp", &["ethtool", "-K", interface, "gro", "on"]);
    }
    quiet(&lab);
    lab.ip("isp", &format!("route add {MANY} via 198.51.100.70"));
    lab
}

/// What the tests count by would cost the kernel's path, and no other.
fn quiet(lab: &Lab) {
    for short in ["sub", "isp", "far", "net"] {
        lab.exec(short, &["nft", "flush", "ruleset"]);
    }
}

/// Lets it forward by `interface`.
fn forwards(lab: &Lab, (_, plane, limits): Row, interface: &str) -> Option<Forwarder> {
    let running = plane.map(|_| {
        lab.write(&lab.text(limits).replace("\"priv0\"", &format!("{interface:?}")));
        let forwarder = lab.start();
        forwarder.health.wait(FAR4, true);
        forwarder
    });
    if running.is_none() {
        lab.exec("isp", &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]);
        lab.ip("isp", &format!("route add {FAR4}/32 dev {interface}"));
        lab.exec("isp", &["ping", "-n", "-c", "1", "-W", "5", FAR4]);
    } else {
        eventually("routes", || lab.exec("isp", &["ip", "route", "get", FAR4]).contains(interface).then_some(()));
    }
    running
}

fn cell(line: &mut String, rate: Rate, beside: f64) {
    let _ = write!(line, "  {:7.2} ({:5.2})  {:5.2} x", rate.best, rate.median, rate.best / beside);
}

fn planes(object: &[u8]) {
    println!("millions of 64-octet frames a second on one core: best (median), and its ratio to bare forwarding\n");
    println!("{:24} {:>22} {:>28} {:>30}", "", "1 source", "4096 sources", "200000 sources");
    let mut bare = [0.0; 3];
    for row in ROWS.into_iter().filter(asked_for) {
        let (name, plane, _) = row;
        let lab = wired(plane);
        let _running = forwards(&lab, row, "priv0");
        let mut line = format!("{name:24}");
        for (at, sources) in [1, 4096, SOURCES].into_iter().enumerate() {
            let rate = measure(&lab, object, load(sources, 1));
            if plane.is_none() {
                bare[at] = rate.best;
            }
            cell(&mut line, rate, bare[at]);
        }
        println!("{line}");
    }
}

/// A large policy beside one with one of each.
fn scale(object: &[u8]) {
    println!(
        "\n{PRIVATE} private prefixes, {SUBSCRIBERS} subscriber prefixes, {SOURCES} sources: M/s, beside one of each\n"
    );
    for row in metered(&[Plane::Kernel, Plane::Tcx, Plane::Xdp]).skip(1) {
        let (name, plane, _) = row;
        let small = {
            let lab = wired(plane);
            let _running = forwards(&lab, row, "priv0");
            measure(&lab, object, load(1, 1))
        };
        let mut lab = wired(plane);
        lab.subscribers = (0..SUBSCRIBERS).fold(String::new(), |mut text, n| {
            let _ = write!(text, "\"{}/27\", ", Ipv4Addr::from(FIRST + n * 32));
            text
        });
        let extra = (0..PRIVATE).fold(String::new(), |mut text, n| {
            let prefix = Ipv4Addr::from(FIRST_PRIVATE + n);
            let _ = writeln!(
                text,
                "[[private-prefixes]]\nprefix = \"{prefix}/32\"\nlink = \"main\"\nnext-hop = \"192.0.2.250\""
            );
            text
        });
        lab.ip("far", "addr flush dev priv0");
        lab.ip("far", "addr add 192.0.2.250/30 dev priv0");
        lab.write(&lab.text(&(extra + LIMITS)));
        let running = lab.start();
        running.health.wait(&Ipv4Addr::from(FIRST_PRIVATE + PRIVATE - 1).to_string(), true);
        let large = Load {
            sources: SOURCES,
            stride: 5,
            first_source: FIRST,
            destinations: PRIVATE,
            first_destination: FIRST_PRIVATE,
            cores: 1,
        };
        let mut line = format!("{name:24}");
        cell(&mut line, small, small.best);
        cell(&mut line, measure(&lab, object, large), small.best);
        println!("{line}");
    }
}

/// Two generators, two queues, two cores, beside one.
fn cores(object: &[u8]) {
    println!("\n4096 sources: M/s on one core, and on two\n");
    for row in metered(&[Plane::Kernel, Plane::Tcx, Plane::Xdp]) {
        let (name, plane, _) = row;
        let lab = wired(plane);
        for (short, interface) in [("sub", "eth0"), ("isp", "edge0"), ("isp", "priv0"), ("far", "priv0")] {
            lab.exec(short, &["ethtool", "-L", interface, "rx", "2", "tx", "2"]);
        }
        let _running = forwards(&lab, row, "priv0");
        let one = measure(&lab, object, load(4096, 1));
        let mut line = format!("{name:24}");
        cell(&mut line, one, one.best);
        cell(&mut line, measure(&lab, object, load(4096, 2)), one.best);
        println!("{line}");
    }
}

/// The private link is a tunnel over the interface that it was.
fn vxlan(object: &[u8]) {
    println!("\na VXLAN private link, 4096 sources: M/s, beside bare forwarding into it\n");
    let mut bare = 0.0;
    for row in metered(&[Plane::Kernel, Plane::Tcx, Plane::Xdp]) {
        let (name, plane, _) = row;
        let lab = wired(plane);
        for (short, own, other) in [("isp", "192.0.2.249", "192.0.2.250"), ("far", "192.0.2.250", "192.0.2.249")] {
            lab.ip(short, &format!("link add vx0 type vxlan id 7 local {own} remote {other} dstport 4789 dev priv0"));
            lab.ip(short, "link set vx0 up");
        }
        lab.ip("isp", "addr add 192.0.2.241/30 dev vx0");
        lab.ip("far", "addr add 192.0.2.242/30 dev vx0");
        lab.exec("far", &["ip", "route", "replace", "default", "via", "192.0.2.241", "src", FAR4]);
        let _running = forwards(&lab, row, "vx0");
        let rate = measure(&lab, object, load(4096, 1));
        if plane.is_none() {
            bare = rate.best;
        }
        let mut line = format!("{name:24}");
        cell(&mut line, rate, bare);
        println!("{line}");
    }
}

/// Gone with the value, however the bench ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goodput of one connection with all offloads, as virtual machines and containers have it.
fn tcp() {
    if Command::new("iperf3").arg("--version").output().is_err() {
        println!("\ntcp: left out: there is no iperf3");
        return;
    }
    println!("\nTCP, one connection, offloads on: Gbit/s best (median), towards the private address and back\n");
    let mut bare = [0.0; 2];
    for row in metered(&[Plane::Kernel, Plane::Tcx]) {
        let (name, plane, _) = row;
        let lab = Lab::new(plane.unwrap_or(Plane::Kernel));
        quiet(&lab);
        let _running = forwards(&lab, row, "priv0");
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &lab.ns("far"), "iperf3", "--server", "--bind", FAR4]).stdout(Stdio::null());
        let _server = Server(server.spawn().unwrap());
        let mut line = format!("{name:24}");
        for (at, back) in [(0, false), (1, true)] {
            let mut rates = Vec::new();
            for _ in 0..number("ROUNDS", 7) {
                let mut command = vec!["iperf3", "--client", FAR4, "--time", "2", "--json"];
                command.extend(back.then_some("--reverse"));
                // The server may still be busy with the last one.
                rates.push(eventually("a figure of iperf3", || {
                    let output =
                        Command::new("ip").args(["netns", "exec", &lab.ns("sub")]).args(&command).output().unwrap();
                    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
                    answer["end"]["sum_received"]["bits_per_second"].as_f64().map(|bits| bits / 1e9)
                }));
            }
            rates.sort_by(f64::total_cmp);
            let rate = Rate { best: rates[rates.len() - 1], median: rates[rates.len() / 2] };
            if plane.is_none() {
                bare[at] = rate.best;
            }
            cell(&mut line, rate, bare[at]);
        }
        println!("{line}");
    }
}

/// From the word that takes the far end's link down to the line on the health socket.
fn down() {
    let lab = Lab::new(Plane::Kernel);
    quiet(&lab);
    let text = lab.text("").replace("hold-down-ms = 1000", "hold-down-ms = 100");
    lab.write(&text.replace("probe-interval-ms = 500", "probe-interval-ms = 100").replace("rise = 2", "rise = 1"));
    let running = lab.start();
    let mut links = lab.batch("far");
    let mut took = Vec::new();
    for n in 0..number("TIMES", 100) {
        running.health.wait(FAR4, true);
        std::thread::sleep(Duration::from_millis(50 + n as u64 * 7 % 50));
        let start = Instant::now();
        writeln!(links.stdin.as_mut().unwrap(), "link set priv0 down").unwrap();
        let (at, _) = running.health.wait(FAR4, false);
        took.push((at - start).as_secs_f64() * 1e3);
        writeln!(links.stdin.as_mut().unwrap(), "link set priv0 up").unwrap();
    }
    let _ = links.kill();
    let _ = links.wait();
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "\nlink down to the health socket, {} times, ms: least {:.2}, p50 {:.2}, p99 {:.2}, most {:.2}",
        took.len(),
        at(0),
        at(50),
        at(99),
        at(100)
    );
}

fn main() {
    if !possible() {
        return;
    }
    let object = compiled();
    for (name, part) in [("planes", planes as fn(&[u8])), ("scale", scale), ("cores", cores), ("vxlan", vxlan)] {
        if wanted(name) {
            part(&object);
        }
    }
    if wanted("tcp") {
        tcp();
    }
    if wanted("down") {
        down();
    }
}
