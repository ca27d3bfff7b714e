//! What routers tell the leak watch, and what caches tell of the RPKI.

use std::sync::Arc;
use std::time::Duration;

use bgp_bmp::{Limits, Message, Private, Report, Router};
use bgp_rpki::{Client, Input, Output, Pdu, Settings, Timing, Vrps};
use bgp_wire::Community;
use cloakway_types::Instant;

/// The first byte says how the rest is cut; the same reports have to come out of every cut, and no router may make the
/// station keep more than its limits.
pub fn bmp_station(bytes: &[u8]) {
    let (whole, pieces) = crate::bytes::two_cuts(bytes);
    let reports = station(whole);
    assert_eq!(station(pieces), reports);
    for report in reports {
        if let Report::Seen(sight) = report {
            let (ours, route) = (sight.private.prefix, sight.key.prefix);
            assert!(ours.contains(&route) || route.contains(&ours), "{route} does not touch {ours}");
        }
    }
    if let Ok(message) = Message::decode(bytes) {
        let again = message.encode();
        match &message {
            Message::Unknown => {}
            Message::Initiation { .. } | Message::Termination { .. } | Message::PeerUp { .. } => {
                assert!(Message::decode(&again).is_ok());
            }
            Message::RouteMonitoring { .. }
            | Message::Statistics { .. }
            | Message::Mirroring { .. }
            | Message::PeerDown { .. } => {
                assert_eq!(Message::decode(&again).as_ref(), Ok(&message));
            }
        }
    }
}

fn station<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Report> {
    let private = |prefix: &str| Private { prefix: prefix.parse().expect("a prefix"), guard: Community::NO_EXPORT };
    let private = [private("203.0.113.200/32"), private("2001:db8:c10a::/48")];
    let mut router = Router::new(Arc::new(private), Limits { peers: 3 });
    let mut reports = Vec::new();
    for piece in pieces {
        router.received(piece);
        reports.extend(std::iter::from_fn(|| router.poll_output()));
        assert!(router.peers().count() <= 3);
    }
    reports
}

/// The first byte says how the rest is cut; the same conversation has to come out of every cut. What counts is told
/// whole or not at all.
pub fn rtr_client(bytes: &[u8]) {
    let (whole, pieces) = crate::bytes::two_cuts(bytes);
    let (outputs, data) = conversation(whole);
    assert_eq!(conversation(pieces), (outputs.clone(), data));
    for output in outputs {
        if let Output::Send(sent) = output {
            assert!(Pdu::decode(&sent).is_ok(), "we say what nobody can read: {sent:?}");
        }
    }
    if let Ok((version, pdu)) = Pdu::decode(bytes) {
        assert_eq!(Pdu::decode(&pdu.encode(version)), Ok((version, pdu)));
    }
}

fn conversation<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Output>, Option<Arc<Vrps>>) {
    let now = Instant::after_origin(Duration::from_secs(1));
    let mut client = Client::new(Settings { max_payloads: 8, timing: Timing::default() }, now);
    client.handle(Input::Tick, now);
    client.handle(Input::Connected, now);
    for piece in pieces {
        client.handle(Input::Received(piece), now);
    }
    let outputs = std::iter::from_fn(|| client.poll_output()).collect();
    let data = client.data();
    assert!(data.as_ref().is_none_or(|data| data.len() <= 8));
    (outputs, data)
}
