//! BGP messages and the stream that they come in.

use bgp_wire::{Context, DecodeError, Disposition, Framer, HEADER_LENGTH, MAX_LENGTH, Message, Update};

const MARKER: [u8; 16] = [0xff; 16];

/// One message as the framer would hand it over; bytes without the marker are a type and a body, which
/// get a header that fits. Each is read on eight kinds of session.
pub fn bgp_message(bytes: &[u8]) {
    let frame = match bytes {
        [kind, body @ ..] if !bytes.starts_with(&MARKER) && body.len() <= MAX_LENGTH - HEADER_LENGTH => {
            let length = u16::try_from(HEADER_LENGTH + body.len()).expect("at most 4096").to_be_bytes();
            [&MARKER, length.as_slice(), &[*kind], body].concat()
        }
        _ => bytes.to_vec(),
    };
    for (four_octet_as, external) in [(true, false), (true, true), (false, false), (false, true)] {
        for rich in [false, true] {
            let context =
                Context { four_octet_as, external, enhanced_refresh: rich, ipv4_by_ipv6: rich, ..Context::LEAST };
            match Message::decode(&frame, context) {
                Ok(message) => stays(&message, frame.len(), context),
                Err(error) => answered(&error),
            }
        }
    }
}

/// The first byte says how the rest is cut; the same frames have to come out of every cut.
pub fn bgp_framer(bytes: &[u8]) {
    let (whole, pieces) = crate::bytes::two_cuts(bytes);
    let (frames, error) = cut(whole);
    assert_eq!(cut(pieces), (frames.clone(), error.clone()));
    if let Some(error) = error {
        answered(&error);
    }
    for frame in frames {
        bgp_message(&frame);
    }
}

fn cut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<DecodeError>) {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Every refusal can be told to the peer.
fn answered(error: &DecodeError) {
    assert!(!error.to_string().is_empty());
    let notification = Message::Notification(error.notification());
    let bytes = notification.encode(Context::default()).expect("a NOTIFICATION holds what was refused");
    assert_eq!(Message::decode(&bytes, Context::default()), Ok(notification));
}

fn stays(message: &Message, length: usize, context: Context) {
    let flawed = match message {
        Message::Update(update) => {
            prefixes_are_clear(update);
            !update.flaws.is_empty()
        }
        Message::Open(open) => {
            assert!(!open.families().is_empty() || !open.capabilities.is_empty());
            assert!(open.four_octet_as().is_none_or(|asn| asn == open.asn()));
            false
        }
        Message::Notification(_) | Message::KeepAlive | Message::RouteRefresh(_) => false,
    };
    match message.encode(context) {
        Ok(again) => {
            assert!(again.len() <= MAX_LENGTH);
            let decoded = Message::decode(&again, context);
            // What was left out as flawed may leave a message that is refused; it still has to be read.
            assert!(flawed || decoded.as_ref() == Ok(message), "{message:?} became {decoded:?}");
        }
        // A path for two-octet speakers is written twice, the second time in four octets.
        Err(_) => assert!(length > MAX_LENGTH / 3, "{length} octets cannot be written again"),
    }
}

fn prefixes_are_clear(update: &Update) {
    if update.treat_as_withdraw() {
        assert_eq!(update.reachable().count(), 0);
    }
    if update.ends_rib_of().is_some() {
        assert_eq!(update.reachable().chain(update.unreachable()).count(), 0);
    }
    for prefix in update.reachable().chain(update.unreachable()) {
        assert_eq!(prefix, prefix.trunc());
    }
    for flaw in &update.flaws {
        assert!(flaw.disposition() < Disposition::Reset && !flaw.to_string().is_empty());
    }
}
