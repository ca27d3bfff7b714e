//! What goes into a [`Link`](crate::Link) and what comes out of it.

use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_crypto::bank::PinKey;

use crate::frame::{FrameError, Framing, LengthKind};
use crate::profile::{Codec, Profile};
use crate::request::{Acceptor, Authorisation, Refund, ResponseCode, Reversal, ReversalKind};

/// How the link behaves.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Who we are to the institution.
    pub acceptor: Acceptor,
    /// How messages become octets.
    pub codec: Codec,
    /// How they follow each other.
    pub framing: Framing,
    /// The key under which PINs travel; without it, what comes with a PIN is not sent.
    pub pin_key: Option<PinKey>,
    /// By which messages requests are taken back.
    pub reversals: ReversalKind,
    /// Connections at one time, numbered from 0.
    pub lines: usize,
    /// How long an answer may take, to authorisations, sign-on and echo alike.
    pub answer_timeout: Duration,
    /// How long nothing may be heard before an echo is sent.
    pub echo_interval: Duration,
    /// From a reversal to its first repetition; doubled each time.
    pub reversal_retry: Duration,
    /// The longest time between two repetitions.
    pub reversal_retry_max: Duration,
    /// Requests that may wait for an answer; more are refused.
    pub max_outstanding: usize,
}

impl LinkConfig {
    /// ASCII over one connection, with the usual times: 15 s for an answer, an echo after 60 s, reversals repeated after 2
    /// to 60 s, 256 requests at a time.
    #[must_use]
    pub const fn new(acceptor: Acceptor) -> Self {
        Self {
            acceptor,
            codec: Codec { profile: Profile::ASCII, mac: None },
            framing: Framing { length: LengthKind::Octets, header: Vec::new() },
            pin_key: None,
            reversals: ReversalKind::Request,
            lines: 1,
            answer_timeout: Duration::from_secs(15),
            echo_interval: Duration::from_secs(60),
            reversal_retry: Duration::from_secs(2),
            reversal_retry_max: Duration::from_secs(60),
            max_outstanding: 256,
        }
    }
}

/// What happens to the link. `K` is the caller's own name for a request.
#[derive(Debug)]
pub enum Input<'a, K> {
    /// This connection was made.
    Connected(usize),
    /// Octets arrived on it.
    Bytes(usize, &'a [u8]),
    /// It ended.
    Disconnected(usize),
    /// Ask for an authorisation or a purchase. The caller has stored its trace before.
    Authorise(K, Box<Authorisation>),
    /// Ask for a refund. The caller has stored its trace before.
    Refund(K, Box<Refund>),
    /// Take a request back. The caller keeps it stored until [`Output::Reversed`]; the link holds as
    /// many as the caller hands in, each once.
    Reverse(K, Reversal),
    /// Nothing more will be asked: sign off wherever we are signed on. Each connection ends when that is answered, or not in
    /// time.
    SignOff,
    /// [`Link::poll_timeout`](crate::Link::poll_timeout) is due.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<K> {
    /// Write these octets to this connection.
    Send(usize, Secret<Vec<u8>>),
    /// The institution has answered.
    Authorised(K, Verdict),
    /// Whether the institution did what was asked is unknown: reverse it.
    TimedOut(K, Why),
    /// Nothing was sent and nothing will be: nothing is to be reversed.
    NotSent(K),
    /// An answer came after [`Output::TimedOut`]; the reversal stands. For the log.
    Late(K, ResponseCode),
    /// Nothing is left of what was asked.
    Reversed(K, ResponseCode),
    /// End this connection; [`Input::Disconnected`] need not follow.
    Disconnect(usize, DisconnectReason),
}

/// An institution's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approved {
        /// Field 38; empty when the institution gave none.
        authorisation_code: String,
    },
    /// No.
    Declined(ResponseCode),
}

/// Why a request's outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No answer within [`LinkConfig::answer_timeout`].
    Deadline,
    /// The connection ended first.
    ConnectionLost,
    /// Approved, but conditionally or for something else than what was asked.
    Unclear(ResponseCode),
}

/// Why the link wants its connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// The sign-on was not answered.
    #[error("the institution did not answer the sign-on in time")]
    SignOnTimedOut,
    /// The sign-on was refused.
    #[error("the institution refused the sign-on with response code {0}")]
    SignOnRefused(ResponseCode),
    /// We signed off.
    #[error("signed off")]
    SignedOff,
    /// The echo was not answered.
    #[error("the institution did not answer the echo in time")]
    EchoTimedOut,
    /// The stream cannot be read on.
    #[error("the institution's stream cannot be read on: {0}")]
    Stream(FrameError),
}
