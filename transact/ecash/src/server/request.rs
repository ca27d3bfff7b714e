//! Requests outside sessions: opening, checking, replying.

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;
use ecash_wire::canonical::Digest;
use ecash_wire::frame::{Draft, FormError, Pairs};
use ecash_wire::message::{
    Answer, Autoclose, Bind, Close, Diagnostic, Kind, LoadUnload, OpenSession, Outcome, PERSONA_UPDATE, Problem,
    Register, RequestHead, ResponseCode, Severity, Update,
};
use ecash_wire::suite::{ReplySecret, Suite, VerifyingKey, header_context, signature_input};
use ecash_wire::value::{Bytes, Value};

use super::{Arrival, Effect, Server, Step, Ticket, notice};
use crate::policy::Software;
use crate::state::{LogKey, LogRecord};

/// What is needed to answer a request, now or later.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub suite: Suite,
    pub digest: Digest,
    pub secret: ReplySecret,
    /// The clear fields of the reply.
    pub head: Draft,
    pub ticket: Ticket,
    /// What is to be said about the software.
    pub warning: Option<String>,
    /// By what the request is known; none until it is accepted as new.
    pub key: Option<LogKey>,
}

/// A request whose seal and signature held.
pub(super) struct Request<'a> {
    pub asker: Asker,
    pub kind: Kind,
    pub sealed: &'a Pairs<'a>,
    pub now: Timestamp,
}

/// The body of a request, by its type.
enum Body {
    Register(Register),
    Update(Update),
    Bind(Bind),
    Answer(Answer),
    LoadUnload(LoadUnload),
    Open(OpenSession),
    Close(Close),
    Autoclose(Autoclose),
    Diagnostic(Diagnostic),
}

impl Body {
    fn read(kind: Kind, update: bool, sealed: &Pairs<'_>) -> Result<Self, FormError> {
        Ok(match kind {
            Kind::R1 if update => Self::Update(Update::read(sealed, 0)?),
            Kind::R1 => Self::Register(Register::read(sealed, 0)?),
            Kind::BI1 => Self::Bind(Bind::read(sealed, 0)?),
            Kind::BI3 => Self::Answer(Answer::read(sealed, 0)?),
            Kind::LU1 => Self::LoadUnload(LoadUnload::read(sealed, 0)?),
            Kind::OS1 => Self::Open(OpenSession::read(sealed, 0)?),
            Kind::CS1 => Self::Close(Close::read(sealed, 0)?),
            Kind::AC1 => Self::Autoclose(Autoclose::read(sealed, 0)?),
            _ => Self::Diagnostic(Diagnostic::read(sealed, 0)?),
        })
    }

