//! Who dies, and what stays: the routers (we help them, RFC 4724), and our speaker (they keep what is to be kept, RFC
//! 9494). Whoever is back converges.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::cases::Case;
use super::matrix::Feature;
use super::routers::Router;
use super::speakers::Speakers;
use super::{BOUND, Told, beyond, holds_private, sessions};
use crate::command::eventually;
use crate::lab::Lab;

pub(super) fn tell(told: &mut Told<'_>) {
    told.evidence.point("7", "kill -9 of each router: what is to stay stays, all else goes; it is back, and so is all");
    for router in Router::ALL {
        let stays = Feature::ItRestarts.lacking(router).is_none();
        let features = || stays.then_some(Feature::ItRestarts);
        let what = if stays { "its routes stay where it restarts gracefully" } else { "its routes go" };
        told.check(router, features(), &format!(" is killed: {what}"), |lab, speakers| {
            router.dies(lab)?;
            it_is_gone(speakers, router, stays)
        });
        told.check(router, features(), " is back: every session, and every route, both ways", |lab, speakers| {
            router.returns(lab)?;
            it_is_back(lab, speakers, router)
        });
    }
    told.evidence.point("8", "kill -9 of our speaker: each router keeps what is to be kept, and nothing else");
    for router in Router::ALL {
        let keeps = Feature::WeRestart.lacking(router).is_none();
        let features = || keeps.then_some(Feature::WeRestart);
        let what = if keeps { "keeps the set that is to be kept, stale" } else { "keeps nothing" };
        told.check(router, features(), &format!(" {what}, and drops the other"), |lab, _| {
            lab.kill9(&Case::Restarting.process(router))?;
            we_are_gone(lab, router, keeps)
        });
        told.check(router, features(), ": the speaker is back, and both sets are there, fresh", |lab, speakers| {
            speakers.restart(router, Case::Restarting)?;
            we_are_back(lab, speakers, router)
        });
    }
}

fn it_is_gone(speakers: &Speakers<'_>, router: Router, stays: bool) -> Result<String> {
    let own = router.own_prefix();
    eventually(BOUND, "what is not to stay goes", || {
        let rows = speakers.heard(router, Case::Plain, &own)?;
        ensure!(rows.is_empty(), "{rows:?}");
        Ok(())
    })?;
    eventually(BOUND, "the other session is over, too", || {
        let row = speakers.session(router, Case::Restarting)?;
        ensure!(row.state != "Established", "{}", row.state);
        Ok(())
    })?;
    let rows = speakers.heard(router, Case::Restarting, &own)?;
    match rows.as_slice() {
        [] if !stays => Ok("nothing is left".to_owned()),
        [row] if stays => {
            ensure!(row.outdated && row.best, "{row:?}");
            Ok(format!("{own}: outdated, {}", row.reason))
        }
        other => anyhow::bail!("{other:?}"),
    }
}

fn it_is_back(lab: &Lab, speakers: &Speakers<'_>, router: Router) -> Result<String> {
    for case in Case::ALL {
        sessions::settled(speakers, router, case)?;
        for prefix in case.heard(router) {
            sessions::heard(speakers, router, case, &prefix)?;
        }
        holds_private(lab, router, case)?;
        for prefix in case.public(router) {
            sessions::holds(lab, router, case, &prefix, &router.marks())?;
        }
    }
    beyond(lab, router)?;
    Ok("converged".to_owned())
}

fn we_are_gone(lab: &Lab, router: Router, keeps: bool) -> Result<String> {
    let case = Case::Restarting;
    let of = |prefix: &str| router.route(lab, case, prefix).unwrap_or_default();
    let there = |said: &str| router.marks().iter().all(|mark| said.contains(mark));
    eventually(Duration::from_secs(30), "what is not to be kept goes", || {
        if let Some(prefix) = case.passing(router) {
            ensure!(!there(&of(&prefix)), "{}", of(&prefix));
        }
        Ok(())
    })?;
    let kept = case.public(router).concat();
    if keeps {
        let said = sessions::holds(lab, router, case, &kept, &[&router.marks()[..], &[router.stale()]].concat())?;
        return Ok(said);
    }
    eventually(Duration::from_secs(30), "nothing is kept", || {
        ensure!(!there(&of(&kept)), "{}", of(&kept));
        Ok("nothing".to_owned())
    })
}

fn we_are_back(lab: &Lab, speakers: &Speakers<'_>, router: Router) -> Result<String> {
    let case = Case::Restarting;
    sessions::settled(speakers, router, case)?;
    for prefix in case.public(router).into_iter().chain(case.passing(router)) {
        eventually(BOUND, "the route is fresh", || {
            let said = sessions::holds(lab, router, case, &prefix, &router.marks())?;
            ensure!(!said.contains(router.stale()), "{said}");
            Ok(())
        })?;
    }
    Ok("both, fresh".to_owned())
}
