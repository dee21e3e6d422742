//! The members' ServiceAccount: an identity of its own, without a token and without any right.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{Desired, Identity, cluster_meta};
use crate::api::names;
use crate::operator::kinds::Kind;
use crate::operator::validate::ValidatedCluster;

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity) -> Desired {
    Desired::new(
        Kind::ServiceAccount,
        &ServiceAccount {
            metadata: cluster_meta(cluster, identity, names::service_account(&cluster.name)),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
    )
}
