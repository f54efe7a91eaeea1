"""Sets how many replicas Serve runs, and reads how many it has."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import structlog
from ray.serve.schema import DeploymentDetails

from cluster.domain.ids import ReplicaId
from cluster.errors import ReplicaLost
from cluster.placement.control.drain import ServeReplica, ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts
from deployments.ray_compat import head_node, read_deployments, set_target

log = structlog.get_logger(__name__)

REPLICAS = "Replica"
OTHERS = ("Front", "Controller")
TIMEOUT_S = 2.0
LEAVING = frozenset({"STOPPING", "STOPPED"})
STARTING = "STARTING"
RUNNING = "RUNNING"


class ServeTarget:
    """Serve's target for the replicas; the one controller in charge sets it.

    Args:
        app: name of the application in Serve.
    """

    def __init__(self, app: str) -> None:
        self._app = app
        self._wanted: int | None = None  # None: Serve's own target stands
        self._counts: ServeCounts | None = None
        self._target = 0  # Serve's own, as last read or set
        self._replicas: ServeReplicas | None = None
        self._head: str | None = None
        """Ray's id of the head node. It is not looked up twice: a lookup blocks while the control
        service is down, and with an outdated id a prediction is wrong at worst."""
        self._set_took_s: float | None = None
        self._error: str | None = None  # of the last call; None: it was answered
        self._setting = asyncio.Lock()
        self._first_asked = False  # since the last look

    def status(self) -> dict[str, Any]:
        """Return Serve's account, and how long its target took to set last, for people."""
        counts = self._counts
        return {
            "target": None if counts is None else self._target,
            "running": None if counts is None else counts.running,
            "starting": None if counts is None else counts.starting,
            "set_took_s": self._set_took_s,
            "error": self._error,
        }

    async def read(self) -> ServeCounts:
        """Return the replicas' counts.

        ``target`` is what was set here, also where a configuration that was applied again has put
        another one in its place. While Serve does not answer, its last answer stands.

        Raises:
            ReplicaLost: Serve has never answered.
        """
        self._first_asked = False
        try:
            (details,) = await read_deployments(self._app, (REPLICAS,), TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; the next look may succeed
            self._failed(error)
            if self._counts is None:
                raise ReplicaLost(f"Serve does not say which replicas run: {error!r}") from error
            return replace(self._counts, target=self._standing)
        self._error = None
        self._target = details.target_num_replicas
        states = Counter(replica.state.value for replica in details.replicas)
        starting = states[STARTING]
        self._counts = ServeCounts(
            target=self._standing,
            running=sum(states.values()) - starting - sum(states[state] for state in LEAVING),
            starting=starting,
        )
        return self._counts

    async def read_replicas(self) -> ServeReplicas:
        """Return every replica with its place, for predicting which ones Serve ends.

        While Serve does not answer, its last answer stands.

        Raises:
            ReplicaLost: Serve has never answered.
        """
        try:
            if self._head is None:
                self._head = await asyncio.wait_for(head_node(), TIMEOUT_S)
            own, *others = await read_deployments(self._app, (REPLICAS, *OTHERS), TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; the next look may succeed
            self._failed(error)
            if self._replicas is None:
                raise ReplicaLost(f"Serve does not say which replicas run: {error!r}") from error
            return self._replicas
        self._replicas = serve_replicas(own, others, self._head)
        return self._replicas

    async def set_count(self, count: int) -> None:
        """Have Serve run ``count`` replicas from now on.

        Call it with every look: it asks Serve only where its target is another. What could not be
        set is set by a later call. A first replica that was asked for since the last look stays:
        the count was decided without it.
        """
        await self._set(max(count, 1) if self._first_asked else count)

    async def start_first(self) -> None:
        """Have a first replica run where none is to."""
        self._first_asked = True
        if self._counts is not None and self._standing == 0:
            await self._set(1)

    async def _set(self, count: int) -> None:
        self._wanted = count
        async with self._setting:  # Serve is to hear the newest count last
            count = self._standing
            if self._counts is not None and self._target == count:
                return
            before, began = self._target, time.monotonic()
            try:
                await set_target(self._app, REPLICAS, count, TIMEOUT_S)
            except Exception as error:  # Ray raises many kinds; the next call may succeed
                self._failed(error)
                return
            self._error = None
            self._target, self._set_took_s = count, round(time.monotonic() - began, 4)
        log.info("controller.count_set", before=before, after=count)

    def release(self) -> None:
        """Let Serve's own target stand until the next call of ``set_count``."""
        self._wanted = None

    @property
    def _standing(self) -> int:
        """Return the count that is to run: what was set here, or else Serve's target."""
        return self._target if self._wanted is None else self._wanted

    def _failed(self, error: Exception) -> None:
        if self._error is None:
            log.warning("controller.serve_silent", error=repr(error))
        self._error = repr(error)


def serve_replicas(
    own: DeploymentDetails, others: list[DeploymentDetails], head: str
) -> ServeReplicas:
    """Translate Serve's account of the deployments."""
    beside = Counter(
        replica.node_id or ""
        for details in others
        for replica in details.replicas
        if replica.state.value == RUNNING
    )
    return ServeReplicas(
        replicas=tuple(
            ServeReplica(
                ReplicaId(replica.replica_id),
                replica.node_id or "",
                running=replica.state.value == RUNNING,
            )
            for replica in own.replicas
            if replica.state.value not in LEAVING
        ),
        head=head,
        others=dict(beside),
    )
