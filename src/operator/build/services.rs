//! The services: `-rw` leaders, `-ro` followers within the lag bound, `-r` any member, `-nodes` the members' addresses.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Identity, cluster_meta};
use crate::api::names::{self, port};
use crate::api::spec::ServiceType;
use crate::operator::kinds::Kind;
use crate::operator::names::{cluster_selector, leader_selector, reader_selector};
use crate::operator::validate::ValidatedCluster;

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity) -> Vec<Desired> {
    let name = cluster.name.as_str();
    let asked = &cluster.spec.services.client;
    let for_clients = |service: String, selector| {
        let mut metadata = cluster_meta(cluster, identity, service);
        metadata.annotations = Some(asked.annotations.clone()).filter(|annotations| !annotations.is_empty());
        let kind = match asked.service_type {
            ServiceType::ClusterIP => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        };
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some(kind.into()),
                selector: Some(selector),
                ports: Some(vec![client()]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    };
    let nodes = Service {
        metadata: cluster_meta(cluster, identity, names::service_nodes(name)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some("None".into()),
            // A member must be found before it is ready: that is how it becomes ready.
            publish_not_ready_addresses: Some(true),
            selector: Some(cluster_selector(name)),
            ports: Some(vec![
                client(),
                // Not all of it is HTTP/2: heartbeat connections begin with words of their own.
                service_port(port::PEER, port::PEER_NUMBER, "tcp"),
                service_port(port::HTTP, port::HTTP_NUMBER, "http"),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    [
        nodes,
        for_clients(names::service_read_write(name), leader_selector(name)),
        for_clients(names::service_read_only(name), reader_selector(name)),
        for_clients(names::service_any(name), cluster_selector(name)),
    ]
    .iter()
    .map(|service| Desired::new(Kind::Service, service))
    .collect()
}

fn client() -> ServicePort {
    service_port(port::CLIENT, port::CLIENT_NUMBER, "kubernetes.io/h2c")
}

fn service_port(name: &str, number: i32, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number,
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        app_protocol: Some(protocol.into()),
        ..ServicePort::default()
    }
}
