//! Messages of a payment: the offer, CA1 to CA4, and the notice that nobody vouches for.

use cloakway_types::Timestamp;

use crate::message::{Problem, ResponseCode};
use crate::value::{Amounts, Bytes, Currency, Money, OrderId, PersonaId, Rates, SessionId, Short, Signed};

parts! {
    /// PR1.
    Offer {
        merchant_id: PersonaId = "merchant-id",
        order_id: OrderId = "merchant-order-id",
        date: Timestamp = "merchant-date",
        swversion: Short<64> = "merchant-swversion",
        note: String = "note",
        amount: Money = "merchant-amount",
        accepts: Option<Short<256>> = "accepts",
        url_pay_to: Short<2048> = "url-pay-to",
        url_cancel: Option<Short<2048>> = "url-cancel",
        url_success: Option<Short<2048>> = "url-success",
        url_failure: Option<Short<2048>> = "url-failure",
        key: Bytes = "merchant-signed-hash-key",
        signature: Bytes = "merchant-signed-hash",
        amount2: Option<Amounts> = "merchant-amount2",
    }

    /// The clear part of CA1.
    PaymentClear {
        version: u8 = "version",
        session_id: SessionId = "session-id",
        index: u16 = "index",
        payee_currency: Currency = "payee-currency",
        note_hash: Bytes = "note-hash",
        payee_id: PersonaId = "payee-id",
        order_id: OrderId = "order-id",
        service_category: Option<Short<32>> = "service-category",
    }

    /// The sealed part of CA1.
    PaymentSealed {
        amount: Signed = "amount",
        auth_code: Bytes = "auth-code",
    }

    /// The clear part of CA2, and of CA3.
    CollectionHead {
        version: u8 = "version",
        session_id: SessionId = "session-id",
        index: u16 = "index",
        service_category: Option<Short<32>> = "service-category",
    }

    /// A payment in CA2.
    BatchItem {
        kind: Short<32> = "type",
        subversion: u8 = "subversion",
        payer_session_id: SessionId = "payer-session-id",
        payer_index: u16 = "payer-index",
        note_hash: Bytes = "note-hash",
        payee_id: PersonaId = "payee-id",
        order_id: OrderId = "order-id",
        merchant_amount: Money = "merchant-amount",
    }

    /// What CA3 says of the batch.
    BatchReceipt {
        subtype: Short<32> = "subtype",
        subversion: u8 = "subversion",
        response_code: ResponseCode = "response-code",
        fee: Option<Money> = "fee",
        problem: Option<Problem> = "problem",
        remark: Option<String> = "remark",
        request_version: u8 = "request-version",
        auth_code: Bytes = "auth-code",
    }

    /// What CA3 says of one payment.
    BatchReceiptItem {
        subtype: Short<32> = "subtype",
        subversion: u8 = "subversion",
        payer_session_id: SessionId = "payer-session-id",
        payer_index: u16 = "payer-index",
        response_code: ResponseCode = "response-code",
        remark: Option<String> = "remark",
        collected_amount: Money = "collected-amount",
        problem: Option<Problem> = "problem",
        order_id: OrderId = "order-id",
    }

    /// The clear part of CA4.
    RelayHead {
        version: u8 = "version",
        session_id: SessionId = "session-id",
        index: u16 = "index",
        order_id: OrderId = "order-id",
        service_category: Option<Short<32>> = "service-category",
    }

    /// The sealed part of CA4: the server's decision on one use of a payer's session.
    Receipt {
        response_code: ResponseCode = "response-code",
        remark: Option<String> = "remark",
        foreign_exchange: Option<Rates> = "foreign-exchange",
        amount: Money = "amount",
        problem: Option<Problem> = "problem",
        order_id: OrderId = "order-id",
        request_version: u8 = "request-version",
        auth_code: Bytes = "auth-code",
    }

    /// The clear fields that the server vouches for in a receipt.
    ReceiptHead {
        version: u8 = "version",
        session_id: SessionId = "session-id",
        index: u16 = "index",
        order_id: OrderId = "order-id",
    }

    /// ER1.
    Notice {
        date: Option<Timestamp> = "date",
        session_id: Option<SessionId> = "session-id",
        index: Option<u16> = "index",
        problem: Problem = "problem",
        message: String = "message",
    }
}
