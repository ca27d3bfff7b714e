//! Our speaker beside BIRD, FRR, GoBGP, OpenBGPD and itself, session by session; what each router says is asked of the
//! router.

mod cases;
mod crossing;
mod matrix;
mod refresh;
mod restarts;
mod routers;
mod sessions;
mod speakers;
mod views;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bgp_capture;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;
use cases::{Case, cells};
use matrix::{Feature, Matrix};
use routers::Router;
use speakers::Speakers;

/// OpenBGPD rests for half a minute after a failure.
const BOUND: Duration = Duration::from_secs(60);

/// What the points of the story share.
struct Told<'a> {
    lab: &'a Lab,
    speakers: Speakers<'a>,
    evidence: &'a mut Evidence,
    matrix: Matrix,
}

impl Told<'_> {
    /// A check that shows `features` beside `router`, if it holds.
    fn check(
        &mut self,
        router: Router,
        features: impl IntoIterator<Item = Feature>,
        claim: &str,
        look: impl FnOnce(&Lab, &Speakers<'_>) -> Result<String>,
    ) {
        let claim = format!("{}{claim}", router.name());
        let look = || look(self.lab, &self.speakers).map(|seen| (seen, ()));
        let held = self.evidence.require(&claim, look).is_ok();
        self.matrix.record(router, features, held);
    }
}

/// Tells the story; there is no purchase, and so no path of one.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let began = Instant::now();
    let speakers = evidence.require("a forwarder calls every private route healthy", || {
        Ok(("one for all speakers".to_owned(), Speakers::new(lab)?))
    })?;
    let mut told = Told { lab, speakers, evidence, matrix: Matrix::default() };
    crossing::tell(&mut told)?;
    sessions::tell(&mut told)?;
    refresh::tell(&mut told);
    inside(&mut told);
    withdrawal(&mut told);
    paths(&mut told);
    restarts::tell(&mut told);
    gobgp_needs_its_policy(&mut told);
    farewell(&mut told);
    clean(&mut told);
    told.evidence.check("every cell of the matrix was shown, but for what a router does not have", || {
        let wrong = told.matrix.wrong();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(matrix::table())
    });
    told.evidence.check("the whole matrix takes less than ten minutes", || {
        ensure!(began.elapsed() < Duration::from_secs(600), "{:?}", began.elapsed());
        Ok(format!("{:.1} s", began.elapsed().as_secs_f64()))
    });
    told.evidence.measure("matrix-s", began.elapsed().as_secs_f64());
    Ok(Vec::new())
}

/// Nobody beyond hears of a private route, whatever else goes there.
fn inside(told: &mut Told<'_>) {
    told.evidence.point("4", "Nobody beyond the routers hears of a private route; what may go further does");
    for router in Router::ALL {
        told.check(
            router,
            [],
            ": its neighbour has its own prefix and our public ones, and no private one",
            |lab, _| beyond(lab, router),
        );
    }
}

/// What the neighbour of `router` holds, if that is what it may.
fn beyond(lab: &Lab, router: Router) -> Result<String> {
    let may = || {
        let public = Case::ALL.iter().flat_map(|case| case.public(router));
        // GoBGP tells its own of IPv6 with the next hop that it was given inside.
        let own_v6 = (router != Router::GoBgp).then(|| router.own_prefix_v6());
        public.chain([router.own_prefix()]).chain(own_v6)
    };
    let held = eventually(BOUND, "the router tells its neighbour", || {
        let of = |session: String| routers::birdc(lab, "beyond", &format!("show route protocol {session}"));
        let held = of(format!("from_{}", router.name()))? + &of(format!("from_{}6", router.name()))?;
        for prefix in may() {
            ensure!(held.contains(&prefix), "{prefix} is missing: {held}");
        }
        Ok(held)
    })?;
    for prefix in Case::ALL.iter().flat_map(|case| case.private(router)) {
        ensure!(!held.contains(&prefix), "{prefix}: {held}");
    }
    Ok(held)
}

fn withdrawal(told: &mut Told<'_>) {
    told.evidence.point("5", "The forwarder dies: every router loses every private route; it returns: they are back");
    told.speakers.forwarder_dies();
    for (router, case) in cells() {
        told.check(router, [], &format!(", {}: withdrawn", case.name()), |lab, _| {
            eventually(BOUND, "the routes are gone", || {
                for prefix in case.private(router) {
                    let said = router.route(lab, case, &prefix).unwrap_or_default();
                    ensure!(!said.contains(router.guard(case)), "{said}");
                }
                Ok("gone".to_owned())
            })
        });
    }
    let Told { lab, speakers, evidence, .. } = told;
    evidence.check("the forwarder returns: every route is back", || {
        speakers.forwarder_returns()?;
        for (router, case) in cells() {
            holds_private(lab, router, case)?;
        }
        Ok("all back".to_owned())
    });
}

/// Waits until `router` holds what is private of the session.
fn holds_private(lab: &Lab, router: Router, case: Case) -> Result<()> {
    for prefix in case.private(router) {
        eventually(BOUND, "the route is there", || {
            let said = router.route(lab, case, &prefix)?;
            ensure!(said.contains(router.guard(case)), "{}, {}: {said}", router.name(), case.name());
            Ok(())
        })?;
    }
    Ok(())
}

