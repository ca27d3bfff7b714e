//! The codec: golden messages, mistakes by name, and properties over every profile.

use cloakway_crypto::encode::{hex, unhex};
use proptest::prelude::*;

use super::*;
use crate::message::FieldError;

/// Made by hand from ISO 8583:1987: type, bitmap, LLVAR number, amounts, a secondary bitmap.
const GOLDEN: &str = "0100\
    C000000000000000\
    0400000000000000\
    164111111111111111\
    001";

#[test]
fn a_message_made_by_hand_is_read_and_written() {
    let message = Message::decode(GOLDEN.as_bytes()).unwrap();
    assert_eq!(message.message_type(), MessageType::AuthorisationRequest);
    assert_eq!(message.get(2), Some("4111111111111111"));
    assert_eq!(message.get(70), Some("001"));
    assert_eq!(message.numbers().collect::<Vec<_>>(), [2, 70]);
    assert_eq!(message.encode().expose(), GOLDEN.as_bytes());
}

#[test]
fn the_secondary_bitmap_comes_only_with_fields_above_64() {
    let mut message = Message::new(MessageType::NetworkRequest);
    message.set(11, "000001").unwrap();
    assert_eq!(message.encode().expose(), b"08000020000000000000000001");
}

#[test]
fn debug_never_shows_the_card() {
    let mut message = Message::decode(GOLDEN.as_bytes()).unwrap();
    message.set(14, "2912").unwrap();
    let shown = format!("{message:?} {message:#?}");
    assert!(shown.contains("[secret]") && shown.contains("001"), "{shown}");
    assert!(!shown.contains("4111") && !shown.contains("2912"), "{shown}");
    let encoded = format!("{:?}", message.encode());
    assert_eq!(encoded, "[secret]");
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let of = |text: &str| Message::decode(text.as_bytes()).unwrap_err();
    assert_eq!(of("0300"), DecodeError::Type);
    assert_eq!(of("01"), DecodeError::Truncated { part: Part::Type, at: 0, needed: 4, left: 2 });
    assert_eq!(
        of("0100c00000000000000"),
        DecodeError::Truncated { part: Part::PrimaryBitmap, at: 4, needed: 16, left: 15 }
    );
    assert_eq!(of("0100400000000000000x"), DecodeError::Bitmap { part: Part::PrimaryBitmap, at: 19 });
    assert_eq!(of("010080000000000000008000000000000000"), DecodeError::UnknownField { field: 65, at: 36 });
    let pan = Part::Field(field_of(2).unwrap());
    assert_eq!(of("0100400000000000000020"), DecodeError::Length { part: pan, at: 20, max: 19 });
    assert_eq!(of("0100400000000000000000"), DecodeError::Length { part: pan, at: 20, max: 19 });
    assert_eq!(of("01004000000000000000x1"), DecodeError::Length { part: pan, at: 20, max: 19 });
    assert_eq!(of("010040000000000000000312"), DecodeError::Truncated { part: pan, at: 22, needed: 3, left: 2 });
    assert_eq!(of("0100400000000000000003123z"), DecodeError::Trailing { at: 25, left: 1 });
    let error = of("01004000000000000000031x3");
    assert_eq!(error.to_string(), "field 2 (primary account number) may hold digits only, octet 23 is something else");
}

#[test]
fn a_value_that_does_not_fit_changes_nothing() {
    let mut message = Message::new(MessageType::AuthorisationRequest);
    message.set(4, "000000001234").unwrap();
    assert_eq!(
        message.set(4, "12").unwrap_err().to_string(),
        "field 4 (amount, transaction) holds exactly 12 characters, 2 were given"
    );
    assert_eq!(
        message.set(4, "00000000123x").unwrap_err().to_string(),
        "field 4 (amount, transaction) may hold digits only, position 11 is something else"
    );
    assert_eq!(message.set(65, "1"), Err(FieldError::Unknown(65)));
    assert_eq!(
        message.set(2, "").unwrap_err().to_string(),
        "field 2 (primary account number) holds 1 to 19 characters, 0 were given"
    );
    assert_eq!(message.get(4), Some("000000001234"));
}

