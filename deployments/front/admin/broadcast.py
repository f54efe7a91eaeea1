"""What the front asks of all replicas at once, through Serve."""

from typing import Any, Protocol

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from cluster.adapters.registry.records import ReplicaAnswer
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.domain.ids import AdapterDigest
from cluster.errors import ReplicaLost
from deployments.replica_calls import ask_replicas

CALL_TIMEOUT_S = 5.0


class Cluster(Protocol):
    """All replicas, for adding adapters and routers."""

    async def base(self) -> BaseShapes:
        """What an adapter must fit.

        Raises:
            ReplicaLost: no replica answers.
        """
        ...

    async def prepare(self, digest: AdapterDigest, timeout_s: float) -> tuple[ReplicaAnswer, ...]:
        """Every live replica's answer; "silent" of those that gave none in time."""
        ...

    async def prepare_router(
        self, router: dict[str, Any], timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """The same for a router, a ``RouterConfig`` in JSON form."""
        ...


class BroadcastCluster:
    """Implements ``Cluster``."""

    def __init__(self, replicas: DeploymentHandle[Any]) -> None:
        self._replicas = replicas
        self._base: BaseShapes | None = None

    async def base(self) -> BaseShapes:
        """See ``Cluster``; asked once."""
        if self._base is None:
            found = await self._ask("describe_base", timeout_s=CALL_TIMEOUT_S)
            self._base = next((item for item in found if isinstance(item, BaseShapes)), None)
        if self._base is None:
            raise ReplicaLost("no replica answers, so nothing can say what an adapter must fit")
        return self._base

    async def prepare(self, digest: AdapterDigest, timeout_s: float) -> tuple[ReplicaAnswer, ...]:
        """See ``Cluster``."""
        return _answers(await self._ask("prepare_adapter", digest, timeout_s=timeout_s))

    async def prepare_router(
        self, router: dict[str, Any], timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        """See ``Cluster``."""
        return _answers(await self._ask("prepare_router", router, timeout_s=timeout_s))

    async def _ask(self, method: str, *arguments: Any, timeout_s: float) -> list[Any]:
        return await ask_replicas(self._replicas, method, *arguments, timeout_s=timeout_s)


def _answers(found: list[Any]) -> tuple[ReplicaAnswer, ...]:
    """A replica that has died is not asked: the one in its place catches up before it serves."""
    return tuple(
        item
        if isinstance(item, ReplicaAnswer)
        else ReplicaAnswer(f"replica {index}", "silent", message=repr(item)[:300])
        for index, item in enumerate(found)
        if not isinstance(item, RayActorError)
    )
