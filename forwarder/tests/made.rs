//! Private links that the forwarder makes itself: VXLAN for real, over IPv4 and IPv6; what the kernel lacks is named (A1, A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "other tests need more of it")]
mod lab;

use std::process::Command;

use lab::{FAR4, FAR6, Lab, Plane, eventually, possible};
use nix::sys::signal::Signal;

/// A lab whose private link is to be made over `und0`, and made already at the far end; the lines that describe ours.
fn lab(plane: Plane, local: &str, remote: &str) -> (Lab, String) {
    let lab = Lab::new(plane);
    lab.ip("isp", "link del priv0");
    lab.underlay();
    for command in [
        format!("link add vx0 type vxlan id 42 local {remote} remote {local} dstport 4789 dev und0"),
        "addr add 203.0.113.200/32 dev vx0".into(),
        "addr add 192.0.2.250/30 dev vx0".into(),
        "addr add 2001:db8:c10a::200/128 dev vx0 nodad".into(),
        "addr add 2001:db8:0:ff::2/64 dev vx0 nodad".into(),
        "link set vx0 up".into(),
        "route add default via 192.0.2.249 src 203.0.113.200".into(),
        "route add default via 2001:db8:0:ff::1 src 2001:db8:c10a::200".into(),
    ] {
        lab.ip("far", &command);
    }
    let lines = format!(
        "interface = \"vx0\"\nkind = \"vxlan\"\nunderlay = \"und0\"\nvni = 42\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
         addresses = [\"192.0.2.249/30\", \"2001:db8:0:ff::1/64\"]\n"
    );
    (lab, lines)
}

fn a_vxlan_is_made_kept_and_left_in_place(plane: Plane, local: &str, remote: &str, mtu: u32) {
    if !possible() {
        return;
    }
    let (mut lab, lines) = lab(plane, local, remote);
    lab.echoes();
    let watch = lab.watch();
    let text = lab.text("").replace("interface = \"priv0\"\n", &lines);
    lab.write(&text);
    let mut forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    eventually("IPv6 is healthy too", || {
        let shown = lab.ask(&["show", "health", "--json"]);
        let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        rows.as_array()?.iter().all(|row| row["healthy"] == true).then_some(())
    });
    assert!(lab.exec("isp", &["ip", "link", "show", "vx0"]).contains(&format!("mtu {mtu} ")));
    let streams = lab.streams();
    streams.more_answers(100);
    let counts = streams.end();
    assert!(counts.iter().all(|(sent, answered)| sent == answered), "{counts:?}");
    if plane != Plane::Kernel {
        assert!(lab.fast_path("to-private") > 100, "it took the slow path");
    }

    // What does not fit is told of, with the MTU that would: 28 octets of headers for IPv4, 48 for IPv6.
    for (address, headers) in [(FAR4, 28), (FAR6, 48)] {
        let ping = |size: u32| {
            let size = size.to_string();
            let output = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &lab.ns("sub"),
                    "ping",
                    "-n",
                    "-M",
                    "do",
                    "-c",
                    "1",
                    "-W",
                    "5",
                    "-s",
                    &size,
                    address,
                ])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(ping(mtu - headers).contains(" 0% packet loss"), "{address} of {mtu}");
        let refusal = ping(mtu - headers + 1).to_lowercase();
        assert!(refusal.contains(&format!("mtu={mtu}")) || refusal.contains(&format!("mtu = {mtu}")), "{refusal}");
    }

    // A tunnel has no carrier: silence tells. Nothing of it takes another way.
    let streams = lab.streams();
    streams.more_answers(20);
    lab.ip("isp", "link set und0 down");
    forwarder.health.wait(FAR4, false);
    streams.more_sent(50);
    lab.ip("isp", "link set und0 up");
    lab.ip("isp", "addr replace 2001:db8:0:fd::1/64 dev und0 nodad");
    forwarder.health.wait(FAR4, true);
    streams.more_answers(20);
    // Taken away by somebody, it is made again.
    lab.ip("isp", "link del vx0");
    forwarder.health.wait(FAR4, false);
    forwarder.health.wait(FAR4, true);
    streams.more_answers(20);
    streams.end();
    watch.clean(&lab);

    // Another network by a reload, and back; then the process goes and the link stays, to be adopted.
    let index = |lab: &Lab| lab.exec("isp", &["cat", "/sys/class/net/vx0/ifindex"]);
    lab.write(&text.replace("vni = 42", "vni = 43"));
    lab.reload().unwrap();
    assert!(lab.exec("isp", &["ip", "-d", "link", "show", "vx0"]).contains("vxlan id 43 "));
    lab.write(&text);
    lab.reload().unwrap();
    forwarder.health.wait(FAR4, true);
    let before = index(&lab);
    forwarder.signal(Signal::SIGTERM);
    assert!(forwarder.wait().success());
    assert_eq!(index(&lab), before);
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    assert_eq!(index(&lab), before, "it was made anew");
}

