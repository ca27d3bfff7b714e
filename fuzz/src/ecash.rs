//! Messages of electronic cash: their frame, their fields, and both ends that take them in.

use std::fmt::Debug;

use cloakway_crypto::{Randomness, Secret};
use cloakway_types::Timestamp;
use ecash_wire::canonical::tlv;
use ecash_wire::client::Client;
use ecash_wire::frame::{Draft, FormError, Frame, Pairs};
use ecash_wire::message::{
    Answer, Autoclose, BatchItem, BatchReceipt, BatchReceiptItem, Bind, BindResult, Close, CloseResult, CollectionHead,
    LoadUnload, LoadUnloadResult, Notice, Offer, OpenSession, OpenSessionResult, Outcome, PaymentClear, PaymentSealed,
    Receipt, Register, RegisterResult, RelayHead, ReplyHead, RequestHead, Update,
};
use ecash_wire::suite::{ServerPrivateKey, SigningKey, Suite};
use ecash_wire::value::{Currency, Functions, Minutes, Rates};
use transact_ecash::{Effect, Policy, Server, ServerKeys, Ticket};

/// A whole message. What is accepted is written again, and means the same.
pub fn ecash_frame(bytes: &[u8]) {
    let Ok(frame) = Frame::parse(bytes) else { return };
    if frame.clear.defect().is_some() {
        return;
    }
    let mut draft = Draft::default();
    frame.clear.iter().for_each(|(label, value)| draft.own(label.to_owned(), value.to_owned()));
    let again = draft.frame(frame.suite);
    let again = Frame::parse(&again).expect("what was written is a message");
    assert!(again.clear.iter().eq(frame.clear.iter()));
    assert_eq!(tlv(again.clear.iter()), tlv(frame.clear.iter()));
}

/// What is read is written, and read again as the same.
fn stable<T: PartialEq + Debug>(
    pairs: &Pairs<'_>,
    read: fn(&Pairs<'_>, u8) -> Result<T, FormError>,
    write: fn(&T, &mut Draft, u8),
) {
    for n in [0, 1, 255] {
        match read(pairs, n) {
            Ok(part) => {
                let mut draft = Draft::default();
                write(&part, &mut draft, n);
                let text = draft.render();
                let again = Pairs::parse(&text).expect("what was written is fields");
                assert_eq!(again.defect(), None, "{text}");
                assert_eq!(read(&again, n).as_ref(), Ok(&part));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

macro_rules! all_stable {
    ($pairs:expr, $($part:ty),* $(,)?) => { $(stable($pairs, <$part>::read, <$part>::write);)* };
}

/// The fields of a sealed or clear part, read as every part that there is.
pub fn ecash_fields(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(pairs) = Pairs::parse(text) else { return };
    if pairs.defect().is_some() {
        return;
    }
    all_stable!(
        &pairs,
        Answer,
        Autoclose,
        BatchItem,
        BatchReceipt,
        BatchReceiptItem,
        Bind,
        BindResult,
        Close,
        CloseResult,
        CollectionHead,
        LoadUnload,
        LoadUnloadResult,
        Notice,
        Offer,
        OpenSession,
        OpenSessionResult,
        Outcome,
        PaymentClear,
        PaymentSealed,
        Receipt,
        Register,
        RegisterResult,
        RelayHead,
        ReplyHead,
        RequestHead,
        Update,
    );
    for (_, value) in pairs.iter() {
        same::<Currency>(value);
        same::<Functions>(value);
        same::<Minutes>(value);
        same::<Rates>(value);
        same::<Timestamp>(value);
    }
}

fn same<T: ecash_wire::value::Value + PartialEq + Debug>(text: &str) {
    if let Ok(value) = T::read(text) {
        let written = value.write();
        // No function at all has no text: its field is left out.
        assert!(written.is_empty() || T::read(&written).as_ref() == Ok(&value), "{text}");
    }
}

struct Counted(u8);

impl Randomness for Counted {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(41);
            *byte = self.0;
        }
    }
}

/// The clear fields of a message whose checksum fits, given to a server and to a wallet. A stranger has no key: the server
/// stores nothing, and a wallet nothing but an offer.
pub fn ecash_ends(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(pairs) = Pairs::parse(text) else { return };
    let mut draft = Draft::default();
    pairs.iter().for_each(|(label, value)| draft.own(label.to_owned(), value.to_owned()));
    let message = draft.frame(Suite::Modern1);
    let (mut random, now) = (Counted(7), Timestamp::from_secs(1_700_000_000));
    let key = ServerPrivateKey::from_secret("CC1001", Suite::Modern1, &[3; 32]).expect("32 bytes are a key");
    let public = key.public();
    let mut keys = ServerKeys::new(&mut random).expect("random bytes are keys");
    keys.add(key, now, now);
    let policy = Policy::new(Secret::new(vec![1; 32]));
    let (mut server, _) =
        Server::restore(policy, keys, [], now, &mut random).expect("no records are no server's fault");
    let step = server.handle(&message, Ticket(1), now, &mut random);
    assert!(step.writes.is_empty());
    for effect in step.effects {
        let Effect::Answer(Ticket(1), answer) = effect else { panic!("{effect:?}") };
        let frame = Frame::parse(&answer).expect("the server writes messages");
        assert!(Notice::read(&frame.clear, 0).is_ok());
    }
    let signing = SigningKey::generate(Suite::Modern1, &mut random).expect("random bytes are a key");
    let (mut client, _) = Client::new(&public, "fuzz", &signing);
    let step = client.receive(&message, now, &mut random);
    assert!(step.writes.is_empty() || pairs.get("type", 0) == Some("payment-request"));
}
