//! What is authenticated and sealed in CA1 to CA4: the same lists for the end that writes and the end that checks.

use cloakway_crypto::hash::sha256;

use crate::canonical::{Digest, Field, tlv};
use crate::frame::{Draft, Pairs};
use crate::message::Kind;
use crate::suite::{Suite, header_context, payment_digest};
use crate::value::{Bytes, Value};

/// What a payer says in clear of one payment, as text: its own CA1, or what a payee says of it in CA2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentText<'a> {
    /// `type`.
    pub kind: &'a str,
    /// `version`.
    pub version: &'a str,
    /// `session-id`.
    pub session_id: &'a str,
    /// `index`.
    pub index: &'a str,
    /// `payee-currency`.
    pub payee_currency: &'a str,
    /// `note-hash`.
    pub note_hash: &'a str,
    /// `payee-id`.
    pub payee_id: &'a str,
    /// `order-id`.
    pub order_id: &'a str,
}

impl<'a> PaymentText<'a> {
    /// From the clear part of CA1.
    #[must_use]
    pub fn of_payment(clear: &'a Pairs<'_>) -> Option<Self> {
        let get = |label| clear.get(label, 0);
        Some(Self {
            kind: get("type")?,
            version: get("version")?,
            session_id: get("session-id")?,
            index: get("index")?,
            payee_currency: get("payee-currency")?,
            note_hash: get("note-hash")?,
            payee_id: get("payee-id")?,
            order_id: get("order-id")?,
        })
    }

    /// From payment `n` of CA2. The payer's word for the currency is not forwarded: the amount that the payee asks says it.
    #[must_use]
    pub fn of_collection(sealed: &'a Pairs<'_>, n: u8) -> Option<Self> {
        let get = |label| sealed.get(label, n);
        let amount = get("merchant-amount")?;
        Some(Self {
            kind: get("type")?,
            version: get("subversion")?,
            session_id: get("payer-session-id")?,
            index: get("payer-index")?,
            payee_currency: amount.split_once(' ').map_or(amount, |(currency, _)| currency),
            note_hash: get("note-hash")?,
            payee_id: get("payee-id")?,
            order_id: get("order-id")?,
        })
    }

    fn fields(&self) -> [Field<'a>; 8] {
        [
            ("type", self.kind),
            ("version", self.version),
            ("session-id", self.session_id),
            ("index", self.index),
            ("payee-currency", self.payee_currency),
            ("note-hash", self.note_hash),
            ("payee-id", self.payee_id),
            ("order-id", self.order_id),
        ]
    }

    /// What the seal of CA1 is bound to.
    #[must_use]
    pub fn context(&self) -> Vec<u8> {
        tlv(self.fields())
    }

