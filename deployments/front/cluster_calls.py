"""Calls that a front makes to the replicas and to the controller, through Serve."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.domain.ids import ReplicaId
from cluster.domain.replica import ReplicaSnapshot
from cluster.errors import ReplicaLost
from cluster.tasks import Tasks
from deployments.replica_calls import ask_replicas, integrity_answer

CALL_TIMEOUT_S = 2.0
INTEGRITY_TIMEOUT_S = 10.0
"""Longer: a busy replica is asked whether its ledgers agree, not how quick it is."""


class ClusterCalls:
    """Asks the other actors.

    Args:
        replicas: handle of the replica deployment.
        controller: handle of the controller.
    """

    def __init__(self, replicas: DeploymentHandle[Any], controller: DeploymentHandle[Any]) -> None:
        self._replicas = replicas
        self._controller = controller
        self._calling = Tasks()

    async def discover(self) -> Iterable[ReplicaSnapshot]:
        """Return a snapshot of every replica that answers.

        Raises:
            ReplicaLost: there is no replica.
        """
        found = await ask_replicas(self._replicas, "describe", timeout_s=CALL_TIMEOUT_S)
        return [item for item in found if isinstance(item, ReplicaSnapshot)]

    async def check_integrity(self, known: Iterable[ReplicaId]) -> dict[str, Any]:
        """Let every replica check its ledgers; see ``integrity_answer``."""
        try:
            found = await ask_replicas(
                self._replicas, "check_integrity", timeout_s=INTEGRITY_TIMEOUT_S
            )
        except ReplicaLost as error:
            found = [error]
        return integrity_answer(found, known)

    def call_controller(self) -> None:
        """Tell the controller that requests wait for a first replica."""
        if not self._calling:
            self._calling.start(self._call_controller())

    async def _call_controller(self) -> None:
        with contextlib.suppress(Exception):  # Ray raises many kinds; requests call again
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._controller.wake.remote()

    async def controller_state(self) -> dict[str, Any]:
        """Return the controller's state, or ``error`` while it does not answer."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                state: dict[str, Any] = await self._controller.state.remote()
                return state
        except Exception as error:  # Ray raises many kinds; the placement stays as it is meanwhile
            return {"error": f"the controller does not answer: {type(error).__name__}"}
