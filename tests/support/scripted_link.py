"""A link to a replica that answers by a script."""

from collections.abc import Iterable

from cluster.domain.ids import ReplicaId, RequestId
from cluster.domain.request import GenerationChunk
from deployments.link.link_client import ChunkSink
from deployments.link.link_messages import Reroute, Submit


class ScriptedLink:
    """Every submission is answered by ``answer``; None in it is the link's end."""

    def __init__(self, name: str, answer: Iterable[GenerationChunk | None]) -> None:
        self.replica_id = ReplicaId(name)
        self.answer = answer
        self.submitted: list[Submit] = []
        self.cancelled: list[RequestId] = []
        self.rerouted: list[Reroute] = []

    def submit(self, message: Submit, sink: ChunkSink) -> None:
        """Keep the message; the sink has the whole answer already."""
        self.submitted.append(message)
        for item in self.answer:
            sink.put_nowait(item)

    def cancel(self, request_id: RequestId) -> None:
        """Keep what was cancelled."""
        self.cancelled.append(request_id)

    def reroute(self, message: Reroute) -> None:
        """Keep what was asked."""
        self.rerouted.append(message)
