//! The payee's side of electronic cash: a till that offers, gathers payments into batches, and hands out receipts.
//!
//! A [`Till`] owns a wallet. What it offers and what it takes is durable before anybody hears of it, so that a till that
//! is killed goes on where it was: a batch that was not answered is sent again byte for byte, and a payer who asks again
//! gets the same receipt.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakway_crypto::System;
use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use ecash_wallet::wire::client::{Event, Flag, To};
use ecash_wallet::wire::frame::Frame;
use ecash_wallet::wire::message::{Kind, PaymentClear};
use ecash_wallet::wire::value::{Currency, Minutes, Money, OrderId, SessionId, Value as _};
use ecash_wallet::{Commit, Wallet, WalletError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// A full batch leaves at once.
const FULL: usize = 255;
/// Commands that may wait.
const QUEUE: usize = 1024;
/// How long the server's public key is waited for before a session is opened with the one that is there.
const KEY_PATIENCE: Duration = Duration::from_secs(5);

/// How a till works.
#[derive(Debug, Clone)]
pub struct TillSettings {
    /// Where payments come in, as offers say.
    pub pay_to: String,
    /// How long the first payment of a batch waits for others.
    pub gather: Duration,
    /// How long a session to collect in lives; a new one is opened when it is over.
    pub session_minutes: u16,
    /// How many batches it takes.
    pub session_uses: u16,
    /// How long a payer waits for a receipt, who can ask again then.
    pub patience: Duration,
}

/// Why a till does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TillError {
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The till was closed.
    #[error("the till is closed")]
    Closed,
}

/// How an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Paid {
    /// Not paid, or not known yet.
    Waiting,
    /// The server said that it is paid: the goods may be handed out.
    Paid,
    /// A payment for it was refused.
    Refused,
}

type Key = (SessionId, u16);

enum Command {
    Offer(OrderId, Money, String, oneshot::Sender<Result<Vec<u8>, TillError>>),
    Take(Vec<u8>, oneshot::Sender<Vec<u8>>),
    Replied(Vec<u8>),
    Unreached(String),
    Order(OrderId, oneshot::Sender<Option<Paid>>),
    Show(Shown, oneshot::Sender<Value>),
}

/// What a till shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Sums, and what waits.
    Status,
    /// Every order that was offered.
    Orders,
    /// The cash log: every payment that came in.
    Cash,
    /// The sessions that payments are collected in.
    Sessions,
}

/// A handle to a till.
#[derive(Debug, Clone)]
pub struct Till {
    commands: mpsc::Sender<Command>,
    patience: Duration,
}

impl Till {
    /// Opens the till on a registered wallet. It works until the stop, or until its wallet cannot be written; then the
    /// stop is told.
    #[must_use]
    pub fn open(wallet: Wallet, settings: TillSettings, stop: Stop) -> Self {
        let (commands, receive) = mpsc::channel(QUEUE);
        let patience = settings.patience;
        let actor = Actor {
            wallet,
            settings,
            own: commands.clone(),
            payers: BTreeMap::new(),
            gathered: None,
            unreached: None,
            sum: BTreeMap::new(),
        };
        tokio::spawn(async move {
            if let Err(error) = actor.run(receive, &stop).await {
                tracing::error!(%error, "the till cannot go on: stopping");
                stop.tell();
            }
        });
        Self { commands, patience }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, TillError> {
        let (answer, wait) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| TillError::Closed)?;
        wait.await.map_err(|_| TillError::Closed)
    }

    /// Offers `note` for `amount` under an id that was never used before: the message for a payer.
    ///
    /// # Errors
    /// [`TillError`].
    pub async fn offer(&self, order: OrderId, amount: Money, note: &str) -> Result<Vec<u8>, TillError> {
        let note = note.to_owned();
        self.ask(|answer| Command::Offer(order, amount, note, answer)).await?
    }

    /// Takes a payment, and waits for its receipt. `None`: it is not decided yet, or means nothing here; the payer sends
    /// the same again.
    pub async fn take(&self, payment: Vec<u8>) -> Option<Vec<u8>> {
        let receipt = self.ask(|answer| Command::Take(payment, answer));
        tokio::time::timeout(self.patience, receipt).await.ok()?.ok()
    }

    /// How an order stands; none that was never offered.
    ///
    /// # Errors
    /// [`TillError::Closed`].
    pub async fn order(&self, order: OrderId) -> Result<Option<Paid>, TillError> {
        self.ask(|answer| Command::Order(order, answer)).await
    }

    /// What the till knows.
    ///
    /// # Errors
    /// [`TillError::Closed`].
    pub async fn show(&self, what: Shown) -> Result<Value, TillError> {
        self.ask(|answer| Command::Show(what, answer)).await
    }
}

