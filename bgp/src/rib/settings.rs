//! The table `rib` of the configuration file, and what it says of a peer's routes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bgp_core::Filter;
use bgp_wire::{Asn, RouterId};
use cloakway_runtime::config::Invalid;
use cloakway_runtime::tls::Identity;
use ipnet::IpNet;
use serde::Deserialize;

use super::look_up::Listen;

/// What is kept of a peer's routes, and what it is told of others'.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// What is kept and can be used (RFC 8212: nothing, unless the operator says so).
    pub import: Filter,
    /// Routes marked BLACKHOLE are taken (RFC 7999).
    pub accept_blackhole: bool,
    /// An external peer's paths begin with its AS (RFC 4271 §6.3).
    pub enforce_first_as: bool,
    /// Routes whose origin the RPKI calls invalid are not used (RFC 6811).
    pub reject_invalid: bool,
    /// It is told best routes of other peers.
    pub pass_on: bool,
}

impl Exchange {
    /// Whether what the peer told has to be judged again under `new`.
    pub(crate) fn judges_otherwise(&self, new: &Self) -> bool {
        Self { pass_on: new.pass_on, ..self.clone() } != *new
    }
}

/// What holds for the table as a whole.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our AS.
    pub local_as: Asn,
    /// Our router id.
    pub router_id: RouterId,
    /// The private prefixes.
    pub private: Vec<IpNet>,
    /// What may be injected here.
    pub own: Vec<IpNet>,
    /// MED is compared between neighbouring ASes too.
    pub always_compare_med: bool,
    /// Where other roles ask whose an address is.
    pub look_up_socket: Option<PathBuf>,
    /// The same by TCP.
    pub look_up_tcp: Option<Listen>,
    /// An MRT dump that decides where no peer has told.
    pub mrt: Option<PathBuf>,
    /// Where the table is written down, and how often.
    pub dump: Option<DumpTo>,
}

/// Where the table is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpTo {
    /// The file, replaced each time.
    pub file: PathBuf,
    /// How often.
    pub every: Duration,
}

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawRib {
    pub(crate) look_up_socket: Option<PathBuf>,
    #[serde(default)]
    pub(crate) always_compare_med: bool,
    mrt: Option<PathBuf>,
    dump: Option<RawDump>,
    look_up_tcp: Option<RawListen>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawListen {
    listen: Vec<SocketAddr>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl RawListen {
    fn settings(self) -> Result<Listen, Invalid> {
        let at = |field: &str, reason: String| Err(Invalid::at(format!("rib.look-up-tcp.{field}"), reason));
        if self.listen.is_empty() {
            return at("listen", "there is none: give an address and port".to_owned());
        }
        let tls = match (self.certificate, self.key, self.client_ca) {
            (Some(certificate), Some(key), Some(client_ca)) => Some((Identity { certificate, key }, client_ca)),
            (None, None, None) => None,
            (None, ..) => {
                return at("certificate", "TLS takes certificate, key and client-ca: it is missing".to_owned());
            }
            (_, None, _) => return at("key", "TLS takes certificate, key and client-ca: it is missing".to_owned()),
            (.., None) => return at("client-ca", "anybody would be let in: give the authority of askers".to_owned()),
        };
        if let Some(open) = self.listen.iter().find(|address| tls.is_none() && !address.ip().is_loopback()) {
            let reason = format!("{open} is open to other hosts: give certificate, key and client-ca beside it");
            return at("listen", reason);
        }
        Ok(Listen { listen: self.listen, tls })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDump {
    file: PathBuf,
    #[serde(default = "two_hours")]
    every_s: u32,
}

const fn two_hours() -> u32 {
    7200
}

impl RawRib {
    /// Where askers come in by TCP.
    pub(crate) fn look_up_tcp(&mut self) -> Result<Option<Listen>, Invalid> {
        self.look_up_tcp.take().map(RawListen::settings).transpose()
    }

    /// Where dumps are read from, and written to.
    pub(crate) fn dumps(&mut self) -> Result<(Option<PathBuf>, Option<DumpTo>), Invalid> {
        let no_file = "that is no file: give its path";
        if self.mrt.as_ref().is_some_and(|path| path.file_name().is_none()) {
            return Err(Invalid::at("rib.mrt", no_file));
        }
        let dump = match self.dump.take() {
            Some(dump) if dump.file.file_name().is_none() => return Err(Invalid::at("rib.dump.file", no_file)),
            Some(dump) if Some(&dump.file) == self.mrt.as_ref() => {
                return Err(Invalid::at(
                    "rib.dump.file",
                    "the file of rib.mrt: what is read there comes from elsewhere",
                ));
            }
            Some(dump) if dump.every_s == 0 => {
                return Err(Invalid::at("rib.dump.every-s", "0 is not allowed: at least 1"));
            }
            dump => dump.map(|dump| DumpTo { file: dump.file, every: Duration::from_secs(u64::from(dump.every_s)) }),
        };
        Ok((self.mrt.take(), dump))
    }
}

/// `rpki` of a peer as written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawOrigins {
    #[default]
    Mark,
    RejectInvalid,
}

/// `import` as written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RawImport {
    All,
    Nothing,
}

/// What is kept of a peer's routes: all or nothing, and of all what a list permits.
pub(crate) fn import(
    raw: Option<RawImport>,
    list: Option<&str>,
    filter: impl FnOnce(Option<&str>) -> Result<Filter, String>,
) -> Result<Filter, (&'static str, String)> {
    match (raw, list) {
        (Some(RawImport::All), list) => filter(list).map_err(|reason| ("import-prefixes", reason)),
        (None | Some(RawImport::Nothing), None) => Ok(Filter::Nothing),
        (None | Some(RawImport::Nothing), Some(_)) => {
            Err(("import-prefixes", "nothing is imported from the peer: give import = \"all\" beside it".to_owned()))
        }
    }
}
