//! What the malicious do: messages with other fields, in the name of those whose secrets they have.

use transact_ecash::wire::canonical::Digest;
use transact_ecash::wire::cash::{collection_context, collection_list};
use transact_ecash::wire::frame::{Draft, Frame, Pairs};
use transact_ecash::wire::message::{COLLECTION, Kind};
use transact_ecash::wire::suite::SessionSecrets;
use transact_ecash::wire::value::{Bytes, Value};

use super::Random;

/// The same message with other clear fields, and a checksum that fits.
pub fn reframe(message: &[u8], change: impl FnOnce(&mut Vec<(String, String)>)) -> Vec<u8> {
    let frame = Frame::parse(message).unwrap();
    let mut fields: Vec<_> = frame.clear.iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect();
    change(&mut fields);
    let mut draft = Draft::default();
    fields.into_iter().for_each(|(label, value)| draft.own(label, value));
    draft.frame(frame.suite)
}

pub fn set(message: &[u8], label: &str, value: &str) -> Vec<u8> {
    reframe(message, |fields| {
        fields.iter_mut().filter(|(other, _)| other == label).for_each(|(_, old)| *old = value.to_owned());
    })
}

/// Flips a bit of a sealed value.
pub fn spoil(message: &[u8], label: &str) -> Vec<u8> {
    reframe(message, |fields| {
        let (_, value) = fields.iter_mut().find(|(other, _)| other == label).unwrap();
        let mut bytes = Bytes::read(value).unwrap().0;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        *value = Bytes(bytes).write();
    })
}

pub fn get(message: &[u8], label: &str) -> String {
    Frame::parse(message).unwrap().clear.get(label, 0).unwrap().to_owned()
}

/// A payment as a payee reports it.
#[derive(Clone, Debug)]
pub struct Item {
    pub fields: Vec<(&'static str, String)>,
    pub opaque: String,
}

impl Item {
    /// Reports a CA1 truthfully, and asks `amount`.
    pub fn of(payment: &[u8], amount: &str) -> Self {
        let get = |label| get(payment, label);
        let fields = vec![
            ("type", get("type")),
            ("subversion", get("version")),
            ("payer-session-id", get("session-id")),
            ("payer-index", get("index")),
            ("note-hash", get("note-hash")),
            ("payee-id", get("payee-id")),
            ("order-id", get("order-id")),
            ("merchant-amount", amount.to_owned()),
        ];
        Self { fields, opaque: get("opaque") }
    }

    pub fn with(mut self, label: &str, value: &str) -> Self {
        self.fields.iter_mut().filter(|(other, _)| *other == label).for_each(|(_, old)| *old = value.to_owned());
        self
    }
}

/// CA2 of whatever payments, sealed and authenticated as it should be.
pub fn batch(secrets: &SessionSecrets, index: u16, items: &[Item], random: &mut Random) -> Vec<u8> {
    let numbered: Vec<(u8, &Item)> = (1..=u8::MAX).zip(items).collect();
    batch_of(secrets, index, &numbered, random)
}

pub fn batch_of(secrets: &SessionSecrets, index: u16, items: &[(u8, &Item)], random: &mut Random) -> Vec<u8> {
    let suite = secrets.suite();
    let mut clear = Draft::default();
    clear.text("type", 0, Kind::CA2.type_text().to_owned());
    clear.put("version", 0, &1_u8);
    clear.put("session-id", 0, &secrets.id());
    clear.put("index", 0, &index);
    clear.text("service-category", 0, "cash".to_owned());
    let mut sealed = Draft::default();
    sealed.text("type", 0, COLLECTION.to_owned());
    sealed.put("version", 0, &1_u8);
    let mut opaques = Vec::new();
    for (n, item) in items {
        for (label, value) in &item.fields {
            sealed.text(label, *n, value.clone());
        }
        if !item.opaque.is_empty() {
            opaques.push((*n, Bytes::read(&item.opaque).unwrap().0));
        }
    }
    let (text, inside) = (clear.render(), sealed.render());
    let (pairs, inside) = (Pairs::parse(&text).unwrap(), Pairs::parse(&inside).unwrap());
    let list = collection_list(suite, &pairs, &inside, inside.largest_of_any());
    let code = secrets.authenticate(Kind::CA2, &list);
    sealed.put("auth-code", 0, &Bytes(code));
    let context = collection_context(suite, clear.iter(), &opaques);
    let opaque = secrets.seal(Kind::CA2, (1, index), &context, sealed.render().as_bytes(), random).unwrap();
    clear.put("merchant-opaque", 0, &Bytes(opaque));
    for (n, opaque) in opaques {
        clear.put("customer-opaque", n, &Bytes(opaque));
    }
    clear.frame(suite)
}

/// What a payee reads in a CA3: the batch's problem, and code and problem of each payment, and which have receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub problem: Option<String>,
    pub items: Vec<(bool, Option<String>)>,
    pub receipts: Vec<(u8, String)>,
}

