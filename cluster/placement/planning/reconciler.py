"""The controller's state machine: what is, what should be, and what to tell whom.

Pure: snapshots in, actions out; the actor around it does the talking and keeps ``to_state`` in
the store. One owner. All times are wall-clock seconds, which outlive the process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.domain.adapter import AdapterState
from cluster.domain.ids import AdapterDigest, ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import IntegrityError
from cluster.placement.planning.backoff import PrefetchBackoff
from cluster.placement.planning.copies import copies_by_digest
from cluster.placement.planning.fleet import Fleet, ReplicaPlan
from cluster.placement.planning.history import Change, History
from cluster.placement.planning.load import LoadReport, LoadTracker
from cluster.placement.planning.pins import resolve_pins
from cluster.placement.planning.plan import (
    AdapterInfo,
    CopyTarget,
    Move,
    MoveKind,
    Plan,
    PlanInputs,
)
from cluster.placement.planning.planner import plan
from cluster.placement.policy import ClusterPolicy

_STATE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Actions:
    """The controller's tasks after a tick."""

    version: int
    replica_plans: tuple[ReplicaPlan, ...]  # only for replicas that must hear of it
    replica_count: int
    replica_reason: str
    copies: tuple[CopyTarget, ...]
    moves: tuple[Move, ...]  # new in this tick
    unplaced: tuple[tuple[AdapterDigest, str], ...]
    unknown_pins: tuple[str, ...]
    load: LoadReport


