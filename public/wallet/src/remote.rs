//! Messages over HTTP and TLS 1.3: to the server at the private network address, and to payees.

use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use cloakway_crypto::encode;
use cloakway_runtime::http::{Client, ClientError};
use cloakway_runtime::tls::{self, TlsError};
use ecash_wire::suite::{ServerKey, Suite};

/// Longer than the server waits for an issuer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why somebody was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// The certificate authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No connection, or no answer in time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An answer that is none.
    #[error("{url}: {reason}")]
    Answer {
        /// Who was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The ways out of a wallet.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    server: String,
}

impl Remote {
    /// To the server at `server`, certified by an authority in `ca`, as payees are.
    ///
    /// # Errors
    /// [`Unreached::Tls`].
    pub fn new(server: &str, ca: &Path) -> Result<Self, Unreached> {
        let client = Client::new(tls::client(ca, None)?, None)?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned() })
    }

    /// Where messages for the server go.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("{}/v1/ecash", self.server)
    }

    /// Posts a message; the message that answers it, if one does.
    ///
    /// # Errors
    /// [`Unreached`].
    pub async fn post(&self, url: &str, message: Vec<u8>) -> Result<Option<Vec<u8>>, Unreached> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let answer = self.client.send(Method::POST, url, headers, message, PATIENCE).await?;
        match answer.status() {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED => Ok(None),
            status if status.is_success() => Ok(Some(answer.into_body().to_vec())),
            status => {
                let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
                let told = body.pointer("/error/message").and_then(|text| text.as_str()).unwrap_or_default();
                Err(Unreached::Answer { url: url.to_owned(), reason: format!("{status} {told}").trim().to_owned() })
            }
        }
    }

    /// The server's public keys of `suite`, the one to take first. That they are its own is what its certificate says.
    ///
    /// # Errors
    /// [`Unreached`], also when there is none.
    pub async fn keys(&self, suite: Suite) -> Result<Vec<ServerKey>, Unreached> {
        let url = format!("{}/v1/ecash/keys", self.server);
        let wrong = |reason: &str| Unreached::Answer { url: url.clone(), reason: reason.to_owned() };
        let answer = self.client.send(Method::GET, &url, HeaderMap::new(), Vec::new(), PATIENCE).await?;
        if !answer.status().is_success() {
            return Err(wrong(&format!("{}: does this server serve electronic cash?", answer.status())));
        }
        let body: serde_json::Value =
            serde_json::from_slice(answer.body()).map_err(|error| wrong(&error.to_string()))?;
        let rows = body.get("keys").and_then(|keys| keys.as_array()).ok_or_else(|| wrong("no keys"))?;
        let text = |row: &serde_json::Value, name: &str| row.get(name).and_then(|v| v.as_str()).map(str::to_owned);
        let mut keys = Vec::new();
        for row in rows.iter().filter(|row| text(row, "suite").as_deref() == Some(suite.name())) {
            let bytes = text(row, "key").and_then(|key| encode::unbase64(&key));
            let (Some(id), Some(bytes)) = (text(row, "id"), bytes) else { return Err(wrong("a key without id")) };
            keys.push(ServerKey::from_bytes(&id, suite, &bytes).map_err(|error| wrong(&error.to_string()))?);
        }
        if keys.is_empty() {
            return Err(wrong(&format!("the server has no key of the suite {}", suite.name())));
        }
        Ok(keys)
    }
}
