//! Our speaker beside BIRD, FRR, GoBGP and OpenBGPD, session by session; what each router says is asked of the router.

mod routers;
mod speakers;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bgp_capture;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;
use routers::Router;
use speakers::{Case, Speakers};

const BOUND: Duration = Duration::from_secs(30);

/// Tells the story; there is no purchase, and so no path of one.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let mut speakers = evidence.require("a speaker is started for each session", || {
        let speakers = Speakers::start(lab)?;
        Ok((format!("{} processes", speakers.count()), speakers))
    })?;
    sessions(lab, &speakers, evidence);
    refresh(lab, &speakers, evidence);
    inside(lab, evidence);
    withdrawal(lab, &mut speakers, evidence);
    paths(lab, &speakers, evidence);
    gobgp_needs_its_policy(lab, evidence);
    farewell(lab, evidence);
    clean(lab, evidence);
    Ok(Vec::new())
}

fn cells() -> impl Iterator<Item = (Router, Case)> {
    Router::ALL.into_iter().flat_map(|router| Case::ALL.map(|case| (router, case)))
}

fn sessions(lab: &Lab, speakers: &Speakers<'_>, evidence: &mut Evidence) {
    evidence.point("1", "Sessions: what both ends settled, and what the router then holds");
    for (router, case) in cells() {
        let what = case.about(router);
        evidence.check(&format!("{}, {}: Established, with {what}", router.name(), case.name()), || {
            eventually(BOUND, "the session is up", || {
                let row = speakers.session(router, case)?;
                ensure!(row.state == "Established", "{}; {:?}", row.state, row.last_down);
                let has = |wanted: &&str| row.capabilities.iter().any(|c| c == wanted);
                let missing: Vec<_> = case.wants(router).into_iter().filter(|wanted| !has(wanted)).collect();
                ensure!(missing.is_empty(), "not settled: {missing:?} of {:?}", row.capabilities);
                Ok(format!("show sessions: {}", row.capabilities.join(", ")))
            })
        });
        evidence.check(&format!("{}, {}: the router says so too", router.name(), case.name()), || {
            let said = router.session(lab, case)?;
            for text in router.session_says(case) {
                ensure!(said.contains(text), "`{text}` is not in: {said}");
            }
            Ok(router.session_says(case).join("\n"))
        });
        for prefix in case.prefixes(router) {
            evidence.check(&format!("{}, {}: it holds {prefix} with NO_EXPORT", router.name(), case.name()), || {
                eventually(BOUND, "the route is there", || {
                    let said = router.route(lab, case, &prefix)?;
                    ensure!(said.contains(router.no_export()), "{said}");
                    ensure!(said.contains(&case.next_hop(router, &prefix)), "{said}");
                    Ok(said)
                })
            });
        }
    }
}

fn refresh(lab: &Lab, speakers: &Speakers<'_>, evidence: &mut Evidence) {
    evidence.point("2", "Route refresh: the router asks, we answer, and it loses nothing");
    for router in Router::ALL.into_iter().filter(|router| router.can_ask_again()) {
        evidence.check(&format!("{} asks again on its operator's word", router.name()), || {
            let before = speakers.session(router, Case::Plain)?.refreshes_received;
            router.ask_again(lab)?;
            eventually(BOUND, "the request is here", || {
                let now = speakers.session(router, Case::Plain)?.refreshes_received;
                ensure!(now > before, "{now} requests, {before} before");
                Ok(())
            })?;
            for prefix in Case::Plain.prefixes(router) {
                let said = router.route(lab, Case::Plain, &prefix)?;
                ensure!(said.contains(router.no_export()), "{said}");
            }
            ensure!(speakers.session(router, Case::Plain)?.flaps == 0, "the session was lost");
            Ok(format!("{before} requests before, more now; the routes are there"))
        });
    }
}

fn inside(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("3", "Nobody beyond the routers hears of a private route");
    for router in Router::ALL {
        evidence.check(
            &format!("beyond {}: the router's own prefix is there, no private one is", router.name()),
            || {
                let session = format!("from_{}", router.name());
                let held = eventually(BOUND, "the router tells its neighbour something", || {
                    let held = routers::birdc(lab, "beyond", &format!("show route protocol {session}"))?;
                    ensure!(held.contains(&router.own_prefix()), "deaf: {held}");
                    Ok(held)
                })?;
                for prefix in Case::ALL.iter().flat_map(|case| case.prefixes(router)) {
                    ensure!(!held.contains(&prefix), "{prefix}: {held}");
                }
                Ok(held)
            },
        );
    }
}

