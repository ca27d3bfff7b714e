//! Requests outside sessions: 800.

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;

use crate::canonical::Digest;
use crate::client::state::Asked;
use crate::client::{Client, PendingRequest, Record, Step, To, Tries};
use crate::frame::{Draft, Pairs};
use crate::message::{
    Answer, Autoclose, Bind, Close, Kind, LoadUnload, OpenSession, PERSONA_UPDATE, Register, RequestHead, Update,
};
use crate::suite::{ServerKey, SigningKey, VerifyingKey, header_context, signature_input};
use crate::value::{
    Agreements, Bytes, Currency, Functions, InstrumentNumber, Minutes, Money, Passphrase, SessionId, Short, Signed,
    Value,
};

/// Why a request is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPossible {
    /// There is no persona yet.
    #[error("register first")]
    NotRegistered,
    /// There is one already.
    #[error("this wallet has a persona")]
    Registered,
    /// The server does not serve this version.
    #[error("this version of the software is not served any longer")]
    Blocked,
    /// No such instrument, or session.
    #[error("there is no such instrument or session in this wallet")]
    Unknown,
    /// The keys do not lead to a message.
    #[error("the server's key cannot be used")]
    Key,
}

/// What its owner says of an instrument.
#[derive(Debug, Clone)]
pub struct Instrument {
    /// The number.
    pub number: InstrumentNumber,
    /// bank-account, debit-card, credit-card.
    pub category: String,
    /// `visa`, for instance.
    pub sub_type: String,
    /// What it is wanted for.
    pub functions: Functions,
    /// When it ends.
    pub expiration_date: Option<String>,
    /// Its holder.
    pub name: String,
    /// The holder's country.
    pub country: String,
    /// Legal texts that were accepted.
    pub agreements: Agreements,
    /// The passphrase, when the persona's money is to go to it in the end.
    pub autoclose: Option<Passphrase>,
    /// What its owner calls it.
    pub description: String,
}

impl Client {
    fn signing_key(&self) -> Result<SigningKey, NotPossible> {
        SigningKey::from_secret(self.identity.suite, self.identity.key.0.expose()).map_err(|_| NotPossible::Key)
    }

    pub(super) fn public_key(&self) -> Result<VerifyingKey, NotPossible> {
        self.signing_key().map(|key| key.public())
    }

    pub(super) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, NotPossible> {
        self.signing_key().map(|key| key.sign(input))
    }

    fn fingerprint(&self) -> Result<Bytes, NotPossible> {
        Ok(Bytes(self.public_key()?.fingerprint(self.identity.suite)))
    }

    fn software(&self) -> Short<64> {
        Short(self.identity.software.clone())
    }

    /// The server's key changed: requests from now on are wrapped to this one.
    pub fn set_server_key(&mut self, key: &ServerKey) -> Step {
        let mut step = Step::default();
        if key.suite == self.identity.suite {
            self.identity.server_id.clone_from(&key.id);
            self.identity.server_key = Bytes(key.as_bytes());
            self.save_identity(&mut step);
        }
        step
    }

    fn registered(&self) -> Result<(), NotPossible> {
        match (&self.identity.persona, self.identity.blocked) {
            (_, true) => Err(NotPossible::Blocked),
            (None, _) => Err(NotPossible::NotRegistered),
            (Some(_), false) => Ok(()),
        }
    }

    /// R1.
    ///
    /// # Errors
    /// [`NotPossible`].
    #[expect(clippy::too_many_arguments, reason = "what the user is asked for")]
    pub fn register(
        &mut self,
        id: &str,
        email: &str,
        language: &str,
        currency: Currency,
        agreements: Agreements,
        passphrase: Option<Passphrase>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        match (&self.identity.persona, self.identity.blocked) {
            (_, true) => return Err(NotPossible::Blocked),
            (Some(_), _) => return Err(NotPossible::Registered),
            (None, false) => {}
        }
        let body = Register {
            server_date: self.server_time(now),
            swversion: self.software(),
            content_language: Short(language.to_owned()),
            default_currency: currency,
            requested_id: Short(id.to_owned()),
            email: Short(email.to_owned()),
            agreements: Some(agreements),
            autoclose_passphrase: passphrase,
            pubkey: Bytes(self.public_key()?.as_bytes()),
        };
        self.request(Kind::R1, Kind::R1.type_text(), |draft| body.write(draft, 0), Asked::Register, now, random)
    }

