//! Who is signed in: by a token whose hash is in the configuration, for a while, and not by trying.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cloakway_crypto::encode::base64url;
use cloakway_crypto::hash::sha256;
use cloakway_crypto::{Randomness, Secret, ct_eq};
use cloakway_types::Instant;

use super::settings::Operator;

/// Without a request.
const IDLE: Duration = Duration::from_secs(30 * 60);
const LONGEST: Duration = Duration::from_secs(8 * 3600);
const SESSIONS: usize = 64;
/// Wrong tokens in [`WINDOW`], of everybody together: one who signs in waits while somebody tries.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Why nobody was signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("This token is nobody's.")]
    Wrong,
    #[error("Too many wrong tokens: wait a minute.")]
    TooMany,
}

/// An operator who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedIn {
    pub(crate) who: String,
    /// Has to be in every form.
    pub(crate) form_token: String,
}

#[derive(Debug)]
struct Session {
    signed_in: SignedIn,
    since: Instant,
    used: Instant,
}

#[derive(Debug)]
pub(crate) struct Sessions {
    operators: Vec<Operator>,
    /// By the hash of the cookie.
    open: BTreeMap<[u8; 32], Session>,
    failures: VecDeque<Instant>,
}

impl Sessions {
    pub(crate) fn new(operators: Vec<Operator>) -> Self {
        Self { operators, open: BTreeMap::new(), failures: VecDeque::new() }
    }

    /// Signs in by a token; gives the cookie and who it is.
    pub(crate) fn sign_in(
        &mut self,
        token: &str,
        random: &mut impl Randomness,
        now: Instant,
    ) -> Result<(Secret<String>, SignedIn), SignInError> {
        while self.failures.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            self.failures.pop_front();
        }
        if self.failures.len() >= FAILURES {
            return Err(SignInError::TooMany);
        }
        let digest = sha256(&[token.trim().as_bytes()]);
        let found = self
            .operators
            .iter()
            .fold(None, |found, operator| if ct_eq(&operator.token_sha256, &digest) { Some(operator) } else { found });
        let Some(operator) = found else {
            self.failures.push_back(now);
            return Err(SignInError::Wrong);
        };
        let mut make = || {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            base64url(&bytes)
        };
        let (cookie, form_token) = (make(), make());
        let signed_in = SignedIn { who: operator.name.clone(), form_token };
        self.forget(now);
        if self.open.len() >= SESSIONS
            && let Some(oldest) = self.open.iter().min_by_key(|(_, session)| session.used).map(|(name, _)| *name)
        {
            self.open.remove(&oldest);
        }
        let session = Session { signed_in: signed_in.clone(), since: now, used: now };
        self.open.insert(sha256(&[cookie.as_bytes()]), session);
        Ok((Secret::new(cookie), signed_in))
    }

    /// Who a cookie is of.
    pub(crate) fn find(&mut self, cookie: &str, now: Instant) -> Option<SignedIn> {
        self.forget(now);
        let session = self.open.get_mut(&sha256(&[cookie.as_bytes()]))?;
        session.used = now;
        Some(session.signed_in.clone())
    }

    pub(crate) fn sign_out(&mut self, cookie: &str) {
        self.open.remove(&sha256(&[cookie.as_bytes()]));
    }

    fn forget(&mut self, now: Instant) {
        self.open.retain(|_, session| now.since(session.used) < IDLE && now.since(session.since) < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use cloakway_crypto::System;
    use cloakway_runtime::clock;

    use super::*;

    fn sessions() -> Sessions {
        let operator = |name: &str, token: &str| Operator {
            name: name.to_owned(),
            token_sha256: sha256(&[token.as_bytes()]).to_vec(),
        };
        Sessions::new(vec![operator("alice", "token-a"), operator("bob", "token-b")])
    }

    #[test]
    fn a_session_ends_when_it_is_not_used_after_its_time_and_by_signing_out() {
        let (mut sessions, start) = (sessions(), clock::now());
        let (cookie, alice) = sessions.sign_in(" token-a\n", &mut System, start).unwrap();
        assert_eq!(alice.who, "alice");
        assert_eq!(sessions.find("guess", start), None);
        let mut now = start;
        for _ in 0..15 {
            now = now + (IDLE - Duration::from_secs(1));
            assert_eq!(sessions.find(cookie.expose(), now), Some(alice.clone()));
        }
        assert_eq!(sessions.find(cookie.expose(), start + LONGEST), None, "after eight hours");
        let (cookie, _) = sessions.sign_in("token-b", &mut System, start).unwrap();
        assert_eq!(sessions.find(cookie.expose(), start + IDLE), None, "after half an hour without a request");
        let (cookie, bob) = sessions.sign_in("token-b", &mut System, start).unwrap();
        assert_eq!(sessions.find(cookie.expose(), start), Some(bob));
        sessions.sign_out(cookie.expose());
        assert_eq!(sessions.find(cookie.expose(), start), None);
    }

    #[test]
    fn who_tries_is_stopped_after_five_for_a_minute() {
        let (mut sessions, start) = (sessions(), clock::now());
        for at in 0..5_u64 {
            let now = start + Duration::from_secs(at);
            assert_eq!(sessions.sign_in("guess", &mut System, now).unwrap_err(), SignInError::Wrong);
        }
        let now = start + Duration::from_secs(59);
        assert_eq!(sessions.sign_in("token-a", &mut System, now).unwrap_err(), SignInError::TooMany);
        assert!(sessions.sign_in("token-a", &mut System, start + WINDOW).is_ok());
    }

    #[test]
    fn sessions_are_bounded_and_the_one_that_was_not_used_for_longest_goes() {
        let (mut sessions, start) = (sessions(), clock::now());
        let cookies: Vec<_> = (0..=SESSIONS as u64)
            .map(|at| sessions.sign_in("token-a", &mut System, start + Duration::from_secs(at)).unwrap().0)
            .collect();
        let now = start + Duration::from_secs(100);
        assert_eq!(sessions.find(cookies[0].expose(), now), None);
        assert!(sessions.find(cookies[1].expose(), now).is_some());
        assert_eq!(sessions.open.len(), SESSIONS);
    }
}
