//! MRT dumps as files: plain, gzip or bzip2, told apart by their first octets.

use std::io::{BufRead, BufReader, Read};

use cloakway_types::AddressMap;
use mrt_wire::{Origins, Whose};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const BZIP2: [u8; 3] = *b"BZh";
/// What one read takes at most.
const READ: usize = 1 << 20;

/// Whose each address is by a dump.
pub type Rib = AddressMap<Whose>;

/// Reads an MRT dump (RFC 6396): every prefix with its origin AS.
///
/// # Errors
/// A text that says why nothing could be read.
pub fn read_rib(reader: impl Read) -> Result<Rib, String> {
    let mut reader = BufReader::with_capacity(READ, reader);
    let start = reader.fill_buf().map_err(|error| error.to_string())?;
    if start.starts_with(&GZIP) {
        read(flate2::bufread::MultiGzDecoder::new(reader))
    } else if start.starts_with(&BZIP2) {
        read(bzip2::bufread::MultiBzDecoder::new(reader))
    } else {
        read(reader)
    }
}

fn read(mut reader: impl Read) -> Result<Rib, String> {
    let mut origins = Origins::default();
    let mut buffer = vec![0; READ];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => origins.push(buffer.get(..count).unwrap_or_default()).map_err(|error| error.to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot be unpacked: {error}")),
        }
    }
    let (rib, summary) = origins.finish().map_err(|error| error.to_string())?;
    tracing::debug!(records = summary.records, routes = summary.routes, bad = summary.bad, "dump read");
    Ok(rib)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write as _};

    /// TABLE_DUMP_V2: 10.0.0.0/8 from AS 64500.
    fn dump() -> Vec<u8> {
        let attributes = [0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4];
        let body = [&[0, 0, 0, 0, 8, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], &attributes].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[0; 4][..], &[0, 13, 0, 2], &length, &body].concat()
    }

    fn whose(bytes: Vec<u8>) -> Option<Whose> {
        read_rib(Cursor::new(bytes)).unwrap().find([10, 0, 0, 1].into())
    }

    #[test]
    fn a_dump_is_read_plain_and_packed() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&dump()).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&dump()).unwrap();
        let bzip2 = bzip2.finish().unwrap();
        // Packed in parts, as some archives are.
        for bytes in [dump(), gzip.clone(), bzip2.clone(), [&gzip[..], &gzip].concat(), [&bzip2[..], &bzip2].concat()] {
            assert_eq!(whose(bytes), Some(Whose::Origin(mrt_wire::Asn(64500))));
        }
        for packed in [gzip, bzip2] {
            for cut in [5, packed.len() - 3] {
                assert!(read_rib(Cursor::new(packed[..cut].to_vec())).is_err(), "cut off at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        assert!(read_rib(Cursor::new(b"not a dump".to_vec())).is_err());
        assert!(read_rib(std::io::empty()).unwrap_err().contains("no route"));
        assert!(read_rib(Cursor::new([&GZIP[..], b"and no more of it"].concat())).is_err());
    }
}
