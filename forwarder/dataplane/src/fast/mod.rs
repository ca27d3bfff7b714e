//! The fast path: a BPF program at the interfaces of the policy, pinned so that it goes on when this process does not.
//!
//! What is pinned, in one directory of a BPF file system for each network namespace: the map `state` with the one
//! generation that may forward, the map `counts`, and a link for every interface. A change of policy loads a
//! new program with maps of its own, lets the old one stand aside (everything then takes the slow path), puts
//! the new one in its place in every link, and only then lets it forward. Nothing is ever detached for a change, and
//! a program that was left behind by accident forwards nothing. With limits the accounts of what was used are pinned too,
//! and every program charges those, standing aside or not.

mod accounts;
mod features;
mod object;
mod pins;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forwarder_core::fast::{Hook, Outcome, Table};
use forwarder_core::trace::Dropped;

use nix::time::{ClockId, clock_gettime};

use crate::Counter;
use object::Object;
use pins::Pins;

/// Why there is no fast path, or why it could not be changed. The slow path does not need it.
#[derive(Debug, thiserror::Error)]
pub enum FastPathError {
    /// There was no clang when this program was built.
    #[error("not built in: there was no clang when this program was built (Debian: apt install clang libbpf-dev)")]
    NotBuiltIn,
    /// The directory for pins is not on a BPF file system.
    #[error("{0} is on no BPF file system: mount one there or above: mount -t bpf bpf DIRECTORY")]
    NoBpfFs(PathBuf),
    /// A file of the BPF file system cannot be made, read or removed.
    #[error("{path}: {source}")]
    Pin {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer, and the verifier's where it gave one.
        why: String,
    },
}

pub(crate) fn refused<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> FastPathError {
    let what = what.into();
    move |error| {
        // The cause of these errors is often in their source alone.
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        FastPathError::Refused { what, why }
    }
}

/// What each outcome counted, in the order of [`Outcome::ALL`].
pub type Counts = BTreeMap<Outcome, Counter>;

/// The fast path of this network namespace.
#[derive(Debug)]
pub struct FastPath {
    pins: Pins,
    now: Option<Now>,
}

/// The program in place.
#[derive(Debug)]
struct Now {
    hook: Hook,
    table: Table,
    generation: u64,
    /// For what is done with its accounts.
    object: Object,
}

impl FastPath {
    /// The fast path whose pins are below `directory`.
    ///
    /// # Errors
    /// When that cannot be made, or is on no BPF file system.
    pub fn open(directory: &Path) -> Result<Self, FastPathError> {
        if !object::is_built_in() {
            return Err(FastPathError::NotBuiltIn);
        }
        Ok(Self { pins: Pins::open(directory)?, now: None })
    }

    /// Puts a program that knows `table` in place, unless it is there already; says whether it had to. `forward` lets
    /// it forward, or does not, by [`FastPath::forwards`]. With XDP every interface must take redirected frames, or what
    /// is sent to it vanishes; an older kernel does not say, and `trusting` takes that for a yes.
    ///
    /// # Errors
    /// When the kernel refuses: nothing of ours forwards then, and everything takes the slow path.
    pub fn apply(
        &mut self,
        table: &Table,
        hook: Hook,
        trusting: bool,
        forward: impl FnOnce(&Self, u64) -> Result<(), FastPathError>,
    ) -> Result<bool, FastPathError> {
        let same = |now: &&Now| now.hook == hook && now.table == *table;
        let places = places(table, hook);
        if let Some(now) = self.now.as_ref().filter(same)
            && self.pins.has(&places)
        {
            if let Err(error) = redirects(table, hook, trusting) {
                self.pins.set(0, self.pins.newest()?)?;
                return Err(error);
            }
            if self.pins.forwarding()? != now.generation {
                forward(self, now.generation)?;
            }
            return Ok(false);
        }
        self.now = None;
        let generation = self.pins.newest()? + 1;
        let mut object = Object::load(table, hook, generation, self.pins.directory())?;
        // From here to the end everything takes the slow path.
        self.pins.set(0, generation)?;
        for place in &places {
            object.attach(*place, &self.pins.link(place.hook, place.index))?;
        }
        // Some drivers say it only now that a program is there.
        redirects(table, hook, trusting)?;
        self.pins.keep_only(&places)?;
        self.pins.keep_accounts(&accounts::pins(table))?;
        self.now = Some(Now { hook, table: table.clone(), generation, object });
        forward(self, generation)?;
        Ok(true)
    }

    /// Which program is in place, counted since the pins were made.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        self.now.as_ref().map(|now| now.generation)
    }

    /// Lets the program of this generation forward.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forwards(&self, generation: u64) -> Result<(), FastPathError> {
        self.pins.set(generation, generation)
    }

    /// Lets no program with pins below `directory` forward, until one is applied again; none there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stand_aside(directory: &Path) -> Result<(), FastPathError> {
        if !directory.exists() {
            return Ok(());
        }
        let pins = Pins::open(directory)?;
        pins.set(0, pins.newest()?)
    }

    /// Lets a program with pins below `directory` that forwards on a lease do so for `time` from now on; none there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn renew_lease(directory: &Path, time: Duration) -> Result<(), FastPathError> {
        if !directory.exists() {
            return Ok(());
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(refused("the clock"))?;
        let until = Duration::from(now).saturating_add(time);
        Pins::open(directory)?.lease(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Packets that the meter dropped since they were asked for last, of those that were wanted; as many of each reason are
    /// wanted from now on.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn dropped(&self) -> Result<Vec<Dropped>, FastPathError> {
        self.pins.dropped()
    }

    /// What was counted since the pins were made.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counts(&self) -> Result<Counts, FastPathError> {
        self.pins.counts()
    }

    /// Takes every program and pin below `directory` away; nothing there is no error.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(directory: &Path) -> Result<(), FastPathError> {
        if !directory.exists() {
            return Ok(());
        }
        Pins::open(directory)?.remove()
    }
}

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) hook: Hook,
    pub(crate) index: u32,
    /// Whether it is an interface that carries tunnels, and none of the policy's.
    pub(crate) carries: bool,
}

/// Where there are programs: what XDP hands to the kernel is charged behind it, and of a tunnel at its own device.
fn places(table: &Table, hook: Hook) -> BTreeSet<Place> {
    let at = |hook| table.ports.keys().map(move |index| Place { hook, index: *index, carries: false });
    let devices = table.devices();
    match hook {
        Hook::Tcx => at(Hook::Tcx).collect(),
        Hook::Xdp => {
            let place = |(index, _)| Place { hook, index, carries: !table.ports.contains_key(&index) };
            devices.map(place).chain(at(Hook::Tcx).filter(|_| table.metered.is_some())).collect()
        }
    }
}

/// An error names the interface that takes no redirected frames.
fn redirects(table: &Table, hook: Hook, trusting: bool) -> Result<(), FastPathError> {
    if hook != Hook::Xdp {
        return Ok(());
    }
    for (index, name) in table.devices() {
        let what = || format!("XDP at {name}");
        let why = match features::takes_redirects(index).map_err(refused(what()))? {
            Some(true) => continue,
            None if trusting => continue,
            Some(false) => "it takes no redirected frames (a veth does when its other end has GRO on)",
            None => "the kernel does not say whether it takes redirected frames",
        };
        return Err(FastPathError::Refused { what: what(), why: why.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
