//! The cluster's identity and keys.
//!
//! `<name>-ca` is made once and immutable: the id of the cluster's data, and the authority that everyone on the peer
//! port must have a certificate of. No pod mounts it. `<name>-member-tls` is what members mount, and the operator dials
//! them with: the certificate that [`super::super::certificates`] decides on, made so again whenever it is not.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::DynamicObject;

use super::{Desired, Identity, cluster_meta};
use crate::api::names;
use crate::ident::ClusterId;
use crate::net::pki::{self, Authority};
use crate::net::tls;
use crate::operator::kinds::Kind;
use crate::operator::validate::ValidatedCluster;

/// Where the id of the cluster's data is.
const CLUSTER_ID_KEY: &str = "cluster-id";
/// Where the authority's private key is.
const AUTHORITY_KEY: &str = "ca.key";

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity) -> [Desired; 2] {
    let secret = |name: String, data: &[(&str, &str)], immutable: bool| Secret {
        metadata: cluster_meta(cluster, identity, name),
        type_: Some("Opaque".into()),
        immutable: immutable.then_some(true),
        data: Some(
            data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_owned()))).collect(),
        ),
        ..Secret::default()
    };
    let authority = [
        (CLUSTER_ID_KEY, identity.id.to_string()),
        (tls::AUTHORITY, identity.authority.certificate_pem().to_owned()),
        (AUTHORITY_KEY, identity.authority.key_pem().to_owned()),
    ];
    let authority = authority.each_ref().map(|(key, value)| (*key, value.as_str()));
    let certificate = [
        (tls::CERTIFICATE, identity.certificate.certificate_pem.as_str()),
        (tls::KEY, identity.certificate.key_pem.as_str()),
        (tls::AUTHORITY, identity.certificate.authority_pem.as_str()),
    ];
    [
        Desired::create_only(Kind::Secret, &secret(names::certificate_authority(&cluster.name), &authority, true)),
        Desired::new(Kind::Secret, &secret(names::member_tls(&cluster.name), &certificate, false)),
    ]
}

/// The id and the authority of the cluster of this name in its `<name>-ca`, if the object holds them.
pub fn authority_of(secret: &DynamicObject, cluster: &str) -> Option<(ClusterId, Authority)> {
    let mut data = entries(secret)?;
    let id: ClusterId = data.get(CLUSTER_ID_KEY)?.trim().parse().ok()?;
    let (certificate, key) = (data.remove(tls::AUTHORITY)?, data.remove(AUTHORITY_KEY)?);
    Some((id, Authority::from_pem(cluster, certificate, key)))
}

/// The members' certificate in `<name>-member-tls`, if the object holds one.
pub fn certificate_of(secret: &DynamicObject) -> Option<pki::Identity> {
    let mut data = entries(secret)?;
    Some(pki::Identity {
        certificate_pem: data.remove(tls::CERTIFICATE)?,
        key_pem: data.remove(tls::KEY)?,
        authority_pem: data.remove(tls::AUTHORITY)?,
    })
}

fn entries(secret: &DynamicObject) -> Option<BTreeMap<String, String>> {
    let data: BTreeMap<String, ByteString> = serde_json::from_value(secret.data.get("data")?.clone()).ok()?;
    data.into_iter().map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?))).collect()
}
