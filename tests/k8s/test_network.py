"""The network policies, read as the set of connections they allow."""

from typing import Any

import pytest
from k8s_validation import manifests

Labels = dict[str, str]
PART = {"app.kubernetes.io/part-of": "braid"}
HEAD = PART | {"app.kubernetes.io/component": "head"}
FRONT = PART | {"app.kubernetes.io/component": "front"}
REPLICA = PART | {"app.kubernetes.io/component": "replica"}
APP_STORE = PART | {
    "app.kubernetes.io/component": "valkey",
    "app.kubernetes.io/instance": "app",
}
GCS_STORE = APP_STORE | {"app.kubernetes.io/instance": "gcs"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
STRANGER: Labels = {"app": "stranger"}
OWN_NAMESPACE = {"kubernetes.io/metadata.name": "braid"}
CLIENT_NAMESPACE = {"kubernetes.io/metadata.name": "ingress", "braid-clients": "true"}
OTHER_NAMESPACE = {"kubernetes.io/metadata.name": "other"}
DNS = {"k8s-app": "kube-dns"}
SYSTEM_NAMESPACE = {"kubernetes.io/metadata.name": "kube-system"}


def _matches(selector: dict[str, Any], labels: Labels) -> bool:
    exact = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    listed = all(
        entry["operator"] == "In" and labels.get(entry["key"]) in entry["values"]
        for entry in selector.get("matchExpressions", [])
    )
    return exact and listed


def _peer_matches(peer: dict[str, Any], labels: Labels, namespace: Labels) -> bool:
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], namespace):
            return False
    elif namespace != OWN_NAMESPACE:
        return False
    return _matches(peer.get("podSelector", {}), labels)


class Network:
    """Answers whether a connection passes both ends' policies."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._specs = [doc["spec"] for doc in documents if doc["kind"] == "NetworkPolicy"]

    def _passes(
        self, direction: str, pod: Labels, peer: Labels, namespace: Labels, port: int
    ) -> bool:
        applied = [
            spec
            for spec in self._specs
            if direction.capitalize() in spec["policyTypes"] and _matches(spec["podSelector"], pod)
        ]
        if not applied:
            return True
        side = "from" if direction == "ingress" else "to"
        return any(
            (side not in rule or any(_peer_matches(p, peer, namespace) for p in rule[side]))
            and ("ports" not in rule or any(entry["port"] == port for entry in rule["ports"]))
            for spec in applied
            for rule in spec.get(direction, [])
        )

    def reaches(
        self, source: Labels, target: Labels, port: int, source_in: Labels = OWN_NAMESPACE
    ) -> bool:
        out = source_in != OWN_NAMESPACE or self._passes(
            "egress", source, target, OWN_NAMESPACE, port
        )
        return out and self._passes("ingress", target, source, source_in, port)

    def leaves(self, source: Labels, target: Labels, target_in: Labels, port: int) -> bool:
        return self._passes("egress", source, target, target_in, port)


@pytest.fixture
def network(rendered) -> Network:
    return Network(rendered)


def test_every_pod_of_the_overlay_is_under_default_deny(rendered):
    deny = next(
        doc["spec"]
        for doc in rendered
        if doc["kind"] == "NetworkPolicy" and doc["metadata"]["name"] == "braid-default-deny"
    )
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    for where, template in manifests.pod_templates(rendered):
        assert _matches(deny["podSelector"], template["metadata"]["labels"]), where


@pytest.mark.parametrize("source", [HEAD, FRONT, REPLICA])
@pytest.mark.parametrize("target", [HEAD, FRONT, REPLICA])
def test_ray_nodes_reach_each_other_on_any_port(network, source, target):
    assert network.reaches(source, target, 6379)
    assert network.reaches(source, target, 34567)


def test_clients_reach_fronts_only_and_only_from_admitted_namespaces(network):
    assert network.reaches(STRANGER, FRONT, 8000, CLIENT_NAMESPACE)
    assert not network.reaches(STRANGER, FRONT, 10001, CLIENT_NAMESPACE)
    assert not network.reaches(STRANGER, FRONT, 8000, OTHER_NAMESPACE)
    assert not network.reaches(STRANGER, REPLICA, 8000, CLIENT_NAMESPACE)
    assert not network.reaches(STRANGER, HEAD, 8999, CLIENT_NAMESPACE)
    assert not network.reaches(STRANGER, HEAD, 8265, CLIENT_NAMESPACE)


@pytest.mark.parametrize("source", [HEAD, FRONT, REPLICA])
def test_all_ray_nodes_reach_the_applications_store(network, source):
    assert network.reaches(source, APP_STORE, 6379)
    assert not network.reaches(source, APP_STORE, 22)


def test_only_the_head_reaches_rays_store(network):
    assert network.reaches(HEAD, GCS_STORE, 6379)
    assert not network.reaches(FRONT, GCS_STORE, 6379)
    assert not network.reaches(REPLICA, GCS_STORE, 6379)


@pytest.mark.parametrize("store", [APP_STORE, GCS_STORE])
@pytest.mark.parametrize("namespace", [OWN_NAMESPACE, OTHER_NAMESPACE, CLIENT_NAMESPACE])
def test_nobody_else_reaches_a_store(network, store, namespace):
    assert not network.reaches(STRANGER, store, 6379, namespace)


def test_the_operator_reaches_the_heads_dashboard_only(network):
    assert network.reaches(OPERATOR, HEAD, 8265, OTHER_NAMESPACE)
    assert not network.reaches(OPERATOR, HEAD, 10001, OTHER_NAMESPACE)
    assert not network.reaches(OPERATOR, REPLICA, 8265, OTHER_NAMESPACE)
    assert not network.reaches(STRANGER, HEAD, 8265, OTHER_NAMESPACE)


@pytest.mark.parametrize("source", [HEAD, FRONT, REPLICA, APP_STORE, GCS_STORE])
def test_names_resolve_and_the_world_is_out_of_reach(network, source):
    assert network.leaves(source, DNS, SYSTEM_NAMESPACE, 53)
    assert not network.leaves(source, STRANGER, OTHER_NAMESPACE, 80)


def test_only_the_heads_autoscaler_reaches_the_api_server(network):
    assert network.leaves(HEAD, STRANGER, OTHER_NAMESPACE, 6443)
    for source in (FRONT, REPLICA, APP_STORE, GCS_STORE):
        assert not network.leaves(source, STRANGER, OTHER_NAMESPACE, 6443)
        assert not network.leaves(source, STRANGER, OTHER_NAMESPACE, 443)


def test_prometheus_reaches_metrics_where_monitoring_is_on(network, overlay):
    prometheus = {"kubernetes.io/metadata.name": "monitoring"}
    on = overlay.name == "gpu"
    for target in (HEAD, FRONT, REPLICA):
        assert network.reaches(STRANGER, target, 8080, prometheus) is on
    assert not network.reaches(STRANGER, REPLICA, 10001, prometheus)
    assert not network.reaches(STRANGER, APP_STORE, 6379, prometheus)
