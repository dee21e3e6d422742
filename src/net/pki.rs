//! The cluster's own certificate authority: made once per cluster, it issues the certificates of members and
//! controllers. What it signed is of this cluster; nothing else is believed on the peer port.
//!
//! Everything is PEM text, as it is kept in Secrets and files; time is an argument. The authority's certificate
//! does not expire: it goes with the cluster. What it issues does, and is renewed by whoever holds the authority.
//!
//! Does not do: speak TLS ([`super::tls`]), or keep anything anywhere.

use std::fmt;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority that cannot be made or read, or a name that no certificate can carry.
#[derive(Debug, thiserror::Error)]
#[error("the certificate authority: {0}")]
pub struct PkiError(#[from] rcgen::Error);

/// A certificate authority with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    cluster: String,
    certificate_pem: String,
    key_pem: String,
}

/// A certificate with its key, and the authorities that its owner believes.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// The authorities' certificates.
    pub authority_pem: String,
}

// Keys are not for logs.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// A fresh authority for the cluster of this name.
    pub fn new(cluster: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = Self::params(cluster).self_signed(&key)?;
        Ok(Self { cluster: cluster.to_owned(), certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The authority of the cluster of this name, from what [`Self::certificate_pem`] and [`Self::key_pem`] gave;
    /// whether they are in order shows when it issues.
    pub fn from_pem(cluster: &str, certificate_pem: String, key_pem: String) -> Self {
        Self { cluster: cluster.to_owned(), certificate_pem, key_pem }
    }

    /// What an authority's certificate says: the same for the same cluster, so that an issuer can be made from the
    /// key alone.
    fn params(cluster: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("armdb {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = rcgen::date_time_ymd(4096, 1, 1);
        params
    }

    /// Its certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate for both ends of a peer connection until `not_after`: valid for `dns_names` (a wildcard is one
    /// label) and the URI that names its role.
    pub fn issue(&self, dns_names: &[String], uri: &str, not_after: SystemTime) -> Result<Identity, PkiError> {
        let authority = Self::params(&self.cluster);
        let issuer = Issuer::from_params(&authority, KeyPair::from_pem(&self.key_pem)?);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(dns_names)?;
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "armdb peer");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = not_after.into();
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            authority_pem: self.certificate_pem.clone(),
        })
    }
}
