//! A wallet that a person, a shop or a program holds.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use cloakway_crypto::passphrase::Cost;
use cloakway_crypto::{Secret, System};
use cloakway_runtime::clock;
use cloakway_types::Timestamp;
use ecash_wire::client::{Client, Event, NotPossible, OfferKey, PayError, SentOutcome, Step, To};
use ecash_wire::message::{Kind, Problem};
use ecash_wire::suite::{SigningKey, Suite};
use ecash_wire::value::{Money, SessionId};

use crate::remote::{Remote, Unreached};
use crate::vault::{Settings, Vault, VaultError};

/// What is said of this software to the server.
const SOFTWARE: &str = concat!("cloakway-", env!("CARGO_PKG_VERSION"));
/// How often a message that is in nobody's hands is tried again while somebody waits for it.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a wallet did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// Its records.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Somebody cannot be reached, and nothing waits for them.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// The wallet cannot ask for it.
    #[error(transparent)]
    NotPossible(#[from] NotPossible),
    /// The wallet cannot pay it.
    #[error(transparent)]
    Pay(#[from] PayError),
    /// There are records and no wallet.
    #[error("the wallet is damaged: it has no identity")]
    NoIdentity,
    /// What came is no offer.
    #[error("{0}: what came is no offer")]
    NoOffer(String),
    /// The server refused. Nothing changed.
    #[error("refused: {text}")]
    Refused {
        /// The reason.
        problem: Option<Problem>,
        /// For a person.
        text: String,
    },
    /// No answer yet. What was asked is kept, and sent again byte for byte by whoever opens the wallet next.
    #[error("no answer yet{}: what was asked is kept; `payer wallet recover` sends the same again", last.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Unanswered {
        /// What happened last.
        last: Option<String>,
    },
}

/// What may leave and what happened, once a step is durable.
#[derive(Debug, Default)]
pub struct Commit {
    /// Messages, in order.
    pub send: Vec<(To, Vec<u8>)>,
    /// What happened.
    pub events: Vec<Event>,
}

/// What came of a step and of everything that answered it.
#[derive(Debug, Default)]
pub struct Done {
    /// What happened.
    pub events: Vec<Event>,
    /// Messages for payers, which go the way that theirs came.
    pub payers: Vec<((SessionId, u16), Vec<u8>)>,
    /// Who was not reached, and why.
    pub unreached: Vec<String>,
}

/// How a payment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bought {
    /// This was charged.
    Paid(Money),
    /// Nothing was, and nothing will be.
    Refused(Option<Problem>),
}

/// Told every second to whoever waits: seconds, and what is wrong if something is.
pub type Progress<'p> = &'p (dyn Fn(u64, Option<&str>) + Send + Sync);

/// A wallet.
#[derive(Debug)]
pub struct Wallet {
    client: Client,
    vault: Vault,
    remote: Remote,
}

