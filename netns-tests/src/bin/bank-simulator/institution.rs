//! How the institution decides: by card number, by its books, and by nothing else.

use std::io;

use transact_bank::{Message, MessageType};

use crate::books::{Books, Entry, Event, Key};

/// Approved.
const APPROVING: &str = "4111111111111111";
/// Approved too: of another range.
const APPROVING_TOO: &str = "5100000000000008";
/// Declined for want of money.
const DECLINING: &str = "4000000000000002";
/// Approved in the books, but never answered.
const SILENT: &str = "4000000000000119";
/// Approved, and answered too late.
const SLOW: &str = "4000000000000127";
/// Approved, and the connection ends in the midst of the answer.
const CUT: &str = "4000000000000135";
/// Approved, and answered twice.
const TWICE: &str = "4000000000000143";
/// A refund of so many minor units is given and never answered.
const SILENT_REFUND: u64 = 119;
/// A refund of so many minor units is refused.
const REFUSED_REFUND: u64 = 102;
/// Field 3 of a refund.
const REFUND: &str = "200000";

/// ISO 8583:1987 response codes.
mod code {
    pub(super) const APPROVED: &str = "00";
    pub(super) const DO_NOT_HONOUR: &str = "05";
    pub(super) const NO_SUCH_CARD: &str = "14";
    pub(super) const NOT_FOUND: &str = "25";
    pub(super) const FORMAT: &str = "30";
    pub(super) const NO_MONEY: &str = "51";
    pub(super) const NOT_SIGNED_ON: &str = "58";
    pub(super) const TOO_MUCH: &str = "61";
    pub(super) const OTHER_AMOUNT: &str = "64";
}

/// What is done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reaction {
    Answer(Message),
    AnswerLate(Message),
    AnswerTwice(Message),
    /// Half of the answer, and the end of the connection.
    Cut(Message),
    Silence,
}

/// A connection's standing with the institution.
#[derive(Debug, Default)]
pub(crate) struct Session {
    signed_on: bool,
}

/// Decides about `message`. The books are written before anything is answered.
pub(crate) fn react(session: &mut Session, books: &mut Books, message: &Message) -> io::Result<Reaction> {
    use MessageType as T;
    match message.message_type() {
        T::NetworkRequest => {
            session.signed_on |= message.get(70) == Some("001");
            Ok(Reaction::Answer(answer(message, code::APPROVED)))
        }
        T::AuthorisationResponse
        | T::FinancialResponse
        | T::ReversalResponse
        | T::ReversalAdviceResponse
        | T::NetworkResponse => Ok(Reaction::Silence),
        _ if !session.signed_on => Ok(Reaction::Answer(answer(message, code::NOT_SIGNED_ON))),
        T::FinancialRequest if message.get(3) == Some(REFUND) && message.get(90).is_none() => credit(books, message),
        T::FinancialRequest if message.get(3) == Some(REFUND) => refund(books, message),
        T::AuthorisationRequest | T::FinancialRequest => authorise(books, message),
        T::ReversalRequest | T::ReversalRepeat | T::ReversalAdvice | T::ReversalAdviceRepeat => reverse(books, message),
    }
}

fn authorise(books: &mut Books, message: &Message) -> io::Result<Reaction> {
    let (Some(key), Some(card), Some((amount, currency)), Some(_expiry)) =
        (key(message), message.get(2), amount(message), message.get(14))
    else {
        return Ok(Reaction::Answer(answer(message, code::FORMAT)));
    };
    let standing = books.standing(&key);
    let decision = match (standing.decision, standing.reversal) {
        (Some(decision), _) => decision,
        (None, reversal) => {
            let response = if reversal.is_some() { code::DO_NOT_HONOUR } else { decide(card) };
            let approved = response == code::APPROVED;
            let last_four = card.get(card.len().saturating_sub(4)..).unwrap_or_default().to_owned();
            let event = if approved { Event::Authorised } else { Event::Refused };
            let entry = entry(event, key, amount, currency, last_four, response);
            books.record(entry.clone())?;
            entry
        }
    };
    let reply = reply(message, &decision);
    Ok(match card {
        SILENT => Reaction::Silence,
        SLOW => Reaction::AnswerLate(reply),
        CUT => Reaction::Cut(reply),
        TWICE => Reaction::AnswerTwice(reply),
        _ => Reaction::Answer(reply),
    })
}

