//! The certificates of both sides: read at the start, and again when the server is told to. Connections that are open go on.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cloakway_runtime::clock;
use cloakway_runtime::tls::{self, Current, Identity, ServerConfig, TlsError};
use cloakway_types::Timestamp;
use serde_json::{Value, json};

use crate::config::Config;

/// One side's.
#[derive(Debug)]
struct Side {
    name: &'static str,
    identity: Identity,
    client_ca: Option<PathBuf>,
    /// What the certificate has to be valid for, as clients see to it.
    names: Vec<String>,
    current: Current,
    valid_until: Mutex<Timestamp>,
}

type Read = (std::sync::Arc<ServerConfig>, Timestamp);

fn read(identity: &Identity, client_ca: Option<&PathBuf>, names: &[String]) -> Result<Read, TlsError> {
    let config = tls::server(identity, client_ca.map(PathBuf::as_path))?;
    Ok((config, tls::valid_until(identity, names, clock::wall())?))
}

impl Side {
    fn open(
        name: &'static str,
        identity: &Identity,
        client_ca: Option<&PathBuf>,
        names: Vec<String>,
    ) -> Result<Self, TlsError> {
        let (config, until) = read(identity, client_ca, &names)?;
        Ok(Self {
            name,
            identity: identity.clone(),
            client_ca: client_ca.cloned(),
            names,
            current: config.into(),
            valid_until: Mutex::new(until),
        })
    }

    fn read(&self) -> Result<Read, TlsError> {
        read(&self.identity, self.client_ca.as_ref(), &self.names)
    }

    fn put(&self, (config, until): Read) {
        self.current.replace(config);
        *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.count();
    }

    fn until(&self) -> Timestamp {
        *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a date")]
        metrics::gauge!("cloakway_certificate_valid_until_seconds", "side" => self.name)
            .set(self.until().as_secs() as f64);
    }
}

/// Both sides'.
#[derive(Debug)]
pub(crate) struct Certificates {
    private: Side,
    management: Side,
}

/// Every file that is read.
pub(crate) fn files(config: &Config) -> Vec<PathBuf> {
    let (private, management) = (&config.private.identity, &config.management.identity);
    let identities = [private, management].into_iter().flat_map(|identity| [&identity.certificate, &identity.key]);
    identities.chain([&config.management.client_ca]).cloned().collect()
}

impl Certificates {
    pub(crate) fn read(config: &Config) -> Result<Self, TlsError> {
        // Payers are sent to addresses; by which name facilitation knows us, facilitation says.
        let addresses = config.private.cloak.addresses.iter().map(ToString::to_string).collect();
        let management = &config.management;
        let certificates = Self {
            private: Side::open("private", &config.private.identity, None, addresses)?,
            management: Side::open("management", &management.identity, Some(&management.client_ca), Vec::new())?,
        };
        certificates.sides().for_each(Side::count);
        Ok(certificates)
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        [&self.private, &self.management].into_iter()
    }

    pub(crate) fn private(&self) -> Current {
        self.private.current.clone()
    }

    pub(crate) fn management(&self) -> Current {
        self.management.current.clone()
    }

    /// Reads all of them again; either all are good and in force from now on, or nothing has changed.
    pub(crate) fn reload(&self) -> Result<Value, String> {
        let read = || {
            let private = self.private.read()?;
            Ok::<_, TlsError>((private, self.management.read()?))
        };
        let (private, management) = read().map_err(|error| {
            metrics::counter!("cloakway_certificate_reloads_total", "outcome" => "refused").increment(1);
            format!("{error}: the certificates of before stay")
        })?;
        self.private.put(private);
        self.management.put(management);
        metrics::counter!("cloakway_certificate_reloads_total", "outcome" => "done").increment(1);
        Ok(self.show())
    }

    /// For `show`.
    pub(crate) fn show(&self) -> Value {
        self.sides()
            .map(|side| {
                json!({
                    "side": side.name,
                    "certificate": side.identity.certificate,
                    "valid_until": side.until().to_string(),
                })
            })
            .collect()
    }
}
