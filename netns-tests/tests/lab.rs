//! The lab itself: what it brings up it can watch, disturb and remove.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::command::eventually;
use netns_tests::lab::{Lab, down, run_directory};
use netns_tests::netns::Netns;
use netns_tests::topology::Topology;
use netns_tests::{capture, may_make_namespaces};

const SMALL: &str = r#"
about = "two hosts and a cable"
[[namespaces]]
name = "left"
role = "asks"
[[namespaces]]
name = "right"
role = "answers"
loopback = ["192.0.2.129/32"]
[[links]]
name = "cable"
kind = "public"
offloads = false
a = { namespace = "left", interface = "eth0", addresses = ["192.0.2.1/30", "2001:db8::1/64"] }
b = { namespace = "right", interface = "eth0", addresses = ["192.0.2.2/30", "2001:db8::2/64"] }
[[links]]
name = "dark"
kind = "private"
a = { namespace = "left", interface = "dark0", addresses = ["192.0.2.5/30"] }
b = { namespace = "right", interface = "dark0", kernel-address = false }
[[secrets]]
name = "word"
kind = "hex"
[[processes]]
name = "sleeper"
namespace = "right"
program = "/bin/sh"
arguments = ["-c", "cat {{dir}}/words.txt; exec sleep 600"]
templates = ["words.txt"]
ready = { log = "the word is" }
"#;

fn lab(prefix: &str, folder: &Path) -> Result<Lab> {
    fs::write(folder.join("topology.toml"), SMALL)?;
    fs::write(folder.join("words.txt"), "the word is {{content:secrets/word}}\n")?;
    Lab::up(Topology::load(&folder.join("topology.toml"))?, prefix, &mut |_| ())
}

fn prefix(test: &str) -> String {
    format!("{test}{}-", std::process::id())
}

#[test]
fn hosts_talk_are_captured_and_everything_goes_on_drop() -> Result<()> {
    if !may_make_namespaces("hosts_talk_are_captured_and_everything_goes_on_drop") {
        return Ok(());
    }
    let (prefix, folder) = (prefix("a"), tempfile::tempdir()?);
    let lab = lab(&prefix, folder.path())?;
    lab.must("left", &["ping", "-c1", "-W2", "192.0.2.2"])?;
    lab.must("left", &["ping", "-c1", "-W2", "2001:db8::2"])?;
    ensure!(!lab.exec("left", &["ping", "-c1", "-W1", "192.0.2.6"])?.ok(), "the dark end has no kernel address");
    lab.end_captures()?;
    let seen = capture::read(&lab.capture("cable"))?;
    let flows = || seen.iter().filter_map(capture::Packet::flow);
    ensure!(flows().any(|flow| flow.protocol == 1 && flow.touches("192.0.2.2/32".parse().unwrap())));
    ensure!(flows().any(|flow| flow.protocol == 58 && flow.touches("2001:db8::2/128".parse().unwrap())));
    let dark = capture::read(&lab.capture("dark"))?;
    ensure!(dark.iter().all(|packet| packet.frame[6..12] == dark[0].frame[6..12]), "the dark end sent something");
    let cable = lab.topology().link("cable").unwrap().clone();
    ensure!(lab.counters(&cable)?.sent > 1);

    lab.plug("cable", false)?;
    ensure!(!lab.exec("left", &["ping", "-c1", "-W1", "192.0.2.2"])?.ok(), "the cable is out");
    lab.plug("cable", true)?;
    eventually(Duration::from_secs(30), "the cable is in again", || {
        lab.must("left", &["ping", "-c1", "-W1", "192.0.2.2"])
    })?;

    drop(lab);
    ensure!(!run_directory(&prefix).exists());
    ensure!(!Netns::named(format!("{prefix}left")).exists() && !Netns::named(format!("{prefix}right")).exists());
    Ok(())
}

#[test]
fn processes_are_killed_and_started_again() -> Result<()> {
    if !may_make_namespaces("processes_are_killed_and_started_again") {
        return Ok(());
    }
    let (prefix, folder) = (prefix("b"), tempfile::tempdir()?);
    let lab = lab(&prefix, folder.path())?;
    let word = fs::read_to_string(lab.run_directory().join("secrets/word"))?;
    ensure!(lab.log("sleeper").contains(&word));
    ensure!(lab.alive("sleeper"));
    lab.kill9("sleeper")?;
    ensure!(!lab.alive("sleeper"));
    ensure!(lab.kill9("sleeper").is_err());
    lab.restart("sleeper")?;
    ensure!(lab.alive("sleeper"));
    let error = lab.restart("nobody").unwrap_err().to_string();
    ensure!(error.contains("no process `nobody`"), "{error}");
    Ok(())
}

#[test]
fn laboratories_live_side_by_side_and_what_a_crash_left_is_removed() -> Result<()> {
    if !may_make_namespaces("laboratories_live_side_by_side_and_what_a_crash_left_is_removed") {
        return Ok(());
    }
    let (one, two, folder) = (prefix("c"), prefix("d"), tempfile::tempdir()?);
    let first = lab(&one, folder.path())?;
    let error = lab(&one, folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("is being used by process"), "{error}");

    // As if the program had died: nobody drops the second, and its owner is gone.
    let second = lab(&two, folder.path())?;
    let mut dead = Command::new("true").spawn()?;
    dead.wait()?;
    second.keep()?;
    fs::remove_file(run_directory(&two).join("kept"))?;
    fs::write(run_directory(&two).join("owner"), dead.id().to_string())?;
    let again = lab(&two, folder.path())?;
    again.must("left", &["ping", "-c1", "-W2", "192.0.2.2"])?;
    again.keep()?;
    let error = lab(&two, folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("cargo lab down"), "{error}");
    ensure!(down(&two)?);
    ensure!(!down(&two)?);

    first.must("left", &["ping", "-c1", "-W2", "192.0.2.2"])?;
    Ok(())
}

#[test]
fn a_process_that_does_not_get_ready_is_named_with_the_end_of_its_log() -> Result<()> {
    if !may_make_namespaces("a_process_that_does_not_get_ready_is_named_with_the_end_of_its_log") {
        return Ok(());
    }
    let (prefix, folder) = (prefix("e"), tempfile::tempdir()?);
    let broken = SMALL.replace("cat {{dir}}/words.txt; exec sleep 600", "echo no such luck; exit 1");
    fs::write(folder.path().join("topology.toml"), broken)?;
    fs::write(folder.path().join("words.txt"), "")?;
    let topology = Topology::load(&folder.path().join("topology.toml"))?;
    let error = Lab::up(topology, &prefix, &mut |_| ()).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("sleeper") && error.contains("it ended") && error.contains("no such luck"), "{error}");
    ensure!(!run_directory(&prefix).exists(), "what was up is removed");
    Ok(())
}
