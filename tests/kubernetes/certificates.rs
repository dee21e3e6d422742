//! Who is heard on the peer port.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use armdb::api::names;
use armdb::net::peer::{Lane, PeerAuth, PeerSecret, control, dial};
use armdb::net::pki::{Authority, Identity};
use armdb::net::proto::HealthRequest;
use armdb::net::tls::PeerTls;
use base64::Engine as _;
use serde_json::json;

use crate::support::operator::{Cluster, operator};
use crate::support::{case, eventually, get};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for a member's health at its peer port; why it is not told.
async fn ask(address: &str, auth: &PeerAuth) -> Result<(), String> {
    let channel = dial(address, auth, Lane::Main, TIMEOUT).await.map_err(|error| error.to_string())?;
    control(channel).health(HealthRequest {}).await.map(drop).map_err(|status| status.to_string())
}

/// The members' certificate.
async fn certificate(namespace: &str) -> Option<Identity> {
    let secret = get(namespace, "secret", &names::member_tls("kv")).await?;
    let entry = |key: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(secret["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    Some(Identity { certificate_pem: entry("tls.crt")?, key_pem: entry("tls.key")?, authority_pem: entry("ca.crt")? })
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_certificate_of_the_cluster_is_heard_on_the_peer_port() {
    case("certificates", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let leader = cluster.leader().await;
        let pod = get(namespace, "pod", &leader).await.expect("it runs");
        let address = format!("{}:7401", pod["status"]["podIP"].as_str().expect("an address"));
        let name = names::peer_name("kv", namespace);
        let tls = |identity: Identity, name: &str| {
            PeerAuth::Tls(Arc::new(PeerTls::given(identity, "a case".into(), name).expect("usable")))
        };

        let own = certificate(namespace).await.expect("the operator made it");
        assert_eq!(ask(&address, &tls(own.clone(), &name)).await, Ok(()));

        let until = SystemTime::now() + Duration::from_secs(3600);
        let wildcard = names::peer_wildcard("kv", namespace);
        let stranger =
            Authority::new("kv").expect("made").issue(&[wildcard], "armdb://0/member", until).expect("issued");
        let forged = Identity { authority_pem: own.authority_pem.clone(), ..stranger.clone() };
        let plain = PeerAuth::Secret(PeerSecret::new("0123456789abcdef").expect("long enough"));
        for (auth, word) in [
            (tls(stranger, &name), "not of an authority in ca.crt here"),
            (tls(forged, &name), "not of an authority in its ca.crt"),
            (tls(own.clone(), &names::peer_name("kv", "elsewhere")), "not valid for"),
            (plain, "this peer port speaks mutual TLS"),
        ] {
            let why = ask(&address, &auth).await.expect_err("refused");
            assert!(why.contains(word), "{why}");
        }
    })
    .await;
}

/// Its Secret changes under everybody, and nobody notices but who dials anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_taken_up_by_members_that_run() {
    case("renewal", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let leader = cluster.leader().await;
        let pods = cluster.pods().await;
        let pod = get(namespace, "pod", &leader).await.expect("it runs");
        let address = format!("{}:7401", pod["status"]["podIP"].as_str().expect("an address"));

        // What the operator does when it has a new authority: it is believed beside the old one first.
        let mut identity = certificate(namespace).await.expect("the operator made it");
        let coming = Authority::new("kv").expect("made");
        identity.authority_pem.push_str(coming.certificate_pem());
        let patch = json!({"stringData": {"ca.crt": identity.authority_pem}}).to_string();
        let secret = names::member_tls("kv");
        let patched = ["-n", namespace, "patch", "secret", &secret, "--type=merge", "-p", &patch];
        crate::support::kubectl(patched).await.expect("patched");

        let until = SystemTime::now() + Duration::from_secs(3600);
        let wildcard = names::peer_wildcard("kv", namespace);
        let mut new = coming.issue(&[wildcard], "armdb://0/member", until).expect("issued");
        new.authority_pem = identity.authority_pem;
        let name = names::peer_name("kv", namespace);
        let auth = PeerAuth::Tls(Arc::new(PeerTls::given(new, "a case".into(), &name).expect("usable")));
        eventually("the member believes the new authority", async || ask(&address, &auth).await.ok()).await;
        assert_eq!(cluster.pods().await, pods, "no member was restarted");
        assert_eq!(cluster.leader().await, leader, "nor did anybody else take the lead");
    })
    .await;
}
