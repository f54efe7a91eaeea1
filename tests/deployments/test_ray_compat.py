"""Ray still has every private thing that is used of it; a new release may take one away."""

import dataclasses
import inspect
import subprocess
import sys

import ray
from ray._private import node, services, worker
from ray.serve._private import replica
from ray.serve._private.common import ReplicaState
from ray.serve._private.controller import ServeController
from ray.serve._private.default_impl import get_request_metadata
from ray.serve._private.deployment_scheduler import DeploymentScheduler
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.router import AsyncioRouter, Router
from ray.serve._private.utils import get_head_node_id
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle
from ray.serve.schema import DeploymentDetails, ReplicaDetails

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


def test_serves_controller_is_asked_as_it_can_be() -> None:
    """Its behaviour is tested in ``controller/test_serve_target.py``, on a real Serve."""
    details = inspect.signature(ServeController.get_deployment_details).parameters
    update = inspect.signature(ServeController.update_deployment_replicas).parameters
    assert list(details) == ["self", "app_name", "deployment_name"]
    assert list(update) == ["self", "deployment_id", "target_num_replicas"]
    assert {"target_num_replicas", "replicas"} <= DeploymentDetails.model_fields.keys()
    assert {"replica_id", "node_id", "state"} <= ReplicaDetails.model_fields.keys()
    assert callable(get_head_node_id)
    known = {"STARTING", "UPDATING", "RECOVERING", "RUNNING", "STOPPING", "STOPPED"}
    assert {state.value for state in ReplicaState} == known | {"PENDING_MIGRATION"}


def test_serve_ends_replicas_in_the_order_that_draining_expects() -> None:
    """A change of the order makes predictions wrong, which is safe; but then mend them."""
    source = inspect.getsource(DeploymentScheduler._get_replicas_to_stop)
    assert "return int(is_head_node), int(match_labels), len(all_replicas)" in source
    assert "ordered_running_replicas.reverse()" in source


def test_importing_the_module_does_not_import_ray() -> None:
    code = "import sys, deployments.ray_compat; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
