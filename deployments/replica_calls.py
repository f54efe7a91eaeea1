"""Asking all replicas at once through Serve, without losing the answers of those that do answer."""

import asyncio
import time
from collections.abc import Awaitable, Iterable
from typing import Any

from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.domain.ids import ReplicaId
from cluster.errors import ReplicaLost


async def ask_replicas(
    replicas: DeploymentHandle[Any], method: str, *arguments: Any, timeout_s: float
) -> list[Any]:
    """Every replica's answer to ``method``, or in its place the exception: ``TimeoutError`` of one
    that did not answer within ``timeout_s``, or what the call raised.

    Serve's own time limit is one for all answers together: a single silent replica would lose
    those of all others.

    Raises:
        ReplicaLost: there is no replica, or Serve did not say in time which there are.
    """
    deadline = time.monotonic() + timeout_s
    response = replicas.broadcast(method, *arguments)
    try:
        calls = await asyncio.wait_for(response._fetch_replica_results_async(), timeout_s)
    except (TimeoutError, RayServeException) as error:
        raise ReplicaLost(f"no replica can be asked to {method}: {error!r}") from error
    remaining = max(0.0, deadline - time.monotonic())
    answers: list[Awaitable[Any]] = [call.get_async() for call in calls]  # type: ignore[no-untyped-call]
    return await asyncio.gather(
        *(asyncio.wait_for(answer, remaining) for answer in answers), return_exceptions=True
    )


def integrity_answer(answers: Iterable[Any], known: Iterable[ReplicaId]) -> dict[str, Any]:
    """What ``/admin/v1/integrity`` says.

    Args:
        answers: of every replica that was asked, as ``ask_replicas`` gives them.
        known: the replicas that should have answered.

    Returns:
        ``replicas``: by id, what is wrong with its books or None; ``silent``: ids of those that
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
