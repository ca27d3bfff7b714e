//! BGP messages and the stream that they come in.

use bgp_wire::{
    Context, DecodeError, Disposition, Families, Family, FlowRule, Framer, HEADER_LENGTH, LONGEST_RULE, MAX_LENGTH,
    Message, Update, announce_flow,
};

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
            let context = Context {
                four_octet_as,
                external,
                enhanced_refresh: rich,
                ipv4_by_ipv6: rich,
                flow: Families { ipv4: rich, ipv6: rich },
                ..Context::LEAST
            };
            match Message::decode(&frame, context) {
                Ok(message) => stays(&message, frame.len(), context),
                Err(error) => answered(&error),
            }
        }
    }
}

/// The first byte says whose packets the flow specification in the rest is about. What is read says the same in words
/// and on the wire.
pub fn bgp_flow(bytes: &[u8]) {
    let Some((first, value)) = bytes.split_first() else { return };
    let family = if first % 2 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    match FlowRule::decode(family, value) {
        Ok(rule) => {
            assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
            assert!(rule.encoded_length() <= 2 + LONGEST_RULE);
            let context =
                Context { extended_messages: true, flow: Families { ipv4: true, ipv6: true }, ..Context::LEAST };
            let updates = announce_flow(&Default::default(), family, [&rule], context).expect("a long message");
            let bytes = Message::Update(updates[0].clone()).encode(context).expect("it was packed");
            // Without ORIGIN and AS_PATH, the rule counts as withdrawn.
            let Ok(Message::Update(update)) = Message::decode(&bytes, context) else {
                panic!("{rule} is not read again")
            };
            assert!(update.flow_unreachable().eq([&rule]));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
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
            !update.flaws.is_empty() || !update.left_out.is_empty()
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
    if update.ends_flow_of().is_some() || update.treat_as_withdraw() {
        assert!(update.flow_reachable().is_empty());
    }
    for flaw in &update.flaws {
        assert!(flaw.disposition() < Disposition::Reset && !flaw.to_string().is_empty());
    }
}
