//! Which prefixes are subscribers', told to the forwarder by the topic `prefixes` of the admin socket: those of best routes of
//! peers that fit what it asks.

use bgp_rib::{Match, Standing};
use bgp_wire::{Asn, Attributes, Community, Family, LargeCommunity};
use cloakway_runtime::admin::Request;
use forwarder_wire::prefixes::{Answer, Question};
use ipnet::IpNet;

use super::{SLICE, Table};

/// What of an asker's question is about routes.
struct Wanted {
    communities: Vec<Community>,
    large: Vec<LargeCommunity>,
    origins: Vec<Asn>,
    neighbours: Vec<String>,
}

impl Wanted {
    fn of(question: &Question) -> Result<Self, String> {
        let (mut communities, mut large) = (Vec::new(), Vec::new());
        for text in &question.communities {
            match text.parse() {
                Ok(community) => communities.push(community),
                Err(error) => large.push(text.parse().map_err(|_| format!("{error}; or three numbers"))?),
            }
        }
        let origins = question.origin_as.iter().copied().map(Asn).collect();
        Ok(Self { communities, large, origins, neighbours: question.neighbours.clone() })
    }

    fn takes_peer(&self, name: &str) -> bool {
        self.neighbours.is_empty() || self.neighbours.iter().any(|wanted| wanted == name)
    }

    fn takes(&self, found: &Match<'_>) -> bool {
        let best = found.paths.iter().find(|path| path.standing == Standing::Best);
        best.is_some_and(|path| self.takes_peer(path.peer_name) && self.takes_attributes(&path.attributes))
    }

    fn takes_attributes(&self, attributes: &Attributes) -> bool {
        let marked = (self.communities.is_empty() && self.large.is_empty())
            || attributes.communities.iter().any(|has| self.communities.contains(has))
            || attributes.large_communities.iter().any(|has| self.large.contains(has));
        let origin = attributes.as_path.as_ref().and_then(|path| path.origin());
        marked && (self.origins.is_empty() || origin.is_some_and(|origin| self.origins.contains(&origin)))
    }
}

impl Table {
    /// Answers `{"topic":"prefixes"}`: not ready while none of the peers in question has told all of its routes.
    ///
    /// # Errors
    /// For arguments that are wrong, and for a peer that there is not.
    pub(crate) async fn prefixes(&self, request: &Request) -> Result<Answer, String> {
        let question = Question::read(|name| request.argument(name)).map_err(|error| error.to_string())?;
        let wanted = Wanted::of(&question)?;
        if let Some(stranger) = wanted.neighbours.iter().find(|name| !self.lock().peers.contains_key(*name)) {
            return Err(format!("no peer is called {stranger:?}"));
        }
        if let Err(why) = self.readiness_of(|name| wanted.takes_peer(name)) {
            return Ok(Answer::not_ready(why));
        }
        let mut prefixes: Vec<IpNet> = Vec::new();
        for family in Family::ALL {
            let mut from = 0;
            loop {
                let places = {
                    let inner = self.lock();
                    let list = inner.rib.list_of(family, (from, SLICE), |prefix| question.is_within(prefix));
                    prefixes.extend(list.filter(|found| wanted.takes(found)).map(|found| found.prefix));
                    inner.rib.places(family)
                };
                from = from.saturating_add(SLICE);
                if from >= places {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // What was lost while it was read is not all that there is.
        if let Err(why) = self.readiness_of(|name| wanted.takes_peer(name)) {
            return Ok(Answer::not_ready(why));
        }
        Ok(Answer::new(&question, &prefixes))
    }
}
