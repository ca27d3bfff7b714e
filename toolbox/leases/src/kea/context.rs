//! What Kea keeps of a relay in a lease's user context (`store-extended-info`).

use serde_json::Value;

use crate::holder::Holder;
use crate::octets;

/// Takes the relay's options into `holder`. The forms are those of Kea 1.8 to 3.0.
pub(super) fn read(context: &Value, holder: &mut Holder) {
    let Some(isc) = context.get("ISC") else { return };
    let sub_options = match isc.get("relay-agent-info") {
        Some(Value::String(text)) => Some(text.as_str()),
        Some(object) => object.get("sub-options").and_then(Value::as_str),
        None => None,
    };
    if let Some(octets) = sub_options.and_then(octets::from_hex) {
        holder.relay4(&octets);
    }
    let relays = isc.get("relay-info").or_else(|| isc.get("relays")).and_then(Value::as_array);
    // Hop 0 is the relay that the client's message came to first: the one that knows the line.
    let hop = |relay: &&Value| relay.get("hop").and_then(Value::as_u64).unwrap_or(0);
    let nearest = relays.and_then(|relays| relays.iter().min_by_key(hop));
    let options = nearest.and_then(|relay| relay.get("options")).and_then(Value::as_str);
    if let Some(octets) = options.and_then(octets::from_hex) {
        holder.relay6(&octets);
    }
}
