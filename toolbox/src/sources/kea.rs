//! Kea's lease file, followed over its cleanup (LFC).
//!
//! Kea renames `F` to `F.1` and begins a new `F`; `kea-lfc` makes `F.output` of `F.2` and `F.1`, renames it to
//! `F.completed`, removes the other two and renames it to `F.2`. While there is `F.1`, Kea does not rename again: when
//! `F.1` is the file that we have open, `F` is its successor. Otherwise everything is read, as Kea itself does it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use toolbox_leases::Record;
use toolbox_leases::kea::Reader;

use super::files::{Growing, Identity, identity};
use super::follow::{Leases, Look, Problem};

const PIECE: usize = 256 * 1024;
/// How often everything is read before we give up because files change places meanwhile.
const TRIES: usize = 20;
/// Looks without anything new after which a line that is not finished will not be.
const HALT: u32 = 10;

/// The files of one Kea server.
pub(super) struct Files {
    path: PathBuf,
    current: Option<(Growing, Reader)>,
    buffer: Vec<u8>,
    idle: u32,
}

impl Files {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, current: None, buffer: vec![0; PIECE], idle: 0 }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Which files there are.
    fn places(&self) -> Result<[Option<Identity>; 4], Problem> {
        let at = |suffix: &str| {
            let path = self.beside(suffix);
            identity(&path).map_err(|error| Problem(format!("{}: {error}", path.display())))
        };
        Ok([at(".completed")?, at(".2")?, at(".1")?, at("")?])
    }

    fn try_read(&mut self, [completed, previous, input, _]: [Option<Identity>; 4]) -> Result<Vec<Record>, Problem> {
        let mut records = Vec::new();
        let before: &[&str] = match (completed, previous, input) {
            (Some(_), ..) => &[".completed"],
            (None, Some(_), Some(_)) => &[".2", ".1"],
            (None, Some(_), None) => &[".2"],
            (None, None, Some(_)) => &[".1"],
            (None, None, None) => &[],
        };
        for suffix in before {
            self.open(suffix)?;
            // Half a line at the end of a file that is not written any more was never acknowledged to a client.
            self.drain(&mut |record| records.push(record))?;
        }
        self.open("")?;
        self.drain(&mut |record| records.push(record))?;
        Ok(records)
    }

    fn open(&mut self, suffix: &str) -> Result<(), Problem> {
        let path = self.beside(suffix);
        let file = Growing::open(&path).map_err(|error| Problem(format!("{}: {error}", path.display())))?;
        self.current = Some((file, Reader::new()));
        self.idle = 0;
        Ok(())
    }

    /// Reads the open file to its end.
    fn drain(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), Problem> {
        let Some((file, reader)) = &mut self.current else { return Ok(()) };
        loop {
            let octets =
                file.next(&mut self.buffer).map_err(|error| Problem(format!("{}: {error}", self.path.display())))?;
            if octets.is_empty() {
                self.idle = self.idle.saturating_add(1);
                if self.idle >= HALT {
                    reader.halt();
                }
                return Ok(());
            }
            self.idle = 0;
            reader.push(octets, &mut *each).map_err(|error| Problem(format!("{}: {error}", self.path.display())))?;
        }
    }
}

impl Leases for Files {
    fn read_all(&mut self) -> Result<Vec<Record>, Problem> {
        for _ in 0..TRIES {
            let before = self.places()?;
            let read = self.try_read(before);
            if self.places()? == before {
                return read;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Problem(format!("{}: files change places all the time", self.path.display())))
    }

    fn look(&mut self, each: &mut dyn FnMut(Record)) -> Result<Look, Problem> {
        let Some(ours) = self.current.as_ref().map(|(file, _)| file.identity) else { return Ok(Look::Anew) };
        let here =
            identity(&self.path).map_err(|error: io::Error| Problem(format!("{}: {error}", self.path.display())))?;
        // Whatever it is called by now: what it has is what Kea wrote, and before it renames a file it closes it.
        if self.drain(each).is_err() {
            return Ok(Look::Anew);
        }
        match here {
            Some(here) if here == ours => Ok(Look::Followed),
            Some(here) => {
                let [_, _, input, now] = self.places()?;
                if input != Some(ours) || now != Some(here) {
                    return Ok(Look::Anew);
                }
                self.open("")?;
                let successor = self.current.as_ref().map(|(file, _)| file.identity);
                if successor != Some(here) || identity(&self.beside(".1")).ok().flatten() != Some(ours) {
                    return Ok(Look::Anew);
                }
                self.drain(each)?;
                Ok(Look::Followed)
            }
            None => Ok(Look::Anew),
        }
    }
}
