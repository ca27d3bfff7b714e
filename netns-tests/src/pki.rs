//! Certificates and secrets, made afresh for each run and declared in the topology.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use cloakway_crypto::encode::{base64, hex};
use cloakway_crypto::hash::sha256;
use cloakway_crypto::sign::SigningKey;
use cloakway_crypto::{Randomness, Secret, System};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::topology::{Certificate, Pki, SecretKind, SecretSpec};

/// Writes the authority and everything that it signs to `folder`.
///
/// # Errors
/// A subject that is no name, or a file that cannot be written.
pub fn issue(pki: &Pki, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, pki.authority.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    for certificate in &pki.certificates {
        let (chain, key) =
            sign(certificate, &authority).with_context(|| format!("certificate {}", certificate.name))?;
        fs::write(folder.join(format!("{}.pem", certificate.name)), chain)?;
        write_secret(&folder.join(format!("{}.key", certificate.name)), &key)?;
    }
    Ok(())
}

/// Writes each secret, and what others may know of it, to `folder`.
///
/// # Errors
/// A file that cannot be written.
pub fn make_secrets(secrets: &[SecretSpec], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for spec in secrets {
        let mut bytes = [0; 32];
        System.fill(&mut bytes);
        let path = folder.join(&spec.name);
        let (text, beside, known) = match spec.kind {
            SecretKind::Hex => (hex(&bytes), "sha256", None),
            SecretKind::Base64 => (base64(&bytes), "sha256", None),
            SecretKind::Ed25519 => {
                let seed = base64(&bytes);
                let key = SigningKey::from_base64(&Secret::new(seed.clone()))?;
                (seed, "public", Some(key.verifying_key().to_base64()))
            }
        };
        let known = known.unwrap_or_else(|| hex(&sha256(&[text.as_bytes()])));
        write_secret(&path, &text)?;
        fs::write(folder.join(format!("{}.{beside}", spec.name)), known)?;
    }
    Ok(())
}

fn sign(certificate: &Certificate, authority: &CertifiedIssuer<'_, KeyPair>) -> Result<(String, String)> {
    let mut params = CertificateParams::new(certificate.subjects.clone())?;
    params.distinguished_name.push(rcgen::DnType::CommonName, certificate.name.as_str());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if certificate.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    let key = KeyPair::generate()?;
    let signed = params.signed_by(&key, authority)?;
    Ok((signed.pem(), key.serialize_pem()))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_written_and_keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki {
            authority: "Lab CA".to_owned(),
            certificates: vec![Certificate {
                name: "shop".to_owned(),
                subjects: vec!["192.0.2.18".to_owned(), "shop.example".to_owned()],
                client: true,
            }],
        };
        issue(&pki, folder.path()).unwrap();
        for name in ["ca.pem", "shop.pem"] {
            assert!(fs::read_to_string(folder.path().join(name)).unwrap().starts_with("-----BEGIN CERTIFICATE"));
        }
        let mode = fs::metadata(folder.path().join("shop.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_published_beside_a_secret_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let spec = |name: &str, kind| SecretSpec { name: name.to_owned(), kind };
        make_secrets(&[spec("api", SecretKind::Hex), spec("sign", SecretKind::Ed25519)], folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("api").len(), 64);
        assert_eq!(read("api.sha256"), hex(&sha256(&[read("api").as_bytes()])));
        let key = SigningKey::from_base64(&Secret::new(read("sign"))).unwrap();
        assert_eq!(key.verifying_key().to_base64(), read("sign.public"));
    }
}
