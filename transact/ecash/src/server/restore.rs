//! The server as its records left it.

use std::collections::BTreeSet;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use transact_ledger::{AuditError, Entry};

use super::{Effect, Logged, QuestionId, Server, ServerKeys, Step};
use crate::policy::Policy;
use crate::state::Record;

/// Why stored records make no server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreError {
    /// The entries do not lead from one to the next.
    Books(AuditError),
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Books(error) => write!(f, "the stored entries prove no balances: {error}"),
        }
    }
}

impl std::error::Error for RestoreError {}

impl Server {
    /// Takes up where the stored records left off, in whatever order they come. What an issuer was being asked about is
    /// taken back: whether it answered is not known.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(
        policy: Policy,
        keys: ServerKeys,
        records: impl IntoIterator<Item = Record>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<(Self, Step), RestoreError> {
        let mut server = Self::empty(policy, keys);
        let mut entries: Vec<Entry> = Vec::new();
        for record in records {
            server.take(record, &mut entries);
        }
        entries.sort_by_key(|entry| entry.number);
        for entry in &entries {
            server.books.replay(entry).map_err(RestoreError::Books)?;
        }
        // A session's decisions in the order in which they were made.
        let mut order: Vec<_> = server
            .payments
            .values()
            .map(|payment| (payment.collected_by.0, payment.decided_at, payment.collected_by, payment))
            .map(|(payee, at, by, payment)| (payee, at, by.1, by.2, (payment.session, payment.index)))
            .collect();
        order.sort_unstable();
        for (payee, _, _, _, key) in order {
            server.decided.entry(payee).or_default().push(key);
        }
        let mut step = Step::default();
        let waiting: Vec<u64> = server.pending.keys().copied().collect();
        for number in waiting {
            let what = server.pending.get(&number).map(|pending| (pending.binding, pending.amount));
            server.move_decided(number, None, false, now, random, &mut step);
            if let Some((binding, amount)) = what {
                step.effects.push(Effect::TakeBack(QuestionId(number), binding, amount));
            }
        }
        Ok((server, step))
    }

    fn take(&mut self, record: Record, entries: &mut Vec<Entry>) {
        match record {
            Record::Persona(persona) => {
                self.key_owners.insert(persona.key.0.clone(), persona.id.clone());
                self.personas.insert(persona.id.clone(), persona);
            }
            Record::Binding(binding) => {
                self.bindings.insert(binding.id, binding);
            }
            Record::Session(session) => {
                if session.closed.is_none() {
                    self.ends.add(session.id, session.opened_at, session.lifetime.as_duration());
                    let open: &mut BTreeSet<_> = self.open_sessions.entry(session.persona.clone()).or_default();
                    open.insert(session.id);
                }
                self.sessions.insert(session.id, *session);
            }
            Record::Payment(payment) => {
                self.payments.insert((payment.session, payment.index), *payment);
            }
            Record::Log(log) => {
                self.by_digest.insert(log.digest, log.number);
                if let Some(key) = &log.key {
                    self.by_key.insert(key.clone(), log.number);
                }
                self.log.insert(log.number, Logged::from(&log));
            }
            Record::Entry(entry) => entries.push(entry),
            Record::Hold(hold) => self.holds.restore(hold),
            Record::Use(_, operation) => self.limits.record(&operation),
            Record::Pending(pending) => {
                self.pending.insert(pending.number, *pending);
            }
            Record::Numbers(numbers) => self.numbers = numbers,
        }
    }
}
