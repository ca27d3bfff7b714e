//! The lease file of ISC DHCP, followed over its rewriting: the server moves a new file into its place, with everything
//! that it knows.

use std::path::PathBuf;

use toolbox_leases::Record;
use toolbox_leases::isc::Reader;

use super::files::{Growing, identity};
use super::follow::{Leases, Look, Problem};

const PIECE: usize = 256 * 1024;

/// `dhcpd.leases` or `dhcpd6.leases`.
pub(super) struct File {
    path: PathBuf,
    current: Option<(Growing, Reader)>,
    buffer: Vec<u8>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, current: None, buffer: vec![0; PIECE] }
    }

    fn at(&self, error: impl std::fmt::Display) -> Problem {
        Problem(format!("{}: {error}", self.path.display()))
    }

    fn drain(&mut self, each: &mut dyn FnMut(Record)) -> Result<(), Problem> {
        let path = self.path.display();
        let Some((file, reader)) = &mut self.current else { return Ok(()) };
        loop {
            let octets = file.next(&mut self.buffer).map_err(|error| Problem(format!("{path}: {error}")))?;
            if octets.is_empty() {
                return Ok(());
            }
            reader.push(octets, &mut *each).map_err(|error| Problem(format!("{path}: {error}")))?;
        }
    }
}

impl Leases for File {
    fn read_all(&mut self) -> Result<Vec<Record>, Problem> {
        let file = Growing::open(&self.path).map_err(|error| self.at(error))?;
        self.current = Some((file, Reader::new()));
        let mut records = Vec::new();
        self.drain(&mut |record| records.push(record))?;
        Ok(records)
    }

    fn look(&mut self, each: &mut dyn FnMut(Record)) -> Result<Look, Problem> {
        let Some(ours) = self.current.as_ref().map(|(file, _)| file.identity) else { return Ok(Look::Anew) };
        if self.drain(each).is_err() {
            return Ok(Look::Anew);
        }
        match identity(&self.path).map_err(|error| self.at(error))? {
            Some(here) if here == ours => Ok(Look::Followed),
            _ => Ok(Look::Anew),
        }
    }
}