    /// R1 as an update of what may change.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn update(
        &mut self,
        email: Option<&str>,
        agreements: Option<Agreements>,
        passphrase: Option<Passphrase>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let body = Update {
            server_date: self.server_time(now),
            swversion: self.software(),
            content_language: None,
            email: email.map(|email| Short(email.to_owned())),
            agreements,
            autoclose_passphrase: passphrase,
            key: self.fingerprint()?,
        };
        self.request(Kind::R1, PERSONA_UPDATE, |draft| body.write(draft, 0), Asked::Update, now, random)
    }

    /// BI1.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn bind(
        &mut self,
        instrument: Instrument,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let mut salt = vec![0; 16];
        random.fill(&mut salt);
        let body = Bind {
            server_date: self.server_time(now),
            swversion: self.software(),
            number: instrument.number,
            sub_type: Short(instrument.sub_type),
            category: Short(instrument.category),
            functions: instrument.functions,
            salt: Bytes(salt),
            expiration_date: instrument.expiration_date.map(Short),
            name: Short(instrument.name),
            address: None,
            city: None,
            state: None,
            postal_code: None,
            country: Short(instrument.country),
            agreements: Some(instrument.agreements),
            autoclose: instrument.autoclose.is_some(),
            autoclose_passphrase: instrument.autoclose,
            key: self.fingerprint()?,
        };
        let asked = Asked::Bind { description: instrument.description };
        self.request(Kind::BI1, Kind::BI1.type_text(), |draft| body.write(draft, 0), asked, now, random)
    }

    /// BI3: answers to the issuer's questions.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn answer(
        &mut self,
        challenge: Bytes,
        answers: &[String],
        description: &str,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let body = Answer {
            server_date: self.server_time(now),
            swversion: self.software(),
            challenge,
            key: self.fingerprint()?,
        };
        let asked = Asked::Bind { description: description.to_owned() };
        let write = |draft: &mut Draft| {
            body.write(draft, 0);
            for (n, answer) in (1..=u8::MAX).zip(answers) {
                draft.text("answer", n, answer.clone());
            }
        };
        self.request(Kind::BI3, Kind::BI3.type_text(), write, asked, now, random)
    }

    /// LU1: positive loads, negative unloads.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn load_unload(
        &mut self,
        binding: u64,
        amount: Money,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let kept = self.bindings.get(&binding).ok_or(NotPossible::Unknown)?.recurring.clone();
        let text = std::str::from_utf8(kept.0.expose()).map_err(|_| NotPossible::Unknown)?;
        let recurring = Pairs::parse(text).map_err(|_| NotPossible::Unknown)?;
        let need = |_| NotPossible::Unknown;
        let body = LoadUnload {
            server_date: self.server_time(now),
            swversion: self.software(),
            amount: Signed(amount),
            number: recurring.required("instrument-number", 0).map_err(need)?,
            salt: recurring.required("instrument-salt", 0).map_err(need)?,
            seal: recurring.optional("instrument-seal", 0).map_err(need)?,
            key: self.fingerprint()?,
        };
        let write = |draft: &mut Draft| {
            body.write(draft, 0);
            let own = ["instrument-number", "instrument-salt", "instrument-seal"];
            let further = recurring.iter().filter(|(label, _)| !own.contains(label));
            further.for_each(|(label, value)| draft.own(label.to_owned(), value.to_owned()));
        };
        self.request(Kind::LU1, Kind::LU1.type_text(), write, Asked::Move, now, random)
    }

    /// OS1: with money to pay, with none to collect.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn open(
        &mut self,
        amount: Money,
        lifetime: Minutes,
        use_limit: u16,
        note: Option<&str>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let body = OpenSession {
            server_date: self.server_time(now),
            swversion: self.software(),
            record_note: note.map(|note| Short(note.to_owned())),
            amount,
            key_lifetime: lifetime,
            key_use_limit: use_limit,
            key: self.fingerprint()?,
        };
        let asked = Asked::Open { amount, lifetime, use_limit, memo: note.unwrap_or_default().to_owned() };
        self.request(Kind::OS1, Kind::OS1.type_text(), |draft| body.write(draft, 0), asked, now, random)
    }

    /// CS1: one session, or all. The log settles what is not known of payments.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn close(
        &mut self,
        session: Option<SessionId>,
        log: bool,
        note: Option<&str>,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let body = Close {
            server_date: self.server_time(now),
            swversion: self.software(),
            record_note: note.map(|note| Short(note.to_owned())),
            session_id: session,
            request_log: log,
            key: self.fingerprint()?,
        };
        let asked = Asked::Close { session, log };
        self.request(Kind::CS1, Kind::CS1.type_text(), |draft| body.write(draft, 0), asked, now, random)
    }

    /// AC1: closes the persona.
    ///
    /// # Errors
    /// [`NotPossible`].
    pub fn autoclose(
        &mut self,
        passphrase: Passphrase,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        self.registered()?;
        let body = Autoclose {
            server_date: self.server_time(now),
            swversion: self.software(),
            autoclose_passphrase: passphrase,
        };
        self.request(Kind::AC1, Kind::AC1.type_text(), |draft| body.write(draft, 0), Asked::Autoclose, now, random)
    }

    /// 800. The number is counted, and the request stored, before it is sent.
    fn request(
        &mut self,
        kind: Kind,
        type_text: &str,
        write: impl FnOnce(&mut Draft),
        asked: Asked,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<Step, NotPossible> {
        let mut step = Step::default();
        let transaction = self.identity.last_transaction + 1;
        let (message, secret) = self.assemble(kind, type_text, write, transaction, now, random)?;
        self.identity.last_transaction = transaction;
        self.save_identity(&mut step);
        let request = PendingRequest {
            transaction,
            kind,
            date: now,
            digest: Digest::of(&message),
            message: Bytes(message.clone()),
            secret,
            asked,
            tries: Tries::begun(now),
            diagnosed: false,
        };
        self.put(&mut step, Record::Request(Box::new(request)));
        step.send.push((To::Server, message));
        Ok(step)
    }

    fn assemble(
        &self,
        kind: Kind,
        type_text: &str,
        write: impl FnOnce(&mut Draft),
        transaction: u64,
        now: Timestamp,
        random: &mut dyn Randomness,
    ) -> Result<(Vec<u8>, crate::suite::ReplySecret), NotPossible> {
        let suite = self.identity.suite;
        let server = ServerKey::from_bytes(&self.identity.server_id, suite, &self.identity.server_key.0)
            .map_err(|_| NotPossible::Key)?;
        let new = kind == Kind::R1 && type_text != PERSONA_UPDATE;
        let head = RequestHead {
            id: self.identity.persona.clone().filter(|_| !new),
            transaction,
            date: now,
            serverkey: Short(server.id.clone()),
            service_category: Some(Short(kind.category().to_owned())),
        };
        let mut clear = Draft::default();
        head.write(&mut clear, 0);
        let mut sealed = Draft::default();
        sealed.text("type", 0, type_text.to_owned());
        write(&mut sealed);
        if kind.is_signed() {
            let input = signature_input(suite, kind, clear.iter(), sealed.iter());
            sealed.put("signature", 0, &Bytes(self.sign(&input)?));
        }
        let plain = cloakway_crypto::Zeroizing::new(sealed.render());
        let header = header_context(suite, clear.iter());
        let (opaque, secret) = server.wrap(kind, &header, plain.as_bytes(), random).map_err(|_| NotPossible::Key)?;
        clear.text("opaque", 0, Bytes(opaque).write());
        Ok((clear.frame(suite), secret))
    }

    /// DG1: tells the server of a reply that could not be read. It says nothing of what was in it.
    pub(super) fn diagnose(&self, what: &str, now: Timestamp, random: &mut dyn Randomness) -> Option<Vec<u8>> {
        let body = crate::message::Diagnostic {
            server_date: self.server_time(now),
            swversion: self.software(),
            diagnosis: what.to_owned(),
        };
        let write = |draft: &mut Draft| body.write(draft, 0);
        let number = self.identity.last_transaction;
        self.assemble(Kind::DG1, Kind::DG1.type_text(), write, number, now, random).ok().map(|(message, _)| message)
    }
}
