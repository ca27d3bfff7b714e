//! What happens in a session, for the log.

use bgp_core::Event;

pub(super) fn log(event: &Event) {
    match event {
        Event::Up(negotiated) => {
            let families: Vec<String> = negotiated.families.iter().map(ToString::to_string).collect();
            tracing::info!(
                router_id = %negotiated.router_id,
                hold_time_s = negotiated.hold_time.as_secs(),
                families = families.join(","),
                "session established"
            );
        }
        Event::Down(reason) => tracing::warn!(%reason, "session closed"),
        Event::Failed(reason) => tracing::info!(%reason, "connection ended before the session was established"),
        Event::Flaw(flaw) => {
            tracing::warn!(%flaw, "damaged UPDATE: its routes count as withdrawn or it loses an attribute")
        }
        Event::FamilyDisabled(family) => {
            tracing::warn!(%family, "damaged UPDATE: the family is no longer listened to in this session (RFC 7606)");
        }
        Event::MulticastPrefix(prefix) => {
            tracing::warn!(%prefix, "the peer announces a prefix of multicast groups among unicast: it is left out");
        }
        Event::FlowDisabled(family) => {
            tracing::warn!(%family, "damaged flow rules: they are no longer listened to in this session (RFC 7606)");
        }
        Event::ManyPrefixes { family, held, limit } => {
            tracing::warn!(%family, held, limit, "the peer tells nearly as many routes as it may, or more");
        }
        Event::RouteLeak(prefix) => {
            tracing::warn!(%prefix, "the peer passes on a route that it must keep (RFC 9234)");
        }
        Event::PrivatePrefixReceived { received, ours } => {
            tracing::warn!(%received, %ours, "the peer announces a private prefix of ours");
        }
    }
}
