//! What becomes of packets when the process is killed, as the operator chose it, with captures on every interface (A2).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other tests need more of it")]
mod lab;
#[macro_use]
mod planes;

use lab::{FAR4, FAR6, Lab, Plane, SUB4, SUB6, eventually, possible};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

on_data_planes! {
    [kernel Kernel, tcx Tcx, xdp Xdp, user User]
    with_keep_the_allowed_goes_on_and_nothing_else,
    with_drop_nothing_passes_until_a_forwarder_runs_again,
}

on_data_planes! {
    [on_the_kernel Kernel, on_tcx Tcx, on_xdp Xdp]
    the_choice_is_changed_by_a_reload_without_a_packet_lost,
    with_drop_what_says_that_it_runs_is_put_back,
}

fn choose(lab: &Lab, choice: &str) {
    lab.write(&lab.text("").replace("[data-plane]\n", &format!("[data-plane]\non-crash = \"{choice}\"\n")));
}

/// How many packets of the streams came to the far end.
fn arrived(lab: &Lab) -> u64 {
    lab.seen("far", 7000) + lab.seen("far", 7001)
}

/// Sends ten packets of each IP version from the private side to the subscriber; they are counted at port 7010.
fn back(lab: &Lab) {
    lab.send("far", FAR4, SUB4, 7010, 10);
    lab.send("far", FAR6, SUB6, 7010, 10);
}

fn with_keep_the_allowed_goes_on_and_nothing_else(plane: Plane) {
    // The user data plane forwards nothing without its process, and `check` refuses the word.
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    choose(&lab, "keep");
    if plane == Plane::User {
        let refused = lab.ask(&["run"]);
        assert!(!refused.status.success());
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(why.contains("data-plane.on-crash: the user data plane forwards nothing without its process"), "{why}");
        return;
    }
    let watch = lab.watch();
    let mut running = lab.start();
    lab.both_healthy();
    let streams = lab.streams();
    streams.more_answers(50);
    running.signal(Signal::SIGKILL);
    running.wait();
    streams.more_answers(300);
    // Of what is refused, nothing passes with nobody to look after it.
    let before = lab.counter("from-private-other");
    lab.send("far", FAR4, "192.0.2.1", 7011, 20);
    lab.counted("from-private-other", before, 20);
    assert_eq!(lab.seen("net", 7011), 0);
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    watch.clean(&lab);
}

fn with_drop_nothing_passes_until_a_forwarder_runs_again(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    choose(&lab, "drop");
    let watch = lab.watch();
    let mut running = lab.start();
    lab.both_healthy();
    let shown = lab.ask(&["show", "data-plane", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(rows[0]["on_crash"], "drop", "{rows}");
    let streams = lab.streams();
    streams.more_answers(50);
    back(&lab);
    eventually("the way back is open", || (lab.seen("sub", 7010) == 20).then_some(()));

    running.signal(Signal::SIGKILL);
    running.wait();
    eventually("nothing passes any more", || {
        let before = arrived(&lab);
        streams.more_sent(200);
        (arrived(&lab) == before).then_some(())
    });
    let before = arrived(&lab);
    let back_before = lab.seen("sub", 7010);
    streams.more_sent(500);
    back(&lab);
    if plane != Plane::User {
        // Those of the private side are among them.
        eventually("it is counted", || (lab.counter("unattended") >= 520).then_some(()));
    }
    assert_eq!((arrived(&lab), lab.seen("sub", 7010)), (before, back_before));

    let running = lab.start();
    lab.both_healthy();
    streams.more_answers(100);
    drop(running);
    let _ = streams.end();
    watch.clean(&lab);
}

fn the_choice_is_changed_by_a_reload_without_a_packet_lost(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    let _running = lab.healthy("");
    let streams = lab.streams();
    for choice in ["drop", "keep", "drop", "keep"] {
        streams.more_answers(50);
        choose(&lab, choice);
        lab.reload().unwrap();
        assert!(lab.ask(&["guard", "show"]).status.success());
        streams.more_answers(50);
        let tables = lab.exec("isp", &["nft", "list", "tables"]);
        assert_eq!(tables.contains("cloakway_attended"), choice == "drop", "{tables}");
    }
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    assert_eq!((lab.leaked(), lab.counter("unattended")), (0, 0));
}

fn with_drop_what_says_that_it_runs_is_put_back(plane: Plane) {
    if !possible() {
        return;
    }
    let mut lab = Lab::new(plane);
    lab.echoes();
    choose(&lab, "drop");
    let running = lab.start();
    lab.both_healthy();
    while !running.health.words().is_empty() {}
    let owner = running.children().into_iter().find(|(_, command)| command.contains("nft -i")).unwrap().0;
    kill(Pid::from_raw(owner), Signal::SIGKILL).unwrap();
    let (_, reason) = running.health.wait(FAR4, false);
    assert!(reason.contains("cloakway_attended") && reason.contains("was not as wanted and is put back"), "{reason}");
    running.health.wait(FAR4, true);
    let streams = lab.streams();
    streams.more_answers(50);
    for (sent, answered) in streams.end() {
        assert_eq!(sent, answered);
    }
    // Another one cannot take it away.
    let tables = lab.exec("isp", &["nft", "list", "tables"]);
    let table = tables.lines().find(|table| table.contains("cloakway_attended")).unwrap();
    let refused = std::process::Command::new("ip")
        .args(["netns", "exec", &lab.ns("isp"), "nft", &format!("delete {table}")])
        .output()
        .unwrap();
    assert!(!refused.status.success());
}
