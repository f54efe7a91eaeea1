"""Sets how many replicas Serve runs, and reads how many it has."""

from collections import Counter
from typing import TYPE_CHECKING

import structlog

from cluster.domain.ids import ReplicaId
from cluster.errors import ReplicaLost
from cluster.placement.control.drain import ServeReplica, ServeReplicas
from cluster.placement.control.serve_counts import ServeCounts
from deployments.ray_compat import head_node, read_deployments, set_target

if TYPE_CHECKING:
    from ray.serve.schema import DeploymentDetails

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
        self.error: str | None = None
        """Says why Serve was not reached last time; None if it was."""

    async def read(self) -> ServeCounts:
        """Return the replicas' counts.

        ``target`` is what was set here, also where a configuration that was applied again has put
        another one in its place. While Serve does not answer, its last answer stands.

        Raises:
            ReplicaLost: Serve has never answered.
        """
        try:
            (details,) = await read_deployments(self._app, (REPLICAS,), TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; the next look may succeed
            self._failed(error)
            if self._counts is None:
                raise ReplicaLost(f"Serve does not say which replicas run: {error!r}") from error
            return self._counts
        self.error = None
        self._target = details.target_num_replicas
        states = Counter(replica.state.value for replica in details.replicas)
        starting = states[STARTING]
        self._counts = ServeCounts(
            target=self._target if self._wanted is None else self._wanted,
            running=sum(states.values()) - starting - sum(states[state] for state in LEAVING),
            starting=starting,
        )
        return self._counts

    async def read_replicas(self) -> ServeReplicas:
        """Return every replica with its place, for predicting which ones Serve ends.

        Raises:
            ReplicaLost: Serve does not answer.
        """
        try:
            head = await head_node()
            own, *others = await read_deployments(self._app, (REPLICAS, *OTHERS), TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; the next look may succeed
            self._failed(error)
            raise ReplicaLost(f"Serve does not say which replicas run: {error!r}") from error
        return serve_replicas(own, others, head)

    async def set_count(self, count: int) -> None:
        """Have Serve run ``count`` replicas from now on.

        Call it with every look: it asks Serve only where its target is another. What could not be
        set is set by a later call.
        """
        self._wanted = count
        if self._counts is not None and self._target == count:
            return
        before = self._target
        try:
            await set_target(self._app, REPLICAS, count, TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; the next call may succeed
            self._failed(error)
            return
        self.error = None
        self._target = count
        log.info("controller.count_set", before=before, after=count)

    def _failed(self, error: Exception) -> None:
        if self.error is None:
            log.warning("controller.serve_silent", error=repr(error))
        self.error = repr(error)


def serve_replicas(
    own: "DeploymentDetails", others: "list[DeploymentDetails]", head: str
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
