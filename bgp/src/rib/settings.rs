//! The table `rib` of the configuration file, and what it says of a peer's routes.

use std::path::PathBuf;

use bgp_core::Filter;
use bgp_wire::{Asn, RouterId};
use ipnet::IpNet;
use serde::Deserialize;

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
}

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawRib {
    pub(crate) look_up_socket: Option<PathBuf>,
    #[serde(default)]
    pub(crate) always_compare_med: bool,
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
