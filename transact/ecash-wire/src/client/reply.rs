//! Replies to requests outside sessions: 1100.

use std::collections::BTreeMap;

use cloakway_crypto::Randomness;
use cloakway_types::Timestamp;

use crate::client::state::{Asked, SentOutcome};
use crate::client::{
    Client, Container, Event, HeldBinding, HeldSession, PendingRequest, Record, RecordKey, Response, Step, To, Write,
};
use crate::frame::{FormError, Frame, Pairs};
use crate::message::{
    AutocloseResult, BindResult, CloseResult, Kind, LoadUnloadResult, OpenSessionResult, Outcome, Problem, Question,
    RegisterResult, ReplyHead, ResponseCode, Severity,
};
use crate::suite::{Kept, Plain, SessionSecrets, header_context};
use crate::value::{Bytes, Money, PersonaId, SessionId, Value};

/// The kinds that may answer a request, the usual one first.
fn expected(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::R1 => &[Kind::R2],
        Kind::BI1 | Kind::BI3 => &[Kind::BI4, Kind::BI2],
        Kind::LU1 => &[Kind::LU2],
        Kind::OS1 => &[Kind::OS2],
        Kind::CS1 => &[Kind::CS2],
        Kind::AC1 => &[Kind::AC2],
        _ => &[],
    }
}

/// A reply that its request's secret opened.
struct Reply<'a> {
    kind: Kind,
    outcome: Outcome,
    pairs: &'a Pairs<'a>,
}

impl Client {
    pub(super) fn replied(&mut self, frame: &Frame<'_>, now: Timestamp, random: &mut dyn Randomness, step: &mut Step) {
        let Ok(head) = ReplyHead::read(&frame.clear, 0) else { return };
        let Some(request) = head.transaction.and_then(|number| self.requests.get(&number)).cloned() else { return };
        match self.read_reply(frame, &head, &request, now, step) {
            Ok(()) => {}
            Err(why) => self.unreadable(request, &why, now, random, step),
        }
    }

