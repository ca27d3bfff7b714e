//! The MSS that both ends of a connection hear, where the private link's MTU is less than theirs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use lab::{FAR4, FAR6, Lab, PATIENCE, Plane, possible};

/// Counts SYN segments with these sizes at the door of a namespace.
fn count(lab: &Lab, short: &str) {
    let text = "table inet sizes {\ncounter full { }\ncounter clamped { }\n\
                chain door { type filter hook prerouting priority raw; policy accept;\n\
                tcp flags syn tcp option maxseg size { 1460, 1440 } counter name full\n\
                tcp flags syn tcp option maxseg size { 1360, 1340 } counter name clamped\n}\n}\n";
    lab.exec_with(short, &["nft", "-f", "-"], text);
}

fn counted(lab: &Lab, short: &str, name: &str) -> u64 {
    let text = lab.exec(short, &["nft", "list", "counter", "inet", "sizes", name]);
    let words: Vec<&str> = text.split_whitespace().collect();
    words[words.iter().position(|word| *word == "packets").unwrap() + 1].parse().unwrap()
}

#[test]
fn it_is_what_fits_both_ways_when_it_is_asked_for() {
    if !possible() {
        return;
    }
    let lab = Lab::new(Plane::Kernel);
    lab.ip("isp", "link set priv0 mtu 1400");
    count(&lab, "far");
    count(&lab, "sub");
    let forwarder = lab.forwarder("");
    forwarder.health.wait(FAR4, true);
    forwarder.health.wait(FAR6, true);
    let at = [FAR4, FAR6].map(|address| SocketAddr::new(address.parse::<IpAddr>().unwrap(), 7443));
    let _listening = lab.within("far", move || at.map(|at| TcpListener::bind(at).unwrap())).join().unwrap();
    let connect = || {
        lab.within("sub", move || at.map(|at| TcpStream::connect_timeout(&at, PATIENCE).unwrap())).join().unwrap();
    };
    let both = |name: &str| (counted(&lab, "far", name), counted(&lab, "sub", name));
    connect();
    assert_eq!((both("full"), both("clamped")), ((2, 2), (0, 0)));
    lab.write(&lab.text("").replace("[data-plane]\n", "[data-plane]\nclamp-mss = true\n"));
    lab.reload().unwrap();
    assert!(lab.ask(&["guard", "show"]).status.success());
    connect();
    assert_eq!((both("full"), both("clamped")), ((2, 2), (2, 2)));
}