    /// `key`, `server-date` and `swversion`.
    fn common(&self) -> (Option<&Bytes>, Timestamp, &str) {
        match self {
            Self::Register(body) => (None, body.server_date, &body.swversion.0),
            Self::Update(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::Bind(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::Answer(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::LoadUnload(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::Open(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::Close(body) => (Some(&body.key), body.server_date, &body.swversion.0),
            Self::Autoclose(body) => (None, body.server_date, &body.swversion.0),
            Self::Diagnostic(body) => (None, body.server_date, &body.swversion.0),
        }
    }
}

/// Which kind answers which.
pub(super) const fn reply_kind(kind: Kind) -> Kind {
    match kind {
        Kind::BI1 | Kind::BI3 => Kind::BI4,
        Kind::LU1 => Kind::LU2,
        Kind::OS1 => Kind::OS2,
        Kind::CS1 => Kind::CS2,
        Kind::AC1 => Kind::AC2,
        _ => Kind::R2,
    }
}

/// The clear fields that a reply takes over. A signed reply of R2 has no id.
fn reply_head(kind: Kind, clear: &Pairs<'_>) -> Draft {
    let mut head = Draft::default();
    for label in ["id", "transaction", "date", "service-category"] {
        if let Some(value) = clear.get(label, 0).filter(|_| label != "id" || kind != Kind::R1) {
            head.text(label, 0, value.to_owned());
        }
    }
    head
}

impl Server {
    /// 900.
    pub(super) fn request(&mut self, arrival: &Arrival<'_>, random: &mut dyn Randomness, step: &mut Step) {
        let (frame, now) = (&arrival.frame, arrival.now);
        let clear = &frame.clear;
        let refuse = |step: &mut Step| {
            step.effects.push(Effect::Answer(arrival.ticket, notice(frame, Problem::Undecryptable)));
        };
        let Some((key, known)) = self.keys.find(clear.get("serverkey", 0).unwrap_or(""), frame.suite, now) else {
            return refuse(step);
        };
        let opaque = clear.get("opaque", 0).and_then(|text| Bytes::read(text).ok()).unwrap_or_default();
        self.cost.unwraps += 1;
        let opened = key.unwrap(&header_context(frame.suite, clear.iter()), &opaque.0);
        let Some((seal, plain, secret)) = opened.ok().filter(|_| known) else { return refuse(step) };

        let text = std::str::from_utf8(&plain).unwrap_or("\0");
        let Ok(sealed) = Pairs::parse(text) else { return };
        let kind = sealed.get("type", 0).and_then(Kind::of_request);
        let asker = Asker {
            suite: frame.suite,
            digest: arrival.digest,
            secret,
            head: reply_head(kind.or(seal).unwrap_or(Kind::R1), clear),
            ticket: arrival.ticket,
            warning: None,
            key: None,
        };
        // What the seal says and what is inside have to be one thing; the classic seal says nothing.
        let Some(kind) = kind.filter(|kind| seal.is_none_or(|seal| seal == *kind)) else {
            let kind = reply_kind(seal.unwrap_or(Kind::R1));
            return self.fail_unlogged(&asker, kind, Problem::Form, now, random, step);
        };
        let update = sealed.get("type", 0) == Some(PERSONA_UPDATE);
        let mut request = Request { asker, kind, sealed: &sealed, now };
        let checked = check_form(kind, update, clear, &sealed);
        let Ok((head, body)) = checked else {
            return self.fail_unlogged(&request.asker, reply_kind(kind), Problem::Form, now, random, step);
        };
        if let Body::Diagnostic(body) = body {
            step.effects.push(Effect::Diagnostic(body.diagnosis));
            return;
        }
        let signer = match self.check_signature(&request, &head, &body, clear) {
            Ok(signer) => signer,
            Err(problem) => {
                return self.fail_unlogged(&request.asker, reply_kind(kind), problem, now, random, step);
            }
        };
        self.admitted(&mut request, &signer, &head, body, random, step);
    }

    /// 915: who signed.
    fn check_signature(
        &mut self,
        request: &Request<'_>,
        head: &RequestHead,
        body: &Body,
        clear: &Pairs<'_>,
    ) -> Result<LogKey, Problem> {
        let suite = request.asker.suite;
        let signer = match (&head.id, body) {
            (None, Body::Register(body)) => {
                let key = VerifyingKey::from_bytes(suite, &body.pubkey.0).map_err(|_| Problem::WeakKey)?;
                let fingerprint = Bytes(key.fingerprint(suite));
                self.check_with(&key, request, clear)?;
                return Ok(LogKey::Registration(fingerprint, head.transaction));
            }
            (Some(id), Body::Autoclose(_)) => return Ok(LogKey::Transaction(id.clone(), head.transaction)),
            (Some(id), _) => id.clone(),
            (None, _) => return Err(Problem::Form),
        };
        let persona = self.personas.get(&signer).filter(|persona| persona.suite == suite);
        let persona = persona.ok_or(Problem::UnknownPersona)?;
        let key = VerifyingKey::from_bytes(suite, &persona.key.0).map_err(|_| Problem::KeyMismatch)?;
        if body.common().0.is_none_or(|given| given.0 != key.fingerprint(suite)) {
            return Err(Problem::KeyMismatch);
        }
        self.check_with(&key, request, clear)?;
        Ok(LogKey::Transaction(signer, head.transaction))
    }

    fn check_with(&mut self, key: &VerifyingKey, request: &Request<'_>, clear: &Pairs<'_>) -> Result<(), Problem> {
        let signature: Bytes = request.sealed.required("signature", 0).map_err(|_| Problem::Form)?;
        let input = signature_input(request.asker.suite, request.kind, clear.iter(), request.sealed.iter());
        self.cost.verifications += 1;
        if key.verify(&input, &signature.0) { Ok(()) } else { Err(Problem::Signature) }
    }

    /// 916 and D2 to D5: the sender is known; is the request new, in time, and allowed?
    fn admitted(
        &mut self,
        request: &mut Request<'_>,
        key: &LogKey,
        head: &RequestHead,
        body: Body,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let (kind, now) = (request.kind, request.now);
        let (_, date, version) = body.common();
        match self.policy.software.get(version) {
            Some(Software::Fatal(text)) => {
                let outcome = Outcome {
                    swseverity: Some(Severity::Fatal),
                    swmessage: Some(text.clone()),
                    ..failure(Problem::SoftwareFatal, now)
                };
                return self.answer(&request.asker, reply_kind(kind), outcome, Draft::default(), now, random, step);
            }
            Some(Software::Warning(text)) => request.asker.warning = Some(text.clone()),
            None => {}
        }
        let fresh = date >= now - self.policy.freshness.0 && date <= now + self.policy.freshness.1;
        let persona = head.id.as_ref().and_then(|id| self.personas.get(id));
        let problem = if !fresh {
            Some(Problem::StaleDate)
        } else if self.by_key.contains_key(key) {
            Some(Problem::TransactionReused)
        } else if persona.is_some_and(|persona| persona.closed) {
            Some(Problem::PersonaClosed)
        } else if persona.is_some_and(|persona| persona.disabled.contains(&kind)) {
            Some(Problem::ServiceDisabled)
        } else {
            None
        };
        if let Some(problem) = problem {
            // AC1 is not signed: what is refused before its passphrase is seen leaves no trace.
            return if kind == Kind::AC1 {
                self.fail_unlogged(&request.asker, reply_kind(kind), problem, now, random, step);
            } else {
                self.answer(
                    &request.asker,
                    reply_kind(kind),
                    failure(problem, now),
                    Draft::default(),
                    now,
                    random,
                    step,
                );
            };
        }
        // An issuer is being asked for this persona: its next question waits for the answer.
        let asks = matches!(kind, Kind::BI1 | Kind::BI3 | Kind::LU1);
        let busy = asks && self.asking.values().any(|asking| Some(&asking.persona) == head.id.as_ref());
        if busy {
            let mut draft = Draft::default();
            draft.text("type", 0, Kind::ER1.type_text().to_owned());
            draft.put("date", 0, &head.date);
            draft.put("problem", 0, &Problem::Busy);
            draft.text("message", 0, Problem::Busy.message().to_owned());
            step.effects.push(Effect::Answer(request.asker.ticket, draft.frame(request.asker.suite)));
            return;
        }
        request.asker.key = Some(key.clone());
        if let Some(id) = &head.id {
            self.end_overdue(id, now, step);
        }
        match (head.id.clone(), body) {
            (_, Body::Register(body)) => self.register(request, body, random, step),
            (Some(id), Body::Update(body)) => self.update(request, &id, body, random, step),
            (Some(id), Body::Bind(body)) => self.bind(request, id, body, random, step),
            (Some(id), Body::Answer(body)) => self.bind_answered(request, id, &body, random, step),
            (Some(id), Body::LoadUnload(body)) => self.load_unload(request, id, body, random, step),
            (Some(id), Body::Open(body)) => self.open(request, id, &body, random, step),
            (Some(id), Body::Close(body)) => self.close(request, &id, &body, random, step),
            (Some(id), Body::Autoclose(body)) => self.autoclose(request, &id, &body, random, step),
            (_, Body::Diagnostic(_)) | (None, _) => {}
        }
    }

    /// Refuses, and logs the refusal under the request's number: resending cannot help.
    pub(super) fn fail(
        &mut self,
        request: &Request<'_>,
        problem: Problem,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let kind = reply_kind(request.kind);
        self.answer(&request.asker, kind, failure(problem, request.now), Draft::default(), request.now, random, step);
    }

    fn fail_unlogged(
        &self,
        asker: &Asker,
        kind: Kind,
        problem: Problem,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let reply = assemble(asker, kind, &failure(problem, now), &Draft::default(), random);
        step.effects.push(Effect::Answer(asker.ticket, reply));
    }

    /// 1000: seals the reply, logs it, and sends it once that is durable.
    #[expect(clippy::too_many_arguments, reason = "a reply has so many parts")]
    pub(super) fn answer(
        &mut self,
        asker: &Asker,
        kind: Kind,
        outcome: Outcome,
        fields: Draft,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let number = self.next_log_number(step);
        self.answer_as(number, asker, (kind, outcome, fields), now, random, step);
    }

    /// The same, for a log record whose number was needed before.
    pub(super) fn answer_as(
        &mut self,
        number: u64,
        asker: &Asker,
        (kind, outcome, fields): (Kind, Outcome, Draft),
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let reply = assemble(asker, kind, &outcome, &fields, random);
        let record = LogRecord {
            number,
            digest: asker.digest,
            kind,
            key: asker.key.clone(),
            at: now,
            reply: Bytes(reply.clone()),
        };
        self.put_log(record, step);
        step.effects.push(Effect::Answer(asker.ticket, reply));
    }
}

/// 914. No label may stand in both parts: the signature takes them together.
fn check_form(
    kind: Kind,
    update: bool,
    clear: &Pairs<'_>,
    sealed: &Pairs<'_>,
) -> Result<(RequestHead, Body), FormError> {
    if let Some(defect) = clear.defect().or(sealed.defect()) {
        return Err(defect.clone());
    }
    let head = RequestHead::read(clear, 0)?;
    let twice = clear.iter().find(|(label, _)| sealed.iter().any(|(other, _)| other == *label));
    if let Some((label, _)) = twice {
        return Err(FormError { label: label.to_owned(), reason: "it stands in the clear and in the sealed part" });
    }
    let wants_id = !(kind == Kind::DG1 || (kind == Kind::R1 && !update));
    if kind != Kind::DG1 && head.id.is_some() != wants_id {
        return Err(FormError { label: "id".to_owned(), reason: "who is known has one, who registers has none" });
    }
    if kind.is_signed() {
        sealed.required::<Bytes>("signature", 0)?;
    }
    Ok((head, Body::read(kind, update, sealed)?))
}

pub(super) fn failure(problem: Problem, now: Timestamp) -> Outcome {
    Outcome {
        server_date: now,
        response_code: ResponseCode::Failure,
        problem: Some(problem),
        swseverity: None,
        swmessage: None,
        message: Some(problem.message().to_owned()),
    }
}

pub(super) fn success(now: Timestamp) -> Outcome {
    Outcome {
        server_date: now,
        response_code: ResponseCode::Success,
        problem: None,
        swseverity: None,
        swmessage: None,
        message: None,
    }
}

fn assemble(asker: &Asker, kind: Kind, outcome: &Outcome, fields: &Draft, random: &mut dyn Randomness) -> Vec<u8> {
    let mut outcome = outcome.clone();
    if let (None, Some(text)) = (outcome.swseverity, &asker.warning) {
        outcome.swseverity = Some(Severity::Warning);
        outcome.swmessage = Some(text.clone());
    }
    let mut sealed = Draft::default();
    sealed.text("type", 0, kind.type_text().to_owned());
    outcome.write(&mut sealed, 0);
    let plain = cloakway_crypto::Zeroizing::new(sealed.render() + &fields.render());
    let header = header_context(asker.suite, asker.head.iter());
    let opaque = asker.secret.seal(asker.suite, kind, &header, &asker.digest, plain.as_bytes(), random);
    let mut message = asker.head.clone();
    message.text("opaque", 0, Bytes(opaque.unwrap_or_default()).write());
    message.frame(asker.suite)
}
