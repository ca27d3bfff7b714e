//! `[[result-secrets]]`: vendors whose results are signed by HMAC too (A14).

use std::collections::BTreeMap;
use std::path::PathBuf;

use cloakway_runtime::config::{self, Invalid};
use cloakway_types::VendorId;
use serde::Deserialize;
use transact_wire::hmac_secret::HmacSecret;

/// Secrets of vendors, each of which signs.
pub(crate) type ResultSecrets = BTreeMap<VendorId, Vec<HmacSecret>>;

/// Secrets that a vendor may have at a time: the one that is used, and the one that follows it.
const SECRETS: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawResultSecret {
    vendor: String,
    secret_files: Vec<PathBuf>,
}

pub(crate) fn validate(raw: Vec<RawResultSecret>) -> Result<ResultSecrets, Invalid> {
    let mut secrets = ResultSecrets::new();
    for (at, entry) in raw.into_iter().enumerate() {
        let field = |name: &str| format!("result-secrets[{at}].{name}");
        let vendor: VendorId = entry.vendor.parse().map_err(|error| Invalid::at(field("vendor"), error))?;
        let count = entry.secret_files.len();
        if !(1..=SECRETS).contains(&count) {
            return Err(Invalid::at(field("secret-files"), format!("{count} files: give 1 to {SECRETS}")));
        }
        let mut of_vendor = Vec::new();
        for (index, path) in entry.secret_files.iter().enumerate() {
            let field = format!("{}[{index}]", field("secret-files"));
            let text = config::read_secret(path).map_err(|error| Invalid::at(field.clone(), error))?;
            of_vendor.push(HmacSecret::parse(&text).map_err(|error| Invalid::at(field, error))?);
        }
        if secrets.insert(vendor.clone(), of_vendor).is_some() {
            return Err(Invalid::at(field("vendor"), format!("{vendor} is there twice: give all of its files once")));
        }
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_and_what_is_wrong_is_told_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
        std::fs::write(&good, format!("{}\n", HmacSecret::from_bytes(&[1; 32]).reveal().expose())).unwrap();
        std::fs::write(&bad, "whsec_AAAA").unwrap();
        let entry = |vendor: &str, files: &[&PathBuf]| RawResultSecret {
            vendor: vendor.to_owned(),
            secret_files: files.iter().map(|path| (*path).clone()).collect(),
        };
        let secrets = validate(vec![entry("shop", &[&good, &good])]).unwrap();
        assert_eq!(secrets[&"shop".parse().unwrap()].len(), 2);
        for (entries, says) in [
            (vec![entry("a b", &[&good])], "result-secrets[0].vendor"),
            (vec![entry("a", &[])], "result-secrets[0].secret-files: 0 files: give 1 to 4"),
            (vec![entry("a", &[&good, &bad])], "result-secrets[0].secret-files[1]: a secret is whsec_"),
            (vec![entry("a", &[&good]), entry("a", &[&good])], "result-secrets[1].vendor: a is there twice"),
        ] {
            let error = validate(entries).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
