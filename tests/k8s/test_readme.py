"""The README's commands: in an order that works, and forwarding to a pod that answers."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from k8s_validation import manifests

README = (manifests.K8S / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r"\s+#.*", "", line)
    for block in re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line
]


def position(start: str) -> int:
    """Return the position of the one command that begins so."""
    (found,) = (n for n, command in enumerate(COMMANDS) if command.startswith(start))
    return found


def test_commands_come_in_an_order_that_works():
    order = [
        "helm repo add kuberay ",
        "helm install kuberay-operator kuberay/kuberay-operator ",
        "kubectl create namespace braid",
        "kubectl -n braid create secret generic braid-secrets",
        "kubectl -n braid apply -k k8s/overlays/cpu",
        "kubectl -n braid get rayservice braid -w",
        "front=",
        "kubectl -n braid port-forward ",
        "curl ",
    ]
    assert [position(start) for start in order] == sorted(position(start) for start in order)


def test_the_operator_is_the_one_that_the_manifests_are_written_for():
    assert COMMANDS[position("helm install")].endswith("--version 1.7.0")


def pod(name: str, template: dict[str, Any]) -> dict[str, Any]:
    """Return a running pod of a group, as the API server has it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "braid",
            "labels": {**template["metadata"]["labels"], "ray.io/serve": "true"},
        },
        "spec": template["spec"],
        "status": {"phase": "Running"},
    }


class Api(ThreadingHTTPServer):
    """As much of an API server as kubectl asks; remembers the pods that are forwarded to."""

    def __init__(self, pods: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pods = pods
        self.forwarded: list[str] = []

    def answer(self, url: str) -> dict[str, Any] | None:
        """Return the object at an address, or None if it does not exist."""
        parts = urlsplit(url)
        core = "/api/v1/namespaces/braid"
        if parts.path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if parts.path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
        if parts.path == "/api/v1":
            common = {"singularName": "", "namespaced": True, "verbs": ["get", "list"]}
            kinds = (("pods", "Pod"), ("services", "Service"))
            resources = [{"name": name, "kind": kind, **common} for name, kind in kinds]
            return {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources}
        if parts.path == f"{core}/services/braid":
            spec = {
                "selector": {"ray.io/serve": "true"},
                "ports": [{"name": "serve", "port": 8000, "targetPort": "serve"}],
            }
            meta = {"name": "braid", "namespace": "braid"}
            return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
        if parts.path == f"{core}/pods":
            selector = parse_qs(parts.query).get("labelSelector", [""])[0]
            wanted = dict(term.split("=") for term in selector.split(",") if term)
            items = [p for p in self.pods if wanted.items() <= p["metadata"]["labels"].items()]
            return {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}
        for found in self.pods:
            if parts.path == f"{core}/pods/{found['metadata']['name']}":
                return found
        return None


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self._forward() if "/portforward" in self.path else self._reply(
            self.server.answer(self.path)
        )

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        self.server.forwarded.append(self.path.split("/pods/")[1].split("/")[0])
        self._reply(None)

    def _reply(self, found: dict[str, Any] | None) -> None:
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
        body = json.dumps(found or missing).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(rayservice: dict[str, Any]) -> Iterator[Api]:
    """A cluster with a replica, which is listed first, and a front."""
    templates = {name: group["template"] for name, group in manifests.groups(rayservice)}
    pods = [pod(f"braid-{name}-x", templates[name]) for name in ("head", "replica", "front")]
    with Api(pods) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def forward(api: Api, folder: Path, *commands: str) -> str:
    """Run commands with kubectl pointed at the server; what was said."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{api.server_port}"}}
        ],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        ["bash", "-c", "\n".join(commands)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KUBECONFIG": str(folder / "kubeconfig"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr


def test_the_forwarding_commands_reach_a_front(api: Api, tmp_path: Path):
    words = (COMMANDS[position("front=")], COMMANDS[position("kubectl -n braid port-forward")])
    said = forward(api, tmp_path, *words)
    assert set(api.forwarded) == {"braid-front-x"}, said


@pytest.mark.parametrize("target", ["service/braid", "pod/braid-replica-x"])
def test_a_replicas_pod_has_no_port_to_forward_to(api: Api, tmp_path: Path, target: str):
    """For the Service kubectl takes a replica's pod: the reason for the commands above."""
    port = "8000" if target.startswith("service") else "serve"
    said = forward(api, tmp_path, f"kubectl -n braid port-forward {target} 8000:{port}")
    assert api.forwarded == []
    assert "serve" in said