    fn read_reply(
        &mut self,
        frame: &Frame<'_>,
        head: &ReplyHead,
        request: &PendingRequest,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<(), String> {
        let new = request.asked == Asked::Register || request.kind == Kind::R1;
        let id = if new { None } else { self.identity.persona.clone() };
        if head.date != Some(request.date) || head.id != id {
            return Err("the reply echoes another date or id".to_owned());
        }
        let opaque: Bytes = frame.clear.required("opaque", 0).map_err(|error| error.to_string())?;
        let (kind, plain) = self.open_reply(frame, request, &opaque.0).ok_or("the reply does not open")?;
        let text = std::str::from_utf8(&plain).map_err(|error| error.to_string())?;
        let pairs = Pairs::parse(text).map_err(|error| error.to_string())?;
        if pairs.get("type", 0) != Some(kind.type_text()) {
            return Err("the reply is of another type".to_owned());
        }
        if let Some(defect) = frame.clear.defect().or(pairs.defect()) {
            return Err(format!("{}: {}", defect.label, defect.reason));
        }
        let form = |error: FormError| format!("{}: {}", error.label, error.reason);
        let outcome = Outcome::read(&pairs, 0).map_err(form)?;
        let reply = Reply { kind, outcome, pairs: &pairs };
        // Everything is read before anything is changed: a reply counts as a whole or not at all.
        let mut changed = self.clone();
        let mut done = Step::default();
        changed.apply(request, &reply, &mut done).map_err(form)?;
        changed.finish(request, &reply, now, &mut done);
        *self = changed;
        step.writes.append(&mut done.writes);
        step.events.append(&mut done.events);
        Ok(())
    }

    fn open_reply(&self, frame: &Frame<'_>, request: &PendingRequest, opaque: &[u8]) -> Option<(Kind, Plain)> {
        let header = header_context(frame.suite, frame.clear.iter());
        expected(request.kind).iter().find_map(|kind| {
            let plain = request.secret.open(frame.suite, *kind, &header, &request.digest, opaque).ok()?;
            // The classic seal does not say what it is: the type inside does.
            let inside = std::str::from_utf8(&plain).ok()?;
            inside.starts_with(&format!("type: {}\n", kind.type_text())).then_some((*kind, plain))
        })
    }

    fn unreadable(
        &mut self,
        mut request: PendingRequest,
        why: &str,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        step.events.push(Event::Unreadable(request.kind));
        if !request.diagnosed {
            request.diagnosed = true;
            let what = format!("{}: {why}", request.kind.name());
            if let Some(message) = self.diagnose(&what, now, random) {
                step.send.push((To::Server, message));
            }
            self.put(step, Record::Request(Box::new(request)));
        }
    }

    /// What every readable reply leads to, whatever it says.
    fn finish(&mut self, request: &PendingRequest, reply: &Reply<'_>, now: Timestamp, step: &mut Step) {
        let outcome = &reply.outcome;
        let server = i64::try_from(outcome.server_date.as_millis()).unwrap_or(i64::MAX);
        self.identity.clock_offset_ms = server.saturating_sub(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        self.identity.blocked |= outcome.swseverity == Some(Severity::Fatal);
        if let Some(text) = &outcome.swmessage {
            step.events.push(Event::Software(text.clone()));
        }
        self.identity.last_response += 1;
        self.save_identity(step);
        let response = Response {
            number: self.identity.last_response,
            kind: request.kind,
            transaction: request.transaction,
            at: now,
            problem: outcome.problem,
            message: outcome.message.clone(),
        };
        self.put(step, Record::Response(response));
        self.requests.remove(&request.transaction);
        step.writes.push(Write::Delete(RecordKey::Request(request.transaction)));
    }

    fn apply(&mut self, request: &PendingRequest, reply: &Reply<'_>, step: &mut Step) -> Result<(), FormError> {
        let pairs = reply.pairs;
        let missing = |label: &str| FormError::new(label, "missing");
        if reply.outcome.response_code == ResponseCode::Failure {
            let result = RegisterResult::read(pairs, 0)?;
            if let (Some(Problem::IdTaken), Some(id)) = (reply.outcome.problem, result.response_id) {
                step.events.push(Event::Taken(id.0));
            }
            let (problem, message) = (reply.outcome.problem, reply.outcome.message.clone());
            step.events.push(Event::Failed(request.kind, problem, message));
            return Ok(());
        }
        match &request.asked {
            Asked::Register => {
                let result = RegisterResult::read(pairs, 0)?;
                let own = self.public_key().map(|key| key.as_bytes()).unwrap_or_default();
                if result.pubkey.is_none_or(|echo| echo.0 != own) {
                    return Err(FormError::new("pubkey", "not the key that was sent"));
                }
                let id = result.response_id.ok_or_else(|| missing("response-id"))?;
                let id = PersonaId::read(&id.0).map_err(|reason| FormError::new("response-id", reason))?;
                self.identity.persona = Some(id.clone());
                step.events.push(Event::Registered(id));
            }
            Asked::Update => {}
            Asked::Bind { description } => self.bound(reply, description, step)?,
            Asked::Move => {
                let result = LoadUnloadResult::read(pairs, 0)?;
                let amount = result.amount.ok_or_else(|| missing("amount"))?.0;
                let available = result.balance.ok_or_else(|| missing("balance"))?;
                let on_hold = result.on_hold.ok_or_else(|| missing("on-hold"))?;
                self.put(step, Record::Container(Container { available, on_hold }));
                let fee = result.fee.unwrap_or(Money::zero(amount.currency()));
                step.events.push(Event::Moved(amount, fee));
            }
            Asked::Open { .. } => self.opened(&request.asked, reply, step)?,
            Asked::Close { session, log } => self.closed(*session, *log, reply, step)?,
            Asked::Autoclose => {
                AutocloseResult::read(pairs, 0)?;
                step.events.push(Event::Autoclosed);
            }
        }
        Ok(())
    }

    fn bound(&mut self, reply: &Reply<'_>, description: &str, step: &mut Step) -> Result<(), FormError> {
        let pairs = reply.pairs;
        if reply.kind == Kind::BI2 {
            let question = Question::read(pairs, 0)?;
            let questions = (1..=pairs.largest_suffix("question")).filter_map(|n| pairs.get("question", n));
            step.events.push(Event::Asked(question.challenge, questions.map(str::to_owned).collect()));
            return Ok(());
        }
        let result = BindResult::read(pairs, 0)?;
        let mut recurring = crate::frame::Draft::default();
        let kept = pairs.iter().filter(|(label, _)| label.starts_with("instrument") && *label != "instrument-status");
        kept.for_each(|(label, value)| recurring.own(label.to_owned(), value.to_owned()));
        let text = result.number.map(|number| number.0);
        let known = self.bindings.values().find(|binding| {
            let kept = std::str::from_utf8(binding.recurring.0.expose()).unwrap_or_default();
            let number = Pairs::parse(kept).ok().and_then(|kept| kept.get("instrument-number", 0).map(str::to_owned));
            number.is_some() && number.as_ref() == text.as_ref().map(|text| text.expose())
        });
        let number = match known {
            Some(binding) => binding.number,
            None => {
                self.identity.last_binding += 1;
                self.identity.last_binding
            }
        };
        let binding = HeldBinding {
            number,
            description: description.to_owned(),
            functions: result.functions.unwrap_or_default(),
            status: result.status.map_or(String::new(), |status| status.0),
            recurring: Kept(crate::Secret::new(recurring.render().into_bytes())),
        };
        self.put(step, Record::Binding(Box::new(binding)));
        step.events.push(Event::Bound(number));
        Ok(())
    }

    fn opened(&mut self, asked: &Asked, reply: &Reply<'_>, step: &mut Step) -> Result<(), FormError> {
        let Asked::Open { amount, lifetime, use_limit, memo } = asked else { return Ok(()) };
        let missing = |label: &str| FormError::new(label, "missing");
        let result = OpenSessionResult::read(reply.pairs, 0)?;
        let granted = result.amount.ok_or_else(|| missing("amount"))?;
        let lives = result.key_lifetime.ok_or_else(|| missing("key-lifetime"))?;
        let uses = result.key_use_limit.ok_or_else(|| missing("key-use-limit"))?;
        let more = granted.minor() > amount.minor() || lives > *lifetime || uses > *use_limit || uses == 0;
        if more || granted.currency() != amount.currency() {
            return Err(FormError::new("amount", "more was granted than was asked"));
        }
        let id = result.session_id.ok_or_else(|| missing("session-id"))?;
        let key = result.session_key.ok_or_else(|| missing("session-key"))?;
        let salt = result.session_salt.ok_or_else(|| missing("session-salt"))?;
        let secrets = SessionSecrets::new(self.identity.suite, id, key.0, salt.0)
            .ok_or_else(|| FormError::new("session-key", "not as long as the suite wants it"))?;
        if self.sessions.contains_key(&id) {
            return Err(FormError::new("session-id", "there is such a session already"));
        }
        let session = HeldSession {
            secrets,
            opening: granted,
            current: granted,
            last_index: 0,
            use_limit: uses,
            lifetime: lives,
            opened_at: reply.outcome.server_date,
            memo: memo.clone(),
            closed: false,
            alarmed: false,
        };
        self.put(step, Record::Session(Box::new(session)));
        if let (Some(available), Some(on_hold)) = (result.balance, result.on_hold) {
            self.put(step, Record::Container(Container { available, on_hold }));
        }
        let less = granted != *amount || lives != *lifetime || uses != *use_limit;
        step.events.push(Event::Opened(id, less));
        Ok(())
    }

    fn closed(
        &mut self,
        session: Option<SessionId>,
        asked_log: bool,
        reply: &Reply<'_>,
        step: &mut Step,
    ) -> Result<(), FormError> {
        let result = CloseResult::read(reply.pairs, 0)?;
        let closed: Vec<SessionId> = match session {
            Some(session) => vec![session],
            // Those that are closed are those that were open when the server looked: of what it did not name, nothing is
            // known, but that an open one would have been closed.
            None => self.sessions.values().filter(|held| !held.closed).map(|held| held.secrets.id()).collect(),
        };
        let balances = result.balance.unwrap_or_default().0;
        let holds = result.on_hold.unwrap_or_default().0;
        for available in balances {
            let same = |held: &&Money| held.currency() == available.currency();
            let on_hold = holds.iter().find(same).copied().unwrap_or(Money::zero(available.currency()));
            self.put(step, Record::Container(Container { available, on_hold }));
        }
        if asked_log {
            // A log without a line is not sent: then nothing was ever decided.
            let log = reply.pairs.get("log", 0).unwrap_or_default();
            let more = result.log_more == Some(true);
            let parts = split_sessions(log, &closed);
            for id in &closed {
                let lines = parts.iter().find(|(part, _)| part == id).map_or("", |(_, lines)| lines.as_str());
                self.settle(*id, lines, more, step);
            }
        }
        for id in closed {
            if let Some(mut held) = self.sessions.get(&id).cloned() {
                held.closed = true;
                held.current = Money::zero(held.currency());
                self.put(step, Record::Session(Box::new(held)));
            }
        }
        step.events.push(Event::Closed(result.amount.unwrap_or_default().0));
        Ok(())
    }

    /// What is not known of a session's payments is in its log; what is not in the log will never be collected.
    fn settle(&mut self, session: SessionId, log: &str, more: bool, step: &mut Step) {
        let lines: BTreeMap<u16, Vec<&str>> = log
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(';').collect();
                Some((fields.first()?.parse().ok()?, fields))
            })
            .collect();
        let open: Vec<_> = self.sent.range((session, 0)..=(session, u16::MAX)).map(|(_, sent)| sent.clone()).collect();
        for mut sent in open.into_iter().filter(|sent| sent.outcome.is_none()) {
            let outcome = match lines.get(&sent.index).map(Vec::as_slice) {
                Some([_, amount, _, _, _, "collected"]) => {
                    Money::read(amount).ok().map_or(SentOutcome::Paid(sent.amount), SentOutcome::Paid)
                }
                Some([_, _, _, _, _, problem]) => SentOutcome::Refused(Problem::read(problem).ok()),
                Some(_) => continue,
                None if more => continue,
                None => SentOutcome::NeverCollected,
            };
            sent.outcome = Some(outcome);
            step.events.push(match outcome {
                SentOutcome::Paid(charged) => Event::Paid(sent.order.clone(), charged),
                SentOutcome::Refused(problem) => Event::NotPaid(sent.order.clone(), problem),
                SentOutcome::NeverCollected => Event::NotPaid(sent.order.clone(), None),
            });
            self.put(step, Record::Sent(Box::new(sent)));
        }
    }
}

/// The logs of several sessions, each behind a line that names it; of a single one, none stands there.
fn split_sessions(log: &str, closed: &[SessionId]) -> Vec<(SessionId, String)> {
    let mut parts: Vec<(SessionId, String)> = Vec::new();
    if let [only] = closed {
        parts.push((*only, String::new()));
    }
    for line in log.lines() {
        if let Some(id) = line.strip_prefix("session;").and_then(|id| SessionId::read(id).ok()) {
            parts.push((id, String::new()));
        } else if let Some((_, lines)) = parts.last_mut() {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    parts
}