impl Read {
    pub fn only(&self) -> Option<&str> {
        assert_eq!(self.items.len(), 1, "{self:?}");
        self.items[0].1.as_deref()
    }
}

pub fn read(secrets: &SessionSecrets, request: &[u8], reply: &[u8]) -> Read {
    use transact_ecash::wire::cash::{batch_receipt_context, batch_receipt_list, customer_opaques};
    let frame = Frame::parse(reply).unwrap();
    let problem = frame.clear.get("problem", 0).map(str::to_owned);
    if frame.clear.get("type", 0) == Some("error-notice") {
        return Read { problem, items: Vec::new(), receipts: Vec::new() };
    }
    let opaques = customer_opaques(&frame.clear).unwrap();
    let context = batch_receipt_context(frame.suite, frame.clear.iter(), &Digest::of(request), &opaques);
    let index = frame.clear.required("index", 0).unwrap();
    let opaque: Bytes = frame.clear.required("merchant-opaque", 0).unwrap();
    let plain = secrets.open(Kind::CA3, (1, index), &context, &opaque.0).unwrap();
    let pairs = Pairs::parse(std::str::from_utf8(&plain).unwrap()).unwrap();
    let count = pairs.largest_of_any();
    let code: Bytes = pairs.required("auth-code", 0).unwrap();
    assert!(secrets.verify(Kind::CA3, &batch_receipt_list(&frame.clear, &pairs, count), &code.0));
    let item = |n| {
        let problem = pairs.get("problem", n).map(str::to_owned);
        (pairs.get("response-code", n) == Some("success"), problem)
    };
    let receipts = opaques.into_iter().map(|(n, opaque)| (n, Bytes(opaque).write()));
    Read {
        problem: pairs.get("problem", 0).map(str::to_owned),
        items: (1..=count).map(item).collect(),
        receipts: receipts.collect(),
    }
}

/// A receipt for a payment as whoever knows the payer's secrets can make it.
pub fn receipt<const N: usize>(
    payer: &SessionSecrets,
    payment: &[u8],
    fields: [(&'static str, &str); N],
    random: &mut Random,
) -> String {
    use transact_ecash::wire::cash::{receipt_context, receipt_head, receipt_list};
    let mut sealed = Draft::default();
    fields.into_iter().for_each(|(label, value)| sealed.text(label, 0, value.to_owned()));
    sealed.text("order-id", 0, get(payment, "order-id"));
    sealed.put("request-version", 0, &1_u8);
    let index = get(payment, "index").parse().unwrap();
    let head = receipt_head(1, &get(payment, "session-id"), index, &get(payment, "order-id"));
    let inside = |label: &str| sealed.iter().find(|(other, _)| *other == label).map(|(_, value)| value);
    let code = payer.authenticate(Kind::CA4, &receipt_list(&head, inside));
    sealed.put("auth-code", 0, &Bytes(code));
    let opaque = Bytes::read(&get(payment, "opaque")).unwrap().0;
    let context = receipt_context(&head, &opaque);
    Bytes(payer.seal(Kind::CA4, (1, index), &context, sealed.render().as_bytes(), random).unwrap()).write()
}

/// CA4 with this receipt.
pub fn relayed(payment: &[u8], receipt: &str) -> Vec<u8> {
    reframe(payment, |fields| {
        fields.retain(|(label, _)| ["version", "session-id", "index", "order-id"].contains(&label.as_str()));
        fields.insert(0, ("type".into(), "cash-payer-receipt".into()));
        fields.push(("opaque".into(), receipt.to_owned()));
    })
}