struct Actor {
    wallet: Wallet,
    settings: TillSettings,
    own: mpsc::Sender<Command>,
    /// Payers that wait for a receipt.
    payers: BTreeMap<Key, Vec<oneshot::Sender<Vec<u8>>>>,
    /// When the payments that wait leave.
    gathered: Option<Instant>,
    /// Why the server was not reached last.
    unreached: Option<String>,
    /// What was collected since the till was opened, in minor units.
    sum: BTreeMap<Currency, i64>,
}

impl Actor {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: &Stop) -> Result<(), WalletError> {
        // What an earlier till left is sent again, and what it had not sent leaves now.
        self.tick().await?;
        self.collect().await?;
        loop {
            let again = self.wallet.client().next_tick().map(|at| at.since(clock::wall()));
            let again = again.map(|wait| clock::now() + wait.max(Duration::from_millis(100)));
            tokio::select! {
                () = stop.told() => return Ok(()),
                command = commands.recv() => match command {
                    Some(command) => self.act(command).await?,
                    None => return Ok(()),
                },
                () = clock::until(self.gathered) => self.collect().await?,
                () = clock::until(again) => self.tick().await?,
            }
        }
    }

    async fn act(&mut self, command: Command) -> Result<(), WalletError> {
        match command {
            Command::Offer(order, amount, note, answer) => {
                let pay_to = self.settings.pay_to.clone();
                let mut offer = Vec::new();
                let made = self
                    .wallet
                    .change(|client, now, _| {
                        let (step, message) = client.make_offer(order, amount, &note, &pay_to, None, now)?;
                        offer = message;
                        Ok::<_, ecash_wallet::wire::client::NotPossible>(step)
                    })
                    .await;
                match made {
                    Ok(commit) => {
                        self.leave(commit).await?;
                        let _ = answer.send(Ok(offer));
                    }
                    Err(error @ WalletError::Vault(_)) => return Err(error),
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            Command::Take(message, answer) => self.take(&message, answer).await?,
            Command::Replied(message) => {
                self.unreached = None;
                let commit = self.receive(&message).await?;
                self.leave(commit).await?;
            }
            Command::Unreached(why) => {
                if self.unreached.is_none() {
                    tracing::warn!(why, "the server of electronic cash is not reached: sending again");
                }
                self.unreached = Some(why);
            }
            Command::Order(id, answer) => {
                let flag = self.wallet.client().order(&id).map(|order| match order.flag {
                    Flag::Pending => Paid::Waiting,
                    Flag::Paid => Paid::Paid,
                    Flag::NotPaid => Paid::Refused,
                });
                let _ = answer.send(flag);
            }
            Command::Show(what, answer) => drop(answer.send(self.show(what))),
        }
        Ok(())
    }

    async fn receive(&mut self, message: &[u8]) -> Result<Commit, WalletError> {
        self.wallet.change(|client, now, random| Ok::<_, WalletError>(client.receive(message, now, random))).await
    }

    /// CA1: whoever brings it waits until it is decided.
    async fn take(&mut self, message: &[u8], answer: oneshot::Sender<Vec<u8>>) -> Result<(), WalletError> {
        let frame = Frame::parse(message).ok();
        let payment = frame.filter(|frame| frame.clear.get("type", 0) == Some(Kind::CA1.type_text()));
        let clear = payment.and_then(|frame| PaymentClear::read(&frame.clear, 0).ok());
        // What is no payment is not for this door.
        let Some(key) = clear.map(|clear| (clear.session_id, clear.index)) else { return Ok(()) };
        let commit = self.receive(message).await?;
        self.payers.entry(key).or_default().push(answer);
        self.leave(commit).await?;
        if self.wallet.client().row(key.0, key.1).is_none() {
            self.payers.remove(&key);
        }
        Ok(())
    }

    /// Lets out what is durable.
    async fn leave(&mut self, commit: Commit) -> Result<(), WalletError> {
        let mut commits = vec![commit];
        while let Some(commit) = commits.pop() {
            for (to, message) in commit.send {
                match to {
                    To::Server => self.post(message),
                    To::Payer(session, index) => {
                        for payer in self.payers.remove(&(session, index)).unwrap_or_default() {
                            // A payer who has gone away asks again.
                            let _ = payer.send(message.clone());
                        }
                    }
                    To::Payee(_) => {}
                }
            }
            let mut opened = false;
            for event in commit.events {
                match event {
                    Event::Waiting(_) => {
                        let due = || clock::now() + self.settings.gather;
                        self.gathered = Some(self.gathered.unwrap_or_else(due));
                    }
                    Event::Opened(..) => opened = true,
                    Event::Collected(order, amount) => {
                        *self.sum.entry(amount.currency()).or_default() += amount.minor();
                        tracing::debug!(order = order.as_str(), %amount, "collected");
                    }
                    Event::Uncollected(order, problem) => {
                        tracing::info!(order = order.as_str(), problem = problem.text(), "not collected");
                    }
                    Event::BatchFailed(problem) => {
                        tracing::warn!(problem = problem.text(), "a batch was refused as a whole");
                        opened = true;
                    }
                    Event::Failed(kind, problem, _) => {
                        let problem = problem.map(|problem| problem.text());
                        tracing::error!(kind = kind.name(), problem, "the server of electronic cash refused");
                    }
                    Event::Notice(problem) => {
                        tracing::warn!(problem = problem.text(), "somebody says that something is wrong");
                    }
                    _ => {}
                }
            }
            if opened || self.wallet.client().waiting() >= FULL {
                commits.extend(self.batches().await?);
            }
        }
        Ok(())
    }

    fn post(&self, message: Vec<u8>) {
        let (remote, own) = (self.wallet.remote().clone(), self.own.clone());
        tokio::spawn(async move {
            let command = match remote.post(&remote.server_url(), message).await {
                Ok(Some(answer)) => Command::Replied(answer),
                Ok(None) => return,
                Err(error) => Command::Unreached(error.to_string()),
            };
            // A till that was closed has no use for it.
            let _ = own.send(command).await;
        });
    }

    async fn tick(&mut self) -> Result<(), WalletError> {
        let tick = self.wallet.change(|client, now, random| Ok::<_, WalletError>(client.tick(now, random))).await?;
        self.leave(tick).await
    }

    async fn collect(&mut self) -> Result<(), WalletError> {
        for commit in self.batches().await? {
            self.leave(commit).await?;
        }
        Ok(())
    }

    /// The payments that wait, in batches; and a session to collect in, where there is none.
    async fn batches(&mut self) -> Result<Vec<Commit>, WalletError> {
        self.gathered = None;
        let mut commits = Vec::new();
        loop {
            let waited = self.wallet.client().waiting();
            let commit =
                self.wallet.change(|client, now, random| Ok::<_, WalletError>(client.collect(now, random))).await?;
            commits.push(commit);
            if self.wallet.client().waiting() >= waited || self.wallet.client().waiting() == 0 {
                break;
            }
        }
        let opening = self.wallet.client().requests().any(|request| request.kind == Kind::OS1);
        for currency in self.wallet.client().needs_session(clock::wall()) {
            if opening {
                break;
            }
            match tokio::time::timeout(KEY_PATIENCE, self.wallet.refresh_key()).await {
                Ok(Err(error @ WalletError::Vault(_))) => return Err(error),
                Ok(Err(error)) => tracing::warn!(%error, "the server's key of now is not known"),
                Ok(Ok(())) | Err(_) => {}
            }
            let (minutes, uses) = (Minutes(self.settings.session_minutes), self.settings.session_uses);
            let opened = self
                .wallet
                .change(|client, now, random: &mut System| {
                    client.open(Money::zero(currency), minutes, uses, Some("till"), now, random)
                })
                .await;
            match opened {
                Ok(commit) => commits.push(commit),
                Err(error @ WalletError::Vault(_)) => return Err(error),
                Err(error) => tracing::error!(%error, "no session to collect in"),
            }
        }
        Ok(commits)
    }

    fn show(&self, what: Shown) -> Value {
        let client = self.wallet.client();
        match what {
            Shown::Status => json!({
                "persona": client.identity().persona.as_ref().map(|id| id.as_str()),
                "payments_waiting": client.waiting(),
                "batches_waiting": client.batches().count(),
                "payers_waiting": self.payers.len(),
                "collected_since_start": self.sum.iter()
                    .map(|(currency, minor)| Money::new(*currency, *minor).map(|sum| sum.to_string()))
                    .collect::<Vec<_>>(),
                "server": self.unreached.as_deref().unwrap_or("reached"),
            }),
            Shown::Orders => client
                .orders()
                .map(|order| {
                    json!({"order": order.id.as_str(), "amount": order.amount.to_string(), "state": order.flag})
                })
                .collect(),
            Shown::Cash => client
                .rows()
                .map(|row| {
                    json!({
                        "order": row.order.as_str(), "payer_session": row.session.write(), "payer_index": row.index,
                        "asked": row.asked.to_string(), "status": row.status,
                        "credited": row.credited.map(|credited| credited.to_string()),
                        "receipt": row.relay.is_some(),
                    })
                })
                .collect(),
            Shown::Sessions => client
                .sessions()
                .map(|held| {
                    json!({
                        "session": held.secrets.id().write(), "collected": held.current.to_string(),
                        "batches": held.last_index, "batch_limit": held.use_limit,
                        "opened_at": held.opened_at.to_string(), "minutes": held.lifetime.0, "closed": held.closed,
                    })
                })
                .collect(),
        }
    }
}
