"""Growth that a process may show before a soak fails, and the owner of each process."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.soak.processes import Drift, role_of_name
from cluster.redis_client import MAX_CONNECTIONS

POOLS = {"Front": 3, "Replica": 2, "Controller": 2}
"""Pools of connections to the store that an actor has: its view of the adapters, and decisions
(front, replica), quota (front) or its own state (controller)."""
STORE = "valkey-server"
BRAID = frozenset({*POOLS, "supervisor", STORE})
"""Braid's own processes, and the store that holds nothing but what they write."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Growth allowed from the first window to the last; a process may do what either rule says."""

    memory: float  # relative
    memory_floor: float  # MiB: for small processes, of which a part says nothing
    spare: int  # descriptors other than connections to the store, or threads

    def problems(self, drift: Drift) -> list[str]:
        """List the figures that grew by more."""
        found = []
        before, after = (value / 2**20 for value in drift.rss)
        allowed = max(self.memory * before, self.memory_floor)
        if after - before > allowed:
            found.append(
                f"{drift.name}: memory grew from {before:.1f} to {after:.1f} MiB, "
                f"{drift.rss_growth:+.1%}; {allowed:.1f} MiB are allowed"
            )
        for what, (first, last) in (("descriptors", drift.fds), ("threads", drift.threads)):
            if last - first > self.spare:
                found.append(
                    f"{drift.name}: {what} grew from {first:g} to {last:g}; "
                    f"{self.spare} are allowed"
                )
        return found

    def text(self) -> str:
        """Return the limits in words."""
        return (
            f"memory {self.memory:.0%} or {self.memory_floor:g} MiB, whichever is more; "
            f"{self.spare} descriptors or threads"
        )


OWN = Limits(memory=0.05, memory_floor=4.0, spare=4)
FOREIGN = Limits(memory=0.15, memory_floor=16.0, spare=16)
"""For Ray's own servers and agents, whose growth is reported and does not fail a soak."""


@dataclass(frozen=True)
class LimitVerdict:
    """Faults of Braid's own processes, and remarks on Ray's."""

    own: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def is_own(drift: Drift) -> bool:
    """Check if a process is Braid's, and not one of Ray's."""
    return role_of_name(drift.name) in BRAID


def store_bounds(names: Iterable[str]) -> dict[str, int]:
    """List the most connections to the store that each process may have, by process name.

    That is the sum of its pools' bounds; the store itself may have as many as all others together.
    """
    roles = {name: role_of_name(name) for name in names}
    bounds = {name: POOLS.get(role, 0) * MAX_CONNECTIONS for name, role in roles.items()}
    total = sum(bounds.values())
    return {name: total if roles[name] == STORE else bound for name, bound in bounds.items()}


def judge(drifts: Iterable[Drift]) -> LimitVerdict:
    """Compare every process with its limits.

    Connections to the store are counted apart from other descriptors. A pool opens one when all of
    its connections are in use, and keeps it, so they follow the highest concurrency that has been
    seen. For them the bound counts.
    """
    drifts = list(drifts)
    bounds = store_bounds(drift.name for drift in drifts)
    verdict = LimitVerdict()
    for drift in drifts:
        if not is_own(drift):
            verdict.foreign.extend(FOREIGN.problems(drift))
            continue
        verdict.own.extend(OWN.problems(drift))
        if drift.store[1] > bounds[drift.name]:
            verdict.own.append(
                f"{drift.name}: {drift.store[1]} connections to the store, its pools have at most "
                f"{bounds[drift.name]}"
            )
    return verdict
