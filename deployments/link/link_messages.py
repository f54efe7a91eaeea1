"""Defines the messages between a front and a replica: data only, MessagePack on the wire.

Front to replica: ``Submit``, ``Reroute``, ``Cancel``. Replica to front: ``StepItem`` (one per
engine step, for all of this front's requests together), ``SnapshotItem`` and ``HostItem``.
"""

import msgspec

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.ids import RequestId, TenantId
from cluster.domain.replica import ReplicaSnapshot
from cluster.domain.request import GenerationChunk, GenerationRequest


class SpanStart(msgspec.Struct, frozen=True):
    """Says from which token on a sequence had been re-routed before it came here."""

    start: int  # tokens of the completion before
    signed_decision: bytes


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Starts one sequence; its adapters are loaded while it waits for the batch.

    The decision travels signed, as it lies in the store: the request itself has none.
    """

    request: GenerationRequest
    signed_decision: bytes
    spans: tuple[SpanStart, ...] = ()  # that began within the resumed tokens, in order
    time_left_s: float | None = None  # until its deadline, when it was sent; clocks may differ

    @property
    def request_id(self) -> RequestId:
        """Return the sequence's id, which its chunks carry."""
        return self.request.request_id

    @property
    def tenant(self) -> TenantId:
        """Return the tenant whose sequence it is."""
        return self.request.tenant


class Reroute(msgspec.Struct, frozen=True, tag="reroute"):
    """Continues a sequence under another decision.

    Its chunks say where that began, or why not; until then no other one may be sent.
    """

    request_id: RequestId
    signed_decision: bytes
    after: int  # tokens of the completion that must come first


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stops a sequence and frees what it holds; unknown ids are fine (it may just have ended)."""

    request_id: RequestId


class StepItem(msgspec.Struct, frozen=True, tag="step"):
    """Carries one engine step's output for this front's requests, and the load it leaves."""

    chunks: tuple[GenerationChunk, ...]
    running: int
    queued: int


class SnapshotItem(msgspec.Struct, frozen=True, tag="snapshot"):
    """Carries what the replica says of itself, sent on change."""

    snapshot: ReplicaSnapshot


ToReplica = Submit | Reroute | Cancel


class HostItem(msgspec.Struct, frozen=True, tag="host"):
    """Carries all adapters in the replica's host memory, sent when they change."""

    adapters: tuple[ResidentAdapter, ...]


ToFront = StepItem | SnapshotItem | HostItem

_encoder = msgspec.msgpack.Encoder()
_to_replica = msgspec.msgpack.Decoder(ToReplica)
_to_front = msgspec.msgpack.Decoder(ToFront)


def encode(message: ToReplica | ToFront) -> bytes:
    """Encode one message as MessagePack."""
    return _encoder.encode(message)


def decode_to_replica(data: bytes) -> ToReplica:
    """Decode one message.

    Raises:
        msgspec.ValidationError: the bytes are none of these messages.
    """
    message: ToReplica = _to_replica.decode(data)
    return message


def decode_to_front(data: bytes) -> ToFront:
    """Decode one message.

    Raises:
        msgspec.ValidationError: the bytes are none of these messages.
    """
    message: ToFront = _to_front.decode(data)
    return message