/// By hand: an odd number of digits has a zero in front of it, and lengths count digits.
#[test]
fn a_packed_message_made_by_hand_is_read_and_written() {
    let mut message = Message::new(MessageType::AuthorisationRequest);
    message.set(2, "4111111111111111").unwrap();
    message.set(49, "978").unwrap();
    message.set(70, "001").unwrap();
    message.set(32, "12345").unwrap();
    message.set(41, "CLOAK001").unwrap();
    message.set(52, "0123456789ABCDEF").unwrap();
    let golden = "0100 c000000100809000 0400000000000000 16 4111111111111111 05 012345 434c4f414b303031 0978 \
                  0123456789abcdef 0001"
        .replace(' ', "");
    assert_eq!(hex(Profile::BINARY.encode(&message).expose()), golden);
    assert_eq!(Profile::BINARY.decode(&unhex(&golden).unwrap()), Ok(message.clone()));
    let raw = Profile::ASCII_RAW.encode(&message);
    assert!(raw.expose().starts_with(b"0100\xc0\x00\x00\x01\x00\x80\x90\x00\x04"), "{}", hex(raw.expose()));
    assert_eq!(Profile::ASCII_RAW.decode(raw.expose()), Ok(message));
}

#[test]
fn fields_with_a_sign_and_second_tracks_are_packed_too() {
    let mut message = Message::new(MessageType::FinancialResponse);
    message.set(28, "D00000150").unwrap();
    message.set(35, "4111111111111111=29122010000").unwrap();
    let octets = Profile::BINARY.encode(&message);
    let golden = "0210 0000001020000000 44 00000150 28 4111111111111111d29122010000".replace(' ', "");
    assert_eq!(hex(octets.expose()), golden);
    assert_eq!(Profile::BINARY.decode(octets.expose()), Ok(message.clone()));
    assert!(message.set(28, "X00000150").is_err() && message.set(35, "411D1").is_err());
}

#[test]
fn mistakes_in_packed_messages_are_named_with_their_place() {
    let of = |text: &str| Profile::BINARY.decode(&unhex(&text.replace(' ', "")).unwrap()).unwrap_err();
    let pan = Part::Field(field_of(2).unwrap());
    assert_eq!(of("0300"), DecodeError::Type);
    assert_eq!(of("01a0"), DecodeError::Type);
    assert_eq!(of("0100 4000000000000000 20"), DecodeError::Length { part: pan, at: 10, max: 19 });
    assert_eq!(of("0100 4000000000000000 1d"), DecodeError::Length { part: pan, at: 10, max: 19 });
    assert_eq!(of("0100 4000000000000000 04 12"), DecodeError::Truncated { part: pan, at: 11, needed: 2, left: 1 });
    for bad in ["0100 4000000000000000 03 1123", "0100 4000000000000000 04 1d23", "0100 4000000000000000 04 1a23"] {
        assert_eq!(of(bad), DecodeError::Character { part: pan, at: 11, allowed: "digits" });
    }
    assert_eq!(of("0100 4000000000000000 04 1234 ff"), DecodeError::Trailing { at: 13, left: 1 });
}

fn codecs() -> Vec<Codec> {
    let key = || Secret::new(unhex("0123456789abcdeffedcba9876543210").unwrap());
    let keys = [None, Some(MacKey::retail(key()).unwrap()), Some(MacKey::aes_cmac(key()).unwrap())];
    let with = |mac: &Option<MacKey>| Profile::NAMED.map(|(_, profile)| Codec { profile, mac: mac.clone() });
    keys.iter().flat_map(with).collect()
}

/// The code of X9.19 over the ASCII octets before it, by OpenSSL's DES.
#[test]
fn a_code_is_over_all_that_stands_before_it() {
    let mac = MacKey::retail(Secret::new(unhex("0123456789abcdeffedcba9876543210").unwrap())).ok();
    let codec = Codec { profile: Profile::ASCII, mac };
    let mut message = Message::new(MessageType::AuthorisationResponse);
    message.set(11, "000042").unwrap();
    message.set(39, "00").unwrap();
    let octets = codec.encode(&message);
    assert_eq!(octets.expose(), b"01100020000002000001000042003BAE312780F4A148");
    let read = codec.decode(octets.expose()).unwrap();
    assert_eq!((read.get(11), read.get(64)), (Some("000042"), Some("3BAE312780F4A148")));
    message.set(70, "001").unwrap();
    assert!(codec.decode(codec.encode(&message).expose()).unwrap().get(128).is_some());
}

