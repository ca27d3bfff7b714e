//! Flow rules in ExaBGP's words.
//!
//! ```text
//! announce flow route { match { destination 10.0.0.0/24; protocol udp; source-port =123; } then { discard; } }
//! withdraw flow route destination 10.0.0.0/24 protocol udp source-port =123
//! ```
//! Scripts write a line's end inside a command as `\n`.

use std::iter::Peekable;

use bgp_core::FlowRoute;
use bgp_wire::{Action, Actions, FlowRule};
use ipnet::IpNet;

/// A rule, and what becomes of its packets.
pub(super) fn parse<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<(FlowRule, FlowRoute), String> {
    if words.next() != Some("route") {
        return Err("flow: route goes behind it".to_owned());
    }
    let mut words = words.filter(|word| !matches!(*word, "{" | "}" | ";" | "match" | "then" | "\\n")).peekable();
    let (mut rule, mut actions, mut communities) = (Vec::new(), Vec::<Action>::new(), Vec::new());
    let mut named = false;
    while let Some(word) = words.next() {
        let one = |words: &mut Peekable<_>| one(word, words);
        match word {
            "source" | "source-ipv4" | "source-ipv6" => rule.push(format!("source {}", pattern(one(&mut words)?)?)),
            "destination" | "destination-ipv4" | "destination-ipv6" => {
                rule.push(format!("destination {}", pattern(one(&mut words)?)?));
            }
            "protocol" | "next-header" => rule.push(values("protocol", word, &mut words)?),
            "dscp" | "traffic-class" => rule.push(values("dscp", word, &mut words)?),
            "port" | "source-port" | "destination-port" | "icmp-type" | "icmp-code" | "tcp-flags" | "packet-length"
            | "fragment" | "flow-label" => rule.push(values(word, word, &mut words)?),
            "accept" => {}
            "discard" => actions.extend_from_slice(Actions::discard().as_slice()),
            "rate-limit" => actions.push(action(word, &format!("rate-bytes {}", one(&mut words)?))?),
            "redirect" => {
                let target = one(&mut words)?;
                let known = target.contains(':') && target.parse::<std::net::Ipv6Addr>().is_err();
                if !known {
                    return Err(format!("redirect {target}: to a VRF by its route target alone, as 64500:1"));
                }
                actions.push(action(word, &format!("redirect {target}"))?);
            }
            "mark" => actions.push(action(word, &format!("mark {}", one(&mut words)?))?),
            "action" => match one(&mut words)? {
                "sample" => actions.push(action(word, "sample")?),
                "terminal" => actions.push(action(word, "continue")?),
                "sample-terminal" => actions.push(Action::Traffic { further: true, sample: true }),
                other => return Err(format!("action {other}: sample, terminal or sample-terminal")),
            },
            "community" => {
                for text in list(word, &mut words)? {
                    communities.push(super::community(text)?);
                }
            }
            // A name, which says nothing to peers.
            _ if !named && rule.is_empty() && actions.is_empty() => named = true,
            other => return Err(format!("flow: {other}: not understood")),
        }
    }
    if rule.is_empty() {
        return Err("flow: nothing to match".to_owned());
    }
    let rule: FlowRule = rule.join(" ").parse().map_err(|error: bgp_wire::FlowTextError| error.to_string())?;
    Ok((rule, FlowRoute { communities, ..FlowRoute::new(actions.into_iter().collect()) }))
}

fn one<'a>(word: &str, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<&'a str, String> {
    words.next().ok_or_else(|| format!("{word}: its value is missing"))
}

fn action(word: &str, text: &str) -> Result<Action, String> {
    text.parse().map_err(|error: bgp_wire::ActionTextError| format!("{word}: {error}"))
}

/// `[ a b ]`, or one word.
fn list<'a>(word: &str, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<Vec<&'a str>, String> {
    if words.next_if_eq(&"[").is_none() {
        return one(word, words).map(|one| vec![one]);
    }
    let mut list = Vec::new();
    loop {
        match words.next() {
            Some("]") => return Ok(list),
            Some(word) => list.push(word),
            None => return Err(format!("{word}: its list has no end")),
        }
    }
}

/// As our own rules have them, whose operators are the same.
fn values<'a>(name: &str, word: &str, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<String, String> {
    let list = list(word, words)?;
    let value =
        |value: &&str| value.to_ascii_lowercase().replace("not-a-fragment", "!is-fragment").replace("urgent", "urg");
    Ok(format!("{name} {}", list.iter().map(value).collect::<Vec<_>>().join(" ")))
}

/// A prefix; for IPv6 ExaBGP writes what it begins behind as a third number.
fn pattern(text: &str) -> Result<String, String> {
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(address), Some(bits), Some(offset), None) if offset != "0" => Ok(format!("{address}/{offset}-{bits}")),
        (Some(address), Some(bits), _, None) => {
            let prefix: Result<IpNet, _> = format!("{address}/{bits}").parse();
            prefix.map(|prefix| prefix.trunc().to_string()).map_err(|_| format!("{text:?} is no prefix"))
        }
        _ => Err(format!("{text:?} is no prefix: write it with its length")),
    }
}
