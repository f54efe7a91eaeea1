"""A replica's account of itself, published to the fronts on its links."""

import math

from cluster.adapters.residency.manager import AdapterManager
from cluster.clock import Clock
from cluster.config import AppConfig
from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import HEARTBEAT_S, ReplicaSnapshot
from cluster.domain.request import GenerationChunk
from cluster.domain.work import WorkTotals
from cluster.engine.port import Engine
from deployments.link.link_server import LinkServer
from deployments.replica.backlog import sum_backlog
from deployments.replica.request_tracker import RequestTracker


class ReplicaState:
    """Composes snapshots of one replica. It is the source of what new links are greeted with."""

    def __init__(
        self,
        replica_id: ReplicaId,
        config: AppConfig,
        *,
        engine: Engine,
        adapters: AdapterManager,
        requests: RequestTracker,
        device: str = "",
        gates: bool = True,
    ) -> None:
        self.address = ""  # of the links; set once they are open
        self.draining = False
        self._replica_id = replica_id
        self._config = config
        self._engine = engine
        self._adapters = adapters
        self._requests = requests
        self._device = device
        self._gates = gates
        self._sequence = 0

    def load(self) -> tuple[int, int, int]:
        """Return the numbers of requests that run, wait in the engine, and wait for it."""
        stats = self._engine.stats()
        return stats.running, stats.waiting, self._requests.waiting_for_admission

    def snapshot(self) -> ReplicaSnapshot:
        """Return a snapshot."""
        self._sequence += 1
        stats = self._engine.stats()
        desired, version = self._adapters.desired
        loads = self._adapters.loads
        return ReplicaSnapshot(
            replica_id=self._replica_id,
            address=self.address,
            queued=stats.waiting + self._requests.waiting_for_admission,
            running=stats.running,
            kv_blocks_total=stats.kv_blocks_total,
            kv_blocks_free=stats.kv_blocks_free,
            slots_total=self._config.adapters.slots,
            adapter_bytes_limit=self._config.adapters.memory_bytes,
            adapter_bytes_used=self._adapters.bytes_used,
            resident=self._adapters.resident(),
            # One whose engine has ended fails at once, and would look free until Serve ends it.
            draining=self.draining or math.isinf(self._engine.stalled_for()),
            sequence=self._sequence,
            desired=tuple(sorted(desired)),
            desired_version=version,
            max_model_len=self._engine.max_model_len,
            counters=(
                *stats.as_counters(),
                *self._requests.counters.as_counters(),
                *self._requests.rerouting.counters.as_counters(),
                *self._adapters.counters(),
            ),
            host_bytes_limit=self._config.adapters.host_bytes,
            host_bytes_used=self._adapters.host_bytes_used,
            max_batch_size=self._config.engine.max_batch_size,
            block_size=self._config.engine.block_size,
            device=self._device,
            gates=self._gates,
            backlog=sum_backlog(self._engine.backlog(), self._requests.backlog()),
            loading_bytes=self._adapters.loading_bytes,
            eviction_age_s=self._adapters.eviction_age_s,
            prefix_age_s=stats.prefix_age_s,
            work=WorkTotals(stats.counters.step_totals, loads.host, loads.disk),
        )

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """Return the adapters in this replica's host memory."""
        return self._adapters.on_host()


class StatePublisher:
    """Sends a replica's state to all links when it changes, and as a heartbeat."""

    def __init__(
        self, state: ReplicaState, adapters: AdapterManager, links: LinkServer, clock: Clock
    ) -> None:
        self._state = state
        self._adapters = adapters
        self._links = links
        self._clock = clock
        self._published: tuple[int, int, int] | None = None
        self._published_at = 0.0  # monotonic, seconds
        self._published_host = 0

    def deliver(self, chunks: list[GenerationChunk]) -> None:
        """Send chunks to the fronts that they are for, with the load that they leave."""
        running, waiting, arriving = self._state.load()
        self._links.deliver(chunks, running, waiting + arriving)

    def publish(self) -> None:
        """Send a snapshot."""
        self._links.publish(self._state.snapshot())

    def publish_if_changed(self) -> None:
        """Send what has changed since the last time, or a heartbeat if it is due."""
        if self._adapters.host_version != self._published_host:
            self._published_host = self._adapters.host_version
            self._links.publish_host(self._state.on_host())
        now = self._clock.monotonic()
        load = self._state.load()
        if load != self._published or now - self._published_at >= HEARTBEAT_S:
            self._published, self._published_at = load, now
            self.publish()