#[test]
fn without_the_code_or_with_another_a_message_is_not_believed() {
    for codec in codecs().into_iter().filter(|codec| codec.mac.is_some()) {
        let mut message = Message::new(MessageType::AuthorisationResponse);
        message.set(39, "05").unwrap();
        assert_eq!(codec.decode(codec.profile.encode(&message).expose()), Err(DecodeError::NoCode { field: 64 }));
        let octets = codec.encode(&message).expose().clone();
        let mut changed = codec.decode(&octets).unwrap();
        changed.set(39, "00").unwrap();
        assert_eq!(codec.decode(codec.profile.encode(&changed).expose()), Err(DecodeError::WrongCode { field: 64 }));
        let echo = Message::new(MessageType::NetworkRequest);
        assert_eq!(codec.decode(codec.encode(&echo).expose()), Ok(echo), "the connection's own need none");
    }
}

#[test]
fn every_profile_has_a_name() {
    assert_eq!(Profile::named("binary"), Some(Profile::BINARY));
    assert_eq!(Profile::named("ebcdic"), None);
}

fn any_value(field: &'static Field) -> BoxedStrategy<(u8, String)> {
    let length = match field.format {
        Format::Fixed => field.max..=field.max,
        Format::LlVar | Format::LllVar => 1..=field.max,
    };
    let characters: Vec<u8> = (0..=127).filter(|c| field.kind.allows(1, *c)).collect();
    let sign = field.kind == Kind::Xn;
    proptest::collection::vec(proptest::sample::select(characters), length)
        .prop_map(move |octets| {
            let text = String::from_utf8(octets).unwrap();
            (field.number, if sign { format!("C{}", &text[1..]) } else { text })
        })
        .boxed()
}

fn any_message() -> impl Strategy<Value = Message> {
    let fields = FIELDS.iter().map(|field| proptest::option::of(any_value(field))).collect::<Vec<_>>();
    (proptest::sample::select(MessageType::ALL.to_vec()), fields).prop_map(|(message_type, fields)| {
        let mut message = Message::new(message_type);
        fields.into_iter().flatten().for_each(|(number, value)| message.set(number, &value).unwrap());
        // The connection's own messages are not given a code, and one that is there is checked.
        if message_type.is_network_management() {
            message.remove(64);
            message.remove(128);
        }
        message
    })
}

fn any_codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(codecs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decode_inverts_encode(message in any_message(), codec in any_codec()) {
        let octets = codec.encode(&message);
        let mut read = codec.decode(octets.expose()).unwrap();
        if codec.mac.is_some() && !message.message_type().is_network_management() {
            for code in [64, 128] {
                read.remove(code);
                read.copy(&message, &[code]);
            }
        }
        prop_assert_eq!(read, message);
    }

    #[test]
    fn arbitrary_octets_never_panic_and_what_is_read_is_stable(
        octets in proptest::collection::vec(any::<u8>(), 0..400),
        codec in any_codec(),
    ) {
        if let Ok(message) = codec.profile.decode(&octets) {
            let again = codec.profile.encode(&message);
            prop_assert_eq!(codec.profile.decode(again.expose()), Ok(message));
        }
        let _ = codec.decode(&octets);
    }

    #[test]
    fn changed_messages_never_panic(
        message in any_message(),
        codec in any_codec(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let whole = codec.encode(&message).expose().clone();
        let mut octets = whole.clone();
        for (place, value) in edits {
            let place = place.index(octets.len());
            octets[place] = value;
        }
        let read = codec.decode(&octets);
        if codec.mac.is_some() && octets != whole && !message.message_type().is_network_management() {
            prop_assert!(read.is_err() || read.is_ok_and(|read| read.message_type().is_network_management()));
        }
    }

    #[test]
    fn every_cut_is_an_error(message in any_message(), codec in any_codec(), cut in any::<prop::sample::Index>()) {
        let octets = codec.encode(&message);
        let cut = cut.index(octets.expose().len());
        prop_assert!(codec.decode(&octets.expose()[..cut]).is_err());
    }
}
