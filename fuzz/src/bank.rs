//! ISO 8583 messages and the stream that they come in.

use cloakway_crypto::Secret;
use transact_bank::{
    Answer, CardRange, Codec, FrameError, Framer, Framing, LengthKind, MacKey, Message, Profile, frame,
};

use crate::bytes::{long_numbers, two_cuts};

/// One message, without the length in front.
pub fn iso8583_message(bytes: &[u8]) {
    let message = match Message::decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            let text = error.to_string();
            return assert_eq!(long_numbers(&text).next(), None, "{text}");
        }
    };
    assert_eq!(Message::decode(message.encode().expose()).as_ref(), Ok(&message));
    let mut copy = Message::new(message.message_type());
    for number in message.numbers() {
        let value = message.get(number).expect("the message has it");
        copy.set(number, value).expect("what was read fits its field");
    }
    assert!(copy == message);
    let mut secrets = Message::new(message.message_type());
    secrets.copy(&message, &[2, 14]);
    let printed = format!("{secrets:?}");
    assert_eq!(long_numbers(&printed).next(), None, "{printed}");
    if let Err(error) = Answer::from_message(&message) {
        assert!(!error.to_string().is_empty());
    }
}

/// A message in another profile, authenticated or not; the first byte says which.
pub fn iso8583_profile(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let (_, profile) = Profile::NAMED[usize::from(first % 3)];
    let key = Secret::new(vec![7; 16]);
    let mac = match first / 3 % 3 {
        0 => None,
        1 => MacKey::retail(key).ok(),
        _ => MacKey::aes_cmac(key).ok(),
    };
    let codec = Codec { profile, mac };
    // What a stranger sends is not authentic, unless he knows the key.
    if let Ok(message) = codec.decode(bytes)
        && !message.message_type().is_network_management()
        && codec.mac.is_some()
    {
        let field = if message.numbers().any(|number| number > 64) { 128 } else { 64 };
        assert!(message.get(field).is_some());
    }
    match profile.decode(bytes) {
        Err(error) => {
            let text = error.to_string();
            assert_eq!(long_numbers(&text).next(), None, "{text}");
        }
        Ok(message) => {
            assert_eq!(profile.decode(profile.encode(&message).expose()).as_ref(), Ok(&message));
            // In one profile or in another: the same message.
            assert_eq!(Message::decode(message.encode().expose()).as_ref(), Ok(&message));
            let written = codec.encode(&message);
            let authentic = codec.decode(written.expose());
            assert!(message.message_type().is_network_management() || authentic.is_ok(), "{authentic:?}");
        }
    }
}

/// Card ranges as an operator writes them: what is read is written the same way.
pub fn card_range(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<CardRange>() {
        Ok(range) => assert_eq!(range.to_string().parse::<CardRange>(), Ok(range)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The first byte says how the rest is cut; the same messages have to come out of every cut.
pub fn iso8583_framer(bytes: &[u8]) {
    let (whole, pieces) = two_cuts(bytes);
    for framing in framings() {
        let (whole, pieces) = two_cuts(bytes);
        let (messages, error) = cut_as(&framing, whole);
        assert_eq!(cut_as(&framing, pieces), (messages.clone(), error));
        for message in messages {
            let again = framing.frame(&Secret::new(message.clone()));
            let again = cut_as(&framing, std::iter::once(again.expose().as_slice()));
            assert_eq!(again, (vec![message], None));
        }
    }
    let (messages, error) = cut(whole);
    assert_eq!(cut(pieces), (messages.clone(), error));
    for message in messages {
        let again = frame(&Secret::new(message.clone()));
        assert_eq!(cut(std::iter::once(again.expose().as_slice())), (vec![message.clone()], None));
        iso8583_message(&message);
    }
}

fn cut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<FrameError>) {
    cut_as(&Framing::default(), pieces)
}

fn framings() -> [Framing; 3] {
    let framing = |length, header: &[u8]| Framing { length, header: header.to_vec() };
    [
        framing(LengthKind::Octets, b"\x60\0\x01\0\0"),
        framing(LengthKind::Digits, b""),
        framing(LengthKind::Digits, b"ISO"),
    ]
}

fn cut_as<'a>(framing: &Framing, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut framer = Framer::new(framing.clone());
    let mut messages = Vec::new();
    for piece in pieces {
        if let Err(error) = framer.push(piece, |message| messages.push(message.to_vec())) {
            assert_eq!(framer.push(b"\0\x01a", |_| panic!("a message after an error")), Err(error));
            return (messages, Some(error));
        }
    }
    (messages, None)
}