impl Wallet {
    /// Makes a wallet for the server at `settings`, whose public key is fetched over TLS.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn create(
        folder: &Path,
        passphrase: &Secret<String>,
        cost: Cost,
        settings: &Settings,
        suite: Suite,
    ) -> Result<Self, WalletError> {
        let remote = Remote::new(&settings.server, &settings.ca)?;
        let keys = remote.keys(suite).await?;
        let key = keys.first().ok_or(NotPossible::Key)?;
        let signing = SigningKey::generate(suite, &mut System).map_err(|_| NotPossible::Key)?;
        let (client, step) = Client::new(key, SOFTWARE, &signing);
        let vault = Vault::create(folder, passphrase, cost, settings).await?;
        vault.write(&step.writes).await?;
        Ok(Self { client, vault, remote })
    }

    /// Opens a wallet. Nothing is sent: [`Wallet::recover`] does that.
    ///
    /// # Errors
    /// [`WalletError`].
    pub fn open(folder: &Path, passphrase: &Secret<String>) -> Result<Self, WalletError> {
        let (vault, settings, records) = Vault::open(folder, passphrase)?;
        let client = Client::restore(records).ok_or(WalletError::NoIdentity)?;
        let remote = Remote::new(&settings.server, &settings.ca)?;
        Ok(Self { client, vault, remote })
    }

    /// What it knows.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The ways out.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Takes the server's key of now, where the wallet's serves no longer or a younger one is there.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn refresh_key(&mut self) -> Result<(), WalletError> {
        let keys = self.remote.keys(self.client.suite()).await?;
        let Some(key) = keys.first().filter(|key| key.id != self.client.identity().server_id) else { return Ok(()) };
        let step = self.client.set_server_key(key);
        self.commit(step).await.map(drop)
    }

    /// Makes a step durable. What it wants sent may leave then, and not before.
    ///
    /// # Errors
    /// [`WalletError::Vault`]: the wallet is not to be used any more, but opened again.
    pub async fn commit(&mut self, step: Step) -> Result<Commit, WalletError> {
        self.vault.write(&step.writes).await?;
        Ok(Commit { send: step.send, events: step.events })
    }

    /// Changes the wallet by `change`, and makes that durable.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn change<E: Into<WalletError>>(
        &mut self,
        change: impl FnOnce(&mut Client, Timestamp, &mut System) -> Result<Step, E>,
    ) -> Result<Commit, WalletError> {
        let step = change(&mut self.client, clock::wall(), &mut System).map_err(Into::into)?;
        self.commit(step).await
    }

    /// Carries out a step and everything that answers it.
    ///
    /// # Errors
    /// [`WalletError::Vault`]. Who is not reached is no error: what was for them is kept.
    pub async fn run(&mut self, commit: Commit) -> Result<Done, WalletError> {
        let mut done = Done::default();
        let mut queue = VecDeque::from([commit]);
        while let Some(commit) = queue.pop_front() {
            done.events.extend(commit.events);
            for (to, message) in commit.send {
                let url = match to {
                    To::Server => self.remote.server_url(),
                    To::Payee(url) => url,
                    To::Payer(session, index) => {
                        done.payers.push(((session, index), message));
                        continue;
                    }
                };
                match self.remote.post(&url, message).await {
                    Ok(Some(answer)) => {
                        let step = self.client.receive(&answer, clock::wall(), &mut System);
                        queue.push_back(self.commit(step).await?);
                    }
                    Ok(None) => {}
                    Err(error) => done.unreached.push(error.to_string()),
                }
            }
        }
        Ok(done)
    }

    /// Asks the server, and waits until it has answered or `patience` is over.
    ///
    /// # Errors
    /// [`WalletError`]; [`WalletError::Unanswered`] leaves the request where [`Wallet::recover`] finds it.
    pub async fn ask<E: Into<WalletError>>(
        &mut self,
        change: impl FnOnce(&mut Client, Timestamp, &mut System) -> Result<Step, E>,
        patience: Duration,
        progress: Progress<'_>,
    ) -> Result<Vec<Event>, WalletError> {
        let commit = self.change(change).await?;
        let transaction = self.client.identity().last_transaction;
        let waits = |client: &Client| client.requests().any(|request| request.transaction == transaction);
        let done = self.until(commit, |wallet| !waits(&wallet.client), patience, progress).await?;
        for event in &done {
            if let Event::Failed(_, problem, message) = event {
                let text = message.clone().or(problem.map(|problem| problem.message().to_owned()));
                return Err(WalletError::Refused { problem: *problem, text: text.unwrap_or_default() });
            }
        }
        Ok(done)
    }

    /// Runs and resends until `over`, or until `patience` is.
    async fn until(
        &mut self,
        commit: Commit,
        over: impl Fn(&Self) -> bool,
        patience: Duration,
        progress: Progress<'_>,
    ) -> Result<Vec<Event>, WalletError> {
        let began = clock::now();
        let mut events = Vec::new();
        let mut next = commit;
        let mut told = 0;
        for round in 1.. {
            let done = self.run(next).await?;
            let last = done.unreached.last().cloned().or_else(|| {
                done.events.iter().rev().find_map(|event| match event {
                    Event::Notice(problem) => Some(problem.message().to_owned()),
                    _ => None,
                })
            });
            events.extend(done.events);
            if over(self) {
                return Ok(events);
            }
            let waited = clock::now().since(began);
            if waited >= patience {
                return Err(WalletError::Unanswered { last });
            }
            if waited.as_secs() > told {
                told = waited.as_secs();
                progress(told, last.as_deref());
            }
            tokio::time::sleep(AGAIN).await;
            next = self.resend(round).await?;
        }
        Ok(events)
    }

    /// Everything that was not answered, once more and at once, for the `round`th time.
    async fn resend(&mut self, round: u32) -> Result<Commit, WalletError> {
        // Somebody waits: the pauses between tries, 5 minutes at most, are not kept.
        let later = clock::wall() + Duration::from_mins(10).saturating_mul(round + 1);
        let step = self.client.tick(later, &mut System);
        self.commit(step).await
    }

    /// Whether something was sent whose outcome is not known.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.client.requests().next().is_none()
            && self.client.knows_all_outcomes()
            && self.client.batches().next().is_none()
    }

    /// Sends again what was not answered, byte for byte, until all of it is.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn recover(&mut self, patience: Duration, progress: Progress<'_>) -> Result<Vec<Event>, WalletError> {
        let commit = self.resend(0).await?;
        self.until(commit, Self::is_settled, patience, progress).await
    }

    /// Takes in an offer that came from anywhere.
    ///
    /// # Errors
    /// [`WalletError::NoOffer`].
    pub async fn take_offer(&mut self, from: &str, message: &[u8]) -> Result<OfferKey, WalletError> {
        let commit =
            self.change(|client, now, random| Ok::<_, WalletError>(client.receive(message, now, random))).await?;
        let offered = commit.events.into_iter().find_map(|event| match event {
            Event::Offered(key) => Some(key),
            _ => None,
        });
        offered.ok_or_else(|| WalletError::NoOffer(from.to_owned()))
    }

    /// Asks a shop for an offer.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn fetch_offer(&mut self, url: &str) -> Result<OfferKey, WalletError> {
        let message = self.remote.post(url, Vec::new()).await?.unwrap_or_default();
        self.take_offer(url, &message).await
    }

    /// Pays an offer from `session`, and waits for the receipt.
    ///
    /// # Errors
    /// [`WalletError`]; [`WalletError::Unanswered`]: whether it was paid is not known yet, and the same is sent again later.
    pub async fn pay(
        &mut self,
        offer: &OfferKey,
        session: SessionId,
        ceiling: Option<Money>,
        patience: Duration,
        progress: Progress<'_>,
    ) -> Result<Bought, WalletError> {
        let commit = self.change(|client, now, random| client.pay(offer, session, ceiling, now, random)).await?;
        let index = self.client.session(session).map_or(0, |held| held.last_index);
        let outcome = |wallet: &Self| wallet.client.payment(session, index).and_then(|sent| sent.outcome);
        self.until(commit, |wallet| outcome(wallet).is_some(), patience, progress).await?;
        Ok(match outcome(self) {
            Some(SentOutcome::Paid(charged)) => Bought::Paid(charged),
            Some(SentOutcome::Refused(problem)) => Bought::Refused(problem),
            Some(SentOutcome::NeverCollected) | None => Bought::Refused(None),
        })
    }

    /// The session to pay `amount` from: the first that is open, has enough, and a use left.
    #[must_use]
    pub fn session_for(&self, offer: &OfferKey) -> Option<SessionId> {
        let offer = self.client.offer(offer)?;
        self.client.sessions_for(&offer, clock::wall()).next()
    }

    /// What was answered and is not settled by itself, by kind; for those who want to know what waits.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Kind, u64)> {
        self.client.requests().map(|request| (request.kind, request.transaction)).collect()
    }
}
