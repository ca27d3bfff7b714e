//! One connection's bounds (A12), shared between its bytes, its timer and its requests.

use std::sync::{Arc, Mutex, PoisonError};

use cloakway_runtime::clock;
use cloakway_types::IspId;
use tokio::sync::Notify;
use transact_core::PasswordMatched;
use transact_core::admission::{Admission, BoundReached, Payer, Unproven};

/// The bounds of all connections.
#[derive(Debug, Clone)]
pub(crate) struct Gates(Arc<Mutex<Admission>>);

impl Gates {
    pub(crate) fn new(admission: Admission) -> Self {
        Self(Arc::new(Mutex::new(admission)))
    }

    pub(crate) fn open(&self, isp: IspId) -> Gate {
        let payer = self.0.lock().unwrap_or_else(PoisonError::into_inner).connect(isp);
        Gate { gates: self.clone(), payer: Arc::new(Mutex::new(Some(payer))), first_byte: Arc::new(Notify::new()) }
    }
}

/// A connection's gate: open to little until a password matched.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    gates: Gates,
    /// `None` once the payer has proven itself.
    payer: Arc<Mutex<Option<Payer<Unproven>>>>,
    first_byte: Arc<Notify>,
}

impl Gate {
    fn unproven(&self) -> std::sync::MutexGuard<'_, Option<Payer<Unproven>>> {
        self.payer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that arrived; an error means that the connection has to go.
    pub(crate) fn count(&self, bytes: usize) -> Result<(), BoundReached> {
        let mut unproven = self.unproven();
        let Some(payer) = unproven.as_mut() else { return Ok(()) };
        let mut admission = self.gates.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = admission.count(payer, bytes as u64, clock::now());
        self.first_byte.notify_one();
        result
    }

    /// Lifts the bounds.
    pub(crate) fn prove(&self, matched: PasswordMatched) {
        // The proven payer has no further use here: that there is no unproven one is what counts.
        let _ = self.unproven().take().map(|payer| payer.prove(matched));
    }

    /// Lifts the bounds for whom electronic cash has known by a signature or a session's secret.
    pub(crate) fn lift(&self) {
        drop(self.unproven().take());
    }

    /// Ends when the session timer does; never once the payer has proven itself.
    pub(crate) async fn expired(&self) {
        loop {
            let deadline = {
                let unproven = self.unproven();
                let Some(payer) = unproven.as_ref() else { break };
                payer.deadline(self.gates.0.lock().unwrap_or_else(PoisonError::into_inner).bounds())
            };
            match deadline {
                None => self.first_byte.notified().await,
                Some(at) if at <= clock::now() => return,
                Some(at) => clock::until(Some(at)).await,
            }
        }
        std::future::pending().await
    }
}
