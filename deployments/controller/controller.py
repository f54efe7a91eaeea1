"""The controller actor: asks the replicas for snapshots, plans, and sends them their plans.

It keeps its state in Redis, so that Serve may restart it at any time. Without Redis it continues
from memory; without the controller the replicas keep the placement they have.
"""

import asyncio
from dataclasses import asdict
from typing import Any

import structlog
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.adapters.residency.residency_types import PlacementAck
from cluster.config import AppConfig
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import BraidError, IntegrityError, ReplicaLost
from cluster.placement.control.serve_counts import ServeCounts
from cluster.placement.planning.reconciler import Actions, Reconciler
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy_load import PolicyFile
from cluster.tasks import Tasks
from deployments.adapter_follower import NO_BASE, content_store
from deployments.controller.controller_state import ControllerState
from deployments.controller.garbage_collector import GarbageCollector, placeable
from deployments.controller.serve_target import ServeTarget
from deployments.controller.store_keeping import StoreMetrics, store_reconciler
from deployments.process import start_process
from deployments.replica_calls import ask_replicas
from deployments.serve_env import SERVE_LOGGING

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 5.0
PLACEMENT_TIMEOUT_S = 60.0
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
        self._adapters = process.adapters
        self._interval_s = config.controller.interval_s
        self._replicas = replicas
        self._policy = PolicyFile(
            config.controller.policy_file, ClusterPolicy.fixed(config.replica.replicas)
        )
        self._collector = GarbageCollector(
            process.adapters.registry,
            content_store(config.adapters, NO_BASE),
            self._unload,
            self._clock,
            abandon_after_s=ABANDON_FACTOR * config.adapters.add_timeout_s,
        )
        self._store_reconciler = store_reconciler(process)
        self._state = ControllerState(process.secrets.redis_url)
        process.on_close(self._state.close)
        self._reconciler = await self._restore()
        self._serve = ServeTarget(serve.get_replica_context().app_name)
        self._counts: ServeCounts | None = None
        self._counted: int | None = None  # the count handed to Serve; None: none yet
        self._applying = Tasks()
        self._ticks = 0
        self._tick_error: str | None = None
        self._loops = tuple(
            asyncio.create_task(loop) for loop in (self._run(), self._collect(), self._keep())
        )
        for loop in self._loops:
            process.on_close_sync(loop.cancel)
        self._process = process

    async def state(self) -> dict[str, Any]:
        """Return the placement and its reasons, the policy in force and problems, for people."""
        keeping = self._store_reconciler
        return {
            **self._reconciler.status(),
            "ticks": self._ticks,
            "tick_error": self._tick_error,
            "policy": self._policy.policy.model_dump(mode="json"),
            "policy_error": self._policy.error,
            "state_error": self._state.error,
            "serve": self._serve.status(),
            "adapter_store": None if keeping is None else asdict(keeping.counters),
        }

    async def wake(self) -> None:
        """Have a first replica started where none is to run; a front holds requests for it."""
        if self._counted == 0:
            await self._serve.set_count(1)

    async def check_health(self) -> None:
        """Fail once a loop has ended: Serve then replaces this controller."""
        if any(loop.done() for loop in self._loops):
            raise RuntimeError("the control loop has ended")

    async def _restore(self) -> Reconciler:
        saved = await self._state.load()
        if saved is None:
            return Reconciler()
        try:
            restored = Reconciler.from_state(saved)
        except (IntegrityError, KeyError, TypeError, ValueError) as error:
            log.error("controller.state_refused", error=repr(error))
            return Reconciler()
        log.info("controller.restored", version=restored.status()["version"])
        return restored

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
                self._tick_error = None
            except Exception as error:  # one bad tick must not end the loop
                if repr(error) != self._tick_error:  # one line for a failure that lasts
                    log.error("controller.tick_failed", exc_info=error)
                self._tick_error = repr(error)
            await asyncio.sleep(self._interval_s)

    async def _tick(self) -> None:
        await asyncio.to_thread(self._policy.sync)
        self._counts = await self._serve.read()
        snapshots = await self._ask_snapshots() if self._counts.running else []
        now = self._clock.wall()
        actions = self._reconciler.tick(
            snapshots, placeable(self._adapters.view), self._policy.policy, now
        )
        self._ticks += 1
        await self._hand_on(actions.replica_count)
        if actions.replica_plans:
            # Replicas go by the version, so a plan may overtake one that is still being applied.
            self._applying.start(self._apply(actions))
        await self._state.save(self._reconciler.to_state())

    async def _hand_on(self, count: int) -> None:
        """Hand the replica count to Serve."""
        if count != self._counted:
            await self._serve.set_count(count)
            self._counted = count

    @property
    def _is_empty(self) -> bool:
        """Return whether no replica is there, by intent."""
        return self._counts == ServeCounts(target=0, running=0, starting=0)

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
            return [] if self._is_empty else None
        if any(isinstance(item, BaseException) for item in found):
            return None
        return [frozenset(gone) for _, gone in found]

    async def _ask_snapshots(self) -> list[ReplicaSnapshot]:
        found = await ask_replicas(self._replicas, "describe", timeout_s=CALL_TIMEOUT_S)
        snapshots = []
        for item in found:
            if isinstance(item, ReplicaSnapshot):
                snapshots.append(item)
            else:
                log.warning("controller.replica_silent", error=repr(item))
        return snapshots

    async def _apply(self, actions: Actions) -> None:
        plans = {plan.replica_id: (plan.version, plan.desired) for plan in actions.replica_plans}
        try:
            answers = await ask_replicas(
                self._replicas,
                "apply_placement",
                plans,
                timeout_s=PLACEMENT_TIMEOUT_S,
            )
        except ReplicaLost as error:
            log.warning("controller.placement_unanswered", error=error.message)
            return
        for answer in answers:
            if isinstance(answer, BaseException):
                log.warning("controller.placement_unanswered", error=repr(answer))
                continue
            replica_id, ack = answer
            if ack is not None:
                self._acknowledge(replica_id, ack)

    def _acknowledge(self, replica_id: ReplicaId, ack: PlacementAck) -> None:
        self._reconciler.acknowledge(
            replica_id,
            ack.version,
            loaded=ack.loaded,
            failed={digest: f"{code}: {message}" for digest, code, message in ack.failed},
            evicted=ack.evicted,
            policy=self._policy.policy,
            now=self._clock.wall(),
        )

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
