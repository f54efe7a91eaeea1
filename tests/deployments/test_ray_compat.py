"""Ray still has every private thing that is used of it; a new release may take one away."""

import dataclasses
import inspect
import subprocess
import sys

import ray
from ray._private import node, services, worker
from ray.serve._private import replica
from ray.serve._private.default_impl import get_request_metadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.router import AsyncioRouter, Router
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle

from deployments.ray_compat import TESTED_VERSION


def test_ray_is_the_version_that_was_tested() -> None:
    assert ray.__version__ == TESTED_VERSION


def test_serve_answers_replica_by_replica() -> None:
    assert inspect.iscoroutinefunction(DeploymentBroadcastResponse._fetch_replica_results_async)
    assert list(inspect.signature(DeploymentHandle.broadcast).parameters)[:2] == [
        "self",
        "method_name",
    ]


def test_serve_calls_one_replica() -> None:
    assert list(inspect.signature(get_request_metadata).parameters) == [
        "init_options",
        "handle_options",
    ]
    assert list(inspect.signature(RunningReplica.try_send_request).parameters) == [
        "self",
        "pr",
        "with_rejection",
    ]
    assert isinstance(AsyncioRouter.request_router, property)
    assert isinstance(RequestRouter.curr_replicas, property)
    assert isinstance(Router.event_loop, property)
    assert inspect.isfunction(DeploymentHandle._init_router)
    fields = {field.name for field in dataclasses.fields(PendingRequest)}
    assert {"args", "kwargs", "metadata"} <= fields


def test_serve_opens_its_port_by_the_function_that_is_replaced() -> None:
    assert list(inspect.signature(replica.add_port_to_grpc_server).parameters) == [  # type: ignore[attr-defined]
        "server",
        "address",
    ]
    assert "add_port_to_grpc_server(" in inspect.getsource(replica.Replica)


def test_a_node_has_what_a_local_cluster_uses() -> None:
    assert list(inspect.signature(services.resolve_ip_for_localhost).parameters) == ["host"]
    assert "resolve_ip_for_localhost(" in inspect.getsource(services) + inspect.getsource(worker)
    assert inspect.isfunction(node.Node.start_monitor)
    assert inspect.isfunction(node.Node.start_api_server)
    assert inspect.isfunction(node.Node.start_gcs_server)
    assert "check_alive" in inspect.signature(node.Node.kill_gcs_server).parameters
    assert "self.all_processes" in inspect.getsource(node.Node.__init__)
    assert hasattr(worker, "_global_node")


def test_importing_the_module_does_not_import_ray() -> None:
    code = "import sys, deployments.ray_compat; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
