//! Connections that cross: both ends connect at once, and the router id decides which connection stays (RFC 4271 §6.8).
//!
//! That both are there at once is no matter of luck. A firewall lets nothing pass until both ends are connecting; then
//! connections be made and nothing be said on them; then OPENs, and no KEEPALIVE. So each end has two OPENs, no session
//! is established yet, and both ends have to choose the same connection.

use anyhow::{Result, ensure};
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
                    ensure!(trying > 0, "{}, {} at {host} is not", router.name(), case.name());
                }
                Ok(())
            })
        })?;
        lets(lab, "tcp flags & psh == psh")?;
        each(|router, case| two_or_one(lab, router, case, 2))?;
        Ok((format!("{count} speakers"), ()))
    })?;
    evidence.require("OPENs pass, and no KEEPALIVE: both ends close the same connection", || {
        // 19 octets behind the headers.
        lets(lab, "tcp flags & psh == psh meta length 71")?;
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
            let claim = format!(", {}: of two connections with OPENs both ways, the right one stayed", case.name());
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

/// Waits until both ends have so many connections of the session.
fn two_or_one(lab: &Lab, router: Router, case: Case, count: usize) -> Result<()> {
    eventually(BOUND, &format!("connections: {count}"), || {
        for host in ["speaker", router.name()] {
            let made = connections(lab, host, router, case, "established")?;
            ensure!(made == count, "{}, {} at {host}: {made}", router.name(), case.name());
        }
        Ok(())
    })
}

/// How many connections of the session this end has in that state.
fn connections(lab: &Lab, host: &str, router: Router, case: Case, state: &str) -> Result<usize> {
    let said = lab.must(host, &["ss", "-Htn", "state", state])?;
    let ends = [case.local(router), router.address(case)];
    // An address, sometimes an interface, and a port.
    let of = |end: &str| end.rsplit_once(':').and_then(|(host, _)| Some(host.split('%').next()?.to_owned()));
    let ours = said.lines().filter(|line| {
        let found: Vec<String> = line.split_whitespace().skip(2).take(2).filter_map(of).collect();
        ends.iter().all(|end| found.contains(end))
    });
    Ok(ours.count())
}

/// The connection of the end with the higher router id goes on, the other was closed for the collision.
fn which_stayed(lab: &Lab, router: Router, case: Case) -> Result<String> {
    let (ours, theirs) = (case.local(router), router.address(case));
    let higher = if case == Case::Higher { &ours } else { &theirs };
    eventually(BOUND, "the capture tells", || {
        let said = bgp_capture::conversations(&lab.capture(router.name()))?;
        let both = said.iter().filter(|talk| talk.is_between(&ours, &theirs));
        let opened = |who: &str, talk: &bgp_capture::Conversation| {
            talk.said_by(who).any(|message| matches!(message, Message::Open(_)))
        };
        let open: Vec<_> = both.filter(|talk| opened(&ours, talk) && opened(&theirs, talk)).collect();
        ensure!(open.len() == 2, "{} connections with OPENs both ways", open.len());
        let refused = |talk: &bgp_capture::Conversation| {
            [&ours, &theirs].into_iter().flat_map(|who| talk.said_by(who)).any(
                |message| matches!(message, Message::Notification(why) if why.error == ErrorCode::CONNECTION_COLLISION),
            )
        };
        let stayed: Vec<_> = open.iter().filter(|talk| !refused(talk)).collect();
        let [stayed] = stayed.as_slice() else { anyhow::bail!("{} connections stayed", stayed.len()) };
        ensure!(stayed.opener().to_string() == *higher, "the connection of {} stayed", stayed.opener());
        Ok(format!("that of {higher} stayed, the other ended with Cease, Connection Collision Resolution"))
    })
}
