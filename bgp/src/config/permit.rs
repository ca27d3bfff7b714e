//! What a private route is for: the list `flow` of the tables `private-routes`.

use std::ops::RangeInclusive;

use bgp_core::Permit;
use bgp_wire::{Actions, protocol_number};
use serde::Deserialize;

/// Packets that may go to the prefix.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPermit {
    protocol: RawProtocol,
    #[serde(default)]
    ports: Vec<RawPorts>,
    then: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a protocol is a name such as \"tcp\", or a number")]
enum RawProtocol {
    Number(u8),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "ports are a number, or a range such as \"8000-8010\"")]
enum RawPorts {
    One(u16),
    Range(String),
}

/// Holds the list to what can be; the error names the place in it.
pub(super) fn permits(raw: Vec<RawPermit>) -> Result<Vec<Permit>, (usize, &'static str, String)> {
    raw.into_iter().enumerate().map(|(at, raw)| raw.permit().map_err(|(field, why)| (at, field, why))).collect()
}

impl RawPermit {
    fn permit(self) -> Result<Permit, (&'static str, String)> {
        let protocol = match self.protocol {
            RawProtocol::Number(number) => number,
            RawProtocol::Name(name) => protocol_number(&name).ok_or_else(|| {
                ("protocol", format!("{name:?} is not known: write tcp, udp, icmp, icmpv6, sctp, or its number"))
            })?,
        };
        let ports = self.ports.iter().map(RawPorts::range).collect::<Result<_, _>>().map_err(|why| ("ports", why))?;
        let actions: Result<Actions, _> = self.then.as_deref().unwrap_or("accept").parse();
        Ok(Permit { protocol, ports, actions: actions.map_err(|error| ("then", error.to_string()))? })
    }
}

impl RawPorts {
    fn range(&self) -> Result<RangeInclusive<u16>, String> {
        match self {
            Self::One(port) => Ok(*port..=*port),
            Self::Range(text) => {
                let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                let (low, high) = ends.ok_or_else(|| format!("{text:?} is no range: write it as \"8000-8010\""))?;
                Ok(low..=high)
            }
        }
    }
}
