//! ISO 8583 messages and the stream that they come in.

use cloakway_crypto::Secret;
use transact_bank::{Answer, FrameError, Framer, Message, frame};

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

/// The first byte says how the rest is cut; the same messages have to come out of every cut.
pub fn iso8583_framer(bytes: &[u8]) {
    let (whole, pieces) = two_cuts(bytes);
    let (messages, error) = cut(whole);
    assert_eq!(cut(pieces), (messages.clone(), error));
    for message in messages {
        let again = frame(&Secret::new(message.clone()));
        assert_eq!(cut(std::iter::once(again.expose().as_slice())), (vec![message.clone()], None));
        iso8583_message(&message);
    }
}

fn cut<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut framer = Framer::default();
    let mut messages = Vec::new();
    for piece in pieces {
        if let Err(error) = framer.push(piece, |message| messages.push(message.to_vec())) {
            assert_eq!(framer.push(b"\0\x01a", |_| panic!("a message after an error")), Err(error));
            return (messages, Some(error));
        }
    }
    (messages, None)
}
