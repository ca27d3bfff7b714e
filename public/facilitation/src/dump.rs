//! MRT dumps as files: plain, gzip or bzip2.

use std::io::Read;

use cloakway_runtime::file;
use cloakway_types::AddressMap;
use mrt_wire::{Origins, Whose};

/// Whose each address is by a dump.
pub type Rib = AddressMap<Whose>;

/// Reads an MRT dump (RFC 6396): every prefix with its origin AS.
///
/// # Errors
/// A text that says why nothing could be read.
pub fn read_rib(reader: impl Read) -> Result<Rib, String> {
    let mut origins = Origins::default();
    file::unpack(reader, |piece| origins.push(piece))?;
    let (rib, summary) = origins.finish().map_err(|error| error.to_string())?;
    tracing::debug!(records = summary.records, routes = summary.routes, bad = summary.bad, "dump read");
    Ok(rib)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_dump_says_whose_an_address_is_and_what_is_none_is_refused() {
        // TABLE_DUMP_V2: 10.0.0.0/8 from AS 64500.
        let attributes = [0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4];
        let body = [&[0, 0, 0, 0, 8, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], &attributes].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let dump = [&[0; 4][..], &[0, 13, 0, 2], &length, &body].concat();
        let rib = read_rib(Cursor::new(dump)).unwrap();
        assert_eq!(rib.find([10, 0, 0, 1].into()), Some(Whose::Origin(mrt_wire::Asn(64500))));
        assert!(read_rib(Cursor::new(b"not a dump".to_vec())).is_err());
        assert!(read_rib(std::io::empty()).unwrap_err().contains("no route"));
    }
}
