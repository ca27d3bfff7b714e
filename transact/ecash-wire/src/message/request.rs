//! Requests outside sessions, and their replies.

use cloakway_types::Timestamp;

use crate::message::{Problem, ResponseCode, Severity};
use crate::value::{
    Agreements, Amounts, Bytes, Currency, Functions, InstrumentNumber, Minutes, Money, Passphrase, PersonaId, Rates,
    SessionId, Short, Signed,
};

parts! {
    /// The clear part of every request.
    RequestHead {
        id: Option<PersonaId> = "id",
        transaction: u64 = "transaction",
        date: Timestamp = "date",
        serverkey: Short<64> = "serverkey",
        service_category: Option<Short<32>> = "service-category",
    }

    /// The clear part of every reply.
    ReplyHead {
        id: Option<PersonaId> = "id",
        transaction: Option<u64> = "transaction",
        date: Option<Timestamp> = "date",
        service_category: Option<Short<32>> = "service-category",
    }

    /// What every reply says.
    Outcome {
        server_date: Timestamp = "server-date",
        response_code: ResponseCode = "response-code",
        problem: Option<Problem> = "problem",
        swseverity: Option<Severity> = "swseverity",
        swmessage: Option<String> = "swmessage",
        message: Option<String> = "message",
    }

    /// R1.
    Register {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        content_language: Short<16> = "content-language",
        default_currency: Currency = "default-currency",
        requested_id: Short<64> = "requested-id",
        email: Short<254> = "email",
        agreements: Option<Agreements> = "agreements",
        autoclose_passphrase: Option<Passphrase> = "autoclose-passphrase",
        pubkey: Bytes = "pubkey",
    }

    /// R1 as `persona-update`.
    Update {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        content_language: Option<Short<16>> = "content-language",
        email: Option<Short<254>> = "email",
        agreements: Option<Agreements> = "agreements",
        autoclose_passphrase: Option<Passphrase> = "autoclose-passphrase",
        key: Bytes = "key",
    }

    /// R2.
    RegisterResult {
        requested_id: Option<Short<64>> = "requested-id",
        response_id: Option<Short<64>> = "response-id",
        email: Option<Short<254>> = "email",
        funds_waiting: Option<Short<16>> = "funds-waiting",
        pubkey: Option<Bytes> = "pubkey",
    }

    /// BI1.
    Bind {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        number: InstrumentNumber = "instrument-number",
        sub_type: Short<32> = "instrument-type",
        category: Short<32> = "instrument-category",
        functions: Functions = "instrument-functions",
        salt: Bytes = "instrument-salt",
        expiration_date: Option<Short<16>> = "instrument-expiration-date",
        name: Short<128> = "instrument-name",
        address: Option<Short<256>> = "instrument-address",
        city: Option<Short<128>> = "instrument-city",
        state: Option<Short<64>> = "instrument-state",
        postal_code: Option<Short<32>> = "instrument-postal-code",
        country: Short<64> = "instrument-country",
        agreements: Option<Agreements> = "agreements",
        autoclose: bool = "autoclose",
        autoclose_passphrase: Option<Passphrase> = "autoclose-passphrase",
        key: Bytes = "key",
    }

    /// BI2, beside the questions, which are numbered.
    Question {
        challenge: Bytes = "challenge",
    }

    /// BI3, beside the answers, which are numbered.
    Answer {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        challenge: Bytes = "challenge",
        key: Bytes = "key",
    }

    /// BI4, beside what the client keeps and sends again with each load.
    BindResult {
        number: Option<InstrumentNumber> = "instrument-number",
        sub_type: Option<Short<32>> = "instrument-type",
        salt: Option<Bytes> = "instrument-salt",
        functions: Option<Functions> = "instrument-functions",
        status: Option<Short<32>> = "instrument-status",
    }

    /// LU1, beside what BI4 gave.
    LoadUnload {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        amount: Signed = "amount",
        number: InstrumentNumber = "instrument-number",
        salt: Bytes = "instrument-salt",
        seal: Option<Bytes> = "instrument-seal",
        key: Bytes = "key",
    }

    /// LU2.
    LoadUnloadResult {
        amount: Option<Signed> = "amount",
        fee: Option<Money> = "fee",
        balance: Option<Money> = "balance",
        session_funds: Option<Money> = "session-funds",
        on_hold: Option<Money> = "on-hold",
    }

    /// OS1.
    OpenSession {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        record_note: Option<Short<60>> = "record-note",
        amount: Money = "amount",
        key_lifetime: Minutes = "key-lifetime",
        key_use_limit: u16 = "key-use-limit",
        key: Bytes = "key",
    }

    /// OS2.
    OpenSessionResult {
        key_lifetime: Option<Minutes> = "key-lifetime",
        key_use_limit: Option<u16> = "key-use-limit",
        amount: Option<Money> = "amount",
        foreign_exchange: Option<Rates> = "foreign-exchange",
        session_funds: Option<Money> = "session-funds",
        balance: Option<Money> = "balance",
        on_hold: Option<Money> = "on-hold",
        fee: Option<Money> = "fee",
        session_id: Option<SessionId> = "session-id",
        session_key: Option<Bytes> = "session-key",
        session_salt: Option<Bytes> = "session-salt",
    }

    /// CS1.
    Close {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        record_note: Option<Short<60>> = "record-note",
        session_id: Option<SessionId> = "session-id",
        request_log: bool = "request-log",
        key: Bytes = "key",
    }

    /// CS2, beside the log.
    CloseResult {
        fee: Option<Amounts> = "fee",
        amount: Option<Amounts> = "amount",
        balance: Option<Amounts> = "balance",
        on_hold: Option<Amounts> = "on-hold",
        log_more: Option<bool> = "log-more",
    }

    /// AC1.
    Autoclose {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        autoclose_passphrase: Passphrase = "autoclose-passphrase",
    }

    /// AC2.
    AutocloseResult {
        amount: Option<Amounts> = "amount",
    }

    /// DG1.
    Diagnostic {
        server_date: Timestamp = "server-date",
        swversion: Short<64> = "swversion",
        diagnosis: String = "diagnosis",
    }
}
