//! Requests as JSON, and prefixes as lines.

use std::net::{IpAddr, Ipv4Addr};

use bgp_core::{Group, Guard, Others, Prefixes, RouteAttributes, SetChange};
use bgp_wire::{Asn, Community, Origin};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// One request; exactly one of the verbs is given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Request {
    pub(crate) id: Option<String>,
    pub(crate) put: Option<Routes>,
    pub(crate) patch: Option<Routes>,
    pub(crate) delete: Option<Named>,
    pub(crate) stream: Option<Stream>,
    pub(crate) wait: Option<Wait>,
    pub(crate) get: Option<Named>,
    pub(crate) look_up: Option<LookUp>,
    pub(crate) sets: Option<All>,
}

/// Routes of a set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Routes {
    set: String,
    #[serde(default)]
    routes: Vec<RawGroup>,
    #[serde(default)]
    remove: Vec<IpNet>,
}

/// A set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) set: String,
}

/// A change whose prefixes follow, a line each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Stream {
    set: String,
    /// The lines are the whole set.
    #[serde(default)]
    replace: bool,
}

/// Wait until the peers have what was accepted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Wait {
    /// A request that must have been accepted.
    pub(crate) request: Option<String>,
    /// A prefix that must be announced.
    pub(crate) prefix: Option<IpNet>,
    #[serde(default = "ten_seconds")]
    pub(crate) timeout_ms: u64,
}

const fn ten_seconds() -> u64 {
    10_000
}

/// Why is a prefix announced, or not?
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookUp {
    pub(crate) prefix: IpNet,
}

/// No more to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct All {}

/// Attributes, and the prefixes that share them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawGroup {
    next_hop: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<RawOrigin>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    as_path: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local_preference: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<RawGuard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) prefixes: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawOrigin {
    Igp,
    Egp,
    Incomplete,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    NoExport,
    NoAdvertise,
}

impl RawGroup {
    pub(crate) fn attributes(&self) -> Result<RouteAttributes, String> {
        let communities = self.communities.iter().map(|text| text.parse::<Community>().map_err(|e| e.to_string()));
        Ok(RouteAttributes {
            next_hop: self.next_hop,
            origin: match self.origin {
                None | Some(RawOrigin::Igp) => Origin::Igp,
                Some(RawOrigin::Egp) => Origin::Egp,
                Some(RawOrigin::Incomplete) => Origin::Incomplete,
            },
            as_path: self.as_path.iter().copied().map(Asn).collect(),
            med: self.med,
            local_pref: self.local_preference,
            communities: communities.collect::<Result<_, _>>()?,
            guard: self.guard.map(|guard| match guard {
                RawGuard::NoExport => Guard::NoExport,
                RawGuard::NoAdvertise => Guard::NoAdvertise,
            }),
        })
    }

    /// As it is shown.
    pub(crate) fn new(route: &RouteAttributes, prefixes: Vec<IpNet>) -> Self {
        Self {
            next_hop: route.next_hop,
            origin: match route.origin {
                Origin::Igp => None,
                Origin::Egp => Some(RawOrigin::Egp),
                Origin::Incomplete => Some(RawOrigin::Incomplete),
            },
            as_path: route.as_path.iter().map(|asn| asn.0).collect(),
            med: route.med,
            local_preference: route.local_pref,
            communities: route.communities.iter().map(ToString::to_string).collect(),
            guard: route.guard.map(|guard| match guard {
                Guard::NoExport => RawGuard::NoExport,
                Guard::NoAdvertise => RawGuard::NoAdvertise,
            }),
            prefixes,
        }
    }
}

impl Routes {
    pub(crate) fn change(self, others: Others) -> Result<SetChange, String> {
        let mut add = Vec::new();
        for (at, raw) in self.routes.into_iter().enumerate() {
            let attributes = raw.attributes().map_err(|error| format!("routes[{at}]: {error}"))?;
            add.push(Group { attributes, prefixes: raw.prefixes.into_iter().collect() });
        }
        Ok(SetChange { set: self.set, others, remove: self.remove.into_iter().collect(), add })
    }
}

impl Named {
    /// A change that leaves nothing of the set.
    pub(crate) fn removal(self) -> SetChange {
        SetChange { set: self.set, others: Others::Go, remove: Prefixes::default(), add: Vec::new() }
    }
}

