//! The chart as helm sees it: sound, and rendered as it was.

use std::path::Path;

use crate::support::case;
use crate::support::operator::{NAMESPACE, chart, helm, helm_outcome};

/// The definitions, which come from `crds/` and have tests of their own, are left out.
const COMMON: [&str; 3] = ["--namespace", NAMESPACE, "--set=crds.install=false"];

async fn golden(file: &str, values: &[&str]) {
    let have = helm(&[&["template", "armdb", &chart()], &COMMON[..], values].concat()).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/golden").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &have).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == golden, "{file} is not what is rendered: run this with UPDATE=1 and read the difference");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_is_sound_and_renders_what_it_did() {
    case("chart", async |_| {
        helm(&["lint", "--strict", &chart()]).await;
        golden("chart.yaml", &[]).await;
        let everything =
            ["--set=watchNamespaces={a,b}", "--set=metrics.service=true", "--set=metrics.serviceMonitor.enabled=true"];
        golden("chart_namespaced.yaml", &everything).await;
        let refused = helm_outcome(&["template", "armdb", &chart(), "--set=nonsense=1"]).await;
        let why = refused.expect_err("a value that is not known is a mistake");
        assert!(why.contains("nonsense"), "{why}");
    })
    .await;
}
