//! BI1 to BI4: binding an instrument, with the issuer's questions.
//!
//! A question's state travels with the client, sealed to this server and bound to the persona: the number of an
//! instrument is in no store while the issuer wonders.

use cloakway_crypto::hash::keyed;
use cloakway_crypto::{Randomness, ct_eq};
use cloakway_types::Timestamp;
use ecash_wire::frame::{Draft, Pairs};
use ecash_wire::message::{Answer, Bind, BindResult, Kind, Problem, Question, ResponseCode};
use ecash_wire::suite::{Suite, instrument_hash};
use ecash_wire::value::{Bytes, PersonaId, Short};
use transact_ledger::BindingId;

use super::request::{Asker, Request, failure, success};
use super::{Asked, Asking, BindDecision, Effect, InstrumentPolicy, IssuerQuestion, QuestionId, Server, Step};
use crate::state::{Binding, Record, Write};

/// A binding whose issuer is being asked.
pub(super) struct Waiting {
    asker: Asker,
    persona: PersonaId,
    body: Bind,
    answers: Vec<(String, String)>,
    round: u8,
}

const CATEGORIES: [&str; 3] = ["bank-account", "debit-card", "credit-card"];

/// Whether cards' numbers end in the digit of ISO/IEC 7812.
fn is_number(category: &str, number: &str) -> bool {
    if category == "bank-account" {
        return true;
    }
    let digits = number.bytes().rev().enumerate().map(|(place, byte)| {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        match digit {
            0..=9 if place % 2 == 1 => Some(digit * 2 / 10 + digit * 2 % 10),
            0..=9 => Some(digit),
            _ => None,
        }
    });
    (12..=19).contains(&number.len()) && digits.sum::<Option<u32>>().is_some_and(|sum| sum.is_multiple_of(10))
}

impl Server {
    pub(super) fn bind(
        &mut self,
        request: &Request<'_>,
        id: PersonaId,
        body: Bind,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let accepted = body.agreements.clone().unwrap_or_default().0;
        let owner = self.personas.get(&id);
        let agreed =
            self.policy.agreements.iter().all(|number| {
                accepted.contains(number) || owner.is_some_and(|owner| owner.agreements.contains(number))
            });
        let valid = CATEGORIES.contains(&body.category.0.as_str())
            && is_number(&body.category.0, body.number.0.expose())
            && body.salt.0.len() >= 8;
        let passphrase = || {
            let verifier = owner.and_then(|owner| owner.passphrase.as_ref());
            verifier.zip(body.autoclose_passphrase.as_ref()).is_some_and(|(verifier, text)| verifier.matches(text))
        };
        let autoclose =
            !body.autoclose || (body.functions.unload && self.policy.operator_key.is_some() && passphrase());
        let problem = match (valid, agreed, autoclose) {
            (false, _, _) => Problem::InstrumentInvalid,
            (_, false, _) => Problem::AgreementRequired,
            (_, _, false) => Problem::AutocloseRefused,
            _ => {
                let waiting =
                    Waiting { asker: request.asker.clone(), persona: id, body, answers: Vec::new(), round: 0 };
                return self.ask_issuer(waiting, step);
            }
        };
        self.fail(request, problem, random, step);
    }

    fn ask_issuer(&mut self, waiting: Waiting, step: &mut Step) {
        let number = QuestionId(self.next_log_number(step));
        let question = IssuerQuestion::Bind {
            persona: waiting.persona.clone(),
            instrument: Box::new(waiting.body.clone()),
            answers: waiting.answers.clone(),
        };
        let (digest, persona) = (waiting.asker.digest, waiting.persona.clone());
        self.asking.insert(number, Asking { digest, persona, what: Asked::Bind(Box::new(waiting)) });
        step.effects.push(Effect::Ask(number, Box::new(question)));
    }

    /// BI3.
    pub(super) fn bind_answered(
        &mut self,
        request: &Request<'_>,
        id: PersonaId,
        body: &Answer,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let Some((before, round, questions)) = self.open_challenge(&id, &body.challenge.0) else {
            return self.fail(request, Problem::InstrumentRefused, random, step);
        };
        let mut answers = Vec::new();
        for (n, question) in (1..=u8::MAX).zip(questions) {
            let Ok(Some(answer)) = request.sealed.optional::<String>("answer", n) else {
                return self.fail(request, Problem::Form, random, step);
            };
            answers.push((question, answer));
        }
        let waiting = Waiting { asker: request.asker.clone(), persona: id, body: before, answers, round };
        self.ask_issuer(waiting, step);
    }