fn decide(card: &str) -> &'static str {
    match card {
        APPROVING | APPROVING_TOO | SILENT | SLOW | CUT | TWICE => code::APPROVED,
        DECLINING => code::NO_MONEY,
        _ => code::NO_SUCH_CARD,
    }
}

/// An entry about `key`; what is approved has an authorisation code.
fn entry(event: Event, key: Key, amount: u64, currency: String, last_four: String, code: &str) -> Entry {
    let (terminal, stan, time) = key;
    let approved = matches!(event, Event::Authorised | Event::Refunded);
    Entry {
        event,
        authorisation_code: approved.then(|| format!("S{}", stan.get(1..).unwrap_or_default())),
        of: None,
        terminal,
        stan,
        time,
        amount,
        currency,
        last_four,
        code: code.to_owned(),
    }
}

fn reply(message: &Message, decision: &Entry) -> Message {
    let mut reply = answer(message, &decision.code);
    if let Some(authorisation_code) = &decision.authorisation_code {
        set(&mut reply, 38, authorisation_code);
    }
    reply
}

fn refund(books: &mut Books, message: &Message) -> io::Result<Reaction> {
    let (Some(key), Some(original), Some((amount, currency))) = (key(message), original_key(message), amount(message))
    else {
        return Ok(Reaction::Answer(answer(message, code::FORMAT)));
    };
    let standing = books.standing(&key);
    let decision = match (standing.decision, standing.reversal) {
        (Some(decision), _) => decision,
        (None, reversal) => {
            let held = books.standing(&original);
            let paid = held.decision.filter(|d| d.event == Event::Authorised && held.reversal.is_none());
            let response = match &paid {
                _ if reversal.is_some() || amount == REFUSED_REFUND => code::DO_NOT_HONOUR,
                None => code::NOT_FOUND,
                Some(paid) if paid.currency != currency => code::OTHER_AMOUNT,
                Some(paid) if books.refunded(&original).saturating_add(amount) > paid.amount => code::TOO_MUCH,
                Some(_) => code::APPROVED,
            };
            let event = if response == code::APPROVED { Event::Refunded } else { Event::Refused };
            let last_four = paid.map(|paid| paid.last_four).unwrap_or_default();
            let of = Some((original.1, original.2));
            let entry = Entry { of, ..entry(event, key, amount, currency, last_four, response) };
            books.record(entry.clone())?;
            entry
        }
    };
    let reply = reply(message, &decision);
    Ok(if amount == SILENT_REFUND { Reaction::Silence } else { Reaction::Answer(reply) })
}

/// Money for a card that gives back no payment.
fn credit(books: &mut Books, message: &Message) -> io::Result<Reaction> {
    let (Some(key), Some(card), Some((amount, currency)), Some(_expiry)) =
        (key(message), message.get(2), amount(message), message.get(14))
    else {
        return Ok(Reaction::Answer(answer(message, code::FORMAT)));
    };
    let standing = books.standing(&key);
    let decision = match (standing.decision, standing.reversal) {
        (Some(decision), _) => decision,
        (None, reversal) => {
            let response = if reversal.is_some() { code::DO_NOT_HONOUR } else { decide(card) };
            let event = if response == code::APPROVED { Event::Refunded } else { Event::Refused };
            let last_four = card.get(card.len().saturating_sub(4)..).unwrap_or_default().to_owned();
            let entry = entry(event, key, amount, currency, last_four, response);
            books.record(entry.clone())?;
            entry
        }
    };
    let reply = reply(message, &decision);
    Ok(if card == SILENT { Reaction::Silence } else { Reaction::Answer(reply) })
}

