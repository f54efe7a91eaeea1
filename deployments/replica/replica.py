"""The replica actor: one engine, one adapter pool, one link server."""

import asyncio
import dataclasses
import os
import secrets as secrets_module
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from ray import serve

from cluster.adapters.loader import load_adapter
from cluster.adapters.registry.records import Answer
from cluster.adapters.residency.manager import AdapterManager, PlacementAck
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.clock import SystemClock
from cluster.config import AppConfig, RouterConfig
from cluster.domain.adapter import AdapterEntry, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import GenerationChunk
from cluster.engine.execution.heap import return_free_memory
from cluster.engine.factory import build_engine
from cluster.errors import AdapterNotFinite, BraidError, EngineError, IntegrityError
from cluster.placement.policy import ReplicasPolicy
from deployments.link.link_messages import Reroute, Submit
from deployments.link.link_server import LinkServer
from deployments.live_adapters import LiveAdapters
from deployments.log_setup import configure_logging
from deployments.ray_compat import bind_serve_to_loopback, node_address
from deployments.replica.background import give_way
from deployments.replica.mixing import DecisionMixing
from deployments.replica.request_tracker import RequestBook
from deployments.replica.router_parts import part_keeper
from deployments.replica.versions import VersionKeeper
from deployments.serve_env import SERVE_LOGGING
from deployments.wiring import decision_store, locate_model, read_secrets, scan_adapters
from kernels.errors import BankIntegrityError
from kernels.lora.packed import PackedAdapter
from router_service.reader import DecisionReader

log = structlog.get_logger(__name__)

