"""What a replica's log says of single requests: ids, counts and codes, never text."""

from typing import Any

import structlog

from cluster.domain.request import FinishReason
from deployments.replica.replica_request import Live

log = structlog.get_logger(__name__)

AS_ASKED = frozenset({FinishReason.STOP, FinishReason.LENGTH})


def ids_of(live: Live) -> dict[str, Any]:
    """The HTTP request's id, by which all logs find it, and the sequence's own."""
    return {"request": live.submit.request.http_request, "sequence": live.submit.request_id}


def note_end(live: Live, reason: FinishReason, code: str | None) -> None:
    """A sequence that did not end as it was asked to leaves a line."""
    if reason in AS_ASKED:
        return
    write = log.warning if reason is FinishReason.ERROR else log.info
    write(
        "replica.request_ended",
        **ids_of(live),
        reason=reason.value,
        code=code,
        tenant=live.submit.tenant,
        tokens=len(live.submit.request.resumed_token_ids) + live.tokens,
        in_engine=live.in_engine,
    )


def note_abandoned(live: Live) -> None:
    """The front that it came from is gone; nobody else knows of the request."""
    log.warning(
        "replica.request_abandoned",
        **ids_of(live),
        tenant=live.submit.tenant,
        tokens=len(live.submit.request.resumed_token_ids) + live.tokens,
    )
