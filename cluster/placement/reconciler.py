"""The controller's state machine: what is, what should be, and what to tell whom.

Pure: snapshots in, actions out; the actor around it does the talking and keeps ``to_state`` in
the store. One owner. Each replica has its own desired adapters and the version at which they
last changed; a plan is sent until the replica has acknowledged that version, and again where an
acknowledged adapter is missing. All times are wall-clock seconds.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import IntegrityError
from cluster.placement.autoscaler import AutoscalerState, autoscale
from cluster.placement.backoff import PrefetchBackoff
from cluster.placement.copies import copies_by_digest
from cluster.placement.load import LoadReport, LoadTracker
from cluster.placement.pins import resolve_pins
from cluster.placement.plan import (
    AdapterInfo,
    CopyTarget,
    Held,
    Move,
    MoveKind,
    Plan,
    PlanInputs,
    ReplicaRoom,
)
from cluster.placement.planner import plan
from cluster.placement.policy import ClusterPolicy, ReplicasPolicy

_STATE_FORMAT = 1
_HOLDS_ROOM = frozenset({AdapterState.READY, AdapterState.LOADING, AdapterState.EVICTING})
_ON_ITS_WAY = frozenset(
    {AdapterState.FETCHING, AdapterState.ON_HOST, AdapterState.LOADING, AdapterState.READY}
)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the history."""

    at: float  # wall clock, seconds
    kind: str
    """copies, prefetch, evict (told), evicted (done), failed, replicas, replica_joined or
    replica_lost"""
    message: str
    replica_id: str = ""
    digest: str = ""
    adapter: str = ""  # alias


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What one replica is told."""

    replica_id: ReplicaId
    version: int
    desired: tuple[AdapterDigest, ...]  # what matters most first
    prefetch: tuple[AdapterDigest, ...]  # of the desired, those not ready
    evict: tuple[AdapterDigest, ...]  # to make room; never one in use


@dataclass(frozen=True, slots=True)
class Actions:
    """What the controller has to do after a tick."""

    version: int
    replica_plans: tuple[ReplicaPlan, ...]  # only for replicas that must hear of it
    replica_count: int
    replica_reason: str
    copies: tuple[CopyTarget, ...]
    moves: tuple[Move, ...]  # new in this tick
    unplaced: tuple[tuple[AdapterDigest, str], ...]
    unknown_pins: tuple[str, ...]
    load: LoadReport


@dataclass(slots=True)
class _Assignment:
    desired: tuple[AdapterDigest, ...]
    version: int
    acknowledged: int = 0
    sent_version: int = 0
    sent_at: float = 0.0


class Reconciler:
    """See the module's text."""

    def __init__(self, *, history: int = 200, resend_s: float = 5.0) -> None:
        """Keep ``history`` changes; repeat a plan that is not acknowledged every ``resend_s``."""
        self._resend_s = resend_s
        self._version = 0
        self._assignments: dict[ReplicaId, _Assignment] = {}
        self._snapshots: dict[ReplicaId, ReplicaSnapshot] = {}
        self._copies: dict[AdapterDigest, int] = {}
        self._changed_at: dict[AdapterDigest, float] = {}
        self._aliases: dict[AdapterDigest, str] = {}
        self._history: deque[Change] = deque(maxlen=history)
        self._backoff = PrefetchBackoff()
        self._tracker = LoadTracker()
        self._autoscaler = AutoscalerState()
        self._replica_count: int | None = None
        self._load_average: float | None = None
        self._ticked_at: float | None = None
        self._started_at: float | None = None
        self._last: Actions | None = None

    def tick(
        self,
        snapshots: Iterable[ReplicaSnapshot],
        adapters: Iterable[AdapterInfo],
        policy: ClusterPolicy,
        now: float,
    ) -> Actions:
        """Compare what is with what should be.

        ``adapters`` is the catalog: only what it lists can be placed. A replica missing from
        ``snapshots`` is kept until ``lost_after_s``; the actor calls ``replica_lost`` when it
        knows better.
        """
        self._observe(snapshots, policy, now)
        catalog = self._catalog(adapters)
        load = self._tracker.observe(
            self._snapshots.values(),
            now,
            window_s=policy.placement.window_s,
            idle_rate=policy.placement.idle_rate,
        )
        count, reason = self._scale(policy.replicas, now)
        rooms = tuple(self._room(s, now) for s in self._snapshots.values() if not s.draining)
        pins, unknown = resolve_pins(policy.pins, catalog, replicas=len(rooms))
        planned = Plan(desired={}, moves=(), copies=())
        if rooms:
            planned = plan(
                PlanInputs(
                    replicas=rooms,
                    adapters=catalog,
                    load=load,
                    policy=policy,
                    pins=pins,
                    previous=self._copies,
                    cooling=self._cooling(policy.placement.cooldown_s, now),
                    avoid=self._backoff.avoid(now),
                )
            )
            self._adopt(planned, now)
        self._ticked_at = now
        self._last = Actions(
            version=self._version,
            replica_plans=self._plans_to_send(planned, now),
            replica_count=count,
            replica_reason=reason,
            copies=planned.copies,
            moves=planned.moves,
            unplaced=planned.unplaced,
            unknown_pins=unknown,
            load=load,
        )
        return self._last

    def acknowledge(
        self,
        replica_id: ReplicaId,
        version: int,
        *,
        loaded: Iterable[AdapterDigest] = (),
        failed: Mapping[AdapterDigest, str] | None = None,
        evicted: Iterable[AdapterDigest] = (),
        policy: ClusterPolicy,
        now: float,
    ) -> None:
        """A replica's answer to a plan; ``failed`` has a message for each adapter.

        An answer to an older plan still teaches what failed. Unknown replicas are ignored.
        """
        assignment = self._assignments.get(replica_id)
        if assignment is None:
            return
        assignment.acknowledged = max(assignment.acknowledged, version)
        for digest in loaded:
            self._backoff.succeeded(replica_id, digest)
        for digest in evicted:
            self._record(now, "evicted", f"done, version {version}", replica_id, digest)
        for digest, message in sorted((failed or {}).items()):
            failure = self._backoff.failed(
                replica_id,
                digest,
                message,
                now,
                first_s=policy.placement.retry_s,
                most_s=policy.placement.max_retry_s,
            )
            wait = failure.retry_at - now
            words = f"attempt {failure.attempts}: {message}; next one in {wait:.0f} s"
            self._record(now, "failed", words, replica_id, digest)

    def replica_lost(self, replica_id: ReplicaId, now: float, reason: str) -> None:
        """A replica is surely gone; the next tick re-places what it had."""
        self._snapshots.pop(replica_id, None)
        assignment = self._assignments.pop(replica_id, None)
        if assignment is not None:
            words = f"{reason}; {len(assignment.desired)} placed adapters lost a copy"
            self._record(now, "replica_lost", words, replica_id)

    def _observe(
        self, snapshots: Iterable[ReplicaSnapshot], policy: ClusterPolicy, now: float
    ) -> None:
        for snapshot in snapshots:
            known = self._snapshots.get(snapshot.replica_id)
            if known is None or snapshot.observed_at >= known.observed_at:
                self._snapshots[snapshot.replica_id] = snapshot
        if self._started_at is None:
            self._started_at = now
        silent = policy.placement.lost_after_s
        for replica_id in sorted(self._snapshots.keys() | self._assignments.keys()):
            heard = self._snapshots.get(replica_id)
            heard_at = heard.observed_at if heard is not None else self._started_at
            if now - heard_at > silent:
                self.replica_lost(replica_id, now, f"silent for more than {silent:g} s")
        for replica_id, snapshot in sorted(self._snapshots.items()):
            assignment = self._assignments.get(replica_id)
            if assignment is None:
                self._join(snapshot, now)
                continue
            assignment.acknowledged = max(assignment.acknowledged, snapshot.desired_version)
            if snapshot.desired_version > assignment.version:
                # It follows a plan newer than our state, which was restored: ours comes again.
                self._version = max(self._version, snapshot.desired_version) + 1
                assignment.version = self._version
        self._backoff.retain(self._assignments)

    def _join(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """A replica that already follows a plan keeps it: the store may have lost ours."""
        self._version = max(self._version, snapshot.desired_version)
        self._assignments[snapshot.replica_id] = _Assignment(
            snapshot.desired, snapshot.desired_version, acknowledged=snapshot.desired_version
        )
        words = f"{snapshot.slots_total} adapter slots, {snapshot.adapter_bytes_limit} bytes"
        self._record(now, "replica_joined", words, snapshot.replica_id)

    def _catalog(self, adapters: Iterable[AdapterInfo]) -> tuple[AdapterInfo, ...]:
        """The catalog, with sizes as replicas measured them."""
        measured: dict[AdapterDigest, int] = {}
        for snapshot in self._snapshots.values():
            for adapter in snapshot.resident:
                if adapter.state is AdapterState.READY:
                    seen = measured.get(adapter.digest, 0)
                    measured[adapter.digest] = max(seen, adapter.nbytes)
        catalog = {
            info.digest: replace(info, nbytes=measured.get(info.digest, info.nbytes))
            for info in adapters
        }
        self._aliases = {digest: info.alias for digest, info in catalog.items()}
        return tuple(catalog[digest] for digest in sorted(catalog))

    def _still_desired(self, snapshot: ReplicaSnapshot, now: float) -> tuple[AdapterDigest, ...]:
        """What the replica was told to have, but for what it had and gave up again."""
        assignment = self._assignments[snapshot.replica_id]
        settled = (
            snapshot.desired_version >= assignment.version
            and now - assignment.sent_at >= self._resend_s
        )
        if not settled:
            return assignment.desired
        there = {a.digest for a in snapshot.resident if a.state in _ON_ITS_WAY}
        return tuple(digest for digest in assignment.desired if digest in there)

    def _room(self, snapshot: ReplicaSnapshot, now: float) -> ReplicaRoom:
        return ReplicaRoom(
            replica_id=snapshot.replica_id,
            slots=snapshot.slots_total,
            bytes_limit=snapshot.adapter_bytes_limit,
            held=tuple(
                Held(
                    digest=adapter.digest,
                    nbytes=adapter.nbytes,
                    ready=adapter.state is AdapterState.READY,
                    busy=adapter.leases > 0
                    or adapter.pinned
                    or adapter.state is not AdapterState.READY,
                    last_used=adapter.last_used,
                )
                for adapter in snapshot.resident
                if adapter.state in _HOLDS_ROOM
            ),
            desired=self._still_desired(snapshot, now),
        )

    def _scale(self, policy: ReplicasPolicy, now: float) -> tuple[int, str]:
        if self._replica_count is None:
            self._replica_count = min(max(len(self._snapshots), policy.min), policy.max)
        if not self._snapshots:
            return self._replica_count, f"{self._replica_count}: no replica has reported"
        load = float(sum(s.queued + s.running for s in self._snapshots.values()))
        if self._load_average is not None and self._ticked_at is not None:
            kept = math.exp(-max(0.0, now - self._ticked_at) / policy.window_s)
            load = kept * self._load_average + (1.0 - kept) * load
        self._load_average = load
        decision = autoscale(
            policy, load=load, current=self._replica_count, state=self._autoscaler, now=now
        )
        if decision.count != self._replica_count:
            self._record(now, "replicas", decision.reason)
        self._replica_count = decision.count
        self._autoscaler = decision.state
        return decision.count, decision.reason

    def _cooling(self, cooldown_s: float, now: float) -> frozenset[AdapterDigest]:
        self._changed_at = {d: at for d, at in self._changed_at.items() if now - at < cooldown_s}
        return frozenset(self._changed_at)

    def _adopt(self, planned: Plan, now: float) -> None:
        """Make the plan's placement the desired one; what differs gets a new version."""
        changed = [
            replica_id
            for replica_id, desired in sorted(planned.desired.items())
            if set(self._assignments[replica_id].desired) != set(desired)
        ]
        if changed:
            self._version += 1
        for replica_id in changed:
            assignment = self._assignments[replica_id]
            assignment.desired = planned.desired[replica_id]
            assignment.version = self._version
        for target in planned.copies:
            if target.copies != target.previous:
                self._changed_at[target.digest] = now
                self._record(now, "copies", target.reason, digest=target.digest)
        self._copies = dict(copies_by_digest(planned.copies))
        for move in planned.moves:
            if move.kind is MoveKind.PREFETCH:
                self._changed_at[move.digest] = now
                self._record(now, "prefetch", move.reason, move.replica_id, move.digest)

    def _plans_to_send(self, planned: Plan, now: float) -> tuple[ReplicaPlan, ...]:
        plans = []
        for replica_id in sorted(planned.desired):
            assignment = self._assignments[replica_id]
            ready = {
                adapter.digest
                for adapter in self._snapshots[replica_id].resident
                if adapter.state is AdapterState.READY
            }
            missing = tuple(d for d in assignment.desired if d not in ready)
            if assignment.acknowledged >= assignment.version and not missing:
                continue
            due = now - assignment.sent_at >= self._resend_s
            if assignment.sent_version == assignment.version and not due:
                continue
            evictions = [
                move
                for move in planned.moves
                if move.replica_id == replica_id and move.kind is MoveKind.EVICT
            ]
            if assignment.sent_version != assignment.version:
                for move in evictions:
                    self._record(now, "evict", move.reason, replica_id, move.digest)
            assignment.sent_version, assignment.sent_at = assignment.version, now
            evict = tuple(move.digest for move in evictions)
            plans.append(
                ReplicaPlan(replica_id, assignment.version, assignment.desired, missing, evict)
            )
        return tuple(plans)

    def _record(
        self, now: float, kind: str, message: str, replica_id: str = "", digest: str = ""
    ) -> None:
        alias = self._aliases.get(AdapterDigest(digest), "")
        self._history.append(Change(now, kind, message, replica_id, digest, alias))

    @property
    def history(self) -> tuple[Change, ...]:
        """The last changes, newest last."""
        return tuple(self._history)

    def status(self) -> dict[str, Any]:
        """JSON-able, for people: the placement with its reasons."""
        last = self._last
        return {
            "version": self._version,
            "replica_count": self._replica_count,
            "replica_reason": last.replica_reason if last else "",
            "replicas": {
                replica_id: {
                    "version": assignment.version,
                    "acknowledged": assignment.acknowledged,
                    "desired": [
                        {"digest": d, "adapter": self._aliases.get(d, "")}
                        for d in assignment.desired
                    ],
                    "resident": [
                        {"digest": a.digest, "adapter": a.alias, "state": a.state.value}
                        for a in (snapshot.resident if snapshot else ())
                    ],
                }
                for replica_id, assignment in sorted(self._assignments.items())
                for snapshot in (self._snapshots.get(replica_id),)
            },
            "adapters": [asdict(target) for target in (last.copies if last else ())],
            "unplaced": [
                {"digest": d, "adapter": self._aliases.get(d, ""), "reason": reason}
                for d, reason in (last.unplaced if last else ())
            ],
            "unknown_pins": list(last.unknown_pins) if last else [],
            "load": {
                "requests_per_s": last.load.total if last else 0.0,
                "tenants": dict(last.load.tenants()) if last else {},
            },
            "failures": self._backoff.describe(self._aliases),
            "history": [asdict(change) for change in self._history],
        }

    def to_state(self) -> dict[str, Any]:
        """JSON-able: all that a restarted controller needs to go on as if nothing happened."""
        return {
            "format": _STATE_FORMAT,
            "version": self._version,
            "assignments": {
                replica_id: {**asdict(assignment), "desired": list(assignment.desired)}
                for replica_id, assignment in sorted(self._assignments.items())
            },
            "copies": dict(sorted(self._copies.items())),
            "changed_at": dict(sorted(self._changed_at.items())),
            "history": [asdict(change) for change in self._history],
            "backoff": self._backoff.to_state(),
            "tracker": self._tracker.to_state(),
            "autoscaler": self._autoscaler.to_state(),
            "replica_count": self._replica_count,
            "load_average": self._load_average,
            "ticked_at": self._ticked_at,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], *, history: int = 200, resend_s: float = 5.0
    ) -> "Reconciler":
        """The reconciler that ``to_state`` described.

        Raises:
            IntegrityError: the state is of another format.
        """
        if state.get("format") != _STATE_FORMAT:
            raise IntegrityError(
                f"controller state has format {state.get('format')}, this one reads {_STATE_FORMAT}"
            )
        made = cls(history=history, resend_s=resend_s)
        made._version = state["version"]
        for replica_id, entry in state["assignments"].items():
            made._assignments[ReplicaId(replica_id)] = _Assignment(
                **{**entry, "desired": tuple(AdapterDigest(d) for d in entry["desired"])}
            )
        made._copies = {AdapterDigest(d): n for d, n in state["copies"].items()}
        made._changed_at = {AdapterDigest(d): at for d, at in state["changed_at"].items()}
        made._history.extend(Change(**entry) for entry in state["history"])
        made._backoff = PrefetchBackoff.from_state(state["backoff"])
        made._tracker = LoadTracker.from_state(state["tracker"])
        made._autoscaler = AutoscalerState(**state["autoscaler"])
        made._replica_count = state["replica_count"]
        made._load_average = state["load_average"]
        made._ticked_at = state["ticked_at"]
        return made
