//! What came out, as another program reads it.

use std::path::Path;
use std::process::Command;

/// What tshark finds wrong with a packet that a forwarder is to blame for.
const WRONG: &str = "ip.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" || tcp.checksum.status == \"Bad\" || \
                     icmp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\" || udp.length.bad || \
                     ip.bogus_ip_length || ipv6.plen_exceeds_framing || _ws.malformed";

/// Asserts that tshark finds no wrong checksum and no wrong length in these frames.
pub(crate) fn is_in_order(path: &Path, frames: &[Vec<u8>]) {
    std::fs::write(path, file(frames)).unwrap();
    let Ok(all) = tshark(path, "frame") else {
        cloakway_testing::skip("there is no tshark here (Debian: apt install tshark)");
        return;
    };
    assert_eq!(all.lines().count(), frames.len(), "tshark does not read all of it");
    let wrong = tshark(path, WRONG).unwrap();
    assert!(wrong.is_empty(), "{wrong}");
    // A check that cannot fail checks nothing.
    let mut damaged = frames[0].clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 0x10;
    std::fs::write(path, file(&[damaged])).unwrap();
    assert_eq!(tshark(path, WRONG).unwrap().lines().count(), 1, "tshark does not see a damaged packet");
}

fn tshark(path: &Path, filter: &str) -> std::io::Result<String> {
    let mut command = Command::new("tshark");
    for protocol in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    let output = command.args(["-n", "-r"]).arg(path).args(["-Y", filter]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// A pcap file of Ethernet frames.
fn file(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1].into_iter().flat_map(u32::to_ne_bytes).collect();
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        file.extend([0, 0, length, length].into_iter().flat_map(u32::to_ne_bytes));
        file.extend(frame);
    }
    file
}
