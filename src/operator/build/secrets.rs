//! The cluster's identity and keys.
//!
//! `<name>-ca` is made once and immutable: the id of the cluster's data, and the secret that everyone on the peer port
//! must know. No pod mounts it. `<name>-member-tls` is what members mount, made from it again whenever it is not as it
//! should be. (Certificates for mutual TLS on the peer port will stand beside the secret, in the same two objects.)

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::DynamicObject;

use super::{Desired, Identity, cluster_meta};
use crate::api::names;
use crate::ident::ClusterId;
use crate::operator::kinds::Kind;
use crate::operator::validate::ValidatedCluster;

/// Where the id of the cluster's data is.
pub const CLUSTER_ID_KEY: &str = "cluster-id";
/// Where the secret of the peer port is; also the name of the file in the pods.
pub const PEER_SECRET_KEY: &str = "peer-secret";

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity) -> [Desired; 2] {
    let secret = |name: String, data: &[(&str, String)], immutable: bool| Secret {
        metadata: cluster_meta(cluster, identity, name),
        type_: Some("Opaque".into()),
        immutable: immutable.then_some(true),
        data: Some(
            data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.clone().into_bytes()))).collect(),
        ),
        ..Secret::default()
    };
    let id = (CLUSTER_ID_KEY, identity.id.to_string());
    let peer = (PEER_SECRET_KEY, identity.peer_secret.clone());
    [
        Desired::create_only(
            Kind::Secret,
            &secret(names::certificate_authority(&cluster.name), &[id, peer.clone()], true),
        ),
        Desired::new(Kind::Secret, &secret(names::member_tls(&cluster.name), &[peer], false)),
    ]
}

/// The identity in `<name>-ca`, if the object holds one.
pub fn identity_of(authority: &DynamicObject) -> Option<Identity> {
    let data = entries(authority)?;
    let id: ClusterId = data.get(CLUSTER_ID_KEY)?.trim().parse().ok()?;
    Some(Identity { id, peer_secret: data.get(PEER_SECRET_KEY)?.clone() })
}

/// The secret of the peer port in either object.
pub fn peer_secret_of(secret: &DynamicObject) -> Option<String> {
    entries(secret)?.remove(PEER_SECRET_KEY)
}

fn entries(secret: &DynamicObject) -> Option<BTreeMap<String, String>> {
    let data: BTreeMap<String, ByteString> = serde_json::from_value(secret.data.get("data")?.clone()).ok()?;
    data.into_iter().map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?))).collect()
}
