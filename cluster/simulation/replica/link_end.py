"""The front's end of a link to a simulated replica, and what arrives there."""

from dataclasses import dataclass
from typing import Protocol

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import ReplicaId, RequestId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import FinishReason
from cluster.simulation.replica.engine_port import SequenceNews
from cluster.simulation.virtual.virtual_process import VirtualProcess


@dataclass(frozen=True, slots=True)
class RequestNews:
    """Reports to a front what became of one of its requests."""

    request_id: RequestId
    generated: int  # tokens so far, those resumed from elsewhere included
    cached_tokens: int = 0
    reason: FinishReason | None = None  # of its end
    error: str | None = None  # code, with reason ERROR
    began_at: float | None = None  # virtual seconds: its first step there; None: there was none

    @classmethod
    def of(cls, news: SequenceNews) -> "RequestNews":
        """Return what an engine's news say."""
        return cls(
            news.request_id,
            news.generated,
            news.cached_tokens,
            news.reason,
            began_at=news.began_at,
        )


class LinkEnd(Protocol):
    """The front's end of a link to one replica. Called when a message has arrived."""

    process: VirtualProcess

    def hear_step(
        self, replica_id: ReplicaId, news: list[RequestNews], running: int, queued: int
    ) -> None:
        """Take in what a step brought, and the load that it leaves."""
        ...

    def hear_snapshot(
        self, snapshot: ReplicaSnapshot, on_host: tuple[ResidentAdapter, ...] | None
    ) -> None:
        """Take in a snapshot; ``on_host`` is None if it has not changed."""
        ...
