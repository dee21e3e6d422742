//! The CustomResourceDefinitions, as somebody without helm installs them.

use std::path::Path;

use super::kubectl;

/// Applies `crds/` with plain `kubectl apply` and waits until the API server serves them. Any case may ask for it.
pub async fn definitions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    kubectl(["apply".as_ref(), "-f".as_ref(), folder.as_os_str()]).await.expect("the definitions are taken");
    kubectl([
        "wait",
        "--for=condition=Established",
        "--timeout=300s",
        "crd/armdbclusters.armdb.io",
        "crd/armdbpartitions.armdb.io",
    ])
    .await
    .expect("the definitions are served");
}
