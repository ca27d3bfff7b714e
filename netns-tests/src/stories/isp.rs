//! Purchases from behind a NAT, each attributed to who the buyer itself says it is.
//!
//! Seven homes lease their addresses from Kea, three users come by tunnels of ocserv and are let in by FreeRADIUS, and nftables
//! hides them all behind two addresses. Each purchase is made by the client over connections of its own: ordered at the shop, which
//! sees an address and a port of the NAT, and paid over the private link. The toolbox is asked about what the shop saw, and has
//! to say who the client says it is, and nobody else, then and afterwards. Meanwhile an address goes on to another subscriber, a
//! tunnel ends, and the toolbox is killed.

mod asking;
mod buying;
mod people;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::asking::Said;
use self::buying::Purchase;
use self::people::Person;
use super::Story;
use super::world::World;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;

/// How many purchases there are.
const PURCHASES: usize = 1000;
/// How many there are where the machine has other tests to run.
const FEW: usize = 200;
/// Names it for another number.
const NUMBER: &str = "ISP_PURCHASES";

const BOUND: Duration = Duration::from_secs(180);

/// The story with fewer purchases: 200, unless `ISP_PURCHASES` says otherwise.
#[must_use]
pub fn few() -> Story {
    Story {
        name: "isp",
        about: "purchases from behind a NAT are attributed to who the clients say they are",
        topology: "isp",
        tell: |lab, evidence| tell_of(lab, evidence, FEW),
    }
}

/// Tells the story; gives the links that a purchase took.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    tell_of(lab, evidence, PURCHASES)
}

fn tell_of(lab: &Lab, evidence: &mut Evidence, number: usize) -> Result<Vec<String>, Stopped> {
    let number = std::env::var(NUMBER).ok().and_then(|number| number.parse().ok()).unwrap_or(number).max(10);
    let world = World::new(lab);
    let (mut people, names) = arrivals(&world, evidence)?;

    evidence.point("2", &format!("{number} purchases: who bought is who the client says it is"));
    let mut bought = Vec::new();
    let mut round = |evidence: &mut Evidence, claim: &str, people: &[Person], share: usize, upset: bool| {
        let done = evidence.require(claim, || {
            let purchases = buying::buy(&world, people, &names, share, upset)?;
            Ok((buying::told(&purchases), purchases))
        })?;
        bought.extend(done);
        Ok::<(), Stopped>(())
    };
    let shares = [number * 2 / 5, number * 3 / 10, number - number * 2 / 5 - number * 3 / 10];
    round(evidence, &format!("{} purchases of nine subscribers", shares[0]), &people, shares[0], false)?;
    moves(&world, evidence, &mut people)?;
    round(evidence, &format!("{} more, with what has changed", shares[1]), &people, shares[1], false)?;
    round(
        evidence,
        &format!("{} more; the toolbox is killed and started among them", shares[2]),
        &people,
        shares[2],
        true,
    )?;

    afterwards(&world, evidence, &bought);
    books(&world, evidence, &bought);
    let again: usize = bought.iter().map(|purchase| purchase.again).sum();
    evidence.measure("purchases", bought.len() as f64);
    evidence.measure("connections-that-had-no-answer", again as f64);
    Ok(["home-2", "access", "core", "private"].map(str::to_owned).to_vec())
}

/// Six homes and three tunnels come on line; gives them, and what everybody is called who there is.
fn arrivals(world: &World<'_>, evidence: &mut Evidence) -> Result<(Vec<Person>, BTreeSet<String>), Stopped> {
    evidence.point("1", "Nine subscribers come on line");
    let names = evidence.require("the private route is there", || {
        let there = || {
            let route = world.kernel_routes("edge", "203.0.113.200")?;
            ensure!(route.contains("dev isp0"), "{route}");
            Ok(route)
        };
        people::wire(world.lab)?;
        let route = eventually(BOUND, "the edge has the private route", there)?;
        let homes = (1..=7).map(|home| people::hardware_address(world.lab, &format!("home-{home}")));
        let names = homes.chain(people::USERS.map(|user| Ok(user.to_owned())));
        Ok((route, names.collect::<Result<BTreeSet<String>>>()?))
    })?;
    let mut people = Vec::new();
    evidence.require("six homes have leased an address of Kea, and the toolbox knows whose each is", || {
        let homes: Vec<Person> =
            (1..=6).map(|home| people::lease(world.lab, &format!("home-{home}"))).collect::<Result<_>>()?;
        let seen = asking::all_known(world, &homes)?;
        people.extend(homes);
        Ok((seen, ()))
    })?;
    evidence.require("three users have come by tunnels, let in by FreeRADIUS, and the toolbox knows them", || {
        let mut users = Vec::new();
        for (number, user) in [(1, people::USERS[0]), (2, people::USERS[1]), (3, people::USERS[2])] {
            users.push(people::tunnel(world.lab, &format!("far-{number}"), user)?);
        }
        let seen = asking::all_known(world, &users)?;
        people.extend(users);
        Ok((seen, ()))
    })?;
    Ok((people, names))
}