    /// The issuer's answer is there.
    pub(super) fn bind_decided(
        &mut self,
        waiting: Waiting,
        decision: BindDecision,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let asker = waiting.asker.clone();
        let refuse = |server: &mut Self, random: &mut dyn Randomness, step: &mut Step| {
            let outcome = failure(Problem::InstrumentRefused, now);
            server.answer(&asker, Kind::BI4, outcome, Draft::default(), now, random, step);
        };
        match decision {
            BindDecision::Refuse => refuse(self, random, step),
            BindDecision::Ask(questions) if waiting.round < self.policy.question_rounds && !questions.is_empty() => {
                let Some(challenge) = self.seal_challenge(&waiting, &questions, random) else {
                    return refuse(self, random, step);
                };
                let mut fields = Draft::default();
                Question { challenge: Bytes(challenge) }.write(&mut fields, 0);
                for (n, question) in (1..=u8::MAX).zip(questions) {
                    fields.text("question", n, question);
                }
                let outcome = ecash_wire::message::Outcome { response_code: ResponseCode::More, ..success(now) };
                self.answer(&waiting.asker, Kind::BI2, outcome, fields, now, random, step);
            }
            BindDecision::Ask(_) => refuse(self, random, step),
            BindDecision::Accept(policy) => self.bound(&waiting, policy, now, random, step),
        }
    }

    fn bound(
        &mut self,
        waiting: &Waiting,
        policy: InstrumentPolicy,
        now: Timestamp,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let (body, persona) = (&waiting.body, &waiting.persona);
        let suite = waiting.asker.suite;
        let functions = policy.functions.and(body.functions);
        let sealed_number = if body.autoclose { self.seal_number(body, random) } else { None };
        if body.autoclose && (sealed_number.is_none() || !functions.unload) {
            let outcome = failure(Problem::AutocloseRefused, now);
            return self.answer(&waiting.asker, Kind::BI4, outcome, Draft::default(), now, random, step);
        }
        let hash = Bytes(self.hash_instrument(suite, body.number.0.expose(), &body.salt.0));
        let known = self.bindings.values().find(|binding| binding.persona == *persona && binding.hash == hash);
        let (id, first_used) = match known {
            Some(binding) => (binding.id, binding.first_used),
            None => {
                self.numbers.binding += 1;
                (BindingId(self.numbers.binding), None)
            }
        };
        if body.autoclose {
            // At most one: the new one takes the place of the old.
            let others = self.bindings.values_mut().filter(|other| other.persona == *persona && other.id != id);
            for other in others.filter(|other| other.autoclose) {
                other.autoclose = false;
                other.sealed_number = None;
                step.writes.push(Write::Put(Record::Binding(other.clone())));
            }
        }
        let binding = Binding {
            id,
            persona: persona.clone(),
            category: body.category.0.clone(),
            sub_type: body.sub_type.0.clone(),
            sealed_number,
            hash,
            prefix: prefix(body.number.0.expose()),
            issuer_id: policy.issuer_id,
            native: policy.native,
            functions,
            load_limit: policy.load_limit,
            unload_limit: policy.unload_limit,
            status: policy.status,
            autoclose: body.autoclose,
            bound_at: now,
            first_used,
        };
        step.writes.push(Write::Put(Record::Binding(binding.clone())));
        self.bindings.insert(id, binding);

        let mut fields = Draft::default();
        let result = BindResult {
            number: Some(body.number.clone()),
            sub_type: Some(body.sub_type.clone()),
            salt: Some(body.salt.clone()),
            functions: (functions != ecash_wire::value::Functions::default()).then_some(functions),
            status: Some(Short(policy.status.text().to_owned())),
        };
        result.write(&mut fields, 0);
        let own = ["instrument-seal", "instrument-number", "instrument-salt", "instrument-type"];
        for (label, value) in policy.recurring {
            if label.starts_with("instrument-") && !own.contains(&label.as_str()) {
                fields.own(label, value);
            }
        }
        let seal = self.seal_instrument(persona, fields.iter());
        fields.put("instrument-seal", 0, &Bytes(seal));
        self.answer(&waiting.asker, Kind::BI4, success(now), fields, now, random, step);
    }

    pub(super) fn hash_instrument(&self, suite: Suite, number: &str, salt: &[u8]) -> Vec<u8> {
        let pepper = keyed(self.policy.secret.expose(), &[b"instrument pepper"]);
        instrument_hash(suite, &pepper, salt, number)
    }