    /// F9's list. Classic leaves the version out.
    #[must_use]
    pub fn list(&self, suite: Suite, amount: &'a str) -> Vec<Field<'a>> {
        let fields = self.fields().into_iter().chain([("amount", amount)]);
        fields.filter(|(label, _)| !(suite.is_classic() && *label == "version")).collect()
    }

    /// F19. The labels carry no suffix: the same payment is the same wherever it stands in a batch.
    #[must_use]
    pub fn digest(&self, opaque: &[u8]) -> [u8; 32] {
        payment_digest(self.fields(), opaque)
    }
}

const ITEM: [&str; 8] =
    ["type", "subversion", "payer-session-id", "payer-index", "note-hash", "payee-id", "order-id", "merchant-amount"];

/// F10's list of a CA2 with `count` payments. Classic leaves the clear version and the service category out.
#[must_use]
pub fn collection_list<'a>(suite: Suite, clear: &'a Pairs<'_>, sealed: &'a Pairs<'_>, count: u8) -> Vec<Field<'a>> {
    let head: &[&str] = if suite.is_classic() {
        &["type", "session-id", "index"]
    } else {
        &["type", "version", "session-id", "index", "service-category"]
    };
    let mut list: Vec<Field<'a>> = head.iter().filter_map(|label| clear.field(label, 0)).collect();
    list.extend(["type", "version"].iter().filter_map(|label| sealed.field(label, 0)));
    for n in 1..=count {
        list.extend(ITEM.iter().filter_map(|label| sealed.field(label, n)));
    }
    list
}

const RECEIPT_ITEM: [&str; 9] = [
    "subtype",
    "subversion",
    "payer-session-id",
    "payer-index",
    "response-code",
    "remark",
    "collected-amount",
    "problem",
    "order-id",
];

/// F11's list of a CA3.
#[must_use]
pub fn batch_receipt_list<'a>(clear: &'a Pairs<'_>, sealed: &'a Pairs<'_>, count: u8) -> Vec<Field<'a>> {
    let head = ["type", "version", "session-id", "index", "service-category"];
    let mut list: Vec<Field<'a>> = head.iter().filter_map(|label| clear.field(label, 0)).collect();
    let batch = ["subtype", "subversion", "response-code", "fee", "problem", "remark"];
    list.extend(batch.iter().filter_map(|label| sealed.field(label, 0)));
    for n in 1..=count {
        list.extend(RECEIPT_ITEM.iter().filter_map(|label| sealed.field(label, n)));
    }
    list.extend(sealed.field("request-version", 0));
    list
}

/// The clear fields of a receipt as its authenticator has them.
#[must_use]
pub fn receipt_head(version: u8, session_id: &str, index: u16, order_id: &str) -> Draft {
    let mut head = Draft::default();
    head.text("type", 0, Kind::CA4.type_text().to_owned());
    head.put("version", 0, &version);
    head.text("session-id", 0, session_id.to_owned());
    head.put("index", 0, &index);
    head.text("order-id", 0, order_id.to_owned());
    head
}

/// F12's list: the clear fields but the order, which is inside.
#[must_use]
pub fn receipt_list<'a>(head: &'a Draft, sealed: impl Fn(&'static str) -> Option<&'a str>) -> Vec<Field<'a>> {
    let inside = ["response-code", "remark", "foreign-exchange", "amount", "problem", "order-id", "request-version"];
    head.iter()
        .filter(|(label, _)| *label != "order-id")
        .chain(inside.into_iter().filter_map(|label| Some((label, sealed(label)?))))
        .collect()
}

/// What a receipt's seal is bound to: its clear fields, and the very CA1 that the server saw.
#[must_use]
pub fn receipt_context(head: &Draft, payment_opaque: &[u8]) -> Vec<u8> {
    let mut context = tlv(head.iter());
    context.extend_from_slice(&sha256(&[payment_opaque]));
    context
}

/// The sealed payments of a CA2 or CA3 by number, decoded; `None` when one is no base64.
#[must_use]
pub fn customer_opaques(clear: &Pairs<'_>) -> Option<Vec<(u8, Vec<u8>)>> {
    let last = clear.largest_suffix("customer-opaque");
    let mut opaques = Vec::with_capacity(usize::from(last));
    for n in 1..=last {
        if let Some(text) = clear.get("customer-opaque", n) {
            opaques.push((n, Bytes::read(text).ok()?.0));
        }
    }
    Some(opaques)
}

/// What the payee's seal of CA2 is bound to.
#[must_use]
pub fn collection_context<'a>(
    suite: Suite,
    clear: impl Iterator<Item = Field<'a>>,
    opaques: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    let mut context = header_context(suite, clear);
    opaques.iter().for_each(|(_, opaque)| context.extend_from_slice(&sha256(&[opaque])));
    context
}

/// What the server's seal of CA3 is bound to.
#[must_use]
pub fn batch_receipt_context<'a>(
    suite: Suite,
    clear: impl Iterator<Item = Field<'a>>,
    request: &Digest,
    opaques: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    let mut context = header_context(suite, clear);
    context.extend_from_slice(&request.0);
    for (n, opaque) in opaques {
        context.push(*n);
        context.extend_from_slice(&sha256(&[opaque]));
    }
    context
}
