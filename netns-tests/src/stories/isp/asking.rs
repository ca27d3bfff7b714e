//! Asking the toolbox: yes or no by HTTPS, as a caller from the Internet, and who by its own command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cloakway_runtime::admin::{self, Request};
use cloakway_runtime::http::Client;
use cloakway_runtime::tls;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use super::BOUND;
use super::people::Person;
use crate::command::eventually;
use crate::stories::world::World;

const LIMIT: Duration = Duration::from_secs(30);

/// What the toolbox says of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Bound { subscriber: String, inside: Option<IpAddr> },
    Unknown(String),
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

/// Who is, or was, at a place.
pub(super) fn whois(world: &World<'_>, place: SocketAddr, at: Option<&str>) -> Result<Said> {
    let mut arguments = BTreeMap::from([("address".to_owned(), place.to_string())]);
    arguments.extend(at.map(|at| ("at".to_owned(), at.to_owned())));
    ask(world, arguments)
}

fn ask(world: &World<'_>, arguments: BTreeMap<String, String>) -> Result<Said> {
    let socket = world.lab.run_directory().join("toolbox/admin.sock");
    let request = Request { topic: "whois".to_owned(), arguments };
    let said = block_on(admin::ask_for(&socket, &request))?.map_err(|error| anyhow!("{error}"))?;
    let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
    match text("answer").as_deref() {
        Some("bound") => Ok(Said::Bound {
            subscriber: text("subscriber").context("no subscriber")?,
            inside: text("through").map(|inside| inside.parse()).transpose()?,
        }),
        Some("unknown") => Ok(Said::Unknown(text("reason").context("no reason")?)),
        _ => bail!("{said}"),
    }
}

/// Waits until the toolbox says of each who it is.
pub(super) fn all_known(world: &World<'_>, people: &[Person]) -> Result<String> {
    let mut seen = String::new();
    for Person { host, own, address } in people {
        eventually(BOUND, &format!("the toolbox knows {own}"), || {
            let said = ask(world, BTreeMap::from([("address".to_owned(), address.to_string())]))?;
            ensure!(matches!(&said, Said::Bound { subscriber, .. } if subscriber == own), "{said:?}");
            Ok(())
        })?;
        seen.push_str(&format!("{host}: {own} at {address}\n"));
    }
    Ok(seen)
}

/// Whether what the shop saw is attributed to who the client says it is, and to none of `names` beside; false where
/// nobody can say, because two share the place at this moment.
pub(super) fn is_attributed(
    world: &World<'_>,
    seen: SocketAddr,
    person: &Person,
    names: &BTreeSet<String>,
) -> Result<bool> {
    world.lab.netns("facilitation").enter(|| {
        let client = Client::new(tls::client(&world.lab.run_directory().join("pki/ca.pem"), None)?, None)?;
        let key = fs::read_to_string(world.lab.run_directory().join("secrets/toolbox-caller-key"))?;
        let headers =
            HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {}", key.trim()))?)]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let is = |name: &str| {
            let question = json!({ "subscriber": name, "address": seen.ip(), "port": seen.port() });
            let url = "https://198.51.100.1:8444/v1/verify";
            let answer = runtime.block_on(client.post_json(url, headers.clone(), &question, LIMIT))?;
            ensure!(answer.status().is_success(), "{}", answer.status());
            let body: Value = serde_json::from_slice(answer.body())?;
            body.get("live").and_then(Value::as_bool).with_context(|| body.to_string())
        };
        let clear = eventually(BOUND, "the purchase is attributed", || match whois(world, seen, None)? {
            Said::Bound { subscriber, inside } => Ok(Some((subscriber, inside))),
            Said::Unknown(why) if why == "overlap" => Ok(None),
            Said::Unknown(why) => bail!("unknown: {why}"),
        })?;
        let Some((subscriber, inside)) = clear else { return Ok(false) };
        let own = person.own.as_str();
        ensure!(
            subscriber == own && inside == Some(person.address.into()),
            "{own} at {} bought, {subscriber} behind {inside:?} is said to have",
            person.address
        );
        // A connection of another one may take the same port towards another server at any moment: then nobody is named.
        let yes = eventually(BOUND, "the toolbox answers", || is(own))?;
        for name in names.iter().filter(|name| *name != own) {
            ensure!(!eventually(BOUND, "the toolbox answers", || is(name))?, "{own} bought, and {name} is confirmed");
        }
        Ok(yes)
    })
}