PUBLISH_INTERVAL_S = 0.1
HEARTBEAT_S = 1.0
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
        configure_logging("replica")
        bind_serve_to_loopback()
        config = AppConfig.model_validate(args)
        secrets = read_secrets(config)
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._config = config
        self._id = ReplicaId(serve.get_replica_context().replica_id.unique_id)
        location = await asyncio.to_thread(locate_model, config)
        catalog = await asyncio.to_thread(scan_adapters, config, location.model_id)
        # Caught up before the first request: nothing that a front can decide on is unknown here.
        self._live = LiveAdapters.build(config, secrets, self._clock, location.model_id, catalog)
        await self._live.start()
        self._mixing = DecisionMixing({}, location.digest, isolate_tenants=config.tenant_isolation)
        self._parts = part_keeper(
            config,
            location,
            live=self._live,
            mixing=self._mixing,
            uses=lambda version: self._requests.uses_router(version),
            clock=self._clock,
        )
        await self._parts.start(frozenset(router.name for router in config.routers))
        self._engine = await asyncio.to_thread(
            build_engine,
            location.path,
            config.engine,
            config.adapters,
            clock=self._clock,
            on_chunks=self._on_chunks,
            new_seed=lambda: secrets_module.randbits(63),
            mixing=self._mixing.engine_parts(),
            on_returned=self._on_returned,
        )
        self._executor = ThreadPoolExecutor(
            LOADER_THREADS, thread_name_prefix="adapter-load", initializer=give_way
        )
        self._base = BaseShapes.of_model(
            location.path,
            location.digest,
            location.model_id,
            self._engine.module_shapes,
            self._engine.vocab_size,
        )

        def load(entry: AdapterEntry) -> PackedAdapter:
            found = load_adapter(
                Path(entry.path),
                self._base,
                config.adapters,
                entry.key.digest,
                base_check=entry.base_check,
                links_below=config.adapters_dir,
            )
            packed = self._engine.bank.pack(found.tensors)
            if not packed.is_finite:
                raise AdapterNotFinite(
                    f"{entry.path}: B times the scaling is not finite in {packed.row.dtype}"
                )
            return packed

        self._adapters = AdapterManager(
            config.adapters,
            self._live,
            self._engine.bank,
            load,
            self._clock,
            self._executor,
            on_change=lambda _: self._publish(),
            on_drain=lambda digests: self._requests.give_way(digests),
        )
        store, codec = decision_store(config, secrets, self._clock)
        self._links = LinkServer(self, secrets.signing_key)
        self._requests = RequestBook(
            engine=self._engine.engine,
            adapters=self._adapters,
            ensure=self._live.ensure,
            ensure_router=self._parts.ensure,
            reader=DecisionReader(
                store=store,
                codec=codec,
                clock=self._clock,
                config=config.decisions,
                leeway_s=DECISION_LEEWAY_S,
            ),
            mixing=self._mixing,
            max_waiting=config.engine.max_queued + config.engine.max_batch_size,
            clock=self._clock,
            loop=self._loop,
            deliver=self._deliver,
        )
        self._versions = VersionKeeper(
            self._live,
            self._adapters,
            self._requests.uses,
            self._requests.forget,
            freed=lambda: asyncio.to_thread(return_free_memory),
        )
        self._draining = False
        self._desired_replicas: float = 0
        self._published: tuple[object, ...] = ()
        self._published_at = 0.0
        self._published_host = 0
        self._engine.engine.start()
        host = config.replica.host
        if host == "node":
            host = node_address()
        self._address = f"{host}:{await self._links.start(host)}"
        # From here on changes are told to the links; nobody knows the address yet.
        self._versions.start()
        self._ticker = asyncio.create_task(self._tick())
        log.info("replica.ready", replica=self._id, address=self._address, pid=os.getpid())

    # From the links

    def submit(self, message: Submit) -> None:
        """A front's request."""
        self._requests.submit(message)

    def reroute(self, message: Reroute) -> None:
        """A front's word about a request that runs here."""
        self._requests.reroute(message)

    def cancel(self, request_id: RequestId) -> None:
        """A client has gone."""
        self._requests.cancel(request_id)

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        """A front has gone: nobody waits for these any more."""
        for request_id in request_ids:
            self._requests.abandon(request_id)

    def snapshot(self) -> ReplicaSnapshot:
        """This replica's word about itself; fronts pick without ``loads``, which may be many."""
        stats = self._engine.engine.stats()
        desired, version = self._adapters.desired
        return ReplicaSnapshot(
            replica_id=self._id,
            address=self._address,
            queued=stats.waiting + self._requests.waiting_for_admission,
            running=stats.running,
            kv_blocks_total=stats.kv_blocks_total,
            kv_blocks_free=stats.kv_blocks_free,
            slots_total=self._config.adapters.slots,
            adapter_bytes_limit=self._config.adapters.memory_bytes,
            adapter_bytes_used=self._adapters.bytes_used,
            resident=self._adapters.resident(),
            loads=(),
            draining=self._draining,
            observed_at=self._clock.wall(),
            desired=tuple(sorted(desired)),
            desired_version=version,
            max_model_len=self._engine.engine.max_model_len,
            counters=(
                *stats.as_counters(),
                *self._requests.counters.as_counters(),
                *self._requests.rerouting.counters.as_counters(),
                *self._adapters.counters(),
            ),
            host_bytes_limit=self._config.adapters.host_bytes,
            host_bytes_used=self._adapters.host_bytes_used,
        )

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """The adapters in this replica's host memory."""
        return self._adapters.on_host()

    # From the controller and the fronts, through Serve

    async def describe(self) -> ReplicaSnapshot:
        """For discovery and for the controller."""
        return dataclasses.replace(self.snapshot(), loads=self._requests.loads())

    async def apply_placement(
        self, plans: dict[ReplicaId, tuple[int, tuple[AdapterDigest, ...]]], replica_count: int
    ) -> tuple[ReplicaId, PlacementAck | None]:
        """Bring this replica's part of a plan about; None where the plan has none for it.

        Args:
            plans: by replica, the plan's version and the adapters wanted, most wanted first.
            replica_count: how many replicas there should be; repeated to Serve's autoscaler.
        """
        self._desired_replicas = replica_count
        if self._id not in plans:
            return self._id, None
        version, wanted = plans[self._id]
        return self._id, await self._adapters.apply_placement(wanted, version)

    async def describe_base(self) -> BaseShapes:
        """What an adapter must fit to be served here."""
        return self._base

    async def prepare_adapter(self, digest: AdapterDigest) -> Answer:
        """Whether a staged version can be served here; it is loaded where there is room."""
        outcome, code, message = await self._versions.prepare(digest)
        return Answer(self._id, outcome, code, message)

    async def prepare_router(self, router: dict[str, Any]) -> Answer:
        """Whether a router (a ``RouterConfig`` in JSON form) can be served here."""
        outcome, code, message = await self._parts.prepare(RouterConfig.model_validate(router))
        return Answer(self._id, outcome, code, message)

    async def unload_adapters(
        self, digests: tuple[AdapterDigest, ...]
    ) -> tuple[ReplicaId, tuple[AdapterDigest, ...]]:
        """Let retired versions go; those are answered that are gone and held by nobody."""
        return self._id, await self._versions.unload(digests)

    async def check_integrity(self) -> tuple[ReplicaId, str | None]:
        """What is wrong with the books of requests, engine, bank or adapter pool, if anything."""
        try:
            self._engine.engine.check_integrity()
            self._engine.bank.check_integrity()
            self._adapters.check_integrity()
            self._requests.check_integrity()
        except (IntegrityError, BankIntegrityError) as error:
            log.error("replica.integrity", error=str(error))
            return self._id, str(error)
        return self._id, None

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the scaling policy reads: the controller's word, carried by every replica."""
        return {"desired_replicas": float(self._desired_replicas)}

    async def check_health(self) -> None:
        """Serve replaces a replica whose step loop has stopped."""
        stalled = self._engine.engine.stalled_for()
        if stalled > STALL_LIMIT_S:
            raise EngineError(f"the step loop has not moved for {stalled:.0f} s")

    async def __del__(self) -> None:
        """Serve calls this before it ends the actor: finish what runs, then leave."""
        if not hasattr(self, "_ticker"):
            return
        self._draining = True
        self._publish()
        await self._requests.drain(DRAIN_S)
        self._ticker.cancel()
        await asyncio.to_thread(self._engine.engine.stop, drain=False, timeout_s=5.0)
        await self._links.stop(1.0)
        await self._parts.close()
        await self._live.close()
        await self._adapters.close()
        self._executor.shutdown(wait=False)

    # Inside

    def _on_chunks(self, chunks: list[GenerationChunk]) -> None:
        self._requests.on_chunks(chunks)

    def _on_returned(self, request_id: RequestId, token_ids: tuple[int, ...]) -> None:
        self._requests.on_returned(request_id, token_ids)

    def _deliver(self, chunks: list[GenerationChunk]) -> None:
        stats = self._engine.engine.stats()
        self._links.deliver(
            chunks, stats.running, stats.waiting + self._requests.waiting_for_admission
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S)
            try:
                self._publish_if_changed()
                self._parts.sweep()
            except BraidError as error:
                log.error("replica.publish_failed", error=error.message)

    def _publish_if_changed(self) -> None:
        if self._adapters.host_version != self._published_host:
            self._published_host = self._adapters.host_version
            self._links.publish_host(self.on_host())
        stats = self._engine.engine.stats()
        now = self._clock.monotonic()
        state = (stats.running, stats.waiting, self._requests.waiting_for_admission)
        if state != self._published or now - self._published_at >= HEARTBEAT_S:
            self._published, self._published_at = state, now
            self._publish()

    def _publish(self) -> None:
        self._links.publish(self.snapshot())


def replica_deployment(config: AppConfig, policy: ReplicasPolicy) -> serve.Deployment:
    """The deployment with its options; the replica count follows the operator's policy."""
    return serve.deployment(
        name="Replica",
        logging_config=dict(SERVE_LOGGING),
        max_ongoing_requests=1024,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=DRAIN_S + 10.0,
        autoscaling_config={
            "min_replicas": policy.min,
            "max_replicas": policy.max,
            "initial_replicas": policy.min,
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "policy": {"policy_function": "deployments.scaling_policy:replica_count_policy"},
        },
        ray_actor_options={
            "num_cpus": config.replica.num_cpus,
            "num_gpus": config.replica.num_gpus,
            "resources": dict(config.replica.resources),
        },
    )(Replica)
