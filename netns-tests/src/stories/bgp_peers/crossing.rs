//! Connections that cross: both ends connect at once, and the router id decides which connection stays (RFC 4271 §6.8).
//!
//! That both are there at once is no matter of luck. A firewall lets nothing pass until both ends are connecting, and then
//! connections be made and nothing be said on them. Both ends are stopped while the four OPENs are delivered; when they go
//! on, no KEEPALIVE passes. So each end has two OPENs, no session is established, and both ends have to choose.

use anyhow::{Context, Result, ensure};
use bgp_wire::{ErrorCode, Message};

use super::cases::Case;
use super::matrix::Feature;
use super::routers::Router;
use super::{BOUND, Told, sessions};
use crate::bgp_capture;
use crate::command::eventually;
use crate::evidence::Stopped;
use crate::lab::Lab;

fn crossing() -> impl Iterator<Item = Router> + Clone {
    Router::ALL.into_iter().filter(|router| Feature::Crossing.lacking(*router).is_none())
}

pub(super) fn tell(told: &mut Told<'_>) -> Result<(), Stopped> {
    told.evidence.point("1", "Both ends connect at once: one connection stays, by the router ids");
    let Told { lab, speakers, evidence, .. } = &mut *told;
    evidence.require("every router and its speaker have opened a connection, and none has heard a word", || {
        wall(lab)?;
        let count = speakers.start(|case| Case::CROSSING.contains(&case))?;
        each(|router, case| {
            eventually(BOUND, "both ends are connecting", || {
                for host in ["speaker", router.name()] {
                    let trying = connections(lab, host, router, case, "syn-sent")?;
                    ensure!(!trying.is_empty(), "{}, {} at {host} is not", router.name(), case.name());
                }
                Ok(())
            })
        })?;
        lets(lab, "tcp flags & psh == psh")?;
        each(|router, case| two_or_one(lab, router, case, 2))?;
        Ok((format!("{count} speakers"), ()))
    })?;
    evidence.require("the OPENs are delivered, and no KEEPALIVE: both ends close one connection", || {
        freeze(lab, true)?;
        let delivered = deliver(lab);
        freeze(lab, false)?;
        delivered?;
        each(|router, case| two_or_one(lab, router, case, 1))?;
        lab.must("speaker", &["nft", "delete", "table", "inet", "crossing"])?;
        Ok(("one is left of each two".to_owned(), ()))
    })?;
    for (router, case) in Router::ALL.into_iter().flat_map(|router| Case::CROSSING.map(|case| (router, case))) {
        let crosses = Feature::Crossing.lacking(router).is_none();
        let claim = format!(", {}: one session, which stays", case.name());
        told.check(router, crosses.then_some(Feature::Crossing), &claim, |_, speakers| {
            sessions::settled(speakers, router, case)?;
            let row = speakers.session(router, case)?;
            ensure!(row.flaps == 0, "{row:?}");
            Ok(row.state)
        });
        if crosses {
            let claim = format!(", {}: of two connections the right one stayed", case.name());
            told.check(router, [Feature::Crossing], &claim, |lab, _| which_stayed(lab, router, case));
        }
    }
    Ok(())
}

/// Each session whose connections are to cross.
fn each(mut what: impl FnMut(Router, Case) -> Result<()>) -> Result<()> {
    crossing()
        .flat_map(|router| Case::CROSSING.map(|case| (router, case)))
        .try_for_each(|(router, case)| what(router, case))
}

/// From now on nothing passes between the ends that are to cross.
fn wall(lab: &Lab) -> Result<()> {
    let addresses = Router::ALL.into_iter().flat_map(|router| Case::CROSSING.map(|case| case.local(router)));
    let addresses = addresses.collect::<Vec<_>>().join(", ");
    let rules = format!(
        "add table inet crossing; add set inet crossing ours {{ type ipv4_addr; elements = {{ {addresses} }}; }}; \
         add chain inet crossing out {{ type filter hook output priority 0; }}; \
         add chain inet crossing in {{ type filter hook input priority 0; }}; \
         add rule inet crossing out ip saddr @ours drop; add rule inet crossing in ip daddr @ours drop"
    );
    lab.must("speaker", &["nft", &rules]).map(drop)
}

/// From now on everything passes but for what is `dropped`.
fn lets(lab: &Lab, dropped: &str) -> Result<()> {
    let rules = format!(
        "flush table inet crossing; add rule inet crossing out ip saddr @ours {dropped} drop; \
         add rule inet crossing in ip daddr @ours {dropped} drop"
    );
    lab.must("speaker", &["nft", &rules]).map(drop)
}

