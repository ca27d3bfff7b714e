//! What is pinned: the state, the counts and the links.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use forwarder_core::fast::{Hook, Outcome};
use forwarder_core::meter::Over;
use forwarder_core::trace::{Dropped, WANTED, Why};

use super::{Counts, FastPathError, Place, refused};
use crate::Counter;

/// The magic number of the BPF file system (`linux/magic.h`).
const BPF_FS: u32 = 0xcafe_4a11;

/// A directory of pins.
#[derive(Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
}

impl Pins {
    pub(crate) fn open(directory: &Path) -> Result<Self, FastPathError> {
        std::fs::create_dir_all(directory).map_err(failed(directory))?;
        let found = nix::sys::statfs::statfs(directory).map_err(|errno| failed(directory)(errno.into()))?;
        if u32::try_from(found.filesystem_type().0).ok() != Some(BPF_FS) {
            return Err(FastPathError::NoBpfFs(directory.to_owned()));
        }
        Ok(Self { directory: directory.to_owned() })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the link of an interface is.
    pub(crate) fn link(&self, hook: Hook, index: u32) -> PathBuf {
        self.directory.join(format!("{}-{index}", hook.name()))
    }

    /// Whether every place has its link.
    pub(crate) fn has(&self, places: &BTreeSet<Place>) -> bool {
        places.iter().all(|place| self.link(place.hook, place.index).exists())
    }

    /// The newest generation that was ever loaded.
    pub(crate) fn newest(&self) -> Result<u64, FastPathError> {
        Ok(self.read()?[1])
    }

    /// The generation that may forward; 0 for none.
    pub(crate) fn forwarding(&self) -> Result<u64, FastPathError> {
        Ok(self.read()?[0])
    }

    fn read(&self) -> Result<[u64; 2], FastPathError> {
        match self.state()? {
            None => Ok([0, 0]),
            Some(state) => state.get(&0, 0).map_err(refused("read the state")),
        }
    }

    /// Says which generation may forward, and which is the newest.
    pub(crate) fn set(&self, forwarding: u64, newest: u64) -> Result<(), FastPathError> {
        let Some(mut state) = self.state()? else { return Ok(()) };
        state.set(0, [forwarding, newest], 0).map_err(refused("set the state"))
    }

    /// Packets that the meter dropped since they were asked for last, of those that were wanted. As many of each reason are wanted
    /// from now on.
    pub(crate) fn dropped(&self) -> Result<Vec<Dropped>, FastPathError> {
        let [wanted, ring] = ["wanted", "dropped"].map(|name| self.directory.join(name));
        // Pins of an older program.
        if !wanted.exists() || !ring.exists() {
            return Ok(Vec::new());
        }
        let open = |path: &Path| MapData::from_pin(path).map_err(refused(format!("open {}", path.display())));
        let mut wanted: Array<_, i64> = Array::try_from(Map::Array(open(&wanted)?)).map_err(refused("wanted"))?;
        for (index, _) in limits() {
            wanted.set(index, i64::from(WANTED), 0).map_err(refused("say what is wanted"))?;
        }
        let mut ring = RingBuf::try_from(Map::RingBuf(open(&ring)?)).map_err(refused("dropped"))?;
        let mut all = Vec::new();
        while let Some(item) = ring.next() {
            all.extend(decoded(&item));
        }
        Ok(all)
    }

    /// Lets a program that forwards on a lease do so until then, in nanoseconds since the start of the host.
    pub(crate) fn lease(&self, until: u64) -> Result<(), FastPathError> {
        let path = self.directory.join("lease");
        if !path.exists() {
            return Ok(());
        }
        let what = || format!("open {}", path.display());
        let data = MapData::from_pin(&path).map_err(refused(what()))?;
        let mut lease: Array<_, u64> = Array::try_from(Map::Array(data)).map_err(refused(what()))?;
        lease.set(0, until, 0).map_err(refused("renew the lease"))
    }

    fn state(&self) -> Result<Option<Array<MapData, [u64; 2]>>, FastPathError> {
        let path = self.directory.join("state");
        if !path.exists() {
            return Ok(None);
        }
        let what = || format!("open {}", path.display());
        let data = MapData::from_pin(&path).map_err(refused(what()))?;
        Array::try_from(Map::Array(data)).map(Some).map_err(refused(what()))
    }

    pub(crate) fn counts(&self) -> Result<Counts, FastPathError> {
        let path = self.directory.join("counts");
        if !path.exists() {
            return Ok(Counts::new());
        }
        let what = || format!("open {}", path.display());
        let data = MapData::from_pin(&path).map_err(refused(what()))?;
        let counts: PerCpuArray<_, [u64; 2]> =
            PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(refused(what()))?;
        let mut all = Counts::new();
        for (index, outcome) in (0..).zip(Outcome::ALL) {
            let values = match counts.get(&index, 0) {
                // The map of an older program, which stays, may know fewer.
                Err(MapError::OutOfBounds { .. }) => continue,
                values => values.map_err(refused("read the counts"))?,
            };
            let sum = values.iter().fold(Counter::default(), |sum, [packets, bytes]| Counter {
                packets: sum.packets + packets,
                bytes: sum.bytes + bytes,
            });
            all.insert(outcome, sum);
        }
        Ok(all)
    }

    /// Removes the links of other places.
    pub(crate) fn keep_only(&self, places: &BTreeSet<Place>) -> Result<(), FastPathError> {
        let kept: Vec<PathBuf> = places.iter().map(|place| self.link(place.hook, place.index)).collect();
        for path in self.files()?.into_iter().filter(|path| is_link(path) && !kept.contains(path)) {
            // A link without a pin, and without a process that has it open, is detached.
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Detaches everything, then forgets the maps.
    pub(crate) fn remove(&self) -> Result<(), FastPathError> {
        self.set(0, self.newest()?)?;
        let (links, maps): (Vec<_>, Vec<_>) = self.files()?.into_iter().partition(|path| is_link(path));
        for path in links.into_iter().chain(maps) {
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
        match std::fs::remove_dir(&self.directory) {
            // Somebody else made it for us, and keeps it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            done => done.map_err(failed(&self.directory)),
        }
    }

    /// Removes the accounts of other sizes than these.
    pub(crate) fn keep_accounts(&self, kept: &[String]) -> Result<(), FastPathError> {
        for path in self.files()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if is_accounts(name) && !kept.iter().any(|kept| kept == name) {
                std::fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>, FastPathError> {
        let entries = std::fs::read_dir(&self.directory).map_err(failed(&self.directory))?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed(&self.directory))).collect()
    }
}

/// The outcomes of packets that the meter dropped, by their numbers.
fn limits() -> impl Iterator<Item = (u32, Over)> {
    let over = |outcome: Outcome| Over::ALL.into_iter().find(|over| Outcome::from(*over) == outcome);
    (0..).zip(Outcome::ALL).filter_map(move |(index, outcome)| Some((index, over(outcome)?)))
}

/// `struct dropped`.
fn decoded(octets: &[u8]) -> Option<Dropped> {
    let (words, packet) = octets.split_at_checked(16)?;
    let word = |at: usize| words.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word));
    let (outcome, from, length) = (word(0)?, word(4)?, usize::try_from(word(8)?).ok()?);
    let (_, over) = limits().find(|(index, _)| *index == outcome)?;
    Some(Dropped::new(Why::Limit(over), from, packet.get(..length)?))
}

fn is_accounts(name: &str) -> bool {
    super::accounts::ACCOUNTS.iter().any(|map| name.strip_prefix(map).is_some_and(|rest| rest.starts_with('-')))
}

fn is_link(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [Hook::Xdp, Hook::Tcx].iter().any(|hook| name.strip_prefix(hook.name()).is_some_and(|rest| rest.starts_with('-')))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> FastPathError {
    let path = path.to_owned();
    move |source| FastPathError::Pin { path, source }
}
