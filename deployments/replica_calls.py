"""Calls all replicas at once through Serve, and keeps the answers of those that do answer."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.domain.ids import ReplicaId
from cluster.errors import ReplicaLost
from deployments.ray_compat import call_each_replica, call_replica, listed_replicas


async def ask_replicas(
    replicas: DeploymentHandle[Any], method: str, *arguments: Any, timeout_s: float
) -> list[Any]:
    """Return every replica's answer to ``method``, or the exception in its place.

    That is ``TimeoutError`` for one that did not answer within ``timeout_s``, else what the call
    raised.

    Raises:
        ReplicaLost: there is no replica, or Serve did not say in time which there are.
    """
    deadline = time.monotonic() + timeout_s
    try:
        answers = await call_each_replica(replicas, method, *arguments, timeout_s=timeout_s)
    except (TimeoutError, RayServeException) as error:
        raise ReplicaLost(f"no replica can be asked to {method}: {error!r}") from error
    remaining = max(0.0, deadline - time.monotonic())
    return await asyncio.gather(
        *(asyncio.wait_for(answer, remaining) for answer in answers), return_exceptions=True
    )


class ReplicaCalls:
    """Reaches replicas one by one, through Serve.

    Args:
        replicas: handle of the replica deployment.
    """

    def __init__(self, replicas: DeploymentHandle[Any]) -> None:
        self._replicas = replicas

    async def listed(self) -> frozenset[ReplicaId]:
        """Return the replicas that Serve says run."""
        return frozenset(ReplicaId(name) for name in await listed_replicas(self._replicas))

    async def call(self, replica_id: ReplicaId, method: str, *arguments: Any) -> Any:
        """Call a method on one replica; it is not tried again.

        Raises:
            LookupError: Serve does not list the replica.
            RayActorError: its actor has died, or cannot be reached.
        """
        return await call_replica(self._replicas, replica_id, method, *arguments)


def integrity_answer(answers: Iterable[Any], known: Iterable[ReplicaId]) -> dict[str, Any]:
    """Compose the answer of ``/admin/v1/integrity``.

    Args:
        answers: of every replica that was asked, as ``ask_replicas`` gives them.
        known: the replicas that should have answered.

    Returns:
        ``replicas``: by id, the problem with its ledgers or None; ``silent``: ids of those that
        did not answer; ``failures``: why, one for each call that had no answer.
    """
    found: dict[ReplicaId, str | None] = {}
    failures = []
    for answer in answers:
        if isinstance(answer, BaseException):
            failures.append(repr(answer)[:300])
        else:
            replica_id, problem = answer
            found[replica_id] = problem
    silent = sorted(set(known) - found.keys())
    return {"replicas": found, "silent": silent, "failures": failures}