/// Both ends of every session stop where they are, or go on.
fn freeze(lab: &Lab, frozen: bool) -> Result<()> {
    each(|router, case| lab.freeze(&case.process(router), frozen))?;
    crossing().try_for_each(|router| lab.freeze(router.daemon(), frozen))
}

/// Lets everything that was said arrive, and from then on nothing as short as a KEEPALIVE and a NOTIFICATION behind it.
fn deliver(lab: &Lab) -> Result<()> {
    lab.must("speaker", &["nft", "flush", "table", "inet", "crossing"])?;
    each(|router, case| {
        eventually(BOUND, "all that was said has arrived", || {
            for host in ["speaker", router.name()] {
                let queues = connections(lab, host, router, case, "established")?;
                let delivered = queues.iter().filter(|(unread, unsent)| *unread > 0 && *unsent == 0).count();
                ensure!(delivered == 2, "{}, {} at {host}: {queues:?}", router.name(), case.name());
            }
            Ok(())
        })
    })?;
    // Headers have 52 octets, an OPEN 29 and more, a KEEPALIVE 19, a NOTIFICATION 21 and more.
    lets(lab, "tcp flags & psh == psh meta length < 97")
}

/// Waits until both ends have so many connections of the session.
fn two_or_one(lab: &Lab, router: Router, case: Case, count: usize) -> Result<()> {
    eventually(BOUND, &format!("connections: {count}"), || {
        for host in ["speaker", router.name()] {
            let made = connections(lab, host, router, case, "established")?.len();
            ensure!(made == count, "{}, {} at {host}: {made}", router.name(), case.name());
        }
        Ok(())
    })
}

/// The connections of the session that this end has in that state: octets that wait to be read, and to be acknowledged.
fn connections(lab: &Lab, host: &str, router: Router, case: Case, state: &str) -> Result<Vec<(u64, u64)>> {
    let said = lab.must(host, &["ss", "-Htn", "state", state])?;
    let ends = [case.local(router), router.address(case)];
    // An address, sometimes an interface, and a port.
    let of = |end: &str| end.rsplit_once(':').and_then(|(host, _)| Some(host.split('%').next()?.to_owned()));
    let mut queues = Vec::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [unread, unsent, here, there, ..] = words.as_slice() else { continue };
        let found: Vec<String> = [here, there].into_iter().filter_map(|end| of(end)).collect();
        if ends.iter().all(|end| found.contains(end)) {
            queues.push((unread.parse().context("no queue")?, unsent.parse().context("no queue")?));
        }
    }
    Ok(queues)
}

/// The connection of the end with the higher router id goes on, the other was closed: with a word, or, where an end saw
/// which it would be before it was asked, without one.
fn which_stayed(lab: &Lab, router: Router, case: Case) -> Result<String> {
    let (ours, theirs) = (case.local(router), router.address(case));
    let higher = if case == Case::Higher { &ours } else { &theirs };
    eventually(BOUND, "the capture tells", || {
        let said = bgp_capture::conversations(&lab.capture(router.name()))?;
        let both = || said.iter().filter(|talk| talk.is_between(&ours, &theirs));
        let all = |talk: &bgp_capture::Conversation| {
            [&ours, &theirs].into_iter().flat_map(|who| talk.said_by(who)).cloned().collect::<Vec<_>>()
        };
        let openers: Vec<String> = both()
            .filter(|talk| all(talk).iter().any(|message| matches!(message, Message::Open(_))))
            .map(|talk| talk.opener().to_string())
            .collect();
        ensure!(openers.contains(&ours) && openers.contains(&theirs), "OPENs on connections of {openers:?}");
        let stayed: Vec<_> =
            both().filter(|talk| all(talk).iter().any(|message| matches!(message, Message::Update(_)))).collect();
        let [stayed] = stayed.as_slice() else { anyhow::bail!("{} connections stayed", stayed.len()) };
        ensure!(stayed.opener().to_string() == *higher, "the connection of {} stayed", stayed.opener());
        let refused = both().flat_map(all).any(
            |message| matches!(message, Message::Notification(why) if why.error == ErrorCode::CONNECTION_COLLISION),
        );
        let how = if refused { "with Cease, Connection Collision Resolution" } else { "without a word" };
        Ok(format!("that of {higher} stayed, the other ended {how}"))
    })
}
