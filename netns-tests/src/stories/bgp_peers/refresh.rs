//! Route refresh, both ways (RFC 2918), with the marks of RFC 7313 where both ends have them; read off the wire.

use anyhow::{Context, Result, ensure};
use bgp_wire::{Message, RouteRefresh};

use super::cases::Case;
use super::matrix::Feature;
use super::routers::Router;
use super::speakers::Speakers;
use super::{BOUND, Told, holds_private, sessions};
use crate::bgp_capture;
use crate::command::eventually;
use crate::lab::Lab;

pub(super) fn tell(told: &mut Told<'_>) {
    told.evidence.point("3", "Route refresh: who is asked tells everything again, and nothing is lost");
    for router in Router::ALL {
        let has = |feature: Feature| feature.lacking(router).is_none();
        let features = |asks, marks| [asks, marks].into_iter().filter(|feature| has(*feature));
        if has(Feature::ItAsks) {
            let features = features(Feature::ItAsks, Feature::MarksToIt);
            told.check(router, features, " asks again on its operator's word", |lab, speakers| {
                it_asks(lab, speakers, router, has(Feature::MarksToIt))
            });
        }
        let features = features(Feature::WeAsk, Feature::MarksFromIt);
        if has(Feature::WeAsk) {
            told.check(router, features, " is asked again on our operator's word", |lab, speakers| {
                we_ask(lab, speakers, router, has(Feature::MarksFromIt))
            });
        } else {
            told.check(router, features, " refuses to be asked, and the session stays", |lab, speakers| {
                it_refuses(lab, speakers, router)
            });
        }
    }
}

fn it_asks(lab: &Lab, speakers: &Speakers<'_>, router: Router, marks: bool) -> Result<String> {
    let before = speakers.session(router, Case::Plain)?;
    let wire = Wire::new(lab, router, router.address(Case::Plain), Case::Plain.local(router))?;
    router.ask_again(lab)?;
    let seen = wire.shows(marks)?;
    let now = speakers.session(router, Case::Plain)?;
    ensure!(now.refreshes_received > before.refreshes_received, "{now:?}");
    ensure!(now.flaps == before.flaps, "the session was lost: {now:?}");
    holds_private(lab, router, Case::Plain)?;
    Ok(seen)
}

fn we_ask(lab: &Lab, speakers: &Speakers<'_>, router: Router, marks: bool) -> Result<String> {
    let before = speakers.session(router, Case::Plain)?;
    let wire = Wire::new(lab, router, Case::Plain.local(router), router.address(Case::Plain))?;
    speakers.ask_again(router, Case::Plain)?;
    let seen = wire.shows(marks)?;
    let now = speakers.session(router, Case::Plain)?;
    ensure!(now.flaps == before.flaps, "the session was lost: {now:?}");
    for prefix in Case::Plain.heard(router) {
        sessions::heard(speakers, router, Case::Plain, &prefix)?;
    }
    Ok(seen)
}

/// OpenBGPD 7.7 takes every request for one of a family that was not negotiated.
fn it_refuses(lab: &Lab, speakers: &Speakers<'_>, router: Router) -> Result<String> {
    let before = speakers.session(router, Case::Plain)?;
    speakers.ask_again(router, Case::Plain)?;
    let line = eventually(BOUND, "its log says so", || {
        let log = router.log(lab);
        let line = log.lines().find(|line| line.contains("(plain): route refresh: AID IPv6 unicast not negotiated"));
        line.map(str::to_owned).context("not yet")
    })?;
    let now = speakers.session(router, Case::Plain)?;
    ensure!(now.flaps == before.flaps, "the session was lost: {now:?}");
    Ok(line)
}

/// The capture of a session, from the moment on that this was made.
struct Wire<'a> {
    lab: &'a Lab,
    router: Router,
    asks: String,
    answers: String,
    /// How many messages of each there were already.
    before: [usize; 2],
}

impl<'a> Wire<'a> {
    fn new(lab: &'a Lab, router: Router, asks: String, answers: String) -> Result<Self> {
        let mut wire = Self { lab, router, asks, answers, before: [0; 2] };
        wire.before = wire.said()?.map(|said| said.len());
        Ok(wire)
    }

    /// What who asks and who answers have said since then.
    fn said(&self) -> Result<[Vec<Message>; 2]> {
        let talks = bgp_capture::conversations(&self.lab.capture(self.router.name()))?;
        let talks: Vec<_> = talks.iter().filter(|talk| talk.is_between(&self.asks, &self.answers)).collect();
        let by = |who: &str, before: usize| {
            talks.iter().flat_map(|talk| talk.said_by(who)).skip(before).cloned().collect::<Vec<_>>()
        };
        Ok([by(&self.asks, self.before[0]), by(&self.answers, self.before[1])])
    }

    /// Waits until there is a request, and an answer, between its marks if it has any.
    fn shows(&self, marks: bool) -> Result<String> {
        eventually(BOUND, "the request and its answer are on the wire", || {
            let [asked, answered] = self.said()?;
            let of = |subtype: u8| move |message: &Message| matches!(message, Message::RouteRefresh(refresh) if refresh.subtype == subtype);
            let requests = asked.iter().filter(|message| of(RouteRefresh::REQUEST)(message)).count();
            ensure!(requests > 0, "no request");
            let (first, last) = if marks {
                let begins = answered.iter().position(of(RouteRefresh::BEGIN));
                let ends = answered.iter().rposition(of(RouteRefresh::END));
                (begins.context("no BoRR")?, ends.context("no EoRR")?)
            } else {
                (0, answered.len())
            };
            let updates = answered.get(first..last).unwrap_or_default();
            let updates = updates.iter().filter(|message| matches!(message, Message::Update(_))).count();
            ensure!(updates > 0, "no UPDATE in answer");
            let between = if marks { "BoRR, " } else { "" };
            let behind = if marks { ", EoRR" } else { "" };
            let (asks, answers) = (&self.asks, &self.answers);
            Ok(format!("{requests} ROUTE-REFRESH of {asks}; {between}{updates} UPDATEs{behind} of {answers}"))
        })
    }
}
