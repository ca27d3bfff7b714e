//! What DHCP servers, clients and NATs say.

use std::net::IpAddr;

use cloakway_types::Timestamp;
use toolbox_leases::tap::{Datagram, Tap};
use toolbox_leases::{Book, Now, Record, isc, kea};
use toolbox_nat::ipfix::{Dialect, Session};
use toolbox_nat::{Flows, Turn, conntrack};

/// A lease file, read whole and in pieces: the first octet says of which server, the second how long the pieces are.
pub fn lease_file(bytes: &[u8]) {
    let [which, piece, text @ ..] = bytes else { return };
    let pieces = usize::from(*piece).max(1);
    let read = |length: usize| -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let (mut isc, mut kea) = (isc::Reader::new(), kea::Reader::new());
        for piece in text.chunks(length) {
            let each = |record| records.push(record);
            let read = if which % 2 == 0 { kea.push(piece, each).is_ok() } else { isc.push(piece, each).is_ok() };
            if !read {
                return None;
            }
        }
        Some(records)
    };
    let (whole, cut) = (read(text.len().max(1)), read(pieces));
    assert_eq!(whole, cut, "however it is cut the same comes out");
    let Some(records) = whole else { return };
    let mut book = Book::new();
    for record in &records {
        if let Record::Damaged(damage) = record {
            assert!(!damage.to_string().is_empty());
        }
        for change in book.take(record) {
            // An association may name an address twice: the last word counts.
            if matches!(record, Record::Association { .. }) {
                continue;
            }
            match change.now {
                Now::Over { .. } => assert_eq!(book.get(change.net), None),
                now => assert_eq!(book.get(change.net), Some(&now)),
            }
        }
    }
    let mut again = Book::new();
    for record in &records {
        again.take(record);
    }
    assert!(book.become_as(again).is_empty(), "reading the same again changes nothing");
}

/// A DHCP datagram; the first octet says who sends it.
pub fn dhcp_tap(bytes: &[u8]) {
    let [who, payload @ ..] = bytes else { return };
    let server: [IpAddr; 2] = ["10.77.0.1".parse().unwrap(), "fe80::1".parse().unwrap()];
    let client: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "fe80::2".parse().unwrap()];
    let from = if who & 2 == 0 { server } else { client }[usize::from(who & 1)];
    let (mut tap, mut book) = (Tap::new(server.to_vec()), Book::new());
    for at in [100, 200] {
        match tap.hear(Datagram { from, payload, at: Timestamp::from_secs(at) }, &book) {
            Ok(leases) => {
                assert!(leases.is_empty() || who & 2 == 0 || !book.is_empty(), "a client grants itself nothing");
                for lease in leases {
                    book.take(&Record::Lease(Box::new(lease)));
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Messages of an exporter, one after the other, in both dialects.
pub fn ipfix_message(bytes: &[u8]) {
    for dialect in [Dialect::Rfc8158, Dialect::Junos] {
        let (mut session, mut rest) = (Session::new(), bytes);
        while let Ok(Some(length)) = Session::length(rest) {
            let Some((message, behind)) = rest.split_at_checked(length) else { break };
            rest = behind;
            let mut records = 0;
            let read = session.read(message, |_, record| {
                records += 1;
                let _ = dialect.event(record).map_err(|error| error.to_string());
            });
            match read {
                Ok(told) => assert!(told.unreadable <= message.len() / 4),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            assert!(records <= message.len(), "no record without an octet");
        }
        let _ = session.read(bytes, |_, _| {});
    }
}

/// What the kernel says of flows.
pub fn conntrack_message(bytes: &[u8]) {
    let (mut flows, mut standing) = (Flows::new(), Vec::new());
    for message in conntrack::read(bytes) {
        let turn = match message {
            Ok(conntrack::Message::Begun(flow)) => flows.begin(flow),
            Ok(conntrack::Message::Ended(flow)) => flows.end(flow),
            Ok(_) => None,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                None
            }
        };
        match turn {
            Some(Turn::Begun(mapping)) => {
                assert_ne!(mapping.internal, mapping.external);
                standing.push(mapping);
            }
            Some(Turn::Ended(mapping)) => standing.retain(|of| *of != mapping),
            None => {}
        }
    }
    assert_eq!(flows.mappings().count(), standing.len());
}
