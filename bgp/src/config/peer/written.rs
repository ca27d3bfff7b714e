//! The tables as they are written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use bgp_core::Helper;
use serde::Deserialize;

use crate::rib::settings::{RawImport, RawOrigins};

/// Makes the tables that hold settings of a peer: the peer's own, and a group's, whose settings count where the peer
/// has none.
macro_rules! peer_settings {
    ($($field:ident: $type:ty,)*) => {
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(in crate::config) struct RawPeer {
            #[serde(default)]
            pub(super) name: String,
            pub(super) address: Option<IpAddr>,
            pub(super) group: Option<String>,
            $(pub(super) $field: Option<$type>,)*
        }

        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(in crate::config) struct RawGroup {
            pub(super) name: String,
            $(pub(super) $field: Option<$type>,)*
        }

        impl RawPeer {
            /// Takes what it has not from `group`, and says which those were.
            pub(super) fn inherit(&mut self, group: &RawGroup) -> BTreeSet<&'static str> {
                let mut inherited = BTreeSet::new();
                $(if self.$field.is_none() && group.$field.is_some() {
                    self.$field = group.$field.clone();
                    inherited.insert(stringify!($field));
                })*
                inherited
            }
        }
    };
}

peer_settings! {
    port: u16,
    remote_as: u32,
    local_address: IpAddr,
    hold_time_s: u16,
    passive: bool,
    export: RawExport,
    export_prefixes: String,
    import: RawImport,
    import_prefixes: String,
    rpki: RawOrigins,
    accept_blackhole: bool,
    enforce_first_as: bool,
    pass_on: bool,
    pass_on_stale: bool,
    delay_open_s: u16,
    add_path: bool,
    keep: bool,
    keep_s: u32,
    sets: Vec<String>,
    graceful_restart: RawHelper,
    max_prefix: RawMaxPrefix,
    flowspec: bool,
    role: RawRole,
    strict_role: bool,
    md5_password_file: PathBuf,
    ao_keys: Vec<RawAoKey>,
    ttl_security_hops: NonZeroU8,
    bfd: RawBfd,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawBfd {
    pub(super) interval_ms: u32,
    #[serde(default = "three")]
    pub(super) multiplier: NonZeroU8,
}

const fn three() -> NonZeroU8 {
    NonZeroU8::MIN.saturating_add(2)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawAoKey {
    pub(super) id: u8,
    pub(super) recv_id: u8,
    pub(super) algorithm: RawAlgorithm,
    pub(super) key_file: PathBuf,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) enum RawAlgorithm {
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    #[serde(rename = "aes-128-cmac-96")]
    AesCmac,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawMaxPrefix {
    pub(super) limit: u32,
    #[serde(default = "three_quarters")]
    pub(super) warn_percent: u8,
    #[serde(default)]
    pub(super) action: RawAction,
    pub(super) restart_s: Option<u32>,
}

const fn three_quarters() -> u8 {
    75
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawAction {
    Warn,
    #[default]
    Idle,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawHelper {
    #[serde(default = "two_minutes")]
    pub(super) restart_s: u16,
    #[serde(default)]
    pub(super) long_lived_s: u32,
}

const fn two_minutes() -> u16 {
    120
}

impl RawHelper {
    pub(super) fn helper(self) -> Helper {
        Helper {
            restart: Duration::from_secs(u64::from(self.restart_s)),
            long_lived: Duration::from_secs(u64::from(self.long_lived_s)),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawExport {
    All,
    Injected,
    Private,
    Nothing,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawRole {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

impl RawPeer {
    /// One with nothing of its own but an AS, if there is one.
    pub(in crate::config) fn of_group(group: String, remote_as: Option<u32>) -> Self {
        Self { group: Some(group), remote_as, ..Self::default() }
    }
}
