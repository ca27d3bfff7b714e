//! ExaBGP's text API: lines as its scripts write them.
//!
//! ```text
//! announce route 10.0.0.0/24 next-hop 192.0.2.1 community [64500:1 no-export] med 5
//! neighbor 192.0.2.9, neighbor 192.0.2.10 withdraw route 10.0.0.0/24
//! announce attributes next-hop self nlri 10.0.0.0/24 10.0.1.0/24
//! ```
//! What is not understood is an error: a route that goes out without what the script asked for would be worse.

mod flow;

use std::iter::Peekable;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bgp_core::{FlowRoute, NextHop, RouteAttributes};
use bgp_wire::{Asn, Community, FlowRule, Origin};
use ipnet::IpNet;

/// The most routes that `split` may make of one.
const MAX_SPLIT: usize = 1 << 20;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Announce(Announcement),
    Withdraw(Selector, Vec<IpNet>),
    AnnounceFlow(Selector, FlowRule, FlowRoute),
    WithdrawFlow(Selector, FlowRule),
    /// The routes with this watchdog, or with the one of the program's own name, are told, or taken back.
    Watchdog(Option<String>, bool),
    /// Everything is told once more.
    Flush,
    /// The program's routes go.
    Clear,
    /// The sessions, a line each.
    Neighbours,
    /// What can be asked of the sessions.
    HowToAsk,
    /// The routes, for those peers alone whose address is given.
    Routes {
        extensive: bool,
        of: Option<IpAddr>,
    },
    Version,
    Help,
    /// The whole speaker is to stop.
    Shutdown,
    /// A comment.
    Comment,
    /// Nothing at all.
    Nothing,
}

/// Routes that are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) to: Selector,
    pub(super) route: RouteAttributes,
    pub(super) prefixes: Vec<IpNet>,
    pub(super) watchdog: Option<String>,
    /// Not before its watchdog says so.
    pub(super) held: bool,
}

/// Which peers a line is for: those that fit one of the descriptions; all, when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Selector(Vec<Vec<Condition>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Any,
    Address(IpAddr),
    LocalAddress(IpAddr),
    LocalAs(u32),
    RemoteAs(u32),
    RouterId(Ipv4Addr),
}

/// A peer as scripts tell it from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) address: IpAddr,
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) local_as: u32,
    pub(crate) remote_as: u32,
    pub(crate) router_id: Ipv4Addr,
}

impl Selector {
    /// Whether it takes all peers, those included that are not known yet.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(|conditions| conditions.iter().all(|one| *one == Condition::Any))
    }

    pub(super) fn takes(&self, peer: &Neighbour) -> bool {
        let fits = |condition: &Condition| match *condition {
            Condition::Any => true,
            Condition::Address(address) => peer.address == address,
            Condition::LocalAddress(address) => peer.local_address == Some(address),
            Condition::LocalAs(asn) => peer.local_as == asn,
            Condition::RemoteAs(asn) => peer.remote_as == asn,
            Condition::RouterId(id) => peer.router_id == id,
        };
        self.0.is_empty() || self.0.iter().any(|conditions| conditions.iter().all(fits))
    }
}

/// What `help` answers.
pub(super) const HELP: &[&str] = &[
    "",
    "available API commands are listed here:",
    "=======================================",
    "",
    "filter can be: [local-ip <ip>][local-as <asn>][peer-as <asn>][router-id <router-id>]",
    "",
    "[neighbor <ip> [filters]] announce attributes",
    "[neighbor <ip> [filters]] announce flow",
    "[neighbor <ip> [filters]] announce ipv4 unicast",
    "[neighbor <ip> [filters]] announce ipv6 unicast",
    "[neighbor <ip> [filters]] announce route",
    "announce watchdog",
    "clear adj-rib out",
    "flush adj-rib out",
    "help",
    "show adj-rib out [ extensive ]",
    "show neighbor [ summary ]",
    "shutdown",
    "version",
    "[neighbor <ip> [filters]] withdraw attributes",
    "[neighbor <ip> [filters]] withdraw flow",
    "[neighbor <ip> [filters]] withdraw ipv4 unicast",
    "[neighbor <ip> [filters]] withdraw ipv6 unicast",
    "[neighbor <ip> [filters]] withdraw route",
    "withdraw watchdog",
    "",
];