fn reverse(books: &mut Books, message: &Message) -> io::Result<Reaction> {
    let reply = |code: &str| Ok(Reaction::Answer(answer(message, code)));
    let (Some(key), Some((amount, currency))) = (original_key(message), amount(message)) else {
        return reply(code::FORMAT);
    };
    let standing = books.standing(&key);
    if let Some(reversal) = standing.reversal {
        return reply(&reversal.code);
    }
    let (event, last_four, response) = match standing.decision {
        Some(decision) if (decision.amount, &decision.currency) != (amount, &currency) => {
            return reply(code::OTHER_AMOUNT);
        }
        Some(decision) => (Event::Reversed, decision.last_four, code::APPROVED),
        None => (Event::Buried, String::new(), code::NOT_FOUND),
    };
    books.record(entry(event, key, amount, currency, last_four, response))?;
    reply(response)
}

fn key(message: &Message) -> Option<Key> {
    Some((message.get(41)?.to_owned(), message.get(11)?.to_owned(), message.get(7)?.to_owned()))
}

/// The key that field 90 names: a request that moves money, its trace number, its transmission time.
fn original_key(message: &Message) -> Option<Key> {
    let original = message.get(90)?;
    let (message_type, rest) = (original.get(..4)?, original.get(4..)?);
    let known = [MessageType::AuthorisationRequest, MessageType::FinancialRequest].map(MessageType::code);
    if !known.contains(&message_type) {
        return None;
    }
    Some((message.get(41)?.to_owned(), rest.get(..6)?.to_owned(), rest.get(6..16)?.to_owned()))
}

fn amount(message: &Message) -> Option<(u64, String)> {
    let minor: u64 = message.get(4)?.parse().ok()?;
    (minor > 0).then(|| Some((minor, message.get(49)?.to_owned())))?
}

fn answer(request: &Message, code: &str) -> Message {
    // Only requests are answered.
    let mut answer = Message::new(request.message_type().answer().unwrap_or(MessageType::NetworkResponse));
    answer.copy(request, &[3, 4, 7, 11, 12, 13, 32, 37, 41, 42, 49, 70, 90]);
    set(&mut answer, 39, code);
    answer
}

