"""One line of a trace: a request without its text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.domain.ids import TenantId

TRACE_FORMAT = "braid.request.v1"


@dataclass(frozen=True, slots=True)
class ServedFacts:
    """Says what became of a recorded request."""

    replica: str
    tier_found: str  # where the worst of its adapters was: device, loading, host, disk, base
    ttft: float | None  # seconds; None without a token
    e2e: float  # seconds
    outcome: str  # ok, cancelled, or an error's code
    queued: float | None = None  # seconds at its replica until its first step; None: not known
    pick: Mapping[str, Any] | None = field(default=None, hash=False)
    """The explanation of its pick, of the few requests where one was kept."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request, as a generator makes it or a front records it."""

    at: float  # seconds since the trace began
    tenant: TenantId
    adapters: tuple[str, ...]  # names or digests, distinct and sorted; () is the base
    prompt_tokens: int
    generated_tokens: int  # that it really generates
    max_tokens: int  # its limit, at least ``generated_tokens``
    prefix: tuple[int, ...] = ()  # chain of hashes of its prompt's whole KV blocks
    deadline_s: float | None = None  # seconds that it may take
    served: ServedFacts | None = None  # of a recorded one