/// Reads a line.
///
/// # Errors
/// Names the word that is not understood.
pub(super) fn parse(line: &str) -> Result<Command, String> {
    // An end of a line inside of a command.
    let line = line.replace("\\n", " ").replace("\\t", " ");
    let mut words = words(&line)?;
    // ExaBGP puts it there itself.
    words.pop_if(|last| last == ";");
    let mut words = words.iter().map(String::as_str).peekable();
    let to = selector(&mut words)?;
    match words.next() {
        None if to == Selector::default() => Ok(Command::Nothing),
        None => Err("a command is missing behind the neighbor".to_owned()),
        Some(word) if word.starts_with('#') => Ok(Command::Comment),
        Some("announce") => announce(to, &mut words),
        Some("withdraw") => withdraw(to, &mut words),
        Some("flush") => match (words.next(), words.next()) {
            (Some("route" | "routes"), None) | (Some("adj-rib"), Some("out")) => Ok(Command::Flush),
            _ => Err("flush: adj-rib out, or route".to_owned()),
        },
        Some("clear") => match (words.next(), words.next()) {
            (Some("route" | "routes"), None) | (Some("adj-rib"), Some("out") | None) => Ok(Command::Clear),
            _ => Err("clear: adj-rib out; nothing of what is received belongs to a script".to_owned()),
        },
        Some("show") => show(words.collect()),
        Some("version") => Ok(Command::Version),
        Some("help") => Ok(Command::Help),
        Some("shutdown") => Ok(Command::Shutdown),
        Some(word @ ("teardown" | "reload" | "restart" | "reset" | "crash")) => {
            Err(format!("{word}: not for a script here: the operator does that"))
        }
        Some(other) => Err(format!("{other}: not understood: see help")),
    }
}

/// Words; brackets, parentheses and commas are words of their own, quotes keep one together.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '[' | ']' | '(' | ')' | ',' | '{' | '}' | ';') => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote has no end".to_owned()) } else { Ok(words) }
}

/// `neighbor 192.0.2.1 local-as 64500, neighbor 192.0.2.2`, up to the command.
fn selector<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<Selector, String> {
    let mut descriptions: Vec<Vec<Condition>> = Vec::new();
    loop {
        let word = match words.peek().copied() {
            Some(word @ ("neighbor" | "local-ip" | "local-as" | "peer-as" | "router-id" | "family-allowed")) => word,
            Some("," | "[" | "]") if !descriptions.is_empty() => {
                words.next();
                continue;
            }
            // `neighbor 192.0.2.1, 192.0.2.2`
            Some(word) if !descriptions.is_empty() && word.parse::<IpAddr>().is_ok() => "neighbor",
            _ => return Ok(Selector(descriptions)),
        };
        if words.peek() == Some(&word) {
            words.next();
        }
        if word == "neighbor" && words.peek() == Some(&"[") {
            words.next();
        }
        let value = words.next().ok_or_else(|| format!("{word}: its value is missing"))?;
        let condition = match word {
            "neighbor" if value == "*" => Condition::Any,
            "neighbor" => Condition::Address(read(word, value, "an address, or *")?),
            "local-ip" => Condition::LocalAddress(read(word, value, "an address")?),
            "local-as" => Condition::LocalAs(read(word, value, "a number")?),
            "peer-as" => Condition::RemoteAs(read(word, value, "a number")?),
            "router-id" => Condition::RouterId(read(word, value, "an IPv4 address")?),
            _ => return Err(format!("{word}: not understood: one session carries all families")),
        };
        match descriptions.last_mut() {
            Some(conditions) if word != "neighbor" => conditions.push(condition),
            None if word != "neighbor" => return Err(format!("{word}: neighbor goes before it")),
            _ => descriptions.push(vec![condition]),
        }
    }
}

