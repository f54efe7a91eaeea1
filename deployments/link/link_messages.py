"""What crosses a link between one front and one replica: data only, MessagePack on the wire.

Front to replica: ``Submit``, ``Reroute``, ``Cancel``. Replica to front: ``StepItem`` (one per
engine step, for all of this front's requests together), ``SnapshotItem`` and ``HostItem``.
"""

import msgspec

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import GenerationChunk, SamplingParams


class SpanStart(msgspec.Struct, frozen=True):
    """Where a sequence had been re-routed before it came here."""

    start: int  # tokens of the completion before
    signed_decision: bytes


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Start one sequence; its adapters are loaded while it waits for the batch.

    The decision travels signed, as it lies in the store.
    """

    request_id: RequestId
    tenant: TenantId
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    signed_decision: bytes
    resumed_token_ids: tuple[int, ...] = ()
    arrived_at: float = 0.0
    deadline_at: float | None = None
    spans: tuple[SpanStart, ...] = ()  # that began within the resumed tokens, in order
    http_request: str = ""  # id of the HTTP request that it belongs to, for logs


class Reroute(msgspec.Struct, frozen=True, tag="reroute"):
    """Let a sequence go on by another decision. Its chunks say where that began, or why not; until
    then no other one may be sent."""

    request_id: RequestId
    signed_decision: bytes
    after: int  # tokens of the completion that must come first


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a sequence and free what it holds; unknown ids are fine (it may just have ended)."""

    request_id: RequestId


class StepItem(msgspec.Struct, frozen=True, tag="step"):
    """One engine step's output for this front's requests, and the load it leaves."""

    chunks: tuple[GenerationChunk, ...]
    running: int
    queued: int


class SnapshotItem(msgspec.Struct, frozen=True, tag="snapshot"):
    """The replica's word about itself, sent on change."""

    snapshot: ReplicaSnapshot


ToReplica = Submit | Reroute | Cancel


class HostItem(msgspec.Struct, frozen=True, tag="host"):
    """All adapters in the replica's host memory, sent when they change."""

    adapters: tuple[ResidentAdapter, ...]


ToFront = StepItem | SnapshotItem | HostItem

_encoder = msgspec.msgpack.Encoder()
_to_replica = msgspec.msgpack.Decoder(ToReplica)
_to_front = msgspec.msgpack.Decoder(ToFront)


def encode(message: ToReplica | ToFront) -> bytes:
    """One message as MessagePack."""
    return _encoder.encode(message)


def decode_to_replica(data: bytes) -> ToReplica:
    """Raises ``msgspec.ValidationError`` on anything that is not one of ours."""
    message: ToReplica = _to_replica.decode(data)
    return message


def decode_to_front(data: bytes) -> ToFront:
    """Raises ``msgspec.ValidationError`` on anything that is not one of ours."""
    message: ToFront = _to_front.decode(data)
    return message
