"""One replica as a front knows it: what it said last, and what this front sent it since."""

import dataclasses
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, ReplicaId, RequestId, TenantId
from cluster.domain.replica import OTHERS, ReplicaSnapshot

PARALLEL_LOADS = 2
"""Adapters that a replica loads at a time."""
_ON_ITS_WAY = frozenset({AdapterState.LOADING, AdapterState.FETCHING})
_TAKES_ROOM = frozenset(
    {AdapterState.READY, AdapterState.LOADING, AdapterState.FETCHING, AdapterState.EVICTING}
)


class Sent(NamedTuple):
    """A request that this front sent, until it ends."""

    tenant: TenantId | None
    tokens: int  # of the prompt, to be computed
    digests: tuple[AdapterDigest, ...]
    at: float  # monotonic seconds


@dataclass(slots=True, eq=False)
class ReplicaView:
    """Belongs to one ``ClusterView``, which alone changes it. Times are its monotonic seconds.

    ``queued`` and ``running`` are the replica's last word on its load. Requests in ``uncounted``
    were sent after that; those in ``unreported`` were sent after its last snapshot.
    """

    snapshot: ReplicaSnapshot
    serial: int
    heard_at: float = 0.0
    reported_at: float = 0.0  # of the last snapshot
    queued: int = 0
    running: int = 0
    held: dict[AdapterDigest, ResidentAdapter] = field(default_factory=dict)
    coming: dict[AdapterDigest, float] = field(default_factory=dict)
    """Adapters on their way to the device, and since when they may be loading. More than load at a
    time are in order, and those that wait have not begun."""
    failed: frozenset[AdapterDigest] = frozenset()
    desired: frozenset[AdapterDigest] = frozenset()
    on_host: frozenset[AdapterDigest] = frozenset()
    free_slots: int = 0
    free_bytes: int = 0
    idle: int = 0  # residents that could be evicted
    pinned: frozenset[AdapterDigest] = frozenset()  # residents that are never evicted
    leased_bytes: int = 0  # of the adapters that steps apply
    uncounted: set[RequestId] = field(default_factory=set)
    unreported: dict[RequestId, Sent] = field(default_factory=dict)
    sent_tokens: dict[TenantId | None, int] = field(default_factory=dict)
    """Prompt tokens of the unreported requests."""
    sent_total: int = 0
    incoming: dict[AdapterDigest, float] = field(default_factory=dict)
    """Adapters that unreported requests bring in, and since when."""
    asking: dict[AdapterDigest, dict[RequestId, float]] = field(default_factory=dict)
    """Those requests by adapter, and when they were sent; the oldest first."""
    backlog_total: int = 0  # prompt tokens of the last snapshot's ``backlog``
    left: float = 1.0  # share of it that is not computed yet, by the model's estimate
    load: int = 0  # requests queued, running or on their way from any front
    order_key: float = 0.0  # seconds; the cheaper, the sooner it becomes a candidate

    @property
    def replica_id(self) -> ReplicaId:
        """Return the replica's id."""
        return self.snapshot.replica_id

    @property
    def latest(self) -> ReplicaSnapshot:
        """Return the last snapshot, with the last word on the load."""
        snapshot = self.snapshot
        if (snapshot.queued, snapshot.running) == (self.queued, self.running):
            return snapshot
        return dataclasses.replace(snapshot, queued=self.queued, running=self.running)

    def age(self, now: float) -> float:
        """Return the seconds since the replica was heard of."""
        return max(0.0, now - self.heard_at)

    def take_snapshot(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Take in all that a newer snapshot says."""
        before, self.snapshot = self.snapshot, snapshot
        self.heard_at = self.reported_at = now
        self.queued, self.running = snapshot.queued, snapshot.running
        self.uncounted.clear()
        self.unreported.clear()
        self.sent_tokens.clear()
        self.sent_total = 0
        self.incoming.clear()
        self.asking.clear()
        self.backlog_total = sum([tokens for _, tokens in snapshot.backlog])
        self.left = 1.0
        self.free_bytes = snapshot.adapter_bytes_limit - snapshot.adapter_bytes_used
        if snapshot is before or not _has_same_adapters(snapshot, before):
            self.desired = frozenset(snapshot.desired)
            self._take_residents(snapshot, now)

    def _take_residents(self, snapshot: ReplicaSnapshot, now: float) -> None:
        held = {adapter.digest: adapter for adapter in snapshot.resident}
        slots = idle = leased = 0
        coming: dict[AdapterDigest, float] = {}
        failed: list[AdapterDigest] = []
        ready, desired = AdapterState.READY, self.desired
        for digest, adapter in held.items():
            state = adapter.state
            if state is ready:
                slots += 1
                if adapter.leases:
                    leased += adapter.nbytes
                elif not adapter.pinned and digest not in desired:
                    idle += 1
            elif state in _TAKES_ROOM:
                slots += 1
                if state in _ON_ITS_WAY:
                    coming[digest] = self.coming.get(digest, now)
            elif state is AdapterState.FAILED:
                failed.append(digest)
        if len(coming) > PARALLEL_LOADS or len(self.coming) > PARALLEL_LOADS:
            coming = self._in_line(coming, now)
        self.held, self.coming, self.failed = held, coming, frozenset(failed)
        self.idle, self.leased_bytes = idle, leased
        self.pinned = frozenset([d for d, adapter in held.items() if adapter.pinned])
        self.free_slots = snapshot.slots_total - slots

    def _in_line(
        self, coming: dict[AdapterDigest, float], now: float
    ) -> dict[AdapterDigest, float]:
        """Put what was on its way before ahead; of others the lowest slot was given first."""
        before = list(self.coming)
        begun = {digest: self.coming[digest] for digest in before[:PARALLEL_LOADS]}
        order = [d for d in before if d in coming] + [d for d in coming if d not in self.coming]
        return {digest: begun.get(digest, now) for digest in order}

    def add_sent(self, request_id: RequestId, sent: Sent) -> None:
        """Count a request that has just left for it."""
        self.uncounted.add(request_id)
        self.unreported[request_id] = sent
        self.sent_tokens[sent.tenant] = self.sent_tokens.get(sent.tenant, 0) + sent.tokens
        self.sent_total += sent.tokens
        for digest in sent.digests:
            self.incoming.setdefault(digest, sent.at)
            self.asking.setdefault(digest, {})[request_id] = sent.at

    def remove_sent(self, request_id: RequestId) -> None:
        """Count a request no more, wherever it is still counted."""
        self.uncounted.discard(request_id)
        sent = self.unreported.pop(request_id, None)
        if sent is not None:
            self.sent_tokens[sent.tenant] -= sent.tokens
            self.sent_total -= sent.tokens
            for digest in set(sent.digests):
                others = self.asking[digest]
                del others[request_id]
                if others:
                    self.incoming[digest] = next(iter(others.values()))
                else:
                    del self.incoming[digest], self.asking[digest]

    def may_have(self, tenant: TenantId) -> bool:
        """Report whether prompts of a tenant may wait there, as far as this front knows.

        A backlog that leaves tenants out has them under no name.
        """
        named = {name for name, _ in self.snapshot.backlog}
        return tenant in self.sent_tokens or tenant in named or OTHERS in named

    def drain(self, now: float, seconds_per_token: float) -> None:
        """Estimate how much of the reported backlog has been computed since it was reported."""
        seconds = self.backlog_total * seconds_per_token
        if seconds > 0.0:
            self.left = min(self.left, max(0.0, 1.0 - (now - self.reported_at) / seconds))

    def tokens_before(self, tenant: TenantId | None, prompt: int, fronts: int) -> float:
        """Return the prompt tokens that are computed before a request of ``tenant`` is.

        Tenants take turns: while its own tokens and ``prompt`` more are computed, each other
        tenant has as many computed, and no more than it has. Without a tenant all are before it.
        """
        left = self.left
        total = self.backlog_total * left + self.sent_total * fronts
        if total <= 0.0 or tenant is None:
            return total
        waiting: dict[TenantId | None, float] = {}
        for name, tokens in self.snapshot.backlog:
            waiting[name] = waiting.get(name, 0.0) + tokens * left
        for known, tokens in self.sent_tokens.items():
            waiting[known] = waiting.get(known, 0.0) + tokens * fronts
        own = waiting.pop(tenant, 0.0)
        turn = own + prompt
        return own + sum(min(tokens, turn) for tokens in waiting.values())


def _has_same_adapters(one: ReplicaSnapshot, other: ReplicaSnapshot) -> bool:
    return (
        one.resident == other.resident
        and one.desired == other.desired
        and one.slots_total == other.slots_total
    )
