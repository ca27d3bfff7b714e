//! ExaBGP's text API: lines as its scripts write them, one change each.
//!
//! ```text
//! announce route 10.0.0.0/24 next-hop 192.0.2.1 community [64500:1 no-export] med 5
//! withdraw route 10.0.0.0/24
//! announce attributes next-hop 192.0.2.1 nlri 10.0.0.0/24 10.0.1.0/24
//! ```
//! What is not understood is an error: a route that goes out without what the script asked for would be worse.

use bgp_core::RouteAttributes;
use bgp_wire::{Asn, Community, Origin};
use ipnet::IpNet;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Announce(RouteAttributes, Vec<IpNet>),
    Withdraw(Vec<IpNet>),
    /// The whole speaker is to stop.
    Shutdown,
    /// Empty, or a comment.
    Nothing,
}

/// Reads a line.
///
/// # Errors
/// Names the word that is not understood.
pub(super) fn parse(line: &str) -> Result<Command, String> {
    let spaced = line.replace('[', " [ ").replace(']', " ] ").replace(',', " ");
    let mut words = spaced.split_whitespace().peekable();
    let announce = match words.next() {
        None => return Ok(Command::Nothing),
        Some(word) if word.starts_with('#') => return Ok(Command::Nothing),
        Some("shutdown") => return Ok(Command::Shutdown),
        Some("announce") => true,
        Some("withdraw") => false,
        Some("neighbor") => return Err("neighbor: routes are for all peers here: leave it out".to_owned()),
        Some(other) => return Err(format!("{other}: not understood: announce, withdraw or shutdown")),
    };
    let mut prefixes = Vec::new();
    let bulk = match words.next() {
        Some("route") => {
            prefixes.push(prefix(words.next())?);
            false
        }
        Some("attributes") => true,
        other => return Err(format!("{}: route or attributes", other.unwrap_or("the end of the line"))),
    };
    let mut next_hop = None;
    let mut route = RouteAttributes::new(std::net::Ipv4Addr::UNSPECIFIED.into());
    while let Some(word) = words.next() {
        if word == "nlri" && bulk {
            prefixes = words.by_ref().map(|word| prefix(Some(word))).collect::<Result<_, _>>()?;
            break;
        }
        let values = values(&mut words).ok_or_else(|| format!("{word}: its list has no end"))?;
        let one = || match values.as_slice() {
            [one] => Ok(*one),
            _ => Err(format!("{word}: one value")),
        };
        let number = || one()?.parse::<u32>().map_err(|_| format!("{word}: a number"));
        match word {
            "next-hop" => next_hop = Some(one()?.parse().map_err(|_| format!("{word}: an address"))?),
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
                route.as_path = path.collect::<Result<_, _>>().map_err(|_| "as-path: AS numbers".to_owned())?;
            }
            "community" => {
                let communities =
                    values.iter().map(|text| text.parse::<Community>().map_err(|error| error.to_string()));
                route.communities = communities.collect::<Result<_, _>>()?;
            }
            other => return Err(format!("{other}: not understood")),
        }
    }
    if prefixes.is_empty() {
        return Err("no prefix: nlri and at least one".to_owned());
    }
    match (announce, next_hop) {
        (false, _) => Ok(Command::Withdraw(prefixes)),
        (true, Some(next_hop)) => Ok(Command::Announce(RouteAttributes { next_hop, ..route }, prefixes)),
        (true, None) => Err("next-hop is missing".to_owned()),
    }
}

/// A prefix; an address alone is one host, as ExaBGP has it.
fn prefix(word: Option<&str>) -> Result<IpNet, String> {
    let word = word.ok_or("a prefix is missing")?;
    let host = || word.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    word.parse().ok().or_else(host).ok_or_else(|| format!("{word}: no prefix"))
}

/// The value behind a word, or the values in brackets.
fn values<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Option<Vec<&'a str>> {
    if words.next_if_eq(&"[").is_none() {
        return Some(words.next().into_iter().collect());
    }
    let mut values = Vec::new();
    loop {
        match words.next()? {
            "]" => return Some(values),
            value => values.push(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_scripts_write_is_understood() {
        let route = RouteAttributes::new("192.0.2.1".parse().unwrap());
        assert_eq!(
            parse("announce route 10.0.0.0/24 next-hop 192.0.2.1"),
            Ok(Command::Announce(route.clone(), nets(&["10.0.0.0/24"])))
        );
        let full = RouteAttributes {
            origin: Origin::Incomplete,
            as_path: vec![Asn(64501), Asn(4_200_000_000)],
            med: Some(5),
            local_pref: Some(200),
            communities: vec![Community(64500 << 16 | 1), Community::NO_EXPORT],
            ..route.clone()
        };
        let text = "announce route 10.0.0.1 next-hop 192.0.2.1 origin INCOMPLETE as-path [ 64501 4200000000 ] med 5 local-preference 200 community [64500:1, no-export]";
        assert_eq!(parse(text), Ok(Command::Announce(full, nets(&["10.0.0.1/32"]))));
        assert_eq!(
            parse("announce attributes next-hop 192.0.2.1 nlri 10.0.0.0/24 10.0.1.0/24"),
            Ok(Command::Announce(route, nets(&["10.0.0.0/24", "10.0.1.0/24"])))
        );
        for line in [
            "withdraw route 10.0.0.0/24",
            "withdraw route 10.0.0.0/24 next-hop 192.0.2.1",
            "withdraw attributes nlri 10.0.0.0/24",
        ] {
            assert_eq!(parse(line), Ok(Command::Withdraw(nets(&["10.0.0.0/24"]))), "{line}");
        }
        assert_eq!(parse("shutdown"), Ok(Command::Shutdown));
        assert_eq!(parse("  # nothing"), Ok(Command::Nothing));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("announce route 10.0.0.0/24", "next-hop is missing"),
            ("announce route 10.0.0.0/24 next-hop self", "next-hop: an address"),
            ("announce route x next-hop 192.0.2.1", "x: no prefix"),
            ("announce route 10.0.0.0/24 next-hop 192.0.2.1 label 5", "label: not understood"),
            ("announce route 10.0.0.0/24 next-hop 192.0.2.1 community [1:2", "no end"),
            ("announce route 10.0.0.0/24 next-hop 192.0.2.1 community bad", "community \"bad\""),
            ("announce attributes next-hop 192.0.2.1 nlri", "no prefix"),
            ("neighbor 192.0.2.1 announce route 10.0.0.0/24 next-hop 192.0.2.1", "for all peers"),
            ("announce eor", "route or attributes"),
            ("hello", "not understood"),
        ] {
            assert!(parse(line).unwrap_err().contains(named), "{line}: {:?}", parse(line));
        }
    }
}
