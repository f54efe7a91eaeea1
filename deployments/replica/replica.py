"""The replica actor: one engine, one adapter pool, one link server."""

import asyncio
import math
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import structlog
from ray import serve

from cluster.adapters.registry.records import ReplicaAnswer
from cluster.adapters.residency.manager import AdapterManager
from cluster.adapters.residency.residency_types import PlacementAck
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.plan_version import PlanVersion
from cluster.domain.replica import ReplicaSnapshot
from cluster.engine.factory import build_engine
from cluster.engine.port import BuiltEngine, LoadableAdapter
from cluster.errors import BraidError, EngineError, IntegrityError
from cluster.placement.policy import ReplicasPolicy
from cluster.process_memory import return_free_memory
from deployments.link.link_server import LinkServer
from deployments.process import Process, decision_store, start_process
from deployments.ray_compat import node_address
from deployments.replica.engine_routers import EngineRouters, part_builder
from deployments.replica.mixing import DecisionMixing
from deployments.replica.replica_state import ReplicaState, StatePublisher
from deployments.replica.replica_versions import ReplicaVersions
from deployments.replica.request_tracker import RequestTracker
from deployments.replica.thread_priority import lower_priority
from deployments.router_build import router_configs
from deployments.serve_env import SERVE_LOGGING
from router_service.reader import DecisionReader

log = structlog.get_logger(__name__)

PUBLISH_INTERVAL_S = 0.1
LAST_WORDS_S = 0.2
ENGINE_ENDED = 70
"""Exit status of a replica whose engine has ended by itself."""
STALL_LIMIT_S = 120.0
DRAIN_S = 15.0
DECISION_LEEWAY_S = 900.0
LOADER_THREADS = 3  # two loads to slots, one that reads ahead