class Reconciler:
    """Compares the cluster with the policy once a tick, and says what to change."""

    def __init__(self, *, history: int = 200, resend_s: float = 5.0) -> None:
        """Keep ``history`` changes; repeat a plan that is not acknowledged every ``resend_s``."""
        self._history = History(history)
        self._fleet = Fleet(self._history, resend_s)
        self._backoff = PrefetchBackoff()
        self._tracker = LoadTracker()
        self._count: int | None = None
        self._copies: dict[AdapterDigest, int] = {}
        self._changed_at: dict[AdapterDigest, float] = {}
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
        ``snapshots`` is kept until ``lost_after_s``: one that is replaced within that time costs
        no moves, and fronts send its requests elsewhere at once.
        """
        fleet = self._fleet
        catalog = tuple(adapters)
        self._history.aliases = {info.digest: info.alias for info in catalog}
        fleet.observe(snapshots, lost_after_s=policy.placement.lost_after_s, now=now)
        self._backoff.retain(fleet.assignments, self._history.aliases)
        load = self._tracker.observe(
            fleet.snapshots.values(),
            now,
            window_s=policy.placement.window_s,
            idle_rate=policy.placement.idle_rate,
        )
        count, reason = self._scale(policy)
        rooms = fleet.rooms(now)
        pins, unknown = resolve_pins(policy.pins, catalog, replicas=len(rooms))
        planned = Plan(desired={}, moves=(), copies=())
        if rooms:
            planned = plan(
                PlanInputs(
                    replicas=rooms,
                    adapters=_as_measured(catalog, fleet.snapshots.values()),
                    load=load,
                    policy=policy,
                    pins=pins,
                    previous=self._copies,
                    cooling=self._cooling(policy.placement.cooldown_s, now),
                    avoid=self._backoff.avoid(now),
                )
            )
            fleet.adopt(planned)
            self._note(planned, now)
        self._last = Actions(
            version=fleet.version,
            replica_plans=fleet.plans_to_send(planned, now),
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
        """Take in a replica's answer to a plan; ``failed`` has a message for each adapter.

        An answer to an older plan still teaches what failed. Unknown replicas are ignored.
        """
        assignment = self._fleet.assignments.get(replica_id)
        if assignment is None:
            return
        assignment.acknowledged = max(assignment.acknowledged, version)
        for digest in loaded:
            self._backoff.succeeded(replica_id, digest)
        for digest in evicted:
            words = f"done, version {version}"
            self._history.record(now, "evicted", words, replica_id, digest)
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
            self._history.record(now, "failed", words, replica_id, digest)

    def _scale(self, policy: ClusterPolicy) -> tuple[int, str]:
        low, high = policy.replicas.min, policy.replicas.max
        before = self._count if self._count is not None else len(self._fleet.snapshots)
        self._count = min(max(before, low), high)
        return self._count, f"{self._count}: within {low} to {high}"

    def _cooling(self, cooldown_s: float, now: float) -> frozenset[AdapterDigest]:
        self._changed_at = {d: at for d, at in self._changed_at.items() if now - at < cooldown_s}
        return frozenset(self._changed_at)

    def _note(self, planned: Plan, now: float) -> None:
        """Remember what the plan changed, and when."""
        for target in planned.copies:
            if target.copies != target.previous:
                self._changed_at[target.digest] = now
                self._history.record(now, "copies", target.reason, digest=target.digest)
        self._copies = dict(copies_by_digest(planned.copies))
        for move in planned.moves:
            if move.kind is MoveKind.PREFETCH:
                self._changed_at[move.digest] = now
                self._history.record(now, "prefetch", move.reason, move.replica_id, move.digest)

    @property
    def history(self) -> tuple[Change, ...]:
        """Return the last changes, newest last."""
        return self._history.changes

    def status(self) -> dict[str, Any]:
        """Return the placement with its reasons, JSON-able, for people."""
        last = self._last
        return {
            "version": self._fleet.version,
            "replica_count": self._count,
            "replica_reason": last.replica_reason if last else "",
            "replicas": self._fleet.status(),
            "adapters": [asdict(target) for target in (last.copies if last else ())],
            "unplaced": [
                {"digest": digest, "adapter": self._history.alias(digest), "reason": reason}
                for digest, reason in (last.unplaced if last else ())
            ],
            "unknown_pins": list(last.unknown_pins) if last else [],
            "load": {
                "requests_per_s": last.load.total if last else 0.0,
                "tenants": dict(last.load.tenants()) if last else {},
            },
            "failures": self._backoff.describe(self._history.aliases),
            "history": self._history.to_state(),
        }

    def to_state(self) -> dict[str, Any]:
        """Return all that a restarted controller needs to continue as before, JSON-able."""
        return {
            "format": _STATE_FORMAT,
            "fleet": self._fleet.to_state(),
            "copies": dict(sorted(self._copies.items())),
            "changed_at": dict(sorted(self._changed_at.items())),
            "history": self._history.to_state(),
            "backoff": self._backoff.to_state(),
            "tracker": self._tracker.to_state(),
            "count": self._count,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], *, history: int = 200, resend_s: float = 5.0
    ) -> "Reconciler":
        """Return the reconciler that ``to_state`` described.

        Raises:
            IntegrityError: the state is of another format.
        """
        if state.get("format") != _STATE_FORMAT:
            raise IntegrityError(
                f"controller state has format {state.get('format')}, this one reads {_STATE_FORMAT}"
            )
        made = cls(history=history, resend_s=resend_s)
        made._fleet.restore(state["fleet"])
        made._copies = {AdapterDigest(d): n for d, n in state["copies"].items()}
        made._changed_at = {AdapterDigest(d): at for d, at in state["changed_at"].items()}
        made._history.restore(state["history"])
        made._backoff = PrefetchBackoff.from_state(state["backoff"])
        made._tracker = LoadTracker.from_state(state["tracker"])
        made._count = state["count"]
        return made


def _as_measured(
    catalog: Iterable[AdapterInfo], snapshots: Iterable[ReplicaSnapshot]
) -> tuple[AdapterInfo, ...]:
    """Return the catalog, with sizes on devices where a replica has measured them."""
    measured: dict[AdapterDigest, int] = {}
    for snapshot in snapshots:
        for adapter in snapshot.resident:
            if adapter.state is AdapterState.READY:
                seen = measured.get(adapter.digest, 0)
                measured[adapter.digest] = max(seen, adapter.nbytes)
    return tuple(replace(info, nbytes=measured.get(info.digest, info.nbytes)) for info in catalog)
