//! The stories: each brings a laboratory up, tells what must happen in it and checks it from outside.

pub mod bgp_flow;
pub mod bgp_peers;
pub mod bgp_restart;
pub mod bgp_watch;
pub mod crash;
pub mod ecash;
pub mod isp;
pub mod purchase;
mod shown;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::evidence::{Evidence, Stopped};
use crate::lab::{Lab, run_directory};
use crate::topology::Topology;
use crate::{picture, say};

/// A story.
pub struct Story {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line on what it shows.
    pub about: &'static str,
    /// The topology that it plays in: a folder of `configs/lab`.
    pub topology: &'static str,
    tell: fn(&Lab, &mut Evidence) -> Result<Vec<String>, Stopped>,
}

/// All stories.
pub const ALL: &[Story] = &[
    Story {
        name: "purchase",
        about: "a subscriber buys twice over the private link; the link is cut and mended; nothing leaks",
        topology: "purchase",
        tell: purchase::tell,
    },
    Story {
        name: "bgp-peers",
        about: "our speaker beside BIRD, FRR, GoBGP, OpenBGPD and itself, in every kind of session that they have",
        topology: "bgp-peers",
        tell: bgp_peers::tell,
    },
    Story {
        name: "bgp-flow",
        about: "flow specifications towards BIRD, FRR and GoBGP: private routes for chosen protocols and ports",
        topology: "bgp-flow",
        tell: bgp_flow::tell,
    },
    Story {
        name: "bgp-restart",
        about: "our speaker dies and comes back; BIRD and FRR keep what is to be kept and nothing else",
        topology: "bgp-restart",
        tell: bgp_restart::tell,
    },
    Story {
        name: "bgp-watch",
        about: "a router leaks a private route; its neighbour tells us by BMP, and the route goes",
        topology: "bgp-watch",
        tell: bgp_watch::tell,
    },
    Story {
        name: "crash",
        about: "each process is killed during a purchase and started again; no order is lost or doubled",
        topology: "purchase",
        tell: crash::tell,
    },
    Story {
        name: "isp",
        about: "a thousand purchases from behind a NAT, each attributed to who the client says it is",
        topology: "isp",
        tell: isp::tell,
    },
    Story {
        name: "ecash",
        about: "two payers buy a thousand items of a few cents from three shops; a replay, an expiry, an overspender",
        topology: "ecash",
        tell: ecash::tell,
    },
];

/// The story of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Story> {
    ALL.iter().find(|story| story.name == name)
}

/// The root of the source tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Reads the topology `name`, a folder of `configs/lab`.
///
/// # Errors
/// When there is none, or it is wrong.
pub fn topology(name: &str) -> Result<Topology> {
    Ok(Topology::load(&root().join("configs/lab").join(name).join("topology.toml"))?)
}

/// Builds the programs that the topologies run. Cargo shows its own progress.
///
/// # Errors
/// When the build fails.
pub fn build_programs() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--workspace", "--bins"]).current_dir(root()).status();
    ensure!(status.context("cargo")?.success(), "the programs do not build");
    Ok(())
}

/// Tells `story` in a laboratory of its own, called by `prefix`, and removes the laboratory. The evidence says which
/// claims held.
///
/// # Errors
/// When the laboratory does not come up or cannot be watched.
pub fn run(story: &Story, prefix: &str) -> Result<Evidence> {
    let mut evidence = Evidence::new(story.name);
    let began = Instant::now();
    say(&format!("{}: {}", story.name, story.about));
    let lab = Lab::up(topology(story.topology)?, prefix, &mut |text| say(&format!("    {text}")))?;
    evidence.measure("up-ms", began.elapsed().as_secs_f64() * 1000.0);
    let told = (story.tell)(&lab, &mut evidence);
    let path = told.unwrap_or_else(|stopped| {
        say(&format!("\n{stopped}"));
        Vec::new()
    });
    evidence.picture = picture::draw(&lab, &path)?;
    say("");
    say(&evidence.picture);
    keep_traces(story, prefix);
    drop(lab);
    ensure!(!run_directory(prefix).exists(), "the laboratory is still there");
    let (held, not) = evidence.count();
    say(&format!("{}: {held} held, {not} did not; {:.1} s", story.name, began.elapsed().as_secs_f64()));
    Ok(evidence)
}

/// What a person wants to look at afterwards: logs, captures, configurations, screenshots. No keys.
fn keep_traces(story: &Story, prefix: &str) {
    let target = root().join("target/lab").join(story.name);
    let copied = fs::remove_dir_all(&target).or_else(absent_is_fine).and_then(|()| {
        ["logs", "captures", "pictures"].iter().try_for_each(|part| {
            copy_folder(&run_directory(prefix).join(part), &target.join(part)).or_else(absent_is_fine)
        })
    });
    match copied {
        Ok(()) => say(&format!("logs and captures: {}", target.display())),
        Err(error) => say(&format!("logs and captures are not kept: {error}")),
    }
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::create_dir_all(to)?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topology_is_right_and_has_the_files_that_it_names() {
        let folders = fs::read_dir(root().join("configs/lab")).unwrap();
        let names: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name == "purchase"), "{names:?}");
        for name in names {
            let topology = topology(&name).unwrap();
            let firewalls = topology.namespaces.iter().filter_map(|host| host.firewall.as_ref());
            let templates = topology.processes.iter().flat_map(|process| &process.templates);
            for file in firewalls.chain(templates) {
                assert!(topology.folder.join(file).is_file(), "{name}: {file}");
            }
        }
    }

    #[test]
    fn every_story_has_its_topology_and_a_name_of_its_own() {
        for story in ALL {
            assert!(topology(story.topology).is_ok(), "{}", story.name);
            assert_eq!(find(story.name).unwrap().about, story.about);
        }
        assert!(find("fable").is_none());
    }
}
