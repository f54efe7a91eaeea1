"""The controller actor: places adapters, sets the number of replicas, collects what is retired.

Serve may restart it at any time. Without Redis it continues from memory; without the controller the
replicas keep the placement they have.
"""

import asyncio
from dataclasses import asdict
from typing import Any

import structlog
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.config import AppConfig
from cluster.domain.ids import AdapterDigest
from cluster.errors import BraidError, ReplicaLost
from cluster.garbage import spare_long_lived
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.exchange import FrontOrders, FrontReport
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_store import PolicyStore
from cluster.redis_client import redis_client
from deployments.adapter_follower import NO_BASE, REDIS_TIMEOUT_S, content_store
from deployments.controller.control_loop import ControlLoop
from deployments.controller.controller_state import ControllerState
from deployments.controller.cost_priors import CostPriors
from deployments.controller.garbage_collector import GarbageCollector, PlaceableAdapters
from deployments.controller.policy_follower import PolicyFollower
from deployments.controller.serve_target import ServeTarget
from deployments.controller.store_keeping import StoreMetrics, store_reconciler
from deployments.process import start_process
from deployments.replica_calls import ReplicaCalls, ask_replicas
from deployments.serve_env import SERVE_LOGGING

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 5.0
NO_REPLICAS = ServeCounts(target=0, running=0, starting=0)
COLLECT_INTERVAL_S = 0.25
KEEP_INTERVAL_S = 0.5
SWEEP_INTERVAL_S = 60.0
ABANDON_FACTOR = 4.0
"""Times ``adapters.add_timeout_s``: an addition that is staged so long has lost its front."""


class Controller:
    """Plans the placement and collects what is retired. There is one.

    Args:
        args: an ``AppConfig`` in JSON form.
        replicas: handle of the replica deployment.
    """

    async def __init__(  # type: ignore[misc] # Serve awaits constructors
        self, args: dict[str, Any], replicas: DeploymentHandle[Any]
    ) -> None:
        process = await start_process(args, "controller")
        config = process.config
        self._clock = process.clock
        self._replicas = replicas
        client = redis_client(
            process.secrets.redis_url, timeout_s=REDIS_TIMEOUT_S, name="braid-policy"
        )
        self._policy = PolicyFollower(
            PolicyStore(client),
            config.controller.policy_file,
            ClusterPolicy.fixed(config.replica.replicas),
        )
        process.on_close(self._policy.close)
        await self._policy.start()
        self._collector = GarbageCollector(
            process.adapters.registry,
            content_store(config.adapters, NO_BASE),
            self._unload,
            self._clock,
            abandon_after_s=ABANDON_FACTOR * config.adapters.add_timeout_s,
        )
        self._store_reconciler = store_reconciler(process)
        state = ControllerState(process.secrets.redis_url)
        process.on_close(state.close)
        self._serve = ServeTarget(serve.get_replica_context().app_name)
        priors = CostPriors(config, process.base.digest, process.secrets.redis_url)
        process.on_close(priors.close)
        self._control = ControlLoop(
            replicas=ReplicaCalls(replicas),
            serve=self._serve,
            state=state,
            priors=priors,
            policy=self._policy,
            catalog=PlaceableAdapters(lambda: process.adapters.view),
            clock=process.clock,
            interval_s=config.controller.interval_s,
        )
        await self._control.begin()
        process.on_close(self._control.close)
        self._loops = tuple(
            asyncio.create_task(loop)
            for loop in (
                self._control.run(),
                self._control.keep_right(),
                self._collect(),
                self._keep(),
            )
        )
        for loop in self._loops:
            process.on_close_sync(loop.cancel)
        spare_long_lived()
        self._process = process

    async def state(self) -> dict[str, Any]:
        """Return the placement and its reasons, the policy in force and problems, for people."""
        keeping = self._store_reconciler
        return {
            **self._control.status(),
            "policy": self._policy.policy.model_dump(mode="json"),
            "policy_version": self._policy.version,
            "policy_error": self._policy.error,
            "serve": self._serve.status(),
            "adapter_store": None if keeping is None else asdict(keeping.counters),
        }

    async def exchange(self, report: FrontReport) -> FrontOrders:
        """Take in a front's report; the answer is what it is to go by.

        Where requests are held and no replica is to run, a first one is started.
        """
        orders = self._control.exchange(report)
        if report.held:
            await self._control.start_first()
        return orders

    async def check_health(self) -> None:
        """Fail once a loop has ended: Serve then replaces this controller."""
        if any(loop.done() for loop in self._loops):
            raise RuntimeError("the control loop has ended")

    async def _collect(self) -> None:
        while True:
            try:
                await self._collector.tick()
            except BraidError as error:
                log.warning("controller.collection_failed", error=error.message)
            except Exception as error:  # Ray raises many kinds; the next try may succeed
                log.error("controller.collection_failed", exc_info=error)
            await asyncio.sleep(COLLECT_INTERVAL_S)

    async def _keep(self) -> None:
        """Write the registry down, recover it if it was lost, and sweep the store."""
        reconciler, metrics = self._store_reconciler, StoreMetrics()
        swept_at = -SWEEP_INTERVAL_S
        while reconciler is not None:
            try:
                await reconciler.reconcile()
                if self._clock.monotonic() - swept_at >= SWEEP_INTERVAL_S:
                    await reconciler.sweep()
                    swept_at = self._clock.monotonic()
            except BraidError as error:
                log.warning("controller.registry_not_kept", error=error.message)
            except Exception as error:  # a failure of one pass must not end the loop
                log.error("controller.registry_not_kept", exc_info=error)
            metrics.report(reconciler.counters)
            await asyncio.sleep(KEEP_INTERVAL_S)
        await asyncio.Event().wait()

    async def _unload(
        self, digests: tuple[AdapterDigest, ...]
    ) -> list[frozenset[AdapterDigest]] | None:
        """Unload versions. Returns those gone from each replica, or None if one does not answer."""
        try:
            found = await ask_replicas(
                self._replicas, "unload_adapters", digests, timeout_s=CALL_TIMEOUT_S
            )
        except ReplicaLost:
            return [] if self._control.counts == NO_REPLICAS else None
        if any(isinstance(item, BaseException) for item in found):
            return None
        return [frozenset(gone) for _, gone in found]

    async def __del__(self) -> None:
        if hasattr(self, "_process"):
            await self._process.close()


def controller_deployment(config: AppConfig) -> serve.Deployment:
    """Return the deployment with its options; exactly one replica."""
    return serve.deployment(
        name="Controller",
        logging_config=dict(SERVE_LOGGING),
        num_replicas=1,
        max_ongoing_requests=64,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=2.0,
        ray_actor_options={"num_cpus": 0, "resources": dict(config.controller.resources)},
    )(Controller)