/// A change that comes in lines: attributes as JSON, prefixes that share the last of them, and `-prefix` for what goes.
#[derive(Debug)]
pub(crate) struct Lines {
    change: SetChange,
    limit: usize,
    count: usize,
}

impl Lines {
    pub(crate) fn new(stream: Stream, limit: usize) -> Self {
        let others = if stream.replace { Others::Go } else { Others::Stay };
        let change = SetChange { set: stream.set, others, remove: Prefixes::default(), add: Vec::new() };
        Self { change, limit, count: 0 }
    }

    /// Takes a line; errors name its number.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), String> {
        self.count += 1;
        self.take(line).map_err(|error| format!("line {}: {error}", self.count))
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        if line.first() == Some(&b'{') {
            let raw: RawGroup = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            if !raw.prefixes.is_empty() {
                return Err("prefixes come in lines of their own".to_owned());
            }
            self.change.add.push(Group { attributes: raw.attributes()?, prefixes: Prefixes::default() });
            return Ok(());
        }
        if self.change.remove.len() + self.count > self.limit.saturating_mul(2) {
            return Err(format!("more lines than twice inject.max-routes, {}", self.limit));
        }
        if let Some(prefix) = line.strip_prefix(b"-") {
            self.change.remove.push(parse(prefix)?);
            return Ok(());
        }
        let prefix = parse(line)?;
        let group = self.change.add.last_mut();
        group
            .ok_or("a prefix before any attributes: give a line such as {\"next-hop\":\"192.0.2.1\"}")?
            .prefixes
            .push(prefix);
        Ok(())
    }

    pub(crate) fn change(mut self) -> SetChange {
        for group in &mut self.change.add {
            group.prefixes.v4.shrink_to_fit();
            group.prefixes.v6.shrink_to_fit();
        }
        self.change
    }
}

/// A prefix as text.
fn parse(text: &[u8]) -> Result<IpNet, String> {
    if let Some(prefix) = parse_v4(text) {
        return Ok(prefix);
    }
    let text = String::from_utf8_lossy(text);
    let parsed = text.parse().map(IpNet::V6);
    parsed.map_err(|_| format!("{text:?} is no prefix: write it as 192.0.2.0/24 or 2001:db8::/32"))
}

fn parse_v4(text: &[u8]) -> Option<IpNet> {
    let (mut numbers, mut at, mut digits) = ([0_u32; 5], 0, 0);
    for byte in text {
        match byte {
            b'0'..=b'9' => {
                let number = numbers.get_mut(at)?;
                // As everywhere, 010 is refused rather than guessed at.
                if digits == 3 || (digits > 0 && *number == 0) {
                    return None;
                }
                *number = *number * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' | b'/' if digits > 0 && (*byte == b'/') == (at == 3) => (at, digits) = (at + 1, 0),
            _ => return None,
        }
    }
    let [a, b, c, d, bits] = numbers;
    if at != 4 || digits == 0 {
        return None;
    }
    let octet = |number: u32| u8::try_from(number).ok();
    let address = Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?);
    Ipv4Net::new(address, octet(bits)?).ok().map(IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_the_library_reads_them() {
        let lines = ["10.0.0.0/8", "255.255.255.255/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "203.0.113.200/32"];
        for text in lines {
            assert_eq!(parse(text.as_bytes()), Ok(text.parse().unwrap()), "{text}");
        }
        let wrong =
            ["", "10.0.0.0", "10.0.0/8", "10.0.0.0.0/8", "256.0.0.0/8", "10.0.0.0/33", "10.0.0.0/", "010.0.0.0/8", "x"];
        for text in wrong {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_carries_attributes_prefixes_and_removals() {
        let stream = Stream { set: "s".to_owned(), replace: false };
        let mut lines = Lines::new(stream, 10);
        assert!(lines.line(b"10.0.0.0/8").unwrap_err().contains("line 1: a prefix before any attributes"));
        for line in [
            "{\"next-hop\":\"192.0.2.1\"}",
            "10.0.0.0/24",
            "-10.9.0.0/24",
            "{\"next-hop\":\"2001:db8::1\",\"med\":5}",
            "2001:db8:1::/48",
        ] {
            lines.line(line.as_bytes()).unwrap();
        }
        let change = lines.change();
        assert_eq!(change.add.len(), 2);
        assert_eq!((change.adds(), change.remove.len()), (2, 1));
        assert_eq!(change.add[1].attributes.med, Some(5));
    }
}
