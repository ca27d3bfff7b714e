//! Session by session: what both ends settle, and what each holds of the other.

use anyhow::{Context, Result, ensure};

use super::cases::{Case, cells};
use super::routers::{Router, TWO_WAYS, TWO_WAYS_V6};
use super::speakers::{PathRow, Speakers};
use super::{BOUND, Told};
use crate::command::eventually;
use crate::evidence::Stopped;
use crate::lab::Lab;

pub(super) fn tell(told: &mut Told<'_>) -> Result<(), Stopped> {
    told.evidence.point("2", "Sessions: what both ends settled, and what each holds of the other");
    let Told { speakers, evidence, .. } = &mut *told;
    evidence.require("a speaker is started for each further session", || {
        let count = speakers.start(|case| !Case::CROSSING.contains(&case))?;
        Ok((format!("{count} processes"), ()))
    })?;
    for (router, case) in cells() {
        let features = || case.shows(router);
        let about = format!(", {}: Established, with {}", case.name(), case.about(router));
        told.check(router, features(), &about, |_, speakers| settled(speakers, router, case));
        let claim = format!(", {}: the router says so too", case.name());
        told.check(router, features(), &claim, |lab, _| {
            eventually(BOUND, "the router says so", || {
                let said = router.session(lab, case)?;
                for text in router.session_says(case) {
                    ensure!(said.contains(text), "`{text}` is not in: {said}");
                }
                Ok(router.session_says(case).join("\n"))
            })
        });
        for prefix in case.private(router) {
            let claim = format!(", {}: it holds {prefix} with its guard", case.name());
            told.check(router, features(), &claim, |lab, _| {
                holds(lab, router, case, &prefix, &[router.guard(case), &case.next_hop(router, &prefix)])
            });
        }
        for prefix in case.public(router).into_iter().chain(case.passing(router)) {
            let claim = format!(", {}: it holds {prefix} with our communities of all kinds", case.name());
            told.check(router, features(), &claim, |lab, _| {
                let hop = case.next_hop(router, &prefix);
                holds(lab, router, case, &prefix, &[&router.marks()[..], &[&hop]].concat())
            });
        }
        for prefix in case.heard(router) {
            let claim = format!(", {}: we hold its {prefix} with its communities", case.name());
            told.check(router, features(), &claim, |_, speakers| heard(speakers, router, case, &prefix));
        }
    }
    for router in Router::ALL {
        told.check(router, [], ", plain: a prefix that our list denies is shown with the reason", |_, speakers| {
            denied(speakers, router)
        });
        told.check(
            router,
            [super::Feature::PathsFromIt],
            ", guarded: path identifiers tell its paths apart",
            |_, speakers| several_paths(speakers, router),
        );
    }
    for router in Router::ALL.into_iter().filter(|router| Case::ALL.iter().any(|case| case.is_two_octet(*router))) {
        let cases = Case::ALL.into_iter().filter(|case| case.is_two_octet(router) && case.local_as(router) > 0xffff);
        for case in cases {
            let claim = format!(", {}: a router of two octets knows our AS of four (RFC 6793)", case.name());
            told.check(router, [super::Feature::TwoOctetAs], &claim, |lab, speakers| {
                let row = speakers.session(router, case)?;
                let four = "four-octet-as".to_owned();
                ensure!(!row.capabilities.contains(&four), "{:?}", row.capabilities);
                let prefix = case.private(router).into_iter().next().context("no prefix")?;
                holds(lab, router, case, &prefix, &[&case.local_as(router).to_string()])
            });
        }
    }
    Ok(())
}

