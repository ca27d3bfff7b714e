//! The server's end of electronic cash with sessions (G1, G2, G3, G4), without I/O or a clock.
//!
//! [`Server`] takes a message, the time and randomness, and returns a [`Step`]: first what has to be durable together,
//! then what may leave. It alone validates payments and moves value, in the books of `transact-ledger`. What is spoken,
//! and the clients' ends, are in `ecash-wire`.
//!
//! Left out: sockets, files, the bank's messages. The issuer is asked by [`Effect::Ask`] and answers by
//! [`Server::issuer_answered`].

mod policy;
mod server;
mod state;

pub use ecash_wire as wire;
pub use policy::{LoadHold, Policy, Software, SuiteRefused, Suites};
pub use server::{
    BindDecision, Cost, Effect, InstrumentPolicy, IssuerAnswer, IssuerQuestion, QuestionId, RestoreError, Server,
    ServerKeys, Step, Ticket,
};
pub use state::{
    Binding, BindingStatus, Bitmap, ClosedBy, LogKey, LogRecord, Numbers, Payment, PaymentOutcome, PendingMove,
    Persona, Record, RecordKey, Role, Session, Verifier, Write,
};
pub use transact_ledger as ledger;
