//! Where orders are kept: in a journal in the data folder, or in a PostgreSQL server.

use std::path::{Path, PathBuf};

use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls;
use cloakway_store::{Postgresql, SettingsError, Store, StoreError, Tls};
use serde::Deserialize;

use crate::engine;

/// The table `[postgresql]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawPostgresql {
    connection: String,
    #[serde(default = "schema")]
    schema: String,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

fn schema() -> String {
    "transactions".to_owned()
}

impl RawPostgresql {
    /// The server, and what `check` warns of.
    ///
    /// # Errors
    /// [`Invalid`].
    pub(crate) fn validate(self) -> Result<(Postgresql, Vec<String>), Invalid> {
        let Self { connection, schema, password_file, ca } = self;
        if connection.contains("password") {
            return Err(Invalid::at("postgresql.connection", "a password does not belong here: give password-file"));
        }
        let password = password_file.map(|path| {
            let read = config::read_secret(&path).map(|password| password.expose().clone());
            read.map_err(|error| Invalid::at("postgresql.password-file", error))
        });
        let tls = ca.map(|ca| tls::client(&ca, None).map_err(|error| Invalid::at("postgresql.ca", error)));
        let tls = tls.transpose()?.map(Tls::new);
        let settings = Postgresql { connection, password: password.transpose()?, schema, tls };
        let far = settings.check().map_err(|error| {
            let field = if matches!(error, SettingsError::Schema(_)) { "schema" } else { "connection" };
            Invalid::at(format!("postgresql.{field}"), error)
        })?;
        let warnings = far.into_iter().map(|host| {
            format!("warning: {host}: what goes to this PostgreSQL server is not encrypted: give postgresql.ca")
        });
        Ok((settings, warnings.collect()))
    }
}

/// Files that are read to find a server by its name.
pub(crate) const NAMES: &[&str] = &["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf"];

/// Opens the store of the orders; what an older version kept in a file is moved into the journal.
pub(crate) async fn open(data: &Path, postgresql: Option<&Postgresql>) -> Result<Store, StoreError> {
    if let Some(settings) = postgresql {
        return Store::open_postgresql(settings);
    }
    let store = Store::open_journal(&data.join("orders"))?;
    let before = data.join("orders.redb");
    if before.exists() {
        let rows = engine::move_all(&Store::open(&before)?, &store).await?;
        let moved = data.join("orders.redb.moved");
        std::fs::rename(&before, &moved)
            .map_err(|error| StoreError::Open { path: moved.display().to_string(), reason: error.to_string() })?;
        tracing::info!(rows, "the orders of before are in the journal now");
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use cloakway_store::Batch;

    use super::*;

    #[tokio::test]
    async fn orders_that_were_kept_in_a_file_are_moved_once() {
        let folder = tempfile::tempdir().unwrap();
        let before = Store::open(&folder.path().join("orders.redb")).unwrap();
        let mut batch = Batch::new();
        for row in 0..3000_u32 {
            batch.put("orders", row.to_be_bytes(), b"order");
        }
        batch.put("meta", b"stan", 7_u32.to_be_bytes());
        before.commit(batch).await.unwrap();
        drop(before);
        for _ in 0..2 {
            let store = open(folder.path(), None).await.unwrap();
            assert_eq!(store.scan("orders").unwrap().len(), 3000);
            assert_eq!(store.get("meta", b"stan").unwrap(), Some(7_u32.to_be_bytes().to_vec()));
            assert!(folder.path().join("orders.redb.moved").exists());
            assert!(!folder.path().join("orders.redb").exists());
        }
    }

    #[test]
    fn a_server_that_cannot_be_used_is_refused_by_field() {
        let of = |connection: &str, schema: &str| {
            let raw =
                RawPostgresql { connection: connection.into(), schema: schema.into(), password_file: None, ca: None };
            raw.validate().map_err(|error| error.to_string())
        };
        let socket = "host=/run/postgresql dbname=cloakway user=cloakway";
        assert!(of(socket, "transactions").unwrap().1.is_empty());
        assert_eq!(of("host=db.example user=cloakway", "transactions").unwrap().1.len(), 1);
        assert!(of(socket, "1st").unwrap_err().contains("postgresql.schema"));
        assert!(of("nonsense", "transactions").unwrap_err().contains("postgresql.connection"));
        assert!(of("host=/run password=x", "transactions").unwrap_err().contains("password-file"));
    }
}