/// Waits until the session is what it is to be; gives what was settled.
pub(super) fn settled(speakers: &Speakers<'_>, router: Router, case: Case) -> Result<String> {
    eventually(BOUND, "the session is up", || {
        let row = speakers.session(router, case)?;
        ensure!(row.state == "Established", "{}; {:?}", row.state, row.last_down);
        let has = |wanted: &&str| row.capabilities.iter().any(|c| c == wanted);
        let missing: Vec<_> = case.wants(router).into_iter().filter(|wanted| !has(wanted)).collect();
        ensure!(missing.is_empty(), "not settled: {missing:?} of {:?}", row.capabilities);
        Ok(format!("show sessions: {}", row.capabilities.join(", ")))
    })
}

/// Waits until `router` holds `prefix` and says all of `words` of it.
pub(super) fn holds(lab: &Lab, router: Router, case: Case, prefix: &str, words: &[&str]) -> Result<String> {
    eventually(BOUND, "the route is there", || {
        let said = router.route(lab, case, prefix)?;
        for word in words {
            ensure!(said.contains(word), "`{word}` is not in: {said}");
        }
        Ok(said)
    })
}

/// Waits until we hold the router's `prefix` as it has it.
pub(super) fn heard(speakers: &Speakers<'_>, router: Router, case: Case, prefix: &str) -> Result<String> {
    eventually(BOUND, "the router's route is here", || {
        let rows = speakers.heard(router, case, prefix)?;
        let row = rows.iter().find(|row| row.best).with_context(|| format!("{rows:?}"))?;
        let [community, large] = router.own_marks();
        ensure!(row.communities.contains(&community) && row.large_communities.contains(&large), "{row:?}");
        ensure!(row.next_hop == case.heard_next_hop(router, prefix), "{row:?}");
        ensure!(row.as_path == if case.is_internal() { "" } else { "64500" }, "{row:?}");
        ensure!(!row.outdated, "{row:?}");
        Ok(shown(row))
    })
}

fn shown(row: &PathRow) -> String {
    format!(
        "show look-up: {} by {}, AS path [{}], {} {}, {}",
        row.prefix,
        row.next_hop,
        row.as_path,
        row.communities.join(" "),
        row.large_communities.join(" "),
        row.reason
    )
}

fn denied(speakers: &Speakers<'_>, router: Router) -> Result<String> {
    eventually(BOUND, "the route is here, and not used", || {
        let rows = speakers.heard(router, Case::Plain, TWO_WAYS)?;
        let row = rows.first().context("nothing was told")?;
        ensure!(!row.best && row.reason.contains("prefix list"), "{row:?}");
        let rib = speakers.rib(router, Case::Plain)?;
        let count = |key: &str| rib.get(key).and_then(serde_json::Value::as_u64);
        ensure!(count("ipv4_rejected") == Some(1) && count("ipv4_routes") > Some(1), "{rib}");
        Ok(format!("{}\nshow rib: {rib}", shown(row)))
    })
}

/// One path is the router's own, the other its neighbour's. A speaker of ours tells the best alone.
fn several_paths(speakers: &Speakers<'_>, router: Router) -> Result<String> {
    let prefix = match router {
        Router::Ourselves => router.own_prefix_v6(),
        Router::OpenBgpd => TWO_WAYS_V6.to_owned(),
        Router::Bird | Router::Frr | Router::GoBgp => TWO_WAYS.to_owned(),
    };
    let wanted: &[&str] = if router == Router::Ourselves { &[""] } else { &["", "64510"] };
    eventually(BOUND, "the paths are here", || {
        let mut rows = speakers.heard(router, Case::Guarded, &prefix)?;
        rows.sort_by(|a, b| a.as_path.cmp(&b.as_path));
        let found: Vec<&str> = rows.iter().map(|row| row.as_path.as_str()).collect();
        ensure!(found == wanted, "{rows:?}");
        let mut ids: Vec<u32> = rows.iter().map(|row| row.path_id).collect();
        ids.dedup();
        ensure!(ids.len() == wanted.len(), "{rows:?}");
        let paths = rows.iter().map(|row| format!("path {} [{}]: {}", row.path_id, row.as_path, row.reason));
        Ok(paths.collect::<Vec<_>>().join("\n"))
    })
}
