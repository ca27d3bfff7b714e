//! Electronic cash: the fields of messages, and messages.

use ecash_wire::frame::{Draft, Pairs};
use ecash_wire::suite::Suite;

use super::Seeds;

const OFFER: &str = "type: payment-request\nmerchant-id: kite-17\nmerchant-order-id: K-1001\nmerchant-date: 20261122231415926\n\
    merchant-swversion: kit 1.0\nnote: Box kite, red\n two lines\nmerchant-amount: usd 42.50\nurl-pay-to: https://a.example/p\n\
    merchant-signed-hash-key: AAAA\nmerchant-signed-hash: AAAA\nmerchant-amount2: jpy 5000;cad 54.25\n";
const PAYMENT: &str = "type: cash-payment\nversion: 1\nsession-id: AAAAAAAAACk=\nindex: 1\npayee-currency: usd\n\
    note-hash: qL1pTktOLR3LhLR2JJWV91mir5SyWAmKMkqpqBHcOEk=\npayee-id: kite-17\norder-id: K-1001\nservice-category: cash\n\
    opaque: AAAA\n";
const BATCH: &str = "type: to-server\nversion: 1\nsession-id: AAAAAAAAACo=\nindex: 7\nservice-category: cash\n\
    merchant-opaque: AAAA\ncustomer-opaque_1: AAAA\ncustomer-opaque_255: AAAA\n";
const REQUEST: &str = "id: dora-64\ntransaction: 7\ndate: 20261122231415926\nserverkey: CC1001\nservice-category: cash\n\
    opaque: AAAA\n";
const ITEM: &str = "type: cash-collection\nversion: 1\ntype_1: cash-payment\nsubversion_1: 1\npayer-session-id_1: AAAAAAAAACk=\n\
    payer-index_1: 1\nnote-hash_1: AAAA\npayee-id_1: kite-17\norder-id_1: K-1001\nmerchant-amount_1: usd 42.50\nauth-code: AAAA\n";
const RECEIPT: &str = "response-code: failure\nremark: no\nforeign-exchange: cad 13580 jpy 15120\namount: usd 0.00\n\
    problem: insufficient-funds\norder-id: K-1001\nrequest-version: 1\nauth-code: AAAA\n";
const OPEN: &str = "type: open-session\nserver-date: 20261122231415926\nswversion: kit 1.0\nrecord-note: for kites\n\
    amount: usd 70.00\nkey-lifetime: 0120\nkey-use-limit: 100\nkey: AAAA\nsignature: AAAA\n";
const BIND: &str = "type: bind-instrument\nserver-date: 20261122231415926\nswversion: kit 1.0\ninstrument-number: 4111111111111111\n\
    instrument-type: visa\ninstrument-category: credit-card\ninstrument-functions: charge,credit,load,unload\n\
    instrument-salt: AAAAAAAAAAA=\ninstrument-name: D. Ora\ninstrument-country: us\nagreements: 1,7\nautoclose: yes\n\
    autoclose-passphrase: open sesame\nkey: AAAA\nsignature: AAAA\n";
const NOTICE: &str = "type: error-notice\nsession-id: AAAAAAAAACo=\nindex: 7\nproblem: unauthenticated\nmessage: no\n";

pub(super) fn fields() -> Seeds {
    let all = [
        ("offer", OFFER),
        ("payment", PAYMENT),
        ("batch", BATCH),
        ("request", REQUEST),
        ("item", ITEM),
        ("receipt", RECEIPT),
        ("open", OPEN),
        ("bind", BIND),
        ("notice", NOTICE),
    ];
    all.into_iter().map(|(name, text)| (name, text.as_bytes().to_vec())).collect()
}

pub(super) fn clear() -> Seeds {
    let all = [("offer", OFFER), ("payment", PAYMENT), ("batch", BATCH), ("request", REQUEST), ("notice", NOTICE)];
    all.into_iter().map(|(name, text)| (name, text.as_bytes().to_vec())).collect()
}

pub(super) fn messages() -> Seeds {
    let frame = |text: &[u8]| {
        let mut draft = Draft::default();
        let text = std::str::from_utf8(text).expect("seeds are text");
        let pairs = Pairs::parse(text).expect("seeds are fields");
        pairs.iter().for_each(|(label, value)| draft.own(label.to_owned(), value.to_owned()));
        draft.frame(Suite::Modern1)
    };
    clear().into_iter().map(|(name, text)| (name, frame(&text))).collect()
}