fn read<T: FromStr>(word: &str, value: &str, what: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{word}: {value:?} is not {what}"))
}

fn show(words: Vec<&str>) -> Result<Command, String> {
    let extensive = words.last() == Some(&"extensive");
    let of = words.iter().find_map(|word| word.parse().ok());
    match words.as_slice() {
        ["neighbor", rest @ ..] if rest.contains(&"summary") || rest.contains(&"extensive") => Ok(Command::Neighbours),
        ["neighbor"] => Ok(Command::HowToAsk),
        ["adj-rib", "out", ..] | ["adj-rib-out", ..] | ["routes", ..] => Ok(Command::Routes { extensive, of }),
        _ => Err("show: neighbor summary, or adj-rib out".to_owned()),
    }
}

fn announce<'a>(to: Selector, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<Command, String> {
    if words.next_if_eq(&"watchdog").is_some() {
        return Ok(Command::Watchdog(words.next().map(str::to_owned), true));
    }
    if words.next_if_eq(&"flow").is_some() {
        return flow::parse(words).map(|(rule, route)| Command::AnnounceFlow(to, rule, route));
    }
    let Body { route, next_hop, prefixes, watchdog, held } = body(words)?;
    let next_hop = next_hop.ok_or("next-hop is missing")?;
    let route = RouteAttributes { next_hop, ..route };
    Ok(Command::Announce(Announcement { to, route, prefixes, watchdog, held }))
}

fn withdraw<'a>(to: Selector, words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<Command, String> {
    if words.next_if_eq(&"watchdog").is_some() {
        return Ok(Command::Watchdog(words.next().map(str::to_owned), false));
    }
    if words.next_if_eq(&"flow").is_some() {
        return flow::parse(words).map(|(rule, _)| Command::WithdrawFlow(to, rule));
    }
    body(words).map(|body| Command::Withdraw(to, body.prefixes))
}

/// What stands behind `announce` or `withdraw`.
struct Body {
    route: RouteAttributes,
    next_hop: Option<NextHop>,
    prefixes: Vec<IpNet>,
    watchdog: Option<String>,
    held: bool,
}

fn body<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<Body, String> {
    let route = RouteAttributes::new(NextHop::Own);
    let mut body = Body { route, next_hop: None, prefixes: Vec::new(), watchdog: None, held: false };
    let bulk = match words.next() {
        Some("route") => false,
        Some("attribute" | "attributes") => true,
        Some(family @ ("ipv4" | "ipv6")) => {
            let unicast = words.next_if_eq(&"unicast");
            unicast.ok_or_else(|| format!("{family}: only unicast is known"))?;
            let fits = words.peek().is_none_or(|word| word.contains(':') == (family == "ipv6"));
            if !fits {
                return Err(format!("{}: not {family}", words.next().unwrap_or_default()));
            }
            false
        }
        Some(word @ ("eor" | "route-refresh" | "operational" | "vpls")) => {
            return Err(format!("{word}: not for a script here: sessions see to it, or it is not offered"));
        }
        other => return Err(format!("{}: route, attributes or watchdog", other.unwrap_or("the end of the line"))),
    };
    if !bulk {
        body.prefixes.push(prefix(words.next())?);
    }
    while let Some(word) = words.next() {
        if word == "nlri" && bulk {
            body.prefixes =
                words.by_ref().filter(|word| *word != ",").map(|word| prefix(Some(word))).collect::<Result<_, _>>()?;
            break;
        }
        match word {
            // What says nothing here, or nothing to peers.
            "withdraw" => body.held = true,
            "name" => drop(words.next()),
            _ => attribute(word, &mut body, words)?,
        }
    }
    if body.prefixes.is_empty() {
        return Err("no prefix: nlri and at least one".to_owned());
    }
    Ok(body)
}