/// Sets a field from a value that fits it by construction.
fn set(message: &mut Message, number: u8, value: &str) {
    let fitted = message.set(number, value);
    debug_assert!(fitted.is_ok(), "field {number}: {fitted:?}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cloakway_types::Timestamp;
    use transact_bank::{Trace, original_data};

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        books: Books,
        session: Session,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let books = Books::open(&folder.path().join("books")).unwrap();
            let mut bench = Self { folder, books, session: Session::default() };
            let mut sign_on = Message::new(MessageType::NetworkRequest);
            sign_on.set(70, "001").unwrap();
            assert_eq!(bench.code(&sign_on), "00");
            bench
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("books")
        }

        fn react(&mut self, message: &Message) -> Reaction {
            react(&mut self.session, &mut self.books, message).unwrap()
        }

        fn code(&mut self, message: &Message) -> String {
            match self.react(message) {
                Reaction::Answer(answer)
                | Reaction::AnswerLate(answer)
                | Reaction::AnswerTwice(answer)
                | Reaction::Cut(answer) => answer.get(39).unwrap().to_owned(),
                Reaction::Silence => "silence".to_owned(),
            }
        }

        fn reopen(&mut self) {
            self.books = Books::open(&self.path()).unwrap();
        }
    }

    fn request(stan: &str, card: &str) -> Message {
        let mut message = Message::new(MessageType::AuthorisationRequest);
        let fields = [
            (2, card),
            (4, "000000001234"),
            (7, "1114221320"),
            (11, stan),
            (14, "2912"),
            (41, "CLOAK001"),
            (49, "978"),
        ];
        fields.into_iter().for_each(|(number, value)| message.set(number, value).unwrap());
        message
    }

    /// Trace number `stan` at 22:13:20 on 14 November.
    fn trace(stan: &str) -> Trace {
        Trace::new(stan.parse().unwrap(), Timestamp::from_secs(1_700_000_000)).unwrap()
    }

    fn refund(stan: &str, original: &str, minor: u64) -> Message {
        let mut message = Message::new(MessageType::FinancialRequest);
        let original = original_data(MessageType::AuthorisationRequest, trace(original), "12345");
        let amount = format!("{minor:012}");
        let fields = [
            (3, REFUND),
            (4, amount.as_str()),
            (7, "1114221320"),
            (11, stan),
            (41, "CLOAK001"),
            (49, "978"),
            (90, original.as_str()),
        ];
        fields.into_iter().for_each(|(number, value)| message.set(number, value).unwrap());
        message
    }

    fn reversal(stan: &str, message_type: MessageType) -> Message {
        let mut message = Message::new(message_type);
        let original = original_data(MessageType::AuthorisationRequest, trace(stan), "12345");
        let fields = [
            (4, "000000001234"),
            (7, "1114221320"),
            (11, stan),
            (41, "CLOAK001"),
            (49, "978"),
            (90, original.as_str()),
        ];
        fields.into_iter().for_each(|(number, value)| message.set(number, value).unwrap());
        message
    }

    #[test]
    fn each_test_card_behaves_as_promised() {
        let mut bench = Bench::new();
        assert_eq!(bench.code(&request("000001", APPROVING)), "00");
        assert_eq!(bench.code(&request("000002", DECLINING)), "51");
        assert_eq!(bench.react(&request("000003", SILENT)), Reaction::Silence);
        assert!(matches!(bench.react(&request("000004", SLOW)), Reaction::AnswerLate(_)));
        assert_eq!(bench.code(&request("000005", "5555555555554444")), "14");
        assert!(matches!(bench.react(&request("000006", CUT)), Reaction::Cut(_)));
        assert!(matches!(bench.react(&request("000007", TWICE)), Reaction::AnswerTwice(_)));
        let held: Vec<_> = bench.books.held().into_iter().map(|(_, stan, _)| stan).collect();
        assert_eq!(held, ["000001", "000003", "000004", "000006", "000007"]);
    }

    #[test]
    fn an_approval_has_an_authorisation_code_and_the_same_request_the_same_answer() {
        let mut bench = Bench::new();
        let first = bench.react(&request("000042", APPROVING));
        let Reaction::Answer(answer) = &first else { panic!("{first:?}") };
        assert_eq!((answer.get(38), answer.get(2)), (Some("S00042"), None));
        assert_eq!(bench.react(&request("000042", APPROVING)), first);
        bench.reopen();
        assert_eq!(bench.react(&request("000042", APPROVING)), first);
    }

    #[test]
    fn a_reversal_frees_what_was_held_and_says_the_same_again() {
        let mut bench = Bench::new();
        bench.react(&request("000003", SILENT));
        assert_eq!(bench.code(&reversal("000003", MessageType::ReversalRequest)), "00");
        assert_eq!(bench.books.held(), []);
        bench.reopen();
        assert_eq!(bench.code(&reversal("000003", MessageType::ReversalRepeat)), "00");
        assert_eq!(bench.books.held(), []);
    }

    #[test]
    fn money_goes_back_once_and_never_more_than_was_taken() {
        let mut bench = Bench::new();
        bench.react(&request("000001", APPROVING));
        assert_eq!(bench.code(&refund("000002", "000001", 1000)), "00");
        assert_eq!(bench.code(&refund("000002", "000001", 1000)), "00", "the same again");
        assert_eq!(bench.code(&refund("000003", "000001", 235)), "61");
        assert_eq!(bench.code(&refund("000004", "000009", 1)), "25");
        assert_eq!(bench.code(&refund("000005", "000001", REFUSED_REFUND)), "05");
        bench.reopen();
        assert_eq!(bench.code(&refund("000006", "000001", SILENT_REFUND)), "silence");
        let key = |stan: &str| ("CLOAK001".to_owned(), stan.to_owned(), "1114221320".to_owned());
        assert_eq!(bench.books.refunded(&key("000001")), 1119);
        let mut back = reversal("000006", MessageType::ReversalRequest);
        back.set(4, "000000000119").unwrap();
        let original = original_data(MessageType::FinancialRequest, trace("000006"), "12345");
        back.set(90, &original).unwrap();
        assert_eq!(bench.code(&back), "00");
        assert_eq!(bench.books.refunded(&key("000001")), 1000);
        bench.react(&reversal("000001", MessageType::ReversalAdvice));
        assert_eq!(bench.code(&refund("000007", "000001", 1)), "25", "what was reversed is not there");
    }

    #[test]
    fn a_credit_names_a_card_and_no_payment() {
        let mut bench = Bench::new();
        let credit = |stan: &str, card: &str| {
            let mut message = Message::new(MessageType::FinancialRequest);
            message.copy(&request(stan, card), &[2, 4, 7, 11, 14, 41, 49]);
            message.set(3, REFUND).unwrap();
            message
        };
        assert_eq!(bench.code(&credit("000001", APPROVING)), "00");
        assert_eq!(bench.code(&credit("000001", APPROVING)), "00", "the same again");
        assert_eq!(bench.code(&credit("000002", DECLINING)), "51");
        assert_eq!(bench.code(&credit("000003", SILENT)), "silence");
        let mut back = reversal("000003", MessageType::ReversalRequest);
        back.set(90, &original_data(MessageType::FinancialRequest, trace("000003"), "12345")).unwrap();
        assert_eq!(bench.code(&back), "00");
        assert_eq!(bench.books.held(), []);
    }

    #[test]
    fn a_reversal_of_nothing_buries_what_may_still_come() {
        let mut bench = Bench::new();
        assert_eq!(bench.code(&reversal("000009", MessageType::ReversalRequest)), "25");
        bench.reopen();
        assert_eq!(bench.code(&request("000009", APPROVING)), "05");
        assert_eq!(bench.code(&reversal("000009", MessageType::ReversalRepeat)), "25");
        assert_eq!(bench.books.held(), []);
    }

    #[test]
    fn a_reversal_of_another_amount_changes_nothing() {
        let mut bench = Bench::new();
        bench.react(&request("000001", APPROVING));
        let mut other = reversal("000001", MessageType::ReversalRequest);
        other.set(4, "000000001235").unwrap();
        assert_eq!(bench.code(&other), "64");
        assert_eq!(bench.books.held().len(), 1);
    }

    #[test]
    fn incomplete_requests_and_requests_before_the_sign_on_are_refused() {
        let mut bench = Bench::new();
        let mut incomplete = Message::new(MessageType::AuthorisationRequest);
        incomplete.copy(&request("000001", APPROVING), &[2, 4, 11]);
        assert_eq!(bench.code(&incomplete), "30");
        assert_eq!(bench.code(&Message::new(MessageType::ReversalRequest)), "30");
        bench.session = Session::default();
        assert_eq!(bench.code(&request("000001", APPROVING)), "58");
        assert_eq!(bench.code(&reversal("000001", MessageType::ReversalRequest)), "58");
        assert_eq!(std::fs::read(bench.path()).unwrap(), b"");
    }

    #[test]
    fn the_books_hold_no_card_number_and_survive_a_torn_line() {
        let mut bench = Bench::new();
        bench.react(&request("000001", APPROVING));
        let path = bench.path();
        let whole = std::fs::read_to_string(&path).unwrap();
        assert!(whole.contains("\"last-four\":\"1111\"") && !whole.contains("41111"), "{whole}");

        std::fs::write(&path, format!("{whole}{{\"event\":\"auth")).unwrap();
        bench.reopen();
        assert_eq!(bench.books.held().len(), 1);
        bench.react(&request("000002", APPROVING));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        bench.reopen();
        assert_eq!(bench.books.held().len(), 2);
    }

    #[test]
    fn books_that_are_no_books_are_refused_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path: &Path = &folder.path().join("books");
        std::fs::write(path, "{}\n").unwrap();
        assert!(Books::open(path).unwrap_err().to_string().starts_with("line 1 of the books is no entry"));
    }
}
