"""Every use of Ray's private interfaces, in one place.

Ray offers no public way to do any of this. The version is pinned; ``TESTED_VERSION`` is the one
that ``tests/deployments/test_ray_compat.py`` ran against. After an upgrade run that test and
``tests/deployments/local/test_ray_node.py``, then set the constant.

Ray is imported inside the functions: a local run writes Ray's environment before the first import.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from ray.serve.schema import DeploymentDetails

TESTED_VERSION = "2.60.0"
LOOPBACK = "127.0.0.1"
CONTROL_SERVICE = "gcs_server"
NODE_MANAGER = "raylet"


def node_address() -> str:
    """Return the address of this process's Ray node."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call] # Ray's


def bind_serve_to_loopback() -> None:
    """Keep Serve's gRPC port on the loopback interface, if the whole Ray node is there.

    Call it first in an actor's constructor, before Serve opens that port. Serve would bind it to
    every interface, whatever the node's address is, and it executes what it is sent.
    """
    from ray.serve._private import replica as module

    if node_address() != LOOPBACK:
        return
    replica: Any = module
    bind = replica.add_port_to_grpc_server

    def bind_loopback(server: Any, address: str) -> Any:
        return bind(server, address.replace("[::]", LOOPBACK))

    replica.add_port_to_grpc_server = bind_loopback


async def call_each_replica(
    replicas: "DeploymentHandle[Any]", method: str, *arguments: Any, timeout_s: float
) -> list[Awaitable[Any]]:
    """Call ``method`` on every replica and return one awaitable answer for each.

    Serve's public interface awaits all answers together: a single silent replica would lose those
    of all others.

    Raises:
        TimeoutError: Serve did not list its replicas within ``timeout_s``.
        RayServeException: Serve has no replica to call.
    """
    response = replicas.broadcast(method, *arguments)
    calls = await asyncio.wait_for(response._fetch_replica_results_async(), timeout_s)
    return [call.get_async() for call in calls]  # type: ignore[no-untyped-call]


async def listed_replicas(replicas: "DeploymentHandle[Any]") -> frozenset[str]:
    """Return the ids of the replicas that Serve has said run; none before it has said any."""

    async def read() -> frozenset[str]:
        return frozenset(_replicas_by_id(replicas))

    found: frozenset[str] = await _on_serves_loop(replicas, read())
    return found


async def call_replica(
    replicas: "DeploymentHandle[Any]", unique_id: str, method: str, *arguments: Any
) -> Any:
    """Call ``method`` on one replica, and return its answer; it is not tried again.

    Serve's public interface calls one replica of its own choice, or all.

    Raises:
        LookupError: Serve does not list the replica.
        RayActorError: its actor has died, or cannot be reached.
    """
    from ray.serve._private.default_impl import get_request_metadata
    from ray.serve._private.request_router.common import PendingRequest

    async def send() -> Any:
        replica = _replicas_by_id(replicas).get(unique_id)
        if replica is None:
            raise LookupError(f"Serve lists no replica {unique_id}")
        options = replicas.handle_options.copy_and_update(method_name=method, stream=False)
        metadata = get_request_metadata(replicas.init_options, options)  # type: ignore[no-untyped-call]
        request = PendingRequest(args=list(arguments), kwargs={}, metadata=metadata)
        return replica.try_send_request(request, with_rejection=False)

    result = await _on_serves_loop(replicas, send())
    return await result.get_async()


def _replicas_by_id(replicas: "DeploymentHandle[Any]") -> dict[str, Any]:
    """Return what a handle knows of the replicas; called on the loop that Serve uses for it."""
    router: Any = replicas._init_router()
    known = router._asyncio_router.request_router
    return {} if known is None else {i.unique_id: one for i, one in known.curr_replicas.items()}


async def _on_serves_loop(replicas: "DeploymentHandle[Any]", work: Coroutine[Any, Any, Any]) -> Any:
    loop: Any = replicas._init_router().event_loop
    if loop is asyncio.get_running_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


async def read_deployments(
    app: str, names: Sequence[str], timeout_s: float
) -> list["DeploymentDetails"]:
    """Return what Serve's controller knows of an application's deployments: targets, replicas.

    Raises:
        Exception: Ray's own, of many kinds; Serve does not answer, or has no such deployment.
    """
    controller = await asyncio.to_thread(_serve_controller)
    calls = [controller.get_deployment_details.remote(app, name) for name in names]
    return list(await asyncio.wait_for(asyncio.gather(*calls), timeout_s))


async def set_target(app: str, name: str, count: int, timeout_s: float) -> None:
    """Set how many replicas of a deployment Serve is to run; 0 is permitted.

    The target has changed when this returns, and outlives Serve's controller. The application must
    run with ``external_scaler_enabled``.

    Raises:
        Exception: Ray's own, of many kinds; Serve does not answer, or refuses.
    """
    from ray.serve._private.common import DeploymentID

    controller = await asyncio.to_thread(_serve_controller)
    call = controller.update_deployment_replicas.remote(DeploymentID(name, app), count)
    await asyncio.wait_for(call, timeout_s)


async def head_node() -> str:
    """Return Ray's id of the cluster's head node."""
    from ray.serve._private.utils import get_head_node_id

    return await asyncio.to_thread(get_head_node_id)


def _serve_controller() -> Any:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def init_loopback_node(temporary: Path, **options: Any) -> None:
    """Start a Ray node of this process that listens on the loopback interface only.

    Args:
        temporary: folder for Ray's sessions.
        options: passed on to ``ray.init``.
    """
    import ray

    with _loopback_kept(), _only_what_serves():
        ray.init(**options, _node_ip_address=LOOPBACK, _temp_dir=str(temporary))


def has_ended(kind: str) -> bool:
    """Report whether the node's process of a kind, such as ``CONTROL_SERVICE``, has ended."""
    infos = _node().all_processes.get(kind, [])
    return not infos or infos[0].process.poll() is not None


def restart_control_service() -> None:
    """Start the node's control service again, at its old port, from its tables.

    Raises:
        Exception: Ray's own, of many kinds; the service is still away.
    """
    node = _node()
    with _loopback_kept():
        node.kill_gcs_server(check_alive=False)
        node.start_gcs_server()


def _node() -> Any:
    from ray._private import worker

    return worker._global_node


@contextmanager
def _loopback_kept() -> Iterator[None]:
    """Keep Ray from replacing a loopback address by the machine's own.

    It would then listen on every interface.
    """
    with patch("ray._private.services.resolve_ip_for_localhost", lambda host: host):
        yield


@contextmanager
def _only_what_serves() -> Iterator[None]:
    """Keep Ray from starting its autoscaler and its dashboard with the node.

    Nothing on one machine asks them, and each opens a port of metrics to every local user.
    """
    with (
        patch("ray._private.node.Node.start_monitor", lambda _: None),
        patch("ray._private.node.Node.start_api_server", lambda _, **__: None),
    ):
        yield