class Replica:
    """Decodes for the fronts that are linked to it.

    Args:
        args: an ``AppConfig`` in JSON form.
    """

    async def __init__(  # type: ignore[misc] # Serve awaits constructors
        self, args: dict[str, Any]
    ) -> None:
        process = await start_process(args, "replica")
        self._id = ReplicaId(serve.get_replica_context().replica_id.unique_id)
        mixing = DecisionMixing(
            {}, process.base.digest, isolate_tenants=process.config.tenant_isolation
        )
        self._routers = await self._follow_routers(process, mixing)
        self._engine = await self._load_engine(process, mixing)
        self._base = BaseShapes.of_model(
            process.base.path,
            process.base.digest,
            process.base.model_id,
            self._engine.module_shapes,
            self._engine.vocab_size,
        )
        self._adapters = self._open_adapters(process)
        self._requests = self._track_requests(process, mixing)
        self._state = ReplicaState(
            self._id,
            process.config,
            engine=self._engine.engine,
            adapters=self._adapters,
            requests=self._requests,
            device=self._engine.device,
            gates=self._engine.gates,
        )
        links = LinkServer(self._requests, self._state, process.secrets.signing_key)
        self._publisher = StatePublisher(self._state, self._adapters, links, process.clock)
        self._versions = ReplicaVersions(
            replica_id=self._id,
            follower=process.adapters,
            adapters=self._adapters,
            users=self._requests,
            on_freed=lambda: asyncio.to_thread(return_free_memory),
        )
        await self._open_links(process, links)
        # From here on changes go to the links; no front knows the address yet.
        self._versions.start()
        ticker = asyncio.create_task(self._tick())
        process.on_close_sync(ticker.cancel)
        process.on_close(self._drain)
        self._process = process
        log.info("replica.ready", replica=self._id, address=self._state.address, pid=os.getpid())

    # The steps of the start

    async def _follow_routers(self, process: Process, mixing: DecisionMixing) -> EngineRouters:
        config = process.config
        routers = EngineRouters(
            replica_id=self._id,
            adapters=process.adapters,
            mixing=mixing,
            configs=lambda view: router_configs(config, view),
            build=part_builder(config, process.base, process.adapters),
            uses=lambda version: self._requests.uses_router(version),
            clock=process.clock,
        )
        await routers.start(config.routers)
        process.on_close(routers.close)
        return routers

    async def _load_engine(self, process: Process, mixing: DecisionMixing) -> BuiltEngine:
        return await asyncio.to_thread(
            build_engine,
            process.base.path,
            process.config.engine,
            process.config.adapters,
            clock=process.clock,
            on_chunks=lambda chunks: self._requests.on_chunks(chunks),
            new_seed=lambda: secrets.randbits(63),
            mixing=mixing.engine_parts(),
            on_returned=lambda name, tokens, usage: self._requests.on_returned(name, tokens, usage),
            tensor_parallel=process.config.replica.tensor_parallel,
        )

    def _open_adapters(self, process: Process) -> AdapterManager:
        config = process.config

        def load(entry: AdapterEntry) -> LoadableAdapter:
            return self._engine.adapters.read_adapter(
                Path(entry.path),
                self._base,
                digest=entry.key.digest,
                base_check=entry.base_check,
                links_below=config.adapters_dir,
            )

        executor = ThreadPoolExecutor(
            LOADER_THREADS, thread_name_prefix="adapter-load", initializer=lower_priority
        )
        adapters = AdapterManager(
            config.adapters,
            process.adapters,
            self._engine.adapters,
            load,
            process.clock,
            executor,
            on_change=lambda _: self._publisher.publish(),
            on_close_to_new=lambda digests: self._requests.yield_leases(digests),
        )
        process.on_close_sync(lambda: executor.shutdown(wait=False))
        process.on_close(adapters.close)
        return adapters

    def _track_requests(self, process: Process, mixing: DecisionMixing) -> RequestTracker:
        config = process.config
        store, codec = decision_store(process)
        return RequestTracker(
            engine=self._engine.engine,
            adapters=self._adapters,
            sync_adapters=process.adapters.sync_for,
            sync_router=self._routers.sync_for,
            reader=DecisionReader(
                store=store,
                codec=codec,
                clock=process.clock,
                config=config.decisions,
                leeway_s=DECISION_LEEWAY_S,
            ),
            mixing=mixing,
            max_waiting=config.engine.max_queued + config.engine.max_batch_size,
            clock=process.clock,
            loop=asyncio.get_running_loop(),
            deliver=lambda chunks: self._publisher.deliver(chunks),
        )

    async def _open_links(self, process: Process, links: LinkServer) -> None:
        """Start the engine, and let fronts connect."""
        host = process.config.replica.host
        if host == "node":
            host = node_address()
        engine = self._engine.engine
        engine.start()
        self._state.address = f"{host}:{await links.start(host)}"
        process.on_close(lambda: links.stop(1.0))
        process.on_close(lambda: asyncio.to_thread(engine.stop, drain=False, timeout_s=5.0))

    # From the controller and the fronts, through Serve

    async def describe(self) -> ReplicaSnapshot:
        """Return a snapshot, for discovery and for the controller."""
        return self._state.snapshot()

    async def apply_placement(
        self,
        version: PlanVersion,
        desired: tuple[AdapterDigest, ...],
        pinned: frozenset[AdapterDigest],
        kept: frozenset[AdapterDigest],
    ) -> PlacementAck:
        """Carry out a plan, most desired adapters first; one older than that in force is refused.

        What is pinned is not evicted, what is kept is not loaded. The answer has the version in
        force, so that a controller learns of a later one.
        """
        ack = await self._adapters.apply_placement(desired, version, pinned, kept)
        if ack.version > version:
            log.warning("replica.plan_refused", sent=str(version), obeys=str(ack.version))
        return ack

    async def describe_base(self) -> BaseShapes:
        """Return the shapes that an adapter must fit to be served here."""
        return self._base

    async def prepare_adapter(self, digest: AdapterDigest) -> ReplicaAnswer:
        """Try a staged version; it is loaded if there is room."""
        return await self._versions.prepare(digest)

    async def prepare_router(self, router: dict[str, Any]) -> ReplicaAnswer:
        """Try a router, a ``RouterConfig`` in JSON form."""
        return await self._routers.prepare(RouterConfig.model_validate(router))

    async def unload_adapters(
        self, digests: tuple[AdapterDigest, ...]
    ) -> tuple[ReplicaId, tuple[AdapterDigest, ...]]:
        """Unload retired versions, and return those that are gone and leased by no request."""
        return self._id, await self._versions.unload(digests)

    async def check_integrity(self) -> tuple[ReplicaId, str | None]:
        """Check the ledgers of requests, engine, bank and adapters; returns the first problem."""
        try:
            self._engine.engine.check_integrity()
            self._engine.adapters.check_integrity()
            self._adapters.check_integrity()
            self._requests.check_integrity()
        except IntegrityError as error:
            log.error("replica.integrity", error=str(error))
            return self._id, str(error)
        return self._id, None

    async def check_health(self) -> None:
        """Fail once the step loop has stopped: Serve then replaces this replica."""
        stalled = self._engine.engine.stalled_for()
        if stalled > STALL_LIMIT_S:
            raise EngineError(f"the step loop has not moved for {stalled:.0f} s")

    async def __del__(self) -> None:
        """Finish the running requests, then leave; Serve calls this before it ends the actor."""
        if hasattr(self, "_process"):
            await self._process.close()

    # Inside

    async def _drain(self) -> None:
        self._state.draining = True
        self._publisher.publish()
        await self._requests.wait_idle(DRAIN_S)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            if math.isinf(self._engine.engine.stalled_for()):
                await self._give_up()
            try:
                self._publisher.publish_if_changed()
                self._routers.sweep()
            except BraidError as error:
                log.error("replica.publish_failed", error=error.message)

    async def _give_up(self) -> NoReturn:
        """End this process, whose engine has ended: it could only refuse requests, and what refuses
        fast looks free to those that pick.

        Its requests continue elsewhere, and Serve starts another replica.
        """
        log.critical("replica.engine_ended", replica=self._id, pid=os.getpid())
        await asyncio.sleep(LAST_WORDS_S)  # chunks are on their way to the links
        os._exit(ENGINE_ENDED)


def replica_deployment(config: AppConfig, policy: ReplicasPolicy) -> serve.Deployment:
    """Return the deployment with its options.

    The controller sets its number of replicas as soon as it runs. Serve needs one to start with.
    """
    return serve.deployment(
        name="Replica",
        logging_config=dict(SERVE_LOGGING),
        max_ongoing_requests=1024,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=DRAIN_S + 10.0,
        num_replicas=max(1, policy.min),
        ray_actor_options={
            "num_cpus": config.replica.num_cpus,
            "num_gpus": config.replica.num_gpus,
            "resources": dict(config.replica.resources),
        },
    )(Replica)
