//! The table `[history]`: how long it is kept who was where, and in which store.

use std::path::PathBuf;
use std::time::Duration;

use cloakway_runtime::config::{Invalid, read_secret};
use cloakway_runtime::tls::{self, Identity};
use cloakway_store::{Postgresql, Tls};
use serde::Deserialize;

const WAITING: usize = 10_000;

/// The history as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long it is kept.
    pub retention: Duration,
    /// Where; none: in the data folder.
    pub postgresql: Option<Postgresql>,
    /// How many intervals may wait in memory for a server that is away; more wait in the data folder.
    pub waiting: usize,
    /// What `check` warns of.
    pub warnings: Vec<String>,
}

impl Settings {
    /// In the data folder.
    #[must_use]
    pub fn embedded(retention: Duration) -> Self {
        Self { retention, postgresql: None, waiting: WAITING, warnings: Vec::new() }
    }
}

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Raw {
    retention_days: u64,
    postgresql: Option<RawPostgresql>,
}

impl Default for Raw {
    fn default() -> Self {
        Self { retention_days: 90, postgresql: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPostgresql {
    connection: String,
    #[serde(default = "toolbox")]
    schema: String,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default = "waiting")]
    waiting: usize,
}

fn waiting() -> usize {
    WAITING
}

fn toolbox() -> String {
    "toolbox".to_owned()
}

impl RawPostgresql {
    fn tls(&self) -> Result<Option<Tls>, Invalid> {
        let field = |name: &str| format!("history.postgresql.{name}");
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.clone(), key: key.clone() }),
            (None, None) => None,
            _ => return Err(Invalid::at(field("certificate"), "certificate and key go together")),
        };
        let Some(ca) = &self.ca else {
            return match identity {
                None => Ok(None),
                Some(_) => Err(Invalid::at(field("ca"), "give the authority that the server's certificate is from")),
            };
        };
        let config = tls::client(ca, identity.as_ref()).map_err(|error| Invalid::at(field("ca"), error))?;
        Ok(Some(Tls::new(config)))
    }
}

impl Raw {
    pub(crate) fn validate(self) -> Result<Settings, Invalid> {
        let days = self.retention_days;
        if days > 3650 {
            return Err(Invalid::at("history.retention-days", format!("{days} days are not allowed: 0 to 3650")));
        }
        let mut settings = Settings::embedded(Duration::from_secs(days * 86_400));
        if let Some(raw) = self.postgresql {
            let tls = raw.tls()?;
            let RawPostgresql { connection, schema, password_file, waiting, .. } = raw;
            let field = |name: &str| format!("history.postgresql.{name}");
            if connection.contains("password") {
                let reason = "a password does not belong here: give password-file";
                return Err(Invalid::at(field("connection"), reason));
            }
            let password = password_file.map(|path| {
                let read = read_secret(&path).map(|password| password.expose().clone());
                read.map_err(|error| Invalid::at(field("password-file"), format!("{}: {error}", path.display())))
            });
            let postgresql = Postgresql { connection, password: password.transpose()?, schema, tls };
            let far = postgresql.check().map_err(|error| {
                let of_schema = matches!(error, cloakway_store::SettingsError::Schema(_));
                Invalid::at(field(if of_schema { "schema" } else { "connection" }), error)
            })?;
            for host in far {
                let warning = "what goes to this PostgreSQL server is not encrypted: give history.postgresql.ca";
                settings.warnings.push(format!("{host}: {warning}"));
            }
            if !(1..=10_000_000).contains(&waiting) {
                return Err(Invalid::at(field("waiting"), format!("{waiting} is not allowed: 1 to 10000000")));
            }
            settings.waiting = waiting;
            settings.postgresql = Some(postgresql);
        }
        Ok(settings)
    }
}
