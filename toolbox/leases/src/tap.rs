//! DHCP as it passes by: what a server grants, and what clients give back.
//!
//! A grant counts when it comes from one of the servers that are named. Only the server knows the client's lease, and a
//! lost packet leaves us behind: the shell says when the kernel lost some, and everything heard before is doubtful then.

mod v4;
mod v6;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use cloakway_types::Timestamp;

use crate::book::Book;
use crate::holder::Holder;
use crate::lease::Lease;

/// Questions whose answers may come.
const WAITING: usize = 16_384;

/// A message that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// It cannot be decoded.
    #[error("no DHCP message: {0}")]
    Message(String),
    /// A grant from an address that is no server's.
    #[error("a grant from {0}, which is none of the servers")]
    Stranger(IpAddr),
    /// Relays within relays beyond what RFC 8415 §7.6 allows.
    #[error("relayed more than 8 times")]
    Relays,
}

/// One UDP datagram of DHCP.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'d> {
    /// Who sent it.
    pub from: IpAddr,
    /// What is in it.
    pub payload: &'d [u8],
    /// When it passed.
    pub at: Timestamp,
}

/// Follows exchanges.
#[derive(Debug)]
pub struct Tap {
    servers: Vec<IpAddr>,
    asked: HashMap<Question, Holder>,
    order: VecDeque<Question>,
}

/// What makes an answer the answer of a question: the transaction, and the client's address or DUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    transaction: u32,
    client: Vec<u8>,
}

impl Tap {
    /// A tap that believes `servers`.
    #[must_use]
    pub fn new(servers: Vec<IpAddr>) -> Self {
        Self { servers, asked: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes a datagram; gives what it says of leases. `book` is what is known so far: what a client gives back must
    /// be its own.
    ///
    /// # Errors
    /// [`TapError`]; nothing is changed then.
    pub fn hear(&mut self, datagram: Datagram<'_>, book: &Book) -> Result<Vec<Lease>, TapError> {
        if datagram.from.is_ipv4() { v4::hear(self, datagram, book) } else { v6::hear(self, datagram, book) }
    }

    fn believes(&self, from: IpAddr) -> Result<(), TapError> {
        if self.servers.contains(&from) { Ok(()) } else { Err(TapError::Stranger(from)) }
    }

    fn ask(&mut self, question: Question, holder: Holder) {
        if self.asked.insert(question.clone(), holder).is_none() {
            self.order.push_back(question);
        }
        if self.order.len() > WAITING
            && let Some(oldest) = self.order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }
}