#[test]
fn over_ipv4_on_the_kernel() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Kernel, "10.77.0.1", "10.77.0.2", 1450);
}

#[test]
fn over_ipv4_on_tcx() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Tcx, "10.77.0.1", "10.77.0.2", 1450);
}

#[test]
fn over_ipv4_on_xdp() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Xdp, "10.77.0.1", "10.77.0.2", 1450);
}

#[test]
fn over_ipv6_on_the_kernel() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Kernel, "2001:db8:0:fd::1", "2001:db8:0:fd::2", 1430);
}

#[test]
fn over_ipv6_on_tcx() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Tcx, "2001:db8:0:fd::1", "2001:db8:0:fd::2", 1430);
}

#[test]
fn over_ipv6_on_xdp() {
    a_vxlan_is_made_kept_and_left_in_place(Plane::Xdp, "2001:db8:0:fd::1", "2001:db8:0:fd::2", 1430);
}

#[test]
fn what_cannot_be_made_is_said_and_a_reload_to_it_refused() {
    if !possible() {
        return;
    }
    let (lab, lines) = lab(Plane::Kernel, "10.77.0.1", "10.77.0.2");
    let text = |lines: &str| lab.text("").replace("interface = \"priv0\"\n", lines);
    lab.write(&text(&lines));
    let forwarder = lab.start();
    forwarder.health.wait(FAR4, true);
    lab.write(&text(&lines.replace("und0", "und9")));
    assert!(lab.reload().unwrap_err().contains("link vx0: there is no interface und9 to carry it"));
    lab.ip("isp", "link add other0 type vxlan id 7 dstport 4790 dev und0");
    lab.write(&text(&lines.replace("vx0", "other0")));
    assert!(lab.reload().unwrap_err().contains("other0 is there and not the vxlan that is described"));
    // What this kernel has not is named by its option; what it has comes up.
    let vlan = "interface = \"tag0\"\nkind = \"vlan\"\nunderlay = \"und0\"\nid = 7\n";
    let gre =
        "interface = \"gre0\"\nkind = \"gre\"\nunderlay = \"und0\"\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\n";
    let key = lab.file("wireguard.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n");
    let wireguard = format!(
        "interface = \"wg0\"\nkind = \"wireguard\"\nunderlay = \"und0\"\nprivate-key-file = {key:?}\n\
         peer-key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoint = \"10.77.0.2:51820\"\n"
    );
    for (lines, name, option) in [
        (vlan, "tag0", "CONFIG_VLAN_8021Q"),
        (gre, "gre0", "CONFIG_NET_IPGRE"),
        (&wireguard, "wg0", "CONFIG_WIREGUARD"),
    ] {
        lab.write(&text(lines));
        match lab.reload() {
            Err(refusal) => assert!(refusal.contains(&format!("its option {option} is missing")), "{refusal}"),
            Ok(_) => assert!(lab.exec("isp", &["ip", "link", "show", name]).contains(",UP")),
        }
    }
    lab.write(&text(&lines));
    lab.reload().unwrap();
    lab.ping("sub", FAR4);
}