/// An address goes to another home, and another user comes by a tunnel that ended.
fn moves(world: &World<'_>, evidence: &mut Evidence, people: &mut Vec<Person>) -> Result<(), Stopped> {
    evidence.require("a home gives its address back, and another one is given it", || {
        let place = people.iter().position(|person| person.host == "home-1").context("home-1")?;
        let gone = people.remove(place);
        people::release(world.lab, &gone)?;
        let next = people::lease(world.lab, "home-7")?;
        ensure!(next.address == gone.address, "{} had {}, {} has {}", gone.own, gone.address, next.own, next.address);
        let seen = asking::all_known(world, std::slice::from_ref(&next))?;
        people.push(next);
        Ok((format!("{} was {}\n{seen}", gone.address, gone.own), ()))
    })?;
    evidence.require("a tunnel ends, and another user comes by the next one", || {
        let place = people.iter().position(|person| person.host == "far-3").context("far-3")?;
        let gone = people.remove(place);
        world.lab.kill9(&people::process(&gone.host))?;
        let next = people::tunnel(world.lab, "far-3", people::USERS[3])?;
        let seen = asking::all_known(world, std::slice::from_ref(&next))?;
        people.push(next);
        Ok((format!("{} had {}\n{seen}", gone.own, gone.address), ()))
    })
}

/// What is said later about each moment of a purchase.
fn afterwards(world: &World<'_>, evidence: &mut Evidence, bought: &[Purchase]) {
    evidence.point("3", "Afterwards, asked about the moment of each purchase");
    evidence.check("each is still attributed to who bought, and none to anybody else", || {
        let (mut right, mut unknown) = (0, BTreeMap::<String, usize>::new());
        for purchase in bought {
            // What came to an end a moment ago is on its way into the history.
            let said = eventually(BOUND, "the toolbox answers", || {
                asking::whois(world, purchase.seen, Some(&purchase.moment))
            })?;
            match said {
                Said::Bound { subscriber, inside } => {
                    ensure!(
                        subscriber == purchase.own && inside == Some(purchase.inside.into()),
                        "{subscriber} behind {inside:?}: that was wrong; {purchase:?}"
                    );
                    right += 1;
                }
                Said::Unknown(why) => *unknown.entry(why).or_default() += 1,
            }
        }
        // Nobody watched for the seconds in which the toolbox was dead.
        ensure!(right * 3 > bought.len() * 2, "{right} of {}, unknown: {unknown:?}", bought.len());
        Ok(format!("{right} of {} attributed, unknown: {unknown:?}", bought.len()))
    });
    evidence.check("ports of the NAT have had several subscribers in turn", || {
        let mut users: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
        for purchase in bought {
            users.entry(purchase.seen).or_default().insert(&purchase.own);
        }
        let shared = users.values().filter(|users| users.len() > 1).count();
        Ok(format!("{} places seen by the shop, {shared} of them with more than one subscriber", users.len()))
    });
}

/// Money and paths.
fn books(world: &World<'_>, evidence: &mut Evidence, bought: &[Purchase]) {
    evidence.point("4", "The books at the end");
    evidence.check(
        "the shop has each order paid, from where it was attributed; the bank holds one amount for each",
        || {
            let orders = world.show("example-shop", "orders")?;
            let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let rows: BTreeMap<String, (String, String)> = orders
                .as_array()
                .context("a list")?
                .iter()
                .map(|row| (text(row, "order"), (text(row, "state"), text(row, "client"))))
                .collect();
            for purchase in bought {
                let row = rows.get(&purchase.order).context("an order that the shop does not have")?;
                ensure!(*row == ("paid".to_owned(), purchase.seen.to_string()), "{row:?} {purchase:?}");
            }
            let held = world.books()?.iter().filter(|line| line.event == "authorised").count();
            ensure!(held == bought.len(), "the bank holds {held}");
            Ok(format!("{} paid, {held} held", bought.len()))
        },
    );
    evidence.check("on the private link there are subscribers' own addresses and no others", || {
        let own: BTreeSet<IpAddr> = bought.iter().map(|purchase| purchase.inside.into()).collect();
        let private: IpAddr = [203, 0, 113, 200].into();
        let packets = world.packets("private")?;
        let sources: BTreeSet<IpAddr> = packets
            .iter()
            .filter_map(crate::capture::Packet::flow)
            .filter(|flow| flow.destination == private)
            .map(|flow| flow.source)
            // The forwarder looks whether the path is live.
            .filter(|source| *source != IpAddr::from([192, 0, 2, 249]))
            .collect();
        ensure!(sources == own, "{sources:?} are there, {own:?} paid");
        Ok(format!("{sources:?}"))
    });
}
