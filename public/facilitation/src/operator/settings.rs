//! `[admin]`: the pages for operators.

use std::net::SocketAddr;
use std::path::PathBuf;

use cloakway_crypto::encode;
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls::Identity;
use serde::Deserialize;

/// Where operators sign in.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// On this host.
    pub listen: SocketAddr,
    /// The certificate of the pages.
    pub identity: Identity,
    /// Who may sign in.
    pub operators: Vec<Operator>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name in the audit log.
    pub name: String,
    /// SHA-256 of the token.
    pub token_sha256: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawAdmin {
    listen: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    operators: Vec<RawOperator>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawOperator {
    name: String,
    token_sha256_file: PathBuf,
}

impl RawAdmin {
    pub(crate) fn validate(self) -> Result<AdminConfig, Invalid> {
        if !self.listen.ip().is_loopback() {
            let reason =
                format!("{} can be reached by others: give 127.0.0.1 or [::1], and a tunnel to it", self.listen);
            return Err(Invalid::at("admin.listen", reason));
        }
        if self.operators.is_empty() {
            return Err(Invalid::at("admin.operators", "nobody could sign in: give at least one"));
        }
        let mut operators: Vec<Operator> = Vec::new();
        for (at, operator) in self.operators.into_iter().enumerate() {
            let field = |name: &str| format!("admin.operators[{at}].{name}");
            let fits =
                (1..=40).contains(&operator.name.chars().count()) && !operator.name.chars().any(char::is_control);
            if !fits {
                return Err(Invalid::at(field("name"), "1 to 40 characters are needed: it stands in the audit log"));
            }
            let digest = config::read_secret(&operator.token_sha256_file)
                .map_err(|error| Invalid::at(field("token-sha256-file"), error))?;
            let token_sha256 = encode::unhex(digest.expose()).filter(|digest| digest.len() == 32).ok_or_else(|| {
                let reason = "the file has to hold the SHA-256 of the operator's token: 64 hexadecimal digits";
                Invalid::at(field("token-sha256-file"), reason)
            })?;
            if operators.iter().any(|other| other.name == operator.name || other.token_sha256 == token_sha256) {
                return Err(Invalid::at(field("name"), "this name or this token is another operator's too"));
            }
            operators.push(Operator { name: operator.name, token_sha256 });
        }
        let identity = Identity { certificate: self.certificate, key: self.key };
        Ok(AdminConfig { listen: self.listen, identity, operators })
    }
}
