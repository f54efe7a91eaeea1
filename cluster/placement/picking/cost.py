"""The cost of sending a request to a replica, in seconds.

``queue`` passes until its turn, ``load`` until its adapters are on the device, ``prefill`` until
its first token after that; ``harm`` is what it costs others.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId, TenantId
from cluster.placement.cost.model import CostModel
from cluster.placement.picking.replica_view import PARALLEL_LOADS, ReplicaView

COMES_BACK = 1 - math.exp(-1)
"""Chance that an evicted adapter is wanted again soon.

A pool evicts what was idle for about its age of eviction. Requests at that mean interval come back
within one such age with this probability.
"""


class Terms(NamedTuple):
    """The cost of one replica for one request, in seconds."""

    cost: float
    queue: float
    load: float
    prefill: float
    harm: float
    slowness: float

    @property
    def ttft(self) -> float:
        """Return the predicted time to the first token."""
        return self.slowness * (max(self.queue, self.load) + self.prefill)

    def named(self) -> tuple[tuple[str, float], ...]:
        """Return the four terms with their names."""
        return (
            ("queue", self.queue),
            ("load", self.load),
            ("prefill", self.prefill),
            ("harm", self.harm),
        )


class PickNeeds(NamedTuple):
    """A request as its cost depends on it; the same for all candidates."""

    tenant: TenantId | None
    prompt: int
    expected: int
    members: tuple[tuple[AdapterDigest, int], ...]  # with their bytes
    cached: Mapping[ReplicaId, tuple[int, float]]  # tokens of its beginning, and since when
    mean_tokens: float  # that the tenant's requests generate on average
    fronts: int
    harm: float  # weight of the seconds that it costs others
    now: float  # monotonic seconds


def cost_of(replica: ReplicaView, asked: PickNeeds, model: CostModel) -> Terms:
    """Return the cost of sending the request to the replica."""
    step, snapshot = model.step, replica.snapshot
    places = max(1, snapshot.max_batch_size)
    load = replica.load
    running = load if load < places else places
    blocks = snapshot.kv_blocks_total - snapshot.kv_blocks_free
    step_s = (
        step.per_step
        + step.per_decode_row * running
        + step.per_context_block * blocks
        + step.per_adapter_byte * replica.leased_bytes
    )
    queue = 0.0
    if replica.backlog_total or replica.sent_total:
        before = replica.tokens_before(asked.tenant, asked.prompt, asked.fronts)
        queue = before * step.per_prefill_token
    if load >= places:
        queue += (load - places + 1) * asked.mean_tokens * step_s / places
    loading, new_bytes, evicted = 0.0, 0, 0.0
    if asked.members:
        loading, new_bytes, evicted = _load(replica, asked, model, step_s)
    own = asked.prompt
    if asked.cached:
        own = max(min(1, own), own - _cached_tokens(replica, asked))
    computing = own * step.per_prefill_token
    row = step.per_decode_row + step.per_adapter_byte * new_bytes
    harm = asked.harm * running * (computing + asked.expected * row) + evicted
    slowness = model.slowness.get(snapshot.replica_id, 1.0) if model.slowness else 1.0
    prefill = computing + step_s
    cost = slowness * ((queue if queue > loading else loading) + prefill) + harm
    return Terms(cost, queue, loading, prefill, harm, slowness)


def _load(
    replica: ReplicaView, asked: PickNeeds, model: CostModel, step_s: float
) -> tuple[float, int, float]:
    """Return the seconds until all members are there, the bytes that steps gain, and the harm of
    what has to be evicted for them."""
    longest = total = 0.0
    new_bytes = missing = missing_bytes = 0
    held, ready = replica.held, AdapterState.READY
    for digest, nbytes in asked.members:
        adapter = held.get(digest)
        if adapter is not None and adapter.state is ready:
            if not adapter.leases:
                new_bytes += nbytes
            continue
        new_bytes += nbytes
        from_host = digest in replica.on_host or (
            adapter is not None and adapter.state is AdapterState.ON_HOST
        )
        seconds = (model.host_load if from_host else model.disk_load).seconds(nbytes)
        since = replica.coming.get(digest)
        if since is None:
            since = replica.incoming.get(digest)
        elif len(replica.coming) > PARALLEL_LOADS:
            seconds *= 1 + list(replica.coming).index(digest) // PARALLEL_LOADS
        if since is not None:
            seconds = max(0.0, seconds - max(0.0, asked.now - since))
        elif digest not in replica.desired:
            missing += 1
            missing_bytes += nbytes
        total += seconds
        longest = max(longest, seconds)
    if not total and not missing:
        return 0.0, new_bytes, 0.0
    seconds = max(longest, total / PARALLEL_LOADS)
    evicted = 0.0
    if missing:
        absent = len([d for d in replica.incoming if d not in held]) if replica.incoming else 0
        seconds += _ahead(replica, absent, model)
        short = max(0, missing - max(0, replica.free_slots - absent))
        if (
            not short
            and replica.snapshot.adapter_bytes_limit
            and missing_bytes > replica.free_bytes
        ):
            short = 1
        if short > replica.idle:  # until a request that runs gives its adapters back
            seconds += asked.mean_tokens * step_s
        again = model.host_load if replica.snapshot.host_bytes_limit else model.disk_load
        evicted = short * COMES_BACK * again.seconds(missing_bytes / missing)
    return seconds, new_bytes, evicted


def load_seconds(members: Sequence[tuple[AdapterDigest, int]], model: CostModel) -> float:
    """Return the seconds that adapters (at least one), with their bytes, take from the disk."""
    seconds = [model.disk_load.seconds(nbytes) for _, nbytes in members]
    return max(max(seconds), sum(seconds) / PARALLEL_LOADS)


def _ahead(replica: ReplicaView, sent: int, model: CostModel) -> float:
    """Return the seconds that a new load waits for those ahead of it, ``sent`` ones included."""
    count = len(replica.coming) + sent
    nbytes = replica.snapshot.loading_bytes
    if count < PARALLEL_LOADS and not nbytes:
        return 0.0
    return (count * model.disk_load.latency + nbytes * model.disk_load.per_byte) / PARALLEL_LOADS


def _cached_tokens(replica: ReplicaView, asked: PickNeeds) -> int:
    found = asked.cached.get(replica.replica_id)
    if found is None:
        return 0
    tokens, at = found
    kept = replica.snapshot.prefix_age_s
    return 0 if 0 < kept < asked.now - at else tokens


def bare_cost(replica: ReplicaView, model: CostModel) -> float:
    """Return the cost of a request of average size that needs no adapter, to order replicas by."""
    return cost_of(replica, _BARE, model).cost


_BARE = PickNeeds(
    tenant=None,
    prompt=64,
    expected=64,
    members=(),
    cached={},
    mean_tokens=64.0,
    fronts=1,
    harm=0.25,
    now=0.0,
)
