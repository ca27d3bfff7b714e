//! What the captures hold, when they are whole.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};

use aho_corasick::AhoCorasick;
use anyhow::{Result, ensure};

use super::flows;
use crate::capture::{self, Flow, Packet};
use crate::evidence::Evidence;
use crate::stories::world::{APPROVED, DECLINED, PRIVATE, SILENT, World, host_prefix};
use crate::topology::LinkKind;

/// What the captures hold, once they are whole. Each search is shown to find what it looks for where that belongs.
pub(super) fn leaks(world: &World<'_>, evidence: &mut Evidence) {
    let ended = world.lab.end_captures();
    evidence.check("the captures are whole", || ended.map(|()| String::new()));
    let links = &world.lab.topology().links;
    evidence.check("no public link carried a packet to or from a private network address", || {
        let mut lines = Vec::new();
        for link in links {
            let packets = world.packets(&link.name)?;
            let touching = |address: &str| -> Result<usize> {
                let prefix = host_prefix(address)?;
                Ok(flows(&packets).filter(|flow| flow.touches(prefix)).count())
            };
            let (four, six) = (touching(PRIVATE[0])?, touching(PRIVATE[1])?);
            match link.kind {
                LinkKind::Member | LinkKind::Private => {
                    ensure!(four > 0 && six > 0, "{}: the search is blind", link.name)
                }
                LinkKind::Public | LinkKind::Management | LinkKind::Bank => {
                    ensure!(four + six == 0, "{}: {} packets", link.name, four + six);
                }
            }
            lines.push(format!(
                "{} ({:?}): {} packets, {four} + {six} to or from a private address",
                link.name,
                link.kind,
                packets.len()
            ));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("no BGP message on a public link names a private network address", || {
        let mut lines = Vec::new();
        for link in links.iter().filter(|link| matches!(link.kind, LinkKind::Public) || link.name == "core") {
            let packets = world.packets(&link.name)?;
            let mut named = 0;
            for address in PRIVATE {
                let bytes = capture::in_bgp(host_prefix(address)?);
                let bgp = |flow: Flow| flow.ports.is_some_and(|(from, to)| from == 179 || to == 179);
                named += packets.iter().filter(|packet| packet.flow().is_some_and(bgp) && packet.has(&bytes)).count();
            }
            ensure!((named > 0) == (link.name == "core"), "{}: {named}", link.name);
            lines.push(format!("{}: {named} messages", link.name));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("the card number is readable on the bank's link and on no other", || {
        let mut lines = Vec::new();
        for link in links {
            let packets = world.packets(&link.name)?;
            let forms: Vec<_> = [APPROVED, DECLINED, SILENT].into_iter().flat_map(capture::forms_of_card).collect();
            let found = packets.iter().filter(|packet| forms.iter().any(|form| packet.has(form))).count();
            ensure!((found > 0) == (link.kind == LinkKind::Bank), "{}: {found} packets", link.name);
            lines.push(format!("{}: {found} of {} packets", link.name, packets.len()));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("no card number is in the memory of the facilitation server or of the shop", || {
        let mut lines = Vec::new();
        for (name, known) in
            [("facilitation-server", "transaction.cloakway.example"), ("example-shop", "A printed book")]
        {
            // Packed, the others are words that any program may have: 40 00 00 00 00 00 00 02.
            let mut cards = capture::forms_of_card(APPROVED);
            cards.extend([DECLINED, SILENT].map(|number| number.as_bytes().to_vec()));
            let (looked, found, blind) = in_memory(world.lab.process_id(name)?, &cards, known.as_bytes())?;
            ensure!(!blind, "{name}: the search is blind");
            ensure!(found == 0, "{name}: {found} places");
            lines.push(format!("{name}: {looked} octets of memory"));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("the card number is in no log and in nothing that a program stored", || {
        let mut looked = 0;
        let mut open = vec![world.lab.run_directory().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if entry.file_type()?.is_dir() {
                    // The captures were looked at above, and the browser's home belongs to the payer.
                    if name != "captures" && !name.starts_with("browser") {
                        open.push(path);
                    }
                } else if entry.file_type()?.is_file() && !name.starts_with("card-") {
                    let packet = Packet { at_ns: 0, frame: fs::read(&path)? };
                    let cards = [APPROVED, DECLINED, SILENT];
                    ensure!(!cards.iter().any(|card| packet.has(card.as_bytes())), "{}", path.display());
                    looked += 1;
                }
            }
        }
        Ok(format!("{looked} files looked at"))
    });
}

/// Looks through all memory that a process can write: octets, places where something forbidden is, and whether not even
/// `known` is there.
fn in_memory(process: u32, forbidden: &[Vec<u8>], known: &[u8]) -> Result<(u64, usize, bool)> {
    let automaton = AhoCorasick::new(std::iter::once(known).chain(forbidden.iter().map(Vec::as_slice)))?;
    let mut memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let (mut looked, mut found, mut blind) = (0, 0, true);
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let Some((low, high)) = range.split_once('-').filter(|_| rights.starts_with("rw")) else { continue };
        let (low, high) = (u64::from_str_radix(low, 16)?, u64::from_str_radix(high, 16)?);
        let mut frame = vec![0; usize::try_from(high - low)?];
        memory.seek(SeekFrom::Start(low))?;
        // A mapping that went away meanwhile holds nothing any more.
        if memory.read_exact(&mut frame).is_ok() {
            looked += high - low;
            for hit in automaton.find_overlapping_iter(&frame) {
                match hit.pattern().as_usize() {
                    0 => blind = false,
                    _ => found += 1,
                }
            }
        }
    }
    Ok((looked, found, blind))
}
