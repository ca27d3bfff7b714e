//! Asking a NAS whether a session still lives there (RFC 5176), or a neighbour by ARP and ND, when a caller wants to know now.
//!
//! Only NASes are asked that the configuration names for it, by a request that changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_runtime::clock;
use cloakway_types::SubscriberId;
use ipnet::IpNet;
use metrics::counter;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use toolbox_core::SessionKey;
use toolbox_wire::http::Source;
use toolbox_wire::probe::Probed;
use toolbox_wire::radius::dynamic::{self, Question, Said};
use toolbox_wire::radius::{MAX_LENGTH, Packet};

use crate::sources::probe::Lans;

/// Questions on their way at once; over it nobody is asked.
const AT_ONCE: usize = 256;
/// How often a question is sent within its time.
const TRIES: u32 = 3;

/// A client whose NASes may be asked.
#[derive(Debug, Clone)]
pub struct Nases {
    /// The client's name.
    pub client: String,
    /// Where its NASes are.
    pub prefix: IpNet,
    /// Where they take questions.
    pub port: u16,
    /// The secret that we share with them.
    pub secret: Secret<String>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Nases {
    /// Where the NAS of this session is, if it says so and is where the client is.
    fn place(&self, session: &SessionKey) -> Option<IpAddr> {
        let stated = [session.nas.v4.map(IpAddr::V4), session.nas.v6.map(IpAddr::V6)];
        let one = self.prefix.addr();
        let alone = self.prefix.prefix_len() == self.prefix.max_prefix_len();
        let inside = stated.into_iter().flatten().find(|at| self.prefix.contains(at));
        inside.or(Some(one).filter(|_| alone))
    }
}

/// Asks NASes. Clones share it.
#[derive(Debug, Clone)]
pub struct Prober(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nases: Vec<Nases>,
    lans: Lans,
    places: Semaphore,
    next: AtomicU8,
}

impl Prober {
    /// Asks these.
    #[must_use]
    pub fn new(nases: Vec<Nases>, lans: Lans) -> Self {
        Self(Arc::new(Shared { nases, lans, places: Semaphore::new(AT_ONCE), next: AtomicU8::default() }))
    }

    /// Whether `session` of `user` at `address` is still there. The time that this takes is bounded.
    pub async fn ask(&self, session: &SessionKey, user: &SubscriberId, address: IpAddr) -> Probed {
        if session.source == Source::Neighbour && self.0.lans.has(session) {
            let Ok(_place) = self.0.places.try_acquire() else { return Probed::Busy };
            let probed = self.0.lans.ask(session, user).await;
            counter!("toolbox_probes_total", "client" => session.client.clone(), "answer" => probed.as_str())
                .increment(1);
            return probed;
        }
        let nases = self.0.nases.iter().find(|nases| nases.client == session.client);
        let place = nases.and_then(|nases| Some((nases, nases.place(session)?)));
        let Some((nases, at)) = place else { return Probed::NotOffered };
        let Ok(_place) = self.0.places.try_acquire() else { return Probed::Busy };
        let probed = self.question(nases, at, session, user, address).await.unwrap_or(Probed::Silent);
        counter!("toolbox_probes_total", "client" => nases.client.clone(), "answer" => probed.as_str()).increment(1);
        if probed == Probed::Gone {
            tracing::warn!(client = nases.client, "a NAS does not know a session that it did not stop");
        }
        probed
    }

    async fn question(
        &self,
        nases: &Nases,
        at: IpAddr,
        session: &SessionKey,
        user: &SubscriberId,
        address: IpAddr,
    ) -> Option<Probed> {
        let identifier = self.0.next.fetch_add(1, Ordering::Relaxed);
        let secret = nases.secret.expose().as_bytes();
        // A port block is a session of ours: its name has the address behind that of the NAS's session.
        let name = match session.session.rsplit_once(' ') {
            Some((name, block)) if block.starts_with(&format!("{address}:")) => name,
            _ => &session.session,
        };
        let question = Question { session: name, user: Some(user.as_str()), nas: &session.nas, address: Some(address) };
        let now = u32::try_from(clock::wall().as_secs()).unwrap_or(u32::MAX);
        let request = dynamic::request(&question, identifier, now, secret).ok()?;
        let authenticator = Packet::parse(&request).ok()?.authenticator();
        let any: SocketAddr = if at.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.ok()?;
        // From now on nobody else is heard.
        socket.connect((at, nases.port)).await.ok()?;
        let mut buffer = vec![0; MAX_LENGTH + 1];
        let end = Instant::now() + nases.patience;
        for _ in 0..TRIES {
            let _ = socket.send(&request).await;
            let again = end.min(Instant::now() + nases.patience / TRIES);
            while let Ok(received) = timeout_at(again, socket.recv(&mut buffer)).await {
                let Ok(length) = received else {
                    // Nobody listens there; the next sending may find somebody.
                    tokio::time::sleep_until(again).await;
                    break;
                };
                let bytes = buffer.get(..length).unwrap_or_default();
                let Ok(packet) = Packet::parse(bytes) else { continue };
                match dynamic::answer(packet, identifier, &authenticator, secret) {
                    Ok(Said::There) => return Some(Probed::There),
                    Ok(Said::Gone) => return Some(Probed::Gone),
                    Ok(Said::Refused(_)) => return Some(Probed::Refused),
                    // From whom does not know the secret: the answer may still come.
                    Err(_) => {}
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_wire::record::Nas;

    #[test]
    fn a_nas_is_asked_where_its_client_is() {
        let nases = |prefix: &str| Nases {
            client: "edge".into(),
            prefix: prefix.parse().unwrap(),
            port: 3799,
            secret: Secret::from("secret"),
            patience: Duration::from_secs(1),
        };
        let session = |v4: Option<[u8; 4]>| SessionKey {
            source: Source::Radius,
            client: "edge".into(),
            session: "s".into(),
            nas: Nas { v4: v4.map(Into::into), ..Nas::default() },
        };
        let at = |prefix: &str, v4| nases(prefix).place(&session(v4)).map(|at| at.to_string());
        assert_eq!(at("192.0.2.1/32", None).as_deref(), Some("192.0.2.1"));
        assert_eq!(at("192.0.2.0/24", Some([192, 0, 2, 9])).as_deref(), Some("192.0.2.9"));
        assert_eq!(at("192.0.2.0/24", Some([203, 0, 113, 9])), None, "a NAS says who it is, and not whom we ask");
        assert_eq!(at("192.0.2.0/24", None), None);
    }
}
