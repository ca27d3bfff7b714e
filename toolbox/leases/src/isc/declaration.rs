//! One declaration.

use std::net::{IpAddr, Ipv4Addr};

use cloakway_types::Timestamp;
use ipnet::IpNet;

use super::token::{Token, tokens};
use crate::holder::Holder;
use crate::lease::{Lease, Record, State};

/// Reads a declaration; `None` when it is about no lease.
pub(super) fn read(text: &[u8]) -> Result<Option<Record>, String> {
    let tokens = tokens(text).ok_or("a text has no end")?;
    let Some((head, rest)) = tokens.split_first() else { return Ok(None) };
    match (head.word(), rest) {
        (Some("lease"), [address, Token::Sign(b'{'), body @ .., Token::Sign(b'}')]) => {
            let address = address.word().unwrap_or_default();
            let address: Ipv4Addr = address.parse().map_err(|_| format!("{address:?} is no IPv4 address"))?;
            lease(address, &statements(body)?).map(|lease| Some(Record::Lease(Box::new(lease))))
        }
        (Some(kind @ ("ia-na" | "ia-ta" | "ia-pd")), [key, Token::Sign(b'{'), body @ .., Token::Sign(b'}')]) => {
            let key = key.octets().ok_or_else(|| format!("{kind} has no name of octets"))?;
            association(kind, &key, &statements(body)?).map(Some)
        }
        (Some(kind @ ("lease" | "ia-na" | "ia-ta" | "ia-pd")), _) => Err(format!("{kind} has not its form")),
        // Hosts, groups, failover, the server's DUID.
        _ => Ok(None),
    }
}

/// The addresses in a declaration that cannot be read.
pub(super) fn about(text: &[u8]) -> Vec<IpNet> {
    let text = String::from_utf8_lossy(text);
    let mut about = Vec::new();
    let mut words = text.split(|c: char| c.is_whitespace() || "{};\"".contains(c)).filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if !matches!(word, "lease" | "iaaddr" | "iaprefix") {
            continue;
        }
        let Some(word) = words.next() else { break };
        let net = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
        about.extend(net.map(|net| net.trunc()).ok().filter(|net| !about.contains(net)));
    }
    about
}

/// A statement: its words, and what is between its braces.
struct Statement<'t> {
    words: &'t [Token],
    body: Option<&'t [Token]>,
}

impl Statement<'_> {
    fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).and_then(Token::word)
    }
}