fn paths(lab: &Lab, speakers: &Speakers<'_>, evidence: &mut Evidence) {
    evidence.point("5", "BFD: a far end that freezes is noticed long before the hold time of nine seconds");
    let watched = Router::ALL.into_iter().filter_map(|router| Some((router, router.bfd_process()?)));
    for (router, process) in watched {
        evidence.check(&format!("{}: both ends see the path", router.name()), || {
            eventually(BOUND, "the path is up", || {
                let said = router.bfd(lab)?;
                ensure!(said.contains(router.bfd_up()), "{said}");
                Ok(said)
            })
        });
        let frozen = evidence.require(&format!("{}: it freezes, and the session ends", router.name()), || {
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
            ensure!(took < Duration::from_secs(1), "{took:?}");
            Ok((format!("after {} ms, asking included: {ended}", took.as_millis()), took))
        });
        if let Ok(took) = frozen {
            evidence.measure(&format!("bfd-{}-frozen-to-down-ms", router.name()), took.as_secs_f64() * 1000.0);
        }
        evidence.check(&format!("{}: it goes on, and the session and its routes are back", router.name()), || {
            eventually(BOUND, "the routes are back", || {
                let row = speakers.session(router, Case::Plain)?;
                ensure!(row.state == "Established", "{}; {:?}", row.state, row.last_down);
                for prefix in Case::Plain.prefixes(router) {
                    let said = router.route(lab, Case::Plain, &prefix)?;
                    ensure!(said.contains(router.no_export()), "{said}");
                }
                Ok(row.state)
            })
        });
    }
}

/// Why the operator of GoBGP has to write an export policy: without it NO_EXPORT is only a word.
fn gobgp_needs_its_policy(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("6", "GoBGP keeps a private route inside by its operator's policy alone");
    evidence.check("the policy is taken away: its neighbour AS hears of a private route", || {
        let private = Case::External.prefixes(Router::GoBgp).remove(0);
        lab.must("gobgp", &["gobgp", "global", "policy", "export", "del", "keep-inside"])?;
        lab.must("gobgp", &["gobgp", "neighbor", "192.0.2.142", "softresetout"])?;
        eventually(BOUND, "the route leaks", || {
            let held = routers::birdc(lab, "beyond", "show route protocol from_gobgp")?;
            ensure!(held.contains(&private), "{held}");
            Ok(held)
        })
    });
}

fn withdrawal(lab: &Lab, speakers: &mut Speakers<'_>, evidence: &mut Evidence) {
    evidence.point("4", "The forwarder dies: every router loses every route; it returns: they are back");
    speakers.forwarder_dies();
    for (router, case) in cells() {
        evidence.check(&format!("{}, {}: withdrawn", router.name(), case.name()), || {
            eventually(BOUND, "the routes are gone", || {
                for prefix in case.prefixes(router) {
                    let said = router.route(lab, case, &prefix).unwrap_or_default();
                    ensure!(!said.contains(router.no_export()), "{said}");
                }
                Ok("gone".to_owned())
            })
        });
    }
    evidence.check("the forwarder returns: every route is back", || {
        speakers.forwarder_returns()?;
        for (router, case) in cells() {
            for prefix in case.prefixes(router) {
                eventually(BOUND, "the route is back", || {
                    let said = router.route(lab, case, &prefix)?;
                    ensure!(said.contains(router.no_export()), "{}: {said}", router.name());
                    Ok(())
                })?;
            }
        }
        Ok("all back".to_owned())
    });
}

fn farewell(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("7", "A speaker is stopped: the router's operator reads why (RFC 9003), and the routes are gone");
    for router in Router::ALL {
        evidence.check(&format!("{} shows our word and drops the routes", router.name()), || {
            lab.terminate(&Case::Plain.process(router))?;
            eventually(BOUND, "the router heard it", || {
                let said = router.session(lab, Case::Plain)? + &router.log(lab);
                ensure!(said.contains(speakers::LAST_WORD), "{said}");
                for prefix in Case::Plain.prefixes(router) {
                    let route = router.route(lab, Case::Plain, &prefix).unwrap_or_default();
                    ensure!(!route.contains(router.no_export()), "{route}");
                }
                let line = said.lines().find(|line| line.contains(speakers::LAST_WORD)).unwrap_or_default();
                Ok(line.trim().to_owned())
            })
        });
    }
}

fn clean(lab: &Lab, evidence: &mut Evidence) {
    evidence.point("8", "Everything that was sent is clean in another reader");
    evidence.check("the captures end", || lab.end_captures().map(|()| "whole".to_owned()));
    for router in Router::ALL {
        evidence.check(
            &format!("tshark, tcpdump and bgpkit-parser find nothing wrong on the link to {}", router.name()),
            || {
                let found = bgp_capture::audit(&lab.capture(router.name()))?;
                ensure!(found.opens >= 2 * Case::ALL.len(), "{found:?}");
                Ok(format!("{found:?}"))
            },
        );
    }
}
