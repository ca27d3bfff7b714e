//! The systemd unit: the forwarder does its work as a user of its own with the rights that the unit gives, and no others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use std::os::unix::fs::{PermissionsExt as _, chown};

use lab::{FAR4, Lab, Plane, SUB4, eventually, possible};

const UNIT: &str = include_str!("../../configs/systemd/forwarder.service");

/// Nobody's.
const USER: u32 = 64_143;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    it_forwards_with_the_rights_of_its_unit,
}

fn setting(name: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

/// The capabilities of the unit, as `setpriv` has them; with that which the unit says is needed for raw sockets.
fn capabilities(plane: Plane) -> String {
    assert_eq!(setting("AmbientCapabilities"), setting("CapabilityBoundingSet"));
    let named =
        setting("AmbientCapabilities")[0].split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    let mut all: Vec<String> = std::iter::once("-all".to_owned()).chain(named.map(|name| format!("+{name}"))).collect();
    if plane == Plane::User {
        assert!(UNIT.contains("# The data plane user takes CAP_NET_RAW too, in both lines"));
        all.push("+net_raw".to_owned());
    }
    all.join(",")
}

fn it_forwards_with_the_rights_of_its_unit(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let config = lab.write(&lab.text("").replace("[data-plane]\n", "[data-plane]\non-crash = \"drop\"\n"));
    for path in [lab.folder(), &lab.bpf()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    // Whoever built this may have put it where others do not come.
    let binary = lab.folder().join("forwarder");
    std::fs::copy(env!("CARGO_BIN_EXE_forwarder"), &binary).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (user, capabilities) = (USER.to_string(), capabilities(plane));
    let words = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set",
        &capabilities,
        "--inh-caps",
        &capabilities,
        "--ambient-caps",
        &capabilities,
    ];
    let running = lab.start_by(&words, &binary, &config);
    running.health.wait(FAR4, true);
    lab.both_healthy();
    let shown = lab.ask(&["show", "data-plane", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let wanted = match plane {
        Plane::Kernel => "kernel",
        Plane::Tcx | Plane::Xdp => "bpf",
        Plane::User => "user",
    };
    assert!(rows.as_array().unwrap().iter().all(|row| row["data_plane"] == wanted), "{rows}");
    let streams = lab.streams();
    streams.more_answers(50);
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    lab.send("sub", SUB4, FAR4, 7010, 10);
    eventually("packets pass", || (lab.seen("far", 7010) == 10).then_some(()));
    lab.reload().unwrap();
}

#[test]
fn what_the_fast_path_needs_is_not_taken_away_again() {
    let lines = setting("SystemCallFilter");
    let taken = lines.iter().position(|line| line.starts_with('~') && line.contains("@privileged")).unwrap();
    let given = lines.iter().rposition(|line| *line == "bpf").unwrap();
    assert!(given > taken, "systemd goes through the lines in their order: {lines:?}");
    assert!(setting("RestrictAddressFamilies")[0].contains("AF_NETLINK"));
    assert!(setting("ReadWritePaths")[0].contains("/sys/fs/bpf"));
    let folders = include_str!("../../configs/systemd/cloakway-tmpfiles.conf");
    let through = folders.find("z /sys/fs/bpf 0711 ").unwrap();
    assert!(through < folders.find("d /sys/fs/bpf/cloakway 0700 cloakway-forwarder ").unwrap());
}
