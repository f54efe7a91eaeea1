"""Lines of a replica's log about single requests: ids, counts and codes, never text."""

from typing import Any

import structlog

from cluster.domain.request import FinishReason
from deployments.replica.replica_request import ReplicaRequest

log = structlog.get_logger(__name__)

AS_ASKED = frozenset({FinishReason.STOP, FinishReason.LENGTH})


def ids_of(request: ReplicaRequest) -> dict[str, Any]:
    """Return the HTTP request's id, by which all logs find it, and the sequence's own."""
    return {"request": request.http_request, "sequence": request.id}


def note_end(request: ReplicaRequest, reason: FinishReason, code: str | None) -> None:
    """Log a sequence that did not end as it was asked to."""
    if reason in AS_ASKED:
        return
    write = log.warning if reason is FinishReason.ERROR else log.info
    write(
        "replica.request_ended",
        **ids_of(request),
        reason=reason.value,
        code=code,
        tenant=request.tenant,
        tokens=len(request.resumed) + request.tokens,
        in_engine=request.in_engine,
    )


def note_abandoned(request: ReplicaRequest) -> None:
    """Log a request whose front is lost; no other process knows of it."""
    log.warning(
        "replica.request_abandoned",
        **ids_of(request),
        tenant=request.tenant,
        tokens=len(request.resumed) + request.tokens,
    )
