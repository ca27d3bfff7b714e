//! IP packets as the forwarder's model reads them.

use forwarder_core::{Malformed, parse};

/// An IP packet: octets behind its length change nothing, and of what is cut off nothing is believed.
pub fn forwarder_packet(bytes: &[u8]) {
    match parse(bytes) {
        Ok(parsed) => {
            assert_eq!(parsed.source.is_ipv4(), parsed.destination.is_ipv4());
            assert!(parsed.ports.is_none() || matches!(parsed.protocol, 6 | 17 | 33 | 132 | 136));
            let padded = [bytes, &[0xff; 18]].concat();
            assert_eq!(parse(&padded), Ok(parsed), "padding was read");
            assert!(parse(&bytes[..19.min(bytes.len())]).is_err());
        }
        Err(Malformed::Short { needed, have, .. }) => assert!(have < needed),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