    /// The server's own mark on what the client keeps for it, label by label, whatever their order.
    pub(super) fn seal_instrument<'a>(
        &self,
        persona: &PersonaId,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<u8> {
        let mut kept: Vec<_> = fields
            .filter(|(label, _)| {
                label.starts_with("instrument-") && !matches!(*label, "instrument-seal" | "instrument-status")
            })
            .collect();
        kept.sort_unstable();
        let key = keyed(self.policy.secret.expose(), &[b"instrument seal"]);
        let list = cloakway_crypto::Zeroizing::new(ecash_wire::canonical::tlv(kept));
        keyed(&key, &[persona.as_str().as_bytes(), &list]).to_vec()
    }

    /// Whether an LU1 brings back what BI4 gave.
    pub(super) fn is_sealed(&self, persona: &PersonaId, sealed: &Pairs<'_>, seal: Option<&Bytes>) -> bool {
        seal.is_some_and(|seal| ct_eq(&self.seal_instrument(persona, sealed.iter()), &seal.0))
    }

    fn seal_number(&self, body: &Bind, random: &mut dyn Randomness) -> Option<Bytes> {
        let (mut sealed, shared) = self.policy.operator_key.as_ref()?.encapsulate(random).ok()?;
        let context = shared.context(b"ecash-session/autoclose instrument");
        sealed.append(&mut context.seal(b"", body.number.0.expose().as_bytes()).ok()?);
        Some(Bytes(sealed))
    }

    fn challenge_key(&self) -> [u8; 32] {
        keyed(self.policy.secret.expose(), &[b"challenge"])
    }

    fn seal_challenge(&self, waiting: &Waiting, questions: &[String], random: &mut dyn Randomness) -> Option<Vec<u8>> {
        let mut draft = Draft::default();
        draft.put("round", 0, &(waiting.round + 1));
        for (n, question) in (1..=u8::MAX).zip(questions) {
            draft.text("question", n, question.clone());
        }
        waiting.body.write(&mut draft, 0);
        let plain = cloakway_crypto::Zeroizing::new(draft.render());
        let mut nonce = [0; 12];
        random.fill(&mut nonce);
        let context = waiting.persona.as_str().as_bytes();
        cloakway_crypto::aead::seal(&self.challenge_key(), nonce, context, plain.as_bytes()).ok()
    }

    fn open_challenge(&self, persona: &PersonaId, challenge: &[u8]) -> Option<(Bind, u8, Vec<String>)> {
        let plain = cloakway_crypto::aead::open(&self.challenge_key(), persona.as_str().as_bytes(), challenge).ok()?;
        let pairs = Pairs::parse(std::str::from_utf8(&plain).ok()?).ok()?;
        let round = pairs.required("round", 0).ok()?;
        let questions = (1..=pairs.largest_suffix("question")).filter_map(|n| pairs.get("question", n));
        Some((Bind::read(&pairs, 0).ok()?, round, questions.map(str::to_owned).collect()))
    }
}

/// What is shown of a number: two digits, and the last four.
fn prefix(number: &str) -> String {
    let first = number.get(..2).unwrap_or_default();
    let last = number.get(number.len().saturating_sub(4)..).filter(|_| number.len() >= 8).unwrap_or_default();
    format!("{first}{last}")
}

impl Server {
    /// The persona's binding to the instrument of this number and salt.
    pub(super) fn binding_of(&self, persona: &PersonaId, suite: Suite, number: &str, salt: &[u8]) -> Option<BindingId> {
        let hash = self.hash_instrument(suite, number, salt);
        let mine = self.bindings.values().filter(|binding| binding.persona == *persona);
        mine.into_iter().find(|binding| ct_eq(&binding.hash.0, &hash)).map(|binding| binding.id)
    }

    /// A fee that there is enough for, in the end.
    pub(super) fn affordable(
        fee: ecash_wire::value::Money,
        free: ecash_wire::value::Money,
    ) -> ecash_wire::value::Money {
        if fee.minor() > free.minor() { free } else { fee }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_have_a_check_digit_and_accounts_have_none() {
        assert!(is_number("credit-card", "4111111111111111"));
        assert!(!is_number("credit-card", "4111111111111112"));
        assert!(!is_number("debit-card", "41111111X1111111"));
        assert!(!is_number("debit-card", "0"));
        assert!(is_number("bank-account", "DE02120300000000202051"));
        assert_eq!(prefix("4111111111111234"), "411234");
        assert_eq!(prefix("1234"), "12");
    }
}