fn paths(told: &mut Told<'_>) {
    told.evidence.point("6", "BFD: a far end that freezes is noticed long before the hold time of nine seconds");
    let watched = Router::ALL.into_iter().filter_map(|router| Some((router, router.bfd_process()?)));
    for (router, process) in watched {
        told.check(router, [Feature::Bfd], ": both ends see the path", |lab, _| {
            eventually(BOUND, "the path is up", || {
                let said = router.bfd(lab)?;
                ensure!(said.contains(router.bfd_up()), "{said}");
                Ok(said)
            })
        });
        let mut frozen = None;
        told.check(router, [Feature::Bfd], ": it freezes, and the session ends", |lab, speakers| {
            let before = speakers.session(router, Case::Plain)?.flaps;
            let began = Instant::now();
            lab.freeze(process, true)?;
            let ended = eventually(BOUND, "the session ends", || {
                let row = speakers.session(router, Case::Plain)?;
                ensure!(row.flaps > before, "{}", row.state);
                Ok(row.last_down.unwrap_or_default())
            });
            let took = began.elapsed();
            lab.freeze(process, false)?;
            let ended = ended?;
            ensure!(ended.contains("BFD Down"), "{ended}");
            frozen = Some(took);
            Ok(format!("after {} ms, asking included: {ended}", took.as_millis()))
        });
        if let Some(took) = frozen {
            let name = format!("bfd-{}-frozen-to-down-ms", router.name());
            told.evidence.measure(&name, took.as_secs_f64() * 1000.0);
        }
        told.check(router, [Feature::Bfd], ": it goes on, and the session and its routes are back", |lab, speakers| {
            eventually(BOUND, "the session is back", || {
                let row = speakers.session(router, Case::Plain)?;
                ensure!(row.state == "Established", "{}; {:?}", row.state, row.last_down);
                Ok(())
            })?;
            holds_private(lab, router, Case::Plain)?;
            Ok("Established".to_owned())
        });
    }
}

/// Why the operator of GoBGP has to write an export policy: without it NO_EXPORT is only a word.
fn gobgp_needs_its_policy(told: &mut Told<'_>) {
    told.evidence.point("9", "GoBGP keeps a private route inside by its operator's policy alone");
    let private = || Case::External.private(Router::GoBgp).into_iter().next().unwrap_or_default();
    let at_neighbour = |lab: &Lab| routers::birdc(lab, "beyond", "show route protocol from_gobgp");
    let again = |lab: &Lab, verb: &str| {
        lab.must("gobgp", &["gobgp", "global", "policy", "export", verb, "keep-inside"])?;
        lab.must("gobgp", &["gobgp", "neighbor", "192.0.2.142", "softresetout"])
    };
    told.check(Router::GoBgp, [], ": the policy is taken away: its neighbour AS hears of a private route", |lab, _| {
        again(lab, "del")?;
        eventually(BOUND, "the route leaks", || {
            let held = at_neighbour(lab)?;
            ensure!(held.contains(&private()), "{held}");
            Ok(held)
        })
    });
    told.check(Router::GoBgp, [], ": the policy is back, and the route no longer outside", |lab, _| {
        again(lab, "add")?;
        // What it has told it does not take back by itself: the neighbour starts the session again.
        routers::birdc(lab, "beyond", "restart from_gobgp")?;
        beyond(lab, Router::GoBgp)
    });
}

fn farewell(told: &mut Told<'_>) {
    told.evidence.point("10", "A speaker is stopped: the router's operator reads why (RFC 9003), the routes are gone");
    for router in Router::ALL {
        told.check(router, [], " shows our word and drops the routes", |lab, _| {
            lab.terminate(&Case::Plain.process(router))?;
            eventually(BOUND, "the router heard it", || {
                let said = router.session(lab, Case::Plain)? + &router.log(lab);
                ensure!(said.contains(speakers::LAST_WORD), "{said}");
                for prefix in Case::Plain.private(router) {
                    let route = router.route(lab, Case::Plain, &prefix).unwrap_or_default();
                    ensure!(!route.contains(router.guard(Case::Plain)), "{route}");
                }
                let line = said.lines().find(|line| line.contains(speakers::LAST_WORD)).unwrap_or_default();
                Ok(line.trim().to_owned())
            })
        });
    }
}

fn clean(told: &mut Told<'_>) {
    told.evidence.point("11", "Everything that was sent is clean in another reader, and the matrix is whole");
    told.evidence.check("the captures end", || told.lab.end_captures().map(|()| "whole".to_owned()));
    for router in Router::ALL {
        let claim = ": tshark, tcpdump and bgpkit-parser find nothing wrong on its link";
        told.check(router, [], claim, |lab, _| {
            let found = bgp_capture::audit(&lab.capture(router.name()))?;
            ensure!(found.opens >= 2 * Case::ALL.len(), "{found:?}");
            Ok(format!("{found:?}"))
        });
    }
}
