//! Which addresses have a subscriber now, told to the forwarder by the topic `prefixes` of the admin socket.
//!
//! Without names: only what is needed to know whose packets are subscribers'. An address that is disputed, stale or without
//! a usable name has none.

use cloakway_runtime::admin::Request;
use forwarder_wire::prefixes::{Answer, Question};
use ipnet::IpNet;
use serde_json::Value;

use crate::bindings::Bindings;

/// What a binding is called whose subscriber is known.
const BOUND: &str = "bound";

/// Answers `{"topic":"prefixes"}`.
///
/// # Errors
/// For arguments that are wrong, or that only routes have.
pub(crate) fn answer(bindings: &Bindings, request: &Request) -> Result<Value, String> {
    let question = Question::read(|name| request.argument(name)).map_err(|error| error.to_string())?;
    if !(question.communities.is_empty() && question.origin_as.is_empty() && question.neighbours.is_empty()) {
        return Err("the toolbox has no routes: community, origin-as and neighbour are for the bgp-speaker".to_owned());
    }
    let bound = bindings.list().into_iter().filter(|binding| binding.state == BOUND).map(|binding| binding.prefix);
    let found: Vec<IpNet> = bound.filter(|prefix| question.is_within(prefix)).collect();
    serde_json::to_value(Answer::new(&question, &found)).map_err(|error| error.to_string())
}