fn attribute<'a>(
    word: &str,
    body: &mut Body,
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
) -> Result<(), String> {
    let values = values(words).ok_or_else(|| format!("{word}: its list has no end"))?;
    let one = || match values.as_slice() {
        [one] => Ok(*one),
        _ => Err(format!("{word}: one value")),
    };
    let number = || one()?.parse::<u32>().map_err(|_| format!("{word}: a number"));
    let route = &mut body.route;
    match word {
        "next-hop" => {
            body.next_hop = Some(match one()? {
                own if own.eq_ignore_ascii_case("self") => NextHop::Own,
                address => NextHop::Address(read(word, address, "an address, or self")?),
            });
        }
        "med" => route.med = Some(number()?),
        "local-preference" => route.local_pref = Some(number()?),
        "origin" => {
            route.origin = match one()?.to_ascii_lowercase().as_str() {
                "igp" => Origin::Igp,
                "egp" => Origin::Egp,
                "incomplete" => Origin::Incomplete,
                other => return Err(format!("origin {other}: igp, egp or incomplete")),
            }
        }
        "as-path" => {
            let path = values.iter().map(|asn| asn.parse().map(Asn));
            let path = path.collect::<Result<_, _>>();
            route.as_path = path.map_err(|_| "as-path: AS numbers; sets are not offered (RFC 9774)".to_owned())?;
        }
        "community" => route.communities = values.iter().map(|text| community(text)).collect::<Result<_, _>>()?,
        "extended-community" => route.extended_communities = all(&values)?,
        "large-community" => route.large_communities = all(&values)?,
        "split" => {
            let bits = one()?.strip_prefix('/').and_then(|bits| bits.parse().ok());
            body.prefixes = split(&body.prefixes, bits.ok_or("split: a length, such as /24")?)?;
        }
        "watchdog" => body.watchdog = Some(one()?.to_owned()),
        other => return Err(format!("{other}: not understood")),
    }
    Ok(())
}

fn all<T: FromStr<Err: ToString>>(values: &[&str]) -> Result<Vec<T>, String> {
    values.iter().map(|text| text.parse().map_err(|error: T::Err| error.to_string())).collect()
}

/// As everywhere here, and as ExaBGP has them beside: names in any case, `nopeer`, and a number for the whole.
fn community(text: &str) -> Result<Community, String> {
    let lower = text.to_ascii_lowercase();
    let number = match lower.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => lower.parse().ok(),
    };
    match (number, lower.as_str()) {
        (Some(number), _) => Ok(Community(number)),
        (None, "nopeer") => Ok(Community::NO_PEER),
        (None, lower) => lower.parse().map_err(|_| format!("community {text:?} is not understood")),
    }
}

/// Each prefix cut up into those of `bits`; left alone when it is not longer.
fn split(prefixes: &[IpNet], bits: u8) -> Result<Vec<IpNet>, String> {
    let mut cut = Vec::new();
    for prefix in prefixes {
        if bits <= prefix.prefix_len() {
            cut.push(*prefix);
            continue;
        }
        let subnets = prefix.subnets(bits).map_err(|_| format!("split: {prefix} has no parts of /{bits}"))?;
        let room = MAX_SPLIT - cut.len();
        cut.extend(subnets.take(room + 1));
        if cut.len() > MAX_SPLIT {
            return Err(format!("split: more than {MAX_SPLIT} routes"));
        }
    }
    Ok(cut)
}

/// A prefix; an address alone is one host, as ExaBGP has it.
fn prefix(word: Option<&str>) -> Result<IpNet, String> {
    let word = word.ok_or("a prefix is missing")?;
    let host = || word.parse::<IpAddr>().ok().map(IpNet::from);
    word.parse().ok().or_else(host).ok_or_else(|| format!("{word}: no prefix"))
}

/// The value behind a word, or the values in brackets.
fn values<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<Vec<&'a str>> {
    if words.next_if(|word| *word == "[").is_none() {
        return Some(words.next().into_iter().collect());
    }
    let mut values = Vec::new();
    loop {
        match words.next()? {
            "]" => return Some(values),
            "," => {}
            value => values.push(value),
        }
    }
}

#[cfg(test)]
mod tests;
