"""The front: Serve's ingress deployment. Authenticates, routes, picks, relays."""

from typing import Any

import structlog
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.config import AppConfig
from cluster.garbage import spare_long_lived
from deployments.front.cluster_calls import ClusterCalls
from deployments.front.front_setup import build_front
from deployments.front.http.http_server import HttpServer
from deployments.front.http_app import build_http_app
from deployments.process import start_process
from deployments.serve_env import SERVE_LOGGING

log = structlog.get_logger(__name__)

DRAIN_S = 25.0


class Front:
    """One front process with its HTTP server.

    Args:
        args: an ``AppConfig`` in JSON form.
        replicas: handle of the replica deployment.
        controller: handle of the controller.
    """

    async def __init__(  # type: ignore[misc] # Serve awaits constructors
        self,
        args: dict[str, Any],
        replicas: DeploymentHandle[Any],
        controller: DeploymentHandle[Any],
    ) -> None:
        process = await start_process(args, "front", hears_text=True)
        context = await build_front(process, ClusterCalls(replicas, controller), replicas)
        for problem in process.adapters.catalog.problems:
            log.warning("front.adapter_refused", alias=problem.alias, reason=problem.message)
        config = process.config.front
        self._http = HttpServer(build_http_app(context), config, drain_s=DRAIN_S)
        spare_long_lived()
        await self._http.start()
        process.on_close(self._http.stop)
        self._process = process
        log.info("front.ready", host=config.host, port=config.port)

    async def check_health(self) -> None:
        """Fail once the HTTP server has ended: Serve then replaces this front."""
        if not self._http.serving:
            raise RuntimeError("the HTTP server has ended")

    async def __del__(self) -> None:
        if hasattr(self, "_process"):
            await self._process.close()


def front_deployment(config: AppConfig) -> serve.Deployment:
    """Return the deployment with its options."""
    return serve.deployment(
        name="Front",
        logging_config=dict(SERVE_LOGGING),
        num_replicas=config.front.replicas,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=DRAIN_S + 5.0,
        ray_actor_options={"num_cpus": 0, "resources": dict(config.front.resources)},
    )(Front)