fn statements(mut tokens: &[Token]) -> Result<Vec<Statement<'_>>, String> {
    let mut statements = Vec::new();
    while !tokens.is_empty() {
        let ends = |token: &Token| matches!(token, Token::Sign(b';' | b'{'));
        let end = tokens.iter().position(ends).ok_or("a statement has no end")?;
        let (words, rest) = tokens.split_at(end);
        if rest.first() == Some(&Token::Sign(b';')) {
            statements.push(Statement { words, body: None });
            tokens = rest.get(1..).unwrap_or_default();
            continue;
        }
        let mut depth = 0_usize;
        let close = rest.iter().position(|token| {
            match token {
                Token::Sign(b'{') => depth += 1,
                Token::Sign(b'}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        });
        let close = close.ok_or("a brace is not closed")?;
        statements.push(Statement { words, body: rest.get(1..close) });
        tokens = rest.get(close + 1..).unwrap_or_default();
    }
    Ok(statements)
}

fn lease(address: Ipv4Addr, statements: &[Statement<'_>]) -> Result<Lease, String> {
    let mut holder = Holder::default();
    let mut what = What::default();
    for statement in statements {
        match (statement.word(0), statement.words) {
            (Some("hardware"), [_, _, octets]) => holder.hardware = octets.octets(),
            (Some("uid"), [_, octets]) => holder.client_id = octets.octets(),
            (Some("client-hostname"), [_, Token::Text(name)]) => {
                holder.hostname = Some(String::from_utf8_lossy(name).into_owned());
            }
            (Some("option"), [_, Token::Word(name), octets]) => match name.as_str() {
                "agent.circuit-id" => holder.circuit_id = octets.octets(),
                "agent.remote-id" => holder.remote_id = octets.octets(),
                "agent.subscriber-id" => holder.subscriber_id = octets.octets(),
                _ => {}
            },
            _ => what.take(statement)?,
        }
    }
    let last = what.cltt.or(what.starts).ok_or("it says neither starts nor cltt")?;
    Ok(Lease { net: IpAddr::V4(address).into(), holder, last, state: what.state()? })
}

fn association(kind: &str, name: &[u8], statements: &[Statement<'_>]) -> Result<Record, String> {
    let (iaid, duid) = name.split_at_checked(4).ok_or("its name is shorter than an IAID")?;
    // Four octets in the server's own order: they tell associations apart.
    let iaid = <[u8; 4]>::try_from(iaid).map(u32::from_le_bytes).ok();
    let holder = Holder { duid: Some(duid.to_vec()), iaid, ..Holder::default() };
    let mut all = What::default();
    let mut leases = Vec::new();
    for statement in statements {
        let (Some(word @ ("iaaddr" | "iaprefix")), Some(body)) = (statement.word(0), statement.body) else {
            all.take(statement)?;
            continue;
        };
        let text = statement.word(1).unwrap_or_default();
        let net: Option<IpNet> =
            if word == "iaprefix" { text.parse().ok() } else { text.parse::<IpAddr>().ok().map(IpNet::from) };
        let net = net.filter(|net| *net == net.trunc() && matches!(net, IpNet::V6(_)));
        let net = net.ok_or_else(|| format!("{word} {text:?} is none"))?;
        let mut what = What::default();
        for statement in self::statements(body)? {
            what.take(&statement)?;
        }
        leases.push((net, what));
    }
    let last = all.cltt.ok_or("it does not say cltt")?;
    let lease = |(net, what): (IpNet, What)| Ok(Lease { net, holder: holder.clone(), last, state: what.state()? });
    let leases = leases.into_iter().map(lease).collect::<Result<_, String>>()?;
    Ok(Record::Association { key: [kind.as_bytes(), name].concat(), last, leases })
}

/// What statements say about time and state.
#[derive(Default)]
struct What {
    starts: Option<Timestamp>,
    cltt: Option<Timestamp>,
    ends: Option<Option<Timestamp>>,
    binding: Option<String>,
}

impl What {
    fn take(&mut self, statement: &Statement<'_>) -> Result<(), String> {
        let when = || date(statement.words.get(1..).unwrap_or_default());
        match (statement.word(0), statement.word(1), statement.word(2)) {
            (Some("starts"), ..) => self.starts = when()?,
            (Some("cltt"), ..) => self.cltt = when()?,
            (Some("ends"), ..) => self.ends = Some(when()?),
            (Some("binding"), Some("state"), Some(state)) => self.binding = Some(state.to_owned()),
            // Before version 3.
            (Some("abandoned"), None, None) => self.binding = Some("abandoned".to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn state(&self) -> Result<State, String> {
        match self.binding.as_deref() {
            None | Some("active" | "bootp") => {
                Ok(State::Held { until: self.ends.ok_or("it is active and does not say when it ends")? })
            }
            Some("free" | "expired" | "released" | "reset" | "backup") => Ok(State::Over { at: self.ends.flatten() }),
            Some("abandoned") => Ok(State::Declined),
            Some(other) => Err(format!("binding state {other} is not known")),
        }
    }
}

/// `4 2026/11/22 19:28:04`, `epoch 1795375684` or `never`.
fn date(words: &[Token]) -> Result<Option<Timestamp>, String> {
    let word = |at: usize| words.get(at).and_then(Token::word).unwrap_or_default();
    let shown = || format!("{} {} {} is no date", word(0), word(1), word(2));
    match (word(0), words.len()) {
        ("never", 1) => Ok(None),
        ("epoch", 2) => word(1).parse().map(Timestamp::from_secs).map(Some).map_err(|_| shown()),
        (_, 3) => civil(word(1), word(2)).map(Some).ok_or_else(shown),
        _ => Err(shown()),
    }
}

fn civil(day: &str, time: &str) -> Option<Timestamp> {
    let numbers = |text: &str, between: char| -> Option<[u64; 3]> {
        let parts: Option<Vec<u64>> = text.split(between).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(day, '/')?, numbers(time, ':')?);
    let right = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !right {
        return None;
    }
    // Years that begin in March have the leap day at their end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(Timestamp::from_secs(since_1970 * 86_400 + hour * 3600 + minute * 60 + second))
}
