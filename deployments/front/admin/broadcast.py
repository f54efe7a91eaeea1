"""Questions that a front asks all replicas at once, through Serve."""

from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.domain.ids import AdapterDigest
from cluster.errors import ReplicaLost
from deployments.replica_calls import ask_replicas

CALL_TIMEOUT_S = 5.0


class ReplicaBroadcast:
    """Asks all replicas, for adding adapters and routers.

    Where none runs, one is started for it.

    Args:
        replicas: handle of the replica deployment.
        wait_for_replica: returns once a replica can be reached.
    """

    def __init__(
        self,
        replicas: DeploymentHandle[Any],
        wait_for_replica: Callable[[], Awaitable[None]],
    ) -> None:
        self._replicas = replicas
        self._wait_for_replica = wait_for_replica
        self._base: BaseShapes | None = None

    async def base(self) -> BaseShapes:
        """Return the shapes that an adapter must fit; the replicas are asked once.

        Raises:
            Starting: no replica runs, and the first one was not there in time.
            ReplicaLost: no replica answers.
        """
        if self._base is None:
            found = await self._ask("describe_base", timeout_s=CALL_TIMEOUT_S)
            self._base = next((item for item in found if isinstance(item, BaseShapes)), None)
        if self._base is None:
            raise ReplicaLost(
                "no replica answers to say which shapes an adapter must fit; try again when "
                "`braid status` lists one"
            )
        return self._base

    async def prepare_adapter(
        self, digest: AdapterDigest, timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """Let every live replica try a staged version, and return their answers."""
        return _answers(await self._ask("prepare_adapter", digest, timeout_s=timeout_s))

    async def prepare_router(
        self, router: dict[str, Any], timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """Let every live replica try a router, a ``RouterConfig`` in JSON form."""
        return _answers(await self._ask("prepare_router", router, timeout_s=timeout_s))

    async def _ask(self, method: str, *arguments: Any, timeout_s: float) -> list[Any]:
        await self._wait_for_replica()
        return await ask_replicas(self._replicas, method, *arguments, timeout_s=timeout_s)


def _answers(found: list[Any]) -> tuple[ReplicaAnswer, ...]:
    """Skip replicas that have died: one in their place syncs before it serves."""
    return tuple(
        item
        if isinstance(item, ReplicaAnswer)
        else ReplicaAnswer(f"replica {index}", AddOutcome.SILENT, message=repr(item)[:300])
        for index, item in enumerate(found)
        if not isinstance(item, RayActorError)
    )
