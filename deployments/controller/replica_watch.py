"""Asks every replica for its snapshot, each on its own: one that hangs delays no other."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
from ray.exceptions import ActorUnavailableError, RayActorError

from cluster.clock import Clock
from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot

log = structlog.get_logger(__name__)

CALL_S = 10.0
"""A call without an answer is given up and made again: its answer may have been lost."""


class Replicas(Protocol):
    """Reaches the replicas one by one."""

    async def listed(self) -> frozenset[ReplicaId]:
        """Return the replicas that Serve says run."""
        ...

    async def call(self, replica_id: ReplicaId, method: str, *arguments: Any) -> Any:
        """Call a method on one replica."""
        ...


class Listener(Protocol):
    """Takes in what is learnt of replicas; a ``Reconciler`` is one."""

    def hear_replica(
        self, snapshot: ReplicaSnapshot, now: float, *, asked_at: float | None = None
    ) -> None:
        """Take in an answer."""
        ...

    def replica_died(self, replica_id: ReplicaId, now: float, why: str) -> None:
        """Take in that an actor is dead."""
        ...

    def replica_unreachable(self, replica_id: ReplicaId, now: float) -> None:
        """Take in that a call failed."""
        ...


class ReplicaWatch:
    """Keeps one call at most to each replica under way; one owner.

    Args:
        replicas: reaches them.
        listener: called on the event loop, as each answers.
        on_death: called after the listener has learnt of a death or a lost connection.
    """

    def __init__(
        self, replicas: Replicas, listener: Listener, clock: Clock, on_death: Callable[[], None]
    ) -> None:
        self._replicas = replicas
        self._listener = listener
        self._clock = clock
        self._on_death = on_death
        self._calls: dict[ReplicaId, asyncio.Task[None]] = {}
        self._failing: dict[ReplicaId, str] = {}

    async def look(self, wait_s: float) -> None:
        """Ask all replicas that are not being asked already, and wait ``wait_s`` at most.

        An answer that comes later is taken in when it comes. A call under way to a replica that
        Serve does not list any more is given up.
        """
        listed = await self._replicas.listed()
        for replica_id in self._calls.keys() - listed:
            self._calls.pop(replica_id).cancel()
        for replica_id in self._failing.keys() - listed:
            del self._failing[replica_id]
        begun = []
        for replica_id in sorted(listed - self._calls.keys()):
            task = asyncio.create_task(self._ask(replica_id))
            self._calls[replica_id] = task
            task.add_done_callback(partial(self._ended, replica_id))
            begun.append(task)
        if begun:
            await asyncio.wait(begun, timeout=wait_s)

    def close(self) -> None:
        """Give up all calls."""
        for task in self._calls.values():
            task.cancel()

    def _ended(self, replica_id: ReplicaId, task: asyncio.Task[None]) -> None:
        if self._calls.get(replica_id) is task:
            del self._calls[replica_id]

    async def _ask(self, replica_id: ReplicaId) -> None:
        asked_at = self._clock.monotonic()
        try:
            call = self._replicas.call(replica_id, "describe")
            snapshot = await asyncio.wait_for(call, CALL_S)
        except ActorUnavailableError as error:
            self._listener.replica_unreachable(replica_id, self._clock.monotonic())
            self._note(replica_id, error)
            self._on_death()
        except RayActorError as error:
            self._listener.replica_died(replica_id, self._clock.monotonic(), _short(error))
            self._note(replica_id, error)
            self._on_death()
        except Exception as error:  # Ray raises many kinds; the next look asks again
            self._note(replica_id, error)
        else:
            self._failing.pop(replica_id, None)
            self._listener.hear_replica(snapshot, self._clock.monotonic(), asked_at=asked_at)

    def _note(self, replica_id: ReplicaId, error: Exception) -> None:
        said = _short(error)
        if self._failing.get(replica_id) != said:  # one line for a failure that lasts
            log.warning("controller.replica_silent", replica=replica_id, error=said)
        self._failing[replica_id] = said


def _short(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]
